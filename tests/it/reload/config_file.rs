//! Errors in the configuration file.

use std::path::Path;

use crate::common::ChildProcess;

#[test]
fn world_readable_config_with_secret_is_rejected() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    let text = "credentials:\n- client_id: an-id\n  client_secret: hunter2\n  org_ids: ['32b6e34b3d91647abb20e7b8']\n";
    std::fs::write(&file, text).unwrap();
    let run = |mode: u32| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        run_with_config(&file)
    };
    let (code, output) = run(0o644);
    assert_eq!(code, Some(2));
    assert!(
        output.contains("credentials[0].client_secret in")
            && output.contains("secret in a world-readable file")
            && output.contains("chmod o-r"),
        "{output}"
    );
    assert!(!output.contains("hunter2"));
    let (_, output) = run(0o640);
    assert!(
        output.contains("cannot listen on"),
        "the configuration is valid: {output}"
    );
}

/// Runs the binary with an invalid address, so that it always exits.
fn run_with_config(file: &Path) -> (Option<i32>, String) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--web.listen-address={}", taken.local_addr().unwrap());
    let flag = format!("--config.file={}", file.display());
    let (code, output, _) = ChildProcess::exporter(&[&listen, &flag], &[]).wait_exit();
    (code, output)
}

#[test]
fn all_config_file_errors_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    std::fs::write(dir.path().join("secret"), "x").unwrap();
    let text = "
credentials:
- name: one
  client_id: an-id
  client_secret_file: secret
  org_ids: ['32b6e34b3d91647abb20e7b8', nonsense]
- name: one
  access_token_file: secret
  org_ids: ['32b6e34b3d91647abb20e7b7']
- name: two
  access_token_file: secret
  org_ids: ['32b6e34b3d91647abb20e7b8']
- name: three
  public_api_key: abc
  org_ids: 7
- name: four
  client_id: a
  client_id_file: secret
  client_secret_file: nowhere
  colour: red
- access_token_file: secret
- name: ''
  access_token_file: secret
- a text
atlas:
  poll_interval: soon
  colour: red
metrics:
  idle_thresholds: [7d, {a: 1}]
colour: red
web: 7
";
    std::fs::write(&file, text).unwrap();
    let (code, output) = run_with_config(&file);
    assert_eq!(code, Some(2), "{output}");
    for part in [
        "credentials[0].org_ids in",
        "invalid value \"nonsense\": expected an organization id",
        "credentials[1].name in",
        "credentials[2].org_ids in",
        "duplicate organization id \"32b6e34b3d91647abb20e7b8\"",
        "credentials[3].org_ids in",
        "expected a list of organization ids, got a text",
        "incomplete programmatic API key: public_api_key of credential three in",
        "credentials[4].client_id in",
        "conflict with client_id_file\n    help: remove client_id or client_id_file",
        "credentials[4].colour in",
        "credentials[5] in",
        "missing field \"name\": expected a text (required with several credentials)",
        "credentials[6].name in",
        "expected a text (required with several credentials), got an empty text",
        "credentials[7] in",
        "expected fields, got a text",
        "atlas.poll_interval in",
        "invalid value \"soon\": expected a duration",
        "atlas.colour in",
        "metrics.idle_thresholds in",
        "colour in",
        "web in",
    ] {
        assert!(output.contains(part), "{part} in\n{output}");
    }
}
