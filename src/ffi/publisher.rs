//! Group 4 of the header, second half: prepared publishers, the hot path.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::batch;
use super::callback::{DoneCallback, UserData};
use super::frame;
use super::guard::{body, quiet_body};
use super::objects::Prepared;
use super::record::{self, write_receipt};
use super::slot::{HUBS, INBOXES, PUBLISHERS};
use super::structs;
use super::text::{filled, json, null, put, required_out, timeout};
use super::types::{
    hmq_done_fn, hmq_drop_fn, hmq_error, hmq_hub, hmq_inbox, hmq_pub, hmq_receipt, hmq_record, hmq_status, OK,
};
use crate::config::options::PublisherOptions;
use crate::error::Kind;

/// Prepares a publisher to one topic: its options are parsed once.
///
/// - `hub`: in, borrow.
/// - `options`: in, borrow: JSON object: topic, kind, type, headers, priority, ttl_ms, delay_ms, require.
/// - `options_len`: in: its length, or HMQ_NTS.
/// - `out`: out, own: free with hmq_pub_free.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_NAME, HMQ_E_UTF8, HMQ_E_KIND, HMQ_E_UNSUPPORTED, HMQ_E_CLOSED,
/// HMQ_E_DISABLED.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_pub_new(
    hub: *mut hmq_hub,
    options: *const c_char,
    options_len: usize,
    out: *mut *mut hmq_pub,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [out], {
        required_out(out, "out")?;
        let found = HUBS.find(hub as usize)?;
        let options = PublisherOptions::from_json(json(options, options_len, "options")?)?;
        let topic = options.topic.clone();
        let prepared = Prepared { publisher: found.publisher(options)?, topic };
        out.write(PUBLISHERS.insert(Arc::new(prepared))? as *mut hmq_pub);
        Ok(OK)
    })
}

/// Frees a publisher. What it sent goes on.
///
/// - `publisher`: in, own, may be NULL.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_pub_free(publisher: *mut hmq_pub) {
    if publisher.is_null() {
        return;
    }
    quiet_body!(publisher, (), [], { drop(PUBLISHERS.remove(publisher as usize)) });
}

/// Publishes one message and waits for its outcome.
///
/// - `publisher`: in, borrow.
/// - `record`: in, borrow: the message, copied; its topic is (NULL, 0) or the publisher's.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `receipt`: out, may be NULL: `size` set by the caller.
/// - `err`: out, own, may be NULL.
///
/// Codes: as hmq_send.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_pub_send(
    publisher: *mut hmq_pub,
    record: *const hmq_record,
    timeout_ms: i32,
    receipt: *mut hmq_receipt,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(publisher, err, [receipt], {
        let found = PUBLISHERS.find(publisher as usize)?;
        let timeout = timeout(timeout_ms)?;
        structs::check_output(receipt)?;
        let record = structs::input(record, "record")?;
        let taken = record::with_own_record(record, &found, |record| found.publisher.send(record, timeout))?;
        write_receipt(receipt, &taken);
        Ok(OK)
    })
}

/// Publishes messages in order and waits for their outcomes. It stops when one is known not to be
/// taken, or its outcome is unknown; those after it were not tried (HMQ_E_CANCELLED in `each`). A server has many of
/// them on their way at once: some behind one that failed may be taken, and `each` says which.
///
/// - `publisher`: in, borrow.
/// - `records`: in, borrow: `count` messages, copied; each starts from HMQ_RECORD_INIT.
/// - `count`: in: how many.
/// - `timeout_ms`: in: for all of them; -1 for ever, 0 try.
/// - `each`: out, may be NULL: `count` statuses.
/// - `accepted`: out, may be NULL: how many were taken.
/// - `err`: out, own, may be NULL: why the first that failed did, also with HMQ_PARTIAL.
///
/// Codes: HMQ_OK if all were taken; HMQ_PARTIAL if some were; else as hmq_send.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_pub_send_batch(
    publisher: *mut hmq_pub,
    records: *const hmq_record,
    count: usize,
    timeout_ms: i32,
    each: *mut hmq_status,
    accepted: *mut usize,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(publisher, err, [accepted], {
        let found = PUBLISHERS.find(publisher as usize)?;
        let timeout = timeout(timeout_ms)?;
        let records = batch::Array::new(records, count, "records")?;
        let sent = batch::send_all(&found, records, timeout, filled(each, count, Kind::Cancelled.code()));
        sent.into_status(accepted, err)
    })
}

