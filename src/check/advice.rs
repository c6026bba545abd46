//! What an error of Atlas means to a person, and what to do.

use crate::credentials::Credential;
use mongodb_atlas_client::{Endpoint, Error, ErrorKind};

/// What is the matter, and what to do about it.
pub(super) fn remediation_for(error: &Error, credential: &Credential) -> (String, String) {
    let (what, action) = match &error.kind {
        ErrorKind::Unauthorized(code) => {
            return unauthorized(error.endpoint, &code.to_string(), credential);
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
        ErrorKind::TokenLimit => (
            "the service account has 100 live access tokens, and gets no more".to_owned(),
            "wait for an hour, and look for what starts again and again; --storage.path keeps the token over restarts",
        ),
        ErrorKind::RateLimited { .. } => (
            error.kind.to_string(),
            "wait for a minute and check again; find out who else spends this organization's requests",
        ),
        ErrorKind::ServerError { .. } => (
            error.kind.to_string(),
            "nothing here: check again later, and see Atlas' status page",
        ),
        ErrorKind::Timeout { .. } => (
            error.kind.to_string(),
            "see that this machine reaches --atlas.base-url: name resolution, proxy, firewall",
        ),
        ErrorKind::Connection(_) => (
            error.kind.to_string(),
            "see that this machine reaches --atlas.base-url: name resolution, HTTPS_PROXY, firewall",
        ),
        ErrorKind::Tls(_) => (
            error.kind.to_string(),
            "install the system's certificates (ca-certificates), or those of the proxy in between; check this machine's clock",
        ),
        ErrorKind::InvalidResponse(_) | ErrorKind::PaginationIncomplete(_) => (
            error.kind.to_string(),
            "see what answers at --atlas.base-url: a proxy, a login page, another service?",
        ),
        ErrorKind::Credential(_) => (
            error.kind.to_string(),
            "put the secret where it is looked for, readable for the exporter's user",
        ),
    };
    (what, action.to_owned())
}

/// 401: the secret is wrong, has expired or was deleted. Which of them Atlas does not say.
fn unauthorized(endpoint: Endpoint, code: &str, credential: &Credential) -> (String, String) {
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
    use crate::credentials::{Environment, SecretLocation};
    use mongodb_atlas_client::ErrorCode;

    fn source() -> SecretLocation {
        SecretLocation::EnvVar {
            name: "X".to_owned(),
            environment: Environment::from_vars([("", "")]),
        }
    }

    #[test]
    fn missing_role_differs_from_ip_access_list() {
        let credential = Credential::AccessToken { token: source() };
        let what = |code| {
            let error =
                ErrorKind::Forbidden(ErrorCode::new(code)).with_endpoint(Endpoint::AiModelApiKeys);
            remediation_for(&error, &credential).0
        };
        assert!(what("IP_ADDRESS_NOT_ON_ACCESS_LIST").contains("IP access list"));
        for code in ["USER_UNAUTHORIZED", ""] {
            assert!(what(code).contains("lacks the role"), "{code}");
        }
    }

    #[test]
    fn unauthorized_errors_name_the_rejected_part() {
        let refused = |credential: &Credential, endpoint| {
            let error = ErrorKind::Unauthorized(ErrorCode::default()).with_endpoint(endpoint);
            remediation_for(&error, credential)
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
