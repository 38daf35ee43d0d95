//! The edge to librdkafka: its objects as owned handles, its calls as safe functions. Nothing of C
//! is named above this folder.
//!
//! Everything librdkafka has to say comes as events from queues, so none of its threads ever runs
//! code of ours. A queue may raise a [`Wake`], on which one thread of ours sleeps for all of them.

use std::ffi::{c_char, CStr, CString};
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka_sys as sys;

pub use code::Code;

mod admin;
mod code;
mod consume;
mod event;
mod list;
#[cfg(test)]
mod mock;
mod produce;
mod wake;

pub use admin::NewTopic;
pub use consume::{Batch, Fetched, Reader};
pub use event::{About, Delivered, Event, Persisted, Queue};
pub use list::List;
#[cfg(test)]
pub use mock::Mock;
pub use produce::{is_full, Given, Topic, Values};
pub use wake::Wake;

use code::checked;

/// What librdkafka reports: a code, and a text that may say more.
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: Code,
    pub text: String,
    /// The client can do nothing any more.
    pub fatal: bool,
}

impl Failure {
    fn of(code: Code) -> Self {
        Self { code, text: code.text(), fatal: false }
    }

    /// No broker can be reached, whatever the reason.
    pub fn all_down() -> Self {
        Self::new(Code::AllBrokersDown, "all brokers are down")
    }

    /// There is no time left to ask.
    pub fn late() -> Self {
        Self::new(Code::OperationTimedOut, "no answer in time")
    }

    fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), fatal: false }
    }

    /// Takes over an error object; null is success.
    ///
    /// # Safety
    /// `error` is null or owned by the caller, who owns it no more.
    unsafe fn taken(error: *mut sys::rd_kafka_error_t) -> Result<()> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: not null, and ours until it is destroyed.
        unsafe {
            let code = code::rd_kafka_error_code(error);
            let text = text_of(sys::rd_kafka_error_string(error));
            let fatal = sys::rd_kafka_error_is_fatal(error) != 0;
            sys::rd_kafka_error_destroy(error);
            Err(Self { code: Code::of(code), text, fatal })
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The answer of a call.
pub type Result<T> = std::result::Result<T, Failure>;

/// A text of librdkafka's; empty for null.
///
/// # Safety
/// `text` is null, or a C string that lives for the call.
unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and a C string by this function's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A text for librdkafka.
fn c_text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Failure::new(Code::InvalidArgument, format!("{text:.80?} has a NUL byte")))
}

/// Nothing went wrong, or what a field tells.
///
/// # Safety
/// `field` is readable.
unsafe fn code_of(field: *const sys::rd_kafka_resp_err_t) -> Result<()> {
    // SAFETY: by this function's contract.
    match unsafe { Code::read(field) } {
        Code::NONE => Ok(()),
        code => Err(Failure::of(code)),
    }
}

/// Milliseconds, at least one: zero is "for ever" or "do not wait" in places.
fn millis(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX).max(1)
}

/// What a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Producer,
    Consumer,
}

/// An instance of librdkafka, with threads and connections of its own. Every handle made from one keeps it.
pub struct Client {
    own: NonNull<sys::rd_kafka_t>,
    patience: OnceLock<Patience>,
}

/// Whether records of a topic are kept until they are sent, however long that takes.
pub type Patience = Arc<dyn Fn(&str) -> bool + Send + Sync>;

// SAFETY: librdkafka's client may be used by any number of threads at once.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

