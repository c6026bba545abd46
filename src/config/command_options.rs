//! What single commands take beside what all of them do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::parse::{parse_bool, parse_duration, parse_key_labels, parse_uint};
use super::resolver::Resolver;
use super::{ConfigError, MAX_AGE};
use crate::cli::{Args, ValueSource};
use crate::credentials::Environment;
use crate::metrics::KeyLabel;
use exporter_toolkit::address::ListenAddress;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_sim::{Scenario, SimConfig};

/// The form in which something is written to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
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
pub struct FilterValues {
    /// Any of these is accepted; everything is when there are none.
    pub values: Vec<String>,
    /// The flag or the environment variable.
    pub source: ValueSource,
}

/// Which keys `keys` shows, from where, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysOptions {
    /// How.
    pub output: OutputFormat,
    /// Idle for at least so long.
    pub idle: Duration,
    /// Never used at all.
    pub never_used: bool,
    /// Statuses, in any case.
    pub statuses: FilterValues,
    /// Projects, by name or id.
    pub projects: FilterValues,
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
pub fn parse_keys_options(
    args: &Args,
    environment: &Environment,
) -> Result<KeysOptions, ConfigError> {
    let mut checker = Resolver::new(args, environment);
    let output = checker.get("output", |text| match text {
        "table" => Ok(OutputFormat::Table),
        "csv" => Ok(OutputFormat::Csv),
        "json" => Ok(OutputFormat::Json),
        "markdown" => Ok(OutputFormat::Markdown),
        _ => Err("table, csv, json or markdown"),
    });
    let idle = checker.get("idle", |text| parse_duration(text, Duration::ZERO, MAX_AGE));
    let never_used = checker.get("never-used", parse_bool);
    let statuses = resolve_filter(&checker, "status");
    let projects = resolve_filter(&checker, "project");
    for value in &projects.values {
        if value.trim().is_empty() {
            checker.reject(&projects.source, value, "the name or the id of a project");
        }
    }
    let labels = checker.get("metrics.key-labels", parse_key_labels);
    let from_storage = match checker.get("from-storage", parse_bool) {
        Some(true) => resolve_storage_source(&mut checker),
        _ => None,
    };
    checker.finish(|| {
        Some(KeysOptions {
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

fn resolve_filter(checker: &Resolver<'_>, name: &str) -> FilterValues {
    let (values, origin) = checker.raw_values(name);
    FilterValues {
        values,
        source: origin,
    }
}

/// Parses where `once` writes: into a file, or to standard output when there is none.
///
/// # Errors
/// [`ConfigError`] when the name is empty.
pub fn parse_once_output(
    args: &Args,
    environment: &Environment,
) -> Result<Option<PathBuf>, ConfigError> {
    let mut checker = Resolver::without_file(args, environment);
    let (path, origin) = checker.get_path("output");
    let path = path.filter(|path| !STDOUT_NAMES.iter().any(|name| path == Path::new(name)));
    if path
        .as_ref()
        .is_some_and(|path| path.as_os_str().is_empty())
    {
        checker.reject(&origin, "", "the path of a file, or - for standard output");
    }
    checker.finish(|| Some(path))
}

/// Names of standard output. It is written as it is: a file that it was redirected to may be appended to.
const STDOUT_NAMES: [&str; 2] = ["-", "/dev/stdout"];

fn resolve_storage_source(checker: &mut Resolver<'_>) -> Option<(PathBuf, Vec<OrgId>)> {
    let (values, origin) = checker.raw_values("atlas.org-id");
    let mut orgs = Vec::new();
    for value in values {
        match OrgId::parse(&value) {
            Ok(org) => orgs.push(org),
            Err(error) => checker.reject(&origin, &value, &error.to_string()),
        }
    }
    let dir = checker.storage_path();
    if dir.is_none() {
        checker.errors.push(
            "--from-storage: there is no directory to read; give the exporter's own with --storage.path, \
             such as /var/lib/atlas-ai-keys-exporter"
                .to_owned(),
        );
    }
    Some((dir?, orgs))
}

/// How much `check` looks at, and how it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckOptions {
    /// How.
    pub output: OutputFormat,
    /// Nothing is asked of anybody.
    pub offline: bool,
    /// The exporter that runs, and nothing else.
    pub running: bool,
}

/// What `check` is asked for.
///
/// # Errors
/// [`ConfigError`] with every mistake.
pub fn parse_check_options(
    args: &Args,
    environment: &Environment,
) -> Result<CheckOptions, ConfigError> {
    let mut checker = Resolver::without_file(args, environment);
    let output = checker.get("output", |text| match text {
        "table" => Ok(OutputFormat::Table),
        "json" => Ok(OutputFormat::Json),
        _ => Err("table or json"),
    });
    let offline = checker.get("offline", parse_bool);
    let running = checker.get("running", parse_bool);
    checker.finish(|| {
        Some(CheckOptions {
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
pub fn parse_sim_config(
    args: &Args,
    environment: &Environment,
) -> Result<(SimConfig, Vec<ListenAddress>), ConfigError> {
    let mut checker = Resolver::new(args, environment);
    let seed = checker.get("sim.seed", |text| {
        text.parse().map_err(|_| "a whole number from 0")
    });
    let orgs = checker.get("sim.orgs", |text| {
        parse_uint(text, 1, 10_000).ok_or("a whole number from 1 to 10000")
    });
    let keys = checker.get("sim.keys", |text| {
        parse_uint(text, 0, 5_000_000).ok_or("a whole number from 0 to 5000000")
    });
    let scenario = checker.get("sim.scenario", |text| {
        text.parse::<Scenario>()
            .map_err(|_| "one of calm, stale, outage, throttled, revoked, churn")
    });
    let speed = checker.get("sim.speed", |text| {
        let speed = text
            .parse::<f64>()
            .ok()
            .filter(|speed| (0.0..=1e6).contains(speed));
        speed.ok_or("a number from 0 (nothing happens) to 1000000")
    });
    let listen = checker.listen_addresses("sim.listen-address");
    checker.log_settings();
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
