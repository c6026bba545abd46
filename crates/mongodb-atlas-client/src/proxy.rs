//! The HTTP proxy between here and Atlas, from the environment variables that curl and Go's `httpproxy` read.
//!
//! reqwest would read them by itself, but it drops a value that it cannot parse without a word, and requests
//! would then go out directly.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::credential::secrets_equal;

/// Variables for `https` URLs, the first that is set counts.
const HTTPS_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// Variables for `http` URLs, which are loopback addresses here and never go through a proxy.
const HTTP_VARIABLES: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
/// Variables with the hosts that are reached directly.
const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// How requests reach Atlas.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ProxyRoute {
    /// Directly; no variable names a proxy.
    #[default]
    Direct,
    /// Directly, although a variable names a proxy: the host is excluded.
    Bypassed {
        /// The variable that names the proxy.
        variable: &'static str,
        /// Why the proxy is not used.
        reason: &'static str,
    },
    /// Through a proxy.
    Proxy(Proxy),
}

/// An HTTP proxy. Neither `Debug` nor `Display` shows its user or password.
#[derive(Clone)]
pub struct Proxy {
    variable: &'static str,
    url: Url,
    authorization: Option<SecretString>,
}

/// Why the proxy that a variable names cannot be used. Does not repeat the value, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "environment variable {variable}: invalid proxy URL: expected http://HOST:PORT or https://HOST:PORT, got {got}"
)]
pub struct ProxyError {
    variable: &'static str,
    got: &'static str,
}

/// Returns the value of an environment variable.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl ProxyRoute {
    /// Reads the variables for requests to `base`; `environment` returns the value of a variable that is set.
    ///
    /// # Errors
    /// [`ProxyError`] when the variable in force holds no proxy URL, even if `base` is excluded: the value is
    /// wrong either way, and whoever changes `NO_PROXY` later should not be surprised.
    pub fn from_env(
        environment: impl Fn(&str) -> Option<String>,
        base: &Url,
    ) -> Result<Self, ProxyError> {
        let environment: Environment<'_> = &environment;
        let Some((variable, value)) = first_non_empty(environment, &HTTPS_VARIABLES) else {
            let unsuited = first_non_empty(environment, &HTTP_VARIABLES);
            return Ok(match unsuited {
                Some((variable, _)) if base.scheme() == "https" => Self::Bypassed {
                    variable,
                    reason: "it is for http URLs only",
                },
                _ => Self::Direct,
            });
        };
        let error = |got| ProxyError { variable, got };
        let (url, authorization) = parse_proxy_url(&value).map_err(error)?;
        let reason = if base.scheme() == "http" {
            // Plain text is for loopback addresses only, and no proxy may see it.
            Some("plain http is never sent through a proxy")
        } else if is_loopback(base) {
            Some("loopback addresses are reached directly")
        } else {
            let excluded = first_non_empty(environment, &NO_PROXY_VARIABLES)
                .is_some_and(|(_, list)| is_excluded(&list, base));
            excluded.then_some("NO_PROXY excludes the host")
        };
        if let Some(reason) = reason {
            return Ok(Self::Bypassed { variable, reason });
        }
        match url.scheme() {
            "http" | "https" => Ok(Self::Proxy(Proxy {
                variable,
                url,
                authorization,
            })),
            _ => Err(error("a SOCKS proxy, which is not supported")),
        }
    }

    /// The proxy in force.
    pub fn proxy(&self) -> Option<&Proxy> {
        match self {
            Self::Proxy(proxy) => Some(proxy),
            Self::Direct | Self::Bypassed { .. } => None,
        }
    }
}

