//! `check`: exemptions that ended, end soon, or match no key.

use atlas_ai_keys_exporter::check::{Component, Finding, Severity};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use mongodb_atlas_client::Clock;
use mongodb_atlas_sim::SimEndpoint;

use super::run_check;
use crate::common::{error_fault, sim_env, static_sim};

/// Returns severity, subject and message of each finding about exemptions.
fn about_exemptions(findings: &[Finding]) -> Vec<(Severity, String)> {
    let of_exemptions = findings.iter().filter(|finding| {
        finding.component == Component::Configuration && finding.subject.starts_with("exemption")
    });
    of_exemptions
        .map(|it| (it.severity, format!("{}: {}", it.subject, it.message)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn exemptions_that_ended_end_soon_or_match_no_key_are_reported() {
    let sim = crate::common::start_sim(static_sim(2, 200)).await;
    let keys: Vec<_> = sim.with_world(|world| {
        let orgs = world.org_ids().into_iter();
        orgs.map(|org| world.keys(&org)[0].id.clone()).collect()
    });
    // One timestamp, so that the day cannot change during the test.
    let now = Timestamp::now();
    let today = TimeZone::UTC.to_datetime(now).date();
    let day = |days: i32| today.saturating_add(days.days()).to_string();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    let text = format!(
        "exemptions:\n\
         - {{key: {}, reason: a, until: {}}}\n\
         - {{key: {}, reason: a, until: {}}}\n\
         - {{name: 'no such *', project: 'search-*', reason: a, until: {}}}\n\
         - {{name: '*', reason: a, until: {}}}\n\
         - {{key: missing, reason: a, until: {}}}\n",
        keys[0],
        day(-1),
        keys[1],
        day(0),
        day(60),
        day(60),
        day(13),
    );
    std::fs::write(&file, text).unwrap();
    let flag = format!("--config.file={}", file.display());
    let check = async |flags: &[&str]| {
        let flags: Vec<&str> = [flag.as_str()]
            .into_iter()
            .chain(flags.iter().copied())
            .collect();
        about_exemptions(&run_check(&flags, sim_env(&sim), Clock::from_fn(move || now)).await)
    };
    let ends = [
        format!(
            "exemption of key \"{}\": exemption ended: valid until {}",
            keys[0],
            day(-1)
        ),
        format!(
            "exemption of key \"{}\": exemption ends soon: valid until {}",
            keys[1],
            day(0)
        ),
        format!(
            "exemption of key \"missing\": exemption ends soon: valid until {}",
            day(13)
        ),
    ];
    let unmatched = [
        "exemption of keys \"no such *\" in projects \"search-*\": exemption matches no key"
            .to_owned(),
        "exemption of key \"missing\": exemption matches no key".to_owned(),
    ];
    let warnings = |texts: &[String]| -> Vec<_> {
        texts
            .iter()
            .map(|it| (Severity::Warning, it.clone()))
            .collect()
    };
    let skipped = (
        Severity::Skipped,
        "exemptions: skipped: not all keys could be read".to_owned(),
    );
    assert_eq!(
        check(&[]).await,
        warnings(&[&ends[..], &unmatched].concat())
    );
    let of_shard = check(&["--atlas.shard=1/2"]).await;
    assert_eq!(
        of_shard,
        [&warnings(&ends)[..], std::slice::from_ref(&skipped)].concat()
    );

    let org = sim.org_ids().remove(1);
    sim.add_fault(error_fault(SimEndpoint::AiModelApiKeys, Some(&org), 403));
    assert_eq!(
        check(&[]).await,
        [&warnings(&ends)[..], std::slice::from_ref(&skipped)].concat()
    );
}
