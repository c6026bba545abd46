//! The tags of projects: a random owner and others, and the faults that concern them.

use serde_json::{Value, json};

use crate::faults::Effect;
use crate::model::{SimProject, SimTag};
use crate::random::rng_from_text;

/// Key of the tag that names the owner of a project.
const OWNER: &str = "owner";

const OWNERS: &[&str] = &[
    "team-search",
    "team-support",
    "team-recommendations",
    "team-platform",
    "team-fraud",
    "team-data",
];
const ENVIRONMENTS: &[&str] = &["prod", "staging", "dev"];

/// Maximum length of a key or a value, in characters.
const MAX_CHARACTERS: usize = 255;

/// Assigns an owner to most projects of an organization. The others (at least one) have no field `tags`, no tags, or only
/// other tags.
pub(crate) fn assign_tags(projects: &mut [SimProject], org: &str) {
    // The separate random generator makes the keys and events of a seed independent of the tags.
    let mut rng = rng_from_text(org);
    let owner_count = rng.usize(2..=4);
    let owners = rng.choose_multiple(OWNERS, owner_count);
    let mut order: Vec<usize> = (0..projects.len()).collect();
    rng.shuffle(&mut order);
    let unowned = projects.len().div_ceil(4);
    let first_kind = rng.usize(0..3);
    for (position, index) in order.into_iter().enumerate() {
        let mut tags = other_tags(&mut rng);
        if position >= unowned {
            let owner = owners.get(position % owner_count).copied();
            let place = rng.usize(0..=tags.len());
            tags.insert(place, SimTag::new(OWNER, owner.unwrap_or(&"team")));
        }
        let tags = match (first_kind + position) % 3 {
            0 if position < unowned => None,
            1 if position < unowned => Some(Vec::new()),
            _ => Some(tags),
        };
        if let Some(project) = projects.get_mut(index) {
            project.tags = tags;
        }
    }
}

fn other_tags(rng: &mut fastrand::Rng) -> Vec<SimTag> {
    let environment = rng.choice(ENVIRONMENTS).copied().unwrap_or("dev");
    let mut tags = vec![SimTag::new("env", environment)];
    if rng.bool() {
        let number = rng.u16(1000..10_000).to_string();
        tags.push(SimTag::new("cost-center", &number));
    }
    tags
}

/// Applies faults to the tags of the project at `index` of a page.
pub(crate) fn apply_tag_faults(project: &mut Value, index: usize, effects: &[Effect]) {
    for effect in effects {
        let tags = match effect {
            Effect::WrongTagTypes => wrong_tag_types(index),
            Effect::DuplicateOwnerTag => json!([
                SimTag::new(OWNER, "team-search"),
                SimTag::new("env", "prod"),
                SimTag::new(OWNER, "team-fraud"),
            ]),
            // The characters have three bytes each, so that a limit in bytes has another effect.
            Effect::LongTagValues => json!([
                SimTag::new(OWNER, &"界".repeat(MAX_CHARACTERS)),
                SimTag::new(&"k".repeat(MAX_CHARACTERS), &"v".repeat(MAX_CHARACTERS)),
            ]),
            Effect::ControlCharacterTags => json!([
                SimTag::new(
                    OWNER,
                    "team\u{1b}[31m\n\"search\"\\\u{0}\u{7f}\u{85}\u{202e}|<b>"
                ),
                SimTag::new("env\r\n", "\t"),
            ]),
            _ => continue,
        };
        if let Some(fields) = project.as_object_mut() {
            fields.insert("tags".to_owned(), tags);
        }
    }
}

fn wrong_tag_types(index: usize) -> Value {
    let mut kinds = vec![
        json!([null, 7, OWNER, [OWNER, "x"], {"key": OWNER, "value": ["x"]}, {"key": "env", "value": "prod"}]),
        json!([{"key": OWNER, "value": 7}]),
        json!([{"key": OWNER, "value": null}]),
        json!([{"key": OWNER}, {"value": "team-search"}]),
        json!([{"key": [OWNER], "value": "team-search"}]),
        json!({OWNER: "team-search"}),
        json!("team-search"),
        json!(null),
        json!(true),
    ];
    kinds.swap_remove(index % kinds.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::Timestamp;

    use super::*;

    fn tagged_projects(count: usize, org: &str) -> Vec<SimProject> {
        let project = SimProject {
            id: String::new(),
            name: String::new(),
            created: Timestamp::UNIX_EPOCH,
            tags: None,
        };
        let mut projects = vec![project; count];
        assign_tags(&mut projects, org);
        projects
    }

    fn owner(project: &SimProject) -> Option<&str> {
        let mut tags = project.tags.iter().flatten();
        tags.find(|tag| tag.key == OWNER)
            .map(|tag| tag.value.as_str())
    }

    #[test]
    fn most_projects_have_one_of_a_few_owners() {
        for org in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            for count in [1, 2, 3, 5, 10, 40] {
                let projects = tagged_projects(count, org);
                let owners: Vec<&str> = projects.iter().filter_map(owner).collect();
                assert!(owners.len() < count, "one project has no owner");
                assert_eq!(owners.len(), count - count.div_ceil(4));
                let teams = BTreeSet::from_iter(owners).len();
                let expected = if count < 5 { 0..=2 } else { 2..=4 };
                assert!(expected.contains(&teams), "{teams} of {count} in {org}");
            }
        }
    }

    #[test]
    fn organization_determines_the_tags() {
        assert_eq!(tagged_projects(40, "a"), tagged_projects(40, "a"));
        assert_ne!(tagged_projects(40, "a"), tagged_projects(40, "b"));
    }

    #[test]
    fn projects_without_owner_have_no_field_or_no_tags_or_other_tags() {
        let projects = tagged_projects(40, "a");
        let unowned: Vec<&SimProject> = projects.iter().filter(|p| owner(p).is_none()).collect();
        let has = |test: fn(Option<usize>) -> bool| {
            let mut counts = unowned.iter().map(|p| p.tags.as_ref().map(Vec::len));
            counts.any(test)
        };
        assert!(has(|count| count.is_none()));
        assert!(has(|count| count == Some(0)));
        assert!(has(|count| count > Some(0)));
        let counts = projects.iter().flat_map(|p| &p.tags).map(Vec::len);
        assert_eq!(counts.max(), Some(3));
    }
}
