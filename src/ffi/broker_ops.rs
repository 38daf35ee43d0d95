//! A broker written by the caller: the table of its functions, and the adapter that makes the
//! crate's `CustomOps` of it.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use super::callback::UserData;
use super::convert::{kind_number, milliseconds};
use super::record;
use super::text::with_nul;
use super::types::{hmq_header, hmq_record, hmq_status, hmq_verdict, ACK, RETRY};
use crate::broker::custom::CustomOps;
use crate::broker::{Capabilities, Support, Verdict};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::message::{Record, TopicKind};

/// The functions of a broker written by the caller. Start from HMQ_BROKER_OPS_INIT. None of them
/// may unwind. Those that must not block must not call the library either, but for hmq_sink_....
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hmq_broker_ops {
    /// sizeof(hmq_broker_ops) of the caller.
    pub size: u32,
    /// What it can do: HMQ_CAN_... bits.
    pub capabilities: u32,
    /// Largest payload in bytes; 0: 1 MiB.
    pub payload_bytes_max: u64,
    /// One attempt to connect; may block for `timeout_ms`. NULL: always connected.
    pub connect: Option<unsafe extern "C" fn(timeout_ms: i32, user_data: *mut c_void) -> hmq_status>,
    /// Takes one message, copying what it keeps; texts in it are not ended by a NUL. Its outcome
    /// comes by hmq_sink_complete with `ticket`, perhaps before this returns. A failure means it
    /// was not taken; HMQ_E_FULL asks to come again. `seq` numbers messages in their order. Must not block.
    pub publish: Option<
        unsafe extern "C" fn(record: *const hmq_record, seq: u64, ticket: u64, user_data: *mut c_void) -> hmq_status,
    >,
    /// Opens subscription `sub`; `group` is NULL for a private one. Texts end at a NUL. May block.
    pub subscribe: Option<
        unsafe extern "C" fn(
            pattern: *const c_char,
            kind: i32,
            group: *const c_char,
            prefetch: u32,
            sub: u64,
            user_data: *mut c_void,
        ) -> hmq_status,
    >,
    /// Ends subscription `sub`; what was delivered and not settled goes to others. Must not block.
    pub unsubscribe: Option<unsafe extern "C" fn(sub: u64, user_data: *mut c_void)>,
    /// A delivery was decided on: HMQ_ACK; HMQ_RETRY, to be delivered again after `delay_ms`, or
    /// with -1 as if it had not been delivered. Must not block.
    pub settle: Option<
        unsafe extern "C" fn(sub: u64, their_token: u64, verdict: hmq_verdict, delay_ms: i64, user_data: *mut c_void),
    >,
    /// Flushes and closes; may block for `timeout_ms`. NULL: nothing to do.
    pub close: Option<unsafe extern "C" fn(timeout_ms: i32, user_data: *mut c_void) -> hmq_status>,
}

/// Capability bits of a broker written by the caller.
pub const CAN_TASKS: u32 = 1;
/// See [`CAN_TASKS`].
pub const CAN_EVENTS: u32 = 2;
/// See [`CAN_TASKS`].
pub const CAN_RETRY_DELAY: u32 = 4;
/// See [`CAN_TASKS`].
pub const CAN_PRIORITY: u32 = 8;
/// See [`CAN_TASKS`].
pub const CAN_TTL: u32 = 16;
/// See [`CAN_TASKS`].
pub const CAN_DELAY: u32 = 32;
/// See [`CAN_TASKS`].
pub const CAN_HEADERS: u32 = 64;
/// See [`CAN_TASKS`].
pub const CAN_WILDCARD_TASKS: u32 = 128;
/// See [`CAN_TASKS`].
pub const CAN_WILDCARD_EVENTS: u32 = 256;
const CAN_ALL: u32 = 511;

/// Payloads of a broker that names no limit.
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// The caller's functions with what they need, checked.
pub(super) struct Adapter {
    ops: hmq_broker_ops,
    user_data: UserData,
    capabilities: Capabilities,
}

