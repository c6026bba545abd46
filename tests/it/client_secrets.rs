//! The expiry of the exporter's own client secrets: requested organizations, number of requests, exported series.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::common::log_capture::LogCapture;
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{Scrape, error_fault, sim_env, static_sim};
use jiff::SignedDuration;
use mongodb_atlas_client::Endpoint;
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint, SimHandle, SimSecret};

const ACCOUNT: SimEndpoint = SimEndpoint::ServiceAccount;

const EXPIRY: &str = "atlas_ai_keys_exporter_client_secret_expiry_timestamp_seconds";

const LAST_USED: &str = "atlas_ai_keys_exporter_client_secret_last_used_timestamp_seconds";

const UP: &str = "atlas_ai_keys_exporter_org_up";

const HOUR: Duration = Duration::from_hours(1);

/// Returns the values of a family by the id of the secret.
fn values_by_secret(scrape: &Scrape, name: &str) -> BTreeMap<String, i64> {
    let series = scrape.with_name(name).map(|series| {
        #[allow(clippy::cast_possible_truncation, reason = "a time in seconds")]
        let value = series.value as i64;
        (series.labels["secret_id"].clone(), value)
    });
    series.collect()
}

/// Asserts that the secrets of the simulated service account have series, and no others. The last use is not compared,
/// because it is as old as the response.
fn assert_exported(scrape: &Scrape, sim: &SimHandle) {
    let secrets = sim.with_service_account(|account| account.secrets.clone());
    assert!(!secrets.is_empty());
    let expiry = secrets.iter();
    let expiry = expiry.map(|secret| (secret.id.clone(), secret.expires.as_second()));
    assert_eq!(values_by_secret(scrape, EXPIRY), expiry.collect());
    let used = secrets.iter().filter(|secret| secret.last_used.is_some());
    let used: Vec<_> = used.map(|secret| secret.id.as_str()).collect();
    let exported = values_by_secret(scrape, LAST_USED);
    assert_eq!(exported.len(), used.len(), "{exported:?}");
    assert!(exported.keys().all(|id| used.contains(&id.as_str())));
}

fn assert_not_exported(scrape: &Scrape) {
    assert_eq!(values_by_secret(scrape, EXPIRY), BTreeMap::new());
    assert_eq!(values_by_secret(scrape, LAST_USED), BTreeMap::new());
}

/// Returns the organizations of the requests for the service account, in order.
fn requested_orgs(exporter: &SimHarness) -> Vec<String> {
    let requests = exporter.requests_to(ACCOUNT).into_iter();
    requests.filter_map(|request| request.org).collect()
}

async fn wait_exported(exporter: &SimHarness) -> Scrape {
    let exported = |scrape: &Scrape| scrape.with_name(EXPIRY).next().is_some();
    exporter.wait_until("client secrets", exported).await
}

/// Returns a secret that is valid for a year from now.
fn new_secret(sim: &SimHandle, value: &str) -> SimSecret {
    let now = sim.now();
    SimSecret::new(value, now, now + SignedDuration::from_hours(365 * 24))
}

