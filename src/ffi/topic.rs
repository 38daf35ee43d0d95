//! Groups 10 and 11 of the header: topics, queues and dead letters.

use std::ffi::c_char;

use super::guard::body;
use super::slot::HUBS;
use super::text::{give, json, put, required_out, timeout};
use super::types::{hmq_error, hmq_hub, hmq_status, OK};
use crate::broker::Declared;
use crate::config::options::{DeadLetterQuery, DeclareOptions, TopicSelector};

/// Makes a topic or queue, or checks that it is as asked.
///
/// - `hub`: in, borrow.
/// - `options`: in, borrow: JSON object: name, kind, and the settings of a topic.
/// - `options_len`: in: its length, or HMQ_NTS.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `created`: out, may be NULL: 1 if it was made by this call, 0 if it was there.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_CONFLICT if it is there with other settings; HMQ_E_CONFIG, HMQ_E_NAME,
/// HMQ_E_KIND, HMQ_E_UTF8, HMQ_E_UNSUPPORTED, HMQ_E_TIMEOUT, HMQ_E_BACKEND_DOWN, HMQ_E_CLOSED, HMQ_E_ARG.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_declare(
    hub: *mut hmq_hub,
    options: *const c_char,
    options_len: usize,
    timeout_ms: i32,
    created: *mut i32,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [created], {
        let found = HUBS.find(hub as usize)?;
        let timeout = timeout(timeout_ms)?;
        let declared = found.declare(&DeclareOptions::from_json(json(options, options_len, "options")?)?, timeout)?;
        put(created, i32::from(declared == Declared::Created));
        Ok(OK)
    })
}

/// Removes a topic or queue with all its messages.
///
/// - `hub`: in, borrow.
/// - `topic`: in, borrow: JSON object: `name` (exact; required where something is removed) or
///   `pattern`, and `kind`.
/// - `topic_len`: in: its length, or HMQ_NTS.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_NOT_FOUND; else as hmq_declare.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_delete(
    hub: *mut hmq_hub,
    topic: *const c_char,
    topic_len: usize,
    timeout_ms: i32,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [], {
        let found = HUBS.find(hub as usize)?;
        let timeout = timeout(timeout_ms)?;
        found.delete(&TopicSelector::from_json(json(topic, topic_len, "topic")?)?, timeout)?;
        Ok(OK)
    })
}

/// Removes the waiting messages of a topic or queue. Deliveries of tasks that are out stay; events
/// that are out can be acknowledged, but not come back.
///
/// - `hub`: in, borrow.
/// - `topic`: in, borrow: JSON object: `name` (exact; required where something is removed) or
///   `pattern`, and `kind`.
/// - `topic_len`: in: its length, or HMQ_NTS.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `removed`: out, may be NULL: how many.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_NOT_FOUND; else as hmq_declare.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_purge(
    hub: *mut hmq_hub,
    topic: *const c_char,
    topic_len: usize,
    timeout_ms: i32,
    removed: *mut u64,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [removed], {
        let found = HUBS.find(hub as usize)?;
        let timeout = timeout(timeout_ms)?;
        put(removed, found.purge(&TopicSelector::from_json(json(topic, topic_len, "topic")?)?, timeout)?);
        Ok(OK)
    })
}

/// Describes topics and queues as JSON: messages, consumers, lag ...
///
/// - `hub`: in, borrow.
/// - `topic`: in, borrow: JSON object: name or pattern, kind; (NULL, 0): all.
/// - `topic_len`: in: its length, or HMQ_NTS.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `json`: out, own: free with hmq_free.
/// - `json_len`: out, may be NULL: its length, without its NUL.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; else as hmq_declare.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_describe(
    hub: *mut hmq_hub,
    topic: *const c_char,
    topic_len: usize,
    timeout_ms: i32,
    json: *mut *mut c_char,
    json_len: *mut usize,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [json, json_len], {
        required_out(json, "json")?;
        let found = HUBS.find(hub as usize)?;
        let timeout = timeout(timeout_ms)?;
        let selector = TopicSelector::from_json(self::json(topic, topic_len, "topic")?)?;
        give(&found.describe(&selector, timeout)?.to_string(), json, json_len);
        Ok(OK)
    })
}

/// Lists, redrives or discards dead letters by filter, or shows what it would do.
///
/// - `hub`: in, borrow.
/// - `query`: in, borrow: JSON object: action ("list", "redrive", "discard"), topic (or a pattern),
///   ids, reason, limit, dry_run.
/// - `query_len`: in: its length, or HMQ_NTS.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `json`: out, own: what was found or done; free with hmq_free.
/// - `json_len`: out, may be NULL: its length, without its NUL.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK, also if there is none; else as hmq_declare.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_dead_letters(
    hub: *mut hmq_hub,
    query: *const c_char,
    query_len: usize,
    timeout_ms: i32,
    json: *mut *mut c_char,
    json_len: *mut usize,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [json, json_len], {
        required_out(json, "json")?;
        let found = HUBS.find(hub as usize)?;
        let timeout = timeout(timeout_ms)?;
        let query = DeadLetterQuery::from_json(self::json(query, query_len, "query")?)?;
        give(&found.dead_letters(&query, timeout)?.to_string(), json, json_len);
        Ok(OK)
    })
}
