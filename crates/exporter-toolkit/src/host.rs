//! The host that a request names: its syntax, and which hosts are answered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, Version, header};

/// A host without its port: a name in lower case and without a trailing dot, or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Name(String),
    Address(IpAddr),
}

impl Host {
    /// Parses the `uri-host` of RFC 3986, an IPv6 address in brackets. None when it is malformed.
    fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let address: Ipv6Addr = rest.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Address(IpAddr::V6(address).to_canonical()));
        }
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            let fits = match byte {
                b'%' => {
                    let mut is_hex = || bytes.next().is_some_and(|b| b.is_ascii_hexdigit());
                    is_hex() && is_hex()
                }
                byte => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte),
            };
            if !fits {
                return None;
            }
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        Some(match name.parse::<Ipv4Addr>() {
            Ok(address) => Self::Address(address.into()),
            Err(_) => Self::Name(name),
        })
    }

    /// Parses the value of a `Host` header or a `:authority`: a host and perhaps a port.
    fn parse_with_port(text: &str) -> Option<Self> {
        let host_end = match text.rfind(']') {
            Some(bracket) if text.starts_with('[') => bracket + 1,
            _ => text.find(':').unwrap_or(text.len()),
        };
        let (host, port) = text.split_at_checked(host_end)?;
        let port_fits = match port.strip_prefix(':') {
            // RFC 3986 allows an empty port
            Some(digits) => {
                digits.bytes().all(|byte| byte.is_ascii_digit())
                    && (digits.is_empty() || digits.parse::<u16>().is_ok())
            }
            None => port.is_empty(),
        };
        if port_fits { Self::parse(host) } else { None }
    }

    fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
            Self::Address(address) => address.is_loopback(),
        }
    }
}

/// A request whose host is missing or malformed (RFC 9112 §3.2, RFC 9113 §8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidHost;

