//! Packed frames: events in one buffer, one behind another, for languages that pay per call and
//! per pointer. `docs/packed-frames.md` is the contract; its test vector is the test below.
//!
//! Little endian; every frame starts at a multiple of 8 from the start of the buffer:
//!
//! ```text
//!  0 u32 size         4 u16 kind        6 u16 flags       8 u64 tag
//! 16 u64 token       24 i64 timestamp  32 i32 status     36 u32 attempt
//! 40 u32 payload     44 u32 headers    48 u16 topic      50 u16 key (0xFFFF: none)   lengths
//! 52 u8 id           53 u8 type        54 i8 priority    55 u8 0
//! 56 u32 partition   60 u16 level      62 u16 backend    64 i64 offset
//! 72 i64 delay_ms    80 i64 ttl_ms     88 topic, key, id, type, headers, payload, zeros to 8
//! ```

use super::batch::{Item, Source};
use super::convert::{backend_number, level_number};
use super::event::{message_flags, with_events, POLL_MAX};
use super::inbox::polled;
use super::messages;
use super::objects::Prepared;
use super::record::{check_address, check_word, not_negative, priority, with_defaults, Own};
use super::text::{put, Timeout};
use super::types::{
    hmq_status, EV_END, EV_FATE, EV_LOG, EV_MESSAGE, EV_PUBLISHED, EV_STATE, MSG_MAYBE_DUP, OK, RECEIPT_SPOOLED,
};
use crate::error::{Error, Kind, Result};
use crate::hub::{Event, Inbox, Polled};
use crate::limits;
use crate::message::{HeaderBlock, Headers, MessageId, Record};

/// Bytes before the variable part.
const HEAD: usize = 88;
const NO_KEY: u16 = u16::MAX;

/// What a frame holds.
#[derive(Default)]
struct Parts<'a> {
    kind: u32,
    flags: u32,
    tag: u64,
    token: u64,
    timestamp_us: i64,
    status: i32,
    attempt: u32,
    partition: u32,
    level: i32,
    backend: i32,
    offset: i64,
    priority: u8,
    topic: &'a str,
    key: Option<&'a [u8]>,
    id: &'a str,
    type_: &'a str,
    headers: &'a [u8],
    payload: &'a [u8],
}

impl Parts<'_> {
    fn pieces(&self) -> [&[u8]; 6] {
        let key = self.key.unwrap_or_default();
        [self.topic.as_bytes(), key, self.id.as_bytes(), self.type_.as_bytes(), self.headers, self.payload]
    }

    fn size(&self) -> usize {
        let pieces: usize = self.pieces().iter().map(|piece| piece.len()).sum();
        (HEAD + pieces).next_multiple_of(8)
    }

    fn head(&self, size: usize) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(size as u32).to_le_bytes());
        put(4, &(self.kind as u16).to_le_bytes());
        put(6, &(self.flags as u16).to_le_bytes());
        put(8, &self.tag.to_le_bytes());
        put(16, &self.token.to_le_bytes());
        put(24, &self.timestamp_us.to_le_bytes());
        put(32, &self.status.to_le_bytes());
        put(36, &self.attempt.to_le_bytes());
        put(40, &(self.payload.len() as u32).to_le_bytes());
        put(44, &(self.headers.len() as u32).to_le_bytes());
        put(48, &(self.topic.len() as u16).to_le_bytes());
        put(50, &self.key.map_or(NO_KEY, |key| key.len() as u16).to_le_bytes());
        put(52, &[self.id.len() as u8, self.type_.len() as u8, self.priority, 0]);
        put(56, &self.partition.to_le_bytes());
        put(60, &(self.level as u16).to_le_bytes());
        put(62, &(self.backend as u16).to_le_bytes());
        put(64, &self.offset.to_le_bytes());
        head
    }

    /// # Safety
    /// `to` is valid for writes of `size` bytes, which is [`Parts::size`].
    unsafe fn write(&self, to: *mut u8, size: usize) {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            // SAFETY: the pieces and the padding add up to `size`.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.add(at), bytes.len()) };
            at += bytes.len();
        };
        put(&self.head(size));
        let pieces = self.pieces();
        for piece in pieces {
            put(piece);
        }
        let used: usize = HEAD + pieces.iter().map(|piece| piece.len()).sum::<usize>();
        put(&[0; 8][..size - used]);
    }
}

