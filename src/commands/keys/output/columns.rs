//! Columns of tables and Markdown.

use std::time::Duration;

use super::Report;
use crate::humanize::format_duration_short;
use crate::inventory::{GroupBy, KeyCounts, KeyGroup, KeyRow};

/// A column of the table of keys.
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) text: fn(&KeyRow) -> String,
}

const fn column(title: &'static str, text: fn(&KeyRow) -> String) -> Column {
    Column { title, text }
}

/// Returns the columns of the table of keys. The first two columns are the idle time and the last use.
pub(super) fn key_columns(report: &Report<'_>) -> Vec<Column> {
    let mut columns = vec![
        column("Idle", idle_text),
        column("Last used", last_used_text),
        column("Name", |row| row.name.clone()),
        column("Status", |row| row.status.clone()),
    ];
    if report.options.created_by {
        columns.push(column("Created by", |row| row.created_by.clone()));
    }
    columns.extend([
        column("Owner", |row| row.owner.clone()),
        PROJECT_COLUMN,
        column("Organization", |row| {
            name_or_id(&row.org_name, &row.org_id).to_owned()
        }),
        column("Key", |row| row.api_key_id.clone()),
    ]);
    if report.options.include_exempt {
        columns.extend([
            column("Exempt until", |row| {
                row.exempt_until
                    .map_or_else(String::new, |until| until.to_string())
            }),
            column("Reason", |row| row.exempt_reason.clone()),
        ]);
    }
    columns
}

const PROJECT_COLUMN: Column = column("Project", |row| {
    name_or_id(&row.project_name, &row.project_id).to_owned()
});

/// Returns whether a column is the project.
pub(super) fn is_project(column: &Column) -> bool {
    column.title == PROJECT_COLUMN.title
}

fn name_or_id<'a>(name: &'a str, id: &'a str) -> &'a str {
    if name.is_empty() { id } else { name }
}

fn idle_text(row: &KeyRow) -> String {
    row.idle_seconds.map_or_else(
        || "unknown".to_owned(),
        |idle| format_duration_short(Duration::from_secs(idle)),
    )
}

fn last_used_text(row: &KeyRow) -> String {
    match (row.was_used, row.last_used_at) {
        (Some(false), _) => "never".to_owned(),
        (_, Some(at)) => at.strftime("%Y-%m-%d").to_string(),
        _ => "unknown".to_owned(),
    }
}

/// Returns the column titles of the table of groups.
pub(super) fn group_titles(report: &Report<'_>) -> [String; 6] {
    let group = match report.options.group_by {
        Some(GroupBy::Project) => "Project",
        Some(GroupBy::Org) => "Organization",
        Some(GroupBy::Owner) | None => "Owner",
    };
    let idle = format!("Idle {}", report.options.idle_threshold.label);
    let titles = ["Keys", "Never used", &idle, "Disabled", "Exempt"];
    let [keys, never_used, idle, disabled, exempt] = titles.map(str::to_owned);
    [group.to_owned(), keys, never_used, idle, disabled, exempt]
}

/// Returns the rows of the table of groups: one row per group, and the total.
pub(super) fn group_rows(report: &Report<'_>, groups: &[KeyGroup]) -> Vec<[String; 6]> {
    let row = |name: &str, counts: KeyCounts| {
        let [keys, never_used, idle, disabled, exempt] =
            counts.to_array().map(|count| count.to_string());
        [name.to_owned(), keys, never_used, idle, disabled, exempt]
    };
    let total = report.keys.counts(report.idle_cutoff);
    let groups = groups
        .iter()
        .map(|group| row(group_name(group), group.counts));
    groups.chain([row("Total", total)]).collect()
}

/// Returns the display name of a group.
pub(super) fn group_name(group: &KeyGroup) -> &str {
    let fields = ["project_name", "project_id", "org_name", "org_id", "owner"];
    let mut texts = fields.into_iter().map(|name| group.field(name));
    texts.find(|text| !text.is_empty()).unwrap_or("No owner")
}
