//! Parsers of single values. The error of each parser is the expected value.

use std::fmt::Display;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use exporter_toolkit::address::ListenAddress;
use mongodb_atlas_client::ApiVersion;
use reqwest::Url;

use super::MAX_AGE;
use crate::humanize::exact;
use crate::metrics::{IdleThreshold, KeyLabel};
use crate::shard::Shard;

pub(super) fn parse_uint<T>(text: &str, range: &RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
}

/// Parses a base URL. Removes the path of the API, because examples in the documentation of Atlas include that path.
pub(super) fn parse_base_url(text: &str) -> Result<Url, &'static str> {
    const EXPECTED: &str = "an https URL without user, query or fragment, such as https://cloud.mongodb.com (plain http for loopback hosts only)";
    const ASCII_HOST: &str = "an https URL with an ASCII host name (xn--… for others), such as https://cloud.mongodb.com";
    const WITHOUT_API_PATH: &str = "a URL without the path of an API endpoint, such as https://cloud.mongodb.com (the exporter appends /api/atlas/v2)";
    let expected = if text.is_ascii() {
        EXPECTED
    } else {
        ASCII_HOST
    };
    let mut url = Url::parse(text.trim()).map_err(|_| expected)?;
    let is_loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => return Err(EXPECTED),
    };
    let is_scheme_allowed = url.scheme() == "https" || (url.scheme() == "http" && is_loopback);
    let is_bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !is_scheme_allowed || !is_bare {
        return Err(EXPECTED);
    }
    let segments = url.path().split('/').filter(|segment| !segment.is_empty());
    let mut path = segments.fold("/".to_owned(), |path, segment| path + segment + "/");
    let lower = path.to_ascii_lowercase();
    let api_path = ["api/atlas/v2/", "api/atlas/", "api/"]
        .into_iter()
        .find(|api_path| lower.ends_with(&format!("/{api_path}")));
    path.truncate(path.len() - api_path.map_or(0, str::len));
    let lower = path.to_ascii_lowercase();
    let endpoints = ["/api/atlas/", "/api/oauth/", "/api/public/"];
    if endpoints.iter().any(|endpoint| lower.contains(endpoint)) {
        return Err(WITHOUT_API_PATH);
    }
    url.set_path(&path);
    Ok(url)
}

pub(super) fn parse_api_version(text: &str) -> Result<ApiVersion, &'static str> {
    if text == "preview" {
        return Ok(ApiVersion::Preview);
    }
    let date = text
        .parse::<jiff::civil::Date>()
        .map_err(|_| "preview or a date such as 2025-03-12")?;
    Ok(ApiVersion::Date(date.to_string()))
}

pub(super) fn parse_duration(
    text: &str,
    range: &RangeInclusive<Duration>,
) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).ok();
    let duration = duration.filter(|duration| range.contains(duration));
    duration.ok_or_else(|| {
        let (min, max) = (*range.start(), *range.end());
        let limits = if min.is_zero() {
            format!("up to {}", format_limit(max))
        } else {
            format!("from {} to {}", exact(min), format_limit(max))
        };
        let examples = if max < MAX_AGE {
            "30s or 5m"
        } else {
            "12h or 30d"
        };
        format!("a duration {limits}, such as {examples}")
    })
}

/// Formats the maximum of a duration; in whole years if it is that long.
fn format_limit(duration: Duration) -> String {
    match duration.as_secs() / SECONDS_PER_YEAR {
        0 => exact(duration),
        years => format!("{years} years"),
    }
}

const SECONDS_PER_YEAR: u64 = 366 * 86_400;

pub(super) fn parse_thresholds(text: &str) -> Result<Vec<IdleThreshold>, &'static str> {
    const EXPECTED: &str =
        "comma-separated durations of at least 1s without duplicates, such as 7d,30d,90d";
    let mut thresholds = Vec::new();
    for part in text.split(',') {
        let duration = humantime::parse_duration(part.trim()).map_err(|_| EXPECTED)?;
        let threshold = IdleThreshold::new(duration);
        let range = Duration::from_secs(1)..=MAX_AGE;
        if !range.contains(&duration) || thresholds.contains(&threshold) {
            return Err(EXPECTED);
        }
        thresholds.push(threshold);
    }
    thresholds.sort();
    Ok(thresholds)
}