impl Client {
    /// A client with these options; connects in the background.
    pub fn new(role: Role, options: &[(String, String)]) -> Result<Arc<Self>> {
        // Sets OpenSSL up without its handler at exit, before librdkafka does it with one.
        openssl::init();
        let mut text = [0 as c_char; 512];
        // SAFETY: a configuration is ours until `rd_kafka_new` takes it; the buffer outlives the calls.
        unsafe {
            let conf = sys::rd_kafka_conf_new();
            for (name, value) in options {
                let (Ok(c_name), Ok(c_value)) = (CString::new(name.as_str()), CString::new(value.as_str())) else {
                    sys::rd_kafka_conf_destroy(conf);
                    return Err(Failure::new(Code::InvalidArgument, format!("option `{name}` has a NUL byte")));
                };
                let set =
                    sys::rd_kafka_conf_set(conf, c_name.as_ptr(), c_value.as_ptr(), text.as_mut_ptr(), text.len());
                if set != sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
                    sys::rd_kafka_conf_destroy(conf);
                    // Its own text may repeat the value, which may be a secret, and may name an older option.
                    let said = text_of(text.as_ptr());
                    let is_told = said.contains(value.as_str()) || value.len() > 64;
                    let said = if is_told { "not a value that it may have" } else { &said };
                    return Err(Failure::new(Code::InvalidArgument, format!("option `{name}`: {said}")));
                }
            }
            let events = sys::RD_KAFKA_EVENT_DR
                | sys::RD_KAFKA_EVENT_ERROR
                | sys::RD_KAFKA_EVENT_LOG
                | sys::RD_KAFKA_EVENT_REBALANCE
                | sys::RD_KAFKA_EVENT_OFFSET_COMMIT
                | sys::RD_KAFKA_EVENT_OAUTHBEARER_TOKEN_REFRESH;
            sys::rd_kafka_conf_set_events(conf, events);
            let kind = match role {
                Role::Producer => sys::rd_kafka_type_t::RD_KAFKA_PRODUCER,
                Role::Consumer => sys::rd_kafka_type_t::RD_KAFKA_CONSUMER,
            };
            let client = sys::rd_kafka_new(kind, conf, text.as_mut_ptr(), text.len());
            let Some(client) = NonNull::new(client) else {
                sys::rd_kafka_conf_destroy(conf);
                return Err(Failure::new(Code::InvalidArgument, text_of(text.as_ptr())));
            };
            let own = Arc::new(Self { own: client, patience: OnceLock::new() });
            sys::rd_kafka_set_log_queue(own.ptr(), std::ptr::null_mut());
            Ok(own)
        }
    }

    fn ptr(&self) -> *mut sys::rd_kafka_t {
        self.own.as_ptr()
    }

    /// The topics of the cluster with their numbers of partitions: all, or one. Asks a broker.
    pub fn topics(&self, one: Option<&Topic>, timeout: Duration) -> Result<Vec<(String, Result<i32>)>> {
        let mut metadata = std::ptr::null();
        let only = one.map_or(std::ptr::null_mut(), Topic::ptr);
        // SAFETY: client and topic live; the answer is ours until it is destroyed below.
        unsafe {
            checked(code::rd_kafka_metadata(self.ptr(), 0, only, &raw mut metadata, millis(timeout)))?;
            Ok(read_topics(metadata))
        }
    }

    /// As [`Client::topics`], of the whole cluster.
    pub fn all_topics(&self, timeout: Duration) -> Result<Vec<(String, Result<i32>)>> {
        let mut metadata = std::ptr::null();
        // SAFETY: as in `topics`.
        unsafe {
            checked(code::rd_kafka_metadata(self.ptr(), 1, std::ptr::null_mut(), &raw mut metadata, millis(timeout)))?;
            Ok(read_topics(metadata))
        }
    }

    /// First offset kept and next offset of a partition. Asks its leader.
    pub fn watermarks(&self, topic: &str, partition: i32, timeout: Duration) -> Result<(i64, i64)> {
        let topic = c_text(topic)?;
        let (mut low, mut high) = (0, 0);
        // SAFETY: the client lives, and the out-pointers are of the caller's frame.
        let code = unsafe {
            code::rd_kafka_query_watermark_offsets(
                self.ptr(),
                topic.as_ptr(),
                partition,
                &raw mut low,
                &raw mut high,
                millis(timeout),
            )
        };
        checked(code).map(|()| (low, high))
    }

    /// Replaces the times in `list` (milliseconds since 1970, as offsets) by the first offset at or after them;
    /// -1 where there is none. Each partition has an error of its own.
    pub fn offsets_for_times(&self, list: &mut List, timeout: Duration) -> Result<()> {
        // SAFETY: client and list live.
        checked(unsafe { code::rd_kafka_offsets_for_times(self.ptr(), list.ptr(), millis(timeout)) })
    }

    /// Gives the client a token to log in with.
    pub fn set_token(&self, token: &str, expires_at_ms: i64) -> Result<()> {
        let token = c_text(token)?;
        let mut text = [0 as c_char; 512];
        // SAFETY: texts live for the call; there are no extensions.
        let code = unsafe {
            code::rd_kafka_oauthbearer_set_token(
                self.ptr(),
                token.as_ptr(),
                expires_at_ms,
                c"helixmq".as_ptr(),
                std::ptr::null_mut(),
                0,
                text.as_mut_ptr(),
                text.len(),
            )
        };
        checked(code).map_err(|mut failure| {
            // SAFETY: written by the call above, with its NUL.
            failure.text = unsafe { text_of(text.as_ptr()) };
            failure
        })
    }

    /// Says that no token was to be had; the client asks again later.
    pub fn set_token_failure(&self, why: &str) {
        if let Ok(why) = c_text(why) {
            // SAFETY: the text lives for the call.
            unsafe { sys::rd_kafka_oauthbearer_set_token_failure(self.ptr(), why.as_ptr()) };
        }
    }
}

/// # Safety
/// `metadata` is an answer of `rd_kafka_metadata`, owned by the caller, who owns it no more.
unsafe fn read_topics(metadata: *const sys::rd_kafka_metadata) -> Vec<(String, Result<i32>)> {
    // SAFETY: the arrays have the lengths that are told beside them, and live until the destroy.
    unsafe {
        let count = usize::try_from((*metadata).topic_cnt).unwrap_or_default();
        let topics = match count {
            0 => &[][..],
            count => std::slice::from_raw_parts((*metadata).topics, count),
        };
        let read = topics
            .iter()
            .map(|topic| (text_of(topic.topic), code_of(&raw const topic.err).map(|()| topic.partition_cnt)));
        let read = read.collect();
        sys::rd_kafka_metadata_destroy(metadata);
        read
    }
}

impl Drop for Client {
    /// On a thread of its own: librdkafka waits for its threads, and for a consumer's last words.
    fn drop(&mut self) {
        struct Ending(NonNull<sys::rd_kafka_t>);
        // SAFETY: any thread may destroy a client; nobody else holds this one.
        unsafe impl Send for Ending {}
        impl Ending {
            fn end(self) {
                // SAFETY: the last hold; every handle made from the client kept it until it was gone itself.
                unsafe { sys::rd_kafka_destroy_flags(self.0.as_ptr(), sys::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE) };
            }
        }
        let ending = Ending(self.own);
        // Refused a thread, the memory stays: waiting here could take for ever.
        drop(crate::runtime::spawn_thread("hmq-kafka-end", move || ending.end()));
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}
