//! Help, manual page and shell completions.

use std::fs;
use std::path::Path;

use crate::common::run_exporter;
use atlas_ai_keys_exporter::cli::{
    CHECK_FLAGS, FLAGS, KEYS_FLAGS, ONCE_FLAGS, SIM_FLAGS, SIM_LISTEN_FLAGS,
};
use atlas_ai_keys_exporter::credentials::FIELDS;

#[tokio::test(flavor = "multi_thread")]
async fn man_page_and_completions_list_every_flag() {
    let man = run_exporter(&["man"], Vec::new()).await;
    let man = String::from_utf8(man.stdout).unwrap().replace('\\', "");
    assert!(man.starts_with(".TH ATLAS-AI-KEYS-EXPORTER 1 "), "{man}");
    for section in [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "COMMANDS",
        "OPTIONS",
        "ENVIRONMENT",
        "FILES",
        "EXIT STATUS",
        "EXAMPLES",
        "SEE ALSO",
    ] {
        assert_eq!(
            man.matches(&format!("\n.SH {section}\n")).count(),
            1,
            "{section}"
        );
    }
    for command in [
        "check",
        "keys",
        "once",
        "demo",
        "sim",
        "man",
        "completions SHELL",
    ] {
        assert!(man.contains(&format!("\n.SS {command}\n")), "{command}");
    }
    for part in &FIELDS {
        assert!(
            man.contains(part.env) && man.contains(part.file_name),
            "{}",
            part.env
        );
        assert!(man.contains(&format!("{}_FILE", part.env)), "{}", part.env);
    }
    // A cited page must exist on systems with the package. Pages of systemd exist there.
    let cited = man.match_indices(['1', '5']).filter_map(|(at, _)| {
        let name = man[..at].strip_suffix("fR(")?.rsplit("fB").next()?;
        man[at + 1..]
            .starts_with(')')
            .then(|| format!("{name}({})", &man[at..=at]))
    });
    let cited: Vec<String> = cited.collect();
    let of_systemd = [
        "journalctl(1)",
        "systemctl(1)",
        "systemd.exec(5)",
        "systemd.socket(5)",
    ];
    assert_eq!(cited, of_systemd);
    // A line that starts with a dot is a roff request. Each request is known.
    for line in man.lines().filter(|line| line.starts_with(['.', '\''])) {
        let request = line.split(' ').next().unwrap();
        let known = [
            ".TH", ".SH", ".SS", ".TP", ".PP", ".RS", ".RE", ".nf", ".fi", ".nh", ".ad", ".br",
        ];
        assert!(known.contains(&request), "{line}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run_exporter(&["completions", shell], Vec::new()).await;
        assert_eq!(script.status.code(), Some(0));
        let script = String::from_utf8(script.stdout).unwrap();
        let of_commands = [
            CHECK_FLAGS,
            KEYS_FLAGS,
            ONCE_FLAGS,
            SIM_FLAGS,
            SIM_LISTEN_FLAGS,
        ];
        for flag in of_commands.into_iter().flatten().chain(FLAGS) {
            assert!(script.contains(flag.name), "{shell}: {}", flag.name);
            assert!(
                man.contains(&format!("--{}", flag.name)),
                "man: {}",
                flag.name
            );
        }
    }
    let invalid = run_exporter(&["completions", "cmd"], Vec::new()).await;
    assert_eq!(invalid.status.code(), Some(2));
    let version = run_exporter(&["--version"], Vec::new()).await;
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(
        version.starts_with(&format!(
            "atlas-ai-keys-exporter {} (",
            env!("CARGO_PKG_VERSION")
        )),
        "{version}"
    );
    assert!(version.contains(std::env::consts::ARCH), "{version}");
}

#[tokio::test(flavor = "multi_thread")]
async fn man_page_lists_every_variable_and_existing_files() {
    let man = run_exporter(&["man"], Vec::new()).await;
    let man = String::from_utf8(man.stdout).unwrap().replace('\\', "");
    // The manual page documents every variable that the program reads.
    let mut count = 0;
    for source in rust_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = fs::read_to_string(&source).unwrap();
        for after in text.split("get(\"").skip(1) {
            let name = after.split('"').next().unwrap();
            if name.len() > 3 && name.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
                assert!(man.contains(name), "{name} in {}", source.display());
                count += 1;
            }
        }
    }
    assert!(count > 3, "{count} variables");
    let environment = section(&man, "ENVIRONMENT");
    let flags = [
        CHECK_FLAGS,
        KEYS_FLAGS,
        ONCE_FLAGS,
        SIM_FLAGS,
        SIM_LISTEN_FLAGS,
        FLAGS,
    ];
    let mut names: Vec<String> = flags
        .concat()
        .iter()
        .map(|flag| flag.env.to_owned())
        .collect();
    for field in &FIELDS {
        names.extend([field.env.to_owned(), format!("{}_FILE", field.env)]);
    }
    // Libraries read these variables.
    let others = [
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "CREDENTIALS_DIRECTORY",
        "STATE_DIRECTORY",
    ];
    names.extend(others.map(str::to_owned));
    let mut documented = environment.split([' ', ',', '\n']).map(|word| {
        let word = word.strip_prefix("fB").unwrap_or(word);
        word.strip_suffix("fR").unwrap_or(word)
    });
    for name in names {
        let count = documented.clone().filter(|word| *word == name).count();
        assert_eq!(count, 1, "{name}: {environment}");
    }
    assert!(documented.all(|word| word != "HTTP_PROXY"), "never used");
    for code in ["0", "1", "2"] {
        let status = section(&man, "EXIT STATUS");
        assert!(status.contains(&format!("\n.TP\nfB{code}fR\n")), "{status}");
    }
    // Every file is in the package, or belongs to the service.
    let packaged = [
        include_str!("../../../Cargo.toml"),
        include_str!("../../../systemd/atlas-ai-keys-exporter.service"),
    ]
    .concat();
    let files = section(&man, "FILES");
    let paths = files
        .split(['/', ' ', ',', '\n'])
        .filter(|part| part.contains("atlas-ai-keys-exporter"));
    let paths: Vec<&str> = paths.map(|part| part.trim_end_matches("fR")).collect();
    assert!(paths.len() >= 3, "{files}");
    for name in paths {
        assert!(packaged.contains(name), "{name}");
    }
}

