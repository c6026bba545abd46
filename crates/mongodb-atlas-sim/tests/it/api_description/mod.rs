//! The simulator conforms to Atlas' published API description, as far as the schemas in `schemas/` cover it.

mod errors;
mod faults;
mod schema_checks;

use std::collections::BTreeSet;

use mongodb_atlas_sim::{Scenario, SimConfig, SimEndpoint};
use serde_json::Value;

use crate::schemas::Exchange;
use crate::{
    LEGACY_VERSION, PREVIEW_VERSION, SERVICE_ACCOUNT_VERSION, STABLE_VERSION, SimClient,
    TestResponse, static_config,
};

/// Endpoint, path, version and schema; `ORG`, `KEY` and `CLIENT` stand for the ids of the first organization, of its first key
/// and of the service account.
const ENDPOINTS: [(SimEndpoint, &str, &str, &str); 11] = {
    use SimEndpoint::{
        AiModelApiKey, AiModelApiKeys, AiModelApiRateLimits, Groups, Org, Orgs, RateLimits,
        ServiceAccount,
    };
    let keys = "orgs/ORG/aiModelApiKeys";
    let key = "orgs/ORG/aiModelApiKeys/KEY";
    let limits = "orgs/ORG/aiModelApiRateLimits";
    let limits_schema = "ai-rate-limits-page.json";
    [
        (AiModelApiKeys, keys, STABLE_VERSION, "keys-page.json"),
        (
            AiModelApiKeys,
            keys,
            PREVIEW_VERSION,
            "keys-page-preview.json",
        ),
        (AiModelApiKey, key, STABLE_VERSION, "key.json"),
        (AiModelApiKey, key, PREVIEW_VERSION, "key-preview.json"),
        (Orgs, "orgs", LEGACY_VERSION, "orgs-page.json"),
        (Org, "orgs/ORG", LEGACY_VERSION, "org.json"),
        (
            Groups,
            "orgs/ORG/groups",
            LEGACY_VERSION,
            "groups-page.json",
        ),
        (AiModelApiRateLimits, limits, STABLE_VERSION, limits_schema),
        (AiModelApiRateLimits, limits, PREVIEW_VERSION, limits_schema),
        (
            RateLimits,
            "rateLimits",
            STABLE_VERSION,
            "rate-limits-page.json",
        ),
        (
            ServiceAccount,
            "orgs/ORG/serviceAccounts/CLIENT",
            SERVICE_ACCOUNT_VERSION,
            "service-account.json",
        ),
    ]
};

const TOKEN_EXCHANGE: Exchange = oauth_exchange("token.json");
const REVOCATION_EXCHANGE: Exchange = oauth_exchange("revocation.json");

const fn oauth_exchange(schema: &'static str) -> Exchange {
    Exchange {
        schema,
        media_type: "application/json",
        path: String::new(),
    }
}

/// Returns a request for each endpoint and version, with `query`.
fn exchanges(client: &SimClient, query: &str) -> Vec<(SimEndpoint, Exchange)> {
    let key = client
        .sim
        .with_world(|world| world.keys(&client.org)[0].id.clone());
    let client_id = client.sim.credentials().client_id;
    ENDPOINTS
        .iter()
        .map(|&(endpoint, path, media_type, schema)| {
            let path = path.replace("KEY", &key).replace("CLIENT", &client_id) + query;
            let exchange = Exchange {
                schema,
                media_type,
                path,
            };
            (endpoint, exchange)
        })
        .collect()
}

/// Sends a request, and returns the deviations of the response from the description.
async fn send_and_check(client: &SimClient, exchange: &Exchange) -> (u16, Vec<String>) {
    let request = client.request(exchange.media_type, &exchange.path);
    match client.try_send(request).await {
        Ok(response) => (response.status.as_u16(), exchange.deviations(&response)),
        Err(error) => (0, vec![error]),
    }
}

/// Sends a request, asserts that the response conforms, and returns its status.
async fn assert_conforms(client: &SimClient, exchange: &Exchange) -> u16 {
    let (status, deviations) = send_and_check(client, exchange).await;
    assert!(deviations.is_empty(), "{exchange:?}: {deviations:#?}");
    status
}

