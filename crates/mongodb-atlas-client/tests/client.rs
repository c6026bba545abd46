//! The client against the simulated Atlas, over HTTP.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a panic fails the test"
)]

use std::sync::Arc;
use std::time::Duration;

use mongodb_atlas_client::{
    ApiVersion, Client, ClientConfig, ClientDeps, ClientObserver, Clock, Credential, ErrorKind,
    OptionalFields, OrgId, ProxyRoute, SecretSource, StaticSecret, new_http_transport,
};
use mongodb_atlas_sim::{Effect, Fault, SimConfig, SimEndpoint, SimHandle};
use tokio::net::TcpListener;

struct NoopObserver;

impl ClientObserver for NoopObserver {}

async fn start_sim() -> SimHandle {
    start_sim_with(30).await
}

async fn start_sim_with(keys: usize) -> SimHandle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = SimConfig {
        orgs: 2,
        keys,
        speed: 0.0,
        ..SimConfig::default()
    };
    SimHandle::start(listener, &config, jiff::Timestamp::now).unwrap()
}

fn secret(value: String) -> Arc<dyn SecretSource> {
    Arc::new(StaticSecret::new("a test", value))
}

fn service_account(sim: &SimHandle) -> Credential {
    let credentials = sim.credentials();
    Credential::ServiceAccount {
        id: secret(credentials.client_id),
        secret: secret(credentials.client_secret),
    }
}

fn api_key(sim: &SimHandle) -> Credential {
    let credentials = sim.credentials();
    Credential::ApiKey {
        public: secret(credentials.public_key),
        private: secret(credentials.private_key),
    }
}

fn client(sim: &SimHandle, credential: Credential) -> Client {
    let config = ClientConfig {
        credential_name: "default".into(),
        user_agent: "test".to_owned(),
        credential,
        base_url: format!("{}/", sim.base_url()).parse().unwrap(),
        route: ProxyRoute::Direct,
        api_version: ApiVersion::Preview,
        request_timeout: Duration::from_secs(10),
        max_retry_wait: Duration::from_secs(10),
    };
    let deps = ClientDeps {
        transport: new_http_transport(&config).unwrap(),
        rate_limiter: Arc::default(),
        token_store: None,
        observer: Arc::new(NoopObserver),
        clock: Clock::system(),
    };
    Client::new(config, deps).unwrap()
}

async fn count_keys(client: &Client, org: &OrgId) -> usize {
    let optional = OptionalFields::default();
    let mut count = 0;
    for page in 1..=10 {
        let keys = client
            .list_keys_page(org, page, 10, optional)
            .await
            .unwrap();
        count += keys.results;
        if keys.results < 10 {
            return count;
        }
    }
    panic!("30 keys have ended before page 10");
}

#[tokio::test]
async fn service_account_lists_all_orgs_and_keys_with_one_token() {
    let sim = start_sim().await;
    let client = client(&sim, service_account(&sim));
    let orgs = client.list_orgs().await.unwrap();
    assert!(!orgs.is_incomplete);
    let mut ids: Vec<_> = orgs.items.iter().map(|org| org.id.to_string()).collect();
    ids.sort();
    let mut expected = sim.org_ids();
    expected.sort();
    assert_eq!(ids, expected);
    let mut keys = 0;
    for org in &orgs.items {
        keys += count_keys(&client, &org.id).await;
    }
    assert_eq!(keys, 30);
    assert_eq!(sim.live_token_count(), 1);
    client.revoke_token().await;
    assert_eq!(sim.live_token_count(), 0);
    sim.stop().await;
}

#[tokio::test]
async fn api_key_authenticates_with_digest() {
    let sim = start_sim().await;
    let client = client(&sim, api_key(&sim));
    let mut keys = 0;
    for org in sim.org_ids() {
        keys += count_keys(&client, &OrgId::parse(&org).unwrap()).await;
    }
    assert_eq!(keys, 30);
    sim.stop().await;
}

#[tokio::test]
async fn invalid_client_secret_is_unauthorized() {
    let sim = start_sim().await;
    let credential = Credential::ServiceAccount {
        id: secret(sim.credentials().client_id),
        secret: secret("invalid".to_owned()),
    };
    let client = client(&sim, credential);
    let error = client.list_orgs().await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Unauthorized(_)), "{error}");
    sim.stop().await;
}

#[tokio::test]
async fn unknown_key_is_none() {
    let sim = start_sim().await;
    let client = client(&sim, service_account(&sim));
    let org = OrgId::parse(&sim.org_ids()[0]).unwrap();
    let id = mongodb_atlas_client::KeyId::new("unknown");
    let key = client.get_key(&org, &id, OptionalFields::default()).await;
    assert_eq!(key.unwrap(), None);
    sim.stop().await;
}

