//! Memory of the exporter's process, and latency of other requests, with hostile responses of Atlas.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::{ChildProcess, eventually, get, process_status};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, Uri};
use flate2::Compression;
use flate2::write::GzEncoder;

/// Limit of a decompressed response.
const BODY_BYTES: usize = 32 << 20;
/// Maximum memory for one response in addition to the inventories, which are empty here.
const MAX_KIB: u64 = 256 << 10;

/// Fields of the lists with text values.
const TEXT_FIELDS: [&str; 5] = ["apiKeyId", "name", "id", "modelGroupName", "access_token"];

/// Compresses as many repetitions of `part` as fit into `size`, between `start` and `end`: about 30 kB for 32 MiB.
fn fill_body(size: usize, start: &str, part: &str, end: &str) -> Bytes {
    assert!(start.len() + end.len() <= size);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(start.as_bytes()).unwrap();
    let parts = (size - start.len() - end.len()) / part.len().max(1);
    let chunk = 1 + (64 << 10) / part.len().max(1);
    let text = part.repeat(chunk);
    for _ in 0..parts / chunk {
        encoder.write_all(text.as_bytes()).unwrap();
    }
    let rest = part.repeat(parts % chunk);
    encoder.write_all(rest.as_bytes()).unwrap();
    encoder.write_all(end.as_bytes()).unwrap();
    encoder.finish().unwrap().into()
}

/// Number of bodies that are tested at all endpoints. To save time, the others are tested at a part of them.
const SHAPES_FOR_ALL_ENDPOINTS: usize = 4;

