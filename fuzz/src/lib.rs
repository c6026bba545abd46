//! Code and invariants of the fuzz targets. `tests/it/fuzz_corpus.rs` runs the same code with the stored corpus.
//!
//! `cargo +nightly fuzz run configuration` searches for new inputs of the target `configuration`; other targets, such as
//! `request` and `keys_page`, have the same form.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a panic is the result that a fuzzer searches for"
)]

mod keys_page;

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::config::Config;
use atlas_ai_keys_exporter::credentials::Environment;
use atlas_ai_keys_exporter::inventory::{ApiKey, ApiTime, Inventory, InventoryStore, OrgDetails};
use atlas_ai_keys_exporter::metrics::{ExporterMetrics, KeyLabel};
use atlas_ai_keys_exporter::poll::{BackoffState, PollEvent, PollObserver as _};
use atlas_ai_keys_exporter::status::OrgStatuses;
use atlas_ai_keys_exporter::storage::{StateFile, Storage};
use atlas_ai_keys_exporter::web::{
    self, AppState, HandlerOptions, Reload, RenderLimiter, ScrapeState, SharedHandlerOptions,
};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, Uri};
use exporter_toolkit::web_config::{SharedWebConfig, WebConfig};
use futures_util::future::BoxFuture;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use mongodb_atlas_client::Clock;
use mongodb_atlas_client::{self, Endpoint, EndpointSet, RateLimiter, RequestTarget, Scope};
use mongodb_atlas_client::{KeyId, OrgId, ProjectId};
use tokio::runtime::Runtime;

pub use keys_page::keys_page;

/// Writes these bytes to a file of this process that only its owner can read, because it may contain a secret.
fn write_temp_file(name: &str, data: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("{name}-{}.yml", std::process::id()));
    std::fs::write(&path, data).expect("a folder for temporary files");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, mode).expect("a file of our own");
    path
}

/// Loads bytes as a configuration file and as a web configuration file. Each is accepted or rejected with an error, and the
/// errors of a configuration file contain no line that could be a secret. Returns whether one of them was accepted.
pub fn configuration(data: &[u8]) -> bool {
    let path = write_temp_file("fuzz-configuration", data);
    let flag = format!("--config.file={}", path.display());
    let args = Args::parse(["x", &flag]).expect("a flag");
    let environment =
        Environment::from_vars([("MONGODB_ATLAS_ORG_ID", "0000000000000000000000aa")]);
    let config = Config::load(&args, &environment);
    if let Err(error) = &config {
        assert!(!error.0.is_empty() && error.0.iter().all(|error| !error.message.is_empty()));
    }
    let loaded = WebConfig::load(&path);
    assert_eq!(loaded.files.first(), Some(&path));
    if let Err(error) = &loaded.config {
        assert!(
            !error.errors.is_empty() && error.errors.iter().all(|error| !error.message.is_empty())
        );
    }
    config.is_ok() || loaded.config.is_ok()
}

/// A web configuration with a password, which a reload must not remove.
const PROTECTED_CONFIG: &str = "basic_auth_users:\n  ada: $2y$04$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi\nrate_limit: {interval: 1s, burst: 20}\n";

/// Loads bytes as a web configuration file at startup and at a reload. A file accepted at startup protects the listener or
/// is `{}`, and a file accepted at a reload has the protections of the current one. Returns whether it was accepted.
pub fn web_configuration(data: &[u8]) -> bool {
    static IN_FORCE: LazyLock<WebConfig> = LazyLock::new(|| {
        let path = write_temp_file("fuzz-web-in-force", PROTECTED_CONFIG.as_bytes());
        WebConfig::load(&path).config.expect("a valid file")
    });
    let loaded = WebConfig::load(&write_temp_file("fuzz-web", data));
    let Ok(access) = loaded.config else {
        return false;
    };
    let protection = format!("{access:?}");
    if protection.contains("tls: false, users: false") {
        let text = String::from_utf8_lossy(data);
        assert!(
            text.contains('{') && text.contains('}'),
            "open without {{}}"
        );
    }
    if IN_FORCE.weakened_by(&access).is_empty() {
        assert!(protection.contains("users: true"), "{protection}");
    } else {
        assert!(access.weakened_by(&access).is_empty());
    }
    true
}

/// Ignores reload requests.
struct NoopReload;

impl Reload for NoopReload {
    fn reload(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Err("reload is not available".to_owned()) })
    }
}

