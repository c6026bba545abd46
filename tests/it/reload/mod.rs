//! Rotated credentials and changed configurations, without a restart and without a failed poll.

mod config_file;
mod credentials;
mod endpoint;
mod web_config;
mod web_config_writes;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::common::pki::{TestPki, bcrypt_hash};
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{
    ChildProcess, Scrape, expected_sim_keys, exposed_keys, get, sim_env, static_sim,
};
use exporter_toolkit::web_config::WebConfig;
use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimConfig, SimEndpoint, SimHandle};
use tempfile::TempDir;

const FAILURES: &str = "atlas_ai_keys_exporter_org_poll_failures_total";

const RELOADED: &str = "atlas_ai_keys_exporter_config_last_reload_successful";

/// A configuration file with one service account, and the files that it refers to.
struct ConfigFiles {
    dir: TempDir,
    base_url: String,
    orgs: Vec<String>,
}

impl ConfigFiles {
    fn new(sim: &SimHandle) -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
            base_url: sim.base_url(),
            orgs: sim.org_ids(),
        };
        let account = sim.credentials();
        files.write("client-id", &account.client_id);
        files.write("client-secret", &account.client_secret);
        files.write_config(&files.orgs.clone(), "");
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces a file atomically.
    fn write(&self, name: &str, text: &str) {
        let temporary = self.path("temporary");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, self.path(name)).unwrap();
    }

    fn write_config(&self, orgs: &[String], more: &str) {
        let ids: Vec<String> = orgs.iter().map(|org| format!("'{org}'")).collect();
        self.write(
            "config.yml",
            &format!(
                "credentials:\n- name: main\n  client_id_file: client-id\n  client_secret_file: client-secret\n  org_ids: [{}]\n\
                 atlas:\n  base_url: {}\n{more}",
                ids.join(", "),
                self.base_url
            ),
        );
    }

    fn config_flag(&self) -> String {
        format!("--config.file={}", self.path("config.yml").display())
    }

    async fn start_exporter(&self, sim: &Arc<SimHandle>) -> SimHarness {
        SimHarness::start_with(sim, vec![("X".into(), "y".into())], &[&self.config_flag()]).await
    }
}

fn count_token_requests(exporter: &SimHarness) -> usize {
    exporter.requests_to(SimEndpoint::Token).len()
}

