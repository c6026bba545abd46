//! The service account, its secrets, and access to them.

use axum::body::Body;
use axum::http::{Method, Request, header};
use jiff::{SignedDuration, Timestamp};
use md5::{Digest as _, Md5};
use mongodb_atlas_sim::{
    BucketConfig, Effect, Fault, Scenario, SimConfig, SimEndpoint, SimSecret, SimServiceAccount,
};
use serde_json::{Value, json};

use crate::{SERVICE_ACCOUNT_VERSION, STABLE_VERSION, SimClient, TestResponse, static_config};

const MINUTES_PER_DAY: i64 = 24 * 60;

async fn get_from(client: &SimClient, org: &str, client_id: &str) -> TestResponse {
    let path = format!("orgs/{org}/serviceAccounts/{client_id}");
    client.get_as(SERVICE_ACCOUNT_VERSION, &path).await
}

async fn get_account(client: &SimClient) -> TestResponse {
    let client_id = client.sim.credentials().client_id;
    get_from(client, &client.org, &client_id).await
}

async fn get_secrets(client: &SimClient) -> Vec<Value> {
    let response = get_account(client).await;
    assert_eq!(response.status, 200);
    response.json()["secrets"].as_array().unwrap().clone()
}

fn days_from_epoch(value: &Value) -> i64 {
    let at: Timestamp = value.as_str().unwrap().parse().unwrap();
    at.as_second().div_euclid(86_400)
}

fn after_days(days: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * days)
}

fn change_account(client: &SimClient, change: impl FnOnce(&mut SimServiceAccount)) {
    client.sim.with_service_account(change);
}

#[tokio::test]
async fn account_lists_a_current_and_a_replaced_secret() {
    let client = SimClient::new(&static_config(2, 5));
    let response = get_account(&client).await;
    assert_eq!(response.header("content-type"), SERVICE_ACCOUNT_VERSION);
    let account = response.json();
    let credentials = client.sim.credentials();
    assert_eq!(account["clientId"], credentials.client_id);
    assert_eq!(account["roles"], json!(["ORG_READ_ONLY"]));
    assert!(account["name"].is_string() && account["description"].is_string());
    let secrets = account["secrets"].as_array().unwrap();
    let [current, replaced] = &secrets[..] else {
        panic!("{account}");
    };
    let days = |secret: &Value| ["createdAt", "expiresAt"].map(|at| days_from_epoch(&secret[at]));
    assert_eq!((days(current), days(replaced)), ([-275, 90], [-345, 20]));
    assert_eq!(current.get("lastUsedAt"), None);
    assert_eq!(days_from_epoch(&replaced["lastUsedAt"]), -40);
    assert_ne!(current["id"], replaced["id"]);
    let text = String::from_utf8(response.body).unwrap();
    assert!(!text.contains(&credentials.client_secret) && !text.contains("\"secret\""));
}

#[tokio::test]
async fn issued_token_updates_last_use_of_its_secret() {
    let client = SimClient::new(&static_config(1, 5));
    let credentials = client.sim.credentials();
    client.clock.set_minutes(7);
    let grant = "grant_type=client_credentials";
    let id = &credentials.client_id;
    let rejected = client.post_form("token", id, "invalid", grant).await;
    assert_eq!(rejected.status, 401);
    assert_eq!(get_secrets(&client).await[0].get("lastUsedAt"), None);
    client.request_token().await;
    let secrets = get_secrets(&client).await;
    assert_eq!(secrets[0]["lastUsedAt"], "1970-01-01T00:07:00Z");
    assert_eq!(days_from_epoch(&secrets[1]["lastUsedAt"]), -40);

    let next = SimSecret::new("mdb_sa_sk_next", after_days(0), after_days(365));
    change_account(&client, |account| account.secrets.push(next));
    client
        .sim
        .with_credentials(|account| account.next_client_secret = Some("mdb_sa_sk_next".to_owned()));
    client.clock.set_minutes(9);
    let issued = client.post_form("token", id, "mdb_sa_sk_next", grant).await;
    assert_eq!(issued.status, 200);
    let secrets = get_secrets(&client).await;
    assert_eq!(secrets[0]["lastUsedAt"], "1970-01-01T00:07:00Z");
    assert_eq!(secrets[2]["lastUsedAt"], "1970-01-01T00:09:00Z");
}

