//! The data directory: made for its owner alone, held by one process, its free space.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{flock, statvfs, FlockOperation};

use crate::broker::embedded::core::failure;
use crate::error::{Error, Kind, Result};

/// The file with the messages.
pub(super) const FILE: &str = "helixmq.db";
/// The file whose lock says that the directory is in use. It stays when its process ends; the lock does not.
const LOCK: &str = "lock";
/// What beside the file belongs to it.
pub(super) const LOG_SUFFIX: &str = "-wal";

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory if it is not there, and takes it.
    ///
    /// # Errors
    /// `Locked`: another hub has it. `Storage`: what the system said.
    pub fn take(path: &Path) -> Result<Self> {
        let told = |what: &str, error: io::Error| {
            failure(Kind::Storage, format!("the data directory {} {what}: {error}", path.display()))
        };
        let is_new = !path.exists();
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| told("cannot be made", error))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .map_err(|error| told("cannot be made its owner's alone", error))?;
        let lock = own_file(&path.join(LOCK)).map_err(|error| told("cannot be written", error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(in_use(path)),
            Err(error) => return Err(told("cannot be locked", error.into())),
        }
        let own = Self { path: path.to_owned(), _lock: lock };
        own_file(&own.file()).map_err(|error| told("cannot be written", error))?;
        let log = own.path.join(format!("{FILE}{LOG_SUFFIX}"));
        if log.exists() {
            own_file(&log).map_err(|error| told("cannot be written", error))?;
        }
        own.sync(is_new).map_err(|error| told("cannot be synced", error))?;
        Ok(own)
    }

    /// The file with the messages.
    pub fn file(&self) -> PathBuf {
        self.path.join(FILE)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the names of new files safe, and that of the directory itself.
    pub fn sync(&self, with_parent: bool) -> io::Result<()> {
        File::open(&self.path)?.sync_all()?;
        match self.path.parent().filter(|parent| with_parent && !parent.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Bytes of the files with the messages.
    pub fn bytes(&self) -> u64 {
        let size = |name: String| fs::metadata(self.path.join(name)).map_or(0, |about| about.len());
        size(FILE.to_owned()) + size(format!("{FILE}{LOG_SUFFIX}"))
    }

    /// Bytes of its disk that are free for us; where the system does not say, there is enough.
    pub fn free_bytes(&self) -> u64 {
        statvfs(&self.path).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Renames the damaged file, and what belongs to it; answers its new name.
    pub fn set_aside(&self) -> io::Result<PathBuf> {
        let is_free = |name: &PathBuf| !name.exists();
        let names = (1..=SET_ASIDE_MAX).map(|number| self.path.join(format!("{FILE}.damaged-{number}")));
        let aside = names.into_iter().find(is_free);
        let aside = aside.ok_or_else(|| {
            io::Error::other(format!("{SET_ASIDE_MAX} damaged files are there already; look at them, and remove them"))
        })?;
        // The log first: with it in place the file alone would be read as another one than it was.
        let mut log = aside.clone().into_os_string();
        log.push(LOG_SUFFIX);
        match fs::rename(self.path.join(format!("{FILE}{LOG_SUFFIX}")), log) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(self.file(), &aside)?;
        own_file(&self.file())?;
        self.sync(false)?;
        Ok(aside)
    }
}

/// More damaged files than this are a disk that should not be used.
const SET_ASIDE_MAX: u32 = 100;

/// Opens a file that its owner alone may read; makes it if it is not there.
fn own_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

fn in_use(path: &Path) -> Error {
    let text = format!("the data directory {} (failover.dir) is in use by another hub or process", path.display());
    failure(Kind::Locked, text)
}
