use std::os::unix::fs::symlink;

use super::*;

const OPTIONS: ReadOptions = ReadOptions::regular(100);

fn make_fifo(path: &Path) {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("a named pipe");
}

#[test]
fn regular_files_are_read_within_the_limit() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    assert_eq!(read(&path, OPTIONS), Err(FileError::NotFound));
    std::fs::write(&path, [b'x'; 100]).expect("written");
    assert_eq!(read(&path, OPTIONS).expect("read").len(), 100);
    std::fs::write(&path, [b'x'; 101]).expect("written");
    let too_large = FileError::TooLarge { max_bytes: 100 };
    assert_eq!(read(&path, OPTIONS), Err(too_large.clone()));
    assert_eq!(
        read(Path::new("/dev/zero"), OPTIONS),
        Err(FileError::NotRegular("a device"))
    );
    assert_eq!(
        read(directory.path(), OPTIONS),
        Err(FileError::NotRegular("a directory"))
    );
    let link = directory.path().join("link");
    symlink("/proc/self/maps", &link).expect("a link");
    assert_eq!(read(&link, OPTIONS), Err(too_large), "without a length");
    assert_eq!(
        read(&link, OPTIONS.without_links()),
        Err(FileError::NotRegular("a symbolic link"))
    );
}

#[test]
fn pipes_are_rejected_without_waiting_for_a_writer() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pipe");
    make_fifo(&path);
    assert_eq!(
        read(&path, OPTIONS),
        Err(FileError::NotRegular(PIPE_DESCRIPTION))
    );
}

#[tokio::test]
async fn hanging_work_uses_few_threads_per_path() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let path = Path::new("/a/path/that/hangs");
    let started = Arc::new(AtomicUsize::new(0));
    for attempt in 1..=8 {
        let (held, started) = (Arc::clone(&held), Arc::clone(&started));
        let hang = move || {
            started.fetch_add(1, Ordering::Relaxed);
            let held = held.lock();
            held.recv().is_err()
        };
        let timeout = Duration::from_millis(50);
        let result = run_blocking_within(path, 1, timeout, hang).await;
        assert_eq!(result, Err(FileError::TimedOut(timeout)), "{attempt}");
    }
    // A loaded machine may start the last task late.
    assert!(started.load(Ordering::Relaxed) <= 1 + MAX_ABANDONED);
    let other = run_blocking(Path::new("/another"), || 7).await;
    assert_eq!(other, Ok(7));
    drop(release);
    assert_eq!(run_blocking(path, || 8).await, Ok(8));
    assert_eq!(run_blocking(path, || 9).await, Ok(9));
}

#[tokio::test]
async fn changed_path_is_read_while_earlier_work_hangs() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let path = Path::new("/a/path/that/leads/elsewhere");
    let hang = move || held.recv().is_err();
    let timeout = Duration::from_millis(50);
    let result = run_blocking_within(path, 1, timeout, hang).await;
    assert_eq!(result, Err(FileError::TimedOut(timeout)));
    assert_eq!(run_blocking(path, || 8).await, Ok(8));
    drop(release);
}

#[tokio::test]
async fn panicking_work_fails_and_frees_the_path() {
    let path = Path::new("/a/path/that/panics");
    let result = run_blocking(path, || panic!("a bug")).await;
    assert_eq!(result, Err::<(), _>(FileError::Panicked));
    assert_eq!(run_blocking(path, || 8).await, Ok(8));
}

#[test]
fn oversized_files_are_not_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("sparse");
    let file = File::create(&path).expect("created");
    file.set_len(1 << 40).expect("sparse");
    let huge = ReadOptions::regular(1 << 39);
    assert!(matches!(read(&path, huge), Err(FileError::TooLarge { .. })));
}

#[test]
fn text_must_be_utf_8() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("text");
    std::fs::write(&path, b"\xff\xfea").expect("written");
    assert_eq!(read_text(&path, OPTIONS), Err(FileError::NotUtf8));
    std::fs::write(&path, "\u{feff}a").expect("written");
    assert_eq!(&**read_text(&path, OPTIONS).expect("read"), "\u{feff}a");
}

#[test]
fn file_mode_reports_access_of_other_users() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secret");
    std::fs::write(&path, "x").expect("written");
    for (bits, text, is_readable, is_writable, is_private) in [
        (0o600, "0600", false, false, true),
        (0o640, "0640", false, false, false),
        (0o644, "0644", true, false, false),
        (0o622, "0622", false, true, false),
    ] {
        let permissions = std::fs::Permissions::from_mode(bits);
        std::fs::set_permissions(&path, permissions).expect("set");
        let mode = FileMode::from_path(&path).expect("a mode");
        assert_eq!(mode.to_string(), text);
        assert_eq!(mode.is_world_readable(), is_readable, "{text}");
        assert_eq!(mode.is_world_writable(), is_writable, "{text}");
        assert_eq!(mode.is_owner_only(), is_private, "{text}");
    }
}
