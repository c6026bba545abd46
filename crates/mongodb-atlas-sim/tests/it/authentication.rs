//! Credentials, access tokens and their limits.

use axum::body::Body;
use axum::http::{Request, header};
use mongodb_atlas_sim::SimConfig;
use serde_json::json;

use crate::{STABLE_VERSION, SimClient, static_config};

#[tokio::test]
async fn requests_without_credentials_are_unauthorized() {
    let client = SimClient::new(&static_config(1, 5));
    let path = format!("/api/atlas/v2/orgs/{}/aiModelApiKeys", client.org);
    for authorization in [
        None,
        Some("Bearer invalid"),
        Some("Basic eDp5"),
        Some("Digest nonsense"),
        Some(""),
    ] {
        let mut request = Request::get(&path).header(header::ACCEPT, STABLE_VERSION);
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let response = client.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status, 401, "{authorization:?}");
        let challenge = response.header("www-authenticate");
        for part in [
            "Digest realm=\"MMS Public API\", domain=\"\", nonce=\"",
            "algorithm=MD5, qop=\"auth\", stale=false",
        ] {
            assert!(challenge.contains(part), "{challenge}");
        }
        let body = response.json();
        assert_eq!(
            (&body["error"], &body["reason"]),
            (&json!(401), &json!("Unauthorized"))
        );
    }
}

#[tokio::test]
async fn tokens_are_issued_counted_and_revoked() {
    let client = SimClient::new(&SimConfig {
        token_lifetime_seconds: 1800,
        ..static_config(1, 5)
    });
    let credentials = client.sim.credentials();
    let (id, secret) = (&credentials.client_id, &credentials.client_secret);
    let grant = "grant_type=client_credentials";
    let response = client.post_form("token", id, "invalid", grant).await;
    assert_eq!(response.status, 401);
    let password_grant = "grant_type=password";
    let response = client.post_form("token", id, secret, password_grant).await;
    assert_eq!(response.status, 400);
    let response = client.request_token().await;
    let body = response.json();
    assert_eq!(
        (
            response.status.as_u16(),
            &body["token_type"],
            &body["expires_in"]
        ),
        (200, &json!("Bearer"), &json!(1800))
    );
    assert_eq!(client.sim.live_token_count(), 1);
    let token = body["access_token"].as_str().unwrap();
    let form = format!("token={token}&token_type_hint=access_token");
    let response = client.post_form("revoke", id, secret, &form).await;
    assert_eq!(
        (response.status.as_u16(), client.sim.live_token_count()),
        (200, 0)
    );
}

#[tokio::test]
async fn valid_tokens_are_limited_to_one_hundred() {
    let client = SimClient::new(&static_config(1, 5));
    for number in 0..100 {
        // Forty per minute stay below the limit of token requests.
        client.clock.set_minutes(number / 40);
        let response = client.request_token().await;
        assert_eq!(response.status, 200, "token {number}");
    }
    client.clock.set_minutes(10);
    let response = client.request_token().await;
    let body = response.json();
    assert_eq!(
        (response.status.as_u16(), &body["error"]),
        (403, &json!("access_denied"))
    );
    let description = body["error_description"].as_str().unwrap();
    assert!(description.starts_with("Access Token limit reached."));
    client.clock.set_minutes(61);
    let response = client.request_token().await;
    assert_eq!(response.status, 200, "the first tokens have expired");
}

#[tokio::test]
async fn token_requests_are_limited_to_fifty_per_minute() {
    let client = SimClient::new(&static_config(1, 5));
    for _ in 0..50 {
        assert_eq!(client.request_token().await.status, 200);
    }
    let rejected = client.request_token().await;
    assert_eq!(
        (rejected.status.as_u16(), &rejected.json()["errorCode"]),
        (429, &json!("RATE_LIMITED_TOKEN_BUCKET"))
    );
}