/// The hosts that a request names: that of its target, where it has one, and that of its `Host` header.
fn parse_hosts(
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<[Option<Host>; 2], InvalidHost> {
    let mut values = headers.get_all(header::HOST).into_iter();
    let header = values.next();
    if values.next().is_some() || (header.is_none() && version == Version::HTTP_11) {
        return Err(InvalidHost);
    }
    let parse = |text: &str| Host::parse_with_port(text).ok_or(InvalidHost);
    let from_header = header
        .map(|value| value.to_str().map_err(|_| InvalidHost).and_then(parse))
        .transpose()?;
    let from_target = uri
        .authority()
        .map(Authority::as_str)
        .map(parse)
        .transpose()?;
    let differ = from_target.is_some() && from_header.is_some() && from_target != from_header;
    if differ && version >= Version::HTTP_2 {
        return Err(InvalidHost);
    }
    Ok([from_target, from_header])
}

/// Checks that a request names its host as its version of HTTP demands.
pub fn validate(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), InvalidHost> {
    parse_hosts(version, uri, headers).map(|_| ())
}

/// The hosts that are answered: `--web.allowed-hosts`. A web page of somebody else whose name is made to lead to this
/// machine (DNS rebinding) still sends its own name as `Host`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<Host>);

impl AllowedHosts {
    /// Whether every host is allowed, as without the flag.
    pub fn allows_any(&self) -> bool {
        self.0.is_empty()
    }

    /// Parses a comma-separated list of names and addresses; an empty one allows every host.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn parse(list: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "host names and IP addresses without ports, with commas between, such as exporter.example,10.1.2.3,[::1]; localhost stands for every loopback name and address";
        if list.trim().is_empty() {
            return Ok(Self::default());
        }
        let parse = |text: &str| match text.parse::<Ipv6Addr>() {
            Ok(address) => Some(Host::Address(IpAddr::V6(address).to_canonical())),
            Err(_) => Host::parse(text).filter(|host| *host != Host::Name(String::new())),
        };
        // a wildcard would be taken for the name that it is not
        let hosts = list
            .split(',')
            .map(|part| parse(part.trim()).filter(|_| !part.contains('*')));
        hosts.collect::<Option<Vec<_>>>().map(Self).ok_or(EXPECTED)
    }

    /// A value for `Host` that is allowed; none when every one is.
    pub fn example(&self) -> Option<String> {
        self.0.first().map(|host| match host {
            Host::Name(name) => name.clone(),
            Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
            Host::Address(address) => address.to_string(),
        })
    }

    /// Whether a request is answered: every host that it names must be allowed, and it must name one.
    pub fn allows(&self, version: Version, uri: &Uri, headers: &HeaderMap) -> bool {
        if self.allows_any() {
            return true;
        }
        let Ok(hosts) = parse_hosts(version, uri, headers) else {
            return false;
        };
        let mut named = hosts.iter().flatten().peekable();
        named.peek().is_some() && named.all(|host| self.contains(host))
    }

    fn contains(&self, host: &Host) -> bool {
        let localhost = |allowed: &Host| matches!(allowed, Host::Name(name) if name == "localhost");
        self.0
            .iter()
            .any(|allowed| allowed == host || (localhost(allowed) && host.is_loopback()))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(hosts: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for host in hosts {
            let value = HeaderValue::from_bytes(host).expect("a header value");
            headers.append(header::HOST, value);
        }
        headers
    }

    #[test]
    fn host_headers_are_validated() {
        let path = Uri::from_static("/metrics");
        for valid in [
            "",
            "exporter",
            "exporter:10064",
            "exporter:",
            "Exporter.Example.",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:65535",
            "a_b",
            "a%20b",
        ] {
            let headers = headers(&[valid.as_bytes()]);
            for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
                assert_eq!(validate(version, &path, &headers), Ok(()), "{valid}");
            }
        }
        for invalid in [
            &b"user@exporter"[..],
            b"exporter:port",
            b"exporter:65536",
            b"exporter:1:2",
            b"::1",
            b"[::1",
            b"[::1]x",
            b"[::1%25eth0]",
            b"[exporter]",
            b"a b",
            b"a/b",
            b"a,b/",
            b"http://exporter",
            b"a%2",
            b"a%zz",
            b"a\"",
            b"\xff",
            b"exp\xc3\xb6rter",
        ] {
            let headers = headers(&[invalid]);
            for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
                let shown = String::from_utf8_lossy(invalid);
                assert_eq!(
                    validate(version, &path, &headers),
                    Err(InvalidHost),
                    "{shown}"
                );
            }
        }
    }

    #[test]
    fn requests_need_exactly_one_host() {
        let (path, absolute) = (
            Uri::from_static("/metrics"),
            Uri::from_static("http://a:1/metrics"),
        );
        let cases = [
            (Version::HTTP_11, &path, &[][..], false),
            (Version::HTTP_11, &absolute, &[], false),
            (Version::HTTP_10, &path, &[], true),
            (Version::HTTP_2, &path, &[], true),
            (Version::HTTP_2, &absolute, &[], true),
            (Version::HTTP_2, &absolute, &[&b"a:1"[..]], true),
            (Version::HTTP_2, &absolute, &[b"b"], false),
            // RFC 9112 §3.2.2: the host of the target counts
            (Version::HTTP_11, &absolute, &[b"b"], true),
            (Version::HTTP_11, &path, &[b"a", b"a"], false),
            (Version::HTTP_10, &path, &[b"a", b"b"], false),
            (Version::HTTP_2, &path, &[b"a", b"a"], false),
        ];
        for (version, uri, hosts, valid) in cases {
            let result = validate(version, uri, &headers(hosts));
            assert_eq!(result.is_ok(), valid, "{version:?} {uri} {hosts:?}");
        }
    }

    #[test]
    fn allowed_host_lists_are_parsed_strictly() {
        for everything in ["", " "] {
            assert_eq!(AllowedHosts::parse(everything), Ok(AllowedHosts::default()));
        }
        for wrong in [
            ",",
            "a,",
            "a,,b",
            "a:1",
            "[::1]:1",
            "*.example",
            "*",
            "a b",
            "http://a",
            "a@b",
            ".",
            "10.0.0.0/8",
        ] {
            assert!(AllowedHosts::parse(wrong).is_err(), "{wrong}");
        }
        let allowed = AllowedHosts::parse("[2001:DB8::1]").expect("an address");
        assert_eq!(allowed.example().as_deref(), Some("[2001:db8::1]"));
    }

    #[test]
    fn allowed_hosts_match_by_name_and_address() {
        let path = Uri::from_static("/metrics");
        let allows = |list: &str, host: &str| {
            let allowed = AllowedHosts::parse(list).expect(list);
            allowed.allows(Version::HTTP_11, &path, &headers(&[host.as_bytes()]))
        };
        let list = "Exporter.Example., 10.1.2.3, 2001:db8::1";
        for host in [
            "exporter.example",
            "EXPORTER.example:10064",
            "exporter.example.",
            "exporter.example.:1",
            "10.1.2.3:1",
            "[2001:db8:0::1]:1",
            "[::ffff:10.1.2.3]",
        ] {
            assert!(allows(list, host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "exporter.example.evil.example",
            "exporter.example..",
            "x.exporter.example",
            "10.1.2.30",
            "10.1.2.3.evil.example",
            "127.0.0.1",
            "localhost",
            "[::1]",
            "user@exporter.example",
        ] {
            assert!(!allows(list, host), "{host}");
        }
        for host in [
            "localhost",
            "LOCALHOST.:1",
            "demo.localhost",
            "127.0.0.1:10064",
            "127.9.9.9",
            "[::1]:1",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(allows("localhost", host), "{host}");
        }
        for host in [
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "evil-localhost",
            "0.0.0.0",
            "[::]",
            "10.1.2.3",
            "0x7f000001",
        ] {
            assert!(!allows("localhost", host), "{host}");
        }
    }

    #[test]
    fn every_named_host_must_be_allowed() {
        let allowed = AllowedHosts::parse("good").expect("a name");
        let target = |host: &str| {
            Uri::builder()
                .scheme("http")
                .authority(host)
                .path_and_query("/")
        };
        for (version, authority, host, expected) in [
            (Version::HTTP_11, Some("good"), Some("good"), true),
            (Version::HTTP_11, Some("evil"), Some("good"), false),
            (Version::HTTP_11, Some("good"), Some("evil"), false),
            (Version::HTTP_2, Some("good:1"), None, true),
            (Version::HTTP_2, Some("evil"), None, false),
            (Version::HTTP_2, None, Some("good"), true),
            (Version::HTTP_2, None, None, false),
            (Version::HTTP_10, None, None, false),
        ] {
            let uri = authority.map_or(Uri::from_static("/"), |host| {
                target(host).build().expect("a target")
            });
            let headers = headers(host.map(str::as_bytes).as_slice());
            assert_eq!(
                allowed.allows(version, &uri, &headers),
                expected,
                "{authority:?} {host:?}"
            );
            assert!(AllowedHosts::default().allows(version, &uri, &headers));
        }
    }
}
