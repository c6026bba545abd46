//! The command line as it is written: one table of flags, from which the parser, `--help`, the manual
//! page and the completions are made. Values stay text here; [`crate::config`] turns them into what they mean and lists every
//! mistake at once, which a parser that stops at the first could not.

mod flags;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, ArgMatches};
use clap_complete::Shell;

use crate::credentials::{Environment, FIELDS};
pub use flags::{CHECK_FLAGS, FLAGS, Flag, KEYS_FLAGS, ONCE_FLAGS, SIM_FLAGS, SIM_LISTEN_FLAGS};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Watch Atlas and serve the metrics.
    Serve,
    /// Everything that can be wrong.
    Check,
    /// The keys, for people and for spreadsheets.
    Keys,
    /// One round, and its exposition.
    Once,
    /// The manual page.
    Man,
    /// The completions of a shell.
    Completions(Shell),
    /// A simulated Atlas and the exporter that watches it, in one process.
    Demo,
    /// The simulated Atlas alone.
    Sim,
}

/// A command beside serving: what it is called, what `--help` says of it, and the flags that it alone has.
struct CommandSpec {
    command: Command,
    name: &'static str,
    about: &'static str,
    flags: &'static [&'static [Flag]],
}

/// The commands with flags, in the order of `--help`.
const COMMANDS: [CommandSpec; 5] = [
    CommandSpec {
        command: Command::Check,
        name: "check",
        about: "Everything that can be wrong, all at once: configuration, credentials, access, request budget",
        flags: &[CHECK_FLAGS],
    },
    CommandSpec {
        command: Command::Keys,
        name: "keys",
        about: "The keys, most idle first: as a table, CSV, JSON or Markdown",
        flags: &[KEYS_FLAGS],
    },
    CommandSpec {
        command: Command::Once,
        name: "once",
        about: "One round, and its metrics: for cron and node_exporter's textfile collector",
        flags: &[ONCE_FLAGS],
    },
    CommandSpec {
        command: Command::Demo,
        name: "demo",
        about: "A simulated Atlas and the exporter watching it, on 127.0.0.1:10064",
        flags: &[SIM_FLAGS],
    },
    CommandSpec {
        command: Command::Sim,
        name: "sim",
        about: "The simulated Atlas alone",
        flags: &[SIM_FLAGS, SIM_LISTEN_FLAGS],
    },
];

impl Command {
    /// The flags that it has beside [`FLAGS`].
    pub fn flags(self) -> impl Iterator<Item = &'static Flag> {
        let sub = COMMANDS.iter().find(|sub| sub.command == self);
        sub.into_iter().flat_map(CommandSpec::flags)
    }
}

impl CommandSpec {
    fn flags(&self) -> impl Iterator<Item = &'static Flag> + use<> {
        self.flags.iter().copied().flatten()
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueSource {
    /// The flag of that name.
    Flag(&'static str),
    /// The environment variable of that name.
    EnvVar(&'static str),
    /// A member of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The member, such as `atlas.timeout`.
        key: String,
    },
    /// Nobody gave one: the default of the flag of that name.
    Default(&'static str),
}

impl fmt::Display for ValueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::EnvVar(name) => write!(f, "environment variable {name}"),
            Self::File { path, key: member } => write!(f, "{member} in {}", path.display()),
            Self::Default(name) => write!(f, "default of --{name}"),
        }
    }
}

/// The command and its values, as text.
#[derive(Debug, Clone)]
pub struct Args {
    /// What to do.
    pub command: Command,
    values: BTreeMap<&'static str, Vec<String>>,
}

