//! Consumers in this process, while the server is away: workers lease tasks of a lane, and groups are shown
//! its events as provisional copies.

use super::lane::Lane;
use super::policy::OnOutage;
use super::record::{At, Completed, Fate, Kind, LaneAction, Leased, Record, Rules, Verdict};
use super::{Gate, Way};
use crate::clock::Moment;

/// Whether a worker may have it. One whose caller waits for the server is the server's, and so is one that may be there.
fn is_free(record: &Record, now: Moment) -> bool {
    record.at == At::Queued && record.owes.is_none() && record.due <= now && !record.maybe_dup()
}

impl Lane {
    /// Whether [`lease`](Self::lease) has one to hand out, or to drop, for a look at many lanes.
    pub fn may_lease(&self, now: Moment) -> bool {
        let is_free = |record: &Record| record.expires <= now || is_free(record, now);
        let waits = |record: &Record| record.at == At::Queued && is_free(record);
        match self.keyed {
            true => self.records.front().is_some_and(waits),
            false => self.records.iter().any(waits),
        }
    }

    /// Hands a record to a local worker, if there is one to be had. While the gate is open the
    /// server has them.
    pub fn lease(&mut self, now: Moment, gate: Gate, rules: &Rules, out: &mut Vec<LaneAction>) -> Option<Leased> {
        self.meet(gate, out);
        if !is_for_local(gate, rules, Kind::Task) || self.held.is_some() {
            return None;
        }
        let (keyed, mut index) = (self.keyed, 0);
        loop {
            let record = self.records.get_mut(index)?;
            if record.at == At::Queued && record.expires <= now {
                self.expired(index, out);
                continue;
            }
            if is_free(record, now) {
                record.at = At::Leased;
                return Some(Leased { seq: record.seq, attempt: record.attempt });
            }
            if keyed {
                return None;
            }
            index += 1;
        }
    }

    /// What a local worker made of its record.
    pub fn settle(&mut self, seq: u64, verdict: Verdict, out: &mut Vec<LaneAction>) {
        let Some(index) = self.find(seq) else { return };
        let Some(record) = self.records.get_mut(index).filter(|record| record.at == At::Leased) else { return };
        match verdict {
            Verdict::Done | Verdict::Dead => self.end(index, Completed::Unknown, Fate::LocalDone, out),
            Verdict::Returned => {
                record.at = At::Queued;
                self.grounded(seq);
            }
            Verdict::Failed(due) => {
                record.at = At::Queued;
                record.attempt = record.attempt.saturating_add(1);
                record.due = due;
                out.push(LaneAction::Note { seq, attempt: record.attempt, handled: record.handled });
                self.grounded(seq);
            }
        }
    }

    /// Whether an event is shown to a local group now, as a provisional copy: once. `group` is one bit. What may be at
    /// the server already comes from there.
    pub fn show(&mut self, seq: u64, now: Moment, gate: Gate, group: u64, rules: &Rules) -> bool {
        let index = self.find(seq).filter(|_| is_for_local(gate, rules, Kind::Event));
        let Some(record) = index.and_then(|index| self.records.get_mut(index)) else { return false };
        // One whose caller waits for the server may be withdrawn yet.
        let here = record.at == At::Queued && !record.maybe_dup() && record.owes.is_none();
        let fresh = here && record.expires > now && record.shown & group == 0;
        if fresh {
            record.shown |= group;
        }
        fresh
    }

    /// Its copy comes back, and nobody has seen it.
    pub fn not_shown(&mut self, seq: u64, group: u64) {
        if let Some(record) = self.find(seq).and_then(|index| self.records.get_mut(index)) {
            record.shown &= !group;
        }
    }

    /// A local group has handled its copy; it goes along with the record when that is sent.
    pub fn handled(&mut self, seq: u64, group: u64, out: &mut Vec<LaneAction>) {
        let Some(record) = self.find(seq).and_then(|index| self.records.get_mut(index)) else { return };
        record.handled |= group;
        out.push(LaneAction::Note { seq, attempt: record.attempt, handled: record.handled });
    }
}

/// Whether records wait for a server that is away, and may be had here meanwhile.
fn is_for_local(gate: Gate, rules: &Rules, kind: Kind) -> bool {
    let away = match gate.way {
        Way::Wait | Way::Blocked | Way::Spool => true,
        Way::Open | Way::Refuse => false,
    };
    let local = match rules.on_outage {
        OnOutage::Local => true,
        OnOutage::Spool | OnOutage::Fail | OnOutage::Drop => false,
    };
    away && local && rules.kind == kind
}
