//! Messages: of a group's partitions, or of partitions that are read alone.

use std::ffi::CStr;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use rdkafka_sys as sys;

use super::{c_text, checked, code, code_of, millis, Client, Code, Failure, List, Queue, Result, Topic};

/// A message while librdkafka keeps it.
pub struct Fetched<'a> {
    message: NonNull<sys::rd_kafka_message_t>,
    kept: PhantomData<&'a ()>,
}

/// Messages taken at once.
const BATCH: usize = 256;

impl Fetched<'_> {
    /// # Safety
    /// `message` lives as long as the answer is used.
    pub(super) unsafe fn of(message: NonNull<sys::rd_kafka_message_t>) -> Self {
        Self { message, kept: PhantomData }
    }

    fn raw(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: it lives, by `of`.
        unsafe { self.message.as_ref() }
    }

    /// An error that came in the place of a message.
    pub fn result(&self) -> Result<()> {
        // SAFETY: a field of a message that lives.
        unsafe { code_of(&raw const self.raw().err) }.map_err(|failure| {
            let raw = self.raw();
            if raw.payload.is_null() {
                return failure;
            }
            // SAFETY: the payload of an error is its text, of this length.
            let text = unsafe { std::slice::from_raw_parts(raw.payload.cast::<u8>(), raw.len) };
            Failure { text: String::from_utf8_lossy(text).into_owned(), ..failure }
        })
    }

    pub fn partition(&self) -> i32 {
        self.raw().partition
    }

    pub fn offset(&self) -> i64 {
        self.raw().offset
    }

    pub fn value(&self) -> &[u8] {
        // SAFETY: payload and length belong together.
        unsafe { bytes(self.raw().payload.cast(), self.raw().len) }.unwrap_or_default()
    }

    pub fn key(&self) -> Option<&[u8]> {
        // SAFETY: key and length belong together.
        unsafe { bytes(self.raw().key.cast(), self.raw().key_len) }
    }

    /// Milliseconds since 1970, if the message has a time.
    pub fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives.
        let time = unsafe { sys::rd_kafka_message_timestamp(self.message.as_ptr(), &raw mut kind) };
        (kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && time >= 0).then_some(time)
    }

    /// Each header, in order.
    pub fn headers(&self, mut each: impl FnMut(&[u8], Option<&[u8]>)) {
        let mut headers = std::ptr::null_mut();
        // SAFETY: headers, names and values live as long as the message.
        unsafe {
            if checked(code::rd_kafka_message_headers(self.message.as_ptr(), &raw mut headers)).is_err() {
                return;
            }
            let (mut name, mut value, mut len) = (std::ptr::null(), std::ptr::null(), 0);
            let mut index = 0;
            while checked(code::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut len))
                .is_ok()
            {
                each(CStr::from_ptr(name).to_bytes(), bytes(value.cast(), len));
                index += 1;
            }
        }
    }
}

/// # Safety
/// `from` is null, or readable for `len` as long as the answer is used.
unsafe fn bytes<'a>(from: *const u8, len: usize) -> Option<&'a [u8]> {
    // SAFETY: by this function's contract.
    (!from.is_null()).then(|| unsafe { std::slice::from_raw_parts(from, len) })
}

impl Queue {
    /// What a consumer in a group is told.
    pub fn consumer(client: &Arc<Client>) -> Option<Self> {
        // SAFETY: the answer is a hold of our own.
        unsafe { Self::of(client, sys::rd_kafka_queue_get_consumer(client.ptr())) }
    }

    /// The messages of one partition, which no longer come from the consumer's queue.
    pub fn partition(client: &Arc<Client>, topic: &str, partition: i32) -> Option<Self> {
        let topic = c_text(topic).ok()?;
        // SAFETY: as above; forwarding to null ends it.
        unsafe {
            let queue = Self::of(client, sys::rd_kafka_queue_get_partition(client.ptr(), topic.as_ptr(), partition))?;
            sys::rd_kafka_queue_forward(queue.ptr(), std::ptr::null_mut());
            Some(queue)
        }
    }

    /// Up to `max` messages that are there, and at most [`BATCH`].
    pub fn fetch(&self, max: usize) -> Batch {
        let mut batch = Batch { messages: [std::ptr::null_mut(); BATCH], count: 0 };
        let max = max.min(BATCH);
        // SAFETY: the array takes as many as it is said to.
        let count = unsafe { sys::rd_kafka_consume_batch_queue(self.ptr(), 0, batch.messages.as_mut_ptr(), max) };
        batch.count = usize::try_from(count).unwrap_or_default();
        batch
    }
}

