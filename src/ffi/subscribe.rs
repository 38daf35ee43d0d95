//! Group 5 of the header: subscriptions and replays.

use std::ffi::{c_char, c_void};

use super::callback::{MessageCallback, UserData};
use super::guard::{body, quiet_body};
use super::slot::{HUBS, INBOXES, SUBSCRIPTIONS};
use super::text::{give, json, required_out, timeout};
use super::types::{hmq_drop_fn, hmq_error, hmq_hub, hmq_inbox, hmq_msg_fn, hmq_status, hmq_sub, OK};
use crate::config::options::{ReplayOptions, SeekOptions, SubscribeOptions};
use crate::error::Result;
use crate::hub::Subscription;

/// Subscribes with a callback, on a thread of the library: serial and ordered, unless the options
/// ask for concurrency. What the callback answers settles the message.
///
/// - `hub`: in, borrow.
/// - `options`: in, borrow: JSON object: topic (a name or a pattern), kind, group, prefetch, credit,
///   concurrency, ordered, retry, dead_letter, filter, start, lease_ms (docs/options.schema.json).
/// - `options_len`: in: its length, or HMQ_NTS.
/// - `handler`: in: called for each message.
/// - `user_data`: in, may be NULL: handed to both functions.
/// - `drop`: in, may be NULL: called once, after the last call, also if this call fails.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `out`: out, own: close with hmq_sub_close, free with hmq_sub_free.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_NAME, HMQ_E_UTF8, HMQ_E_KIND, HMQ_E_UNSUPPORTED, HMQ_E_TIMEOUT,
/// HMQ_E_ARG, HMQ_E_FULL when the hub has as many dispatcher threads, or names of
/// dead-letter topics, as it may, HMQ_E_RESOURCES,
/// HMQ_E_CLOSED, HMQ_E_DISABLED and the codes of backends.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_subscribe(
    hub: *mut hmq_hub,
    options: *const c_char,
    options_len: usize,
    handler: hmq_msg_fn,
    user_data: *mut c_void,
    drop: hmq_drop_fn,
    timeout_ms: i32,
    out: *mut *mut hmq_sub,
    err: *mut *mut hmq_error,
) -> hmq_status {
    let user_data = UserData::new(user_data, drop);
    body!(hub, err, [out], {
        let handler = MessageCallback::boxed(handler, user_data)?;
        required_out(out, "out")?;
        let found = HUBS.find(hub as usize)?;
        let timeout = timeout(timeout_ms)?;
        let options = SubscribeOptions::from_json(json(options, options_len, "options")?)?;
        out.write(enter(found.subscribe(options, handler, timeout)?)?);
        Ok(OK)
    })
}

/// Subscribes with an inbox: messages come as HMQ_EV_MESSAGE and are settled by their token.
///
/// - `hub`: in, borrow.
/// - `options`: in, borrow: JSON object, as of hmq_subscribe; with "credit":"manual" see hmq_sub_request.
/// - `options_len`: in: its length, or HMQ_NTS.
/// - `inbox`: in, borrow: of the same hub.
/// - `tag`: in: comes back in each event of this subscription; HMQ_EV_END is the last.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `out`: out, own: close with hmq_sub_close, free with hmq_sub_free.
/// - `err`: out, own, may be NULL.
///
/// Codes: as hmq_subscribe.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_subscribe_inbox(
    hub: *mut hmq_hub,
    options: *const c_char,
    options_len: usize,
    inbox: *mut hmq_inbox,
    tag: u64,
    timeout_ms: i32,
    out: *mut *mut hmq_sub,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [out], {
        required_out(out, "out")?;
        let found = HUBS.find(hub as usize)?;
        let inbox = INBOXES.find(inbox as usize)?;
        let timeout = timeout(timeout_ms)?;
        let options = SubscribeOptions::from_json(json(options, options_len, "options")?)?;
        out.write(enter(found.subscribe_inbox(options, &inbox, tag, timeout)?)?);
        Ok(OK)
    })
}

/// Reads events again, from one time to another, without moving any group. The callback's answer
/// settles nothing.
///
/// - `hub`: in, borrow.
/// - `options`: in, borrow: JSON object: topic (a name or a pattern), from, to, filter, dry_run, follow
///   (docs/events.md).
/// - `options_len`: in: its length, or HMQ_NTS.
/// - `handler`: in: called for each message.
/// - `user_data`: in, may be NULL: handed to both functions.
/// - `drop`: in, may be NULL: called once, after the last call, also if this call fails.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `out`: out, own: hmq_sub_wait waits for its end; free with hmq_sub_free.
/// - `err`: out, own, may be NULL.
///
/// A topic that nobody has published to is empty, not an error.
///
/// Codes: as hmq_subscribe; HMQ_E_BACKEND_DOWN.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_replay(
    hub: *mut hmq_hub,
    options: *const c_char,
    options_len: usize,
    handler: hmq_msg_fn,
    user_data: *mut c_void,
    drop: hmq_drop_fn,
    timeout_ms: i32,
    out: *mut *mut hmq_sub,
    err: *mut *mut hmq_error,
) -> hmq_status {
    let user_data = UserData::new(user_data, drop);
    body!(hub, err, [out], {
        let handler = MessageCallback::boxed(handler, user_data)?;
        required_out(out, "out")?;
        let found = HUBS.find(hub as usize)?;
        let timeout = timeout(timeout_ms)?;
        let options = ReplayOptions::from_json(json(options, options_len, "options")?)?;
        out.write(enter(found.replay(options, handler, timeout)?)?);
        Ok(OK)
    })
}

