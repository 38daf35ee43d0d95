//! From `hmq_record` to the crate's `Record`, and from its `Receipt` to `hmq_receipt`.
//!
//! Nothing is allocated in steady state: texts and bytes are borrowed, headers are written into
//! one block per thread that is reused.

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::ops::Range;

use super::convert::{backend_number, kind, kind_number, level_number};
use super::objects::Prepared;
use super::structs;
use super::text::{bytes, bytes_or_nts, null, optional, required_json, Output};
use super::types::{hmq_header, hmq_receipt, hmq_record, RECEIPT_SPOOLED, RECORD_MAYBE_DUP};
use crate::config::message::Meta;
use crate::error::{Error, Kind, Result};
use crate::hub::{check_header, PublisherDefaults, Receipt};
use crate::limits;
use crate::message::{HeaderBlock, Headers, Record, TopicKind};

/// Largest payload that a record can carry; the hub's own limit is far below.
pub(super) const PAYLOAD_BYTES_MAX: usize = i32::MAX as usize;

const PRIORITY_LAST: i32 = limits::PRIORITY_MAX as i32;

thread_local! {
    static SCRATCH: Cell<HeaderBlock> = Cell::default();
}

/// Lends this thread's block of headers; a call inside a call gets a fresh one.
pub(super) fn with_scratch<T>(work: impl FnOnce(&mut HeaderBlock) -> T) -> T {
    let mut block = SCRATCH.try_with(Cell::take).unwrap_or_default();
    block.clear();
    let out = work(&mut block);
    // Fails only on a thread that is ending.
    let _ = SCRATCH.try_with(|kept| kept.set(block));
    out
}

/// The rare options of a record, if it has any.
///
/// # Safety
/// The record's pointers are NULL or valid for their lengths.
pub(super) unsafe fn meta<'a>(given: &hmq_record) -> Result<Option<Meta<'a>>> {
    if given.meta.is_null() && given.meta_len == 0 {
        return Ok(None);
    }
    // SAFETY: as promised by the caller.
    Meta::from_json(unsafe { required_json(given.meta, given.meta_len, "record.meta") }?).map(Some)
}

/// As [`meta`], for a record of a publisher, which has a topic, a kind and a level of its own.
///
/// # Safety
/// As of [`meta`].
#[inline]
pub(super) unsafe fn for_publisher<'a>(given: &hmq_record, own: &Prepared) -> Result<Option<Meta<'a>>> {
    // SAFETY: as promised by the caller.
    let topic = unsafe { optional(given.topic, given.topic_len, limits::FOREIGN_NAME_BYTES_MAX, "record.topic") }?;
    check_address(topic, kind(given.kind)?, own)?;
    // SAFETY: as promised by the caller.
    let meta = unsafe { meta(given) }?;
    if meta.as_ref().is_some_and(|meta| meta.require.is_some()) {
        return Err(Error::new(Kind::Arg, "record.meta.require: a publisher has it in its options"));
    }
    Ok(meta)
}

/// Refuses a record that names another topic or kind than its publisher's.
pub(super) fn check_address(topic: Option<&str>, kind: Option<TopicKind>, own: &Prepared) -> Result<()> {
    if let Some(topic) = topic.filter(|topic| *topic != own.topic) {
        let text = format!("record.topic is {topic:?}, its publisher's {:?}; leave it out", own.topic);
        return Err(Error::new(Kind::Arg, text));
    }
    let own_kind = own.publisher.kind();
    if let Some(kind) = kind.filter(|kind| *kind != own_kind) {
        let text = format!("record.kind is {}, its publisher's {}", kind.name(), own_kind.name());
        return Err(Error::new(Kind::TopicKind, text));
    }
    Ok(())
}

/// A short text of a record, such as its id.
///
/// # Safety
/// As of [`meta`].
#[inline]
unsafe fn word<'a>(text: *const c_char, len: usize, max: usize, name: &str) -> Result<&'a str> {
    if text.is_null() && len == 0 {
        return Ok("");
    }
    // SAFETY: as promised by the caller.
    let word = unsafe { optional(text, len, max, name) }.map_err(|error| match error.kind() {
        Kind::TooLarge if isize::try_from(len).is_ok() || len == usize::MAX => {
            Error::new(Kind::Arg, format!("{name} is longer than {max} bytes"))
        }
        _ => error,
    })?;
    check_word(word.unwrap_or_default(), name)
}

