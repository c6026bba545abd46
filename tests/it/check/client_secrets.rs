//! `check`: expiry of the client secret.

use super::{run_check, single_finding};
use crate::common::{error_fault, sim_env, start_sim, static_sim};
use atlas_ai_keys_exporter::check::{Component, Finding, Severity};
use jiff::SignedDuration;
use mongodb_atlas_client::Clock;
use mongodb_atlas_sim::{SimEndpoint, SimHandle};

async fn check_secret(sim: &SimHandle) -> Finding {
    let findings = run_check(&[], sim_env(sim), Clock::system()).await;
    single_finding(&findings, Component::ClientSecret, "default").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_expiry_of_the_client_secret_in_use() {
    let sim = start_sim(static_sim(3, 30)).await;
    // The second secret, which expires in 20 days, was last used 40 days ago.
    for (hours, severity, text) in [
        (90 * 24 + 1, Severity::Ok, "expires in 90 days (20"),
        (29 * 24, Severity::Warning, "expires in 28 days (20"),
        (6 * 24, Severity::Error, "expires in 5 days (20"),
    ] {
        let id = sim.with_service_account(|account| {
            account.secrets[0].expires = sim.now() + SignedDuration::from_hours(hours);
            account.secrets[0].id.clone()
        });
        let finding = check_secret(&sim).await;
        assert_eq!(finding.severity, severity, "{finding:?}");
        let expected = format!("client secret {id} {text}");
        assert!(finding.message.starts_with(&expected), "{finding:?}");
    }
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_client_secret_of_another_organization() {
    let sim = start_sim(static_sim(12, 60)).await;
    let mut orgs = sim.org_ids();
    orgs.sort();
    sim.with_service_account(|account| account.org = Some(orgs[9].clone()));
    let finding = check_secret(&sim).await;
    assert!(finding.message.contains("expires in"), "{finding:?}");
    // At most ten organizations are queried.
    sim.with_service_account(|account| account.org = Some(orgs[10].clone()));
    let finding = check_secret(&sim).await;
    assert!(finding.message.contains("not visible"), "{finding:?}");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invisible_client_secret_is_ok_and_unreadable_one_a_warning() {
    let sim = start_sim(static_sim(1, 10)).await;
    for (status, severity, text) in [
        (403, Severity::Ok, "not visible with this credential"),
        (404, Severity::Ok, "not visible with this credential"),
        (500, Severity::Warning, "expiry cannot be read: "),
    ] {
        sim.add_fault(error_fault(SimEndpoint::ServiceAccount, None, status));
        let finding = check_secret(&sim).await;
        assert_eq!(finding.severity, severity, "HTTP {status}");
        assert!(finding.message.contains(text), "{finding:?}");
        sim.clear_faults();
    }
    sim.add_fault(error_fault(SimEndpoint::Token, None, 401));
    let finding = check_secret(&sim).await;
    assert_eq!(finding.severity, Severity::Skipped, "{finding:?}");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_secret_is_checked_for_service_accounts_only() {
    let sim = start_sim(static_sim(1, 10)).await;
    let mut api_key = sim_env(&sim);
    api_key.retain(|(name, _)| !name.contains("CLIENT"));
    let account = sim.credentials();
    for (name, value) in [
        ("MONGODB_ATLAS_PUBLIC_API_KEY", account.public_key),
        ("MONGODB_ATLAS_PRIVATE_API_KEY", account.private_key),
    ] {
        api_key.push((name.to_owned(), value));
    }
    let findings = run_check(&[], api_key, Clock::system()).await;
    let mut components = findings.iter().map(|finding| finding.component);
    assert!(components.all(|component| component != Component::ClientSecret));
    let mut requests = sim.requests().into_iter();
    assert!(requests.all(|request| request.endpoint != SimEndpoint::ServiceAccount));
    sim.stop().await;
}
