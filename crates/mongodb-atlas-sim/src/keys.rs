//! The list of an organization's AI model API keys, with the faults that concern its content.

use serde_json::{Map, Value, json};

use super::SimState;
use super::faults::Effect;
use super::handlers::page_object;
use super::population::derive_secret;
use super::request::SimRequest;
use super::response::{SimApiVersion, SimResponse};
use super::world::{SimKey, format_timestamp};

/// The host that keys of the simulated Atlas work on.
pub(crate) const MODEL_HOST: &str = "ai.mongodb.com";

/// One key in the form of `version`.
pub(crate) fn key_json(key: &SimKey, version: SimApiVersion) -> Value {
    let secret = derive_secret(&key.id);
    let mut members = Map::new();
    let mut put = |name: &str, value: Value| members.insert(name.to_owned(), value);
    put("apiKeyId", json!(key.id));
    put("createdAt", json!(format_timestamp(key.created)));
    put("createdBy", json!(key.created_by));
    put("groupId", json!(key.project));
    put("lastUsedAt", json!(key.last_used.map(format_timestamp)));
    put(
        "maskedSecret",
        json!(format!("al-****{}", secret.get(42..).unwrap_or_default())),
    );
    put("name", json!(key.name));
    put("status", json!(key.status));
    if version != SimApiVersion::Preview {
        put("cloud", json!(key.cloud));
        put("geography", json!(key.geography));
        put("endpoint", json!(MODEL_HOST));
    }
    Value::Object(members)
}

/// The page that `call` asks for.
pub(crate) fn list_keys(
    state: &mut SimState,
    call: &SimRequest,
    effects: &[Effect],
    version: SimApiVersion,
) -> Result<Value, SimResponse> {
    let (page, size) = apply_page_cap(call.query.page()?, effects);
    state.run_page_hook(page);
    let org = call.org_id.as_deref().and_then(|id| state.world.org(id));
    let org = org.ok_or_else(|| SimResponse::not_found(call.parts.uri.path()))?;
    // pages that overlap by one key repeat it, as they do when a key is created before them
    let stride = size as usize - usize::from(size > 1 && effects.contains(&Effect::RepeatKeys));
    let begin = (page as usize - 1)
        .saturating_mul(stride)
        .min(org.keys.len());
    let end = begin.saturating_add(size as usize).min(org.keys.len());
    let keys = org.keys.get(begin..end).unwrap_or_default();
    let skip = usize::from(page > 1 && effects.contains(&Effect::SkipKeys));
    let mut results: Vec<Value> = keys
        .iter()
        .skip(skip)
        .map(|key| key_json(key, version))
        .collect();
    for (index, result) in results.iter_mut().enumerate() {
        apply_key_faults(result, index, effects);
    }
    let mut object = page_object(
        call,
        (page, size),
        end < org.keys.len() && !effects.contains(&Effect::NoNextLink),
        org.keys.len(),
        results,
    );
    apply_page_faults(&mut object, effects);
    Ok(object)
}

/// Page and size as the server takes them.
pub(crate) fn apply_page_cap((page, size): (u32, u32), effects: &[Effect]) -> (u32, u32) {
    let caps = effects.iter().filter_map(|effect| match effect {
        Effect::PageCap { size } => Some(*size),
        _ => None,
    });
    (page, caps.fold(size, u32::min).max(1))
}

/// Takes fields away from the object that a list comes in, or changes them, as the effects ask.
pub(crate) fn apply_page_faults(object: &mut Value, effects: &[Effect]) {
    let Some(members) = object.as_object_mut() else {
        return;
    };
    for effect in effects {
        match effect {
            Effect::NoLinks => drop(members.remove("links")),
            Effect::NoTotalCount => drop(members.remove("totalCount")),
            Effect::TotalCount { value } => {
                drop(members.insert("totalCount".to_owned(), json!(value)));
            }
            _ => {}
        }
    }
}

fn apply_key_faults(result: &mut Value, index: usize, effects: &[Effect]) {
    let Some(members) = result.as_object_mut() else {
        return;
    };
    for effect in effects {
        match effect {
            Effect::Secret => {
                let id = members
                    .get("apiKeyId")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                members.insert("secret".to_owned(), json!(derive_secret(id)));
            }
            Effect::MissingMembers { members: names } if index % 2 == 1 => {
                for name in names {
                    members.remove(name);
                }
            }
            Effect::BrokenDates if index % 3 == 2 => {
                members.insert("createdAt".to_owned(), json!("the day before yesterday"));
                members.insert("lastUsedAt".to_owned(), json!("2026-13-45T99:99:99Z"));
            }
            _ => {}
        }
    }
}
