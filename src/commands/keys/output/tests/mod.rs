//! Tests of reports on arbitrary keys.

mod commands;
mod formats;
mod groups;

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cli::Args;
use crate::config::parse_keys_options;
use crate::credentials::Environment;
use crate::inventory::{ApiKey, ApiTime, Inventory, InventoryStore, KeyAttributes, OrgDetails};
use crate::key_policy::{Exemption, Exemptions, KeySelector};
use mongodb_atlas_client::{KeyId, OrgId, Project, ProjectId};

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

#[derive(Debug, Clone)]
struct ReportedKey {
    id: String,
    name: String,
    project: usize,
    idle_days: i64,
    was_used: bool,
    status: &'static str,
    is_exempt: bool,
}

/// Name and owner of a project. The owner can be empty.
type TestProject = (String, String);

/// Texts with a special meaning in a shell, a spreadsheet, Markdown or a terminal.
const SPECIAL: &[&str] = &[
    "$(touch x)",
    "`touch x`",
    "\n",
    "\r",
    "\t",
    "\u{2028}",
    "\u{85}",
    "\u{202e}",
    "\u{1b}[2J",
    "|",
    "\\",
    "\"",
    "'",
    "#",
    "=1+1",
    "+",
    "-",
    "--apiKeyId x",
    "@",
    " ",
    ";",
    "<b>",
    "[x](http://y)",
    "https://y",
    "www.y.org",
    "a@b.org",
    ",",
    "*",
    "&amp;",
    "~~",
    "(",
    "é",
];

fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => prop::sample::select(SPECIAL).prop_map(str::to_owned),
        1 => "\\PC{0,4}",
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

fn any_keys() -> impl Strategy<Value = Vec<ReportedKey>> {
    let id = prop_oneof!["[A-Za-z0-9_-]{1,8}", any_text()];
    let status = prop::sample::select(&["ACTIVE", "INACTIVE", "deleted", "=odd", ""][..]);
    let times = (0_i64..200, any::<bool>());
    let key = (id, any_text(), 0..3_usize, times, status, any::<bool>());
    prop::collection::vec(key, 0..12).prop_map(|keys| {
        let keys = keys.into_iter().enumerate();
        keys.map(
            |(index, (id, name, project, (idle_days, was_used), status, is_exempt))| ReportedKey {
                id: format!("{id}{index}"),
                name,
                project,
                idle_days,
                was_used,
                status,
                is_exempt,
            },
        )
        .collect()
    })
}

fn any_projects() -> impl Strategy<Value = [TestProject; 3]> {
    prop::array::uniform3((any_text(), any_text()))
}

fn api_key(key: &ReportedKey) -> ApiKey {
    let at = Timestamp::from_second(NOW - key.idle_days * DAY).expect("a time");
    ApiKey {
        id: KeyId::new(&*key.id),
        project: ProjectId::new(format!("p{}", key.project)),
        name: key.name.clone(),
        attributes: KeyAttributes {
            status: key.status.into(),
            ..KeyAttributes::default()
        },
        created: ApiTime::Valid(at),
        last_used: if key.was_used {
            ApiTime::Valid(at)
        } else {
            ApiTime::Missing
        },
        ..ApiKey::default()
    }
}

fn policy(keys: &[ReportedKey]) -> KeyPolicy {
    let exempt = keys.iter().filter(|key| key.is_exempt);
    let exemptions = exempt.map(|key| Exemption {
        selector: KeySelector::Id(KeyId::new(&*key.id)),
        reason: "drill\n$(touch x)".into(),
        until: "2030-01-01".parse().expect("valid date"),
    });
    KeyPolicy {
        exemptions: Exemptions::new(exemptions.collect()).expect("no globs"),
        ..KeyPolicy::default()
    }
}

/// Writes the report on `keys`. `projects` has the names and owners of the projects.
fn write(keys: &[ReportedKey], projects: &[TestProject], flags: &[&str]) -> (String, usize) {
    let args = Args::parse([&["x", "keys"], flags].concat()).expect("flags");
    let environment = Environment::from_vars(Vec::<(String, String)>::new());
    let options = parse_keys_options(&args, &environment).expect("valid options");
    let org = OrgId::parse("0000000000000000000000aa").expect("an id");
    let now = Timestamp::from_second(NOW).expect("a time");
    let named = projects
        .iter()
        .enumerate()
        .map(|(index, (name, owner))| Project {
            id: ProjectId::new(format!("p{index}")),
            name: name.clone(),
            tag: Some(owner.clone()).filter(|owner| !owner.is_empty()),
        });
    let details = OrgDetails {
        name: Some("=org|".to_owned()),
        projects: named.collect(),
        ..OrgDetails::default()
    };
    let policy = Arc::new(policy(keys));
    let store = InventoryStore::default();
    store.set_policy(Arc::clone(&policy));
    store.set_targets(vec![org.clone()], Vec::new());
    store.insert_details(&org, &Arc::new(details));
    let inventory = Arc::new(Inventory::from_records(org, now, keys.iter().map(api_key)));
    store.insert(store.classify(inventory), Duration::ZERO);
    let snapshot = store.snapshot(Duration::ZERO);
    let report = Report::new(&snapshot, &options, &policy, now, false);
    let mut out = Vec::new();
    let refused = report.write(&mut out).expect("memory takes everything");
    (String::from_utf8(out).expect("UTF-8"), refused)
}
