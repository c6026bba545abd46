//! The code blocks of the documents run as they are: commands with a simulated Atlas, configuration files through promtool
//! and systemd-analyze. `dashboards` evaluates the queries.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::documents::{CodeBlock, Runner, code_blocks_of};
use crate::common::pki::{TestPki, bcrypt_hash};
use crate::common::{TestExporter, run_command, sim_env, static_sim};

/// Programs in the commands that do not run here: a script in place of each. `$REPO` is the repository, `$LOG` a log of changes.
const SUBSTITUTES: &[(&str, &str)] = &[
    // The exporter itself. A command that serves is stopped after a second.
    (
        "atlas-ai-keys-exporter",
        r#"case "${1:-}" in "" | --*) exec timeout --preserve-status 1 "$EXPORTER" "$@" ;; esac; exec "$EXPORTER" "$@""#,
    ),
    // The tests are root, or have no right to become root.
    ("sudo", r#"exec "$@""#),
    // The targets exist; this test is one of those that they run.
    (
        "make",
        r#"exec /usr/bin/make --no-print-directory -n -C "$REPO" "$@" >/dev/null"#,
    ),
    // The service is not installed: a log of each kind of change takes the place of its journal.
    (
        "journalctl",
        r#"pattern=.; while [ $# -gt 0 ]; do case $1 in --grep) pattern=$2; shift ;; esac; shift; done; grep -P -- "$pattern" "$LOG" || :"#,
    ),
    // There is no cluster: `exec` runs the exporter here, `logs` prints the log, and files of other commands must exist.
    (
        "kubectl",
        r#"for argument; do case $argument in
             */kubernetes*) [ -e "$argument" ] ;;
             logs) exec cat "$LOG" ;;
             exec) while [ "$1" != -- ]; do shift; done; shift 2; ATLAS_AI_KEYS_EXPORTER_STORAGE_PATH=$STATE exec "$EXPORTER" "$@" ;;
           esac; done"#,
    ),
    // `alerts` renders the files, which takes seconds: here the parameters are checked, and the shipped files are written.
    (
        "jsonnet",
        r#"config={}; while [ $# -gt 1 ]; do case $1 in -m) out=$2; shift ;; --tla-code) config=${2#config=}; shift ;; esac; shift; done
           [ -e "$1" ]; cp "$REPO"/dashboards/rules/*.yml "$out"
           /usr/bin/jsonnet -e "std.isObject((import '$REPO/dashboards/mixin/configured.libsonnet')($config)._config)" >/dev/null"#,
    ),
    // The unit must be one of those in systemd/.
    (
        "systemctl",
        r#"for unit; do case $unit in atlas-*.*) [ -e "$REPO/systemd/$unit" ] ;; atlas-*) [ -e "$REPO/systemd/$unit.service" ] ;; esac; done"#,
    ),
    // The image needs a registry: the file that is built must exist.
    (
        "docker",
        r#"[ "$1" != build ] || { while [ "$1" != -f ]; do shift; done; [ -e "$2" ]; }"#,
    ),
    // The command runs as this user instead of the user of the service.
    (
        "systemd-run",
        r#"while [ "${1#-}" != "$1" ]; do shift; done; exec "$@""#,
    ),
    // `packages` installs the package.
    ("dpkg", ":"),
    // There is no mail server.
    ("mail", "cat >/dev/null"),
    // The Atlas CLI is not a package of Debian; the simulated Atlas does not delete keys.
    (
        "atlas",
        r#"[ "$1 $2" = "api aiModelApiKeys" ] || [ "$1" = auth ]"#,
    ),
];

/// Files that the commands read, relative to the root directory of the commands.
const CREDENTIAL_FILES: [&str; 3] = [
    "etc/atlas-ai-keys-exporter/client-secret",
    "work/client-secret",
    "work/webhook",
];

fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Directories and values for the commands of the documents.
struct Sandbox {
    root: tempfile::TempDir,
    exporter: TestExporter,
    /// Placeholders of the documents, with their values here.
    placeholders: Vec<(&'static str, String)>,
}

impl Sandbox {
    /// Starts an exporter that stores its state in the sandbox, and writes the files that commands expect.
    async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let config = "owners:\n  - projects: ['search-*']\n    owner: team-search\n";
        write(&at("etc/atlas-ai-keys-exporter/config.yml"), config);
        write(&at("etc/atlas-ai-keys-exporter/config/config.yml"), config);
        let variable =
            "ATLAS_AI_KEYS_EXPORTER_CONFIG_FILE=/etc/atlas-ai-keys-exporter/config.yml\n";
        let variable = variable.replace("/etc", &at("etc").display().to_string());
        write(&at("etc/default/atlas-ai-keys-exporter"), &variable);
        // Folders of the system and of node_exporter's package.
        for folder in ["tmp", "var/lib/prometheus/node-exporter"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        let state = at("var/lib/atlas-ai-keys-exporter");
        let flags = [
            format!("--storage.path={}", state.display()),
            format!(
                "--config.file={}",
                at("etc/atlas-ai-keys-exporter/config.yml").display()
            ),
        ];
        let flags = flags.each_ref().map(String::as_str);
        let exporter = TestExporter::start(static_sim(2, 200), &flags).await;
        exporter.wait_polled_with_names().await;
        let secret = exporter.sim.credentials();
        for path in CREDENTIAL_FILES {
            write(&at(path), &secret.client_secret);
        }
        write(&at("work/client-id"), &secret.client_id);
        for folder in ["dashboards", "packages", "docs", "systemd"] {
            std::os::unix::fs::symlink(repo().join(folder), at("work").join(folder)).unwrap();
        }
        for (name, script) in SUBSTITUTES {
            let path = at("bin").join(name);
            write(&path, &format!("#!/bin/sh\nset -eu\n{script}\n"));
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }
        let placeholders = placeholders(&exporter, root.path());
        let sandbox = Self {
            root,
            exporter,
            placeholders,
        };
        sandbox.write_log();
        sandbox
    }

    fn value(&self, name: &str) -> &str {
        let mut all = self.placeholders.iter();
        &all.find(|(known, _)| *known == name).unwrap().1
    }

    /// Writes a log with a change of each kind, in the documented format.
    fn write_log(&self) {
        let (org, project, key) = (self.value("ORG"), self.value("PROJECT"), self.value("KEY"));
        let changes = atlas_ai_keys_exporter::poll::Change::ALL.iter();
        let lines = changes.map(|change| {
            format!(
                "ts=2026-11-26T05:13:38.543Z level=info msg=\"key changed\" org={org} project={project} key={key} change={change} name=a\n"
            )
        });
        write(&self.root.path().join("log"), &lines.collect::<String>());
    }

    /// Returns the commands of a block with values in place of placeholders, and directories of the sandbox in place of those of
    /// the system.
    fn script(&self, block: &CodeBlock) -> String {
        let root = self.root.path().display().to_string();
        let mut text = block.text.clone();
        // The directory of the sandbox can be in /tmp.
        for folder in ["/tmp/", "/etc/", "/var/lib/"] {
            text = text.replace(folder, &format!("{root}{folder}"));
        }
        let address = self.exporter.base_url.replace("http://", "");
        for name in ["localhost:10064", "127.0.0.1:10064"] {
            text = text.replace(name, &address);
        }
        text = text.replace("https://cloud.mongodb.com", &self.exporter.sim.base_url());
        let targets = format!("file://{root}/targets.json");
        text = text.replace("http://localhost:9090/api/v1/targets", &targets);
        for (name, value) in &self.placeholders {
            text = replace_word(&text, name, value);
        }
        text
    }

    /// Runs a block in a shell and returns its exit code and what it wrote.
    fn run(&self, block: &CodeBlock) -> (Option<i32>, String, String) {
        let root = self.root.path();
        let mut command = Command::new("sh");
        command
            .args(["-euc", &self.script(block)])
            .current_dir(root.join("work"))
            .env_clear()
            .envs(sim_env(&self.exporter.sim))
            .env("ATLAS_AI_KEYS_EXPORTER_WEB_LISTEN_ADDRESS", "127.0.0.1:0")
            .env(
                "ATLAS_AI_KEYS_EXPORTER_CONFIG_FILE",
                root.join("etc/atlas-ai-keys-exporter/config.yml"),
            )
            .env("EXPORTER", env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"))
            .env("REPO", repo())
            .env("STATE", root.join("var/lib/atlas-ai-keys-exporter"))
            .env("LOG", root.join("log"))
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", root.join("bin").display()),
            );
        run_command(&mut command, &[])
    }
}

/// Returns the placeholders of the documents with the values of a project that has a key in use.
fn placeholders(exporter: &TestExporter, root: &Path) -> Vec<(&'static str, String)> {
    let orgs = exporter.sim.org_ids();
    let key = exporter
        .sim
        .with_world(|world| world.keys(&orgs[0])[0].clone());
    let address = exporter.base_url.replace("http://", "");
    let targets = format!(
        r#"{{"data": {{"activeTargets": [{{"labels": {{"job": "atlas-ai-keys"}}, "scrapeUrl": "{}/metrics", "health": "up", "lastError": ""}}]}}}}"#,
        exporter.base_url
    );
    write(&root.join("targets.json"), &targets);
    vec![
        ("ORG", orgs[0].clone()),
        ("PROJECT", key.project.clone()),
        ("KEY", key.id.clone()),
        ("INSTANCE", address),
        ("JOB", "atlas-ai-keys".to_owned()),
        ("OUT", root.join("tmp/rules").display().to_string()),
        ("32b6e34b3d91647abb20e7b8", orgs[0].clone()),
        (
            "mdb_sa_id_0123456789abcdef01234567",
            exporter.sim.credentials().client_id,
        ),
    ]
}

/// Replaces `word` where it is not part of a longer word.
fn replace_word(text: &str, word: &str, value: &str) -> String {
    let is_part = |letter: Option<char>| letter.is_some_and(|it| it.is_alphanumeric() || it == '_');
    let mut replaced = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(word) {
        replaced.push_str(before);
        let is_whole = !is_part(replaced.chars().next_back()) && !is_part(after.chars().next());
        replaced.push_str(if is_whole { value } else { word });
        rest = after;
    }
    replaced + rest
}

#[test]
fn placeholders_are_replaced_as_whole_words() {
    let replaced = replace_word("ORG MONGODB_ORG ORG_ID a=ORG", "ORG", "x");
    assert_eq!(replaced, "x MONGODB_ORG ORG_ID a=x");
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_commands_succeed() {
    let sandbox = Sandbox::start().await;
    let mut failures = Vec::new();
    for block in code_blocks_of(Runner::Shell) {
        let (code, output, error) = tokio::task::block_in_place(|| sandbox.run(&block));
        if code != Some(0) {
            let CodeBlock { path, line, .. } = &block;
            failures.push(format!(
                "{path}:{line}: exit code {code:?}: {output}{error}"
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    sandbox.exporter.stop().await.stop().await;
}

#[test]
fn documented_commands_name_existing_files() {
    let mut missing = BTreeSet::new();
    for block in code_blocks_of(Runner::Shell) {
        let words = block
            .text
            .split(|c: char| c.is_whitespace() || "'\"=()".contains(c));
        for word in words {
            let is_in_repo = ["dashboards/", "packages/", "systemd/", "tests/", "docs/"]
                .iter()
                .any(|folder| word.starts_with(folder));
            if is_in_repo && !repo().join(word).exists() {
                missing.insert(format!("{}:{}: {word}", block.path, block.line));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

/// Asserts that `promtool check` accepts the file made from a block.
fn assert_promtool_accepts(subcommand: &str, file: &Path, block: &CodeBlock) {
    let mut command = Command::new("promtool");
    command.args(["check", subcommand]).arg(file);
    let (code, output, error) = run_command(&mut command, &[]);
    assert_eq!(
        code,
        Some(0),
        "{}:{}: {output}{error}",
        block.path,
        block.line
    );
}

#[test]
fn documented_prometheus_configurations_pass_promtool() {
    let dir = tempfile::tempdir().unwrap();
    let rules = repo().join("dashboards/rules").display().to_string();
    for block in code_blocks_of(Runner::PrometheusConfig) {
        let text = block
            .text
            .replace("/usr/share/atlas-ai-keys-exporter/rules", &rules);
        let file = dir.path().join("prometheus.yml");
        write(&file, &text);
        assert_promtool_accepts("config", &file, &block);
    }
}

/// Fields that Debian's promtool does not know, with the indentation of their keys.
const NEWER_FIELDS: [&str; 2] = ["  client_allowed_sans:", "rate_limit:"];

/// Returns a web configuration without the newer fields.
fn without_newer_fields(text: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut removed: Option<usize> = None;
    let mut rest = String::new();
    for line in text.lines() {
        if removed.is_some_and(|depth| indent(line) <= depth) {
            removed = None;
        }
        if NEWER_FIELDS.iter().any(|field| line.starts_with(field)) {
            removed = Some(indent(line));
        }
        if removed.is_none() {
            rest.push_str(line);
            rest.push('\n');
        }
    }
    rest
}

#[test]
fn documented_web_configurations_pass_promtool() {
    let pki = TestPki::new();
    for block in code_blocks_of(Runner::WebConfig) {
        let text = without_newer_fields(&block.text);
        let text = text.replace("$2y$10$…", &bcrypt_hash("password"));
        pki.write("clients-ca.pem", &pki.read("ca.pem"));
        let file: PathBuf = pki.write("web.yml", &text);
        assert_promtool_accepts("web-config", &file, &block);
    }
}

#[test]
fn documented_drop_ins_pass_systemd_analyze() {
    const UNIT: &str = "atlas-ai-keys-report.service";
    let unit = std::fs::read_to_string(repo().join("systemd").join(UNIT)).unwrap();
    let unit = unit
        .replace(
            "/usr/bin/atlas-ai-keys-exporter",
            env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"),
        )
        .replace("Documentation=man:atlas-ai-keys-exporter(1)\n", "");
    for block in code_blocks_of(Runner::DropIn) {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(UNIT), &unit);
        let drop_in = dir.path().join(format!("{UNIT}.d/override.conf"));
        write(&drop_in, &block.text);
        let mut command = Command::new("systemd-analyze");
        command.arg("verify").arg(dir.path().join(UNIT));
        let verified = run_command(&mut command, &[]);
        let expected = (Some(0), String::new(), String::new());
        assert_eq!(verified, expected, "{}:{}", block.path, block.line);
        let lines = block.text.lines();
        let scripts = lines.filter_map(|line| line.strip_prefix("ExecStart=/bin/sh -euc '"));
        for script in scripts {
            let script = script.strip_suffix('\'').unwrap().replace("$$", "$");
            let parsed = run_command(Command::new("sh").args(["-nc", &script]), &[]);
            assert_eq!(parsed, expected, "{}:{}", block.path, block.line);
        }
    }
}
