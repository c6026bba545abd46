//! Tests of basic authentication, also while other clients guess passwords.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{https_url, start_exporter, status};
use crate::common::eventually;
use crate::common::pki::{TLS_CONFIG, TestPki, bcrypt_hash};
use futures_util::future::join_all;
use reqwest::Client;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn basic_auth_rejects_requests_without_valid_credentials() {
    let (exporter, pki) = (start_exporter().await, TestPki::new());
    exporter.wait_polled().await;
    let users = format!(
        "basic_auth_users:\n  ada: {}\n  bob: {}\n",
        bcrypt_hash("secret"),
        bcrypt_hash("other")
    );
    exporter.set_web_config(&pki, &format!("{TLS_CONFIG}{users}"));
    let client = pki.client().build().unwrap();
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
        let response = client.get(https_url(&exporter, path)).send().await.unwrap();
        assert_eq!(response.status(), 401, "{path}");
        let challenge = response.headers()["www-authenticate"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(challenge.starts_with("Basic realm="), "{challenge}");
        assert_eq!(response.text().await.unwrap(), "", "no body");
    }
    let request_status = async |user: &str, password: &str| {
        let request = client
            .get(https_url(&exporter, "/metrics"))
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
        let status = request_status(user, password).await;
        assert_eq!(status, 401, "{user:?} {password:?}");
    }
    for (user, password) in [("ada", "secret"), ("bob", "other"), ("ada", "secret")] {
        assert_eq!(request_status(user, password).await, 200, "{user}");
    }
    for bad in ["Basic", "Basic !!!", "Bearer x", "Basic YWRh", "basic /w=="] {
        let request = client
            .get(https_url(&exporter, "/"))
            .header("authorization", bad);
        assert_eq!(request.send().await.unwrap().status(), 401, "{bad}");
    }
    let plain = Client::builder().no_proxy().build().unwrap();
    assert_eq!(
        status(&plain, &format!("{}/metrics", exporter.base_url)).await,
        None,
        "in plain text"
    );
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapes_succeed_during_password_guessing() {
    let (exporter, pki) = (start_exporter().await, TestPki::new());
    exporter.wait_polled().await;
    // Every failed check costs as much as the hash of bob, and takes longer than many scrapes.
    let users = format!(
        "basic_auth_users:\n  ada: {}\n  bob: {}\n",
        bcrypt_hash("secret"),
        bcrypt::hash("other", 13).unwrap()
    );
    exporter.set_web_config(&pki, &users);
    let client = Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/metrics", exporter.base_url);
    let request_status = |password: String| {
        let request = client.get(&url).basic_auth("ada", Some(password));
        async { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(request_status("secret".to_owned()).await, 200);
    let guesses = (0..200).map(|n| request_status(format!("guess {n}")));
    let mut guesses: JoinSet<_> = guesses.collect();
    let mut statuses = Vec::new();
    // One address can have 16 waiting checks; excess requests are rejected.
    while !statuses.contains(&503) {
        statuses.push(guesses.join_next().await.unwrap().unwrap());
    }
    for _ in 0..20 {
        assert_eq!(request_status("secret".to_owned()).await, 200);
    }
    while let Some(status) = guesses.try_join_next() {
        statuses.push(status.unwrap());
    }
    let checked = statuses.iter().filter(|status| **status == 401).count();
    assert!(checked < 5, "the scrapes waited for {checked} guesses");
    while !statuses.contains(&401) {
        statuses.push(guesses.join_next().await.unwrap().unwrap());
    }
    assert!(
        statuses.iter().all(|code| [401, 503].contains(code)),
        "{statuses:?}"
    );
    guesses.shutdown().await;
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scraper_succeeds_during_guessing_and_reloads() {
    let (exporter, pki) = (start_exporter().await, TestPki::new());
    exporter.wait_polled().await;
    let users = format!(
        "basic_auth_users:\n  ada: {}\n",
        bcrypt::hash("secret", 6).unwrap()
    );
    exporter.set_web_config(&pki, &users);
    let url = format!("{}/-/healthy", exporter.base_url);
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
        Arc::new(AtomicUsize::new(0)),
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
                        rejected.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    eventually("120 guesses are rejected", async || {
        let rejected = rejected.load(Ordering::Relaxed);
        if rejected < 120 {
            Err(rejected)
        } else {
            Ok(())
        }
    })
    .await;
    let scraper = client(1);
    for round in 0..24 {
        if round % 3 == 0 {
            // The file changes, but the hash does not.
            let more = format!("{users}# {round}\nhttp_server_config: {{http2: false}}\n");
            exporter.set_web_config(&pki, &more);
        }
        let request = scraper.get(&url).basic_auth("ada", Some("secret")).send();
        assert_eq!(request.await.unwrap().status(), 200, "scrape {round}");
    }
    // A user without a cached password succeeds as well, from an address without failed checks.
    let other = format!("{users}  bob: {}\n", bcrypt_hash("other"));
    exporter.set_web_config(&pki, &other);
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
    exporter.stop().await.stop().await;
}

/// Returns a client with this local address.
fn client_from(address: Ipv4Addr) -> Client {
    crate::common::install_crypto_provider();
    let builder = Client::builder().no_proxy().tls_certs_only([]);
    builder.local_address(IpAddr::V4(address)).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapers_authenticate_when_bcrypt_queue_is_full() {
    let (exporter, pki) = (start_exporter().await, TestPki::new());
    let put_users = || {
        let hash = bcrypt::hash("secret", 6).unwrap();
        exporter.set_web_config(&pki, &format!("basic_auth_users:\n  ada: {hash}\n"));
    };
    put_users();
    let url = format!("{}/-/healthy", exporter.base_url);
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
                        // The other clients keep the queue full; leave CPU time for bcrypt.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            })
        })
        .collect();
    drop(checked_tx);
    // Wait until a password of every guessing client was checked.
    let all_checked = tokio::time::timeout(crate::common::wait_timeout(), checked_rx.recv()).await;
    assert_eq!(all_checked, Ok(None::<()>));
    for host in 1..=4 {
        // The hash changes each time, so no cached password is valid.
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
    exporter.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unauthenticated_requests_do_not_use_the_scrapers_rate_limit() {
    let (exporter, pki) = (start_exporter().await, TestPki::new());
    let users = format!("basic_auth_users:\n  ada: {}\n", bcrypt_hash("secret"));
    let rate = "rate_limit:\n  interval: 1h\n  burst: 5\n";
    let url = format!("{}/-/healthy", exporter.base_url);
    let request_status = async |client: &Client, password: Option<&str>| {
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
        exporter.set_web_config(&pki, &users);
        assert_eq!(request_status(&scraper, Some("secret")).await, 200);
        exporter.set_web_config(&pki, &format!("{users}{rate}"));
        let mut codes = Vec::new();
        for _ in 0..12 {
            codes.push(request_status(client, password).await);
        }
        assert!(
            codes.starts_with(&[401]) && codes.ends_with(&[429; 7]),
            "{password:?}: {codes:?}"
        );
        // Passwords from another address are not checked, so the status reveals nothing about them.
        for password in ["secret", "guess"] {
            let status = request_status(&elsewhere, Some(password)).await;
            assert_eq!(status, 429, "{password}");
        }
        // The limit applies to the scraper as well.
        for code in [200, 200, 200, 200, 200, 429, 429] {
            let status = request_status(&scraper, Some("secret")).await;
            assert_eq!(status, code, "{password:?}");
        }
    }
    // The scraper succeeds with a new password as well.
    exporter.set_web_config(&pki, &format!("{users}{rate}").replace("ada", "bob"));
    let other = format!("basic_auth_users:\n  ada: {}\n", bcrypt_hash("other"));
    exporter.set_web_config(&pki, &format!("{other}{rate}"));
    for _ in 0..12 {
        request_status(&elsewhere, None).await;
    }
    assert_eq!(request_status(&scraper, Some("other")).await, 200);
    // Guesses from the scraper's address are limited as well.
    exporter.set_web_config(&pki, &format!("{other}{rate}"));
    let mut codes = Vec::new();
    for _ in 0..12 {
        codes.push(request_status(&scraper, Some("guess")).await);
    }
    assert_eq!(codes.iter().filter(|code| **code == 401).count(), 5);
    assert_eq!(request_status(&scraper, Some("other")).await, 429);
    // Without users, credentials have no effect.
    exporter.set_web_config(&pki, &format!("{TLS_CONFIG}{rate}"));
    let secure = pki.client().build().unwrap();
    for code in [200, 200, 200, 200, 200, 429] {
        let request = secure.get(https_url(&exporter, "/-/healthy"));
        let request = request.basic_auth("ada", Some("other")).send();
        assert_eq!(request.await.unwrap().status(), code);
    }
    exporter.stop().await.stop().await;
}
