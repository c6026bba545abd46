//! What the tests share: a laboratory with a simulated Atlas and an exporter in this process, the
//! real binary as a child that ends with its test, and a reader of the text format that is written
//! independently of the writer.

pub mod http2;
pub mod pki;
pub mod prometheus;
pub mod scripted;
pub mod sim_harness;
pub mod sim_transport;
pub mod systemd;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::time::{Duration, Instant};

use atlas_ai_keys_exporter::app::{ConfigLoader, Dependencies, Exporter};
use atlas_ai_keys_exporter::cli::Args;
use atlas_ai_keys_exporter::config::Config;
use atlas_ai_keys_exporter::credentials::Environment;
use atlas_ai_keys_exporter::web::AppState;
use mongodb_atlas_client::Clock;
use mongodb_atlas_sim::{
    BucketConfig, Effect, ErrorBodyFormat, Fault, SimConfig, SimEndpoint, SimHandle, SimKey,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must come: long enough for a machine that has much else to do.
pub const WAIT_TIMEOUT: Duration = Duration::from_mins(2);

/// A simulated Atlas on a port of its own.
pub async fn start_sim(config: SimConfig) -> SimHandle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    SimHandle::start(listener, &config, jiff::Timestamp::now).unwrap()
}

/// A world in which nothing happens by itself.
pub fn static_sim(orgs: usize, keys: usize) -> SimConfig {
    SimConfig {
        orgs,
        keys,
        speed: 0.0,
        ..SimConfig::default()
    }
}

/// The same with a request budget that is no matter.
pub fn unlimited_sim(orgs: usize, keys: usize) -> SimConfig {
    SimConfig {
        org_bucket: BucketConfig::new(5000, 5000),
        ..static_sim(orgs, keys)
    }
}

