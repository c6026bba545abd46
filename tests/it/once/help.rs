//! Help, man page and shell completions.

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
        "COMMANDS",
        "ENVIRONMENT",
        "FILES",
        "EXIT STATUS",
        "EXAMPLES",
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
    // A page in brackets with a number, such as name(1), must exist: none is cited.
    for section in 1..=8 {
        assert!(!man.contains(&format!("({section})")), "{man}");
    }
    // A line that begins with a dot is a request: each is one of these.
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
    let wrong = run_exporter(&["completions", "cmd"], Vec::new()).await;
    assert_eq!(wrong.status.code(), Some(2));
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
    // Every variable that the program reads is documented.
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
    // Every file is packaged, or the service's.
    let packaged = [
        include_str!("../../../Cargo.toml"),
        include_str!("../../../systemd/atlas-ai-keys-exporter.service"),
    ]
    .concat();
    let files = man
        .split(".SH FILES\n")
        .nth(1)
        .unwrap()
        .split(".SH")
        .next()
        .unwrap();
    let paths = files
        .split(['/', ' ', ',', '\n'])
        .filter(|part| part.contains("atlas-ai-keys-exporter"));
    let paths: Vec<&str> = paths.map(|part| part.trim_end_matches("fR")).collect();
    assert!(paths.len() >= 3, "{files}");
    for name in paths {
        assert!(packaged.contains(name), "{name}");
    }
}

/// Returns all source files below a directory.
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

#[tokio::test(flavor = "multi_thread")]
async fn short_help_lists_command_flags_and_long_help_lists_all() {
    for (command, own) in [
        (None, FLAGS),
        (Some("check"), CHECK_FLAGS),
        (Some("keys"), KEYS_FLAGS),
        (Some("once"), ONCE_FLAGS),
        (Some("demo"), SIM_FLAGS),
        (Some("sim"), SIM_LISTEN_FLAGS),
    ] {
        let line = |flag| command.into_iter().chain([flag]).collect::<Vec<_>>();
        let (short, long) = (
            help_output(&line("-h")).await,
            help_output(&line("--help")).await,
        );
        for flag in own {
            assert!(
                short.contains(&format!("--{}", flag.name)),
                "{command:?}: {}",
                flag.name
            );
        }
        for flag in own.iter().chain(FLAGS) {
            let all = [format!("--{}", flag.name), format!("[env: {}]", flag.env)];
            assert!(
                all.iter().all(|part| long.contains(part)),
                "{command:?}: {}",
                flag.name
            );
        }
        assert!(!short.contains("[env: "), "{command:?}: {short}");
        if command.is_some() {
            let shared = FLAGS.iter().find(|flag| {
                let mut lines = short.lines().map(str::trim_start);
                lines.any(|line| line.starts_with(&format!("--{}", flag.name)))
            });
            assert!(shared.is_none(), "{command:?}: {short}");
        }
        // The simulated Atlas has a separate credential.
        let needs_credential = !matches!(command, Some("demo" | "sim"));
        assert_eq!(
            short.contains("MONGODB_ATLAS_CLIENT_SECRET_FILE"),
            needs_credential,
            "{short}"
        );
        for part in &FIELDS {
            assert_eq!(
                long.contains(part.env),
                needs_credential,
                "{command:?}: {long}"
            );
        }
    }
}
