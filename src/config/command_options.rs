//! Options of single commands.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mongodb_atlas_client::OrgId;
use reqwest::Url;

use super::credentials::EXPECTED_ORG_ID;
use super::parse::{parse_base_url, parse_key_labels, parse_thresholds};
use super::resolver::{ConfigError, Resolver};
use super::{MAX_AGE, key_policy};
use crate::cli::{Args, FlagValues, ValueSource};
use crate::closed_list::parse_name;
use crate::credentials::Environment;
use crate::inventory::{GroupBy, SortColumn};
use crate::key_policy::KeyPolicy;
use crate::metrics::{IdleThreshold, KeyLabel};
#[cfg(feature = "sim")]
use exporter_toolkit::address::ListenAddress;
use exporter_toolkit::diagnostic::Diagnostic;

crate::closed_list::closed_list! {
    /// Format of the output of `check` and `keys`.
    pub enum OutputFormat {
        /// Table for a terminal.
        Table = "table",
        /// CSV (RFC 4180).
        Csv = "csv",
        /// JSON.
        Json = "json",
        /// Table of GitHub Flavored Markdown.
        Markdown = "markdown",
        /// Shell commands that delete the keys.
        Commands = "commands",
    }
}

/// Options of `keys`: filters, order, source and format.
#[derive(Debug, Clone)]
pub struct KeysOptions {
    /// Format of the output.
    pub output: OutputFormat,
    /// Field by which keys are grouped, if any.
    pub group_by: Option<GroupBy>,
    /// Column by which keys are sorted.
    pub sort: SortColumn,
    /// Maximum number of listed keys; per group if keys are grouped.
    pub limit: Option<usize>,
    /// Minimum idle time.
    pub idle: Duration,
    /// Minimum idle time of a used key that counts as idle: `idle`, or the smallest threshold of the roll-ups.
    pub idle_threshold: IdleThreshold,
    /// Whether only keys that were never used are shown.
    pub never_used: bool,
    /// Statuses, case-insensitive; empty for all.
    pub statuses: FlagValues,
    /// Projects, by name or id; empty for all.
    pub projects: FlagValues,
    /// Owners; empty for all. The empty owner selects keys without one.
    pub owners: FlagValues,
    /// Whether exempt keys are shown.
    pub include_exempt: bool,
    /// Whether the creator of a key is shown; the name is personal data.
    pub created_by: bool,
    /// Base URL of Atlas, ending in a slash.
    pub base_url: Url,
    /// State directory to read instead of Atlas.
    pub from_storage: Option<StorageSource>,
}

/// Stored inventories that `keys` reads.
#[derive(Debug, Clone)]
pub struct StorageSource {
    /// State directory of an exporter.
    pub dir: PathBuf,
    /// Organizations; empty for all.
    pub orgs: Vec<OrgId>,
    /// Owners of projects, and exemptions of keys.
    pub key_policy: Arc<KeyPolicy>,
}

/// The columns by which `keys` can sort.
const SORT_COLUMNS: [SortColumn; 5] = [
    SortColumn::Idle,
    SortColumn::Name,
    SortColumn::Created,
    SortColumn::Owner,
    SortColumn::Project,
];
/// Minimum idle time of the keys in `--output commands`, unless `--idle` is set. Keys that were used recently are still in
/// use.
const MIN_IDLE_OF_COMMANDS: Duration = Duration::from_hours(30 * 24);

/// Parses the options of `keys`. The configuration is not needed when the keys come from storage.
///
/// # Errors
/// [`ConfigError`] with all errors.
pub fn parse_keys_options(
    args: &Args,
    environment: &Environment,
) -> Result<KeysOptions, ConfigError> {
    Resolver::new(args, environment).resolve(resolve_keys_options)
}

fn resolve_keys_options(resolver: &mut Resolver<'_>) -> Option<KeysOptions> {
    let mut options = KeysOptions {
        output: resolver.get_parsed("output")?,
        group_by: resolver.get_parsed("group-by"),
        sort: resolver.get("sort", |text| {
            parse_name(text, &SORT_COLUMNS, SortColumn::as_str)
        })?,
        limit: resolver.get_uint("limit", 0..=MAX_LIMIT),
        idle: resolver.get_duration("idle", Duration::ZERO..=MAX_AGE)?,
        idle_threshold: IdleThreshold::new(Duration::ZERO),
        never_used: resolver.get_bool("never-used")?,
        statuses: resolver.lookup("status"),
        projects: resolver.lookup("project"),
        owners: resolver.lookup("owner"),
        include_exempt: resolver.get_bool("include-exempt")?,
        created_by: resolver
            .get("metrics.key-labels", parse_key_labels)?
            .contains(&KeyLabel::CreatedBy),
        base_url: resolver.get("atlas.base-url", parse_base_url)?,
        from_storage: resolver
            .get_bool("from-storage")?
            .then(|| resolve_storage_source(resolver))
            .flatten(),
    };
    let FlagValues { values, source } = &options.projects;
    for value in values.iter().filter(|value| value.trim().is_empty()) {
        resolver.reject(source, value, "the name or id of a project");
    }
    if options.output == OutputFormat::Commands {
        restrict_commands(resolver, &mut options);
    }
    let thresholds = resolver.get("metrics.idle-thresholds", parse_thresholds)?;
    options.idle_threshold = if options.idle.is_zero() {
        thresholds.into_iter().next()?
    } else {
        IdleThreshold::new(options.idle)
    };
    Some(options)
}

