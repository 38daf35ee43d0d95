//! Group 6 of the header: inboxes.

use std::ffi::{c_char, c_void};

use super::callback::{ready_hook, UserData};
use super::guard::{body, quiet_body};
use super::objects::InboxObject;
use super::slot::{place_of, Type, HUBS, INBOXES};
use super::text::{json, null, required_out, timeout};
use super::types::{
    hmq_drop_fn, hmq_error, hmq_event, hmq_hub, hmq_inbox, hmq_ready_fn, hmq_status, CLOSED, NO_DATA, OK,
};
use super::{event, frame, signal};
use crate::config::options::InboxOptions;
use crate::error::{Error, Kind, Result};
use crate::hub::Polled;

/// Makes an inbox: a bounded queue that messages, outcomes of publishes, state changes and logs
/// can come into, with one descriptor that is readable while it is not empty.
///
/// - `hub`: in, borrow.
/// - `options`: in, borrow: JSON object: capacity, signal ("eventfd" or "socket"), spin_us, state, log, fate.
/// - `options_len`: in: its length, or HMQ_NTS.
/// - `out`: out, own: free with hmq_inbox_free.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_UTF8, HMQ_E_RESOURCES, HMQ_E_CLOSED.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_inbox_new(
    hub: *mut hmq_hub,
    options: *const c_char,
    options_len: usize,
    out: *mut *mut hmq_inbox,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [out], {
        required_out(out, "out")?;
        let found = HUBS.find(hub as usize)?;
        let options = InboxOptions::from_json(json(options, options_len, "options")?)?;
        out.write(enter(found.inbox(options)?)?);
        Ok(OK)
    })
}

/// The descriptor of an inbox, for poll, epoll, kqueue and their like. Level-triggered: readable
/// while the inbox is not empty. It belongs to the inbox and never changes; it may be dup'ed.
/// With "signal":"socket" its bytes may be read. -1 if `inbox` is no inbox.
///
/// - `inbox`: in, borrow.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_inbox_fd(inbox: *const hmq_inbox) -> isize {
    quiet_body!(inbox, -1, [], { INBOXES.find(inbox as usize).map_or(-1, |found| found.fd() as isize) })
}

/// Sets what is called once each time the inbox stops being empty, for loops without descriptors.
/// Set once per inbox. `ready` must not block; `drop` is called when the inbox is gone.
///
/// - `inbox`: in, borrow.
/// - `ready`: in: called from the thread that filled the inbox, with no lock held.
/// - `user_data`: in, may be NULL: handed to both functions.
/// - `drop`: in, may be NULL: called once, after the last call, also if this call fails.
///
/// Codes: HMQ_OK; HMQ_E_STATE if it is set already.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_inbox_on_ready(
    inbox: *mut hmq_inbox,
    ready: hmq_ready_fn,
    user_data: *mut c_void,
    drop: hmq_drop_fn,
) -> hmq_status {
    let user_data = UserData::new(user_data, drop);
    body!(inbox, std::ptr::null_mut(), [], {
        let hook = ready_hook(ready, user_data)?;
        INBOXES.find(inbox as usize)?.on_ready(hook)?;
        Ok(OK)
    })
}

/// Takes events out of an inbox, and waits for the first. A wake-up ends the wait with HMQ_NO_DATA.
///
/// - `inbox`: in, borrow.
/// - `events`: out: room for `max` events; the first one's `size`, set by the caller, is the step.
///   What they hold is owned by the caller: free it with hmq_events_clear.
/// - `max`: in: at least 1.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `count`: out: how many came.
///
/// Codes: HMQ_OK; HMQ_NO_DATA; HMQ_CLOSED when nothing will come any more; HMQ_E_ARG, HMQ_E_ABI,
/// HMQ_E_RESOURCES.
/// Threads: any; two polls at a time share the events.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_inbox_poll(
    inbox: *mut hmq_inbox,
    events: *mut hmq_event,
    max: usize,
    timeout_ms: i32,
    count: *mut usize,
) -> hmq_status {
    body!(inbox, std::ptr::null_mut(), [count], {
        let found = INBOXES.find(inbox as usize)?;
        required_out(count, "count")?;
        let timeout = timeout(timeout_ms)?;
        let room = event::Room::new(events, max)?;
        event::poll_into(&found, room, timeout, count)
    })
}

