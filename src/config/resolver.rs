//! Where a value comes from, and the mistakes that are found on the way.

use std::path::PathBuf;

use reqwest::Url;

use super::ConfigError;
use super::file::ConfigFile;
use super::parse::listen_address;
use crate::cli::{Args, Command, FLAGS, Flag, Origin};
use crate::credentials::Environment;
use crate::logging::{LogFormat, LogLevel};
use exporter_toolkit::address::ListenAddress;
use mongodb_atlas_client::Route;

/// Looks values up, the command line before the environment before the file before the default,
/// and collects what is wrong with them.
pub(super) struct Checker<'a> {
    args: &'a Args,
    pub(super) environment: &'a Environment,
    pub(super) file: Option<ConfigFile>,
    pub(super) mistakes: Vec<String>,
}

impl<'a> Checker<'a> {
    /// One that leaves the configuration file alone.
    pub(super) fn of_flags(args: &'a Args, environment: &'a Environment) -> Self {
        Self {
            args,
            environment,
            file: None,
            mistakes: Vec::new(),
        }
    }

    pub(super) fn new(args: &'a Args, environment: &'a Environment) -> Self {
        let mut checker = Self::of_flags(args, environment);
        if let (Some(path), origin) = checker.path("config.file") {
            match ConfigFile::read(path) {
                Ok(file) => checker.file = Some(file),
                Err(why) => checker.mistakes.push(format!("{origin}: {why}")),
            }
        }
        checker
    }

    /// The flag of that name; those of the command itself come first.
    fn flag(&self, name: &str) -> Option<&'static Flag> {
        let mut flags = self.args.command.flags().chain(FLAGS);
        flags.find(|flag| flag.name == name)
    }

    pub(super) fn file_path(&self) -> Option<PathBuf> {
        self.path("config.file").0
    }

    pub(super) fn path(&self, name: &str) -> (Option<PathBuf>, Origin) {
        let (values, origin) = self.values(name);
        (values.into_iter().next().map(PathBuf::from), origin)
    }

    /// The directory for state; systemd names one in its own way.
    pub(super) fn storage(&self) -> Option<PathBuf> {
        self.path("storage.path").0.or_else(|| {
            let directories = self.environment.get("STATE_DIRECTORY")?;
            directories.split(':').next().map(PathBuf::from)
        })
    }

    /// How requests reach `base`; directly where the variable for the proxy is wrong.
    pub(super) fn route(&mut self, base: &Url) -> Route {
        Route::from_environment(|name| self.environment.get(name), base).unwrap_or_else(|error| {
            self.mistakes.push(error.to_string());
            Route::Direct
        })
    }

    /// Every member of the file that nobody looks for is a mistake.
    pub(super) fn unknown_members(&mut self) {
        if let Some(file) = &self.file {
            self.mistakes.extend(file.unknown_members());
        }
    }

    pub(super) fn values(&self, name: &str) -> (Vec<String>, Origin) {
        let Some(flag) = self.flag(name) else {
            return (Vec::new(), Origin::Default(""));
        };
        self.args
            .given(flag, self.environment)
            .or_else(|| self.file.as_ref()?.values(flag))
            .unwrap_or_else(|| {
                let default = flag.default.map(str::to_owned);
                (default.into_iter().collect(), Origin::Default(flag.name))
            })
    }

    pub(super) fn wrong(&mut self, origin: &Origin, value: &str, right: &str) {
        let shown: String = without_password(value).chars().take(100).collect();
        self.mistakes.push(format!(
            "{origin}: {shown:?} will not do; it must be {right}"
        ));
    }

    pub(super) fn one<T, E: AsRef<str>>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let (values, origin) = self.values(name);
        let value = values.first()?;
        match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(right) => {
                self.wrong(&origin, value, right.as_ref());
                // so that what does not depend on it can be checked all the same
                let default = self.flag(name)?.default?;
                parse(default).ok()
            }
        }
    }

    pub(super) fn logging(&mut self) -> Option<(LogLevel, LogFormat)> {
        let level = self.one("log.level", |text| {
            LogLevel::named(text).ok_or("one of error, warn, info, debug, trace")
        });
        let format = self.one("log.format", |text| {
            LogFormat::named(text).ok_or("logfmt or json")
        });
        let (level, format) = (level?, format?);
        // whoever reads a table has no use for what goes well
        let for_people = matches!(self.args.command, Command::Check | Command::Keys);
        let is_default = matches!(self.values("log.level").1, Origin::Default(_));
        if for_people && is_default {
            return Some((LogLevel::WARN, format));
        }
        Some((level, format))
    }

    pub(super) fn listen(&mut self, name: &str) -> Vec<ListenAddress> {
        let (values, origin) = self.values(name);
        let mut addresses = Vec::new();
        for value in values {
            match listen_address(&value) {
                Some(address) if address.port != 0 && addresses.contains(&address) => {
                    self.wrong(&origin, &value, "given once: it is there twice");
                }
                Some(address) => addresses.push(address),
                None => self.wrong(&origin, &value, "HOST:PORT, [IPV6]:PORT or :PORT with a port from 0 to 65535, such as 127.0.0.1:10064"),
            }
        }
        addresses
    }

    /// What `whole` makes of the checked values, unless there are mistakes.
    pub(super) fn finish<T>(self, whole: impl FnOnce() -> Option<T>) -> Result<T, ConfigError> {
        match whole() {
            Some(whole) if self.mistakes.is_empty() => Ok(whole),
            _ => Err(ConfigError(self.mistakes)),
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
