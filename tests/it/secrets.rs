//! No output of the program shows a secret: not at trace level, not with secrets in Atlas'
//! answers, not in errors, pages or metrics, not in its command line.
use crate::common::{Program, get, sim_variables, still};
use mongodb_atlas_sim::{BodyForm, Effect, Fault, SimEndpoint, SimHandle};
use rustix::process::Signal;

fn all_credentials(sim: &SimHandle) -> Vec<(String, String)> {
    let account = sim.account();
    [
        ("MONGODB_ATLAS_PUBLIC_API_KEY", account.public_key),
        ("MONGODB_ATLAS_PRIVATE_API_KEY", account.private_key),
        ("MONGODB_ATLAS_ACCESS_TOKEN", account.access_token),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// Runs the binary through good and bad times and hands out all that came out of it.
async fn everything_it_says(
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
    let mut program = Program::exporter(&arguments, &variables);
    let mark = if format == "json" {
        "\"address\":\""
    } else {
        "address="
    };
    let address: String = program
        .wait_for(mark)
        .chars()
        .take_while(|c| *c != '"')
        .collect();
    let cmdline =
        std::fs::read_to_string(format!("/proc/{}/cmdline", program.pid())).unwrap_or_default();
    let mut all = cmdline;
    program.wait_for("walk complete");
    let status = |status| Effect::Status {
        status,
        body: BodyForm::Json,
        retry_after: None,
    };
    for effect in [
        Effect::Secret,
        Effect::CutBody,
        Effect::InvalidJson,
        status(500),
        status(403),
        status(401),
        Effect::Delay { seconds: 2.0 },
    ] {
        sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, Effect::Secret));
        sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, effect));
        sim.revoke_all_tokens();
        sim.expire_nonces();
        tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
        for path in ["/metrics", "/", "/sd", "/-/ready", "/-/healthy", "/nothing"] {
            all.push_str(&get(&format!("http://{address}{path}")).await.1);
        }
        sim.clear_faults();
    }
    program.signal(Signal::TERM);
    let (code, output, _) = program.finish();
    assert_eq!(code, Some(0), "{output}");
    assert!(
        output.contains("poll failed"),
        "there were bad times:\n{output}"
    );
    all + &output
}

async fn nothing_leaks(kinds: &[&str], format: &str) {
    let sim = crate::common::sim(still(1, 40)).await;
    let mut variables = sim_variables(&sim);
    variables.extend(all_credentials(&sim));
    variables.retain(|(name, _)| {
        ["BASE_URL", "ORG_ID"]
            .iter()
            .chain(kinds)
            .any(|part| name.ends_with(part))
    });
    let all = everything_it_says(&sim, variables, format).await;
    // a word of HTML that has the beginning of a key in it
    let all = all.replace("initial-scale", "");
    let account = sim.account();
    for secret in [
        &account.client_secret,
        &account.private_key,
        &account.access_token,
    ] {
        assert!(
            !all.contains(secret.as_str()),
            "a secret came out ({kinds:?})"
        );
    }
    for part in [
        "simtok.",
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
        assert_eq!(place, None, "{part:?} came out ({kinds:?})");
    }
    assert!(all.contains("walk complete") && all.contains("mongodbatlas_ai_model_api_key_info"));
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_leaks_nothing() {
    nothing_leaks(&["CLIENT_ID", "CLIENT_SECRET"], "logfmt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_programmatic_key_leaks_nothing() {
    nothing_leaks(&["PUBLIC_API_KEY", "PRIVATE_API_KEY"], "json").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_leaks_nothing() {
    nothing_leaks(&["ACCESS_TOKEN"], "logfmt").await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_core_dump_to_hold_a_secret() {
    let sim = crate::common::sim(still(1, 5)).await;
    let mut program =
        Program::exporter(&["--web.listen-address=127.0.0.1:0"], &sim_variables(&sim));
    program.wait_for("walk complete");
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
