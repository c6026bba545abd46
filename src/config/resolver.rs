//! Resolves each value from its sources, and collects the errors.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use exporter_toolkit::address::ListenAddress;
use mongodb_atlas_client::{ProxyError, ProxyRoute};
use reqwest::Url;

use super::file::ConfigFile;
use super::parse::{parse_bool, parse_duration, parse_listen_address, parse_uint};
use crate::cli::{Args, Command, FLAGS, Flag, FlagValues, ValueSource};
use crate::credentials::Environment;
use crate::logging::{LogFormat, LogLevel};
use exporter_toolkit::diagnostic::Diagnostic;

/// All errors of a command line or a configuration. Displays each error on one line, with its help on the next line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(pub Vec<Diagnostic>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_command_line = self.0.iter().all(|error| error.path.starts_with("--"));
        let subject = if is_command_line {
            "command line"
        } else {
            "configuration"
        };
        let count = self.0.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "invalid {subject} ({count} error{plural}):")?;
        for error in &self.0 {
            write!(f, "\n  - {}", describe(error))?;
            if let Some(help) = &error.help {
                write!(f, "\n    help: {help}")?;
            }
        }
        Ok(())
    }
}

/// Returns location and message of a diagnostic, without its help.
pub(crate) fn describe(diagnostic: &Diagnostic) -> String {
    if diagnostic.path.is_empty() {
        return diagnostic.message.clone();
    }
    format!("{}: {}", diagnostic.path, diagnostic.message)
}

/// Looks up values in the order of precedence: command line, environment, file, default.
pub(super) struct Resolver<'a> {
    args: &'a Args,
    pub(super) environment: &'a Environment,
    pub(super) file: Option<Rc<ConfigFile>>,
    /// Path of the configuration file.
    pub(super) config_file: Option<PathBuf>,
    /// Whether there is a configuration file that cannot be used. Values that are missing may be in that file.
    pub(super) is_file_unusable: bool,
    /// The error of the variable that names the proxy.
    proxy_error: Option<ProxyError>,
    /// Whether the configuration file has unknown fields, which may be misspelled.
    pub(super) has_unknown_fields: bool,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Whether each credential is read, so that a field that cannot be read is an error.
    pub(super) validates_credentials: bool,
}

impl<'a> Resolver<'a> {
    /// Creates a resolver that does not read the configuration file.
    pub(super) fn without_file(args: &'a Args, environment: &'a Environment) -> Self {
        Self {
            args,
            environment,
            file: None,
            config_file: None,
            is_file_unusable: false,
            proxy_error: None,
            has_unknown_fields: false,
            diagnostics: Vec::new(),
            validates_credentials: true,
        }
    }

    pub(super) fn new(args: &'a Args, environment: &'a Environment) -> Self {
        let mut resolver = Self::without_file(args, environment);
        let path = resolver.path("config.file");
        resolver.is_file_unusable = !resolver.diagnostics.is_empty();
        if let Some(path) = path {
            resolver.config_file = Some(path.clone());
            match ConfigFile::load(path) {
                Ok(file) => resolver.file = Some(Rc::new(file)),
                Err(error) => {
                    resolver.is_file_unusable = true;
                    resolver.diagnostics.push(error);
                }
            }
        }
        resolver
    }

