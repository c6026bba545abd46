//! Credentials, each with its organizations: one from flags and environment, or those of the configuration file.

use std::rc::Rc;
use std::sync::Arc;

use exporter_toolkit::yaml::YamlValue;
use mongodb_atlas_client::OrgId;

use super::file::{ConfigFile, redact_key};
use super::parse::parse_bool;
use super::resolver::Resolver;
use crate::cli::{FlagValues, ValueSource};
use crate::credentials::{self, Credential, Environment, FIELDS, SecretLocation};
use exporter_toolkit::diagnostic::Diagnostic;

/// A credential and the organizations that are polled with it.
#[derive(Debug, Clone)]
pub struct CredentialConfig {
    /// Name in metrics and logs.
    pub name: Arc<str>,
    /// Credential for Atlas.
    pub credential: Credential,
    /// Organizations that are listed.
    pub org_ids: Vec<OrgId>,
    /// Whether all other organizations visible to the credential are polled as well.
    pub discover_orgs: bool,
}

/// Name of a credential without one.
const DEFAULT_NAME: &str = "default";
/// Keys of an entry beside the fields of the credential.
const OTHER_KEYS: [&str; 3] = ["name", ORG_IDS, DISCOVER_ORGS];
const ORG_IDS: &str = "org_ids";
const DISCOVER_ORGS: &str = "discover_orgs";
const EXPECTED_ORG_ID: &str =
    "an organization id, 24 hexadecimal digits in lower case such as 32b6e34b3d91647abb20e7b8";

/// Resolves all credentials. Errors are collected in `resolver`.
pub(super) fn resolve(resolver: &mut Resolver<'_>) -> Vec<CredentialConfig> {
    let file = resolver.file.as_ref().map(Rc::clone);
    let entries = file
        .as_deref()
        .and_then(|file| Some((file, file.credentials()?)));
    let mut credentials = match entries {
        Some((file, entries)) => from_file(resolver, file, entries),
        None => from_env(resolver).into_iter().collect(),
    };
    add_orgs(resolver, &mut credentials);
    let discover_all = resolver.get_bool("atlas.discover-orgs") == Some(true);
    for credential in &mut credentials {
        credential.discover_orgs |= discover_all;
        if credential.org_ids.is_empty() && !credential.discover_orgs {
            resolver.errors([format!(
                "no organization to watch with credential {}: give --atlas.org-id, or MONGODB_ATLAS_ORG_ID with commas between several, \
                 or org_ids in the configuration file (Atlas shows the id under Organization Settings); or --atlas.discover-orgs",
                credential.name
            )]);
        }
    }
    credentials
}

fn from_env(resolver: &mut Resolver<'_>) -> Option<CredentialConfig> {
    match credentials::from_env(resolver.environment) {
        Ok(credential) => Some(validated(resolver, DEFAULT_NAME, credential)),
        Err(errors) => {
            resolver.errors(errors);
            // The organizations are checked all the same.
            let org_ids = resolver.lookup("atlas.org-id");
            parse_org_ids(resolver, &org_ids, &mut Vec::new());
            None
        }
    }
}

/// Creates the configuration of a credential without organizations. Reports each field that cannot be read.
fn validated(resolver: &mut Resolver<'_>, name: &str, credential: Credential) -> CredentialConfig {
    resolver.errors(credential.validate());
    CredentialConfig {
        name: name.into(),
        credential,
        org_ids: Vec::new(),
        discover_orgs: false,
    }
}

/// Adds the organizations of flags and environment.
fn add_orgs(resolver: &mut Resolver<'_>, credentials: &mut [CredentialConfig]) {
    let org_ids = resolver.lookup("atlas.org-id");
    if org_ids.values.is_empty() {
        return;
    }
    match credentials {
        [] => {}
        [credential] => {
            let mut seen = credential.org_ids.clone();
            let added = parse_org_ids(resolver, &org_ids, &mut seen);
            credential.org_ids.extend(added);
        }
        _ => resolver.error(
            &org_ids.source,
            "there are several credentials, and it does not say which of them watches these organizations; put them under org_ids of one in the configuration file",
        ),
    }
}

/// Parses organization ids, of which none may be in `seen` already, or twice.
fn parse_org_ids(
    resolver: &mut Resolver<'_>,
    ids: &FlagValues,
    seen: &mut Vec<OrgId>,
) -> Vec<OrgId> {
    let mut parsed = Vec::new();
    for value in &ids.values {
        match OrgId::parse(value) {
            Ok(org) if seen.contains(&org) => {
                resolver.reject(&ids.source, value, "given once: it is there twice");
            }
            Ok(org) => {
                seen.push(org.clone());
                parsed.push(org);
            }
            Err(_) => resolver.reject(&ids.source, value, EXPECTED_ORG_ID),
        }
    }
    parsed
}

