//! Noticing that a file has changed: the configuration, the web configuration, or one that a credential is in. Every file
//! is looked up every few seconds, which sees every way in which files are replaced, Kubernetes' swap of a symbolic link
//! included, on every file system.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::reload::{FileRole, Reloader};
use exporter_toolkit::bounded_file::{self, READ_TIMEOUT, run_blocking};

/// How often files are looked up.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Polls after which a file that is different each time is read all the same.
const MAX_UNSETTLED_POLLS: u32 = 15;

/// What tells one state of a file from another. On Unix the time of the last change of its content or its mode cannot be
/// set back, so that nothing has to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileFingerprint {
    Missing,
    Present {
        length: u64,
        modified: Option<SystemTime>,
        #[cfg(unix)]
        device: u64,
        #[cfg(unix)]
        inode: u64,
        #[cfg(unix)]
        changed_seconds: i64,
        #[cfg(unix)]
        changed_nanoseconds: i64,
    },
}

impl FileFingerprint {
    fn from_path(path: &Path) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt as _;
        let Ok(metadata) = bounded_file::metadata(path) else {
            return Self::Missing;
        };
        Self::Present {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            device: metadata.dev(),
            #[cfg(unix)]
            inode: metadata.ino(),
            #[cfg(unix)]
            changed_seconds: metadata.ctime(),
            #[cfg(unix)]
            changed_nanoseconds: metadata.ctime_nsec(),
        }
    }
}

/// Reloads what has changed, until `shutdown`.
pub(super) async fn watch(control: Arc<Reloader>, shutdown: CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = watch_files(&control) => {}
    }
}