/// As hmq_pub_send_batch, from one buffer of frames as hmq_inbox_read writes them; see
/// docs/packed-frames.md. For languages that pay per pointer.
///
/// - `publisher`: in, borrow.
/// - `frames`: in, borrow: frames one behind another, copied; no alignment is asked.
/// - `bytes`: in: their length.
/// - `timeout_ms`: in: for all of them; -1 for ever, 0 try.
/// - `each`: out, may be NULL: a status for each frame.
/// - `accepted`: out, may be NULL: how many were taken.
/// - `err`: out, own, may be NULL: why the first that failed did, also with HMQ_PARTIAL.
///
/// Codes: as hmq_pub_send_batch; HMQ_E_ARG for what is no frame: nothing was sent then.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_pub_send_packed(
    publisher: *mut hmq_pub,
    frames: *const c_void,
    bytes: usize,
    timeout_ms: i32,
    each: *mut hmq_status,
    accepted: *mut usize,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(publisher, err, [accepted], {
        let found = PUBLISHERS.find(publisher as usize)?;
        let timeout = timeout(timeout_ms)?;
        let frames = super::text::bytes(frames, bytes, isize::MAX as usize, "frames")?.unwrap_or_default();
        let frames = frame::Frames::checked(frames)?;
        let count = frames.count();
        let sent = batch::send_all(&found, frames, timeout, filled(each, count, Kind::Cancelled.code()));
        sent.into_status(accepted, err)
    })
}

/// Publishes one message without waiting; `done` is called once with its outcome, perhaps before
/// this returns.
///
/// - `publisher`: in, borrow.
/// - `record`: in, borrow: the message, copied.
/// - `done`: in, may be NULL: told the outcome; not called if this call fails.
/// - `user_data`: in, may be NULL: handed to both functions.
/// - `drop`: in, may be NULL: called once, after `done`, also if this call fails.
/// - `op`: out, may be NULL: for hmq_cancel.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_FULL when the window of open publishes is full; else as hmq_send.
/// Threads: any; `done` is called on any thread, and must not block.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_pub_send_async(
    publisher: *mut hmq_pub,
    record: *const hmq_record,
    done: hmq_done_fn,
    user_data: *mut c_void,
    drop: hmq_drop_fn,
    op: *mut u64,
    err: *mut *mut hmq_error,
) -> hmq_status {
    let user_data = UserData::new(user_data, drop);
    body!(publisher, err, [op], {
        let callback = DoneCallback::new(done, user_data);
        let found = PUBLISHERS.find(publisher as usize)?;
        let record = structs::input(record, "record")?;
        let started = record::with_own_record(record, &found, |record| {
            found.publisher.send_async(record, Box::new(move |outcome| callback.call(outcome)))
        })?;
        put(op, started);
        Ok(OK)
    })
}

/// Publishes messages in order without waiting; each outcome comes as HMQ_EV_PUBLISHED with the
/// `tag` of its record. It stops at the first that is not taken.
///
/// - `publisher`: in, borrow.
/// - `records`: in, borrow: `count` messages, copied; each starts from HMQ_RECORD_INIT.
/// - `count`: in: how many.
/// - `inbox`: in, borrow: where the outcomes come; of the same hub.
/// - `ops`: out, may be NULL: `count` numbers for hmq_cancel; 0 for what was not taken.
/// - `accepted`: out, may be NULL: how many were taken.
/// - `err`: out, own, may be NULL: why it stopped, also with HMQ_PARTIAL.
///
/// Codes: HMQ_OK if all were taken; HMQ_PARTIAL if some were; HMQ_E_FULL when the window of open
/// publishes or the inbox is full; else as hmq_send.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_pub_send_inbox(
    publisher: *mut hmq_pub,
    records: *const hmq_record,
    count: usize,
    inbox: *mut hmq_inbox,
    ops: *mut u64,
    accepted: *mut usize,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(publisher, err, [accepted], {
        let found = PUBLISHERS.find(publisher as usize)?;
        if inbox.is_null() {
            return Err(null("inbox"));
        }
        let inbox = INBOXES.find(inbox as usize)?;
        let records = batch::Array::new(records, count, "records")?;
        let sent = batch::send_all_to_inbox(&found, records, &inbox, filled(ops, count, 0));
        sent.into_status(accepted, err)
    })
}
