//! Notices that a configuration file changed.
//!
//! The directory is watched, not the file: editors rename a new file over the old one, and a ConfigMap's file is a
//! symbolic link through a directory that is swapped as a whole. Events only wake us; what decides is whether the file
//! that the path leads to is another one or has other times or another size. A slow poll finds what no event told, as
//! on network file systems, and when the directory itself was replaced.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

/// A change is told once nothing has happened for this long: writers take several steps.
const SETTLED_AFTER: Duration = Duration::from_millis(100);
/// A change is told after this long even if the directory never rests.
const SETTLED_AT_LATEST: Duration = Duration::from_secs(1);
/// Time between two looks without an event.
const POLL: Duration = Duration::from_secs(5);

/// Why a file cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The directory cannot be watched.
    #[error("the directory {directory:?} of the configuration file cannot be watched: {source}")]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The file system's answer.
        source: notify::Error,
    },
}

/// Watches a file from now on: receive one `()` after each change, several changes in a row as one.
///
/// A file that vanishes is told at the next poll if it is still away then, and when it is back. Start watching before
/// the first load, or a change between the two is missed. Must be called on a tokio runtime; the task that it spawns
/// ends when the receiver is dropped, and a receiver that ends means that the task died.
pub fn watch(path: impl Into<PathBuf>) -> Result<mpsc::Receiver<()>, WatchError> {
    watch_every(path.into(), POLL)
}

fn watch_every(path: PathBuf, poll: Duration) -> Result<mpsc::Receiver<()>, WatchError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let (woken, wakes) = mpsc::channel(1);
    let watched = |source| WatchError::Directory { directory: directory.clone(), source };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reads are events too, our own among them. A full channel has woken us already.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            let _ = woken.try_send(());
        }
    })
    .map_err(watched)?;
    watcher.watch(&directory, RecursiveMode::NonRecursive).map_err(watched)?;
    let (changed, changes) = mpsc::channel(1);
    let seen = Fingerprint::of(&path).ok();
    tokio::spawn(Watch { path, directory, watcher, wakes, seen, changed }.run(poll));
    Ok(changes)
}

struct Watch {
    path: PathBuf,
    directory: PathBuf,
    watcher: RecommendedWatcher,
    wakes: mpsc::Receiver<()>,
    /// The file as last told; absent while it was away.
    seen: Option<Fingerprint>,
    changed: mpsc::Sender<()>,
}

impl Watch {
    async fn run(mut self, poll: Duration) {
        let mut polls = interval_at(Instant::now() + poll, poll);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let told_by_event = tokio::select! {
                () = self.changed.closed() => return,
                woken = self.wakes.recv() => woken.is_some(),
                _ = polls.tick() => false,
            };
            if told_by_event {
                self.settle().await;
            }
            let now = Fingerprint::of(&self.path).ok();
            // Between a writer's unlinking and its creating there is nothing to tell.
            if now == self.seen || told_by_event && now.is_none() {
                continue;
            }
            self.seen = now;
            if !told_by_event {
                self.watch_again();
            }
            // A full channel holds a change that is not received yet: its receiver will see this one too.
            let _ = self.changed.try_send(());
        }
    }

    async fn settle(&mut self) {
        let latest = Instant::now() + SETTLED_AT_LATEST;
        while Instant::now() < latest && matches!(timeout(SETTLED_AFTER, self.wakes.recv()).await, Ok(Some(()))) {}
    }

    /// A change that only the poll saw may mean that the watched directory is not the one at this path any more.
    fn watch_again(&mut self) {
        let _ = self.watcher.unwatch(&self.directory);
        if let Err(error) = self.watcher.watch(&self.directory, RecursiveMode::NonRecursive) {
            tracing::warn!(directory = %self.directory.display(), %error, "configuration is polled, not watched");
        }
    }
}

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    modified: SystemTime,
    size: u64,
    /// Device and inode.
    file: (u64, u64),
}

impl Fingerprint {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        #[cfg(unix)]
        let file = {
            use std::os::unix::fs::MetadataExt;
            (metadata.dev(), metadata.ino())
        };
        #[cfg(not(unix))]
        let file = (0, 0);
        Ok(Self { modified: metadata.modified()?, size: metadata.len(), file })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// About five times what was seen, and then some for a busy machine.
    const DEADLINE: Duration = Duration::from_secs(5);
    /// A poll that never comes in a test: events alone must do.
    const NEVER: Duration = Duration::from_secs(3600);

    async fn told(changes: &mut mpsc::Receiver<()>) {
        timeout(DEADLINE, changes.recv()).await.expect("the change is told in time").expect("the watch lives");
    }

    #[tokio::test]
    async fn a_rewrite_a_rename_over_and_a_return_are_told_by_events() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        fs::write(&path, "a").unwrap();
        let mut changes = watch_every(path.clone(), NEVER).unwrap();

        fs::write(&path, "longer").unwrap();
        told(&mut changes).await;

        let other = directory.path().join("config.yaml.new");
        fs::write(&other, "renamed over").unwrap();
        fs::rename(&other, &path).unwrap();
        told(&mut changes).await;

        fs::remove_file(&path).unwrap();
        fs::write(&path, "created anew, with more text").unwrap();
        told(&mut changes).await;
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_config_map_that_swaps_its_data_directory_is_told_by_events() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (version, text) in [("..1", "first"), ("..2", "the second")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("config.yaml"), text).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/config.yaml", at("config.yaml")).unwrap();
        let mut changes = watch_every(at("config.yaml"), NEVER).unwrap();

        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        told(&mut changes).await;
        assert_eq!(fs::read_to_string(at("config.yaml")).unwrap(), "the second");
    }

    #[tokio::test]
    async fn a_file_that_stays_away_is_told_by_the_poll_and_its_return_by_an_event() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        fs::write(&path, "a").unwrap();
        let mut changes = watch_every(path.clone(), Duration::from_millis(200)).unwrap();
        fs::remove_file(&path).unwrap();
        told(&mut changes).await;
        fs::write(&path, "a").unwrap();
        told(&mut changes).await;
    }

    #[tokio::test]
    async fn a_replaced_directory_is_found_by_the_poll_and_watched_again() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("etc");
        let path = inner.join("config.yaml");
        fs::create_dir(&inner).unwrap();
        fs::write(&path, "a").unwrap();
        let mut changes = watch_every(path.clone(), Duration::from_millis(200)).unwrap();
        fs::rename(&inner, directory.path().join("old")).unwrap();
        fs::create_dir(&inner).unwrap();
        fs::write(&path, "another").unwrap();
        told(&mut changes).await;
        fs::write(&path, "yet another").unwrap();
        told(&mut changes).await;
    }

    #[tokio::test]
    async fn a_neighbour_that_changes_is_not_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        fs::write(&path, "a").unwrap();
        let mut changes = watch_every(path.clone(), NEVER).unwrap();
        fs::write(directory.path().join("other"), "b").unwrap();
        let quiet = 3 * SETTLED_AFTER;
        assert!(timeout(quiet, changes.recv()).await.is_err(), "nothing of ours has changed");
        fs::write(&path, "longer").unwrap();
        told(&mut changes).await;
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(watch(directory.path().join("missing/config.yaml")).is_err());
    }
}
