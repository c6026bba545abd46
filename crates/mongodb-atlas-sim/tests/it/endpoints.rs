//! Endpoints respond as the API documentation describes.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{LEGACY_VERSION, PREVIEW_VERSION, STABLE_VERSION, SimClient, static_config};

fn link_rels(page: &Value) -> Vec<&str> {
    page["links"]
        .as_array()
        .unwrap()
        .iter()
        .map(|link| link["rel"].as_str().unwrap())
        .collect()
}

fn result_count(page: &Value) -> usize {
    page["results"].as_array().unwrap().len()
}

#[tokio::test]
async fn pages_have_size_links_and_total() {
    let client = SimClient::new(&static_config(1, 250));
    let first = client.get_keys("").await;
    assert_eq!(first.header("content-type"), STABLE_VERSION);
    let first = first.json();
    assert_eq!(
        (result_count(&first), &first["totalCount"]),
        (100, &json!(250)),
        "100 is the default"
    );
    assert_eq!(link_rels(&first), ["self", "next"]);
    let second = client.get_keys("?pageNum=2").await.json();
    assert_eq!(link_rels(&second), ["self", "previous", "next"]);
    let third = client.get_keys("?pageNum=3").await.json();
    assert_eq!(
        (result_count(&third), link_rels(&third)),
        (50, vec!["self", "previous"])
    );
    let beyond = client.get_keys("?pageNum=9").await.json();
    assert_eq!(
        (result_count(&beyond), link_rels(&beyond)),
        (0, vec!["self", "previous"])
    );
    let next = first["links"][1]["href"].as_str().unwrap();
    assert!(
        next.starts_with(&client.sim.base_url()) && next.contains("pageNum=2"),
        "{next}"
    );
}

#[tokio::test]
async fn invalid_parameters_return_400_with_error_body() {
    let client = SimClient::new(&static_config(1, 5));
    for query in [
        "?itemsPerPage=0",
        "?itemsPerPage=501",
        "?pageNum=0",
        "?pageNum=x",
        "?itemsPerPage=-1",
    ] {
        let response = client.get_keys(query).await;
        assert_eq!(response.status, 400, "{query}");
        let body = response.json();
        assert_eq!(
            (&body["error"], &body["reason"]),
            (&json!(400), &json!("Bad Request")),
            "{query}"
        );
        assert!(body["errorCode"].is_string() && body["detail"].is_string());
    }
    for org in ["xyz", "32B6E34B3D91647ABB20E7B8", "32b6e34b3d91647abb20e7b"] {
        let path = format!("orgs/{org}/aiModelApiKeys");
        let response = client.get_as(STABLE_VERSION, &path).await;
        assert_eq!(response.status, 400, "{org}");
    }
    let path = "orgs/000000000000000000000000/aiModelApiKeys";
    let unknown = client.get_as(STABLE_VERSION, path).await;
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["errorCode"], "RESOURCE_NOT_FOUND");
}

#[tokio::test]
async fn versions_are_negotiated_per_endpoint() {
    let client = SimClient::new(&static_config(1, 20));
    for accept in [
        LEGACY_VERSION,
        "application/json",
        "*/*",
        "application/vnd.atlas.2031-01-01+json",
    ] {
        let response = client.get_as(accept, "orgs/ORG/aiModelApiKeys").await;
        assert_eq!(response.status, 406, "{accept}");
    }
    let stable = client.get_keys("").await.json()["results"][0].clone();
    let preview = client
        .get_as(PREVIEW_VERSION, "orgs/ORG/aiModelApiKeys")
        .await;
    assert_eq!(preview.header("content-type"), PREVIEW_VERSION);
    let preview = preview.json()["results"][0].clone();
    for field in [
        "apiKeyId",
        "createdAt",
        "createdBy",
        "groupId",
        "lastUsedAt",
        "maskedSecret",
        "name",
        "status",
    ] {
        assert!(stable.get(field).is_some(), "{field}");
        assert_eq!(stable[field], preview[field], "{field}");
    }
    for field in ["cloud", "geography", "endpoint"] {
        assert!(
            stable[field].is_string() && preview.get(field).is_none(),
            "{field}"
        );
    }
    assert!(stable.get("secret").is_none() && preview.get("secret").is_none());
    let created = stable["createdAt"].as_str().unwrap();
    assert!(
        created.len() == 32 && created.ends_with("+00:00"),
        "{created}"
    );
}

