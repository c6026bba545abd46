//! What an error of Atlas means to a person, and what to do.

use crate::credentials::Credential;
use mongodb_atlas_client::{Endpoint, Error, Problem};

/// What is the matter, and what to do about it.
pub(super) fn on(error: &Error, credential: &Credential) -> (String, String) {
    let (what, action) = match &error.problem {
        Problem::Unauthorized(code) => {
            return refused(error.endpoint, &code.to_string(), credential);
        }
        Problem::Forbidden(code) if code.contains("ACCESS_LIST") || code.contains("WHITELIST") => (
            format!("this machine's address is not on the IP access list (HTTP 403{code})"),
            "put the address that Atlas sees, behind any proxy or NAT, on the API access list of the credential in Atlas",
        ),
        Problem::Forbidden(code) => (
            format!("the credential lacks the role (HTTP 403{code})"),
            "give it the role Organization Read Only at this organization; if it has it, look at the IP access list",
        ),
        Problem::NotFound(code) if error.endpoint == Endpoint::Orgs => (
            format!("the organizations cannot be listed (HTTP 404{code})"),
            "check --atlas.base-url, or name the organizations with --atlas.org-id",
        ),
        Problem::NotFound(code) => (
            format!(
                "wrong organization: Atlas knows none of this id for this credential (HTTP 404{code})"
            ),
            "check the id under Organization Settings, and that the credential was made at this organization",
        ),
        Problem::TokenLimit => (
            "the service account has 100 live access tokens, and gets no more".to_owned(),
            "wait for an hour, and look for what starts again and again; --storage.path keeps the token over restarts",
        ),
        Problem::RateLimited { .. } => (
            error.problem.to_string(),
            "wait for a minute and check again; find out who else spends this organization's requests",
        ),
        Problem::Server { .. } => (
            error.problem.to_string(),
            "nothing here: check again later, and see Atlas' status page",
        ),
        Problem::Timeout { .. } => (
            error.problem.to_string(),
            "see that this machine reaches --atlas.base-url: name resolution, proxy, firewall",
        ),
        Problem::Connection(_) => (
            error.problem.to_string(),
            "see that this machine reaches --atlas.base-url: name resolution, HTTPS_PROXY, firewall",
        ),
        Problem::Tls(_) => (
            error.problem.to_string(),
            "install the system's certificates (ca-certificates), or those of the proxy in between; check this machine's clock",
        ),
        Problem::Invalid(_) | Problem::Incomplete(_) => (
            error.problem.to_string(),
            "see what answers at --atlas.base-url: a proxy, a login page, another service?",
        ),
        Problem::Credential(_) => (
            error.problem.to_string(),
            "put the secret where it is looked for, readable for the exporter's user",
        ),
    };
    (what, action.to_owned())
}

/// 401: the secret is wrong, has expired or was deleted. Which of them Atlas does not say.
fn refused(endpoint: Endpoint, code: &str, credential: &Credential) -> (String, String) {
    let what = match (credential, endpoint) {
        (Credential::ServiceAccount { .. }, Endpoint::Token) => {
            "Atlas refuses the client id and secret: wrong, expired or deleted"
        }
        (Credential::ServiceAccount { .. }, _) => {
            "Atlas refuses a token that it has just made: the service account may not be of this organization"
        }
        (Credential::ApiKey { .. }, _) => "Atlas refuses the API key: wrong or deleted",
        (Credential::AccessToken { .. }, _) => {
            "Atlas refuses the access token: wrong, or older than an hour"
        }
    };
    let action = match credential {
        Credential::ServiceAccount { .. } => {
            "make a new secret for the service account in Atlas and put it in the old one's place; secrets live for a year at most"
        }
        Credential::ApiKey { .. } => {
            "check both halves of the key in Atlas, or make a service account instead"
        }
        Credential::AccessToken { .. } => {
            "make a new token; for a daemon, use a service account, which makes its own"
        }
    };
    (format!("{what} (HTTP 401{code})"), action.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{Environment, Source};
    use mongodb_atlas_client::ErrorCode;

    fn source() -> Source {
        Source::Variable {
            name: "X".to_owned(),
            environment: Environment::fixed([("", "")]),
        }
    }

    #[test]
    fn a_missing_role_is_told_from_the_access_list() {
        let credential = Credential::AccessToken { token: source() };
        let what = |code| {
            let error = Problem::Forbidden(ErrorCode::new(code)).at(Endpoint::AiModelApiKeys);
            on(&error, &credential).0
        };
        assert!(what("IP_ADDRESS_NOT_ON_ACCESS_LIST").contains("IP access list"));
        for code in ["USER_UNAUTHORIZED", ""] {
            assert!(what(code).contains("lacks the role"), "{code}");
        }
    }

    #[test]
    fn a_refusal_says_which_part_is_refused() {
        let refused = |credential: &Credential, endpoint| {
            let error = Problem::Unauthorized(ErrorCode::default()).at(endpoint);
            on(&error, credential)
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
        for (credential, endpoint, words) in [
            (&account, Endpoint::Token, "client id and secret"),
            (&account, keys, "of this organization"),
            (&token, keys, "older than an hour"),
            (&key, keys, "API key"),
        ] {
            let (what, action) = refused(credential, endpoint);
            assert!(what.contains(words) && !action.is_empty(), "{what}");
        }
    }
}