#[tokio::test]
async fn invalid_private_key_costs_one_challenge_and_one_request_per_call() {
    let sim = start_sim().await;
    let credential = Credential::ApiKey {
        public: secret(sim.credentials().public_key),
        private: secret("invalid".to_owned()),
    };
    let client = client(&sim, credential);
    for requests in [2, 3, 4] {
        let error = client.list_orgs().await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Unauthorized(_)), "{error}");
        assert_eq!(sim.requests().len(), requests);
    }
    sim.stop().await;
}

#[tokio::test]
async fn replaced_private_key_costs_one_retry_with_a_new_nonce() {
    let sim = start_sim().await;
    let client = client(&sim, api_key(&sim));
    for requests in [2, 3] {
        client.list_orgs().await.unwrap();
        assert_eq!(sim.requests().len(), requests, "one challenge");
    }
    // The nonce was accepted before, so its rejection does not prove that the key is invalid.
    sim.with_credentials(|account| account.private_key = "replaced".to_owned());
    let error = client.list_orgs().await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Unauthorized(_)), "{error}");
    assert_eq!(sim.requests().len(), 5);
    sim.stop().await;
}

#[tokio::test]
async fn stale_nonce_costs_one_extra_request() {
    let sim = start_sim().await;
    let client = client(&sim, api_key(&sim));
    client.list_orgs().await.unwrap();
    for requests in [4, 6] {
        sim.expire_nonces();
        client.list_orgs().await.unwrap();
        assert_eq!(sim.requests().len(), requests);
    }
    sim.stop().await;
}

/// Returns the owner of each project of the first organization.
async fn list_owners(sim: &SimHandle) -> Vec<Option<String>> {
    let client = client(sim, service_account(sim));
    let org = OrgId::parse(&sim.org_ids()[0]).unwrap();
    let projects = client.list_projects(&org, Some("owner")).await.unwrap();
    projects.into_iter().map(|project| project.tag).collect()
}

#[tokio::test]
async fn projects_have_the_value_of_the_owner_tag() {
    let sim = start_sim_with(3_000).await;
    let expected: Vec<Option<String>> = sim.with_world(|world| {
        let projects = world.projects(&world.org_ids()[0]).iter();
        let owner = projects.map(|project| {
            let mut tags = project.tags.iter().flatten();
            let owner = tags.find(|tag| tag.key == "owner");
            owner.map(|tag| tag.value.clone())
        });
        owner.collect()
    });
    let owned = expected.iter().flatten().count();
    assert!(owned > 0 && owned < expected.len(), "{expected:?}");
    assert_eq!(list_owners(&sim).await, expected);
    for (effect, owner) in [
        (Effect::WrongTagTypes, None),
        (Effect::DuplicateOwnerTag, Some("team-search".to_owned())),
        (Effect::LongTagValues, Some("界".repeat(250))),
    ] {
        sim.add_fault(Fault::new(SimEndpoint::Groups, effect.clone()));
        let owners = list_owners(&sim).await;
        assert_eq!(owners, vec![owner; expected.len()], "{effect:?}");
        sim.clear_faults();
    }
    sim.stop().await;
}

#[tokio::test]
async fn service_account_lists_its_own_client_secrets() {
    let sim = start_sim().await;
    let client = client(&sim, service_account(&sim));
    let [home, other] = [0, 1].map(|index| OrgId::parse(&sim.org_ids()[index]).unwrap());
    assert_eq!(client.list_client_secrets(&other).await, Ok(None));
    let listed = async || client.list_client_secrets(&home).await.unwrap().unwrap();
    let known = sim.with_service_account(|account| account.secrets.clone());
    let secrets = listed().await;
    assert_eq!(secrets.len(), 2);
    for (secret, known) in secrets.iter().zip(&known) {
        assert_eq!(secret.id, known.id);
        let seconds = |at: jiff::Timestamp| at.as_second();
        assert_eq!(seconds(secret.expires_at), seconds(known.expires));
        let (used, known) = (secret.last_used_at, known.last_used);
        assert_eq!(used.map(seconds), known.map(seconds));
    }
    sim.add_fault(Fault::new(
        SimEndpoint::ServiceAccount,
        Effect::InvalidTimestamps,
    ));
    assert_eq!(listed().await, secrets[1..]);
    sim.clear_faults();
    let fields = vec!["lastUsedAt".to_owned()];
    let effect = Effect::MissingFields { fields };
    sim.add_fault(Fault::new(SimEndpoint::ServiceAccount, effect));
    assert_eq!(listed().await[0].last_used_at, None);
    sim.stop().await;
}
