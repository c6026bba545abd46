//! A reload of the web configuration never removes protection.

use std::sync::Arc;
use std::time::Duration;

use super::{
    ConfigFiles, RELOADED, WebConfigExporter, basic_auth_config, has_tls, make_fifo, start_binary,
};
use crate::common::pki::{TLS_CONFIG, TestPki, bcrypt_hash};
use crate::common::sim_harness::in_process_sim;
use crate::common::static_sim;
use crate::common::{ChildProcess, Scrape};
use atlas_ai_keys_exporter::web::{self};
use axum::body::Body;
use axum::http::Request;
use exporter_toolkit::web_config::WebConfig;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use rustix::process::Signal;

const HEADERS_CONFIG: &str =
    "http_server_config: {headers: {Strict-Transport-Security: max-age=1}}\n";

#[tokio::test(start_paused = true)]
async fn reload_never_removes_protection() {
    let clients = |more: &str| format!("{TLS_CONFIG}  client_auth_type: {more}\n");
    let users = basic_auth_config();
    let (verified, any) = (
        clients("RequireAndVerifyClientCert\n  client_ca_file: ca.pem"),
        clients("RequireAnyClientCert"),
    );
    let if_given = clients("VerifyClientCertIfGiven\n  client_ca_file: ca.pem");
    let sans = format!("{verified}  client_allowed_sans: [client.example]\n");
    let rate = "rate_limit: {interval: 1s, burst: 2}\n";
    let running = WebConfigExporter::start(&users).await;
    for (before, after, lost) in [
        (&users, "{}", "basic_auth_users"),
        (&users, TLS_CONFIG, "basic_auth_users"),
        (
            &users,
            &format!("{verified}basic_auth_users: {{}}\n"),
            "basic_auth_users",
        ),
        (&format!("{TLS_CONFIG}{users}"), &users, "tls_server_config"),
        (
            &format!("{TLS_CONFIG}{users}"),
            "{}",
            "tls_server_config, basic_auth_users",
        ),
        (
            &format!("{TLS_CONFIG}  min_version: TLS13\n"),
            TLS_CONFIG,
            "tls_server_config.min_version",
        ),
        (&verified, TLS_CONFIG, "client_auth_type"),
        (&verified, &clients("NoClientCert"), "client_auth_type"),
        (&verified, &clients("RequestClientCert"), "client_auth_type"),
        (&verified, &any, "client_auth_type"),
        (&verified, &if_given, "client_auth_type"),
        (&any, &if_given, "client_auth_type"),
        (&any, &clients("RequestClientCert"), "client_auth_type"),
        (&if_given, &any, "client_auth_type"),
        (&if_given, TLS_CONFIG, "client_auth_type"),
        (
            &verified,
            &clients("RequireAndVerifyClientCert"),
            "client_ca",
        ),
        (&sans, &verified, "client_allowed_sans"),
        (&format!("{users}{rate}"), &users, "rate_limit"),
        (
            &format!("{users}{HEADERS_CONFIG}"),
            &users,
            "http_server_config.headers",
        ),
        // A configuration that is as strict or stricter is applied.
        (
            &users,
            &format!("basic_auth_users:\n  cyd: {}\n", bcrypt_hash("x")),
            "",
        ),
        (&users, &format!("{TLS_CONFIG}{users}{rate}"), ""),
        (&TLS_CONFIG.to_owned(), &verified, ""),
        (&any, &verified, ""),
        (&if_given, &verified, ""),
        (&clients("RequestClientCert"), TLS_CONFIG, ""),
        (&verified, &verified.replace("ca.pem", "self.pem"), ""),
        (&sans, &sans.replace("client.example", "a, b"), ""),
        (&verified, &sans, ""),
        (
            &TLS_CONFIG.to_owned(),
            &format!("{TLS_CONFIG}  min_version: TLS13\n"),
            "",
        ),
        (&"{}".to_owned(), &users, ""),
    ] {
        let path = running.pki.write("before.yml", before);
        running
            .exporter
            .app
            .web_config
            .set(WebConfig::load(&path).config.unwrap());
        let in_force = running.exporter.app.web_config.get();
        running.write(after);
        let result = running.exporter.reloader.reload("test").await;
        let is_kept = Arc::ptr_eq(&in_force, &running.exporter.app.web_config.get());
        let scrape = running.exporter.scrape();
        if lost.is_empty() {
            assert!(
                result.is_ok() && !is_kept,
                "{before}\n->\n{after}\n{result:?}"
            );
            assert_eq!(scrape.get(RELOADED, &[]), Some(1.0));
            continue;
        }
        let error = result.expect_err(after);
        assert!(error.contains(lost) && error.contains("restart"), "{error}");
        assert!(is_kept, "{before}\n->\n{after}");
        assert_eq!(scrape.get(RELOADED, &[]), Some(0.0));
    }
    running.exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn invalid_certificate_retains_the_active_web_config() {
    let text = format!(
        "{TLS_CONFIG}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n"
    );
    let running = WebConfigExporter::start(&text).await;
    let pki = &running.pki;
    let current = || running.exporter.app.web_config.get();
    let reloaded = || running.exporter.scrape().get(RELOADED, &[]);
    for (name, content, cause) in [
        ("server.pem", "garbage".to_owned(), "no certificate"),
        ("server.pem", String::new(), "no certificate"),
        ("server.pem", pki.read("client.pem"), "with its key"),
        ("server.pem", pki.read("server.key"), "no certificate"),
        ("server.key", "garbage".to_owned(), "no private key"),
        ("server.key", pki.read("client.key"), "with its key"),
        ("server.key", pki.read("server.pem"), "no private key"),
        ("ca.pem", "garbage".to_owned(), "no certificate"),
    ] {
        let (before, original) = (current(), pki.read(name));
        pki.write(name, &content);
        let error = running.exporter.reloader.reload("test").await;
        let error = error.expect_err(name);
        // A key that does not match is an error of the certificate.
        let is_named = error.contains(name) || cause == "with its key";
        assert!(is_named && error.contains(cause), "{error}");
        assert!(Arc::ptr_eq(&before, &current()), "{name}: {cause}");
        assert_eq!(reloaded(), Some(0.0), "{name}: {cause}");
        pki.write(name, &original);
        running.exporter.advance(Duration::from_secs(10)).await;
        assert_eq!(reloaded(), Some(1.0), "{name} is valid again");
        // The watched file has the same effect without a request.
        let before = current();
        pki.write(name, &content);
        running.exporter.advance(Duration::from_secs(10)).await;
        assert!(Arc::ptr_eq(&before, &current()), "{name}: {cause}");
        assert_eq!(reloaded(), Some(0.0), "{name}: {cause}");
        pki.write(name, &original);
        running.exporter.advance(Duration::from_secs(10)).await;
        assert_eq!(reloaded(), Some(1.0), "{name} is valid again");
    }
    running.exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn truncated_web_config_never_removes_protection() {
    let text = format!(
        "# passwords\n{}{TLS_CONFIG}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\nhttp_server_config: {{http2: true}}\n",
        basic_auth_config()
    );
    let running = WebConfigExporter::start(&text).await;
    let in_order = |first: &str| {
        let (rest, last) = text.split_at(text.find(first).unwrap());
        format!("{last}{rest}")
    };
    for text in [
        &text,
        &in_order("tls_server_config"),
        &in_order("http_server_config"),
    ] {
        for length in 0..text.len() {
            running.write(&text[..length]);
            // At startup, a truncated file is not a file without protection.
            let path = running.pki.path("web.yml");
            if let Ok(config) = WebConfig::load(&path).config {
                let config = format!("{config:?}");
                assert!(!config.contains("tls: false, users: false"), "{length}");
            }
            if length % 3 == 0 {
                let _ = running.exporter.reloader.reload("test").await;
            } else {
                running.exporter.advance(Duration::from_secs(5)).await;
            }
            assert_eq!(running.status().await, 401, "{}", &text[..length]);
            assert!(running.has_tls(), "{}", &text[..length]);
        }
    }
    running.write(&text);
    assert_eq!(running.exporter.reloader.reload("test").await, Ok(()));
    running.exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn config_reload_cannot_drop_the_web_config() {
    let sim = in_process_sim(&static_sim(1, 1));
    let (files, pki) = (ConfigFiles::new(&sim), TestPki::new());
    let folder = pki.path("");
    let web = |file: &str| {
        let path = folder.join(file);
        format!("web:\n  config_file: {}\n", path.display())
    };
    pki.write("web.yml", &format!("{TLS_CONFIG}{}", basic_auth_config()));
    pki.write("open.yml", "{}");
    pki.write("users.yml", &basic_auth_config());
    pki.write("other.yml", &format!("{}{TLS_CONFIG}", basic_auth_config()));
    let orgs = files.orgs.clone();
    files.write_config(&orgs, &web("web.yml"));
    let exporter = files.start_exporter(&sim).await;
    let running = WebConfigExporter { exporter, pki };
    for (more, lost) in [
        (String::new(), "web.config.file"),
        (web("open.yml"), "tls_server_config, basic_auth_users"),
        (web("users.yml"), "tls_server_config"),
        (web("gone.yml"), "file not found"),
    ] {
        files.write_config(&orgs, &more);
        let error = running
            .exporter
            .reloader
            .reload("test")
            .await
            .expect_err(lost);
        assert!(error.contains(lost), "{error}");
        running.exporter.advance(Duration::from_secs(10)).await;
        assert_eq!(running.status().await, 401, "{lost}");
        assert!(running.has_tls(), "{lost}");
        assert_eq!(running.exporter.scrape().get(RELOADED, &[]), Some(0.0));
        // The files of the active configuration are still watched.
        let in_force = running.exporter.app.web_config.get();
        running.pki.renew();
        running.exporter.advance(Duration::from_secs(10)).await;
        let now = running.exporter.app.web_config.get();
        assert!(!Arc::ptr_eq(&in_force, &now) && has_tls(&now), "{lost}");
    }
    // A rejected file is applied after it is fixed, without another change of the configuration file.
    running
        .pki
        .write("gone.yml", &format!("{TLS_CONFIG}{}", basic_auth_config()));
    running.exporter.advance(Duration::from_secs(10)).await;
    assert_eq!(running.exporter.scrape().get(RELOADED, &[]), Some(1.0));
    files.write_config(&orgs, &web("other.yml"));
    assert_eq!(running.exporter.reloader.reload("test").await, Ok(()));
    running.exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn web_config_is_not_read_during_a_write() {
    let running = WebConfigExporter::start(&format!("{TLS_CONFIG}{}", basic_auth_config())).await;
    let has_user = async |name: &str, password: &str| {
        use base64::Engine as _;
        let router = TowerToHyperService::new(web::router(Arc::clone(&running.exporter.app)));
        let login = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
        let request = Request::get("/-/healthy").header("authorization", format!("Basic {login}"));
        let response = router.call(request.body(Body::empty()).unwrap()).await;
        response.unwrap().status() == 200
    };
    assert!(has_user("bob", "other").await);
    running.exporter.advance(Duration::from_secs(10)).await;
    let text = format!(
        "{TLS_CONFIG}{}  cyd: {}\n",
        basic_auth_config(),
        bcrypt_hash("third")
    );
    // Each prefix is a complete configuration, with fewer users than before.
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for count in (lines.len() - 2)..lines.len() {
        running.write(&lines[..count].concat());
        running.exporter.advance(Duration::from_secs(1)).await;
        assert!(
            has_user("bob", "other").await,
            "{count} of {} lines",
            lines.len()
        );
    }
    running.write(&text);
    running.exporter.advance(Duration::from_secs(6)).await;
    assert!(has_user("cyd", "third").await);
    // An explicit reload also reads twice.
    let writing = async {
        running.write(&lines[..lines.len() - 2].concat());
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.write(&text);
    };
    let (result, ()) = tokio::join!(running.exporter.reloader.reload("test"), writing);
    assert_eq!(result, Ok(()));
    assert!(has_user("bob", "other").await && has_user("cyd", "third").await);
    running.exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifo_in_place_of_web_file_does_not_block() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let (files, pki) = (ConfigFiles::new(&sim), TestPki::new());
    let web = format!(
        "{TLS_CONFIG}  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n"
    );
    let flag = pki.web_config_flag(&web);
    let (mut program, address) = start_binary(&files, &[&flag, "--web.enable-lifecycle"]);
    let client = pki.client().build().unwrap();
    let url = |path: &str| format!("https://{address}{path}");
    for (n, name) in ["web.yml", "server.pem", "server.key", "ca.pem"]
        .iter()
        .enumerate()
    {
        let content = pki.read(name);
        make_fifo(&pki.path(name));
        let response = client.post(url("/-/reload")).send().await.unwrap();
        assert_eq!(response.status(), 400, "{name}");
        let text = response.text().await.unwrap();
        assert!(
            text.contains("expected a regular file, got a pipe"),
            "{name}: {text}"
        );
        // The configuration file is still read.
        let path = format!("/m{n}");
        files.write_config(
            &files.orgs.clone(),
            &format!("web:\n  telemetry_path: {path}\n"),
        );
        let response = client.post(url("/-/reload")).send().await.unwrap();
        assert_eq!(response.status(), 400, "{name}");
        let response = client.get(url(&path)).send().await.unwrap();
        assert_eq!(response.status(), 200, "{name}");
        let scrape = Scrape::parse(&response.text().await.unwrap());
        assert_eq!(scrape.get(RELOADED, &[]), Some(0.0), "{name}");
        if n < 3 {
            pki.write(name, &content);
        }
    }
    program.signal(Signal::TERM);
    program.wait_for_output("stopp");
    let (code, output, _) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
    // At startup it is an error.
    let (code, output, _) = ChildProcess::exporter(
        &[
            &files.config_flag(),
            &flag,
            "--web.listen-address=127.0.0.1:0",
        ],
        &[],
    )
    .wait_exit();
    assert_eq!(code, Some(2), "{output}");
    assert!(
        output.contains("expected a regular file, got a pipe"),
        "{output}"
    );
    sim.stop().await;
}
