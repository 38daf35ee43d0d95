//! The door: what every exported function does before and after its own work.
//!
//! A forked child is turned away, a panic becomes `HMQ_E_PANIC` and poisons the object of the
//! call, and `err` is always written. Nothing is registered at load: the first call registers the
//! fork handler.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU8, Ordering};

use super::error::{give_error, FORKED_ERROR};
use super::slot;
use super::types::{hmq_error, hmq_status};
use crate::error::{Error, Kind, Result};
use crate::hub::process::{log, LogLevel};
use crate::runtime::panic_text;

const FRESH: u8 = 0;
const WATCHED: u8 = 1;
const FORKED: u8 = 2;

/// `FRESH` until the first call, then `WATCHED`; a fork makes it `FORKED` in the child, for good.
static PROCESS: AtomicU8 = AtomicU8::new(FRESH);

extern "C" fn in_child() {
    PROCESS.store(FORKED, Ordering::Relaxed);
}

/// Whether this process may use the library. One load, but for the first call.
#[inline]
pub(super) fn process_is_ours() -> bool {
    match PROCESS.load(Ordering::Relaxed) {
        WATCHED => true,
        FRESH => watch_forks(),
        _ => false,
    }
}

#[cold]
fn watch_forks() -> bool {
    if PROCESS.compare_exchange(FRESH, WATCHED, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        // SAFETY: the handler stores one atomic; the library is never unmapped (`-z nodelete`).
        // It fails only without memory, and then forks go unnoticed.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    }
    PROCESS.load(Ordering::Relaxed) == WATCHED
}

fn forked() -> Error {
    Error::new(Kind::Forked, "this process is a fork of the one that used the library: open hubs after forking")
}

/// Runs the body of a call on the object behind `handle` (0: none).
///
/// # Safety
/// `err` is NULL or valid for a write.
#[inline]
pub(super) unsafe fn run(
    handle: usize,
    err: *mut *mut hmq_error,
    body: impl FnOnce() -> Result<hmq_status>,
) -> hmq_status {
    if !err.is_null() {
        // SAFETY: not NULL, so valid by the contract above.
        unsafe { *err = std::ptr::null_mut() };
    }
    if !process_is_ours() {
        if !err.is_null() {
            // SAFETY: as above.
            unsafe { *err = FORKED_ERROR };
        }
        return Kind::Forked.code();
    }
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(status)) => status,
        // SAFETY: `err` as promised by our caller.
        Ok(Err(error)) => unsafe { fail(err, &error) },
        Err(panic) => {
            let error = panicked(handle, panic_text(&*panic));
            // SAFETY: as above.
            unsafe { fail(err, &error) }
        }
    }
}

/// As [`run`], for a call whose last outcome is a status with an error beside it (`HMQ_PARTIAL`).
///
/// # Safety
/// `err` is NULL or valid for a write.
#[cold]
pub(super) unsafe fn fail(err: *mut *mut hmq_error, error: &Error) -> hmq_status {
    if !err.is_null() {
        // SAFETY: not NULL, so valid by the contract above.
        unsafe { *err = give_error(error) };
    }
    error.kind().code()
}

#[cold]
fn panicked(handle: usize, text: &str) -> Error {
    slot::poison(handle);
    log(LogLevel::Error, "panic", &format!("a panic was caught in a call of the C ABI: {text}"));
    Error::new(Kind::Panic, format!("a panic was caught, its object is out of service: {text}"))
}

/// Runs the body of a call that has no status: in a forked child and after a panic it answers `otherwise`.
#[inline]
pub(super) fn quiet<T>(handle: usize, otherwise: T, body: impl FnOnce() -> T) -> T {
    if !process_is_ours() {
        return otherwise;
    }
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(panic) => {
            panicked(handle, panic_text(&*panic));
            otherwise
        }
    }
}

/// The error of a call in a forked child, for texts that are asked without an object.
pub(super) fn forked_text() -> String {
    forked().to_json().to_string()
}

/// As [`forked_text`], its sentence alone.
pub(super) fn forked_message() -> String {
    forked().message().to_owned()
}

/// The body of an exported function. Inside it raw pointers are used without further words: the
/// header's contract is that each is NULL, or valid for what its comment says.
///
/// The outputs in brackets are cleared first, so that they are written whatever happens then.
macro_rules! body {
    ($handle:expr, $err:expr, [$($out:expr),*], $body:block) => {{
        // SAFETY: the caller keeps the header's contract for every pointer of this call.
        unsafe {
            $($crate::ffi::text::Output::clear($out);)*
            $crate::ffi::guard::run($handle as usize, $err, || -> $crate::error::Result<hmq_status> { $body })
        }
    }};
}

/// As `body!`, for a function without a status.
macro_rules! quiet_body {
    ($handle:expr, $otherwise:expr, [$($out:expr),*], $body:block) => {{
        // SAFETY: the caller keeps the header's contract for every pointer of this call.
        #[allow(unused_unsafe)]
        unsafe {
            $($crate::ffi::text::Output::clear($out);)*
            $crate::ffi::guard::quiet($handle as usize, $otherwise, || $body)
        }
    }};
}

pub(super) use {body, quiet_body};
