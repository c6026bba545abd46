//! `check`: everything that can be wrong, all at once, for people and for programs.

use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;

use comfy_table::{Cell, Color};
use serde::Serialize;

use super::terminal::{self, sanitize_for_terminal};
use super::{CommandError, ignore_broken_pipe};
use crate::check::{self, CheckContext, Finding, Severity};
use crate::cli::Args;
use crate::config::{self, OutputFormat};
use crate::credentials::Environment;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::{self as atlas, TransportFactory};

pub(super) async fn run(args: &Args, environment: &Environment) -> Result<(), CommandError> {
    let choice = config::parse_check_options(args, environment)?;
    let connect: TransportFactory = Arc::new(atlas::new_http_transport);
    let means = CheckContext {
        clock: Clock::system(),
        transport_factory: (!choice.offline).then_some(connect),
    };
    let findings = if choice.running {
        check::probe_running_exporter(args, environment).await
    } else {
        check::run(args, environment, &means).await
    };
    let mut out = io::stdout().lock();
    let colour = io::stdout().is_terminal() && environment.get("NO_COLOR").is_none();
    let written = if choice.output == OutputFormat::Json {
        print_json(&findings, &mut out)
    } else {
        print_table(&findings, colour, &mut out)
    };
    written
        .and_then(|()| out.flush())
        .or_else(ignore_broken_pipe)
        .map_err(CommandError::io("cannot write to standard output"))?;
    let errors = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error);
    let areas: Vec<_> = errors.map(|finding| finding.component).collect();
    if areas.is_empty() {
        return Ok(());
    }
    Err(CommandError::ChecksFailed {
        errors: areas.len(),
        is_invalid_config: areas.iter().any(|area| area.is_configuration()),
    })
}

fn count_findings(findings: &[Finding], grade: Severity) -> usize {
    let same = findings.iter().filter(|finding| finding.severity == grade);
    same.count()
}

/// Every finding, and below it what to do.
fn print_table(findings: &[Finding], colour: bool, out: &mut impl Write) -> io::Result<()> {
    let mut table = terminal::new_table(&["RESULT", "ABOUT", "WHICH", "FINDING"]);
    for finding in findings {
        let mut result = Cell::new(finding.severity.as_str());
        let shade = match finding.severity {
            Severity::Ok => Some(Color::Green),
            Severity::Skipped => None,
            Severity::Warning => Some(Color::Yellow),
            Severity::Error => Some(Color::Red),
        };
        if let Some(shade) = shade.filter(|_| colour) {
            result = result.fg(shade);
        }
        let mut text = sanitize_lines(&finding.message);
        if let Some(action) = &finding.help {
            text.push_str("\n-> ");
            text.push_str(&sanitize_lines(action));
        }
        table.add_row([
            result,
            Cell::new(finding.component.as_str()),
            Cell::new(sanitize_for_terminal(&finding.subject)),
            Cell::new(text),
        ]);
    }
    terminal::write_table(&table, out)?;
    writeln!(
        out,
        "errors: {}, warnings: {}",
        count_findings(findings, Severity::Error),
        count_findings(findings, Severity::Warning)
    )
}

/// A text of several lines in which nothing can steer a terminal.
fn sanitize_lines(text: &str) -> String {
    text.lines()
        .map(sanitize_for_terminal)
        .collect::<Vec<_>>()
        .join("\n")
}

#[derive(Serialize)]
struct CheckReport<'a> {
    errors: usize,
    warnings: usize,
    findings: &'a [Finding],
}

fn print_json(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    let report = CheckReport {
        errors: count_findings(findings, Severity::Error),
        warnings: count_findings(findings, Severity::Warning),
        findings,
    };
    serde_json::to_writer_pretty(&mut *out, &report)?;
    writeln!(out)
}
