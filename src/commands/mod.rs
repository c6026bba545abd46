//! What each command does, from its arguments to its end.

mod check;
mod demo;
mod generate;
mod keys;
mod once;
mod one_shot;
mod serve;
mod signals;
mod sim;
mod terminal;

use std::borrow::Cow;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::app::{ConfigLoader, StartError};
use crate::cli::{Args, Command};
use crate::config::{self, Config, ConfigError};
use crate::credentials::Environment;
use crate::logging;

/// Why a command ended badly. [`CommandError::exit_code`] is what the shell is told.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// clap's: unknown flags, or help that was asked for.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The exporter cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Something could not be read; what could be was written.
    #[error("could not read all organizations; no data for: {}{}", missing.join(", "), format_list(unmatched))]
    Incomplete {
        /// What is missing.
        missing: Vec<String>,
        /// Values of filters that nothing else has, which may be in what is missing.
        unmatched: Vec<String>,
    },
    /// Something could not be read, and nothing was written: it would have read as if all keys were gone.
    #[error("could not read all organizations; no data for: {}; {target}", missing.join(", "))]
    NotWritten {
        /// What is missing.
        missing: Vec<String>,
        /// What became of the output.
        target: String,
    },
    /// Something could not be read, and older data that an exporter has stored was written.
    #[error("could not read all organizations; wrote stored data for: {}", .0.join(", "))]
    Stale(Vec<String>),
    /// No organization was named, and none was found.
    #[error("no organizations found: the credential has access to none")]
    NoOrganizations,
    /// Filters name what there is not.
    #[error("invalid filter:{}", format_list(.0))]
    Filter(Vec<String>),
    /// `check` has found what does not work, and has said what.
    #[error("errors found: {errors}")]
    ChecksFailed {
        /// How many.
        errors: usize,
        /// Whether the call or the configuration is among them.
        is_invalid_config: bool,
    },
    /// A signal has ended it.
    #[error("interrupted before the end")]
    Interrupted,
    /// The system refuses something.
    #[error("{context}: {source}")]
    Io {
        /// What was to be done.
        context: Cow<'static, str>,
        /// What the system says.
        source: std::io::Error,
    },
}

impl CommandError {
    /// 1 when the work failed, 2 when the call or the configuration is wrong.
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
            Self::Start(_)
            | Self::Io { .. }
            | Self::Incomplete { .. }
            | Self::NotWritten { .. }
            | Self::Stale(_)
            | Self::NoOrganizations
            | Self::ChecksFailed { .. }
            | Self::Interrupted => 1,
        }
    }

    fn io(what: impl Into<Cow<'static, str>>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |why| Self::Io {
            context: what,
            source: why,
        }
    }
}

fn format_list(lines: &[String]) -> String {
    lines
        .iter()
        .fold(String::new(), |text, line| format!("{text}\n  - {line}"))
}

/// A reader that has seen enough, as in `keys | head`, is no error.
fn ignore_broken_pipe(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(());
    }
    Err(error)
}

/// Does what the command line asks, to its end.
///
/// # Errors
/// [`CommandError`], which says what to do.
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
            Command::Serve => serve::run(args, environment).await,
            Command::Check => check::run(&args, environment).await,
            Command::Keys => keys::run(args, environment).await,
            Command::Once => once::run(args, environment).await,
            Command::Man => generate::print_man_page(),
            Command::Completions(shell) => generate::print_completions(shell),
            Command::Demo => demo::run(args, environment).await,
            Command::Sim => sim::run(&args, environment).await,
        }
    });
    // what still keeps a thread busy, a file system that hangs or a dear password, is not waited for
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
    logging::finish();
    result
}

/// How long threads that are busy may go on after everything has ended.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// How to make the configuration of these arguments again, at a reload.
fn config_loader(args: Args, environment: Environment) -> ConfigLoader {
    Arc::new(move || Config::load(&args, &environment))
}

/// Allows as many open files as the system lets this process have: connections are files.
#[cfg(unix)]
fn raise_nofile_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(NOFILE_TARGET).min(NOFILE_TARGET);
    if limit.current.is_some_and(|current| current < most) {
        let raised = Rlimit {
            current: Some(most),
            ..limit
        };
        // with fewer there are fewer connections
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

/// Elsewhere there is no such limit.
#[cfg(not(unix))]
fn raise_nofile_limit() {}

/// Files that are enough for all connections, and all the rest.
#[cfg(unix)]
const NOFILE_TARGET: u64 = 4096;

/// Keeps secrets out of core dumps and away from other processes of the same user.
#[cfg(target_os = "linux")]
fn disable_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none)
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable))
    {
        tracing::warn!(%error, "core dumps cannot be switched off; a crash could write secrets to disk");
    }
}

/// Elsewhere the system's own settings hold.
#[cfg(not(target_os = "linux"))]
fn disable_core_dumps() {}
