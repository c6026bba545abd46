//! The simulated Atlas answers as the API's description says.
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::common::static_sim;
use jiff::{SignedDuration, Timestamp};
use mongodb_atlas_sim::{BucketConfig, ChangeKind, SimConfig, SimHandle};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const STABLE_VERSION: &str = "application/vnd.atlas.2025-03-12+json";
const PREVIEW_VERSION: &str = "application/vnd.atlas.preview+json";
const LEGACY_VERSION: &str = "application/vnd.atlas.2023-01-01+json";

struct SimClient {
    sim: SimHandle,
    http: Client,
    org: String,
}

impl SimClient {
    async fn start(config: SimConfig) -> Self {
        Self::from_handle(crate::common::start_sim(config).await)
    }

    fn from_handle(sim: SimHandle) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let org = sim.org_ids()[0].clone();
        let http = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { sim, http, org }
    }

    async fn get_as(&self, accept: &str, path: &str) -> Response {
        let path = path.replace("ORG", &self.org);
        let request = self
            .http
            .get(format!("{}/api/atlas/v2/{path}", self.sim.base_url()));
        request
            .header("accept", accept)
            .bearer_auth(self.sim.credentials().access_token)
            .send()
            .await
            .unwrap()
    }

    async fn get_keys(&self, query: &str) -> Response {
        self.get_as(STABLE_VERSION, &format!("orgs/ORG/aiModelApiKeys{query}"))
            .await
    }

    async fn request_token(&self, id: &str, secret: &str, body: &str) -> (StatusCode, Value) {
        let request = self
            .http
            .post(format!("{}/api/oauth/token", self.sim.base_url()));
        let request = request
            .basic_auth(id, Some(secret))
            .header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(body.to_owned()).send().await.unwrap();
        let status = answer.status();
        (status, read_json(answer).await)
    }

    async fn send_control(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self
            .http
            .request(method, format!("{}/sim/{path}", self.sim.base_url()));
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, read_json(answer).await)
    }
}

async fn read_json(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null)
}

