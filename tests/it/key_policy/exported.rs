//! Owners and exemptions on `/metrics`, on the page and in the audit log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atlas_ai_keys_exporter::inventory::DISABLED_STATUSES;
use mongodb_atlas_sim::{SimEndpoint, SimHandle, SimKey};

use crate::common::log_capture::LogCapture;
use crate::common::sim_harness::{SimHarness, in_process_sim};
use crate::common::{Scrape, error_fault, static_sim};

const PROJECT_INFO: &str = "mongodbatlas_project_info";
const EXEMPT_UNTIL: &str = "mongodbatlas_ai_model_api_key_exempt_until_timestamp_seconds";
const UNMATCHED: &str = "atlas_ai_keys_exporter_exemptions_unmatched";
/// The clock of [`in_process_sim`] starts at 00:00 UTC of this day.
const TODAY: &str = "2026-03-01";

/// A configuration file that tests rewrite.
struct ConfigFile {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl ConfigFile {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yml");
        std::fs::write(&path, text).unwrap();
        Self { _dir: dir, path }
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
    }

    fn flag(&self) -> String {
        format!("--config.file={}", self.path.display())
    }
}

fn storage_flag(dir: &Path) -> String {
    format!("--storage.path={}", dir.display())
}

fn all_keys(sim: &SimHandle) -> Vec<SimKey> {
    sim.with_world(|world| {
        let orgs = world.org_ids().into_iter();
        orgs.flat_map(|org| world.keys(&org).to_vec()).collect()
    })
}

/// Returns the owner of each project by its name.
fn owners(scrape: &Scrape) -> BTreeMap<String, Option<String>> {
    let projects = scrape.with_name(PROJECT_INFO);
    projects
        .map(|mut series| {
            let name = series.labels.remove("project_name").unwrap();
            (name, series.labels.remove("owner"))
        })
        .collect()
}

async fn wait_details(harness: &SimHarness) -> Scrape {
    let orgs = harness.sim.org_ids().len();
    harness.wait_polled(orgs).await;
    harness
        .wait_until("names of projects", |scrape| {
            let named = scrape.with_name(PROJECT_INFO);
            let mut orgs_named: Vec<_> = named.map(|it| it.labels["org_id"].clone()).collect();
            orgs_named.dedup();
            orgs_named.len() == orgs
        })
        .await
}

/// Returns the number of keys by class, with the smallest threshold: idle, never used, disabled, exempt.
fn counts(scrape: &Scrape) -> [f64; 4] {
    let count = |family: &str| {
        let family = format!("mongodbatlas_ai_model_api_{family}");
        let series = scrape.with_name(&family);
        let smallest = series.filter(|it| it.labels.get("threshold").is_none_or(|it| it == "1s"));
        smallest.map(|it| it.value).sum()
    };
    [
        "keys_idle",
        "keys_never_used",
        "keys_disabled",
        "keys_exempt",
    ]
    .map(count)
}

