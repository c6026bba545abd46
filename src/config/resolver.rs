//! Where a value comes from, and the mistakes that are found on the way.

use std::path::PathBuf;

use reqwest::Url;

use super::ConfigError;
use super::file::ConfigFile;
use super::parse::parse_listen_address;
use crate::cli::{Args, Command, FLAGS, Flag, ValueSource};
use crate::credentials::Environment;
use crate::logging::{LogFormat, LogLevel};
use exporter_toolkit::address::ListenAddress;
use mongodb_atlas_client::ProxyRoute;

/// Looks values up, the command line before the environment before the file before the default,
/// and collects what is wrong with them.
pub(super) struct Resolver<'a> {
    args: &'a Args,
    pub(super) environment: &'a Environment,
    pub(super) file: Option<ConfigFile>,
    pub(super) errors: Vec<String>,
}

impl<'a> Resolver<'a> {
    /// One that leaves the configuration file alone.
    pub(super) fn without_file(args: &'a Args, environment: &'a Environment) -> Self {
        Self {
            args,
            environment,
            file: None,
            errors: Vec::new(),
        }
    }

    pub(super) fn new(args: &'a Args, environment: &'a Environment) -> Self {
        let mut checker = Self::without_file(args, environment);
        if let (Some(path), origin) = checker.get_path("config.file") {
            match ConfigFile::load(path) {
                Ok(file) => checker.file = Some(file),
                Err(why) => checker.errors.push(format!("{origin}: {why}")),
            }
        }
        checker
    }

    /// The flag of that name; those of the command itself come first.
    fn find_flag(&self, name: &str) -> Option<&'static Flag> {
        let mut flags = self.args.command.flags().chain(FLAGS);
        flags.find(|flag| flag.name == name)
    }

    pub(super) fn config_file_path(&self) -> Option<PathBuf> {
        self.get_path("config.file").0
    }

    pub(super) fn get_path(&self, name: &str) -> (Option<PathBuf>, ValueSource) {
        let (values, origin) = self.raw_values(name);
        (values.into_iter().next().map(PathBuf::from), origin)
    }

    /// The directory for state; systemd names one in its own way.
    pub(super) fn storage_path(&self) -> Option<PathBuf> {
        self.get_path("storage.path").0.or_else(|| {
            let directories = self.environment.get("STATE_DIRECTORY")?;
            directories.split(':').next().map(PathBuf::from)
        })
    }

    /// How requests reach `base`; directly where the variable for the proxy is wrong.
    pub(super) fn proxy_route(&mut self, base: &Url) -> ProxyRoute {
        ProxyRoute::from_env(|name| self.environment.get(name), base).unwrap_or_else(|error| {
            self.errors.push(error.to_string());
            ProxyRoute::Direct
        })
    }

    /// Every member of the file that nobody looks for is a mistake.
    pub(super) fn check_unknown_keys(&mut self) {
        if let Some(file) = &self.file {
            self.errors.extend(file.unknown_keys());
        }
    }

    pub(super) fn raw_values(&self, name: &str) -> (Vec<String>, ValueSource) {
        let Some(flag) = self.find_flag(name) else {
            return (Vec::new(), ValueSource::Default(""));
        };
        self.args
            .lookup(flag, self.environment)
            .or_else(|| self.file.as_ref()?.get(flag))
            .unwrap_or_else(|| {
                let default = flag.default.map(str::to_owned);
                (
                    default.into_iter().collect(),
                    ValueSource::Default(flag.name),
                )
            })
    }

    pub(super) fn reject(&mut self, origin: &ValueSource, value: &str, right: &str) {
        let shown: String = without_password(value).chars().take(100).collect();
        self.errors.push(format!(
            "{origin}: {shown:?} will not do; it must be {right}"
        ));
    }

    pub(super) fn get<T, E: AsRef<str>>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let (values, origin) = self.raw_values(name);
        let value = values.first()?;
        match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(right) => {
                self.reject(&origin, value, right.as_ref());
                // so that what does not depend on it can be checked all the same
                let default = self.find_flag(name)?.default?;
                parse(default).ok()
            }
        }
    }

    pub(super) fn log_settings(&mut self) -> Option<(LogLevel, LogFormat)> {
        let level = self.get("log.level", |text| {
            LogLevel::named(text).ok_or("one of error, warn, info, debug, trace")
        });
        let format = self.get("log.format", |text| {
            LogFormat::named(text).ok_or("logfmt or json")
        });
        let (level, format) = (level?, format?);
        // whoever reads a table has no use for what goes well
        let for_people = matches!(self.args.command, Command::Check | Command::Keys);
        let is_default = matches!(self.raw_values("log.level").1, ValueSource::Default(_));
        if for_people && is_default {
            return Some((LogLevel::WARN, format));
        }
        Some((level, format))
    }

    pub(super) fn listen_addresses(&mut self, name: &str) -> Vec<ListenAddress> {
        let (values, origin) = self.raw_values(name);
        let mut addresses = Vec::new();
        for value in values {
            match parse_listen_address(&value) {
                Some(address) if address.port != 0 && addresses.contains(&address) => {
                    self.reject(&origin, &value, "given once: it is there twice");
                }
                Some(address) => addresses.push(address),
                None => self.reject(&origin, &value, "HOST:PORT, [IPV6]:PORT or :PORT with a port from 0 to 65535, such as 127.0.0.1:10064"),
            }
        }
        addresses
    }

    /// What `whole` makes of the checked values, unless there are mistakes.
    pub(super) fn finish<T>(self, whole: impl FnOnce() -> Option<T>) -> Result<T, ConfigError> {
        match whole() {
            Some(whole) if self.errors.is_empty() => Ok(whole),
            _ => Err(ConfigError(self.errors)),
        }
    }
}

/// The value as it may be shown: without the user and password of a URL, whether or not it has a scheme.
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
