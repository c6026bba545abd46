//! Explanations of failed requests to Atlas: what each reason means, what to do, and which runbook applies. The log,
//! `check`, the page and the documentation all use these texts.

use crate::credentials::Credential;
use mongodb_atlas_client::{Endpoint, Error, ErrorKind, FailureReason};

/// The meaning of a failure reason, and the remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// The failure.
    pub summary: &'static str,
    /// The action that fixes the failure.
    pub remedy: &'static str,
    /// Name of the runbook.
    pub runbook: &'static str,
}

impl Explanation {
    /// Returns the explanation of a reason.
    pub fn for_reason(reason: FailureReason) -> Self {
        let (summary, remedy, runbook) = match reason {
            FailureReason::Unauthorized => (
                "Atlas rejected the credential, or the credential cannot be read",
                "check that the secret is complete, not expired and not deleted; a changed file is loaded automatically",
                "AtlasOrgAccessDenied",
            ),
            FailureReason::Forbidden => (
                "the credential lacks permission",
                "give the credential the role Organization Read Only, and add the exporter's IP address to the credential's IP access list",
                "AtlasOrgAccessDenied",
            ),
            FailureReason::NotFound => (
                "organization not found for this credential",
                "check the organization id, and that the credential belongs to the organization",
                "AtlasOrgAccessDenied",
            ),
            FailureReason::RateLimited => (
                "Atlas rate limit exceeded",
                "increase --atlas.poll-interval, or find other programs that use the rate limit of the organization",
                "AtlasRequestBudgetTooSmall",
            ),
            FailureReason::ServerError => (
                "Atlas returned a server error",
                "no action needed: polls are retried automatically; MongoDB's status page lists outages",
                "AtlasOrgPollFailing",
            ),
            FailureReason::Timeout => (
                "Atlas did not respond in time",
                "check the network between the exporter and Atlas, or increase --atlas.timeout",
                "AtlasOrgPollFailing",
            ),
            FailureReason::Connection => (
                "connection to Atlas failed",
                "check DNS, proxy and firewall",
                "AtlasOrgPollFailing",
            ),
            FailureReason::Tls => (
                "TLS certificate of Atlas not trusted",
                "check the system's CA certificates, the clock, and proxies that intercept TLS",
                "AtlasOrgPollFailing",
            ),
            FailureReason::InvalidResponse => (
                "unexpected response from Atlas",
                "check for a proxy or login page; the exporter's log has the details",
                "AtlasOrgPollFailing",
            ),
            FailureReason::Incomplete => (
                "the list of keys is incomplete",
                "see the exporter's log for the page and the cause",
                "AtlasOrgPollFailing",
            ),
        };
        Self {
            summary,
            remedy,
            runbook,
        }
    }

    /// Returns the explanation of an error: that of its reason, unless the error is a special case of it.
    pub fn for_error(kind: &ErrorKind) -> Self {
        let by_reason = Self::for_reason(kind.reason());
        match kind {
            ErrorKind::TokenLimit => Self {
                summary: "the service account has 100 valid access tokens, the maximum",
                remedy: "wait for an hour, and find the program that restarts repeatedly; with --storage.path the token is stored across restarts",
                runbook: "AtlasTokenTrouble",
            },
            ErrorKind::Credential(_) => Self {
                remedy: "make the secret readable for the exporter's user at its configured location",
                ..by_reason
            },
            _ => by_reason,
        }
    }

    /// Returns summary and remedy as two sentences.
    pub fn to_sentences(self) -> String {
        let sentence = |text: &str| match text.split_at_checked(1) {
            Some((first, rest)) => format!("{}{rest}.", first.to_uppercase()),
            None => String::new(),
        };
        format!("{} {}", sentence(self.summary), sentence(self.remedy))
    }
}

/// The meaning of a single error, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The failure.
    pub summary: String,
    /// The action that fixes the failure.
    pub remedy: &'static str,
}

/// Explains an error as precisely as endpoint, response and credential allow.
pub fn diagnose(error: &Error, credential: &Credential) -> Diagnosis {
    let (summary, remedy) = match &error.kind {
        ErrorKind::Unauthorized(code) => {
            return diagnose_unauthorized(error.endpoint, &code.to_string(), credential);
        }
        ErrorKind::Forbidden(code)
            if code.contains("ACCESS_LIST") || code.contains("WHITELIST") =>
        {
            (
                format!("this machine's IP address is not on the IP access list (HTTP 403{code})"),
                "add the IP address that Atlas sees, behind any proxy or NAT, to the credential's API access list in Atlas",
            )
        }
        ErrorKind::Forbidden(code) => (
            format!("the credential lacks the role Organization Read Only (HTTP 403{code})"),
            "give the credential the role in this organization; if it has the role, check the IP access list",
        ),
        ErrorKind::NotFound(code) if error.endpoint == Endpoint::Orgs => (
            format!("organization list not found (HTTP 404{code})"),
            "check --atlas.base-url, or set the organizations with --atlas.org-id",
        ),
        ErrorKind::NotFound(code) => (
            format!("organization not found for this credential (HTTP 404{code})"),
            "check the id under Organization Settings, and that the credential belongs to this organization",
        ),
        kind => {
            let explanation = Explanation::for_error(kind);
            let summary = match kind {
                ErrorKind::TokenLimit => explanation.summary.to_owned(),
                _ => kind.to_string(),
            };
            (summary, explanation.remedy)
        }
    };
    Diagnosis { summary, remedy }
}

