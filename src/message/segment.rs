//! Memory of messages: records laid one behind another in segments that are counted and reused.
//!
//! A segment is one block of memory with a count of its users. One writer appends to it; what has
//! been written never changes while anybody holds it; the last user gives the block back to its
//! [`Pool`]. So a message costs no allocation, its bytes are copied once, and a run of messages
//! is taken or let go with one step of the count.
//!
//! Layout of a record, little endian, padded to 8 bytes:
//!
//! ```text
//! 0   u32 size of the whole record     24  u16 key length
//! 4   u32 payload length               26  u8  id length (0: made from prefix and sequence)
//! 8   i64 time stamp, microseconds     27  u8  type length
//! 16  u64 sequence                     28  u8  priority    29 u8 flags    30 u16 attempts before
//! 32  [u32 length of the header block] [i64 expiry, wall microseconds]
//!     key, id, type, header block, payload
//! ```
//!
//! This is the one file outside `ffi` that holds `unsafe`; each use names what it relies on.

use std::alloc::{alloc, dealloc, Layout};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{fence, AtomicUsize, Ordering};
use std::sync::Arc;

use super::{Headers, Record};
use crate::sync::Mutex;

/// Bytes of a record's fixed part.
pub const RECORD_HEAD_BYTES: usize = 32;

pub(super) const HAS_KEY: u8 = 1;
const HAS_HEADERS: u8 = 2;
const HAS_EXPIRY: u8 = 4;
pub(super) const MAYBE_DUP: u8 = 8;

/// Free segments waiting for reuse, and the bytes of all that are in use.
#[derive(Debug)]
pub struct Pool {
    #[expect(clippy::vec_box, reason = "the box is what is reused")]
    spare: Mutex<Vec<Box<Segment>>>,
    spare_max: usize,
    segment_bytes: usize,
    bytes: AtomicUsize,
}

/// One block of memory. Only reached through [`Writer`] and [`Message`].
struct Segment {
    /// Writers and messages that use it.
    users: AtomicUsize,
    block: NonNull<u8>,
    capacity: usize,
    topic: Arc<str>,
    id_prefix: u64,
    /// `None` while it waits in the pool, so that the two do not keep each other alive.
    pool: Option<Arc<Pool>>,
}

// SAFETY: the block is owned by the segment; it is written only through the one `Writer`, beyond
// every byte that a `Message` can reach, and messages pass between threads through a lock.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Pool {
    /// A pool that keeps up to `spare_max` free segments of `segment_bytes`.
    pub fn new(segment_bytes: usize, spare_max: usize) -> Arc<Self> {
        let spare = Mutex::new(Vec::with_capacity(spare_max));
        Arc::new(Self { spare, spare_max, segment_bytes, bytes: AtomicUsize::new(0) })
    }

    /// Bytes of all segments in use.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Segment {
    fn obtain(pool: &Arc<Pool>, topic: &Arc<str>, id_prefix: u64, capacity: usize) -> Option<NonNull<Segment>> {
        let reused = if capacity == pool.segment_bytes { pool.spare.lock().pop() } else { None };
        let segment = match reused {
            Some(mut segment) => {
                segment.users = AtomicUsize::new(1);
                segment.topic = Arc::clone(topic);
                segment.id_prefix = id_prefix;
                segment.pool = Some(Arc::clone(pool));
                segment
            }
            None => {
                let layout = Self::layout(capacity);
                // SAFETY: the layout has a size above zero (see `layout`).
                let block = NonNull::new(unsafe { alloc(layout) })?;
                Box::new(Segment {
                    users: AtomicUsize::new(1),
                    block,
                    capacity,
                    topic: Arc::clone(topic),
                    id_prefix,
                    pool: Some(Arc::clone(pool)),
                })
            }
        };
        pool.bytes.fetch_add(capacity, Ordering::Relaxed);
        Some(NonNull::from(Box::leak(segment)))
    }

    fn layout(capacity: usize) -> Layout {
        // Capacities come from `limits` and from checked message sizes, far below isize::MAX.
        Layout::from_size_align(capacity.max(8), 8).unwrap_or(Layout::new::<u64>())
    }

    /// Lets go of `count` uses; the last one gives the segment back.
    ///
    /// # Safety
    /// The caller owned `count` uses of a live segment and owns them no more.
    unsafe fn release(this: NonNull<Segment>, count: usize) {
        // SAFETY: the caller's uses keep the segment alive until the subtraction.
        let before = unsafe { this.as_ref() }.users.fetch_sub(count, Ordering::Release);
        debug_assert!(before >= count, "a segment was released too often");
        if before != count {
            return;
        }
        fence(Ordering::Acquire);
        // SAFETY: the count reached zero, so nobody else can reach the segment; it was leaked by `obtain`.
        let mut segment = unsafe { Box::from_raw(this.as_ptr()) };
        let Some(pool) = segment.pool.take() else { return };
        pool.bytes.fetch_sub(segment.capacity, Ordering::Relaxed);
        if segment.capacity == pool.segment_bytes {
            let mut spare = pool.spare.lock();
            if spare.len() < pool.spare_max {
                spare.push(segment);
            }
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: the block was allocated with this layout and is owned by the segment.
        unsafe { dealloc(self.block.as_ptr(), Self::layout(self.capacity)) }
    }
}