/// What an exporter must be told to watch `start_sim` with its service account.
pub fn sim_env(sim: &SimHandle) -> Vec<(String, String)> {
    let account = sim.credentials();
    [
        ("MONGODB_ATLAS_BASE_URL", sim.base_url()),
        ("MONGODB_ATLAS_ORG_ID", sim.org_ids().join(",")),
        ("MONGODB_ATLAS_CLIENT_ID", account.client_id),
        ("MONGODB_ATLAS_CLIENT_SECRET", account.client_secret),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// An exporter in this process, watching a simulated Atlas in this process.
pub struct TestExporter {
    pub sim: SimHandle,
    pub base_url: String,
    pub app: Arc<AppState>,
    shutdown: CancellationToken,
    run_task: tokio::task::JoinHandle<()>,
}

impl TestExporter {
    /// An exporter with these flags besides what it needs to know of the simulated Atlas.
    pub async fn start(sim_config: SimConfig, flags: &[&str]) -> Self {
        let sim = start_sim(sim_config).await;
        let variables = sim_env(&sim);
        Self::start_with(sim, variables, flags).await
    }

    /// An exporter that is told these variables.
    pub async fn start_with(
        sim: SimHandle,
        variables: Vec<(String, String)>,
        flags: &[&str],
    ) -> Self {
        Self::start_with_clock(sim, variables, flags, Clock::system()).await
    }

    /// An exporter with a clock of its own.
    pub async fn start_with_clock(
        sim: SimHandle,
        variables: Vec<(String, String)>,
        flags: &[&str],
        clock: Clock,
    ) -> Self {
        let mut line = vec!["x", "--web.listen-address", "127.0.0.1:0"];
        line.extend(flags);
        let environment = Environment::from_vars(variables);
        let args = Args::parse(line).unwrap();
        let load: ConfigLoader = Arc::new(move || Config::load(&args, &environment));
        let config = load().unwrap();
        let surroundings = Dependencies {
            clock,
            ..Dependencies::production(load)
        };
        let exporter = Exporter::start(config, surroundings).await.unwrap();
        let base = format!("http://{}", exporter.addresses()[0]);
        let app = exporter.state();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(exporter.run(shutdown.clone()));
        Self {
            sim,
            base_url: base,
            app,
            shutdown,
            run_task: running,
        }
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        get(&format!("{}{path}", self.base_url)).await
    }

    pub async fn scrape(&self) -> Scrape {
        let (status, text) = self.get("/metrics").await;
        assert_eq!(status, 200, "/metrics is always 200");
        Scrape::parse(&text)
    }

    /// Scrapes until `good`, and hands out the scrape that was.
    pub async fn wait_until(&self, what: &str, good: impl Fn(&Scrape) -> bool) -> Scrape {
        let begun = Instant::now();
        loop {
            let scrape = self.scrape().await;
            if good(&scrape) {
                return scrape;
            }
            assert!(begun.elapsed() < WAIT_TIMEOUT, "in vain: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every organization has had a complete walk.
    pub async fn wait_polled(&self) -> Scrape {
        let orgs = self.sim.org_ids().len();
        self.wait_until("a complete walk of every organization", |scrape| {
            scrape
                .values("atlas_ai_keys_exporter_org_up")
                .iter()
                .filter(|up| **up > 0.0)
                .count()
                == orgs
        })
        .await
    }

    /// Waits for names and limits as well, which come after the keys.
    pub async fn wait_polled_with_names(&self) -> Scrape {
        self.wait_polled().await;
        let orgs = self.sim.org_ids().len();
        self.wait_until("the names of every organization", |scrape| {
            scrape.with_name("mongodbatlas_organization_info").count() == orgs
        })
        .await
    }

    /// Stops the exporter in good order and hands out the simulated Atlas.
    pub async fn stop(self) -> SimHandle {
        self.shutdown.cancel();
        self.run_task.await.unwrap();
        self.sim
    }
}

/// reqwest is built without a provider of its own.
pub fn install_crypto_provider() {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// One for all tests: reading the system's certificates takes longer than most requests. Connections
/// are not kept, since they end with the runtime that has made them.
fn shared_client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        install_crypto_provider();
        let builder = reqwest::Client::builder().no_proxy();
        builder.pool_max_idle_per_host(0).build().unwrap()
    })
}

pub async fn get(url: &str) -> (u16, String) {
    let response = shared_client().get(url).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.text().await.unwrap())
}

/// The status of an answer, if there is one.
pub async fn try_get_status(url: &str) -> Option<u16> {
    let answer = shared_client().get(url).send().await.ok()?;
    Some(answer.status().as_u16())
}

/// One series of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A scrape, taken apart where somebody looks.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    pub text: String,
}

impl Scrape {
    pub fn parse(text: &str) -> Self {
        Self {
            text: text.to_owned(),
        }
    }

    fn sample_lines(&self) -> impl Iterator<Item = &str> {
        let lines = self.text.lines();
        lines.filter(|line| !line.starts_with('#') && !line.is_empty())
    }

    /// Every series.
    pub fn series(&self) -> Vec<Series> {
        self.sample_lines().map(parse_sample).collect()
    }

    /// The series of that name.
    pub fn with_name(&self, name: &str) -> impl Iterator<Item = Series> {
        let of_name = self.sample_lines().filter(move |line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        of_name.map(parse_sample)
    }

    pub fn values(&self, name: &str) -> Vec<f64> {
        self.with_name(name).map(|series| series.value).collect()
    }

    pub fn sum(&self, name: &str) -> f64 {
        self.values(name).iter().sum()
    }

    /// The value of the one series with (at least) these labels.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.with_name(name).filter(|series| {
            labels
                .iter()
                .all(|(label, value)| series.labels.get(*label).map(String::as_str) == Some(*value))
        });
        let value = found.next()?.value;
        assert!(
            found.next().is_none(),
            "more than one {name} with {labels:?}"
        );
        Some(value)
    }

    /// The series of the inventory that change with a walk only, in order.
    pub fn inventory_series(&self) -> Vec<(String, BTreeMap<String, String>, String)> {
        let ages = ["age_seconds", "idle_seconds", "keys_idle"];
        self.series()
            .into_iter()
            .filter(|series| {
                series.name.starts_with("mongodbatlas_")
                    && !ages.iter().any(|age| series.name.ends_with(age))
            })
            .map(|series| {
                (
                    series.name.clone(),
                    series.labels.clone(),
                    series.value.to_string(),
                )
            })
            .collect()
    }

    pub fn poll_failures(&self, org: &str, reason: &str) -> f64 {
        self.get(
            "atlas_ai_keys_exporter_org_poll_failures_total",
            &[("org_id", org), ("reason", reason)],
        )
        .expect("every reason begins at 0")
    }
}

