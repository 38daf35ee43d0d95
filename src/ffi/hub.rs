//! Group 3 of the header: hubs.

use std::ffi::c_char;

use super::guard::{body, quiet_body};
use super::slot::{place_of, Type, HUBS};
use super::text::{give, required_out, timeout};
use super::types::{hmq_error, hmq_hub, hmq_status, OK};
use super::{convert, signal};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::hub::Hub;

/// Opens a hub. With a server down it still opens, degraded, and connects when it can.
///
/// - `config`: in, borrow: JSON document, see docs/config.schema.json. Must be there and not empty.
/// - `config_len`: in: its length, or HMQ_NTS.
/// - `timeout_ms`: in: -1 for ever, 0 try; the configured connection_timeout if that is smaller.
/// - `out`: out, own: close with hmq_hub_close, free with hmq_hub_free.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_SECRET, HMQ_E_TLS, HMQ_E_UTF8, HMQ_E_ARG, HMQ_E_LOCKED,
/// HMQ_E_UNSUPPORTED, HMQ_E_RESOURCES.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_hub_open(
    config: *const c_char,
    config_len: usize,
    timeout_ms: i32,
    out: *mut *mut hmq_hub,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(0, err, [out], {
        required_out(out, "out")?;
        let timeout = timeout(timeout_ms)?;
        let config = convert::config(config, config_len)?;
        out.write(enter(Hub::open(config, timeout)?)?);
        Ok(OK)
    })
}

/// Opens a hub as the environment says: MESSAGING_..., RABBITMQ_..., KAFKA_..., HELIXMQ__....
///
/// - `timeout_ms`: in: -1 for ever, 0 try; the configured connection_timeout if that is smaller.
/// - `out`: out, own: close with hmq_hub_close, free with hmq_hub_free.
/// - `err`: out, own, may be NULL.
///
/// Codes: as hmq_hub_open.
/// Threads: any; the environment must not change meanwhile.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_hub_open_env(
    timeout_ms: i32,
    out: *mut *mut hmq_hub,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(0, err, [out], {
        required_out(out, "out")?;
        let timeout = timeout(timeout_ms)?;
        out.write(enter(Hub::open(Config::from_env()?, timeout)?)?);
        Ok(OK)
    })
}

/// Checks a configuration without opening anything, and shows all of it with its defaults and
/// with secrets masked.
///
/// - `config`: in, borrow: JSON document.
/// - `config_len`: in: its length, or HMQ_NTS.
/// - `effective`: out, own, may be NULL: JSON; free with hmq_free.
/// - `effective_len`: out, may be NULL: its length, without its NUL.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_SECRET, HMQ_E_TLS, HMQ_E_UTF8.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_config_check(
    config: *const c_char,
    config_len: usize,
    effective: *mut *mut c_char,
    effective_len: *mut usize,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(0, err, [effective, effective_len], {
        let config = convert::config(config, config_len)?;
        give(&config.effective_json().to_string(), effective, effective_len);
        Ok(OK)
    })
}

/// Waits until every publish that was accepted has reached the level it asked for.
///
/// - `hub`: in, borrow.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_TIMEOUT, HMQ_E_REENTRANT, HMQ_E_CLOSED, HMQ_E_ARG.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: HMQ_E_REENTRANT.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_hub_flush(hub: *mut hmq_hub, timeout_ms: i32, err: *mut *mut hmq_error) -> hmq_status {
    body!(hub, err, [], {
        HUBS.find(hub as usize)?.flush(timeout(timeout_ms)?)?;
        Ok(OK)
    })
}

/// Waits until hmq_hub_stop is called: the body of a program that only serves callbacks.
///
/// - `hub`: in, borrow.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK once stopped or closed; HMQ_E_TIMEOUT, HMQ_E_REENTRANT, HMQ_E_ARG.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: HMQ_E_REENTRANT.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_hub_wait(hub: *mut hmq_hub, timeout_ms: i32, err: *mut *mut hmq_error) -> hmq_status {
    body!(hub, err, [], {
        HUBS.find(hub as usize)?.wait(timeout(timeout_ms)?)?;
        Ok(OK)
    })
}

/// Ends hmq_hub_wait, now and for later calls. It closes nothing.
///
/// - `hub`: in, borrow; what is no hub is left alone.
///
/// Threads: any, and signal handlers.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_hub_stop(hub: *mut hmq_hub) {
    // No guard: it may allocate. What is done here takes no lock and cannot panic.
    if super::guard::process_is_ours() {
        if let Some(place) = place_of(hub as usize, Type::Hub) {
            signal::HUBS.reach(place, |flag| flag.raise());
        }
    }
}

/// Closes a hub in order: takes nothing new in, lets callbacks finish, settles, flushes, leaves.
/// After success no callback of it runs or will run. It waits for callbacks that run; one that waits
/// for ever itself, for a confirm or in hmq_inbox_poll, makes it wait as long. Children become closed and stay valid until
/// they are freed. A second close is HMQ_OK.
///
/// - `hub`: in, borrow: still to be freed.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_TIMEOUT, HMQ_E_REENTRANT, HMQ_E_ARG.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: HMQ_E_REENTRANT.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_hub_close(hub: *mut hmq_hub, timeout_ms: i32, err: *mut *mut hmq_error) -> hmq_status {
    body!(hub, err, [], {
        HUBS.find(hub as usize)?.close(timeout(timeout_ms)?)?;
        Ok(OK)
    })
}

/// Frees a hub. One that is not closed is closed in the background, within bounds. What belongs
/// to it may be freed before or after.
///
/// - `hub`: in, own, may be NULL.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_hub_free(hub: *mut hmq_hub) {
    if hub.is_null() {
        return;
    }
    quiet_body!(hub, (), [], {
        if let Some(place) = place_of(hub as usize, Type::Hub) {
            signal::HUBS.clear(place);
        }
        if let Some(found) = HUBS.remove(hub as usize) {
            found.close_in_background();
        }
    });
}

/// Gives `hub` a handle, through which its stop flag is reached without a lock.
fn enter(hub: Hub) -> Result<*mut hmq_hub> {
    let flag = hub.stop_flag();
    let undo = hub.clone();
    let entered = HUBS.insert(hub).and_then(|handle| {
        let place = place_of(handle, Type::Hub).ok_or_else(|| Error::internal("a new handle names no place"))?;
        if signal::HUBS.set(place, flag) {
            return Ok(handle as *mut hmq_hub);
        }
        drop(HUBS.remove(handle));
        Err(Error::new(Kind::Resources, "too many hubs are open"))
    });
    if entered.is_err() {
        undo.close_in_background();
    }
    entered
}