/// What the broker adds to a record when it takes it.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Place in the order of its lane; also the id of a message that brought none.
    pub seq: u64,
    /// Wall time in microseconds, for a record without a time stamp, and the base of its TTL.
    pub now_us: i64,
}

/// The one writer of a segment; holds a use of it.
pub struct Writer {
    segment: NonNull<Segment>,
    len: usize,
}

// SAFETY: a `Writer` owns a use of its segment; see `Segment`.
unsafe impl Send for Writer {}
// SAFETY: writing takes `&mut self`; shared access only reads what is written.
unsafe impl Sync for Writer {}

impl Writer {
    /// A writer on an empty segment of `capacity` bytes, for messages of `topic`; `None` when the
    /// system has no memory left.
    pub fn new(pool: &Arc<Pool>, topic: &Arc<str>, id_prefix: u64, capacity: usize) -> Option<Self> {
        Some(Self { segment: Segment::obtain(pool, topic, id_prefix, capacity)?, len: 0 })
    }

    /// Appends `record` and answers its place, or `None` when it does not fit.
    #[inline]
    pub fn append(&mut self, record: &Record<'_>, stamp: Stamp) -> Option<u32> {
        let size = record_bytes(record);
        let segment = self.segment();
        let key = record.key.map_or(0, <[u8]>::len);
        if key > usize::from(u16::MAX) || record.id.len().max(record.type_.len()) > usize::from(u8::MAX) {
            // Everybody checks these before; their lengths would not be those of what is written.
            return None;
        }
        if segment.capacity - self.len < size {
            return None;
        }
        let at = self.len;
        // SAFETY: `at + size` is within the block (checked above), and no message reaches beyond
        // `self.len`, so nobody reads these bytes while they are written. All sizes are multiples of 8,
        // as is the block's alignment. They are initialised
        // in full by `encode` before a slice of them is ever handed out.
        unsafe { encode(segment.block.as_ptr().add(at), size, record, stamp) };
        self.len = at + size;
        u32::try_from(at).ok()
    }

    /// The message at `place`, which [`Writer::append`] answered.
    pub fn message(&self, place: u32) -> Option<Message> {
        self.size_at(place)?;
        self.segment().users.fetch_add(1, Ordering::Relaxed);
        Some(Message { segment: self.segment, place })
    }

    /// Appends `count` messages to `out`, from `place` on, each made by `wrap`; answers the place
    /// behind the last. One step of the segment's count serves them all.
    #[inline]
    pub fn messages<T>(&self, place: u32, count: usize, out: &mut Vec<T>, mut wrap: impl FnMut(Message) -> T) -> u32 {
        self.hold(place, count, 1, |at| out.push(wrap(Message { segment: self.segment, place: at })))
    }