fn parse_sample(line: &str) -> Series {
    let Some((name, rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ').unwrap();
        return Series {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            value: value.parse().unwrap(),
        };
    };
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    let value = loop {
        let (label, after) = rest.split_once("=\"").unwrap();
        let end = find_closing_quote(after).unwrap_or_else(|| panic!("no closing quote: {line}"));
        let value = unescape(&after[..end]);
        let before = labels.insert(label.to_owned(), value);
        assert!(before.is_none(), "a label twice: {line}");
        let after = &after[end + 1..];
        if let Some(value) = after.strip_prefix('}') {
            break value;
        }
        rest = after
            .strip_prefix(',')
            .unwrap_or_else(|| panic!("no comma: {line}"));
    };
    Series {
        name: name.to_owned(),
        labels,
        value: value
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("no number: {line}")),
    }
}

/// Where the quote is that ends a label's value.
fn find_closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut value = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        value.push(match letter {
            '\\' => match letters.next().expect("an escaped character") {
                'n' => '\n',
                escaped => escaped,
            },
            plain => plain,
        });
    }
    value
}

/// A key as a scrape shows it.
pub fn exposed_keys(scrape: &Scrape) -> BTreeMap<String, (String, String, Option<String>)> {
    let used: BTreeMap<_, _> = scrape
        .with_name("mongodbatlas_ai_model_api_key_last_used_timestamp_seconds")
        .map(|series| {
            (
                series.labels["api_key_id"].clone(),
                format!("{:.6}", series.value),
            )
        })
        .collect();
    scrape
        .with_name("mongodbatlas_ai_model_api_key_info")
        .map(|series| {
            let id = series.labels["api_key_id"].clone();
            let last_used = used.get(&id).cloned();
            (
                id,
                (
                    series.labels["name"].clone(),
                    series.labels["status"].clone(),
                    last_used,
                ),
            )
        })
        .collect()
}

/// The same of what the simulated Atlas holds.
#[allow(
    clippy::cast_precision_loss,
    reason = "microseconds of this era fit 53 bits"
)]
pub fn expected_keys<'a>(
    keys: impl IntoIterator<Item = &'a SimKey>,
) -> BTreeMap<String, (String, String, Option<String>)> {
    keys.into_iter()
        .map(|key| {
            let last_used = key
                .last_used
                .map(|at| format!("{:.6}", at.as_microsecond() as f64 / 1e6));
            (
                key.id.clone(),
                (key.name.clone(), key.status.clone(), last_used),
            )
        })
        .collect()
}

/// All keys of all organizations.
pub fn expected_sim_keys(sim: &SimHandle) -> BTreeMap<String, (String, String, Option<String>)> {
    sim.with_world(|world| {
        let orgs = world.org_ids();
        expected_keys(orgs.iter().flat_map(|org| world.keys(org)))
    })
}

