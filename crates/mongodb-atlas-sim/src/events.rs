//! What happens to keys as time goes by: each kind of event comes at random times with its own
//! mean interval, from a generator that the seed fixes.

use jiff::{SignedDuration, Timestamp};

use super::population;
use super::world::World;

#[derive(Debug, Clone, Copy)]
enum KeyEvent {
    Use,
    Create,
    Rename,
    Toggle,
    Delete,
    FirstUse,
    Revive,
}

/// Mean seconds between two events of a kind at speed 1, for 1,000 keys.
const MEAN_INTERVALS: &[(KeyEvent, f64)] = &[
    (KeyEvent::Use, 2.0),
    (KeyEvent::Create, 900.0),
    (KeyEvent::Rename, 7200.0),
    (KeyEvent::Toggle, 7200.0),
    (KeyEvent::Delete, 1000.0),
    (KeyEvent::FirstUse, 1800.0),
];

/// What happens besides where keys come and go quickly: one that nobody used any more is used again.
const REVIVAL_EVENT: (KeyEvent, f64) = (KeyEvent::Revive, 600.0);

/// The events to come.
#[derive(Debug)]
pub(crate) struct EventGenerator {
    speed: f64,
    pending: Vec<(Timestamp, KeyEvent, f64)>,
}

impl EventGenerator {
    pub(crate) fn new(speed: f64, revivals: bool, now: Timestamp) -> Self {
        Self {
            speed,
            pending: MEAN_INTERVALS
                .iter()
                .chain(revivals.then_some(&REVIVAL_EVENT))
                .map(|(event, mean)| (now, *event, *mean))
                .collect(),
        }
    }

    /// Lets everything happen that is due until `now`, in the order of time.
    pub(crate) fn advance(&mut self, world: &mut World, now: Timestamp) {
        let mut rng = world.fork_rng();
        while let Some(next) = self.pending.iter_mut().min_by_key(|(at, ..)| *at) {
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
            apply_event(&mut rng, world, event, at);
        }
    }
}

fn apply_event(rng: &mut fastrand::Rng, world: &mut World, event: KeyEvent, at: Timestamp) {
    let Some((org, index)) = pick_random_key(rng, world) else {
        return;
    };
    if matches!(event, KeyEvent::Create) {
        world.create_key_at(&org, &population::random_name(rng), at);
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
        KeyEvent::Use if active && used && rng.u32(0..20) < activity => {
            world.mark_used_at(&org, &id, at);
        }
        KeyEvent::Revive if active && used && activity == 0 => {
            world.mark_used_at(&org, &id, at);
        }
        KeyEvent::FirstUse if active && !used && activity > 0 => {
            world.mark_used_at(&org, &id, at);
        }
        KeyEvent::Rename => {
            world.rename_key_at(&org, &id, &population::random_name(rng), at);
        }
        KeyEvent::Toggle => {
            world.set_key_status_at(&org, &id, if active { "INACTIVE" } else { "ACTIVE" }, at);
        }
        KeyEvent::Delete => {
            world.delete_key_at(&org, &id, at);
        }
        KeyEvent::Use | KeyEvent::FirstUse | KeyEvent::Revive | KeyEvent::Create => {}
    }
}

/// A key, each as likely as any other.
fn pick_random_key(rng: &mut fastrand::Rng, world: &World) -> Option<(String, usize)> {
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
