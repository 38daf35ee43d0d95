//! Batches: those that are waited for, and those whose outcomes go to an inbox.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::inbox::{Event, Inbox};
use super::inflight::{Answers, Done};
use super::patience::{Asked, Call};
use super::publish::{full, Prepared, Publisher};
use super::receipt::ReceiptId;
use super::Timeout;
use crate::error::{Error, Fate, Kind};
use crate::message::Record;
use crate::sync::Deadline;

/// For what does not wait.
const AT_ONCE: Timeout = Some(Duration::ZERO);

impl Publisher {
    /// Publishes records in order, without waiting; each outcome becomes an event of `inbox` with the
    /// record's tag. Answers how many were taken, and why no more.
    pub fn send_inbox(
        &self,
        records: &[Record<'_>],
        tags: &[u64],
        inbox: &Inbox,
        ops: Option<&mut [u64]>,
    ) -> (usize, Option<Error>) {
        let own = &*self.0;
        if let Err(error) = own.hub.check_open().and_then(|()| inbox.0.check_hub(own.hub.id)) {
            return (0, Some(error));
        }
        let ops = ops.unwrap_or_default();
        let tags = tags.iter().copied().chain(std::iter::repeat(0));
        if own.outlet.backend.receipts.at_once {
            return own.tell_at_once(records, tags, inbox, ops);
        }
        own.tell_later(records, tags, inbox, ops)
    }
}

impl Prepared {
    /// A broker in memory has an outcome for each by the time it has taken it.
    fn tell_at_once(
        &self,
        records: &[Record<'_>],
        tags: impl Iterator<Item = u64>,
        inbox: &Inbox,
        ops: &mut [u64],
    ) -> (usize, Option<Error>) {
        for (index, (record, tag)) in records.iter().zip(tags).enumerate() {
            if inbox.0.reserve(1) == 0 {
                return (index, Some(no_room()));
            }
            match self.hub.publish_one(&self.outlet, record, self.require, AT_ONCE) {
                Ok(receipt) => {
                    let op = self.hub.next_id();
                    inbox.0.push_results([Event::Published { tag, op, result: Ok(receipt) }]);
                    if let Some(slot) = ops.get_mut(index) {
                        *slot = op;
                    }
                }
                Err(error) => {
                    inbox.0.unreserve(1);
                    return (index, Some(error));
                }
            }
        }
        (records.len(), None)
    }

    /// To a broker that answers later: all that there is room for, at once.
    fn tell_later(
        &self,
        records: &[Record<'_>],
        mut tags: impl Iterator<Item = u64>,
        inbox: &Inbox,
        ops: &mut [u64],
    ) -> (usize, Option<Error>) {
        let (hub, outlet) = (&self.hub, &*self.outlet);
        let refused = records.iter().enumerate().find_map(|(index, record)| {
            hub.check_publish(outlet, record, self.require).err().map(|error| (index, error))
        });
        let good = refused.as_ref().map_or(records.len(), |(index, _)| *index);
        let promised = inbox.0.reserve(good);
        let target = Arc::downgrade(&inbox.0);
        let mut slots = ops.iter_mut();
        let (first, entered) = hub.inflight.enter_all(promised, outlet.backend.kind, || {
            let op = hub.next_id();
            if let Some(slot) = slots.next() {
                *slot = op;
            }
            Some((op, Done::Inbox { inbox: target.clone(), tag: tags.next().unwrap_or_default() }))
        });
        let batch = records.get(..entered).unwrap_or_default();
        let handed = hub.hand_over(outlet, batch, first, Asked::now(self.require), AT_ONCE);
        let taken = batch.get(..handed.count).unwrap_or_default();
        hub.count_published(taken.len() as u64, taken.iter().map(|record| record.payload.len()).sum());
        let id = |index: usize| {
            let seq = handed.first_seq + index as u64;
            taken.get(index).map_or(ReceiptId::Made(0, seq), |record| ReceiptId::of(record, outlet, seq))
        };
        hub.inflight.handed_over(first, taken.len(), id, handed.level);
        hub.inflight.withdraw(crate::broker::Ticket(first.0 + taken.len() as u64), entered - taken.len());
        inbox.0.unreserve(promised - taken.len());
        drop(slots);
        ops.iter_mut().skip(taken.len()).for_each(|slot| *slot = 0);
        let stopped = match (handed.stopped, refused) {
            (Some(error), _) => Some(hub.count_failed(Some(error))),
            (None, _) if entered < promised => Some(hub.inflight.full()),
            (None, _) if promised < good => Some(no_room()),
            (None, refused) => refused.map(|(_, error)| error),
        };
        (taken.len(), stopped)
    }
}

fn no_room() -> Error {
    full("the inbox has no room for the result")
}

/// A batch on its way. An embedded broker in memory takes its records one after another, up to the first
/// that it does not take. A server, or the disk, has many on their way at once: the hand-over stops when one is not
/// taken, or is known to have failed or to be unknown; of those that follow it some may be taken.
pub struct Sending<'a> {
    own: &'a Prepared,
    call: Call,
    /// So many were handed over.
    handed: usize,
    /// Of a broker that answers later.
    answers: Option<Arc<Answers>>,
}

impl<'a> Sending<'a> {
    pub(super) fn new(own: &'a Prepared, timeout: Timeout) -> Self {
        Self { own, call: own.hub.call(Deadline::after(timeout)), handed: 0, answers: None }
    }