#[tokio::test]
async fn envelope_and_pretty_change_only_the_formatting() {
    let client = SimClient::new(&static_config(1, 5));
    let plain = client.get_keys("").await.json();
    let mut envelope = client.get_keys("?envelope=true").await.json();
    assert_eq!(
        envelope.as_object_mut().unwrap().remove("status"),
        Some(json!(200))
    );
    assert_eq!(envelope["results"], plain["results"]);
    let pretty = client.get_keys("?pretty=true").await;
    assert!(pretty.body.starts_with(b"{\n  \""), "{:?}", pretty.body);
    assert_eq!(pretty.json()["results"], plain["results"]);
}

#[tokio::test]
async fn every_endpoint_responds() {
    let client = SimClient::new(&static_config(2, 120));
    let orgs = client.get_as(LEGACY_VERSION, "orgs").await.json();
    assert_eq!(
        (&orgs["totalCount"], &orgs["results"][0]["isDeleted"]),
        (&json!(2), &json!(false))
    );
    let org = client.get_as(LEGACY_VERSION, "orgs/ORG").await.json();
    assert_eq!(org["id"], client.org.as_str());
    assert_eq!(org["name"], orgs["results"][0]["name"]);
    let path = "orgs/ORG/groups?itemsPerPage=1";
    let groups = client.get_as(LEGACY_VERSION, path).await.json();
    assert_eq!(result_count(&groups), 1);
    assert!(groups["results"][0]["name"].is_string());
    let path = "orgs/ORG/aiModelApiRateLimits";
    let limits = client.get_as(STABLE_VERSION, path).await.json();
    assert!(
        limits["results"][0]["requestsPerMinuteLimit"].is_u64()
            && limits["results"][0]["modelNames"].is_array()
    );
    let path = "rateLimits?orgId=ORG";
    let buckets = client.get_as(STABLE_VERSION, path).await.json();
    assert_eq!(buckets["results"][0]["capacity"]["value"], 500);
    assert_eq!(buckets["results"][0]["scope"], "ORGANIZATION");
    let keys = client.get_keys("").await.json();
    let id = keys["results"][3]["apiKeyId"].as_str().unwrap();
    let path = format!("orgs/ORG/aiModelApiKeys/{id}");
    let key = client.get_as(STABLE_VERSION, &path).await.json();
    assert_eq!(key["apiKeyId"], id);
    for path in ["orgs/ORG/aiModelApiKeys/none", "nothing"] {
        assert_eq!(client.get_as(STABLE_VERSION, path).await.status, 404);
    }
}

#[tokio::test]
async fn projects_are_older_than_their_keys() {
    let client = SimClient::new(&static_config(1, 400));
    let groups = client.get_as(LEGACY_VERSION, "orgs/ORG/groups").await;
    let groups = groups.json()["results"].clone();
    let groups = groups.as_array().unwrap();
    let keys = client.get_keys("?itemsPerPage=500").await.json();
    let time = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
    for key in keys["results"].as_array().unwrap() {
        let group = groups.iter().find(|group| group["id"] == key["groupId"]);
        let group = group.expect("a project of the organization");
        assert_eq!(group["orgId"], client.org.as_str());
        assert!(
            time(&group["created"]) <= time(&key["createdAt"]),
            "{group} {key}"
        );
    }
    assert_eq!((groups.len(), result_count(&keys)), (6, 400));
}
