//! The credentials, each with its organizations: one that flags and environment give, or those of
//! the configuration file.

use std::path::Path;
use std::sync::Arc;

use super::file::{ConfigFile, redact_key};
use super::parse::parse_bool;
use super::resolver::Resolver;
use crate::cli::ValueSource;
use crate::credentials::{self, Credential, Environment, FIELDS, SecretLocation};
use exporter_toolkit::yaml::YamlValue;
use mongodb_atlas_client::OrgId;

/// A credential and what it watches.
#[derive(Debug, Clone)]
pub struct CredentialConfig {
    /// What it is called in metrics and logs.
    pub name: Arc<str>,
    /// How to authenticate.
    pub credential: Credential,
    /// The organizations that are named.
    pub org_ids: Vec<OrgId>,
    /// Whether every other organization that it can see is watched as well.
    pub discover_orgs: bool,
}

/// What a credential is called when nobody gives it a name.
const DEFAULT_NAME: &str = "default";
/// The members of an entry beside the parts of the credential.
const OTHER_KEYS: [&str; 3] = ["name", "org_ids", "discover_orgs"];
const EXPECTED_ORG_ID: &str =
    "an organization id, 24 hexadecimal digits in lower case such as 32b6e34b3d91647abb20e7b8";

/// Every account, checked; what is wrong is among the checker's mistakes.
pub(super) fn resolve(checker: &mut Resolver<'_>) -> Vec<CredentialConfig> {
    let file = checker.file.take();
    let mut accounts = match file.as_ref().and_then(ConfigFile::credentials) {
        Some(entries) => file
            .as_ref()
            .map_or_else(Vec::new, |file| from_file(checker, file, entries)),
        None => from_env(checker),
    };
    checker.file = file;
    add_orgs(checker, &mut accounts);
    if checker.get("atlas.discover-orgs", parse_bool) == Some(true) {
        for account in &mut accounts {
            account.discover_orgs = true;
        }
    }
    for account in &accounts {
        if account.org_ids.is_empty() && !account.discover_orgs {
            checker.errors.push(format!(
                "no organization to watch with credential {}: give --atlas.org-id, or MONGODB_ATLAS_ORG_ID with commas between several, \
                 or org_ids in the configuration file (Atlas shows the id under Organization Settings); or --atlas.discover-orgs",
                account.name
            ));
        }
    }
    accounts
}

fn from_env(checker: &mut Resolver<'_>) -> Vec<CredentialConfig> {
    match credentials::from_env(checker.environment) {
        Ok(credential) => {
            checker.errors.extend(credential.validate());
            vec![CredentialConfig {
                name: DEFAULT_NAME.into(),
                credential,
                org_ids: Vec::new(),
                discover_orgs: false,
            }]
        }
        Err(mistakes) => {
            checker.errors.extend(mistakes);
            // the organizations are looked at all the same
            let (values, origin) = checker.raw_values("atlas.org-id");
            parse_org_ids(checker, &values, &origin, &mut Vec::new());
            Vec::new()
        }
    }
}

/// Adds the organizations that flags and environment name.
fn add_orgs(checker: &mut Resolver<'_>, accounts: &mut [CredentialConfig]) {
    let (values, origin) = checker.raw_values("atlas.org-id");
    if values.is_empty() {
        return;
    }
    match accounts {
        [] => {}
        [account] => {
            let named = parse_org_ids(checker, &values, &origin, &mut account.org_ids.clone());
            account.org_ids.extend(named);
        }
        _ => checker.errors.push(format!(
            "{origin}: there are several credentials, and it does not say which of them watches these organizations; put them under org_ids of one in the configuration file"
        )),
    }
}

/// The ids among `values`; none of them may be in `taken` already, or twice.
fn parse_org_ids(
    checker: &mut Resolver<'_>,
    values: &[String],
    origin: &ValueSource,
    taken: &mut Vec<OrgId>,
) -> Vec<OrgId> {
    let mut orgs = Vec::new();
    for value in values {
        match OrgId::parse(value) {
            Ok(org) if taken.contains(&org) => {
                checker.reject(origin, value, "given once: it is there twice");
            }
            Ok(org) => {
                taken.push(org.clone());
                orgs.push(org);
            }
            Err(_) => checker.reject(origin, value, EXPECTED_ORG_ID),
        }
    }
    orgs
}

fn from_file(
    checker: &mut Resolver<'_>,
    file: &ConfigFile,
    entries: &YamlValue,
) -> Vec<CredentialConfig> {
    let YamlValue::Sequence(entries) = entries else {
        checker.errors.push(format!(
            "{}: it is {}, and must be a list",
            file.source("credentials"),
            entries.type_name()
        ));
        return Vec::new();
    };
    if entries.is_empty() {
        checker.errors.push(format!(
            "{}: expected at least one credential, got an empty list",
            file.source("credentials")
        ));
    }
    let mut taken = Vec::new();
    let mut accounts: Vec<CredentialConfig> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let place = format!("credentials[{index}]");
        let name = match entry.get("name").and_then(YamlValue::as_str) {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ if entries.len() == 1 => DEFAULT_NAME.to_owned(),
            _ => {
                checker.errors.push(format!(
                    "{}: it needs a name, since there are several",
                    file.source(&place)
                ));
                continue;
            }
        };
        if accounts.iter().any(|account| *account.name == *name) {
            let origin = file.source(format!("{place}.name"));
            checker.reject(&origin, &name, "a name of its own: it is there twice");
            continue;
        }
        check_unknown_keys(checker, file, &place, entry);
        check_scalars(checker, file, &place, entry);
        let orgs = entry_org_ids(checker, file, &place, entry, &mut taken);
        let discover = entry_bool(checker, file, &place, entry);
        match entry_credential(checker.environment, file, &place, &name, entry) {
            Ok(credential) => {
                checker.errors.extend(credential.validate());
                accounts.push(CredentialConfig {
                    name: name.into(),
                    credential,
                    org_ids: orgs,
                    discover_orgs: discover,
                });
            }
            Err(mistakes) => checker.errors.extend(mistakes),
        }
    }
    accounts
}