    /// As [`Writer::messages`], with two holds of each message.
    #[inline]
    pub fn messages_twice<T>(
        &self,
        place: u32,
        count: usize,
        out: &mut Vec<T>,
        mut wrap: impl FnMut(Message, Message) -> T,
    ) -> u32 {
        let hold = |at| Message { segment: self.segment, place: at };
        self.hold(place, count, 2, |at| out.push(wrap(hold(at), hold(at))))
    }

    /// Walks over `count` records from `place` on; `each` takes over `holds` uses for each.
    #[inline]
    fn hold(&self, place: u32, count: usize, holds: usize, mut each: impl FnMut(u32)) -> u32 {
        let mut at = place;
        self.segment().users.fetch_add(count * holds, Ordering::Relaxed);
        let mut made = 0;
        while made < count {
            let Some(size) = self.size_at(at) else { break };
            each(at);
            at += size;
            made += 1;
        }
        if made < count {
            // SAFETY: these uses were added above and belong to no message; the writer's own remains.
            unsafe { Segment::release(self.segment, (count - made) * holds) };
        }
        at
    }

    /// Size of the record at `place`; `None` behind the last one.
    #[inline]
    pub fn size_at(&self, place: u32) -> Option<u32> {
        let bytes = self.written().get(place as usize..)?;
        Some(u32::from_le_bytes(*bytes.first_chunk::<4>()?))
    }

    /// Bytes written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the whole segment.
    pub fn capacity(&self) -> usize {
        self.segment().capacity
    }

    fn written(&self) -> &[u8] {
        // SAFETY: the first `len` bytes are initialised and never change while a use is held.
        unsafe { std::slice::from_raw_parts(self.segment().block.as_ptr(), self.len) }
    }

    fn segment(&self) -> &Segment {
        // SAFETY: the writer holds a use.
        unsafe { self.segment.as_ref() }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // SAFETY: the writer owned one use.
        unsafe { Segment::release(self.segment, 1) }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("len", &self.len).field("capacity", &self.capacity()).finish()
    }
}

/// Bytes that `record` takes in a segment.
#[inline]
pub fn record_bytes(record: &Record<'_>) -> usize {
    let headers = record.headers.bytes().len();
    let extension = if headers > 0 { 4 } else { 0 } + if record.ttl_ms > 0 { 8 } else { 0 };
    let key = record.key.map_or(0, <[u8]>::len);
    let sum =
        RECORD_HEAD_BYTES + extension + key + record.id.len() + record.type_.len() + headers + record.payload.len();
    (sum + 7) & !7
}

/// # Safety
/// `to` is aligned to 8 and valid for writes of `size` bytes, and `size` is [`record_bytes`] of `record`.
#[inline]
unsafe fn encode(to: *mut u8, size: usize, record: &Record<'_>, stamp: Stamp) {
    let headers = record.headers.bytes();
    let key = record.key.unwrap_or_default();
    let timestamp_us = if record.timestamp_us == 0 { stamp.now_us } else { record.timestamp_us };
    let mut flags = if record.key.is_some() { HAS_KEY } else { 0 };
    flags |= if headers.is_empty() { 0 } else { HAS_HEADERS };
    flags |= if record.ttl_ms > 0 { HAS_EXPIRY } else { 0 };
    flags |= if record.maybe_dup { MAYBE_DUP } else { 0 };
    let lengths =
        (key.len() as u16 as u64) | (record.id.len() as u8 as u64) << 16 | (record.type_.len() as u8 as u64) << 24;
    let marks = u64::from(record.priority) << 32 | u64::from(flags) << 40 | u64::from(record.attempts) << 48;
    let head = [
        (size as u32 as u64 | (record.payload.len() as u64) << 32).to_le(),
        (timestamp_us as u64).to_le(),
        stamp.seq.to_le(),
        (lengths | marks).to_le(),
    ];
    // SAFETY: `size` is a multiple of 8 that holds at least the head, and `to` is aligned to 8. The
    // last word is the padding, before the pieces are written over what is theirs of it.
    unsafe {
        to.add(size - 8).cast::<u64>().write(0);
        to.cast::<[u64; 4]>().write(head);
    }
    let mut at = RECORD_HEAD_BYTES;
    let mut put = |bytes: &[u8]| {
        if !bytes.is_empty() {
            // SAFETY: the pieces written add up to at most `size` (see `record_bytes`).
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.add(at), bytes.len()) };
            at += bytes.len();
        }
    };
    if !headers.is_empty() {
        put(&(headers.len() as u32).to_le_bytes());
    }
    if record.ttl_ms > 0 {
        put(&stamp.now_us.saturating_add(record.ttl_ms.saturating_mul(1_000)).to_le_bytes());
    }
    put(key);
    put(record.id.as_bytes());
    put(record.type_.as_bytes());
    put(headers);
    put(record.payload);
}

