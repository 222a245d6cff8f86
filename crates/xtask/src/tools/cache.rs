//! The folder that fetched tools lie in. An entry appears there in one rename when it is whole, so what is there can be
//! used without a look inside.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::TempDir;

use super::environment;

/// The cache.
pub(super) struct Cache {
    /// Absolute; it may not be there yet.
    folder: PathBuf,
}

impl Cache {
    /// The cache that the environment asks for.
    pub(super) fn open() -> anyhow::Result<Self> {
        let folder = if let Some(cache) = environment("POINTSMAN_CACHE") {
            PathBuf::from(cache)
        } else if let Some(caches) = environment("XDG_CACHE_HOME") {
            PathBuf::from(caches).join("pointsman")
        } else if let Some(home) = environment("HOME") {
            PathBuf::from(home).join(".cache/pointsman")
        } else {
            bail!("no folder for tools: set POINTSMAN_CACHE or HOME");
        };
        Ok(Self { folder: std::path::absolute(folder)? })
    }

    /// Where an entry lies, or will.
    pub(super) fn path(&self, entry: &str) -> PathBuf {
        self.folder.join(entry)
    }

    /// The lock of an entry, held until the file is dropped, by the system, so a killed process frees it.
    pub(super) fn lock(&self, entry: &str) -> anyhow::Result<File> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot create the cache {}", self.folder.display()))?;
        let path = self.path(&format!("{entry}.lock"));
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => eprintln!("tools: another process fetches {entry}; waiting for it"),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    /// A folder to work in, of the same file system as the entry that will come of it. What a killed fetch of this
    /// entry left is removed: the caller holds the lock, so nobody uses that.
    pub(super) fn staging(&self, entry: &str) -> anyhow::Result<TempDir> {
        let (prefix, home) = (format!(".{entry}."), self.path(entry));
        for found in fs::read_dir(&self.folder)? {
            let path = found?.path();
            let unfinished = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
            if unfinished || path == home {
                fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        let staging = tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.folder);
        staging.with_context(|| format!("cannot create a folder in {}", self.folder.display()))
    }

    /// Puts a whole folder into place.
    pub(super) fn put(&self, whole: &Path, home: &Path) -> anyhow::Result<()> {
        fs::rename(whole, home).with_context(|| format!("cannot put {} into place", home.display()))
    }
}
