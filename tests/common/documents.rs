//! The code blocks of the documents, and how the tests run each of them.

use std::path::Path;

/// Documents with code blocks that run as they are.
const FILES: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "dashboards/README.md",
    "dashboards/mixin/README.md",
];

/// Folders of such documents.
const FOLDERS: &[&str] = &["docs", "dashboards/runbooks"];

/// Languages that no program of the tests can run, with the reason.
const LANGUAGES_NOT_RUN: &[(&str, &str)] = &[
    ("text", "output of a program, not input"),
    (
        "logql",
        "Debian has no package of Loki; `audit_log` compares the fields with the reference",
    ),
    ("hcl", "Debian has no package of Terraform"),
];

/// Blocks with the marker `no-run`: document, part of the block, reason.
const BLOCKS_NOT_RUN: &[(&str, &str, &str)] = &[
    (
        "docs/install.md",
        "terraform output",
        "Debian has no package of Terraform",
    ),
    (
        "docs/install.md",
        "terraform apply",
        "Debian has no package of Terraform",
    ),
    (
        "docs/install.md",
        "skopeo copy",
        "needs a container engine and a registry; `release_files` builds the archive",
    ),
    (
        "docs/audit-log.md",
        "journal:",
        "Debian has no package of Promtail; `audit_log` parses the block",
    ),
    (
        "docs/audit-log.md",
        "AtlasAiKeyDeleted",
        "rule of Loki; `audit_log` parses the block",
    ),
];

/// The first key of a YAML block determines its format.
const YAML_FORMATS: &[(&str, Runner)] = &[
    ("credentials", Runner::ExporterConfig),
    ("atlas", Runner::ExporterConfig),
    ("storage", Runner::ExporterConfig),
    ("metrics", Runner::ExporterConfig),
    ("web", Runner::ExporterConfig),
    ("log", Runner::ExporterConfig),
    ("owners", Runner::ExporterConfig),
    ("exemptions", Runner::ExporterConfig),
    ("tls_server_config", Runner::WebConfig),
    ("http_server_config", Runner::WebConfig),
    ("basic_auth_users", Runner::WebConfig),
    ("rate_limit", Runner::WebConfig),
    ("scrape_configs", Runner::PrometheusConfig),
    ("rule_files", Runner::PrometheusConfig),
    ("apiVersion", Runner::Manifest),
];

/// How a code block is tested.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Runner {
    /// `check --offline` validates the configuration file.
    ExporterConfig,
    /// The exporter and promtool validate the web configuration file.
    WebConfig,
    /// promtool validates the configuration of Prometheus.
    PrometheusConfig,
    /// Prometheus evaluates the queries on data of the exporter.
    PromQl,
    /// A shell runs the commands with a simulated Atlas.
    Shell,
    /// systemd-analyze verifies the drop-in of a service.
    DropIn,
    /// The block parses as YAML; `kubernetes` builds the kustomizations.
    Manifest,
    /// The block parses as JSON.
    Json,
    /// The block is not run.
    NotRun,
}

/// A fenced block of a document.
#[derive(Clone, Debug)]
pub struct CodeBlock {
    /// Path of the document, relative to the repository.
    pub path: String,
    /// Line number of the fence.
    pub line: usize,
    pub language: String,
    /// Whether the marker `no-run` follows the language.
    pub is_marked: bool,
    pub text: String,
}

