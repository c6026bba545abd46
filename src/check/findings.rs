//! One finding, and how bad it is.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It could not be looked at.
    Skipped,
    /// It works, and may still not be what was meant.
    Warning,
    /// It does not work.
    Error,
}

impl Severity {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// Flags, variables and the configuration file.
    Configuration,
    /// `--web.config.file`.
    WebConfiguration,
    /// A credential and its files.
    Credential,
    /// `--storage.path`.
    Storage,
    /// An address to listen on.
    Listener,
    /// Where access tokens are made.
    Token,
    /// An organization, seen with its credential.
    Organization,
    /// The time of day, against Atlas'.
    Clock,
    /// Requests that a round needs, against those that Atlas allows.
    Budget,
}

impl Component {
    /// The words for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::WebConfiguration => "web configuration",
            Self::Credential => "credential",
            Self::Storage => "storage",
            Self::Listener => "listener",
            Self::Token => "token endpoint",
            Self::Organization => "organization",
            Self::Clock => "clock",
            Self::Budget => "request budget",
        }
    }

    /// Whether an error here means that the call or the configuration is wrong, rather than the world.
    pub fn is_configuration(self) -> bool {
        matches!(
            self,
            Self::Configuration | Self::WebConfiguration | Self::Credential
        )
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    #[serde(rename = "grade")]
    pub severity: Severity,
    /// What it is about.
    #[serde(rename = "area")]
    pub component: Component,
    /// Which of them: a file, a credential, an organization.
    pub subject: String,
    /// What is the matter. Repeats no secret.
    #[serde(rename = "finding")]
    pub message: String,
    /// What to do; there is always something where the grade is a warning or an error.
    #[serde(rename = "action")]
    pub help: Option<String>,
}

impl Finding {
    pub(super) fn ok(
        area: Component,
        subject: impl Into<String>,
        finding: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Ok,
            component: area,
            subject: subject.into(),
            message: finding.into(),
            help: None,
        }
    }

    pub(super) fn skipped(
        area: Component,
        subject: impl Into<String>,
        finding: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Skipped,
            ..Self::ok(area, subject, finding)
        }
    }

    pub(super) fn warning(
        area: Component,
        subject: impl Into<String>,
        finding: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            help: Some(action.into()),
            ..Self::ok(area, subject, finding)
        }
    }

    pub(super) fn error(
        area: Component,
        subject: impl Into<String>,
        finding: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            ..Self::warning(area, subject, finding, action)
        }
    }
}
