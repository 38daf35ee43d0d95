//! What a thread sleeps on: a descriptor that queues of librdkafka and others raise.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::{Code, Failure, Result};

/// Raised from anywhere; one thread waits.
#[derive(Debug)]
pub struct Wake(OwnedFd);

/// What is written to raise it.
pub(super) const RAISED: [u8; 8] = 1u64.to_ne_bytes();

impl Wake {
    /// Opens the descriptor.
    pub fn new() -> Result<Self> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            let text = format!("the system refused a descriptor: {}", std::io::Error::last_os_error());
            return Err(Failure::new(Code::CriticalSystemResource, text));
        }
        // SAFETY: the descriptor was just made and is owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(super) fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Ends the present or the next wait.
    pub fn raise(&self) {
        // SAFETY: the descriptor is owned, the buffer is readable. A full counter is raised already.
        crate::sync::keeping_errno(|| unsafe { libc::write(self.fd(), RAISED.as_ptr().cast(), RAISED.len()) });
    }

    /// Waits until it is raised, at most for `timeout`; takes it back.
    pub fn wait(&self, timeout: Duration) {
        let mut poll = libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 };
        // Rounded up: a wait of less than a millisecond must not become a spin.
        let millis = i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let mut counter = [0u8; 8];
        // SAFETY: both calls are given memory of this frame with its length.
        unsafe {
            libc::poll(&raw mut poll, 1, millis);
            libc::read(self.fd(), counter.as_mut_ptr().cast(), counter.len());
        }
    }
}
