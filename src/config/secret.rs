//! Secrets: by value, from an environment variable, or from a file; never shown again.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Kind, Result};

/// What a secret shows of itself.
pub const MASK: &str = "***";

/// Larger files are no passwords.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A password or key. Shows as `***` everywhere; its memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads a secret file; one newline at its end is not part of it. Adds a warning if everyone
    /// may read the file.
    ///
    /// `Secret`: missing, not a regular file, empty, larger than 64 KiB, or not UTF-8. Never waits
    /// for a writer of a pipe.
    pub fn from_file(path: &Path, warnings: &mut Vec<String>) -> Result<Self> {
        let refuse = |why: &str| Error::new(Kind::Secret, format!("secret file {}: {why}", path.display()));
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
        let file = opened.map_err(|error| refuse(&error.to_string()))?;
        let about = file.metadata().map_err(|error| refuse(&error.to_string()))?;
        if !about.is_file() {
            return Err(refuse("it is not a regular file"));
        }
        // Sized beforehand, so that growing leaves no copy behind.
        let mut bytes = Vec::with_capacity(FILE_BYTES_MAX as usize + 1);
        let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
        let secret = Self(String::from_utf8(bytes).map_err(|error| {
            wipe(error.into_bytes());
            refuse("it is not UTF-8 text")
        })?);
        read.map_err(|error| refuse(&error.to_string()))?;
        if secret.0.len() as u64 > FILE_BYTES_MAX {
            return Err(refuse("it is larger than 64 KiB"));
        }
        let text = secret.0.strip_suffix('\n').unwrap_or(&secret.0);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(refuse("it is empty"));
        }
        if about.permissions().mode() & 0o004 != 0 {
            warnings.push(format!("secret file {} can be read by everyone; chmod 600 it", path.display()));
        }
        Ok(Self::new(text))
    }
}

/// Overwrites and frees. The black box keeps the compiler from dropping writes that nobody reads.
fn wipe(mut bytes: Vec<u8>) {
    bytes.fill(0);
    std::hint::black_box(&bytes);
}

impl Drop for Secret {
    fn drop(&mut self) {
        wipe(std::mem::take(&mut self.0).into_bytes());
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Secret)
    }
}

#[cfg(test)]
super::forms::inline_schema!([] Secret, serde_json::json!({"type": "string"}));

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("helixmq-secret-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn shows_nothing() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {}", serde_json::to_string(&secret).unwrap()), "*** *** \"***\"");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn b28_files() {
        let folder = folder("files");
        let write = |name: &str, bytes: &[u8], mode: u32| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let mut warnings = Vec::new();
        let good = Secret::from_file(&write("good", b"pass word\n", 0o600), &mut warnings).unwrap();
        assert_eq!((good.expose(), warnings.len()), ("pass word", 0));
        Secret::from_file(&write("open", b"x", 0o644), &mut warnings).unwrap();
        assert_eq!(warnings.len(), 1);

        let fifo = folder.join("fifo");
        let name = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
        // SAFETY: the name is a live C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let huge = folder.join("huge");
        std::fs::File::create(&huge).unwrap().set_len(1 << 30).unwrap();
        let bad = [
            folder.join("missing"),
            folder.clone(),
            fifo,
            huge,
            write("empty", b"", 0o600),
            write("newline", b"\n", 0o600),
            write("binary", &[0xff, 0xfe], 0o600),
        ];
        for path in bad {
            let error = Secret::from_file(&path, &mut warnings).unwrap_err();
            assert_eq!(error.kind(), Kind::Secret, "{path:?}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