/// Returns the expected number of `keys` by class.
fn expected_counts(keys: &[SimKey], exempt: impl Fn(&SimKey) -> bool) -> [f64; 4] {
    let mut counts = [0.0; 4];
    for key in keys {
        let is_disabled = DISABLED_STATUSES
            .iter()
            .any(|it| it.eq_ignore_ascii_case(&key.status));
        let class = match key.last_used {
            _ if exempt(key) => 3,
            _ if is_disabled => 2,
            None => 1,
            Some(_) => 0,
        };
        counts[class] += 1.0;
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn owner_rules_take_precedence_over_tags_and_are_reloaded() {
    let sim = in_process_sim(&static_sim(1, 1200));
    let config = ConfigFile::new("{}");
    let harness = SimHarness::start(&sim, &[&config.flag()]).await;
    let by_tag = owners(&wait_details(&harness).await);
    assert!(by_tag.values().any(Option::is_none), "{by_tag:?}");
    assert!(by_tag.values().any(Option::is_some), "{by_tag:?}");
    let first = by_tag.keys().next().unwrap().clone();
    config.write(&format!(
        "owners:\n- {{projects: [{first:?}], owner: team-first}}\n- {{projects: ['*'], owner: \"te\\\"am\"}}\n"
    ));
    harness.reloader.reload("test").await.unwrap();
    for (name, owner) in owners(&harness.scrape()) {
        let expected = if name == first {
            "team-first"
        } else {
            "te\"am"
        };
        assert_eq!(owner.as_deref(), Some(expected), "{name}");
    }
    config.write("{}");
    harness.reloader.reload("test").await.unwrap();
    assert_eq!(owners(&harness.scrape()), by_tag, "the tags apply again");
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn changed_owner_tag_applies_after_a_reload_and_a_restart() {
    let sim = in_process_sim(&static_sim(1, 1200));
    let dir = tempfile::tempdir().unwrap();
    let config = ConfigFile::new("atlas:\n  owner_tag: env\n");
    let flags = [config.flag(), storage_flag(dir.path())];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let harness = SimHarness::start(&sim, &flags).await;
    let by_env = owners(&wait_details(&harness).await);
    assert!(by_env.values().any(Option::is_some), "{by_env:?}");
    config.write("{}");
    harness.reloader.reload("test").await.unwrap();
    // The reload reads the tags without the delay of the hourly refresh.
    harness.advance(Duration::from_secs(30)).await;
    let by_owner = owners(&harness.scrape());
    assert_ne!(by_owner, by_env);
    harness.stop().await;

    config.write("atlas:\n  owner_tag: env\n");
    let harness = SimHarness::start(&sim, &flags).await;
    harness.advance(Duration::from_secs(30)).await;
    assert_eq!(
        owners(&harness.scrape()),
        by_env,
        "immediately after the restart"
    );
    harness.stop().await;

    config.write("atlas:\n  owner_tag: ''\n");
    let harness = SimHarness::start(&sim, &flags).await;
    harness.advance(Duration::from_secs(30)).await;
    let none = owners(&harness.scrape());
    assert!(
        !none.is_empty() && none.values().all(Option::is_none),
        "{none:?}"
    );
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn exempt_keys_are_counted_separately_until_the_exemption_ends() {
    let sim = in_process_sim(&static_sim(2, 200));
    let keys = all_keys(&sim);
    let by_id = keys[0].clone();
    let by_name = keys.iter().find(|key| key.name != by_id.name).unwrap();
    let config = ConfigFile::new(&format!(
        "exemptions:\n- {{key: {}, reason: a, until: {TODAY}}}\n- {{name: {:?}, reason: b, until: 2026-03-02}}\n",
        by_id.id,
        globset_escape(&by_name.name),
    ));
    let flags = [
        config.flag(),
        "--atlas.poll-interval=7d".to_owned(),
        "--metrics.idle-thresholds=1s".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let harness = SimHarness::start(&sim, &flags).await;
    wait_details(&harness).await;
    let of_name = |key: &SimKey| key.name == by_name.name;
    let requests = || harness.requests_to(SimEndpoint::AiModelApiKeys).len();
    let requests_before = requests();
    for (at, id_is_exempt, name_is_exempt) in [
        ("2026-03-01T23:59:59Z", true, true),
        ("2026-03-02T00:00:00Z", false, true),
        ("2026-03-02T23:59:59Z", false, true),
        ("2026-03-03T00:00:00Z", false, false),
    ] {
        let at: jiff::Timestamp = at.parse().unwrap();
        let wait = at.duration_since(sim.now()).unsigned_abs();
        harness.advance(wait).await;
        let scrape = harness.scrape();
        let is_exempt =
            |key: &SimKey| (id_is_exempt && key.id == by_id.id) || (name_is_exempt && of_name(key));
        assert_eq!(counts(&scrape), expected_counts(&keys, is_exempt), "{at}");
        let exempt_until = scrape.with_name(EXEMPT_UNTIL);
        let mut shown: Vec<_> = exempt_until
            .map(|it| (it.labels["api_key_id"].clone(), it.value))
            .collect();
        shown.sort_by(|a, b| a.0.cmp(&b.0));
        let mut expected: Vec<_> = keys
            .iter()
            .filter(|key| is_exempt(key))
            // The values are 00:00 UTC of 2026-03-03 and of 2026-03-02.
            .map(|key| {
                let end = if of_name(key) {
                    1_772_496_000.0
                } else {
                    1_772_409_600.0
                };
                (key.id.clone(), end)
            })
            .collect();
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(shown, expected, "{at}");
    }
    assert_eq!(requests(), requests_before, "no poll is needed");
    harness.stop().await;
}

/// Escapes a text so that a glob matches only this text.
fn globset_escape(text: &str) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        if "?*[]{}\\".contains(char) {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    escaped
}

#[tokio::test(start_paused = true)]
async fn exemptions_apply_after_a_reload_a_rename_and_a_restart_during_an_outage() {
    let sim = in_process_sim(&static_sim(1, 50));
    let org = sim.org_ids().remove(0);
    let key = all_keys(&sim).remove(0);
    let dir = tempfile::tempdir().unwrap();
    let config = ConfigFile::new("{}");
    let flags = [config.flag(), storage_flag(dir.path())];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let exempt_ids = |scrape: &Scrape| -> Vec<String> {
        let series = scrape.with_name(EXEMPT_UNTIL);
        series.map(|it| it.labels["api_key_id"].clone()).collect()
    };
    let harness = SimHarness::start(&sim, &flags).await;
    assert_eq!(
        harness.scrape().get(UNMATCHED, &[]),
        None,
        "before the first poll"
    );
    let scrape = wait_details(&harness).await;
    assert_eq!(scrape.get(UNMATCHED, &[]), Some(0.0), "no exemption");

    let project = owners(&scrape)
        .into_keys()
        .find(|name| !name.is_empty())
        .unwrap();
    config.write(&format!(
        "exemptions:\n- {{name: break-glass-*, reason: a, until: 2030-01-01}}\n\
         - {{name: break-glass-*, project: '{project}?', reason: b, until: 2031-01-01}}\n"
    ));
    harness.reloader.reload("test").await.unwrap();
    assert_eq!(harness.scrape().get(UNMATCHED, &[]), Some(2.0));
    sim.with_world(|world| assert!(world.rename_key(&org, &key.id, "break-glass-1")));
    harness.wait_polled_again().await;
    let scrape = harness.scrape();
    assert_eq!(exempt_ids(&scrape), [key.id.as_str()]);
    assert_eq!(scrape.get(UNMATCHED, &[]), Some(1.0));
    sim.with_world(|world| assert!(world.rename_key(&org, &key.id, "another")));
    harness.wait_polled_again().await;
    assert_eq!(harness.scrape().get(UNMATCHED, &[]), Some(2.0), "renamed");
    sim.with_world(|world| assert!(world.rename_key(&org, &key.id, "break-glass-2")));
    harness.wait_polled_again().await;
    harness.stop().await;

    sim.add_fault(error_fault(SimEndpoint::AiModelApiKeys, None, 503));
    let harness = SimHarness::start(&sim, &flags).await;
    let scrape = harness.scrape();
    assert_eq!(
        exempt_ids(&scrape),
        [key.id.as_str()],
        "from the state directory"
    );
    assert_eq!(scrape.get(UNMATCHED, &[]), Some(1.0));
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn unmatched_exemptions_are_not_exported_by_a_shard() {
    let sim = in_process_sim(&static_sim(3, 60));
    let config = ConfigFile::new("exemptions:\n- {key: none, reason: a, until: 2030-01-01}\n");
    let harness = SimHarness::start(&sim, &[&config.flag(), "--atlas.shard=1/2"]).await;
    harness.advance(Duration::from_mins(10)).await;
    assert_eq!(harness.readiness().0, 200);
    assert_eq!(harness.scrape().get(UNMATCHED, &[]), None);
    harness.stop().await;
    let harness = SimHarness::start(&sim, &[&config.flag()]).await;
    wait_details(&harness).await;
    assert_eq!(harness.scrape().get(UNMATCHED, &[]), Some(1.0));
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn page_shows_and_filters_owners_and_shows_exemptions() {
    let sim = in_process_sim(&static_sim(1, 40));
    let key = all_keys(&sim).remove(0);
    let config = ConfigFile::new("{}");
    let harness = SimHarness::start(&sim, &[&config.flag()]).await;
    let scrape = wait_details(&harness).await;
    let info = scrape.with_name(PROJECT_INFO);
    let mut projects = info.map(|it| {
        (
            it.labels["project_id"].clone(),
            it.labels["project_name"].clone(),
        )
    });
    let (_, name) = projects.find(|(id, _)| *id == key.project).unwrap();
    config.write(&format!(
        "owners: [{{projects: [{name:?}], owner: 'a<b> & c'}}, {{projects: ['*'], owner: rest}}]\n\
         exemptions: [{{key: {}, reason: '<i>drill</i>', until: 2030-01-01}}]\n",
        key.id
    ));
    harness.reloader.reload("test").await.unwrap();
    let of_project = all_keys(&sim)
        .iter()
        .filter(|it| it.project == key.project)
        .count();
    let (status, page) = harness.get("/?owner=a%3Cb%3E+%26+c").await;
    assert_eq!(status, 200);
    assert_eq!(
        page.matches("<tr role=\"row\" data-key=").count(),
        of_project
    );
    assert!(page.contains("<bdi>a&#60;b&#62; &#38; c</bdi>"), "{page}");
    assert!(
        page.contains("exempt until 2030-01-01: <bdi>&#60;i&#62;drill"),
        "{page}"
    );
    assert!(
        page.contains("<option value=\"a&#60;b&#62; &#38; c\" selected>"),
        "{page}"
    );
    let (_, page) = harness.get("/?owner=").await;
    assert!(page.contains("0 keys without an owner"), "{page}");
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn audit_log_has_the_owner_of_the_project() {
    let sim = in_process_sim(&static_sim(1, 10));
    let org = sim.org_ids().remove(0);
    let key = all_keys(&sim).remove(0);
    let config = ConfigFile::new("owners: [{projects: ['*'], owner: team-of-rule}]\n");
    let log = LogCapture::start();
    let harness = SimHarness::start(&sim, &[&config.flag()]).await;
    wait_details(&harness).await;
    sim.with_world(|world| assert!(world.rename_key(&org, &key.id, "renamed")));
    harness.wait_polled_again().await;
    harness.stop().await;
    let changes = log.lines("INFO", "key changed");
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(changes[0].contains("owner=\"team-of-rule\""), "{changes:?}");
}