/// As hmq_replay, into an inbox; HMQ_EV_END tells the end.
///
/// - `hub`: in, borrow.
/// - `options`: in, borrow: JSON object, as of hmq_replay.
/// - `options_len`: in: its length, or HMQ_NTS.
/// - `inbox`: in, borrow: of the same hub.
/// - `tag`: in: comes back in each event of this replay.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `out`: out, own: free with hmq_sub_free.
/// - `err`: out, own, may be NULL.
///
/// Codes: as hmq_replay.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_replay_inbox(
    hub: *mut hmq_hub,
    options: *const c_char,
    options_len: usize,
    inbox: *mut hmq_inbox,
    tag: u64,
    timeout_ms: i32,
    out: *mut *mut hmq_sub,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [out], {
        required_out(out, "out")?;
        let found = HUBS.find(hub as usize)?;
        let inbox = INBOXES.find(inbox as usize)?;
        let timeout = timeout(timeout_ms)?;
        let options = ReplayOptions::from_json(json(options, options_len, "options")?)?;
        out.write(enter(found.replay_inbox(options, &inbox, tag, timeout)?)?);
        Ok(OK)
    })
}

/// How far a subscription or replay is, as a JSON object of counts.
///
/// - `sub`: in, borrow.
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
pub unsafe extern "C" fn hmq_sub_progress(
    sub: *mut hmq_sub,
    json: *mut *mut c_char,
    json_len: *mut usize,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(sub, err, [json, json_len], {
        required_out(json, "json")?;
        give(&SUBSCRIPTIONS.find(sub as usize)?.progress()?.to_string(), json, json_len);
        Ok(OK)
    })
}

/// Waits until a subscription has ended: a replay at its end, a subscription that was closed or lost.
///
/// - `sub`: in, borrow.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK at the orderly end; HMQ_E_TIMEOUT, HMQ_E_REENTRANT, HMQ_E_ARG; or what ended it.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: HMQ_E_REENTRANT in its own, else allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_sub_wait(sub: *mut hmq_sub, timeout_ms: i32, err: *mut *mut hmq_error) -> hmq_status {
    body!(sub, err, [], {
        SUBSCRIPTIONS.find(sub as usize)?.wait(timeout(timeout_ms)?)?;
        Ok(OK)
    })
}

/// Moves an event subscription's group to another place.
///
/// - `sub`: in, borrow.
/// - `options`: in, borrow: JSON object: `to`: "earliest", "latest", {"offset": 5} or
///   {"time": "2026-01-02T03:04:05Z"}.
/// - `options_len`: in: its length, or HMQ_NTS.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_UTF8, HMQ_E_UNSUPPORTED for tasks, HMQ_E_TIMEOUT, HMQ_E_CLOSED, HMQ_E_ARG.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_sub_seek(
    sub: *mut hmq_sub,
    options: *const c_char,
    options_len: usize,
    timeout_ms: i32,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(sub, err, [], {
        let found = SUBSCRIPTIONS.find(sub as usize)?;
        let timeout = timeout(timeout_ms)?;
        found.seek(&SeekOptions::from_json(json(options, options_len, "options")?)?, timeout)?;
        Ok(OK)
    })
}

/// Stops and starts the flow of messages; the subscription keeps its place.
///
/// - `sub`: in, borrow.
/// - `paused`: in: 1 stops, 0 goes on.
///
/// Codes: HMQ_OK; HMQ_E_ARG, HMQ_E_CLOSED.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_sub_pause(sub: *mut hmq_sub, paused: i32) -> hmq_status {
    body!(sub, std::ptr::null_mut(), [], {
        let found = SUBSCRIPTIONS.find(sub as usize)?;
        found.pause(super::convert::flag(paused, "paused")?)?;
        Ok(OK)
    })
}

/// Asks for `n` more messages, where the options say "credit":"manual".
///
/// - `sub`: in, borrow.
/// - `n`: in: added to what was asked before.
///
/// Codes: HMQ_OK; HMQ_E_STATE without manual credit; HMQ_E_CLOSED.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_sub_request(sub: *mut hmq_sub, n: u32) -> hmq_status {
    body!(sub, std::ptr::null_mut(), [], {
        SUBSCRIPTIONS.find(sub as usize)?.request(n)?;
        Ok(OK)
    })
}

/// Closes a subscription in order: takes nothing new, waits for its callbacks, gives back what is
/// not settled. After success no callback of it runs or will run. A second close is HMQ_OK.
///
/// - `sub`: in, borrow: still to be freed.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_TIMEOUT, HMQ_E_REENTRANT, HMQ_E_ARG.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: HMQ_E_REENTRANT in its own, else allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_sub_close(sub: *mut hmq_sub, timeout_ms: i32, err: *mut *mut hmq_error) -> hmq_status {
    body!(sub, err, [], {
        SUBSCRIPTIONS.find(sub as usize)?.close(timeout(timeout_ms)?)?;
        Ok(OK)
    })
}

/// Frees a subscription; one that is not closed is closed in the background.
///
/// - `sub`: in, own, may be NULL.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed, also in its own: no call follows the one that runs.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_sub_free(sub: *mut hmq_sub) {
    if sub.is_null() {
        return;
    }
    quiet_body!(sub, (), [], {
        if let Some(found) = SUBSCRIPTIONS.remove(sub as usize) {
            found.close_in_background();
        }
    });
}

/// Gives `subscription` a handle; without one it ends.
fn enter(subscription: Subscription) -> Result<*mut hmq_sub> {
    match SUBSCRIPTIONS.insert(subscription.clone()) {
        Ok(handle) => Ok(handle as *mut hmq_sub),
        Err(error) => {
            subscription.close_in_background();
            Err(error)
        }
    }
}
