//! Owners and exemptions from the configuration file, and their effect on keys.

mod exported;

use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::config::{Config, ConfigError};
use atlas_ai_keys_exporter::credentials::Environment;
use atlas_ai_keys_exporter::key_policy::{KeySelector, ProjectRef};
use mongodb_atlas_client::ProjectId;

fn load(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yml");
    std::fs::write(&file, text).unwrap();
    let environment = Environment::from_vars([
        (
            "MONGODB_ATLAS_ORG_ID".to_owned(),
            "32b6e34b3d91647abb20e7b8".to_owned(),
        ),
        ("MONGODB_ATLAS_ACCESS_TOKEN".to_owned(), "token".to_owned()),
    ]);
    let args = Args::parse(["x", "--config.file", file.to_str().unwrap()]).unwrap();
    Config::load(&args, &environment)
}

#[test]
fn owners_and_exemptions_are_read_from_the_config_file() {
    let config = load(
        "owners:\n\
         - projects: [\"search-*\", 69681d39c9e8cfd375386316]\n  owner: team-search\n\
         - {projects: [012345678901234567890123], owner: no}\n\
         exemptions:\n\
         - key: a86r5kwrfsk5r5ku5tgvhmpj\n  reason: disaster recovery\n  until: 2027-06-30\n\
         - name: break-glass-*\n  project: prod-?\n  reason: \"1e3\"\n  until: \"2028-02-29\"\n",
    )
    .unwrap();
    let owner = |id: &str, name: &str| {
        let id = ProjectId::new(id);
        let owner = config.key_policy.owners.find(ProjectRef { id: &id, name });
        owner.map(ToString::to_string)
    };
    assert_eq!(owner("1", "search-eu").as_deref(), Some("team-search"));
    assert_eq!(
        owner("69681d39c9e8cfd375386316", "x").as_deref(),
        Some("team-search")
    );
    assert_eq!(owner("012345678901234567890123", "").as_deref(), Some("no"));
    assert_eq!(owner("1", "x"), None);
    let [by_id, by_name] = config.key_policy.exemptions.as_slice() else {
        panic!("two exemptions");
    };
    assert!(
        matches!(&by_id.selector, KeySelector::Id(id) if id.as_str() == "a86r5kwrfsk5r5ku5tgvhmpj")
    );
    assert_eq!(by_id.ends_at().to_string(), "2027-07-01T00:00:00Z");
    assert!(matches!(
        &by_name.selector,
        KeySelector::Name {
            project: Some(_),
            ..
        }
    ));
    assert_eq!(
        (by_name.reason.as_str(), by_name.until.to_string().as_str()),
        ("1e3", "2028-02-29")
    );
}

#[test]
fn all_errors_in_owners_and_exemptions_are_listed() {
    let cases = [
        ("owners: me\n", "owners: expected a list, got a text"),
        ("owners: [x]\n", "owners[0]: expected fields, got a text"),
        (
            "owners: [{projects: [a], owner: ''}]\n",
            "owners[0].owner: expected a text, got an empty text",
        ),
        (
            "owners: [{projects: [a]}]\n",
            "owners[0]: missing field \"owner\": expected a text",
        ),
        (
            "owners: [{owner: a}]\n",
            "owners[0]: missing field \"projects\": expected a list of project globs or ids",
        ),
        (
            "owners: [{projects: , owner: }]\n",
            "owners[0].projects: expected a list of project globs or ids, got nothing",
        ),
        (
            "owners: [{projects: [a], owner: }]\n",
            "owners[0].owner: expected a text, got nothing",
        ),
        (
            "owners: [{projects: [], owner: a}]\n",
            "owners[0].projects: expected a list of project globs or ids, got an empty list",
        ),
        (
            "owners: [{projects: a, owner: a}]\n",
            "owners[0].projects: expected a list of project globs or ids, got a text",
        ),
        (
            "owners: [{projects: ['a['], owner: a}]\n",
            "owners[0].projects[0]: invalid glob \"a[\"",
        ),
        (
            "owners: [{projects: ['b[úu]squeda'], owner: a}]\n",
            "owners[0].projects[0]: invalid glob \"b[úu]squeda\": expected ASCII characters in [...]",
        ),
        (
            "owners: [{projects: [a], owner: \"a\\nb\"}]\n",
            "owners[0].owner: expected a text without control characters",
        ),
        (
            "owners: [{projects: [[a]], owner: a}]\n",
            "owners[0].projects[0]: expected a project glob or id, got a list",
        ),
        (
            "owners: [{projects: [a], owner: a, team: b}]\n",
            "owners[0].team: unknown field: expected one of projects, owner",
        ),
        (
            "exemptions: {}\n",
            "exemptions: expected a list, got a mapping",
        ),
        (
            "exemptions: [{key: a, until: 2027-06-30}]\n",
            "exemptions[0]: missing field \"reason\": expected a text",
        ),
        (
            "exemptions: [{key: a, reason: b}]\n",
            "exemptions[0]: missing field \"until\": expected a text",
        ),
        (
            "exemptions: [{key: a, reason: b, until: 2027-02-30}]\n",
            "exemptions[0].until: expected a date such as 2027-06-30, got \"2027-02-30\"",
        ),
        (
            "exemptions: [{key: a, reason: b, until: 2027-06-30T00:00}]\n",
            "exemptions[0].until: expected a date",
        ),
        (
            "exemptions: [{key: a, reason: b, until: tomorrow}]\n",
            "exemptions[0].until: expected a date",
        ),
        (
            "exemptions: [{reason: b, until: 2027-06-30}]\n",
            "exemptions[0]: missing field \"key\" or \"name\": expected an id in `key`",
        ),
        (
            "exemptions: [{key: a, name: b, reason: b, until: 2027-06-30}]\n",
            "exemptions[0]: expected `key` alone, or `name`",
        ),
        (
            "exemptions: [{key: a, project: b, reason: b, until: 2027-06-30}]\n",
            "exemptions[0]: expected `key` alone, or `name`",
        ),
        (
            "exemptions: [{name: 'a{', reason: b, until: 2027-06-30}]\n",
            "exemptions[0].name: invalid glob \"a{\"",
        ),
        (
            "exemptions: [{name: a, project: '', reason: b, until: 2027-06-30}]\n",
            "exemptions[0].project: expected a text, got an empty text",
        ),
    ];
    for (text, message) in cases {
        let error = load(text).expect_err(text).to_string();
        let (path, message) = message.split_once(": ").unwrap();
        let has_both = |line: &str| {
            line.starts_with(&format!("  - {path} in ")) && line.contains(&format!(": {message}"))
        };
        assert!(error.lines().any(has_both), "{text}\n{error}\n{message}");
    }
    let all = "exemptions:\n- {key: a}\n- {name: 'a['}\n- x\n";
    let error = load(all).unwrap_err().to_string();
    assert!(
        error.starts_with("invalid configuration (6 errors):\n"),
        "{error}"
    );
}

#[test]
fn empty_lists_of_owners_and_exemptions_are_valid() {
    let config = load("owners: []\nexemptions: []\n").unwrap();
    assert!(config.key_policy.exemptions.is_empty());
}
