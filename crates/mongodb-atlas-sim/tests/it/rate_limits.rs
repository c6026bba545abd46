//! Token buckets and their headers.

use mongodb_atlas_sim::{BucketConfig, SimConfig};
use serde_json::json;

use crate::{STABLE_VERSION, SimClient, static_config};

#[tokio::test]
async fn exhausted_bucket_returns_429() {
    let client = SimClient::new(&SimConfig {
        org_bucket: BucketConfig::SMALLEST,
        ..static_config(2, 5)
    });
    for left in (0..10).rev() {
        let response = client.get_keys("").await;
        assert_eq!(
            (response.status.as_u16(), response.header("ratelimit-limit")),
            (200, "10")
        );
        assert_eq!(response.header("ratelimit-remaining"), left.to_string());
    }
    let response = client.get_keys("").await;
    assert_eq!(response.status, 429);
    let wait: u64 = response.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait));
    let body = response.json();
    let path = format!("api/atlas/v2/orgs/{}/aiModelApiKeys", client.org);
    assert_eq!(body["parameters"], json!([path, wait, 10, 5, 60]));
    assert_eq!(
        body["detail"],
        format!(
            "Rate limit exceeded for {path}. Please retry after {wait} seconds. Request capacity: 10. Refill rate: 5 per 60 seconds."
        )
    );
    let path = format!("orgs/{}/aiModelApiKeys", client.sim.org_ids()[1]);
    let response = client.get_as(STABLE_VERSION, &path).await;
    assert_eq!(
        response.status, 200,
        "each organization has a separate bucket"
    );
}
