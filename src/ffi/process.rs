//! Group 1 of the header: version and process.

use std::ffi::{c_char, c_void};

use once_cell::sync::Lazy;

use super::callback::{TextCallback, TokenCallback, UserData};
use super::guard::{body, quiet_body};
use super::text::{json, name, null, put, timeout};
use super::types::{hmq_drop_fn, hmq_error, hmq_status, hmq_thread_fn, hmq_token_fn, OK};
use super::{convert, text};
use crate::config::options::InitOptions;
use crate::error::{Error, Kind};
use crate::runtime::ThreadHooks;

/// The number of the ABI; the header's `HMQ_ABI`.
pub const ABI: u32 = parse_abi(env!("HELIXMQ_ABI"));

const fn parse_abi(text: &str) -> u32 {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut number = 0;
    while at < bytes.len() {
        number = number * 10 + (bytes[at] - b'0') as u32;
        at += 1;
    }
    number
}

static BUILD_INFO: Lazy<Box<[u8]>> = Lazy::new(|| {
    let info = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"), "abi": ABI, "target": env!("HELIXMQ_TARGET"),
        "backends": ["embedded", "custom"], "features": [], "tls": "none", "allocator": "system",
    });
    text::with_nul(info.to_string().as_bytes())
});

/// The version of the library that is loaded, as HMQ_VERSION_NUMBER counts it.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub extern "C" fn hmq_version() -> u32 {
    let part = |text: &str| text.parse::<u32>().unwrap_or_default();
    part(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
        + part(env!("CARGO_PKG_VERSION_MINOR")) * 1_000
        + part(env!("CARGO_PKG_VERSION_PATCH"))
}

/// The version of the library that is loaded, as text ended by a NUL; lives for ever.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub extern "C" fn hmq_version_string() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// What this library was built of, as one JSON object: version, abi, target, backends, features,
/// tls, allocator. Borrowed; lives for ever.
///
/// - `len`: out, may be NULL: length of the text, without its NUL.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_build_info(len: *mut usize) -> *const c_char {
    quiet_body!(0, c"{}".as_ptr(), [len], {
        put(len, BUILD_INFO.len() - 1);
        BUILD_INFO.as_ptr().cast()
    })
}

/// Whether a program compiled with `abi` can use the library that is loaded.
///
/// - `abi`: in: HMQ_ABI of the program's header.
/// - `err`: out, own, may be NULL: names both numbers.
///
/// Codes: HMQ_OK; HMQ_E_ABI.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_abi_check(abi: u32, err: *mut *mut hmq_error) -> hmq_status {
    body!(0, err, [], {
        if abi != ABI {
            let text = format!("the program was compiled for ABI {abi}, the library loaded has ABI {ABI}");
            return Err(Error::new(Kind::Abi, text));
        }
        Ok(OK)
    })
}

/// Prepares the process. Not needed: the first call does it. It is for programs that want errors early.
///
/// - `options`: in, borrow: JSON object; there are no options yet, so `{}` or (NULL, 0).
/// - `options_len`: in: its length, or HMQ_NTS.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_UTF8, HMQ_E_FORKED.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_init(options: *const c_char, options_len: usize, err: *mut *mut hmq_error) -> hmq_status {
    body!(0, err, [], {
        InitOptions::from_json(json(options, options_len, "options")?)?;
        Ok(OK)
    })
}

/// Sets what each thread of the library calls first and last: attach to a JVM once, name, pin.
/// Only before the first hub. `drop` is called when other hooks replace these, else never.
///
/// - `start`: in, may be NULL: called first, with the name of the thread.
/// - `stop`: in, may be NULL: called last.
/// - `user_data`: in, may be NULL: handed to all three.
/// - `drop`: in, may be NULL.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_STATE once a thread of the library runs.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_thread_hooks(
    start: hmq_thread_fn,
    stop: hmq_thread_fn,
    user_data: *mut c_void,
    drop: hmq_drop_fn,
    err: *mut *mut hmq_error,
) -> hmq_status {
    let user_data = UserData::new(user_data, drop);
    body!(0, err, [], {
        let user_data = std::sync::Arc::new(user_data);
        let hook = |call: hmq_thread_fn| super::callback::thread_hook(call, &user_data);
        crate::runtime::set_thread_hooks(ThreadHooks { start: hook(start), stop: hook(stop) })?;
        Ok(OK)
    })
}

/// Names a function that supplies OAuth tokens, for hubs that are opened from now on; replaces the
/// one of that name before. A configuration refers to it by `name`, as `kafka.token_provider`.
///
/// - `name`: in, borrow: how the configuration calls it.
/// - `name_len`: in: its length, or HMQ_NTS.
/// - `provide`: in: writes a token, and answers HMQ_OK; any other answer means that there is none now.
/// - `user_data`: in, may be NULL: handed to both functions.
/// - `drop`: in, may be NULL: called once, when the function is replaced or hmq_shutdown is called, and the
///   last hub that uses it has ended.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_NULL, HMQ_E_NAME, HMQ_E_UTF8; HMQ_E_FULL: 1024 names are set.
/// Threads: any; `provide` is called on threads of the library, perhaps on several at once, before each
/// login and before a token expires. It should answer within seconds.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_token_provider_set(
    name: *const c_char,
    name_len: usize,
    provide: hmq_token_fn,
    user_data: *mut c_void,
    drop: hmq_drop_fn,
    err: *mut *mut hmq_error,
) -> hmq_status {
    let user_data = UserData::new(user_data, drop);
    body!(0, err, [], {
        let name = self::name(name, name_len, "name")?;
        let call = provide.ok_or_else(|| null("provide"))?;
        crate::hub::set_token_provider(name, std::sync::Arc::new(TokenCallback::new(call, user_data)))?;
        Ok(OK)
    })
}

/// Sends the log lines of the process to `log`; replaces the one before. Without one nothing is
/// logged anywhere. When this returns, the one before is not called any more.
///
/// - `level`: in: HMQ_LOG_..., the least urgent that is sent.
/// - `log`: in, may be NULL: takes lines; NULL: no more log.
/// - `user_data`: in, may be NULL: handed to both functions.
/// - `drop`: in, may be NULL.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_ARG for an unknown level; HMQ_E_REENTRANT, HMQ_E_RESOURCES.
/// Threads: any; `log` is called on a thread of the library, one call at a time.
/// Blocks: until a running call of the function before has returned.
/// Callback: HMQ_E_REENTRANT in `log`, else allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_log_set(
    level: i32,
    log: super::types::hmq_text_fn,
    user_data: *mut c_void,
    drop: hmq_drop_fn,
    err: *mut *mut hmq_error,
) -> hmq_status {
    let user_data = UserData::new(user_data, drop);
    body!(0, err, [], {
        let level = convert::log_level(level)?;
        crate::hub::set_log(level, TextCallback::boxed(log, user_data))?;
        Ok(OK)
    })
}

/// Ends what the library still runs, once all hubs are freed, and waits for its threads. The
/// library can be used again after it.
///
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_TIMEOUT, HMQ_E_REENTRANT, HMQ_E_ARG.
/// Threads: any but the library's own.
/// Blocks: up to `timeout_ms`.
/// Callback: HMQ_E_REENTRANT.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_shutdown(timeout_ms: i32, err: *mut *mut hmq_error) -> hmq_status {
    body!(0, err, [], {
        crate::hub::shutdown(timeout(timeout_ms)?)?;
        Ok(OK)
    })
}
