//! Each code block of the documents has a runner; configuration files in them are valid. Blocks that need other programs run in
//! `tests/e2e/documents`.

use crate::common::documents::{
    CodeBlock, Runner, code_blocks, code_blocks_of, parse_code_blocks, unused_exceptions,
};
use crate::common::pki::{TestPki, bcrypt_hash};
use crate::common::run_exporter;

/// The values of a credential, for blocks without credentials.
const CREDENTIAL: [(&str, &str); 3] = [
    ("MONGODB_ATLAS_ORG_ID", "32b6e34b3d91647abb20e7b8"),
    (
        "MONGODB_ATLAS_CLIENT_ID",
        "mdb_sa_id_0123456789abcdef01234567",
    ),
    ("MONGODB_ATLAS_CLIENT_SECRET", "mdb_sa_sk_secret"),
];

#[test]
fn every_code_block_has_a_runner() {
    let blocks = code_blocks();
    let errors: Vec<String> = blocks
        .iter()
        .filter_map(|block| block.runner().err())
        .collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert_eq!(unused_exceptions(&blocks), Vec::<&str>::new());
}

#[test]
fn code_blocks_are_parsed_with_language_and_marker() {
    let document = "text\n\n```sh\nls\n```\n- item\n\n  ```yaml\n  owners:\n    - a\n  ```\n```yaml no-run\n```\n";
    let blocks = parse_code_blocks("a.md", document);
    let parts: Vec<_> = blocks
        .iter()
        .map(|it| {
            (
                it.line,
                it.language.as_str(),
                it.is_marked,
                it.text.as_str(),
            )
        })
        .collect();
    assert_eq!(
        parts,
        [
            (3, "sh", false, "ls\n"),
            (8, "yaml", false, "owners:\n  - a\n"),
            (12, "yaml", true, "")
        ]
    );
    let runners: Vec<_> = blocks.iter().map(CodeBlock::runner).collect();
    assert_eq!(
        runners[..2],
        [Ok(Runner::Shell), Ok(Runner::ExporterConfig)]
    );
    assert!(runners[2].is_err(), "a marker needs an entry with a reason");
    for (fence, text) in [("c", ""), ("", ""), ("yaml", "other: 1\n")] {
        let blocks = parse_code_blocks("a.md", &format!("```{fence}\n{text}```\n"));
        assert!(blocks[0].runner().is_err(), "{fence}");
    }
}

#[test]
fn queries_of_a_block_are_separated() {
    let blocks = parse_code_blocks("a.md", "```promql\n# first\na\n  + b\n# second\nc\n```\n");
    assert_eq!(blocks[0].queries(), ["a + b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_configuration_files_are_valid() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    for (name, text) in [
        ("client-secret", "mdb_sa_sk_secret"),
        ("atlas-public-key", "abcdefgh"),
        ("atlas-private-key", "d6526424-a73b-74ca-bac2-0a3629722852"),
    ] {
        std::fs::write(here.join(name), text).unwrap();
    }
    for block in code_blocks_of(Runner::ExporterConfig) {
        let folder = here.display().to_string();
        let text = block
            .text
            .replace("/run/secrets", &folder)
            .replace("/var/lib/atlas-ai-keys-exporter", &folder)
            .replace("/etc/atlas-ai-keys-exporter", &folder);
        let file = here.join("config.yml");
        std::fs::write(&file, &text).unwrap();
        let credential = if text.contains("credentials:") {
            &[][..]
        } else {
            &CREDENTIAL[..]
        };
        let variables = credential.iter().copied();
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let flag = format!("--config.file={}", file.display());
        let listen = "--web.listen-address=127.0.0.1:0";
        let checked =
            run_exporter(&["check", "--offline", &flag, listen], variables.collect()).await;
        let output = String::from_utf8_lossy(&checked.stdout);
        let location = format!("{}:{}", block.path, block.line);
        assert_eq!(checked.status.code(), Some(0), "{location}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_web_configuration_files_are_valid() {
    let pki = TestPki::new();
    for block in code_blocks_of(Runner::WebConfig) {
        let text = block.text.replace("$2y$10$…", &bcrypt_hash("password"));
        pki.write("clients-ca.pem", &pki.read("ca.pem"));
        let flag = pki.web_config_flag(&text);
        let variables = CREDENTIAL.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let listen = "--web.listen-address=127.0.0.1:0";
        let checked = run_exporter(&["check", "--offline", &flag, listen], variables.into()).await;
        let output = String::from_utf8_lossy(&checked.stdout);
        let location = format!("{}:{}", block.path, block.line);
        assert_eq!(checked.status.code(), Some(0), "{location}: {output}");
    }
}

#[test]
fn documented_manifests_and_json_parse() {
    for block in code_blocks_of(Runner::Manifest) {
        let parsed = exporter_toolkit::yaml::parse(&block.text);
        assert!(parsed.is_ok(), "{}:{}", block.path, block.line);
    }
    for block in code_blocks().iter().filter(|it| it.language == "json") {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&block.text);
        assert!(parsed.is_ok(), "{}:{}: {parsed:?}", block.path, block.line);
    }
}