pub(super) fn check_word<'a>(word: &'a str, name: &str) -> Result<&'a str> {
    if word.as_bytes().contains(&0) {
        return Err(Error::new(Kind::Name, format!("{name} has a NUL inside")));
    }
    Ok(word)
}

pub(super) fn not_negative(number: i64, name: &str) -> Result<i64> {
    if number < 0 {
        return Err(Error::new(Kind::Arg, format!("{name} is {number}, but cannot be negative")));
    }
    Ok(number)
}

/// The priority asked for; -1 is the default.
pub(super) fn priority(number: i32, defaults: Option<&PublisherDefaults>) -> Result<u8> {
    match u8::try_from(number) {
        Ok(number) if number <= limits::PRIORITY_MAX => Ok(number),
        _ if number == -1 => Ok(defaults.map_or(limits::PRIORITY_DEFAULT, |defaults| defaults.priority)),
        _ => Err(Error::new(Kind::Arg, format!("priority is {number}; 0 to 10, or -1 for the default"))),
    }
}

/// The record without its headers.
///
/// # Safety
/// As of [`meta`].
#[inline]
unsafe fn fields<'a>(given: &hmq_record, defaults: Option<&'a PublisherDefaults>) -> Result<Record<'a>> {
    if given.flags & !RECORD_MAYBE_DUP != 0 {
        return Err(Error::new(Kind::Arg, "record.flags has bits that no constant has"));
    }
    // SAFETY: as promised by the caller.
    let (payload, key, id, type_) = unsafe {
        (
            bytes(given.payload, given.payload_len, PAYLOAD_BYTES_MAX, "record.payload")?,
            bytes_or_nts(given.key, given.key_len, limits::KEY_BYTES_MAX, "record.key")?,
            word(given.id, given.id_len, limits::ID_BYTES_MAX, "record.id")?,
            word(given.r#type, given.type_len, limits::TYPE_BYTES_MAX, "record.type")?,
        )
    };
    let record = Record {
        key,
        id,
        type_,
        timestamp_us: not_negative(given.timestamp_us, "record.timestamp_us")?,
        delay_ms: not_negative(given.delay_ms, "record.delay_ms")?,
        ttl_ms: not_negative(given.ttl_ms, "record.ttl_ms")?,
        priority: priority(given.priority, defaults)?,
        maybe_dup: given.flags & RECORD_MAYBE_DUP != 0,
        ..Record::new(payload.unwrap_or_default())
    };
    Ok(with_defaults(record, defaults))
}

/// Fills in what the record leaves to its publisher.
pub(super) fn with_defaults<'a>(mut record: Record<'a>, defaults: Option<&'a PublisherDefaults>) -> Record<'a> {
    if let Some(defaults) = defaults {
        record.headers = defaults.headers.headers();
        record.type_ = if record.type_.is_empty() { &defaults.type_ } else { record.type_ };
        record.delay_ms = if record.delay_ms == 0 { defaults.delay_ms } else { record.delay_ms };
        record.ttl_ms = if record.ttl_ms == 0 { defaults.ttl_ms } else { record.ttl_ms };
    }
    record
}

/// Writes the headers of a record: its own, those of its meta, and what its publisher adds.
/// `None`: it has none of its own, the publisher's apply.
///
/// # Safety
/// As of [`meta`].
#[inline]
unsafe fn gather(
    given: &hmq_record,
    meta: Option<&Meta<'_>>,
    defaults: Option<&PublisherDefaults>,
    block: &mut HeaderBlock,
) -> Result<Option<Range<usize>>> {
    if given.header_count == 0 && meta.is_none() {
        return Ok(None);
    }
    let start = block.headers().bytes().len();
    if given.header_count > 0 && given.headers.is_null() {
        return Err(null("record.headers"));
    }
    if given.header_count > limits::HEADERS_MAX {
        let text = format!("record.header_count is {}; at most {} are taken", given.header_count, limits::HEADERS_MAX);
        return Err(Error::new(Kind::Header, text));
    }
    let mut own = Own { block, start };
    for index in 0..given.header_count {
        // SAFETY: the caller promises `header_count` headers.
        let (name, value) = unsafe { header(&*given.headers.add(index)) }?;
        own.add(name, value)?;
    }
    if let Some(meta) = meta {
        let rare = [
            ("correlation-id", &meta.correlation_id),
            ("reply-to", &meta.reply_to),
            ("content-type", &meta.content_type),
            ("traceparent", &meta.traceparent),
            ("tracestate", &meta.tracestate),
        ];
        for (name, value) in rare {
            if let Some(value) = value {
                own.add(name, value.as_bytes())?;
            }
        }
    }
    own.end(defaults)
}

