//! Tests that scrapes succeed under attack: more than 1,024 connections of each kind of attack, and aborted scrapes. A
//! second exporter without an attack is scraped alternately as the control.

mod attacks;

use attacks::{
    Attack, AttackFn, guess_passwords, open_http2_without_window, request_pages, stall_reading,
    stay_silent,
};

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::pki::{TLS_CONFIG, TestPki, bcrypt_hash};
use crate::common::{ChildProcess, eventually, process_status, sim_env};
use mongodb_atlas_sim::{SimConfig, SimHandle};
use reqwest::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// The number of scrapes of the attacked exporter per scrape of the control.
const CONTROL_INTERVAL: usize = 4;

/// The number of connections: more than the limit of 1,024, so that evicted clients fill every free place.
const CONNECTIONS: usize = 1100;

const SCRAPES: usize = 100;

/// The maximum number of attempts, of which one must be fast enough.
const ROUNDS: usize = 3;

/// The minimum duration of a control scrape in the comparison, because shorter durations vary with other load.
const MIN_CONTROL: Duration = Duration::from_millis(20);

/// Serializes the attacks, because they compare durations.
static SERIAL_LOCK: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Two exporters with the same configuration that poll the same simulated Atlas.
struct ComparedExporters {
    attacked: ChildProcess,
    control: ChildProcess,
    addresses: [String; 2],
    scheme: &'static str,
    sim: SimHandle,
}

impl ComparedExporters {
    async fn start(world: SimConfig, scheme: &'static str, flags: &[&str]) -> Self {
        crate::common::raise_open_files_limit(4 * CONNECTIONS as u64);
        let sim = crate::common::start_sim(world).await;
        let mut arguments = vec![
            "--web.listen-address=127.0.0.1:0",
            "--atlas.poll-interval=1h",
        ];
        arguments.extend(flags);
        let mut programs = [(); 2].map(|()| ChildProcess::exporter(&arguments, &sim_env(&sim)));
        let addresses = programs.each_mut().map(|program| {
            let address = program.wait_for_output("address=");
            program.wait_for_output("poll succeeded");
            address
        });
        let [attacked, control] = programs;
        Self {
            attacked,
            control,
            addresses,
            scheme,
            sim,
        }
    }

    /// Compares until one attempt has at most one slow or failed scrape in a hundred. Other load on the machine slows single
    /// attempts, a fault of the exporter slows all of them.
    async fn compare(&self, what: &str, scrapes: usize, clients: &[Client]) {
        let mut results = Vec::new();
        for _ in 0..ROUNDS {
            match self.compare_once(what, scrapes, clients).await {
                Ok(()) => return,
                Err(result) => results.push(result),
            }
        }
        panic!("{what}: {}", results.join("; "));
    }

    /// Scrapes both exporters alternately, and compares durations. Uses clients with and without connection reuse.
    async fn compare_once(
        &self,
        what: &str,
        scrapes: usize,
        clients: &[Client],
    ) -> Result<(), String> {
        let mut failures = Vec::new();
        let mut times = [Vec::new(), Vec::new()];
        for number in 0..scrapes {
            let client = &clients[number % clients.len()];
            let addresses = 1 + usize::from(number % (CONTROL_INTERVAL + 1) == 0);
            for (times, address) in times.iter_mut().zip(&self.addresses).take(addresses) {
                let url = format!("{}://{address}/metrics", self.scheme);
                let started_at = Instant::now();
                let attempt = scrape(client, &url).await;
                times.push(started_at.elapsed());
                if let Err(why) = attempt {
                    assert_eq!(*address, self.addresses[0], "the control: {why}");
                    failures.push(why);
                }
            }
        }
        let [attacked, control] = times;
        let limit = 10 * control.iter().copied().max().unwrap().max(MIN_CONTROL);
        // During the first scrape of each client a thousand connections are opened, so its duration is ignored.
        let settled = attacked.iter().skip(clients.len());
        let slow = settled.filter(|time| **time > limit).count();
        let median = |times: &[Duration]| {
            let mut times = times.to_vec();
            times.sort();
            times[times.len() / 2]
        };
        let resident = process_status(self.attacked.pid(), "VmRSS") >> 10;
        println!(
            "{what}: {} of {scrapes} failed, {slow} slower than {limit:?}; median {:?}, control {:?}; {resident} MiB",
            failures.len(),
            median(&attacked),
            median(&control),
        );
        assert!(resident < 256, "{what}: {resident} MiB");
        if failures.len() + slow <= scrapes / 100 {
            return Ok(());
        }
        Err(format!(
            "{slow} scrapes slower than {limit:?}, and failures {failures:?}"
        ))
    }

    async fn stop(self) {
        drop((self.attacked, self.control));
        self.sim.stop().await;
    }
}

async fn scrape(client: &Client, url: &str) -> Result<(), String> {
    let request = client.get(url).timeout(crate::common::wait_timeout());
    // Exporters without users ignore the password.
    let request = request.basic_auth("prometheus", Some("secret"));
    let text = |error: reqwest::Error| format!("{error:?}");
    let response = request.send().await.map_err(text)?;
    let status = response.status();
    let body = response.text().await.map_err(text)?;
    if status == 200 && body.contains("process_threads") {
        return Ok(());
    }
    Err(format!("{status}: {} bytes", body.len()))
}

/// Returns a client with connection reuse, and one without.
fn clients(builder: impl Fn() -> reqwest::ClientBuilder) -> [Client; 2] {
    [
        builder().build().unwrap(),
        builder().pool_max_idle_per_host(0).build().unwrap(),
    ]
}

fn basic_auth_config() -> String {
    format!(
        "basic_auth_users:\n  prometheus: {}\n",
        bcrypt_hash("secret")
    )
}

