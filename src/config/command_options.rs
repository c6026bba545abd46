//! What single commands take beside what all of them do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::parse::{duration, key_labels, switch, whole};
use super::resolver::Checker;
use super::{CENTURY, ConfigError};
use crate::cli::{Args, Origin};
use crate::credentials::Environment;
use crate::metrics::KeyLabel;
use exporter_toolkit::address::ListenAddress;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_sim::{Scenario, SimConfig};

/// The form in which something is written to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Table,
    /// For spreadsheets: RFC 4180.
    Csv,
    /// For programs.
    Json,
    /// For tickets and chats: a table of GitHub Flavored Markdown.
    Markdown,
}

/// Values that a filter of `keys` accepts, and where they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Any of these is accepted; everything is when there are none.
    pub values: Vec<String>,
    /// The flag or the environment variable.
    pub origin: Origin,
}

/// Which keys `keys` shows, from where, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysChoice {
    /// How.
    pub output: Output,
    /// Idle for at least so long.
    pub idle: Duration,
    /// Never used at all.
    pub never_used: bool,
    /// Statuses, in any case.
    pub statuses: Filter,
    /// Projects, by name or id.
    pub projects: Filter,
    /// Whether the creator of a key, which is personal data, is shown.
    pub created_by: bool,
    /// From this directory of state, and only these organizations unless there are none; else from
    /// Atlas.
    pub from_storage: Option<(PathBuf, Vec<OrgId>)>,
}

/// What `keys` is asked for. The configuration is another matter: from storage, none is needed.
///
/// # Errors
/// [`ConfigError`] with every mistake.
pub fn check_keys(args: &Args, environment: &Environment) -> Result<KeysChoice, ConfigError> {
    let mut checker = Checker::new(args, environment);
    let output = checker.one("output", |text| match text {
        "table" => Ok(Output::Table),
        "csv" => Ok(Output::Csv),
        "json" => Ok(Output::Json),
        "markdown" => Ok(Output::Markdown),
        _ => Err("table, csv, json or markdown"),
    });
    let idle = checker.one("idle", |text| duration(text, Duration::ZERO, CENTURY));
    let never_used = checker.one("never-used", switch);
    let statuses = filter(&checker, "status");
    let projects = filter(&checker, "project");
    for value in &projects.values {
        if value.trim().is_empty() {
            checker.wrong(&projects.origin, value, "the name or the id of a project");
        }
    }
    let labels = checker.one("metrics.key-labels", key_labels);
    let from_storage = match checker.one("from-storage", switch) {
        Some(true) => stored(&mut checker),
        _ => None,
    };
    checker.finish(|| {
        Some(KeysChoice {
            output: output?,
            idle: idle?,
            never_used: never_used?,
            statuses,
            projects,
            created_by: labels?.contains(&KeyLabel::CreatedBy),
            from_storage,
        })
    })
}

fn filter(checker: &Checker<'_>, name: &str) -> Filter {
    let (values, origin) = checker.values(name);
    Filter { values, origin }
}

/// Parses where `once` writes: into a file, or to standard output when there is none.
///
/// # Errors
/// [`ConfigError`] when the name is empty.
pub fn parse_once_output(
    args: &Args,
    environment: &Environment,
) -> Result<Option<PathBuf>, ConfigError> {
    let mut checker = Checker::of_flags(args, environment);
    let (path, origin) = checker.path("output");
    let path = path.filter(|path| !STDOUT_NAMES.iter().any(|name| path == Path::new(name)));
    if path
        .as_ref()
        .is_some_and(|path| path.as_os_str().is_empty())
    {
        checker.wrong(&origin, "", "the path of a file, or - for standard output");
    }
    checker.finish(|| Some(path))
}

/// Names of standard output. It is written as it is: a file that it was redirected to may be appended to.
const STDOUT_NAMES: [&str; 2] = ["-", "/dev/stdout"];

fn stored(checker: &mut Checker<'_>) -> Option<(PathBuf, Vec<OrgId>)> {
    let (values, origin) = checker.values("atlas.org-id");
    let mut orgs = Vec::new();
    for value in values {
        match OrgId::parse(&value) {
            Ok(org) => orgs.push(org),
            Err(error) => checker.wrong(&origin, &value, &error.to_string()),
        }
    }
    let dir = checker.storage();
    if dir.is_none() {
        checker.mistakes.push(
            "--from-storage: there is no directory to read; give the exporter's own with --storage.path, \
             such as /var/lib/atlas-ai-keys-exporter"
                .to_owned(),
        );
    }
    Some((dir?, orgs))
}

/// How much `check` looks at, and how it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckChoice {
    /// How.
    pub output: Output,
    /// Nothing is asked of anybody.
    pub offline: bool,
    /// The exporter that runs, and nothing else.
    pub running: bool,
}

/// What `check` is asked for.
///
/// # Errors
/// [`ConfigError`] with every mistake.
pub fn check_check(args: &Args, environment: &Environment) -> Result<CheckChoice, ConfigError> {
    let mut checker = Checker::of_flags(args, environment);
    let output = checker.one("output", |text| match text {
        "table" => Ok(Output::Table),
        "json" => Ok(Output::Json),
        _ => Err("table or json"),
    });
    let offline = checker.one("offline", switch);
    let running = checker.one("running", switch);
    checker.finish(|| {
        Some(CheckChoice {
            output: output?,
            offline: offline?,
            running: running?,
        })
    })
}

/// How the simulated Atlas begins, and where it listens when it stands alone.
///
/// # Errors
/// [`ConfigError`] with every mistake.
pub fn check_sim(
    args: &Args,
    environment: &Environment,
) -> Result<(SimConfig, Vec<ListenAddress>), ConfigError> {
    let mut checker = Checker::new(args, environment);
    let seed = checker.one("sim.seed", |text| {
        text.parse().map_err(|_| "a whole number from 0")
    });
    let orgs = checker.one("sim.orgs", |text| {
        whole(text, 1, 10_000).ok_or("a whole number from 1 to 10000")
    });
    let keys = checker.one("sim.keys", |text| {
        whole(text, 0, 5_000_000).ok_or("a whole number from 0 to 5000000")
    });
    let scenario = checker.one("sim.scenario", |text| {
        Scenario::named(text).ok_or("one of calm, stale, outage, throttled, revoked, churn")
    });
    let speed = checker.one("sim.speed", |text| {
        let speed = text
            .parse::<f64>()
            .ok()
            .filter(|speed| (0.0..=1e6).contains(speed));
        speed.ok_or("a number from 0 (nothing happens) to 1000000")
    });
    let listen = checker.listen("sim.listen-address");
    checker.logging();
    checker.finish(|| {
        let config = SimConfig {
            seed: seed?,
            orgs: orgs?,
            keys: keys?,
            scenario: scenario?,
            speed: speed?,
            ..SimConfig::default()
        };
        Some((config, listen))
    })
}