fn handler_options() -> HandlerOptions {
    let labels = KeyLabel::ALL.map(KeyLabel::as_str).join(",");
    let args = Args::parse([
        "exporter",
        "--atlas.org-id=0000000000000000000000aa",
        &format!("--metrics.key-labels={labels}"),
        "--metrics.max-keys=100",
        "--metrics.idle-thresholds=1h",
        "--web.max-requests=4",
        "--web.enable-lifecycle",
    ]);
    let environment = Environment::from_vars([("MONGODB_ATLAS_ACCESS_TOKEN", "token")]);
    let config = Config::load(&args.expect("known flags"), &environment);
    HandlerOptions::new(config.expect("a configuration"))
}

/// Builds a router over a few keys with hostile names, with or without a password.
fn build_router(access: WebConfig) -> Router {
    let at = Timestamp::UNIX_EPOCH;
    let names = [
        "plain",
        "<script>",
        "\"><img src=x>",
        "{{7*7}}",
        "ключ\n\\\"",
    ];
    let records = (0..200_u32)
        .zip(names.into_iter().cycle())
        .map(|(number, name)| ApiKey {
            id: KeyId::new(format!("id{number}")),
            project: ProjectId::new(format!("project{}", number % 3)),
            name: name.to_owned(),
            created: ApiTime::Valid(at),
            last_used: if number % 2 == 0 {
                ApiTime::Missing
            } else {
                ApiTime::Valid(at)
            },
            ..ApiKey::default()
        });
    let org = OrgId::parse("0000000000000000000000aa").expect("an id");
    let store = InventoryStore::default();
    store.set_targets(vec![org.clone()], Vec::new());
    let inventory = Inventory::from_records(org.clone(), at, records);
    store.insert(Arc::new(inventory).into(), Duration::ZERO);
    let statuses = OrgStatuses::default();
    statuses.on_event(PollEvent::OrgAdded(&org));
    web::router(Arc::new(AppState {
        metrics: Arc::new(ExporterMetrics::new().expect("the list of families is valid")),
        store: Arc::new(store),
        status: Arc::new(statuses),
        options: Arc::new(SharedHandlerOptions::new(handler_options())),
        web_config: Arc::new(SharedWebConfig::new(access)),
        scrapes: ScrapeState::default(),
        renders: RenderLimiter::default(),
        reloader: Arc::new(NoopReload),
        clock: Clock::system(),
    }))
}

static OPEN_ROUTER: LazyLock<Router> = LazyLock::new(|| build_router(WebConfig::default()));

static PROTECTED_ROUTER: LazyLock<Router> = LazyLock::new(|| {
    let hash = bcrypt::hash("secret", 4).expect("a hash");
    let path = write_temp_file(
        "fuzz-access",
        format!("basic_auth_users:\n  ada: {hash}\n").as_bytes(),
    );
    build_router(WebConfig::load(&path).config.expect("a valid file"))
});

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().expect("a runtime")
});

/// Parses lines as a request: method and path in the first line, and one header per following line. Returns `None` if an
/// HTTP server would reject the request before the router.
fn parse_request(data: &[u8]) -> Option<Request<Body>> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|byte| *byte == b' ')?;
    let (method, path) = first.split_at(space);
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::from_bytes(method).ok()?;
    *request.uri_mut() = Uri::try_from(path.get(1..)?).ok()?;
    for line in lines.take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = line.split_at(colon);
        let name = HeaderName::from_bytes(name).ok()?;
        let value = HeaderValue::from_bytes(value.get(1..)?.trim_ascii()).ok()?;
        request.headers_mut().append(name, value);
    }
    Some(request)
}

/// Sends bytes as a request. The response is never a server error, and a page has only the exporter's scripts and images.
/// Returns whether the response is a success.
pub fn request(data: &[u8]) -> bool {
    let mut succeeded = false;
    for (router, closed) in [(&*OPEN_ROUTER, false), (&*PROTECTED_ROUTER, true)] {
        let Some(request) = parse_request(data) else {
            return false;
        };
        let is_head = request.method() == Method::HEAD;
        let is_scrape = request.uri().path() == "/metrics"
            && request.uri().query().is_none()
            && (is_head || request.method() == Method::GET);
        let has_login = request.headers().contains_key("authorization");
        let (parts, body) = RUNTIME.block_on(async {
            let response = TowerToHyperService::new(router.clone()).call(request).await;
            let (parts, body) = response.unwrap_or_else(|never| match never {}).into_parts();
            let body = axum::body::to_bytes(body, 16 << 20)
                .await
                .expect("a complete response");
            (parts, body)
        });
        let status = parts.status.as_u16();
        succeeded |= parts.status.is_success();
        assert_ne!(status, 500);
        assert!(parts.headers.contains_key("x-content-type-options"));
        if closed && !has_login {
            assert_eq!(status, 401);
        }
        if !closed && is_scrape {
            assert_eq!(status, 200);
        }
        let text = String::from_utf8_lossy(&body);
        if text.starts_with("<!DOCTYPE html>") {
            assert!(text.ends_with("</html>\n") || text.ends_with("</html>"));
            assert_eq!(text.matches("<script").count(), 1);
            assert!(!text.contains("<img"));
        }
    }
    succeeded
}

