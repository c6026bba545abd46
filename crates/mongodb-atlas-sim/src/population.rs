//! The initial organizations, projects and keys, determined by the seed.

use jiff::{SignedDuration, Timestamp};

use crate::config::SimConfig;
use crate::model::{SimKey, SimOrg, SimProject};
use crate::random::{random_hex, random_string};
use crate::scenario::Scenario;
use crate::tags::assign_tags;

const DAY_SECONDS: i64 = 86_400;

/// Age of all projects, so that they are older than their keys.
const PROJECT_AGE: SignedDuration = SignedDuration::from_secs(501 * DAY_SECONDS);

/// Names with characters that exporters often fail to escape.
const HOSTILE_NAMES: &[&str] = &[
    "say \"cheese\"",
    "C:\\keys\\prod",
    "first line\nsecond line",
    "🔑 búsqueda – 検索",
    "מפתח ייצור",
    "مفتاح الإنتاج",
    "<script>alert(1)</script>",
    "{{7*7}}",
    "\"><img src=x onerror=alert(1)>",
    "trailing backslash \\",
    "tab\tand carriage\rreturn",
    "search-prod",
    "search-prod",
];

const TEAMS: &[&str] = &[
    "search",
    "support-bot",
    "recommendations",
    "ingest",
    "fraud",
    "docs-qa",
    "catalog",
    "analytics",
];
const STAGES: &[&str] = &["prod", "staging", "dev", "ci", "notebook", "backfill"];
const CREATORS: &[&str] = &[
    "Ada Example",
    "Grace Example",
    "Linus Example",
    "Margaret Example",
    "64a1f0c2e1b2c3d4e5f60718",
];
const ORG_NAMES: &[&str] = &[
    "Example Retail",
    "Example Media",
    "Example Labs",
    "Example Bank",
    "Example Travel",
];

pub(crate) fn populate(rng: &mut fastrand::Rng, config: &SimConfig, now: Timestamp) -> Vec<SimOrg> {
    split_by_weight(config.keys, config.orgs)
        .into_iter()
        .enumerate()
        .map(|(index, keys)| random_org(rng, index, keys, config.scenario, now))
        .collect()
}

/// Splits `keys` into `orgs` parts of decreasing size.
fn split_by_weight(keys: usize, orgs: usize) -> Vec<usize> {
    let weights: usize = (1..=orgs).map(|n| 1_000_000 / n).sum();
    let mut sizes: Vec<usize> = (1..=orgs)
        .map(|n| keys * (1_000_000 / n) / weights.max(1))
        .collect();
    let rest = keys.saturating_sub(sizes.iter().sum());
    if let Some(first) = sizes.first_mut() {
        *first += rest;
    }
    sizes
}

pub(crate) fn random_org(
    rng: &mut fastrand::Rng,
    index: usize,
    keys: usize,
    scenario: Scenario,
    now: Timestamp,
) -> SimOrg {
    let mut projects: Vec<SimProject> = (1..=(keys / 60).clamp(1, 40))
        .zip(TEAMS.iter().cycle())
        .map(|(number, team)| SimProject {
            id: random_hex(rng, 24),
            name: format!("{team}-{number}"),
            created: now.saturating_sub(PROJECT_AGE).unwrap_or(Timestamp::MIN),
            tags: None,
        })
        .collect();
    let id = random_hex(rng, 24);
    assign_tags(&mut projects, &id);
    let name = ORG_NAMES.get(index).map_or_else(
        || format!("Example Organization {}", index + 1),
        ToString::to_string,
    );
    let mut keys: Vec<SimKey> = (0..keys)
        .map_while(|number| {
            let project = rng.choice(&projects)?.id.clone();
            let name = initial_name(rng, number);
            Some(random_key(rng, project, name, scenario, now))
        })
        .collect();
    keys.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    SimOrg {
        id,
        name,
        projects,
        visible: true,
        deleted: false,
        keys,
    }
}