/// The address of an attacker that shares the scraper's address.
const SAME_ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;

const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Runs the attacks one after another against the same pair of exporters.
async fn assert_scrapes_succeed_during(
    pair: ComparedExporters,
    from: Ipv4Addr,
    clients: &[Client],
    attacks: &[(&str, Option<TlsConnector>, AttackFn)],
) {
    for client in clients {
        // A verified password is cached, so the scrapes do not wait in the bcrypt queue.
        let url = format!("{}://{}/metrics", pair.scheme, pair.addresses[0]);
        scrape(client, &url).await.unwrap();
    }
    for (what, tls, behavior) in attacks {
        let started_at = Instant::now();
        let attack = Attack::start(from, &pair.addresses[0], tls.as_ref(), *behavior).await;
        let opened_at = Instant::now();
        pair.compare(what, SCRAPES, clients).await;
        println!(
            "{:?} to open, {:?} to scrape",
            opened_at - started_at,
            opened_at.elapsed()
        );
        attack.stop().await;
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authenticated_scrapes_succeed_under_attack_over_tls() {
    let _turn = SERIAL_LOCK.lock().await;
    let pki = TestPki::new();
    let flag = pki.web_config_flag(&format!("{TLS_CONFIG}{}", basic_auth_config()));
    let pair =
        ComparedExporters::start(crate::common::unlimited_sim(1, 100), "https", &[&flag]).await;
    let clients = clients(|| pki.client());
    let attacks: [(_, _, AttackFn); 2] = [
        (
            "TLS, HTTP/2, no window",
            Some(pki.connector(b"h2")),
            open_http2_without_window,
        ),
        (
            "TLS, guessing",
            Some(pki.connector(b"http/1.1")),
            guess_passwords,
        ),
    ];
    assert_scrapes_succeed_during(pair, SAME_ADDRESS, &clients, &attacks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authenticated_scrapes_succeed_under_attack_in_plain_text() {
    let _turn = SERIAL_LOCK.lock().await;
    let pki = TestPki::new();
    let flag = pki.web_config_flag(&basic_auth_config());
    let pair =
        ComparedExporters::start(crate::common::unlimited_sim(1, 100), "http", &[&flag]).await;
    crate::common::install_crypto_provider();
    let clients = clients(|| Client::builder().no_proxy());
    let attacks: [(_, _, AttackFn); 3] = [
        ("guessing", None, guess_passwords),
        ("stalled", None, stall_reading),
        ("half a request", None, stay_silent),
    ];
    assert_scrapes_succeed_during(pair, SAME_ADDRESS, &clients, &attacks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapes_succeed_beside_stalled_readers() {
    let _turn = SERIAL_LOCK.lock().await;
    // The response is larger than the socket buffers.
    let pair = ComparedExporters::start(crate::common::unlimited_sim(1, 1000), "http", &[]).await;
    crate::common::install_crypto_provider();
    let clients = clients(|| Client::builder().no_proxy());
    let attacks: [(_, _, AttackFn); 2] = [
        ("no password, stalled", None, stall_reading),
        ("no password, waiting for pages", None, request_pages),
    ];
    assert_scrapes_succeed_during(pair, OTHER_ADDRESS, &clients, &attacks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapes_succeed_beside_http2_clients_without_window() {
    let _turn = SERIAL_LOCK.lock().await;
    let pki = TestPki::new();
    let pair = ComparedExporters::start(
        crate::common::unlimited_sim(1, 100),
        "https",
        &[&pki.web_config_flag(TLS_CONFIG)],
    )
    .await;
    let clients = clients(|| pki.client());
    let tls = Some(pki.connector(b"h2"));
    let attacks: [(_, _, AttackFn); 1] = [(
        "no password, TLS, HTTP/2, no window",
        tls,
        open_http2_without_window,
    )];
    assert_scrapes_succeed_during(pair, OTHER_ADDRESS, &clients, &attacks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_gzip_scrapes_leak_nothing() {
    let _turn = SERIAL_LOCK.lock().await;
    let pair = ComparedExporters::start(crate::common::unlimited_sim(2, 3000), "http", &[]).await;
    crate::common::install_crypto_provider();
    let clients = clients(|| Client::builder().no_proxy());
    let mut aborting = JoinSet::new();
    let aborted = Arc::new(AtomicUsize::new(0));
    for path in [
        "/metrics",
        "/metrics?org=ORG",
        "/metrics?org=ORG",
        "/metrics?org=ORG",
    ] {
        let path = path.replace("ORG", &pair.sim.org_ids()[0]);
        let (address, aborted) = (pair.addresses[0].clone(), Arc::clone(&aborted));
        aborting.spawn(async move {
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n");
            loop {
                let mut stream = TcpStream::connect(&address).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                // Read the status line.
                stream.read_exact(&mut [0; 17]).await.unwrap();
                aborted.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let most_threads = Arc::new(AtomicUsize::new(0));
    let (pid, max) = (pair.attacked.pid(), Arc::clone(&most_threads));
    aborting.spawn(async move {
        loop {
            let threads = usize::try_from(process_status(pid, "Threads")).unwrap();
            max.fetch_max(threads, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let started_at = Instant::now();
    pair.compare("aborted", 20, &clients).await;
    println!("{:?} to scrape", started_at.elapsed());
    eventually("200 scrapes are aborted", async || {
        let aborted = aborted.load(Ordering::Relaxed);
        if aborted < 200 { Err(aborted) } else { Ok(()) }
    })
    .await;
    let threads = most_threads.load(Ordering::Relaxed);
    println!("{aborted:?} aborted, {threads} threads");
    // The runtime has a fixed number of threads, and a few per CPU.
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert!(threads < 12 + 4 * cpus, "{threads} threads");
    aborting.shutdown().await;
    pair.stop().await;
}