impl Proxy {
    /// The environment variable that names it.
    pub fn variable(&self) -> &'static str {
        self.variable
    }

    /// For the client builder. The header is marked as sensitive.
    pub(super) fn to_reqwest(&self) -> Result<reqwest::Proxy, String> {
        let proxy = reqwest::Proxy::all(self.url.clone())
            .map_err(|error| error.without_url().to_string())?;
        let Some(authorization) = &self.authorization else {
            return Ok(proxy);
        };
        let mut header = HeaderValue::from_str(authorization.expose_secret())
            .map_err(|error| error.to_string())?;
        header.set_sensitive(true);
        Ok(proxy.custom_http_auth(header))
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.url.port_or_known_default().unwrap_or_default();
        let host = self.url.host_str().unwrap_or_default();
        write!(f, "{}://{host}:{port}", self.url.scheme())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl PartialEq for Proxy {
    fn eq(&self, other: &Self) -> bool {
        let same_authorization = match (&self.authorization, &other.authorization) {
            (Some(a), Some(b)) => secrets_equal(a, b),
            (None, None) => true,
            _ => false,
        };
        self.variable == other.variable && self.url == other.url && same_authorization
    }
}

impl Eq for Proxy {}

/// The first variable that holds more than white space, and its value without the white space around it.
fn first_non_empty(
    environment: Environment<'_>,
    variables: &[&'static str],
) -> Option<(&'static str, Zeroizing<String>)> {
    variables.iter().find_map(|variable| {
        let value = Zeroizing::new(environment(variable)?);
        let trimmed = Zeroizing::new(value.trim().to_owned());
        (!trimmed.is_empty()).then_some((*variable, trimmed))
    })
}

/// Takes a proxy URL apart into the URL without its user and password, and the header that these make. Without a
/// scheme it is `http`. Stricter than [`Url`], which removes line breaks and takes nearly any character in a host name.
fn parse_proxy_url(value: &str) -> Result<(Url, Option<SecretString>), &'static str> {
    let quotes = ['"', '\'', '`'];
    if value.starts_with(quotes) || value.ends_with(quotes) {
        return Err("quotes around the value");
    }
    if value.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("white space or control characters in the value");
    }
    let (scheme, rest) = value.split_once("://").unwrap_or(("http", value));
    let scheme = scheme.to_ascii_lowercase();
    if !matches!(
        &*scheme,
        "http" | "https" | "socks4" | "socks4a" | "socks5" | "socks5h"
    ) {
        return Err("another scheme");
    }
    let end = rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    // A password with an unencoded slash or number sign ends the host early: a part of the password would become
    // the host.
    if !matches!(after, "" | "/") {
        return Err(
            "a path, query or fragment (encode special characters in the password with percent signs)",
        );
    }
    // The password is taken out before the URL is parsed, so that no copy of it stays in there.
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let url = Url::parse(&format!("{scheme}://{host}/")).map_err(|_| "something else")?;
    let name = url.host_str().unwrap_or_default();
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_name = name.bytes().all(fits) && name.bytes().any(|byte| byte.is_ascii_alphanumeric());
    if !is_name && !name.starts_with('[') {
        return Err("an invalid host name");
    }
    if url.port() == Some(0) {
        return Err("port 0");
    }
    Ok((url, (!user.is_empty()).then(|| basic_authorization(user))))
}

/// The `Proxy-Authorization` header for the user and password of a URL.
fn basic_authorization(user: &str) -> SecretString {
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let (user, password) = (percent_decode(user), percent_decode(password));
    let pair = Zeroizing::new([&**user, b":", &**password].concat());
    let encoded = Zeroizing::new(STANDARD.encode(&*pair));
    SecretString::from(format!("Basic {}", &*encoded))
}

/// Undoes percent-encoding; what is no encoding stays as it is.
fn percent_decode(text: &str) -> Zeroizing<Vec<u8>> {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let mut decoded = Zeroizing::new(Vec::with_capacity(bytes.len()));
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let pair = (hex(bytes.get(at + 1)), hex(bytes.get(at + 2)));
        if let (b'%', (Some(high), Some(low))) = (byte, pair) {
            decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
            at += 3;
        } else {
            decoded.push(*byte);
            at += 1;
        }
    }
    decoded
}

