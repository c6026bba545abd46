//! What each text means. Each function says what would have been right when it is not.

use std::time::Duration;

use reqwest::Url;

use super::MAX_AGE;
use crate::metrics::{IdleThreshold, KeyLabel};
use crate::shard::Shard;
use exporter_toolkit::address::ListenAddress;
use mongodb_atlas_client::ApiVersion;

pub(super) fn parse_uint(text: &str, least: usize, most: usize) -> Option<usize> {
    text.parse()
        .ok()
        .filter(|number| (least..=most).contains(number))
}

/// The base URL, without the API's own path, which people copy along from the documentation.
pub(super) fn parse_base_url(text: &str) -> Result<Url, &'static str> {
    const EXPECTED: &str = "an https address without user, query or fragment, such as https://cloud.mongodb.com (plain http for loopback hosts only)";
    const WITHOUT_API_PATH: &str = "the address without the path of an API endpoint, such as https://cloud.mongodb.com: /api/atlas/v2 and what follows are added to it";
    let mut url = Url::parse(text.trim()).map_err(|_| EXPECTED)?;
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => return Err(EXPECTED),
    };
    let scheme_fits = url.scheme() == "https" || (url.scheme() == "http" && loopback);
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !scheme_fits || !bare {
        return Err(EXPECTED);
    }
    let path = url.path().to_owned();
    let mut segments: Vec<&str> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    let is_api = |segments: &[&str], path: &[&str]| {
        segments.len() == path.len()
            && segments
                .iter()
                .zip(path)
                .all(|(a, b)| a.eq_ignore_ascii_case(b))
    };
    for api_path in [&["api", "atlas", "v2"][..], &["api", "atlas"], &["api"]] {
        let at = segments.len().saturating_sub(api_path.len());
        if segments
            .get(at..)
            .is_some_and(|tail| is_api(tail, api_path))
        {
            segments.truncate(at);
            break;
        }
    }
    let known = [["api", "atlas"], ["api", "oauth"], ["api", "public"]];
    if segments
        .windows(2)
        .any(|pair| known.iter().any(|path| is_api(pair, path)))
    {
        return Err(WITHOUT_API_PATH);
    }
    let path = segments
        .iter()
        .fold("/".to_owned(), |path, segment| path + segment + "/");
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
    least: Duration,
    most: Duration,
) -> Result<Duration, String> {
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

pub(super) fn parse_page_size(text: &str) -> Result<u32, &'static str> {
    text.parse()
        .ok()
        .filter(|size| (1..=500).contains(size))
        .ok_or("a whole number from 1 to 500")
}

pub(super) fn parse_thresholds(text: &str) -> Result<Vec<IdleThreshold>, &'static str> {
    const RIGHT: &str =
        "durations of at least 1s with commas between, none twice, such as 7d,30d,90d";
    let mut thresholds = Vec::new();
    for part in text.split(',') {
        let length = humantime::parse_duration(part.trim()).map_err(|_| RIGHT)?;
        let threshold = IdleThreshold::new(length);
        if length < Duration::from_secs(1) || length > MAX_AGE || thresholds.contains(&threshold) {
            return Err(RIGHT);
        }
        thresholds.push(threshold);
    }
    thresholds.sort();
    Ok(thresholds)
}

/// Labels of the info metric; none at all is well.
pub(super) fn parse_key_labels(text: &str) -> Result<Vec<KeyLabel>, String> {
    let right = || {
        let names = KeyLabel::ALL.map(KeyLabel::as_str).join(", ");
        format!("some of {names}, with commas between and none twice")
    };
    let mut labels = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let label = KeyLabel::named(part).ok_or_else(right)?;
        if labels.contains(&label) {
            return Err(right());
        }
        labels.push(label);
    }
    Ok(labels)
}

pub(super) fn parse_listen_address(text: &str) -> Option<ListenAddress> {
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

pub(super) fn parse_telemetry_path(text: &str) -> Result<String, &'static str> {
    const RIGHT: &str = "a path such as /metrics: a slash, then letters, digits, dots, dashes, underscores and slashes, and not one that is taken (/, /sd and /-/…)";
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    let taken = text == "/sd" || text.starts_with("/-");
    if text.len() > 1 && text.starts_with('/') && !taken && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(RIGHT)
    }
}

/// Parses a boolean as YAML does, and `1` and `0`, as environment variables have them.
pub(super) fn parse_bool(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => exporter_toolkit::yaml::parse_bool(text).ok_or("true or false"),
    }
}

/// `I/N`, or `auto/N` with the ordinal at the end of `host`, as a `StatefulSet` names its pods.
pub(super) fn parse_shard(text: &str, host: &str) -> Result<Shard, String> {
    let right = || {
        format!(
            "I/N with I from 1 to N and N at most {}, such as 1/3, or auto/N in a StatefulSet's pod",
            Shard::MAX_COUNT
        )
    };
    let (index, count) = text.split_once('/').ok_or_else(right)?;
    let count: u32 = count.parse().map_err(|_| right())?;
    if index != "auto" {
        let index = index.parse().map_err(|_| right())?;
        return Shard::new(index, count).ok_or_else(right);
    }
    host.rsplit_once('-')
        .and_then(|(_, ordinal)| ordinal.parse::<u32>().ok()?.checked_add(1))
        .and_then(|index| Shard::new(index, count))
        .ok_or_else(|| {
            format!(
                "auto/N in a StatefulSet's pod, whose host name ends in a dash and a number below N; this host is {host:?}"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_normalized_or_rejected() {
        for good in [
            "https://cloud.mongodb.com",
            "https://cloud.mongodbgov.com/",
            "http://127.0.0.1:10065",
            "http://localhost:1",
            "http://[::1]:1",
            "https://proxy.example/atlas",
        ] {
            let url = parse_base_url(good).expect(good);
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
            assert_eq!(parse_listen_address(bad), None, "{bad}");
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
        assert!(parse_duration("0s", Duration::from_secs(1), Duration::from_secs(9)).is_err());
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
