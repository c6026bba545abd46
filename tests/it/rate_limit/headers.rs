//! `Retry-After` and rate limit headers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::scripted::{START_TIME, ScriptedTransport, response};
use mongodb_atlas_client::OrgId;
use mongodb_atlas_client::{OptionalFields, Response};

const TOKEN_ENV: &[(&str, &str)] = &[("MONGODB_ATLAS_ACCESS_TOKEN", "a-ready-token")];

const DAY: Duration = Duration::from_hours(24);

fn org_id() -> OrgId {
    OrgId::parse("32b6e34b3d91647abb20e7b8").unwrap()
}

/// Returns the delay of the next request for keys after this response to one.
async fn delay_after_response(response: impl Fn() -> Response + Send + Sync + 'static) -> Duration {
    let (client, _) = ScriptedTransport::client(TOKEN_ENV, move |_| response());
    let _ = client
        .list_keys_page(&org_id(), 1, 500, OptionalFields::default())
        .await;
    client.next_delay(&org_id())
}

#[tokio::test(start_paused = true)]
async fn retry_after_accepts_seconds_and_dates() {
    let server = ("date", "Sun, 01 Mar 2026 13:00:00 GMT");
    for (headers, least) in [
        // Relative to the server's clock, which is an hour ahead.
        (
            vec![server, ("retry-after", "Sun, 01 Mar 2026 13:01:00 GMT")],
            60,
        ),
        (
            vec![server, ("retry-after", "Sunday, 01-Mar-26 13:01:00 GMT")],
            60,
        ),
        (
            vec![server, ("retry-after", "Sun Mar  1 13:01:00 2026")],
            60,
        ),
        (vec![server, ("retry-after", "60")], 60),
        // Relative to the exporter's clock without a Date header.
        (vec![("retry-after", "Sun, 01 Mar 2026 12:01:00 GMT")], 60),
        (
            vec![
                ("date", "now"),
                ("retry-after", "Sun, 01 Mar 2026 12:01:00 GMT"),
            ],
            60,
        ),
        // Past and invalid times mean no wait: the initial backoff of 10 s applies.
        (
            vec![server, ("retry-after", "Sun, 01 Mar 2026 12:59:00 GMT")],
            10,
        ),
        (vec![server, ("retry-after", "in a minute")], 10),
        (vec![server, ("retry-after", "-60")], 10),
        (vec![], 10),
    ] {
        for status in [429, 503] {
            let headers = headers.clone();
            let delay = delay_after_response(move || response(status, &headers, "{}")).await;
            let range = Duration::from_secs(least)..=Duration::from_secs(least * 5 / 4 + 1);
            assert!(range.contains(&delay), "{status} {delay:?} of {least}");
        }
    }
    assert_eq!(
        START_TIME, "2026-03-01T12:00:00Z",
        "the dates are relative to the start time"
    );
}

#[tokio::test(start_paused = true)]
async fn retry_delay_is_capped_at_one_day() {
    for retry_after in [
        "86401",
        "999999999999",
        "18446744073709551616",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Sun, 01 Mar 2099 12:00:00 GMT",
    ] {
        for status in [429, 503] {
            let delay = delay_after_response(move || {
                response(status, &[("retry-after", retry_after)], "{}")
            })
            .await;
            assert!(delay <= DAY, "{retry_after}: {delay:?}");
            assert!(delay >= DAY * 9 / 10, "{retry_after}: {delay:?}");
        }
    }
    let max = u64::MAX;
    for parameters in [
        "[\"p\", 1, 1000000000000, 1, 86400]".to_owned(),
        "[\"p\", 1, 1000000000000, 1, 1]".to_owned(),
        format!("[\"p\", 1, {max}, {max}, {max}]"),
        format!("[\"p\", 1, {max}, 1, 1]"),
        format!("[\"p\", 1, {max}, {max}, 86400]"),
        "[\"p\", 1, 10, 1, 86400]".to_owned(),
        "[\"p\", 1, 10, 5, 0]".to_owned(),
        "[\"p\", -1, -1, -1, -1]".to_owned(),
        "[\"p\", 1e300, 1e300, 1e300, 1e300]".to_owned(),
        "[]".to_owned(),
        "7".to_owned(),
    ] {
        let body =
            format!("{{\"errorCode\":\"RATE_LIMITED_TOKEN_BUCKET\",\"parameters\":{parameters}}}");
        let shown = parameters.clone();
        let delay = delay_after_response(move || response(429, &[], &body)).await;
        let absurd = shown.starts_with("[\"p\", 1, 1000000000000, 1");
        let longest = if absurd { Duration::from_secs(13) } else { DAY };
        assert!(delay <= longest, "{shown}: {delay:?}");
    }
    for limit in [
        "0",
        "1",
        "18446744073709551615",
        "18446744073709551616",
        "-1",
        "1e99",
    ] {
        for remaining in ["0", "1", "18446744073709551615", "-1"] {
            let headers = [
                ("ratelimit-limit", limit),
                ("ratelimit-remaining", remaining),
            ];
            let delay =
                delay_after_response(move || response(200, &headers, "{\"results\":[]}")).await;
            assert!(
                delay <= Duration::from_mins(10),
                "{limit} {remaining}: {delay:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_rate_limits_are_ignored() {
    let set = |capacity: u64, refill: u64, seconds: u64| {
        format!(
            r#"{{"endpointSetId":"s","scope":"ORGANIZATION","capacity":{{"value":{capacity}}},"refillRate":{{"value":{refill}}},"refillDurationSeconds":{{"value":{seconds}}},"endpoints":[{{"method":"GET","path":"/api/atlas/v2/orgs/{{orgId}}/aiModelApiKeys"}}]}}"#
        )
    };
    for (set, known) in [
        (set(1_000_000_000_000, 1, 86_400), false),
        (set(10, 1, 86_400), false),
        (set(u64::MAX, 1, 1), false),
        (set(u64::MAX, u64::MAX, 86_400), true),
        (set(10, 5, 60), true),
        (set(10, 5, u64::MAX), false),
        (set(0, 0, 0), false),
    ] {
        let body = Arc::new(Mutex::new(format!("{{\"results\":[{set}]}}")));
        let next = Arc::clone(&body);
        let (client, _) = ScriptedTransport::client(TOKEN_ENV, move |request| {
            let is_limits = request.url().path().ends_with("rateLimits");
            let empty = "{\"results\":[]}".to_owned();
            let body = if is_limits {
                next.lock().unwrap().clone()
            } else {
                empty
            };
            response(200, &[], &body)
        });
        let sets = client.list_rate_limits(&org_id()).await.unwrap();
        client.set_rate_limits(sets);
        let supply = client.sustained_rate(&org_id()).per_second;
        assert_eq!(supply.is_some(), known, "{set}");
        assert!(supply.is_none_or(f64::is_finite));
        for _ in 0..3 {
            client
                .list_keys_page(&org_id(), 1, 500, OptionalFields::default())
                .await
                .unwrap();
            assert!(client.next_delay(&org_id()) <= DAY, "{set}");
        }
    }
}
