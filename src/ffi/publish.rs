//! Group 4 of the header, first half: publishing through the hub.

use std::ffi::{c_char, c_void};

use super::guard::body;
use super::record::{self, write_receipt};
use super::slot::HUBS;
use super::text::{bytes, bytes_or_nts, name, required_json, timeout};
use super::types::{hmq_error, hmq_hub, hmq_receipt, hmq_record, hmq_status, OK};
use super::{convert, structs};
use crate::error::Error;
use crate::limits;
use crate::message::{Record, TopicKind};

/// Publishes one message. The routes, or the first use of the topic, decide whether it is a task
/// or an event. What HMQ_OK is worth is the level in the receipt: a server's confirm; or kept here while its server is
/// away (HMQ_RECEIPT_SPOOLED); or none, dropped as its route asks.
///
/// - `hub`: in, borrow.
/// - `topic`: in, borrow: where to.
/// - `topic_len`: in: its length, or HMQ_NTS.
/// - `payload`: in, borrow: any bytes, copied; (NULL, 0) is an empty message.
/// - `payload_len`: in: its length.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `receipt`: out, may be NULL: `size` set by the caller.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_NAME, HMQ_E_UTF8, HMQ_E_TOO_LARGE, HMQ_E_ARG, HMQ_E_ABI, HMQ_E_FULL,
/// HMQ_E_TIMEOUT, HMQ_E_CLOSED, HMQ_E_DISABLED, HMQ_E_BACKEND_DOWN, HMQ_E_REFUSED,
/// HMQ_E_OUTCOME_UNKNOWN and the codes of backends.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_publish(
    hub: *mut hmq_hub,
    topic: *const c_char,
    topic_len: usize,
    payload: *const c_void,
    payload_len: usize,
    timeout_ms: i32,
    receipt: *mut hmq_receipt,
    err: *mut *mut hmq_error,
) -> hmq_status {
    let message = Plain { topic: (topic, topic_len), payload: (payload, payload_len), key: NO_KEY };
    body!(hub, err, [receipt], { publish(hub, None, message, timeout_ms, receipt) })
}

/// Publishes one task: work that any one worker does once.
///
/// - `hub`: in, borrow.
/// - `queue`: in, borrow: where to.
/// - `queue_len`: in: its length, or HMQ_NTS.
/// - `payload`: in, borrow: any bytes, copied; (NULL, 0) is an empty message.
/// - `payload_len`: in: its length.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `receipt`: out, may be NULL: `size` set by the caller.
/// - `err`: out, own, may be NULL.
///
/// Codes: as hmq_publish; HMQ_E_KIND if the topic carries events.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_publish_task(
    hub: *mut hmq_hub,
    queue: *const c_char,
    queue_len: usize,
    payload: *const c_void,
    payload_len: usize,
    timeout_ms: i32,
    receipt: *mut hmq_receipt,
    err: *mut *mut hmq_error,
) -> hmq_status {
    let message = Plain { topic: (queue, queue_len), payload: (payload, payload_len), key: NO_KEY };
    body!(hub, err, [receipt], { publish(hub, Some(TopicKind::Task), message, timeout_ms, receipt) })
}

/// Publishes one event: a fact that every group of subscribers sees.
///
/// - `hub`: in, borrow.
/// - `topic`: in, borrow: where to.
/// - `topic_len`: in: its length, or HMQ_NTS.
/// - `payload`: in, borrow: any bytes, copied; (NULL, 0) is an empty message.
/// - `payload_len`: in: its length.
/// - `key`: in, borrow: any bytes; events of one key keep their order. (NULL, 0): no key.
/// - `key_len`: in: its length, or HMQ_NTS.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `receipt`: out, may be NULL: `size` set by the caller.
/// - `err`: out, own, may be NULL.
///
/// Codes: as hmq_publish; HMQ_E_KIND if the topic carries tasks.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_publish_event(
    hub: *mut hmq_hub,
    topic: *const c_char,
    topic_len: usize,
    payload: *const c_void,
    payload_len: usize,
    key: *const c_void,
    key_len: usize,
    timeout_ms: i32,
    receipt: *mut hmq_receipt,
    err: *mut *mut hmq_error,
) -> hmq_status {
    let message = Plain { topic: (topic, topic_len), payload: (payload, payload_len), key: (key, key_len) };
    body!(hub, err, [receipt], { publish(hub, Some(TopicKind::Event), message, timeout_ms, receipt) })
}

