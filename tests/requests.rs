//! What a request to Atlas looks like on the wire, and what a connection that is none is called.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use atlas_ai_keys_exporter::sim::{Effect, Fault, SimEndpoint};
use common::{Lab, still};

const ORG: &str = "32b6e34b3d91647abb20e7b8";

fn variables(base: String) -> Vec<(String, String)> {
    [
        ("MONGODB_ATLAS_BASE_URL", base),
        ("MONGODB_ATLAS_ORG_ID", ORG.to_owned()),
        ("MONGODB_ATLAS_ACCESS_TOKEN", "a-ready-token".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// Takes one connection, reads what comes first and answers `answer`.
fn listen(answer: &'static [u8]) -> (u16, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut first = vec![0; 16 << 10];
            let read = stream.read(&mut first).unwrap_or(0);
            first.truncate(read);
            let _ = stream.write_all(answer);
            if sender.send(first).is_err() {
                return;
            }
        }
    });
    (port, receiver)
}

/// An exporter whose Atlas is at `base`; `sim` only gives the laboratory its form.
async fn lab(base: String) -> Lab {
    let sim = common::sim(still(1, 1)).await;
    Lab::watching(sim, variables(base), &["--atlas.poll-interval=1s"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_says_who_asks_for_what_in_which_version() {
    let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (port, requests) = listen(answer);
    let lab = lab(format!("http://127.0.0.1:{port}/below/a/path")).await;
    let request = tokio::task::spawn_blocking(move || {
        // the rate limits are asked for as well
        let all = requests
            .iter()
            .map(|bytes| String::from_utf8(bytes).unwrap());
        all.into_iter()
            .find(|request| request.contains("aiModelApiKeys"))
            .unwrap()
    })
    .await
    .unwrap();
    let first = request.lines().next().unwrap();
    assert_eq!(
        first,
        format!(
            "GET /below/a/path/api/atlas/v2/orgs/{ORG}/aiModelApiKeys?itemsPerPage=500&pageNum=1 HTTP/1.1"
        )
    );
    let lower = request.to_ascii_lowercase();
    for header in [
        format!(
            "user-agent: atlas-ai-keys-exporter/{}\r\n",
            env!("CARGO_PKG_VERSION")
        ),
        "accept: application/vnd.atlas.2025-03-12+json\r\n".to_owned(),
        "accept-encoding: gzip\r\n".to_owned(),
        "authorization: bearer a-ready-token\r\n".to_owned(),
    ] {
        assert!(lower.contains(&header), "{header:?} in\n{request}");
    }
    assert!(!lower.contains("referer") && !lower.contains("cookie"));
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_no_tls_is_a_matter_of_tls() {
    let (port, _requests) = listen(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let lab = lab(format!("https://127.0.0.1:{port}")).await;
    lab.wait("the reason tls", |scrape| {
        scrape.failures(ORG, "tls") >= 1.0
    })
    .await;
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_is_a_matter_of_the_connection() {
    let lab = lab(format!("http://127.0.0.1:{}", common::free_port())).await;
    lab.wait("the reason connection", |scrape| {
        scrape.failures(ORG, "connection") >= 1.0
    })
    .await;
    lab.stop().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_of_a_redirect_never_hears_of_it() {
    let (port, requests) = listen(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let sim = common::sim(still(1, 5)).await;
    let org = sim.org_ids()[0].clone();
    for endpoint in [SimEndpoint::AiModelApiKeys, SimEndpoint::Token] {
        let location = format!("http://127.0.0.1:{port}/elsewhere");
        sim.add_fault(Fault::new(endpoint, Effect::Redirect { location }).times(2));
    }
    let variables = common::sim_variables(&sim);
    let lab = Lab::watching(sim, variables, &["--atlas.poll-interval=1s"]).await;
    lab.wait("both redirects to be refused", |scrape| {
        scrape.failures(&org, "invalid_response") >= 2.0
    })
    .await;
    lab.walked().await;
    assert!(requests.try_recv().is_err(), "a redirect was followed");
    lab.stop().await.stop().await;
}
