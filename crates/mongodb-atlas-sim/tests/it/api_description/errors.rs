//! Error responses conform to the API description.

use axum::body::Body;
use axum::http::{Method, Request, header};
use mongodb_atlas_sim::{BucketConfig, Effect, Fault, SimConfig, SimEndpoint};

use super::{REVOCATION_EXCHANGE, assert_conforms, assert_token_conforms, exchanges};
use crate::schemas::Exchange;
use crate::{
    LEGACY_VERSION, PREVIEW_VERSION, SERVICE_ACCOUNT_VERSION, STABLE_VERSION, SimClient,
    static_config,
};

#[tokio::test]
async fn every_error_status_conforms() {
    let client = SimClient::new(&static_config(2, 250));
    for status in [400, 401, 403, 404, 406, 429, 500, 503] {
        let effect = Effect::error_status(status);
        for query in ["", "?envelope=true"] {
            for (endpoint, exchange) in exchanges(&client, query) {
                let fault = Fault::new(endpoint, effect.clone());
                client.sim.add_fault(fault.times(1));
                assert_eq!(assert_conforms(&client, &exchange).await, status);
            }
        }
        let fault = Fault::new(SimEndpoint::Token, effect.clone());
        client.sim.add_fault(fault.times(1));
        let token = client.request_token().await;
        assert_eq!(token.status, status);
        assert_token_conforms(&token);
    }
}

#[tokio::test]
async fn rejected_requests_conform() {
    let client = SimClient::new(&static_config(1, 5));
    let unknown = "orgs/000000000000000000000000/aiModelApiKeys";
    let unknown_account = "orgs/ORG/serviceAccounts/mdb_sa_id_0123456789abcdef01234567";
    for (path, accept, status) in [
        (
            "orgs/ORG/aiModelApiKeys?itemsPerPage=0",
            STABLE_VERSION,
            400,
        ),
        (
            "orgs/ORG/aiModelApiKeys?itemsPerPage=501",
            STABLE_VERSION,
            400,
        ),
        ("orgs/ORG/aiModelApiKeys?pageNum=0", STABLE_VERSION, 400),
        ("orgs/xyz/aiModelApiKeys", STABLE_VERSION, 400),
        (unknown, STABLE_VERSION, 404),
        ("orgs/ORG/aiModelApiKeys/none", STABLE_VERSION, 404),
        (
            "orgs/ORG/serviceAccounts/x?envelope=true",
            SERVICE_ACCOUNT_VERSION,
            400,
        ),
        (unknown_account, SERVICE_ACCOUNT_VERSION, 404),
        (unknown_account, PREVIEW_VERSION, 406),
        ("nothing?envelope=true", STABLE_VERSION, 404),
        ("orgs/ORG/aiModelApiKeys?envelope=true", LEGACY_VERSION, 406),
        ("orgs", STABLE_VERSION, 406),
        ("rateLimits", PREVIEW_VERSION, 406),
    ] {
        let exchange = Exchange {
            schema: "error.json",
            media_type: accept,
            path: path.to_owned(),
        };
        assert_eq!(assert_conforms(&client, &exchange).await, status, "{path}");
    }
    let exchange = Exchange {
        schema: "error.json",
        media_type: STABLE_VERSION,
        path: "orgs/ORG/aiModelApiKeys".to_owned(),
    };
    for (method, token, status) in [
        (Method::GET, "invalid", 401),
        (Method::POST, "invalid", 405),
    ] {
        let path = format!("/api/atlas/v2/orgs/{}/aiModelApiKeys", client.org);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, STABLE_VERSION)
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        let response = client.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status, status);
        assert_eq!(exchange.deviations(&response), [""; 0]);
    }
}

#[tokio::test]
async fn exhausted_buckets_conform() {
    for bare in [false, true] {
        let client = SimClient::new(&SimConfig {
            org_bucket: BucketConfig::SMALLEST,
            ..static_config(1, 5)
        });
        if bare {
            let fault = Fault::new(SimEndpoint::AiModelApiKeys, Effect::BareRejections);
            client.sim.add_fault(fault);
        }
        let (_, exchange) = exchanges(&client, "?envelope=true").swap_remove(0);
        let mut statuses = Vec::new();
        for _ in 0..12 {
            statuses.push(assert_conforms(&client, &exchange).await);
        }
        assert_eq!(statuses[10..], [429, 429]);
    }
    let client = SimClient::new(&static_config(1, 5));
    for number in 0..51 {
        let token = client.request_token().await;
        assert_eq!(token.status, if number < 50 { 200 } else { 429 });
        assert_token_conforms(&token);
    }
}

#[tokio::test]
async fn rejected_token_requests_conform() {
    let client = SimClient::new(&static_config(1, 5));
    let credentials = client.sim.credentials();
    let (id, secret) = (&credentials.client_id, &credentials.client_secret);
    let grant = "grant_type=client_credentials";
    let response = client.post_form("token", id, "invalid", grant).await;
    assert_eq!(response.status, 401);
    assert_token_conforms(&response);
    let response = client.post_form("revoke", id, "invalid", "token=x").await;
    assert_eq!(response.status, 401);
    assert_eq!(REVOCATION_EXCHANGE.deviations(&response), [""; 0]);
    let response = client
        .post_form("token", id, secret, "grant_type=password")
        .await;
    assert_eq!(response.status, 400);
    assert_token_conforms(&response);
    for number in 0..101 {
        // Forty per minute stay below the limit of token requests.
        client.clock.set_minutes(1 + number / 40);
        let response = client.request_token().await;
        assert_eq!(response.status, if number < 100 { 200 } else { 403 });
        assert_token_conforms(&response);
    }
}
