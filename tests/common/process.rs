//! Child processes and their statistics from the kernel.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::wait::{eventually, eventually_blocking};
use super::{Scrape, get};

/// The exporter's binary or another program as a child process, killed on drop.
pub struct ChildProcess {
    child: Child,
    output: Arc<Mutex<String>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl ChildProcess {
    /// Starts the exporter's binary with only these environment variables.
    pub fn exporter(arguments: &[&str], variables: &[(String, String)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"));
        command
            .args(arguments)
            .env_clear()
            .envs(variables.iter().cloned());
        Self::start(command)
    }

    /// Starts a program; the test fails if it is missing.
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

    /// Returns whether the process has not exited yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Waits for an output line with `mark`, and returns the rest of that line.
    pub fn wait_for_output(&mut self, mark: &str) -> String {
        eventually_blocking(&format!("a line with {mark:?}"), || {
            let output = self.output();
            let found = output.split_inclusive('\n').find_map(|line| {
                line.strip_suffix('\n')?
                    .split_once(mark)
                    .map(|(_, rest)| rest.to_owned())
            });
            if found.is_none()
                && let Some(status) = self.child.try_wait().unwrap()
            {
                self.join_readers();
                // The last output before the exit can contain the line.
                assert!(
                    self.output().contains(mark),
                    "it ended ({status}) before it said {mark:?}:\n{}",
                    self.output()
                );
            }
            found.ok_or(output)
        })
    }

    /// Scrapes the exporter at `address` until `condition` holds, and asserts that it is healthy.
    pub async fn wait_scrape(
        &self,
        address: &str,
        what: &str,
        condition: impl Fn(&Scrape) -> bool,
    ) -> Scrape {
        eventually(what, async || {
            assert_eq!(get(&format!("http://{address}/-/healthy")).await.0, 200);
            let scrape = Scrape::parse(&get(&format!("http://{address}/metrics")).await.1);
            if condition(&scrape) {
                return Ok(scrape);
            }
            Err(format!("{}\n{}", scrape.text, self.output()))
        })
        .await
    }

    /// Sends a signal to the child process.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the exit: returns exit code, output and elapsed time.
    pub fn wait_exit(mut self) -> (Option<i32>, String, Duration) {
        let begun = Instant::now();
        let status = eventually_blocking("the process exits", || {
            let status = self.child.try_wait().unwrap();
            status.ok_or_else(|| self.output())
        });
        let took = begun.elapsed();
        self.join_readers();
        (status.code(), self.output(), took)
    }

    /// Waits until all output of the process is read.
    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the exporter's binary until it exits, with only these environment variables.
pub async fn run_exporter(arguments: &[&str], variables: Vec<(String, String)>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"));
    command.args(arguments).env_clear().envs(variables);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// Creates a named pipe at `path`.
pub fn make_fifo(path: &std::path::Path) {
    let _ = std::fs::remove_file(path);
    let (kind, mode) = (
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
    );
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

/// Raises the limit of open files for this process and its children.
#[cfg(unix)]
pub fn raise_open_files_limit(files: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.map(|current| current.max(files));
    setrlimit(Resource::Nofile, Rlimit { current, ..limit })
        .expect("the hard limit of open files is sufficient");
}

/// Returns a number in /proc/PID/status, such as `VmRSS` in KiB or `Threads`.
#[cfg(target_os = "linux")]
pub fn process_status(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .unwrap();
    value.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Returns a port that was free when this function checked, for programs that cannot choose a port.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Runs a program with `input` until it exits: returns exit code, standard output and standard error.
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