/// The fixed part of a record, as four words; see the top of the file.
#[repr(transparent)]
struct Head([u64; 4]);

const _: () = assert!(size_of::<Head>() == RECORD_HEAD_BYTES);

impl Head {
    #[inline]
    fn word(&self, index: usize) -> u64 {
        u64::from_le(self.0[index])
    }

    #[inline]
    fn size(&self) -> usize {
        self.word(0) as u32 as usize
    }

    #[inline]
    fn payload_len(&self) -> usize {
        (self.word(0) >> 32) as usize
    }

    #[inline]
    fn key_len(&self) -> usize {
        self.word(3) as u16 as usize
    }

    #[inline]
    fn id_len(&self) -> usize {
        (self.word(3) >> 16) as u8 as usize
    }

    #[inline]
    fn type_len(&self) -> usize {
        (self.word(3) >> 24) as u8 as usize
    }

    #[inline]
    fn has(&self, flag: u8) -> bool {
        (self.word(3) >> 40) as u8 & flag != 0
    }

    #[inline]
    fn header_field_len(&self) -> usize {
        if self.has(HAS_HEADERS) {
            4
        } else {
            0
        }
    }

    /// Where the key begins, the first of the pieces.
    #[inline]
    fn pieces_start(&self) -> usize {
        RECORD_HEAD_BYTES + self.header_field_len() + if self.has(HAS_EXPIRY) { 8 } else { 0 }
    }
}

/// A message that somebody holds: a counted place in a segment. Cheap to clone and to move.
pub struct Message {
    segment: NonNull<Segment>,
    place: u32,
}

// SAFETY: a message owns a use of its segment, and only reads bytes that no longer change.
unsafe impl Send for Message {}
// SAFETY: as above.
unsafe impl Sync for Message {}

impl Clone for Message {
    fn clone(&self) -> Self {
        self.segment().users.fetch_add(1, Ordering::Relaxed);
        Self { segment: self.segment, place: self.place }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: a message owns one use.
        unsafe { Segment::release(self.segment, 1) }
    }
}

/// Lets go of all `messages`: one step of the count for each run in one segment.
pub fn release_all(messages: &mut Vec<Message>) {
    let mut run: Option<(NonNull<Segment>, usize)> = None;
    for message in messages.drain(..) {
        let segment = message.segment;
        std::mem::forget(message);
        run = match run {
            Some((same, count)) if same == segment => Some((same, count + 1)),
            Some((other, count)) => {
                // SAFETY: `count` forgotten messages of `other` owned these uses.
                unsafe { Segment::release(other, count) };
                Some((segment, 1))
            }
            None => Some((segment, 1)),
        };
    }
    if let Some((segment, count)) = run {
        // SAFETY: as above.
        unsafe { Segment::release(segment, count) };
    }
}

impl Message {
    /// A message in a segment of its own, for what leaves the common path: delays, dead letters.
    /// `None` when the system has no memory left.
    pub fn alone(
        pool: &Arc<Pool>,
        topic: &Arc<str>,
        id_prefix: u64,
        record: &Record<'_>,
        stamp: Stamp,
    ) -> Option<Message> {
        let mut writer = Writer::new(pool, topic, id_prefix, record_bytes(record))?;
        let place = writer.append(record, stamp)?;
        writer.message(place)
    }

