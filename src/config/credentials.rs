//! Credentials and their organizations: one credential from the environment, or those of the configuration file.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use exporter_toolkit::yaml::YamlValue;
use mongodb_atlas_client::OrgId;

use super::file::{ConfigFile, redact_key};
use super::parse::parse_bool;
use super::resolver::Resolver;
use crate::cli::{FlagValues, ValueSource};
use crate::credentials::{
    self, Credential, CredentialError, CredentialField, Environment, FIELDS, SecretLocation,
};
use exporter_toolkit::diagnostic::Diagnostic;

/// A credential and the organizations that are polled with it.
#[derive(Debug, Clone)]
pub struct CredentialConfig {
    /// Name in metrics and logs.
    pub name: Arc<str>,
    /// Credential for Atlas.
    pub credential: Credential,
    /// Organizations in the configuration.
    pub org_ids: Vec<OrgId>,
    /// Whether all other organizations visible to the credential are polled too.
    pub discover_orgs: bool,
}

/// Name of a credential that has none in the configuration.
const DEFAULT_NAME: &str = "default";
/// Keys of an entry that are not fields of the credential.
const OTHER_KEYS: [&str; 3] = ["name", ORG_IDS, DISCOVER_ORGS];
const ORG_IDS: &str = "org_ids";
const DISCOVER_ORGS: &str = "discover_orgs";
pub(super) const EXPECTED_ORG_ID: &str =
    "an organization id of 24 lower-case hexadecimal digits, such as 32b6e34b3d91647abb20e7b8";

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
        let has_orgs = !credential.org_ids.is_empty() || credential.discover_orgs;
        if !has_orgs && !resolver.is_file_unusable {
            let message = format!(
                "no organization to watch with credential {}",
                credential.name
            );
            let error = Diagnostic::new("", message).with_help(
                "set --atlas.org-id, MONGODB_ATLAS_ORG_ID (comma-separated) or org_ids in the configuration file \
                 (Atlas shows the id under Organization Settings); or set --atlas.discover-orgs",
            );
            resolver.diagnostics.push(error);
        }
    }
    credentials
}

fn from_env(resolver: &mut Resolver<'_>) -> Option<CredentialConfig> {
    let environment = resolver.environment;
    match credentials::from_env(environment) {
        Ok(credential) => Some(validated(
            resolver,
            DEFAULT_NAME,
            credential,
            |field, path| path_variable(environment, field, path),
        )),
        Err(errors) => {
            // Missing fields may be in a file that cannot be used.
            if !resolver.is_file_unusable {
                let errors = errors.iter().map(|error| to_diagnostic("", error));
                resolver.diagnostics.extend(errors);
            }
            // Errors in the organizations are reported too.
            let org_ids = resolver.lookup("atlas.org-id");
            parse_org_ids(resolver, &org_ids, &mut Vec::new());
            None
        }
    }
}

/// Returns the error of a credential at `path`.
fn to_diagnostic(path: &str, error: &CredentialError) -> Diagnostic {
    Diagnostic::new(path, error.to_string()).with_help(error.help())
}

/// Creates the configuration of a credential without organizations. Reports each field that cannot be read, unless the
/// caller of the resolver reads the credentials. `find_setting` returns the setting that names the file of a field.
fn validated(
    resolver: &mut Resolver<'_>,
    name: &str,
    credential: Credential,
    find_setting: impl Fn(&CredentialField, &Path) -> String,
) -> CredentialConfig {
    if resolver.validates_credentials {
        let errors = credential
            .unreadable_fields()
            .map(|(field, location, error)| {
                let setting = match location {
                    SecretLocation::File(path) => find_setting(field, path),
                    // The message contains the location.
                    SecretLocation::EnvVar { .. } | SecretLocation::ConfigKey { .. } => {
                        String::new()
                    }
                };
                Diagnostic::new(setting, error.to_string())
            });
        resolver.diagnostics.extend(errors);
    }
    CredentialConfig {
        name: name.into(),
        credential,
        org_ids: Vec::new(),
        discover_orgs: false,
    }
}

/// Returns the environment variable that names the file of a field.
fn path_variable(environment: &Environment, field: &CredentialField, path: &Path) -> String {
    let variable = format!("{}_FILE", field.env);
    let value = environment.get(&variable);
    if value.is_some_and(|value| Path::new(&value) == path) {
        format!("environment variable {variable}")
    } else {
        "environment variable CREDENTIALS_DIRECTORY".to_owned()
    }
}

/// Adds the organizations from flags and environment.
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
        _ => resolver.diagnostics.push(
            Diagnostic::new(
                org_ids.source.to_string(),
                "ambiguous credential: the configuration file has several credentials",
            )
            .with_help(
                "move the organizations to org_ids of a credential in the configuration file",
            ),
        ),
    }
}