fn link_rels(page: &Value) -> Vec<&str> {
    page["links"]
        .as_array()
        .unwrap()
        .iter()
        .map(|link| link["rel"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn pages_have_size_links_and_total() {
    let atlas = SimClient::start(static_sim(1, 250)).await;
    let first = atlas.get_keys("").await;
    assert_eq!(first.headers()["content-type"], STABLE_VERSION);
    let first = read_json(first).await;
    assert_eq!(
        (
            first["results"].as_array().unwrap().len(),
            &first["totalCount"]
        ),
        (100, &json!(250)),
        "100 is the default"
    );
    assert_eq!(link_rels(&first), ["self", "next"]);
    let second = read_json(atlas.get_keys("?pageNum=2").await).await;
    assert_eq!(link_rels(&second), ["self", "previous", "next"]);
    let third = read_json(atlas.get_keys("?pageNum=3").await).await;
    assert_eq!(
        (
            third["results"].as_array().unwrap().len(),
            link_rels(&third)
        ),
        (50, vec!["self", "previous"])
    );
    let beyond = read_json(atlas.get_keys("?pageNum=9").await).await;
    assert_eq!(
        (
            beyond["results"].as_array().unwrap().len(),
            link_rels(&beyond)
        ),
        (0, vec!["self", "previous"])
    );
    let next = first["links"][1]["href"].as_str().unwrap();
    assert!(
        next.starts_with(&atlas.sim.base_url()) && next.contains("pageNum=2"),
        "{next}"
    );
    atlas.sim.stop().await;
}

#[tokio::test]
async fn invalid_parameters_return_400_with_error_body() {
    let atlas = SimClient::start(static_sim(1, 5)).await;
    for query in [
        "?itemsPerPage=0",
        "?itemsPerPage=501",
        "?pageNum=0",
        "?pageNum=x",
        "?itemsPerPage=-1",
    ] {
        let answer = atlas.get_keys(query).await;
        assert_eq!(answer.status(), 400, "{query}");
        let body = read_json(answer).await;
        assert_eq!(
            (&body["error"], &body["reason"]),
            (&json!(400), &json!("Bad Request")),
            "{query}"
        );
        assert!(body["errorCode"].is_string() && body["detail"].is_string());
    }
    for org in ["xyz", "32B6E34B3D91647ABB20E7B8", "32b6e34b3d91647abb20e7b"] {
        assert_eq!(
            atlas
                .get_as(STABLE_VERSION, &format!("orgs/{org}/aiModelApiKeys"))
                .await
                .status(),
            400,
            "{org}"
        );
    }
    let unknown = atlas
        .get_as(
            STABLE_VERSION,
            "orgs/000000000000000000000000/aiModelApiKeys",
        )
        .await;
    assert_eq!(unknown.status(), 404);
    assert_eq!(read_json(unknown).await["errorCode"], "RESOURCE_NOT_FOUND");
    atlas.sim.stop().await;
}

#[tokio::test]
async fn versions_are_negotiated_per_endpoint() {
    let atlas = SimClient::start(static_sim(1, 20)).await;
    for accept in [
        LEGACY_VERSION,
        "application/json",
        "*/*",
        "application/vnd.atlas.2031-01-01+json",
    ] {
        assert_eq!(
            atlas
                .get_as(accept, "orgs/ORG/aiModelApiKeys")
                .await
                .status(),
            406,
            "{accept}"
        );
    }
    let stable = read_json(atlas.get_keys("").await).await["results"][0].clone();
    let preview = atlas
        .get_as(PREVIEW_VERSION, "orgs/ORG/aiModelApiKeys")
        .await;
    assert_eq!(preview.headers()["content-type"], PREVIEW_VERSION);
    let preview = read_json(preview).await["results"][0].clone();
    for member in [
        "apiKeyId",
        "createdAt",
        "createdBy",
        "groupId",
        "lastUsedAt",
        "maskedSecret",
        "name",
        "status",
    ] {
        assert_eq!(stable[member], preview[member], "{member}");
    }
    for member in ["cloud", "geography", "endpoint"] {
        assert!(
            stable[member].is_string() && preview.get(member).is_none(),
            "{member}"
        );
    }
    assert!(stable.get("secret").is_none() && preview.get("secret").is_none());
    let created = stable["createdAt"].as_str().unwrap();
    assert!(
        created.len() == 32 && created.ends_with("+00:00"),
        "{created}"
    );
    atlas.sim.stop().await;
}

#[tokio::test]
async fn envelope_and_pretty_only_change_the_formatting() {
    let atlas = SimClient::start(static_sim(1, 5)).await;
    let plain = read_json(atlas.get_keys("").await).await;
    let mut wrapped = read_json(atlas.get_keys("?envelope=true").await).await;
    assert_eq!(
        wrapped.as_object_mut().unwrap().remove("status"),
        Some(json!(200))
    );
    assert_eq!(wrapped["results"], plain["results"]);
    let pretty = atlas.get_keys("?pretty=true").await.text().await.unwrap();
    assert!(pretty.starts_with("{\n  \""), "{pretty}");
    assert_eq!(
        serde_json::from_str::<Value>(&pretty).unwrap()["results"],
        plain["results"]
    );
    atlas.sim.stop().await;
}

#[tokio::test]
async fn every_endpoint_responds() {
    let atlas = SimClient::start(static_sim(2, 120)).await;
    let orgs = read_json(atlas.get_as(LEGACY_VERSION, "orgs").await).await;
    assert_eq!(
        (
            orgs["totalCount"].clone(),
            orgs["results"][0]["isDeleted"].clone()
        ),
        (json!(2), json!(false))
    );
    let org = read_json(atlas.get_as(LEGACY_VERSION, "orgs/ORG").await).await;
    assert_eq!(org["id"], atlas.org.as_str());
    assert_eq!(org["name"], orgs["results"][0]["name"]);
    let groups = read_json(
        atlas
            .get_as(LEGACY_VERSION, "orgs/ORG/groups?itemsPerPage=1")
            .await,
    )
    .await;
    assert_eq!(groups["results"].as_array().unwrap().len(), 1);
    assert!(groups["results"][0]["name"].is_string());
    let limits = read_json(
        atlas
            .get_as(STABLE_VERSION, "orgs/ORG/aiModelApiRateLimits")
            .await,
    )
    .await;
    assert!(
        limits["results"][0]["requestsPerMinuteLimit"].is_u64()
            && limits["results"][0]["modelNames"].is_array()
    );
    let buckets = read_json(atlas.get_as(STABLE_VERSION, "rateLimits?orgId=ORG").await).await;
    assert_eq!(buckets["results"][0]["capacity"]["value"], 500);
    let id = read_json(atlas.get_keys("").await).await["results"][3]["apiKeyId"]
        .as_str()
        .unwrap()
        .to_owned();
    let one = read_json(
        atlas
            .get_as(STABLE_VERSION, &format!("orgs/ORG/aiModelApiKeys/{id}"))
            .await,
    )
    .await;
    assert_eq!(one["apiKeyId"], id.as_str());
    assert_eq!(
        atlas
            .get_as(STABLE_VERSION, "orgs/ORG/aiModelApiKeys/none")
            .await
            .status(),
        404
    );
    assert_eq!(atlas.get_as(STABLE_VERSION, "nothing").await.status(), 404);
    atlas.sim.stop().await;
}

#[tokio::test]
async fn requests_without_credentials_are_unauthorized() {
    let atlas = SimClient::start(static_sim(1, 5)).await;
    let url = format!(
        "{}/api/atlas/v2/orgs/{}/aiModelApiKeys",
        atlas.sim.base_url(),
        atlas.org
    );
    for authorization in [
        None,
        Some("Bearer wrong"),
        Some("Basic eDp5"),
        Some("Digest nonsense"),
        Some(""),
    ] {
        let mut request = atlas.http.get(&url).header("accept", STABLE_VERSION);
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 401, "{authorization:?}");
        let challenge = answer.headers()["www-authenticate"]
            .to_str()
            .unwrap()
            .to_owned();
        for part in [
            "Digest realm=\"MMS Public API\", domain=\"\", nonce=\"",
            "algorithm=MD5, qop=\"auth\", stale=false",
        ] {
            assert!(challenge.contains(part), "{challenge}");
        }
        let body = read_json(answer).await;
        assert_eq!(
            (&body["error"], &body["reason"]),
            (&json!(401), &json!("Unauthorized"))
        );
    }
    atlas.sim.stop().await;
}

#[tokio::test]
async fn tokens_are_issued_counted_and_revoked() {
    let config = SimConfig {
        token_lifetime_seconds: 1800,
        ..static_sim(1, 5)
    };
    let atlas = SimClient::start(config).await;
    let account = atlas.sim.credentials();
    let (id, secret) = (account.client_id.as_str(), account.client_secret.as_str());
    let grant = "grant_type=client_credentials";
    assert_eq!(atlas.request_token(id, "wrong", grant).await.0, 401);
    assert_eq!(
        atlas
            .request_token(id, secret, "grant_type=password")
            .await
            .0,
        400
    );
    let (status, body) = atlas.request_token(id, secret, grant).await;
    assert_eq!(
        (status.as_u16(), &body["token_type"], &body["expires_in"]),
        (200, &json!("Bearer"), &json!(1800))
    );
    assert_eq!(atlas.sim.live_token_count(), 1);
    let token = body["access_token"].as_str().unwrap();
    let revoke = atlas
        .http
        .post(format!("{}/api/oauth/revoke", atlas.sim.base_url()))
        .basic_auth(id, Some(secret));
    let answer = revoke
        .body(format!("token={token}&token_type_hint=access_token"))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (answer.status().as_u16(), atlas.sim.live_token_count()),
        (200, 0)
    );
    atlas.sim.stop().await;
}

#[tokio::test]
async fn live_tokens_are_limited_to_one_hundred() {
    let minutes = Arc::new(AtomicI64::new(0));
    let read = Arc::clone(&minutes);
    let clock = mongodb_atlas_sim::SimClock::new(move || {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(read.load(Ordering::Relaxed))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sim = SimHandle::start(listener, &static_sim(1, 5), clock).unwrap();
    let atlas = SimClient::from_handle(sim);
    let account = atlas.sim.credentials();
    let mint = async || {
        let (id, secret) = (&account.client_id, &account.client_secret);
        atlas
            .request_token(id, secret, "grant_type=client_credentials")
            .await
    };
    for number in 0..100 {
        // some forty a minute, so that the bucket of the minting is no matter
        minutes.store(number / 40, Ordering::Relaxed);
        assert_eq!(mint().await.0, 200, "token {number}");
    }
    minutes.store(10, Ordering::Relaxed);
    let (status, body) = mint().await;
    assert_eq!(
        (status.as_u16(), &body["error"]),
        (403, &json!("access_denied"))
    );
    assert!(
        body["error_description"]
            .as_str()
            .unwrap()
            .starts_with("Access Token limit reached.")
    );
    minutes.store(61, Ordering::Relaxed);
    assert_eq!(mint().await.0, 200, "the first ones have ended");
    atlas.sim.stop().await;
}

#[tokio::test]
async fn token_requests_are_limited_to_fifty_per_minute() {
    let atlas = SimClient::start(static_sim(1, 5)).await;
    let account = atlas.sim.credentials();
    let mut refused = None;
    for _ in 0..51 {
        let (status, body) = atlas
            .request_token(
                &account.client_id,
                &account.client_secret,
                "grant_type=client_credentials",
            )
            .await;
        refused = (status != 200).then_some((status.as_u16(), body["errorCode"].clone()));
    }
    assert_eq!(refused, Some((429, json!("RATE_LIMITED_TOKEN_BUCKET"))));
    atlas.sim.stop().await;
}

#[tokio::test]
async fn exhausted_bucket_returns_429() {
    let config = SimConfig {
        org_bucket: BucketConfig::SMALLEST,
        ..static_sim(2, 5)
    };
    let atlas = SimClient::start(config).await;
    for left in (0..10).rev() {
        let answer = atlas.get_keys("").await;
        assert_eq!(
            (
                answer.status().as_u16(),
                answer.headers()["ratelimit-limit"].to_str().unwrap()
            ),
            (200, "10")
        );
        assert_eq!(
            answer.headers()["ratelimit-remaining"].to_str().unwrap(),
            left.to_string()
        );
    }
    let answer = atlas.get_keys("").await;
    assert_eq!(answer.status(), 429);
    let wait: u64 = answer.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=60).contains(&wait));
    let body = read_json(answer).await;
    let path = format!("api/atlas/v2/orgs/{}/aiModelApiKeys", atlas.org);
    assert_eq!(body["parameters"], json!([path, wait, 10, 5, 60]));
    assert_eq!(
        body["detail"],
        format!(
            "Rate limit exceeded for {path}. Please retry after {wait} seconds. Request capacity: 10. Refill rate: 5 per 60 seconds."
        )
    );
    let other = atlas.sim.org_ids()[1].clone();
    assert_eq!(
        atlas
            .get_as(STABLE_VERSION, &format!("orgs/{other}/aiModelApiKeys"))
            .await
            .status(),
        200,
        "each organization has its own"
    );
    atlas.sim.stop().await;
}

#[tokio::test]
async fn control_endpoint_adds_and_removes_faults() {
    let atlas = SimClient::start(static_sim(1, 5)).await;
    let fault = json!({"endpoint": "ai_model_api_keys", "times": 1, "effect": {"kind": "status", "status": 503, "body": "html", "retry_after": 7}});
    assert_eq!(
        atlas
            .send_control(Method::POST, "faults", Some(fault))
            .await
            .0,
        200
    );
    let answer = atlas.get_keys("").await;
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["retry-after"].to_str().unwrap()
        ),
        (503, "7")
    );
    assert_eq!(answer.headers()["content-type"], "text/html");
    assert_eq!(
        atlas.get_keys("").await.status(),
        200,
        "it was for one request"
    );
    let later = json!({"endpoint": "ai_model_api_keys", "after_seconds": 3600, "effect": {"kind": "reset"}});
    atlas
        .send_control(Method::POST, "faults", Some(later))
        .await;
    assert_eq!(
        atlas.get_keys("").await.status(),
        200,
        "its time has not come"
    );
    let short = json!({"endpoint": "ai_model_api_keys", "for_seconds": 0.05, "effect": {"kind": "status", "status": 500}});
    atlas
        .send_control(Method::POST, "faults", Some(short))
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(60)).await;
    assert_eq!(atlas.get_keys("").await.status(), 200, "its time is over");
    assert_eq!(
        atlas
            .send_control(Method::GET, "faults", None)
            .await
            .1
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        atlas.send_control(Method::DELETE, "faults", None).await.1,
        json!([])
    );
    let nonsense = json!({"endpoint": "ai_model_api_keys", "effect": {"kind": "storm"}});
    let (status, body) = atlas
        .send_control(Method::POST, "faults", Some(nonsense))
        .await;
    assert_eq!(status, 400);
    assert!(body["error"].as_str().unwrap().contains("storm"), "{body}");
    let requests = atlas.send_control(Method::GET, "requests", None).await.1;
    assert_eq!(requests[0]["endpoint"], "ai_model_api_keys");
    let truth = atlas.send_control(Method::GET, "truth", None).await.1;
    assert_eq!(truth["orgs"][0]["keys"].as_array().unwrap().len(), 5);
    atlas.sim.stop().await;
}

