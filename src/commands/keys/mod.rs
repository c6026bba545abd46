//! `keys`: the keys, most idle first, as a table, CSV, JSON or Markdown; from Atlas, or what an exporter has kept.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `filter` | filters that name what there is not |
//! | `listing` | the keys that were asked for, in their order |
//! | `output` | how they are written |
//! | `progress` | the bar of a long walk |

mod filter;
mod listing;
mod output;
mod progress;

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::one_shot::{poll_once, write_unless_stopped};
use super::{Failure, ignore_broken_pipe, signals};
use crate::cli::Args;
use crate::config::{self, ConfigError, KeysChoice, Output};
use crate::credentials::Environment;
use crate::inventory::Shown;
use crate::storage::Storage;
use filter::Unmatched;
use listing::Found;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::OrgId;
use progress::Bar;

pub(super) async fn run(args: Args, environment: &Environment) -> Result<(), Failure> {
    let choice = config::check_keys(&args, environment)?;
    let mut shutdown = CancellationToken::new();
    let (shown, mut missing) = if let Some((dir, orgs)) = &choice.from_storage {
        stored(dir, orgs)?
    } else {
        shutdown = signals::shutdown()?;
        walked(args, environment, &shutdown).await?
    };
    let Unmatched { values, unnamed } = filter::find_unmatched(&choice, &shown);
    missing.extend(unnamed);
    if missing.is_empty() && !values.is_empty() {
        return Err(Failure::Filter(values));
    }
    let now = Clock::system().now();
    let colour = io::stdout().is_terminal() && environment.get("NO_COLOR").is_none();
    write_unless_stopped(&shutdown, move || {
        let out = io::BufWriter::new(io::stdout().lock());
        write_keys(&shown, &choice, now, colour, out)
            .or_else(ignore_broken_pipe)
            .map_err(Failure::system("cannot write to standard output"))
    })
    .await?;
    if missing.is_empty() {
        Ok(())
    } else {
        let unmatched = values;
        Err(Failure::Incomplete { missing, unmatched })
    }
}

fn write_keys(
    shown: &Shown,
    choice: &KeysChoice,
    now: Timestamp,
    colour: bool,
    mut out: impl Write,
) -> io::Result<()> {
    let found = Found::new(shown, choice, now);
    match choice.output {
        Output::Table => output::table(&found, colour, &mut out),
        Output::Csv => output::csv(&found, &mut out),
        Output::Json => output::json(&found, &mut out),
        Output::Markdown => output::markdown(&found, &mut out),
    }?;
    out.flush()
}

/// What Atlas says now, and what it does not say.
async fn walked(
    args: Args,
    environment: &Environment,
    shutdown: &CancellationToken,
) -> Result<(Shown, Vec<String>), Failure> {
    let mut bar = Bar::new();
    let polled = poll_once(args, environment, shutdown, |progress| bar.show(progress)).await;
    bar.end();
    let (_, round) = polled?;
    Ok((round.shown(), round.failed))
}

/// What an exporter has kept of its last complete walks. Nothing in the directory is changed.
fn stored(dir: &Path, orgs: &[OrgId]) -> Result<(Shown, Vec<String>), Failure> {
    let storage = Storage::of(dir);
    let kept = storage.orgs().map_err(|error| {
        Failure::Config(ConfigError(vec![format!(
            "--storage.path: {error}; it must be the directory that an exporter keeps its state in, such as /var/lib/atlas-ai-keys-exporter"
        )]))
    })?;
    if kept.is_empty() {
        return Err(Failure::Config(ConfigError(vec![format!(
            "--storage.path: no stored data in {}; expected the directory in which an exporter stores its state",
            dir.display()
        )])));
    }
    let mut shown = Shown::default();
    let mut failed: Vec<String> = Vec::new();
    for org in orgs.iter().filter(|org| !kept.contains(org)) {
        failed.push(format!("{org} (nothing is kept of it)"));
    }
    for org in kept
        .iter()
        .filter(|org| orgs.is_empty() || orgs.contains(org))
    {
        match storage.look(org) {
            Ok(stored) => {
                shown.inventories.push(stored.inventory.into());
                let details = storage.look_details(org);
                shown
                    .details
                    .extend(details.map(|details| (org.clone(), details.into())));
            }
            Err(why) => failed.push(format!("{org} ({why})")),
        }
    }
    Ok((shown, failed))
}