#[tokio::test]
async fn expired_secret_is_rejected() {
    let client = SimClient::new(&static_config(1, 5));
    client.clock.set_minutes(90 * MINUTES_PER_DAY - 1);
    assert_eq!(client.request_token().await.status, 200);
    client.clock.set_minutes(90 * MINUTES_PER_DAY);
    let rejected = client.request_token().await;
    assert_eq!(
        (rejected.status.as_u16(), &rejected.json()["error"]),
        (401, &json!("invalid_client"))
    );
    let secrets = get_secrets(&client).await;
    assert_eq!(secrets[0]["lastUsedAt"], "1970-03-31T23:59:00Z");
}

#[tokio::test]
async fn secret_expires_within_five_days_in_its_scenario() {
    let client = SimClient::new(&SimConfig {
        scenario: Scenario::Expiring,
        ..static_config(1, 5)
    });
    let secrets = get_secrets(&client).await;
    let expiry: Vec<i64> = secrets
        .iter()
        .map(|secret| days_from_epoch(&secret["expiresAt"]))
        .collect();
    assert_eq!(expiry, [4]);
    assert_eq!(client.request_token().await.status, 200);
}

#[tokio::test]
async fn foreign_and_unknown_accounts_return_404() {
    let client = SimClient::new(&static_config(2, 5));
    let orgs = client.sim.org_ids();
    let id = client.sim.credentials().client_id;
    let unknown_org = "000000000000000000000000";
    let unknown_id = "mdb_sa_id_0123456789abcdefABCDEF01";
    for (org, id) in [
        (orgs[1].as_str(), id.as_str()),
        (unknown_org, &id),
        (&orgs[0], unknown_id),
    ] {
        let response = get_from(&client, org, id).await;
        assert_eq!(response.status, 404, "{org} {id}");
        assert_eq!(response.json()["errorCode"], "RESOURCE_NOT_FOUND");
    }
    change_account(&client, |account| account.org = Some(orgs[1].clone()));
    assert_eq!(get_from(&client, &orgs[0], &id).await.status, 404);
    assert_eq!(get_from(&client, &orgs[1], &id).await.status, 200);
    change_account(&client, |account| account.org = None);
    for org in &orgs {
        assert_eq!(get_from(&client, org, &id).await.status, 404);
    }
}

#[tokio::test]
async fn malformed_client_ids_return_400() {
    let client = SimClient::new(&static_config(1, 5));
    for id in [
        "x",
        "mdb_sa_id_",
        "0123456789abcdef01234567",
        "mdb_sa_id_0123456789abcdef0123456",
        "mdb_sa_id_0123456789abcdef012345678",
        "mdb_sa_id_0123456789abcdef0123456g",
        "MDB_SA_ID_0123456789abcdef01234567",
    ] {
        let response = get_from(&client, &client.org, id).await;
        assert_eq!(response.status, 400, "{id}");
        let body = response.json();
        assert_eq!(
            (&body["error"], &body["reason"], &body["parameters"]),
            (&json!(400), &json!("Bad Request"), &json!(["clientId"]))
        );
    }
    let id = client.sim.credentials().client_id;
    let path = format!("orgs/ORG/serviceAccounts/{id}");
    let response = client.get_as(STABLE_VERSION, &path).await;
    assert_eq!(response.status, 406, "the endpoint has one version");
}