impl Args {
    /// Reads the command line.
    ///
    /// # Errors
    /// clap's own error for unknown flags and commands, `--help` and `--version`; it knows what to
    /// print where, and its exit code.
    pub fn parse(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let matches = clap_command().try_get_matches_from(arguments)?;
        let mut given = BTreeMap::new();
        collect_values(&matches, FLAGS, &mut given);
        let command = match matches.subcommand() {
            Some(("man", _)) => Command::Man,
            Some(("completions", of_shell)) => match of_shell.get_one("shell") {
                Some(shell) => Command::Completions(*shell),
                None => Command::Serve,
            },
            Some((name, of_sub)) => match COMMANDS.iter().find(|sub| sub.name == name) {
                Some(sub) => {
                    // behind the command, a flag of every command wins over the same one before it
                    collect_values(of_sub, FLAGS.iter().chain(sub.flags()), &mut given);
                    sub.command
                }
                None => Command::Serve,
            },
            None => Command::Serve,
        };
        Ok(Self {
            command,
            values: given,
        })
    }

    /// The values of a flag, and where they come from: the command line, else the environment.
    pub fn lookup(
        &self,
        flag: &Flag,
        environment: &Environment,
    ) -> Option<(Vec<String>, ValueSource)> {
        if let Some(values) = self.values.get(flag.name) {
            return Some((values.clone(), ValueSource::Flag(flag.name)));
        }
        let value = environment.get(flag.env)?;
        let values = if flag.repeatable {
            value
                .split(',')
                .map(|part| part.trim().to_owned())
                .filter(|part| !part.is_empty())
                .collect()
        } else {
            vec![value]
        };
        Some((values, ValueSource::EnvVar(flag.env)))
    }
}

