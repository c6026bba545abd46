//! `once`: one poll for cron and the textfile collector; `man`, `completions` and help.
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use crate::common::sim_harness::client_clock;
use crate::common::sim_harness::in_process_sim;
use crate::common::sim_transport::SimTransport;
use crate::common::{
    ChildProcess, Scrape, TestExporter, error_fault, expected_sim_keys, exposed_keys, run_exporter,
    sim_env, static_sim,
};
use atlas_ai_keys_exporter::app::{ConfigLoader, Dependencies, Exporter};
use atlas_ai_keys_exporter::cli::{
    Args, CHECK_FLAGS, FLAGS, KEYS_FLAGS, ONCE_FLAGS, SIM_FLAGS, SIM_LISTEN_FLAGS,
};
use atlas_ai_keys_exporter::config::Config;
use atlas_ai_keys_exporter::credentials::{Environment, FIELDS};
use mongodb_atlas_client::Transport;
use mongodb_atlas_sim::{BucketConfig, Effect, Fault, SimConfig, SimEndpoint, SimHandle};
use tokio_util::sync::CancellationToken;

fn parse_stdout(output: &Output) -> Scrape {
    Scrape::parse(&String::from_utf8(output.stdout.clone()).unwrap())
}

async fn start_sim_with_orgs(orgs: usize) -> SimHandle {
    crate::common::start_sim(static_sim(orgs, 60)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn once_writes_metrics_and_exits() {
    let sim = start_sim_with_orgs(3).await;
    let output = run_exporter(&["once"], sim_env(&sim)).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{error}");
    let scrape = parse_stdout(&output);
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    assert_eq!(scrape.values("atlas_ai_keys_exporter_org_up"), [1.0; 3]);
    assert_eq!(scrape.values("mongodbatlas_organization_info"), [1.0; 3]);
    assert!(
        !scrape.text.contains("process_"),
        "the collector has its own"
    );
    assert_eq!(sim.live_token_count(), 0, "the token is given back");
    sim.stop().await;
}

fn stderr_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The variables of a sim with discovery instead of named organizations.
fn discovery_env(sim: &SimHandle) -> Vec<(String, String)> {
    let mut variables = sim_env(sim);
    variables.retain(|(name, _)| name != "MONGODB_ATLAS_ORG_ID");
    let discover = "ATLAS_AI_KEYS_EXPORTER_ATLAS_DISCOVER_ORGS";
    variables.push((discover.to_owned(), "true".to_owned()));
    variables
}

#[tokio::test(flavor = "multi_thread")]
async fn once_writes_nothing_without_data_for_every_organization() {
    let sim = start_sim_with_orgs(3).await;
    let org = sim.org_ids().remove(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.prom");
    let before = "mongodbatlas_ai_model_api_keys 1200\n";
    fs::write(&path, before).unwrap();
    let flag = format!("--output={}", path.display());
    let keys = SimEndpoint::AiModelApiKeys;
    let cases = [
        (
            org.as_str(),
            error_fault(keys, Some(&org), 403),
            sim_env(&sim),
        ),
        (org.as_str(), error_fault(keys, None, 500), sim_env(&sim)),
        (
            org.as_str(),
            error_fault(SimEndpoint::Token, None, 401),
            sim_env(&sim),
        ),
        (
            org.as_str(),
            Fault::new(keys, Effect::InvalidJson),
            sim_env(&sim),
        ),
        (
            "the organizations of credential default",
            error_fault(SimEndpoint::Orgs, None, 403),
            discovery_env(&sim),
        ),
    ];
    for (missing, fault, variables) in cases {
        sim.add_fault(fault.clone());
        let to_file = run_exporter(&["once", &flag], variables.clone()).await;
        let to_stdout = run_exporter(&["once"], variables).await;
        sim.clear_faults();
        for (output, words) in [
            (&to_file, "was not changed"),
            (&to_stdout, "nothing was written"),
        ] {
            let error = stderr_text(output);
            assert_eq!(output.status.code(), Some(1), "{fault:?}: {error}");
            assert!(output.stdout.is_empty(), "{fault:?}");
            for words in ["no data for", missing, words] {
                assert!(error.contains(words), "{fault:?}: {words}: {error}");
            }
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), before, "{fault:?}");
    }
    // a credential that has lost its access sees an empty list, which is no error of Atlas
    for org in sim.org_ids() {
        sim.with_world(|world| world.set_org_visible(&org, false));
    }
    for command in [vec!["once", &flag], vec!["once"], vec!["keys"]] {
        let output = run_exporter(&command, discovery_env(&sim)).await;
        let error = stderr_text(&output);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {error}");
        assert!(error.contains("no organizations found"), "{error}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_writes_stored_data_when_a_poll_fails() {
    let storage = tempfile::tempdir().unwrap();
    let path = storage.path().display().to_string();
    let lab = TestExporter::start(static_sim(2, 60), &["--storage.path", &path]).await;
    lab.wait_polled_with_names().await;
    let sim = lab.stop().await;
    let org = sim.org_ids().remove(0);
    sim.add_fault(error_fault(SimEndpoint::AiModelApiKeys, Some(&org), 403));
    let mut state: Vec<_> = fs::read_dir(storage.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let output = run_exporter(&["once", "--storage.path", &path], sim_env(&sim)).await;
    let error = stderr_text(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("wrote stored data for") && error.contains(&org),
        "{error}"
    );
    let scrape = parse_stdout(&output);
    assert_eq!(exposed_keys(&scrape), expected_sim_keys(&sim));
    assert_eq!(scrape.poll_failures(&org, "forbidden"), 1.0);
    let of_org = |name: &str| {
        let name = format!("atlas_ai_keys_exporter_org_{name}");
        scrape.get(&name, &[("org_id", &org)]).unwrap()
    };
    assert_eq!((of_org("up"), of_org("inventory_restored")), (0.0, 1.0));
    assert!(of_org("last_success_timestamp_seconds") < of_org("last_attempt_timestamp_seconds"));
    state.retain(|(path, content)| fs::read(path).is_ok_and(|now| now == *content));
    assert_eq!(
        fs::read_dir(storage.path()).unwrap().count(),
        state.len(),
        "unchanged"
    );
    // older than what may be shown is as good as nothing
    let flags = ["once", "--storage.path", &path, "--atlas.max-staleness=1ms"];
    let output = run_exporter(&flags, sim_env(&sim)).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && stderr_text(&output).contains("nothing was written"));
    sim.stop().await;
}

/// What there is at a path, and the file that a link leads to.
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
    // a pipe with a reader, directly and behind a link
    make_pipe(&at("pipe"));
    symlink("pipe", at("link to pipe")).unwrap();
    for name in ["pipe", "link to pipe"] {
        // as long as this is open, the reader neither waits to open the pipe nor sees its end
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
    // what cannot be written to is named, and stays
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
    // a link stays, and what it leads to is replaced with its mode, or made
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
        "nothing else is left"
    );
    for name in ["-", "/dev/stdout"] {
        let output = once(Path::new(name)).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr_text(&output));
        assert_eq!(exposed_keys(&parse_stdout(&output)), world, "{name}");
    }
    let output = run_exporter(&["once", "--output="], sim_env(&sim)).await;
    assert!(output.status.code() == Some(2) && stderr_text(&output).contains("--output: \"\""));
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
            "{what}: a file is left behind"
        );
    };
    let binary = env!("CARGO_BIN_EXE_atlas-ai-keys-exporter");
    // no file may be larger than 4 KiB: as on a disk that is full
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
    assert!(
        stderr_text(&output).contains("keys.prom (--output)"),
        "{output:?}"
    );
    unchanged("full");
    // stopped while Atlas does not answer
    let slow = Effect::Delay { seconds: 60.0 };
    sim.add_fault(Fault::new(SimEndpoint::AiModelApiKeys, slow));
    let asked = sim.requests().len();
    let program = ChildProcess::exporter(&["once", &flag], &sim_env(&sim));
    let begun = std::time::Instant::now();
    // the token, which comes before the keys
    while sim.requests().len() == asked {
        assert!(
            begun.elapsed() < crate::common::WAIT_TIMEOUT,
            "{}",
            program.output()
        );
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    program.signal(rustix::process::Signal::TERM);
    let (code, said, _) = tokio::task::spawn_blocking(|| program.wait_exit())
        .await
        .unwrap();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    unchanged("stopped");
    sim.clear_faults();
    // two at the same time: each writes the whole
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
            stderr_text(&output).contains("cannot write to standard output"),
            "{arguments:?}"
        );
    }
    sim.stop().await;
    // who reads a byte and no more: a signal ends the program all the same
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
            let begun = std::time::Instant::now();
            while begun.elapsed() < crate::common::WAIT_TIMEOUT {
                if let Some(status) = child.try_wait().unwrap() {
                    return status.code();
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it does not end");
        });
        assert_eq!(ended.await.unwrap(), Some(1), "{arguments:?}");
    }
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_shot_commands_log_no_retry() {
    let config = SimConfig {
        org_bucket: BucketConfig::new(10, 5),
        ..static_sim(3, 60)
    };
    let sim = crate::common::start_sim(config).await;
    let promises = [
        "retry_in",
        "again",
        "walking less often",
        "still stands",
        "watched on",
    ];
    for (endpoint, message, variables) in [
        (SimEndpoint::AiModelApiKeys, "poll failed", sim_env(&sim)),
        (
            SimEndpoint::Orgs,
            "organization discovery failed",
            discovery_env(&sim),
        ),
    ] {
        let org = sim.org_ids().remove(0);
        let of_org = (endpoint == SimEndpoint::AiModelApiKeys).then_some(org.as_str());
        sim.add_fault(error_fault(endpoint, of_org, 403));
        for command in ["once", "keys"] {
            let interval = "--atlas.poll-interval=1s";
            let error = stderr_text(&run_exporter(&[command, interval], variables.clone()).await);
            let line = error.lines().find(|line| line.contains(message));
            let line = line.unwrap_or_else(|| panic!("{command}: {error}"));
            assert!(line.contains("reason=forbidden"), "{line}");
            for promise in promises {
                assert!(!error.contains(promise), "{command}: {promise}: {error}");
            }
        }
        // the exporter itself does try again, and says when
        let address = "--web.listen-address=127.0.0.1:0";
        let mut program = ChildProcess::exporter(&[address], &variables);
        assert!(
            program.wait_for_output(message).contains("retry_in="),
            "{}",
            program.output()
        );
        drop(program);
        sim.clear_faults();
    }
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_file_is_replaced_atomically() {
    let sim = start_sim_with_orgs(1).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.prom");
    std::fs::write(&path, "what was before\n").unwrap();
    let flag = format!("--output={}", path.display());
    let output = run_exporter(&["once", &flag], sim_env(&sim)).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.is_empty());
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(exposed_keys(&Scrape::parse(&text)), expected_sim_keys(&sim));
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing else is left"
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(
            mode & 0o777,
            0o644,
            "a collector of another user may read it"
        );
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

#[tokio::test(flavor = "multi_thread")]
async fn man_page_and_completions_list_every_flag() {
    let man = run_exporter(&["man"], Vec::new()).await;
    let man = String::from_utf8(man.stdout).unwrap().replace('\\', "");
    assert!(man.starts_with(".TH ATLAS-AI-KEYS-EXPORTER 1 "), "{man}");
    for section in [
        "NAME",
        "SYNOPSIS",
        "COMMANDS",
        "ENVIRONMENT",
        "FILES",
        "EXIT STATUS",
        "EXAMPLES",
    ] {
        assert_eq!(
            man.matches(&format!("\n.SH {section}\n")).count(),
            1,
            "{section}"
        );
    }
    for command in [
        "check",
        "keys",
        "once",
        "demo",
        "sim",
        "man",
        "completions SHELL",
    ] {
        assert!(man.contains(&format!("\n.SS {command}\n")), "{command}");
    }
    for part in &FIELDS {
        assert!(
            man.contains(part.env) && man.contains(part.file_name),
            "{}",
            part.env
        );
        assert!(man.contains(&format!("{}_FILE", part.env)), "{}", part.env);
    }
    // a page in brackets with a number, such as name(1), must exist: none is cited
    for section in 1..=8 {
        assert!(!man.contains(&format!("({section})")), "{man}");
    }
    // a line that begins with a dot is a request: each is one of these
    for line in man.lines().filter(|line| line.starts_with(['.', '\''])) {
        let request = line.split(' ').next().unwrap();
        let known = [
            ".TH", ".SH", ".SS", ".TP", ".PP", ".RS", ".RE", ".nf", ".fi", ".nh", ".ad", ".br",
        ];
        assert!(known.contains(&request), "{line}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run_exporter(&["completions", shell], Vec::new()).await;
        assert_eq!(script.status.code(), Some(0));
        let script = String::from_utf8(script.stdout).unwrap();
        let of_commands = [
            CHECK_FLAGS,
            KEYS_FLAGS,
            ONCE_FLAGS,
            SIM_FLAGS,
            SIM_LISTEN_FLAGS,
        ];
        for flag in of_commands.into_iter().flatten().chain(FLAGS) {
            assert!(script.contains(flag.name), "{shell}: {}", flag.name);
            assert!(
                man.contains(&format!("--{}", flag.name)),
                "man: {}",
                flag.name
            );
        }
    }
    let wrong = run_exporter(&["completions", "cmd"], Vec::new()).await;
    assert_eq!(wrong.status.code(), Some(2));
    let version = run_exporter(&["--version"], Vec::new()).await;
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(
        version.starts_with(&format!(
            "atlas-ai-keys-exporter {} (",
            env!("CARGO_PKG_VERSION")
        )),
        "{version}"
    );
    assert!(version.contains(std::env::consts::ARCH), "{version}");
}

#[tokio::test(start_paused = true)]
async fn once_polls_each_organization_exactly_once() {
    let sim = in_process_sim(&static_sim(2, 20));
    let mut orgs = sim.org_ids();
    orgs.sort();
    let keys = SimEndpoint::AiModelApiKeys;
    sim.add_fault(error_fault(keys, Some(&orgs[0]), 403));
    let slow = Fault::new(keys, Effect::Delay { seconds: 900.0 });
    let org = Some(orgs[1].clone());
    sim.add_fault(Fault { org, ..slow });
    let environment = Environment::from_vars(sim_env(&sim));
    let args = Args::parse(["x", "--atlas.timeout=10m"]).unwrap();
    let load: ConfigLoader =
        Arc::new(move || Config::load(&args, &environment).map(Config::for_one_shot));
    let config = load().unwrap();
    let wire = Arc::clone(&sim);
    let surroundings = Dependencies {
        clock: client_clock(&sim),
        transport_factory: Arc::new(move |_| {
            Ok(Arc::new(SimTransport(Arc::clone(&wire))) as Arc<dyn Transport>)
        }),
        load_config: load,
    };
    let exporter = Exporter::start(config, surroundings).await.unwrap();
    let begun = tokio::time::Instant::now();
    let round = exporter.run_once(CancellationToken::new(), |_| {}).await;
    assert!(
        begun.elapsed() >= std::time::Duration::from_mins(10),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(round.failed_targets, orgs);
    assert_eq!(round.orgs_without_data(), orgs);
    let asked = sim.requests();
    let of_first = asked
        .iter()
        .filter(|asked| asked.org.as_ref() == Some(&orgs[0]) && asked.endpoint == keys);
    assert_eq!(of_first.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn man_page_lists_every_variable_and_existing_files() {
    let man = run_exporter(&["man"], Vec::new()).await;
    let man = String::from_utf8(man.stdout).unwrap().replace('\\', "");
    // every variable that the program reads is there
    let mut count = 0;
    for source in rust_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = fs::read_to_string(&source).unwrap();
        for after in text.split("get(\"").skip(1) {
            let name = after.split('"').next().unwrap();
            if name.len() > 3 && name.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
                assert!(man.contains(name), "{name} in {}", source.display());
                count += 1;
            }
        }
    }
    assert!(count > 3, "{count} variables");
    // every file is packaged, or the service's
    let packaged = [
        include_str!("../../Cargo.toml"),
        include_str!("../../systemd/atlas-ai-keys-exporter.service"),
    ]
    .concat();
    let files = man
        .split(".SH FILES\n")
        .nth(1)
        .unwrap()
        .split(".SH")
        .next()
        .unwrap();
    let paths = files
        .split(['/', ' ', ',', '\n'])
        .filter(|part| part.contains("atlas-ai-keys-exporter"));
    for name in paths.map(|part| part.trim_end_matches("fR")) {
        assert!(packaged.contains(name), "{name}");
    }
}

/// Every source file below a folder.
fn rust_sources(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let nested = entries.map(|path| {
        if path.is_dir() {
            rust_sources(&path)
        } else {
            vec![path]
        }
    });
    let all = nested.flatten();
    all.filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .collect()
}

async fn help_output(arguments: &[&str]) -> String {
    let output = run_exporter(arguments, Vec::new()).await;
    assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn short_help_lists_command_flags_and_long_help_lists_all() {
    for (command, own) in [
        (None, FLAGS),
        (Some("check"), CHECK_FLAGS),
        (Some("keys"), KEYS_FLAGS),
        (Some("once"), ONCE_FLAGS),
        (Some("demo"), SIM_FLAGS),
        (Some("sim"), SIM_LISTEN_FLAGS),
    ] {
        let line = |flag| command.into_iter().chain([flag]).collect::<Vec<_>>();
        let (short, long) = (
            help_output(&line("-h")).await,
            help_output(&line("--help")).await,
        );
        for flag in own {
            assert!(
                short.contains(&format!("--{}", flag.name)),
                "{command:?}: {}",
                flag.name
            );
        }
        for flag in own.iter().chain(FLAGS) {
            let all = [format!("--{}", flag.name), format!("[env: {}]", flag.env)];
            assert!(
                all.iter().all(|part| long.contains(part)),
                "{command:?}: {}",
                flag.name
            );
        }
        assert!(!short.contains("[env: "), "{command:?}: {short}");
        if command.is_some() {
            let shared = FLAGS.iter().find(|flag| {
                let mut lines = short.lines().map(str::trim_start);
                lines.any(|line| line.starts_with(&format!("--{}", flag.name)))
            });
            assert!(shared.is_none(), "{command:?}: {short}");
        }
        // the simulated Atlas has a credential of its own
        let needs_credential = !matches!(command, Some("demo" | "sim"));
        assert_eq!(
            short.contains("MONGODB_ATLAS_CLIENT_SECRET_FILE"),
            needs_credential,
            "{short}"
        );
        for part in &FIELDS {
            assert_eq!(
                long.contains(part.env),
                needs_credential,
                "{command:?}: {long}"
            );
        }
    }
}