#[tokio::test]
async fn digest_credentials_can_read_the_account() {
    let client = SimClient::new(&static_config(1, 5));
    let credentials = client.sim.credentials();
    let (org, id) = (&client.org, &credentials.client_id);
    let path = format!("/api/atlas/v2/orgs/{org}/serviceAccounts/{id}");
    let request = || Request::get(&path).header(header::ACCEPT, SERVICE_ACCOUNT_VERSION);
    let unauthorized = client.send(request().body(Body::empty()).unwrap()).await;
    assert_eq!(unauthorized.status, 401);
    let challenge = unauthorized.header("www-authenticate");
    let (_, rest) = challenge.split_once("nonce=\"").unwrap();
    let (nonce, _) = rest.split_once('"').unwrap();
    let md5 = |text: String| format!("{:x}", Md5::digest(text));
    let (user, password) = (&credentials.public_key, &credentials.private_key);
    let secret = md5(format!("{user}:MMS Public API:{password}"));
    let target = md5(format!("GET:{path}"));
    let response = md5(format!("{secret}:{nonce}:00000001:c:auth:{target}"));
    let authorization = format!(
        "Digest username=\"{user}\", realm=\"MMS Public API\", nonce=\"{nonce}\", uri=\"{path}\", qop=auth, \
         nc=00000001, cnonce=\"c\", response=\"{response}\""
    );
    let authorized = request().header(header::AUTHORIZATION, authorization);
    let response = client.send(authorized.body(Body::empty()).unwrap()).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.json()["clientId"], id.as_str());
}

#[tokio::test]
async fn account_endpoint_has_a_separate_bucket() {
    let client = SimClient::new(&SimConfig {
        org_bucket: BucketConfig::SMALLEST,
        ..static_config(1, 5)
    });
    for left in (0..10).rev() {
        let response = get_account(&client).await;
        assert_eq!(response.header("ratelimit-remaining"), left.to_string());
    }
    assert_eq!(get_account(&client).await.status, 429);
    assert_eq!(client.sim.available_tokens(&client.org), 10);
}

#[tokio::test]
async fn secrets_set_by_a_test_are_returned() {
    let client = SimClient::new(&static_config(1, 5));
    change_account(&client, |account| {
        account.secrets = ["a", "b", "c"]
            .map(|value| SimSecret::new(value, after_days(-1), after_days(1)))
            .to_vec();
        account.secrets[1].last_used = Some(after_days(0));
        account.description = None;
    });
    let account = get_account(&client).await.json();
    assert_eq!(account.get("description"), None);
    let used = ["a", "b", "c"].map(|_| Value::Null);
    let found = [0, 1, 2].map(|index| account["secrets"][index]["lastUsedAt"].clone());
    assert_eq!((&found[0], &found[2]), (&used[0], &used[2]));
    assert_eq!(found[1], "1970-01-01T00:00:00Z");
    change_account(&client, |account| account.secrets.clear());
    assert_eq!(get_secrets(&client).await, [json!(null); 0]);
}

#[tokio::test]
async fn faults_change_the_content_of_secrets() {
    let client = SimClient::new(&static_config(1, 5));
    client.request_token().await;
    let fault = |effect| Fault::new(SimEndpoint::ServiceAccount, effect).times(1);
    client.sim.add_fault(fault(Effect::error_status(403)));
    assert_eq!(get_account(&client).await.status, 403);

    client.sim.add_fault(fault(Effect::Secret));
    let client_secret = client.sim.credentials().client_secret;
    let secrets = get_secrets(&client).await;
    assert_eq!(secrets[0]["secret"], client_secret);

    let fields = vec!["lastUsedAt".to_owned()];
    client
        .sim
        .add_fault(fault(Effect::MissingFields { fields }));
    let secrets = get_secrets(&client).await;
    let used = |secret: &Value| secret.get("lastUsedAt").is_some();
    assert_eq!((used(&secrets[0]), used(&secrets[1])), (false, true));

    let invalid = json!({"endpoint": "service_account", "effect": {"kind": "invalid_timestamps"}});
    client
        .send_control(Method::POST, "faults", Some(invalid))
        .await;
    let secrets = get_secrets(&client).await;
    for field in ["createdAt", "expiresAt", "lastUsedAt"] {
        let parse = |secret: &Value| secret[field].as_str().unwrap().parse::<Timestamp>();
        assert!(parse(&secrets[0]).is_err(), "{field}");
        assert!(parse(&secrets[1]).is_ok(), "{field}");
    }
}
