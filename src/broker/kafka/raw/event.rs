//! Queues of librdkafka and the events that come from them.

use std::ffi::c_int;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use rdkafka_sys as sys;

use super::wake::RAISED;
use super::{checked, code, code_of, text_of, Client, Code, Failure, List, Result, Wake};

/// A queue of events, or of messages of one partition.
pub struct Queue {
    queue: NonNull<sys::rd_kafka_queue_t>,
    /// A client outlives its queues.
    _client: Arc<Client>,
    /// Kept as long as librdkafka may write to it.
    wake: Option<Arc<Wake>>,
}

// SAFETY: librdkafka's queues have locks of their own.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// # Safety
    /// `queue` is owned by the caller, who owns it no more, and is of `client`.
    pub(super) unsafe fn of(client: &Arc<Client>, queue: *mut sys::rd_kafka_queue_t) -> Option<Self> {
        Some(Self { queue: NonNull::new(queue)?, _client: Arc::clone(client), wake: None })
    }

    /// What a client says of itself, and delivery reports.
    pub fn main(client: &Arc<Client>) -> Option<Self> {
        // SAFETY: the answer is a hold of our own.
        unsafe { Self::of(client, sys::rd_kafka_queue_get_main(client.ptr())) }
    }

    /// A queue that nothing comes from but what is sent there.
    pub fn new(client: &Arc<Client>) -> Option<Self> {
        // SAFETY: as above.
        unsafe { Self::of(client, sys::rd_kafka_queue_new(client.ptr())) }
    }

    pub(super) fn ptr(&self) -> *mut sys::rd_kafka_queue_t {
        self.queue.as_ptr()
    }

    /// From now on `wake` is raised when something comes.
    pub fn raises(mut self, wake: &Arc<Wake>) -> Self {
        self.wake = Some(Arc::clone(wake));
        // SAFETY: the descriptor is kept until the queue is told to write no more; the text is copied.
        unsafe { sys::rd_kafka_queue_io_event_enable(self.ptr(), wake.fd(), RAISED.as_ptr().cast(), RAISED.len()) };
        self
    }

    /// Ends the wait of whoever polls.
    pub fn interrupt(&self) {
        // SAFETY: the queue lives.
        unsafe { sys::rd_kafka_queue_yield(self.ptr()) };
    }

    /// The next event, if one comes in time.
    pub fn poll(&self, timeout: Duration) -> Option<Event> {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue lives; the event is ours.
        NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.ptr(), millis) }).map(|event| Event { event })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the last hold; a negative descriptor ends the writing.
        unsafe {
            if self.wake.is_some() {
                sys::rd_kafka_queue_io_event_enable(self.ptr(), -1, std::ptr::null(), 0);
            }
            sys::rd_kafka_queue_destroy(self.ptr());
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queue")
    }
}

/// Where a record that was handed over is, when its outcome is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persisted {
    No,
    Perhaps,
    Yes,
}

/// How one record ended.
#[derive(Debug)]
pub struct Delivered {
    /// What was given with it.
    pub opaque: u64,
    pub result: Result<()>,
    pub persisted: Persisted,
    /// Where the cluster says that it is; negative: it has not said.
    pub offset: i64,
    /// The topic of one that failed.
    pub topic: String,
}

/// Something that librdkafka says.
pub struct Event {
    event: NonNull<sys::rd_kafka_event_t>,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    Deliveries,
    Failure,
    Log,
    Assigned,
    Revoked,
    Committed,
    TokenWanted,
    Other,
}

impl Event {
    pub(super) fn ptr(&self) -> *mut sys::rd_kafka_event_t {
        self.event.as_ptr()
    }

    pub fn about(&self) -> About {
        // SAFETY: the event lives.
        let kind = unsafe { sys::rd_kafka_event_type(self.ptr()) };
        match kind {
            sys::RD_KAFKA_EVENT_DR => About::Deliveries,
            sys::RD_KAFKA_EVENT_ERROR => About::Failure,
            sys::RD_KAFKA_EVENT_LOG => About::Log,
            sys::RD_KAFKA_EVENT_REBALANCE => match Code::of(self.code()) {
                Code::AssignPartitions => About::Assigned,
                _ => About::Revoked,
            },
            sys::RD_KAFKA_EVENT_OFFSET_COMMIT => About::Committed,
            sys::RD_KAFKA_EVENT_OAUTHBEARER_TOKEN_REFRESH => About::TokenWanted,
            _ => About::Other,
        }
    }

    fn code(&self) -> c_int {
        // SAFETY: the event lives.
        unsafe { code::rd_kafka_event_error(self.ptr()) }
    }

    /// The error it tells of.
    pub fn result(&self) -> Result<()> {
        checked(self.code()).map_err(|failure| {
            // SAFETY: the event lives, and its text with it.
            let (text, fatal) = unsafe {
                (
                    text_of(sys::rd_kafka_event_error_string(self.ptr())),
                    sys::rd_kafka_event_error_is_fatal(self.ptr()) != 0,
                )
            };
            Failure { text, fatal, ..failure }
        })
    }

    /// Level and text of a log line.
    pub fn log(&self) -> (i32, String) {
        let (mut facility, mut text, mut level) = (std::ptr::null(), std::ptr::null(), 0);
        // SAFETY: the texts live as long as the event.
        unsafe {
            sys::rd_kafka_event_log(self.ptr(), &raw mut facility, &raw mut text, &raw mut level);
            (level, text_of(text))
        }
    }

    /// Partitions that were assigned, revoked or committed.
    pub fn partitions(&self) -> List {
        // SAFETY: the list is the event's; we keep a copy.
        unsafe { List::copy(sys::rd_kafka_event_topic_partition_list(self.ptr())) }
    }

    /// Each record that ended.
    pub fn deliveries(&self, mut each: impl FnMut(Delivered)) {
        let mut found = [std::ptr::null(); 256];
        loop {
            // SAFETY: the event lives, and its messages with it.
            let count = unsafe { sys::rd_kafka_event_message_array(self.ptr(), found.as_mut_ptr(), found.len()) };
            if count == 0 {
                return;
            }
            for message in &found[..count] {
                // SAFETY: as above.
                let (opaque, code, status, topic) = unsafe {
                    let code = code_of(&raw const (**message).err);
                    let topic = match code {
                        Ok(()) => String::new(),
                        Err(_) => text_of(sys::rd_kafka_topic_name((**message).rkt)),
                    };
                    ((**message)._private as u64, code, sys::rd_kafka_message_status(*message), topic)
                };
                let persisted = match status {
                    sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED => Persisted::No,
                    sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED => Persisted::Perhaps,
                    sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_PERSISTED => Persisted::Yes,
                };
                // SAFETY: as above.
                let offset = unsafe { (**message).offset };
                each(Delivered { opaque, result: code, persisted, offset, topic });
            }
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the last hold.
        unsafe { sys::rd_kafka_event_destroy(self.ptr()) };
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Event").field(&self.about()).finish()
    }
}