/// Returns a section of the manual page.
fn section<'a>(man: &'a str, name: &str) -> &'a str {
    let (_, rest) = man.split_once(&format!("\n.SH {name}")).unwrap();
    rest.split_once("\n.SH ")
        .map_or(rest, |(section, _)| section)
}

/// Returns all source files in a directory and its subdirectories.
fn rust_sources(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let nested = entries.map(|path| {
        if path.is_dir() {
            rust_sources(&path)
        } else {
            vec![path]
        }
    });
    let all = nested.flatten();
    all.filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .collect()
}

async fn help_output(arguments: &[&str]) -> String {
    let output = run_exporter(arguments, Vec::new()).await;
    assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Maximum size of the output of `-h`, so that it fits in a terminal window.
const SHORT_HELP_LINES: usize = 32;
const SHORT_HELP_COLUMNS: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn short_help_fits_a_terminal_and_lists_common_flags() {
    let common = &["atlas.org-id", "config.file", "storage.path", "log.level"];
    for (command, own, common) in [
        (
            None,
            &[][..],
            &["atlas.org-id", "config.file", "web.listen-address"][..],
        ),
        (Some("check"), CHECK_FLAGS, common),
        (Some("keys"), KEYS_FLAGS, common),
        (Some("once"), ONCE_FLAGS, common),
        (
            Some("demo"),
            SIM_FLAGS,
            &["web.listen-address", "log.level"],
        ),
        (Some("sim"), SIM_LISTEN_FLAGS, &["log.level"]),
        (Some("man"), &[], &[]),
        (Some("completions"), &[], &[]),
    ] {
        let arguments: Vec<&str> = command.into_iter().chain(["-h"]).collect();
        let short = help_output(&arguments).await;
        let lines = short.lines().count();
        assert!(
            lines <= SHORT_HELP_LINES,
            "{command:?}, {lines} lines: {short}"
        );
        for line in short.lines() {
            assert!(
                line.chars().count() <= SHORT_HELP_COLUMNS,
                "{command:?}: {line}"
            );
            assert_eq!(line, line.trim_end(), "{command:?}");
        }
        for name in own
            .iter()
            .map(|flag| flag.name)
            .chain(common.iter().copied())
        {
            let listed = short.lines().filter(|line| {
                let flag = line.trim_start().strip_prefix("--");
                let rest = flag.and_then(|flag| flag.strip_prefix(name));
                rest.is_some_and(|rest| rest.starts_with([' ', '[']))
            });
            assert_eq!(listed.count(), 1, "{command:?}: {name}: {short}");
        }
        assert!(short.contains("--help"), "{command:?}: {short}");
        if command == Some("demo") {
            let line = short
                .lines()
                .find(|line| line.contains("--web.listen-address"));
            assert!(
                line.unwrap().ends_with("[default: 127.0.0.1:10064]"),
                "{short}"
            );
        }
        // The simulated Atlas has a separate credential.
        let needs_credential = matches!(command, None | Some("check" | "keys" | "once"));
        for name in [
            "CLIENT_ID",
            "CLIENT_ID_FILE",
            "CLIENT_SECRET",
            "CLIENT_SECRET_FILE",
        ] {
            let name = format!("MONGODB_ATLAS_{name}");
            let mut words = short.split([' ', ',', '\n']);
            assert_eq!(words.any(|word| word == name), needs_credential, "{short}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_help_lists_all_flags_variables_and_credentials() {
    for (command, own) in [
        (None, &[][..]),
        (Some("check"), CHECK_FLAGS),
        (Some("keys"), KEYS_FLAGS),
        (Some("once"), ONCE_FLAGS),
        (Some("demo"), SIM_FLAGS),
        (Some("sim"), SIM_LISTEN_FLAGS),
    ] {
        let arguments: Vec<&str> = command.into_iter().chain(["--help"]).collect();
        let long = help_output(&arguments).await;
        for flag in own.iter().chain(FLAGS) {
            let parts = [
                format!("--{}", flag.name),
                format!("[env: {}]", flag.env),
                flag.help.to_owned(),
            ];
            assert!(
                parts.iter().all(|part| long.contains(part)),
                "{command:?}: {}",
                flag.name
            );
        }
        let needs_credential = !matches!(command, Some("demo" | "sim"));
        for part in &FIELDS {
            assert_eq!(
                long.contains(part.env),
                needs_credential,
                "{command:?}: {long}"
            );
        }
        assert!(long.contains("\nExit code: 0 "), "{command:?}: {long}");
    }
}
