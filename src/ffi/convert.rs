//! Numbers and documents of the header as values of the crate, and back.

use std::ffi::c_char;
use std::time::Duration;

use serde::Deserialize;

use super::text;
use super::types::{
    BACKEND_CUSTOM, BACKEND_EMBEDDED, BACKEND_KAFKA, BACKEND_RABBITMQ, EVENT, LEVEL_BROKER, LEVEL_DISK, LEVEL_MEMORY,
    LEVEL_NONE, METRICS_JSON, METRICS_PROMETHEUS, OK, ROLE_EVENT_STREAM, ROLE_FALLBACK, ROLE_TASK_QUEUE, SINK_BLOCKED,
    SINK_CONNECTED, SINK_DENIED, SINK_LOST, SINK_UNBLOCKED, TASK,
};
use crate::broker::{BackendEvent, BackendKind, Epoch, Level, Outcome};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::hub::{LogLevel, MetricsFormat, Role};
use crate::message::TopicKind;

#[cold]
fn unknown(what: &str, number: i32) -> Error {
    Error::new(Kind::Arg, format!("{what} is {number}, which is none of its constants"))
}

/// A configuration document, which must be there and not empty.
///
/// # Safety
/// As of [`text::bytes_or_nts`].
pub(super) unsafe fn config(document: *const c_char, len: usize) -> Result<Config> {
    const HINT: &str = "there is no configuration document; hmq_hub_open_env opens a hub from the environment";
    if document.is_null() && len == 0 {
        return Err(Error::new(Kind::Null, HINT));
    }
    // SAFETY: as promised by the caller.
    let document = unsafe { text::required_json(document, len, "config") }?;
    if document.trim().is_empty() {
        return Err(Error::new(Kind::Config, HINT));
    }
    Config::from_json(document)
}

/// 0 or 1.
pub(super) fn flag(number: i32, name: &str) -> Result<bool> {
    match number {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::new(Kind::Arg, format!("{name} is {number}, neither 0 nor 1"))),
    }
}

pub(super) fn log_level(number: i32) -> Result<LogLevel> {
    LogLevel::from_code(number).ok_or_else(|| unknown("level", number))
}

pub(super) fn metrics_format(number: i32) -> Result<MetricsFormat> {
    match number {
        METRICS_JSON => Ok(MetricsFormat::Json),
        METRICS_PROMETHEUS => Ok(MetricsFormat::Prometheus),
        _ => Err(unknown("format", number)),
    }
}

pub(super) fn role(number: i32) -> Result<Role> {
    match number {
        ROLE_TASK_QUEUE => Ok(Role::TaskQueue),
        ROLE_EVENT_STREAM => Ok(Role::EventStream),
        ROLE_FALLBACK => Ok(Role::Fallback),
        _ => Err(unknown("role", number)),
    }
}

/// The kind a record asks for; 0 is none.
pub(super) fn kind(number: i32) -> Result<Option<TopicKind>> {
    match number {
        0 => Ok(None),
        TASK => Ok(Some(TopicKind::Task)),
        EVENT => Ok(Some(TopicKind::Event)),
        _ => Err(unknown("kind", number)),
    }
}

pub(super) const fn kind_number(kind: TopicKind) -> i32 {
    match kind {
        TopicKind::Task => TASK,
        TopicKind::Event => EVENT,
    }
}

pub(super) const fn level_number(level: Level) -> i32 {
    match level {
        Level::None => LEVEL_NONE,
        Level::Memory => LEVEL_MEMORY,
        Level::Disk => LEVEL_DISK,
        Level::Broker => LEVEL_BROKER,
    }
}

pub(super) const fn backend_number(backend: BackendKind) -> i32 {
    match backend {
        BackendKind::Embedded => BACKEND_EMBEDDED,
        BackendKind::RabbitMq => BACKEND_RABBITMQ,
        BackendKind::Kafka => BACKEND_KAFKA,
        BackendKind::Custom => BACKEND_CUSTOM,
    }
}

/// Whole milliseconds of a span, at most `i64::MAX`.
pub(super) fn milliseconds(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// How a publish of a custom broker ended, from the status it told.
pub(super) fn outcome(status: i32) -> Result<Outcome> {
    if status == OK {
        return Ok(Outcome::Confirmed(Level::Broker));
    }
    let kind = Kind::from_code(status).ok_or_else(|| unknown("outcome", status))?;
    let error = Error::new(kind, "the custom broker ended the publish so").with_backend("custom");
    Ok(match kind {
        Kind::OutcomeUnknown => Outcome::Unknown(error),
        Kind::Refused => Outcome::Refused(error),
        _ => Outcome::NotSent(error),
    })
}

/// The detail of a [`BackendEvent`] of a custom broker.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Detail {
    reason: String,
    epoch: u32,
}

/// News of a custom broker's connection.
pub(super) fn backend_event(what: i32, detail: &str) -> Result<BackendEvent> {
    let detail: Detail = serde_json::from_str(detail).map_err(|wrong| {
        Error::new(Kind::Config, format!("detail: {wrong}")).at("detail", wrong.line(), wrong.column())
    })?;
    let error = |kind| Error::new(kind, detail.reason.clone()).with_backend("custom");
    match what {
        SINK_CONNECTED => Ok(BackendEvent::Connected(Epoch(detail.epoch))),
        SINK_LOST => Ok(BackendEvent::Lost(error(Kind::BackendDown))),
        SINK_BLOCKED => Ok(BackendEvent::Blocked(detail.reason)),
        SINK_UNBLOCKED => Ok(BackendEvent::Unblocked),
        SINK_DENIED => Ok(BackendEvent::Denied(error(Kind::Refused))),
        _ => Err(unknown("what", what)),
    }
}
