//! Commands of the Atlas CLI that delete keys, to review and run manually.
//!
//! Ids and names are arbitrary texts from the network. A command contains an id only if the id is a plain word. Names occur
//! only in comments, without characters that a shell interprets, because interactive shells such as zsh may not support
//! comments.

use std::io::{self, Write};
use std::time::Duration;

use super::{KeyRow, Report, is_plain_id};
use crate::humanize::format_duration;

const NOTICE: &str = "# Review each line before running this file with sh. Deleting a key needs the role Project Owner or Project Model Owner, \
which the exporter's credential should not have; the exporter never writes to Atlas.";
const SECONDS_PER_DAY: u64 = 86_400;

/// The reason why a key has no command.
enum Obstacle {
    /// The key must not be deleted, or is already deleted.
    Excluded(String),
    /// The key may be deleted, but no safe command can be written.
    Refused(&'static str),
}

/// Writes a command for each key. Returns the number of keys that were refused.
pub(super) fn write(report: &Report<'_>, out: &mut impl Write) -> io::Result<usize> {
    writeln!(out, "{NOTICE}")?;
    writeln!(out, "# {}", as_comment(&report.summary()))?;
    let mut refused = 0;
    for row in report.keys.rows() {
        let KeyRow {
            project_id,
            api_key_id,
            ..
        } = &row;
        let comment = describe(&row);
        let reason = match find_obstacle(report, &row) {
            None => {
                writeln!(
                    out,
                    "atlas api aiModelApiKeys deleteGroupModelKey --groupId {project_id} --apiKeyId {api_key_id} # {comment}"
                )?;
                continue;
            }
            Some(Obstacle::Excluded(reason)) => reason,
            Some(Obstacle::Refused(reason)) => {
                refused += 1;
                format!("refused, {reason}")
            }
        };
        let [project, key] = [project_id, api_key_id].map(|id| as_comment(id));
        writeln!(out, "# {reason}: key {key} in project {project}: {comment}")?;
    }
    Ok(refused)
}

fn find_obstacle(report: &Report<'_>, row: &KeyRow) -> Option<Obstacle> {
    if let Some(until) = row.exempt_until {
        let reason = format!("exempt until {until}, {}", as_comment(&row.exempt_reason));
        return Some(Obstacle::Excluded(reason));
    }
    if row.status.eq_ignore_ascii_case("DELETED") {
        return Some(Obstacle::Excluded("already deleted".to_owned()));
    }
    if !is_plain_id(&row.project_id) || !is_plain_id(&row.api_key_id) {
        return Some(Obstacle::Refused(
            "unsafe id (expected letters, digits, _ and -)",
        ));
    }
    if row.project_name.is_empty() && report.policy.exemptions.depend_on_project_names() {
        return Some(Obstacle::Refused(
            "project name unknown, exemptions by project cannot be applied",
        ));
    }
    None
}

/// Describes a key in a comment.
fn describe(row: &KeyRow) -> String {
    let never_used = match row.was_used {
        Some(false) => "never used, ",
        _ => "",
    };
    let idle = match row.idle_seconds {
        None => "idle time unknown".to_owned(),
        Some(seconds) if seconds >= SECONDS_PER_DAY => {
            let days = seconds / SECONDS_PER_DAY;
            format!("idle {days} day{}", if days == 1 { "" } else { "s" })
        }
        Some(seconds) => format!("idle {}", format_duration(Duration::from_secs(seconds))),
    };
    let owner = match row.owner.as_str() {
        "" => String::new(),
        owner => format!(", owner {}", as_comment(owner)),
    };
    format!("{} ({never_used}{idle}{owner})", as_comment(&row.name))
}

/// Replaces every character that could end the comment, or that a shell without comments would interpret. Also replaces
/// hyphens at the start of a word, because these would be flags.
fn as_comment(text: &str) -> String {
    let mut comment = String::with_capacity(text.len());
    let mut begins_word = true;
    for letter in text.chars() {
        let is_harmless = match letter {
            '-' => !begins_word,
            ' ' | '_' | '.' | ':' | '/' | '@' | '+' | ',' => true,
            _ => letter.is_alphanumeric(),
        };
        comment.push(if is_harmless { letter } else { '\u{fffd}' });
        begins_word = letter == ' ';
    }
    comment
}
