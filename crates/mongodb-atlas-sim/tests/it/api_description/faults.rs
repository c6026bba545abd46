//! Responses with faults conform if they are meant to.

use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimEndpoint};

use super::{exchanges, send_and_check};
use crate::{SimClient, static_config};

/// Returns whether responses with `effect` conform. Add an effect of each new kind to [`effects`], too.
fn conforms(effect: &Effect) -> bool {
    match effect {
        Effect::Status { body, .. } => *body == ErrorBodyFormat::Json,
        Effect::TotalCount { value } => (0..=i64::from(i32::MAX)).contains(value),
        // Optional members and headers, compression, and content that is consistent in itself.
        Effect::Delay { .. }
        | Effect::Drip { .. }
        | Effect::Secret
        | Effect::MissingMembers { .. }
        | Effect::RepeatKeys
        | Effect::SkipKeys
        | Effect::NoLinks
        | Effect::NoNextLink
        | Effect::PageCap { .. }
        | Effect::NoTotalCount
        | Effect::NoRateLimitHeaders
        | Effect::RateLimitZero
        | Effect::BareRefusals
        | Effect::Gzip
        // A valid page: only its size is hostile.
        | Effect::GzipBomb => true,
        Effect::CutBody
        | Effect::Reset
        | Effect::ContentType { .. }
        | Effect::InvalidJson
        | Effect::BrokenDates
        | Effect::Replace { .. }
        | Effect::Body { .. }
        | Effect::Redirect { .. }
        | Effect::EndlessBody => false,
    }
}

fn effects() -> Vec<Effect> {
    let status = |body| Effect::Status {
        status: 503,
        body,
        retry_after: Some(7),
    };
    let members = [
        "apiKeyId",
        "name",
        "createdAt",
        "lastUsedAt",
        "groupId",
        "status",
    ];
    vec![
        status(ErrorBodyFormat::Json),
        status(ErrorBodyFormat::Html),
        status(ErrorBodyFormat::Empty),
        status(ErrorBodyFormat::Cut),
        status(ErrorBodyFormat::Endless),
        Effect::Delay { seconds: 9.0 },
        Effect::Drip {
            bytes: 100,
            every_ms: 5,
        },
        Effect::CutBody,
        Effect::Reset,
        Effect::ContentType {
            value: "text/html".to_owned(),
        },
        Effect::InvalidJson,
        Effect::Secret,
        Effect::MissingMembers {
            members: members.map(str::to_owned).to_vec(),
        },
        Effect::BrokenDates,
        Effect::RepeatKeys,
        Effect::SkipKeys,
        Effect::NoLinks,
        Effect::NoNextLink,
        Effect::PageCap { size: 10 },
        Effect::Replace {
            old: "results".to_owned(),
            new: "items".to_owned(),
        },
        Effect::Body {
            text: "[]".to_owned(),
        },
        Effect::NoTotalCount,
        Effect::NoRateLimitHeaders,
        Effect::RateLimitZero,
        Effect::BareRefusals,
        Effect::TotalCount { value: 3 },
        Effect::TotalCount { value: -1 },
        Effect::TotalCount { value: i64::MAX },
        Effect::Redirect {
            location: "http://localhost/x".to_owned(),
        },
        Effect::Gzip,
        Effect::GzipBomb,
        Effect::EndlessBody,
    ]
}

#[tokio::test(start_paused = true)]
async fn faults_conform_or_deviate_as_meant() {
    let client = SimClient::new(&static_config(2, 250));
    for effect in effects() {
        for (endpoint, exchange) in exchanges(&client, "?itemsPerPage=50&pageNum=2") {
            let is_key_list = endpoint == SimEndpoint::AiModelApiKeys;
            // Faults of the content concern the list of keys only.
            let is_content = !conforms(&effect) || matches!(effect, Effect::GzipBomb);
            if !is_key_list && is_content {
                continue;
            }
            client.sim.add_fault(Fault::new(endpoint, effect.clone()));
            let (_, deviations) = send_and_check(&client, &exchange).await;
            assert_eq!(
                deviations.is_empty(),
                conforms(&effect),
                "{effect:?} {exchange:?}: {deviations:#?}"
            );
            client.sim.clear_faults();
        }
    }
}
