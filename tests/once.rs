//! `once`: one round for cron and the textfile collector; `man` and `completions`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;

use std::process::Output;

use atlas_ai_keys_exporter::cli::{
    CHECK_FLAGS, FLAGS, KEYS_FLAGS, ONCE_FLAGS, SIM_FLAGS, SIM_LISTEN,
};
use atlas_ai_keys_exporter::sim::{SimEndpoint, SimHandle};
use common::{Scrape, outcome, refusal, shown, sim_variables, still, world};

fn scrape(output: &Output) -> Scrape {
    Scrape::parse(&String::from_utf8(output.stdout.clone()).unwrap())
}

async fn sim(orgs: usize) -> SimHandle {
    common::sim(still(orgs, 60)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_writes_what_is_and_ends() {
    let sim = sim(3).await;
    let output = outcome(&["once"], sim_variables(&sim)).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{error}");
    let scrape = scrape(&output);
    assert_eq!(shown(&scrape), world(&sim));
    assert_eq!(scrape.values("atlas_ai_keys_exporter_org_up"), [1.0; 3]);
    assert_eq!(scrape.values("mongodbatlas_organization_info"), [1.0; 3]);
    assert!(
        !scrape.text.contains("process_"),
        "the collector has its own"
    );
    assert_eq!(sim.live_tokens(), 0, "the token is given back");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fails_with_what_is_known() {
    let sim = sim(3).await;
    let org = sim.org_ids()[1].clone();
    sim.add_fault(refusal(SimEndpoint::AiModelApiKeys, Some(&org), 403));
    let output = outcome(&["once"], sim_variables(&sim)).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("not everything could be read") && error.contains(&org),
        "{error}"
    );
    let scrape = scrape(&output);
    assert_eq!(scrape.failures(&org, "forbidden"), 1.0);
    assert_eq!(scrape.sum("atlas_ai_keys_exporter_org_up"), 2.0);
    let known = shown(&scrape).len();
    assert!(known > 0 && known < world(&sim).len());
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_listed_is_no_reason_to_wait() {
    let sim = sim(1).await;
    sim.add_fault(refusal(SimEndpoint::Orgs, None, 403));
    let mut variables = sim_variables(&sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    let output = outcome(&["once", "--atlas.discover-orgs"], variables).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("the organizations of credential default"),
        "{error}"
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_put_into_its_place_in_one_step() {
    let sim = sim(1).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.prom");
    std::fs::write(&path, "what was before\n").unwrap();
    let flag = format!("--output={}", path.display());
    let output = outcome(&["once", &flag], sim_variables(&sim)).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.is_empty());
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(shown(&Scrape::parse(&text)), world(&sim));
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing else is left"
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(
            mode & 0o777,
            0o644,
            "a collector of another user may read it"
        );
    }
    let flag = format!(
        "--output={}",
        dir.path().join("nowhere/keys.prom").display()
    );
    let output = outcome(&["once", &flag], sim_variables(&sim)).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && error.contains("--output"),
        "{error}"
    );
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manual_and_the_completions_know_every_flag() {
    let man = outcome(&["man"], Vec::new()).await;
    let man = String::from_utf8(man.stdout).unwrap().replace('\\', "");
    assert!(man.contains(".TH atlas-ai-keys-exporter 1"), "{man}");
    for command in ["CHECK", "KEYS", "ONCE", "DEMO", "SIM"] {
        assert!(man.contains(&format!(".SH COMMAND {command}\n")), "{man}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = outcome(&["completions", shell], Vec::new()).await;
        assert_eq!(script.status.code(), Some(0));
        let script = String::from_utf8(script.stdout).unwrap();
        let of_commands = [CHECK_FLAGS, KEYS_FLAGS, ONCE_FLAGS, SIM_FLAGS, SIM_LISTEN];
        for flag in of_commands.into_iter().flatten().chain(FLAGS) {
            assert!(script.contains(flag.name), "{shell}: {}", flag.name);
            assert!(
                man.contains(&format!("--{}", flag.name)),
                "man: {}",
                flag.name
            );
        }
    }
    let wrong = outcome(&["completions", "cmd"], Vec::new()).await;
    assert_eq!(wrong.status.code(), Some(2));
    let version = outcome(&["--version"], Vec::new()).await;
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(
        version.starts_with(&format!(
            "atlas-ai-keys-exporter {} (",
            env!("CARGO_PKG_VERSION")
        )),
        "{version}"
    );
    assert!(version.contains(std::env::consts::ARCH), "{version}");
}
