//! Handing records to a producer.

use std::ffi::{c_char, c_int, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use rdkafka_sys as sys;

use super::{c_text, code, code_of, Client, Code, Failure, Result};

/// A topic of a client, kept so that it is not looked up for each record.
pub struct Topic {
    topic: NonNull<sys::rd_kafka_topic_t>,
    client: Arc<Client>,
}

// SAFETY: librdkafka's topics may be used by any number of threads at once.
unsafe impl Send for Topic {}
// SAFETY: as above.
unsafe impl Sync for Topic {}

/// The partitioner chooses.
const ANY_PARTITION: i32 = -1;
/// Values that a call takes for one record.
const FIXED_VALUES: usize = 7;

/// A record as librdkafka takes it; all of it is copied.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    pub value: &'a [u8],
    pub key: Option<&'a [u8]>,
    pub timestamp_ms: i64,
    pub opaque: u64,
}

/// Room for the values of one call, reused.
#[derive(Default)]
pub struct Values {
    of_one: Vec<sys::rd_kafka_vu_t>,
    of_many: Vec<sys::rd_kafka_message_t>,
}

// SAFETY: holds pointers only during a call.
unsafe impl Send for Values {}

impl Topic {
    /// The topic of this name. Its first handle at a client says what holds for all of them.
    pub fn new(client: &Arc<Client>, name: &str) -> Result<Self> {
        let is_patient = client.patience.get().is_some_and(|patience| patience(name));
        let name = c_text(name)?;
        let settings = if is_patient { patient(client)? } else { std::ptr::null_mut() };
        // SAFETY: client and name live; null means the client's own settings, others belong to the topic from now on.
        let topic = unsafe { sys::rd_kafka_topic_new(client.ptr(), name.as_ptr(), settings) };
        match NonNull::new(topic) {
            Some(topic) => Ok(Self { topic, client: Arc::clone(client) }),
            // SAFETY: a thread-local of librdkafka's.
            None => Err(Failure::of(Code::of(unsafe { code::rd_kafka_last_error() }))),
        }
    }

    pub(super) fn ptr(&self) -> *mut sys::rd_kafka_topic_t {
        self.topic.as_ptr()
    }

    /// Takes a record with its headers (names end with a NUL). Never waits.
    pub fn produce<'h>(
        &self,
        given: &Given<'_>,
        headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
        values: &mut Values,
    ) -> Result<()> {
        let values = &mut values.of_one;
        values.clear();
        values.reserve(FIXED_VALUES);
        let memory = |bytes: &[u8]| sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
            ptr: bytes.as_ptr().cast_mut().cast(),
            size: bytes.len(),
        };
        let mut push = |vtype, u| values.push(sys::rd_kafka_vu_t { vtype, u });
        use sys::rd_kafka_vtype_t as V;
        use sys::rd_kafka_vu_s__bindgen_ty_1 as U;
        push(V::RD_KAFKA_VTYPE_RKT, U { rkt: self.ptr() });
        push(V::RD_KAFKA_VTYPE_MSGFLAGS, U { i: sys::RD_KAFKA_MSG_F_COPY });
        push(V::RD_KAFKA_VTYPE_VALUE, U { mem: memory(given.value) });
        if let Some(key) = given.key {
            push(V::RD_KAFKA_VTYPE_KEY, U { mem: memory(key) });
        }
        push(V::RD_KAFKA_VTYPE_TIMESTAMP, U { i64_: given.timestamp_ms });
        push(V::RD_KAFKA_VTYPE_OPAQUE, U { ptr: given.opaque as usize as *mut c_void });
        for (name, value) in headers {
            let header = sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 {
                name: name.as_ptr().cast::<c_char>(),
                val: value.as_ptr().cast(),
                size: value.len() as isize,
            };
            push(V::RD_KAFKA_VTYPE_HEADER, U { header });
        }
        // SAFETY: client and topic live; every value points to memory that outlives the call, and is copied by
        // it; names of headers end with a NUL by this function's contract, which `wire::Frame` keeps.
        unsafe {
            let failed = sys::rd_kafka_produceva(self.client.ptr(), values.as_ptr(), values.len());
            Failure::taken(failed)
        }
    }

    /// Takes records without headers, whose time is now; their own is not looked at. Never waits. Answers how
    /// many of them were taken, from the front.
    ///
    /// None of them may be larger than the client takes: librdkafka would go on behind it.
    pub fn produce_plain<'a>(&self, records: impl Iterator<Item = Given<'a>>, values: &mut Values) -> usize {
        let messages = &mut values.of_many;
        messages.clear();
        messages.extend(records.map(|given| {
            // SAFETY: numbers and pointers, for which zero is a value.
            let mut message: sys::rd_kafka_message_t = unsafe { std::mem::zeroed() };
            message.payload = given.value.as_ptr().cast_mut().cast();
            message.len = given.value.len();
            if let Some(key) = given.key {
                message.key = key.as_ptr().cast_mut().cast();
                message.key_len = key.len();
            }
            message._private = given.opaque as usize as *mut c_void;
            message
        }));
        let count = c_int::try_from(messages.len()).unwrap_or(c_int::MAX);
        let copies: c_int = sys::RD_KAFKA_MSG_F_COPY;
        // SAFETY: the topic lives; there are so many messages, whose memory outlives the call and is copied by it.
        unsafe { sys::rd_kafka_produce_batch(self.ptr(), ANY_PARTITION, copies, messages.as_mut_ptr(), count) };
        // SAFETY: written by the call above.
        let taken = |message: &sys::rd_kafka_message_t| unsafe { code_of(&raw const message.err) }.is_ok();
        messages.iter().take_while(|message| taken(message)).count()
    }
}