#[tokio::test(start_paused = true)]
async fn hidden_account_has_no_series_and_no_warning() {
    for status in [403, 404] {
        let logs = LogCapture::start();
        let sim = in_process_sim(&static_sim(1, 10));
        sim.add_fault(error_fault(ACCOUNT, None, status));
        let exporter = SimHarness::start(&sim, &[]).await;
        exporter.wait_polled(1).await;
        exporter.advance(HOUR * 10).await;
        let requests = exporter.requests_to(ACCOUNT).len();
        assert!((10..=11).contains(&requests), "HTTP {status}: {requests}");
        let scrape = exporter.scrape();
        assert_not_exported(&scrape);
        assert_eq!(scrape.values(UP), [1.0], "HTTP {status}");
        for level in ["WARN", "ERROR"] {
            assert_eq!(logs.lines(level, ""), Vec::<String>::new());
        }
        sim.clear_faults();
        exporter.advance(HOUR).await;
        assert_exported(&exporter.scrape(), &sim);
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn client_secrets_stay_after_errors_and_are_removed_after_403_or_404() {
    let sim = in_process_sim(&static_sim(1, 10));
    let exporter = SimHarness::start(&sim, &[]).await;
    wait_exported(&exporter).await;
    let before = values_by_secret(&exporter.scrape(), EXPIRY);
    assert_eq!(before.len(), 2);
    for effect in [
        Effect::error_status(500),
        Effect::error_status(401),
        Effect::Reset,
        Effect::InvalidJson,
        Effect::Delay { seconds: 100.0 },
    ] {
        sim.add_fault(Fault::new(ACCOUNT, effect.clone()));
        let before_count = exporter.app.metrics.request_count(Endpoint::ServiceAccount);
        exporter.advance(HOUR + Duration::from_mins(5)).await;
        let count = exporter.app.metrics.request_count(Endpoint::ServiceAccount);
        assert!(count > before_count, "{effect:?}");
        let now = values_by_secret(&exporter.scrape(), EXPIRY);
        assert_eq!(now, before, "{effect:?}");
        sim.clear_faults();
    }
    for status in [403, 404] {
        sim.add_fault(error_fault(ACCOUNT, None, status));
        exporter.advance(HOUR).await;
        assert_not_exported(&exporter.scrape());
        sim.clear_faults();
        exporter.advance(HOUR).await;
        assert_exported(&exporter.scrape(), &sim);
    }
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn organization_of_the_account_is_found_and_then_requested_alone() {
    let sim = in_process_sim(&static_sim(25, 250));
    let mut orgs = sim.org_ids();
    orgs.sort();
    sim.with_service_account(|account| account.org = Some(orgs[17].clone()));
    let exporter = SimHarness::start(&sim, &[]).await;
    exporter.wait_polled(25).await;
    exporter.advance(Duration::from_mins(50)).await;
    assert_eq!(requested_orgs(&exporter), orgs[..10], "ten per hour");
    assert_not_exported(&exporter.scrape());
    exporter.advance(HOUR * 10).await;
    let mut found = requested_orgs(&exporter);
    let later = found.split_off(18);
    assert_eq!(found, orgs[..18], "continued after the last organization");
    assert!((9..=10).contains(&later.len()), "{later:?}");
    assert!(later.iter().all(|org| *org == orgs[17]), "{later:?}");
    assert_exported(&exporter.scrape(), &sim);
    // Now the account belongs to another organization.
    sim.with_service_account(|account| account.org = Some(orgs[19].clone()));
    let before = requested_orgs(&exporter).len();
    exporter.advance(HOUR).await;
    assert_eq!(requested_orgs(&exporter)[before..], orgs[17..20]);
    assert_exported(&exporter.scrape(), &sim);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rotated_client_secret_has_series_until_it_is_deleted() {
    let sim = in_process_sim(&static_sim(1, 10));
    let old = sim.credentials().client_secret;
    let exporter = SimHarness::start(&sim, &[]).await;
    exporter.advance(Duration::from_mins(1)).await;
    let next = new_secret(&sim, "mdb_sa_sk_next");
    let next_id = next.id.clone();
    sim.with_service_account(|account| {
        account.secrets.retain(|secret| secret.value == old);
        account.secrets.push(next);
    });
    exporter.advance(HOUR).await;
    let scrape = exporter.scrape();
    assert_exported(&scrape, &sim);
    assert_eq!(values_by_secret(&scrape, EXPIRY).len(), 2);
    let used = values_by_secret(&scrape, LAST_USED);
    assert_eq!(used.len(), 1, "the new secret was not used yet");
    sim.with_service_account(|account| account.secrets.retain(|secret| secret.id == next_id));
    exporter.advance(HOUR).await;
    let scrape = exporter.scrape();
    assert_exported(&scrape, &sim);
    assert_eq!(values_by_secret(&scrape, EXPIRY).len(), 1);
    let deleted = used.keys().next().unwrap();
    assert!(!scrape.text.contains(deleted), "{deleted} is exported");
    exporter.stop().await;
}

async fn start_with_storage(sim: &Arc<SimHandle>, dir: &Path) -> SimHarness {
    let storage = format!("--storage.path={}", dir.display());
    SimHarness::start(sim, &[&storage]).await
}

#[tokio::test(start_paused = true)]
async fn client_secrets_survive_a_restart_during_an_outage() {
    let sim = in_process_sim(&static_sim(3, 30));
    let dir = tempfile::tempdir().unwrap();
    let exporter = start_with_storage(&sim, dir.path()).await;
    wait_exported(&exporter).await;
    exporter.advance(Duration::from_mins(30)).await;
    let before = exporter.scrape();
    exporter.kill().await;
    let home = sim.with_service_account(|account| account.org.clone().unwrap());
    for endpoint in [
        ACCOUNT,
        SimEndpoint::Token,
        SimEndpoint::AiModelApiKeys,
        SimEndpoint::RateLimits,
    ] {
        sim.add_fault(error_fault(endpoint, None, 503));
    }
    let exporter = start_with_storage(&sim, dir.path()).await;
    let requests = requested_orgs(&exporter).len();
    for name in [EXPIRY, LAST_USED] {
        let restored = values_by_secret(&exporter.scrape(), name);
        assert_eq!(restored, values_by_secret(&before, name), "{name}");
    }
    exporter.advance(Duration::from_mins(25)).await;
    assert_eq!(requested_orgs(&exporter).len(), requests, "within an hour");
    exporter.advance(HOUR * 3).await;
    let during = values_by_secret(&exporter.scrape(), EXPIRY);
    assert_eq!(during, values_by_secret(&before, EXPIRY));
    sim.clear_faults();
    exporter.advance(HOUR * 2).await;
    assert_exported(&exporter.scrape(), &sim);
    let orgs = requested_orgs(&exporter).split_off(requests);
    assert!(
        orgs.len() > 1 && orgs.iter().all(|org| *org == home),
        "{orgs:?}"
    );
    exporter.stop().await;
}

/// Writes the configuration file with these credentials, each with the fields of its kind.
fn write_config(dir: &Path, sim: &SimHandle, credentials: &[(&str, [&str; 2])]) {
    let mut text = format!("atlas:\n  base_url: {}\ncredentials:\n", sim.base_url());
    for ((name, fields), org) in credentials.iter().zip(sim.org_ids()) {
        let [id, secret] = fields.map(|field| format!("{field}_file: {field}"));
        let fields = format!("- name: {name}\n  {id}\n  {secret}\n  org_ids: ['{org}']\n");
        text.push_str(&fields);
    }
    let temporary = dir.join("temporary");
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(temporary, dir.join("config.yml")).unwrap();
}

const SERVICE_ACCOUNT: [&str; 2] = ["client_id", "client_secret"];

const API_KEY: [&str; 2] = ["public_api_key", "private_api_key"];

async fn start_with_config(sim: &Arc<SimHandle>, dir: &Path) -> SimHarness {
    let account = sim.credentials();
    for (name, value) in [
        ("client_id", account.client_id),
        ("client_secret", account.client_secret),
        ("public_api_key", account.public_key),
        ("private_api_key", account.private_key),
    ] {
        std::fs::write(dir.join(name), value).unwrap();
    }
    let file = format!("--config.file={}", dir.join("config.yml").display());
    SimHarness::start_with(sim, vec![("X".into(), "y".into())], &[&file]).await
}

#[tokio::test(start_paused = true)]
async fn client_secrets_of_a_removed_or_replaced_credential_are_removed() {
    let sim = in_process_sim(&static_sim(2, 20));
    let dir = tempfile::tempdir().unwrap();
    let both = [("first", SERVICE_ACCOUNT), ("second", SERVICE_ACCOUNT)];
    let write = |credentials: &[(&str, [&str; 2])]| write_config(dir.path(), &sim, credentials);
    write(&both);
    let exporter = start_with_config(&sim, dir.path()).await;
    wait_exported(&exporter).await;
    let exported = |exporter: &SimHarness| {
        let scrape = exporter.scrape();
        let series = scrape.with_name(EXPIRY);
        series
            .map(|series| series.labels["credential"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        exported(&exporter),
        ["first", "first"],
        "only in the organization of the account"
    );
    // The first credential becomes an API key.
    write(&[("first", API_KEY), ("second", SERVICE_ACCOUNT)]);
    exporter.advance(Duration::from_secs(10)).await;
    assert_not_exported(&exporter.scrape());
    let before = exporter.requests_to(ACCOUNT).len();
    exporter.advance(HOUR * 3).await;
    assert_not_exported(&exporter.scrape());
    let requests = exporter.requests_to(ACCOUNT).len() - before;
    assert!((3..=4).contains(&requests), "only the second: {requests}");
    write(&both);
    exporter.advance(Duration::from_mins(1)).await;
    assert_eq!(exported(&exporter), ["first", "first"]);
    write(&[("other", SERVICE_ACCOUNT)]);
    exporter.advance(Duration::from_mins(1)).await;
    assert_eq!(exported(&exporter), ["other", "other"]);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn changed_credential_file_requests_client_secrets_immediately() {
    let sim = in_process_sim(&static_sim(1, 10));
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &sim, &[("main", SERVICE_ACCOUNT)]);
    let exporter = start_with_config(&sim, dir.path()).await;
    wait_exported(&exporter).await;
    exporter.advance(Duration::from_mins(10)).await;
    assert_eq!(exporter.requests_to(ACCOUNT).len(), 1);
    let next = new_secret(&sim, "mdb_sa_sk_next");
    sim.with_credentials(|account| account.next_client_secret = Some(next.value.clone()));
    sim.with_service_account(|account| account.secrets = vec![next]);
    std::fs::write(dir.path().join("client_secret"), "mdb_sa_sk_next").unwrap();
    exporter.advance(Duration::from_mins(1)).await;
    assert_exported(&exporter.scrape(), &sim);
    let used = values_by_secret(&exporter.scrape(), LAST_USED);
    let token_at = exporter.requests_to(SimEndpoint::Token).last().unwrap().at;
    let used: Vec<i64> = used.into_values().collect();
    assert_eq!(used, [token_at.as_second()], "time of the last token");
    // The account exists in no organization.
    std::fs::write(
        dir.path().join("client_id"),
        "mdb_sa_id_000000000000000000000000",
    )
    .unwrap();
    exporter.advance(Duration::from_mins(1)).await;
    assert_eq!(exporter.requests_to(ACCOUNT).last().unwrap().status, 404);
    assert_not_exported(&exporter.scrape());
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn credential_without_a_service_account_requests_no_client_secrets() {
    let sim = in_process_sim(&static_sim(1, 10));
    let account = sim.credentials();
    let mut variables = sim_env(&sim);
    variables.retain(|(name, _)| !name.contains("CLIENT"));
    for credential in [
        vec![
            ("MONGODB_ATLAS_PUBLIC_API_KEY", account.public_key),
            ("MONGODB_ATLAS_PRIVATE_API_KEY", account.private_key),
        ],
        vec![("MONGODB_ATLAS_ACCESS_TOKEN", account.access_token)],
    ] {
        let own = credential.into_iter();
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let variables = variables.iter().cloned().chain(own).collect();
        let exporter = SimHarness::start_with(&sim, variables, &[]).await;
        exporter.wait_polled(1).await;
        exporter.advance(HOUR * 3).await;
        assert_eq!(exporter.requests_to(ACCOUNT), []);
        assert_not_exported(&exporter.scrape());
        exporter.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn client_secret_values_are_not_stored_or_logged() {
    let logs = LogCapture::start();
    let sim = in_process_sim(&static_sim(1, 10));
    let dir = tempfile::tempdir().unwrap();
    sim.add_fault(Fault::new(ACCOUNT, Effect::Secret));
    let exporter = start_with_storage(&sim, dir.path()).await;
    let scrape = wait_exported(&exporter).await;
    exporter.advance(Duration::from_mins(10)).await;
    let page = exporter.get("/").await.1;
    exporter.stop().await;
    let values = sim.with_service_account(|account| {
        let secrets = account.secrets.iter();
        secrets
            .map(|secret| secret.value.clone())
            .collect::<Vec<_>>()
    });
    let id = sim.with_service_account(|account| account.secrets[0].id.clone());
    let files = std::fs::read_dir(dir.path()).unwrap();
    let files = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
    let stored: Vec<String> = files
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect();
    assert!(
        stored.iter().any(|text| text.contains(&id)),
        "the id is stored"
    );
    let logged = logs.lines("", "");
    assert!(!logged.is_empty());
    for text in stored.iter().chain(&logged).chain([&page, &scrape.text]) {
        assert!(!text.contains("mdb_sa_sk_"), "a secret leaked");
        for value in &values {
            assert!(!text.contains(value), "a client secret");
        }
    }
}