/// The headers of one record being written to a block.
pub(super) struct Own<'b> {
    pub(super) block: &'b mut HeaderBlock,
    pub(super) start: usize,
}

impl Own<'_> {
    fn written(&self) -> Headers<'_> {
        Headers::from_bytes(self.block.headers().bytes().get(self.start..).unwrap_or_default())
    }

    pub(super) fn add(&mut self, name: &str, value: &[u8]) -> Result<()> {
        check_header(name, value)?;
        if self.written().find(name).is_some() {
            return Err(Error::new(Kind::Header, format!("header {name:?} is given twice")));
        }
        self.block.push(name, value);
        Ok(())
    }

    /// Adds the publisher's headers that the record does not have itself.
    pub(super) fn end(self, defaults: Option<&PublisherDefaults>) -> Result<Option<Range<usize>>> {
        if let Some(defaults) = defaults {
            for (name, value) in defaults.headers.headers() {
                if self.written().find(name).is_none() {
                    self.block.push(name, value);
                }
            }
        }
        let count = self.written().into_iter().count();
        if count > limits::HEADERS_MAX {
            let text = format!("a record has {count} headers; at most {} are taken", limits::HEADERS_MAX);
            return Err(Error::new(Kind::Header, text));
        }
        Ok(Some(self.start..self.block.headers().bytes().len()))
    }
}

/// # Safety
/// The header's pointers are NULL or valid for their lengths.
unsafe fn header<'a>(given: &hmq_header) -> Result<(&'a str, &'a [u8])> {
    // SAFETY: as promised by the caller.
    let name = unsafe { optional(given.name, given.name_len, limits::HEADER_NAME_BYTES_MAX, "header.name") };
    let name = name.map_err(too_long_header)?.ok_or_else(|| null("header.name"))?;
    // SAFETY: as promised by the caller.
    let value = unsafe { bytes(given.value, given.value_len, limits::HEADER_VALUE_BYTES_MAX, "header.value") };
    Ok((name, value.map_err(too_long_header)?.unwrap_or_default()))
}

/// A header that is too long is a matter of headers.
fn too_long_header(error: Error) -> Error {
    match error.kind() {
        Kind::TooLarge => Error::new(Kind::Header, error.message()),
        _ => error,
    }
}

/// Hands one record on; it borrows from the caller's memory and from this thread's block.
///
/// # Safety
/// As of [`meta`].
#[inline]
pub(super) unsafe fn with_record<T>(
    given: &hmq_record,
    defaults: Option<&PublisherDefaults>,
    meta: Option<&Meta<'_>>,
    hand_on: impl FnOnce(&Record<'_>) -> Result<T>,
) -> Result<T> {
    // SAFETY: as promised by the caller.
    let record = unsafe { fields(given, defaults) }?;
    if given.header_count == 0 && meta.is_none() {
        return hand_on(&record);
    }
    with_scratch(|block| {
        // SAFETY: as promised by the caller.
        unsafe { gather(given, meta, defaults, block) }?;
        hand_on(&Record { headers: block.headers(), ..record })
    })
}

/// As [`with_record`], for a record of a publisher.
///
/// # Safety
/// As of [`meta`].
#[inline]
pub(super) unsafe fn with_own_record<T>(
    given: &hmq_record,
    own: &Prepared,
    hand_on: impl FnOnce(&Record<'_>) -> Result<T>,
) -> Result<T> {
    let defaults = own.publisher.defaults();
    // SAFETY: as promised by the caller.
    unsafe {
        if let Some(record) = plain(given, defaults) {
            return hand_on(&record);
        }
        let meta = for_publisher(given, own)?;
        with_record(given, Some(defaults), meta.as_ref(), hand_on)
    }
}

/// The record if it has nothing but a payload, a key of known length and a priority, as most have;
/// else, and if anything is wrong with it, `None`: then [`fields`] and its kin look at all of it.
///
/// # Safety
/// As of [`meta`].
#[inline]
unsafe fn plain<'a>(given: &hmq_record, defaults: &'a PublisherDefaults) -> Option<Record<'a>> {
    let texts = given.topic as usize | given.id as usize | given.r#type as usize | given.meta as usize;
    let lengths = given.topic_len | given.id_len | given.type_len | given.meta_len | given.header_count;
    let times = given.timestamp_us | given.delay_ms | given.ttl_ms;
    if texts | lengths != 0 || times != 0 || given.kind != 0 || given.flags != 0 {
        return None;
    }
    if given.payload.is_null() || given.payload_len > PAYLOAD_BYTES_MAX {
        return None;
    }
    let has_key = !given.key.is_null();
    // HMQ_NTS is above the limit.
    if given.key_len > if has_key { limits::KEY_BYTES_MAX } else { 0 } {
        return None;
    }
    let priority = match given.priority {
        -1 => defaults.priority,
        priority @ 0..=PRIORITY_LAST => priority as u8,
        _ => return None,
    };
    // SAFETY: not NULL, so valid for their lengths, which were checked.
    let (payload, key) = unsafe {
        (
            std::slice::from_raw_parts(given.payload.cast::<u8>(), given.payload_len),
            has_key.then(|| std::slice::from_raw_parts(given.key.cast::<u8>(), given.key_len)),
        )
    };
    Some(Record {
        key,
        priority,
        type_: &defaults.type_,
        headers: defaults.headers.headers(),
        delay_ms: defaults.delay_ms,
        ttl_ms: defaults.ttl_ms,
        ..Record::new(payload)
    })
}

