//! Batches that are waited for.

use std::fmt;
use std::sync::Arc;

use super::inflight::{Answers, Done};
use super::publish::Prepared;
use super::Timeout;
use crate::broker::BackendKind;
use crate::error::{Error, Fate, Kind};
use crate::message::Record;
use crate::sync::Deadline;

/// A batch on its way. An embedded broker takes its records one after another, up to the first that
/// it does not take. A server has many on their way at once: the hand-over stops when one is not
/// taken, or is known to have failed; of those that follow it some may be taken.
pub struct Sending<'a> {
    own: &'a Prepared,
    deadline: Deadline,
    /// So many were handed over.
    handed: usize,
    /// Of a server.
    answers: Option<Arc<Answers>>,
}

impl<'a> Sending<'a> {
    pub(super) fn new(own: &'a Prepared, timeout: Timeout) -> Self {
        Self { own, deadline: Deadline::after(timeout), handed: 0, answers: None }
    }

    /// Hands records over; answers how many, and why it stopped.
    pub fn send(&mut self, records: &[Record<'_>]) -> (usize, Option<Error>) {
        let own = self.own;
        let (count, stopped) = if own.outlet.backend.kind == BackendKind::Embedded {
            own.hub.publish_many(&own.outlet, records, own.require, self.deadline.left())
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
                        Box::new(move |result| told.set(first + index, result))
                    };
                    own.hub.start_waiting(&own.outlet, record, own.require, self.deadline, tell).map_err(Some)
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
        let outcomes = self.answers.map(|answers| answers.wait(self.deadline)).unwrap_or_default();
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
