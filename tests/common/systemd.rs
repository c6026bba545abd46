//! A systemd in separate namespaces with the shipped units. Uses the network of the test and is killed on drop.

use std::path::Path;
use std::process::Command;

use super::{ChildProcess, eventually_blocking, run_command, try_eventually_blocking};

/// State directory in the container.
pub const STATE_DIR: &str = "/var/lib/atlas-ai-keys-exporter";
/// Name of the unit.
pub const SERVICE: &str = "atlas-ai-keys-exporter.service";

/// Returns a command that runs as root.
pub fn root_command(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", program]);
    command
}

/// Returns the first process of the namespaces: the child of `unshare`, possibly below `sudo`.
fn find_init(outer: &str) -> Option<String> {
    let mut pid = outer.to_owned();
    loop {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        if !["sudo", "unshare"].contains(&name.trim()) {
            return (pid != outer).then_some(pid);
        }
        let mut children = Command::new("pgrep");
        let (_, output, _) = run_command(children.args(["-P", &pid]), &[]);
        output.lines().next()?.clone_into(&mut pid);
    }
}

/// A booted systemd.
pub struct SystemdContainer {
    /// Pid of the first process, in the namespace of the test.
    init_pid: String,
    /// The `unshare` process that started it.
    outer: ChildProcess,
    _shared_dir: tempfile::TempDir,
}

impl SystemdContainer {
    /// Boots the programs of this machine, with the shipped units, a drop-in for the service, its environment
    /// and the files of the credential store by name.
    pub fn boot(
        drop_in: &str,
        environment: &[(String, String)],
        credentials: &[(&str, String)],
    ) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let given = tempfile::tempdir().unwrap();
        let units = given.path().join("units");
        let beside = units.join(format!("{SERVICE}.d"));
        std::fs::create_dir_all(&beside).unwrap();
        for unit in [SERVICE, "atlas-ai-keys-exporter.socket"] {
            std::fs::copy(root.join("systemd").join(unit), units.join(unit)).unwrap();
        }
        let program = given.path().join("atlas-ai-keys-exporter");
        std::fs::copy(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"), program).unwrap();
        let place = "[Service]\nExecStart=\nExecStart=/run/given/atlas-ai-keys-exporter\n\
                     EnvironmentFile=/run/given/environment\n";
        std::fs::write(beside.join("10-place.conf"), place).unwrap();
        std::fs::write(beside.join("20-test.conf"), drop_in).unwrap();
        let lines: Vec<String> = environment
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        std::fs::write(given.path().join("environment"), lines.concat()).unwrap();
        let systemd = Self::start(given, None);
        for (name, secret) in credentials {
            systemd.write_secret(
                &format!("/run/credstore/atlas-ai-keys-exporter.{name}"),
                secret,
            );
        }
        systemd
    }

    /// Boots a copy of a Debian root, with the files of `shared` in `/run/given`.
    pub fn boot_root(root: &Path, given: tempfile::TempDir) -> Self {
        Self::start(given, Some(root))
    }

    fn start(given: tempfile::TempDir, root: Option<&Path>) -> Self {
        let mut command = root_command("unshare");
        command
            .args(["--pid", "--mount", "--uts", "--ipc", "--cgroup", "--fork"])
            .args(["--mount-proc", "--kill-child", "bash"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/boot"))
            .arg(given.path())
            .arg(root.unwrap_or(Path::new("")));
        let outer = ChildProcess::start(command);
        let mut systemd = Self {
            init_pid: String::new(),
            outer,
            _shared_dir: given,
        };
        systemd.wait_for_init();
        systemd
    }

    fn wait_for_init(&mut self) {
        eventually_blocking("systemd boots", || {
            if self.init_pid.is_empty() {
                self.init_pid = find_init(&self.outer.pid().to_string()).unwrap_or_default();
                return Err(self.outer.output());
            }
            let (code, output, _) = self.exec(&["systemctl", "is-system-running"]);
            let booted = code == Some(0) || output.trim() == "degraded";
            booted.then_some(()).ok_or_else(|| self.outer.output())
        });
    }

    /// Runs a command in the container: returns exit code, standard output and standard error.
    pub fn exec(&self, command: &[&str]) -> (Option<i32>, String, String) {
        let mut nsenter = root_command("timeout");
        nsenter
            .args([
                "30",
                "nsenter",
                "-t",
                &self.init_pid,
                "-p",
                "-m",
                "-u",
                "-i",
                "-C",
            ])
            .args(command);
        run_command(&mut nsenter, &[])
    }

    /// Runs a command that must succeed, and returns its output.
    pub fn exec_ok(&self, command: &[&str]) -> String {
        let (code, output, error) = self.exec(command);
        assert_eq!(
            code,
            Some(0),
            "{command:?}: {output}{error}\n{}",
            self.journal()
        );
        output
    }

    /// Runs a `systemctl` command that must succeed.
    pub fn systemctl(&self, arguments: &[&str]) -> String {
        let mut command = vec!["systemctl"];
        command.extend(arguments);
        self.exec_ok(&command)
    }

    /// Returns a property of the service.
    pub fn property(&self, name: &str) -> String {
        let output = self.systemctl(&["show", SERVICE, "--value", "--property", name]);
        output.trim().to_owned()
    }

    /// Waits until `condition` holds for a property of the service, and returns its value.
    pub fn wait_property(&self, name: &str, condition: impl Fn(&str) -> bool) -> String {
        try_eventually_blocking(|| {
            let value = self.property(name);
            if condition(&value) {
                Ok(value)
            } else {
                Err(value)
            }
        })
        .unwrap_or_else(|value| panic!("timeout: {name} is {value:?}\n{}", self.journal()))
    }

    /// Returns the log of the service.
    pub fn journal(&self) -> String {
        self.journal_as("cat")
    }

    /// Returns the log of the service in an output format of `journalctl`.
    pub fn journal_as(&self, format: &str) -> String {
        let (_, output, _) = self.exec(&[
            "journalctl",
            "--unit",
            SERVICE,
            "--no-pager",
            "--output",
            format,
        ]);
        output
    }

    /// Waits until the log of the service contains `words`, and returns it: journald stores entries with a delay.
    pub fn wait_journal(&self, words: &str) -> String {
        eventually_blocking(&format!("the journal has {words:?}"), || {
            let journal = self.journal();
            let has_words = journal.contains(words);
            if has_words { Ok(journal) } else { Err(journal) }
        })
    }

    /// Writes a file that only root can read.
    pub fn write_secret(&self, path: &str, text: &str) {
        let mut command = root_command("timeout");
        command
            .args(["10", "nsenter", "-t", &self.init_pid, "-m", "sh", "-c"])
            .args(["umask 077; cat > \"$0\"", path]);
        let (code, _, error) = run_command(&mut command, text.as_bytes());
        assert_eq!(code, Some(0), "{path}: {error}");
    }
}

impl Drop for SystemdContainer {
    fn drop(&mut self) {
        if !self.init_pid.is_empty() {
            // The kernel kills all processes of a pid namespace with the first one.
            let _ = root_command("kill").args(["-9", &self.init_pid]).status();
        }
    }
}