#[tokio::test(start_paused = true)]
async fn config_change_is_applied_and_unchanged_parts_are_retained() {
    let sim = in_process_sim(&static_sim(3, 60));
    let files = ConfigFiles::new(&sim);
    files.write_config(&files.orgs[..2], "");
    let exporter = files.start_exporter(&sim).await;
    exporter.wait_polled(2).await;
    exporter.advance(Duration::from_mins(30)).await;
    let before = exporter.scrape();
    let sent = sim.requests().len();
    files.write_config(
        &files.orgs[1..],
        "metrics:\n  idle_thresholds: [1d, 2d]\nweb:\n  telemetry_path: /m\n",
    );
    exporter.advance(Duration::from_secs(5)).await;
    let after = exporter.scrape();
    assert_eq!(after.get(RELOADED, &[]), Some(1.0));
    let up = |scrape: &Scrape, org: &str| {
        scrape.get("atlas_ai_keys_exporter_org_up", &[("org_id", org)])
    };
    assert_eq!(up(&after, &files.orgs[0]), None, "no longer polled");
    assert!(!after.text.contains(&files.orgs[0]));
    assert_eq!(
        up(&after, &files.orgs[1]),
        Some(1.0),
        "the inventory was retained"
    );
    assert_eq!(up(&after, &files.orgs[2]), Some(1.0), "polled immediately");
    let thresholds: BTreeSet<String> = after
        .with_name("mongodbatlas_ai_model_api_keys_idle")
        .map(|series| series.labels["threshold"].clone())
        .collect();
    assert_eq!(thresholds, BTreeSet::from(["1d", "2d"].map(str::to_owned)));
    let success = "atlas_ai_keys_exporter_org_last_success_timestamp_seconds";
    let label: &[(&str, &str)] = &[("org_id", &files.orgs[1])];
    assert_eq!(after.get(success, label), before.get(success, label));
    assert_eq!(count_token_requests(&exporter), 1, "the token was retained");
    assert!(
        sim.requests().len() - sent <= 4,
        "only the new organization was requested"
    );
    exporter.assert_in_sync(Duration::from_mins(10)).await;
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn invalid_config_is_ignored_and_reported() {
    let sim = in_process_sim(&static_sim(1, 20));
    let files = ConfigFiles::new(&sim);
    let exporter = files.start_exporter(&sim).await;
    let before = exporter.wait_polled(1).await;
    let success = "atlas_ai_keys_exporter_config_last_reload_success_timestamp_seconds";
    for invalid in [
        "nonsense: 1\n",
        "atlas:\n  page_size: 0\n",
        "web: [\n",
        "log:\n  level: loud\n",
    ] {
        files.write("config.yml", invalid);
        exporter.advance(Duration::from_secs(5)).await;
        let scrape = exporter.scrape();
        assert_eq!(scrape.get(RELOADED, &[]), Some(0.0), "{invalid}");
        assert_eq!(scrape.get(success, &[]), before.get(success, &[]));
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    }
    std::fs::remove_file(files.path("config.yml")).unwrap();
    exporter.advance(Duration::from_secs(5)).await;
    assert_eq!(
        exporter.scrape().get(RELOADED, &[]),
        Some(0.0),
        "a missing file"
    );
    let errors = exporter.reloader.reload("test").await.unwrap_err();
    assert!(errors.contains("config.yml: cannot be read"), "{errors}");
    files.write_config(&files.orgs.clone(), "");
    exporter.advance(Duration::from_secs(5)).await;
    let scrape = exporter.scrape();
    assert_eq!(scrape.get(RELOADED, &[]), Some(1.0));
    assert!(scrape.get(success, &[]) > before.get(success, &[]));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rate_limit_state_survives_reload() {
    let sim = in_process_sim(&SimConfig {
        org_bucket: mongodb_atlas_sim::BucketConfig::SMALLEST,
        ..static_sim(1, 60)
    });
    let files = ConfigFiles::new(&sim);
    let more = |n: u32| format!("  page_size: 10\n  poll_interval: 1m\n  timeout: {n}s\n");
    files.write_config(&files.orgs.clone(), &more(20));
    let exporter = files.start_exporter(&sim).await;
    exporter.wait_polled(1).await;
    // Responses do not report the state of the bucket.
    sim.add_fault(Fault::new(
        SimEndpoint::AiModelApiKeys,
        Effect::NoRateLimitHeaders,
    ));
    let polls = exporter.count_polls();
    for n in 1..60 {
        // Each reload creates another client with the same bucket.
        files.write_config(&files.orgs.clone(), &more(20 + n));
        exporter.advance(Duration::from_secs(30)).await;
    }
    // A poll takes 6 requests, at 4 per minute.
    polls.assert_polled(12);
    assert_eq!(exporter.count_responses(429), 0);
    assert_eq!(exporter.scrape().sum(FAILURES), 0.0);
    assert!(
        sim.live_token_count() <= 2,
        "removed clients revoke their tokens"
    );
    exporter.assert_in_sync(Duration::from_mins(4)).await;
    exporter.stop().await;
}

/// Starts the binary with a configuration file, and returns its address.
fn start_binary(files: &ConfigFiles, flags: &[&str]) -> (ChildProcess, String) {
    let flag = files.config_flag();
    let mut line = vec!["--web.listen-address=127.0.0.1:0", &flag];
    line.extend(flags);
    let mut program = ChildProcess::exporter(&line, &[]);
    let address = program.wait_for_output("address=");
    program.wait_for_output("poll succeeded");
    (program, address)
}

async fn send_request(address: &str, method: reqwest::Method) -> (u16, String) {
    // The first `get` installs the crypto provider.
    get(&format!("http://{address}/-/healthy")).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{address}/-/reload");
    let response = client.request(method, url).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn reload_with_another_secret_ends_the_backoff() {
    let sim = in_process_sim(&static_sim(1, 10));
    let files = ConfigFiles::new(&sim);
    files.write("client-secret", "wrong");
    let exporter = files.start_exporter(&sim).await;
    exporter.advance(Duration::from_hours(3)).await;
    assert_eq!(exporter.scrape().sum("atlas_ai_keys_exporter_org_up"), 0.0);
    files.write("other-secret", &sim.credentials().client_secret);
    let text = std::fs::read_to_string(files.path("config.yml")).unwrap();
    files.write("config.yml", &text.replace("client-secret", "other-secret"));
    exporter.advance(Duration::from_secs(10)).await;
    assert_eq!(exporter.scrape().sum("atlas_ai_keys_exporter_org_up"), 1.0);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn outage_state_survives_reload() {
    let sim = in_process_sim(&static_sim(1, 20));
    let files = ConfigFiles::new(&sim);
    let exporter = files.start_exporter(&sim).await;
    exporter.wait_polled(1).await;
    let fault = Effect::Status {
        status: 503,
        body: ErrorBodyFormat::Json,
        retry_after: None,
    };
    sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, fault));
    exporter.advance(Duration::from_mins(30)).await;
    let failures = exporter.scrape().sum(FAILURES);
    assert!(failures > 0.0);
    files.write_config(&files.orgs.clone(), "metrics:\n  idle_thresholds: 3d\n");
    exporter.advance(Duration::from_secs(5)).await;
    let scrape = exporter.scrape();
    assert_eq!(scrape.get(RELOADED, &[]), Some(1.0));
    assert!(scrape.sum(FAILURES) >= failures, "counters are retained");
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 0.0);
    assert_eq!(
        exposed_keys(&scrape),
        expected_sim_keys(&sim),
        "the inventory is retained"
    );
    sim.clear_faults();
    exporter.wait_polled(1).await;
    exporter.assert_in_sync(Duration::from_mins(10)).await;
    exporter.stop().await;
}

/// An exporter in simulated time with a web configuration that is not written atomically.
struct WebConfigExporter {
    exporter: SimHarness,
    pki: TestPki,
}

impl WebConfigExporter {
    async fn start(text: &str) -> Self {
        let (sim, pki) = (in_process_sim(&static_sim(1, 1)), TestPki::new());
        let flag = pki.web_config_flag(text);
        let exporter = SimHarness::start_with(&sim, sim_env(&sim), &[&flag]).await;
        Self { exporter, pki }
    }

    /// Overwrites the content of the file in place, and replaces obstacles.
    fn write(&self, text: &str) {
        let path = self.clear_dir();
        std::fs::write(path, text).unwrap();
    }

    /// Removes everything except a regular file.
    fn clear_dir(&self) -> PathBuf {
        let path = self.pki.path("web.yml");
        if path.is_dir() {
            std::fs::remove_dir(&path).unwrap();
        } else if !std::fs::symlink_metadata(&path).is_ok_and(|data| data.is_file()) {
            let _ = std::fs::remove_file(&path);
        }
        path
    }

    fn make_fifo(&self, name: &str) {
        make_fifo(&self.pki.path(name));
    }

    /// Returns the status of a request without a password.
    async fn status(&self) -> u16 {
        self.exporter.get("/metrics").await.0
    }

    fn has_tls(&self) -> bool {
        has_tls(&self.exporter.app.web_config.get())
    }
}

fn has_tls(access: &WebConfig) -> bool {
    format!("{access:?}").contains("tls: true")
}

fn make_fifo(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let _ = std::fs::remove_file(path);
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

fn basic_auth_config() -> String {
    format!(
        "basic_auth_users:\n  ada: {}\n  bob: {}\n",
        bcrypt_hash("secret"),
        bcrypt_hash("other")
    )
}

#[tokio::test(start_paused = true)]
async fn reload_never_drops_allowed_hosts() {
    let sim = in_process_sim(&static_sim(1, 1));
    let files = ConfigFiles::new(&sim);
    let orgs = files.orgs.clone();
    files.write_config(&orgs, "web:\n  allowed_hosts: good.example\n");
    let exporter = files.start_exporter(&sim).await;
    files.write_config(&orgs, "");
    let error = exporter.reloader.reload("test").await.unwrap_err();
    assert!(error.contains("web.allowed_hosts"), "{error}");
    files.write_config(&orgs, "web:\n  allowed_hosts: other.example\n");
    exporter.reloader.reload("test").await.unwrap();
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn reload_replaces_configured_interval_and_state_directory() {
    let sim = in_process_sim(&static_sim(2, 20));
    let files = ConfigFiles::new(&sim);
    let write = |interval: &str, storage: Option<&str>| {
        let storage = storage.map(|name| {
            let path = files.path(name);
            format!("storage:\n  path: {}\n", path.display())
        });
        let more = format!(
            "  poll_interval: {interval}\n{}",
            storage.unwrap_or_default()
        );
        files.write_config(&files.orgs.clone(), &more);
    };
    let configured = "atlas_ai_keys_exporter_org_configured_poll_interval_seconds";
    let last_failed = "atlas_ai_keys_exporter_storage_last_write_failed";
    write("1m", Some("a"));
    let exporter = files.start_exporter(&sim).await;
    exporter.wait_polled(2).await;
    // No file can be written if the path of the directory is a file.
    std::fs::remove_dir_all(files.path("a")).unwrap();
    std::fs::write(files.path("a"), "").unwrap();
    let scrape = exporter
        .wait_until("a failed write", |scrape| {
            scrape.values(last_failed) == [1.0]
        })
        .await;
    assert_eq!(scrape.values(configured), [60.0; 2]);
    for (interval, storage, seconds, failed) in [
        ("2m", Some("b"), 120.0, &[0.0][..]),
        ("3m", None, 180.0, &[]),
        ("4m", Some("b"), 240.0, &[0.0]),
    ] {
        write(interval, storage);
        exporter.advance(Duration::from_secs(5)).await;
        let scrape = exporter.scrape();
        assert_eq!(scrape.get(RELOADED, &[]), Some(1.0));
        assert_eq!(scrape.values(configured), [seconds; 2]);
        assert_eq!(scrape.values(last_failed), failed, "{storage:?}");
    }
    exporter.stop().await;
}
