//! How the world begins: organizations, projects and keys that a seed fixes.

use jiff::{SignedDuration, Timestamp};

use super::SimConfig;
use super::scenario::Scenario;
use super::world::{SimKey, SimOrg, SimProject};

const DAY_SECONDS: i64 = 86_400;

/// Names that have broken an exporter somewhere.
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
    let sizes = split_by_weight(config.keys, config.orgs);
    sizes
        .into_iter()
        .enumerate()
        .map(|(index, keys)| random_org(rng, index, keys, config.scenario, now))
        .collect()
}

/// Cuts `keys` into `orgs` parts, the first the largest, none forgotten.
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
    let projects: Vec<SimProject> = (0..(keys / 60).clamp(1, 40))
        .map(|n| SimProject {
            id: random_hex(rng, 24),
            name: format!(
                "{}-{}",
                TEAMS.get(n % TEAMS.len()).copied().unwrap_or("team"),
                n + 1
            ),
        })
        .collect();
    let mut org = SimOrg {
        id: random_hex(rng, 24),
        name: ORG_NAMES.get(index).map_or_else(
            || format!("Example Organization {}", index + 1),
            |name| (*name).to_owned(),
        ),
        projects,
        visible: true,
        deleted: false,
        keys: Vec::with_capacity(keys),
    };
    for n in 0..keys {
        let Some(project) = rng.choice(&org.projects).map(|project| project.id.clone()) else {
            break;
        };
        let name = initial_name(rng, n);
        org.keys.push(random_key(rng, project, name, scenario, now));
    }
    org.keys
        .sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    org
}

fn initial_name(rng: &mut fastrand::Rng, n: usize) -> String {
    if let Some(name) = HOSTILE_NAMES.get(n) {
        (*name).to_owned()
    } else if n == HOSTILE_NAMES.len() {
        "x".repeat(250)
    } else {
        random_name(rng)
    }
}

/// A name as people give them.
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
    let stale_share = scenario.stale_percent();
    let kind = rng.u32(0..100);
    // shares in percent: the scenario's stale ones, then 10 never used, 3 new, 5 inactive, 15 rare, the rest daily
    if kind < stale_share {
        key.last_used = Some(random_time_before(now, rng.i64(age / 4..=age), rng));
        key.activity = 0;
    } else if kind < stale_share + 10 {
        key.activity = 0;
    } else if kind < stale_share + 13 {
        key.created = random_time_before(now, 60, rng);
    } else if kind < stale_share + 18 {
        "INACTIVE".clone_into(&mut key.status);
        key.last_used = Some(random_time_before(now, rng.i64(0..=age), rng));
        key.activity = 0;
    } else if kind < stale_share + 33 {
        key.last_used = Some(random_time_before(
            now,
            rng.i64(0..(6 * DAY_SECONDS).min(age)),
            rng,
        ));
        key.activity = 1;
    } else {
        key.last_used = Some(random_time_before(now, rng.i64(0..DAY_SECONDS), rng));
        key.activity = 20;
    }
    key.last_used = key.last_used.map(|used| used.max(key.created));
    key
}

/// A key that was created at `at` and never used.
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

fn random_time_before(now: Timestamp, seconds: i64, rng: &mut fastrand::Rng) -> Timestamp {
    let ago = SignedDuration::new(seconds, 1000 * rng.i32(0..1_000_000));
    now.saturating_sub(ago).unwrap_or(Timestamp::MIN)
}

/// `length` hexadecimal digits.
pub(crate) fn random_hex(rng: &mut fastrand::Rng, length: usize) -> String {
    random_string(rng, length, b"0123456789abcdef")
}

/// `length` characters of `alphabet`.
pub(crate) fn random_string(rng: &mut fastrand::Rng, length: usize, alphabet: &[u8]) -> String {
    (0..length)
        .filter_map(|_| rng.choice(alphabet).map(|byte| char::from(*byte)))
        .collect()
}

/// The full secret of a key, which only the fault of that name ever shows.
pub(crate) fn derive_secret(id: &str) -> String {
    let seed = id.bytes().fold(17_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    let mut rng = fastrand::Rng::with_seed(seed);
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    format!("al-{}", random_string(&mut rng, 43, alphabet))
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
        let make = |seed| {
            let orgs = populate(&mut fastrand::Rng::with_seed(seed), &config, now);
            orgs.into_iter()
                .flat_map(|org| org.keys)
                .collect::<Vec<_>>()
        };
        assert_eq!(make(7), make(7));
        assert_ne!(make(7), make(8));
        assert_eq!(make(7).len(), 1200);
    }
}
