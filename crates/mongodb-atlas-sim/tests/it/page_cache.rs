//! Cached pages equal pages that are serialized for the request.

use jiff::Timestamp;
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint};

use crate::{PREVIEW_VERSION, STABLE_VERSION, SimClient, static_config};

/// Requests with all kinds of pages: first, middle, last, beyond the last, empty range, other sizes.
const QUERIES: [&str; 6] = [
    "",
    "?pageNum=2",
    "?pageNum=3",
    "?pageNum=9",
    "?itemsPerPage=500",
    "?itemsPerPage=7&pageNum=4",
];

/// Returns the bodies of all pages in both versions.
async fn all_bodies(client: &SimClient) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    for version in [STABLE_VERSION, PREVIEW_VERSION] {
        for query in QUERIES {
            let path = format!("orgs/ORG/aiModelApiKeys{query}");
            let response = client.get_as(version, &path).await;
            assert_eq!(response.status, 200, "{query}");
            bodies.push(response.body);
        }
    }
    bodies
}

/// Returns the same bodies, built without the cache: this fault changes nothing but prevents the use of the cache.
async fn all_uncached_bodies(client: &SimClient) -> Vec<Vec<u8>> {
    client.sim.add_fault(Fault::new(
        SimEndpoint::AiModelApiKeys,
        Effect::Replace {
            old: "not in any page".to_owned(),
            new: String::new(),
        },
    ));
    let bodies = all_bodies(client).await;
    client.sim.clear_faults();
    bodies
}

#[tokio::test]
async fn cached_pages_equal_freshly_serialized_pages() {
    let client = SimClient::new(&static_config(2, 400));
    let (org, id) = client.sim.with_world(|world| {
        let org = world.org_ids().remove(0);
        let id = world.keys(&org)[3].id.clone();
        world.rename_key(
            &org,
            &id,
            "quotes \" backslash \\ control \u{1} umlaut ä emoji 🔑",
        );
        (org, id)
    });
    assert!(
        client.sim.with_world(|world| world.mark_used(&org, &id)),
        "one key with and some without last use"
    );
    let first = all_bodies(&client).await;
    let cached = all_bodies(&client).await;
    assert_eq!(first, cached);
    assert_eq!(cached, all_uncached_bodies(&client).await);
}

#[tokio::test]
async fn changed_world_appears_in_the_next_page() {
    let client = SimClient::new(&static_config(1, 250));
    let org = client.org.clone();
    let page = async || client.get_keys("").await.json();
    let id = page().await["results"][5]["apiKeyId"]
        .as_str()
        .unwrap()
        .to_owned();

    client
        .sim
        .with_world(|world| world.rename_key(&org, &id, "renamed"));
    assert_eq!(page().await["results"][5]["name"], "renamed");

    client
        .sim
        .with_world(|world| world.set_key_status(&org, &id, "SUSPENDED"));
    assert_eq!(page().await["results"][5]["status"], "SUSPENDED");

    client.clock.set_minutes(7);
    client.sim.with_world(|world| world.mark_used(&org, &id));
    assert_eq!(
        page().await["results"][5]["lastUsedAt"],
        "1970-01-01T00:07:00.000000+00:00"
    );

    let mut key = client.sim.with_world(|world| world.keys(&org)[5].clone());
    client.sim.with_world(|world| world.delete_key(&org, &id));
    let after_deletion = page().await;
    assert_eq!(after_deletion["totalCount"], 249);
    assert_ne!(after_deletion["results"][5]["apiKeyId"], *id);

    key.created = Timestamp::UNIX_EPOCH;
    client.sim.with_world(|world| world.insert_key(&org, key));
    assert_eq!(page().await["totalCount"], 250);
    let last = client.get_keys("?pageNum=3").await.json();
    assert_eq!(last["results"][49]["apiKeyId"], *id);
    assert_eq!(client.get_keys("").await.body, {
        let uncached = all_uncached_bodies(&client).await;
        uncached.into_iter().next().unwrap()
    });
}

#[tokio::test]
async fn page_hook_changes_the_page_that_is_built() {
    let client = SimClient::new(&static_config(1, 250));
    let org = client.org.clone();
    client.get_keys("").await;
    client.sim.set_page_hook(move |_, _, world| {
        let id = world.keys(&org)[0].id.clone();
        world.rename_key(&org, &id, "renamed by the hook");
    });
    let page = client.get_keys("").await.json();
    assert_eq!(page["results"][0]["name"], "renamed by the hook");
}

#[tokio::test]
async fn key_in_a_page_equals_the_response_for_the_key() {
    let client = SimClient::new(&static_config(1, 20));
    for version in [STABLE_VERSION, PREVIEW_VERSION] {
        let page = client
            .get_as(version, "orgs/ORG/aiModelApiKeys")
            .await
            .json();
        for key in page["results"].as_array().unwrap() {
            let path = format!(
                "orgs/ORG/aiModelApiKeys/{}",
                key["apiKeyId"].as_str().unwrap()
            );
            assert_eq!(client.get_as(version, &path).await.json(), *key);
        }
    }
}
