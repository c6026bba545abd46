//! `keys`: the keys, most idle first, as a table, CSV or JSON; from Atlas, or what an exporter has kept.
//!
//! | room | what lives there |
//! | --- | --- |
//! | `found` | the keys that were asked for, in their order |
//! | `forms` | how they are written |
//! | `progress` | the bar of a long walk |

mod forms;
mod found;
mod progress;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use jiff::Timestamp;

use super::{Failure, loader, signals};
use crate::cli::Args;
use crate::config::{self, ConfigError, Output};
use crate::credentials::Environment;
use crate::exporter::{Exporter, Surroundings};
use crate::ids::OrgId;
use crate::inventory::Shown;
use crate::poll::Storage;
use found::Found;
use progress::Bar;

pub(super) async fn run(args: Args, environment: &Environment) -> Result<(), Failure> {
    let choice = config::check_keys(&args, environment)?;
    let (shown, failed) = match &choice.from_storage {
        Some((dir, orgs)) => stored(dir, orgs)?,
        None => walked(args, environment).await?,
    };
    let found = Found::new(&shown, &choice, Timestamp::now());
    let stdout = io::stdout();
    let colour = stdout.is_terminal() && environment.get("NO_COLOR").is_none();
    let mut out = io::BufWriter::new(stdout.lock());
    match choice.output {
        Output::Table => forms::table(&found, colour, &mut out),
        Output::Csv => forms::csv(&found, &mut out),
        Output::Json => forms::json(&found, &mut out),
    }
    .and_then(|()| out.flush())
    .or_else(if_nobody_reads)
    .map_err(Failure::system("cannot write to standard output"))?;
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Failure::Incomplete(failed))
    }
}

/// Whoever reads may have seen enough: `keys | head`.
fn if_nobody_reads(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(());
    }
    Err(error)
}

/// What Atlas says now, and what it does not say.
async fn walked(args: Args, environment: &Environment) -> Result<(Shown, Vec<String>), Failure> {
    let load = loader(args, environment.clone());
    // nobody is served, and nothing is kept: this is the whole life of the process
    let config = load()?.alone();
    let shutdown = signals::shutdown()?;
    let exporter = Exporter::start(config, Surroundings::real(load)).await?;
    let mut bar = Bar::new();
    let round = exporter
        .once(shutdown.clone(), |progress| bar.show(progress))
        .await;
    bar.end();
    if shutdown.is_cancelled() {
        return Err(Failure::Interrupted);
    }
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