fn collect_values(
    matches: &ArgMatches,
    flags: impl IntoIterator<Item = &'static Flag>,
    given: &mut BTreeMap<&'static str, Vec<String>>,
) {
    for flag in flags {
        if let Ok(Some(values)) = matches.try_get_many::<String>(flag.name) {
            given.insert(flag.name, values.cloned().collect());
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
    let help = format!("{}{default}", flag.help);
    arg.help_heading(flag.help_heading)
        .long_help(StyledStr::from(format!("{help} [env: {}]", flag.env)))
        .help(StyledStr::from(help))
        .action(if flag.repeatable {
            ArgAction::Append
        } else {
            ArgAction::Set
        })
}

/// The flag behind an argument, if it is one of a command's own.
pub(crate) fn command_flag(arg: &Arg) -> Option<&'static Flag> {
    let own = COMMANDS.iter().flat_map(CommandSpec::flags);
    // two commands have one of the same name
    let mut own = own.filter(|flag| flag.name == arg.get_id().as_str());
    own.find(|flag| Some(flag.help_heading) == arg.get_help_heading())
}

/// How to give a credential, in short.
const CREDENTIAL_HINT: &str = "\
Credentials come from the environment or from files, never from flags: set MONGODB_ATLAS_CLIENT_ID and
MONGODB_ATLAS_CLIENT_SECRET_FILE (service account). Other kinds and places: --help.";

/// How to give a credential, with every name.
fn credential_help() -> String {
    let mut help = String::from(
        "Credentials (one of a service account, a programmatic API key or an access token; never from flags):\n",
    );
    for part in &FIELDS {
        let _ = writeln!(help, "  {:<31} {}", part.env, part.description);
    }
    let files: Vec<&str> = FIELDS.iter().map(|part| part.file_name).collect();
    let _ = write!(
        help,
        "Each variable with _FILE appended names a file that holds the value. Files named {} in systemd's\n\
         $CREDENTIALS_DIRECTORY come first. Several credentials: see --config.file.\n\n\
         Exit status: 0 success, 1 the work failed, 2 the call or the configuration is invalid.",
        files.join(", ")
    );
    help
}

/// The whole command line. `-h` shows the flags of one command, `--help` all of them.
pub fn clap_command() -> clap::Command {
    let subs = COMMANDS.iter().map(|sub| {
        let shared = FLAGS
            .iter()
            .map(|flag| clap_arg(flag).hide_short_help(true));
        let command = clap::Command::new(sub.name)
            .about(sub.about)
            .args(sub.flags().map(clap_arg))
            .args(shared);
        if matches!(sub.command, Command::Demo | Command::Sim) {
            return command.after_help("Flags of every command: --help.");
        }
        command
            .after_help(format!(
                "{CREDENTIAL_HINT}\nFlags of every command: --help."
            ))
            .after_long_help(credential_help())
    });
    clap::Command::new("atlas-ai-keys-exporter")
        .about("Prometheus exporter for MongoDB Atlas AI model API keys")
        .after_help(CREDENTIAL_HINT)
        .after_long_help(credential_help())
        .version(concat!(
            env!("CARGO_PKG_VERSION"),
            " (",
            env!("BUILD_REVISION"),
            ", ",
            env!("BUILD_TARGET"),
            ")"
        ))
        .args(FLAGS.iter().map(clap_arg))
        .subcommands(subs)
        .subcommand(clap::Command::new("man").about("Write the manual page"))
        .subcommand(
            clap::Command::new("completions")
                .about("Write the completions of a shell")
                .arg(
                    Arg::new("shell")
                        .required(true)
                        .value_name("SHELL")
                        .value_parser(clap::value_parser!(Shell))
                        .help("bash, elvish, fish, powershell or zsh"),
                ),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(name: &str) -> &'static Flag {
        FLAGS
            .iter()
            .chain(SIM_FLAGS)
            .find(|flag| flag.name == name)
            .expect("a flag")
    }

    #[test]
    fn clap_command_is_consistent() {
        clap_command().debug_assert();
    }

    #[test]
    fn flags_take_precedence_over_environment_variables() {
        let environment = Environment::from_vars([
            ("ATLAS_AI_KEYS_EXPORTER_ATLAS_TIMEOUT", "7s"),
            ("MONGODB_ATLAS_ORG_ID", "a, b,"),
        ]);
        let args = Args::parse(["x", "--atlas.page-size", "3"]).expect("good");
        let given = |name| args.lookup(flag(name), &environment);
        assert_eq!(
            given("atlas.page-size"),
            Some((vec!["3".into()], ValueSource::Flag("atlas.page-size")))
        );
        let variable = ValueSource::EnvVar("ATLAS_AI_KEYS_EXPORTER_ATLAS_TIMEOUT");
        assert_eq!(given("atlas.timeout"), Some((vec!["7s".into()], variable)));
        assert_eq!(given("atlas.poll-interval"), None);
        assert_eq!(
            given("atlas.org-id").map(|(values, _)| values),
            Some(vec!["a".into(), "b".into()])
        );
    }

    #[test]
    fn flags_are_accepted_before_and_after_the_command() {
        for line in [
            ["x", "--log.level", "debug", "demo"],
            ["x", "demo", "--log.level", "debug"],
        ] {
            let args = Args::parse(line).expect("good");
            assert_eq!(args.command, Command::Demo);
            let given = args.lookup(flag("log.level"), &Environment::from_vars([("", "")]));
            assert_eq!(given.map(|(values, _)| values), Some(vec!["debug".into()]));
        }
        assert!(
            Args::parse(["x", "--sim.seed", "1"]).is_err(),
            "a simulated Atlas is for demo and sim"
        );
    }

    #[test]
    fn boolean_flags_need_no_value() {
        let value = |line: &[&str]| {
            let args = Args::parse(line.iter().copied()).expect("good");
            let given = args.lookup(
                flag("atlas.discover-orgs"),
                &Environment::from_vars([("", "")]),
            );
            (args.command, given.map(|(values, _)| values))
        };
        assert_eq!(
            value(&["x", "--atlas.discover-orgs", "demo"]),
            (Command::Demo, Some(vec!["true".into()])),
            "what follows is no value"
        );
        assert_eq!(
            value(&["x", "--atlas.discover-orgs=false"]),
            (Command::Serve, Some(vec!["false".into()]))
        );
    }
}
