//! Shared code of the whole-process benchmarks: child processes, a minimal client, and process statistics from the kernel.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark may panic, and measures in floats"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mongodb_atlas_sim::{BucketConfig, SimConfig, SimHandle};

/// Starts a simulated Atlas in this process, without effective rate limits.
pub async fn start_sim(keys: usize) -> SimHandle {
    let config = SimConfig {
        orgs: 1,
        keys,
        speed: 0.0,
        org_bucket: BucketConfig::new(1_000_000, 1_000_000),
        ..SimConfig::default()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    SimHandle::start(listener, &config, jiff::Timestamp::now).unwrap()
}

/// A child process, killed on drop.
pub struct BenchProcess {
    child: Child,
    pub address: String,
}

impl BenchProcess {
    /// Starts the exporter of this build, which polls `sim`.
    pub fn start_exporter(sim: &SimHandle, flags: &[&str]) -> Self {
        let account = sim.credentials();
        let mut command = Command::new(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"));
        command
            .arg("--web.listen-address=127.0.0.1:0")
            .args(flags)
            .env_clear()
            // As in the unit and the image.
            .env("MALLOC_MMAP_THRESHOLD_", "1048576")
            .env("MONGODB_ATLAS_BASE_URL", sim.base_url())
            .env("MONGODB_ATLAS_ORG_ID", sim.org_ids().join(","))
            .env("MONGODB_ATLAS_CLIENT_ID", account.client_id)
            .env("MONGODB_ATLAS_CLIENT_SECRET", account.client_secret)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                line.split_once("address=")
                    .map(|(_, address)| address.to_owned())
            })
            .unwrap();
        // Read the remaining output: the child would block on a full pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { child, address }
    }

    /// Starts `client_golang` with `keys` keys. Returns `None` without Go or its packages.
    pub fn start_client_golang(keys: usize) -> Option<Self> {
        let root = env!("CARGO_MANIFEST_DIR");
        let built = Command::new("go")
            .args([
                "build",
                "-o",
                &format!("{root}/target/peer/peer"),
                "main.go",
            ])
            .current_dir(format!("{root}/benches/peer"))
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .status();
        if !built.is_ok_and(|status| status.success()) {
            return None;
        }
        let mut child = Command::new(format!("{root}/target/peer/peer"))
            .arg(keys.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut address)
            .unwrap();
        Some(Self {
            child,
            address: address.trim().to_owned(),
        })
    }

    /// Waits until the metrics contain `keys` keys.
    pub fn wait_for_keys(&self, keys: usize) {
        let started_at = Instant::now();
        let mark = "mongodbatlas_ai_model_api_key_used{";
        loop {
            let (body, _) = fetch(&self.address, ContentCoding::Identity);
            let text = String::from_utf8_lossy(&body);
            if text.matches(mark).count() >= keys {
                return;
            }
            assert!(started_at.elapsed() < Duration::from_mins(5));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn proc_status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Returns the resident memory in MiB.
    pub fn resident_mib(&self) -> f64 {
        self.proc_status("VmRSS:") as f64 / 1024.0
    }

    /// Returns the peak resident memory in MiB.
    pub fn peak_resident_mib(&self) -> f64 {
        self.proc_status("VmHWM:") as f64 / 1024.0
    }

    /// Returns the CPU time used so far by all threads.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // USER_HZ is 100 on every supported Linux.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for BenchProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentCoding {
    Identity,
    Gzip,
}

impl ContentCoding {
    fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
        }
    }
}

/// Scrapes over a new connection. Returns the raw response and the elapsed time.
pub fn fetch(address: &str, coding: ContentCoding) -> (Vec<u8>, Duration) {
    let mut body = Vec::new();
    let elapsed = scrape(address, coding, |chunk| body.extend_from_slice(chunk));
    (body, elapsed)
}

/// Scrapes over a new connection and discards the response.
pub fn time_scrape(address: &str, coding: ContentCoding) -> Duration {
    scrape(address, coding, |_| {})
}

/// Times a cheap request, which shows how long the serving threads are busy with other work.
pub fn time_health_request(address: &str) -> Duration {
    request(address, "/-/healthy", ContentCoding::Identity, |_| {})
}

fn scrape(address: &str, coding: ContentCoding, take: impl FnMut(&[u8])) -> Duration {
    request(address, "/metrics", coding, take)
}

fn request(
    address: &str,
    path: &str,
    coding: ContentCoding,
    mut take: impl FnMut(&[u8]),
) -> Duration {
    let started_at = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/plain;version=0.0.4\r\nAccept-Encoding: {}\r\nConnection: close\r\n\r\n",
        coding.as_str()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match stream.read(&mut chunk).unwrap() {
            0 => return started_at.elapsed(),
            read => take(&chunk[..read]),
        }
    }
}

/// Returns the median.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Returns a percentile.
pub fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

pub fn as_millis_f64(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