/// Returns bodies of the maximum size, each with a different structure.
fn hostile_bodies(size: usize) -> Vec<(&'static str, Bytes)> {
    let filled = |start: &str, part: &str, end: &str| fill_body(size, start, part, end);
    let list = |part, last| filled(r#"{"results":["#, part, &format!("{last}]}}"));
    let long = |start: &str, part| {
        let fields: Vec<String> = TEXT_FIELDS
            .iter()
            .map(|name| format!(r#""{name}":"a""#))
            .collect();
        filled(
            &format!(r#"{{"results":[{{{},{start}"#, fields.join(",")),
            part,
            r#""}],"totalCount":1}"#,
        )
    };
    let half = size / 2 - 20;
    let nested = format!("{}{}", "[".repeat(half), "]".repeat(half));
    let results = vec![
        format!(
            r#"{{"apiKeyId":"a","id":"32b6e34b3d91647abb20e7b8","name":"{}"}}"#,
            "x".repeat(size / 500 - 100)
        );
        500
    ];
    vec![
        ("empty objects", list("{},", "{}")),
        ("numbers", list("0,", "0")),
        ("strings", list("\"\",", "\"\"")),
        ("tiny keys", list(r#"{"apiKeyId":"a"},"#, "{}")),
        (
            "an object of many fields",
            filled(r#"{"results":[{"#, r#""a":0,"#, r#""b":0}]}"#),
        ),
        ("an endless name", long("\"name\":\"", "x")),
        ("a name of escapes", long("\"name\":\"", "\\u00e9")),
        (
            "a name of unpaired surrogates",
            long("\"name\":\"", "\\ud83d"),
        ),
        (
            "a field's name",
            filled("{\"results\":[{\"", "\\n", "\":0}]}"),
        ),
        (
            "many links",
            filled(r#"{"results":[],"links":["#, r#"{"rel":"a"},"#, "{}]}"),
        ),
        (
            "a long number",
            filled(r#"{"totalCount":"#, "9", r#","results":[]}"#),
        ),
        (
            "nested values",
            filled(&format!(r#"{{"a":{nested},"results":["#), "", "]}"),
        ),
        (
            "long names",
            filled(&format!(r#"{{"results":[{}"#, results.join(",")), "", "]}"),
        ),
        ("no JSON", filled("", "\u{0}", "")),
        ("no UTF-8", {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(br#"{"results":[{"name":""#).unwrap();
            encoder.write_all(&vec![0xff; size / 3 - 100]).unwrap();
            encoder.write_all(br#""}]}"#).unwrap();
            encoder.finish().unwrap().into()
        }),
    ]
}

/// Number of requests by credential and endpoint.
type RequestCounts = Arc<Mutex<BTreeMap<(String, &'static str), u32>>>;

#[derive(Clone)]
struct ResponseScript {
    /// Bodies for the keys.
    shapes: Arc<Vec<(&'static str, Bytes)>>,
    /// Bodies for the other endpoints: smaller ones, several at a time, to save time.
    small_shapes: Arc<Vec<(&'static str, Bytes)>>,
    counts: RequestCounts,
}

/// Endpoints requested with an access token.
const ENDPOINTS: [&str; 7] = [
    "orgs",
    "org",
    "groups",
    "keys",
    "one key",
    "model limits",
    "rate limits",
];

fn endpoint(path: &str) -> &'static str {
    match path.rsplit('/').next().unwrap() {
        "token" => "token",
        "orgs" => "orgs",
        "groups" => "groups",
        "aiModelApiKeys" => "keys",
        "aiModelApiRateLimits" => "model limits",
        "rateLimits" => "rate limits",
        _ if path.contains("aiModelApiKeys/") => "one key",
        _ => "org",
    }
}

/// Returns whether a body is tested at an endpoint.
fn applies_to(shape: usize, endpoint: &str) -> bool {
    let place = ENDPOINTS.iter().position(|known| *known == endpoint);
    shape < SHAPES_FOR_ALL_ENDPOINTS
        || endpoint == "keys"
        || place.is_none_or(|place| (place + shape).is_multiple_of(3))
}

/// The access token selects the body. Its key appears and disappears first, so that the single key, the names and the
/// limits are requested as well.
async fn serve_hostile_body(
    State(script): State<ResponseScript>,
    headers: HeaderMap,
    uri: Uri,
) -> Response<Body> {
    let endpoint = endpoint(uri.path());
    let authorization = headers["authorization"].to_str().unwrap();
    let token = authorization
        .strip_prefix("Bearer ")
        .unwrap_or("0")
        .to_owned();
    let count = {
        let mut counts = script.counts.lock().unwrap();
        let count = counts.entry((token.clone(), endpoint)).or_default();
        *count += 1;
        *count
    };
    let response = Response::builder().header("content-type", "application/json");
    let mut shape = token.parse::<usize>().unwrap();
    let condition = match (endpoint, count) {
        ("keys", 1) => r#"{"results":[{"apiKeyId":"a"}]}"#,
        // Each body is sent once.
        ("keys", 2 | 4..) | ("orgs", 2..) => r#"{"results":[]}"#,
        _ if !applies_to(shape, endpoint) => r#"{"results":[]}"#,
        _ => {
            if endpoint == "token" {
                shape += count as usize;
            }
            let shapes = if endpoint == "keys" {
                &script.shapes
            } else {
                &script.small_shapes
            };
            let (_, body) = &shapes[shape % shapes.len()];
            let response = response.header("content-encoding", "gzip");
            return response.body(body.clone().into()).unwrap();
        }
    };
    response.body(condition.into()).unwrap()
}

/// Returns every endpoint with every credential.
fn all_responses(shapes: usize) -> impl Iterator<Item = (&'static str, usize)> {
    let endpoints = ENDPOINTS.into_iter();
    endpoints.flat_map(move |endpoint| (0..shapes).map(move |shape| (endpoint, shape)))
}

/// Times a request for `/-/healthy`.
async fn time_health_request(address: &str) -> Duration {
    let started_at = Instant::now();
    let (status, _) = get(&format!("http://{address}/-/healthy")).await;
    assert_eq!(status, 200);
    tokio::time::sleep(Duration::from_millis(5)).await;
    started_at.elapsed()
}

fn percentile_95(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 19 / 20]
}

/// Writes a configuration with one credential per body, and one that requests its tokens.
fn write_config(folder: &Path, shapes: usize) -> String {
    let mut text = "credentials:\n".to_owned();
    for shape in 0..=shapes {
        let name = format!("c{shape}");
        let path = folder.join(&name);
        std::fs::write(
            &path,
            if shape == shapes {
                "secret"
            } else {
                &name[1..]
            },
        )
        .unwrap();
        write!(text, "  - name: {name}\n    org_ids: ['{shape:024x}']\n").unwrap();
        let parts = if shape == shapes {
            "client_id: mdb_sa_id_0123456789abcdef01234567\n    client_secret_file"
        } else {
            "discover_orgs: true\n    access_token_file"
        };
        writeln!(text, "    {parts}: {name}").unwrap();
    }
    let file = folder.join("config.yml");
    std::fs::write(&file, text).unwrap();
    format!("--config.file={}", file.display())
}

fn start_exporter(folder: &Path, shapes: usize, base: &str) -> ChildProcess {
    let variables = [("MONGODB_ATLAS_BASE_URL".to_owned(), base.to_owned())];
    let flags = [
        "--web.listen-address=127.0.0.1:0",
        "--atlas.poll-interval=2s",
        "--atlas.timeout=2m",
        &write_config(folder, shapes),
    ];
    ChildProcess::exporter(&flags, &variables)
}

/// All bodies at all endpoints, for all credentials concurrently. The total memory stays within the limit of one response.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_bodies_are_bounded_in_memory_and_time() {
    let make = || (hostile_bodies(BODY_BYTES), hostile_bodies(BODY_BYTES / 16));
    let (shapes, small_shapes) = tokio::task::spawn_blocking(make).await.unwrap();
    let count = shapes.len();
    let script = ResponseScript {
        shapes: Arc::new(shapes),
        small_shapes: Arc::new(small_shapes),
        counts: RequestCounts::default(),
    };
    let counts = Arc::clone(&script.counts);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .fallback(serve_hostile_body)
        .with_state(script);
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let folder = tempfile::tempdir().unwrap();

    // The control polls an address that does not respond.
    let nowhere = format!("http://127.0.0.1:{}", crate::common::free_port());
    let mut control = start_exporter(folder.path(), count, &nowhere);
    let control_address = control.wait_for_output("address=");
    let mut attacked = start_exporter(folder.path(), count, &base);
    let address = attacked.wait_for_output("address=");

    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    let started_at = Instant::now();
    // The remaining requests.
    let outstanding = || -> u32 {
        let counts = counts.lock().unwrap();
        let missing = all_responses(count).map(|(endpoint, shape)| {
            let requests = counts.get(&(shape.to_string(), endpoint)).copied();
            let expected = if endpoint == "keys" { 5_u32 } else { 1 };
            expected.saturating_sub(requests.unwrap_or(0))
        });
        missing.sum()
    };
    // Each response has a separate timeout, because the total time depends on the machine.
    loop {
        let before = outstanding();
        if before == 0 {
            break;
        }
        eventually(&format!("one of {before} requests"), async || {
            // Alternating requests, so that other load on the machine affects both exporters.
            quiet.push(time_health_request(&control_address).await);
            busy.push(time_health_request(&address).await);
            let max = process_status(attacked.pid(), "VmHWM");
            assert!(max < MAX_KIB, "{max} KiB");
            (outstanding() < before)
                .then_some(())
                .ok_or_else(|| attacked.output())
        })
        .await;
    }
    assert!(busy.len() > 100, "{} requests", busy.len());
    let max = process_status(attacked.pid(), "VmHWM");
    let alone = process_status(control.pid(), "VmHWM");
    println!(
        "{max} KiB, {alone} KiB without a server; {:?} and {:?} of {} in {:?}",
        percentile_95(busy.clone()),
        percentile_95(quiet.clone()),
        busy.len(),
        started_at.elapsed()
    );
    assert!(max < alone + MAX_KIB, "{max} KiB");
    let (busy, quiet) = (percentile_95(busy), percentile_95(quiet));
    assert!(busy < 10 * quiet, "{busy:?} instead of {quiet:?}");
    server.abort();
}
