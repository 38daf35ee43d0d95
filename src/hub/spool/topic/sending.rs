//! Records of the spool on their way to the server, and what is told with it.

use std::sync::atomic::AtomicU64;

use super::{Flight, Kept, SpoolTopic, State};
use crate::broker::{Batch, Ticket};
use crate::clock::Moment;
use crate::error::{Error, Fate, Kind};
use crate::hub::failover::lane::LaneAction;
use crate::hub::failover::Ending;
use crate::hub::provisional::{handled_by, HANDLED};
use crate::hub::spool::Spool;
use crate::message::{HeaderBlock, Message, MessageId, Record};
use crate::metrics::Counter;
use crate::numbers::NumberMap;

/// Records that are handed over together, at most.
pub(super) const SENT_AT_ONCE: usize = 128;

/// A record that goes to the server, and what is told with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Going {
    pub seq: u64,
    pub epoch: u64,
    maybe_dup: bool,
    /// Attempts of workers of this process.
    attempt: u16,
    /// Groups of this process that have handled it, as bits.
    handled: u64,
}

impl Going {
    pub fn of(action: &LaneAction) -> Option<Self> {
        match *action {
            LaneAction::Send { seq, epoch, maybe_dup, attempt, handled } => {
                Some(Self { seq, epoch, maybe_dup, attempt, handled })
            }
            _ => None,
        }
    }
}

/// What a record is made of that goes again.
struct Parts<'a> {
    going: &'a Going,
    kept: &'a Kept,
    message: &'a Message,
    id: MessageId,
    /// With which groups have handled it, where any has.
    headers: Option<HeaderBlock>,
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

    fn parts<'a>(&self, spool: &Spool, records: &'a NumberMap<Kept>, going: &'a Going) -> Option<Parts<'a>> {
        let kept = records.get(&going.seq)?;
        let message = kept.message.as_ref()?;
        let (id, told) = (message.id(), spool.group_names(going.handled));
        let headers = (!told.is_empty()).then(|| {
            let mut headers = HeaderBlock::default();
            headers.extend(message.headers(), &[HANDLED]);
            headers.push(HANDLED, handled_by(&self.topic, id.as_str(), &told).as_bytes());
            headers
        });
        Some(Parts { going, kept, message, id, headers })
    }

    fn record_of<'a>(&self, parts: &'a Parts<'a>, now: Moment, now_us: i64) -> Record<'a> {
        let Parts { going, kept, message, id, headers } = parts;
        let record = Record {
            // A worker that ended without a verdict may have done it; failed attempts tell of themselves.
            maybe_dup: going.maybe_dup || message.maybe_dup() || (kept.leased && going.attempt == 0),
            attempts: message.attempts().saturating_add(going.attempt),
            ttl_ms: message.expires_us().map_or(0, |at| (at.saturating_sub(now_us) / 1000).max(1)),
            delay_ms: i64::try_from(kept.due.since(now).as_millis()).unwrap_or(i64::MAX),
            ..Record::again(message, id.as_str())
        };
        let record = if going.attempt > 0 { self.lightest(record, message.attempts()) } else { record };
        let telling = headers.as_ref().map(|headers| Record { headers: headers.headers(), ..record });
        // A form without headers cannot say it: the groups get it once more.
        telling.filter(|telling| self.server.check(telling).is_ok()).unwrap_or(record)
    }

    /// Hands records of the spool to the server, in their order. Answers how many it took, and why not the next.
    pub(super) fn send(&self, spool: &Spool, state: &mut State, run: &[Going]) -> (usize, Option<Error>) {
        let State { records, flights, next_flight, .. } = state;
        let parts: Vec<Parts<'_>> = run.iter().map_while(|going| self.parts(spool, records, going)).collect();
        let Some(first) = parts.first() else {
            return (0, Some(Error::internal("a record of the spool has no message")));
        };
        let (now, now_us) = (spool.context.clock.now(), spool.context.clock.wall_us());
        let numbers = AtomicU64::new(first.going.seq);
        let sent: Vec<Record<'_>> = parts.iter().map(|parts| self.record_of(parts, now, now_us)).collect();
        let first_ticket = Ticket(self.base | *next_flight);
        let batch = Batch { records: &sent, first_ticket, numbers: &numbers, now_us, require: None, since: None };
        let taken = self.server.publish(&batch);
        for Going { seq, epoch, .. } in run.iter().take(taken.count) {
            flights.insert(*next_flight, Flight { seq: *seq, epoch: *epoch });
            *next_flight += 1;
        }
        let marked = sent.iter().take(taken.count).filter(|record| record.maybe_dup).count();
        spool.metrics.add(Counter::MaybeDuplicate, marked as u64);
        let is_all = taken.count == sent.len();
        let none = || Error::internal("a backend stopped without a reason");
        (taken.count, (!is_all).then(|| taken.stopped.unwrap_or_else(none)))
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
