//! The control endpoint, which is not part of the API: changes faults at run time, and returns the state, for comparison
//! by a test in another process.
//!
//! | request | effect |
//! | --- | --- |
//! | `GET /sim/faults` | lists all faults |
//! | `POST /sim/faults` | adds the fault in the body |
//! | `DELETE /sim/faults` | removes all faults |
//! | `POST /sim/tokens/revoke` | revokes all valid access tokens |
//! | `POST /sim/nonces/expire` | expires all Digest nonces |
//! | `GET /sim/state` | returns time, number of keys by status, all keys of all organizations |
//! | `GET /sim/log` | returns all changes so far |
//! | `GET /sim/requests` | returns all requests so far |

use axum::http::StatusCode;
use axum::http::request::Parts;
use serde_json::{Value, json};

use crate::faults::Fault;
use crate::model::format_timestamp;
use crate::response::SimResponse;
use crate::state::SimState;

/// Handles a request below `/sim/`.
pub(crate) fn handle(state: &mut SimState, parts: &Parts, body: &[u8]) -> SimResponse {
    let json = match (parts.method.as_str(), parts.uri.path()) {
        ("GET", "/sim/faults") => json!(state.faults.list()),
        ("POST", "/sim/faults") => match serde_json::from_slice::<Fault>(body) {
            Ok(fault) => {
                state.faults.add(fault, state.now);
                json!(state.faults.list())
            }
            Err(error) => {
                let error = json!({"error": error.to_string()});
                return SimResponse::json(StatusCode::BAD_REQUEST, error);
            }
        },
        ("DELETE", "/sim/faults") => {
            state.faults.clear();
            json!([])
        }
        ("POST", "/sim/tokens/revoke") => {
            state.credentials.revoke_all_tokens();
            json!({})
        }
        ("POST", "/sim/nonces/expire") => {
            state.nonces.expire_all();
            json!({})
        }
        ("GET", "/sim/state") => {
            let orgs = state.world.orgs.iter();
            let orgs: Vec<Value> = orgs
                .map(|org| json!({"id": org.id, "name": org.name, "keys": org.keys}))
                .collect();
            let counts = state.world.count_by_status();
            json!({"now": format_timestamp(state.now), "counts": counts, "orgs": orgs})
        }
        ("GET", "/sim/log") => json!(state.world.changes()),
        ("GET", "/sim/requests") => json!(state.requests),
        (_, path) => return SimResponse::not_found(path),
    };
    SimResponse::json(StatusCode::OK, json)
}
