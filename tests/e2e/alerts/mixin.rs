//! The mixin renders the shipped rule files, and valid rules with other parameters.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use atlas_ai_keys_exporter::metrics::families;
use tempfile::TempDir;

use super::{dashboards_path, file_names, read_file, run, run_successfully};

const RULE_FILES: &[&str] = &[
    "atlas-ai-keys-per-key.yml",
    "atlas-ai-keys.yml",
    "configmap.yml",
    "prometheus-rule.yml",
];

/// Renders the rule files with these parameters (in jsonnet) into a new folder.
fn render(config: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().display().to_string();
    let config = format!("config={config}");
    run_successfully(
        "jsonnet",
        &[
            "-S",
            "-m",
            &target,
            "--tla-code",
            &config,
            "mixin/render.jsonnet",
        ],
    );
    folder
}

fn check_rules(folder: &TempDir) {
    for name in ["atlas-ai-keys.yml", "atlas-ai-keys-per-key.yml"] {
        let path = folder.path().join(name).display().to_string();
        run_successfully("promtool", &["check", "rules", &path]);
    }
}

#[test]
fn shipped_rule_files_match_the_mixin() {
    let rendered = render("{}");
    let expected: BTreeSet<String> = RULE_FILES.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(file_names(rendered.path()), expected);
    let mut shipped = file_names(&dashboards_path("rules"));
    // Not a rule file: the resource of packages/kubernetes/components/operator.
    shipped.remove("kustomization.yaml");
    assert_eq!(shipped, expected);
    for name in RULE_FILES {
        let text = std::fs::read_to_string(rendered.path().join(name)).unwrap();
        assert_eq!(
            text,
            read_file(&format!("rules/{name}")),
            "rules/{name} differs from the mixin: run `make rules`"
        );
    }
    check_rules(&rendered);
}

#[test]
fn mixin_with_a_selector_applies_it_to_every_metric() {
    let rendered = render("{exporterSelector: 'job=\"keys\", cluster=~\"eu.*\"'}");
    check_rules(&rendered);
    for name in ["atlas-ai-keys.yml", "atlas-ai-keys-per-key.yml"] {
        let text = std::fs::read_to_string(rendered.path().join(name)).unwrap();
        let text = text.replace("\\\"", "\"");
        let mut count = 0;
        for family in families::ALL.iter().map(|family| family.name).chain(["up"]) {
            for (at, _) in text.match_indices(family) {
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
                let rest = &text[at + family.len()..];
                if text[..at].ends_with(is_part) || !rest.starts_with(['{', '[', ')', ' ']) {
                    continue;
                }
                let is_metric = family != "up" || rest.starts_with('{');
                let has_selector = rest.starts_with("{job=\"keys\", cluster=~\"eu.*\"");
                assert!(has_selector || !is_metric, "{name}: {family}{rest:.60}");
                count += usize::from(is_metric);
            }
        }
        assert!(count >= 5, "{name}: {count} metrics");
    }
    let default = std::fs::read_to_string(rendered.path().join("atlas-ai-keys.yml")).unwrap();
    assert!(default.contains("absent(job_instance:atlas_ai_keys_exporter_up:known{job=\"keys\""));
}

/// The rule files with other parameters by name, rendered once for all tests.
static OTHER_PARAMETERS: LazyLock<BTreeMap<&str, String>> = LazyLock::new(|| {
    let rendered = render(
        "{
            runbookURLPattern: 'https://runbooks.invalid/a%20b/%s', exporterUrl: 'https://keys.invalid/',
            staleThreshold: '60d', neverUsedThreshold: '2w', disabledThreshold: '24h', tooManyKeys: 7, churnKeys: 8,
            dataStale: { warning: { minimum: '12h' } }, clientSecretDays: { warning: 60 }, perKeyAlerts: true,
            alerts: {
                AtlasAiKeysStale: { severity: 'ticket', 'for': '3d' }, AtlasAiKeysTooMany: null,
                AtlasOrgDataStale: { severity: { critical: 'page' } }, AtlasAiKeysChurn: { keep_firing_for: null },
            },
        }",
    );
    let read = |name| std::fs::read_to_string(rendered.path().join(name)).unwrap();
    RULE_FILES.iter().map(|name| (*name, read(name))).collect()
});

/// Writes the rule files with other parameters into a new folder.
fn write_other_parameters() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in OTHER_PARAMETERS.iter() {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn mixin_with_other_parameters_renders_valid_rules() {
    check_rules(&write_other_parameters());
    let text = &OTHER_PARAMETERS["atlas-ai-keys.yml"];
    for expected in [
        "runbook_url: \"https://runbooks.invalid/a%20b/AtlasAiKeysStale\"",
        "page_url: \"https://keys.invalid/?org={{ $labels.org_id | urlquery }}&q={{ $labels.project_id | urlquery }}\"",
        "keys_idle:max{threshold=\"60d\"}",
        "never_used:max{threshold=\"14d\"}",
        "disabled:max{threshold=\"1d\"}",
        "threshold=~\"14d|1d|60d\"",
        ">= 5184000",
        "severity: \"ticket\"",
        "severity: \"page\"",
        "for: \"3d\"",
        "), 43200))",
        "< 60 >= 7",
        "alert: \"AtlasAiKeyWentQuiet\"",
    ] {
        assert!(text.contains(expected), "{expected}");
    }
    assert!(!text.contains("AtlasAiKeysTooMany") && !text.contains("/usr/share/doc"));
}

#[test]
fn mixin_rejects_invalid_parameters() {
    for (config, expected) in [
        ("{staleThreshold: '90'}", "duration without unit"),
        (
            "{tooManykeys: 7, dataStale: {warning: {min: '1h'}}}",
            "unknown parameters: dataStale.warning.min, tooManykeys",
        ),
        (
            "{alerts: {AtlasAiKeysOld: null, AtlasAiKeysStale: {sevrity: 'info'}}}",
            "unknown parameters: alerts.AtlasAiKeysOld, alerts.AtlasAiKeysStale.sevrity",
        ),
    ] {
        let config = format!("config={config}");
        for file in ["mixin/render.jsonnet", "mixin/render-dashboards.jsonnet"] {
            let is_for_rules = expected.starts_with("duration");
            if is_for_rules && file.ends_with("dashboards.jsonnet") {
                continue;
            }
            let arguments = ["-S", "-m", "/nonexistent", "--tla-code", &config, file];
            let (code, _, error) = run("jsonnet", &arguments);
            assert!(code == Some(1) && error.contains(expected), "{error}");
        }
    }
}

#[test]
fn page_link_is_url_encoded() {
    let rendered = write_other_parameters();
    let test = r#"
rule_files: [atlas-ai-keys.yml]
evaluation_interval: 12h
group_eval_order: [atlas-ai-keys.rules, atlas-ai-keys-keys]
tests:
  - interval: 12h
    input_series:
      - series: 'mongodbatlas_ai_model_api_keys_idle{org_id="o&1", project_id="p 1#", threshold="60d"}'
        values: '1x7'
    alert_rule_test:
      - eval_time: 84h
        alertname: AtlasAiKeysStale
        exp_alerts: []
"#;
    std::fs::write(rendered.path().join("test.yml"), test).unwrap();
    let path = rendered.path().join("test.yml").display().to_string();
    let (code, output, error) = run("promtool", &["test", "rules", &path]);
    let link = "page_url=\"https://keys.invalid/?org=o%261&q=p+1%23\"";
    assert!(
        code == Some(1) && (output + &error).contains(link),
        "{link}"
    );
}
