//! The list of an organization's AI model API keys, with the faults that concern its content.

use serde_json::{Value, json};

use crate::endpoint::ApiVersion;
use crate::faults::Effect;
use crate::model::{SimKey, format_timestamp};
use crate::pages::{PageRequest, build_page};
use crate::random::derive_secret;
use crate::request::SimRequest;
use crate::response::SimResponse;
use crate::state::SimState;

/// Host at which the keys are used.
pub(crate) const MODEL_HOST: &str = "ai.mongodb.com";

/// Returns a key in the format of `version`.
pub(crate) fn key_json(key: &SimKey, version: ApiVersion) -> Value {
    let secret = derive_secret(&key.id);
    let mut key_json = json!({
        "apiKeyId": key.id,
        "createdAt": format_timestamp(key.created),
        "createdBy": key.created_by,
        "groupId": key.project,
        "lastUsedAt": key.last_used.map(format_timestamp),
        "maskedSecret": format!("al-****{}", secret.get(42..).unwrap_or_default()),
        "name": key.name,
        "status": key.status,
    });
    if version != ApiVersion::Preview {
        set_field(&mut key_json, "cloud", &key.cloud);
        set_field(&mut key_json, "geography", &key.geography);
        set_field(&mut key_json, "endpoint", MODEL_HOST);
    }
    key_json
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
) -> Result<Value, SimResponse> {
    let page = PageRequest::from_request(request)?;
    state.run_page_hook(page.number);
    let keys = &request.find_org(&state.world)?.keys;
    let size = page.size as usize;
    // Pages that overlap by one key repeat it, as if a key had been created before them.
    let overlap = usize::from(size > 1 && request.has_effect(&Effect::RepeatKeys));
    let start = page.offset(size - overlap).min(keys.len());
    let end = start.saturating_add(size).min(keys.len());
    let skipped = usize::from(page.number > 1 && request.has_effect(&Effect::SkipKeys));
    let page_keys = keys.get(start..end).unwrap_or_default().iter();
    let results = page_keys.skip(skipped).enumerate().map(|(index, key)| {
        let mut json = key_json(key, version);
        apply_key_faults(&mut json, index, &request.effects);
        json
    });
    let results: Vec<Value> = results.collect();
    Ok(build_page(
        request,
        page,
        end < keys.len(),
        keys.len(),
        &results,
    ))
}

fn apply_key_faults(key: &mut Value, index: usize, effects: &[Effect]) {
    for effect in effects {
        match effect {
            Effect::Secret => {
                let id = key.get("apiKeyId").and_then(Value::as_str);
                let secret = derive_secret(id.unwrap_or_default());
                set_field(key, "secret", &secret);
            }
            Effect::MissingMembers { members } if index % 2 == 1 => {
                if let Some(fields) = key.as_object_mut() {
                    fields.retain(|name, _| !members.contains(name));
                }
            }
            Effect::BrokenDates if index % 3 == 2 => {
                set_field(key, "createdAt", "the day before yesterday");
                set_field(key, "lastUsedAt", "2026-13-45T99:99:99Z");
            }
            _ => {}
        }
    }
}
