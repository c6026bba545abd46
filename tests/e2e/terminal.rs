//! Output on a terminal: tables of its width, colors, a progress bar during long walks, the man page.
use std::process::Command;

use crate::common::{Scrape, expected_sim_keys, exposed_keys, run_command, sim_env, static_sim};
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint};

/// Runs the exporter on a terminal with this many columns, and returns its output.
async fn run_on_terminal(
    columns: u16,
    arguments: &str,
    variables: Vec<(String, String)>,
) -> String {
    let binary = env!("CARGO_BIN_EXE_atlas-ai-keys-exporter");
    let line = format!("stty cols {columns} rows 40; {binary} {arguments}");
    let mut command = Command::new("script");
    command
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .envs(variables)
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR");
    let shown = tokio::task::spawn_blocking(move || run_command(&mut command, &[])).await;
    let (code, output, error) = shown.unwrap();
    assert_eq!(code, Some(0), "{output}{error}");
    output
}

/// Removes color sequences.
fn strip_ansi(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        let end = after.find(|letter: char| letter.is_ascii_alphabetic());
        rest = &after[end.unwrap_or(after.len() - 1) + 1..];
    }
    plain.push_str(rest);
    plain
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_fit_the_terminal_and_are_colored() {
    let sim = crate::common::start_sim(static_sim(3, 60)).await;
    for columns in [60, 100, 200] {
        for arguments in ["keys", "check"] {
            let shown = run_on_terminal(columns, arguments, sim_env(&sim)).await;
            assert!(shown.contains("\u{1b}["), "{shown:?}");
            for line in strip_ansi(&shown).lines() {
                let width = line.trim_end().chars().count();
                assert!(width <= usize::from(columns), "{columns}: {width} {line:?}");
            }
        }
    }
    let mut without = sim_env(&sim);
    without.push(("NO_COLOR".to_owned(), "1".to_owned()));
    let mut command = Command::new("script");
    let binary = env!("CARGO_BIN_EXE_atlas-ai-keys-exporter");
    command
        .args([
            "--quiet",
            "--command",
            &format!("{binary} keys"),
            "/dev/null",
        ])
        .envs(without);
    let (_, shown, _) = tokio::task::spawn_blocking(move || run_command(&mut command, &[]))
        .await
        .unwrap();
    assert!(shown.contains("60 of 60 keys"), "{shown}");
    assert_eq!(strip_ansi(&shown), shown, "NO_COLOR disables colors");
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_bar_appears_during_long_walks() {
    let sim = crate::common::start_sim(static_sim(3, 60)).await;
    let quick = run_on_terminal(100, "keys", sim_env(&sim)).await;
    assert!(!quick.contains(" of 3 organizations"), "{quick}");
    for org in sim.org_ids().iter().skip(1) {
        sim.add_fault(Fault {
            org: Some(org.clone()),
            ..Fault::new(SimEndpoint::AiModelApiKeys, Effect::Delay { seconds: 2.0 })
        });
    }
    let slow = run_on_terminal(100, "keys", sim_env(&sim)).await;
    assert!(slow.contains(" of 3 organizations"), "{slow:?}");
    assert!(slow.contains("60 of 60 keys"), "{slow}");
    // Output to a file has no progress bar.
    let mut command = Command::new(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"));
    command.arg("keys").env_clear().envs(sim_env(&sim));
    let (code, output, error) = tokio::task::spawn_blocking(move || run_command(&mut command, &[]))
        .await
        .unwrap();
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(!output.contains(" of 3 organizations"));
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_writes_to_a_character_device() {
    let sim = crate::common::start_sim(static_sim(1, 20)).await;
    let shown = run_on_terminal(200, "once --output=/dev/tty", sim_env(&sim)).await;
    let scrape = Scrape::parse(&shown.replace("\r\n", "\n"));
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim), "{shown}");
    sim.stop().await;
}

/// groff warns about unknown requests and overlong lines.
#[tokio::test(flavor = "multi_thread")]
async fn man_page_renders_without_warnings() {
    let page = crate::common::run_exporter(&["man"], Vec::new())
        .await
        .stdout;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &page).unwrap();
    for columns in ["72", "200"] {
        let mut command = Command::new("man");
        command
            .args(["--warnings=w", "--encoding=UTF-8", "--local-file"])
            .arg(file.path())
            .env("MANWIDTH", columns)
            .env("MANPAGER", "cat");
        let (code, text, warnings) =
            tokio::task::spawn_blocking(move || run_command(&mut command, &[]))
                .await
                .unwrap();
        assert_eq!((code, warnings.as_str()), (Some(0), ""), "{text}");
        // Names can be searched for: none is hyphenated at the end of a line.
        for name in [
            "ATLAS_AI_KEYS_EXPORTER_METRICS_IDLE_THRESHOLDS",
            "--metrics.idle-thresholds",
            "MONGODB_ATLAS_CLIENT_SECRET_FILE",
        ] {
            assert!(text.contains(name), "{columns}: {name}: {text}");
        }
    }
}
