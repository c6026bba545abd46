//! The control endpoint, on its own path beside the API: faults at run time, and the truth that
//! a test in another process compares with.
//!
//! | request | does |
//! | --- | --- |
//! | `GET /sim/faults` | the faults there are |
//! | `POST /sim/faults` | adds the fault in the body |
//! | `DELETE /sim/faults` | ends every fault |
//! | `POST /sim/tokens/revoke` | ends every live access token |
//! | `POST /sim/nonces/expire` | makes every Digest nonce stale |
//! | `GET /sim/truth` | time, numbers by status, every key of every organization |
//! | `GET /sim/log` | every change so far |
//! | `GET /sim/requests` | every request so far |

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::faults::Fault;
use super::response::SimResponse;
use super::world::format_timestamp;
use super::{Simulator, body};

/// Answers one request under `/sim/`.
pub(crate) fn handle(sim: &Simulator, parts: &Parts, request_body: &[u8]) -> Response<Body> {
    let now = sim.clock.now();
    let mut state = sim.lock_state();
    let good = |body: Value| SimResponse::new(StatusCode::OK, "application/json", body);
    let answer = match (parts.method.as_str(), parts.uri.path()) {
        ("GET", "/sim/faults") => good(json!(state.faults.list())),
        ("POST", "/sim/faults") => match serde_json::from_slice::<Fault>(request_body) {
            Ok(fault) => {
                state.faults.add(fault, now);
                good(json!(state.faults.list()))
            }
            Err(error) => SimResponse::new(
                StatusCode::BAD_REQUEST,
                "application/json",
                json!({"error": error.to_string()}),
            ),
        },
        ("DELETE", "/sim/faults") => {
            state.faults.clear();
            good(json!([]))
        }
        ("POST", "/sim/tokens/revoke") => {
            state.credentials.revoke_all_tokens();
            good(json!({}))
        }
        ("POST", "/sim/nonces/expire") => {
            state.nonces.expire_all();
            good(json!({}))
        }
        ("GET", "/sim/truth") => {
            let orgs: Vec<Value> = state
                .world
                .orgs
                .iter()
                .map(|org| json!({"id": org.id, "name": org.name, "keys": org.keys}))
                .collect();
            good(
                json!({"now": format_timestamp(now), "counts": state.world.count_by_status(), "orgs": orgs}),
            )
        }
        ("GET", "/sim/log") => good(json!(state.world.changes())),
        ("GET", "/sim/requests") => good(json!(state.requests)),
        (_, path) => SimResponse::not_found(path),
    };
    drop(state);
    body::build_response(answer, &[])
}
