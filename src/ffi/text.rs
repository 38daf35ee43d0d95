//! Texts, bytes and times over the boundary: checked on the way in, owned on the way out.

use std::collections::HashMap;
use std::ffi::{c_char, c_void};
use std::time::Duration;

use once_cell::sync::Lazy;

use super::slot::count_useless_free;
use super::types::NTS;
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::sync::Mutex;

/// How long a call may wait; `None` is for ever.
pub(super) type Timeout = Option<Duration>;

/// `-1` for ever, `0` try, else milliseconds.
pub(super) fn timeout(ms: i32) -> Result<Timeout> {
    match ms {
        -1 => Ok(None),
        0.. => Ok(Some(Duration::from_millis(ms as u64))),
        _ => Err(Error::new(Kind::Arg, format!("timeout_ms is {ms}; -1 is for ever, 0 is try, else milliseconds"))),
    }
}

/// A span of milliseconds that cannot be negative.
pub(super) fn span(ms: i64, name: &str) -> Result<Duration> {
    let ms = u64::try_from(ms).map_err(|_| Error::new(Kind::Arg, format!("{name} is {ms}, but cannot be negative")))?;
    Ok(Duration::from_millis(ms))
}

#[cold]
pub(super) fn null(name: &str) -> Error {
    Error::new(Kind::Null, format!("{name} is NULL"))
}

#[cold]
fn too_large(name: &str, len: usize, max: usize) -> Error {
    let hint =
        if len == usize::MAX { "; HMQ_NTS is not taken here, as these bytes need not end with a NUL" } else { "" };
    Error::new(Kind::TooLarge, format!("{name} has {len} bytes, more than the {max} that are taken{hint}"))
}

/// Fails with `HMQ_E_NULL` if an output that must be there is not.
pub(super) fn required_out<T>(out: *mut T, name: &str) -> Result<()> {
    if out.is_null() {
        return Err(null(name));
    }
    Ok(())
}

/// Bytes from the caller; `(NULL, 0)` is `None`. Nothing is read.
///
/// # Safety
/// `data` is NULL or valid for `len` bytes that do not change for `'a`.
#[inline]
pub(super) unsafe fn bytes<'a>(data: *const c_void, len: usize, max: usize, name: &str) -> Result<Option<&'a [u8]>> {
    if data.is_null() {
        return if len == 0 { Ok(None) } else { Err(null_with_length(name)) };
    }
    if len > max {
        return Err(too_large(name, len, max));
    }
    // SAFETY: as promised by the caller; `max` is far below isize::MAX.
    Ok(Some(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) }))
}

#[cold]
fn null_with_length(name: &str) -> Error {
    Error::new(Kind::Null, format!("{name} is NULL, but its length is not 0; absent is (NULL, 0)"))
}

/// As [`bytes`], where the length may also be `HMQ_NTS`.
///
/// # Safety
/// As of [`bytes`]; with `HMQ_NTS` the bytes end at a NUL.
#[inline]
pub(super) unsafe fn bytes_or_nts<'a>(
    data: *const c_void,
    len: usize,
    max: usize,
    name: &str,
) -> Result<Option<&'a [u8]>> {
    if len != NTS || data.is_null() {
        // SAFETY: as promised by the caller.
        return unsafe { bytes(data, len, max, name) };
    }
    // SAFETY: a NUL ends the text; no more than `max + 1` bytes are looked at.
    let len = unsafe { libc::strnlen(data.cast::<c_char>(), max + 1) };
    // SAFETY: so many bytes were there.
    unsafe { bytes(data, len, max, name) }
}

fn utf8<'a>(bytes: &'a [u8], name: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes)
        .map_err(|wrong| Error::new(Kind::Utf8, format!("{name} is not UTF-8 from byte {} on", wrong.valid_up_to())))
}

/// A text of at most `max` bytes; `(NULL, 0)` is `None`.
///
/// # Safety
/// As of [`bytes_or_nts`].
#[inline]
pub(super) unsafe fn optional<'a>(text: *const c_char, len: usize, max: usize, name: &str) -> Result<Option<&'a str>> {
    // SAFETY: as promised by the caller.
    match unsafe { bytes_or_nts(text.cast(), len, max, name) }? {
        Some(bytes) => utf8(bytes, name).map(Some),
        None => Ok(None),
    }
}