impl Adapter {
    /// Checks the table: what has no default must be there.
    pub(super) fn new(ops: &hmq_broker_ops, user_data: UserData) -> Result<Self> {
        let missing = [
            ("publish", ops.publish.is_none()),
            ("subscribe", ops.subscribe.is_none()),
            ("unsubscribe", ops.unsubscribe.is_none()),
            ("settle", ops.settle.is_none()),
        ];
        if let Some((name, _)) = missing.iter().find(|(_, missing)| *missing) {
            return Err(Error::new(Kind::Null, format!("ops.{name} is NULL")));
        }
        if ops.capabilities & !CAN_ALL != 0 {
            return Err(Error::new(Kind::Arg, "ops.capabilities has bits that no HMQ_CAN_... constant has"));
        }
        let can = |bit| if ops.capabilities & bit != 0 { Support::Native } else { Support::None };
        let payload_bytes_max = match usize::try_from(ops.payload_bytes_max) {
            Ok(0) => PAYLOAD_BYTES_MAX,
            Ok(bytes) => bytes.min(record::PAYLOAD_BYTES_MAX),
            Err(_) => record::PAYLOAD_BYTES_MAX,
        };
        let capabilities = Capabilities {
            tasks: can(CAN_TASKS),
            events: can(CAN_EVENTS),
            retry_delay: can(CAN_RETRY_DELAY),
            priority: can(CAN_PRIORITY),
            ttl: can(CAN_TTL),
            delay: can(CAN_DELAY),
            ordered_key: Support::None,
            replay_time: Support::None,
            replay_offset: Support::None,
            headers: can(CAN_HEADERS),
            wildcard_tasks: can(CAN_WILDCARD_TASKS),
            wildcard_events: can(CAN_WILDCARD_EVENTS),
            extend: Support::None,
            payload_bytes_max,
            name_bytes_max: limits::NAME_BYTES_MAX,
            delay_ms_max: i64::MAX,
        };
        Ok(Self { ops: *ops, user_data, capabilities })
    }
}

fn answered(status: hmq_status, operation: &str) -> Result<()> {
    if status >= 0 {
        return Ok(());
    }
    let kind = Kind::from_code(status).unwrap_or(Kind::Refused);
    Err(Error::new(kind, format!("{operation} of the custom broker answered {status}"))
        .with_backend("custom")
        .with_native(status.to_string()))
}

fn milliseconds_i32(span: Duration) -> i32 {
    i32::try_from(span.as_millis()).unwrap_or(i32::MAX)
}

impl CustomOps for Adapter {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn connect(&self, timeout: Duration) -> Result<()> {
        let Some(connect) = self.ops.connect else { return Ok(()) };
        // SAFETY: the caller's function, called as the header says.
        answered(unsafe { connect(milliseconds_i32(timeout), self.user_data.get()) }, "connect")
    }

    fn publish(&self, topic: &str, kind: TopicKind, record: &Record<'_>, seq: u64, ticket: u64) -> Result<()> {
        let Some(publish) = self.ops.publish else { return Err(Error::internal("publish was checked to be there")) };
        let headers: Vec<hmq_header> = record
            .headers
            .into_iter()
            .map(|(name, value)| hmq_header {
                name: name.as_ptr().cast(),
                name_len: name.len(),
                value: value.as_ptr().cast(),
                value_len: value.len(),
            })
            .collect();
        let shown = record::shown(topic, kind, record, &headers);
        // SAFETY: the caller's function; all it is shown lives until it returns.
        answered(unsafe { publish(&shown, seq, ticket, self.user_data.get()) }, "publish")
    }

    fn subscribe(&self, pattern: &str, kind: TopicKind, group: Option<&str>, prefetch: usize, sub: u64) -> Result<()> {
        let Some(subscribe) = self.ops.subscribe else {
            return Err(Error::internal("subscribe was checked to be there"));
        };
        let pattern = with_nul(pattern.as_bytes());
        let group = group.map(|group| with_nul(group.as_bytes()));
        let group = group.as_ref().map_or(std::ptr::null(), |group| group.as_ptr().cast());
        let prefetch = u32::try_from(prefetch).unwrap_or(u32::MAX);
        let kind = kind_number(kind);
        // SAFETY: the caller's function; the texts live until it returns.
        let status = unsafe { subscribe(pattern.as_ptr().cast(), kind, group, prefetch, sub, self.user_data.get()) };
        answered(status, "subscribe")
    }

    fn unsubscribe(&self, sub: u64) {
        if let Some(unsubscribe) = self.ops.unsubscribe {
            // SAFETY: the caller's function, called as the header says.
            unsafe { unsubscribe(sub, self.user_data.get()) };
        }
    }

    fn settle(&self, sub: u64, their_token: u64, verdict: Verdict) {
        let (verdict, delay_ms) = match verdict {
            Verdict::Ack => (ACK, 0),
            Verdict::Retry(delay) => (RETRY, milliseconds(delay)),
            Verdict::Return => (RETRY, -1),
        };
        if let Some(settle) = self.ops.settle {
            // SAFETY: the caller's function, called as the header says.
            unsafe { settle(sub, their_token, verdict, delay_ms, self.user_data.get()) };
        }
    }

    fn close(&self, timeout: Duration) -> Result<()> {
        let Some(close) = self.ops.close else { return Ok(()) };
        // SAFETY: the caller's function, called as the header says.
        answered(unsafe { close(milliseconds_i32(timeout), self.user_data.get()) }, "close")
    }
}