async fn watch_files(control: &Reloader) {
    let mut watched = WatchedFiles::default();
    let mut separately = false;
    loop {
        let files: BTreeSet<_> = control.watched_files().await.into_iter().collect();
        if files.is_empty() {
            // only a reload can change that
            control.wait_for_reload().await;
            continue;
        }
        let fingerprints = stat_files(&files, &mut separately).await;
        let changed = watched.detect_changes(files, &fingerprints);
        control.on_files_changed(&changed).await;
        for purpose in changed {
            if let FileRole::Credential(name) = purpose {
                control.on_credential_changed(name).await;
            }
        }
        if control.is_retry_due().await {
            watched.mark_configurations_changed();
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The state of each file whose file system answers. One that hangs holds up nothing but itself: once a lookup of all of
/// them has timed out, each is looked up `separately`, until all answer again.
async fn stat_files(
    files: &BTreeSet<(PathBuf, FileRole)>,
    separately: &mut bool,
) -> BTreeMap<PathBuf, FileFingerprint> {
    let paths: BTreeSet<PathBuf> = files.iter().map(|(path, _)| path.clone()).collect();
    let count = paths.len();
    if !*separately {
        let paths = paths.clone();
        let all = tokio::task::spawn_blocking(move || {
            let fingerprint = |path: PathBuf| {
                let fingerprint = FileFingerprint::from_path(&path);
                (path, fingerprint)
            };
            paths.into_iter().map(fingerprint).collect()
        });
        if let Ok(Ok(all)) = tokio::time::timeout(READ_TIMEOUT, all).await {
            return all;
        }
    }
    let lookups = paths.into_iter().map(async |path| {
        let looked_up = path.clone();
        let lookup = run_blocking(&path, move || FileFingerprint::from_path(&looked_up)).await;
        Some((path, lookup.ok()?))
    });
    let found: BTreeMap<_, _> = join_all(lookups).await.into_iter().flatten().collect();
    *separately = found.len() < count;
    found
}

/// What is known of the files.
#[derive(Default)]
struct WatchedFiles {
    files: BTreeMap<(PathBuf, FileRole), FileState>,
    /// How often in a row a file of that purpose was different from the poll before.
    unsettled_polls: BTreeMap<FileRole, u32>,
}

struct FileState {
    /// As the file was when it was last read. None when that is not known.
    last_read: Option<FileFingerprint>,
    last_seen: Option<FileFingerprint>,
}

impl WatchedFiles {
    /// What has to be read again. Configurations are read when two polls in a row agree on all their files, so that no
    /// file is read while it is written; the file of a credential is read at once, and again when it changes again.
    fn detect_changes(
        &mut self,
        files: BTreeSet<(PathBuf, FileRole)>,
        fingerprints: &BTreeMap<PathBuf, FileFingerprint>,
    ) -> BTreeSet<FileRole> {
        let mut known = std::mem::take(&mut self.files);
        let mut changed = BTreeSet::new();
        let mut unsettled = BTreeSet::new();
        for file in files {
            let (path, purpose) = &file;
            let fingerprint = fingerprints.get(path).copied();
            let mut state = known.remove(&file).unwrap_or_else(|| FileState {
                // It may have changed since the web configuration was read. The others are read where they are needed,
                // or were read as the process began.
                last_read: fingerprint.filter(|_| *purpose != FileRole::WebConfig),
                last_seen: None,
            });
            if fingerprint.is_some() {
                if state.last_read != fingerprint {
                    changed.insert(purpose.clone());
                    let at_once = matches!(purpose, FileRole::Credential(_));
                    if state.last_seen != fingerprint && !at_once {
                        unsettled.insert(purpose.clone());
                    }
                }
                state.last_seen = fingerprint;
            }
            self.files.insert(file, state);
        }
        self.unsettled_polls
            .retain(|purpose, _| unsettled.contains(purpose));
        for purpose in unsettled {
            let polls = self.unsettled_polls.entry(purpose.clone()).or_default();
            *polls += 1;
            // the read itself compares the content twice
            if *polls < MAX_UNSETTLED_POLLS {
                changed.remove(&purpose);
            }
        }
        for ((_, purpose), state) in &mut self.files {
            if changed.contains(purpose) {
                state.last_read = state.last_seen;
            }
        }
        changed
    }

    /// Lets the next poll find that configurations have changed.
    fn mark_configurations_changed(&mut self) {
        for ((_, purpose), state) in &mut self.files {
            if !matches!(purpose, FileRole::Credential(_)) {
                state.last_read = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(length: u64) -> FileFingerprint {
        FileFingerprint::Present {
            length,
            modified: None,
            #[cfg(unix)]
            device: 0,
            #[cfg(unix)]
            inode: 0,
            #[cfg(unix)]
            changed_seconds: 0,
            #[cfg(unix)]
            changed_nanoseconds: 0,
        }
    }

    /// Lets `watched` see files of these lengths: of the configuration, the web configuration, its certificate and a
    /// credential. Zero is a file that is missing; none is a file system that does not answer.
    fn poll(watched: &mut WatchedFiles, lengths: [Option<u64>; 4]) -> Vec<&'static str> {
        let credential = FileRole::Credential("main".into());
        let files = [
            ("config", FileRole::Configuration),
            ("web", FileRole::WebConfig),
            ("cert", FileRole::WebConfig),
            ("secret", credential),
        ];
        let fingerprints = files.iter().zip(lengths).filter_map(|((path, _), length)| {
            let fingerprint = match length? {
                0 => FileFingerprint::Missing,
                length => fingerprint(length),
            };
            Some((PathBuf::from(path), fingerprint))
        });
        let fingerprints = fingerprints.collect();
        let files = files.map(|(path, purpose)| (path.into(), purpose)).into();
        let changed = watched.detect_changes(files, &fingerprints);
        let names = changed.into_iter().map(|purpose| match purpose {
            FileRole::Configuration => "configuration",
            FileRole::WebConfig => "access",
            FileRole::Credential(_) => "credential",
        });
        names.collect()
    }

    #[test]
    fn configurations_are_read_once_two_polls_agree() {
        let mut watched = WatchedFiles::default();
        let mut poll = |a, b, c, d| poll(&mut watched, [a, b, c, d].map(Some));
        for (lengths, changed) in [
            ((9, 9, 9, 9), &[][..]),
            // what changed between the first read and the first poll is seen
            ((9, 9, 9, 9), &["access"]),
            ((9, 9, 9, 9), &[]),
            // a slow writer: truncated, then longer and longer
            ((9, 1, 9, 9), &[]),
            ((9, 2, 9, 9), &[]),
            ((9, 3, 9, 9), &[]),
            ((9, 3, 9, 9), &["access"]),
            ((9, 3, 9, 9), &[]),
            // written and taken back
            ((9, 0, 9, 9), &[]),
            ((9, 3, 9, 9), &[]),
            // two files of one purpose, one after the other
            ((9, 4, 9, 9), &[]),
            ((9, 4, 5, 9), &[]),
            ((9, 4, 5, 9), &["access"]),
            // a missing file is a state as well, and credentials do not wait
            ((0, 4, 5, 0), &["credential"]),
            ((0, 4, 5, 0), &["configuration"]),
            ((8, 4, 5, 8), &["credential"]),
            ((8, 4, 5, 7), &["configuration", "credential"]),
            ((8, 4, 5, 7), &[]),
        ] {
            let (a, b, c, d) = lengths;
            assert_eq!(poll(a, b, c, d), changed, "{lengths:?}");
        }
    }

    #[test]
    fn unsettled_files_are_read_after_the_poll_limit() {
        let mut watched = WatchedFiles::default();
        poll(&mut watched, [Some(9); 4]);
        poll(&mut watched, [Some(9); 4]);
        let first = (10..100)
            .find(|n| !poll(&mut watched, [Some(9), Some(*n), Some(9), Some(9)]).is_empty());
        assert_eq!(first, Some(9 + u64::from(MAX_UNSETTLED_POLLS)));
    }

    #[test]
    fn hanging_file_systems_delay_only_their_files() {
        let mut watched = WatchedFiles::default();
        poll(&mut watched, [Some(9); 4]);
        poll(&mut watched, [Some(9); 4]);
        let mut poll = |lengths| poll(&mut watched, lengths);
        let hung = [Some(8), None, Some(9), Some(8)];
        assert_eq!(poll(hung), ["credential"]);
        assert_eq!(poll(hung), ["configuration"]);
        assert!(poll(hung).is_empty());
        let back = [Some(8), Some(9), Some(9), Some(8)];
        assert!(poll(back).is_empty(), "it is as it was");
        let changed = [Some(8), Some(7), Some(9), Some(8)];
        assert!(poll(changed).is_empty());
        assert_eq!(poll(changed), ["access"]);
    }

    #[test]
    fn transient_failures_are_read_again() {
        let mut watched = WatchedFiles::default();
        poll(&mut watched, [Some(9); 4]);
        poll(&mut watched, [Some(9); 4]);
        assert!(poll(&mut watched, [Some(9); 4]).is_empty());
        watched.mark_configurations_changed();
        assert_eq!(
            poll(&mut watched, [Some(9); 4]),
            ["configuration", "access"]
        );
    }
}
