//! `check`: everything that can be wrong, all at once, for people and for programs.

use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;

use comfy_table::{Cell, Color};
use serde::Serialize;

use super::terminal::{self, plain};
use super::{Failure, ignore_broken_pipe};
use crate::check::{self, Finding, Grade, Means};
use crate::cli::Args;
use crate::config::{self, Output};
use crate::credentials::Environment;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::{self as atlas, Connect};

pub(super) async fn run(args: &Args, environment: &Environment) -> Result<(), Failure> {
    let choice = config::check_check(args, environment)?;
    let connect: Connect = Arc::new(atlas::connect);
    let means = Means {
        clock: Clock::system(),
        connect: (!choice.offline).then_some(connect),
    };
    let findings = if choice.running {
        check::running(args, environment).await
    } else {
        check::all(args, environment, &means).await
    };
    let mut out = io::stdout().lock();
    let colour = io::stdout().is_terminal() && environment.get("NO_COLOR").is_none();
    let written = if choice.output == Output::Json {
        json(&findings, &mut out)
    } else {
        table(&findings, colour, &mut out)
    };
    written
        .and_then(|()| out.flush())
        .or_else(ignore_broken_pipe)
        .map_err(Failure::system("cannot write to standard output"))?;
    let errors = findings
        .iter()
        .filter(|finding| finding.grade == Grade::Error);
    let areas: Vec<_> = errors.map(|finding| finding.area).collect();
    if areas.is_empty() {
        return Ok(());
    }
    Err(Failure::Found {
        errors: areas.len(),
        configuration: areas.iter().any(|area| area.is_configuration()),
    })
}

fn count(findings: &[Finding], grade: Grade) -> usize {
    let same = findings.iter().filter(|finding| finding.grade == grade);
    same.count()
}

/// Every finding, and below it what to do.
fn table(findings: &[Finding], colour: bool, out: &mut impl Write) -> io::Result<()> {
    let mut table = terminal::table(&["RESULT", "ABOUT", "WHICH", "FINDING"]);
    for finding in findings {
        let mut result = Cell::new(finding.grade.as_str());
        let shade = match finding.grade {
            Grade::Ok => Some(Color::Green),
            Grade::Skipped => None,
            Grade::Warning => Some(Color::Yellow),
            Grade::Error => Some(Color::Red),
        };
        if let Some(shade) = shade.filter(|_| colour) {
            result = result.fg(shade);
        }
        let mut text = lines(&finding.finding);
        if let Some(action) = &finding.action {
            text.push_str("\n-> ");
            text.push_str(&lines(action));
        }
        table.add_row([
            result,
            Cell::new(finding.area.as_str()),
            Cell::new(plain(&finding.subject)),
            Cell::new(text),
        ]);
    }
    terminal::write(&table, out)?;
    writeln!(
        out,
        "errors: {}, warnings: {}",
        count(findings, Grade::Error),
        count(findings, Grade::Warning)
    )
}

/// A text of several lines in which nothing can steer a terminal.
fn lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

#[derive(Serialize)]
struct Report<'a> {
    errors: usize,
    warnings: usize,
    findings: &'a [Finding],
}

fn json(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    let report = Report {
        errors: count(findings, Grade::Error),
        warnings: count(findings, Grade::Warning),
        findings,
    };
    serde_json::to_writer_pretty(&mut *out, &report)?;
    writeln!(out)
}
