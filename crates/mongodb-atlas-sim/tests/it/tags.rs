//! Tags of projects.

use mongodb_atlas_sim::{Effect, Fault, SimConfig, SimEndpoint, SimTag};
use serde_json::{Value, json};

use crate::{LEGACY_VERSION, SimClient, static_config};

async fn get_projects(client: &SimClient, org: &str) -> Vec<Value> {
    let path = format!("orgs/{org}/groups?itemsPerPage=500");
    let page = client.get_as(LEGACY_VERSION, &path).await.json();
    page["results"].as_array().unwrap().clone()
}

fn owners(project: &Value) -> Vec<&Value> {
    let tags = project["tags"].as_array().into_iter().flatten();
    tags.filter(|tag| tag["key"] == "owner")
        .map(|tag| &tag["value"])
        .collect()
}

#[tokio::test]
async fn default_population_has_projects_with_and_without_owner() {
    let client = SimClient::new(&SimConfig::default());
    let mut counts = Vec::new();
    for org in client.sim.org_ids() {
        let projects = get_projects(&client, &org).await;
        let owned: Vec<&Value> = projects.iter().flat_map(owners).collect();
        assert!(owned.len() < projects.len() && owned.len() * 2 > projects.len());
        assert!(
            owned
                .iter()
                .all(|owner| owner.as_str().unwrap().starts_with("team-"))
        );
        let tags = projects.iter().map(|project| project.get("tags"));
        counts.extend(tags.map(|tags| tags.map(|tags| tags.as_array().unwrap().len())));
    }
    for count in [None, Some(0), Some(1), Some(2), Some(3)] {
        assert!(counts.contains(&count), "{count:?} of {counts:?}");
    }
}

#[test]
fn population_of_a_seed_is_independent_of_tags() {
    let client = SimClient::new(&static_config(3, 1200));
    // The ids of this seed before projects had tags.
    let found: Vec<String> = client.sim.with_world(|world| {
        let last_key = |org: String| [world.keys(&org).last().unwrap().id.clone(), org];
        world.org_ids().into_iter().flat_map(last_key).collect()
    });
    assert_eq!(
        found,
        [
            "m5ty2uqu8k0d8mkiczty91o8",
            "48dbbc587dd091a848d07662",
            "15wyfq6v0mzafbyps8hwvtff",
            "c028a129de3a54980543f4f0",
            "ixdi1kag9ry0872e8oj5cgv8",
            "ef024392c2afa5e532a11787",
        ]
    );
}

#[tokio::test]
async fn tags_and_names_set_by_a_test_are_returned() {
    let client = SimClient::new(&static_config(1, 5));
    let project = client
        .sim
        .with_world(|world| world.projects(&client.org)[0].id.clone());
    for (tags, expected) in [
        (None, None),
        (Some(vec![]), Some(json!([]))),
        (
            Some(vec![SimTag::new("a", "1"), SimTag::new("owner", "x")]),
            Some(json!([{"key": "a", "value": "1"}, {"key": "owner", "value": "x"}])),
        ),
    ] {
        let exists = client.sim.with_world(|world| {
            world.update_project(&client.org, &project, |project| {
                "renamed".clone_into(&mut project.name);
                project.tags = tags;
            })
        });
        assert!(exists);
        let projects = get_projects(&client, &client.org).await;
        assert_eq!(projects[0].get("tags"), expected.as_ref());
        assert_eq!(projects[0]["name"], "renamed");
    }
    let exists = client
        .sim
        .with_world(|world| world.update_project(&client.org, "none", |_| {}));
    assert!(!exists);
}

#[tokio::test]
async fn faults_change_the_tags_of_each_project() {
    let client = SimClient::new(&static_config(1, 800));
    let with_fault = async |effect| {
        client.sim.clear_faults();
        client
            .sim
            .add_fault(Fault::new(SimEndpoint::Groups, effect));
        get_projects(&client, &client.org).await
    };
    for project in with_fault(Effect::DuplicateOwnerTag).await {
        assert_eq!(owners(&project), ["team-search", "team-fraud"]);
    }
    for project in with_fault(Effect::LongTagValues).await {
        let owner = owners(&project)[0].as_str().unwrap();
        assert_eq!((owner.chars().count(), owner.len()), (255, 765));
        let key = project["tags"][1]["key"].as_str().unwrap();
        assert_eq!(key.chars().count(), 255);
    }
    for project in with_fault(Effect::ControlCharacterTags).await {
        let owner = owners(&project)[0].as_str().unwrap();
        for character in ['\n', '\u{1b}', '\0', '\u{85}', '\u{202e}', '"', '\\'] {
            assert!(owner.contains(character), "{character:?}");
        }
    }
    let projects = with_fault(Effect::WrongTagTypes).await;
    assert_eq!(projects.len(), 13);
    for project in &projects {
        let valid = owners(project)
            .into_iter()
            .filter(|owner| owner.is_string());
        assert_eq!(valid.count(), 0, "{project}");
    }
    let tags = |test: fn(&Value) -> bool| projects.iter().any(|project| test(&project["tags"]));
    assert!(tags(Value::is_null) && tags(Value::is_string) && tags(Value::is_object));
    assert!(tags(Value::is_boolean) && tags(|tags| tags[0]["value"].is_number()));
}