/// Parses the labels of the info metric; the list may be empty.
pub(super) fn parse_key_labels(text: &str) -> Result<Vec<KeyLabel>, String> {
    let expected = || {
        let names = KeyLabel::ALL.map(KeyLabel::as_str).join(", ");
        format!("a comma-separated list of {names} without duplicates")
    };
    let mut labels = Vec::new();
    let names = text.split(',').map(str::trim);
    for name in names.filter(|name| !name.is_empty()) {
        let label: KeyLabel = name.parse().map_err(|_: String| expected())?;
        if labels.contains(&label) {
            return Err(expected());
        }
        labels.push(label);
    }
    Ok(labels)
}

fn is_plain(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_')
}

pub(super) fn parse_listen_address(text: &str) -> Result<ListenAddress, &'static str> {
    let parse = || {
        let (host, port) = text.rsplit_once(':')?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let is_valid = match bracketed {
            Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
            None => host.chars().all(is_plain),
        };
        let host = bracketed.unwrap_or(host).to_owned();
        let port = port.parse().ok()?;
        is_valid.then_some(ListenAddress { host, port })
    };
    parse().ok_or(
        "HOST:PORT, [IPV6]:PORT or :PORT with a port from 0 to 65535, such as 127.0.0.1:10064",
    )
}

pub(super) fn parse_telemetry_path(text: &str) -> Result<String, &'static str> {
    let is_reserved = text == "/sd" || text.starts_with("/-");
    let is_path = text.len() > 1 && text.starts_with('/');
    if is_path && !is_reserved && text.chars().all(|letter| letter == '/' || is_plain(letter)) {
        return Ok(text.to_owned());
    }
    Err(
        "a path such as /metrics: a slash, then letters, digits, dots, dashes, underscores and slashes (/, /sd and /-/… are reserved)",
    )
}

/// Parses a boolean of YAML; also `1` and `0`, which are common in environment variables.
pub(super) fn parse_bool(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => exporter_toolkit::yaml::parse_bool(text).ok_or("true or false"),
    }
}

