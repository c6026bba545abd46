//! GitHub workflows: actions are pinned, permissions are as small as possible, CI runs what developers run, and dependency
//! updates and issue forms are configured.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use exporter_toolkit::yaml::{self, YamlValue};

const WORKFLOWS: [&str; 2] = ["ci.yml", "release.yml"];

/// Every permission to write, as job and scope. All other permissions are `contents: read`.
const WRITE_PERMISSIONS: [(&str, &str); 6] = [
    ("image", "attestations"),
    ("image", "id-token"),
    ("image", "packages"),
    ("publish", "attestations"),
    ("publish", "contents"),
    ("publish", "id-token"),
];

fn repo_path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read_repo_file(path: &str) -> String {
    std::fs::read_to_string(repo_path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn read_yaml(path: &str) -> YamlValue {
    yaml::parse(&read_repo_file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn file_names(folder: &str) -> BTreeSet<String> {
    std::fs::read_dir(repo_path(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Returns the text of a field.
fn text<'a>(value: &'a YamlValue, field: &str) -> Option<&'a str> {
    value.get(field)?.as_str()
}

/// Returns the names and jobs of all workflows.
fn jobs() -> Vec<(String, YamlValue)> {
    let workflows = WORKFLOWS.map(|name| read_yaml(&format!(".github/workflows/{name}")));
    let jobs = workflows
        .iter()
        .flat_map(|workflow| workflow.get("jobs").unwrap().as_mapping().unwrap());
    jobs.cloned().collect()
}

fn steps(job: &YamlValue) -> &[YamlValue] {
    job.get("steps").unwrap().as_sequence().unwrap()
}

#[test]
fn actions_are_pinned_by_commit() {
    let names: BTreeSet<String> = WORKFLOWS.map(str::to_owned).into();
    assert_eq!(file_names(".github/workflows"), names);
    let mut pins = BTreeMap::new();
    for name in WORKFLOWS {
        let workflow = read_repo_file(&format!(".github/workflows/{name}"));
        for line in workflow.lines() {
            let line = line.trim_start().trim_start_matches("- ");
            let Some(action) = line.strip_prefix("uses: ") else {
                continue;
            };
            let (action, pin) = action.split_once('@').unwrap();
            let (commit, version) = pin.split_once(" # v").unwrap_or((pin, ""));
            let is_commit = commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(is_commit, "{name}: {line}: expected a commit");
            assert_eq!(
                version.split('.').count(),
                3,
                "{name}: {line}: expected a version"
            );
            let first = pins.entry(action.to_owned()).or_insert(pin.to_owned());
            assert_eq!(first, pin, "{name}: two versions of {action}");
        }
    }
    assert!(pins.contains_key("actions/checkout"), "{pins:?}");
}

#[test]
fn jobs_have_only_the_permissions_they_need() {
    for name in WORKFLOWS {
        let workflow = read_yaml(&format!(".github/workflows/{name}"));
        let permissions = workflow.get("permissions").unwrap();
        assert_eq!(permissions.as_mapping().map(<[_]>::len), Some(0), "{name}");
        // This event would run the code of a pull request with the permissions of the repository.
        let events = workflow.get("on").unwrap();
        assert!(events.get("pull_request_target").is_none(), "{name}");
    }
    let mut writes = BTreeSet::new();
    for (name, job) in jobs() {
        let permissions = job.get("permissions").unwrap().as_mapping().unwrap();
        for (scope, access) in permissions {
            match access.as_str().unwrap() {
                "read" => assert_eq!(scope, "contents", "{name}"),
                "write" => _ = writes.insert((name.clone(), scope.clone())),
                other => panic!("{name}: {scope}: {other}"),
            }
        }
        assert!(job.get("timeout-minutes").is_some(), "{name}");
    }
    let expected = WRITE_PERMISSIONS.map(|(job, scope)| (job.to_owned(), scope.to_owned()));
    assert_eq!(writes, expected.into());
}

/// An expression in a script is replaced before the shell reads it, so its value could be code.
#[test]
fn steps_keep_credentials_and_values_out_of_scripts() {
    for (name, job) in jobs() {
        for step in steps(&job) {
            let script = text(step, "run").unwrap_or_default();
            assert!(!script.contains("${{"), "{name}: {script}");
            assert!(
                !script.contains("| sh") && !script.contains("| bash"),
                "{name}"
            );
            if text(step, "uses").is_some_and(|action| action.starts_with("actions/checkout@")) {
                let with = step.get("with").unwrap();
                assert_eq!(text(with, "persist-credentials"), Some("false"), "{name}");
            }
        }
    }
}

#[test]
fn workflows_run_targets_of_the_makefile() {
    let makefile = read_repo_file("Makefile");
    let mut targets = BTreeMap::new();
    for (name, job) in jobs() {
        for step in steps(&job) {
            let script = text(step, "run").unwrap_or_default();
            if let Some(target) = script.trim().strip_prefix("make ") {
                let rule = format!("\n{target}:");
                assert!(makefile.contains(&rule), "{name}: {target}");
                targets.insert(name.clone(), target.to_owned());
            }
        }
    }
    let expected = [("build", "release"), ("test", "test")];
    let expected = expected.map(|(job, target)| (job.to_owned(), target.to_owned()));
    assert_eq!(targets, expected.into());
}

#[test]
fn workflows_use_the_documented_rust_versions() {
    let ci = read_yaml(".github/workflows/ci.yml");
    let release = read_yaml(".github/workflows/release.yml");
    let toolchain = |value: &YamlValue| {
        let environment = value.get("env").unwrap();
        text(environment, "TOOLCHAIN").unwrap().to_owned()
    };
    assert_eq!(toolchain(&ci), toolchain(&release));
    let (image_version, _) = toolchain(&ci).rsplit_once('.').map(owned).unwrap();
    let dockerfile = read_repo_file("packages/Dockerfile");
    assert!(dockerfile.contains(&format!("FROM rust:{image_version}-")));
    let oldest = ci.get("jobs").unwrap().get("minimum-version").unwrap();
    assert_eq!(toolchain(oldest), env!("CARGO_PKG_RUST_VERSION"));
}

fn owned((left, right): (&str, &str)) -> (String, String) {
    (left.to_owned(), right.to_owned())
}

#[test]
fn release_publishes_after_all_builds() {
    let release = read_yaml(".github/workflows/release.yml");
    let jobs = release.get("jobs").unwrap();
    let needs = |job: &str| -> Vec<String> {
        match jobs.get(job).unwrap().get("needs").unwrap() {
            YamlValue::Sequence(names) => names
                .iter()
                .map(|it| it.as_str().unwrap().to_owned())
                .collect(),
            other => vec![other.as_str().unwrap().to_owned()],
        }
    };
    assert_eq!(needs("image"), ["build"]);
    assert_eq!(needs("publish"), ["build", "image"]);
    let matrix = jobs
        .get("build")
        .unwrap()
        .get("strategy")
        .unwrap()
        .get("matrix")
        .unwrap();
    let builds = matrix.get("include").unwrap().as_sequence().unwrap();
    let architectures = builds
        .iter()
        .filter_map(|build| text(build, "architecture"));
    assert_eq!(architectures.collect::<Vec<_>>(), ["amd64", "arm64"]);
    let scripts = |job: &str| -> String {
        let steps = steps(jobs.get(job).unwrap()).iter();
        steps.filter_map(|step| text(step, "run")).collect()
    };
    assert!(scripts("image").contains("cosign sign --yes \"$IMAGE\""));
    for part in [
        "sha256sum --check --strict",
        "cosign sign-blob",
        "gh release create",
    ] {
        assert!(scripts("publish").contains(part), "{part}");
    }
}

#[test]
fn dependabot_updates_crates_actions_and_base_images() {
    let config = read_yaml(".github/dependabot.yml");
    let updates = config.get("updates").unwrap().as_sequence().unwrap();
    let mut folders = BTreeSet::new();
    for update in updates {
        let ecosystem = text(update, "package-ecosystem").unwrap();
        let cooldown = update.get("cooldown").unwrap();
        assert_eq!(text(cooldown, "default-days"), Some("7"), "{ecosystem}");
        if ecosystem == "cargo" {
            assert_unicode_tables_are_ignored(update);
        }
        let several = update.get("directories").and_then(YamlValue::as_sequence);
        let several = several.into_iter().flatten().filter_map(YamlValue::as_str);
        for folder in several.chain(text(update, "directory")) {
            folders.insert((ecosystem.to_owned(), folder.to_owned()));
        }
    }
    let expected = [
        ("cargo", "/"),
        ("cargo", "/fuzz"),
        ("docker", "/packages"),
        ("github-actions", "/"),
    ];
    assert_eq!(folders, expected.map(owned).into());
    for path in ["Cargo.lock", "fuzz/Cargo.lock", "packages/Dockerfile"] {
        assert!(repo_path(path).exists(), "{path}");
    }
}

/// An update of the requirement in Cargo.toml would add Unicode tables to the binary.
fn assert_unicode_tables_are_ignored(update: &YamlValue) {
    assert!(read_repo_file("Cargo.toml").contains("\nidna_adapter = \"~1.0\"\n"));
    let ignored = update.get("ignore").unwrap().as_sequence().unwrap();
    let is_adapter = |it: &&YamlValue| text(it, "dependency-name") == Some("idna_adapter");
    let adapter = ignored.iter().find(is_adapter).unwrap();
    let versions = adapter.get("versions").unwrap().as_sequence().unwrap();
    let versions: Vec<_> = versions.iter().map(YamlValue::as_str).collect();
    assert_eq!(versions, [Some(">=1.1")]);
}

#[test]
fn issue_forms_have_unique_field_ids() {
    let forms = file_names(".github/ISSUE_TEMPLATE");
    assert_eq!(forms.len(), 3, "{forms:?}");
    for name in forms.iter().filter(|name| *name != "config.yml") {
        let form = read_yaml(&format!(".github/ISSUE_TEMPLATE/{name}"));
        for field in ["name", "description"] {
            assert!(
                text(&form, field).is_some_and(|it| !it.is_empty()),
                "{name}: {field}"
            );
        }
        let mut ids = BTreeSet::new();
        for field in form.get("body").unwrap().as_sequence().unwrap() {
            if text(field, "type") != Some("markdown") {
                assert!(ids.insert(text(field, "id").unwrap().to_owned()), "{name}");
                let attributes = field.get("attributes").unwrap();
                assert!(text(attributes, "label").is_some(), "{name}");
            }
        }
    }
}