/// Explains a 401: the secret is invalid, has expired or was deleted. Atlas does not report which.
fn diagnose_unauthorized(endpoint: Endpoint, code: &str, credential: &Credential) -> Diagnosis {
    let (summary, remedy) = match credential {
        Credential::ServiceAccount { .. } => (
            if endpoint == Endpoint::Token {
                "Atlas rejected the client id and secret: invalid, expired or deleted"
            } else {
                "Atlas rejected a new access token: the service account may belong to another organization"
            },
            "create a new secret for the service account in Atlas and replace the old one; secrets are valid for a year at most",
        ),
        Credential::ApiKey { .. } => (
            "Atlas rejected the API key: invalid or deleted",
            "check the public and the private key in Atlas, or create a service account instead",
        ),
        Credential::AccessToken { .. } => (
            "Atlas rejected the access token: invalid, or older than an hour",
            "create a new token; for a long-running exporter, use a service account, which requests tokens automatically",
        ),
    };
    Diagnosis {
        summary: format!("{summary} (HTTP 401{code})"),
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{Environment, SecretLocation};
    use mongodb_atlas_client::{ErrorCode, SecretError};

    fn source() -> SecretLocation {
        SecretLocation::EnvVar {
            name: "X".to_owned(),
            environment: Environment::from_vars([("", "")]),
        }
    }

    #[test]
    fn explanations_are_two_sentences() {
        assert_eq!(
            Explanation::for_reason(FailureReason::Connection).to_sentences(),
            "Connection to Atlas failed. Check DNS, proxy and firewall."
        );
    }

    #[test]
    fn special_case_errors_have_their_own_explanations() {
        let by_reason = Explanation::for_reason(FailureReason::Forbidden);
        let code = ErrorCode::default();
        assert_eq!(
            Explanation::for_error(&ErrorKind::Forbidden(code)),
            by_reason
        );
        let token_limit = Explanation::for_error(&ErrorKind::TokenLimit);
        assert_eq!(token_limit.runbook, "AtlasTokenTrouble");
        assert_ne!(
            token_limit.remedy, by_reason.remedy,
            "a missing role is not the cause"
        );
        let secret = SecretError::Empty {
            place: "X".to_owned(),
        };
        let unreadable = Explanation::for_error(&ErrorKind::Credential(secret));
        assert!(unreadable.remedy.contains("readable"), "{unreadable:?}");
    }

    #[test]
    fn missing_role_differs_from_ip_access_list() {
        let credential = Credential::AccessToken { token: source() };
        let summary = |code| {
            let error =
                ErrorKind::Forbidden(ErrorCode::new(code)).with_endpoint(Endpoint::AiModelApiKeys);
            diagnose(&error, &credential).summary
        };
        assert!(summary("IP_ADDRESS_NOT_ON_ACCESS_LIST").contains("IP access list"));
        for code in ["USER_UNAUTHORIZED", ""] {
            assert!(summary(code).contains("lacks the role"), "{code}");
        }
    }

    #[test]
    fn unauthorized_errors_name_the_rejected_part() {
        let rejected = |credential: &Credential, endpoint| {
            let error = ErrorKind::Unauthorized(ErrorCode::default()).with_endpoint(endpoint);
            diagnose(&error, credential)
        };
        let account = Credential::ServiceAccount {
            id: source(),
            secret: source(),
        };
        let token = Credential::AccessToken { token: source() };
        let key = Credential::ApiKey {
            public: source(),
            private: source(),
        };
        let keys = Endpoint::AiModelApiKeys;
        for (credential, endpoint, text) in [
            (&account, Endpoint::Token, "client id and secret"),
            (&account, keys, "another organization"),
            (&token, keys, "older than an hour"),
            (&key, keys, "API key"),
        ] {
            let Diagnosis { summary, remedy } = rejected(credential, endpoint);
            assert!(summary.contains(text) && !remedy.is_empty(), "{summary}");
        }
    }
}