fn assert_token_conforms(response: &TestResponse) {
    let deviations = TOKEN_EXCHANGE.deviations(response);
    assert!(deviations.is_empty(), "{deviations:#?}");
}

#[tokio::test]
async fn every_endpoint_conforms_in_all_versions_and_formats() {
    let client = SimClient::new(&static_config(2, 900));
    for query in [
        "",
        "?pretty=true",
        "?envelope=true",
        "?itemsPerPage=1",
        "?itemsPerPage=500&pageNum=1",
        "?itemsPerPage=7&pageNum=2&envelope=true",
        "?itemsPerPage=7&pageNum=60",
        "?pageNum=4000&pretty=true&envelope=true",
    ] {
        for (_, exchange) in exchanges(&client, query) {
            assert_eq!(
                assert_conforms(&client, &exchange).await,
                200,
                "{exchange:?}"
            );
        }
    }
    let token = client.request_token().await;
    assert_eq!(token.status, 200);
    assert_token_conforms(&token);
    let credentials = client.sim.credentials();
    let (id, secret) = (&credentials.client_id, &credentials.client_secret);
    let form = format!(
        "token={}&token_type_hint=access_token",
        token.json()["access_token"].as_str().unwrap()
    );
    let revocation = client.post_form("revoke", id, secret, &form).await;
    assert_eq!(revocation.status, 200);
    assert_eq!(REVOCATION_EXCHANGE.deviations(&revocation), [""; 0]);
}

#[tokio::test]
async fn results_are_complete_and_names_are_arbitrary() {
    let client = SimClient::new(&static_config(2, 600));
    for (_, exchange) in exchanges(&client, "?itemsPerPage=500") {
        let response = client.get_as(exchange.media_type, &exchange.path).await;
        let body = response.json();
        if let Some(results) = body.get("results") {
            assert!(!results.as_array().unwrap().is_empty(), "{exchange:?}");
        }
    }
    let page = client.get_keys("?itemsPerPage=500").await.json();
    let keys = page["results"].as_array().unwrap();
    for field in [
        "apiKeyId",
        "name",
        "groupId",
        "status",
        "createdAt",
        "createdBy",
        "cloud",
        "geography",
        "endpoint",
        "maskedSecret",
    ] {
        assert!(keys.iter().all(|key| key[field].is_string()), "{field}");
    }
    let (used, unused): (Vec<&Value>, Vec<&Value>) =
        keys.iter().partition(|key| key["lastUsedAt"].is_string());
    assert!(!used.is_empty() && unused.iter().any(|key| key["lastUsedAt"].is_null()));
    let is_named =
        |test: fn(&str) -> bool| keys.iter().any(|key| test(key["name"].as_str().unwrap()));
    assert!(is_named(|name| name.contains('\n')) && is_named(|name| name.len() == 250));
    assert!(is_named(|name| !name.is_ascii()));
}

#[tokio::test]
async fn every_scenario_conforms() {
    for scenario in Scenario::ALL {
        let client = SimClient::new(&SimConfig {
            scenario,
            orgs: 2,
            keys: 200,
            ..SimConfig::default()
        });
        let mut statuses = BTreeSet::new();
        for minutes in [0, 2, 120] {
            client.clock.set_minutes(minutes);
            for query in ["", "?itemsPerPage=50&pageNum=2"] {
                for (_, exchange) in exchanges(&client, query) {
                    statuses.insert(assert_conforms(&client, &exchange).await);
                }
            }
            let token = client.request_token().await;
            assert_token_conforms(&token);
            let expected = if scenario == Scenario::Revoked && minutes > 0 {
                401
            } else {
                200
            };
            assert_eq!(token.status, expected);
        }
        let expected = match scenario {
            Scenario::Calm | Scenario::Stale | Scenario::Churn | Scenario::Expiring => vec![200],
            Scenario::Outage => vec![200, 503],
            Scenario::Throttled => vec![200, 429],
            Scenario::Revoked => vec![200, 401],
        };
        assert_eq!(Vec::from_iter(statuses), expected, "{scenario}");
    }
}
