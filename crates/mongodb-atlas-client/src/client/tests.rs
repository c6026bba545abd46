//! Requests of one client, with responses that the test defines.

use std::sync::Mutex;

use futures_util::future::BoxFuture;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use reqwest::{Request, StatusCode};

use super::*;
use crate::credential::{SecretError, SecretFuture, SecretSource, StaticSecret};
use crate::transport::Response;

const CLIENT_ID: &str = "mdb_sa_id_69681d39c9e8cfd375386316";
const ACCOUNT_PATH: &str = "/api/atlas/v2/orgs/32b6e34b3d91647abb20e7b8/serviceAccounts/";

/// Issues tokens, and responds to all other requests with one status and body. Records paths and accepted types.
#[derive(Default)]
struct ScriptedTransport {
    token_status: Option<u16>,
    status: u16,
    body: &'static str,
    requests: Mutex<Vec<(String, String)>>,
}

impl Transport for ScriptedTransport {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, ErrorKind>> {
        let path = request.url().path().to_owned();
        let (status, body) = if path.ends_with("/oauth/token") {
            let token = r#"{"access_token":"a-token","expires_in":3600}"#;
            (self.token_status.unwrap_or(200), token)
        } else {
            let accept = request.headers()[ACCEPT]
                .to_str()
                .expect("ASCII")
                .to_owned();
            self.requests.lock().expect("no panic").push((path, accept));
            (self.status, self.body)
        };
        let json = HeaderValue::from_static("application/json");
        let response = Response {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: HeaderMap::from_iter([(CONTENT_TYPE, json)]),
            body: body.as_bytes().to_vec().into(),
        };
        Box::pin(async move { Ok(response) })
    }
}

struct NoopObserver;

impl ClientObserver for NoopObserver {}

fn secret(value: &str) -> Arc<dyn SecretSource> {
    Arc::new(StaticSecret::new("a test", value))
}

fn service_account(id: Arc<dyn SecretSource>) -> Credential {
    let secret = secret("mdb_sa_sk_a");
    Credential::ServiceAccount { id, secret }
}

fn client(credential: Credential, transport: &Arc<ScriptedTransport>) -> Client {
    let config = ClientConfig {
        credential_name: "default".into(),
        user_agent: "test".to_owned(),
        credential,
        base_url: "https://atlas.invalid/".parse().expect("a URL"),
        route: ProxyRoute::Direct,
        api_version: ApiVersion::Preview,
        request_timeout: Duration::from_secs(10),
        max_retry_wait: Duration::ZERO,
    };
    let deps = ClientDeps {
        transport: Arc::clone(transport) as Arc<dyn Transport>,
        rate_limiter: Arc::default(),
        token_store: None,
        observer: Arc::new(NoopObserver),
        clock: Clock::system(),
    };
    Client::new(config, deps).expect("a client")
}

fn org() -> OrgId {
    OrgId::parse("32b6e34b3d91647abb20e7b8").expect("an id")
}

/// Returns the result of one call for client secrets, and the requests that it sends.
async fn list_client_secrets(
    credential: Credential,
    transport: ScriptedTransport,
) -> (
    Result<Option<Vec<ClientSecret>>, Error>,
    Vec<(String, String)>,
) {
    let transport = Arc::new(transport);
    let result = client(credential, &transport)
        .list_client_secrets(&org())
        .await;
    let requests = std::mem::take(&mut *transport.requests.lock().expect("no panic"));
    (result, requests)
}

