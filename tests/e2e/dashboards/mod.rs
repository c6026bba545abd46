//! Dashboards match Grafana's schema, are rendered from the mixin, and do not overlap; every query
//! returns data from a Prometheus that scrapes the exporter. Every name in dashboards, rules,
//! runbooks and documents exists in an actual exposition.

mod mixin;
mod numbers;
mod queries;

use std::collections::{BTreeMap, BTreeSet};
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

fn str_field<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

/// Returns all panels of all dashboards, each with a text that names it.
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

/// Returns all queries of a dashboard, with their panel or variable.
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

/// Returns a query as Grafana sends it with all values selected.
fn query_text(expression: &str) -> String {
    query_text_with(expression, "owner", ".*")
}

/// Returns a query as Grafana sends it with one value of a variable selected, and all values of
/// the others.
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

/// Asserts that each dashboard has the type `Dashboard` of Grafana's own schema.
fn assert_grafana_schema(dashboards: &[(&str, String)]) {
    let modules = repo_root().join("target/node/node_modules");
    let dir = tempfile::tempdir().unwrap();
    let schema = "import type { Dashboard } from '@grafana/schema';\n\
        // in JSON an enum is the text of its value\n\
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
        .expect("the version of the schema");
    for (name, json) in dashboards {
        let dashboard: Value = serde_json::from_str(json).unwrap();
        assert_eq!(dashboard["schemaVersion"].to_string(), version, "{name}");
    }
}

#[test]
fn dashboards_match_the_grafana_schema() {
    assert_grafana_schema(&DASHBOARDS.map(|name| (name, dashboard_json(name))));
}

/// Asserts that panels are on the grid, apart, and at most a long screen high.
fn assert_layout(name: &str, dashboard: &Value) {
    let mut taken = BTreeMap::new();
    let mut lowest = 0;
    for panel in as_list(&dashboard["panels"]) {
        let title = str_field(panel, "title");
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
    assert_eq!(
        taken.len() as u64,
        lowest * 24,
        "{name}: gaps between panels"
    );
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
        let mut ids = BTreeSet::new();
        for panel in as_list(&dashboard["panels"]) {
            let title = str_field(panel, "title");
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "{name}: {title}: its number"
            );
            let description = str_field(panel, "description");
            assert!(
                description.len() > 30 && description.ends_with('.'),
                "{name}: {title}: meaning and what to do"
            );
            assert!(
                !as_list(&panel["fieldConfig"]["defaults"]["thresholds"]["steps"]).is_empty(),
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
        }
        assert_layout(name, &dashboard);
        let links = dashboard["links"].to_string();
        for other in DASHBOARDS.iter().filter(|other| **other != name) {
            assert!(
                links.contains(&format!("/d/{}", str_field(&load_dashboard(other), "uid"))),
                "{name} leads to {other}"
            );
        }
    }
}

/// Every panel has data at all times, or a sentence in its place: none says "No data" when all is
/// well.
#[test]
fn empty_panels_show_a_zero_or_a_sentence() {
    for (what, panel) in all_panels() {
        let zero = as_list(&panel["targets"])
            .iter()
            .all(|target| str_field(target, "expr").ends_with(" or vector(0)"));
        let text = str_field(&panel["fieldConfig"]["defaults"], "noValue");
        assert_ne!(zero, !text.is_empty(), "{what}: {text:?}");
        // A number has room for a word, a larger panel for a sentence.
        assert_eq!(
            !zero && panel["type"] != "stat",
            text.ends_with(['.', ')']),
            "{what}: {text:?}"
        );
    }
}

/// 1,200 keys, not 1.20 K: counts have the unit that Grafana writes with separators.
#[test]
fn counts_are_whole_numbers() {
    let mut counts = 0;
    for (what, panel) in all_panels() {
        let defaults = &panel["fieldConfig"]["defaults"];
        let unit = str_field(defaults, "unit");
        let is_count = unit == "locale";
        assert!(
            is_count || ["s", "percentunit", "bytes", "reqps", "suffix:days"].contains(&unit),
            "{what}: {unit}"
        );
        if is_count {
            assert_eq!(defaults["decimals"], 0, "{what}");
            counts += 1;
        }
    }
    assert!(counts > 20, "{counts} panels of counts");
}

/// Returns the column titles and the properties that overrides give them.
fn column_overrides(panel: &Value) -> BTreeMap<String, BTreeMap<String, Value>> {
    as_list(&panel["fieldConfig"]["overrides"])
        .iter()
        .map(|rule| {
            let properties = as_list(&rule["properties"]).iter();
            (
                str_field(&rule["matcher"], "options").to_owned(),
                properties
                    .map(|property| {
                        (
                            str_field(property, "id").to_owned(),
                            property["value"].clone(),
                        )
                    })
                    .collect(),
            )
        })
        .collect()
}

