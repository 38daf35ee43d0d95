//! No allocation per message: once warm, publishing, polling, settling and clearing through the
//! C ABI leave the allocator alone, one by one and in batches, for tasks and for events.
//!
//! The counter sees every thread of the process, hence one test function and no other test here.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test says what is wrong by failing")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_char;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};

use helixmq::ffi::*;

/// Messages that one batch call carries.
const BATCH: usize = 64;
/// Bound of a topic, so that a log of events, which keeps what was read, is full and goes round.
const KEPT_MAX: usize = 4096;
/// Enough for the bound and every segment size to be reached and every table to have grown.
const WARM_UP: usize = 50_000;
const MESSAGES: usize = 100_000;
/// With ids and lanes some megabytes: many segments are filled, freed and used again.
const PAYLOAD: [u8; 100] = [7; 100];

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on as it came; the counter has no part in the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_allocation_per_message() {
    let hub = open();
    let mut found = Vec::new();
    for kind in ["task", "event"] {
        for batch in [1, BATCH] {
            let mut way = Way::new(hub, kind, batch);
            way.pass(WARM_UP);
            found.push((kind, batch, way.pass(MESSAGES)));
            way.free();
        }
    }
    let expected: Vec<_> = found.iter().map(|(kind, batch, _)| (*kind, *batch, Calls::default())).collect();
    assert_eq!(found, expected, "allocations by call, of {MESSAGES} messages");
    // SAFETY: the handle is ours, and not used after this.
    unsafe {
        assert_eq!(hmq_hub_close(hub, 5_000, null_mut()), OK);
        hmq_hub_free(hub);
    }
}

/// Allocations of each call.
#[derive(Debug, Default, PartialEq, Eq)]
struct Calls {
    publish: u64,
    poll: u64,
    settle: u64,
    clear: u64,
}

/// From a publisher through a topic into an inbox, `batch` messages per call.
struct Way {
    publisher: *mut hmq_pub,
    inbox: *mut hmq_inbox,
    subscription: *mut hmq_sub,
    batch: usize,
    records: Vec<hmq_record>,
    events: Vec<hmq_event>,
    settlements: Vec<hmq_settlement>,
}

impl Way {
    fn new(hub: *mut hmq_hub, kind: &str, batch: usize) -> Self {
        let topic = format!("{kind}s.allocations-{batch}");
        let (mut publisher, mut inbox, mut subscription) = (null_mut(), null_mut(), null_mut());
        let to = format!(r#"{{"topic": "{topic}", "kind": "{kind}"}}"#);
        let from = format!(r#"{{"topic": "{topic}", "kind": "{kind}", "group": "all", "prefetch": 128}}"#);
        let declared = format!(r#"{{"name": "{topic}", "kind": "{kind}", "messages_max": {KEPT_MAX}}}"#);
        // SAFETY: the texts outlive the calls, the outputs are valid.
        unsafe {
            must(|err| hmq_declare(hub, text(&declared), declared.len(), 5_000, null_mut(), err));
            must(|err| hmq_pub_new(hub, text(&to), to.len(), &mut publisher, err));
            must(|err| hmq_inbox_new(hub, null(), 0, &mut inbox, err));
            must(|err| hmq_subscribe_inbox(hub, text(&from), from.len(), inbox, 1, 5_000, &mut subscription, err));
        }
        Self {
            publisher,
            inbox,
            subscription,
            batch,
            records: vec![record(); batch],
            events: vec![event(); batch],
            settlements: vec![settlement(); batch],
        }
    }

    /// Sends and takes at least `count` messages.
    fn pass(&mut self, count: usize) -> Calls {
        let mut calls = Calls::default();
        for _ in 0..count.div_ceil(BATCH) {
            // A queue of one batch at a time, whatever a call carries.
            for _ in 0..BATCH / self.batch {
                calls.publish += counted(|| self.publish());
            }
            let mut taken = 0;
            while taken < BATCH {
                let mut polled = 0;
                calls.poll += counted(|| polled = self.poll());
                calls.settle += counted(|| self.settle(polled));
                // SAFETY: so many events were filled.
                calls.clear += counted(|| unsafe { hmq_events_clear(self.events.as_mut_ptr(), polled) });
                taken += polled;
            }
        }
        calls
    }

    fn publish(&self) {
        let records = self.records.as_ptr();
        // SAFETY: the records and their payload outlive the call.
        unsafe {
            if self.batch == 1 {
                must(|err| hmq_pub_send(self.publisher, records, 0, null_mut(), err));
            } else {
                must(|err| hmq_pub_send_batch(self.publisher, records, self.batch, 0, null_mut(), null_mut(), err));
            }
        }
    }

    fn poll(&mut self) -> usize {
        let mut count = 0;
        // SAFETY: there is room for `batch` events.
        let status = unsafe { hmq_inbox_poll(self.inbox, self.events.as_mut_ptr(), self.batch, 5_000, &mut count) };
        assert_eq!(status, OK, "what was published did not come");
        count
    }

    fn settle(&mut self, count: usize) {
        // SAFETY: `count` settlements are filled.
        unsafe {
            if self.batch == 1 {
                must(|err| hmq_settle(self.events[0].token, ACK, 0, null(), 0, err));
            } else {
                for (settlement, event) in self.settlements.iter_mut().zip(&self.events[..count]) {
                    settlement.token = event.token;
                }
                must(|err| hmq_settle_many(self.settlements.as_mut_ptr(), count, err));
            }
        }
    }

    fn free(self) {
        // SAFETY: the handles are ours, and not used after this.
        unsafe {
            hmq_sub_free(self.subscription);
            hmq_inbox_free(self.inbox);
            hmq_pub_free(self.publisher);
        }
    }
}

/// Allocations of the whole process while `body` runs.
fn counted(body: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    body();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

fn open() -> *mut hmq_hub {
    let mut hub = null_mut();
    // With retention, so that logs reach their steady state: each publish drops as much as it adds.
    let config = r##"{"topics":[{"pattern":"#","bytes_max":1048576,"overflow":"drop_oldest"}]}"##;
    // SAFETY: the text outlives the call, the output is valid.
    must(|err| unsafe { hmq_hub_open(text(config), config.len(), 5_000, &mut hub, err) });
    hub
}

fn must(call: impl FnOnce(*mut *mut hmq_error) -> hmq_status) {
    let mut error = null_mut();
    let status = call(&mut error);
    // SAFETY: the status names a text that lives for ever.
    let name = unsafe { std::ffi::CStr::from_ptr(hmq_status_name(status)) };
    assert_eq!(status, OK, "{name:?}");
}

fn text(text: &str) -> *const c_char {
    text.as_ptr().cast()
}

fn record() -> hmq_record {
    // SAFETY: integers and pointers, for which zero is a value.
    let zero: hmq_record = unsafe { std::mem::zeroed() };
    let payload = PAYLOAD.as_ptr().cast();
    hmq_record { size: size_of::<hmq_record>() as u32, payload, payload_len: PAYLOAD.len(), priority: -1, ..zero }
}

fn event() -> hmq_event {
    // SAFETY: as above.
    let zero: hmq_event = unsafe { std::mem::zeroed() };
    hmq_event { size: size_of::<hmq_event>() as u32, ..zero }
}

fn settlement() -> hmq_settlement {
    // SAFETY: as above.
    let zero: hmq_settlement = unsafe { std::mem::zeroed() };
    hmq_settlement { size: size_of::<hmq_settlement>() as u32, verdict: ACK, ..zero }
}