    /// Hands records over; answers how many, and why it stopped.
    pub fn send(&mut self, records: &[Record<'_>]) -> (usize, Option<Error>) {
        let own = self.own;
        let (count, stopped) = if own.outlet.backend.receipts.at_once {
            own.hub.publish_many(&own.outlet, records, own.require, self.call.deadline.left())
        } else {
            self.start(records)
        };
        self.handed += count;
        (count, stopped)
    }

    fn start(&mut self, records: &[Record<'_>]) -> (usize, Option<Error>) {
        let own = self.own;
        let answers = self.answers.get_or_insert_default();
        let first = answers.expect(records.len());
        for (index, record) in records.iter().enumerate() {
            let started = match answers.failed() {
                true => Err(None),
                false => {
                    let tell = || -> Done {
                        let told = Arc::clone(answers);
                        Done::call(move |result| told.set(first + index, result))
                    };
                    own.hub.start_waiting(&own.outlet, record, own.require, self.call, tell).map_err(Some)
                }
            };
            if let Err(stopped) = started {
                answers.forget(records.len() - index);
                // One that failed before has the reason.
                return (index, Some(stopped.unwrap_or_else(not_tried)));
            }
        }
        (records.len(), None)
    }

    /// Waits for the outcomes. `stopped`: why the record behind those handed over was not.
    pub fn finish(self, stopped: Option<Error>, each: Option<&mut [i32]>) -> (usize, Option<Error>) {
        let each = each.unwrap_or_default();
        each.fill(Kind::Cancelled.code());
        each.iter_mut().take(self.handed).for_each(|status| *status = 0);
        if let (Some(status), Some(stopped)) = (each.get_mut(self.handed), &stopped) {
            *status = stopped.kind().code();
        }
        let (mut taken, mut first) = (self.handed, None);
        let outcomes = self.answers.map(|answers| answers.wait(self.call.deadline)).unwrap_or_default();
        for (index, failed) in outcomes.into_iter().enumerate() {
            let Some(failed) = failed else { continue };
            self.own.hub.count_unknown(&failed);
            if let Some(status) = each.get_mut(index) {
                *status = failed.kind().code();
            }
            taken -= 1;
            first = first.or(Some(failed));
        }
        (taken, first.or(stopped))
    }
}

fn not_tried() -> Error {
    Error::new(Kind::Cancelled, "not tried, as one before it had failed").with_fate(Fate::NotSent)
}

impl fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("handed", &self.handed).finish_non_exhaustive()
    }
}