impl CodeBlock {
    /// Returns how the block is tested. Fails for a language, format or marker that is not in the lists above.
    pub fn runner(&self) -> Result<Runner, String> {
        let location = format!("{}:{}", self.path, self.line);
        let is_listed = BLOCKS_NOT_RUN
            .iter()
            .any(|(path, part, _)| self.path == *path && self.text.contains(part));
        if is_listed != self.is_marked {
            return Err(format!(
                "{location}: expected the marker no-run and an entry in BLOCKS_NOT_RUN, got one of them"
            ));
        }
        let language = self.language.as_str();
        if self.is_marked || LANGUAGES_NOT_RUN.iter().any(|(name, _)| *name == language) {
            return Ok(Runner::NotRun);
        }
        match language {
            "sh" => Ok(Runner::Shell),
            "promql" => Ok(Runner::PromQl),
            "ini" => Ok(Runner::DropIn),
            "json" => Ok(Runner::Json),
            "yaml" => {
                let key = self.text.split(':').next().unwrap_or_default();
                let format = YAML_FORMATS.iter().find(|(name, _)| *name == key);
                let format = format.map(|(_, runner)| *runner);
                format.ok_or_else(|| format!("{location}: unknown YAML format: {key}"))
            }
            _ => Err(format!("{location}: unknown language: {language:?}")),
        }
    }

    /// Returns the queries of a `promql` block: one per line that is not indented, without comments.
    pub fn queries(&self) -> Vec<String> {
        let mut queries: Vec<String> = Vec::new();
        for line in self.text.lines().filter(|line| !line.starts_with('#')) {
            match queries.last_mut() {
                Some(query) if line.starts_with(' ') => {
                    query.push(' ');
                    query.push_str(line.trim());
                }
                _ => queries.push(line.to_owned()),
            }
        }
        queries
    }
}

/// Returns the fenced blocks of a document. A fence can be indented as part of a list.
pub fn parse_code_blocks(path: &str, document: &str) -> Vec<CodeBlock> {
    let mut blocks: Vec<CodeBlock> = Vec::new();
    let mut open_indent = None;
    for (index, line) in document.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (open_indent, fence) {
            (None, Some(info)) => {
                open_indent = Some(line.len() - line.trim_start().len());
                let (language, marker) = info.split_once(' ').unwrap_or((info, ""));
                assert!(
                    ["", "no-run"].contains(&marker),
                    "{path}:{}: unknown marker: {marker}",
                    index + 1
                );
                blocks.push(CodeBlock {
                    path: path.to_owned(),
                    line: index + 1,
                    language: language.to_owned(),
                    is_marked: !marker.is_empty(),
                    text: String::new(),
                });
            }
            (Some(_), Some("")) => open_indent = None,
            (Some(indent), _) => {
                let block = blocks.last_mut().unwrap();
                block.text.push_str(line.get(indent..).unwrap_or_default());
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert_eq!(open_indent, None, "{path}: a code block does not end");
    blocks
}

/// Returns all code blocks of the documents, in a stable order.
pub fn code_blocks() -> Vec<CodeBlock> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<String> = FILES.iter().map(|path| (*path).to_owned()).collect();
    for folder in FOLDERS {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = Path::new(folder).join(entry.unwrap().file_name());
            if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path.display().to_string());
            }
        }
    }
    paths.sort();
    let read = |path: &String| {
        let document = std::fs::read_to_string(root.join(path)).unwrap();
        parse_code_blocks(path, &document)
    };
    let blocks: Vec<CodeBlock> = paths.iter().flat_map(read).collect();
    assert!(blocks.len() > 100, "{} code blocks", blocks.len());
    blocks
}

/// Returns the code blocks with this runner. Fails if there is none.
pub fn code_blocks_of(runner: Runner) -> Vec<CodeBlock> {
    let mut blocks = code_blocks();
    blocks.retain(|block| block.runner() == Ok(runner));
    assert!(!blocks.is_empty(), "{runner:?}");
    blocks
}

/// Returns the entries of the list of blocks that are not run, without those that a block matches.
pub fn unused_exceptions(blocks: &[CodeBlock]) -> Vec<&'static str> {
    let is_used = |path: &str, part: &str| {
        blocks
            .iter()
            .any(|block| block.path == path && block.text.contains(part))
    };
    BLOCKS_NOT_RUN
        .iter()
        .filter(|(path, part, _)| !is_used(path, part))
        .map(|(_, part, _)| *part)
        .collect()
}
