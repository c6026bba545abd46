//! What `once` writes is read by a real `node_exporter`'s textfile collector, and promtool has nothing
//! to say of it.
use std::process::Command;

use crate::common::{Program, Scrape, free_port, get, run, shown, sim_variables, still, world};

#[tokio::test(flavor = "multi_thread")]
async fn node_exporter_reads_what_once_writes() {
    let sim = crate::common::sim(still(3, 300)).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("atlas-ai-keys.prom");
    let program = Program::exporter(
        &["once", &format!("--output={}", path.display())],
        &sim_variables(&sim),
    );
    let (code, output, _) = program.finish();
    assert_eq!(code, Some(0), "{output}");
    let text = std::fs::read(&path).unwrap();
    let mut promtool = Command::new("promtool");
    let (code, output, error) = run(promtool.args(["check", "metrics"]), &text);
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
    let mut node = Program::start(command);
    node.wait_for("Listening on");
    let (status, text) = get(&format!("http://{address}/metrics")).await;
    assert_eq!(status, 200, "{text}");
    let scrape = Scrape::parse(&text);
    assert_eq!(scrape.get("node_textfile_scrape_error", &[]), Some(0.0));
    assert_eq!(shown(&scrape), world(&sim));
    assert_eq!(scrape.sum("mongodbatlas_ai_model_api_keys"), 300.0);
    sim.stop().await;
}