/// Parses the key of a tag; `None` if it is empty. Atlas accepts keys of up to 255 characters.
pub(super) fn parse_owner_tag(text: &str) -> Result<Option<String>, &'static str> {
    if text.chars().count() > 255 || text.contains(char::is_control) {
        return Err("a tag key of at most 255 characters, such as owner (empty = none)");
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// Parses `I/N`, or `auto/N` with the ordinal at the end of `host`, which is the name of a pod of a `StatefulSet`.
pub(super) fn parse_shard(text: &str, host: &str) -> Result<Shard, String> {
    let expected = || {
        format!(
            "I/N with I from 1 to N and N at most {}, such as 1/3, or auto/N in a StatefulSet pod",
            Shard::MAX_COUNT
        )
    };
    let (index, count) = text.split_once('/').ok_or_else(expected)?;
    let count: u32 = count.parse().map_err(|_| expected())?;
    if index != "auto" {
        let index = index.parse().map_err(|_| expected())?;
        return Shard::new(index, count).ok_or_else(expected);
    }
    let shard = host.rsplit_once('-').and_then(|(_, ordinal)| {
        let index = ordinal.parse::<u32>().ok()?.checked_add(1)?;
        Shard::new(index, count)
    });
    shard.ok_or_else(|| {
        format!(
            "a host name that ends in a dash and a number below N for auto/N (StatefulSet pod), got {host:?}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_normalized() {
        for valid in [
            "https://cloud.mongodb.com",
            "https://cloud.mongodbgov.com/",
            "http://127.0.0.1:10065",
            "http://localhost:1",
            "http://[::1]:1",
            "https://proxy.example/atlas",
            "https://xn--bcher-kva.example",
        ] {
            let url = parse_base_url(valid).expect(valid);
            assert!(url.path().ends_with('/'), "{url}");
        }
        for (text, expected) in [
            (" https://cloud.mongodb.com\n", "https://cloud.mongodb.com/"),
            (
                "https://cloud.mongodb.com/api/atlas/v2",
                "https://cloud.mongodb.com/",
            ),
            (
                "https://cloud.mongodb.com/api/atlas/v2/",
                "https://cloud.mongodb.com/",
            ),
            (
                "https://cloud.mongodb.com//api//atlas//v2//",
                "https://cloud.mongodb.com/",
            ),
            (
                "https://cloud.mongodb.com/API/Atlas/V2",
                "https://cloud.mongodb.com/",
            ),
            (
                "https://cloud.mongodb.com/api/atlas",
                "https://cloud.mongodb.com/",
            ),
            (
                "https://cloud.mongodb.com/api/",
                "https://cloud.mongodb.com/",
            ),
            (
                "https://proxy.example/atlas/api/atlas/v2",
                "https://proxy.example/atlas/",
            ),
            (
                "https://proxy.example/rapi/atlas",
                "https://proxy.example/rapi/atlas/",
            ),
            ("https://proxy.example/a/b/", "https://proxy.example/a/b/"),
        ] {
            assert_eq!(
                parse_base_url(text).map(String::from).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn invalid_base_urls_are_rejected() {
        for endpoint in [
            "https://cloud.mongodb.com/api/atlas/v2/orgs",
            "https://cloud.mongodb.com/api/atlas/v1.0",
            "https://cloud.mongodb.com/api/oauth/token",
            "https://cloud.mongodb.com/api/public/v1.0",
            "https://cloud.mongodb.com/api/atlas/v2/api/atlas/v2",
        ] {
            let error = parse_base_url(endpoint).expect_err(endpoint);
            assert!(
                error.contains("without the path of an API endpoint"),
                "{error}"
            );
        }
        for bad in [
            "",
            "cloud.mongodb.com",
            "http://cloud.mongodb.com",
            "ftp://x",
            "https://u:p@x",
            "https://u@x/api/atlas/v2",
            "https://x/api/atlas/v2?itemsPerPage=1",
            "https://x/v2/abc#/access",
            "https://x?y",
            "https://x#y",
            "http://10.0.0.1",
        ] {
            assert!(parse_base_url(bad).is_err(), "{bad}");
        }
        let error = parse_base_url("https://b\u{fc}cher.example").expect_err("not ASCII");
        assert!(error.contains("ASCII host name (xn--"), "{error}");
    }

    #[test]
    fn listen_addresses_are_parsed_or_rejected() {
        for (text, host, port) in [
            (":10064", "", 10064),
            ("127.0.0.1:0", "127.0.0.1", 0),
            ("[::1]:80", "::1", 80),
            ("localhost:1", "localhost", 1),
        ] {
            let address = parse_listen_address(text).expect(text);
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
            assert_eq!(parse_listen_address(bad).ok(), None, "{bad}");
        }
    }

    #[test]
    fn invalid_values_are_rejected() {
        assert_eq!(
            parse_api_version("2025-03-12"),
            Ok(ApiVersion::Date("2025-03-12".into()))
        );
        assert_eq!(parse_api_version("preview"), Ok(ApiVersion::Preview));
        assert!(parse_api_version("2025-02-30").is_err() && parse_api_version("latest").is_err());
        assert!(
            parse_thresholds("7d,7d").is_err()
                && parse_thresholds("").is_err()
                && parse_thresholds("0s").is_err()
        );
        assert_eq!(parse_thresholds("30d, 7d").expect("two")[0].label, "7d");
        assert!(
            parse_telemetry_path("/").is_err()
                && parse_telemetry_path("/sd").is_err()
                && parse_telemetry_path("/-/x").is_err()
                && parse_telemetry_path("/a{b}").is_err()
        );
        for (bad, part) in [
            ("name,endpoint", "model_endpoint"),
            ("name,name", "without duplicates"),
        ] {
            let error = parse_key_labels(bad).expect_err(bad);
            assert!(error.contains(part), "{bad}: {error}");
        }
        assert!(parse_duration("0s", &(Duration::from_secs(1)..=Duration::from_secs(9))).is_err());
    }

    #[test]
    fn shards_are_parsed_or_rejected() {
        assert_eq!(
            parse_shard("2/3", "x").map(|s| s.to_string()).as_deref(),
            Ok("2/3")
        );
        assert_eq!(
            parse_shard("auto/3", "exporter-2")
                .map(|s| s.to_string())
                .as_deref(),
            Ok("3/3")
        );
        for (text, host) in [
            ("0/3", "x"),
            ("4/3", "x"),
            ("1", "x"),
            ("a/b", "x"),
            ("1/0", "x"),
            ("auto/3", "exporter-3"),
            ("auto/3", "exporter"),
            ("auto/3", "exporter-"),
        ] {
            assert!(parse_shard(text, host).is_err(), "{text} on {host}");
        }
    }
}
