//! Any bytes as a configuration file and as a web configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    atlas_ai_keys_exporter_fuzz::web_configuration(data);
});
