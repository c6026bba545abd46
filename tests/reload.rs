//! Rotated credentials and changed configurations, without a restart and without a failed poll.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atlas_ai_keys_exporter::sim::{BodyForm, Effect, Fault, SimConfig, SimEndpoint, SimHandle};
use common::simulated::{Simulated, simulated_atlas};
use common::{Program, Scrape, get, shown, still, world};
use rustix::process::Signal;
use tempfile::TempDir;

const FAILURES: &str = "atlas_ai_keys_exporter_org_poll_failures_total";
const RELOADED: &str = "atlas_ai_keys_exporter_config_last_reload_successful";

/// A configuration file with one service account, beside the files that it names.
struct Files {
    dir: TempDir,
    base_url: String,
    orgs: Vec<String>,
}

impl Files {
    fn new(sim: &SimHandle) -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
            base_url: sim.base_url(),
            orgs: sim.org_ids(),
        };
        let account = sim.account();
        files.write("client-id", &account.client_id);
        files.write("client-secret", &account.client_secret);
        files.configure(&files.orgs.clone(), "");
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

    fn configure(&self, orgs: &[String], more: &str) {
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

    fn flag(&self) -> String {
        format!("--config.file={}", self.path("config.yml").display())
    }

    async fn exporter(&self, sim: &Arc<SimHandle>) -> Simulated {
        Simulated::told(sim, vec![("X".into(), "y".into())], &[&self.flag()]).await
    }
}

fn tokens(exporter: &Simulated) -> usize {
    exporter.asked(SimEndpoint::Token).len()
}

