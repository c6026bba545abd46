//! Rotated credentials and changed configurations, without a restart and without a failed poll.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::common::pki::{TestPki, bcrypt_hash};
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{
    ChildProcess, Scrape, expected_sim_keys, exposed_keys, get, sim_env, static_sim,
};
use atlas_ai_keys_exporter::web::{self};
use axum::body::Body;
use axum::http::Request;
use exporter_toolkit::web_config::WebConfig;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimConfig, SimEndpoint, SimHandle};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use rustix::process::Signal;
use tempfile::TempDir;

const FAILURES: &str = "atlas_ai_keys_exporter_org_poll_failures_total";
const RELOADED: &str = "atlas_ai_keys_exporter_config_last_reload_successful";

/// A configuration file with one service account, beside the files that it names.
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

    /// Replaces a file the way that careful programs do.
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
async fn secret_rotation_with_overlap_fails_no_poll() {
    let sim = in_process_sim(&SimConfig {
        token_lifetime_seconds: 1800,
        ..static_sim(2, 40)
    });
    let files = ConfigFiles::new(&sim);
    let exporter = files.start_exporter(&sim).await;
    exporter.wait_polled(2).await;
    for round in 0..6 {
        let next = format!("mdb_sa_sk_next_{round}");
        sim.with_credentials(|account| account.next_client_secret = Some(next.clone()));
        files.write("client-secret", &format!("{next}\n"));
        exporter.advance(Duration::from_hours(2)).await;
        // the old one goes, and with it whatever was made with it
        sim.with_credentials(|account| {
            account.client_secret = next;
            account.next_client_secret = None;
        });
        sim.revoke_all_tokens();
        exporter.advance(Duration::from_hours(2)).await;
    }
    let scrape = exporter.scrape();
    assert_eq!(scrape.sum(FAILURES), 0.0);
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rotated_secret_and_token_are_used_within_seconds() {
    let sim = in_process_sim(&static_sim(1, 10));
    let files = ConfigFiles::new(&sim);
    let exporter = files.start_exporter(&sim).await;
    exporter.wait_polled(1).await;
    exporter.advance(Duration::from_mins(1)).await;
    assert_eq!(count_token_requests(&exporter), 1);
    // the secret is gone before its successor is in place, and polls fail until then
    sim.with_credentials(|account| account.client_secret = "mdb_sa_sk_new".into());
    sim.revoke_all_tokens();
    exporter.advance(Duration::from_hours(6)).await;
    let failed = exporter.scrape();
    assert_eq!(failed.sum("atlas_ai_keys_exporter_org_up"), 0.0);
    files.write("client-secret", "mdb_sa_sk_new");
    exporter.advance(Duration::from_secs(10)).await;
    let scrape = exporter.scrape();
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_up"),
        1.0,
        "the slower pace ends with the change"
    );
    exporter.stop().await;
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn kubernetes_symlink_swap_triggers_reload() {
    use std::os::unix::fs::symlink;
    let sim = in_process_sim(&static_sim(1, 10));
    let files = ConfigFiles::new(&sim);
    // as a mounted Secret: client-secret → ..data/client-secret, ..data → a directory of its time
    let mount = files.path("mount");
    let generation = |name: &str, secret: &str| {
        let dir = mount.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("client-secret"), secret).unwrap();
        let link = mount.join("..data_tmp");
        symlink(name, &link).unwrap();
        std::fs::rename(link, mount.join("..data")).unwrap();
    };
    generation("..2026_03_01", &sim.credentials().client_secret);
    symlink("..data/client-secret", mount.join("client-secret")).unwrap();
    std::fs::remove_file(files.path("client-secret")).unwrap();
    symlink("mount/client-secret", files.path("client-secret")).unwrap();
    let exporter = files.start_exporter(&sim).await;
    exporter.wait_polled(1).await;
    exporter.advance(Duration::from_mins(1)).await;
    sim.with_credentials(|account| account.next_client_secret = Some("mdb_sa_sk_new".into()));
    let before = count_token_requests(&exporter);
    generation("..2026_03_02", "mdb_sa_sk_new");
    exporter.advance(Duration::from_mins(10)).await;
    assert_eq!(
        count_token_requests(&exporter),
        before + 1,
        "a token made with the new one"
    );
    assert_eq!(exporter.scrape().sum(FAILURES), 0.0);
    exporter.stop().await;
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
    let asked = sim.requests().len();
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
    assert_eq!(up(&after, &files.orgs[0]), None, "no longer watched");
    assert!(!after.text.contains(&files.orgs[0]));
    assert_eq!(
        up(&after, &files.orgs[1]),
        Some(1.0),
        "its inventory was kept"
    );
    assert_eq!(up(&after, &files.orgs[2]), Some(1.0), "watched at once");
    let thresholds: Vec<String> = after
        .with_name("mongodbatlas_ai_model_api_keys_idle")
        .map(|series| series.labels["threshold"].clone())
        .collect();
    assert!(
        thresholds
            .iter()
            .all(|threshold| ["1d", "2d"].contains(&threshold.as_str()))
    );
    let success = "atlas_ai_keys_exporter_org_last_success_timestamp_seconds";
    let label: &[(&str, &str)] = &[("org_id", &files.orgs[1])];
    assert_eq!(after.get(success, label), before.get(success, label));
    assert_eq!(count_token_requests(&exporter), 1, "the token was kept");
    assert!(
        sim.requests().len() - asked <= 4,
        "only the new one was asked about"
    );
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn invalid_config_is_ignored_and_reported() {
    let sim = in_process_sim(&static_sim(1, 20));
    let files = ConfigFiles::new(&sim);
    let exporter = files.start_exporter(&sim).await;
    let before = exporter.wait_polled(1).await;
    let success = "atlas_ai_keys_exporter_config_last_reload_success_timestamp_seconds";
    for bad in [
        "nonsense: 1\n",
        "atlas:\n  page_size: 0\n",
        "web: [\n",
        "log:\n  level: loud\n",
    ] {
        files.write("config.yml", bad);
        exporter.advance(Duration::from_secs(5)).await;
        let scrape = exporter.scrape();
        assert_eq!(scrape.get(RELOADED, &[]), Some(0.0), "{bad}");
        assert_eq!(scrape.get(success, &[]), before.get(success, &[]));
        assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    }
    std::fs::remove_file(files.path("config.yml")).unwrap();
    exporter.advance(Duration::from_secs(5)).await;
    assert_eq!(
        exporter.scrape().get(RELOADED, &[]),
        Some(0.0),
        "a file that is gone"
    );
    let mistakes = exporter.control.reload("test").await.unwrap_err();
    assert!(
        mistakes.contains("config.yml: cannot be read"),
        "{mistakes}"
    );
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
    for n in 1..60 {
        // another client each time, and the same bucket
        files.write_config(&files.orgs.clone(), &more(20 + n));
        exporter.advance(Duration::from_secs(30)).await;
    }
    assert_eq!(exporter.count_responses(429), 0);
    assert_eq!(exporter.scrape().sum(FAILURES), 0.0);
    assert!(
        sim.live_token_count() <= 2,
        "clients that are gone give their token back"
    );
    exporter.stop().await;
}

/// The real binary with a configuration file, and the address that it serves on.
fn start_binary(files: &ConfigFiles, flags: &[&str]) -> (ChildProcess, String) {
    let flag = files.config_flag();
    let mut line = vec!["--web.listen-address=127.0.0.1:0", &flag];
    line.extend(flags);
    let mut program = ChildProcess::exporter(&line, &[]);
    let address = program.wait_for_output("address=");
    program.wait_for_output("walk complete");
    (program, address)
}

async fn send_request(address: &str, method: reqwest::Method) -> (u16, String) {
    // the provider is set by the first of the helpers that get
    get(&format!("http://{address}/-/healthy")).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{address}/-/reload");
    let answer = client.request(method, url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_endpoint_works_when_enabled() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let files = ConfigFiles::new(&sim);
    let (program, address) = start_binary(&files, &["--web.enable-lifecycle"]);
    for method in [reqwest::Method::POST, reqwest::Method::PUT] {
        assert_eq!(
            send_request(&address, method).await,
            (200, "Reloaded.\n".into())
        );
    }
    assert_eq!(send_request(&address, reqwest::Method::GET).await.0, 405);
    std::fs::write(
        files.path("config.yml"),
        "atlas: {page_size: 0, nonsense: 1}\n",
    )
    .unwrap();
    let (code, text) = send_request(&address, reqwest::Method::POST).await;
    assert_eq!(code, 400);
    for part in [
        "wrong in 3 places",
        "atlas.page_size in",
        "\"0\" will not do",
        "atlas.nonsense in",
        "no credential",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let scrape = Scrape::parse(&get(&format!("http://{address}/metrics")).await.1);
    assert_eq!(scrape.get(RELOADED, &[]), Some(0.0));
    drop(program);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_endpoint_is_forbidden_when_disabled() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let files = ConfigFiles::new(&sim);
    let (program, address) = start_binary(&files, &[]);
    let (code, text) = send_request(&address, reqwest::Method::POST).await;
    assert!(
        code == 403 && text.contains("--web.enable-lifecycle"),
        "{text}"
    );
    drop(program);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_including_logging() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let files = ConfigFiles::new(&sim);
    let (mut program, address) = start_binary(&files, &[]);
    let account = files.orgs.clone();
    files.write_config(&account, "log:\n  level: debug\n  format: json\n");
    program.signal(Signal::HUP);
    let line = program.wait_for_output("\"message\":\"configuration reloaded\"");
    assert!(
        line.contains("SIGHUP") || line.contains("file has changed"),
        "{line}"
    );
    std::fs::write(files.path("config.yml"), "x: 1\n").unwrap();
    program.signal(Signal::HUP);
    program.wait_for_output("the new configuration is not used");
    let scrape = Scrape::parse(&get(&format!("http://{address}/metrics")).await.1);
    assert_eq!(scrape.get(RELOADED, &[]), Some(0.0));
    program.signal(Signal::TERM);
    let (code, output, _) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn static_token_file_is_read_per_request() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let files = ConfigFiles::new(&sim);
    files.write("token", &sim.credentials().access_token);
    let config = format!(
        "credentials:\n- access_token_file: {}\n  org_ids: ['{}']\natlas: {{base_url: '{}', poll_interval: 1s}}\n",
        files.path("token").display(),
        files.orgs[0],
        files.base_url
    );
    files.write("config.yml", &config);
    let (program, address) = start_binary(&files, &["--log.level=debug"]);
    sim.with_credentials(|account| account.access_token = "simtok.next".into());
    files.write("token", "simtok.next");
    let begun = std::time::Instant::now();
    let walked = |output: &str| output.matches("walk complete").count();
    let before = walked(&program.output());
    while walked(&program.output()) < before + 3 {
        assert!(begun.elapsed() < crate::common::WAIT_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let scrape = Scrape::parse(&get(&format!("http://{address}/metrics")).await.1);
    assert!(scrape.sum(FAILURES) <= 1.0, "{}", program.output());
    program.signal(Signal::TERM);
    drop(program);
    sim.stop().await;
}

#[tokio::test(start_paused = true)]
async fn redirect_error_is_cleared_by_reload() {
    // a reload while walks are failing begins with a clean slate where the credential is another
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

#[test]
fn world_readable_config_with_secret_is_rejected() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    let text = "credentials:\n- client_id: an-id\n  client_secret: hunter2\n  org_ids: ['32b6e34b3d91647abb20e7b8']\n";
    std::fs::write(&file, text).unwrap();
    let run = |mode: u32| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        run_with_config(&file)
    };
    let (code, output) = run(0o644);
    assert_eq!(code, Some(2));
    assert!(
        output.contains("credentials[0].client_secret in")
            && output.contains("everybody may read")
            && output.contains("chmod o-r"),
        "{output}"
    );
    assert!(!output.contains("hunter2"));
    let (_, output) = run(0o640);
    assert!(
        output.contains("cannot listen on"),
        "the configuration is good: {output}"
    );
}

/// Runs the binary on an address that it cannot have, so that it ends in any case.
fn run_with_config(file: &Path) -> (Option<i32>, String) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--web.listen-address={}", taken.local_addr().unwrap());
    let flag = format!("--config.file={}", file.display());
    let (code, output, _) = ChildProcess::exporter(&[&listen, &flag], &[]).wait_exit();
    (code, output)
}

#[test]
fn all_config_file_errors_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    std::fs::write(dir.path().join("secret"), "x").unwrap();
    let text = "
credentials:
- name: one
  client_id: an-id
  client_secret_file: secret
  org_ids: ['32b6e34b3d91647abb20e7b8', nonsense]
- name: one
  access_token_file: secret
  org_ids: ['32b6e34b3d91647abb20e7b7']
- name: two
  access_token_file: secret
  org_ids: ['32b6e34b3d91647abb20e7b8']
- name: three
  public_api_key: abc
  org_ids: 7
- name: four
  client_id: a
  client_id_file: secret
  client_secret_file: nowhere
  colour: red
- access_token_file: secret
atlas:
  poll_interval: soon
  colour: red
metrics:
  idle_thresholds: [7d, {a: 1}]
colour: red
web: 7
";
    std::fs::write(&file, text).unwrap();
    let (code, output) = run_with_config(&file);
    assert_eq!(code, Some(2), "{output}");
    for part in [
        "credentials[0].org_ids in",
        "\"nonsense\" will not do; it must be an organization id",
        "credentials[1].name in",
        "credentials[2].org_ids in",
        "it is there twice",
        "credentials[3].org_ids in",
        "must be a list of ids",
        "half a credential: public_api_key of credential three in",
        "credentials[4].client_id in",
        "give one of them",
        "credentials[4].colour in",
        "credentials[5] in",
        "it needs a name",
        "atlas.poll_interval in",
        "\"soon\" will not do; it must be a duration",
        "atlas.colour in",
        "metrics.idle_thresholds in",
        "colour in",
        "web in",
    ] {
        assert!(output.contains(part), "{part} in\n{output}");
    }
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
    assert!(scrape.sum(FAILURES) >= failures, "counters are kept");
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 0.0);
    assert_eq!(
        exposed_keys(&scrape),
        expected_sim_keys(&sim),
        "and the inventory"
    );
    exporter.stop().await;
}

/// An exporter in simulated time with a web configuration, which is not written in one step here.
struct WebConfigExporter {
    exporter: SimHarness,
    papers: TestPki,
}

impl WebConfigExporter {
    async fn start(text: &str) -> Self {
        let (sim, papers) = (in_process_sim(&static_sim(1, 1)), TestPki::new());
        let flag = papers.web_config_flag(text);
        let exporter = SimHarness::start_with(&sim, sim_env(&sim), &[&flag]).await;
        Self { exporter, papers }
    }

    /// Replaces the content of the file, whatever is in its place, without a new file.
    fn write(&self, text: &str) {
        let path = self.clear_dir();
        std::fs::write(path, text).unwrap();
    }

    /// Makes place for a file.
    fn clear_dir(&self) -> PathBuf {
        let path = self.papers.path("web.yml");
        if path.is_dir() {
            std::fs::remove_dir(&path).unwrap();
        } else if !std::fs::symlink_metadata(&path).is_ok_and(|data| data.is_file()) {
            let _ = std::fs::remove_file(&path);
        }
        path
    }

    fn make_fifo(&self, name: &str) {
        make_fifo(&self.papers.path(name));
    }

    /// The status that somebody without a password gets.
    async fn status(&self) -> u16 {
        let router = TowerToHyperService::new(web::router(Arc::clone(&self.exporter.app)));
        let request = Request::get("/metrics").body(Body::empty()).unwrap();
        router.call(request).await.unwrap().status().as_u16()
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

const TLS_CONFIG: &str = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";

fn basic_auth_config() -> String {
    format!(
        "basic_auth_users:\n  ada: {}\n  bob: {}\n",
        bcrypt_hash("secret"),
        bcrypt_hash("other")
    )
}

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
        // what is as strict or stricter is taken up
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
        let path = running.papers.write("before.yml", before);
        running
            .exporter
            .app
            .web_config
            .set(WebConfig::load(&path).config.unwrap());
        let in_force = running.exporter.app.web_config.get();
        running.write(after);
        let result = running.exporter.control.reload("test").await;
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
            // at the start, a part of the file is no file without protection
            let path = running.papers.path("web.yml");
            if let Ok(access) = WebConfig::load(&path).config {
                assert_ne!(
                    format!("{access:?}"),
                    "Access { tls: false, users: false, .. }"
                );
            }
            if length % 3 == 0 {
                let _ = running.exporter.control.reload("test").await;
            } else {
                running.exporter.advance(Duration::from_secs(5)).await;
            }
            assert_eq!(running.status().await, 401, "{}", &text[..length]);
            assert!(running.has_tls(), "{}", &text[..length]);
        }
    }
    running.write(&text);
    assert_eq!(running.exporter.control.reload("test").await, Ok(()));
    running.exporter.stop().await;
}

