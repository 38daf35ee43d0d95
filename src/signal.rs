//! A descriptor that an event loop can poll: readable while raised.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::options::Signal;
use crate::error::{Error, Kind, Result};
use crate::sync::keeping_errno;

/// A descriptor that is readable while raised. Costs nothing until somebody asks for it.
#[derive(Debug)]
pub struct SignalFd {
    reader: OwnedFd,
    /// The other end of a socket; an eventfd is written where it is read.
    other_end: Option<OwnedFd>,
    used: AtomicBool,
    /// Set before the write, so that whoever it wakes clears it, and once more after it, so that a
    /// clear that came in between leaves the rest to the next.
    raised: AtomicBool,
}

impl SignalFd {
    /// Opens the descriptors.
    pub fn new(kind: Signal) -> Result<Self> {
        let (reader, other_end) = match kind {
            Signal::Eventfd => (eventfd()?, None),
            Signal::Socket => {
                let (reader, writer) = std::os::unix::net::UnixStream::pair().map_err(|error| refused(&error))?;
                for end in [&reader, &writer] {
                    end.set_nonblocking(true).map_err(|error| refused(&error))?;
                }
                (reader.into(), Some(writer.into()))
            }
        };
        Ok(Self { reader, other_end, used: AtomicBool::new(false), raised: AtomicBool::new(false) })
    }

    /// The descriptor to poll. Until it is asked for, raising and clearing cost nothing.
    pub fn fd(&self) -> i32 {
        self.used.store(true, Ordering::SeqCst);
        self.reader.as_raw_fd()
    }

    /// Whether anybody asked for the descriptor.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::SeqCst)
    }

    /// Makes it readable. Safe in a signal handler.
    pub fn raise(&self) {
        if !self.is_used() {
            return;
        }
        let one = 1u64.to_ne_bytes();
        let (writer, len) = match &self.other_end {
            Some(socket) => (socket.as_raw_fd(), 1),
            None => (self.reader.as_raw_fd(), one.len()),
        };
        self.raised.store(true, Ordering::SeqCst);
        // SAFETY: the descriptor is owned by `self` and the buffer is readable for `len`. Failure
        // means that buffer or counter is full: it is readable already.
        keeping_errno(|| unsafe { libc::write(writer, one.as_ptr().cast(), len) });
        self.raised.store(true, Ordering::SeqCst);
    }

    /// Makes it not readable.
    pub fn clear(&self) {
        if !self.raised.swap(false, Ordering::SeqCst) {
            return;
        }
        let mut buffer = [0u8; 64];
        loop {
            // SAFETY: the buffer is writable for its length; the descriptor does not block.
            let read = unsafe { libc::read(self.reader.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            if read < buffer.len() as isize {
                return;
            }
        }
    }
}

fn eventfd() -> Result<OwnedFd> {
    // SAFETY: a plain system call.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(refused(&std::io::Error::last_os_error()));
    }
    // SAFETY: the descriptor was just made and is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn refused(error: &std::io::Error) -> Error {
    Error::new(Kind::Resources, format!("the system refused a descriptor: {error}"))
}