/// Parses organization ids, and adds them to `seen`. Reports an id that is in `seen` already.
fn parse_org_ids(
    resolver: &mut Resolver<'_>,
    ids: &FlagValues,
    seen: &mut Vec<OrgId>,
) -> Vec<OrgId> {
    let mut parsed = Vec::new();
    for value in &ids.values {
        match OrgId::parse(value) {
            Ok(org) if seen.contains(&org) => {
                resolver.reject_duplicate(&ids.source, "organization id", value);
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
        resolver.error(&source, format!("expected a list, got {type_name}"));
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
                entry.reject_name(resolver);
                continue;
            }
        };
        if credentials.iter().any(|other| *other.name == *name) {
            resolver.reject_duplicate(&entry.source("name"), "credential name", name);
            continue;
        }
        entry.check_keys(resolver);
        let org_ids = entry.org_ids(resolver, &mut seen);
        let discover_orgs = entry.discover_orgs(resolver);
        let environment = resolver.environment;
        match entry.credential(environment, name) {
            Ok(credential) => credentials.push(CredentialConfig {
                org_ids,
                discover_orgs,
                ..validated(resolver, name, credential, |field, path| {
                    entry.path_setting(environment, field, path)
                })
            }),
            Err(errors) => resolver.diagnostics.extend(errors),
        }
    }
    credentials
}

/// An entry of the list of credentials.
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

    /// Returns the setting that names the file of a field.
    fn path_setting(
        &self,
        environment: &Environment,
        field: &CredentialField,
        path: &Path,
    ) -> String {
        let key = format!("{}_file", field.config_key);
        match self.value.get(&key) {
            Some(_) => self.source(&key).to_string(),
            None => path_variable(environment, field, path),
        }
    }

    /// Reports a name that is missing, empty or not a text. With several credentials, each needs a name.
    fn reject_name(&self, resolver: &mut Resolver<'_>) {
        let expected = "expected a text (required with several credentials)";
        let got = match self.value.get("name") {
            None if self.value.as_mapping().is_none() => {
                let message = format!("expected fields, got {}", self.value.type_name());
                return resolver.error(&self.file.source(&self.path), message);
            }
            None => {
                let message = format!("missing field \"name\": {expected}");
                return resolver.error(&self.file.source(&self.path), message);
            }
            Some(YamlValue::Scalar(_)) => "an empty text",
            Some(other) => other.type_name(),
        };
        resolver.error(&self.source("name"), format!("{expected}, got {got}"));
    }

    /// Reports unknown fields, and values with an invalid type. Such a value would count as missing, and a secret from another
    /// source would replace it.
    fn check_keys(&self, resolver: &mut Resolver<'_>) {
        let YamlValue::Mapping(entries) = self.value else {
            let type_name = self.value.type_name();
            let message = format!("expected fields, got {type_name}");
            return resolver.error(&self.file.source(&self.path), message);
        };
        let fields = FIELDS.map(|field| field.config_key);
        for (key, value) in entries {
            let field = key.strip_suffix("_file").unwrap_or(key);
            if !OTHER_KEYS.contains(&key.as_str()) && !fields.contains(&field) {
                let message = format!(
                    "unknown field: expected one of {}, {} (credential fields also with _file appended)",
                    OTHER_KEYS.join(", "),
                    fields.join(", ")
                );
                resolver.error(&self.source(key), message);
                resolver.has_unknown_fields = true;
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
                format!("expected a list of organization ids, got {type_name}"),
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

    /// Returns the credential of the entry. Each field is in the configuration file, in a separate file, or otherwise where
    /// [`credentials::from_env`] finds it.
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
            let (message, help) = match (&inline, path.and_then(YamlValue::as_str)) {
                (Some(_), Some(_)) => (
                    format!("conflict with {key}_file"),
                    format!("remove {key} or {key}_file"),
                ),
                (None, Some(path)) => {
                    return Some(SecretLocation::File(self.file.dir().join(path)));
                }
                (Some(location), None)
                    if field.is_secret && location.world_readable_file().is_some() =>
                {
                    (
                        "secret in a world-readable file".to_owned(),
                        format!(
                            "run chmod o-r on the file, or move the secret to another file and set {key}_file"
                        ),
                    )
                }
                (_, None) => return inline,
            };
            let source = self.source(key).to_string();
            errors.push(Diagnostic::new(source, message).with_help(help));
            None
        });
        if !errors.is_empty() {
            return Err(errors);
        }
        credentials::from_file_and_env(environment, locations).map_err(|errors| {
            let path = self.file.source(&self.path).to_string();
            errors
                .iter()
                .map(|error| to_diagnostic(&path, error))
                .collect()
        })
    }
}
