//! Parses bytes as a page of rate limits and as the body of a 429.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    atlas_ai_keys_exporter_fuzz::rate_limit_body(data);
});
