//! The fuzz targets with all inputs of the corpus. The search for new inputs needs cargo-fuzz and a nightly compiler; see
//! `fuzz/src/lib.rs`.
#[allow(unreachable_pub, reason = "also a separate library")]
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use std::path::Path;

/// Calls `run` with all inputs, and returns the number of accepted ones.
fn replay(target: &str, run: impl Fn(&[u8]) -> bool) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let (mut inputs, mut accepted) = (0, 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        accepted += usize::from(run(&std::fs::read(entry.unwrap().path()).unwrap()));
        inputs += 1;
    }
    assert!(inputs >= 10, "{target}: {inputs} inputs");
    accepted
}

/// Runs a target that rejects some inputs; the invariants of accepted ones are checked as well.
fn replay_both_outcomes(target: &str, run: impl Fn(&[u8]) -> bool) {
    let rejected = std::cell::Cell::new(0);
    let accepted = replay(target, |data| {
        let is_accepted = run(data);
        rejected.set(rejected.get() + usize::from(!is_accepted));
        is_accepted
    });
    assert!(accepted >= 2, "{target}: {accepted} accepted");
    assert!(rejected.get() >= 2, "{target}: {rejected:?} rejected");
}

/// Wraps a target that does not report whether an input was accepted.
fn unreported(run: fn(&[u8])) -> impl Fn(&[u8]) -> bool {
    move |data| {
        run(data);
        true
    }
}

#[test]
fn corpus_configuration_passes() {
    replay_both_outcomes("configuration", fuzz::configuration);
}

#[test]
fn corpus_request_passes() {
    replay_both_outcomes("request", fuzz::request);
}

#[test]
fn corpus_token_response_passes() {
    replay("token_response", unreported(fuzz::token_response));
}

#[test]
fn corpus_www_authenticate_passes() {
    replay("www_authenticate", unreported(fuzz::www_authenticate));
}

#[test]
fn corpus_rate_limit_body_passes() {
    replay_both_outcomes("rate_limit_body", fuzz::rate_limit_body);
}

#[test]
fn corpus_state_file_passes() {
    replay_both_outcomes("state_file", fuzz::state_file);
}

#[test]
fn corpus_web_configuration_passes() {
    replay_both_outcomes("web_configuration", fuzz::web_configuration);
}

#[test]
fn corpus_keys_page_passes() {
    replay_both_outcomes("keys_page", fuzz::keys_page);
}