#[tokio::test(start_paused = true)]
async fn client_secrets_of_another_organization_are_hidden() {
    for status in [403, 404] {
        let transport = ScriptedTransport {
            status,
            body: r#"{"error":403,"errorCode":"USER_UNAUTHORIZED"}"#,
            ..ScriptedTransport::default()
        };
        let (result, requests) =
            list_client_secrets(service_account(secret(CLIENT_ID)), transport).await;
        assert_eq!(result, Ok(None), "HTTP {status}");
        assert_eq!(requests.len(), 1, "HTTP {status}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_credential_sends_no_request_for_client_secrets() {
    let api_key = Credential::ApiKey {
        public: secret(CLIENT_ID),
        private: secret("b"),
    };
    let token = Credential::AccessToken {
        token: secret(CLIENT_ID),
    };
    let other = service_account(secret("an-id/../orgs"));
    for credential in [api_key, token, other] {
        let transport = ScriptedTransport::default();
        let (result, requests) = list_client_secrets(credential, transport).await;
        assert_eq!((result, requests), (Ok(None), Vec::new()));
    }
}

#[tokio::test(start_paused = true)]
async fn failed_request_for_client_secrets_is_an_error() {
    let account = || service_account(secret(CLIENT_ID));
    for (status, body) in [(401, "{}"), (500, "{}"), (200, "{}"), (200, "[]")] {
        let transport = ScriptedTransport {
            status,
            body,
            ..ScriptedTransport::default()
        };
        let error = list_client_secrets(account(), transport).await.0;
        let error = error.expect_err(body);
        assert_eq!(error.endpoint, Endpoint::ServiceAccount, "HTTP {status}");
    }
    // The token request is rejected, not the request for the account.
    let transport = ScriptedTransport {
        token_status: Some(403),
        ..ScriptedTransport::default()
    };
    let error = list_client_secrets(account(), transport).await.0;
    assert_eq!(error.expect_err("no token").endpoint, Endpoint::Token);
}

/// A client id in a file that is replaced.
#[derive(Debug, Default)]
struct RotatedId(Mutex<Option<&'static str>>);

impl std::fmt::Display for RotatedId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a file")
    }
}

impl SecretSource for RotatedId {
    fn read(&self) -> SecretFuture<'_> {
        let id = *self.0.lock().expect("no panic");
        let place = self.to_string();
        let id = id.map(Into::into).ok_or(SecretError::Empty { place });
        Box::pin(std::future::ready(id))
    }
}

#[tokio::test(start_paused = true)]
async fn client_secrets_are_requested_with_the_current_client_id() {
    let id = Arc::new(RotatedId::default());
    let transport = Arc::new(ScriptedTransport {
        status: 200,
        body: r#"{"secrets":[{"id":"69681d39c9e8cfd375386399","expiresAt":"2027-01-01T00:00:00Z"}]}"#,
        ..ScriptedTransport::default()
    });
    let account = service_account(Arc::clone(&id) as Arc<dyn SecretSource>);
    let client = client(account, &transport);
    let error = client.list_client_secrets(&org()).await;
    let error = error.expect_err("the client id is empty");
    assert!(matches!(error.kind, ErrorKind::Credential(_)), "{error}");
    let ids = [CLIENT_ID, "mdb_sa_id_AAAAAAAAAAAAAAAAAAAAAAAA"];
    for current in ids {
        *id.0.lock().expect("no panic") = Some(current);
        let secrets = client.list_client_secrets(&org()).await;
        let secrets = secrets.expect("a response").expect("visible");
        assert_eq!(secrets[0].id, "69681d39c9e8cfd375386399");
    }
    let media_type = "application/vnd.atlas.2024-08-05+json".to_owned();
    let expected = ids.map(|id| (format!("{ACCOUNT_PATH}{id}"), media_type.clone()));
    assert_eq!(*transport.requests.lock().expect("no panic"), expected);
}

#[tokio::test(start_paused = true)]
async fn projects_have_only_the_requested_tag() {
    let transport = Arc::new(ScriptedTransport {
        status: 200,
        body: r#"{"results":[{"id":"p","name":"n","tags":[{"key":"team","value":"a"},{"key":"owner","value":"b"}]}]}"#,
        ..ScriptedTransport::default()
    });
    let client = client(service_account(secret(CLIENT_ID)), &transport);
    for (tag, expected) in [
        (Some("owner"), Some("b")),
        (Some("env"), None),
        (None, None),
    ] {
        let projects = client.list_projects(&org(), tag).await.expect("projects");
        assert_eq!(projects[0].tag.as_deref(), expected, "{tag:?}");
    }
}