#[tokio::test]
async fn redirect_and_reset_faults_take_effect() {
    let atlas = SimClient::start(static_sim(1, 5)).await;
    let redirect = json!({"endpoint": "ai_model_api_keys", "times": 1, "effect": {"kind": "redirect", "location": "http://127.0.0.1:9/x"}});
    atlas
        .send_control(Method::POST, "faults", Some(redirect))
        .await;
    let answer = atlas.get_keys("").await;
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["location"].to_str().unwrap()
        ),
        (307, "http://127.0.0.1:9/x")
    );
    let reset = json!({"endpoint": "ai_model_api_keys", "effect": {"kind": "reset"}});
    atlas
        .send_control(Method::POST, "faults", Some(reset))
        .await;
    let url = format!(
        "{}/api/atlas/v2/orgs/{}/aiModelApiKeys",
        atlas.sim.base_url(),
        atlas.org
    );
    assert!(atlas.http.get(url).send().await.unwrap_err().is_request());
    atlas.sim.stop().await;
}

#[test]
fn events_change_the_world_and_are_logged() {
    let hours = Arc::new(AtomicI64::new(0));
    let read = Arc::clone(&hours);
    let clock = mongodb_atlas_sim::SimClock::new(move || {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(read.load(Ordering::Relaxed))
    });
    let sim = SimHandle::in_process(&SimConfig::default(), clock);
    let before = crate::common::expected_sim_keys(&sim);
    hours.store(72, Ordering::Relaxed);
    let after = crate::common::expected_sim_keys(&sim);
    let log = sim.with_world(|world| world.changes().to_vec());
    for kind in [
        ChangeKind::Created,
        ChangeKind::Deleted,
        ChangeKind::Renamed,
        ChangeKind::StatusChanged,
        ChangeKind::FirstUsed,
    ] {
        assert!(log.iter().any(|change| change.change == kind), "{kind:?}");
    }
    assert!(
        log.windows(2).all(|pair| pair[0].at <= pair[1].at),
        "in the order of time"
    );
    let created: std::collections::BTreeSet<_> = log
        .iter()
        .filter(|c| c.change == ChangeKind::Created)
        .map(|c| &c.key)
        .collect();
    let deleted: std::collections::BTreeSet<_> = log
        .iter()
        .filter(|c| c.change == ChangeKind::Deleted)
        .map(|c| &c.key)
        .collect();
    for id in after.keys().filter(|id| !before.contains_key(*id)) {
        assert!(created.contains(id), "{id} came from nowhere");
    }
    for id in before.keys().filter(|id| !after.contains_key(*id)) {
        assert!(deleted.contains(id), "{id} went without a trace");
    }
}

#[tokio::test]
async fn population_contains_hostile_names() {
    let atlas = SimClient::start(static_sim(3, 1200)).await;
    let names: Vec<String> = crate::common::expected_sim_keys(&atlas.sim)
        .into_values()
        .map(|(name, ..)| name)
        .collect();
    for part in ["\"", "\\", "\n", "🔑", "מ", "<script>", "{{7*7}}"] {
        assert!(names.iter().any(|name| name.contains(part)), "{part:?}");
    }
    assert!(names.iter().any(|name| name.len() == 250));
    let mut once = names.clone();
    once.sort();
    once.dedup();
    assert!(once.len() < names.len(), "names are not unique");
    atlas.sim.stop().await;
}