/// The name of a topic or of something else that exists: the hub checks what it says.
///
/// # Safety
/// As of [`bytes_or_nts`].
#[inline]
pub(super) unsafe fn name<'a>(text: *const c_char, len: usize, what: &str) -> Result<&'a str> {
    let max = limits::FOREIGN_NAME_BYTES_MAX;
    if len != NTS && len > max && isize::try_from(len).is_ok() && !text.is_null() {
        return Err(name_too_long(what));
    }
    // SAFETY: as promised by the caller.
    match unsafe { optional(text, len, max, what) } {
        Ok(found) => found.ok_or_else(|| null(what)),
        Err(error) if error.kind() == Kind::TooLarge && len == NTS => Err(name_too_long(what)),
        Err(error) => Err(error),
    }
}

#[cold]
fn name_too_long(what: &str) -> Error {
    Error::new(Kind::Name, format!("{what} is longer than {} bytes", limits::FOREIGN_NAME_BYTES_MAX))
}

/// A JSON document that may be absent: then it is `{}`, all defaults. A longer one than any call
/// takes is a matter of the document, hence `HMQ_E_CONFIG`.
///
/// # Safety
/// As of [`bytes_or_nts`].
pub(super) unsafe fn json<'a>(text: *const c_char, len: usize, what: &str) -> Result<&'a str> {
    // SAFETY: as promised by the caller.
    Ok(unsafe { optional_json(text, len, what) }?.unwrap_or("{}"))
}

/// A JSON document that must be there.
///
/// # Safety
/// As of [`bytes_or_nts`].
pub(super) unsafe fn required_json<'a>(text: *const c_char, len: usize, what: &str) -> Result<&'a str> {
    // SAFETY: as promised by the caller.
    unsafe { optional_json(text, len, what) }?.ok_or_else(|| null(what))
}

unsafe fn optional_json<'a>(text: *const c_char, len: usize, what: &str) -> Result<Option<&'a str>> {
    let max = limits::JSON_BYTES_MAX;
    // SAFETY: as promised by the caller.
    match unsafe { optional(text, len, max, what) } {
        Err(error) if error.kind() == Kind::TooLarge && (len == NTS || isize::try_from(len).is_ok()) => {
            Err(Error::new(Kind::Config, format!("{what}: a document has at most {max} bytes")))
        }
        other => other,
    }
}

/// `text` with a NUL behind it. A NUL inside stays: the length tells.
pub(super) fn with_nul(text: &[u8]) -> Box<[u8]> {
    let mut owned = Vec::with_capacity(text.len() + 1);
    owned.extend_from_slice(text);
    owned.push(0);
    owned.into_boxed_slice()
}

/// Texts that callers own, by address: what `hmq_free` looks up, so that it never follows a pointer.
static OWNED: Lazy<Mutex<HashMap<usize, Box<[u8]>>>> = Lazy::new(|| Mutex::new(HashMap::new()));

/// Makes the caller the owner of `text`, until [`free`].
pub(super) fn own(text: &str) -> *mut c_char {
    let mut text = with_nul(text.as_bytes());
    let address = text.as_mut_ptr();
    OWNED.lock().insert(address as usize, text);
    address.cast()
}

/// Writes an owned text to the outputs of a call.
///
/// # Safety
/// `out` and `len` are NULL or valid for a write.
pub(super) unsafe fn give(text: &str, out: *mut *mut c_char, len: *mut usize) {
    if !out.is_null() {
        // SAFETY: not NULL, so valid.
        unsafe { *out = own(text) };
    }
    // SAFETY: as above.
    unsafe { put(len, text.len()) };
}

/// Writes `value` where the caller asked for it.
///
/// # Safety
/// `out` is NULL or valid for a write.
#[inline]
pub(super) unsafe fn put<T>(out: *mut T, value: T) {
    if !out.is_null() {
        // SAFETY: not NULL, so valid.
        unsafe { out.write(value) };
    }
}

/// The caller's array of `count` values, filled with `value`; `None` if it is NULL.
///
/// # Safety
/// `out` is NULL or valid for writes of `count` values.
pub(super) unsafe fn filled<'a, T: Copy>(out: *mut T, count: usize, value: T) -> Option<&'a mut [T]> {
    if out.is_null() || count > isize::MAX as usize / size_of::<T>() {
        return None;
    }
    // SAFETY: as promised by the caller; every value is written before the slice is made.
    unsafe {
        for index in 0..count {
            out.add(index).write(value);
        }
        Some(std::slice::from_raw_parts_mut(out, count))
    }
}

