//! `once`: output file.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{parse_stdout, start_sim_with_orgs, stderr_text};
use crate::common::{
    ChildProcess, Scrape, eventually, expected_sim_keys, exposed_keys, run_exporter, sim_env,
    static_sim, try_eventually_blocking,
};
use mongodb_atlas_sim::{Effect, Fault, SimEndpoint};

/// Returns the kind of the file at a path, and the target of a link.
#[cfg(unix)]
fn file_kind(path: &Path) -> String {
    use std::os::unix::fs::FileTypeExt as _;
    let kind = fs::symlink_metadata(path).unwrap().file_type();
    let known = [
        (kind.is_file(), "file"),
        (kind.is_dir(), "directory"),
        (kind.is_symlink(), "link"),
        (kind.is_fifo(), "pipe"),
        (kind.is_socket(), "socket"),
    ];
    known.into_iter().find(|(is, _)| *is).unwrap().1.to_owned()
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn special_output_files_are_written_in_place() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let sim = start_sim_with_orgs(1).await;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let once = async |path: &Path| {
        let flag = format!("--output={}", path.display());
        run_exporter(&["once", &flag], sim_env(&sim)).await
    };
    let make_pipe = |path: &Path| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
    };
    let world = expected_sim_keys(&sim);
    // A pipe with a reader, directly and behind a link.
    make_pipe(&at("pipe"));
    symlink("pipe", at("link to pipe")).unwrap();
    for name in ["pipe", "link to pipe"] {
        // While both ends are open, the reader neither blocks at open nor reads an end of file.
        let mut options = fs::File::options();
        let both_ends = options.read(true).write(true).open(at("pipe")).unwrap();
        let mut pipe = fs::File::open(at("pipe")).unwrap();
        let reader = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut pipe, &mut text).unwrap();
            text
        });
        let output = once(&at(name)).await;
        drop(both_ends);
        assert_eq!(output.status.code(), Some(0), "{}", stderr_text(&output));
        assert_eq!(exposed_keys(&Scrape::parse(&reader.await.unwrap())), world);
    }
    assert_eq!(
        (file_kind(&at("pipe")), file_kind(&at("link to pipe"))),
        ("pipe".into(), "link".into())
    );
    // Unwritable files are reported and not changed.
    fs::create_dir(at("directory")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    symlink("loop", at("loop")).unwrap();
    for (name, before, words) in [
        ("pipe", "pipe", "no process reads the pipe"),
        ("directory", "directory", "directory"),
        ("socket", "socket", "expected a file, a pipe"),
        ("loop", "link", "symbolic links"),
    ] {
        let output = once(&at(name)).await;
        let error = stderr_text(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {error}");
        assert!(
            error.contains(words) && error.contains(name) && error.contains("--output"),
            "{error}"
        );
        assert_eq!(file_kind(&at(name)), before);
    }
    drop(socket);
    // A link is retained; its target is replaced with its mode, or created.
    fs::create_dir(at("target")).unwrap();
    fs::write(at("target/keys.prom"), "before\n").unwrap();
    fs::set_permissions(at("target/keys.prom"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("target/keys.prom", at("relative")).unwrap();
    symlink(at("target/new.prom"), at("dangling")).unwrap();
    for (link, target, mode) in [
        ("relative", "target/keys.prom", 0o640),
        ("dangling", "target/new.prom", 0o644),
    ] {
        let output = once(&at(link)).await;
        assert_eq!(
            output.status.code(),
            Some(0),
            "{link}: {}",
            stderr_text(&output)
        );
        assert_eq!(file_kind(&at(link)), "link");
        let text = fs::read_to_string(at(target)).unwrap();
        assert_eq!(exposed_keys(&Scrape::parse(&text)), world, "{link}");
        let now = fs::metadata(at(target)).unwrap().permissions().mode() & 0o777;
        assert_eq!(now, mode, "{link}");
    }
    assert_eq!(
        fs::read_dir(at("target")).unwrap().count(),
        2,
        "no other file remains"
    );
    for name in ["-", "/dev/stdout"] {
        let output = once(Path::new(name)).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr_text(&output));
        assert_eq!(exposed_keys(&parse_stdout(&output)), world, "{name}");
    }
    let output = run_exporter(&["once", "--output="], sim_env(&sim)).await;
    assert!(
        output.status.code() == Some(2)
            && stderr_text(&output).contains("--output: invalid value \"\"")
    );
    sim.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn error_of_the_output_names_the_file_as_given() {
    let sim = start_sim_with_orgs(1).await;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::write(at("file"), "").unwrap();
    // Even root cannot create a file in /proc.
    for (path, cause) in [
        (
            at("missing/keys.prom"),
            "No such file or directory (os error 2)",
        ),
        (at("file/keys.prom"), "Not a directory (os error 20)"),
        (at("."), "is a directory"),
        (at("new/"), "Not a directory (os error 20)"),
        (
            "/proc/keys.prom".to_owned(),
            "No such file or directory (os error 2)",
        ),
    ] {
        let output = run_exporter(&["once", "--output", &path], sim_env(&sim)).await;
        let error = stderr_text(&output);
        assert_eq!(output.status.code(), Some(1), "{path}: {error}");
        let expected =
            format!("atlas-ai-keys-exporter: {path} (--output): cannot be written: {cause}");
        assert_eq!(error.lines().last(), Some(&*expected));
    }
    // The error is reported before any organization is polled.
    assert_eq!(sim.requests().len(), 0);
    sim.stop().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn failed_write_leaves_the_output_file_unchanged() {
    let sim = start_sim_with_orgs(2).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.prom");
    fs::write(&path, "before\n").unwrap();
    let flag = format!("--output={}", path.display());
    let unchanged = |what: &str| {
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\n", "{what}");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "{what}: another file remains"
        );
    };
    let binary = env!("CARGO_BIN_EXE_atlas-ai-keys-exporter");
    // Files cannot exceed 4 KiB, which simulates a full disk.
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 8; exec \"$@\"",
            "sh",
            binary,
            "once",
            &flag,
        ])
        .env_clear()
        .envs(sim_env(&sim));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // The name of the temporary file is not shown.
    let expected = format!(
        "{} (--output): cannot be written: File too large (os error 27)\n",
        path.display()
    );
    let error = stderr_text(&output);
    assert!(error.ends_with(&expected), "{error}");
    unchanged("full");
    // The command is stopped while Atlas does not respond.
    let slow = Effect::Delay { seconds: 60.0 };
    sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, slow));
    let requests = sim.requests().len();
    let program = ChildProcess::exporter(&["once", &flag], &sim_env(&sim));
    // The first request is for the token.
    eventually("a request", async || {
        let has_request = sim.requests().len() > requests;
        has_request.then_some(()).ok_or_else(|| program.output())
    })
    .await;
    program.signal(rustix::process::Signal::TERM);
    let (code, output, _) = tokio::task::spawn_blocking(|| program.wait_exit())
        .await
        .unwrap();
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("interrupted"), "{output}");
    unchanged("stopped");
    sim.clear_faults();
    // Two concurrent commands each write a complete file.
    let line = ["once", &flag];
    let both = [(); 2].map(|()| run_exporter(&line, sim_env(&sim)));
    for output in futures_util::future::join_all(both).await {
        assert_eq!(output.status.code(), Some(0), "{}", stderr_text(&output));
    }
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(exposed_keys(&Scrape::parse(&text)), expected_sim_keys(&sim));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    sim.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn unwritable_output_exits_with_an_error() {
    use std::io::Read as _;
    let sim = start_sim_with_orgs(2).await;
    let binary = env!("CARGO_BIN_EXE_atlas-ai-keys-exporter");
    for arguments in [
        &["once"][..],
        &["keys"],
        &["check"],
        &["man"],
        &["completions", "bash"],
    ] {
        let mut command = Command::new(binary);
        let full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        command
            .args(arguments)
            .env_clear()
            .envs(sim_env(&sim))
            .stdout(full);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            stderr_text(&output).contains("standard output: cannot be written"),
            "{arguments:?}"
        );
    }
    sim.stop().await;
    // The reader reads only one byte. A signal still stops the program.
    let sim = crate::common::start_sim(static_sim(1, 2000)).await;
    for arguments in [&["once"][..], &["keys", "--output=json"]] {
        let mut command = Command::new(binary);
        command.args(arguments).env_clear().envs(sim_env(&sim));
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let ended = tokio::task::spawn_blocking(move || {
            stdout.read_exact(&mut [0]).unwrap();
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            let status = try_eventually_blocking(|| child.try_wait().unwrap().ok_or(()));
            let _ = child.kill();
            status.map(|status| status.code())
        });
        assert_eq!(ended.await.unwrap(), Ok(Some(1)), "{arguments:?}");
    }
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_file_is_replaced_atomically() {
    let sim = start_sim_with_orgs(1).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.prom");
    std::fs::write(&path, "before\n").unwrap();
    let flag = format!("--output={}", path.display());
    let output = run_exporter(&["once", &flag], sim_env(&sim)).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.is_empty());
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(exposed_keys(&Scrape::parse(&text)), expected_sim_keys(&sim));
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "no other file remains"
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "other users can read the file");
    }
    let flag = format!(
        "--output={}",
        dir.path().join("nowhere/keys.prom").display()
    );
    let output = run_exporter(&["once", &flag], sim_env(&sim)).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && error.contains("--output"),
        "{error}"
    );
    sim.stop().await;
}
