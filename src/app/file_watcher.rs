//! Detects changes of the configuration, the web configuration and the files of credentials.
//!
//! Polling the metadata of every file detects every kind of replacement, such as the symbolic links of Kubernetes, on
//! every file system.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;

use super::active_config::FileRole;
use super::reload::Reloader;
use exporter_toolkit::bounded_file::{self, READ_TIMEOUT, run_blocking};

/// Interval between two polls of the metadata.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Number of polls after which a file is read even though it differs in each poll.
const MAX_UNSETTLED_POLLS: u32 = 15;

/// Metadata that differs between two states of a file. The time of the last change of content or mode (ctime) cannot be
/// set back, so the content need not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileFingerprint {
    Missing,
    Present {
        length: u64,
        modified: Option<SystemTime>,
        device: u64,
        inode: u64,
        changed_seconds: i64,
        changed_nanoseconds: i64,
    },
}

impl FileFingerprint {
    fn from_path(path: &Path) -> Self {
        let Ok(metadata) = bounded_file::metadata(path) else {
            return Self::Missing;
        };
        Self::Present {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            device: metadata.dev(),
            inode: metadata.ino(),
            changed_seconds: metadata.ctime(),
            changed_nanoseconds: metadata.ctime_nsec(),
        }
    }
}

/// Reloads changed files. Never ends.
pub(super) async fn watch(reloader: &Reloader) {
    let mut watched = WatchedFiles::default();
    let mut separately = false;
    loop {
        let files = reloader.active.lock().await.watched_files();
        if files.is_empty() {
            // Only a reload adds files.
            reloader.reload_done.notified().await;
            continue;
        }
        let fingerprints = stat_files(&files, &mut separately).await;
        let changed = watched.detect_changes(files, &fingerprints);
        reloader.on_files_changed(&changed).await;
        for role in changed {
            if let FileRole::Credential(name) = role {
                reloader.on_credential_changed(name).await;
            }
        }
        if reloader.active.lock().await.is_retry_due {
            watched.mark_configurations_changed();
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Returns the metadata of each file on a file system that responds. After a timeout, the files are read `separately`, so
/// that a hanging file system delays only its own files.
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

/// The state of all watched files.
#[derive(Default)]
struct WatchedFiles {
    files: BTreeMap<(PathBuf, FileRole), FileState>,
    /// For each role, the number of consecutive polls in which a file differed from the previous poll.
    unsettled_polls: BTreeMap<FileRole, u32>,
}

struct FileState {
    /// The metadata at the last read of the file, if known.
    last_read: Option<FileFingerprint>,
    last_seen: Option<FileFingerprint>,
}

impl WatchedFiles {
    /// Returns the roles of the files that must be read again. Configurations are read when two consecutive polls return
    /// the same metadata for all their files, so that no file is read while it is written. The files of credentials are
    /// read at each change.
    fn detect_changes(
        &mut self,
        files: BTreeSet<(PathBuf, FileRole)>,
        fingerprints: &BTreeMap<PathBuf, FileFingerprint>,
    ) -> BTreeSet<FileRole> {
        let mut known = std::mem::take(&mut self.files);
        let mut changed = BTreeSet::new();
        let mut unsettled = BTreeSet::new();
        for file in files {
            let (path, role) = &file;
            let fingerprint = fingerprints.get(path).copied();
            let mut state = known.remove(&file).unwrap_or_else(|| FileState {
                // The file may have changed since the web configuration was read. Other files were read at the start, or are
                // read when they are needed.
                last_read: fingerprint.filter(|_| *role != FileRole::WebConfig),
                last_seen: None,
            });
            if fingerprint.is_some() {
                if state.last_read != fingerprint {
                    changed.insert(role.clone());
                    let at_once = matches!(role, FileRole::Credential(_));
                    if state.last_seen != fingerprint && !at_once {
                        unsettled.insert(role.clone());
                    }
                }
                state.last_seen = fingerprint;
            }
            self.files.insert(file, state);
        }
        self.unsettled_polls
            .retain(|role, _| unsettled.contains(role));
        for role in unsettled {
            let polls = self.unsettled_polls.entry(role.clone()).or_default();
            *polls += 1;
            // The read itself compares the content twice.
            if *polls < MAX_UNSETTLED_POLLS {
                changed.remove(&role);
            }
        }
        for ((_, role), state) in &mut self.files {
            if changed.contains(role) {
                state.last_read = state.last_seen;
            }
        }
        changed
    }

    /// Makes the next poll report all configurations as changed.
    fn mark_configurations_changed(&mut self) {
        for ((_, role), state) in &mut self.files {
            if !matches!(role, FileRole::Credential(_)) {
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
            device: 0,
            inode: 0,
            changed_seconds: 0,
            changed_nanoseconds: 0,
        }
    }

    /// Polls files of these lengths: the configuration, the web configuration, its certificate and a credential. Zero is a
    /// missing file, none a hanging file system.
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
        let files = files.map(|(path, role)| (path.into(), role)).into();
        let changed = watched.detect_changes(files, &fingerprints);
        let names = changed.into_iter().map(|role| match role {
            FileRole::Configuration => "configuration",
            FileRole::WebConfig => "access",
            FileRole::Credential(_) => "credential",
        });
        names.collect()
    }

    #[test]
    fn configurations_are_read_when_two_polls_agree() {
        let mut watched = WatchedFiles::default();
        let mut poll = |a, b, c, d| poll(&mut watched, [a, b, c, d].map(Some));
        for (lengths, changed) in [
            ((9, 9, 9, 9), &[][..]),
            // A change between the first read and the first poll.
            ((9, 9, 9, 9), &["access"]),
            ((9, 9, 9, 9), &[]),
            // A slow writer truncates the file and then appends to it.
            ((9, 1, 9, 9), &[]),
            ((9, 2, 9, 9), &[]),
            ((9, 3, 9, 9), &[]),
            ((9, 3, 9, 9), &["access"]),
            ((9, 3, 9, 9), &[]),
            // Written and reverted.
            ((9, 0, 9, 9), &[]),
            ((9, 3, 9, 9), &[]),
            // Two files of one role change one after the other.
            ((9, 4, 9, 9), &[]),
            ((9, 4, 5, 9), &[]),
            ((9, 4, 5, 9), &["access"]),
            // A missing file is a change as well; credentials are read immediately.
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
        assert!(poll(back).is_empty(), "unchanged");
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
