//! Tests that both curl commands of Atlas' documentation work with the simulated Atlas: only the host differs.
use std::process::Command;

use crate::common::{ChildProcess, run_command, static_sim};
use serde_json::Value;

const ACCEPT: &str = "Accept: application/vnd.atlas.preview+json";

/// Runs curl, and returns the status line of the last response and the body.
fn run_curl(arguments: &[&str]) -> (String, String) {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "10"])
        .args(arguments);
    let (code, output, error) = run_command(&mut command, b"");
    assert_eq!(code, Some(0), "{error}");
    let (headers, body) = output.rsplit_once("\r\n\r\n").unwrap();
    let status = headers
        .lines()
        .rfind(|line| line.starts_with("HTTP/"))
        .unwrap();
    (status.to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_curl_commands_work() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let account = sim.credentials();
    let url = format!(
        "{}/api/atlas/v2/orgs/{}/aiModelApiKeys?pretty=true",
        sim.base_url(),
        sim.org_ids()[0]
    );
    let bearer = format!("Authorization: Bearer {}", account.access_token);
    let user = format!("{}:{}", account.public_key, account.private_key);
    let (with_token, with_digest) = tokio::task::spawn_blocking(move || {
        (
            run_curl(&[
                "--include",
                "--header",
                &bearer,
                "--header",
                ACCEPT,
                "-X",
                "GET",
                &url,
            ]),
            run_curl(&[
                "--user",
                &user,
                "--digest",
                "--include",
                "--header",
                ACCEPT,
                "-X",
                "GET",
                &url,
            ]),
        )
    })
    .await
    .unwrap();
    for (status, body) in [&with_token, &with_digest] {
        assert!(status.contains("200"), "{status}");
        let page: Value = serde_json::from_str(body).unwrap();
        assert_eq!(page["results"].as_array().unwrap().len(), 10);
        assert!(body.contains("\n  "), "pretty");
    }
    assert_eq!(with_token.1, with_digest.1);
    sim.stop().await;
}

#[test]
fn printed_exports_can_be_evaluated_by_a_shell() {
    let mut program = ChildProcess::exporter(
        &["sim", "--sim.listen-address=127.0.0.1:0", "--sim.keys=30"],
        &[],
    );
    program.wait_for_output("MONGODB_ATLAS_ACCESS_TOKEN=");
    let block = program.output();
    let script = format!(
        "set -eu\n{block}\n\
         org=${{MONGODB_ATLAS_ORG_ID%%,*}}\n\
         curl -sS --max-time 10 --header \"Authorization: Bearer ${{MONGODB_ATLAS_ACCESS_TOKEN}}\" --header '{ACCEPT}' \
         \"$MONGODB_ATLAS_BASE_URL/api/atlas/v2/orgs/$org/aiModelApiKeys\"\n\
         curl -sS --max-time 10 --fail -o /dev/null --user \"${{MONGODB_ATLAS_CLIENT_ID}}:${{MONGODB_ATLAS_CLIENT_SECRET}}\" \
         -d grant_type=client_credentials \"$MONGODB_ATLAS_BASE_URL/api/oauth/token\"\n"
    );
    let (code, output, error) = run_command(&mut Command::new("sh"), script.as_bytes());
    assert_eq!(code, Some(0), "{error}");
    let page: Value = serde_json::from_str(&output).unwrap();
    assert!(page["totalCount"].as_u64().unwrap() > 0, "{output}");
}