/// Maximum of `--limit`.
const MAX_LIMIT: usize = 100_000_000;

/// Restricts `--output commands` to keys that a filter selects as unused.
fn restrict_commands(resolver: &mut Resolver<'_>, options: &mut KeysOptions) {
    let source = resolver.lookup("output").source.to_string();
    let mut reject = |message: &str, help: &str| {
        let error = Diagnostic::new(&source, message).with_help(help);
        resolver.diagnostics.push(error);
    };
    if options.group_by.is_some() {
        reject(
            "commands cannot be grouped",
            "remove --group-by, or change --output",
        );
    }
    let is_selective =
        options.never_used || !options.idle.is_zero() || !options.statuses.values.is_empty();
    if !is_selective {
        reject(
            "missing filter: expected --idle, --never-used or --status",
            "select the keys to delete, for example with --idle 90d",
        );
    }
    let is_default = matches!(resolver.lookup("idle").source, ValueSource::Default(_));
    if is_default {
        options.idle = MIN_IDLE_OF_COMMANDS;
    }
}

/// Parses the output path of `once`; `None` for standard output.
///
/// # Errors
/// [`ConfigError`] when the path is empty.
pub fn parse_once_output(
    args: &Args,
    environment: &Environment,
) -> Result<Option<PathBuf>, ConfigError> {
    Resolver::without_file(args, environment).resolve(|resolver| {
        let path = resolver.path("output");
        Some(path.filter(|path| !STDOUT_NAMES.iter().any(|name| path.as_os_str() == *name)))
    })
}

/// Names of standard output. `once` appends to standard output and never replaces the file behind it.
const STDOUT_NAMES: [&str; 2] = ["-", "/dev/stdout"];

fn resolve_storage_source(resolver: &mut Resolver<'_>) -> Option<StorageSource> {
    let FlagValues { values, source } = resolver.lookup("atlas.org-id");
    let mut orgs = Vec::new();
    for value in values {
        match OrgId::parse(&value) {
            Ok(org) => orgs.push(org),
            Err(_) => resolver.reject(&source, &value, EXPECTED_ORG_ID),
        }
    }
    let dir = resolver.storage_path();
    let is_set = !resolver.lookup("storage.path").values.is_empty();
    // The directory may be in a file that cannot be used; an invalid value is reported already.
    if dir.is_none() && !is_set && !resolver.is_file_unusable {
        resolver.diagnostics.push(
            Diagnostic::new("--from-storage", "no state directory").with_help(
                "set --storage.path to the state directory of the exporter, such as /var/lib/atlas-ai-keys-exporter",
            ),
        );
    }
    // The exemptions in a misspelled section would have no effect.
    resolver.check_unknown_keys();
    let key_policy = Arc::new(key_policy::resolve(resolver));
    Some(StorageSource {
        dir: dir?,
        orgs,
        key_policy,
    })
}

/// Options of `check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckOptions {
    /// Format of the output.
    pub output: OutputFormat,
    /// Whether the checks that contact Atlas are skipped.
    pub offline: bool,
    /// Whether only the health of the running exporter is checked.
    pub health: bool,
}

/// Parses the options of `check`.
///
/// # Errors
/// [`ConfigError`] with all errors.
pub fn parse_check_options(
    args: &Args,
    environment: &Environment,
) -> Result<CheckOptions, ConfigError> {
    Resolver::without_file(args, environment).resolve(|resolver| {
        let formats = [OutputFormat::Table, OutputFormat::Json];
        Some(CheckOptions {
            output: resolver.get("output", |text| {
                parse_name(text, &formats, OutputFormat::as_str)
            })?,
            offline: resolver.get_bool("offline")?,
            health: resolver.get_bool("health")?,
        })
    })
}

/// Parses the options of the simulated Atlas, and the listen addresses of `sim`.
///
/// # Errors
/// [`ConfigError`] with all errors.
#[cfg(feature = "sim")]
pub fn parse_sim_config(
    args: &Args,
    environment: &Environment,
) -> Result<(mongodb_atlas_sim::SimConfig, Vec<ListenAddress>), ConfigError> {
    Resolver::new(args, environment).resolve(|resolver| {
        let config = resolve_sim_config(resolver);
        let listen = resolver.listen_addresses("sim.listen-address");
        resolver.log_settings();
        config.map(|config| (config, listen))
    })
}

#[cfg(feature = "sim")]
fn resolve_sim_config(resolver: &mut Resolver<'_>) -> Option<mongodb_atlas_sim::SimConfig> {
    use mongodb_atlas_sim::{Scenario, SimConfig};

    Some(SimConfig {
        seed: resolver.get("sim.seed", |text| {
            text.parse().map_err(|_| "a whole number from 0")
        })?,
        orgs: resolver.get_uint("sim.orgs", 1..=10_000)?,
        keys: resolver.get_uint("sim.keys", 0..=5_000_000)?,
        scenario: resolver.get("sim.scenario", |text| {
            parse_name(text, &Scenario::ALL, Scenario::as_str)
        })?,
        speed: resolver.get("sim.speed", |text| {
            let speed = text.parse::<f64>().ok();
            speed
                .filter(|speed| (0.0..=1e6).contains(speed))
                .ok_or("a number from 0 (no activity) to 1000000")
        })?,
        ..SimConfig::default()
    })
}
