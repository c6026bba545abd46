//! Dashboards match Grafana's schema and do not overlap, and every query
//! returns data from a Prometheus that scrapes the exporter. Every name in dashboards, rules,
//! runbooks and documents exists in an actual exposition.

mod queries;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::common::run_command;
use serde_json::Value;

const DASHBOARDS: [&str; 2] = ["fleet", "exporter"];

fn repo_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read_repo_file(path: &str) -> String {
    std::fs::read_to_string(repo_root().join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn load_dashboard(name: &str) -> Value {
    serde_json::from_str(&read_repo_file(&format!("dashboards/{name}.json"))).unwrap()
}

fn as_list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn str_field<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

/// Returns all queries of a dashboard, with their panel or variable.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    assert!(!as_list(&dashboard["templating"]["list"]).is_empty());
    for panel in as_list(&dashboard["panels"]) {
        for target in as_list(&panel["targets"]) {
            all.push((
                str_field(panel, "title").to_owned(),
                str_field(target, "expr").to_owned(),
            ));
        }
    }
    for variable in as_list(&dashboard["templating"]["list"]) {
        let query = str_field(&variable["query"], "query");
        let inner = query
            .split_once('(')
            .and_then(|(_, rest)| rest.rsplit_once(')'));
        if let Some((inner, _)) = inner {
            let expression = if query.starts_with("label_values") {
                inner.rsplit_once(", ").unwrap().0
            } else {
                inner
            };
            all.push((
                format!("variable {}", str_field(variable, "name")),
                expression.to_owned(),
            ));
        }
    }
    assert!(all.len() > 10, "{all:?}");
    all
}

/// Returns a query as Grafana sends it with all values selected.
fn query_text(expression: &str) -> String {
    let mut text = expression.to_owned();
    for variable in ["$job", "$org", "$project"] {
        text = text.replace(variable, ".*");
    }
    text
}

#[test]
fn dashboards_match_the_grafana_schema() {
    let modules = repo_root().join("target/node/node_modules");
    let dir = tempfile::tempdir().unwrap();
    let schema = "import type { Dashboard } from '@grafana/schema';\n\
        // in JSON an enum is the text of its value\n\
        type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;\n\
        export type Json = Plain<Dashboard>;\n";
    std::fs::write(dir.path().join("schema.ts"), schema).unwrap();
    for name in DASHBOARDS {
        let json = read_repo_file(&format!("dashboards/{name}.json"));
        let text = format!(
            "import type {{ Json }} from './schema';\nexport const dashboard: Json = {json};\n"
        );
        std::fs::write(dir.path().join(format!("{name}.ts")), text).unwrap();
    }
    std::os::unix::fs::symlink(&modules, dir.path().join("node_modules")).unwrap();
    let compiler = modules.join(".bin/tsc");
    let mut command = Command::new(&compiler);
    command
        .args([
            "--noEmit",
            "--strict",
            "--skipLibCheck",
            "--module",
            "esnext",
            "--moduleResolution",
            "bundler",
            "--target",
            "es2022",
        ])
        .args(DASHBOARDS.map(|name| format!("{name}.ts")))
        .current_dir(dir.path());
    let (code, output, error) = run_command(&mut command, b"");
    assert_eq!(code, Some(0), "{output}{error}");
    let schema =
        std::fs::read_dir(modules.join("@grafana/schema/dist/esm/raw/dashboard/x")).unwrap();
    let version = schema
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok())
        .find_map(|text| {
            Some(
                text.split_once("schemaVersion: ")?
                    .1
                    .split_once(',')?
                    .0
                    .to_owned(),
            )
        })
        .expect("the version of the schema");
    for name in DASHBOARDS {
        assert_eq!(
            load_dashboard(name)["schemaVersion"].to_string(),
            version,
            "{name}"
        );
    }
}

#[test]
fn panels_do_not_overlap_and_have_descriptions() {
    let mut uids = BTreeSet::new();
    for name in DASHBOARDS {
        let dashboard = load_dashboard(name);
        assert!(
            uids.insert(str_field(&dashboard, "uid").to_owned()),
            "{name}: a unique uid"
        );
        assert!(
            dashboard.get("id").is_none_or(Value::is_null),
            "{name}: no absolute id"
        );
        let variables: BTreeSet<&str> = as_list(&dashboard["templating"]["list"])
            .iter()
            .map(|variable| str_field(variable, "name"))
            .collect();
        for variable in ["datasource", "job", "org"] {
            assert!(variables.contains(variable), "{name}: {variable}");
        }
        let mut taken = BTreeMap::new();
        let mut ids = BTreeSet::new();
        let mut lowest = 0;
        let panels = as_list(&dashboard["panels"]).len();
        assert!(panels > 8, "{name}: {panels} panels");
        for panel in as_list(&dashboard["panels"]) {
            let title = str_field(panel, "title");
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "{name}: {title}: its number"
            );
            assert!(
                str_field(panel, "description").len() > 30,
                "{name}: {title}: what to do"
            );
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(
                !str_field(defaults, "unit").is_empty(),
                "{name}: {title}: a unit"
            );
            assert!(
                !as_list(&defaults["thresholds"]["steps"]).is_empty(),
                "{name}: {title}: thresholds"
            );
            assert_eq!(
                str_field(&panel["datasource"], "uid"),
                "${datasource}",
                "{name}: {title}"
            );
            let targets = as_list(&panel["targets"]);
            assert!(!targets.is_empty(), "{name}: {title}: queries");
            assert!(
                targets
                    .iter()
                    .all(|target| str_field(&target["datasource"], "uid") == "${datasource}")
            );
            let [x, y, w, h] =
                ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            assert!(
                w > 0 && h > 0 && x + w <= 24,
                "{name}: {title} is on the grid"
            );
            for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                if let Some(other) = taken.insert(place, title) {
                    panic!("{name}: {title} lies over {other}");
                }
            }
            lowest = lowest.max(y + h);
        }
        // A row has 38 pixels.
        assert!(lowest <= 34, "{name}: {lowest} rows are no screen");
        let other = DASHBOARDS.iter().find(|other| **other != name).unwrap();
        let links = dashboard["links"].to_string();
        assert!(
            links.contains(&format!("/d/{}", str_field(&load_dashboard(other), "uid"))),
            "{name} leads to {other}"
        );
        assert!(
            dashboard
                .to_string()
                .contains("${exporter}/-/docs/runbooks/"),
            "{name} leads to the runbooks"
        );
    }
}
