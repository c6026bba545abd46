//! A small response that decompresses to far more than the maximum size of a response.

use super::{FLAGS, SUCCESS, UP, assert_retained, keys_fault};
use crate::common::{ChildProcess, get, process_status, sim_env, static_sim};
use mongodb_atlas_sim::Effect;

/// Maximum growth of the process. The limit of a response is 32 MiB, and the gzip bomb has 96 MiB.
const MAX_GROWTH_KIB: u64 = 64 << 10;

/// The gzip bomb is an empty page followed by spaces: without a limit it would be a valid response of an organization that
/// has lost all its keys.
#[tokio::test(flavor = "multi_thread")]
async fn gzip_bomb_is_rejected_in_bounded_memory() {
    let sim = crate::common::start_sim(static_sim(1, 25)).await;
    let org = sim.org_ids()[0].clone();
    let flags = [FLAGS, &["--web.listen-address=127.0.0.1:0"]].concat();
    let mut program = ChildProcess::exporter(&flags, &sim_env(&sim));
    let address = program.wait_for_output("address=");
    let polled = program.wait_scrape(&address, "a poll", |scrape| {
        let names = scrape.with_name("mongodbatlas_organization_info").count();
        scrape.values(UP) == [1.0] && names == 1
    });
    let before = polled.await;
    let memory_before = process_status(program.pid(), "VmHWM");
    sim.add_fault(keys_fault(Effect::GzipBomb));
    let rejected = program.wait_scrape(&address, "two rejected bombs", |scrape| {
        scrape.poll_failures(&org, "invalid_response") >= 2.0
    });
    let after = rejected.await;
    let growth = process_status(program.pid(), "VmHWM") - memory_before;
    assert_retained(&before, &after, "a bomb");
    assert!(growth < MAX_GROWTH_KIB, "{growth} KiB");
    let line = program.wait_for_output("msg=\"poll failed\"");
    assert!(line.contains("larger than 32 MiB"), "{line}");
    assert_eq!(get(&format!("http://{address}/-/ready")).await.0, 200);
    sim.clear_faults();
    let success = before.values(SUCCESS);
    let healed = program.wait_scrape(&address, "another poll", |scrape| {
        scrape.values(UP) == [1.0] && scrape.values(SUCCESS) > success
    });
    let healed = healed.await;
    assert_eq!(healed.inventory_series(), before.inventory_series());
    sim.stop().await;
}
