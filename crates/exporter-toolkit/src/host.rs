//! Validates the host of a request, and checks whether the host is allowed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::{HeaderMap, Uri, Version, header};

/// A host without its port: a name in lower case and without a trailing dot, or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Name(String),
    Address(IpAddr),
}

impl Host {
    /// Parses the `uri-host` of RFC 3986, with an IPv6 address in brackets. Returns `None` when it is malformed.
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

    /// Parses the value of a `Host` header or a `:authority`: a host and an optional port.
    fn parse_with_port(text: &str) -> Option<Self> {
        let host_end = match text.rfind(']') {
            Some(bracket) if text.starts_with('[') => bracket + 1,
            _ => text.find(':').unwrap_or(text.len()),
        };
        let (host, port) = text.split_at_checked(host_end)?;
        let port_fits = match port.strip_prefix(':') {
            // RFC 3986 allows an empty port.
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

/// Returns the hosts of a request: that of its target and that of its `Host` header, if present. Returns `None` when a host
/// is malformed or missing (RFC 9112 §3.2, RFC 9113 §8.3.1).
fn parse_hosts(version: Version, uri: &Uri, headers: &HeaderMap) -> Option<[Option<Host>; 2]> {
    let mut values = headers.get_all(header::HOST).into_iter();
    let header = values.next();
    if values.next().is_some() || (header.is_none() && version == Version::HTTP_11) {
        return None;
    }
    let from_header = match header {
        Some(value) => Some(Host::parse_with_port(value.to_str().ok()?)?),
        None => None,
    };
    let from_target = match uri.authority() {
        Some(authority) => Some(Host::parse_with_port(authority.as_str())?),
        None => None,
    };
    let differ = from_target.is_some() && from_header.is_some() && from_target != from_header;
    (!differ || version < Version::HTTP_2).then_some([from_target, from_header])
}

/// Returns whether the host of a request is valid for its HTTP version.
pub(crate) fn is_valid(version: Version, uri: &Uri, headers: &HeaderMap) -> bool {
    parse_hosts(version, uri, headers).is_some()
}

/// The hosts that requests may contain. Protects against DNS rebinding: a web page of another site can make its own name
/// resolve to this machine, but the browser still sends that name as `Host`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<Host>);

impl AllowedHosts {
    /// Returns whether every host is allowed, which is the default.
    pub fn allows_any(&self) -> bool {
        self.0.is_empty()
    }

    /// Parses a comma-separated list of names and addresses; an empty list allows every host.
    ///
    /// # Errors
    /// Returns a description of the expected value.
    pub fn parse(list: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "comma-separated host names and IP addresses without ports (for example exporter.example,10.1.2.3,[::1]), or localhost for all loopback names and addresses";
        if list.trim().is_empty() {
            return Ok(Self::default());
        }
        let parse = |text: &str| match text.parse::<Ipv6Addr>() {
            Ok(address) => Some(Host::Address(IpAddr::V6(address).to_canonical())),
            Err(_) => Host::parse(text).filter(|host| *host != Host::Name(String::new())),
        };
        // Wildcards are not supported: `*` would match only the character itself.
        let hosts = list
            .split(',')
            .map(|part| parse(part.trim()).filter(|_| !part.contains('*')));
        hosts.collect::<Option<Vec<_>>>().map(Self).ok_or(EXPECTED)
    }

    /// Returns an allowed value of `Host`; `None` when every host is allowed.
    pub fn example(&self) -> Option<String> {
        self.0.first().map(|host| match host {
            Host::Name(name) => name.clone(),
            Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
            Host::Address(address) => address.to_string(),
        })
    }

    /// Returns whether a request has a host, and all its hosts are allowed.
    pub fn allows(&self, version: Version, uri: &Uri, headers: &HeaderMap) -> bool {
        if self.allows_any() {
            return true;
        }
        let Some(hosts) = parse_hosts(version, uri, headers) else {
            return false;
        };
        let mut hosts = hosts.iter().flatten().peekable();
        hosts.peek().is_some() && hosts.all(|host| self.contains(host))
    }

    fn contains(&self, host: &Host) -> bool {
        let localhost = |allowed: &Host| matches!(allowed, Host::Name(name) if name == "localhost");
        self.0
            .iter()
            .any(|allowed| allowed == host || (localhost(allowed) && host.is_loopback()))
    }
}

#[cfg(test)]
mod tests;
