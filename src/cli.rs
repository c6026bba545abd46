//! The command line as it is written: one table of flags, from which the parser and `--help` are
//! made. Values stay text here; [`crate::config`] turns them into what they mean and lists every
//! mistake at once, which a parser that stops at the first could not.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, ArgMatches};
use clap_complete::Shell;

use crate::credentials::Environment;

/// A flag.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Its name without the dashes.
    pub name: &'static str,
    /// What its value is called in `--help`; empty for a switch, which needs none.
    pub value: &'static str,
    /// What it is when nobody says anything.
    pub default: Option<&'static str>,
    /// The environment variable that says the same.
    pub variable: &'static str,
    /// Whether it can be given more than once; the variable then has a list with commas.
    pub repeatable: bool,
    /// The heading in `--help`.
    pub group: &'static str,
    /// What it is for.
    pub help: &'static str,
}

macro_rules! flags {
    ($($name:literal $value:literal $default:expr, $variable:literal, $repeatable:literal, $group:literal, $help:literal;)*) => {
        &[$(Flag {
            name: $name,
            value: $value,
            default: $default,
            variable: $variable,
            repeatable: $repeatable,
            group: $group,
            help: $help,
        }),*]
    };
}

/// The flags of every command.
pub const FLAGS: &[Flag] = flags! {
    "atlas.org-id" "ID" None, "MONGODB_ATLAS_ORG_ID", true, "Atlas", "An organization to watch; can be given more than once";
    "atlas.discover-orgs" "" Some("false"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_DISCOVER_ORGS", false, "Atlas", "Watch every organization that the credential can see, listed again each interval";
    "atlas.base-url" "URL" Some("https://cloud.mongodb.com"), "MONGODB_ATLAS_BASE_URL", false, "Atlas", "Where Atlas is; plain http is accepted for loopback hosts only";
    "atlas.api-version" "VERSION" Some("2025-03-12"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_API_VERSION", false, "Atlas", "The API's version: a date, or preview";
    "atlas.poll-interval" "DURATION" Some("5m"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_POLL_INTERVAL", false, "Atlas", "How often each organization is walked";
    "atlas.timeout" "DURATION" Some("30s"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_TIMEOUT", false, "Atlas", "What one request may take, connect to last byte";
    "atlas.page-size" "N" Some("500"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_PAGE_SIZE", false, "Atlas", "Keys a page, 1 to 500";
    "atlas.max-staleness" "DURATION" Some("0s"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_MAX_STALENESS", false, "Atlas", "Age past which the keys of an organization that cannot be read are no longer shown; 0s for never";
    "atlas.shard" "I/N" Some("1/1"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_SHARD", false, "Atlas", "Watch only the I-th of N shares of the organizations; auto/N takes I from a StatefulSet pod's ordinal";
    "config.file" "FILE" None, "ATLAS_AI_KEYS_EXPORTER_CONFIG_FILE", false, "Configuration", "A YAML file with several credentials and everything the flags say";
    "storage.path" "DIR" None, "ATLAS_AI_KEYS_EXPORTER_STORAGE_PATH", false, "Storage", "Where the last complete walk of each organization survives a restart; systemd's $STATE_DIRECTORY when not given";
    "metrics.per-key" "MODE" Some("all"), "ATLAS_AI_KEYS_EXPORTER_METRICS_PER_KEY", false, "Metrics", "Which keys have series of their own: all, idle (those past the smallest idle threshold) or none (roll-ups alone)";
    "metrics.key-labels" "LIST" Some("name,status,cloud,geography,endpoint"), "ATLAS_AI_KEYS_EXPORTER_METRICS_KEY_LABELS", false, "Metrics", "Labels of the info metric, with commas between; created_by (a person's name) and masked_secret may be added";
    "metrics.max-keys" "N" Some("1000000"), "ATLAS_AI_KEYS_EXPORTER_METRICS_MAX_KEYS", false, "Metrics", "Keys that may have series of their own; past this the most idle ones are kept, and the others are counted";
    "metrics.idle-thresholds" "LIST" Some("7d,30d,90d"), "ATLAS_AI_KEYS_EXPORTER_METRICS_IDLE_THRESHOLDS", false, "Metrics", "Thresholds of the idle roll-up, with commas between";
    "web.listen-address" "ADDRESS" Some(":10064"), "ATLAS_AI_KEYS_EXPORTER_WEB_LISTEN_ADDRESS", true, "Web", "Where to serve, HOST:PORT or :PORT; can be given more than once";
    "web.systemd-socket" "" Some("false"), "ATLAS_AI_KEYS_EXPORTER_WEB_SYSTEMD_SOCKET", false, "Web", "Serve on the sockets that systemd hands over, instead of --web.listen-address";
    "web.probe-address" "ADDRESS" None, "ATLAS_AI_KEYS_EXPORTER_WEB_PROBE_ADDRESS", false, "Web", "Where to serve /-/healthy and /-/ready alone, in the clear and without a password";
    "web.config.file" "FILE" None, "ATLAS_AI_KEYS_EXPORTER_WEB_CONFIG_FILE", false, "Web", "TLS, client certificates and passwords, in the exporter-toolkit's format; read again when it changes";
    "web.telemetry-path" "PATH" Some("/metrics"), "ATLAS_AI_KEYS_EXPORTER_WEB_TELEMETRY_PATH", false, "Web", "The path of the metrics";
    "web.max-requests" "N" Some("40"), "ATLAS_AI_KEYS_EXPORTER_WEB_MAX_REQUESTS", false, "Web", "Scrapes that are served at once; one more is answered 503";
    "web.enable-lifecycle" "" Some("false"), "ATLAS_AI_KEYS_EXPORTER_WEB_ENABLE_LIFECYCLE", false, "Web", "Allow POST and PUT to /-/reload";
    "log.level" "LEVEL" Some("info"), "ATLAS_AI_KEYS_EXPORTER_LOG_LEVEL", false, "Log", "error, warn, info, debug or trace";
    "log.format" "FORMAT" Some("logfmt"), "ATLAS_AI_KEYS_EXPORTER_LOG_FORMAT", false, "Log", "logfmt or json, on standard error";
};

/// The flags of the commands with a simulated Atlas.
pub const SIM_FLAGS: &[Flag] = flags! {
    "sim.seed" "N" Some("1"), "ATLAS_AI_KEYS_EXPORTER_SIM_SEED", false, "Simulated Atlas", "Fixes the population and its life";
    "sim.orgs" "N" Some("3"), "ATLAS_AI_KEYS_EXPORTER_SIM_ORGS", false, "Simulated Atlas", "Number of organizations";
    "sim.keys" "N" Some("1200"), "ATLAS_AI_KEYS_EXPORTER_SIM_KEYS", false, "Simulated Atlas", "Number of keys in all organizations together";
    "sim.scenario" "NAME" Some("calm"), "ATLAS_AI_KEYS_EXPORTER_SIM_SCENARIO", false, "Simulated Atlas", "What to play: calm, stale, outage, throttled, revoked or churn";
    "sim.speed" "X" Some("1"), "ATLAS_AI_KEYS_EXPORTER_SIM_SPEED", false, "Simulated Atlas", "How much faster than in reality things happen";
};

/// Where the simulated Atlas alone listens.
pub const SIM_LISTEN: &[Flag] = flags! {
    "sim.listen-address" "ADDRESS" Some("127.0.0.1:10065"), "ATLAS_AI_KEYS_EXPORTER_SIM_LISTEN_ADDRESS", false, "Simulated Atlas", "Where the simulated Atlas serves";
};

/// The flags of `once`.
pub const ONCE_FLAGS: &[Flag] = flags! {
    "output" "FILE" None, "ATLAS_AI_KEYS_EXPORTER_ONCE_OUTPUT", false, "Once", "Where to write, in one step; standard output when not given";
};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Watch Atlas and serve the metrics.
    Serve,
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

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The flag of that name.
    Flag(&'static str),
    /// The environment variable of that name.
    Variable(&'static str),
    /// A member of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The member, such as `atlas.timeout`.
        member: String,
    },
    /// Nobody gave one: the default of the flag of that name.
    Default(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::File { path, member } => write!(f, "{member} in {}", path.display()),
            Self::Default(name) => write!(f, "default of --{name}"),
        }
    }
}

/// The command and its values, as text.
#[derive(Debug, Clone)]
pub struct Args {
    /// What to do.
    pub command: Command,
    given: BTreeMap<&'static str, Vec<String>>,
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
        let matches = definition().try_get_matches_from(arguments)?;
        let mut given = BTreeMap::new();
        collect(&matches, FLAGS, &mut given);
        let command = match matches.subcommand() {
            Some(("demo", sub)) => {
                collect(sub, SIM_FLAGS, &mut given);
                Command::Demo
            }
            Some(("sim", sub)) => {
                collect(sub, SIM_FLAGS, &mut given);
                collect(sub, SIM_LISTEN, &mut given);
                Command::Sim
            }
            Some(("once", sub)) => {
                collect(sub, ONCE_FLAGS, &mut given);
                Command::Once
            }
            Some(("man", _)) => Command::Man,
            Some(("completions", sub)) => match sub.get_one("shell") {
                Some(shell) => Command::Completions(*shell),
                None => Command::Serve,
            },
            _ => Command::Serve,
        };
        Ok(Self { command, given })
    }

    /// The values of a flag, and where they come from: the command line, else the environment.
    pub fn given(&self, flag: &Flag, environment: &Environment) -> Option<(Vec<String>, Origin)> {
        if let Some(values) = self.given.get(flag.name) {
            return Some((values.clone(), Origin::Flag(flag.name)));
        }
        let value = environment.get(flag.variable)?;
        let values = if flag.repeatable {
            value
                .split(',')
                .map(|part| part.trim().to_owned())
                .filter(|part| !part.is_empty())
                .collect()
        } else {
            vec![value]
        };
        Some((values, Origin::Variable(flag.variable)))
    }
}

fn collect(matches: &ArgMatches, flags: &[Flag], given: &mut BTreeMap<&'static str, Vec<String>>) {
    for flag in flags {
        if let Ok(Some(values)) = matches.try_get_many::<String>(flag.name) {
            given.insert(flag.name, values.cloned().collect());
        }
    }
}

fn arg(flag: &Flag) -> Arg {
    let default = flag
        .default
        .map(|default| format!(" [default: {default}]"))
        .unwrap_or_default();
    let arg = Arg::new(flag.name).long(flag.name);
    let arg = if flag.value.is_empty() {
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("BOOL")
    } else {
        arg.value_name(flag.value).allow_hyphen_values(true)
    };
    arg.help_heading(flag.group)
        .help(StyledStr::from(format!(
            "{}{default} [env: {}]",
            flag.help, flag.variable
        )))
        .action(if flag.repeatable {
            ArgAction::Append
        } else {
            ArgAction::Set
        })
}

/// The whole command line.
pub fn definition() -> clap::Command {
    let sim_args = || SIM_FLAGS.iter().map(arg);
    clap::Command::new("atlas-ai-keys-exporter")
        .about("Prometheus exporter for MongoDB Atlas AI model API keys")
        .after_help("Secrets come from files or the environment only: see the README.")
        .version(concat!(
            env!("CARGO_PKG_VERSION"),
            " (",
            env!("BUILD_REVISION"),
            ", ",
            env!("BUILD_TARGET"),
            ")"
        ))
        .args(FLAGS.iter().map(|flag| arg(flag).global(true)))
        .subcommand(
            clap::Command::new("once")
                .about(
                    "One round, and its metrics: for cron and node_exporter's textfile collector",
                )
                .args(ONCE_FLAGS.iter().map(arg)),
        )
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
        .subcommand(
            clap::Command::new("demo")
                .about("A simulated Atlas and the exporter watching it, on 127.0.0.1:10064")
                .args(sim_args()),
        )
        .subcommand(
            clap::Command::new("sim")
                .about("The simulated Atlas alone")
                .args(sim_args())
                .args(SIM_LISTEN.iter().map(arg)),
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
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn flags_win_over_variables() {
        let environment = Environment::fixed([
            ("ATLAS_AI_KEYS_EXPORTER_ATLAS_TIMEOUT", "7s"),
            ("MONGODB_ATLAS_ORG_ID", "a, b,"),
        ]);
        let args = Args::parse(["x", "--atlas.page-size", "3"]).expect("good");
        let given = |name| args.given(flag(name), &environment);
        assert_eq!(
            given("atlas.page-size"),
            Some((vec!["3".into()], Origin::Flag("atlas.page-size")))
        );
        let variable = Origin::Variable("ATLAS_AI_KEYS_EXPORTER_ATLAS_TIMEOUT");
        assert_eq!(given("atlas.timeout"), Some((vec!["7s".into()], variable)));
        assert_eq!(given("atlas.poll-interval"), None);
        assert_eq!(
            given("atlas.org-id").map(|(values, _)| values),
            Some(vec!["a".into(), "b".into()])
        );
    }

    #[test]
    fn flags_stand_before_or_behind_the_command() {
        for line in [
            ["x", "--log.level", "debug", "demo"],
            ["x", "demo", "--log.level", "debug"],
        ] {
            let args = Args::parse(line).expect("good");
            assert_eq!(args.command, Command::Demo);
            let given = args.given(flag("log.level"), &Environment::fixed([("", "")]));
            assert_eq!(given.map(|(values, _)| values), Some(vec!["debug".into()]));
        }
        assert!(
            Args::parse(["x", "--sim.seed", "1"]).is_err(),
            "a simulated Atlas is for demo and sim"
        );
    }

    #[test]
    fn a_switch_needs_no_value() {
        let value = |line: &[&str]| {
            let args = Args::parse(line.iter().copied()).expect("good");
            let given = args.given(flag("atlas.discover-orgs"), &Environment::fixed([("", "")]));
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