    /// Returns the flag of that name; flags of the command take precedence.
    fn find_flag(&self, name: &str) -> Option<&'static Flag> {
        let mut flags = self.args.command.flags().chain(FLAGS);
        flags.find(|flag| flag.name == name)
    }

    /// Returns the path in a flag. Rejects an empty path, which would name the current directory.
    pub(super) fn path(&mut self, name: &str) -> Option<PathBuf> {
        let FlagValues { values, source } = self.lookup(name);
        let value = values.into_iter().next()?;
        if value.is_empty() {
            let is_dir = self.find_flag(name)?.value_name == "DIR";
            let expected = if is_dir {
                "a directory path"
            } else {
                "a file path"
            };
            self.reject(&source, &value, expected);
            return None;
        }
        Some(PathBuf::from(value))
    }

    /// Returns the state directory: `--storage.path`, or the one from systemd.
    pub(super) fn storage_path(&mut self) -> Option<PathBuf> {
        self.path("storage.path").or_else(|| {
            let directories = self.environment.get("STATE_DIRECTORY")?;
            let mut directories = directories.split(':');
            directories.find(|dir| !dir.is_empty()).map(PathBuf::from)
        })
    }

    /// Returns whether the value of a flag was rejected, or may be in an unknown field of the configuration file.
    fn is_uncertain(&self, name: &str) -> bool {
        let source = self.lookup(name).source;
        if matches!(source, ValueSource::Default(_)) {
            return self.has_unknown_fields;
        }
        let path = source.to_string();
        self.diagnostics.iter().any(|error| error.path == path)
    }

    /// Returns whether the address of Atlas is unknown, so that requests to the default address could disclose the
    /// credential.
    pub(super) fn is_atlas_address_unknown(&self) -> bool {
        self.proxy_error.is_some() || self.is_uncertain("atlas.base-url")
    }

    /// Returns the route to `base`; a direct one if the variable of the proxy is invalid.
    pub(super) fn proxy_route(&mut self, base: &Url) -> ProxyRoute {
        ProxyRoute::from_env(|name| self.environment.get(name), base).unwrap_or_else(|error| {
            self.diagnostics
                .push(Diagnostic::new("", error.to_string()));
            self.proxy_error = Some(error);
            ProxyRoute::Direct
        })
    }

    /// Reports every unknown field of the configuration file, and every value with an invalid type.
    pub(super) fn check_unknown_keys(&mut self) {
        if let Some(file) = &self.file {
            let errors = file.unknown_keys();
            self.has_unknown_fields |= !errors.is_empty();
            self.diagnostics.extend(errors);
        }
    }

    /// Returns the values of a flag as text, from the source with the highest precedence.
    pub(super) fn lookup(&self, name: &str) -> FlagValues {
        let Some(flag) = self.find_flag(name) else {
            return FlagValues::default_of("", None);
        };
        self.args
            .lookup(flag, self.environment)
            .or_else(|| self.file.as_ref()?.get(flag))
            .unwrap_or_else(|| FlagValues::default_of(flag.name, flag.default))
    }

    /// Reports an error about the value from `source`.
    pub(super) fn error(&mut self, source: &ValueSource, message: impl Into<String>) {
        self.diagnostics
            .push(Diagnostic::new(source.to_string(), message));
    }

    /// Reports an invalid value.
    pub(super) fn reject(&mut self, source: &ValueSource, value: &str, expected: &str) {
        let message = format!("invalid value {}: expected {expected}", quote(value));
        self.error(source, message);
    }

    /// Reports a value that occurs more than once.
    pub(super) fn reject_duplicate(&mut self, source: &ValueSource, subject: &str, value: &str) {
        self.error(source, format!("duplicate {subject} {}", quote(value)));
    }

    /// Parses the value of a flag. The error of `parse` is the expected value. After an invalid value, the default is used,
    /// so that all other values are checked too.
    pub(super) fn get<T, E: AsRef<str>>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let FlagValues { values, source } = self.lookup(name);
        let value = values.first()?;
        match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(expected) => {
                self.reject(&source, value, expected.as_ref());
                let default = self.find_flag(name)?.default?;
                parse(default).ok()
            }
        }
    }

    /// Parses the value of a flag into a type; its `FromStr` error names the expected value.
    pub(super) fn get_parsed<T: FromStr<Err = String>>(&mut self, name: &str) -> Option<T> {
        self.get(name, str::parse)
    }

    pub(super) fn get_bool(&mut self, name: &str) -> Option<bool> {
        self.get(name, parse_bool)
    }

    pub(super) fn get_uint<T>(&mut self, name: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        self.get(name, |text| parse_uint(text, &range))
    }

    pub(super) fn get_duration(
        &mut self,
        name: &str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.get(name, |text| parse_duration(text, &range))
    }

    pub(super) fn log_settings(&mut self) -> Option<(LogLevel, LogFormat)> {
        let level = self.get_parsed("log.level");
        let format = self.get_parsed("log.format")?;
        // These commands print a table, and informational events would disturb it.
        let is_table = matches!(self.args.command, Command::Check | Command::Keys);
        let is_default = matches!(self.lookup("log.level").source, ValueSource::Default(_));
        if is_table && is_default {
            return Some((LogLevel::Warn, format));
        }
        Some((level?, format))
    }

    pub(super) fn listen_addresses(&mut self, name: &str) -> Vec<ListenAddress> {
        let FlagValues { values, source } = self.lookup(name);
        let mut addresses = Vec::new();
        for value in values {
            match parse_listen_address(&value) {
                Ok(address) if address.port != 0 && addresses.contains(&address) => {
                    self.reject_duplicate(&source, "address", &value);
                }
                Ok(address) => addresses.push(address),
                Err(expected) => self.reject(&source, &value, expected),
            }
        }
        addresses
    }

    /// Returns the result of `resolve`, or all errors.
    pub(super) fn resolve<T>(
        mut self,
        resolve: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Result<T, ConfigError> {
        match resolve(&mut self) {
            Some(value) if self.diagnostics.is_empty() => Ok(value),
            _ => Err(ConfigError(self.diagnostics)),
        }
    }
}

/// Quotes a value for an error: without password, and truncated if it is long.
fn quote(value: &str) -> String {
    let shown: String = without_password(value).chars().take(100).collect();
    format!("{shown:?}")
}

/// Removes user and password from a URL, with or without a scheme.
fn without_password(value: &str) -> String {
    let Some((user, host)) = value.rsplit_once('@') else {
        return value.to_owned();
    };
    let scheme = user.split_once("://").map(|(scheme, _)| scheme);
    scheme.map_or_else(
        || format!("…@{host}"),
        |scheme| format!("{scheme}://…@{host}"),
    )
}