/// The host as addresses and names are compared: lower-case, without the dot of the root.
fn normalized_host(base: &Url) -> String {
    let host = base.host_str().unwrap_or_default().to_ascii_lowercase();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.strip_suffix('.').unwrap_or(host).to_owned()
}

fn parse_address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn is_loopback(base: &Url) -> bool {
    let host = normalized_host(base);
    host == "localhost" || parse_address(&host).is_some_and(|ip| ip.is_loopback())
}

/// Whether `NO_PROXY` excludes the host of `base`, by the rules of Go's `httpproxy`: `*`, names with all that is below
/// them, `.example.com` and `*.example.com` for what is below alone, addresses, networks; names and addresses may have a port.
fn is_excluded(list: &str, base: &Url) -> bool {
    let host = normalized_host(base);
    let port = base.port_or_known_default();
    list.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|entry| !entry.is_empty())
        .any(|entry| entry_matches(&entry.to_ascii_lowercase(), &host, port))
}

fn entry_matches(entry: &str, host: &str, port: Option<u16>) -> bool {
    if entry == "*" {
        return true;
    }
    let address = parse_address(host);
    if let Some(network) = parse_network(entry) {
        return address.is_some_and(|address| network_contains(network, address));
    }
    let (name, of_port) = split_port(entry);
    if of_port.is_some_and(|of_port| of_port.parse().ok() != port) {
        return false;
    }
    if let Some(excluded) = parse_address(name) {
        return address == Some(excluded);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let name = name
        .strip_prefix('*')
        .filter(|rest| rest.starts_with('.'))
        .unwrap_or(name);
    if address.is_some() || name.is_empty() || name == "." {
        return false;
    }
    if name.starts_with('.') {
        return host.ends_with(name);
    }
    host == name
        || host
            .strip_suffix(name)
            .is_some_and(|below| below.ends_with('.'))
}

/// Takes `host:port` and `[ipv6]:port` apart; an IPv6 address without brackets has no port.
fn split_port(entry: &str) -> (&str, Option<&str>) {
    if let Some(rest) = entry.strip_prefix('[') {
        let (address, after) = rest.split_once(']').unwrap_or((rest, ""));
        return (address, after.strip_prefix(':'));
    }
    match entry.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, Some(port)),
        _ => (entry, None),
    }
}

/// An address and the number of its leading bits that count.
fn parse_network(entry: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = entry.split_once('/')?;
    let address = address.parse::<IpAddr>().ok()?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.parse::<u32>().ok().filter(|bits| *bits <= width)?;
    Some((address, bits))
}