/// Frees an owned text; anything else is counted and left alone.
#[inline]
pub(super) fn free(address: *const c_void) {
    if !address.is_null() {
        free_at(address);
    }
}

#[cold]
fn free_at(address: *const c_void) {
    let text = OWNED.lock().remove(&(address as usize));
    if text.is_none() {
        count_useless_free("hmq_free");
    }
}

/// An output of a call; cleared first, so that it is written whatever happens then.
pub(super) trait Output {
    /// Writes "nothing".
    ///
    /// # Safety
    /// `this` is NULL or valid for a write.
    unsafe fn clear(this: *mut Self);
}

macro_rules! cleared_to_zero {
    ($($type:ty),*) => {$(
        impl Output for $type {
            #[inline]
            unsafe fn clear(this: *mut Self) {
                // SAFETY: as promised by the caller.
                unsafe { put(this, 0) };
            }
        }
    )*};
}

cleared_to_zero!(usize, u64, i64, i32, u32);

impl<T> Output for *mut T {
    #[inline]
    unsafe fn clear(this: *mut Self) {
        // SAFETY: as promised by the caller.
        unsafe { put(this, std::ptr::null_mut()) };
    }
}

impl<T> Output for *const T {
    #[inline]
    unsafe fn clear(this: *mut Self) {
        // SAFETY: as promised by the caller.
        unsafe { put(this, std::ptr::null()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8], len: usize) -> Result<Option<&str>> {
        // SAFETY: `len` is the length of `bytes` or HMQ_NTS with a NUL at its end.
        unsafe { optional(bytes.as_ptr().cast(), len, 8, "x") }
    }

    #[test]
    fn texts_come_by_length_or_end_at_their_nul() {
        assert_eq!(text(b"abc", 3).unwrap(), Some("abc"));
        assert_eq!(text(b"abc\0", NTS).unwrap(), Some("abc"));
        assert_eq!(text(b"", 0).unwrap(), Some(""));
        assert_eq!(text(b"123456789\0", NTS).unwrap_err().kind(), Kind::TooLarge);
        let wrong = text(b"ab\xFFd", 4).unwrap_err();
        assert_eq!(wrong.kind(), Kind::Utf8);
        assert!(wrong.message().contains("byte 2"));
    }

    #[test]
    fn null_is_absent_only_without_a_length() {
        let none = std::ptr::null();
        // SAFETY: NULL is allowed.
        let (absent, wrong) = unsafe { (bytes(none, 0, 9, "x"), bytes(none, 1, 9, "x")) };
        assert!(absent.unwrap().is_none());
        assert_eq!(wrong.unwrap_err().kind(), Kind::Null);
    }

    #[test]
    fn lengths_beyond_every_buffer_are_refused_unread() {
        let one = [0u8; 1];
        for len in [10, isize::MAX as usize + 1, usize::MAX] {
            // SAFETY: the length is refused before a slice is made.
            let refused = unsafe { bytes(one.as_ptr().cast(), len, 9, "x") };
            assert_eq!(refused.unwrap_err().kind(), Kind::TooLarge);
        }
    }

    #[test]
    fn owned_texts_are_freed_once_and_only_by_their_address() {
        let text = own("abc");
        // SAFETY: the text has four bytes, the last a NUL.
        assert_eq!(unsafe { std::ffi::CStr::from_ptr(text) }.to_bytes(), b"abc");
        free(text.wrapping_add(1).cast());
        assert!(OWNED.lock().contains_key(&(text as usize)));
        free(text.cast());
        free(text.cast());
        assert!(!OWNED.lock().contains_key(&(text as usize)));
    }

    #[test]
    fn timeouts() {
        assert_eq!(timeout(-1).unwrap(), None);
        assert_eq!(timeout(0).unwrap(), Some(Duration::ZERO));
        assert_eq!(timeout(i32::MAX).unwrap(), Some(Duration::from_millis(i32::MAX as u64)));
        for wrong in [-2, i32::MIN] {
            assert_eq!(timeout(wrong).unwrap_err().kind(), Kind::Arg);
        }
    }
}
