//! Finds the authority of a request, and detects requests that a browser sends for the page of another site. Such requests
//! can contain saved passwords, and can reach loopback addresses.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Returns whether a page of another origin caused the request. Browsers report this in `Sec-Fetch-Site`, old browsers in
/// `Origin`; other clients send neither. A page on another port has another origin.
pub(super) fn is_cross_site(uri: &Uri, headers: &HeaderMap) -> bool {
    if headers.contains_key(&SEC_FETCH_SITE) {
        let is_own = |site: &HeaderValue| site == "same-origin" || site == "none";
        return !headers.get_all(&SEC_FETCH_SITE).iter().all(is_own);
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    !origins.all(|origin| is_own_origin(origin, uri, headers))
}

/// Returns the authority of a request: host and port of the exporter.
pub(super) fn request_authority(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    match uri.authority() {
        // An HTTP/2 request contains the authority in its URI.
        Some(authority) => Some(authority.clone()),
        None => headers.get(header::HOST)?.to_str().ok()?.parse().ok(),
    }
}

/// Returns whether the origin is the authority of the request. The schemes may differ if a proxy terminates TLS.
fn is_own_origin(origin: &HeaderValue, uri: &Uri, headers: &HeaderMap) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| {
        let (_, authority) = origin.split_once("://")?;
        authority.parse::<Authority>().ok()
    });
    // The comparison ignores case, and neither contains a default port.
    origin.is_some() && origin == request_authority(uri, headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uri: &str, fields: &[(&str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().expect("a name");
            headers.append(
                name,
                HeaderValue::from_bytes(value.as_bytes()).expect("a value"),
            );
        }
        is_cross_site(&uri.parse().expect("a URI"), &headers)
    }

    #[test]
    fn browser_requests_from_other_origins_are_cross_site() {
        for (fields, is_cross) in [
            (&[][..], false),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "")], true),
            (&[("sec-fetch-site", "Same-Origin")], true),
            (&[("sec-fetch-site", "none, cross-site")], true),
            (
                &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
                true,
            ),
            // A proxy may change Host, so Sec-Fetch-Site has precedence.
            (
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("origin", "https://front.example"),
                ],
                false,
            ),
            (
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("origin", "http://exporter:10064"),
                ],
                true,
            ),
            (&[("origin", "http://exporter:10064")], false),
            (&[("origin", "https://EXPORTER:10064")], false),
            (&[("origin", "http://exporter")], true),
            (&[("origin", "http://exporter:3000")], true),
            (&[("origin", "http://exporter:10064.evil.example")], true),
            (&[("origin", "http://evil.example")], true),
            (&[("origin", "null")], true),
            (&[("origin", "")], true),
            (&[("origin", "exporter:10064")], true),
            (&[("origin", "http://exporter:10064\u{e9}")], true),
            (
                &[
                    ("origin", "http://exporter:10064"),
                    ("origin", "http://evil.example"),
                ],
                true,
            ),
        ] {
            let mut with_host = fields.to_vec();
            with_host.push(("host", "exporter:10064"));
            assert_eq!(check("/-/reload", &with_host), is_cross, "{fields:?}");
            let http2 = "https://exporter:10064/-/reload";
            assert_eq!(check(http2, fields), is_cross, "HTTP/2 {fields:?}");
        }
        let no_host = [("origin", "http://exporter:10064")];
        assert!(check("/-/reload", &no_host), "without a Host header");
    }
}
