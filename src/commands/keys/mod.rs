//! `keys`: reports the keys, longest idle first, from Atlas or from storage.
//!
//! | module | purpose |
//! | --- | --- |
//! | `filter` | detects filters that match nothing |
//! | `output` | output formats |
//! | `progress` | progress bar |

mod filter;
mod output;
mod progress;

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::one_shot::{poll_once, write_unless_stopped};
use super::terminal::is_coloured;
use super::{CommandError, refused_message, signals};
use crate::cli::Args;
use crate::config::{self, ConfigError, Diagnostic, KeysOptions, OutputFormat, StorageSource};
use crate::credentials::Environment;
use crate::humanize::{elapsed, format_duration};
use crate::inventory::{InventorySnapshot, InventoryStore};
use crate::key_policy::KeyPolicy;
use crate::storage::{StateFile, Storage};
use mongodb_atlas_client::{Clock, OrgId};
use output::Report;
use progress::ProgressReporter;

/// Maximum age of stored data for `--output commands`. In older data, keys may have been used in the meantime.
const MAX_AGE_OF_COMMANDS: Duration = Duration::from_hours(24);

/// The data from which keys are listed.
struct KeySource {
    shown: InventorySnapshot,
    key_policy: Arc<KeyPolicy>,
    /// Organizations and names that could not be read.
    missing: Vec<String>,
}

pub(super) async fn run(args: Args, environment: &Environment) -> Result<(), CommandError> {
    let choice = config::parse_keys_options(&args, environment)?;
    let mut shutdown = CancellationToken::new();
    let source = if let Some(stored) = &choice.from_storage {
        load_from_storage(stored, choice.output)?
    } else {
        shutdown = signals::shutdown_token()?;
        fetch_from_atlas(args, environment, &shutdown).await?
    };
    let unmatched = filter::find_unmatched(&choice, &source.shown, &source.key_policy);
    let mut missing = source.missing.clone();
    missing.extend(unmatched.missing_names);
    let mut other = unmatched.values;
    if missing.is_empty() && !other.is_empty() {
        return Err(CommandError::Filter(other));
    }
    let colored = is_coloured(environment);
    let refused = write_unless_stopped(&shutdown, move || {
        write_keys(&source, &choice, colored).map_err(CommandError::stdout())
    })
    .await?;
    if missing.is_empty() && refused == 0 {
        return Ok(());
    }
    if missing.is_empty() {
        return Err(CommandError::Refused(refused));
    }
    if refused > 0 {
        other.push(refused_message(refused));
    }
    Err(CommandError::Incomplete { missing, other })
}

/// Writes the keys to standard output. Returns the number of keys without a command.
fn write_keys(source: &KeySource, choice: &KeysOptions, colored: bool) -> io::Result<usize> {
    let now = Clock::system().now();
    let report = Report::new(&source.shown, choice, &source.key_policy, now, colored);
    let refused = match report.write(io::BufWriter::new(io::stdout().lock())) {
        // The reader closed the pipe, as in `keys | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        written => written?,
    };
    let left_out = report.left_out();
    // The other formats include this number in the summary.
    if left_out > 0 && matches!(choice.output, OutputFormat::Csv | OutputFormat::Json) {
        writeln!(
            io::stderr(),
            "exempt keys not listed: {left_out} (use --include-exempt to list them)"
        )?;
    }
    Ok(refused)
}

/// Polls Atlas.
async fn fetch_from_atlas(
    args: Args,
    environment: &Environment,
    shutdown: &CancellationToken,
) -> Result<KeySource, CommandError> {
    let mut bar = ProgressReporter::new();
    let polled = poll_once(args, environment, shutdown, |progress| bar.update(progress)).await;
    bar.finish();
    let (config, result) = polled?;
    Ok(KeySource {
        shown: result.snapshot(),
        key_policy: config.key_policy,
        missing: result.failed_targets,
    })
}

/// Remedy for a directory without state files.
const STATE_DIRECTORY_HELP: &str =
    "set the state directory of an exporter, such as /var/lib/atlas-ai-keys-exporter";

/// Reads stored inventories, without changes to the state directory.
fn load_from_storage(
    source: &StorageSource,
    output: OutputFormat,
) -> Result<KeySource, CommandError> {
    let StorageSource {
        dir,
        orgs,
        key_policy,
    } = source;
    let storage = Storage::open_read_only(dir);
    let stored_orgs = storage.list_orgs().map_err(|error| {
        let error = Diagnostic::new("--storage.path", error.to_string());
        ConfigError(vec![error.with_help(STATE_DIRECTORY_HELP)])
    })?;
    if stored_orgs.is_empty() {
        let message = format!("no stored data in {}", dir.display());
        let error = Diagnostic::new("--storage.path", message).with_help(STATE_DIRECTORY_HELP);
        return Err(ConfigError(vec![error]).into());
    }
    let mut missing: Vec<String> = Vec::new();
    for org in orgs.iter().filter(|org| !stored_orgs.contains(org)) {
        missing.push(format!("{org} (no stored data)"));
    }
    let is_chosen = |org: &&OrgId| orgs.is_empty() || orgs.contains(org);
    let chosen: Vec<OrgId> = stored_orgs.iter().filter(is_chosen).cloned().collect();
    let store = InventoryStore::default();
    store.set_policy(Arc::clone(key_policy));
    store.set_targets(chosen.clone(), Vec::new());
    for org in chosen {
        if let Some(details) = storage.read(&StateFile::Details(org.clone())) {
            store.insert_details(&org, &Arc::new(details));
        }
        match storage.read_inventory(&org) {
            Ok(stored) => {
                let age = elapsed(stored.inventory.completed_at(), Clock::system().now());
                if output == OutputFormat::Commands && age > MAX_AGE_OF_COMMANDS {
                    let age = format_duration(age);
                    missing.push(format!(
                        "{org} (stored data is too old for commands: {age})"
                    ));
                    continue;
                }
                store.insert(store.classify(stored.inventory), age);
            }
            Err(why) => missing.push(format!("{org} ({why})")),
        }
    }
    Ok(KeySource {
        shown: store.snapshot(Duration::ZERO),
        key_policy: Arc::clone(key_policy),
        missing,
    })
}