/// The real binary, or another program, as a child that is ended by its handle.
pub struct ChildProcess {
    child: Child,
    output: Arc<Mutex<String>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl ChildProcess {
    /// Starts the exporter's binary in an environment of these variables alone.
    pub fn exporter(arguments: &[&str], variables: &[(String, String)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"));
        command
            .args(arguments)
            .env_clear()
            .envs(variables.iter().cloned());
        Self::start(command)
    }

    /// Starts a program; a test that needs one fails when it is missing.
    pub fn start(mut command: Command) -> Self {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} cannot be started ({error}); `make test` installs what the tests need"));
        let output = Arc::new(Mutex::new(String::new()));
        let mut readers = Vec::new();
        let streams: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for stream in streams {
            let output = Arc::clone(&output);
            readers.push(std::thread::spawn(move || {
                let mut lines = BufReader::new(stream);
                let mut line = Vec::new();
                while lines.read_until(b'\n', &mut line).unwrap_or(0) > 0 {
                    output
                        .lock()
                        .unwrap()
                        .push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            }));
        }
        Self {
            child,
            output,
            readers,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Waits for a line of output with `mark`, and hands out what follows the mark in it.
    pub fn wait_for_output(&mut self, mark: &str) -> String {
        let begun = Instant::now();
        loop {
            let output = self.output();
            let found = output.split_inclusive('\n').find_map(|line| {
                line.strip_suffix('\n')?
                    .split_once(mark)
                    .map(|(_, rest)| rest.to_owned())
            });
            if let Some(rest) = found {
                return rest;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                std::thread::sleep(Duration::from_millis(100));
                panic!(
                    "it ended ({status}) before it said {mark:?}:\n{}",
                    self.output()
                );
            }
            assert!(
                begun.elapsed() < WAIT_TIMEOUT,
                "it never said {mark:?}:\n{output}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal to this child alone.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until it ends by itself: its exit code, all it said, and how long that took.
    pub fn wait_exit(mut self) -> (Option<i32>, String, Duration) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                begun.elapsed() < WAIT_TIMEOUT,
                "it does not end:\n{}",
                self.output()
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        let took = begun.elapsed();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        (status.code(), self.output(), took)
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the exporter's binary to its end, in an environment of these variables alone.
pub async fn run_exporter(arguments: &[&str], variables: Vec<(String, String)>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"));
    command.args(arguments).env_clear().envs(variables);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// An endpoint answers with an error status: for an organization, or for every one.
pub fn error_fault(endpoint: SimEndpoint, org: Option<&str>, status: u16) -> Fault {
    let effect = Effect::Status {
        status,
        retry_after: None,
        body: ErrorBodyFormat::default(),
    };
    Fault {
        org: org.map(str::to_owned),
        ..Fault::new(endpoint, effect)
    }
}

/// A named pipe in the place of `path`.
pub fn make_fifo(path: &std::path::Path) {
    let _ = std::fs::remove_file(path);
    let (kind, mode) = (
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
    );
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

/// Lets this process, and those it starts, open so many files.
#[cfg(unix)]
pub fn raise_open_files_limit(files: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.map(|current| current.max(files));
    setrlimit(Resource::Nofile, Rlimit { current, ..limit })
        .expect("the test needs that many open files");
}

/// A number of /proc/PID/status, such as `VmRSS` in KiB or `Threads`.
#[cfg(target_os = "linux")]
pub fn process_status(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .unwrap();
    value.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A port that was free a moment ago, for programs that cannot be told to choose one.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Runs a program to its end with `input`: exit code, standard output and standard error.
pub fn run_command(command: &mut Command, input: &[u8]) -> (Option<i32>, String, String) {
    use std::io::Write as _;
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "{program} cannot be started ({error}); `make test` installs what the tests need"
            )
        });
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).unwrap();
        text
    });
    let mut stderr = Vec::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_end(&mut stderr)
        .unwrap();
    writer.join().unwrap();
    let stdout = reader.join().unwrap();
    let status = child.wait().unwrap();
    (
        status.code(),
        String::from_utf8_lossy(&stdout).into_owned(),
        String::from_utf8_lossy(&stderr).into_owned(),
    )
}
