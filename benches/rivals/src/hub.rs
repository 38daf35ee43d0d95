//! helixmq as a side of a comparison: a hub with the embedded broker alone, used through its C ABI.

use std::ffi::{c_char, c_void, CStr};
use std::ptr::{null, null_mut};

use crate::abi::*;

/// Messages that one call of the batch forms carries.
pub const BATCH: usize = 64;

/// A hub; freed with its drop.
pub struct Hub(*mut hmq_hub);

// SAFETY: the header allows every thread to use a handle.
unsafe impl Send for Hub {}
// SAFETY: as above.
unsafe impl Sync for Hub {}

impl Hub {
    /// Opens a hub without servers. `memory` is the most that its messages may take, in bytes.
    pub fn open(memory: usize) -> Self {
        Self::configured(&format!(r#"{{"embedded": {{"memory_bytes_max": {memory}}}}}"#))
    }

    /// Opens a hub by its configuration.
    pub fn configured(config: &str) -> Self {
        let mut hub = null_mut();
        // SAFETY: the text outlives the call; the outputs are valid.
        must(|err| unsafe { hmq_hub_open(text(config), config.len(), 5_000, &mut hub, err) });
        Self(hub)
    }

    /// Makes an inbox.
    pub fn inbox(&self, options: &str) -> Inbox {
        let mut inbox = null_mut();
        // SAFETY: as in `configured`.
        must(|err| unsafe { hmq_inbox_new(self.0, text(options), options.len(), &mut inbox, err) });
        Inbox(inbox)
    }

    /// Subscribes an inbox; the subscription is freed by the caller.
    pub fn subscribed(&self, inbox: &Inbox, options: &str) -> *mut hmq_sub {
        let mut sub = null_mut();
        // SAFETY: as in `configured`; the inbox lives.
        must(|err| unsafe {
            hmq_subscribe_inbox(self.0, text(options), options.len(), inbox.0, 1, 5_000, &mut sub, err)
        });
        sub
    }

    /// Declares a topic.
    pub fn declare(&self, options: &str) {
        // SAFETY: as in `configured`.
        must(|err| unsafe { hmq_declare(self.0, text(options), options.len(), 5_000, null_mut(), err) });
    }

    /// Removes what waits in a task topic.
    pub fn purge(&self, topic: &str) {
        let selector = format!(r#"{{"name": "{topic}"}}"#);
        // SAFETY: as in `configured`.
        must(|err| unsafe { hmq_purge(self.0, text(&selector), selector.len(), 60_000, null_mut(), err) });
    }

    /// Prepares a publisher.
    pub fn publisher(&self, options: &str) -> Publisher {
        let mut publisher = null_mut();
        // SAFETY: as in `configured`.
        must(|err| unsafe { hmq_pub_new(self.0, text(options), options.len(), &mut publisher, err) });
        Publisher { handle: publisher, records: [empty_record(); BATCH] }
    }

    /// Makes an inbox and subscribes it.
    pub fn subscribe(&self, inbox_options: &str, options: &str) -> Subscription {
        let inbox = self.inbox(inbox_options);
        let sub = self.subscribed(&inbox, options);
        Subscription { inbox, sub, events: [empty_event(); BATCH], settlements: [empty_settlement(); BATCH] }
    }

    /// Holds a server down, for a drill, or lets it go again.
    pub fn force(&self, backend: &str, mode: i32) {
        // SAFETY: as in `configured`.
        must(|err| unsafe { hmq_backend_force(self.0, text(backend), backend.len(), mode, err) });
    }

    /// Waits until nothing is kept for a server any more.
    pub fn wait_forwarded(&self, timeout_ms: i32) {
        // SAFETY: the handle lives.
        must(|err| unsafe { hmq_wait_forwarded(self.0, timeout_ms, err) });
    }

    /// What `hmq_health` tells, as JSON.
    pub fn health(&self) -> String {
        let (mut json, mut len) = (null_mut(), 0);
        // SAFETY: the outputs are valid.
        must(|err| unsafe { hmq_health(self.0, &mut json, &mut len, err) });
        // SAFETY: so many bytes that are ours until they are freed.
        unsafe {
            let copy = String::from_utf8_lossy(std::slice::from_raw_parts(json.cast::<u8>(), len)).into_owned();
            hmq_free(json.cast());
            copy
        }
    }

    /// Publishes a document.
    pub fn publish_json(&self, document: &str) {
        // SAFETY: as in `configured`.
        must(|err| unsafe { hmq_publish_json(self.0, text(document), document.len(), -1, null_mut(), err) });
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and not used after this.
        unsafe {
            let _ = hmq_hub_close(self.0, 1_000, null_mut());
            hmq_hub_free(self.0);
        }
    }
}

/// An inbox; freed with its drop.
pub struct Inbox(*mut hmq_inbox);

// SAFETY: the header allows every thread to use a handle.
unsafe impl Send for Inbox {}
// SAFETY: as above, and all at once; it names one that polls.
unsafe impl Sync for Inbox {}

impl Inbox {
    /// Fills `events` with what comes first; answers how many.
    pub fn poll(&self, events: &mut [hmq_event]) -> usize {
        self.poll_within(events, -1)
    }

    /// The same; none, if nothing comes for `timeout_ms`.
    pub fn poll_within(&self, events: &mut [hmq_event], timeout_ms: i32) -> usize {
        let mut count = 0;
        // SAFETY: there is room for as many events as the call is told.
        let status = unsafe { hmq_inbox_poll(self.0, events.as_mut_ptr(), events.len(), timeout_ms, &mut count) };
        assert!(status == HMQ_OK || status == HMQ_NO_DATA, "hmq_inbox_poll: {status}");
        count
    }

    /// For calls that are not here.
    pub fn handle(&self) -> *mut hmq_inbox {
        self.0
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and not used after this.
        unsafe { hmq_inbox_free(self.0) };
    }
}

/// A prepared publisher, with room for one batch.
pub struct Publisher {
    handle: *mut hmq_pub,
    records: [hmq_record; BATCH],
}

// SAFETY: the header allows every thread to use a handle; the records point at what one call lends.
unsafe impl Send for Publisher {}
// SAFETY: the header allows all threads to use a handle at once; the records are used by one that has it for itself.
unsafe impl Sync for Publisher {}

impl Publisher {
    /// For calls that are not here.
    pub fn handle(&self) -> *mut hmq_pub {
        self.handle
    }

    /// Sends one message with every field that the caller set.
    pub fn send_record(&mut self, record: &hmq_record) {
        // SAFETY: the record and what it points at outlive the call.
        must(|err| unsafe { hmq_pub_send(self.handle, record, -1, null_mut(), err) });
    }

    /// Sends the payload as one message.
    pub fn send_one(&mut self, payload: &[u8]) {
        let record = hmq_record { payload: payload.as_ptr().cast(), payload_len: payload.len(), ..empty_record() };
        self.send_record(&record);
    }

    /// Sends the payload [`BATCH`] times in one call.
    pub fn send_batch(&mut self, payload: &[u8]) {
        for record in &mut self.records {
            record.payload = payload.as_ptr().cast();
            record.payload_len = payload.len();
        }
        let records = self.records.as_ptr();
        // SAFETY: as above.
        must(|err| unsafe { hmq_pub_send_batch(self.handle, records, BATCH, -1, null_mut(), null_mut(), err) });
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and not used after this.
        unsafe { hmq_pub_free(self.handle) };
    }
}

/// An inbox with one subscription, and room for one batch.
pub struct Subscription {
    inbox: Inbox,
    sub: *mut hmq_sub,
    events: [hmq_event; BATCH],
    settlements: [hmq_settlement; BATCH],
}

// SAFETY: the header allows every thread to use a handle; the events are emptied before a call returns.
unsafe impl Send for Subscription {}

impl Subscription {
    fn poll(&mut self, max: usize) -> usize {
        self.inbox.poll(&mut self.events[..max])
    }

    fn each(&self, count: usize, on: &mut impl FnMut(&[u8])) {
        for event in &self.events[..count] {
            assert_eq!(event.kind, HMQ_EV_MESSAGE, "an event that is no message: status {}", event.status);
            // SAFETY: the payload lives until the event is cleared.
            on(unsafe { std::slice::from_raw_parts(event.payload.cast(), event.payload_len) });
        }
    }

    /// Waits for one message, acknowledges and clears it.
    pub fn receive_one(&mut self, on: &mut impl FnMut(&[u8])) {
        if self.poll(1) == 0 {
            return;
        }
        self.each(1, on);
        let token = self.events[0].token;
        // SAFETY: no pointer but `err` is given.
        must(|err| unsafe { hmq_settle(token, HMQ_ACK, 0, null(), 0, err) });
        // SAFETY: one event was filled.
        unsafe { hmq_events_clear(self.events.as_mut_ptr(), 1) };
    }

    /// Takes up to [`BATCH`] messages, acknowledges and clears them in one call each.
    pub fn receive_batch(&mut self, on: &mut impl FnMut(&[u8])) {
        let count = self.poll(BATCH);
        self.each(count, on);
        for (settlement, event) in self.settlements.iter_mut().zip(&self.events[..count]) {
            settlement.token = event.token;
        }
        let settlements = self.settlements.as_mut_ptr();
        // SAFETY: `count` settlements and events are filled.
        must(|err| unsafe { hmq_settle_many(settlements, count, err) });
        // SAFETY: as above.
        unsafe { hmq_events_clear(self.events.as_mut_ptr(), count) };
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and not used after this.
        unsafe { hmq_sub_free(self.sub) };
    }
}

/// What `hmq_version_string` says.
pub fn version() -> String {
    // SAFETY: a text that lives as long as the process.
    unsafe { CStr::from_ptr(hmq_version_string()) }.to_string_lossy().into_owned()
}

/// A record with nothing in it, as `HMQ_RECORD_INIT`.
pub fn empty_record() -> hmq_record {
    hmq_record {
        size: size_of::<hmq_record>() as u32,
        kind: 0,
        topic: null(),
        topic_len: 0,
        payload: null(),
        payload_len: 0,
        key: null(),
        key_len: 0,
        id: null(),
        id_len: 0,
        type_: null(),
        type_len: 0,
        headers: null(),
        header_count: 0,
        timestamp_us: 0,
        delay_ms: 0,
        ttl_ms: 0,
        priority: -1,
        flags: 0,
        meta: null(),
        meta_len: 0,
        tag: 0,
    }
}

/// An event to be filled, as `HMQ_EVENT_INIT`.
pub fn empty_event() -> hmq_event {
    // SAFETY: integers and pointers, for which zero is a value.
    let zero: hmq_event = unsafe { std::mem::zeroed() };
    hmq_event { size: size_of::<hmq_event>() as u32, ..zero }
}

/// An acknowledgement, still without a token.
pub fn empty_settlement() -> hmq_settlement {
    hmq_settlement {
        size: size_of::<hmq_settlement>() as u32,
        verdict: HMQ_ACK,
        token: 0,
        delay_ms: 0,
        reason: null(),
        reason_len: 0,
        result: 0,
        reserved: 0,
    }
}

/// Runs a call; anything but `HMQ_OK` ends the program with the error's text.
pub fn must(call: impl FnOnce(*mut *mut hmq_error) -> hmq_status) {
    let mut error = null_mut();
    let status = call(&mut error);
    if status != HMQ_OK {
        failed(status, error);
    }
}

#[cold]
fn failed(status: hmq_status, error: *mut hmq_error) -> ! {
    let mut len = 0;
    // SAFETY: the text lives until the error is freed.
    let json = unsafe {
        let json = hmq_error_json(error, &mut len);
        std::slice::from_raw_parts(json.cast::<u8>(), len).to_vec()
    };
    // SAFETY: the handle is ours.
    unsafe { hmq_error_free(error) };
    panic!("status {status}: {}", String::from_utf8_lossy(&json));
}

fn text(text: &str) -> *const c_char {
    text.as_ptr().cast()
}

/// Bytes as the ABI takes them.
pub fn bytes(bytes: &[u8]) -> *const c_void {
    bytes.as_ptr().cast()
}
