//! Flags and environment become one validated [`Config`]. Every mistake is found, not the first
//! alone, and each names the value, where it came from and what would be right.

use std::fmt;
use std::time::Duration;

use reqwest::Url;

use crate::atlas::Version;
use crate::cli::{Args, FLAGS, Flag, Origin, SIM_FLAGS, SIM_LISTEN};
use crate::credentials::{self, Credential, Environment};
use crate::ids::OrgId;
use crate::logging::{LogFormat, LogLevel};
use crate::metrics::Threshold;
use crate::sim::{Scenario, SimConfig};

/// What the exporter does, checked and complete.
#[derive(Debug, Clone)]
pub struct Config {
    /// Organizations to watch; at least one, none twice.
    pub orgs: Vec<OrgId>,
    /// How to authenticate.
    pub credential: Credential,
    /// Atlas' address, ending in a slash.
    pub base_url: Url,
    /// The API's version.
    pub version: Version,
    /// How often each organization is walked.
    pub poll_interval: Duration,
    /// What one request may take.
    pub timeout: Duration,
    /// Keys a page.
    pub page_size: u32,
    /// Thresholds of the idle roll-up.
    pub idle_thresholds: Vec<Threshold>,
    /// Where to serve; at least one.
    pub listen: Vec<ListenAddress>,
    /// The path of the metrics.
    pub telemetry_path: String,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// A host name or address; empty for every address, IPv4 and IPv6.
    pub host: String,
    /// The port; 0 for one that the system chooses.
    pub port: u16,
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Everything that is wrong with a configuration, a sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is wrong in {} place{}:\n{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, .0.iter().map(|m| format!("  - {m}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// What [`Config::check`] collects while it goes on.
struct Checker<'a> {
    args: &'a Args,
    environment: &'a Environment,
    mistakes: Vec<String>,
}

impl Config {
    /// Makes a configuration of the command line and the environment.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake.
    pub fn check(args: &Args, environment: &Environment) -> Result<Self, ConfigError> {
        let mut checker = Checker::new(args, environment);
        let orgs = checker.orgs();
        let credential = checker.credential();
        let base_url = checker.one("atlas.base-url", base_url);
        let version = checker.one("atlas.api-version", version);
        let poll_interval = checker.one("atlas.poll-interval", |text| {
            duration(
                text,
                Duration::from_secs(1),
                Duration::from_secs(7 * 86_400),
            )
        });
        let timeout = checker.one("atlas.timeout", |text| {
            duration(text, Duration::from_millis(100), Duration::from_secs(600))
        });
        let page_size = checker.one("atlas.page-size", page_size);
        let idle_thresholds = checker.one("metrics.idle-thresholds", thresholds);
        let listen = checker.listen("web.listen-address");
        let telemetry_path = checker.one("web.telemetry-path", telemetry_path);
        // what is missing has a mistake that says so
        match (
            credential,
            base_url,
            version,
            poll_interval,
            timeout,
            page_size,
            idle_thresholds,
            telemetry_path,
        ) {
            (
                Some(credential),
                Some(base_url),
                Some(version),
                Some(poll_interval),
                Some(timeout),
                Some(page_size),
                Some(idle_thresholds),
                Some(telemetry_path),
            ) if checker.mistakes.is_empty() => Ok(Self {
                orgs,
                credential,
                base_url,
                version,
                poll_interval,
                timeout,
                page_size,
                idle_thresholds,
                listen,
                telemetry_path,
            }),
            _ => Err(ConfigError(checker.mistakes)),
        }
    }
}

/// What logs look like, and from which level on they are written.
///
/// # Errors
/// [`ConfigError`] with every mistake.
pub fn check_logging(
    args: &Args,
    environment: &Environment,
) -> Result<(LogLevel, LogFormat), ConfigError> {
    let mut checker = Checker::new(args, environment);
    let level = checker.one("log.level", |text| {
        LogLevel::named(text).ok_or("one of error, warn, info, debug, trace")
    });
    let format = checker.one("log.format", |text| {
        LogFormat::named(text).ok_or("logfmt or json")
    });
    match (level, format) {
        (Some(level), Some(format)) => Ok((level, format)),
        _ => Err(ConfigError(checker.mistakes)),
    }
}

/// How the simulated Atlas begins, and where it listens when it stands alone.
///
/// # Errors
/// [`ConfigError`] with every mistake.
pub fn check_sim(
    args: &Args,
    environment: &Environment,
) -> Result<(SimConfig, Vec<ListenAddress>), ConfigError> {
    let mut checker = Checker::new(args, environment);
    let seed = checker.one("sim.seed", |text| {
        text.parse().map_err(|_| "a whole number from 0")
    });
    let orgs = checker.one("sim.orgs", |text| {
        whole(text, 1, 10_000).ok_or("a whole number from 1 to 10000")
    });
    let keys = checker.one("sim.keys", |text| {
        whole(text, 0, 5_000_000).ok_or("a whole number from 0 to 5000000")
    });
    let scenario = checker.one("sim.scenario", |text| {
        Scenario::named(text).ok_or("one of calm, stale, outage, throttled, revoked, churn")
    });
    let speed = checker.one("sim.speed", |text| {
        let speed = text
            .parse::<f64>()
            .ok()
            .filter(|speed| (0.0..=1e6).contains(speed));
        speed.ok_or("a number from 0 (nothing happens) to 1000000")
    });
    let listen = checker.listen("sim.listen-address");
    match (seed, orgs, keys, scenario, speed) {
        (Some(seed), Some(orgs), Some(keys), Some(scenario), Some(speed))
            if checker.mistakes.is_empty() =>
        {
            let config = SimConfig {
                seed,
                orgs,
                keys,
                scenario,
                speed,
                ..SimConfig::default()
            };
            Ok((config, listen))
        }
        _ => Err(ConfigError(checker.mistakes)),
    }
}

impl<'a> Checker<'a> {
    fn new(args: &'a Args, environment: &'a Environment) -> Self {
        Self {
            args,
            environment,
            mistakes: Vec::new(),
        }
    }

    fn values(&self, name: &str) -> (Vec<String>, Origin) {
        let mut flags = FLAGS.iter().chain(SIM_FLAGS).chain(SIM_LISTEN);
        let flag: Option<&Flag> = flags.find(|flag| flag.name == name);
        flag.map_or((Vec::new(), Origin::Default("")), |flag| {
            self.args.values(flag, self.environment)
        })
    }

    fn wrong(&mut self, origin: Origin, value: &str, right: &str) {
        let shown: String = value.chars().take(100).collect();
        self.mistakes.push(format!(
            "{origin}: {shown:?} will not do; it must be {right}"
        ));
    }

    fn one<T, E: AsRef<str>>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let (values, origin) = self.values(name);
        let value = values.first()?;
        match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(right) => {
                self.wrong(origin, value, right.as_ref());
                None
            }
        }
    }

    fn orgs(&mut self) -> Vec<OrgId> {
        let (values, origin) = self.values("atlas.org-id");
        if values.is_empty() {
            self.mistakes.push(
                "no organization to watch: give --atlas.org-id, or MONGODB_ATLAS_ORG_ID with commas between several; \
                 Atlas shows the id under Organization Settings"
                    .to_owned(),
            );
        }
        let mut orgs: Vec<OrgId> = Vec::new();
        for value in values {
            match OrgId::parse(&value) {
                Ok(org) if orgs.contains(&org) => self.wrong(origin, &value, "given once: it is there twice"),
                Ok(org) => orgs.push(org),
                Err(_) => self.wrong(origin, &value, "an organization id, 24 hexadecimal digits in lower case such as 32b6e34b3d91647abb20e7b8"),
            }
        }
        orgs
    }

    fn credential(&mut self) -> Option<Credential> {
        match credentials::find(self.environment) {
            Ok(credential) => {
                let mistakes = credential.mistakes();
                let good = mistakes.is_empty();
                self.mistakes.extend(mistakes);
                good.then_some(credential)
            }
            Err(mistakes) => {
                self.mistakes.extend(mistakes);
                None
            }
        }
    }

    fn listen(&mut self, name: &str) -> Vec<ListenAddress> {
        let (values, origin) = self.values(name);
        let mut addresses = Vec::new();
        for value in values {
            match listen_address(&value) {
                Some(address) if address.port != 0 && addresses.contains(&address) => self.wrong(origin, &value, "given once: it is there twice"),
                Some(address) => addresses.push(address),
                None => self.wrong(origin, &value, "HOST:PORT, [IPV6]:PORT or :PORT with a port from 0 to 65535, such as 127.0.0.1:10064"),
            }
        }
        addresses
    }
}

fn whole(text: &str, least: usize, most: usize) -> Option<usize> {
    text.parse()
        .ok()
        .filter(|number| (least..=most).contains(number))
}

fn base_url(text: &str) -> Result<Url, &'static str> {
    const RIGHT: &str = "an https address without user, query or fragment, such as https://cloud.mongodb.com (plain http for loopback hosts only)";
    let mut url = Url::parse(text).map_err(|_| RIGHT)?;
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => return Err(RIGHT),
    };
    let scheme_fits = url.scheme() == "https" || (url.scheme() == "http" && loopback);
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !scheme_fits || !bare {
        return Err(RIGHT);
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

fn version(text: &str) -> Result<Version, &'static str> {
    if text == "preview" {
        return Ok(Version::Preview);
    }
    let date = text
        .parse::<jiff::civil::Date>()
        .map_err(|_| "preview or a date such as 2025-03-12")?;
    Ok(Version::Date(date.to_string()))
}

fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).ok();
    parsed
        .filter(|length| (least..=most).contains(length))
        .ok_or_else(|| {
            let (least, most) = (
                humantime::format_duration(least),
                humantime::format_duration(most),
            );
            format!("a duration from {least} to {most}, such as 90s, 5m or 1h 30m")
        })
}

fn page_size(text: &str) -> Result<u32, &'static str> {
    text.parse()
        .ok()
        .filter(|size| (1..=500).contains(size))
        .ok_or("a whole number from 1 to 500")
}

fn thresholds(text: &str) -> Result<Vec<Threshold>, &'static str> {
    const RIGHT: &str =
        "durations of at least 1s with commas between, none twice, such as 7d,30d,90d";
    let mut thresholds = Vec::new();
    for part in text.split(',') {
        let length = humantime::parse_duration(part.trim()).map_err(|_| RIGHT)?;
        let threshold = Threshold::new(length);
        if length < Duration::from_secs(1)
            || length > Duration::from_secs(100 * 366 * 86_400)
            || thresholds.contains(&threshold)
        {
            return Err(RIGHT);
        }
        thresholds.push(threshold);
    }
    thresholds.sort();
    Ok(thresholds)
}

fn listen_address(text: &str) -> Option<ListenAddress> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = match host.strip_prefix('[') {
        Some(host) => host
            .strip_suffix(']')
            .filter(|host| host.parse::<std::net::Ipv6Addr>().is_ok())?,
        None => host,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let fits = host
        .parse::<std::net::Ipv6Addr>()
        .is_ok_and(|_| text.starts_with('['))
        || host.chars().all(plain);
    fits.then(|| ListenAddress {
        host: host.to_owned(),
        port,
    })
}

