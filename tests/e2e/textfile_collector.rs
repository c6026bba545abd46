//! The output of `once` is read by the textfile collector of `node_exporter`, and promtool
//! reports no error.
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use crate::common::systemd::root_command;
use crate::common::{
    ChildProcess, Scrape, expected_sim_keys, exposed_keys, free_port, get, run_command, sim_env,
    static_sim,
};

#[tokio::test(flavor = "multi_thread")]
async fn node_exporter_reads_the_textfile() {
    let sim = crate::common::start_sim(static_sim(3, 300)).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("atlas-ai-keys.prom");
    let program = ChildProcess::exporter(
        &["once", &format!("--output={}", path.display())],
        &sim_env(&sim),
    );
    let (code, output, _) = program.wait_exit();
    assert_eq!(code, Some(0), "{output}");
    let text = std::fs::read(&path).unwrap();
    let mut promtool = Command::new("promtool");
    let (code, output, error) = run_command(promtool.args(["check", "metrics"]), &text);
    assert_eq!((code, output.as_str(), error.as_str()), (Some(0), "", ""));
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new("prometheus-node-exporter");
    command
        .args(["--collector.disable-defaults", "--collector.textfile"])
        .arg(format!(
            "--collector.textfile.directory={}",
            dir.path().display()
        ))
        .arg(format!("--web.listen-address={address}"));
    let mut node = ChildProcess::start(command);
    node.wait_for_output("Listening on");
    let (status, text) = get(&format!("http://{address}/metrics")).await;
    assert_eq!(status, 200, "{text}");
    let scrape = Scrape::parse(&text);
    assert_eq!(scrape.get("node_textfile_scrape_error", &[]), Some(0.0));
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    assert_eq!(scrape.sum("mongodbatlas_ai_model_api_keys"), 300.0);
    sim.stop().await;
}

/// The collector may read the file only because of its group, and a user who is not root can change only the group.
#[tokio::test(flavor = "multi_thread")]
async fn group_of_the_output_file_is_retained_without_its_owner() {
    let sim = crate::common::start_sim(static_sim(1, 10)).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.prom");
    // Another user may be unable to read the build directory.
    let binary = dir.path().join("binary");
    std::fs::copy(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"), &binary).unwrap();
    let script = r#"
        chmod 777 "$(dirname "$0")"
        echo before >"$0"
        chmod 640 "$0"
        chown 0:1234 "$0"
        exec setpriv --reuid=65534 --regid=65534 --groups=1234 "$1" once --output "$0""#;
    let variables = sim_env(&sim);
    let mut command = root_command("env");
    command
        .args(
            variables
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        )
        .args(["sh", "-ec", script])
        .args([&path, &binary]);
    let (code, output, error) = tokio::task::block_in_place(|| run_command(&mut command, &[]));
    assert_eq!(code, Some(0), "{output}{error}");
    let file = std::fs::metadata(&path).unwrap();
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o777),
        (65534, 1234, 0o640)
    );
    sim.stop().await;
}