/// Grafana up to 12.1 knows `custom.hidden` alone, later versions `custom.hideFrom.viz`. Fields that
/// no link reads are removed by a transformation, which every version knows.
#[test]
fn table_columns_are_hidden_in_grafana_10_to_13() {
    let mut hidden = 0;
    for (what, panel) in all_panels() {
        if panel["type"] != "table" {
            continue;
        }
        let transformations = as_list(&panel["transformations"]);
        let ids: Vec<_> = transformations.iter().map(|it| &it["id"]).collect();
        assert_eq!(ids, ["merge", "organize"], "{what}");
        let organize = &transformations[1]["options"];
        assert_eq!(organize["excludeByName"]["Time"], true, "{what}");
        // An option of Grafana 12, which older versions ignore.
        assert!(organize["includeByName"].is_null(), "{what}");
        let shown = organize["renameByName"].as_object().unwrap();
        let links = panel["fieldConfig"]["overrides"].to_string();
        for (title, properties) in column_overrides(&panel) {
            let is_hidden = properties.get("custom.hidden") == Some(&Value::Bool(true));
            assert_eq!(
                is_hidden,
                properties.get("custom.hideFrom.viz") == Some(&Value::Bool(true)),
                "{what}: {title}"
            );
            assert!(
                !properties.contains_key("custom.hideFrom"),
                "{what}: {title}"
            );
            assert!(
                title == ".*" || shown.values().any(|it| *it == *title),
                "{what}: no column {title}"
            );
            hidden += usize::from(is_hidden);
        }
        for field in links.split("__data.fields.").skip(1) {
            let field = field.split('}').next().unwrap();
            assert!(shown.contains_key(field), "{what}: a link reads {field}");
        }
    }
    assert!(hidden > 5, "{hidden} hidden columns");
}

#[test]
fn links_lead_to_atlas_to_the_page_and_to_runbooks() {
    let idle = all_panels()
        .into_iter()
        .find(|(what, _)| what == "fleet: Most idle keys")
        .unwrap()
        .1;
    let columns = column_overrides(&idle);
    for title in [
        "Key",
        "Key id",
        "Owner",
        "Project",
        "Organization",
        "Last used",
        "Idle",
    ] {
        assert!(columns.contains_key(title), "{title}: {columns:?}");
    }
    let urls = columns["Key id"]["links"].to_string();
    for url in [
        "https://cloud.mongodb.com/v2/${__data.fields.project_id}\"",
        "${exporter}/?q=${__data.fields.api_key_id}#keys\"",
    ] {
        assert!(urls.contains(url), "{urls}");
    }
    let mut runbooks = BTreeSet::new();
    for name in DASHBOARDS {
        let text = dashboard_json(name);
        let names = text.split("/-/docs/runbooks/").skip(1);
        runbooks.extend(names.map(|rest| rest.split('"').next().unwrap().to_owned()));
    }
    assert!(runbooks.len() > 8, "{runbooks:?}");
    for runbook in runbooks {
        read_repo_file(&format!("dashboards/runbooks/{runbook}.md"));
    }
}

/// Returns the names after each `$` or `${` of a text.
fn variable_names(text: &str) -> BTreeSet<String> {
    text.split('$')
        .skip(1)
        .map(|rest| {
            rest.trim_start_matches('{')
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect::<String>()
        })
        .filter(|name| !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()))
        .collect()
}

#[test]
fn dashboards_use_the_variables_that_they_define() {
    for name in DASHBOARDS {
        let dashboard = load_dashboard(name);
        let defined: BTreeSet<String> = as_list(&dashboard["templating"]["list"])
            .iter()
            .map(|variable| str_field(variable, "name").to_owned())
            .collect();
        let mut used = variable_names(&dashboard_json(name));
        used.retain(|name| !name.starts_with("__"));
        assert_eq!(used, defined, "{name}");
        for (what, expression) in expressions(&dashboard) {
            let used = variable_names(&expression);
            if what != "variable job" && what != "variable instance" && what != "variable exporter"
            {
                assert!(
                    used.contains("job") && used.contains("instance"),
                    "{name}: {what}: {expression}"
                );
            }
            assert!(
                !expression.contains("threshold=\"3") && !expression.contains("threshold=\"9"),
                "{name}: {what}: thresholds are those of the exporter: {expression}"
            );
        }
    }
}

#[test]
fn words_are_those_of_the_page() {
    let titles: BTreeSet<String> = all_panels()
        .iter()
        .flat_map(|(_, panel)| {
            let columns = panel["transformations"][1]["options"]["renameByName"].clone();
            let columns = columns.as_object().cloned().unwrap_or_default();
            let columns = columns.into_iter().map(|(_, title)| title);
            let columns: Vec<_> = columns.map(|it| it.as_str().unwrap().to_owned()).collect();
            columns
                .into_iter()
                .chain([str_field(panel, "title").to_owned()])
        })
        .collect();
    let page = read_repo_file("src/web/ui/page.html") + &read_repo_file("src/web/ui/query.rs");
    for word in [
        "Data age",
        "Never used",
        "Disabled",
        "Exempt",
        "Owner",
        "Project",
        "Keys",
        "Created",
        "Last used",
        "Idle",
    ] {
        assert!(
            page.contains(&format!(">{word}<")) || page.contains(&format!("\"{word}\"")),
            "the page has {word}"
        );
        assert!(titles.contains(word), "{word}: {titles:?}");
    }
    // Legends of percentiles, and no word that was retired.
    let legends: Vec<String> = all_panels()
        .iter()
        .flat_map(|(_, panel)| as_list(&panel["targets"]).to_vec())
        .map(|target| str_field(&target, "legendFormat").to_owned())
        .collect();
    for legend in ["p50", "p95"] {
        assert!(legends.iter().any(|it| it == legend), "{legend}");
    }
    for name in DASHBOARDS {
        let text = dashboard_json(name).to_lowercase();
        for retired in ["truth", "walk", "budget", "nobody has", "not told"] {
            let found = text.replace("atlasrequestbudgettoosmall", "");
            assert!(!found.contains(retired), "{name}: {retired}");
        }
    }
}