fn telemetry_path(text: &str) -> Result<String, &'static str> {
    const RIGHT: &str = "a path such as /metrics: a slash, then letters, digits, dots, dashes, underscores and slashes, and not one that is taken (/ and /-/…)";
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    if text.len() > 1 && text.starts_with('/') && !text.starts_with("/-") && text.chars().all(plain)
    {
        Ok(text.to_owned())
    } else {
        Err(RIGHT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls() {
        for good in [
            "https://cloud.mongodb.com",
            "https://cloud.mongodbgov.com/",
            "http://127.0.0.1:10065",
            "http://localhost:1",
            "http://[::1]:1",
            "https://proxy.example/atlas",
        ] {
            let url = base_url(good).expect(good);
            assert!(url.path().ends_with('/'), "{url}");
        }
        for bad in [
            "",
            "cloud.mongodb.com",
            "http://cloud.mongodb.com",
            "ftp://x",
            "https://u:p@x",
            "https://x?y",
            "https://x#y",
            "http://10.0.0.1",
        ] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn listen_addresses() {
        for (text, host, port) in [
            (":10064", "", 10064),
            ("127.0.0.1:0", "127.0.0.1", 0),
            ("[::1]:80", "::1", 80),
            ("localhost:1", "localhost", 1),
        ] {
            let address = listen_address(text).expect(text);
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(address.to_string(), text);
        }
        for bad in [
            "",
            "10064",
            "::1:80",
            "a b:1",
            ":65536",
            "[x]:1",
            "[127.0.0.1]:1",
            "host:",
        ] {
            assert_eq!(listen_address(bad), None, "{bad}");
        }
    }

    #[test]
    fn other_values() {
        assert_eq!(
            version("2025-03-12"),
            Ok(Version::Date("2025-03-12".into()))
        );
        assert_eq!(version("preview"), Ok(Version::Preview));
        assert!(version("2025-02-30").is_err() && version("latest").is_err());
        assert!(
            thresholds("7d,7d").is_err() && thresholds("").is_err() && thresholds("0s").is_err()
        );
        assert_eq!(thresholds("30d, 7d").expect("two")[0].label, "7d");
        assert!(
            telemetry_path("/").is_err()
                && telemetry_path("/-/x").is_err()
                && telemetry_path("/a{b}").is_err()
        );
        assert!(duration("0s", Duration::from_secs(1), Duration::from_secs(9)).is_err());
    }
}