/// What happens to the web configuration.
#[derive(Debug, Clone)]
enum FileWrite {
    Whole(usize),
    /// The first bytes of one, in hundredths.
    Cut(usize, usize),
    Text(&'static str),
    Fifo,
    Directory,
    Gone,
    Unreadable,
    Endless,
    CertificateFifo,
    CertificateBack,
}

#[derive(Debug, Clone, Copy)]
enum ReloadTrigger {
    Reload,
    Watch,
    Both,
}

fn web_configurations() -> Vec<String> {
    let users = basic_auth_config();
    let clients = format!(
        "{TLS_CONFIG}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n"
    );
    vec![
        users.clone(),
        format!("{users}{TLS_CONFIG}"),
        format!("{TLS_CONFIG}{users}"),
        format!("{clients}{users}"),
        format!("http_server_config: {{http2: false}}\n{users}{clients}"),
        format!(
            "basic_auth_users:\n  cyd: {}\n{TLS_CONFIG}",
            bcrypt_hash("third")
        ),
    ]
}

fn any_write() -> impl Strategy<Value = (FileWrite, ReloadTrigger)> {
    let write = prop_oneof![
        3 => (0..6_usize).prop_map(FileWrite::Whole),
        5 => (0..6_usize, 0..100_usize).prop_map(|(which, part)| FileWrite::Cut(which, part)),
        3 => prop::sample::select(vec![
            "",
            "{}",
            "# nothing\n",
            "null",
            "basic_auth_users:\n",
            "basic_auth_users: {}\n",
            "tls_server_config:\n",
            TLS_CONFIG,
            "tls_server_config: [",
            "http_server_config: {http2: true}\n",
            "\u{0}",
        ])
        .prop_map(FileWrite::Text),
        1 => Just(FileWrite::Fifo),
        1 => Just(FileWrite::Directory),
        1 => Just(FileWrite::Gone),
        1 => Just(FileWrite::Unreadable),
        1 => Just(FileWrite::Endless),
        1 => Just(FileWrite::CertificateFifo),
        1 => Just(FileWrite::CertificateBack),
    ];
    let trigger = prop::sample::select(vec![
        ReloadTrigger::Reload,
        ReloadTrigger::Watch,
        ReloadTrigger::Both,
    ]);
    (write, trigger)
}

fn apply_write(running: &WebConfigExporter, write: &FileWrite, certificate: &str) {
    let path = running.papers.path("web.yml");
    match write {
        FileWrite::Whole(which) => running.write(&web_configurations()[*which]),
        FileWrite::Cut(which, part) => {
            let text = &web_configurations()[*which];
            running.write(&text[..text.len() * part / 100]);
        }
        FileWrite::Text(text) => running.write(text),
        FileWrite::Fifo => {
            running.clear_dir();
            running.make_fifo("web.yml");
        }
        FileWrite::Directory => {
            running.clear_dir();
            let _ = std::fs::remove_file(&path);
            std::fs::create_dir(path).unwrap();
        }
        FileWrite::Gone => {
            running.clear_dir();
            let _ = std::fs::remove_file(path);
        }
        FileWrite::Unreadable => {
            // also for root: nothing can be read through a link that leads nowhere
            running.clear_dir();
            let _ = std::fs::remove_file(&path);
            std::os::unix::fs::symlink("/nowhere/at/all", path).unwrap();
        }
        FileWrite::Endless => {
            running.clear_dir();
            let _ = std::fs::remove_file(&path);
            std::os::unix::fs::symlink("/dev/zero", path).unwrap();
        }
        FileWrite::CertificateFifo => running.make_fifo("server.pem"),
        FileWrite::CertificateBack => drop(running.papers.write("server.pem", certificate)),
    }
}

async fn check_writes(
    first: usize,
    writes: Vec<(FileWrite, ReloadTrigger)>,
) -> Result<(), TestCaseError> {
    let text = &web_configurations()[first];
    let running = WebConfigExporter::start(text).await;
    let certificate = running.papers.read("server.pem");
    for (write, trigger) in writes {
        let had_tls = running.has_tls();
        apply_write(&running, &write, &certificate);
        if !matches!(trigger, ReloadTrigger::Watch) {
            let _ = running.exporter.control.reload("test").await;
        }
        if !matches!(trigger, ReloadTrigger::Reload) {
            running.exporter.advance(Duration::from_secs(6)).await;
        }
        // every configuration that was in force has users, and no reload drops them
        prop_assert_eq!(running.status().await, 401, "{:?}", write);
        prop_assert!(!had_tls || running.has_tls(), "{:?}", write);
    }
    // and back again: nothing that was wrong is in the way
    running.papers.write("server.pem", &certificate);
    running.write(&web_configurations()[4]);
    prop_assert_eq!(running.exporter.control.reload("test").await, Ok(()));
    prop_assert_eq!(running.status().await, 401);
    running.exporter.stop().await;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_web_config_writes_never_remove_protection(
        first in 0..6_usize,
        writes in prop::collection::vec(any_write(), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(check_writes(first, writes))?;
    }
}

#[tokio::test(start_paused = true)]
async fn config_reload_cannot_drop_the_web_config() {
    let sim = in_process_sim(&static_sim(1, 1));
    let (files, papers) = (ConfigFiles::new(&sim), TestPki::new());
    let folder = papers.path("");
    let web = |file: &str| {
        let path = folder.join(file);
        format!("web:\n  config_file: {}\n", path.display())
    };
    papers.write("web.yml", &format!("{TLS_CONFIG}{}", basic_auth_config()));
    papers.write("open.yml", "{}");
    papers.write("users.yml", &basic_auth_config());
    papers.write("other.yml", &format!("{}{TLS_CONFIG}", basic_auth_config()));
    let orgs = files.orgs.clone();
    files.write_config(&orgs, &web("web.yml"));
    let exporter = files.start_exporter(&sim).await;
    let running = WebConfigExporter { exporter, papers };
    for (more, lost) in [
        (String::new(), "web.config.file"),
        (web("open.yml"), "tls_server_config, basic_auth_users"),
        (web("users.yml"), "tls_server_config"),
        (web("gone.yml"), "file not found"),
    ] {
        files.write_config(&orgs, &more);
        let error = running
            .exporter
            .control
            .reload("test")
            .await
            .expect_err(lost);
        assert!(error.contains(lost), "{error}");
        running.exporter.advance(Duration::from_secs(10)).await;
        assert_eq!(running.status().await, 401, "{lost}");
        assert!(running.has_tls(), "{lost}");
        assert_eq!(running.exporter.scrape().get(RELOADED, &[]), Some(0.0));
        // the files in force are watched all the same
        let in_force = running.exporter.app.web_config.get();
        running.papers.renew();
        running.exporter.advance(Duration::from_secs(10)).await;
        let now = running.exporter.app.web_config.get();
        assert!(!Arc::ptr_eq(&in_force, &now) && has_tls(&now), "{lost}");
    }
    // what was refused is taken up when it is put right, without another change of the configuration file
    running
        .papers
        .write("gone.yml", &format!("{TLS_CONFIG}{}", basic_auth_config()));
    running.exporter.advance(Duration::from_secs(10)).await;
    assert_eq!(running.exporter.scrape().get(RELOADED, &[]), Some(1.0));
    files.write_config(&orgs, &web("other.yml"));
    assert_eq!(running.exporter.control.reload("test").await, Ok(()));
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
    // each chunk is a whole configuration, with fewer users than before
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
    // an explicit reload looks twice as well
    let writing = async {
        running.write(&lines[..lines.len() - 2].concat());
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.write(&text);
    };
    let (result, ()) = tokio::join!(running.exporter.control.reload("test"), writing);
    assert_eq!(result, Ok(()));
    assert!(has_user("bob", "other").await && has_user("cyd", "third").await);
    running.exporter.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifo_in_place_of_web_file_does_not_block() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let (files, papers) = (ConfigFiles::new(&sim), TestPki::new());
    let web = format!(
        "{TLS_CONFIG}  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.pem\n"
    );
    let flag = papers.web_config_flag(&web);
    let (mut program, address) = start_binary(&files, &[&flag, "--web.enable-lifecycle"]);
    let client = papers.client().build().unwrap();
    let url = |path: &str| format!("https://{address}{path}");
    for (n, name) in ["web.yml", "server.pem", "server.key", "ca.pem"]
        .iter()
        .enumerate()
    {
        let content = papers.read(name);
        make_fifo(&papers.path(name));
        let response = client.post(url("/-/reload")).send().await.unwrap();
        assert_eq!(response.status(), 400, "{name}");
        let text = response.text().await.unwrap();
        assert!(
            text.contains("expected a regular file, got a pipe"),
            "{name}: {text}"
        );
        // the configuration itself is read all the same
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
            papers.write(name, &content);
        }
    }
    let begun = std::time::Instant::now();
    program.signal(Signal::TERM);
    program.wait_for_output("stopp");
    let (code, output, _) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{output}");
    // and at the start it is an error
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

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_reload_requests_are_coalesced() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let files = ConfigFiles::new(&sim);
    let (program, address) = start_binary(&files, &["--web.enable-lifecycle"]);
    send_request(&address, reqwest::Method::POST).await;
    let reloads = |output: &str| output.matches("configuration reloaded").count();
    let (begun, before) = (std::time::Instant::now(), reloads(&program.output()));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{address}/-/reload");
    let requests = (0..400).map(async |n| {
        let request = client.post(&url);
        // some do not wait for what becomes of it
        if n % 10 == 0 {
            let _ = request.timeout(Duration::from_millis(50)).send().await;
        } else {
            assert_eq!(request.send().await.unwrap().status(), 200);
        }
    });
    futures_util::future::join_all(requests).await;
    // each that is asked for afterwards begins afterwards
    files.write_config(&files.orgs.clone(), "web:\n  telemetry_path: /m\n");
    assert_eq!(send_request(&address, reqwest::Method::POST).await.0, 200);
    assert_eq!(get(&format!("http://{address}/m")).await.0, 200);
    let count = reloads(&program.output()) - before;
    // the watcher may have seen the change as well
    let most = usize::try_from(begun.elapsed().as_secs()).unwrap() + 3;
    assert!(
        (2..=most).contains(&count),
        "{count} reloads, at most {most}"
    );
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
    ] {
        let reloaded = reloads(&program.output());
        for method in [reqwest::Method::POST, reqwest::Method::PUT] {
            let request = client.request(method, &url).header(name, value);
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 403, "{name}: {value}");
            assert!(response.text().await.unwrap().contains("another site"));
        }
        assert_eq!(reloads(&program.output()), reloaded);
    }
    drop(program);
    sim.stop().await;
}

#[tokio::test(start_paused = true)]
async fn reload_never_drops_allowed_hosts() {
    let sim = in_process_sim(&static_sim(1, 1));
    let files = ConfigFiles::new(&sim);
    let orgs = files.orgs.clone();
    files.write_config(&orgs, "web:\n  allowed_hosts: good.example\n");
    let exporter = files.start_exporter(&sim).await;
    files.write_config(&orgs, "");
    let error = exporter.control.reload("test").await.unwrap_err();
    assert!(error.contains("web.allowed_hosts"), "{error}");
    files.write_config(&orgs, "web:\n  allowed_hosts: other.example\n");
    exporter.control.reload("test").await.unwrap();
    exporter.stop().await;
}
