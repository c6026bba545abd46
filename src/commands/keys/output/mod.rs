//! Output formats of `keys`.
//!
//! | module | purpose |
//! | --- | --- |
//! | `columns` | columns of tables and Markdown |
//! | `table` | tables for a terminal |
//! | `markdown` | tables of GitHub Flavored Markdown |
//! | `csv` | CSV for spreadsheets |
//! | `json` | JSON |
//! | `commands` | commands of the Atlas CLI that delete keys |

mod columns;
mod commands;
mod csv;
mod json;
mod markdown;
mod table;

use std::fmt::Write as _;
use std::io::{self, Write};

use jiff::Timestamp;

use crate::config::{KeysOptions, OutputFormat};
use crate::inventory::{InventorySnapshot, KeyGroup, KeyLabel, KeyQuery, KeyRow, KeySelection};
use crate::key_policy::KeyPolicy;

/// The selected keys, and the options of the output.
pub(super) struct Report<'a> {
    options: &'a KeysOptions,
    policy: &'a KeyPolicy,
    keys: KeySelection<'a>,
    /// `None` unless keys are grouped.
    groups: Option<Vec<KeyGroup>>,
    idle_cutoff: i64,
    colored: bool,
}

impl<'a> Report<'a> {
    /// Selects the keys.
    pub(super) fn new(
        shown: &'a InventorySnapshot,
        options: &'a KeysOptions,
        policy: &'a KeyPolicy,
        now: Timestamp,
        colored: bool,
    ) -> Self {
        let labels: &[KeyLabel] = if options.created_by {
            &[KeyLabel::Name, KeyLabel::Status, KeyLabel::CreatedBy]
        } else {
            &[KeyLabel::Name, KeyLabel::Status]
        };
        let idle_cutoff = options.idle_threshold.cutoff(now.as_microsecond());
        let query = KeyQuery {
            statuses: &options.statuses.values,
            projects: &options.projects.values,
            owners: &options.owners.values,
            idle_cutoff: (!options.idle.is_zero()).then_some(idle_cutoff),
            never_used: options.never_used,
            without_exempt: !options.include_exempt,
            column: options.sort,
            labels,
            base_url: Some(&options.base_url),
            ..KeyQuery::default()
        };
        // Groups need all keys, and the limit applies to each group.
        let limit = options.limit.filter(|_| options.group_by.is_none());
        let limit = limit.unwrap_or(usize::MAX);
        let keys = KeySelection::new(shown, query, now, |len| 0..len.min(limit));
        let groups = options.group_by.map(|by| keys.groups(by, idle_cutoff));
        Self {
            options,
            policy,
            keys,
            groups,
            idle_cutoff,
            colored,
        }
    }

    /// Returns the number of keys that are excluded because of an exemption.
    pub(super) fn left_out(&self) -> usize {
        self.keys.left_out()
    }

    /// Writes the report. Returns the number of keys for which no command could be written.
    pub(super) fn write(&self, mut out: impl Write) -> io::Result<usize> {
        let mut refused = 0;
        match self.options.output {
            OutputFormat::Table => table::write(self, &mut out),
            OutputFormat::Csv => csv::write(self, &mut out),
            OutputFormat::Json => json::write(self, &mut out),
            OutputFormat::Markdown => markdown::write(self, &mut out),
            OutputFormat::Commands => {
                commands::write(self, &mut out).map(|unsafe_keys| refused = unsafe_keys)
            }
        }?;
        out.flush()?;
        Ok(refused)
    }

    /// Returns the listed keys of a group.
    fn group_rows(&self, group: &KeyGroup) -> impl Iterator<Item = KeyRow> {
        let limit = self.options.limit.unwrap_or(usize::MAX);
        self.keys.group_rows(group).take(limit)
    }

    /// Returns the title of a group, with the number of all keys and of listed keys.
    fn group_title(&self, group: &KeyGroup) -> String {
        let keys = group.counts.keys;
        let limit = self.options.limit.map_or(u64::MAX, |limit| limit as u64);
        let listed = if limit < keys {
            format!(", {limit} listed")
        } else {
            String::new()
        };
        format!("{}: {keys} keys{listed}", columns::group_name(group))
    }

    /// Returns one line with the number of keys, the time of the data and the number of keys by class.
    fn summary(&self) -> String {
        let inventories = &self.keys.snapshot().inventories;
        let total: usize = inventories.iter().map(|it| it.len()).sum();
        let counts = self.keys.counts(self.idle_cutoff);
        let mut text = format!("{} of {total} keys", counts.keys);
        if self.keys.listed() < self.keys.len() {
            let _ = write!(text, ", {} listed", self.keys.listed());
        }
        if let Some(oldest) = inventories.iter().map(|it| it.completed_at()).min() {
            let _ = write!(text, ", as of {oldest:.0}");
        }
        let _ = write!(
            text,
            ": {} never used, {} idle for {} or longer, {} disabled, {} exempt",
            counts.never_used,
            counts.idle,
            self.options.idle_threshold.label,
            counts.disabled,
            counts.exempt
        );
        if self.left_out() > 0 {
            text.push_str(" (not listed)");
        }
        text
    }
}

/// Returns whether an id is a plain word in a shell, in a URL and in Markdown. An id that starts with a hyphen would be a
/// flag.
fn is_plain_id(id: &str) -> bool {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    !id.is_empty() && !id.starts_with('-') && id.chars().all(is_plain)
}

#[cfg(test)]
mod tests;
