//! Tests of the scheduler with results that arrive late.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mongodb_atlas_client::{Clock, OptionalFields, OrgId};

use super::tasks::TaskOutput;
use super::{PollEvent, PollObserver, PollOptions, PollPlan, Scheduler};
use crate::shard::Shard;
use crate::storage::{StateFile, Storage};

struct IgnoreEvents;

impl PollObserver for IgnoreEvents {
    fn on_event(&self, _: PollEvent<'_>) {}
}

/// Returns a scheduler without organizations.
async fn idle_scheduler() -> Scheduler {
    let plan = PollPlan {
        credentials: Vec::new(),
        shard: Shard::ALL,
        max_orgs: 10,
        owner_tag: None,
        interval: Duration::from_mins(5),
        options: PollOptions {
            page_size: 100,
            revived_after: Duration::from_hours(24),
            optional_fields: OptionalFields::default(),
            log_key_names: true,
            walk_timeout: Duration::from_mins(10),
            clock: Clock::system(),
            prepare_inventory: Arc::new(Into::into),
        },
        storage: None,
    };
    let observer = Arc::new(IgnoreEvents);
    Scheduler::start(plan, Arc::default(), observer, Clock::system()).await
}

#[tokio::test]
async fn failed_save_of_a_removed_organization_hides_no_later_failure() {
    let org = OrgId::parse(&"a".repeat(24)).expect("an id");
    let missing = Storage::open_read_only(Path::new("/nonexistent"));
    for file in [
        StateFile::Inventory(org.clone()),
        StateFile::Backoff(org.clone()),
        StateFile::Details(org.clone()),
    ] {
        let mut scheduler = idle_scheduler().await;
        let error = missing.list_orgs().expect_err("no such directory");
        let output = TaskOutput::SaveFinished {
            file,
            result: Err(error),
        };
        scheduler.on_task_done(output).await;
        let other = StateFile::Credential("default".into());
        assert!(
            scheduler.save_failures.record_failure(&other),
            "logged as the first failure"
        );
        assert!(
            scheduler.save_failures.record_success(&other),
            "logged as the end of all failures"
        );
    }
}
