//! Options of single commands.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mongodb_atlas_client::OrgId;

use super::MAX_AGE;
use super::parse::parse_key_labels;
use super::resolver::{ConfigError, Resolver};
use crate::cli::{Args, FlagValues};
use crate::closed_list::parse_name;
use crate::credentials::Environment;
use crate::metrics::KeyLabel;
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
    }
}

/// Options of `keys`: filters, source and format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysOptions {
    /// Format of the output.
    pub output: OutputFormat,
    /// Minimum idle time.
    pub idle: Duration,
    /// Whether only keys that were never used are shown.
    pub never_used: bool,
    /// Statuses, in any case; empty for all.
    pub statuses: FlagValues,
    /// Projects, by name or id; empty for all.
    pub projects: FlagValues,
    /// Whether the creator of a key, which is personal data, is shown.
    pub created_by: bool,
    /// State directory to read instead of Atlas.
    pub from_storage: Option<StorageSource>,
}

/// Stored inventories that `keys` reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageSource {
    /// State directory of an exporter.
    pub dir: PathBuf,
    /// Organizations; empty for all.
    pub orgs: Vec<OrgId>,
}

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
    let options = KeysOptions {
        output: resolver.get_parsed("output")?,
        idle: resolver.get_duration("idle", Duration::ZERO..=MAX_AGE)?,
        never_used: resolver.get_bool("never-used")?,
        statuses: resolver.lookup("status"),
        projects: resolver.lookup("project"),
        created_by: resolver
            .get("metrics.key-labels", parse_key_labels)?
            .contains(&KeyLabel::CreatedBy),
        from_storage: resolver
            .get_bool("from-storage")?
            .then(|| resolve_storage_source(resolver))
            .flatten(),
    };
    let FlagValues { values, source } = &options.projects;
    for value in values.iter().filter(|value| value.trim().is_empty()) {
        resolver.reject(source, value, "the name or the id of a project");
    }
    Some(options)
}

/// Parses the output path of `once`; none for standard output.
///
/// # Errors
/// [`ConfigError`] when the path is empty.
pub fn parse_once_output(
    args: &Args,
    environment: &Environment,
) -> Result<Option<PathBuf>, ConfigError> {
    Resolver::without_file(args, environment).resolve(|resolver| {
        let path = resolver.path("output");
        let path = path.filter(|path| !STDOUT_NAMES.iter().any(|name| path == Path::new(name)));
        if path.as_deref() == Some(Path::new("")) {
            let source = resolver.lookup("output").source;
            resolver.reject(&source, "", "the path of a file, or - for standard output");
        }
        Some(path)
    })
}

/// Names of standard output, which is written to in place: a file behind it may be appended to.
const STDOUT_NAMES: [&str; 2] = ["-", "/dev/stdout"];

fn resolve_storage_source(resolver: &mut Resolver<'_>) -> Option<StorageSource> {
    let FlagValues { values, source } = resolver.lookup("atlas.org-id");
    let mut orgs = Vec::new();
    for value in values {
        match OrgId::parse(&value) {
            Ok(org) => orgs.push(org),
            Err(error) => resolver.reject(&source, &value, &error.to_string()),
        }
    }
    let dir = resolver.storage_path();
    if dir.is_none() {
        resolver.diagnostics.push(
            Diagnostic::new("--from-storage", "there is no directory to read").with_help(
                "give the exporter's own with --storage.path, such as /var/lib/atlas-ai-keys-exporter",
            ),
        );
    }
    Some(StorageSource { dir: dir?, orgs })
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

/// Parses the options of the simulated Atlas, and the addresses on which `sim` listens.
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
                .ok_or("a number from 0 (nothing happens) to 1000000")
        })?,
        ..SimConfig::default()
    })
}
