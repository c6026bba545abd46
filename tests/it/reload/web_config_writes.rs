//! Arbitrary writes in place of the web configuration never remove protection.

use std::time::Duration;

use super::{WebConfigExporter, basic_auth_config};
use crate::common::pki::{TLS_CONFIG, bcrypt_hash};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

/// A write to the path of the web configuration.
#[derive(Debug, Clone)]
enum FileWrite {
    Whole(usize),
    /// A prefix of a configuration, in percent.
    Cut(usize, usize),
    Text(&'static str),
    Fifo,
    Directory,
    Gone,
    Unreadable,
    Endless,
    CertificateFifo,
    CertificateBack,
}

#[derive(Debug, Clone, Copy)]
enum ReloadTrigger {
    Reload,
    Watch,
    Both,
}

fn web_configurations() -> Vec<String> {
    let users = basic_auth_config();
    let clients = format!(
        "{TLS_CONFIG}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n"
    );
    vec![
        users.clone(),
        format!("{users}{TLS_CONFIG}"),
        format!("{TLS_CONFIG}{users}"),
        format!("{clients}{users}"),
        format!("http_server_config: {{http2: false}}\n{users}{clients}"),
        format!(
            "basic_auth_users:\n  cyd: {}\n{TLS_CONFIG}",
            bcrypt_hash("third")
        ),
    ]
}

fn any_write() -> impl Strategy<Value = (FileWrite, ReloadTrigger)> {
    let write = prop_oneof![
        3 => (0..6_usize).prop_map(FileWrite::Whole),
        5 => (0..6_usize, 0..100_usize).prop_map(|(which, part)| FileWrite::Cut(which, part)),
        3 => prop::sample::select(vec![
            "",
            "{}",
            "# nothing\n",
            "null",
            "basic_auth_users:\n",
            "basic_auth_users: {}\n",
            "tls_server_config:\n",
            TLS_CONFIG,
            "tls_server_config: [",
            "http_server_config: {http2: true}\n",
            "\u{0}",
        ])
        .prop_map(FileWrite::Text),
        1 => Just(FileWrite::Fifo),
        1 => Just(FileWrite::Directory),
        1 => Just(FileWrite::Gone),
        1 => Just(FileWrite::Unreadable),
        1 => Just(FileWrite::Endless),
        1 => Just(FileWrite::CertificateFifo),
        1 => Just(FileWrite::CertificateBack),
    ];
    let trigger = prop::sample::select(vec![
        ReloadTrigger::Reload,
        ReloadTrigger::Watch,
        ReloadTrigger::Both,
    ]);
    (write, trigger)
}

fn apply_write(running: &WebConfigExporter, write: &FileWrite, certificate: &str) {
    let path = running.pki.path("web.yml");
    match write {
        FileWrite::Whole(which) => running.write(&web_configurations()[*which]),
        FileWrite::Cut(which, part) => {
            let text = &web_configurations()[*which];
            running.write(&text[..text.len() * part / 100]);
        }
        FileWrite::Text(text) => running.write(text),
        FileWrite::Fifo => {
            running.clear_dir();
            running.make_fifo("web.yml");
        }
        FileWrite::Directory => {
            running.clear_dir();
            let _ = std::fs::remove_file(&path);
            std::fs::create_dir(path).unwrap();
        }
        FileWrite::Gone => {
            running.clear_dir();
            let _ = std::fs::remove_file(path);
        }
        FileWrite::Unreadable => {
            // Unreadable for root as well: a dangling link.
            running.clear_dir();
            let _ = std::fs::remove_file(&path);
            std::os::unix::fs::symlink("/nowhere/at/all", path).unwrap();
        }
        FileWrite::Endless => {
            running.clear_dir();
            let _ = std::fs::remove_file(&path);
            std::os::unix::fs::symlink("/dev/zero", path).unwrap();
        }
        FileWrite::CertificateFifo => running.make_fifo("server.pem"),
        FileWrite::CertificateBack => drop(running.pki.write("server.pem", certificate)),
    }
}

async fn check_writes(
    first: usize,
    writes: Vec<(FileWrite, ReloadTrigger)>,
) -> Result<(), TestCaseError> {
    let text = &web_configurations()[first];
    let running = WebConfigExporter::start(text).await;
    let certificate = running.pki.read("server.pem");
    for (write, trigger) in writes {
        let had_tls = running.has_tls();
        apply_write(&running, &write, &certificate);
        if !matches!(trigger, ReloadTrigger::Watch) {
            let _ = running.exporter.reloader.reload("test").await;
        }
        if !matches!(trigger, ReloadTrigger::Reload) {
            running.exporter.advance(Duration::from_secs(6)).await;
        }
        // Every active configuration has users, and no reload removes them.
        prop_assert_eq!(running.status().await, 401, "{:?}", write);
        prop_assert!(!had_tls || running.has_tls(), "{:?}", write);
    }
    // Recovery: no previous write prevents a valid configuration.
    running.pki.write("server.pem", &certificate);
    running.write(&web_configurations()[4]);
    prop_assert_eq!(running.exporter.reloader.reload("test").await, Ok(()));
    prop_assert_eq!(running.status().await, 401);
    running.exporter.stop().await;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_web_config_writes_never_remove_protection(
        first in 0..6_usize,
        writes in prop::collection::vec(any_write(), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(check_writes(first, writes))?;
    }
}
