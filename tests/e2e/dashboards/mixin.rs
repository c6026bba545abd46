//! The shipped dashboards equal the mixin rendered with default parameters. Other parameters change every query and render valid
//! dashboards.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use super::{DASHBOARDS, as_list, dashboard_json, expressions, query_text, repo_root, str_field};
use crate::common::run_command;
use serde_json::Value;

/// Renders the dashboards with these parameters, and returns their JSON by name.
fn render(config: &str) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("jsonnet");
    command
        .arg("-m")
        .arg(folder.path())
        .args(["--tla-code", &format!("config={config}")])
        .arg(repo_root().join("dashboards/mixin/render-dashboards.jsonnet"));
    let (code, output, error) = run_command(&mut command, b"");
    assert_eq!(code, Some(0), "{output}{error}");
    output
        .lines()
        .map(|path| {
            let name = Path::new(path).file_stem().unwrap();
            (
                name.to_str().unwrap().to_owned(),
                std::fs::read_to_string(path).unwrap(),
            )
        })
        .collect()
}

/// Asserts that `promtool` parses all queries.
fn assert_queries_parse(dashboards: &[Value]) {
    let rules: Vec<Value> = dashboards
        .iter()
        .flat_map(expressions)
        .map(|(_, expression)| serde_json::json!({"record": "x", "expr": query_text(&expression)}))
        .collect();
    let text = serde_json::json!({"groups": [{"name": "queries", "rules": rules}]}).to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let mut command = Command::new("promtool");
    command
        .args(["check", "rules", "--lint=none"])
        .arg(file.path());
    let (code, output, error) = run_command(&mut command, b"");
    assert_eq!(code, Some(0), "{output}{error}");
}

#[test]
fn shipped_dashboards_equal_the_rendered_mixin() {
    let rendered = render("{}");
    assert!(rendered.keys().eq(["exporter", "fleet", "report"].iter()));
    for name in DASHBOARDS {
        assert!(
            rendered[name] == dashboard_json(name),
            "dashboards/{name}.json differs from the mixin: run `make dashboards`"
        );
    }
}

/// The dashboards with other parameters, by name, rendered once for all tests.
pub(super) static OTHER_PARAMETERS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    render(
        "{exporterSelector: 'cluster=\"prod\"', dashboardTags: ['a', 'b'], dashboardUidPrefix: 'my-keys', \
          datasourceName: 'Mimir', datasourceFilterRegex: '/Mimir/', dashboardRefresh: '5m', \
          dashboardThreshold: '720h', exporterUrl: 'https://keys.example/x', atlasUrl: 'https://cloud.mongodbgov.com'}",
    )
});

#[test]
fn mixin_parameters_change_every_query_and_link() {
    let mut parsed = Vec::new();
    for (name, text) in &*OTHER_PARAMETERS {
        let dashboard: Value = serde_json::from_str(text).unwrap();
        assert_eq!(str_field(&dashboard, "uid"), format!("my-keys-{name}"));
        assert_eq!(dashboard["tags"], serde_json::json!(["a", "b"]));
        assert!(!text.contains("/d/atlas-ai-keys"), "{name}: {text}");
        assert!(!text.contains("cloud.mongodb.com"), "{name}");
        for (what, expression) in expressions(&dashboard) {
            let selectors = expression.matches('{').count();
            assert!(selectors > 0, "{name}: {what}: {expression}");
            assert_eq!(
                expression.matches("{cluster=\"prod\"").count(),
                selectors,
                "{name}: {what}: {expression}"
            );
        }
        let variables = as_list(&dashboard["templating"]["list"]);
        let variable = |name: &str| variables.iter().find(|it| str_field(it, "name") == name);
        let datasource = variable("datasource").unwrap();
        assert_eq!(datasource["current"]["value"], "Mimir");
        assert_eq!(datasource["regex"], "/Mimir/");
        let page = variable("exporter").unwrap();
        assert_eq!(page["type"], "textbox");
        assert_eq!(page["current"]["value"], "https://keys.example/x");
        if let Some(threshold) = variable("threshold") {
            assert_eq!(threshold["current"]["value"], "30d");
        }
        parsed.push(dashboard);
    }
    assert_queries_parse(&parsed);
}

#[test]
fn idle_times_have_no_fixed_colors() {
    let dashboard: Value = serde_json::from_str(&dashboard_json("fleet")).unwrap();
    let overrides = as_list(&dashboard["panels"])
        .iter()
        .flat_map(|panel| as_list(&panel["fieldConfig"]["overrides"]))
        .filter(|it| it["matcher"]["options"] == "Idle");
    let mut columns = 0;
    for column in overrides {
        columns += usize::from(column.to_string().contains("suffix:days"));
        assert!(!column.to_string().contains("thresholds"), "{column}");
    }
    assert_eq!(columns, 1);
}
