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
            assert!(is_valid(version, &path, &headers), "{valid}");
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
            let text = String::from_utf8_lossy(invalid);
            assert!(!is_valid(version, &path, &headers), "{text}");
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
        // The host of the target has precedence (RFC 9112 §3.2.2).
        (Version::HTTP_11, &absolute, &[b"b"], true),
        (Version::HTTP_11, &path, &[b"a", b"a"], false),
        (Version::HTTP_10, &path, &[b"a", b"b"], false),
        (Version::HTTP_2, &path, &[b"a", b"a"], false),
    ];
    for (version, uri, hosts, valid) in cases {
        let result = is_valid(version, uri, &headers(hosts));
        assert_eq!(result, valid, "{version:?} {uri} {hosts:?}");
    }
}

#[test]
fn allowed_host_lists_are_parsed_strictly() {
    for everything in ["", " "] {
        assert_eq!(AllowedHosts::parse(everything), Ok(AllowedHosts::default()));
    }
    for invalid in [
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
        assert!(AllowedHosts::parse(invalid).is_err(), "{invalid}");
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
