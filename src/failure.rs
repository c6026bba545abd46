//! Explanations of failed requests to Atlas: what each reason means, what to do, and which runbook applies. The log,
//! `check`, the page and the documentation use these alone.

use crate::credentials::Credential;
use mongodb_atlas_client::{Endpoint, Error, ErrorKind, FailureReason};

/// What a reason means, and what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// What happened.
    pub summary: &'static str,
    /// What to do.
    pub remedy: &'static str,
    /// Name of the runbook.
    pub runbook: &'static str,
}

impl Explanation {
    /// Returns the explanation of a reason.
    pub fn for_reason(reason: FailureReason) -> Self {
        let (summary, remedy, runbook) = match reason {
            FailureReason::Unauthorized => (
                "Atlas refuses the credential, or it cannot be read",
                "check that it is whole, not expired and not deleted; a new one is loaded when its file changes",
                "AtlasOrgAccessDenied",
            ),
            FailureReason::Forbidden => (
                "Atlas forbids it to this credential",
                "give it the role Organization Read Only, and let this machine's address into the credential's IP access list",
                "AtlasOrgAccessDenied",
            ),
            FailureReason::NotFound => (
                "Atlas does not know the organization",
                "check its id, and that the credential belongs to it",
                "AtlasOrgAccessDenied",
            ),
            FailureReason::RateLimited => (
                "Atlas asks to slow down",
                "raise --atlas.poll-interval, or find out who else spends this organization's requests",
                "AtlasRequestBudgetTooSmall",
            ),
            FailureReason::ServerError => (
                "Atlas is out of order",
                "nothing is to be done here; MongoDB's status page lists outages",
                "AtlasOrgPollFailing",
            ),
            FailureReason::Timeout => (
                "Atlas has not answered in time",
                "check the network between here and Atlas, or raise --atlas.timeout",
                "AtlasOrgPollFailing",
            ),
            FailureReason::Connection => (
                "there is no connection to Atlas",
                "check name resolution, the proxy and the firewall",
                "AtlasOrgPollFailing",
            ),
            FailureReason::Tls => (
                "Atlas' certificate is not trusted here",
                "check the system's certificates, the clock, and what stands between here and Atlas",
                "AtlasOrgPollFailing",
            ),
            FailureReason::InvalidResponse => (
                "the answer is not what Atlas' API promises",
                "something between here and Atlas may have answered; the exporter's log says more",
                "AtlasOrgPollFailing",
            ),
            FailureReason::Incomplete => (
                "the pages of keys do not come to an end",
                "the exporter's log says which page did not end",
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
                summary: "the service account has 100 live access tokens, and gets no more",
                remedy: "wait for an hour, and look for what starts again and again; --storage.path keeps the token over restarts",
                runbook: "AtlasTokenTrouble",
            },
            ErrorKind::Credential(_) => Self {
                remedy: "put the secret where it is looked for, readable for the exporter's user",
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

/// What a single error means, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// What happened.
    pub summary: String,
    /// What to do.
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
                format!("this machine's address is not on the IP access list (HTTP 403{code})"),
                "put the address that Atlas sees, behind any proxy or NAT, on the API access list of the credential in Atlas",
            )
        }
        ErrorKind::Forbidden(code) => (
            format!("the credential lacks the role (HTTP 403{code})"),
            "give it the role Organization Read Only at this organization; if it has it, look at the IP access list",
        ),
        ErrorKind::NotFound(code) if error.endpoint == Endpoint::Orgs => (
            format!("the organizations cannot be listed (HTTP 404{code})"),
            "check --atlas.base-url, or name the organizations with --atlas.org-id",
        ),
        ErrorKind::NotFound(code) => (
            format!(
                "wrong organization: Atlas knows none of this id for this credential (HTTP 404{code})"
            ),
            "check the id under Organization Settings, and that the credential was made at this organization",
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

/// Explains a 401: the secret is wrong, has expired or was deleted. Atlas does not report which.
fn diagnose_unauthorized(endpoint: Endpoint, code: &str, credential: &Credential) -> Diagnosis {
    let (summary, remedy) = match credential {
        Credential::ServiceAccount { .. } => (
            if endpoint == Endpoint::Token {
                "Atlas refuses the client id and secret: wrong, expired or deleted"
            } else {
                "Atlas refuses a token that it has just made: the service account may not be of this organization"
            },
            "make a new secret for the service account in Atlas and put it in the old one's place; secrets live for a year at most",
        ),
        Credential::ApiKey { .. } => (
            "Atlas refuses the API key: wrong or deleted",
            "check both halves of the key in Atlas, or make a service account instead",
        ),
        Credential::AccessToken { .. } => (
            "Atlas refuses the access token: wrong, or older than an hour",
            "make a new token; for a daemon, use a service account, which makes its own",
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
            "There is no connection to Atlas. Check name resolution, the proxy and the firewall."
        );
    }

    #[test]
    fn errors_that_are_special_cases_have_explanations_of_their_own() {
        let by_reason = Explanation::for_reason(FailureReason::Forbidden);
        let code = ErrorCode::default();
        assert_eq!(
            Explanation::for_error(&ErrorKind::Forbidden(code)),
            by_reason
        );
        let token_limit = Explanation::for_error(&ErrorKind::TokenLimit);
        assert_eq!(token_limit.runbook, "AtlasTokenTrouble");
        assert_ne!(token_limit.remedy, by_reason.remedy, "no role is missing");
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
            (&account, keys, "of this organization"),
            (&token, keys, "older than an hour"),
            (&key, keys, "API key"),
        ] {
            let Diagnosis { summary, remedy } = rejected(credential, endpoint);
            assert!(summary.contains(text) && !remedy.is_empty(), "{summary}");
        }
    }
}