fn from_file(
    resolver: &mut Resolver<'_>,
    file: &ConfigFile,
    list: &YamlValue,
) -> Vec<CredentialConfig> {
    let source = file.source("credentials");
    let YamlValue::Sequence(values) = list else {
        let type_name = list.type_name();
        resolver.error(&source, format!("it is {type_name}, and must be a list"));
        return Vec::new();
    };
    if values.is_empty() {
        resolver.error(
            &source,
            "expected at least one credential, got an empty list",
        );
    }
    let mut seen = Vec::new();
    let mut credentials: Vec<CredentialConfig> = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let path = format!("credentials[{index}]");
        let entry = CredentialEntry { file, path, value };
        let name = match value.get("name").and_then(YamlValue::as_str) {
            Some(name) if !name.is_empty() => name,
            _ if values.len() == 1 => DEFAULT_NAME,
            _ => {
                let source = file.source(&entry.path);
                resolver.error(&source, "it needs a name, since there are several");
                continue;
            }
        };
        if credentials.iter().any(|other| *other.name == *name) {
            let expected = "a name of its own: it is there twice";
            resolver.reject(&entry.source("name"), name, expected);
            continue;
        }
        entry.check_keys(resolver);
        let org_ids = entry.org_ids(resolver, &mut seen);
        let discover_orgs = entry.discover_orgs(resolver);
        match entry.credential(resolver.environment, name) {
            Ok(credential) => credentials.push(CredentialConfig {
                org_ids,
                discover_orgs,
                ..validated(resolver, name, credential)
            }),
            Err(errors) => resolver.diagnostics.extend(errors),
        }
    }
    credentials
}

/// An entry in the list of credentials.
struct CredentialEntry<'a> {
    file: &'a ConfigFile,
    /// Path in the file, such as `credentials[0]`.
    path: String,
    value: &'a YamlValue,
}

impl CredentialEntry<'_> {
    fn source(&self, key: &str) -> ValueSource {
        self.file
            .source(format!("{}.{}", self.path, redact_key(key)))
    }

    /// Reports unknown keys and values of the wrong type. A value of the wrong type would count as missing, and a secret
    /// from another source would replace it.
    fn check_keys(&self, resolver: &mut Resolver<'_>) {
        let YamlValue::Mapping(entries) = self.value else {
            let type_name = self.value.type_name();
            let message = format!("it is {type_name}, and must have members");
            return resolver.error(&self.file.source(&self.path), message);
        };
        let fields = FIELDS.map(|field| field.config_key);
        for (key, value) in entries {
            let field = key.strip_suffix("_file").unwrap_or(key);
            if !OTHER_KEYS.contains(&key.as_str()) && !fields.contains(&field) {
                let message = format!(
                    "there is no such member; it must be one of {}, {}, each of the latter also with _file behind it",
                    OTHER_KEYS.join(", "),
                    fields.join(", ")
                );
                resolver.error(&self.source(key), message);
            }
            if value.as_str().is_none() && ![ORG_IDS, DISCOVER_ORGS].contains(&key.as_str()) {
                let message = format!("expected a text, got {}", value.type_name());
                resolver.error(&self.source(key), message);
            }
        }
    }

    fn org_ids(&self, resolver: &mut Resolver<'_>, seen: &mut Vec<OrgId>) -> Vec<OrgId> {
        let source = self.source(ORG_IDS);
        let value = match self.value.get(ORG_IDS) {
            None | Some(YamlValue::Null) => return Vec::new(),
            Some(value) => value,
        };
        let values = match value {
            YamlValue::Sequence(items) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect(),
            _ => None,
        };
        let Some(values) = values else {
            let type_name = value.type_name();
            resolver.error(
                &source,
                format!("it is {type_name}, and must be a list of ids"),
            );
            return Vec::new();
        };
        parse_org_ids(resolver, &FlagValues { values, source }, seen)
    }

    fn discover_orgs(&self, resolver: &mut Resolver<'_>) -> bool {
        let Some(value) = self.value.get(DISCOVER_ORGS) else {
            return false;
        };
        let text = value.as_str().unwrap_or(value.type_name());
        parse_bool(text).unwrap_or_else(|expected| {
            resolver.reject(&self.source(DISCOVER_ORGS), text, expected);
            false
        })
    }

    /// Returns the credential of the entry. Each field is in the file itself, in a file that the entry names, or
    /// otherwise where [`credentials::from_env`] finds it.
    fn credential(
        &self,
        environment: &Environment,
        name: &str,
    ) -> Result<Credential, Vec<Diagnostic>> {
        let mut errors = Vec::new();
        let locations = FIELDS.each_ref().map(|field| {
            let key = field.config_key;
            let inline = self.value.get(key).map(|_| SecretLocation::ConfigKey {
                file: self.file.path.clone(),
                credential: name.to_owned(),
                key,
            });
            let path = self.value.get(&format!("{key}_file"));
            let error = match (&inline, path.and_then(YamlValue::as_str)) {
                (Some(_), Some(_)) => {
                    format!("it is given here and in {key}_file; give one of them")
                }
                (None, Some(path)) => {
                    return Some(SecretLocation::File(self.file.dir().join(path)));
                }
                (Some(location), None)
                    if field.is_secret && location.world_readable_file().is_some() =>
                {
                    format!(
                        "a secret stands in a file that everybody may read; run chmod o-r on it, or put the secret into a file of its own and name that as {key}_file"
                    )
                }
                (_, None) => return inline,
            };
            errors.push(Diagnostic::new(self.source(key).to_string(), error));
            None
        });
        if !errors.is_empty() {
            return Err(errors);
        }
        credentials::from_file_and_env(environment, locations).map_err(|errors| {
            let path = self.file.source(&self.path).to_string();
            let errors = errors.into_iter();
            errors
                .map(|error| Diagnostic::new(path.as_str(), error.to_string()))
                .collect()
        })
    }
}
