//! The fuzz targets with every input of the corpus. Searching for more
//! needs cargo-fuzz and a nightly compiler; see `fuzz/src/lib.rs`.
#[allow(unreachable_pub, reason = "also a separate library")]
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use std::path::Path;

fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        run(&std::fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 10, "{target}: {inputs} inputs");
}

#[test]
fn corpus_configuration_passes() {
    replay("configuration", fuzz::configuration);
}

#[test]
fn corpus_request_passes() {
    replay("request", fuzz::request);
}

#[test]
fn corpus_token_response_passes() {
    replay("token_response", fuzz::token_response);
}

#[test]
fn corpus_www_authenticate_passes() {
    replay("www_authenticate", fuzz::www_authenticate);
}

#[test]
fn corpus_rate_limit_body_passes() {
    replay("rate_limit_body", fuzz::rate_limit_body);
}

#[test]
fn corpus_state_file_passes() {
    replay("state_file", fuzz::state_file);
}

#[test]
fn corpus_web_configuration_passes() {
    replay("web_configuration", fuzz::web_configuration);
}

#[test]
fn corpus_keys_page_passes() {
    replay("keys_page", fuzz::keys_page);
}
