//! What happens to keys as time goes by: each kind of event comes at random times with its own
//! mean interval, from a generator that the seed fixes.

use jiff::{SignedDuration, Timestamp};

use super::population;
use super::world::World;

#[derive(Debug, Clone, Copy)]
enum Event {
    Use,
    Create,
    Rename,
    Toggle,
    Delete,
    FirstUse,
    Revive,
}

/// Mean seconds between two events of a kind at speed 1, for 1,000 keys.
const MEANS: &[(Event, f64)] = &[
    (Event::Use, 2.0),
    (Event::Create, 900.0),
    (Event::Rename, 7200.0),
    (Event::Toggle, 7200.0),
    (Event::Delete, 1000.0),
    (Event::FirstUse, 1800.0),
];

/// What happens besides where keys come and go quickly: one that nobody used any more is used again.
const REVIVALS: (Event, f64) = (Event::Revive, 600.0);

/// The events to come.
#[derive(Debug)]
pub(crate) struct Life {
    speed: f64,
    due: Vec<(Timestamp, Event, f64)>,
}

impl Life {
    pub(crate) fn new(speed: f64, revivals: bool, now: Timestamp) -> Self {
        Self {
            speed,
            due: MEANS
                .iter()
                .chain(revivals.then_some(&REVIVALS))
                .map(|(event, mean)| (now, *event, *mean))
                .collect(),
        }
    }

    /// Lets everything happen that is due until `now`, in the order of time.
    pub(crate) fn advance(&mut self, world: &mut World, now: Timestamp) {
        let mut rng = world.rng();
        while let Some(next) = self.due.iter_mut().min_by_key(|(at, ..)| *at) {
            let (at, event, mean) = *next;
            if at > now {
                break;
            }
            let keys = world
                .orgs
                .iter()
                .map(|org| org.keys.len())
                .sum::<usize>()
                .max(1);
            #[expect(clippy::cast_precision_loss, reason = "a number of keys")]
            let interval = -mean * 1000.0 / keys as f64 / self.speed * rng.f64().max(1e-9).ln();
            // at least a microsecond, or a high speed would never let time pass
            let wait = SignedDuration::try_from_secs_f64(interval.clamp(1e-6, 1e9))
                .unwrap_or(SignedDuration::MAX);
            next.0 = at.saturating_add(wait).unwrap_or(Timestamp::MAX);
            happen(&mut rng, world, event, at);
        }
    }
}

fn happen(rng: &mut fastrand::Rng, world: &mut World, event: Event, at: Timestamp) {
    let Some((org, index)) = pick(rng, world) else {
        return;
    };
    if matches!(event, Event::Create) {
        world.create_at(&org, &population::name(rng), at);
        return;
    }
    let Some(key) = world.keys(&org).get(index) else {
        return;
    };
    let (id, active, used, activity) = (
        key.id.clone(),
        key.status == "ACTIVE",
        key.last_used.is_some(),
        key.activity,
    );
    match event {
        Event::Use if active && used && rng.u32(0..20) < activity => {
            world.use_at(&org, &id, at);
        }
        Event::Revive if active && used && activity == 0 => {
            world.use_at(&org, &id, at);
        }
        Event::FirstUse if active && !used && activity > 0 => {
            world.use_at(&org, &id, at);
        }
        Event::Rename => {
            world.rename_at(&org, &id, &population::name(rng), at);
        }
        Event::Toggle => {
            world.set_status_at(&org, &id, if active { "INACTIVE" } else { "ACTIVE" }, at);
        }
        Event::Delete => {
            world.delete_at(&org, &id, at);
        }
        Event::Use | Event::FirstUse | Event::Revive | Event::Create => {}
    }
}

/// A key, each as likely as any other.
fn pick(rng: &mut fastrand::Rng, world: &World) -> Option<(String, usize)> {
    let all: usize = world.orgs.iter().map(|org| org.keys.len()).sum();
    if all == 0 {
        return world.orgs.first().map(|org| (org.id.clone(), 0));
    }
    let mut index = rng.usize(0..all);
    for org in &world.orgs {
        if index < org.keys.len() {
            return Some((org.id.clone(), index));
        }
        index -= org.keys.len();
    }
    None
}