/// A record of a publisher's batch; its headers are written to `block`, at the range answered.
///
/// # Safety
/// As [`meta`].
#[inline(always)]
pub(super) unsafe fn own_record<'a>(
    given: &hmq_record,
    own: &'a Prepared,
    block: &mut HeaderBlock,
) -> Result<(Record<'a>, Option<Range<usize>>)> {
    let defaults = own.publisher.defaults();
    // SAFETY: as promised by the caller.
    unsafe {
        if let Some(record) = plain(given, defaults) {
            return Ok((record, None));
        }
        let meta = for_publisher(given, own)?;
        let record = fields(given, Some(defaults))?;
        let headers = gather(given, meta.as_ref(), Some(defaults), block)?;
        Ok((record, headers))
    }
}

/// A receipt as the header has it.
pub(super) fn receipt_of(taken: &Receipt) -> hmq_receipt {
    let mut id = [0; 64];
    for (place, byte) in id.iter_mut().zip(taken.id.text().as_str().bytes()) {
        *place = byte as c_char;
    }
    hmq_receipt {
        size: size_of::<hmq_receipt>() as u32,
        level: level_number(taken.level),
        backend: backend_number(taken.backend),
        flags: if taken.spooled { RECEIPT_SPOOLED } else { 0 },
        id,
    }
}

/// Writes a receipt, which was checked and cleared before; its size stays the caller's.
///
/// # Safety
/// `out` is NULL or valid for a write.
#[inline]
pub(super) unsafe fn write_receipt(out: *mut hmq_receipt, taken: &Receipt) {
    if out.is_null() {
        return;
    }
    // SAFETY: not NULL.
    unsafe { out.write(hmq_receipt { size: (*out).size, ..receipt_of(taken) }) };
}

impl Output for hmq_receipt {
    #[inline]
    unsafe fn clear(this: *mut Self) {
        // SAFETY: as promised by the caller.
        unsafe { structs::clear(this) };
    }
}

/// A record as a broker of the caller's is shown it. Borrowed from `record` and `headers`.
pub(super) fn shown(topic: &str, kind: TopicKind, record: &Record<'_>, headers: &[hmq_header]) -> hmq_record {
    fn text(text: &str) -> (*const c_char, usize) {
        if text.is_empty() {
            return (std::ptr::null(), 0);
        }
        (text.as_ptr().cast(), text.len())
    }
    let (id, id_len) = text(record.id);
    let (type_, type_len) = text(record.type_);
    let key = record.key.map_or((std::ptr::null(), 0), |key| (key.as_ptr().cast::<c_void>(), key.len()));
    hmq_record {
        size: size_of::<hmq_record>() as u32,
        kind: kind_number(kind),
        topic: topic.as_ptr().cast(),
        topic_len: topic.len(),
        payload: record.payload.as_ptr().cast(),
        payload_len: record.payload.len(),
        key: key.0,
        key_len: key.1,
        id,
        id_len,
        r#type: type_,
        type_len,
        headers: headers.as_ptr(),
        header_count: headers.len(),
        timestamp_us: record.timestamp_us,
        delay_ms: record.delay_ms,
        ttl_ms: record.ttl_ms,
        priority: i32::from(record.priority),
        flags: if record.maybe_dup { RECORD_MAYBE_DUP } else { 0 },
        meta: std::ptr::null(),
        meta_len: 0,
        tag: 0,
    }
}