/// Publishes one message with everything a message can have.
///
/// - `hub`: in, borrow.
/// - `record`: in, borrow: the message, copied.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `receipt`: out, may be NULL: `size` set by the caller.
/// - `err`: out, own, may be NULL.
///
/// Codes: as hmq_publish; HMQ_E_HEADER, HMQ_E_KIND, HMQ_E_CONFIG for `meta`; HMQ_E_UNSUPPORTED for a
/// level that the backend does not reach, or the delay of an event.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_send(
    hub: *mut hmq_hub,
    record: *const hmq_record,
    timeout_ms: i32,
    receipt: *mut hmq_receipt,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [receipt], {
        let found = HUBS.find(hub as usize)?;
        let timeout = timeout(timeout_ms)?;
        structs::check_output(receipt)?;
        let record = structs::input(record, "record")?;
        let topic = name(record.topic, record.topic_len, "record.topic")?;
        let kind = convert::kind(record.kind)?;
        let meta = record::meta(record)?;
        let require = meta.as_ref().and_then(|meta| meta.require);
        let taken = record::with_record(record, None, meta.as_ref(), |record| {
            found.publish(topic, kind, record, require, timeout)
        })?;
        write_receipt(receipt, &taken);
        Ok(OK)
    })
}

/// Publishes one message given as a JSON document: topic, kind, payload (any JSON),
/// payload_text or payload_base64, key, id, type, headers, priority, delay_ms, ttl_ms. Convenient, not fast.
///
/// - `hub`: in, borrow.
/// - `message`: in, borrow: JSON object.
/// - `message_len`: in: its length, or HMQ_NTS.
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
pub unsafe extern "C" fn hmq_publish_json(
    hub: *mut hmq_hub,
    message: *const c_char,
    message_len: usize,
    timeout_ms: i32,
    receipt: *mut hmq_receipt,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [receipt], {
        let found = HUBS.find(hub as usize)?;
        let timeout = timeout(timeout_ms)?;
        structs::check_output(receipt)?;
        let taken = found.publish_json(required_json(message, message_len, "message")?, timeout)?;
        write_receipt(receipt, &taken);
        Ok(OK)
    })
}

/// Cancels a publish that was started by hmq_pub_send_async or hmq_pub_send_inbox and has not
/// ended: it then ends with HMQ_E_CANCELLED, unless its outcome came first.
///
/// - `hub`: in, borrow.
/// - `op`: in: the number that the send answered.
///
/// Codes: HMQ_OK; HMQ_E_NOT_FOUND if it has ended; HMQ_E_CLOSED.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_cancel(hub: *mut hmq_hub, op: u64) -> hmq_status {
    body!(hub, std::ptr::null_mut(), [], {
        HUBS.find(hub as usize)?.cancel(op)?;
        Ok(OK)
    })
}

const NO_KEY: (*const c_void, usize) = (std::ptr::null(), 0);

/// The arguments that the three plain functions share, as they came.
#[derive(Clone, Copy)]
struct Plain {
    topic: (*const c_char, usize),
    payload: (*const c_void, usize),
    key: (*const c_void, usize),
}

/// # Safety
/// The pointers are NULL or valid for their lengths.
#[inline]
unsafe fn publish(
    hub: *mut hmq_hub,
    kind: Option<TopicKind>,
    message: Plain,
    timeout_ms: i32,
    receipt: *mut hmq_receipt,
) -> Result<hmq_status, Error> {
    let found = HUBS.find(hub as usize)?;
    let timeout = timeout(timeout_ms)?;
    let (topic, payload, key) = (message.topic, message.payload, message.key);
    // SAFETY: as promised by the caller.
    let (topic, payload, key) = unsafe {
        structs::check_output(receipt)?;
        (
            name(topic.0, topic.1, "topic")?,
            bytes(payload.0, payload.1, record::PAYLOAD_BYTES_MAX, "payload")?,
            bytes_or_nts(key.0, key.1, limits::KEY_BYTES_MAX, "key")?,
        )
    };
    let record = Record { key, ..Record::new(payload.unwrap_or_default()) };
    let taken = found.publish(topic, kind, &record, None, timeout)?;
    // SAFETY: as promised by the caller.
    unsafe { write_receipt(receipt, &taken) };
    Ok(OK)
}
