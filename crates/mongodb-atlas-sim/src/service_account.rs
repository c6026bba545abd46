//! The service account of the accepted client credentials, and its secrets.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::faults::Effect;
use crate::keys::set_field;
use crate::model::format_seconds;
use crate::random::{ALPHANUMERIC, random_hex, random_string, rng_from_text};
use crate::scenario::Scenario;

/// Maximum lifetime of a secret in days.
const SECRET_LIFETIME_DAYS: i64 = 365;

/// A secret of the service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimSecret {
    /// `id`.
    pub id: String,
    /// `createdAt`.
    pub created: Timestamp,
    /// `expiresAt`, from which on token requests with the secret are rejected.
    pub expires: Timestamp,
    /// `lastUsedAt`, the time of the last access token; missing if `None`.
    pub last_used: Option<Timestamp>,
    /// The secret, which only [`Effect::Secret`] exposes.
    pub value: String,
}

impl SimSecret {
    /// Returns a secret that was never used. The value determines the id.
    pub fn new(value: &str, created: Timestamp, expires: Timestamp) -> Self {
        Self {
            id: random_hex(&mut rng_from_text(value), 24),
            created,
            expires,
            last_used: None,
            value: value.to_owned(),
        }
    }

    fn to_json(&self) -> Value {
        let suffix = self.value.get(self.value.len().saturating_sub(4)..);
        let mut json = json!({
            "id": self.id,
            "createdAt": format_seconds(self.created),
            "expiresAt": format_seconds(self.expires),
            "maskedSecretValue": format!("mdb_sa_sk_****{}", suffix.unwrap_or_default()),
        });
        if let Some(last_used) = self.last_used {
            set_field(&mut json, "lastUsedAt", &format_seconds(last_used));
        }
        json
    }
}

/// The service account. Its client id is that of [`SimCredentials`](crate::SimCredentials).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimServiceAccount {
    /// Id of its organization, by default the first one. Requests for the account in another organization get 404; with
    /// `None` all get 404, as for a service account of a project.
    pub org: Option<String>,
    /// `name`.
    pub name: String,
    /// `description`; missing if `None`.
    pub description: Option<String>,
    /// `createdAt`.
    pub created: Timestamp,
    /// `roles`.
    pub roles: Vec<String>,
    /// `secrets`. Token requests with secrets that are not listed here are accepted as well.
    pub secrets: Vec<SimSecret>,
}

impl SimServiceAccount {
    /// Creates the service account with the secret `value` and, except in [`Scenario::Expiring`], an older secret that
    /// `value` replaces.
    pub(crate) fn new(
        org: Option<String>,
        value: &str,
        scenario: Scenario,
        now: Timestamp,
    ) -> Self {
        let in_days = |days: i64| {
            let offset = SignedDuration::from_hours(24 * days);
            now.saturating_add(offset).unwrap_or(now)
        };
        let secret = |value: &str, days_left: i64| {
            let created = in_days(days_left - SECRET_LIFETIME_DAYS);
            SimSecret::new(value, created, in_days(days_left))
        };
        let mut secrets = vec![secret(value, scenario.secret_days_left())];
        if scenario != Scenario::Expiring {
            let mut rng = rng_from_text(value);
            let older = format!("mdb_sa_sk_{}", random_string(&mut rng, 40, ALPHANUMERIC));
            secrets.push(SimSecret {
                last_used: Some(in_days(-40)),
                ..secret(&older, 20)
            });
        }
        Self {
            org,
            name: "atlas-ai-keys-exporter".to_owned(),
            description: Some("Reads AI model API keys for monitoring".to_owned()),
            created: in_days(-400),
            roles: vec!["ORG_READ_ONLY".to_owned()],
            secrets,
        }
    }

    /// Returns whether the secret with this value is listed and has expired.
    pub(crate) fn is_expired(&self, value: &str, now: Timestamp) -> bool {
        let mut secrets = self.secrets.iter();
        secrets.any(|secret| secret.value == value && secret.expires <= now)
    }

    /// Records that an access token was issued for the secret with this value.
    pub(crate) fn mark_used(&mut self, value: &str, now: Timestamp) {
        for secret in &mut self.secrets {
            if secret.value == value {
                secret.last_used = Some(now);
            }
        }
    }

    /// Returns the response of the API, with the faults that concern its content.
    pub(crate) fn to_json(&self, client_id: &str, effects: &[Effect]) -> Value {
        let secrets = self.secrets.iter().enumerate().map(|(index, secret)| {
            let mut json = secret.to_json();
            apply_secret_faults(&mut json, secret, index, effects);
            json
        });
        let mut json = json!({
            "clientId": client_id,
            "createdAt": format_seconds(self.created),
            "name": self.name,
            "roles": self.roles,
            "secrets": secrets.collect::<Vec<_>>(),
        });
        if let Some(description) = &self.description {
            set_field(&mut json, "description", description);
        }
        json
    }
}

fn apply_secret_faults(json: &mut Value, secret: &SimSecret, index: usize, effects: &[Effect]) {
    for effect in effects {
        match effect {
            Effect::Secret => set_field(json, "secret", &secret.value),
            // The first secret is included, because a service account rarely has more than two.
            Effect::MissingFields { fields: missing } if index.is_multiple_of(2) => {
                if let Some(fields) = json.as_object_mut() {
                    fields.retain(|name, _| !missing.contains(name));
                }
            }
            Effect::InvalidTimestamps if index.is_multiple_of(2) => {
                set_field(json, "createdAt", "the day before yesterday");
                set_field(json, "expiresAt", "2027-02-30T00:00:00Z");
                set_field(json, "lastUsedAt", "2026-13-45T99:99:99Z");
            }
            _ => {}
        }
    }
}
