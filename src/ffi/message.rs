//! Group 7 of the header: messages.

use std::ffi::{c_char, c_void};

use super::event::message_flags;
use super::guard::{body, quiet_body};
use super::messages;
use super::text::{give, null, optional, put, required_out};
use super::types::{hmq_error, hmq_msg, hmq_status, hmq_token, NO_DATA, OK};
use crate::error::{Error, Kind};
use crate::limits;

/// The bytes of a message; never NULL for a message, also if it is empty. NULL for what is no message.
///
/// - `msg`: in, borrow.
/// - `len`: out, may be NULL: how many.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_msg_payload(msg: *const hmq_msg, len: *mut usize) -> *const c_void {
    quiet_body!(msg, std::ptr::null(), [len], {
        messages::with(msg as usize, |entry| {
            let payload = entry.message().payload();
            put(len, payload.len());
            payload.as_ptr().cast()
        })
        .unwrap_or(std::ptr::null())
    })
}

/// The topic of a message, ended by a NUL. NULL for what is no message.
///
/// - `msg`: in, borrow.
/// - `len`: out, may be NULL: its length.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_msg_topic(msg: *const hmq_msg, len: *mut usize) -> *const c_char {
    quiet_body!(msg, std::ptr::null(), [len], {
        messages::topic(msg as usize).map_or(std::ptr::null(), |(text, text_len)| {
            put(len, text_len);
            text
        })
    })
}

/// The id of a message, ended by a NUL: what the publisher gave, or one that was made. NULL for
/// what is no message.
///
/// - `msg`: in, borrow.
/// - `len`: out, may be NULL: its length.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_msg_id(msg: *const hmq_msg, len: *mut usize) -> *const c_char {
    quiet_body!(msg, std::ptr::null(), [len], {
        let found = messages::with(msg as usize, |entry| entry.texts().id_text());
        found.map_or(std::ptr::null(), |(text, text_len)| {
            put(len, text_len);
            text
        })
    })
}

/// The type of a message, ended by a NUL; "" if it has none. NULL for what is no message.
///
/// - `msg`: in, borrow.
/// - `len`: out, may be NULL: its length.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_msg_type(msg: *const hmq_msg, len: *mut usize) -> *const c_char {
    quiet_body!(msg, std::ptr::null(), [len], {
        let found = messages::with(msg as usize, |entry| entry.texts().type_text());
        found.map_or(std::ptr::null(), |(text, text_len)| {
            put(len, text_len);
            text
        })
    })
}

/// The key of a message. NULL if it has none, and for what is no message.
///
/// - `msg`: in, borrow.
/// - `len`: out, may be NULL: its length.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_msg_key(msg: *const hmq_msg, len: *mut usize) -> *const c_void {
    quiet_body!(msg, std::ptr::null(), [len], {
        messages::with(msg as usize, |entry| match entry.message().key() {
            Some(key) => {
                put(len, key.len());
                key.as_ptr().cast()
            }
            None => std::ptr::null(),
        })
        .unwrap_or(std::ptr::null())
    })
}

/// Which delivery of the message this is: 1 for the first. 0 for what is no message.
///
/// - `msg`: in, borrow.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_msg_attempt(msg: *const hmq_msg) -> u32 {
    quiet_body!(msg, 0, [], { messages::with(msg as usize, |entry| entry.incoming().attempt).unwrap_or(0) })
}

/// HMQ_MSG_REDELIVERED, HMQ_MSG_PROVISIONAL, HMQ_MSG_MAYBE_DUP, or 0; as in the `flags` of an hmq_event. 0 for what is no
/// message.
///
/// - `msg`: in, borrow.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_msg_flags(msg: *const hmq_msg) -> u32 {
    quiet_body!(msg, 0, [], { messages::with(msg as usize, |entry| message_flags(entry.incoming())).unwrap_or(0) })
}

/// When the message was published, microseconds since 1970. 0 for what is no message.
///
/// - `msg`: in, borrow.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_msg_timestamp(msg: *const hmq_msg) -> i64 {
    quiet_body!(msg, 0, [], { messages::with(msg as usize, |entry| entry.message().timestamp_us()).unwrap_or(0) })
}

