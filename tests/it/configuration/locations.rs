//! Locations of errors: paths in flags and in the configuration file, and files of credentials.

use super::{VALID_ENV, expect_failure, write_private};

#[test]
fn empty_paths_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let storage = dir.path().join("storage.yml");
    write_private(&storage, "storage: {path: ''}\n");
    let web = dir.path().join("web.yml");
    write_private(&web, "web: {config_file: \"\"}\n");
    let (storage, web) = (storage.display(), web.display());
    for (flag, location, expected) in [
        (
            "--config.file=".to_owned(),
            "--config.file".to_owned(),
            "a file path",
        ),
        (
            "--storage.path=".to_owned(),
            "--storage.path".to_owned(),
            "a directory path",
        ),
        (
            "--web.config.file=".to_owned(),
            "--web.config.file".to_owned(),
            "a file path",
        ),
        (
            format!("--config.file={storage}"),
            format!("storage.path in {storage}"),
            "a directory path",
        ),
        (
            format!("--config.file={web}"),
            format!("web.config_file in {web}"),
            "a file path",
        ),
    ] {
        let expected =
            format!("(1 error):\n  - {location}: invalid value \"\": expected {expected}\n");
        let (code, output) = expect_failure(&[&flag], VALID_ENV);
        assert_eq!(code, Some(2), "{output}");
        assert!(output.contains(&expected), "{flag}: {output}");
        if location.contains("web") {
            continue;
        }
        // A missing directory or credential is no further error.
        let (code, output) = expect_failure(&["keys", "--from-storage", &flag], &[]);
        assert_eq!(code, Some(2), "{output}");
        assert!(output.contains(&expected), "{flag}: {output}");
    }
}

#[test]
fn empty_path_variables_count_as_not_set() {
    let pairs = [
        VALID_ENV,
        &[
            ("ATLAS_AI_KEYS_EXPORTER_CONFIG_FILE", ""),
            ("ATLAS_AI_KEYS_EXPORTER_STORAGE_PATH", ""),
            ("ATLAS_AI_KEYS_EXPORTER_WEB_CONFIG_FILE", ""),
            ("STATE_DIRECTORY", ":"),
        ],
    ]
    .concat();
    let (code, output) = expect_failure(&["check", "--offline"], &pairs);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("no state directory"), "{output}");
}

#[test]
fn unreadable_secret_files_are_located() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    let org = VALID_ENV[0].1;
    write_private(
        &file,
        &format!(
            "credentials:\n\
             - {{name: a, client_id: x, client_secret_file: /nowhere, org_ids: ['{org}']}}\n\
             - {{name: b, client_id: x, client_secret_file: /nowhere, discover_orgs: true}}\n"
        ),
    );
    let file = file.display().to_string();
    let (code, output) = expect_failure(&["--config.file", &file], &[]);
    assert_eq!(code, Some(2), "{output}");
    for index in [0, 1] {
        let expected = format!(
            "\n  - credentials[{index}].client_secret_file in {file}: file /nowhere: cannot be read: file not found\n"
        );
        assert!(output.contains(&expected), "{expected}\n{output}");
    }
    std::fs::write(dir.path().join("client-secret"), "").unwrap();
    let directory = dir.path().display().to_string();
    let id = ("MONGODB_ATLAS_CLIENT_ID", "some-id");
    for (name, value, path) in [
        (
            "MONGODB_ATLAS_CLIENT_SECRET_FILE",
            "/nowhere",
            "/nowhere".to_owned(),
        ),
        (
            "CREDENTIALS_DIRECTORY",
            &directory,
            format!("{directory}/client-secret"),
        ),
    ] {
        let (code, output) = expect_failure(&[], &[VALID_ENV[0], id, (name, value)]);
        assert_eq!(code, Some(2), "{output}");
        let expected = format!("(1 error):\n  - environment variable {name}: ");
        assert!(
            output.contains(&expected) && output.contains(&path),
            "{expected}\n{output}"
        );
    }
}

#[test]
fn non_ascii_host_names_are_rejected() {
    let check =
        |url: &str| expect_failure(&["check", "--offline", "--atlas.base-url", url], VALID_ENV);
    let (code, output) = check("https://b\u{fc}cher.example");
    assert_eq!(code, Some(2), "{output}");
    let (code, output) =
        expect_failure(&["--atlas.base-url=https://b\u{fc}cher.example"], VALID_ENV);
    assert_eq!(code, Some(2), "{output}");
    let expected = "expected an https URL with an ASCII host name (xn--… for others)";
    assert!(output.contains(expected), "{output}");
    let (code, output) = check("https://xn--bcher-kva.example");
    assert_eq!(code, Some(0), "{output}");
    let proxy = ("HTTPS_PROXY", "http://b\u{fc}cher.example:3128");
    let (code, output) = expect_failure(&[], &[VALID_ENV, &[proxy]].concat());
    assert_eq!(code, Some(2), "{output}");
    let expected = "got a non-ASCII host name (use its xn--… form)";
    assert!(output.contains(expected), "{output}");
}
