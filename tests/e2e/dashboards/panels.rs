//! Panels have a position, a description, a unit and a text for the case without data. Tables hide columns in all versions of
//! Grafana. Links and variables exist, and titles use the words of the page.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    DASHBOARDS, all_panels, as_list, dashboard_json, expressions, load_dashboard, read_repo_file,
    str_field,
};
use serde_json::Value;

/// Asserts that panels are on the grid and do not overlap, and that the dashboard is not too high.
fn assert_layout(name: &str, dashboard: &Value) {
    let mut taken = BTreeMap::new();
    let mut lowest = 0;
    for panel in as_list(&dashboard["panels"]) {
        let title = str_field(panel, "title");
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(
            w > 0 && h > 0 && x + w <= 24,
            "{name}: {title} is not on the grid"
        );
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            if let Some(other) = taken.insert(place, title) {
                panic!("{name}: {title} overlaps {other}");
            }
        }
        lowest = lowest.max(y + h);
    }
    // One row has 38 pixels.
    assert!(lowest <= 34, "{name}: {lowest} rows do not fit on a screen");
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
            "{name}: duplicate uid"
        );
        assert!(
            dashboard.get("id").is_none_or(Value::is_null),
            "{name}: the dashboard has an id"
        );
        let mut ids = BTreeSet::new();
        for panel in as_list(&dashboard["panels"]) {
            let title = str_field(panel, "title");
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "{name}: {title}: duplicate id"
            );
            let description = str_field(panel, "description");
            assert!(
                description.len() > 30 && description.ends_with('.'),
                "{name}: {title}: invalid description {description:?}"
            );
            assert!(
                !as_list(&panel["fieldConfig"]["defaults"]["thresholds"]["steps"]).is_empty(),
                "{name}: {title}: no thresholds"
            );
            assert_eq!(
                str_field(&panel["datasource"], "uid"),
                "${datasource}",
                "{name}: {title}"
            );
            let targets = as_list(&panel["targets"]);
            assert!(!targets.is_empty(), "{name}: {title}: no queries");
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
                "{name}: no link to {other}"
            );
        }
    }
}

/// Every panel always has data, or shows a sentence instead. Without problems, no panel shows "No data".
#[test]
fn empty_panels_show_a_zero_or_a_sentence() {
    for (what, panel) in all_panels() {
        let zero = as_list(&panel["targets"])
            .iter()
            .all(|target| str_field(target, "expr").ends_with(" or vector(0)"));
        let text = str_field(&panel["fieldConfig"]["defaults"], "noValue");
        assert_ne!(zero, !text.is_empty(), "{what}: {text:?}");
        // A panel with one number has room for a word, a larger panel for a sentence.
        assert_eq!(
            !zero && panel["type"] != "stat",
            text.ends_with(['.', ')']),
            "{what}: {text:?}"
        );
    }
}

/// Counts have the unit that Grafana displays with separators: 1,200 keys, not 1.20 K.
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

/// Returns the column titles, each with the properties of its overrides.
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

/// Grafana up to 12.1 supports `custom.hidden`, later versions `custom.hideFrom.viz`. A transformation, which every version
/// supports, removes fields that no link reads.
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
        // Older versions ignore this option of Grafana 12.
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
                "{what}: unknown column {title}"
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
fn links_open_atlas_the_page_and_runbooks() {
    let idle = all_panels()
        .into_iter()
        .find(|(what, _)| what == "fleet: Longest-idle keys")
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

/// Returns the name after each `$` or `${` in a text.
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
                "{name}: {what}: fixed threshold: {expression}"
            );
        }
    }
}

#[test]
fn panels_with_the_same_query_have_the_same_title() {
    let mut titles: BTreeMap<String, String> = BTreeMap::new();
    for (_, panel) in all_panels() {
        let title = str_field(&panel, "title");
        let query = format!("{} {}", str_field(&panel, "type"), panel["targets"]);
        let first = titles.entry(query).or_insert_with(|| title.to_owned());
        assert_eq!(first, title);
    }
}

#[test]
fn titles_use_the_words_of_the_page() {
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
            "{word} is not on the page"
        );
        assert!(titles.contains(word), "{word}: {titles:?}");
    }
    // Percentiles have standard legends, and no retired word is used.
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