    /// The topic it was published to.
    pub fn topic(&self) -> &Arc<str> {
        &self.segment().topic
    }

    /// Bytes it takes in memory.
    #[inline]
    pub fn size(&self) -> usize {
        self.head().size()
    }

    /// The bytes given by the publisher.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        let head = self.head();
        self.piece(self.headers_start(head) + self.headers_len(head), head.payload_len())
    }

    /// The key, if it has one.
    #[inline]
    pub fn key(&self) -> Option<&[u8]> {
        let head = self.head();
        head.has(HAS_KEY).then(|| self.piece(head.pieces_start(), head.key_len()))
    }

    /// Time of publishing, microseconds since 1970.
    #[inline]
    pub fn timestamp_us(&self) -> i64 {
        self.head().word(1) as i64
    }

    /// Place in the order of its lane.
    #[inline]
    pub fn seq(&self) -> u64 {
        self.head().word(2)
    }

    /// The id given by the publisher, if any; see [`Message::id`].
    pub fn given_id(&self) -> Option<&str> {
        let head = self.head();
        let len = head.id_len();
        (len > 0).then(|| self.text(head.pieces_start() + head.key_len(), len))
    }

    /// Prefix of ids made here: unique for the hub that took the message.
    pub fn id_prefix(&self) -> u64 {
        self.segment().id_prefix
    }

    /// The type; empty if none was given.
    pub fn type_(&self) -> &str {
        let head = self.head();
        self.text(head.pieces_start() + head.key_len() + head.id_len(), head.type_len())
    }

    /// The headers.
    pub fn headers(&self) -> Headers<'_> {
        let head = self.head();
        Headers::from_bytes(self.piece(self.headers_start(head), self.headers_len(head)))
    }

    /// Priority, `0..=10`.
    #[inline]
    pub fn priority(&self) -> u8 {
        (self.head().word(3) >> 32) as u8
    }

    /// Wall microseconds after which it is not delivered any more.
    #[inline]
    pub fn expires_us(&self) -> Option<i64> {
        let head = self.head();
        if !head.has(HAS_EXPIRY) {
            return None;
        }
        let at = RECORD_HEAD_BYTES + head.header_field_len();
        Some(i64::from_le_bytes(self.piece(at, 8).try_into().unwrap_or_default()))
    }

    /// Whether it may be a second copy of a message whose outcome was unknown.
    #[inline]
    pub fn maybe_dup(&self) -> bool {
        self.head().has(MAYBE_DUP)
    }

    /// Attempts made before this copy was published.
    #[inline]
    pub fn attempts(&self) -> u16 {
        (self.head().word(3) >> 48) as u16
    }

    #[inline]
    fn headers_start(&self, head: &Head) -> usize {
        head.pieces_start() + head.key_len() + head.id_len() + head.type_len()
    }

    #[inline]
    fn headers_len(&self, head: &Head) -> usize {
        if head.has(HAS_HEADERS) {
            u32::from_le_bytes(self.piece(RECORD_HEAD_BYTES, 4).try_into().unwrap_or_default()) as usize
        } else {
            0
        }
    }

    fn text(&self, at: usize, len: usize) -> &str {
        std::str::from_utf8(self.piece(at, len)).unwrap_or_default()
    }

    #[inline]
    fn head(&self) -> &Head {
        // SAFETY: `encode` wrote at least the head at `place`, which is aligned to 8, and it does not change.
        unsafe { &*self.segment().block.as_ptr().add(self.place as usize).cast::<Head>() }
    }

    #[inline]
    fn piece(&self, at: usize, len: usize) -> &[u8] {
        debug_assert!(at + len <= self.size());
        // SAFETY: all lengths were written by `encode` and lie within the record, which does not
        // change while this message holds its use.
        unsafe { std::slice::from_raw_parts(self.segment().block.as_ptr().add(self.place as usize + at), len) }
    }

    #[inline]
    fn segment(&self) -> &Segment {
        // SAFETY: the message holds a use.
        unsafe { self.segment.as_ref() }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("topic", &self.topic).field("capacity", &self.capacity).finish()
    }
}
