//! How ours publishes: records by `hmq_pub_send_inbox`, and an inbox that tells what became of each.

use std::ptr::null_mut;

use helixmq_rivals::abi::*;
use helixmq_rivals::hub::{empty_event, empty_record, must, Hub, Inbox, Publisher};

/// Records of one call of `hmq_pub_send_inbox`.
pub const RECORDS: usize = 128;
/// Events of one poll.
pub const EVENTS: usize = 256;
/// Nothing at all for so long is a failure.
pub const SILENCE_MS: i32 = 60_000;

/// The inbox for outcomes.
pub struct Outcomes {
    inbox: Inbox,
    events: Box<[hmq_event; EVENTS]>,
}

impl Outcomes {
    /// `window`: the largest of those that [`Self::publish`] is asked for.
    pub fn of(hub: &Hub, window: usize) -> Self {
        let inbox = hub.inbox(&format!(r#"{{"capacity": {window}}}"#));
        Self { inbox, events: Box::new([empty_event(); EVENTS]) }
    }

    /// Publishes `record` with the window kept full, until `more`, told how many were taken last, wants
    /// none; then waits for the rest. Answers how many were confirmed.
    pub fn publish(
        &mut self,
        publisher: &Publisher,
        record: &hmq_record,
        window: usize,
        mut more: impl FnMut(usize) -> usize,
    ) -> u64 {
        let records = [*record; RECORDS];
        let (mut open, mut confirmed) = (0, 0);
        let mut wanted = more(0);
        while wanted > 0 || open > 0 {
            let count = RECORDS.min(wanted).min(window - open);
            // Calls are not made smaller than need be; half of a small window goes at once.
            if count > 0 && (count == wanted || window - open >= RECORDS.min(window / 2)) {
                let mut accepted = 0;
                let inbox = self.inbox.handle();
                // SAFETY: `count` records whose bodies outlive the call.
                must(|err| unsafe {
                    hmq_pub_send_inbox(
                        publisher.handle(),
                        records.as_ptr(),
                        count,
                        inbox,
                        null_mut(),
                        &mut accepted,
                        err,
                    )
                });
                open += accepted;
                wanted = more(accepted);
            } else {
                let outcomes = self.take();
                open -= outcomes;
                confirmed += outcomes as u64;
            }
        }
        confirmed
    }

    /// Outcomes of publishes, all of which must be confirmed.
    fn take(&mut self) -> usize {
        let count = self.inbox.poll_within(&mut self.events[..], SILENCE_MS);
        assert!(count > 0, "no outcome for {SILENCE_MS} ms");
        for event in &self.events[..count] {
            let (kind, status) = (event.kind, event.status);
            assert!(kind == HMQ_EV_PUBLISHED && status == HMQ_OK, "event {kind} with status {status}");
        }
        // SAFETY: `count` events are filled.
        unsafe { hmq_events_clear(self.events.as_mut_ptr(), count) };
        count
    }
}

/// A record with that payload, which must outlive its use.
pub fn record_of(payload: &[u8]) -> hmq_record {
    hmq_record { payload: payload.as_ptr().cast(), payload_len: payload.len(), ..empty_record() }
}