/// Shows `event` as the parts of a frame; texts that are made for it live in `made`.
fn parts_of<'a>(event: &'a Event, made: &'a mut Made) -> Parts<'a> {
    match event {
        Event::Message { tag, incoming } => {
            let message = &incoming.message;
            made.id = Some(message.id());
            Parts {
                kind: EV_MESSAGE,
                flags: message_flags(incoming),
                tag: *tag,
                token: incoming.token,
                timestamp_us: message.timestamp_us(),
                attempt: incoming.attempt,
                partition: incoming.partition,
                offset: incoming.offset,
                priority: message.priority(),
                topic: message.topic(),
                key: message.key(),
                id: made.id(),
                type_: message.type_(),
                headers: message.headers().bytes(),
                payload: message.payload(),
                ..Parts::default()
            }
        }
        Event::Published { tag, op, result: Ok(receipt) } => {
            made.id = Some(receipt.id.text());
            Parts {
                kind: EV_PUBLISHED,
                flags: if receipt.spooled { RECEIPT_SPOOLED } else { 0 },
                tag: *tag,
                token: *op,
                level: level_number(receipt.level),
                backend: backend_number(receipt.backend),
                id: made.id(),
                ..Parts::default()
            }
        }
        Event::Published { tag, op, result: Err(error) } => {
            Parts { tag: *tag, token: *op, ..made.failed(EV_PUBLISHED, error) }
        }
        Event::State { json } => Parts { kind: EV_STATE, payload: json.as_bytes(), ..Parts::default() },
        Event::Log { level, json } => {
            Parts { kind: EV_LOG, attempt: *level as u32, payload: json.as_bytes(), ..Parts::default() }
        }
        Event::Fate { json } => Parts { kind: EV_FATE, payload: json.as_bytes(), ..Parts::default() },
        Event::End { tag, result: Ok(()) } => Parts { kind: EV_END, tag: *tag, ..Parts::default() },
        Event::End { tag, result: Err(error) } => Parts { tag: *tag, ..made.failed(EV_END, error) },
    }
}

/// Texts made while a frame is written.
#[derive(Default)]
struct Made {
    id: Option<MessageId>,
    json: String,
}

impl Made {
    fn id(&self) -> &str {
        self.id.as_ref().map_or("", MessageId::as_str)
    }

    fn failed(&mut self, kind: u32, error: &Error) -> Parts<'_> {
        self.json = error.to_json().to_string();
        Parts { kind, status: error.kind().code(), payload: self.json.as_bytes(), ..Parts::default() }
    }
}

/// Reads events of `inbox` into the caller's buffer. What has no room goes back to the inbox.
///
/// # Safety
/// `buf` is valid for writes of its length; `bytes` is valid for a write, `count` too or NULL.
pub(super) unsafe fn read_into(
    inbox: &Inbox,
    buf: (*mut u8, usize),
    timeout: Timeout,
    bytes: *mut usize,
    count: *mut usize,
) -> Result<hmq_status> {
    with_events(|events| {
        let found = inbox.poll((buf.1 / HEAD).clamp(1, POLL_MAX), timeout, events);
        if found != Polled::Data {
            return Ok(polled(found));
        }
        let (mut written, mut frames, mut needed) = (0, 0, None);
        for event in events.iter() {
            let mut made = Made::default();
            let parts = parts_of(event, &mut made);
            let size = parts.size();
            if size > buf.1 - written {
                needed = Some(size);
                break;
            }
            // SAFETY: there is room for the whole frame.
            unsafe { parts.write(buf.0.add(written), size) };
            written += size;
            frames += 1;
        }
        if needed.is_some() {
            inbox.unpoll(events.drain(frames..).collect());
        }
        messages::let_go(events.drain(..).filter_map(|event| match event {
            Event::Message { incoming, .. } => Some(incoming.message),
            _ => None,
        }));
        // SAFETY: as promised by the caller.
        unsafe {
            if let (0, Some(needed)) = (frames, needed) {
                bytes.write(needed);
                return Err(Error::new(Kind::TooLarge, format!("the next frame needs {needed} bytes")));
            }
            bytes.write(written);
            put(count, frames);
        }
        Ok(OK)
    })
}