/// Frees what events hold, all messages in one go, and empties them for the next poll.
///
/// - `events`: in, out, may be NULL: as hmq_inbox_poll filled them.
/// - `count`: in: how many.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_events_clear(events: *mut hmq_event, count: usize) {
    quiet_body!(0, (), [], { event::clear_all(events, count) });
}

/// Takes events out of an inbox as packed frames, nothing to free; see docs/packed-frames.md. For
/// languages that pay per call. A frame that finds no room stays in the inbox.
///
/// - `inbox`: in, borrow.
/// - `buf`: out: filled from its start.
/// - `cap`: in: its size.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `bytes`: out: bytes written; with HMQ_E_TOO_LARGE the size that the first frame needs.
/// - `count`: out, may be NULL: frames written.
///
/// Codes: HMQ_OK; HMQ_NO_DATA; HMQ_CLOSED when nothing will come any more; HMQ_E_TOO_LARGE if not
/// one frame has room: nothing is lost; HMQ_E_ARG.
/// Threads: one at a time, to keep the order.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_inbox_read(
    inbox: *mut hmq_inbox,
    buf: *mut c_void,
    cap: usize,
    timeout_ms: i32,
    bytes: *mut usize,
    count: *mut usize,
) -> hmq_status {
    body!(inbox, std::ptr::null_mut(), [bytes, count], {
        let found = INBOXES.find(inbox as usize)?;
        required_out(bytes, "bytes")?;
        if buf.is_null() && cap > 0 {
            return Err(null("buf"));
        }
        let timeout = timeout(timeout_ms)?;
        frame::read_into(&found, (buf.cast(), cap), timeout, bytes, count)
    })
}

/// Ends the wait of the poll that runs, or else of the next one; makes the descriptor readable
/// until then.
///
/// - `inbox`: in, borrow; what is no inbox is left alone.
///
/// Threads: any, and signal handlers.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_inbox_wake(inbox: *mut hmq_inbox) {
    // No guard: it may allocate. What is done here takes no lock and cannot panic.
    if super::guard::process_is_ours() {
        if let Some(place) = place_of(inbox as usize, Type::Inbox) {
            signal::INBOXES.reach(place, |waker| waker.wake());
        }
    }
}

/// Frees an inbox and ends its subscriptions: what they have out goes back unsettled, polls that wait
/// end with HMQ_CLOSED. The handles of the subscriptions stay yours to free.
///
/// - `inbox`: in, own, may be NULL.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_inbox_free(inbox: *mut hmq_inbox) {
    if inbox.is_null() {
        return;
    }
    quiet_body!(inbox, (), [], {
        if let Some(place) = place_of(inbox as usize, Type::Inbox) {
            signal::INBOXES.clear(place);
        }
        if let Some(found) = INBOXES.remove(inbox as usize) {
            found.end();
        }
    });
}

/// What a poll found, as a status.
pub(super) const fn polled(polled: Polled) -> hmq_status {
    match polled {
        Polled::Data => OK,
        Polled::NoData => NO_DATA,
        Polled::Closed => CLOSED,
    }
}

/// Gives `inbox` a handle, through which its waker is reached without a lock.
fn enter(inbox: InboxObject) -> Result<*mut hmq_inbox> {
    let waker = inbox.waker();
    let handle = INBOXES.insert(inbox)?;
    let place = place_of(handle, Type::Inbox).ok_or_else(|| Error::internal("a new handle names no place"))?;
    if signal::INBOXES.set(place, waker) {
        return Ok(handle as *mut hmq_inbox);
    }
    drop(INBOXES.remove(handle));
    Err(Error::new(Kind::Resources, "too many inboxes are open"))
}
