//! Group 9 of the header: brokers as objects, and the sink of a broker written by the caller.

use std::ffi::{c_char, c_void};

use super::broker_ops::{hmq_broker_ops, Adapter};
use super::callback::UserData;
use super::convert;
use super::guard::{body, quiet_body};
use super::record;
use super::slot::{BROKERS, HUBS, SINKS};
use super::structs;
use super::text::{give, json, name, required_json, required_out, timeout};
use super::types::{hmq_broker, hmq_drop_fn, hmq_error, hmq_hub, hmq_record, hmq_sink, hmq_status, OK};
use crate::hub::BrokerHandle;

/// Makes a broker alone, to be given to a hub by role. It connects in the hub that gets it.
///
/// - `options`: in, borrow: JSON object: backend ("embedded"), memory_bytes_max, partitions.
/// - `options_len`: in: its length, or HMQ_NTS.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `out`: out, own: free with hmq_broker_free.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_UTF8, HMQ_E_UNSUPPORTED, HMQ_E_RESOURCES, HMQ_E_ARG.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_broker_open(
    options: *const c_char,
    options_len: usize,
    timeout_ms: i32,
    out: *mut *mut hmq_broker,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(0, err, [out], {
        required_out(out, "out")?;
        let timeout = timeout(timeout_ms)?;
        let broker = BrokerHandle::open(required_json(options, options_len, "options")?, timeout)?;
        out.write(BROKERS.insert(broker)? as *mut hmq_broker);
        Ok(OK)
    })
}

/// The state of a broker as JSON.
///
/// - `broker`: in, borrow.
/// - `timeout_ms`: in: -1 for ever, 0 try.
/// - `json`: out, own: free with hmq_free.
/// - `json_len`: out, may be NULL: its length, without its NUL.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_TIMEOUT, HMQ_E_ARG.
/// Threads: any.
/// Blocks: up to `timeout_ms`.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_broker_health(
    broker: *mut hmq_broker,
    timeout_ms: i32,
    json: *mut *mut c_char,
    json_len: *mut usize,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(broker, err, [json, json_len], {
        required_out(json, "json")?;
        let timeout = timeout(timeout_ms)?;
        give(&BROKERS.find(broker as usize)?.health(timeout)?.to_string(), json, json_len);
        Ok(OK)
    })
}

/// Frees a broker; a hub that has it keeps it.
///
/// - `broker`: in, own, may be NULL.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_broker_free(broker: *mut hmq_broker) {
    if broker.is_null() {
        return;
    }
    quiet_body!(broker, (), [], { drop(BROKERS.remove(broker as usize)) });
}

/// Gives a broker to a hub, for one role. A broker belongs to one hub, perhaps in several roles.
///
/// - `hub`: in, borrow.
/// - `role`: in: HMQ_ROLE_TASK_QUEUE, HMQ_ROLE_EVENT_STREAM or HMQ_ROLE_FALLBACK.
/// - `broker`: in, borrow: still to be freed.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_STATE after the first use of the hub, or if another hub has the broker;
/// or if the hub has a virtual clock and the broker, opened alone, keeps real time; HMQ_E_ARG,
/// HMQ_E_UNSUPPORTED, HMQ_E_CLOSED.
/// Threads: any.
/// Blocks: up to the hub's connection_timeout.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_hub_set_broker(
    hub: *mut hmq_hub,
    role: i32,
    broker: *mut hmq_broker,
    err: *mut *mut hmq_error,
) -> hmq_status {
    body!(hub, err, [], {
        let found = HUBS.find(hub as usize)?;
        found.set_broker(convert::role(role)?, &BROKERS.find(broker as usize)?)?;
        Ok(OK)
    })
}

/// Makes a broker of the caller's own functions. It answers through its sink.
///
/// - `ops`: in, borrow: the functions, copied.
/// - `user_data`: in, may be NULL: handed to all of them.
/// - `drop`: in, may be NULL: called once, after the last call, also if this call fails.
/// - `out`: out, own: free with hmq_broker_free.
/// - `sink`: out, own: free with hmq_sink_free.
/// - `err`: out, own, may be NULL.
///
/// Codes: HMQ_OK; HMQ_E_ABI, HMQ_E_ARG, HMQ_E_RESOURCES.
/// Threads: any; the functions are called on any thread.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_broker_custom(
    ops: *const hmq_broker_ops,
    user_data: *mut c_void,
    drop: hmq_drop_fn,
    out: *mut *mut hmq_broker,
    sink: *mut *mut hmq_sink,
    err: *mut *mut hmq_error,
) -> hmq_status {
    let user_data = UserData::new(user_data, drop);
    body!(0, err, [out, sink], {
        let ops = structs::input(ops, "ops")?;
        let adapter = Adapter::new(ops, user_data)?;
        required_out(out, "out")?;
        required_out(sink, "sink")?;
        let (broker, own_sink) = BrokerHandle::custom(Box::new(adapter))?;
        let own_sink = SINKS.insert(own_sink)?;
        match BROKERS.insert(broker) {
            Ok(handle) => out.write(handle as *mut hmq_broker),
            Err(error) => {
                SINKS.remove(own_sink);
                return Err(error);
            }
        }
        sink.write(own_sink as *mut hmq_sink);
        Ok(OK)
    })
}

