//! Dashboards match Grafana's schema and equal the rendered mixin, and panels do not overlap. Every query returns data from a
//! Prometheus that scrapes the exporter. Every name in dashboards, rules, runbooks and documents exists in an actual exposition.

mod mixin;
mod numbers;
mod panels;
mod queries;

use std::path::Path;
use std::process::Command;

use crate::common::run_command;
use serde_json::Value;

const DASHBOARDS: [&str; 3] = ["fleet", "exporter", "report"];

fn repo_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read_repo_file(path: &str) -> String {
    std::fs::read_to_string(repo_root().join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn dashboard_json(name: &str) -> String {
    read_repo_file(&format!("dashboards/{name}.json"))
}

fn load_dashboard(name: &str) -> Value {
    serde_json::from_str(&dashboard_json(name)).unwrap()
}

fn as_list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn str_field<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// Returns all panels of all dashboards, each with the names of its dashboard and panel.
fn all_panels() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for name in DASHBOARDS {
        for panel in as_list(&load_dashboard(name)["panels"]) {
            all.push((
                format!("{name}: {}", str_field(panel, "title")),
                panel.clone(),
            ));
        }
    }
    all
}

/// Returns all queries of a dashboard, each with the name of its panel or variable.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
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

/// Returns a query as Grafana sends it when all values are selected.
fn query_text(expression: &str) -> String {
    query_text_with(expression, "owner", ".*")
}

/// Returns a query as Grafana sends it when one value of a variable and all values of the others are selected.
fn query_text_with(expression: &str, variable: &str, value: &str) -> String {
    let mut text = expression.replace(&format!("${variable}"), value);
    for (name, value) in [
        ("$job", ".*"),
        ("$instance", ".*"),
        ("$org", ".*"),
        ("$owner", ".*"),
        ("$project", ".*"),
        ("$threshold", "90d"),
        ("$__range", "1h"),
        ("$__rate_interval", "5m"),
        ("$__interval", "1h"),
    ] {
        text = text.replace(name, value);
    }
    text
}

/// Asserts that each dashboard has the type `Dashboard` of Grafana's schema.
fn assert_grafana_schema(dashboards: &[(String, String)]) {
    let modules = repo_root().join("target/node/node_modules");
    let dir = tempfile::tempdir().unwrap();
    let schema = "import type { Dashboard } from '@grafana/schema';\n\
        // In JSON, an enum is the text of its value.\n\
        type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;\n\
        export type Json = Plain<Dashboard>;\n";
    std::fs::write(dir.path().join("schema.ts"), schema).unwrap();
    for (name, json) in dashboards {
        let text = format!(
            "import type {{ Json }} from './schema';\nexport const dashboard: Json = {json};\n"
        );
        std::fs::write(dir.path().join(format!("{name}.ts")), text).unwrap();
    }
    std::os::unix::fs::symlink(&modules, dir.path().join("node_modules")).unwrap();
    let mut command = Command::new(modules.join(".bin/tsc"));
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
        .args(dashboards.iter().map(|(name, _)| format!("{name}.ts")))
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
        .expect("a schema version");
    for (name, json) in dashboards {
        let dashboard: Value = serde_json::from_str(json).unwrap();
        assert_eq!(dashboard["schemaVersion"].to_string(), version, "{name}");
    }
}

/// One run of the TypeScript compiler checks all dashboards, because loading the schema takes most of its time.
#[test]
fn dashboards_match_the_grafana_schema() {
    let shipped = DASHBOARDS.map(|name| (name.to_owned(), dashboard_json(name)));
    let mut all = Vec::from(shipped);
    let others = mixin::OTHER_PARAMETERS.iter();
    all.extend(others.map(|(name, json)| (format!("{name}-other"), json.clone())));
    assert_eq!(all.len(), 2 * DASHBOARDS.len());
    assert_grafana_schema(&all);
}