fn check_unknown_keys(
    checker: &mut Resolver<'_>,
    file: &ConfigFile,
    place: &str,
    entry: &YamlValue,
) {
    let YamlValue::Mapping(members) = entry else {
        checker.errors.push(format!(
            "{}: it is {}, and must have members",
            file.source(place),
            entry.type_name()
        ));
        return;
    };
    let parts = FIELDS.map(|part| part.config_key);
    for (name, _) in members {
        let part = name.strip_suffix("_file").unwrap_or(name);
        if !OTHER_KEYS.contains(&name.as_str()) && !parts.contains(&part) {
            checker.errors.push(format!(
                "{}: there is no such member; it must be one of {}, {}, each of the latter also with _file behind it",
                file.source(format!("{place}.{}", redact_key(name))),
                OTHER_KEYS.join(", "),
                parts.join(", ")
            ));
        }
    }
}

/// Every field of an entry but its list and its switch is a text: another value would count as not given, and a secret
/// from elsewhere would be used in its place.
fn check_scalars(checker: &mut Resolver<'_>, file: &ConfigFile, place: &str, entry: &YamlValue) {
    let YamlValue::Mapping(members) = entry else {
        return;
    };
    for (name, value) in members {
        if value.as_str().is_none() && !["org_ids", "discover_orgs"].contains(&name.as_str()) {
            checker.errors.push(format!(
                "{}: expected a text, got {}",
                file.source(format!("{place}.{}", redact_key(name))),
                value.type_name()
            ));
        }
    }
}

fn entry_org_ids(
    checker: &mut Resolver<'_>,
    file: &ConfigFile,
    place: &str,
    entry: &YamlValue,
    taken: &mut Vec<OrgId>,
) -> Vec<OrgId> {
    let origin = file.source(format!("{place}.org_ids"));
    let values: Vec<String> = match entry.get("org_ids") {
        None | Some(YamlValue::Null) => return Vec::new(),
        Some(YamlValue::Sequence(items)) if items.iter().all(|item| item.as_str().is_some()) => {
            items
                .iter()
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect()
        }
        Some(other) => {
            let kind = other.type_name();
            checker
                .errors
                .push(format!("{origin}: it is {kind}, and must be a list of ids"));
            return Vec::new();
        }
    };
    parse_org_ids(checker, &values, &origin, taken)
}

fn entry_bool(
    checker: &mut Resolver<'_>,
    file: &ConfigFile,
    place: &str,
    entry: &YamlValue,
) -> bool {
    let Some(value) = entry.get("discover_orgs") else {
        return false;
    };
    let text = value.as_str().unwrap_or(value.type_name());
    parse_bool(text).unwrap_or_else(|right| {
        checker.reject(&file.source(format!("{place}.discover_orgs")), text, right);
        false
    })
}

/// The credential of an entry: its parts stand in the file itself, in files that it names, or for
/// what is missing where [`credentials::from_env`] looks.
fn entry_credential(
    environment: &Environment,
    file: &ConfigFile,
    place: &str,
    name: &str,
    entry: &YamlValue,
) -> Result<Credential, Vec<String>> {
    let mut mistakes = Vec::new();
    let mut parts = FIELDS.map(|_| None);
    for (part, found) in FIELDS.iter().zip(&mut parts) {
        let (inline, named) = (
            entry.get(part.config_key),
            entry.get(&format!("{}_file", part.config_key)),
        );
        *found = match (inline, named.and_then(YamlValue::as_str)) {
            (Some(_), Some(_)) => {
                mistakes.push(format!(
                    "{}: it is given here and in {}_file; give one of them",
                    file.source(format!("{place}.{}", part.config_key)),
                    part.config_key
                ));
                None
            }
            (_, Some(path)) => Some(SecretLocation::File(file.dir().join(path))),
            (Some(_), None) if part.is_secret && is_world_readable(&file.path) => {
                mistakes.push(format!(
                    "{}: a secret stands in a file that everybody may read; run chmod o-r on it, or put the secret into a file of its own and name that as {}_file",
                    file.source(format!("{place}.{}", part.config_key)),
                    part.config_key
                ));
                None
            }
            (Some(_), None) => Some(SecretLocation::ConfigKey {
                file: file.path.clone(),
                credential: name.to_owned(),
                key: part.config_key,
            }),
            (None, None) => None,
        };
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    credentials::from_file_and_env(environment, parts).map_err(|mistakes| {
        let told = mistakes
            .into_iter()
            .map(|mistake| format!("{}: {mistake}", file.source(place)));
        told.collect()
    })
}

#[cfg(unix)]
fn is_world_readable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    exporter_toolkit::bounded_file::metadata(path)
        .is_ok_and(|data| data.permissions().mode() & 0o004 != 0)
}

/// Elsewhere the system's own rights hold.
#[cfg(not(unix))]
fn is_world_readable(_: &Path) -> bool {
    false
}
