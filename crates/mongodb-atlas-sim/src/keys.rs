//! The list of an organization's AI model API keys, with the faults that concern its content.

use axum::body::Bytes;
use serde::{Serialize, Serializer as _};
use serde_json::{Value, json};

use crate::endpoint::ApiVersion;
use crate::faults::Effect;
use crate::model::{SimKey, format_timestamp};
use crate::page_cache::PageId;
use crate::pages::{PageRequest, build_page, serialize_page};
use crate::random::derive_secret;
use crate::request::SimRequest;
use crate::response::{SimBody, SimResponse};
use crate::state::SimState;

/// Host at which the keys are used.
pub(crate) const MODEL_HOST: &str = "ai.mongodb.com";

/// Serialized size of most keys, to allocate a page at once.
const KEY_BYTES: usize = 384;

/// A key in the format of the API. The fields are in alphabetical order, as in a [`Value`], so that both serialize
/// to the same bytes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyJson<'a> {
    api_key_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud: Option<&'a str>,
    created_at: String,
    created_by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    geography: Option<&'a str>,
    group_id: &'a str,
    last_used_at: Option<String>,
    masked_secret: String,
    name: &'a str,
    status: &'a str,
}

impl<'a> KeyJson<'a> {
    fn new(key: &'a SimKey, version: ApiVersion) -> Self {
        let secret = derive_secret(&key.id);
        let dated = |value| (version != ApiVersion::Preview).then_some(value);
        Self {
            api_key_id: &key.id,
            cloud: dated(key.cloud.as_str()),
            created_at: format_timestamp(key.created),
            created_by: &key.created_by,
            endpoint: dated(MODEL_HOST),
            geography: dated(key.geography.as_str()),
            group_id: &key.project,
            last_used_at: key.last_used.map(format_timestamp),
            masked_secret: format!("al-****{}", secret.get(42..).unwrap_or_default()),
            name: &key.name,
            status: &key.status,
        }
    }
}

/// Returns a key in the format of `version`.
pub(crate) fn key_json(key: &SimKey, version: ApiVersion) -> Value {
    json!(KeyJson::new(key, version))
}

/// Serializes keys in the format of `version`, as a JSON array.
pub(crate) fn serialize_keys(keys: &[SimKey], version: ApiVersion) -> Bytes {
    let mut serializer = serde_json::Serializer::new(Vec::with_capacity(keys.len() * KEY_BYTES));
    let keys = keys.iter().map(|key| KeyJson::new(key, version));
    // Writing to a Vec cannot fail.
    let _ = serializer.collect_seq(keys);
    serializer.into_inner().into()
}

/// Sets a field of a JSON object.
pub(crate) fn set_field(object: &mut Value, name: &str, value: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), value.into());
    }
}

/// Returns the requested page of keys.
pub(crate) fn list_keys(
    state: &mut SimState,
    request: &SimRequest,
    version: ApiVersion,
) -> Result<SimBody, SimResponse> {
    let page = PageRequest::from_request(request)?;
    state.run_page_hook(page.number);
    let keys = &request.find_org(&state.world)?.keys;
    let (size, total) = (page.size as usize, keys.len());
    // Pages that overlap by one key repeat it, as if a key had been created before them.
    let overlap = usize::from(size > 1 && request.has_effect(&Effect::RepeatKeys));
    let start = page.offset(size - overlap).min(total);
    let end = start.saturating_add(size).min(total);
    let has_next = end < total;
    let page_keys = keys.get(start..end).unwrap_or_default();
    if !request.changes_list() {
        let id = PageId {
            org: request.ids.org.clone().unwrap_or_default(),
            version,
            range: start..end,
        };
        let revision = state.world.revision();
        let results = state
            .page_cache
            .get_or_insert_with(id, revision, || serialize_keys(page_keys, version));
        let body = serialize_page(request, page, has_next, total, &results);
        return Ok(SimBody::Serialized(body));
    }
    let skipped = usize::from(page.number > 1 && request.has_effect(&Effect::SkipKeys));
    let page_keys = page_keys.iter().skip(skipped).enumerate();
    let results = page_keys.map(|(index, key)| {
        let mut json = key_json(key, version);
        apply_key_faults(&mut json, index, &request.effects);
        json
    });
    let results: Vec<Value> = results.collect();
    let body = build_page(request, page, has_next, total, &results);
    Ok(SimBody::Json(body))
}

fn apply_key_faults(key: &mut Value, index: usize, effects: &[Effect]) {
    for effect in effects {
        match effect {
            Effect::Secret => {
                let id = key.get("apiKeyId").and_then(Value::as_str);
                let secret = derive_secret(id.unwrap_or_default());
                set_field(key, "secret", &secret);
            }
            Effect::MissingFields { fields: missing } if index % 2 == 1 => {
                if let Some(fields) = key.as_object_mut() {
                    fields.retain(|name, _| !missing.contains(name));
                }
            }
            Effect::InvalidTimestamps if index % 3 == 2 => {
                set_field(key, "createdAt", "the day before yesterday");
                set_field(key, "lastUsedAt", "2026-13-45T99:99:99Z");
            }
            _ => {}
        }
    }
}
