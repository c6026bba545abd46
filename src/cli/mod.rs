//! The command line as text. The parser, `--help`, the manual page and the completions are generated from one table of
//! flags. [`crate::config`] parses the values and reports all errors at once; clap would stop at the first error.

mod flags;
mod help;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, ArgMatches};
use clap_complete::Shell;

use crate::credentials::Environment;
pub use flags::{CHECK_FLAGS, FLAGS, Flag, KEYS_FLAGS, ONCE_FLAGS};
#[cfg(feature = "sim")]
pub use flags::{SIM_FLAGS, SIM_LISTEN_FLAGS};
use help::{EXIT_STATUS, credential_help, short_help_end};

/// A command of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Polls Atlas and serves the metrics.
    Serve,
    /// Validates configuration, credentials, API access and rate limits.
    Check,
    /// Lists the keys.
    Keys,
    /// Polls once and writes the metrics.
    Once,
    /// Writes the manual page.
    Man,
    /// Writes the completions of a shell.
    Completions(Shell),
    /// Runs a simulated Atlas and an exporter in one process.
    #[cfg(feature = "sim")]
    Demo,
    /// Runs the simulated Atlas alone.
    #[cfg(feature = "sim")]
    Sim,
}

/// A command with flags.
struct CommandSpec {
    command: Command,
    name: &'static str,
    /// Description in `--help`.
    about: &'static str,
    /// The flags that only this command has.
    flags: &'static [&'static [Flag]],
    /// Names of the shared flags that `-h` lists.
    common_flags: &'static [&'static str],
    /// Defaults of shared flags, by name, that differ from those of [`FLAGS`].
    defaults: &'static [(&'static str, &'static str)],
}

/// Shared flags in `-h` of a command that contacts Atlas.
const COMMON_FLAGS: &[&str] = &["atlas.org-id", "config.file", "storage.path", "log.level"];

/// Shared flags in `-h` without a command.
const COMMON_SERVE_FLAGS: &[&str] = &[
    "atlas.org-id",
    "config.file",
    "storage.path",
    "web.listen-address",
    "log.level",
];

/// Defaults of `demo`.
#[cfg(feature = "sim")]
pub(crate) const DEMO_DEFAULTS: &[(&str, &str)] = &[
    ("web.listen-address", "127.0.0.1:10064"),
    // DNS rebinding: no other web page can read the demo through a name that resolves to this address.
    ("web.allowed-hosts", "localhost"),
    // The simulated Atlas has a generous rate limit, and the demo should show changes.
    ("atlas.poll-interval", "15s"),
];

/// The commands with flags, in the order of `--help`.
const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        command: Command::Check,
        name: "check",
        about: "Validate configuration, credentials, API access and rate limits",
        flags: &[CHECK_FLAGS],
        common_flags: COMMON_FLAGS,
        defaults: &[],
    },
    CommandSpec {
        command: Command::Keys,
        name: "keys",
        about: "List keys, longest idle first: table, CSV, JSON, Markdown, or deletion commands",
        flags: &[KEYS_FLAGS],
        common_flags: COMMON_FLAGS,
        defaults: &[],
    },
    CommandSpec {
        command: Command::Once,
        name: "once",
        about: "Poll once and write the metrics, for cron and node_exporter's textfile collector",
        flags: &[ONCE_FLAGS],
        common_flags: COMMON_FLAGS,
        defaults: &[],
    },
    #[cfg(feature = "sim")]
    CommandSpec {
        command: Command::Demo,
        name: "demo",
        about: "Run a simulated Atlas and an exporter that polls it, on 127.0.0.1:10064",
        flags: &[SIM_FLAGS],
        common_flags: &["web.listen-address", "log.level"],
        defaults: DEMO_DEFAULTS,
    },
    #[cfg(feature = "sim")]
    CommandSpec {
        command: Command::Sim,
        name: "sim",
        about: "Run the simulated Atlas alone",
        flags: &[SIM_FLAGS, SIM_LISTEN_FLAGS],
        common_flags: &["log.level"],
        defaults: &[],
    },
];

impl Command {
    /// Returns the flags of the command, without those of [`FLAGS`].
    pub fn flags(self) -> impl Iterator<Item = &'static Flag> {
        let spec = COMMANDS.iter().find(|spec| spec.command == self);
        spec.into_iter().flat_map(CommandSpec::flags)
    }
}

impl CommandSpec {
    fn flags(&self) -> impl Iterator<Item = &'static Flag> + use<> {
        self.flags.iter().copied().flatten()
    }

    /// Returns the shared flags, with the defaults of this command.
    fn shared_flags(&self) -> impl Iterator<Item = Flag> {
        FLAGS.iter().map(|flag| {
            let mut defaults = self.defaults.iter();
            let default = defaults.find(|(name, _)| *name == flag.name);
            Flag {
                default: default.map(|(_, default)| *default).or(flag.default),
                ..*flag
            }
        })
    }

    /// Returns whether the command authenticates to Atlas with the credential of the user.
    fn needs_credential(&self) -> bool {
        matches!(self.command, Command::Check | Command::Keys | Command::Once)
    }
}

/// Source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueSource {
    /// The flag of that name.
    Flag(&'static str),
    /// The environment variable of that name.
    EnvVar(&'static str),
    /// A field of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Path of the key, such as `atlas.timeout`.
        key: String,
    },
    /// The default of the flag of that name.
    Default(&'static str),
}

impl fmt::Display for ValueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::EnvVar(name) => write!(f, "environment variable {name}"),
            Self::File { path, key } => write!(f, "{key} in {}", path.display()),
            Self::Default(name) => write!(f, "default of --{name}"),
        }
    }
}

