//! A record of the spool on its way to the server, and what is told with it.

use std::sync::atomic::AtomicU64;

use super::{Flight, Kept, SpoolTopic, State};
use crate::broker::{Batch, Ticket};
use crate::error::{Error, Fate, Kind, Result};
use crate::hub::failover::Ending;
use crate::hub::provisional::{handled_by, HANDLED};
use crate::hub::spool::Spool;
use crate::message::{HeaderBlock, Record};
use crate::metrics::Counter;

/// What is told with a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tell {
    pub maybe_dup: bool,
    /// Attempts of workers of this process.
    pub attempt: u16,
    /// Groups of this process that have handled it, as bits.
    pub handled: u64,
}

impl SpoolTopic {
    /// A record that was tried here, without what its server has no place for: that must not bury it.
    fn lightest<'a>(&self, record: Record<'a>, attempts: u16) -> Record<'a> {
        let at_once = Record { delay_ms: 0, ..record };
        let untried = Record { attempts, ..record };
        let plain = Record { attempts, ..at_once };
        let fits =
            [&record, &at_once, &untried, &plain].into_iter().find(|own| self.server.check(own).is_ok()).copied();
        fits.unwrap_or(record)
    }

    /// Hands a record of the spool to the server.
    pub(super) fn send(
        &self,
        spool: &Spool,
        state: &mut State,
        (seq, epoch): (u64, u64),
        Tell { maybe_dup, attempt, handled }: Tell,
    ) -> Result<()> {
        let flight = state.next_flight;
        state.next_flight += 1;
        let Some(Kept { message: Some(message), due, leased, .. }) = state.records.get(&seq) else {
            return Err(Error::internal("a record of the spool has no message"));
        };
        let clock = &spool.context.clock;
        let (now, now_us, id) = (clock.now(), clock.wall_us(), message.id());
        let left = due.since(now);
        let record = Record {
            // A worker that ended without a verdict may have done it; failed attempts tell of themselves.
            maybe_dup: maybe_dup || message.maybe_dup() || (*leased && attempt == 0),
            attempts: message.attempts().saturating_add(attempt),
            ttl_ms: message.expires_us().map_or(0, |at| (at.saturating_sub(now_us) / 1000).max(1)),
            delay_ms: i64::try_from(left.as_millis()).unwrap_or(i64::MAX),
            ..Record::again(message, id.as_str())
        };
        let record = if attempt > 0 { self.lightest(record, message.attempts()) } else { record };
        let mut headers = HeaderBlock::default();
        let told = spool.group_names(handled);
        if !told.is_empty() {
            headers.extend(record.headers, &[HANDLED]);
            headers.push(HANDLED, handled_by(&self.topic, id.as_str(), &told).as_bytes());
        }
        let telling = Record { headers: headers.headers(), ..record };
        // A form without headers cannot say it: the groups get it once more.
        let record = if !told.is_empty() && self.server.check(&telling).is_ok() { telling } else { record };
        if record.maybe_dup {
            spool.metrics.add(Counter::MaybeDuplicate, 1);
        }
        let numbers = AtomicU64::new(seq);
        let batch = Batch {
            records: std::slice::from_ref(&record),
            first_ticket: Ticket(self.base | flight),
            numbers: &numbers,
            now_us,
            require: None,
            since: None,
        };
        let taken = self.server.publish(&batch);
        match (taken.count, taken.stopped) {
            (0, stopped) => Err(stopped.unwrap_or_else(|| Error::internal("a backend stopped without a reason"))),
            _ => {
                state.flights.insert(flight, Flight { seq, epoch });
                Ok(())
            }
        }
    }
}

/// How a record ended that the server's client did not take.
pub(super) fn ending_of(why: &Error) -> Ending {
    let by_itself = matches!(
        why.kind(),
        Kind::Header | Kind::Unsupported | Kind::TooLarge | Kind::Name | Kind::Arg | Kind::Refused | Kind::TopicKind
    );
    match by_itself || why.fate() == Some(Fate::Refused) {
        true => Ending::Refused,
        false => Ending::NotSent,
    }
}
