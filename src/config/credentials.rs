//! The credentials, each with its organizations: one that flags and environment give, or those of
//! the configuration file.

use std::path::Path;
use std::sync::Arc;

use super::file::{ConfigFile, shown_key};
use super::parse::switch;
use super::resolver::Checker;
use crate::cli::Origin;
use crate::credentials::{self, Credential, Environment, PARTS, Source};
use exporter_toolkit::yaml::YamlValue;
use mongodb_atlas_client::OrgId;

/// A credential and what it watches.
#[derive(Debug, Clone)]
pub struct Account {
    /// What it is called in metrics and logs.
    pub name: Arc<str>,
    /// How to authenticate.
    pub credential: Credential,
    /// The organizations that are named.
    pub orgs: Vec<OrgId>,
    /// Whether every other organization that it can see is watched as well.
    pub discover: bool,
}

/// What a credential is called when nobody gives it a name.
const DEFAULT_NAME: &str = "default";
/// The members of an entry beside the parts of the credential.
const OTHER_MEMBERS: [&str; 3] = ["name", "org_ids", "discover_orgs"];
const ORG_ID: &str =
    "an organization id, 24 hexadecimal digits in lower case such as 32b6e34b3d91647abb20e7b8";

/// Every account, checked; what is wrong is among the checker's mistakes.
pub(super) fn check(checker: &mut Checker<'_>) -> Vec<Account> {
    let file = checker.file.take();
    let mut accounts = match file.as_ref().and_then(ConfigFile::credentials) {
        Some(entries) => file
            .as_ref()
            .map_or_else(Vec::new, |file| of_file(checker, file, entries)),
        None => of_environment(checker),
    };
    checker.file = file;
    add_orgs(checker, &mut accounts);
    if checker.one("atlas.discover-orgs", switch) == Some(true) {
        for account in &mut accounts {
            account.discover = true;
        }
    }
    for account in &accounts {
        if account.orgs.is_empty() && !account.discover {
            checker.mistakes.push(format!(
                "no organization to watch with credential {}: give --atlas.org-id, or MONGODB_ATLAS_ORG_ID with commas between several, \
                 or org_ids in the configuration file (Atlas shows the id under Organization Settings); or --atlas.discover-orgs",
                account.name
            ));
        }
    }
    accounts
}

fn of_environment(checker: &mut Checker<'_>) -> Vec<Account> {
    match credentials::find(checker.environment) {
        Ok(credential) => {
            checker.mistakes.extend(credential.mistakes());
            vec![Account {
                name: DEFAULT_NAME.into(),
                credential,
                orgs: Vec::new(),
                discover: false,
            }]
        }
        Err(mistakes) => {
            checker.mistakes.extend(mistakes);
            // the organizations are looked at all the same
            let (values, origin) = checker.values("atlas.org-id");
            orgs(checker, &values, &origin, &mut Vec::new());
            Vec::new()
        }
    }
}

/// Adds the organizations that flags and environment name.
fn add_orgs(checker: &mut Checker<'_>, accounts: &mut [Account]) {
    let (values, origin) = checker.values("atlas.org-id");
    if values.is_empty() {
        return;
    }
    match accounts {
        [] => {}
        [account] => {
            let named = orgs(checker, &values, &origin, &mut account.orgs.clone());
            account.orgs.extend(named);
        }
        _ => checker.mistakes.push(format!(
            "{origin}: there are several credentials, and it does not say which of them watches these organizations; put them under org_ids of one in the configuration file"
        )),
    }
}

/// The ids among `values`; none of them may be in `taken` already, or twice.
fn orgs(
    checker: &mut Checker<'_>,
    values: &[String],
    origin: &Origin,
    taken: &mut Vec<OrgId>,
) -> Vec<OrgId> {
    let mut orgs = Vec::new();
    for value in values {
        match OrgId::parse(value) {
            Ok(org) if taken.contains(&org) => {
                checker.wrong(origin, value, "given once: it is there twice");
            }
            Ok(org) => {
                taken.push(org.clone());
                orgs.push(org);
            }
            Err(_) => checker.wrong(origin, value, ORG_ID),
        }
    }
    orgs
}