/// Frames to send, checked as a whole: their sizes fill the buffer.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    count: usize,
}

impl<'a> Frames<'a> {
    /// # Errors
    /// `HMQ_E_ARG` with the place, for what is no run of frames.
    pub(super) fn checked(bytes: &'a [u8]) -> Result<Self> {
        let (mut at, mut count) = (0, 0);
        while at < bytes.len() {
            let size = size_at(bytes, at).ok_or_else(|| broken(at, "is cut off, or its lengths do not add up"))?;
            at += size;
            count += 1;
        }
        Ok(Self { bytes, at: 0, count })
    }

    /// How many frames there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

#[cold]
fn broken(at: usize, why: &str) -> Error {
    Error::new(Kind::Arg, format!("the frame at byte {at} {why}"))
}

fn array<const N: usize>(frame: &[u8], at: usize) -> [u8; N] {
    frame.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// Lengths of topic, key, id, type, headers and payload.
fn lengths(frame: &[u8]) -> [usize; 6] {
    let key = u16::from_le_bytes(array(frame, 50));
    [
        u16::from_le_bytes(array(frame, 48)) as usize,
        if key == NO_KEY { 0 } else { key as usize },
        array::<1>(frame, 52)[0] as usize,
        array::<1>(frame, 53)[0] as usize,
        u32::from_le_bytes(array(frame, 44)) as usize,
        u32::from_le_bytes(array(frame, 40)) as usize,
    ]
}

fn size_at(bytes: &[u8], at: usize) -> Option<usize> {
    let frame = bytes.get(at..)?;
    let size = u32::from_le_bytes(*frame.first_chunk()?) as usize;
    let frame = frame.get(..size)?;
    let used = HEAD.checked_add(lengths(frame).iter().sum())?;
    (size >= HEAD && size == used.next_multiple_of(8)).then_some(size)
}

impl<'a> Source<'a> for Frames<'a> {
    fn next(&mut self, own: &'a Prepared, block: &mut HeaderBlock) -> Option<Result<Item<'a>>> {
        let size = size_at(self.bytes, self.at)?;
        let frame = self.bytes.get(self.at..self.at + size)?;
        let at = self.at;
        self.at += size;
        Some(item(frame, at, own, block))
    }
}

fn item<'a>(frame: &'a [u8], at: usize, own: &'a Prepared, block: &mut HeaderBlock) -> Result<Item<'a>> {
    if u32::from(u16::from_le_bytes(array(frame, 4))) != EV_MESSAGE {
        return Err(broken(at, "is no message: only frames of kind HMQ_EV_MESSAGE are sent"));
    }
    let mut from = HEAD;
    let [topic, key, id, type_, headers, payload] = lengths(frame).map(|len| {
        let piece = frame.get(from..from + len).unwrap_or_default();
        from += len;
        piece
    });
    let text = |bytes: &'a [u8], name: &str| {
        let text = std::str::from_utf8(bytes).map_err(|wrong| {
            Error::new(
                Kind::Utf8,
                format!("frame at byte {at}: {name} is not UTF-8 from byte {} on", wrong.valid_up_to()),
            )
        })?;
        check_word(text, name)
    };
    let topic = text(topic, "topic")?;
    check_address((!topic.is_empty()).then_some(topic), None, own)?;
    let defaults = own.publisher.defaults();
    let key = (u16::from_le_bytes(array(frame, 50)) != NO_KEY).then_some(key);
    let id = text(id, "id")?;
    if id.len() > limits::ID_BYTES_MAX {
        return Err(Error::new(Kind::Arg, format!("id is longer than {} bytes", limits::ID_BYTES_MAX)));
    }
    let record = Record {
        key,
        id,
        type_: text(type_, "type")?,
        timestamp_us: not_negative(i64::from_le_bytes(array(frame, 24)), "timestamp_us")?,
        delay_ms: not_negative(i64::from_le_bytes(array(frame, 72)), "delay_ms")?,
        ttl_ms: not_negative(i64::from_le_bytes(array(frame, 80)), "ttl_ms")?,
        priority: priority(i32::from(array::<1>(frame, 54)[0] as i8), Some(defaults))?,
        maybe_dup: u32::from(u16::from_le_bytes(array(frame, 6))) & MSG_MAYBE_DUP != 0,
        ..Record::new(payload)
    };
    let record = with_defaults(record, Some(defaults));
    let headers = if headers.is_empty() { None } else { gather(headers, at, own, block)? };
    Ok(Item { record, headers, tag: u64::from_le_bytes(array(frame, 8)) })
}

/// Checks the headers of a frame and writes them with the publisher's.
fn gather(
    headers: &[u8],
    at: usize,
    own: &Prepared,
    block: &mut HeaderBlock,
) -> Result<Option<std::ops::Range<usize>>> {
    let start = block.headers().bytes().len();
    let mut written = Own { block, start };
    let mut read = 0;
    for (name, value) in Headers::from_bytes(headers) {
        written.add(name, value)?;
        read += 6 + name.len() + value.len();
    }
    if read != headers.len() {
        return Err(broken(at, "has headers that are cut off or not UTF-8"));
    }
    written.end(Some(own.publisher.defaults()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of `docs/packed-frames.md`.
    #[test]
    fn the_vector_of_the_documentation() {
        let mut block = HeaderBlock::default();
        block.push("h", b"v");
        let parts = Parts {
            kind: EV_MESSAGE,
            flags: 1,
            tag: 7,
            token: 0x0102_0304,
            timestamp_us: 1_700_000_000_000_000,
            attempt: 2,
            offset: -1,
            priority: 5,
            topic: "user.created",
            key: Some(b"k1"),
            id: "id-1",
            type_: "t",
            headers: block.headers().bytes(),
            payload: b"hello",
            ..Parts::default()
        };
        let size = parts.size();
        let mut bytes = vec![0xEE; size];
        // SAFETY: the vector has room for the frame.
        unsafe { parts.write(bytes.as_mut_ptr(), size) };
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let documented = include_str!("../../docs/packed-frames.md");
        let vector: String = documented
            .split("```hex\n")
            .nth(1)
            .and_then(|rest| rest.split("```").next())
            .unwrap()
            .chars()
            .filter(char::is_ascii_hexdigit)
            .collect();
        assert_eq!(hex, vector);
        let frames = Frames::checked(&bytes).unwrap();
        assert_eq!((frames.count(), lengths(&bytes)), (1, [12, 2, 4, 1, 8, 5]));
    }

    #[test]
    fn what_is_no_frame_is_refused_with_its_place() {
        let parts = Parts { kind: EV_MESSAGE, payload: b"12345678", ..Parts::default() };
        let size = parts.size();
        let mut bytes = vec![0; size * 2];
        // SAFETY: there is room for two frames.
        unsafe {
            parts.write(bytes.as_mut_ptr(), size);
            parts.write(bytes.as_mut_ptr().add(size), size);
        }
        assert_eq!(Frames::checked(&bytes).unwrap().count(), 2);
        for cut in [1, 3, 87, size - 1, size + 1, size * 2 - 1] {
            assert_eq!(Frames::checked(&bytes[..cut]).unwrap_err().kind(), Kind::Arg, "{cut}");
        }
        bytes[size + 40] = 0xFF;
        let error = Frames::checked(&bytes).unwrap_err();
        assert!(error.message().contains(&format!("byte {size} ")), "{error}");
    }
}
