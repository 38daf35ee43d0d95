//! The data directory: held by one process, its files for their owner alone, its free space, and how
//! a damaged file is replaced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{flock, statvfs, FlockOperation};

use crate::broker::embedded::core::failure;
use crate::error::{Error, Kind, Result};

/// The file with the messages.
const FILE: &str = "helixmq.db";
/// The file whose lock says that the directory is in use. It stays when its process ends; the lock does not.
const LOCK: &str = "helixmq.lock";

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
        // One that was there keeps its rights: others may have files in it. Ours are our owner's alone anyway.
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| told("cannot be made", error))?;
        let lock = own_file(&path.join(LOCK)).map_err(|error| told("cannot be written", error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(in_use(path)),
            Err(error) => return Err(told("cannot be locked", error.into())),
        }
        let own = Self { path: path.to_owned(), _lock: lock };
        own.prepare().and_then(|()| own.sync(is_new)).map_err(|error| told("cannot be written", error))?;
        Ok(own)
    }

    /// Ends what a crash has interrupted, and makes the file.
    fn prepare(&self) -> io::Result<()> {
        if self.rewritten().exists() {
            match self.file().exists() {
                // Not finished: the damaged file is still in its place, and is read again.
                true => remove(&self.rewritten())?,
                // The damaged file is set aside, perhaps without its log.
                false => {
                    rename_if_there(&log_of(&self.file()), &self.path.join(format!("{FILE}.damaged-log")))?;
                    fs::rename(self.rewritten(), self.file())?;
                }
            }
        }
        own_file(&self.file())?;
        if log_of(&self.file()).exists() {
            own_file(&log_of(&self.file()))?;
        }
        Ok(())
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
        let size = |name: &Path| fs::metadata(name).map_or(0, |about| about.len());
        size(&self.file()) + size(&log_of(&self.file()))
    }

    /// Bytes of its disk that are free for us; where the system does not say, there is enough.
    pub fn free_bytes(&self) -> u64 {
        statvfs(&self.path).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// The file that takes the place of a damaged one, while it is written.
    pub fn rewritten(&self) -> PathBuf {
        self.path.join(format!("{FILE}.rewritten"))
    }

    /// An empty file for it.
    pub fn begin_rewritten(&self) -> io::Result<PathBuf> {
        remove(&self.rewritten())?;
        own_file(&self.rewritten())?;
        Ok(self.rewritten())
    }

    /// Sets the damaged file aside, and puts the one that was written in its place; answers the new
    /// name of the damaged one. A crash in between is ended by [`Directory::prepare`].
    pub fn replace(&self) -> io::Result<PathBuf> {
        let names = (1..=SET_ASIDE_MAX).map(|number| self.path.join(format!("{FILE}.damaged-{number}")));
        let aside = names.into_iter().find(|name| !name.exists());
        let aside = aside.ok_or_else(|| {
            io::Error::other(format!("{SET_ASIDE_MAX} damaged files are there already; look at them, and remove them"))
        })?;
        self.sync(false)?;
        fs::rename(self.file(), &aside)?;
        rename_if_there(&log_of(&self.file()), &log_of(&aside))?;
        fs::rename(self.rewritten(), self.file())?;
        self.sync(false)?;
        Ok(aside)
    }
}

/// The write-ahead log of a file.
fn log_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a file and its log, if they are there.
pub(super) fn remove(file: &Path) -> io::Result<()> {
    for name in [file, &log_of(file)] {
        match fs::remove_file(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// More damaged files than this are a disk that should not be used.
const SET_ASIDE_MAX: u32 = 100;

/// Opens a file that its owner alone may read; makes it if it is not there.
pub(super) fn own_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

fn in_use(path: &Path) -> Error {
    let text = format!("the data directory {} (failover.dir) is in use by another hub or process", path.display());
    failure(Kind::Locked, text)
}