/// Hands a message to a subscription of the caller's broker.
///
/// - `sink`: in, borrow.
/// - `record`: in, borrow: the message, copied; its topic must be there.
/// - `sub`: in: which subscription.
/// - `their_token`: in: comes back in `settle`.
/// - `attempt`: in: 1 for the first handing-over.
///
/// Codes: HMQ_OK; HMQ_E_FULL when the subscription holds its prefetch: again after a settle;
/// HMQ_E_NOT_FOUND when it has ended; HMQ_E_STATE, HMQ_E_CLOSED and the codes of a bad record.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed, also inside the broker's functions.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_sink_deliver(
    sink: *mut hmq_sink,
    record: *const hmq_record,
    sub: u64,
    their_token: u64,
    attempt: u32,
) -> hmq_status {
    body!(sink, std::ptr::null_mut(), [], {
        let found = SINKS.find(sink as usize)?;
        let record = structs::input(record, "record")?;
        let topic = name(record.topic, record.topic_len, "record.topic")?;
        let meta = record::meta(record)?;
        record::with_record(record, None, meta.as_ref(), |record| {
            found.deliver(topic, record, sub, their_token, attempt)
        })?;
        Ok(OK)
    })
}

/// Tells how a publish of the caller's broker ended.
///
/// - `sink`: in, borrow.
/// - `ticket`: in: of the publish.
/// - `outcome`: in: HMQ_OK: confirmed; HMQ_E_OUTCOME_UNKNOWN: perhaps; HMQ_E_REFUSED: refused; any
///   other failure: not sent.
///
/// Codes: HMQ_OK; HMQ_E_NOT_FOUND for a ticket that is not open; HMQ_E_ARG, HMQ_E_STATE, HMQ_E_CLOSED.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed, also inside the broker's functions.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_sink_complete(sink: *mut hmq_sink, ticket: u64, outcome: hmq_status) -> hmq_status {
    body!(sink, std::ptr::null_mut(), [], {
        SINKS.find(sink as usize)?.complete(ticket, convert::outcome(outcome)?)?;
        Ok(OK)
    })
}

/// Tells that the connection of the caller's broker has changed. HMQ_SINK_LOST ends its subscriptions
/// with HMQ_E_BACKEND_DOWN, and its open publishes with HMQ_E_OUTCOME_UNKNOWN.
///
/// - `sink`: in, borrow.
/// - `what`: in: HMQ_SINK_...
/// - `detail`: in, borrow: JSON object: reason, and epoch for HMQ_SINK_CONNECTED; (NULL, 0): none.
/// - `detail_len`: in: its length, or HMQ_NTS.
///
/// Codes: HMQ_OK; HMQ_E_ARG, HMQ_E_CONFIG, HMQ_E_UTF8, HMQ_E_STATE, HMQ_E_CLOSED.
/// Threads: any.
/// Blocks: no.
/// Callback: allowed, also inside the broker's functions.
/// @since 0.1.0
#[no_mangle]
#[must_use]
pub unsafe extern "C" fn hmq_sink_event(
    sink: *mut hmq_sink,
    what: i32,
    detail: *const c_char,
    detail_len: usize,
) -> hmq_status {
    body!(sink, std::ptr::null_mut(), [], {
        let found = SINKS.find(sink as usize)?;
        found.event(convert::backend_event(what, json(detail, detail_len, "detail")?)?)?;
        Ok(OK)
    })
}

/// Frees a sink; the broker goes on, but has no more to say.
///
/// - `sink`: in, own, may be NULL.
///
/// Threads: any.
/// Blocks: no.
/// Callback: allowed.
/// @since 0.1.0
#[no_mangle]
pub unsafe extern "C" fn hmq_sink_free(sink: *mut hmq_sink) {
    if sink.is_null() {
        return;
    }
    quiet_body!(sink, (), [], { drop(SINKS.remove(sink as usize)) });
}
