//! Loads bytes as each of the state files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    atlas_ai_keys_exporter_fuzz::state_file(data);
});
