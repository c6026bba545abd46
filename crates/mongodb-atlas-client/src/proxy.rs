//! The HTTP proxy for requests to Atlas, from the environment variables that curl and Go's `httpproxy` read.
//!
//! reqwest can read them as well, but ignores a value that it cannot parse, and requests would then be sent directly.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use reqwest::Url;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::credential::secrets_equal;

/// Variables for `https` URLs, in order of precedence.
const HTTPS_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// Variables for `http` URLs, which are loopback addresses here and never use a proxy.
const HTTP_VARIABLES: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
/// Variables with the hosts that are reached directly.
const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The route of requests to Atlas.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ProxyRoute {
    /// Direct, because no variable names a proxy.
    #[default]
    Direct,
    /// Direct, although a variable names a proxy, because the host is excluded.
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

/// The error for a variable with an invalid proxy. Does not repeat the value, which may contain a password.
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
    /// Reads the variables for requests to `base`. `environment` returns the value of a variable that is set.
    ///
    /// # Errors
    /// [`ProxyError`] when the variable in use has an invalid value, even if `base` is excluded: the error should not first
    /// appear after a change of `NO_PROXY`.
    pub fn from_env(
        environment: impl Fn(&str) -> Option<String>,
        base: &Url,
    ) -> Result<Self, ProxyError> {
        let environment: Environment<'_> = &environment;
        let Some((variable, value)) = first_non_empty(environment, &HTTPS_VARIABLES) else {
            let ignored = first_non_empty(environment, &HTTP_VARIABLES);
            return Ok(match ignored {
                Some((variable, _)) if base.scheme() == "https" => Self::Bypassed {
                    variable,
                    reason: "the variable applies to http URLs only",
                },
                _ => Self::Direct,
            });
        };
        let error = |got| ProxyError { variable, got };
        let proxy = Proxy::parse(variable, &value).map_err(error)?;
        let reason = if base.scheme() == "http" {
            // Plain http is for loopback addresses only, and must not be sent through a proxy.
            Some("plain http is never sent through a proxy")
        } else if is_loopback(base) {
            Some("loopback addresses are reached directly")
        } else {
            let excluded = first_non_empty(environment, &NO_PROXY_VARIABLES)
                .is_some_and(|(_, list)| is_excluded(&list, base));
            excluded.then_some("NO_PROXY excludes the host")
        };
        match reason {
            Some(reason) => Ok(Self::Bypassed { variable, reason }),
            None if proxy.url.scheme().starts_with("http") => Ok(Self::Proxy(proxy)),
            None => Err(error("a SOCKS proxy, which is not supported")),
        }
    }

    /// Returns the proxy in use.
    pub fn proxy(&self) -> Option<&Proxy> {
        match self {
            Self::Proxy(proxy) => Some(proxy),
            Self::Direct | Self::Bypassed { .. } => None,
        }
    }
}

impl Proxy {
    /// Parses a proxy URL. The default scheme is `http`. Stricter than [`Url`], which removes line breaks and accepts
    /// nearly any character in a host name.
    fn parse(variable: &'static str, value: &str) -> Result<Self, &'static str> {
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
            return Err("an unsupported scheme");
        }
        let end = rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len());
        let (authority, after) = rest.split_at(end);
        // An unencoded slash or number sign in the password ends the authority early, and a part of the password would
        // become the host.
        if !matches!(after, "" | "/") {
            return Err(
                "a path, query or fragment (encode special characters in the password with percent signs)",
            );
        }
        // The password is removed before the URL is parsed, so that the URL has no copy of it.
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        if !host.is_ascii() {
            return Err("a non-ASCII host name (use its xn--… form)");
        }
        let url = Url::parse(&format!("{scheme}://{host}/")).map_err(|_| "an invalid URL")?;
        let name = url.host_str().unwrap_or_default();
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let is_name =
            name.bytes().all(is_valid) && name.contains(|c: char| c.is_ascii_alphanumeric());
        if !is_name && !name.starts_with('[') {
            return Err("an invalid host name");
        }
        if url.port() == Some(0) {
            return Err("port 0");
        }
        Ok(Self {
            variable,
            url,
            authorization: (!user.is_empty()).then(|| basic_authorization(user)),
        })
    }

    /// Returns the environment variable that names the proxy.
    pub fn variable(&self) -> &'static str {
        self.variable
    }

    /// Returns the proxy for the client builder. The header is marked as sensitive.
    pub(crate) fn to_reqwest(&self) -> Result<reqwest::Proxy, String> {
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
        let is_same_authorization = match (&self.authorization, &other.authorization) {
            (Some(a), Some(b)) => secrets_equal(a, b),
            (None, None) => true,
            _ => false,
        };
        self.variable == other.variable && self.url == other.url && is_same_authorization
    }
}

impl Eq for Proxy {}

/// Returns the first variable that is not blank, and its value without surrounding white space.
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

/// Returns the `Proxy-Authorization` header for the user and password of a URL.
fn basic_authorization(user: &str) -> SecretString {
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    // The capacity is always sufficient: a vector that grows would leave copies of the password in memory.
    let mut pair = Zeroizing::new(Vec::with_capacity(user.len() + 1 + password.len()));
    pair.extend(percent_decode_str(user));
    pair.push(b':');
    pair.extend(percent_decode_str(password));
    let encoded = Zeroizing::new(STANDARD.encode(&*pair));
    SecretString::from(format!("Basic {}", &*encoded))
}

/// Returns the host for comparison: lower-case, without brackets and without the dot of the root.
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

/// Returns whether `NO_PROXY` excludes the host of `base`, by the rules of Go's `httpproxy`: `*`; domains with their
/// subdomains; `.example.com` and `*.example.com` for subdomains only; addresses; networks. Domains and addresses may have a
/// port.
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
    if let Ok(network) = entry.parse::<IpNet>() {
        return address.is_some_and(|address| network.contains(&address));
    }
    let (name, entry_port) = split_port(entry);
    if entry_port.is_some_and(|entry_port| entry_port.parse().ok() != port) {
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
    host.strip_suffix(name)
        .is_some_and(|subdomain| subdomain.is_empty() || subdomain.ends_with('.'))
}

/// Splits `host:port` and `[ipv6]:port`; an IPv6 address without brackets has no port.
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

#[cfg(test)]
mod tests;
