//! Loads bytes as a web configuration file.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    atlas_ai_keys_exporter_fuzz::web_configuration(data);
});
