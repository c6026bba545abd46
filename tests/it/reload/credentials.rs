//! Rotated credentials.

use std::fmt::Write as _;
use std::time::Duration;

use super::{ConfigFiles, FAILURES, RELOADED, count_token_requests};
use crate::common::sim_harness::{in_process_sim, live_sim};
use crate::common::static_sim;
use mongodb_atlas_sim::{Effect, Fault, SimConfig, SimEndpoint};

#[tokio::test(start_paused = true)]
async fn secret_rotation_with_overlap_fails_no_poll() {
    let sim = in_process_sim(&SimConfig {
        token_lifetime_seconds: 1800,
        ..live_sim(2, 40)
    });
    let files = ConfigFiles::new(&sim);
    let exporter = files.start_exporter(&sim).await;
    exporter.wait_polled(2).await;
    let rotation_step = async || {
        let (polls, tokens) = (exporter.count_polls(), count_token_requests(&exporter));
        exporter.advance(Duration::from_hours(2)).await;
        polls.assert_polled(23);
        // A token is used for 25 minutes.
        let tokens = count_token_requests(&exporter) - tokens;
        assert!((4..=6).contains(&tokens), "{tokens} tokens");
    };
    for round in 0..6 {
        let next = format!("mdb_sa_sk_next_{round}");
        sim.with_credentials(|account| account.next_client_secret = Some(next.clone()));
        files.write("client-secret", &format!("{next}\n"));
        rotation_step().await;
        // The old secret is removed, and all tokens issued with it.
        sim.with_credentials(|account| {
            account.client_secret = next;
            account.next_client_secret = None;
        });
        sim.revoke_all_tokens();
        rotation_step().await;
        assert_eq!(exporter.scrape().sum(FAILURES), 0.0);
    }
    exporter.assert_in_sync(Duration::from_mins(10)).await;
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
    assert!(failed.sum(FAILURES) >= 6.0, "{}", failed.sum(FAILURES));
    files.write("client-secret", "mdb_sa_sk_new");
    exporter.advance(Duration::from_secs(10)).await;
    let scrape = exporter.scrape();
    assert_eq!(
        scrape.sum("atlas_ai_keys_exporter_org_up"),
        1.0,
        "the reduced poll rate ends with the change"
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
        "a token issued with the new secret"
    );
    assert_eq!(exporter.scrape().sum(FAILURES), 0.0);
    exporter.assert_in_sync(Duration::from_mins(10)).await;
    exporter.stop().await;
}

const UP: &str = "atlas_ai_keys_exporter_org_up";

/// Returns a configuration with a credential for each organization.
fn config_with_credentials(files: &ConfigFiles, credentials: &[(&str, &str)]) -> String {
    let mut config = "credentials:\n".to_owned();
    for (name, org) in credentials {
        writeln!(
            config,
            "- name: {name}\n  client_id_file: client-id\n  client_secret_file: client-secret\n  org_ids: ['{org}']"
        )
        .unwrap();
    }
    config + &format!("atlas:\n  base_url: {}\n", files.base_url)
}

#[tokio::test(start_paused = true)]
async fn credential_removed_by_reload_is_revoked_and_leaves_no_series() {
    // With and without a poll in progress at the reload.
    for delay in [0.0, 15.0] {
        let sim = in_process_sim(&live_sim(2, 40));
        let files = ConfigFiles::new(&sim);
        let [first, second] = [0, 1].map(|n: usize| files.orgs[n].clone());
        let both = [("first", first.as_str()), ("second", second.as_str())];
        files.write("config.yml", &config_with_credentials(&files, &both));
        let exporter = files.start_exporter(&sim).await;
        exporter.wait_polled(2).await;
        assert_eq!(sim.live_token_count(), 2, "one for each credential");
        assert!(exporter.scrape().text.contains("credential=\"second\""));
        let slow = Fault::new(
            SimEndpoint::AiModelApiKeys,
            Effect::Delay { seconds: delay },
        );
        sim.add_fault(slow.for_org(&second));
        if delay > 0.0 {
            let attempt = "atlas_ai_keys_exporter_org_last_attempt_timestamp_seconds";
            let label = [("org_id", second.as_str())];
            let before = exporter.scrape().get(attempt, &label);
            exporter
                .wait_until("another poll", |scrape| {
                    scrape.get(attempt, &label) > before
                })
                .await;
        }
        files.write("config.yml", &config_with_credentials(&files, &both[..1]));
        exporter.advance(Duration::from_secs(10)).await;
        let scrape = exporter.scrape();
        assert_eq!(scrape.get(RELOADED, &[]), Some(1.0));
        for text in [&second, "credential=\"second\""] {
            assert!(!scrape.text.contains(text), "{text} in {}", scrape.text);
        }
        let live = if delay > 0.0 { 2 } else { 1 };
        assert_eq!(
            sim.live_token_count(),
            live,
            "a poll in progress retains its token"
        );
        let polls = exporter.count_polls();
        exporter.advance(Duration::from_mins(30)).await;
        polls.assert_polled(5);
        assert_eq!(sim.live_token_count(), 1);
        let after = exporter.assert_in_sync(Duration::from_mins(10)).await;
        assert_eq!(after.values(UP), [1.0]);
        assert!(!after.text.contains(&second) && !after.text.contains("\"second\""));
        let mut walks = polls.walks();
        walks.remove(&first);
        assert!(
            walks.values().sum::<usize>() <= usize::from(delay > 0.0),
            "{walks:?}"
        );
        sim.clear_faults();
        files.write("config.yml", &config_with_credentials(&files, &both));
        exporter.advance(Duration::from_mins(2)).await;
        assert_eq!(exporter.scrape().values(UP), [1.0, 1.0]);
        exporter.stop().await;
        assert_eq!(
            sim.live_token_count(),
            0,
            "all tokens are revoked at the shutdown"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn changed_credential_lists_organizations_immediately() {
    let sim = in_process_sim(&static_sim(2, 20));
    let files = ConfigFiles::new(&sim);
    let config = config_with_credentials(&files, &[("main", "")]);
    let config = config.replace("org_ids: ['']", "discover_orgs: true");
    files.write("config.yml", &config);
    let exporter = files.start_exporter(&sim).await;
    exporter.wait_polled(2).await;
    exporter.advance(Duration::from_secs(30)).await;
    // The files of the credential change, then the configuration names other files.
    for (orgs, file) in [(3, "client-secret"), (4, "other-secret")] {
        sim.with_world(|world| world.add_org(3));
        exporter.advance(Duration::from_secs(10)).await;
        assert_eq!(
            exporter.scrape().values(UP).len(),
            orgs - 1,
            "lists are 5 minutes apart"
        );
        let secret = format!("mdb_sa_sk_{file}");
        sim.with_credentials(|account| account.next_client_secret = Some(secret.clone()));
        files.write(file, &secret);
        files.write("config.yml", &config.replace("client-secret", file));
        exporter.advance(Duration::from_secs(10)).await;
        assert_eq!(exporter.scrape().values(UP), vec![1.0; orgs], "{file}");
    }
    exporter.assert_in_sync(Duration::from_mins(10)).await;
    exporter.stop().await;
}
