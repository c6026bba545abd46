//! Who is let in: TLS, client certificates and passwords from `--web.config.file`, and how they
//! change while connections are open.
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::pki::{TestPki, bcrypt_hash, indent};
use crate::common::{ChildProcess, Scrape, TestExporter, static_sim};
use exporter_toolkit::web_config::WebConfig;
use futures_util::future::join_all;
use reqwest::{Client, Version, tls};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const TLS_CONFIG: &str = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";
const RELOADED: &str = "atlas_ai_keys_exporter_config_last_reload_successful";

/// Puts a web configuration in force at once.
fn write_web_config(lab: &TestExporter, papers: &TestPki, text: &str) {
    let path = papers.write("web.yml", text);
    lab.app
        .web_config
        .set(WebConfig::load(&path).config.unwrap());
}

fn https_url(lab: &TestExporter, path: &str) -> String {
    format!("{}{path}", lab.base_url.replace("http://", "https://"))
}

/// The status of an answer; none when the connection does not come about.
async fn status(client: &Client, url: &str) -> Option<u16> {
    let answer = client.get(url).send().await.ok()?;
    Some(answer.status().as_u16())
}

async fn start_exporter() -> TestExporter {
    TestExporter::start(static_sim(1, 10), &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_auth_rejects_requests_without_valid_credentials() {
    let (lab, papers) = (start_exporter().await, TestPki::new());
    lab.wait_polled().await;
    let users = format!(
        "basic_auth_users:\n  ada: {}\n  bob: {}\n",
        bcrypt_hash("secret"),
        bcrypt_hash("other")
    );
    write_web_config(&lab, &papers, &format!("{TLS_CONFIG}{users}"));
    let client = papers.client().build().unwrap();
    for path in [
        "/",
        "/metrics",
        "/sd",
        "/-/healthy",
        "/-/ready",
        "/-/reload",
        "/-/page/page.css",
        "/nothing",
    ] {
        let answer = client.get(https_url(&lab, path)).send().await.unwrap();
        assert_eq!(answer.status(), 401, "{path}");
        let challenge = answer.headers()["www-authenticate"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(challenge.starts_with("Basic realm="), "{challenge}");
        assert_eq!(answer.text().await.unwrap(), "", "a body would cost");
    }
    let ask = async |user: &str, password: &str| {
        let request = client
            .get(https_url(&lab, "/metrics"))
            .basic_auth(user, Some(password));
        request.send().await.unwrap().status().as_u16()
    };
    for (user, password) in [
        ("ada", "other"),
        ("ada", ""),
        ("eve", "secret"),
        ("", ""),
        ("ADA", "secret"),
        ("ada", "secret "),
    ] {
        assert_eq!(ask(user, password).await, 401, "{user:?} {password:?}");
    }
    for (user, password) in [("ada", "secret"), ("bob", "other"), ("ada", "secret")] {
        assert_eq!(ask(user, password).await, 200, "{user}");
    }
    for bad in ["Basic", "Basic !!!", "Bearer x", "Basic YWRh", "basic /w=="] {
        let request = client
            .get(https_url(&lab, "/"))
            .header("authorization", bad);
        assert_eq!(request.send().await.unwrap().status(), 401, "{bad}");
    }
    let plain = Client::builder().no_proxy().build().unwrap();
    assert_eq!(
        status(&plain, &format!("{}/metrics", lab.base_url)).await,
        None,
        "in the clear"
    );
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapes_succeed_during_password_guessing() {
    let (lab, papers) = (start_exporter().await, TestPki::new());
    lab.wait_polled().await;
    let dear = bcrypt::hash("secret", 9).unwrap();
    write_web_config(
        &lab,
        &papers,
        &format!("basic_auth_users:\n  ada: {dear}\n"),
    );
    let client = Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/metrics", lab.base_url);
    let ask = async |password: String| {
        let request = client.get(&url).basic_auth("ada", Some(password));
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask("secret".to_owned()).await, 200);
    let guesses = join_all((0..200).map(|n| ask(format!("guess {n}"))));
    let scrapes = async {
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let begun = Instant::now();
            assert_eq!(ask("secret".to_owned()).await, 200);
            longest = longest.max(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        longest
    };
    let (guesses, longest) = tokio::join!(guesses, scrapes);
    assert!(
        guesses.iter().all(|code| [401, 503].contains(code)),
        "{guesses:?}"
    );
    assert!(
        guesses.contains(&401) && guesses.contains(&503),
        "most find no turn: {guesses:?}"
    );
    // all of them one after the other would take 200 times some 50 ms; a scrape waits for none
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_auth_types_behave_as_configured() {
    let (lab, papers) = (start_exporter().await, TestPki::new());
    let everybody = ["", "client", "stranger", "expired", "self"];
    for (asked, ca, let_in) in [
        ("NoClientCert", "", &everybody[..]),
        ("RequestClientCert", "", &everybody),
        ("RequestClientCert", "ca.pem", &everybody),
        (
            "RequireAnyClientCert",
            "",
            &["client", "stranger", "expired", "self"],
        ),
        (
            "RequireClientCert",
            "ca.pem",
            &["client", "stranger", "expired", "self"],
        ),
        ("VerifyClientCertIfGiven", "ca.pem", &["", "client"]),
        ("RequireAndVerifyClientCert", "ca.pem", &["client"]),
        ("RequireAndVerifyClientCert", "self.pem", &["self"]),
    ] {
        let mut text = format!("{TLS_CONFIG}  client_auth_type: {asked}\n");
        if !ca.is_empty() {
            text = format!("{text}  client_ca_file: {ca}\n");
        }
        write_web_config(&lab, &papers, &text);
        for version in [tls::Version::TLS_1_2, tls::Version::TLS_1_3] {
            for who in everybody {
                let client = if who.is_empty() {
                    papers.client()
                } else {
                    papers.client_with(who)
                };
                let client = client
                    .tls_version_min(version)
                    .tls_version_max(version)
                    .build()
                    .unwrap();
                let code = status(&client, &https_url(&lab, "/-/healthy")).await;
                let right = let_in.contains(&who).then_some(200);
                assert_eq!(code, right, "{asked} with {ca:?}, {who:?}, {version:?}");
            }
        }
    }
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_allowed_sans_restricts_clients() {
    let (lab, papers) = (start_exporter().await, TestPki::new());
    for (names, code) in [
        ("client.example", Some(200)),
        ("10.1.2.3", Some(200)),
        ("ada@client.example", Some(200)),
        ("spiffe://example/client", Some(200)),
        ("other, client.example", Some(200)),
        ("other", None),
        ("CLIENT.example", None),
        ("client", None),
    ] {
        let text = format!(
            "{TLS_CONFIG}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  client_allowed_sans: [{names}]\n"
        );
        write_web_config(&lab, &papers, &text);
        let client = papers.client_with("client").build().unwrap();
        assert_eq!(
            status(&client, &https_url(&lab, "/-/healthy")).await,
            code,
            "{names}"
        );
        let stranger = papers.client_with("stranger").build().unwrap();
        assert_eq!(
            status(&stranger, &https_url(&lab, "/-/healthy")).await,
            None
        );
    }
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_versions_ciphers_and_curves_are_restricted() {
    let (lab, papers) = (start_exporter().await, TestPki::new());
    let (twelve, thirteen) = (tls::Version::TLS_1_2, tls::Version::TLS_1_3);
    for (more, of_12, of_13) in [
        ("", true, true),
        ("  min_version: TLS13\n", false, true),
        ("  max_version: TLS12\n", true, false),
        ("  min_version: TLS12\n  max_version: TLS13\n", true, true),
        (
            "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n",
            true,
            true,
        ),
        // the certificate has no RSA key
        (
            "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n",
            false,
            true,
        ),
        ("  cipher_suites: [TLS_AES_128_GCM_SHA256]\n", false, true),
        (
            "  curve_preferences: [CurveP384]\n  prefer_server_cipher_suites: no\n",
            true,
            true,
        ),
    ] {
        write_web_config(&lab, &papers, &format!("{TLS_CONFIG}{more}"));
        for (version, right) in [(twelve, of_12), (thirteen, of_13)] {
            let client = papers
                .client()
                .tls_version_min(version)
                .tls_version_max(version);
            let code = status(&client.build().unwrap(), &https_url(&lab, "/-/healthy")).await;
            assert_eq!(code.is_some(), right, "{more:?} {version:?}");
        }
    }
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_negotiated_when_enabled() {
    let (lab, papers) = (start_exporter().await, TestPki::new());
    lab.wait_polled().await;
    for (more, only_1, version) in [
        ("", false, Version::HTTP_2),
        ("", true, Version::HTTP_11),
        (
            "http_server_config:\n  http2: false\n",
            false,
            Version::HTTP_11,
        ),
    ] {
        write_web_config(&lab, &papers, &format!("{TLS_CONFIG}{more}"));
        let client = papers.client();
        let client = if only_1 { client.http1_only() } else { client };
        let client = client.build().unwrap();
        let answers = (0..20).map(async |_| {
            let answer = client
                .get(https_url(&lab, "/metrics"))
                .send()
                .await
                .unwrap();
            assert_eq!(answer.version(), version);
            Scrape::parse(&answer.text().await.unwrap())
                .values("mongodbatlas_ai_model_api_key_used")
                .len()
        });
        let keys = join_all(answers).await;
        assert_eq!(keys, vec![10; 20]);
    }
    // a head that is too large is refused there as well, and the connection serves on
    write_web_config(&lab, &papers, TLS_CONFIG);
    let client = papers.client().build().unwrap();
    let huge = client
        .get(https_url(&lab, "/-/healthy"))
        .header("x-huge", "x".repeat(20_000));
    let refused = huge.send().await.map(|answer| answer.status().as_u16());
    assert!(
        refused.is_err() || matches!(refused, Ok(431)),
        "{refused:?}"
    );
    assert_eq!(
        status(&client, &https_url(&lab, "/-/healthy")).await,
        Some(200)
    );
    // the address is where HTTP/2 has it
    let client = papers.client().build().unwrap();
    write_web_config(&lab, &papers, TLS_CONFIG);
    let targets = client
        .get(https_url(&lab, "/sd"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let address = lab.base_url.replace("http://", "");
    assert!(
        targets.contains(&format!("\"targets\":[\"{address}\"]"))
            && targets.contains("\"__scheme__\":\"https\""),
        "{targets}"
    );
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn web_config_reload_applies_changes_and_keeps_connections() {
    let papers = TestPki::new();
    let flag = papers.web_config_flag(TLS_CONFIG);
    let lab = TestExporter::start(static_sim(1, 10), &[&flag]).await;
    let old = papers.client().build().unwrap();
    let scrape = async |client: &Client| {
        let answer = client.get(https_url(&lab, "/metrics")).send().await.ok()?;
        Some(Scrape::parse(&answer.text().await.ok()?))
    };
    let until = async |client: &Client, reloaded: f64| {
        let begun = Instant::now();
        while scrape(client)
            .await
            .and_then(|scrape| scrape.get(RELOADED, &[]))
            != Some(reloaded)
        {
            assert!(
                begun.elapsed() < crate::common::WAIT_TIMEOUT,
                "in vain: {reloaded}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until(&old, 1.0).await;
    papers.renew();
    let new = papers.client().build().unwrap();
    let begun = Instant::now();
    while scrape(&new).await.is_none() {
        assert!(begun.elapsed() < crate::common::WAIT_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        scrape(&old).await.is_some(),
        "the open connection is used on"
    );
    let fresh = {
        let other = TestPki::new();
        other.client().build().unwrap()
    };
    assert!(scrape(&fresh).await.is_none(), "another CA than either");
    // what was in force stays, and one that is right follows
    papers.write("web.yml", "tls_server_config: [");
    until(&new, 0.0).await;
    papers.write("web.yml", TLS_CONFIG);
    until(&new, 1.0).await;
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_rejects_excess_and_headers_are_added() {
    let (lab, papers) = (start_exporter().await, TestPki::new());
    let text = "{TLS}rate_limit:\n  interval: 1h\n  burst: 3\nhttp_server_config:\n  headers:\n    Strict-Transport-Security: max-age=60\n    X-Frame-Options: sameorigin\n    X-Content-Type-Options: nosniff\n    Content-Security-Policy: default-src 'self'\n    X-XSS-Protection: '0'\n";
    write_web_config(&lab, &papers, &text.replace("{TLS}", TLS_CONFIG));
    let client = papers.client().build().unwrap();
    for (path, code) in [
        ("/", 200),
        ("/-/healthy", 200),
        ("/nothing", 404),
        ("/", 429),
        ("/metrics", 429),
    ] {
        let answer = client.get(https_url(&lab, path)).send().await.unwrap();
        assert_eq!(answer.status(), code, "{path}");
        let headers = answer.headers();
        assert_eq!(headers["strict-transport-security"], "max-age=60");
        assert_eq!(
            headers["x-frame-options"], "sameorigin",
            "the file goes before the page's own"
        );
        assert_eq!(headers.get_all("content-security-policy").iter().count(), 1);
        assert_eq!(headers["content-security-policy"], "default-src 'self'");
    }
    lab.stop().await.stop().await;
}

#[test]
fn web_config_errors_are_reported_without_secrets() {
    let papers = TestPki::new();
    let key = papers.read("server.key");
    let inline = indent(&key);
    let text = format!(
        "nonsense: 1\ntls_server_config:\n  cert_file: gone.pem\n  key: |\n{inline}  key_file: server.key\n  client_auth_type: Sometimes\n  min_version: TLS10\n  cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]\n  curve_preferences: [CurveP521]\n  ciphers: x\nhttp_server_config:\n  http2: perhaps\n  headers:\n    Server: x\n    X-Frame-Options: none\nbasic_auth_users:\n  ada: hunter2\nrate_limit:\n  interval: 5\n"
    );
    let error = WebConfig::load(&papers.write("web.yml", &text))
        .config
        .unwrap_err();
    let told = error.to_string();
    for part in [
        "web.yml is wrong in 13 places",
        "nonsense: there is no such member; it must be one of tls_server_config,",
        "tls_server_config.ciphers: there is no such member",
        "gone.pem): cannot be read: file not found",
        "tls_server_config.key_file: tls_server_config.key is given as well",
        "\"Sometimes\" will not do; it must be one of NoClientCert,",
        "TLS10 cannot be had here",
        "\"TLS_RSA_WITH_AES_128_CBC_SHA\" cannot be had here; it must be one of",
        "\"CurveP521\" cannot be had here",
        "\"perhaps\" will not do; it must be true or false",
        "http_server_config.headers.Server: there is no such member",
        "\"none\" will not do; it must be deny or sameorigin",
        "basic_auth_users.ada: it is no bcrypt hash",
        "\"5\" will not do; it must be a duration such as",
    ] {
        assert!(told.contains(part), "{part} in\n{told}");
    }
    let of_key = key.lines().nth(1).unwrap();
    assert!(
        !told.contains("hunter2") && !told.contains(of_key),
        "{told}"
    );
}

#[test]
fn web_config_load_lists_files_even_on_error() {
    let papers = TestPki::new();
    let path = papers.write("web.yml", &TLS_CONFIG.replace("server.key", "client.key"));
    let loaded = WebConfig::load(&path);
    assert_eq!(
        loaded.files,
        ["web.yml", "server.pem", "client.key"].map(|name| papers.path(name))
    );
    let told = loaded.config.unwrap_err().to_string();
    assert!(told.contains("the key must be the certificate's"), "{told}");
}

const CLIENT_AUTH_CONFIG: &str =
    "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";

/// How a client connects in the tests of sessions and of open connections.
fn tls_client(
    papers: &TestPki,
    who: Option<&str>,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let certificates = |name: &str| {
        CertificateDer::pem_slice_iter(papers.read(name).as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .unwrap()
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates("ca.pem"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match who {
        Some(who) => {
            let key = papers.read(&format!("{who}.key"));
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            let chain = certificates(&format!("{who}.pem"));
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(8)));
    Arc::new(config)
}

async fn connect(lab: &TestExporter, config: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let address = lab.base_url.strip_prefix("http://").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let connector = TlsConnector::from(Arc::clone(config));
    connector.connect(name, stream).await.unwrap()
}

/// Asks for something over an open connection; none when it has ended.
async fn request_health(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
) -> Option<String> {
    let request = "GET /-/healthy HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    while !text.ends_with("Healthy.\n") {
        let mut bytes = [0; 1024];
        let length = stream.read(&mut bytes).await.ok().filter(|n| *n > 0)?;
        text.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
    }
    Some(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_sessions_are_not_resumed_with_client_auth() {
    let (lab, papers) = (start_exporter().await, TestPki::new());
    for (more, who, second) in [
        // the control: a session is resumed where nothing is verified
        ("", None, HandshakeKind::Resumed),
        (CLIENT_AUTH_CONFIG, Some("client"), HandshakeKind::Full),
        (
            "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n",
            Some("client"),
            HandshakeKind::Full,
        ),
        (
            "  client_auth_type: RequireAnyClientCert\n",
            Some("client"),
            HandshakeKind::Full,
        ),
    ] {
        write_web_config(&lab, &papers, &format!("{TLS_CONFIG}{more}"));
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = tls_client(&papers, who, version);
            let mut kinds = Vec::new();
            for _ in 0..2 {
                let mut stream = connect(&lab, &config).await;
                // tickets come with the first response
                assert!(request_health(&mut stream).await.is_some());
                kinds.extend(stream.get_ref().1.handshake_kind());
            }
            assert_eq!(kinds, [HandshakeKind::Full, second], "{more} {version:?}");
        }
    }
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_closes_connections_of_untrusted_clients() {
    let (lab, papers) = (start_exporter().await, TestPki::new());
    let with_ca = |ca: &str| {
        format!(
            "{TLS_CONFIG}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {ca}\n"
        )
    };
    let any = format!("{TLS_CONFIG}  client_auth_type: RequireAnyClientCert\n");
    let both = papers.read("ca.pem") + &papers.read("self.pem");
    papers.write("both.pem", &both);
    for (before, after, gone, stays) in [
        // an authority is removed
        (
            with_ca("both.pem"),
            with_ca("ca.pem"),
            Some("self"),
            "client",
        ),
        (
            with_ca("both.pem"),
            with_ca("self.pem"),
            Some("client"),
            "self",
        ),
        // a name is no longer allowed
        (
            with_ca("both.pem"),
            format!(
                "{}  client_allowed_sans: [client.example]\n",
                with_ca("ca.pem")
            ),
            Some("self"),
            "client",
        ),
        // a certificate is verified that was not before
        (any.clone(), with_ca("ca.pem"), Some("expired"), "client"),
        (any, with_ca("ca.pem"), Some("stranger"), "client"),
        // one is asked for that was not before
        (
            TLS_CONFIG.to_owned(),
            format!("{TLS_CONFIG}{CLIENT_AUTH_CONFIG}"),
            None,
            "",
        ),
    ] {
        write_web_config(&lab, &papers, &before);
        let version = &rustls::version::TLS13;
        let mut ending = connect(&lab, &tls_client(&papers, gone, version)).await;
        assert!(request_health(&mut ending).await.is_some(), "{before}");
        let staying = (!stays.is_empty()).then(|| tls_client(&papers, Some(stays), version));
        let mut staying = match staying {
            Some(config) => Some(connect(&lab, &config).await),
            None => None,
        };
        if let Some(staying) = &mut staying {
            assert!(request_health(staying).await.is_some(), "{before}");
        }
        write_web_config(&lab, &papers, &after);
        let ended = async { while request_health(&mut ending).await.is_some() {} };
        let ended = tokio::time::timeout(crate::common::WAIT_TIMEOUT, ended).await;
        assert!(ended.is_ok(), "{gone:?} is still served with\n{after}");
        if let Some(staying) = &mut staying {
            assert!(
                request_health(staying).await.is_some(),
                "{stays} is cut off by\n{after}"
            );
        }
    }
    // in plain text, before there was TLS
    lab.app.web_config.set(WebConfig::default());
    let address = lab.base_url.strip_prefix("http://").unwrap();
    let mut plain = TcpStream::connect(address).await.unwrap();
    assert!(request_health(&mut plain).await.is_some());
    write_web_config(&lab, &papers, TLS_CONFIG);
    let ended = async { while request_health(&mut plain).await.is_some() {} };
    let ended = tokio::time::timeout(crate::common::WAIT_TIMEOUT, ended).await;
    assert!(ended.is_ok(), "plain text is still served");
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scraper_succeeds_during_guessing_and_reloads() {
    let (lab, papers) = (start_exporter().await, TestPki::new());
    lab.wait_polled().await;
    let users = format!(
        "basic_auth_users:\n  ada: {}\n",
        bcrypt::hash("secret", 6).unwrap()
    );
    write_web_config(&lab, &papers, &users);
    let url = format!("{}/-/healthy", lab.base_url);
    let client = |host| {
        let builder = Client::builder().no_proxy().tls_certs_only([]);
        builder
            .local_address(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)))
            .build()
            .unwrap()
    };
    crate::common::install_crypto_provider();
    let (stop, rejected) = (
        tokio_util::sync::CancellationToken::new(),
        Arc::new(std::sync::atomic::AtomicUsize::new(0)),
    );
    let guessers: Vec<_> = (2..122)
        .map(|host| {
            let (client, url) = (client(host), url.clone());
            let (stop, rejected) = (stop.clone(), Arc::clone(&rejected));
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    let request = client.get(&url).basic_auth("ada", Some("guess")).send();
                    if let Ok(response) = request.await {
                        assert_ne!(response.status(), 200);
                        rejected.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let begun = Instant::now();
    while rejected.load(std::sync::atomic::Ordering::Relaxed) < 120 {
        assert!(begun.elapsed() < crate::common::WAIT_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let scraper = client(1);
    for round in 0..24 {
        if round % 3 == 0 {
            // other warnings and headers, the same hash
            let more = format!("{users}# {round}\nhttp_server_config: {{http2: false}}\n");
            write_web_config(&lab, &papers, &more);
        }
        let request = scraper.get(&url).basic_auth("ada", Some("secret")).send();
        assert_eq!(request.await.unwrap().status(), 200, "scrape {round}");
    }
    // a person without anything remembered of him gets through as well, from an address that has not guessed
    let other = format!("{users}  bob: {}\n", bcrypt_hash("other"));
    write_web_config(&lab, &papers, &other);
    let request = client(200)
        .get(&url)
        .basic_auth("bob", Some("other"))
        .send();
    assert_eq!(request.await.unwrap().status(), 200);
    stop.cancel();
    join_all(guessers)
        .await
        .into_iter()
        .for_each(Result::unwrap);
    lab.stop().await.stop().await;
}

/// A client with this local address.
fn client_from(address: Ipv4Addr) -> Client {
    crate::common::install_crypto_provider();
    let builder = Client::builder().no_proxy().tls_certs_only([]);
    builder.local_address(IpAddr::V4(address)).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapers_authenticate_when_bcrypt_queue_is_full() {
    let (lab, papers) = (start_exporter().await, TestPki::new());
    let put_users = || {
        let hash = bcrypt::hash("secret", 6).unwrap();
        write_web_config(
            &lab,
            &papers,
            &format!("basic_auth_users:\n  ada: {hash}\n"),
        );
    };
    put_users();
    let url = format!("{}/-/healthy", lab.base_url);
    let stop = tokio_util::sync::CancellationToken::new();
    let (checked_tx, mut checked_rx) = tokio::sync::mpsc::unbounded_channel();
    let guessers: Vec<_> = (0..280_u16)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            let client = client_from(Ipv4Addr::new(127, 1, high, low));
            let (url, stop) = (url.clone(), stop.clone());
            let mut checked_tx = Some(checked_tx.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    let request = client.get(&url).basic_auth("ada", Some("guess")).send();
                    let Ok(response) = request.await else {
                        continue;
                    };
                    assert_ne!(response.status(), 200);
                    if response.status() == 401 {
                        checked_tx.take();
                    } else {
                        // the others keep all places taken, and the cores are for the checks
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            })
        })
        .collect();
    drop(checked_tx);
    // every guesser has had a check
    let all_checked = tokio::time::timeout(crate::common::WAIT_TIMEOUT, checked_rx.recv()).await;
    assert_eq!(all_checked, Ok(None::<()>));
    for host in 1..=4 {
        // nothing is held as verified: the hash is another one each time
        put_users();
        for host in [host, 1] {
            let scraper = client_from(Ipv4Addr::new(127, 0, 0, host));
            let request = scraper.get(&url).basic_auth("ada", Some("secret")).send();
            assert_eq!(request.await.unwrap().status(), 200, "{host}");
            put_users();
        }
    }
    stop.cancel();
    join_all(guessers)
        .await
        .into_iter()
        .for_each(Result::unwrap);
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unauthenticated_requests_do_not_consume_rate_limit() {
    let (lab, papers) = (start_exporter().await, TestPki::new());
    let users = format!("basic_auth_users:\n  ada: {}\n", bcrypt_hash("secret"));
    let rate = "rate_limit:\n  interval: 1h\n  burst: 5\n";
    let url = format!("{}/-/healthy", lab.base_url);
    let ask = async |client: &Client, password: Option<&str>| {
        let mut request = client.get(&url);
        if let Some(password) = password {
            request = request.basic_auth("ada", Some(password));
        }
        request.send().await.unwrap().status().as_u16()
    };
    let (scraper, elsewhere) = (
        client_from(Ipv4Addr::LOCALHOST),
        client_from(Ipv4Addr::new(127, 1, 0, 1)),
    );
    for (client, password) in [
        (&scraper, None),
        (&elsewhere, None),
        (&elsewhere, Some("guess")),
        (&elsewhere, Some("")),
    ] {
        write_web_config(&lab, &papers, &users);
        assert_eq!(ask(&scraper, Some("secret")).await, 200);
        write_web_config(&lab, &papers, &format!("{users}{rate}"));
        let mut codes = Vec::new();
        for _ in 0..12 {
            codes.push(ask(client, password).await);
        }
        assert!(
            codes.starts_with(&[401]) && codes.ends_with(&[429; 7]),
            "{password:?}: {codes:?}"
        );
        // right or wrong, a password from elsewhere is not looked at: the response tells nothing of it
        for password in ["secret", "guess"] {
            assert_eq!(ask(&elsewhere, Some(password)).await, 429, "{password}");
        }
        // the limit holds for the scraper as well
        for code in [200, 200, 200, 200, 200, 429, 429] {
            assert_eq!(ask(&scraper, Some("secret")).await, code, "{password:?}");
        }
    }
    // the scraper gets through with a new password as well
    write_web_config(
        &lab,
        &papers,
        &format!("{users}{rate}").replace("ada", "bob"),
    );
    let other = format!("basic_auth_users:\n  ada: {}\n", bcrypt_hash("other"));
    write_web_config(&lab, &papers, &format!("{other}{rate}"));
    for _ in 0..12 {
        ask(&elsewhere, None).await;
    }
    assert_eq!(ask(&scraper, Some("other")).await, 200);
    // guesses at the scraper's own address are bounded, also when its bucket is empty
    write_web_config(&lab, &papers, &format!("{other}{rate}"));
    let mut codes = Vec::new();
    for _ in 0..12 {
        codes.push(ask(&scraper, Some("guess")).await);
    }
    assert_eq!(codes.iter().filter(|code| **code == 401).count(), 5);
    assert_eq!(ask(&scraper, Some("other")).await, 429);
    // without users, a login changes nothing
    write_web_config(&lab, &papers, &format!("{TLS_CONFIG}{rate}"));
    let secure = papers.client().build().unwrap();
    for code in [200, 200, 200, 200, 200, 429] {
        let request = secure.get(https_url(&lab, "/-/healthy"));
        let request = request.basic_auth("ada", Some("other")).send();
        assert_eq!(request.await.unwrap().status(), code);
    }
    lab.stop().await.stop().await;
}

#[test]
fn unprotected_web_config_must_be_explicit() {
    let papers = TestPki::new();
    let load = |text: &str| WebConfig::load(&papers.write("web.yml", text)).config;
    for text in [
        "{}",
        "{}\n",
        "# open on purpose\n{}\n",
        "---\n{}\n",
        "{ }  # open",
    ] {
        assert!(load(text).is_ok(), "{text:?}");
    }
    let users = format!("basic_auth_users:\n  ada: {}\n", bcrypt_hash("secret"));
    for text in [
        "",
        "\n\n",
        "# only\n# comments\n",
        "---\n",
        "null",
        "~",
        "tls_server_config: {}\n",
        "basic_auth_users: {}\n",
        "basic_auth_users:\n",
        "tls_server_config:\n",
        "tls_server_config:\nbasic_auth_users:\n",
        "http_server_config: {http2: true}\n",
        "rate_limit: {interval: 1s, burst: 2}\n",
        "tls_server_config: {min_version: TLS13}\n",
        "tls_server_config: {cert_file: '', key_file: ''}\n",
        // a field without a value is what a file ends with that was cut
        &format!("{TLS_CONFIG}basic_auth_users:\n"),
        &format!("{TLS_CONFIG}  client_auth_type:\n"),
        &format!("{TLS_CONFIG}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file:\n"),
        &format!("{TLS_CONFIG}  client_auth_type: RequireAnyClientCert\n  client_allowed_sans:\n"),
        &format!("{TLS_CONFIG}rate_limit:\n"),
        &format!("{TLS_CONFIG}  cipher_suites: [~]\n"),
        &format!("{users}tls_server_config:\n"),
        &format!("{users}http_server_config:\n  headers:\n"),
    ] {
        let error = load(text).expect_err(text).to_string();
        assert!(error.contains("{}"), "{text:?}: {error}");
    }
    assert!(load(&users).is_ok_and(|access| access.warnings.len() == 1));
}

#[test]
fn empty_web_config_fails_startup() {
    let papers = TestPki::new();
    let sim_less = [
        ("MONGODB_ATLAS_ORG_ID", "32b6e34b3d91647abb20e7b8"),
        ("MONGODB_ATLAS_ACCESS_TOKEN", "x"),
    ];
    let variables = sim_less.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (code, output, _) = ChildProcess::exporter(
        &[
            "--web.listen-address=127.0.0.1:0",
            &papers.web_config_flag("# nothing\n"),
        ],
        &variables,
    )
    .wait_exit();
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("lets everybody in"), "{output}");
}

#[test]
fn invalid_header_and_user_values_are_rejected() {
    let papers = TestPki::new();
    let load = |text: &str| WebConfig::load(&papers.write("web.yml", text)).config;
    let users = |name: &str| format!("basic_auth_users:\n  {name}: {}\n", bcrypt_hash("secret"));
    let header = |value: &str| {
        let headers = format!("http_server_config:\n  headers:\n    X-XSS-Protection: {value}\n");
        format!("{}{headers}", users("ada"))
    };
    for good in ["'0'", "'1; mode=block'", "\"a\\tb\"", "'~ !'"] {
        assert!(load(&header(good)).is_ok(), "{good}");
    }
    for bad in [
        "'\u{e9}'",
        "'\u{1f600}'",
        "\"\\x7f\"",
        "\"a\\nb\"",
        "\"\\0\"",
    ] {
        let error = load(&header(bad)).expect_err(bad).to_string();
        assert!(error.contains("expected visible ASCII"), "{bad}: {error}");
    }
    for good in ["ada", "'ada lovelace'", "\u{e9}va", "''"] {
        assert!(load(&users(good)).is_ok(), "{good}");
    }
    for bad in ["'a:b'", "':'", "\"a\\tb\"", "\"a\\x85\""] {
        let error = load(&users(bad)).expect_err(bad).to_string();
        assert!(error.contains("invalid user name"), "{bad}: {error}");
    }
}

#[test]
fn rate_limit_without_effect_is_rejected() {
    let papers = TestPki::new();
    let load = |rate: &str| {
        let text = format!(
            "basic_auth_users:\n  ada: {}\nrate_limit: {rate}\n",
            bcrypt_hash("x")
        );
        WebConfig::load(&papers.write("web.yml", &text)).config
    };
    for good in ["{interval: 0, burst: 5}", "{interval: 1ns, burst: 5}"] {
        assert!(load(good).is_ok(), "{good}");
    }
    for bad in ["{burst: 5}", "{interval: 0.1ns, burst: 5}"] {
        let error = load(bad).expect_err(bad).to_string();
        assert!(error.contains("rate_limit.interval"), "{bad}: {error}");
    }
}
