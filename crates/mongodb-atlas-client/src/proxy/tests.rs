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
    let route = route(variables, &base()).expect("valid proxy variables");
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
        ("xn--bcher-kva.example", "http://xn--bcher-kva.example:80"),
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
fn invalid_proxy_url_error_names_only_the_variable() {
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
    let error = route(&[("HTTPS_PROXY", "http://b\u{fc}cher.example:1")], &base());
    let error = error.expect_err("not ASCII").to_string();
    assert!(
        error.contains("a non-ASCII host name (use its xn--"),
        "{error}"
    );
    // An invalid value is an error even if no proxy is used, but a SOCKS proxy may be set for other programs.
    let loopback = Url::parse("http://127.0.0.1:1/").expect("a URL");
    assert!(route(&[("HTTPS_PROXY", "::::")], &loopback).is_err());
    assert!(route(&[("ALL_PROXY", "socks5://x:1")], &loopback).is_ok());
    assert!(route(&[("ALL_PROXY", "socks5://x:1"), ("NO_PROXY", "*")], &base()).is_ok());
}

#[test]
fn first_https_variable_takes_precedence() {
    let all =
        HTTPS_VARIABLES.map(|variable| (variable, variable.to_ascii_lowercase().replace('_', "-")));
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
        // Loopback addresses are excluded with any list.
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
