//! The audit log: a line for each change of a key. `docs/audit-log.md` documents its fields, on which other programs rely.

use tracing::info;

use super::diff::KeyChange;
use mongodb_atlas_client::OrgId;

/// Logs a change.
pub(super) fn log_change(org: &OrgId, change: &KeyChange, name: Option<&str>, owner: Option<&str>) {
    // In this order: a pattern that begins at the start of the line must not depend on a name, which is free text.
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