/// Values of a flag as text, and their source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagValues {
    /// One value; any number for a repeatable flag.
    pub values: Vec<String>,
    /// Source of all values.
    pub source: ValueSource,
}

impl FlagValues {
    /// Creates the values of a flag that is not set.
    pub(crate) fn default_of(name: &'static str, default: Option<&str>) -> Self {
        Self {
            values: default.map(str::to_owned).into_iter().collect(),
            source: ValueSource::Default(name),
        }
    }
}

/// The command and the values of its flags, as text.
#[derive(Debug, Clone)]
pub struct Args {
    /// The command.
    pub command: Command,
    values: BTreeMap<&'static str, Vec<String>>,
}

impl Args {
    /// Parses the command line.
    ///
    /// # Errors
    /// The error of clap for unknown flags and commands, `--help` and `--version`, with the output and the exit code.
    pub fn parse(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let matches = clap_command().try_get_matches_from(arguments)?;
        let mut values = BTreeMap::new();
        collect_values(&matches, FLAGS, &mut values);
        let command = match matches.subcommand() {
            Some(("man", _)) => Command::Man,
            Some(("completions", matches)) => matches
                .get_one("shell")
                .map_or(Command::Serve, |shell| Command::Completions(*shell)),
            Some((name, matches)) => {
                let spec = COMMANDS.iter().find(|spec| spec.name == name);
                spec.map_or(Command::Serve, |spec| {
                    // A shared flag after the command takes precedence over the same one before it.
                    collect_values(matches, FLAGS.iter().chain(spec.flags()), &mut values);
                    spec.command
                })
            }
            None => Command::Serve,
        };
        Ok(Self { command, values })
    }

    /// Returns the values of a flag from the command line, or otherwise from the environment.
    pub fn lookup(&self, flag: &Flag, environment: &Environment) -> Option<FlagValues> {
        if let Some(values) = self.values.get(flag.name) {
            return Some(FlagValues {
                values: values.clone(),
                source: ValueSource::Flag(flag.name),
            });
        }
        let value = environment.get(flag.env)?;
        let values = if flag.repeatable {
            let parts = value.split(',').map(|part| part.trim().to_owned());
            parts.filter(|part| !part.is_empty()).collect()
        } else {
            vec![value]
        };
        Some(FlagValues {
            values,
            source: ValueSource::EnvVar(flag.env),
        })
    }
}

fn collect_values(
    matches: &ArgMatches,
    flags: impl IntoIterator<Item = &'static Flag>,
    values: &mut BTreeMap<&'static str, Vec<String>>,
) {
    for flag in flags {
        if let Ok(Some(found)) = matches.try_get_many::<String>(flag.name) {
            values.insert(flag.name, found.cloned().collect());
        }
    }
}

fn clap_arg(flag: &Flag) -> Arg {
    let default = flag
        .default
        .map(|default| format!(" [default: {default}]"))
        .unwrap_or_default();
    let arg = Arg::new(flag.name).long(flag.name);
    let arg = if flag.value_name.is_empty() {
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("BOOL")
    } else {
        arg.value_name(flag.value_name).allow_hyphen_values(true)
    };
    let long_help = format!("{}{default} [env: {}]", flag.help, flag.env);
    arg.help_heading(flag.help_heading)
        .long_help(StyledStr::from(long_help))
        .help(StyledStr::from(flag.summary()))
        .action(if flag.repeatable {
            ArgAction::Append
        } else {
            ArgAction::Set
        })
}

/// Returns the flag of an argument, unless it is a shared flag.
pub(crate) fn command_flag(arg: &Arg) -> Option<&'static Flag> {
    let mut flags = COMMANDS.iter().flat_map(CommandSpec::flags);
    // Several commands have a flag `output`, each under a different heading.
    flags.find(|flag| {
        flag.name == arg.get_id().as_str() && Some(flag.help_heading) == arg.get_help_heading()
    })
}

/// Returns the clap definition of the command line. `-h` lists common flags, `--help` lists all flags.
pub fn clap_command() -> clap::Command {
    let shared_arg = |flag: &Flag| clap_arg(flag).hide_short_help(true);
    let subcommands = COMMANDS.iter().map(|spec| {
        let needs_credential = spec.needs_credential();
        let command = clap::Command::new(spec.name)
            .about(spec.about)
            .args(spec.flags().map(clap_arg))
            .args(spec.shared_flags().map(|flag| shared_arg(&flag)))
            .after_help(short_help_end(
                spec.shared_flags(),
                spec.common_flags,
                needs_credential,
            ));
        if !needs_credential {
            return command.after_long_help(EXIT_STATUS);
        }
        command.after_long_help(credential_help())
    });
    clap::Command::new("atlas-ai-keys-exporter")
        .about("Prometheus exporter for MongoDB Atlas AI model API keys")
        .after_help(short_help_end(
            FLAGS.iter().copied(),
            COMMON_SERVE_FLAGS,
            true,
        ))
        .after_long_help(credential_help())
        .version(concat!(
            env!("CARGO_PKG_VERSION"),
            " (",
            env!("BUILD_REVISION"),
            ", ",
            env!("BUILD_TARGET"),
            ")"
        ))
        .args(FLAGS.iter().map(shared_arg))
        .subcommands(subcommands)
        .subcommand(clap::Command::new("man").about("Write the manual page"))
        .subcommand(
            clap::Command::new("completions")
                .about("Write the completions for a shell")
                .arg(
                    Arg::new("shell")
                        .required(true)
                        .value_name("SHELL")
                        .value_parser(clap::value_parser!(Shell))
                        .help("Name of the shell"),
                ),
        )
}

#[cfg(test)]
mod tests;
