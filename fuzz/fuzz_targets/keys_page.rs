//! Parses bytes as a page of keys, and as a part of one.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    atlas_ai_keys_exporter_fuzz::keys_page(data);
});