#[tokio::test(start_paused = true)]
async fn while_the_old_secret_is_valid_a_rotation_fails_no_poll() {
    let sim = simulated_atlas(&SimConfig {
        token_seconds: 1800,
        ..still(2, 40)
    });
    let files = Files::new(&sim);
    let exporter = files.exporter(&sim).await;
    exporter.walked(2).await;
    for round in 0..6 {
        let next = format!("mdb_sa_sk_next_{round}");
        sim.with_account(|account| account.next_client_secret = Some(next.clone()));
        files.write("client-secret", &format!("{next}\n"));
        exporter.pass(Duration::from_hours(2)).await;
        // the old one goes, and with it whatever was made with it
        sim.with_account(|account| {
            account.client_secret = next;
            account.next_client_secret = None;
        });
        sim.revoke_all_tokens();
        exporter.pass(Duration::from_hours(2)).await;
    }
    let scrape = exporter.scrape();
    assert_eq!(scrape.sum(FAILURES), 0.0);
    assert_eq!(shown(&scrape), world(&sim));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_secret_is_used_within_seconds_and_the_new_token_as_well() {
    let sim = simulated_atlas(&still(1, 10));
    let files = Files::new(&sim);
    let exporter = files.exporter(&sim).await;
    exporter.walked(1).await;
    exporter.pass(Duration::from_mins(1)).await;
    assert_eq!(tokens(&exporter), 1);
    // the secret is gone before its successor is in place, and polls fail until then
    sim.with_account(|account| account.client_secret = "mdb_sa_sk_new".into());
    sim.revoke_all_tokens();
    exporter.pass(Duration::from_hours(6)).await;
    let failed = exporter.scrape();
    assert_eq!(failed.sum("atlas_ai_keys_exporter_org_up"), 0.0);
    files.write("client-secret", "mdb_sa_sk_new");
    exporter.pass(Duration::from_secs(10)).await;
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
async fn a_swap_of_kubernetes_symbolic_links_is_seen() {
    use std::os::unix::fs::symlink;
    let sim = simulated_atlas(&still(1, 10));
    let files = Files::new(&sim);
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
    generation("..2026_03_01", &sim.account().client_secret);
    symlink("..data/client-secret", mount.join("client-secret")).unwrap();
    std::fs::remove_file(files.path("client-secret")).unwrap();
    symlink("mount/client-secret", files.path("client-secret")).unwrap();
    let exporter = files.exporter(&sim).await;
    exporter.walked(1).await;
    exporter.pass(Duration::from_mins(1)).await;
    sim.with_account(|account| account.next_client_secret = Some("mdb_sa_sk_new".into()));
    let before = tokens(&exporter);
    generation("..2026_03_02", "mdb_sa_sk_new");
    exporter.pass(Duration::from_mins(10)).await;
    assert_eq!(
        tokens(&exporter),
        before + 1,
        "a token made with the new one"
    );
    assert_eq!(exporter.scrape().sum(FAILURES), 0.0);
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_configuration_file_is_taken_up_and_what_stays_is_kept() {
    let sim = simulated_atlas(&still(3, 60));
    let files = Files::new(&sim);
    files.configure(&files.orgs[..2], "");
    let exporter = files.exporter(&sim).await;
    exporter.walked(2).await;
    exporter.pass(Duration::from_mins(30)).await;
    let before = exporter.scrape();
    let asked = sim.requests().len();
    files.configure(
        &files.orgs[1..],
        "metrics:\n  idle_thresholds: [1d, 2d]\nweb:\n  telemetry_path: /m\n",
    );
    exporter.pass(Duration::from_secs(5)).await;
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
        .all("mongodbatlas_ai_model_api_keys_idle")
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
    assert_eq!(tokens(&exporter), 1, "the token was kept");
    assert!(
        sim.requests().len() - asked <= 4,
        "only the new one was asked about"
    );
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_configuration_changes_nothing_and_shows() {
    let sim = simulated_atlas(&still(1, 20));
    let files = Files::new(&sim);
    let exporter = files.exporter(&sim).await;
    let before = exporter.walked(1).await;
    let success = "atlas_ai_keys_exporter_config_last_reload_success_timestamp_seconds";
    for bad in [
        "nonsense: 1\n",
        "atlas:\n  page_size: 0\n",
        "web: [\n",
        "log:\n  level: loud\n",
    ] {
        files.write("config.yml", bad);
        exporter.pass(Duration::from_secs(5)).await;
        let scrape = exporter.scrape();
        assert_eq!(scrape.get(RELOADED, &[]), Some(0.0), "{bad}");
        assert_eq!(scrape.get(success, &[]), before.get(success, &[]));
        assert_eq!(shown(&scrape), world(&sim));
    }
    std::fs::remove_file(files.path("config.yml")).unwrap();
    exporter.pass(Duration::from_secs(5)).await;
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
    files.configure(&files.orgs.clone(), "");
    exporter.pass(Duration::from_secs(5)).await;
    let scrape = exporter.scrape();
    assert_eq!(scrape.get(RELOADED, &[]), Some(1.0));
    assert!(scrape.get(success, &[]) > before.get(success, &[]));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn budgets_are_kept_over_a_reload() {
    let sim = simulated_atlas(&SimConfig {
        org_bucket: atlas_ai_keys_exporter::sim::BucketSize::SMALLEST,
        ..still(1, 60)
    });
    let files = Files::new(&sim);
    let more = |n: u32| format!("  page_size: 10\n  poll_interval: 1m\n  timeout: {n}s\n");
    files.configure(&files.orgs.clone(), &more(20));
    let exporter = files.exporter(&sim).await;
    exporter.walked(1).await;
    for n in 1..60 {
        // another client each time, and the same bucket
        files.configure(&files.orgs.clone(), &more(20 + n));
        exporter.pass(Duration::from_secs(30)).await;
    }
    assert_eq!(exporter.answered(429), 0);
    assert_eq!(exporter.scrape().sum(FAILURES), 0.0);
    assert!(
        sim.live_tokens() <= 2,
        "clients that are gone give their token back"
    );
    exporter.stop().await;
}

/// The real binary with a configuration file, and the address that it serves on.
fn binary(files: &Files, flags: &[&str]) -> (Program, String) {
    let flag = files.flag();
    let mut line = vec!["--web.listen-address=127.0.0.1:0", &flag];
    line.extend(flags);
    let mut program = Program::exporter(&line, &[]);
    let address = program.wait_for("address=");
    program.wait_for("walk complete");
    (program, address)
}

async fn post(address: &str, method: reqwest::Method) -> (u16, String) {
    // the provider is set by the first of the helpers that get
    get(&format!("http://{address}/-/healthy")).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{address}/-/reload");
    let answer = client.request(method, url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reloads_where_that_is_allowed() {
    let sim = common::sim(still(1, 10)).await;
    let files = Files::new(&sim);
    let (program, address) = binary(&files, &["--web.enable-lifecycle"]);
    for method in [reqwest::Method::POST, reqwest::Method::PUT] {
        assert_eq!(post(&address, method).await, (200, "Reloaded.\n".into()));
    }
    assert_eq!(post(&address, reqwest::Method::GET).await.0, 405);
    std::fs::write(
        files.path("config.yml"),
        "atlas: {page_size: 0, nonsense: 1}\n",
    )
    .unwrap();
    let (code, text) = post(&address, reqwest::Method::POST).await;
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
async fn a_request_does_not_reload_where_it_is_not_allowed() {
    let sim = common::sim(still(1, 10)).await;
    let files = Files::new(&sim);
    let (program, address) = binary(&files, &[]);
    let (code, text) = post(&address, reqwest::Method::POST).await;
    assert!(
        code == 403 && text.contains("--web.enable-lifecycle"),
        "{text}"
    );
    drop(program);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reloads_the_log_included() {
    let sim = common::sim(still(1, 10)).await;
    let files = Files::new(&sim);
    let (mut program, address) = binary(&files, &[]);
    let account = files.orgs.clone();
    files.configure(&account, "log:\n  level: debug\n  format: json\n");
    program.signal(Signal::HUP);
    let line = program.wait_for("\"message\":\"configuration reloaded\"");
    assert!(
        line.contains("SIGHUP") || line.contains("file has changed"),
        "{line}"
    );
    std::fs::write(files.path("config.yml"), "x: 1\n").unwrap();
    program.signal(Signal::HUP);
    program.wait_for("the new configuration is not used");
    let scrape = Scrape::parse(&get(&format!("http://{address}/metrics")).await.1);
    assert_eq!(scrape.get(RELOADED, &[]), Some(0.0));
    program.signal(Signal::TERM);
    let (code, output, _) = program.finish();
    assert_eq!(code, Some(0), "{output}");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_token_in_a_file_is_read_at_each_request() {
    let sim = common::sim(still(1, 10)).await;
    let files = Files::new(&sim);
    files.write("token", &sim.account().access_token);
    let config = format!(
        "credentials:\n- access_token_file: {}\n  org_ids: ['{}']\natlas: {{base_url: '{}', poll_interval: 1s}}\n",
        files.path("token").display(),
        files.orgs[0],
        files.base_url
    );
    files.write("config.yml", &config);
    let (program, address) = binary(&files, &[]);
    sim.with_account(|account| account.access_token = "simtok.next".into());
    files.write("token", "simtok.next");
    let begun = std::time::Instant::now();
    let walked = |output: &str| output.matches("walk complete").count();
    let before = walked(&program.output());
    while walked(&program.output()) < before + 3 {
        assert!(begun.elapsed() < common::PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let scrape = Scrape::parse(&get(&format!("http://{address}/metrics")).await.1);
    assert!(scrape.sum(FAILURES) <= 1.0, "{}", program.output());
    program.signal(Signal::TERM);
    drop(program);
    sim.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_redirected_fault_does_not_outlive_a_reload() {
    // a reload while walks are failing begins with a clean slate where the credential is another
    let sim = simulated_atlas(&still(1, 10));
    let files = Files::new(&sim);
    files.write("client-secret", "wrong");
    let exporter = files.exporter(&sim).await;
    exporter.pass(Duration::from_hours(3)).await;
    assert_eq!(exporter.scrape().sum("atlas_ai_keys_exporter_org_up"), 0.0);
    files.write("other-secret", &sim.account().client_secret);
    let text = std::fs::read_to_string(files.path("config.yml")).unwrap();
    files.write("config.yml", &text.replace("client-secret", "other-secret"));
    exporter.pass(Duration::from_secs(10)).await;
    assert_eq!(exporter.scrape().sum("atlas_ai_keys_exporter_org_up"), 1.0);
    exporter.stop().await;
}

#[test]
fn a_file_that_everybody_may_read_must_not_hold_a_secret() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    let text = "credentials:\n- client_id: an-id\n  client_secret: hunter2\n  org_ids: ['32b6e34b3d91647abb20e7b8']\n";
    std::fs::write(&file, text).unwrap();
    let run = |mode: u32| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        run_with(&file)
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
fn run_with(file: &Path) -> (Option<i32>, String) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--web.listen-address={}", taken.local_addr().unwrap());
    let flag = format!("--config.file={}", file.display());
    let (code, output, _) = Program::exporter(&[&listen, &flag], &[]).finish();
    (code, output)
}

#[test]
fn every_mistake_in_the_file_is_listed() {
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
    let (code, output) = run_with(&file);
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
async fn an_outage_over_a_reload_stays_an_outage() {
    let sim = simulated_atlas(&still(1, 20));
    let files = Files::new(&sim);
    let exporter = files.exporter(&sim).await;
    exporter.walked(1).await;
    let fault = Effect::Status {
        status: 503,
        body: BodyForm::Json,
        retry_after: None,
    };
    sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, fault));
    exporter.pass(Duration::from_mins(30)).await;
    let failures = exporter.scrape().sum(FAILURES);
    assert!(failures > 0.0);
    files.configure(&files.orgs.clone(), "metrics:\n  idle_thresholds: 3d\n");
    exporter.pass(Duration::from_secs(5)).await;
    let scrape = exporter.scrape();
    assert_eq!(scrape.get(RELOADED, &[]), Some(1.0));
    assert!(scrape.sum(FAILURES) >= failures, "counters are kept");
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 0.0);
    assert_eq!(shown(&scrape), world(&sim), "and the inventory");
    exporter.stop().await;
}
