//! The audit log: one line for each change of a key. Other programs rely on its fields, which `docs/audit-log.md` documents.

use tracing::info;

use super::diff::KeyChange;
use mongodb_atlas_client::OrgId;

/// Logs a change.
pub(super) fn log_change(org: &OrgId, change: &KeyChange, name: Option<&str>, owner: Option<&str>) {
    // The order of the fields matters: a pattern that starts at the start of the line must not match free text, such as a
    // name.
    info!(
        %org,
        project = %change.project,
        key = change.key,
        change = change.change.as_str(),
        name,
        owner,
        "key changed"
    );
}
