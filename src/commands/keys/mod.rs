//! `keys`: lists the keys, longest idle first, from Atlas or from storage.
//!
//! | module | purpose |
//! | --- | --- |
//! | `filter` | detects filters that match nothing |
//! | `output` | output formats |
//! | `progress` | progress bar |

mod filter;
mod output;
mod progress;

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::one_shot::{poll_once, write_unless_stopped};
use super::terminal::is_coloured;
use super::{CommandError, ignore_broken_pipe, signals};
use crate::cli::Args;
use crate::config::{self, ConfigError, Diagnostic, KeysOptions, OutputFormat, StorageSource};
use crate::credentials::Environment;
use crate::inventory::{DetailsWithOwners, InventorySnapshot, KeyLabel, KeyQuery, KeySelection};
use crate::key_policy::KeyPolicy;
use crate::storage::{StateFile, Storage};
use mongodb_atlas_client::{Clock, OrgId};
use progress::ProgressReporter;

pub(super) async fn run(args: Args, environment: &Environment) -> Result<(), CommandError> {
    let choice = config::parse_keys_options(&args, environment)?;
    let mut shutdown = CancellationToken::new();
    let (shown, mut missing) = if let Some(StorageSource { dir, orgs }) = &choice.from_storage {
        load_from_storage(dir, orgs)?
    } else {
        shutdown = signals::shutdown_token()?;
        fetch_from_atlas(args, environment, &shutdown).await?
    };
    let unmatched = filter::find_unmatched(&choice, &shown);
    missing.extend(unmatched.missing_names);
    let unmatched = unmatched.values;
    if missing.is_empty() && !unmatched.is_empty() {
        return Err(CommandError::Filter(unmatched));
    }
    let now = Clock::system().now();
    let colored = is_coloured(environment);
    write_unless_stopped(&shutdown, move || {
        let out = io::BufWriter::new(io::stdout().lock());
        write_keys(&shown, &choice, now, colored, out)
            .or_else(ignore_broken_pipe)
            .map_err(CommandError::stdout())
    })
    .await?;
    if missing.is_empty() {
        Ok(())
    } else {
        Err(CommandError::Incomplete { missing, unmatched })
    }
}

fn write_keys(
    shown: &InventorySnapshot,
    choice: &KeysOptions,
    now: Timestamp,
    colored: bool,
    mut out: impl Write,
) -> io::Result<()> {
    let idle = i64::try_from(choice.idle.as_micros()).unwrap_or(i64::MAX);
    let cutoff = now.as_microsecond().saturating_sub(idle);
    let mut labels = vec![KeyLabel::Name, KeyLabel::Status];
    if choice.created_by {
        labels.push(KeyLabel::CreatedBy);
    }
    let query = KeyQuery {
        statuses: &choice.statuses.values,
        projects: &choice.projects.values,
        idle_cutoff: (!choice.idle.is_zero()).then_some(cutoff),
        never_used: choice.never_used,
        labels: &labels,
        ..KeyQuery::default()
    };
    let found = KeySelection::new(shown, query, now, |len| 0..len);
    match choice.output {
        OutputFormat::Table => output::write_key_table(&found, colored, &mut out),
        OutputFormat::Csv => output::write_csv(&found, &mut out),
        OutputFormat::Json => output::write_json(&found, &mut out),
        OutputFormat::Markdown => output::write_markdown(&found, &mut out),
    }?;
    out.flush()
}

/// Polls Atlas. Returns what could not be read as well.
async fn fetch_from_atlas(
    args: Args,
    environment: &Environment,
    shutdown: &CancellationToken,
) -> Result<(InventorySnapshot, Vec<String>), CommandError> {
    let mut bar = ProgressReporter::new();
    let polled = poll_once(args, environment, shutdown, |progress| bar.update(progress)).await;
    bar.finish();
    let (_, round) = polled?;
    Ok((round.snapshot(), round.failed_targets))
}

/// Reads stored inventories. Does not change the directory.
fn load_from_storage(
    dir: &Path,
    orgs: &[OrgId],
) -> Result<(InventorySnapshot, Vec<String>), CommandError> {
    let storage = Storage::open_read_only(dir);
    let stored_orgs = storage.list_orgs().map_err(|error| {
        let expected = "it must be the directory that an exporter keeps its state in, such as /var/lib/atlas-ai-keys-exporter";
        let error = Diagnostic::new("--storage.path", error.to_string());
        ConfigError(vec![error.with_help(expected)])
    })?;
    if stored_orgs.is_empty() {
        let message = format!("no stored data in {}", dir.display());
        let expected = "expected the directory in which an exporter stores its state";
        let error = Diagnostic::new("--storage.path", message).with_help(expected);
        return Err(ConfigError(vec![error]).into());
    }
    let mut shown = InventorySnapshot::default();
    let mut failed: Vec<String> = Vec::new();
    for org in orgs.iter().filter(|org| !stored_orgs.contains(org)) {
        failed.push(format!("{org} (nothing is kept of it)"));
    }
    for org in stored_orgs
        .iter()
        .filter(|org| orgs.is_empty() || orgs.contains(org))
    {
        match storage.read_inventory(org) {
            Ok(stored) => {
                shown.inventories.push(stored.inventory.into());
                let details = storage.read(&StateFile::Details(org.clone()));
                shown.details.extend(details.map(|details| {
                    let details = Arc::new(details);
                    let details = DetailsWithOwners::new(details, &KeyPolicy::default());
                    (org.clone(), Arc::new(details))
                }));
            }
            Err(why) => failed.push(format!("{org} ({why})")),
        }
    }
    Ok((shown, failed))
}
