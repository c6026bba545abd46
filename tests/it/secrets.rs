//! No output of the program contains a secret: not at trace level, not with secrets in responses of Atlas, not in errors,
//! pages or metrics, and not in the command line.
use crate::common::{ChildProcess, Scrape, eventually, get, sim_env, static_sim};
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint, SimHandle};
use rustix::process::Signal;

fn credential_values(sim: &SimHandle) -> Vec<(String, String)> {
    let account = sim.credentials();
    [
        ("MONGODB_ATLAS_PUBLIC_API_KEY", account.public_key),
        ("MONGODB_ATLAS_PRIVATE_API_KEY", account.private_key),
        ("MONGODB_ATLAS_ACCESS_TOKEN", account.access_token),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// Returns the number of completed requests for keys.
async fn count_requests(address: &str) -> f64 {
    let scrape = Scrape::parse(&get(&format!("http://{address}/metrics")).await.1);
    let requests = scrape
        .with_name("atlas_ai_keys_exporter_api_requests_total")
        .filter(|series| series.labels["operation"] == "ai_model_api_keys");
    requests.map(|series| series.value).sum()
}

/// Waits until two more requests for keys are completed. All events of the first request are logged by then.
async fn wait_for_requests(address: &str, what: &str) {
    let before = count_requests(address).await;
    eventually(what, async || {
        let new = count_requests(address).await - before;
        if new >= 2.0 { Ok(()) } else { Err(new) }
    })
    .await;
}

/// Runs the binary with and without faults, and returns all its output.
async fn collect_all_output(
    sim: &SimHandle,
    variables: Vec<(String, String)>,
    format: &str,
) -> String {
    let arguments = [
        "--web.listen-address=127.0.0.1:0",
        "--log.level=trace",
        "--atlas.poll-interval=1s",
        "--atlas.timeout=500ms",
        "--log.format",
        format,
    ];
    sim.add_fault(Fault::new(SimEndpoint::ServiceAccount, Effect::Secret));
    let mut program = ChildProcess::exporter(&arguments, &variables);
    let mark = if format == "json" {
        "\"address\":\""
    } else {
        "address="
    };
    let address: String = program
        .wait_for_output(mark)
        .chars()
        .take_while(|c| *c != '"')
        .collect();
    let cmdline =
        std::fs::read_to_string(format!("/proc/{}/cmdline", program.pid())).unwrap_or_default();
    let mut all = cmdline;
    program.wait_for_output("poll succeeded");
    // Authorization failures are last, because they reduce the poll rate.
    for effect in [
        Effect::Secret,
        Effect::TruncatedBody,
        Effect::InvalidJson,
        Effect::Delay { seconds: 2.0 },
        Effect::error_status(500),
        Effect::error_status(403),
        Effect::error_status(401),
    ] {
        sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, Effect::Secret));
        sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, effect.clone()));
        sim.expire_nonces();
        wait_for_requests(&address, &format!("{effect:?}")).await;
        for path in ["/metrics", "/", "/sd", "/-/ready", "/-/healthy", "/nothing"] {
            all.push_str(&get(&format!("http://{address}{path}")).await.1);
        }
        sim.clear_faults();
        if effect == Effect::Secret {
            sim.revoke_all_tokens();
            wait_for_requests(&address, "another token").await;
        }
    }
    program.signal(Signal::TERM);
    let (code, output, _) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("poll failed"), "no poll failed:\n{output}");
    all + &output
}

async fn assert_no_leak(kinds: &[&str], format: &str) {
    let sim = crate::common::start_sim(static_sim(1, 40)).await;
    let mut variables = sim_env(&sim);
    variables.extend(credential_values(&sim));
    variables.retain(|(name, _)| {
        ["BASE_URL", "ORG_ID"]
            .iter()
            .chain(kinds)
            .any(|part| name.ends_with(part))
    });
    let all = collect_all_output(&sim, variables, format).await;
    // This attribute of HTML contains the prefix of a key.
    let all = all.replace("initial-scale", "");
    let account = sim.credentials();
    for secret in [
        &account.client_secret,
        &account.private_key,
        &account.access_token,
    ] {
        assert!(
            !all.contains(secret.as_str()),
            "output contains a secret ({kinds:?})"
        );
    }
    for part in [
        "simtok.",
        "mdb_sa_sk_",
        "al-",
        "Bearer ",
        "Basic ",
        "Digest ",
        "createdBy",
        "Ada Example",
        "Grace Example",
        "\"secret\"",
    ] {
        let place = all.find(part).map(|at| {
            all[at.saturating_sub(60)..]
                .chars()
                .take(120)
                .collect::<String>()
        });
        assert_eq!(place, None, "output contains {part:?} ({kinds:?})");
    }
    let is_service_account = kinds.contains(&"CLIENT_ID");
    assert_eq!(
        all.contains("client_secret_expiry_timestamp_seconds{"),
        is_service_account
    );
    assert!(all.contains("poll succeeded") && all.contains("mongodbatlas_ai_model_api_key_info"));
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn service_account_secrets_do_not_leak() {
    assert_no_leak(&["CLIENT_ID", "CLIENT_SECRET"], "logfmt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programmatic_key_secrets_do_not_leak() {
    assert_no_leak(&["PUBLIC_API_KEY", "PRIVATE_API_KEY"], "json").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn access_tokens_do_not_leak() {
    assert_no_leak(&["ACCESS_TOKEN"], "logfmt").await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn core_dumps_are_disabled() {
    let sim = crate::common::start_sim(static_sim(1, 5)).await;
    let mut program = ChildProcess::exporter(&["--web.listen-address=127.0.0.1:0"], &sim_env(&sim));
    program.wait_for_output("poll succeeded");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", program.pid())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(
        core.split_whitespace().collect::<Vec<_>>()[4..6],
        ["0", "0"],
        "{core}"
    );
    sim.stop().await;
}
