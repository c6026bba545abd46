//! Noticing that a file has changed: the configuration, the web configuration, or one that a
//! credential is in. Looked at
//! every few seconds, which sees every way in which files are replaced, Kubernetes' swap of a
//! symbolic link included, on every file system.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::control::{Control, Purpose};

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// What tells one state of a file from another. On Unix the time of the last change of its content
/// or its rights cannot be set back, so that nothing has to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    identity: (u64, u64),
    changed: (i64, i64),
}

impl Stamp {
    /// The state of the file that `path` leads to; none when there is none.
    fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        #[cfg(unix)]
        let (identity, changed) = {
            use std::os::unix::fs::MetadataExt as _;
            ((data.dev(), data.ino()), (data.ctime(), data.ctime_nsec()))
        };
        #[cfg(not(unix))]
        let (identity, changed) = ((0, 0), (0, 0));
        Some(Self {
            length: data.len(),
            modified: data.modified().ok(),
            identity,
            changed,
        })
    }
}

/// Lets `control` know of changes until `shutdown`.
pub(super) async fn watch(control: Arc<Control>, shutdown: CancellationToken) {
    let mut seen = compare(&control, Stamps::new()).await;
    loop {
        let files = control.files().await;
        let again = async {
            if files.is_empty() {
                // only a reload can change that
                control.reloaded().await;
            } else {
                tokio::time::sleep(EVERY).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = again => {}
        }
        seen = compare(&control, seen).await;
    }
}

/// Looks at all files, and tells of those that are not as they were `seen`.
async fn compare(control: &Control, seen: Stamps) -> Stamps {
    let (stamps, files) = look(control.files().await).await;
    let changed: BTreeSet<&Purpose> = files
        .iter()
        .filter(|(path, _)| {
            seen.get(path)
                .is_some_and(|before| stamps.get(path) != Some(before))
        })
        .map(|(_, purpose)| purpose)
        .collect();
    for purpose in changed {
        match purpose {
            // what is wrong with it is told there
            Purpose::Configuration => drop(control.reload("the file has changed").await),
            Purpose::Access => control.reload_access().await,
            Purpose::Credential(name) => control.credential_changed(Arc::clone(name)).await,
        }
    }
    stamps
}

type Stamps = BTreeMap<PathBuf, Option<Stamp>>;
type Files = Vec<(PathBuf, Purpose)>;

async fn look(files: Files) -> (Stamps, Files) {
    // a file system can hang
    tokio::task::spawn_blocking(move || {
        let stamps = files
            .iter()
            .map(|(path, _)| (path.clone(), Stamp::of(path)))
            .collect();
        (stamps, files)
    })
    .await
    .unwrap_or_default()
}
