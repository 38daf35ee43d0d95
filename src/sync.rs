//! Waiting: a mutex and a condition that ignore poisoning, a deadline, and a bell that may be rung
//! from a signal handler.
//!
//! A panic is caught at the door it came through and poisons only the object it happened in,
//! visibly (`HMQ_E_PANIC`); a poisoned lock would spread it to every neighbour instead.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{self, PoisonError};
use std::time::{Duration, Instant};

/// How long a call may wait: `None` for ever, zero not at all.
pub type Timeout = Option<Duration>;

/// The end of a wait, in real time: a caller's thread waits really, also under a virtual clock.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// The deadline of a call that starts now.
    pub fn after(timeout: Timeout) -> Self {
        Self(timeout.and_then(|limit| Instant::now().checked_add(limit)))
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.0.is_some_and(|at| Instant::now() >= at)
    }

    /// Time left; `None` for ever.
    pub fn left(self) -> Timeout {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// The earlier of two.
    #[must_use]
    pub fn or_before(self, other: Self) -> Self {
        Self(self.0.into_iter().chain(other.0).min())
    }

    /// The deadline as the condition variable takes it.
    pub fn instant(self) -> Option<Instant> {
        self.0
    }
}

/// A mutex whose `lock` cannot fail.
#[derive(Debug, Default)]
pub struct Mutex<T>(sync::Mutex<T>);

/// Guard of a [`Mutex`].
pub type MutexGuard<'a, T> = sync::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    /// Wraps `value`.
    pub const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    /// Waits for the lock.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock if nobody holds it.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(sync::TryLockError::WouldBlock) => None,
        }
    }
}

/// A reader-writer lock whose locks cannot fail.
#[derive(Debug, Default)]
pub struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    /// Wraps `value`.
    pub const fn new(value: T) -> Self {
        Self(sync::RwLock::new(value))
    }

    /// Waits for a shared lock.
    #[inline]
    pub fn read(&self) -> sync::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the exclusive lock.
    #[inline]
    pub fn write(&self) -> sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A condition variable for guards of [`Mutex`].
#[derive(Debug, Default)]
pub struct Condvar(sync::Condvar);

impl Condvar {
    /// A new condition.
    pub const fn new() -> Self {
        Self(sync::Condvar::new())
    }

    /// Wakes every waiter.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Waits until notified, or until `deadline`; `None` waits for ever. Spurious wake-ups happen.
    pub fn wait_until<'a, T>(&self, guard: MutexGuard<'a, T>, deadline: Option<Instant>) -> MutexGuard<'a, T> {
        match deadline {
            None => self.0.wait(guard).unwrap_or_else(PoisonError::into_inner),
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
                self.0.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }
}

/// Busy for `time`: for waits too short to sleep.
pub fn spin_for(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Wakes waiting threads. Ringing takes no lock and allocates nothing, so a signal handler may.
///
/// A waiter reads [`Bell::heard`], looks for work, and only then waits for the next ring: a ring
/// between the two is not lost.
#[derive(Debug, Default)]
pub struct Bell {
    rings: AtomicU32,
    waiting: AtomicU32,
}

impl Bell {
    /// A bell that has not rung.
    pub const fn new() -> Self {
        Self { rings: AtomicU32::new(0), waiting: AtomicU32::new(0) }
    }

    /// Rings heard so far, for [`Bell::wait`].
    #[inline]
    pub fn heard(&self) -> u32 {
        self.rings.load(Ordering::SeqCst)
    }

    /// Wakes every waiter.
    #[inline]
    pub fn ring(&self) {
        self.rings.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            futex_wake(&self.rings);
        }
    }

    /// Waits for a ring after `heard`, or until `deadline`. May wake early.
    pub fn wait(&self, heard: u32, deadline: Deadline) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if self.rings.load(Ordering::SeqCst) == heard {
            futex_wait(&self.rings, heard, deadline.left());
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Waits as [`Bell::wait`], but first looks for a ring without sleeping for `spin`: a wake-up of
    /// a sleeping thread costs some 20 microseconds, a ring seen while awake next to nothing.
    /// Answers whether it was seen while awake.
    pub fn wait_spinning(&self, heard: u32, spin: Duration, deadline: Deadline) -> bool {
        if !spin.is_zero() {
            let end = Instant::now() + spin;
            loop {
                for _ in 0..32 {
                    if self.heard() != heard {
                        return true;
                    }
                    std::hint::spin_loop();
                }
                if Instant::now() >= end {
                    break;
                }
            }
        }
        self.wait(heard, deadline);
        false
    }
}

fn futex_wait(word: &AtomicU32, expected: u32, left: Timeout) {
    let time = left.map(|left| libc::timespec {
        tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: left.subsec_nanos() as libc::c_long,
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word outlives the call, `time` is null or points to a local; the kernel only
    // reads both. All errors (EAGAIN, EINTR, ETIMEDOUT) mean: look again.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, expected, time)
    };
}

fn futex_wake(word: &AtomicU32) {
    // SAFETY: the kernel only uses the address of the word as a key.
    keeping_errno(|| unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX)
    });
}

/// Runs `call`, a system call that a signal handler may make: the code it interrupts may be about
/// to read `errno`.
pub fn keeping_errno<T>(call: impl FnOnce() -> T) -> T {
    // SAFETY: the pointer is to the calling thread's own errno and valid while the thread lives.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { errno.read() };
    let out = call();
    // SAFETY: as above.
    unsafe { errno.write(before) };
    out
}
