//! The commands, from their arguments to the exit code. Without a command, the exporter polls Atlas and serves the metrics.
//!
//! | module | purpose |
//! | --- | --- |
//! | `once`, `keys`, `one_shot` | commands that poll once |
//! | `check` | validates the configuration |
//! | `sim` | `demo` and `sim`: the simulated Atlas, with an exporter or without one |
//! | `generate` | manual page and completions |
//! | `signals`, `terminal` | signals, standard output |

mod check;
mod generate;
mod keys;
mod once;
mod one_shot;
mod signals;
#[cfg(feature = "sim")]
mod sim;
mod terminal;

use std::borrow::Cow;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::app::{ConfigLoader, Dependencies, Exporter, StartError};
use crate::cli::{Args, Command};
use crate::config::{self, Config, ConfigError};
use crate::credentials::Environment;
use crate::humanize::exact;
use crate::logging;

/// Error of a command.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Error of clap: an unknown flag, or the output of `--help`.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The command line or the configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The exporter cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Some data could not be read; the rest was written.
    #[error("could not read all organizations; no data for: {}{}", missing.join(", "), format_list(other))]
    Incomplete {
        /// Organizations and names that are missing.
        missing: Vec<String>,
        /// Other errors, such as filter values that match no data but may match the missing data.
        other: Vec<String>,
    },
    /// Some data could not be read, and nothing was written, because missing data would look like deleted keys.
    #[error("could not read all organizations; no data for: {}; {target}", missing.join(", "))]
    NotWritten {
        /// Organizations and names that are missing.
        missing: Vec<String>,
        /// State of the output.
        target: String,
    },
    /// Some data could not be read; stored data was written instead.
    #[error("could not read all organizations; wrote stored data for: {}", .0.join(", "))]
    Stale(Vec<String>),
    /// No organization is configured, and none was discovered.
    #[error("no organizations found: the credential has access to none")]
    NoOrganizations,
    /// Some keys have no command in the output of `keys --output commands`.
    #[error("{}", refused_message(*.0))]
    Refused(usize),
    /// A filter matches nothing.
    #[error("invalid filter:{}", format_list(.0))]
    Filter(Vec<String>),
    /// `check` found and printed errors.
    #[error("check failed: {errors} error{}", if *errors == 1 { "" } else { "s" })]
    ChecksFailed {
        /// Number of errors.
        errors: usize,
        /// Whether the command line or the configuration is invalid.
        is_invalid_config: bool,
    },
    /// A signal stopped the command.
    #[error("interrupted")]
    Interrupted,
    /// An operation of the system failed.
    #[error("{context}: {source}")]
    Io {
        /// The operation that failed.
        context: Cow<'static, str>,
        /// The error of the system.
        source: io::Error,
    },
}

impl CommandError {
    /// Returns the exit code: 1 if the command failed, 2 if the command line or the configuration is invalid.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(error) => u8::try_from(error.exit_code()).unwrap_or(2),
            Self::Config(_)
            | Self::Filter(_)
            | Self::Start(StartError::WebConfig(_))
            | Self::ChecksFailed {
                is_invalid_config: true,
                ..
            } => 2,
            _ => 1,
        }
    }

    fn io(context: impl Into<Cow<'static, str>>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }

    fn stdout() -> impl FnOnce(io::Error) -> Self {
        Self::io("standard output: cannot be written")
    }
}

fn refused_message(keys: usize) -> String {
    format!("no command for {keys} keys: see the reasons in the comments of the output")
}

fn format_list(lines: &[String]) -> String {
    lines
        .iter()
        .fold(String::new(), |text, line| format!("{text}\n  - {line}"))
}

/// Ignores the error of a pipe that the reader closed, as in `keys | head`.
fn ignore_broken_pipe(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(());
    }
    Err(error)
}

/// Parses the command line and runs the command.
///
/// # Errors
/// [`CommandError`] with the exit code.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<(), CommandError> {
    let args = Args::parse(arguments)?;
    if let Some((level, format)) = config::log_settings(&args, environment) {
        logging::init(level, format);
    }
    disable_core_dumps();
    raise_nofile_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CommandError::io("cannot start the runtime"))?;
    let result = runtime.block_on(async {
        match args.command {
            Command::Serve => serve(args, environment).await,
            Command::Check => check::run(&args, environment).await,
            Command::Keys => keys::run(args, environment).await,
            Command::Once => once::run(args, environment).await,
            Command::Man => generate::print_man_page(),
            Command::Completions(shell) => generate::print_completions(shell),
            #[cfg(feature = "sim")]
            Command::Demo => sim::run_demo(args, environment).await,
            #[cfg(feature = "sim")]
            Command::Sim => sim::run_sim(&args, environment).await,
        }
    });
    // A blocked file system or an expensive password hash can keep a thread busy.
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
    logging::finish();
    result
}

/// Polls Atlas and serves the metrics. Runs without a command.
async fn serve(args: Args, environment: &Environment) -> Result<(), CommandError> {
    let load = config_loader(args, environment.clone());
    let config = load()?;
    let shutdown = signals::shutdown_token()?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        revision = env!("BUILD_REVISION"),
        credentials = config.credentials.len(),
        organizations = config.credentials.iter().map(|it| it.org_ids.len()).sum::<usize>(),
        shard = %config.shard,
        atlas = %config.base_url,
        interval = %exact(config.poll_interval),
        "starting"
    );
    // A signal must stop the process even if a file system does not respond.
    let start = Exporter::start(config, Dependencies::production(load));
    let Some(started) = shutdown.run_until_cancelled(start).await else {
        return Ok(());
    };
    let exporter = started?;
    signals::spawn_sighup_reload(exporter.reloader())?;
    exporter.run(shutdown).await;
    Ok(())
}

/// Maximum wait for busy threads after the command has ended.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// Returns a function that loads the configuration again, for reloads.
fn config_loader(args: Args, environment: Environment) -> ConfigLoader {
    Arc::new(move || Config::load(&args, &environment))
}

/// Raises the limit of open files. Each connection needs one file descriptor.
fn raise_nofile_limit() {
    let limit = getrlimit(Resource::Nofile);
    let target = limit.maximum.unwrap_or(NOFILE_TARGET).min(NOFILE_TARGET);
    if limit.current.is_some_and(|current| current < target) {
        let raised = Rlimit {
            current: Some(target),
            ..limit
        };
        // With a lower limit, the server accepts fewer connections.
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

/// Maximum number of open files, sufficient for all connections and files.
const NOFILE_TARGET: u64 = 4096;

/// Disables core dumps and access by other processes of the same user, because the memory contains secrets.
#[cfg(target_os = "linux")]
fn disable_core_dumps() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none)
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable))
    {
        warn!(%error, "failed to disable core dumps");
    }
}

/// Does nothing: only Linux has these settings.
#[cfg(not(target_os = "linux"))]
fn disable_core_dumps() {}
