//! `check`: validates the configuration and prints the findings.

use std::io::{self, Write};
use std::sync::Arc;

use comfy_table::{Cell, Color};
use mongodb_atlas_client::{Clock, TransportFactory, new_http_transport};
use serde::Serialize;

use super::CommandError;
use super::terminal::{self, sanitize_for_terminal};
use crate::check::{self, CheckContext, Finding, Severity};
use crate::cli::Args;
use crate::config::{self, OutputFormat};
use crate::credentials::Environment;

pub(super) async fn run(args: &Args, environment: &Environment) -> Result<(), CommandError> {
    let options = config::parse_check_options(args, environment)?;
    let findings = if options.health {
        check::probe_running_exporter(args, environment).await
    } else {
        let transport_factory: TransportFactory = Arc::new(new_http_transport);
        let context = CheckContext {
            clock: Clock::system(),
            transport_factory: (!options.offline).then_some(transport_factory),
        };
        check::run(args, environment, &context).await
    };
    let colored = terminal::is_coloured(environment);
    terminal::write_stdout(|out| match options.output {
        OutputFormat::Json => print_json(&findings, out),
        _ => print_table(&findings, colored, out),
    })?;
    let errors = count_findings(&findings, Severity::Error);
    if errors == 0 {
        return Ok(());
    }
    let is_invalid_config = |finding: &Finding| {
        finding.severity == Severity::Error && finding.component.is_configuration()
    };
    Err(CommandError::ChecksFailed {
        errors,
        is_invalid_config: findings.iter().any(is_invalid_config),
    })
}

fn count_findings(findings: &[Finding], severity: Severity) -> usize {
    let same = findings.iter().filter(|it| it.severity == severity);
    same.count()
}

/// Prints each finding, with its hint on the next line.
fn print_table(findings: &[Finding], colored: bool, out: &mut impl Write) -> io::Result<()> {
    let mut table = terminal::new_table(&["SEVERITY", "COMPONENT", "SUBJECT", "MESSAGE"]);
    for finding in findings {
        let mut severity = Cell::new(finding.severity.as_str());
        let color = match finding.severity {
            Severity::Ok => Some(Color::Green),
            Severity::Skipped => None,
            Severity::Warning => Some(Color::Yellow),
            Severity::Error => Some(Color::Red),
        };
        if let Some(color) = color.filter(|_| colored) {
            severity = severity.fg(color);
        }
        let mut text = sanitize_lines(&finding.message);
        if let Some(hint) = &finding.hint {
            text.push_str("\nhint: ");
            text.push_str(&sanitize_lines(hint));
        }
        table.add_row([
            severity,
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

/// Replaces control characters, except line breaks.
fn sanitize_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(sanitize_for_terminal).collect();
    lines.join("\n")
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
