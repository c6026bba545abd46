//! Parses bytes as a `WWW-Authenticate` header.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| atlas_ai_keys_exporter_fuzz::www_authenticate(data));
