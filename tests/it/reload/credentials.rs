//! Rotated credentials.

use std::time::Duration;

use super::{ConfigFiles, FAILURES, count_token_requests};
use crate::common::sim_harness::in_process_sim;
use crate::common::{expected_sim_keys, exposed_keys, static_sim};
use mongodb_atlas_sim::SimConfig;

#[tokio::test(start_paused = true)]
async fn secret_rotation_with_overlap_fails_no_poll() {
    let sim = in_process_sim(&SimConfig {
        token_lifetime_seconds: 1800,
        ..static_sim(2, 40)
    });
    let files = ConfigFiles::new(&sim);
    let exporter = files.start_exporter(&sim).await;
    exporter.wait_polled(2).await;
    for round in 0..6 {
        let next = format!("mdb_sa_sk_next_{round}");
        sim.with_credentials(|account| account.next_client_secret = Some(next.clone()));
        files.write("client-secret", &format!("{next}\n"));
        exporter.advance(Duration::from_hours(2)).await;
        // The old secret is removed, and all tokens issued with it.
        sim.with_credentials(|account| {
            account.client_secret = next;
            account.next_client_secret = None;
        });
        sim.revoke_all_tokens();
        exporter.advance(Duration::from_hours(2)).await;
    }
    let scrape = exporter.scrape();
    assert_eq!(scrape.sum(FAILURES), 0.0);
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    exporter.stop().await;
}

#[tokio::test(start_paused = true)]
async fn rotated_secret_and_token_are_used_within_seconds() {
    let sim = in_process_sim(&static_sim(1, 10));
    let files = ConfigFiles::new(&sim);
    let exporter = files.start_exporter(&sim).await;
    exporter.wait_polled(1).await;
    exporter.advance(Duration::from_mins(1)).await;
    assert_eq!(count_token_requests(&exporter), 1);
    // The secret is removed before its successor is in place, and polls fail until then.
    sim.with_credentials(|account| account.client_secret = "mdb_sa_sk_new".into());
    sim.revoke_all_tokens();
    exporter.advance(Duration::from_hours(6)).await;
    let failed = exporter.scrape();
    assert_eq!(failed.sum("atlas_ai_keys_exporter_org_up"), 0.0);
    files.write("client-secret", "mdb_sa_sk_new");
    exporter.advance(Duration::from_secs(10)).await;
    let scrape = exporter.scrape();
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_up"),
        1.0,
        "the slower pace ends with the change"
    );
    exporter.stop().await;
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn kubernetes_symlink_swap_triggers_reload() {
    use std::os::unix::fs::symlink;
    let sim = in_process_sim(&static_sim(1, 10));
    let files = ConfigFiles::new(&sim);
    // As a mounted Secret: client-secret → ..data/client-secret, ..data → a timestamped directory.
    let mount = files.path("mount");
    let generation = |name: &str, secret: &str| {
        let dir = mount.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("client-secret"), secret).unwrap();
        let link = mount.join("..data_tmp");
        symlink(name, &link).unwrap();
        std::fs::rename(link, mount.join("..data")).unwrap();
    };
    generation("..2026_03_01", &sim.credentials().client_secret);
    symlink("..data/client-secret", mount.join("client-secret")).unwrap();
    std::fs::remove_file(files.path("client-secret")).unwrap();
    symlink("mount/client-secret", files.path("client-secret")).unwrap();
    let exporter = files.start_exporter(&sim).await;
    exporter.wait_polled(1).await;
    exporter.advance(Duration::from_mins(1)).await;
    sim.with_credentials(|account| account.next_client_secret = Some("mdb_sa_sk_new".into()));
    let before = count_token_requests(&exporter);
    generation("..2026_03_02", "mdb_sa_sk_new");
    exporter.advance(Duration::from_mins(10)).await;
    assert_eq!(
        count_token_requests(&exporter),
        before + 1,
        "a token made with the new one"
    );
    assert_eq!(exporter.scrape().sum(FAILURES), 0.0);
    exporter.stop().await;
}
