//! The ends of `-h` and `--help`: common flags, credentials and exit status.

use std::fmt::Write as _;

use clap::builder::{StyledStr, Styles};

use super::Flag;
use crate::credentials::FIELDS;

/// Summary of the ways to set a credential.
const CREDENTIAL_HINT: &str = concat!(
    "  MONGODB_ATLAS_CLIENT_ID, MONGODB_ATLAS_CLIENT_SECRET            Service account\n",
    "  MONGODB_ATLAS_CLIENT_ID_FILE, MONGODB_ATLAS_CLIENT_SECRET_FILE  Same, read from files\n",
);

/// Returns the end of `-h`: common shared flags, environment variables of a credential, and a reference to `--help`.
pub(super) fn short_help_end(
    shared_flags: impl Iterator<Item = Flag>,
    common_flags: &[&str],
    needs_credential: bool,
) -> StyledStr {
    let header = Styles::styled();
    let header = header.get_header();
    let mut help = format!("{header}Common flags:{header:#}\n");
    for flag in shared_flags.filter(|flag| common_flags.contains(&flag.name)) {
        let usage = format!("--{} <{}>", flag.name, flag.value_name);
        let _ = writeln!(help, "      {usage:<31} {}", flag.summary());
    }
    help.push('\n');
    if needs_credential {
        let _ = writeln!(
            help,
            "{header}Credentials (environment variables, never flags):{header:#}\n{CREDENTIAL_HINT}"
        );
    }
    help.push_str(if needs_credential {
        "Use --help to list all flags, environment variables and credential types."
    } else {
        "Use --help to list all flags and environment variables."
    });
    StyledStr::from(help)
}

/// End of `--help`.
pub(super) const EXIT_STATUS: &str =
    "Exit code: 0 success, 1 failure, 2 invalid command line or configuration.";

/// Returns the end of `--help` with all names of credential fields.
pub(super) fn credential_help() -> String {
    let mut help = String::from(
        "Credentials (service account, programmatic API key or access token; environment variables, never flags):\n",
    );
    for field in &FIELDS {
        let _ = writeln!(help, "  {:<31} {}", field.env, field.description);
    }
    let files = FIELDS.each_ref().map(|field| field.file_name);
    let _ = write!(
        help,
        "Append _FILE to a variable to read the value from a file. Files in $CREDENTIALS_DIRECTORY (systemd)\n\
         take precedence:\n  {}\nUse --config.file for several credentials.\n\n{EXIT_STATUS}",
        files.join(", ")
    );
    help
}