fn initial_name(rng: &mut fastrand::Rng, number: usize) -> String {
    match HOSTILE_NAMES.get(number) {
        Some(name) => (*name).to_owned(),
        None if number == HOSTILE_NAMES.len() => "x".repeat(250),
        None => random_name(rng),
    }
}

/// Returns an ordinary key name.
pub(crate) fn random_name(rng: &mut fastrand::Rng) -> String {
    let team = rng.choice(TEAMS).copied().unwrap_or("team");
    let stage = rng.choice(STAGES).copied().unwrap_or("dev");
    format!("{team}-{stage}-{}", rng.u16(100..1000))
}

fn random_key(
    rng: &mut fastrand::Rng,
    project: String,
    name: String,
    scenario: Scenario,
    now: Timestamp,
) -> SimKey {
    let mut key = new_key(rng, project, name, now);
    let age = rng.i64(2 * DAY_SECONDS..500 * DAY_SECONDS);
    key.created = random_time_before(now, age, rng);
    let stale = scenario.stale_percent();
    let percentile = rng.u32(0..100);
    // In percent: the stale keys of the scenario, then 10 never used, 3 new, 5 inactive, 15 rarely used; the rest is used daily.
    let (last_used_seconds_ago, activity) = if percentile < stale {
        (Some(rng.i64(age / 4..=age)), 0)
    } else if percentile < stale + 10 {
        (None, 0)
    } else if percentile < stale + 13 {
        key.created = random_time_before(now, 60, rng);
        (None, key.activity)
    } else if percentile < stale + 18 {
        "INACTIVE".clone_into(&mut key.status);
        (Some(rng.i64(0..=age)), 0)
    } else if percentile < stale + 33 {
        (Some(rng.i64(0..(6 * DAY_SECONDS).min(age))), 1)
    } else {
        (Some(rng.i64(0..DAY_SECONDS)), 20)
    };
    key.activity = activity;
    key.last_used =
        last_used_seconds_ago.map(|seconds| random_time_before(now, seconds, rng).max(key.created));
    key
}

/// Returns a key that was created at `at` and never used.
pub(crate) fn new_key(
    rng: &mut fastrand::Rng,
    project: String,
    name: String,
    at: Timestamp,
) -> SimKey {
    let (cloud, geography) = *rng
        .choice(&[("ANY", "ANY"), ("ANY", "ANY"), ("AWS", "US"), ("GCP", "EU")])
        .unwrap_or(&("ANY", "ANY"));
    SimKey {
        id: random_string(rng, 24, b"abcdefghijklmnopqrstuvwxyz0123456789"),
        project,
        name,
        status: "ACTIVE".to_owned(),
        created: at,
        last_used: None,
        created_by: rng.choice(CREATORS).copied().unwrap_or_default().to_owned(),
        cloud: cloud.to_owned(),
        geography: geography.to_owned(),
        activity: 5,
    }
}

/// Returns a time `seconds` and up to one more second before `now`.
fn random_time_before(now: Timestamp, seconds: i64, rng: &mut fastrand::Rng) -> Timestamp {
    let ago = SignedDuration::new(seconds, 1000 * rng.i32(0..1_000_000));
    now.saturating_sub(ago).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_assigns_every_key() {
        for (keys, orgs) in [(1200, 3), (0, 3), (1, 500), (100_000, 7)] {
            let sizes = split_by_weight(keys, orgs);
            assert_eq!(sizes.len(), orgs);
            assert_eq!(sizes.iter().sum::<usize>(), keys);
        }
    }

    #[test]
    fn seed_determines_the_population() {
        let now = Timestamp::UNIX_EPOCH;
        let config = SimConfig::default();
        let populate_with = |seed| {
            let orgs = populate(&mut fastrand::Rng::with_seed(seed), &config, now);
            orgs.into_iter()
                .flat_map(|org| org.keys)
                .collect::<Vec<_>>()
        };
        assert_eq!(populate_with(7), populate_with(7));
        assert_ne!(populate_with(7), populate_with(8));
        assert_eq!(populate_with(7).len(), 1200);
    }
}
