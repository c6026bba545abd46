//! Responses of the token endpoint.

use std::time::Duration;

use super::{FAILURES, FAST_POLL_FLAGS};
use crate::common::scripted::{ScriptedTransport, response};
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::static_sim;
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{Endpoint, FailureReason};
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint};

const SERVICE_ACCOUNT_ENV: &[(&str, &str)] = &[
    (
        "MONGODB_ATLAS_CLIENT_ID",
        "mdb_sa_id_0123456789abcdef01234567",
    ),
    ("MONGODB_ATLAS_CLIENT_SECRET", "mdb_sa_sk_secret"),
];

fn org_id() -> OrgId {
    OrgId::parse("32b6e34b3d91647abb20e7b8").unwrap()
}

#[tokio::test(start_paused = true)]
async fn invalid_token_response_sends_no_api_request() {
    let long = format!(
        r#"{{"access_token":"{}","expires_in":3600}}"#,
        "x".repeat(1 << 20)
    );
    for body in [
        r#"{"access_token":"","expires_in":3600}"#,
        r#"{"access_token":"  ","expires_in":3600}"#,
        r#"{"access_token":"a\u0007b","expires_in":3600}"#,
        r#"{"access_token":"abc","token_type":"mac","expires_in":3600}"#,
        r#"{"expires_in":3600}"#,
        "<html>",
        &long,
    ] {
        let body = body.to_owned();
        let (client, atlas) =
            ScriptedTransport::client(SERVICE_ACCOUNT_ENV, move |_| response(200, &[], &body));
        let error = client.get_org_name(&org_id()).await.unwrap_err();
        assert_eq!(error.endpoint, Endpoint::Token);
        assert_eq!(
            error.kind.reason(),
            FailureReason::InvalidResponse,
            "{error}"
        );
        assert_eq!(atlas.request_count("token"), 1);
        assert_eq!(atlas.request_count(org_id().as_str()), 0, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn token_400_is_unauthorized_only_for_credential_errors() {
    for (body, reason) in [
        (r#"{"error":"invalid_client"}"#, FailureReason::Unauthorized),
        (
            r#"{"error":"unauthorized_client","error_description":"x"}"#,
            FailureReason::Unauthorized,
        ),
        (
            r#"{"error":"invalid_scope"}"#,
            FailureReason::InvalidResponse,
        ),
        (
            r#"{"error":["invalid_client"]}"#,
            FailureReason::InvalidResponse,
        ),
        ("<html>Bad Request</html>", FailureReason::InvalidResponse),
        ("", FailureReason::InvalidResponse),
    ] {
        let (client, _) =
            ScriptedTransport::client(SERVICE_ACCOUNT_ENV, move |_| response(400, &[], body));
        let error = client.get_org_name(&org_id()).await.unwrap_err();
        assert_eq!(error.kind.reason(), reason, "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn token_retry_after_is_respected_for_every_status() {
    let date = ("date", "Sun, 01 Mar 2026 12:00:00 GMT");
    for status in [400, 401, 403, 429, 500, 503] {
        for retry_after in [
            "120",
            "Sun, 01 Mar 2026 12:02:00 GMT",
            "Sunday, 01-Mar-26 12:02:00 GMT",
        ] {
            let headers = [date, ("retry-after", retry_after)];
            let (client, atlas) = ScriptedTransport::client(SERVICE_ACCOUNT_ENV, move |_| {
                response(status, &headers, "{}")
            });
            for (passed, requests) in [(0, 1), (60, 1), (59, 1), (2, 2)] {
                tokio::time::advance(Duration::from_secs(passed)).await;
                client.get_org_name(&org_id()).await.unwrap_err();
                assert_eq!(
                    atlas.request_count("token"),
                    requests,
                    "{status} {retry_after}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn token_endpoint_errors_have_distinct_reasons() {
    for (status, reason, outcome) in [
        (503, "server_error", "failed"),
        (429, "rate_limited", "rate_limited"),
        (403, "forbidden", "refused"),
    ] {
        let sim = in_process_sim(&static_sim(1, 5));
        let org = sim.org_ids()[0].clone();
        sim.add_fault(Fault::new(SimEndpoint::Token, Effect::error_status(status)));
        let exporter = SimHarness::start(&sim, FAST_POLL_FLAGS).await;
        let scrape = exporter
            .wait_until(reason, |scrape| scrape.poll_failures(&org, reason) >= 1.0)
            .await;
        let labels = [("outcome", outcome)];
        let requests = scrape.get("atlas_ai_keys_exporter_token_requests_total", &labels);
        assert!(requests >= Some(1.0), "{outcome}");
        assert_eq!(scrape.sum(FAILURES), scrape.poll_failures(&org, reason));
        exporter.stop().await;
    }
}