/// Messages that were fetched, and go back to librdkafka with this.
pub struct Batch {
    messages: [*mut sys::rd_kafka_message_t; BATCH],
    count: usize,
}

impl Batch {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn iter(&self) -> impl Iterator<Item = Fetched<'_>> {
        let messages = self.messages[..self.count].iter().filter_map(|message| NonNull::new(*message));
        // SAFETY: ours until the batch is dropped, which the answer's lifetime ends before.
        messages.map(|message| unsafe { Fetched::of(message) })
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        for message in &self.messages[..self.count] {
            // SAFETY: each is ours, and destroyed once.
            unsafe { sys::rd_kafka_message_destroy(*message) };
        }
    }
}

impl Client {
    /// Joins the group with a subscription; names that begin with `^` are patterns.
    pub fn subscribe(&self, topics: &List) -> Result<()> {
        // SAFETY: client and list live.
        checked(unsafe { code::rd_kafka_subscribe(self.ptr(), topics.ptr()) })
    }

    fn is_cooperative(&self) -> bool {
        // SAFETY: answers a static text.
        unsafe { CStr::from_ptr(sys::rd_kafka_rebalance_protocol(self.ptr())) }.to_bytes() == b"COOPERATIVE"
    }

    /// Takes over assigned partitions, from the offsets in the list.
    pub fn assign(&self, list: &List) -> Result<()> {
        // SAFETY: client and list live; an error is ours.
        unsafe {
            match self.is_cooperative() {
                true => Failure::taken(sys::rd_kafka_incremental_assign(self.ptr(), list.ptr())),
                false => checked(code::rd_kafka_assign(self.ptr(), list.ptr())),
            }
        }
    }

    /// Gives partitions up.
    pub fn unassign(&self, list: &List) -> Result<()> {
        // SAFETY: as above; null means all.
        unsafe {
            match self.is_cooperative() {
                true => Failure::taken(sys::rd_kafka_incremental_unassign(self.ptr(), list.ptr())),
                false => checked(code::rd_kafka_assign(self.ptr(), std::ptr::null())),
            }
        }
    }

    /// Whether partitions that are being revoked belong to somebody else already.
    pub fn has_lost_assignment(&self) -> bool {
        // SAFETY: the client lives.
        unsafe { sys::rd_kafka_assignment_lost(self.ptr()) != 0 }
    }

    /// Fills in what the group has committed; -1001 where there is nothing. Asks a broker.
    pub fn committed(&self, list: &mut List, timeout: Duration) -> Result<()> {
        // SAFETY: client and list live.
        checked(unsafe { code::rd_kafka_committed(self.ptr(), list.ptr(), millis(timeout)) })
    }

    /// Commits offsets of the group; the answer comes from `reply`.
    pub fn commit(&self, list: &List, reply: &Queue) -> Result<()> {
        // SAFETY: client, list and queue live; without a function the answer is an event.
        checked(unsafe {
            code::rd_kafka_commit_queue(self.ptr(), list.ptr(), reply.ptr(), std::ptr::null(), std::ptr::null_mut())
        })
    }

    /// Begins to leave the group; events of it come from `queue` until [`Client::is_closed`].
    pub fn close_to(&self, queue: &Queue) -> Result<()> {
        // SAFETY: client and queue live; an error is ours.
        unsafe { Failure::taken(sys::rd_kafka_consumer_close_queue(self.ptr(), queue.ptr())) }
    }

    pub fn is_closed(&self) -> bool {
        // SAFETY: the client lives.
        unsafe { sys::rd_kafka_consumer_closed(self.ptr()) != 0 }
    }
}

/// One partition, read without a group.
pub struct Reader {
    topic: Topic,
    partition: i32,
    queue: Queue,
}

impl Reader {
    /// Begins at `offset`. Messages come from the queue.
    pub fn start(client: &Arc<Client>, topic: &str, partition: i32, offset: i64, queue: Queue) -> Result<Self> {
        let topic = Topic::new(client, topic)?;
        // SAFETY: topic and queue live, and are kept while it reads.
        let started = unsafe { sys::rd_kafka_consume_start_queue(topic.ptr(), partition, offset, queue.ptr()) };
        match started {
            // SAFETY: a thread-local of librdkafka's.
            -1 => Err(Failure::of(Code::of(unsafe { code::rd_kafka_last_error() }))),
            _ => Ok(Self { topic, partition, queue }),
        }
    }

    pub fn queue(&self) -> &Queue {
        &self.queue
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // SAFETY: the topic lives; it was started.
        unsafe { sys::rd_kafka_consume_stop(self.topic.ptr(), self.partition) };
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("partition", &self.partition).finish()
    }
}
