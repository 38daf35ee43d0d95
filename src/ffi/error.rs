//! Group 2 of the header: statuses, errors, owned memory.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use once_cell::sync::Lazy;

use super::guard::{forked_message, forked_text, quiet_body};
use super::objects::ErrorText;
use super::slot::{self, ERRORS};
use super::text::{free, put, with_nul};
use super::types::{hmq_error, hmq_status, CLOSED, NO_DATA, OK, PARTIAL};
use crate::error::{status_table, Error, Kind};

/// The error of every call in a forked child. No handle of a table: in a child a lock may be
/// held by a thread that is not there any more.
pub(super) const FORKED_ERROR: *mut hmq_error = 0x5AF0_0000_0000_0001usize as *mut hmq_error;

static TABLE: Lazy<Box<[u8]>> = Lazy::new(|| with_nul(status_table().to_string().as_bytes()));
static FORKED_MESSAGE: Lazy<Box<[u8]>> = Lazy::new(|| with_nul(forked_message().as_bytes()));
static FORKED_JSON: Lazy<Box<[u8]>> = Lazy::new(|| with_nul(forked_text().as_bytes()));

/// A handle for `error`; NULL if there is none left, the status tells enough then.
pub(super) fn give_error(error: &Error) -> *mut hmq_error {
    let text = ErrorText {
        code: error.kind().code(),
        json: with_nul(error.to_json().to_string().as_bytes()),
        message: with_nul(error.message().as_bytes()),
    };
    ERRORS.insert(Arc::new(text)).map_or(std::ptr::null_mut(), |handle| handle as *mut hmq_error)
}

/// The name of a status, such as "HMQ_E_TIMEOUT"; "HMQ_E_?" for a number that is none. Ended by a
/// NUL; lives for ever.
///
/// - `status`: in.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub extern "C" fn hmq_status_name(status: hmq_status) -> *const c_char {
    static NAMES: Lazy<Vec<(i32, Box<[u8]>)>> =
        Lazy::new(|| Kind::ALL.iter().map(|kind| (kind.code(), with_nul(kind.name().as_bytes()))).collect());
    let fixed = match status {
        OK => c"HMQ_OK",
        NO_DATA => c"HMQ_NO_DATA",
        CLOSED => c"HMQ_CLOSED",
        PARTIAL => c"HMQ_PARTIAL",
        _ => {
            let known = NAMES.iter().find(|(code, _)| *code == status);
            return known.map_or(c"HMQ_E_?".as_ptr(), |(_, name)| name.as_ptr().cast());
        }
    };
    fixed.as_ptr()
}

/// What a program can conclude from a status: HMQ_STATUS_... bits; 0 for what is no failure.
///
/// - `status`: in.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub extern "C" fn hmq_status_flags(status: hmq_status) -> u32 {
    Kind::from_code(status).map_or(0, Kind::flags)
}

/// All statuses as a JSON array, for generators of bindings. Borrowed; lives for ever.
///
/// - `len`: out, may be NULL: length of the text, without its NUL.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_status_table(len: *mut usize) -> *const c_char {
    quiet_body!(0, c"[]".as_ptr(), [len], {
        put(len, TABLE.len() - 1);
        TABLE.as_ptr().cast()
    })
}

/// The status that an error belongs to; HMQ_OK for NULL, HMQ_E_HANDLE for what is no error.
///
/// - `error`: in, borrow, may be NULL.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_error_status(error: *const hmq_error) -> hmq_status {
    if error.is_null() {
        return OK;
    }
    if error == FORKED_ERROR {
        return Kind::Forked.code();
    }
    quiet_body!(error, Kind::Forked.code(), [], {
        ERRORS.find(error as usize).map_or_else(|wrong| wrong.kind().code(), |text| text.code)
    })
}

/// An error as one JSON object: code, name, message, retriable, fatal, and where it applies
/// backend, native, outcome, path, line, column, causes. Borrowed: lives until hmq_error_free.
///
/// - `error`: in, borrow, may be NULL: then the answer is "{}", as for what is no error.
/// - `len`: out, may be NULL: length of the text, without its NUL.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_error_json(error: *const hmq_error, len: *mut usize) -> *const c_char {
    if error == FORKED_ERROR {
        // SAFETY: NULL, or valid for a write by the header's contract.
        unsafe { put(len, FORKED_JSON.len() - 1) };
        return FORKED_JSON.as_ptr().cast();
    }
    quiet_body!(error, c"{}".as_ptr(), [len], {
        let found = if error.is_null() { None } else { ERRORS.find(error as usize).ok() };
        match found {
            // The table holds the text until the error is freed, so it outlives this call.
            Some(text) => {
                put(len, text.json.len() - 1);
                text.json.as_ptr().cast()
            }
            None => {
                put(len, 2);
                c"{}".as_ptr()
            }
        }
    })
}

/// What an error says, as one sentence for people: the `message` of hmq_error_json. Borrowed: lives
/// until hmq_error_free.
///
/// - `error`: in, borrow, may be NULL: then the answer is "", as for what is no error.
/// - `len`: out, may be NULL: length of the text, without its NUL.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_error_message(error: *const hmq_error, len: *mut usize) -> *const c_char {
    if error == FORKED_ERROR {
        // SAFETY: NULL, or valid for a write by the header's contract.
        unsafe { put(len, FORKED_MESSAGE.len() - 1) };
        return FORKED_MESSAGE.as_ptr().cast();
    }
    quiet_body!(error, c"".as_ptr(), [len], {
        let found = if error.is_null() { None } else { ERRORS.find(error as usize).ok() };
        // The table holds the text until the error is freed, so it outlives this call.
        put(len, found.as_ref().map_or(0, |text| text.message.len() - 1));
        found.map_or(c"".as_ptr(), |text| text.message.as_ptr().cast())
    })
}

/// Frees an error.
///
/// - `error`: in, own, may be NULL.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_error_free(error: *mut hmq_error) {
    if error.is_null() || error == FORKED_ERROR {
        return;
    }
    quiet_body!(error, (), [], { drop(ERRORS.remove(error as usize)) });
}

/// Frees a text that a call gave to the caller. What is no such text is counted and left alone.
///
/// - `text`: in, own, may be NULL.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_free(text: *mut c_void) {
    quiet_body!(0, (), [], { free(text) });
}

/// How many frees in this process named nothing: freed twice, or never issued.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub extern "C" fn hmq_useless_frees() -> u64 {
    slot::useless_frees()
}