/// The token that settles this delivery, at any time and from any thread, also without the
/// message. 0 where nothing is to be settled (replay), and for what is no message.
///
/// - `msg`: in, borrow.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_msg_token(msg: *const hmq_msg) -> hmq_token {
    quiet_body!(msg, 0, [], { messages::with(msg as usize, |entry| entry.incoming().token).unwrap_or(0) })
}

/// The value of the first header called `name`.
///
/// - `msg`: in, borrow.
/// - `name`: in, borrow.
/// - `name_len`: in: its length, or HMQ_NTS.
/// - `value`: out, borrow: lives as long as the message.
/// - `value_len`: out: its length.
///
/// Codes: HMQ_OK; HMQ_NO_DATA if there is none; HMQ_E_UTF8, HMQ_E_TOO_LARGE.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_msg_header(
    msg: *const hmq_msg,
    name: *const c_char,
    name_len: usize,
    value: *mut *const c_void,
    value_len: *mut usize,
) -> hmq_status {
    body!(msg, std::ptr::null_mut(), [value, value_len], {
        required_out(value, "value")?;
        required_out(value_len, "value_len")?;
        let name = optional(name, name_len, limits::HEADER_NAME_BYTES_MAX, "name")?.ok_or_else(|| null("name"))?;
        messages::find(msg as usize, |entry| match entry.message().headers().find(name) {
            Some(found) => {
                value.write(found.as_ptr().cast());
                value_len.write(found.len());
                OK
            }
            None => NO_DATA,
        })
    })
}

/// The header at `index`, in the order they were given.
///
/// - `msg`: in, borrow.
/// - `index`: in: from 0.
/// - `name`: out, borrow: ended by a NUL; lives as long as the message.
/// - `name_len`: out, may be NULL: its length.
/// - `value`: out, borrow: lives as long as the message.
/// - `value_len`: out: its length.
///
/// Codes: HMQ_OK; HMQ_NO_DATA behind the last.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_msg_header_at(
    msg: *const hmq_msg,
    index: usize,
    name: *mut *const c_char,
    name_len: *mut usize,
    value: *mut *const c_void,
    value_len: *mut usize,
) -> hmq_status {
    body!(msg, std::ptr::null_mut(), [name, name_len, value, value_len], {
        required_out(name, "name")?;
        required_out(value, "value")?;
        required_out(value_len, "value_len")?;
        messages::find(msg as usize, |entry| {
            let Some((text, text_len)) = entry.texts().header_name(index) else { return NO_DATA };
            let Some((_, found)) = entry.message().headers().into_iter().nth(index) else { return NO_DATA };
            name.write(text);
            put(name_len, text_len);
            value.write(found.as_ptr().cast());
            value_len.write(found.len());
            OK
        })
    })
}

/// All of a message as one JSON object. Convenient, not fast.
///
/// - `msg`: in, borrow.
/// - `json`: out, own: free with hmq_free.
/// - `json_len`: out, may be NULL: its length, without its NUL.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_msg_json(
    msg: *const hmq_msg,
    json: *mut *mut c_char,
    json_len: *mut usize,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(msg, err, [json, json_len], {
        required_out(json, "json")?;
        let copy = messages::find(msg as usize, |entry| entry.copy())?;
        give(&messages::to_json(&copy).to_string(), json, json_len);
        Ok(OK)
    })
}

/// Takes one more reference, so that a message outlives its callback, its events, its
/// subscription and its hub.
///
/// - `msg`: in, borrow: then to be freed once more.
///
/// Codes: HMQ_OK.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_msg_retain(msg: *mut hmq_msg) -> hmq_status {
    body!(msg, std::ptr::null_mut(), [], {
        messages::retain(msg as usize)?
            .then_some(OK)
            .ok_or_else(|| Error::new(Kind::State, "this message has as many references as can be counted"))
    })
}

/// Gives one reference back; the last one frees the message. It settles nothing. Not for a
/// message borrowed in a callback.
///
/// - `msg`: in, own, may be NULL.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_msg_free(msg: *mut hmq_msg) {
    if msg.is_null() {
        return;
    }
    quiet_body!(msg, (), [], { messages::release(msg as usize) });
}
