//! Responses with faults conform to the API description or deviate from it, depending on the fault.

use mongodb_atlas_sim::{Effect, ErrorBodyFormat, Fault, SimEndpoint};

use super::{exchanges, send_and_check};
use crate::{SimClient, static_config};

/// Returns whether responses of `endpoint` with `effect` should conform. Add an effect of each new kind to [`effects`], too.
fn conforms(effect: &Effect, endpoint: SimEndpoint) -> bool {
    let is_list = !matches!(
        endpoint,
        SimEndpoint::AiModelApiKey | SimEndpoint::Org | SimEndpoint::ServiceAccount
    );
    let is_account = endpoint == SimEndpoint::ServiceAccount;
    match effect {
        Effect::Status { body, .. } => *body == ErrorBodyFormat::Json,
        Effect::TotalCount { value } => !is_list || (0..=i64::from(i32::MAX)).contains(value),
        // All fields of a key are optional, but three fields of a secret are required.
        Effect::MissingFields { fields } => {
            !is_account || !fields.iter().any(|field| field == "createdAt")
        }
        Effect::InvalidTimestamps => endpoint != SimEndpoint::AiModelApiKeys && !is_account,
        Effect::WrongTagTypes => endpoint != SimEndpoint::Groups,
        // The replaced text is the name of a field that all lists have.
        Effect::Replace { .. } => !is_list,
        // The page is valid, and only its size is hostile.
        Effect::GzipBomb => is_list,
        // The following change optional fields and headers, compression, or content within the description.
        Effect::Delay { .. }
        | Effect::Drip { .. }
        | Effect::Secret
        | Effect::DuplicateOwnerTag
        | Effect::LongTagValues
        | Effect::ControlCharacterTags
        | Effect::RepeatKeys
        | Effect::SkipKeys
        | Effect::NoLinks
        | Effect::NoNextLink
        | Effect::PageCap { .. }
        | Effect::NoTotalCount
        | Effect::NoRateLimitHeaders
        | Effect::RateLimitZero
        | Effect::BareRejections
        | Effect::Gzip => true,
        Effect::TruncatedBody
        | Effect::Reset
        | Effect::ContentType { .. }
        | Effect::InvalidJson
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
    let fields = [
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
        status(ErrorBodyFormat::Truncated),
        status(ErrorBodyFormat::Endless),
        Effect::Delay { seconds: 9.0 },
        Effect::Drip {
            bytes: 100,
            every_ms: 5,
        },
        Effect::TruncatedBody,
        Effect::Reset,
        Effect::ContentType {
            value: "text/html".to_owned(),
        },
        Effect::InvalidJson,
        Effect::Secret,
        Effect::MissingFields {
            fields: fields.map(str::to_owned).to_vec(),
        },
        Effect::MissingFields {
            fields: vec!["lastUsedAt".to_owned()],
        },
        Effect::InvalidTimestamps,
        Effect::WrongTagTypes,
        Effect::DuplicateOwnerTag,
        Effect::LongTagValues,
        Effect::ControlCharacterTags,
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
        Effect::BareRejections,
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
async fn faults_conform_or_deviate_as_expected() {
    let client = SimClient::new(&static_config(2, 250));
    client.request_token().await;
    for effect in effects() {
        for (endpoint, mut exchange) in exchanges(&client, "?itemsPerPage=50&pageNum=2") {
            if endpoint != SimEndpoint::AiModelApiKeys {
                // The other lists have one page.
                exchange.path = exchange.path.replace("&pageNum=2", "");
            }
            client.sim.add_fault(Fault::new(endpoint, effect.clone()));
            let (_, deviations) = send_and_check(&client, &exchange).await;
            assert_eq!(
                deviations.is_empty(),
                conforms(&effect, endpoint),
                "{effect:?} {exchange:?}: {deviations:#?}"
            );
            client.sim.clear_faults();
        }
    }
}
