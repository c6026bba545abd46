//! The open connections, and who has to go when there are too many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::seat::Seat;

/// The open connections of all listeners of a kind. A newcomer always gets a seat as long as
/// anybody is at rest: who has asked for nothing yet, and for longest, gives up his first. So
/// connections that only sit there keep nobody from being served.
pub(super) struct Crowd {
    most: usize,
    seats: Mutex<(u64, HashMap<u64, Arc<Seat>>)>,
}

/// Held by the task of a connection; its seat is free when this is dropped.
pub(super) struct Ticket {
    crowd: Arc<Crowd>,
    number: u64,
    pub(super) seat: Arc<Seat>,
}

impl Crowd {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            seats: Mutex::default(),
        })
    }

    fn seats(&self) -> MutexGuard<'_, (u64, HashMap<u64, Arc<Seat>>)> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat for a newcomer; none when every other connection has an answer under way.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Ticket> {
        let seat = Seat::new();
        let mut seats = self.seats();
        if seats.1.len() >= self.most && !send_away(&mut seats.1) {
            return None;
        }
        let number = seats.0;
        seats.0 += 1;
        seats.1.insert(number, Arc::clone(&seat));
        Some(Ticket {
            crowd: Arc::clone(self),
            number,
            seat,
        })
    }

    /// Makes room where the system has none left.
    pub(super) fn make_room(&self) {
        send_away(&mut self.seats().1);
    }
}

/// Sends away the connection that is missed least; false when all have an answer under way.
fn send_away(seats: &mut HashMap<u64, Arc<Seat>>) -> bool {
    let least = seats
        .iter()
        .filter_map(|(number, seat)| Some((seat.missed()?, *number)))
        .min();
    let gone = least.and_then(|(_, number)| seats.remove(&number));
    if let Some(seat) = &gone {
        seat.leave.cancel();
    }
    gone.is_some()
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.crowd.seats().1.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn who_asked_for_nothing_goes_first_and_who_is_answered_stays() {
        let crowd = Crowd::new(3);
        let enter = async || {
            tokio::time::advance(Duration::from_secs(1)).await;
            crowd.enter()
        };
        let answered = enter().await.expect("a seat");
        let under_way = answered.seat.answer();
        let asked_before = enter().await.expect("a seat");
        drop(asked_before.seat.answer());
        let silent = enter().await.expect("a seat");
        let next = enter().await.expect("a seat");
        assert!(silent.seat.leave.is_cancelled() && !asked_before.seat.leave.is_cancelled());
        let last = enter().await.expect("a seat");
        assert!(next.seat.leave.is_cancelled());
        drop(last);
        let others = [enter().await.expect("a seat")];
        let answers = others.each_ref().map(|ticket| ticket.seat.answer());
        let latest = enter().await.expect("a seat");
        let answer = latest.seat.answer();
        assert!(asked_before.seat.leave.is_cancelled());
        assert!(crowd.enter().is_none(), "all are being answered");
        drop((answers, answer, under_way));
        assert!(crowd.enter().is_some());
    }
}