fn network_contains((network, bits): (IpAddr, u32), address: IpAddr) -> bool {
    let same_prefix = |a: u128, b: u128, width: u32| {
        // A shift by the whole width is no shift: nothing has to be equal then.
        (a ^ b).checked_shr(width - bits).unwrap_or_default() == 0
    };
    match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            same_prefix(u128::from(a.to_bits()), u128::from(b.to_bits()), 32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => same_prefix(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Url {
        Url::parse("https://cloud.mongodb.com/").expect("a URL")
    }

    fn route(variables: &[(&str, &str)], base: &Url) -> Result<ProxyRoute, ProxyError> {
        ProxyRoute::from_env(
            |name| {
                let variable = variables.iter().find(|(variable, _)| *variable == name)?;
                (!variable.1.is_empty()).then(|| variable.1.to_owned())
            },
            base,
        )
    }

    fn shown(variables: &[(&str, &str)]) -> Option<String> {
        let route = route(variables, &base()).expect("proxy variables that can be used");
        route
            .proxy()
            .map(|proxy| format!("{} {proxy}", proxy.variable()))
    }

    #[test]
    fn proxy_url_is_trimmed_and_displayed_without_password() {
        for (value, expected) in [
            ("http://127.0.0.1:3128", "http://127.0.0.1:3128"),
            ("http://127.0.0.1:3128 ", "http://127.0.0.1:3128"),
            ("\t http://127.0.0.1:3128\r\n", "http://127.0.0.1:3128"),
            ("127.0.0.1:3128", "http://127.0.0.1:3128"),
            ("proxy", "http://proxy:80"),
            ("HTTPS://Proxy.Example/", "https://proxy.example:443"),
            ("http://[::1]:3128", "http://[::1]:3128"),
            ("http://me:secret-word@proxy:1", "http://proxy:1"),
            ("me:secret-word@proxy:1", "http://proxy:1"),
        ] {
            let shown = shown(&[("HTTPS_PROXY", value)]);
            assert_eq!(shown, Some(format!("HTTPS_PROXY {expected}")), "{value:?}");
        }
        let variables = [("HTTPS_PROXY", "http://me:secret-word@proxy:1")];
        let route = route(&variables, &base()).expect("a proxy");
        assert!(!format!("{route:?}").contains("secret-word"));
        let proxy = route.proxy().expect("a proxy");
        let authorization = proxy.authorization.as_ref().expect("a password");
        // me:secret-word
        assert_eq!(authorization.expose_secret(), "Basic bWU6c2VjcmV0LXdvcmQ=");
    }

    #[test]
    fn invalid_proxy_url_error_names_the_variable_only() {
        for value in [
            "\"http://secret-word\"",
            "'http://secret-word:1'",
            "\"secret-word:1\"",
            "::::",
            "http://",
            "https:///",
            "http:///secret-word",
            "http://secret word",
            "http://secret\nword",
            "http://:3128",
            "http://secret-word:99999",
            "http://secret-word:0",
            "http://secret-word:3128/path",
            "http://u:secret-word#1@proxy:1",
            "http://u:1/secret-word@proxy:1",
            "http://u:1?secret-word@proxy:1",
            "ftp://secret-word:1",
            "socks5://secret-word:1",
            "socks5h://secret-word",
            "http://secret-word;x",
            "http://...",
            "http://a,b:1",
            "@",
            "http://user:secret-word@",
            "\u{201c}http://secret-word\u{201d}",
            "$HTTP_PROXY",
            "http://${secret-word}:1",
            "secret-word:port",
            "none://",
            "http:secret-word:1",
        ] {
            for variable in HTTPS_VARIABLES {
                let error = route(&[(variable, value)], &base()).expect_err(value);
                let text = error.to_string();
                assert!(text.contains(variable), "{text}");
                assert!(!text.contains("secret-word"), "{text}");
            }
        }
        // Wrong as well where it is not needed, but a SOCKS proxy may be there for other programs.
        let loopback = Url::parse("http://127.0.0.1:1/").expect("a URL");
        assert!(route(&[("HTTPS_PROXY", "::::")], &loopback).is_err());
        assert!(route(&[("ALL_PROXY", "socks5://x:1")], &loopback).is_ok());
        assert!(route(&[("ALL_PROXY", "socks5://x:1"), ("NO_PROXY", "*")], &base()).is_ok());
    }

    #[test]
    fn first_https_variable_wins() {
        let all = HTTPS_VARIABLES
            .map(|variable| (variable, variable.to_ascii_lowercase().replace('_', "-")));
        for (skipped, (variable, host)) in all.iter().enumerate() {
            let mut variables: Vec<(&str, &str)> = all
                .iter()
                .skip(skipped)
                .map(|(variable, host)| (*variable, host.as_str()))
                .collect();
            variables.extend(
                all.iter()
                    .take(skipped)
                    .map(|(variable, _)| (*variable, " \t")),
            );
            assert_eq!(
                shown(&variables),
                Some(format!("{variable} http://{host}:80"))
            );
        }
        for variable in HTTP_VARIABLES {
            let route = route(&[(variable, "::::")], &base()).expect("not needed");
            assert!(
                matches!(route, ProxyRoute::Bypassed { variable: ignored, .. } if ignored == variable)
            );
        }
        assert_eq!(route(&[], &base()), Ok(ProxyRoute::Direct));
    }

    #[test]
    fn no_proxy_matches_as_in_go() {
        let cloud = "https://cloud.mongodb.com/";
        for (list, url, excluded) in [
            ("*", cloud, true),
            (" , *", cloud, true),
            ("mongodb.com", cloud, true),
            ("MongoDB.com", cloud, true),
            ("mongodb.com.", cloud, true),
            ("mongodb.com", "https://cloud.mongodb.com./", true),
            ("cloud.mongodb.com", cloud, true),
            ("other.com , cloud.mongodb.com", cloud, true),
            ("other.com cloud.mongodb.com", cloud, true),
            (".mongodb.com", cloud, true),
            ("*.mongodb.com", cloud, true),
            (".mongodb.com", "https://mongodb.com/", false),
            ("*.mongodb.com", "https://mongodb.com/", false),
            ("mongodb.com", "https://notmongodb.com/", false),
            ("*.mongodb.com", "https://notmongodb.com/", false),
            ("*mongodb.com", cloud, false),
            ("cloud.*", cloud, false),
            ("com.", cloud, true),
            ("mongodb", cloud, false),
            ("", cloud, false),
            (".", cloud, false),
            ("*.", cloud, false),
            ("mongodb.com:443", cloud, true),
            ("*.mongodb.com:443", cloud, true),
            ("mongodb.com:8443", cloud, false),
            ("mongodb.com:8443", "https://cloud.mongodb.com:8443/", true),
            ("mongodb.com:x", cloud, false),
            (":443", cloud, false),
            ("https://cloud.mongodb.com", cloud, false),
            ("10.1.2.3", "https://10.1.2.3/", true),
            ("10.1.2.3:443", "https://10.1.2.3/", true),
            ("10.1.2.3:1", "https://10.1.2.3/", false),
            ("10.0.0.0/8", "https://10.1.2.3/", true),
            ("10.0.0.0/16", "https://10.1.2.3/", false),
            ("0.0.0.0/0", "https://10.1.2.3/", true),
            ("0.0.0.0/0", "https://[2001:db8::1]/", false),
            ("0.0.0.0/0", cloud, false),
            ("10.1.2.3/33", "https://10.1.2.3/", false),
            ("10.1.2.3/x", "https://10.1.2.3/", false),
            ("2001:db8::/32", "https://[2001:db8::1]/", true),
            ("2001:db8::/32", "https://[2001:db9::1]/", false),
            ("::/0", "https://[2001:db9::1]/", true),
            ("2001:db8::1", "https://[2001:db8::1]/", true),
            ("[2001:db8::1]", "https://[2001:db8::1]/", true),
            ("[2001:db8::1]:443", "https://[2001:db8::1]/", true),
            ("[2001:db8::1]:80", "https://[2001:db8::1]/", false),
            ("::ffff:10.1.2.3", "https://10.1.2.3/", true),
            // Loopback never goes through a proxy, whatever the list says.
            ("", "https://localhost/", true),
            ("", "https://127.1.2.3/", true),
            ("", "https://[::1]/", true),
            ("", "http://127.0.0.1:1/", true),
        ] {
            for variable in NO_PROXY_VARIABLES {
                let variables = [("HTTPS_PROXY", "http://proxy:1"), (variable, list)];
                let url = Url::parse(url).expect("a URL");
                let route = route(&variables, &url).expect("a good proxy");
                assert_eq!(route.proxy().is_none(), excluded, "{list:?} {url}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_variables_never_panic_or_leak(value in "\\PC{0,40}", list in "\\PC{0,40}") {
            let variables = [("ALL_PROXY", value.as_str()), ("no_proxy", list.as_str())];
            if let Err(error) = route(&variables, &base()) {
                proptest::prop_assert!(value.len() < 8 || !error.to_string().contains(&value));
            }
        }
    }
}