/// The client's own settings for topics, but for the time of a record, which has no end.
fn patient(client: &Client) -> Result<*mut sys::rd_kafka_topic_conf_t> {
    let mut text = [0; 256];
    // SAFETY: the client lives; the settings are a new copy, the texts end with a NUL, the buffer has this length.
    let (settings, set) = unsafe {
        let settings = sys::rd_kafka_default_topic_conf_dup(client.ptr());
        let (name, value) = (c"message.timeout.ms".as_ptr(), c"0".as_ptr());
        (settings, sys::rd_kafka_topic_conf_set(settings, name, value, text.as_mut_ptr(), text.len()))
    };
    if set == sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
        return Ok(settings);
    }
    // SAFETY: nobody else has them; the text ends with a NUL.
    let why = unsafe {
        sys::rd_kafka_topic_conf_destroy(settings);
        super::text_of(text.as_ptr())
    };
    Err(Failure::new(Code::InvalidArgument, &why))
}

impl Client {
    /// Says which records are not given up for their time alone; once, before there is any topic.
    pub fn set_patience(&self, patience: super::Patience) {
        let _ = self.patience.set(patience);
    }

    /// Ends every record that has not ended; each is reported.
    pub fn purge(&self) {
        let flags = sys::RD_KAFKA_PURGE_F_QUEUE | sys::RD_KAFKA_PURGE_F_INFLIGHT;
        // SAFETY: the client lives.
        unsafe { sys::rd_kafka_purge(self.ptr(), flags) };
    }

    /// For this long, or until every record has ended, none waits for others before it is sent. Delivery reports
    /// are to be heard meanwhile, by somebody else.
    pub fn hurry(&self, time: Duration) {
        // SAFETY: the client lives.
        unsafe { sys::rd_kafka_flush(self.ptr(), super::millis(time)) };
    }

    /// Records that have not ended.
    pub fn unfinished(&self) -> usize {
        // SAFETY: the client lives.
        usize::try_from(unsafe { sys::rd_kafka_outq_len(self.ptr()) }).unwrap_or_default()
    }
}

/// Whether a hand-over was refused for want of room.
pub fn is_full(failure: &Failure) -> bool {
    failure.code == Code::QueueFull
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: the last hold.
        unsafe { sys::rd_kafka_topic_destroy(self.ptr()) };
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Topic")
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Values")
    }
}
