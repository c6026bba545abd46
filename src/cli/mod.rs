//! The command line as text: one table of flags, from which the parser, `--help`, the manual page and the completions are
//! made. [`crate::config`] parses the values and reports all errors at once; clap would stop at the first.

mod flags;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::path::PathBuf;

use clap::builder::{StyledStr, Styles};
use clap::{Arg, ArgAction, ArgMatches};
use clap_complete::Shell;

use crate::credentials::{Environment, FIELDS};
pub use flags::{CHECK_FLAGS, FLAGS, Flag, KEYS_FLAGS, ONCE_FLAGS};
#[cfg(feature = "sim")]
pub use flags::{SIM_FLAGS, SIM_LISTEN_FLAGS};

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

/// A command with flags: its name, the text in `--help`, the flags that only this command has, and the names of those
/// flags of every command that its `-h` lists.
struct CommandSpec {
    command: Command,
    name: &'static str,
    about: &'static str,
    flags: &'static [&'static [Flag]],
    common_flags: &'static [&'static str],
}

/// The flags of every command that most people need, with a command that contacts Atlas.
const COMMON_FLAGS: &[&str] = &["atlas.org-id", "config.file", "storage.path", "log.level"];

/// The same without a command.
const COMMON_SERVE_FLAGS: &[&str] = &[
    "atlas.org-id",
    "config.file",
    "storage.path",
    "web.listen-address",
    "log.level",
];

/// The commands with flags, in the order of `--help`.
const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        command: Command::Check,
        name: "check",
        about: "Validate configuration, credentials, API access and rate limits",
        flags: &[CHECK_FLAGS],
        common_flags: COMMON_FLAGS,
    },
    CommandSpec {
        command: Command::Keys,
        name: "keys",
        about: "List keys, longest idle first: table, CSV, JSON, Markdown, or deletion commands",
        flags: &[KEYS_FLAGS],
        common_flags: COMMON_FLAGS,
    },
    CommandSpec {
        command: Command::Once,
        name: "once",
        about: "Poll once and write the metrics, for cron and node_exporter's textfile collector",
        flags: &[ONCE_FLAGS],
        common_flags: COMMON_FLAGS,
    },
    #[cfg(feature = "sim")]
    CommandSpec {
        command: Command::Demo,
        name: "demo",
        about: "Run a simulated Atlas and an exporter that polls it, on 127.0.0.1:10064",
        flags: &[SIM_FLAGS],
        common_flags: &["web.listen-address", "log.level"],
    },
    #[cfg(feature = "sim")]
    CommandSpec {
        command: Command::Sim,
        name: "sim",
        about: "Run the simulated Atlas alone",
        flags: &[SIM_FLAGS, SIM_LISTEN_FLAGS],
        common_flags: &["log.level"],
    },
];

impl Command {
    /// Returns the command's flags beside [`FLAGS`].
    pub fn flags(self) -> impl Iterator<Item = &'static Flag> {
        let spec = COMMANDS.iter().find(|spec| spec.command == self);
        spec.into_iter().flat_map(CommandSpec::flags)
    }
}

impl CommandSpec {
    fn flags(&self) -> impl Iterator<Item = &'static Flag> + use<> {
        self.flags.iter().copied().flatten()
    }

    /// Whether the command authenticates to Atlas with the user's credential.
    fn needs_credential(&self) -> bool {
        matches!(self.command, Command::Check | Command::Keys | Command::Once)
    }
}

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueSource {
    /// The flag of that name.
    Flag(&'static str),
    /// The environment variable of that name.
    EnvVar(&'static str),
    /// A key of the configuration file.
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

/// The values of a flag as text, and their source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagValues {
    /// One value; any number for a repeatable flag.
    pub values: Vec<String>,
    /// The source of all values.
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

/// The command and its values, as text.
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
    /// clap's error for unknown flags and commands, `--help` and `--version`; it contains the output and the exit code.
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

    /// Returns the values of a flag on the command line, or else in the environment.
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

/// Returns the flag behind an argument, if only one command has it.
pub(crate) fn command_flag(arg: &Arg) -> Option<&'static Flag> {
    let mut flags = COMMANDS.iter().flat_map(CommandSpec::flags);
    // Two commands have a flag `output`, each below its own heading.
    flags.find(|flag| {
        flag.name == arg.get_id().as_str() && Some(flag.help_heading) == arg.get_help_heading()
    })
}

/// Summary of how to set a credential.
const CREDENTIAL_HINT: &str = concat!(
    "  MONGODB_ATLAS_CLIENT_ID, MONGODB_ATLAS_CLIENT_SECRET            Service account\n",
    "  MONGODB_ATLAS_CLIENT_ID_FILE, MONGODB_ATLAS_CLIENT_SECRET_FILE  The same, from files\n",
);

/// Returns the end of `-h`: some flags of every command, how to set a credential, and where to read on.
fn short_help_end(common_flags: &[&str], needs_credential: bool) -> StyledStr {
    let header = Styles::styled();
    let header = header.get_header();
    let mut help = format!("{header}Common flags:{header:#}\n");
    let flags = FLAGS
        .iter()
        .filter(|flag| common_flags.contains(&flag.name));
    for flag in flags {
        let usage = format!("--{} <{}>", flag.name, flag.value_name);
        let _ = writeln!(help, "      {usage:<31} {}", flag.summary());
    }
    help.push('\n');
    if needs_credential {
        let _ = writeln!(
            help,
            "{header}Credentials, never from flags:{header:#}\n{CREDENTIAL_HINT}"
        );
    }
    help.push_str("All flags, environment variables and kinds of credentials: --help.");
    StyledStr::from(help)
}

/// The end of `--help`.
const EXIT_STATUS: &str =
    "Exit status: 0 success, 1 failure, 2 invalid command line or configuration.";

/// Returns how to set a credential, with all names.
fn credential_help() -> String {
    let mut help = String::from(
        "Credentials (a service account, a programmatic API key or an access token; never from flags):\n",
    );
    for field in &FIELDS {
        let _ = writeln!(help, "  {:<31} {}", field.env, field.description);
    }
    let files = FIELDS.each_ref().map(|field| field.file_name);
    let _ = write!(
        help,
        "Each variable with _FILE appended names a file that contains the value. Files in $CREDENTIALS_DIRECTORY\n\
         (systemd) take precedence:\n  {}\nSeveral credentials: see --config.file.\n\n{EXIT_STATUS}",
        files.join(", ")
    );
    help
}

/// Returns clap's definition of the command line. `-h` shows what most people need, `--help` all flags.
pub fn clap_command() -> clap::Command {
    let shared = || {
        let flags = FLAGS.iter().map(clap_arg);
        flags.map(|flag| flag.hide_short_help(true))
    };
    let subcommands = COMMANDS.iter().map(|spec| {
        let needs_credential = spec.needs_credential();
        let command = clap::Command::new(spec.name)
            .about(spec.about)
            .args(spec.flags().map(clap_arg))
            .args(shared())
            .after_help(short_help_end(spec.common_flags, needs_credential));
        if !needs_credential {
            return command.after_long_help(EXIT_STATUS);
        }
        command.after_long_help(credential_help())
    });
    clap::Command::new("atlas-ai-keys-exporter")
        .about("Prometheus exporter for MongoDB Atlas AI model API keys")
        .after_help(short_help_end(COMMON_SERVE_FLAGS, true))
        .after_long_help(credential_help())
        .version(concat!(
            env!("CARGO_PKG_VERSION"),
            " (",
            env!("BUILD_REVISION"),
            ", ",
            env!("BUILD_TARGET"),
            ")"
        ))
        .args(shared())
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