fn of_file(checker: &mut Checker<'_>, file: &ConfigFile, entries: &YamlValue) -> Vec<Account> {
    let YamlValue::Sequence(entries) = entries else {
        checker.mistakes.push(format!(
            "{}: it is {}, and must be a list",
            file.origin("credentials"),
            entries.type_name()
        ));
        return Vec::new();
    };
    if entries.is_empty() {
        checker.mistakes.push(format!(
            "{}: expected at least one credential, got an empty list",
            file.origin("credentials")
        ));
    }
    let mut taken = Vec::new();
    let mut accounts: Vec<Account> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let place = format!("credentials[{index}]");
        let name = match entry.get("name").and_then(YamlValue::as_str) {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ if entries.len() == 1 => DEFAULT_NAME.to_owned(),
            _ => {
                checker.mistakes.push(format!(
                    "{}: it needs a name, since there are several",
                    file.origin(&place)
                ));
                continue;
            }
        };
        if accounts.iter().any(|account| *account.name == *name) {
            let origin = file.origin(format!("{place}.name"));
            checker.wrong(&origin, &name, "a name of its own: it is there twice");
            continue;
        }
        unknown_members(checker, file, &place, entry);
        texts_alone(checker, file, &place, entry);
        let orgs = entry_orgs(checker, file, &place, entry, &mut taken);
        let discover = entry_switch(checker, file, &place, entry);
        match credential(checker.environment, file, &place, &name, entry) {
            Ok(credential) => {
                checker.mistakes.extend(credential.mistakes());
                accounts.push(Account {
                    name: name.into(),
                    credential,
                    orgs,
                    discover,
                });
            }
            Err(mistakes) => checker.mistakes.extend(mistakes),
        }
    }
    accounts
}

fn unknown_members(checker: &mut Checker<'_>, file: &ConfigFile, place: &str, entry: &YamlValue) {
    let YamlValue::Mapping(members) = entry else {
        checker.mistakes.push(format!(
            "{}: it is {}, and must have members",
            file.origin(place),
            entry.type_name()
        ));
        return;
    };
    let parts = PARTS.map(|part| part.member);
    for (name, _) in members {
        let part = name.strip_suffix("_file").unwrap_or(name);
        if !OTHER_MEMBERS.contains(&name.as_str()) && !parts.contains(&part) {
            checker.mistakes.push(format!(
                "{}: there is no such member; it must be one of {}, {}, each of the latter also with _file behind it",
                file.origin(format!("{place}.{}", shown_key(name))),
                OTHER_MEMBERS.join(", "),
                parts.join(", ")
            ));
        }
    }
}

/// Every field of an entry but its list and its switch is a text: another value would count as not given, and a secret
/// from elsewhere would be used in its place.
fn texts_alone(checker: &mut Checker<'_>, file: &ConfigFile, place: &str, entry: &YamlValue) {
    let YamlValue::Mapping(members) = entry else {
        return;
    };
    for (name, value) in members {
        if value.as_str().is_none() && !["org_ids", "discover_orgs"].contains(&name.as_str()) {
            checker.mistakes.push(format!(
                "{}: expected a text, got {}",
                file.origin(format!("{place}.{}", shown_key(name))),
                value.type_name()
            ));
        }
    }
}

fn entry_orgs(
    checker: &mut Checker<'_>,
    file: &ConfigFile,
    place: &str,
    entry: &YamlValue,
    taken: &mut Vec<OrgId>,
) -> Vec<OrgId> {
    let origin = file.origin(format!("{place}.org_ids"));
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
                .mistakes
                .push(format!("{origin}: it is {kind}, and must be a list of ids"));
            return Vec::new();
        }
    };
    orgs(checker, &values, &origin, taken)
}

fn entry_switch(
    checker: &mut Checker<'_>,
    file: &ConfigFile,
    place: &str,
    entry: &YamlValue,
) -> bool {
    let Some(value) = entry.get("discover_orgs") else {
        return false;
    };
    let text = value.as_str().unwrap_or(value.type_name());
    switch(text).unwrap_or_else(|right| {
        checker.wrong(&file.origin(format!("{place}.discover_orgs")), text, right);
        false
    })
}

/// The credential of an entry: its parts stand in the file itself, in files that it names, or for
/// what is missing where [`credentials::find`] looks.
fn credential(
    environment: &Environment,
    file: &ConfigFile,
    place: &str,
    name: &str,
    entry: &YamlValue,
) -> Result<Credential, Vec<String>> {
    let mut mistakes = Vec::new();
    let mut parts = PARTS.map(|_| None);
    for (part, found) in PARTS.iter().zip(&mut parts) {
        let (inline, named) = (
            entry.get(part.member),
            entry.get(&format!("{}_file", part.member)),
        );
        *found = match (inline, named.and_then(YamlValue::as_str)) {
            (Some(_), Some(_)) => {
                mistakes.push(format!(
                    "{}: it is given here and in {}_file; give one of them",
                    file.origin(format!("{place}.{}", part.member)),
                    part.member
                ));
                None
            }
            (_, Some(path)) => Some(Source::File(file.dir().join(path))),
            (Some(_), None) if part.secret && is_world_readable(&file.path) => {
                mistakes.push(format!(
                    "{}: a secret stands in a file that everybody may read; run chmod o-r on it, or put the secret into a file of its own and name that as {}_file",
                    file.origin(format!("{place}.{}", part.member)),
                    part.member
                ));
                None
            }
            (Some(_), None) => Some(Source::Member {
                file: file.path.clone(),
                credential: name.to_owned(),
                member: part.member,
            }),
            (None, None) => None,
        };
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    credentials::complete(environment, parts).map_err(|mistakes| {
        let told = mistakes
            .into_iter()
            .map(|mistake| format!("{}: {mistake}", file.origin(place)));
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
