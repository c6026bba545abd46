//! The command line as it is written: one table of flags, from which the parser and `--help` are
//! made. Values stay text here; [`crate::config`] turns them into what they mean and lists every
//! mistake at once, which a parser that stops at the first could not.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, ArgMatches};

use crate::credentials::Environment;

/// A flag.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Its name without the dashes.
    pub name: &'static str,
    /// What its value is called in `--help`.
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
    "atlas.base-url" "URL" Some("https://cloud.mongodb.com"), "MONGODB_ATLAS_BASE_URL", false, "Atlas", "Where Atlas is; plain http is accepted for loopback hosts only";
    "atlas.api-version" "VERSION" Some("2025-03-12"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_API_VERSION", false, "Atlas", "The API's version: a date, or preview";
    "atlas.poll-interval" "DURATION" Some("5m"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_POLL_INTERVAL", false, "Atlas", "How often each organization is walked";
    "atlas.timeout" "DURATION" Some("30s"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_TIMEOUT", false, "Atlas", "What one request may take, connect to last byte";
    "atlas.page-size" "N" Some("500"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_PAGE_SIZE", false, "Atlas", "Keys a page, 1 to 500";
    "metrics.idle-thresholds" "LIST" Some("7d,30d,90d"), "ATLAS_AI_KEYS_EXPORTER_METRICS_IDLE_THRESHOLDS", false, "Metrics", "Thresholds of the idle roll-up, with commas between";
    "web.listen-address" "ADDRESS" Some(":10064"), "ATLAS_AI_KEYS_EXPORTER_WEB_LISTEN_ADDRESS", true, "Web", "Where to serve, HOST:PORT or :PORT; can be given more than once";
    "web.telemetry-path" "PATH" Some("/metrics"), "ATLAS_AI_KEYS_EXPORTER_WEB_TELEMETRY_PATH", false, "Web", "The path of the metrics";
    "log.level" "LEVEL" Some("info"), "ATLAS_AI_KEYS_EXPORTER_LOG_LEVEL", false, "Log", "error, warn, info, debug or trace";
    "log.format" "FORMAT" Some("logfmt"), "ATLAS_AI_KEYS_EXPORTER_LOG_FORMAT", false, "Log", "logfmt or json, on standard error";
};

/// The flags of the commands with a simulated Atlas.
pub const SIM_FLAGS: &[Flag] = flags! {
    "sim.seed" "N" Some("1"), "ATLAS_AI_KEYS_EXPORTER_SIM_SEED", false, "Simulated Atlas", "Fixes the population and its life";
    "sim.orgs" "N" Some("3"), "ATLAS_AI_KEYS_EXPORTER_SIM_ORGS", false, "Simulated Atlas", "Number of organizations";
    "sim.keys" "N" Some("1200"), "ATLAS_AI_KEYS_EXPORTER_SIM_KEYS", false, "Simulated Atlas", "Number of keys in all organizations together";
    "sim.scenario" "NAME" Some("calm"), "ATLAS_AI_KEYS_EXPORTER_SIM_SCENARIO", false, "Simulated Atlas", "What to play: calm, stale, outage, throttled, revoked or churn";
    "sim.speed" "X" Some("1"), "ATLAS_AI_KEYS_EXPORTER_SIM_SPEED", false, "Simulated Atlas", "How much faster than in reality things happen to keys";
};

/// Where the simulated Atlas alone listens.
pub const SIM_LISTEN: &[Flag] = flags! {
    "sim.listen-address" "ADDRESS" Some("127.0.0.1:10065"), "ATLAS_AI_KEYS_EXPORTER_SIM_LISTEN_ADDRESS", false, "Simulated Atlas", "Where the simulated Atlas serves";
};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Watch Atlas and serve the metrics.
    Serve,
    /// A simulated Atlas and the exporter that watches it, in one process.
    Demo,
    /// The simulated Atlas alone.
    Sim,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The flag of that name.
    Flag(&'static str),
    /// The environment variable of that name.
    Variable(&'static str),
    /// Nobody gave one: the default of the flag of that name.
    Default(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
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
            _ => Command::Serve,
        };
        Ok(Self { command, given })
    }

    /// The values of a flag, and where they come from: the command line, else the environment,
    /// else the default; empty when there is none.
    pub fn values(&self, flag: &Flag, environment: &Environment) -> (Vec<String>, Origin) {
        if let Some(values) = self.given.get(flag.name) {
            return (values.clone(), Origin::Flag(flag.name));
        }
        if let Some(value) = environment.get(flag.variable) {
            let values = if flag.repeatable {
                value
                    .split(',')
                    .map(|part| part.trim().to_owned())
                    .filter(|part| !part.is_empty())
                    .collect()
            } else {
                vec![value]
            };
            return (values, Origin::Variable(flag.variable));
        }
        (
            flag.default.map(str::to_owned).into_iter().collect(),
            Origin::Default(flag.name),
        )
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
    Arg::new(flag.name)
        .long(flag.name)
        .value_name(flag.value)
        .help_heading(flag.group)
        .help(StyledStr::from(format!(
            "{}{default} [env: {}]",
            flag.help, flag.variable
        )))
        .action(if flag.repeatable {
            ArgAction::Append
        } else {
            ArgAction::Set
        })
        .allow_hyphen_values(true)
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
            ")"
        ))
        .args(FLAGS.iter().map(|flag| arg(flag).global(true)))
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
    fn flags_win_over_variables_and_variables_over_defaults() {
        let environment = Environment::fixed([
            ("ATLAS_AI_KEYS_EXPORTER_ATLAS_TIMEOUT", "7s"),
            ("MONGODB_ATLAS_ORG_ID", "a, b,"),
        ]);
        let args = Args::parse(["x", "--atlas.page-size", "3"]).expect("good");
        assert_eq!(
            args.values(flag("atlas.page-size"), &environment),
            (vec!["3".into()], Origin::Flag("atlas.page-size"))
        );
        assert_eq!(
            args.values(flag("atlas.timeout"), &environment),
            (
                vec!["7s".into()],
                Origin::Variable("ATLAS_AI_KEYS_EXPORTER_ATLAS_TIMEOUT")
            )
        );
        assert_eq!(
            args.values(flag("atlas.poll-interval"), &environment).0,
            ["5m"]
        );
        assert_eq!(
            args.values(flag("atlas.org-id"), &environment).0,
            ["a", "b"]
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
            assert_eq!(
                args.values(flag("log.level"), &Environment::fixed([("", "")]))
                    .0,
                ["debug"]
            );
        }
        assert!(
            Args::parse(["x", "--sim.seed", "1"]).is_err(),
            "a simulated Atlas is for demo and sim"
        );
    }
}