/// Parses bytes as a token response. An accepted token is a valid header value.
pub fn token_response(data: &[u8]) {
    mongodb_atlas_client::fuzz_token_response(data);
}

/// Parses bytes as a `WWW-Authenticate` header. A response to it has `qop=auth` or no `qop`.
pub fn www_authenticate(data: &[u8]) {
    mongodb_atlas_client::fuzz_www_authenticate(data);
}

/// Parses bytes as a page of rate limits and as the body of a 429. No numbers suspend the polls of an organization for more
/// than a day.
/// Returns whether there is a rate limit.
pub fn rate_limit_body(data: &[u8]) -> bool {
    const DAY: Duration = Duration::from_hours(24);
    let rejection = mongodb_atlas_client::fuzz_rate_limited(data).expect("a rejection");
    assert!(rejection.retry_after.is_none_or(|wait| wait <= DAY));
    let mut sets = mongodb_atlas_client::fuzz_rate_limits(data);
    sets.extend(rejection.params.map(|params| EndpointSet {
        id: "rejection".to_owned(),
        endpoints: vec![Endpoint::Orgs],
        scope: Scope::Credential,
        params,
    }));
    let has_limit = !sets.is_empty();
    let (limiter, credential) = (RateLimiter::default(), Arc::from("default"));
    limiter.set_endpoint_sets(&credential, sets);
    let org = OrgId::parse("0000000000000000000000aa").expect("an id");
    for endpoint in Endpoint::ALL {
        let target = RequestTarget {
            credential: &credential,
            endpoint,
            org: Some(&org),
        };
        assert!(limiter.next_delay(target) <= DAY);
        let rate = limiter.sustained_rate(target).per_second;
        assert!(rate.is_none_or(|rate| rate.is_finite() && rate > 0.0));
    }
    has_limit
}

/// Loads bytes as each kind of state file. A file is loaded or rejected, and loaded data can be stored and loaded again.
/// Bytes are also loaded as the lines of an inventory file with a valid checksum, so that more than the checksum is tested.
/// Returns whether an inventory was loaded.
pub fn state_file(data: &[u8]) -> bool {
    let org = OrgId::parse("0000000000000000000000aa").expect("an id");
    let dir = std::env::temp_dir().join(format!("fuzz-state-{}", std::process::id()));
    let storage = Storage::open(&dir).expect("a folder for temporary files");
    let place = |name: &str, data: &[u8]| {
        // A new file each time: a quarantined file may be at the path of another kind.
        let path = dir.join(name);
        std::fs::write(&path, data).expect("a folder for temporary files");
        // The mode is that of files that the exporter creates.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, mode).expect("a file of our own");
    };
    let mut summed = data.to_vec();
    if summed.last() != Some(&b'\n') {
        summed.push(b'\n');
    }
    let sum = crc32fast::hash(&summed);
    summed.extend_from_slice(format!("{{\"crc32\":{sum}}}\n").as_bytes());
    let mut loaded = false;
    for bytes in [data, &summed] {
        place(&format!("{org}.inventory"), bytes);
        if let Ok(stored) = storage.read_inventory(&org) {
            loaded = true;
            storage.save_inventory(&stored).expect("stored");
            let again = storage.read_inventory(&org).expect("the stored inventory");
            assert_eq!(again.inventory.len(), stored.inventory.len());
            assert_eq!(
                again.inventory.invalid_keys(),
                stored.inventory.invalid_keys()
            );
            assert_eq!(again.change_counts, stored.change_counts);
        }
        assert_eq!(
            storage.read_inventory(&org).is_ok(),
            storage.load_inventory(&org).is_some()
        );
    }
    place(&format!("{org}.details"), data);
    let file = StateFile::Details(org.clone());
    drop((
        storage.read::<OrgDetails>(&file),
        storage.load::<OrgDetails>(&file),
    ));
    place(&format!("{org}.deferred"), data);
    let _: Option<BackoffState> = storage.load(&StateFile::Backoff(org.clone()));
    let credential = Arc::from("default");
    let token = storage.token_store(&credential);
    for (file, load) in [
        (
            storage.path(&StateFile::Token(Arc::clone(&credential))),
            &(|| drop(RUNTIME.block_on(token.load()))) as &dyn Fn(),
        ),
        (
            storage.path(&StateFile::Credential(Arc::clone(&credential))),
            &|| {
                drop(storage.load_credential(&credential));
            },
        ),
    ] {
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name");
        place(name, data);
        load();
    }
    loaded
}
