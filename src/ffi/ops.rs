//! Group 12 of the header: operations.

use std::ffi::{c_char, c_void};

use super::callback::{TextCallback, UserData};
use super::convert;
use super::guard::body;
use super::slot::HUBS;
use super::text::{give, name, required_out, span, timeout};
use super::types::{hmq_drop_fn, hmq_error, hmq_hub, hmq_status, hmq_text_fn, FORCE_AUTO, FORCE_DOWN, OK};
use crate::error::{Error, Kind};

/// The state of a hub, its backends and subscriptions as JSON.
///
/// - `hub`: in, borrow.
/// - `json`: out, own: free with hmq_free.
/// - `json_len`: out, may be NULL: its length, without its NUL.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK, also for a closed or disabled hub: the document says so.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_health(
    hub: *mut hmq_hub,
    json: *mut *mut c_char,
    json_len: *mut usize,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [json, json_len], {
        required_out(json, "json")?;
        give(&HUBS.find(hub as usize)?.health().to_string(), json, json_len);
        Ok(OK)
    })
}

/// Sends state changes of backends, as JSON, to `state`; replaces the one before.
///
/// - `hub`: in, borrow.
/// - `state`: in, may be NULL: takes changes; NULL: no more.
/// - `user_data`: in, may be NULL: handed to both functions.
/// - `drop`: in, may be NULL: called once, after the last call, also if this call fails.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_CLOSED.
/// Threads: any; `state` is called on a thread of the library, one call at a time.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_on_state(
    hub: *mut hmq_hub,
    state: hmq_text_fn,
    user_data: *mut c_void,
    drop: hmq_drop_fn,
    err: *mut *mut hmq_error,
) -> hmq_status {
    let user_data = UserData::new(user_data, drop);
    body!(hub, err, [], {
        let callback = TextCallback::boxed(state, user_data);
        HUBS.find(hub as usize)?.on_state(callback)?;
        Ok(OK)
    })
}

/// Holds a backend down, for drills, or lets it go again.
///
/// - `hub`: in, borrow.
/// - `backend`: in, borrow: "embedded", "rabbitmq", "kafka" or "custom".
/// - `backend_len`: in: its length, or HMQ_NTS.
/// - `mode`: in: HMQ_FORCE_DOWN or HMQ_FORCE_AUTO.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_NOT_FOUND, HMQ_E_ARG, HMQ_E_NAME, HMQ_E_UTF8, HMQ_E_CLOSED.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_backend_force(
    hub: *mut hmq_hub,
    backend: *const c_char,
    backend_len: usize,
    mode: i32,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [], {
        let found = HUBS.find(hub as usize)?;
        let backend = name(backend, backend_len, "backend")?;
        let down = match mode {
            FORCE_AUTO => false,
            FORCE_DOWN => true,
            _ => {
                return Err(Error::new(Kind::Arg, format!("{mode} is no mode; HMQ_FORCE_AUTO and HMQ_FORCE_DOWN are")))
            }
        };
        found.backend_force(backend, down)?;
        Ok(OK)
    })
}

/// Lets messages that are kept for a server be forwarded to it, or holds them.
///
/// - `hub`: in, borrow.
/// - `run`: in: 1 forwards, 0 holds.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_ARG, HMQ_E_CLOSED.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_forwarding(hub: *mut hmq_hub, run: i32, err: *mut *mut hmq_error) -> hmq_status {
    body!(hub, err, [], {
        HUBS.find(hub as usize)?.forwarding(convert::flag(run, "run")?)?;
        Ok(OK)
    })
}

/// Waits until no message is kept for a server any more.
///
/// - `hub`: in, borrow.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_TIMEOUT, HMQ_E_CLOSED, HMQ_E_ARG.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_wait_forwarded(
    hub: *mut hmq_hub,
    timeout_ms: i32,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [], {
        HUBS.find(hub as usize)?.wait_forwarded(timeout(timeout_ms)?)?;
        Ok(OK)
    })
}

/// The counters of a hub.
///
/// - `hub`: in, borrow.
/// - `format`: in: HMQ_METRICS_JSON or HMQ_METRICS_PROMETHEUS.
/// - `text`: out, own: free with hmq_free.
/// - `text_len`: out, may be NULL: its length, without its NUL.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_ARG.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_metrics(
    hub: *mut hmq_hub,
    format: i32,
    text: *mut *mut c_char,
    text_len: *mut usize,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [text, text_len], {
        required_out(text, "text")?;
        let found = HUBS.find(hub as usize)?;
        give(&found.metrics(convert::metrics_format(format)?), text, text_len);
        Ok(OK)
    })
}

/// Moves the clock of a hub that was opened with "clock":"virtual": for tests without sleeping.
///
/// - `hub`: in, borrow.
/// - `by_ms`: in: 0 or more.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_STATE with a real clock; HMQ_E_ARG.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_clock_advance(hub: *mut hmq_hub, by_ms: i64, err: *mut *mut hmq_error) -> hmq_status {
    body!(hub, err, [], {
        HUBS.find(hub as usize)?.clock_advance(span(by_ms, "by_ms")?)?;
        Ok(OK)
    })
}
