//! Findings and their severity.

use serde::Serialize;

use crate::closed_list::closed_list;

closed_list! {
    /// Severity of a finding.
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Severity {
        /// No error was found.
        Ok = "ok",
        /// The check did not run.
        Skipped = "skipped",
        /// The exporter works, but perhaps not as intended.
        Warning = "warning",
        /// The exporter does not work.
        Error = "error",
    }
}

closed_list! {
    /// The part of the exporter that a finding is about.
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Component {
        /// Flags, environment variables and the configuration file.
        Configuration = "configuration",
        /// `--web.config.file`.
        WebConfiguration = "web configuration",
        /// A credential and its files.
        Credential = "credential",
        /// `--storage.path`.
        Storage = "storage",
        /// A listen address.
        Listener = "listener",
        /// The endpoint that issues access tokens.
        Token = "token endpoint",
        /// The client secret of a service account.
        ClientSecret = "client secret",
        /// An organization, as visible to its credential.
        Organization = "organization",
        /// The clock, compared with that of Atlas.
        Clock = "clock",
        /// Requests of a poll, compared with the rate limit.
        RateLimit = "rate limit",
    }
}

impl Component {
    /// Returns whether an error in this component is an invalid command line or configuration.
    pub fn is_configuration(self) -> bool {
        matches!(
            self,
            Self::Configuration | Self::WebConfiguration | Self::Credential
        )
    }
}

/// A result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Severity of the finding.
    pub severity: Severity,
    /// The part of the exporter that was checked.
    pub component: Component,
    /// The file, credential or organization that was checked.
    pub subject: String,
    /// Result of the check. Contains no secret.
    pub message: String,
    /// Remedy; always set for warnings and errors.
    pub hint: Option<String>,
}

/// Component and subject of a check. Creates the findings of the check.
#[derive(Debug, Clone)]
pub(super) struct Topic {
    component: Component,
    subject: String,
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "callers pass texts and errors alike"
)]
impl Topic {
    pub(super) fn new(component: Component, subject: impl ToString) -> Self {
        Self {
            component,
            subject: subject.to_string(),
        }
    }

    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    fn finding(&self, severity: Severity, message: impl ToString, hint: Option<String>) -> Finding {
        Finding {
            severity,
            component: self.component,
            subject: self.subject.clone(),
            message: message.to_string(),
            hint,
        }
    }

    pub(super) fn ok(&self, message: impl ToString) -> Finding {
        self.finding(Severity::Ok, message, None)
    }

    pub(super) fn skipped(&self, message: impl ToString) -> Finding {
        self.finding(Severity::Skipped, message, None)
    }

    pub(super) fn warning(&self, message: impl ToString, hint: impl Into<String>) -> Finding {
        self.finding(Severity::Warning, message, Some(hint.into()))
    }

    pub(super) fn error(&self, message: impl ToString, hint: impl Into<String>) -> Finding {
        self.finding(Severity::Error, message, Some(hint.into()))
    }
}
