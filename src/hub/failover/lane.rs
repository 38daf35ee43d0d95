//! The machine of one lane: the records of one backend, topic and key (tasks: and priority) that are
//! not settled, in the order of their numbers.
//!
//! It holds numbers and small states, never messages. It runs under the lock of its table, in the
//! thread that publishes, forwards or completes; nothing here waits. A record is in one place:
//!
//! ```text
//!                    ┌──────── unknown, lost, not sent ────────┐
//!  publish ──> Appending ──> Queued ──> Marking ──> Flying ──> confirmed, refused
//!     │                       │  ^                    ^
//!     │                       │  └ local failure      │
//!     │                       ├──> Leased ──> done    │
//!     │                       └──> Withdrawing ──> not sent
//!     └──────────── direct ───────────────────────────┘
//! ```
//!
//! Where nothing is stored the lane is *direct*. As long as one record is, nothing is sent direct.
//! See the table in [`super`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::policy::{decide, keeps, need, Backlog, Case, Choice, Need};
use super::record::{At, Record};
use super::{Ending, Gate, Level, Way};
use crate::clock::Moment;

pub use super::record::{
    Ask, Completed, Decision, Fate, Kind, LaneAction, LaneState, Leased, Place, Probe, Recovered, Rules, Verdict, Why,
};

/// The machine.
#[derive(Debug, Clone)]
pub struct Lane {
    pub(super) keyed: bool,
    one_copy: bool,
    /// Since when it is held up by the ending that a copy owes.
    pub(super) held_up: Option<Moment>,
    /// All before this number are known to be on their way; to look again at each of many thousands for every one that
    /// follows would take longer than to send it.
    clear_to: u64,
    pub(super) records: VecDeque<Record>,
    /// The newest epoch that this lane has met.
    epoch: u64,
    /// Records with a place in the store, and those of them that are on their way.
    pub(super) stored: usize,
    pub(super) on_way: usize,
    /// The refused record that holds the lane.
    pub(super) held: Option<u64>,
}

impl Lane {
    /// A lane without records. `keyed`: a local lease holds back later ones.
    pub fn new(keyed: bool, rules: &Rules) -> Self {
        Self {
            keyed,
            one_copy: rules.one_copy,
            held_up: None,
            clear_to: 0,
            records: VecDeque::new(),
            epoch: 0,
            stored: 0,
            on_way: 0,
            held: None,
        }
    }

    /// A lane as the store has it, in the order of its numbers.
    pub fn recover(keyed: bool, rules: &Rules, records: impl Iterator<Item = Recovered>) -> Self {
        let mut lane = Self::new(keyed, rules);
        lane.records.extend(records.map(|found| Record {
            seq: found.seq,
            at: At::Queued,
            owes: None,
            stored: true,
            marked: found.maybe_dup,
            dup: found.maybe_dup,
            open_copy: None,
            keeps: true,
            attempt: found.attempt,
            expires: found.expires,
            due: found.due,
            shown: found.handled,
            handled: found.handled,
        }));
        lane.stored = lane.records.len();
        debug_assert!(lane.records.iter().is_sorted_by(|a, b| a.seq < b.seq), "numbers rise");
        lane
    }

    /// Decides on one publish, and gives it its number: from `numbers`, which rises for the whole
    /// hub and all its runs. `gate` is read after the lock of the lane was taken.
    pub fn publish(
        &mut self,
        now: Moment,
        gate: Gate,
        rules: &Rules,
        ask: &Ask,
        numbers: &AtomicU64,
        out: &mut Vec<LaneAction>,
    ) -> Decision {
        self.meet(gate, out);
        let backlog = match self.stored {
            0 => Backlog::None,
            // All of it is about to be confirmed; what is held or leased, or waits for its turn, may stay for long.
            count if count <= rules.short_backlog && count == self.on_way => Backlog::Short,
            _ => Backlog::Long,
        };
        let patience = match gate.way {
            Way::Blocked => rules.blocked_wait,
            Way::Open | Way::Wait | Way::Spool | Way::Refuse => rules.suspect_wait,
        };
        let patient_until = ask.began.plus(patience).min(ask.deadline);
        let choice = decide(&Case {
            way: gate.way,
            backlog,
            on_outage: rules.on_outage,
            require: ask.require,
            spool_level: rules.spool_level,
            room: ask.room,
            patient: now < patient_until,
            in_time: now < ask.deadline,
        });
        let at = match choice {
            Choice::Send => At::Flying { epoch: self.epoch, since: now },
            Choice::Append => At::Appending,
            Choice::WaitForGate => return Decision::WaitUntil(patient_until),
            Choice::WaitForRoom => return Decision::WaitUntil(ask.deadline),
            Choice::MakeRoom => return Decision::MakeRoom,
            Choice::Fail(failure) => return Decision::Fail(failure),
            Choice::Drop => return Decision::Drop,
        };
        let seq = numbers.fetch_add(1, Ordering::Relaxed);
        self.push(seq, at, rules, ask);
        match at {
            At::Flying { .. } => Decision::Send(seq),
            At::Appending | At::Queued | At::Marking { .. } | At::Leased | At::Withdrawing => Decision::Append(seq),
        }
    }

    fn push(&mut self, seq: u64, at: At, rules: &Rules, ask: &Ask) {
        debug_assert!(self.records.back().is_none_or(|last| last.seq < seq), "numbers rise");
        let stored = at == At::Appending;
        self.stored += usize::from(stored);
        self.records.push_back(Record {
            seq,
            at,
            owes: Some(need(ask.require, rules.spool_level)),
            stored,
            marked: false,
            dup: false,
            open_copy: None,
            keeps: keeps(rules.on_outage),
            attempt: 0,
            expires: ask.expires,
            due: ask.due,
            shown: 0,
            handled: 0,
        });
    }

    /// The server's client did not take what [`Decision::Send`] gave it: the caller keeps the
    /// message, and the number is not used.
    pub fn not_taken(&mut self, seq: u64) {
        if self.records.back().is_some_and(|record| record.seq == seq && !record.stored) {
            self.records.pop_back();
        }
    }

    /// How a record that was handed over in `epoch` ended.
    pub fn complete(&mut self, seq: u64, epoch: u64, ending: Ending, rules: &Rules, out: &mut Vec<LaneAction>) {
        let Some(index) = self.find(seq) else { return };
        let Some(record) = self.records.get_mut(index) else { return };
        match record.at {
            At::Flying { epoch: flies, .. } if flies == epoch => match ending {
                Ending::Confirmed => self.end(index, Completed::Reached(Level::Broker), Fate::Confirmed, out),
                Ending::Refused => self.refused(index, rules, out),
                Ending::NotSent => self.put_back(index, ending, out),
                Ending::Unknown => {
                    record.dup = true;
                    self.put_back(index, ending, out);
                }
            },
            // It has been sent again: the ending of the newer copy counts.
            At::Flying { .. } => {}
            At::Appending | At::Queued | At::Marking { .. } | At::Leased | At::Withdrawing => {
                self.late(index, epoch, ending, out);
            }
        }
    }

    /// The ending of a copy that was given up with its epoch comes after all.
    fn late(&mut self, index: usize, epoch: u64, ending: Ending, out: &mut Vec<LaneAction>) {
        let Some(record) = self.records.get_mut(index).filter(|record| record.open_copy == Some(epoch)) else { return };
        self.held_up = None;
        match ending {
            Ending::Confirmed => self.end(index, Completed::Reached(Level::Broker), Fate::Confirmed, out),
            Ending::NotSent | Ending::Refused => record.open_copy = None,
            Ending::Unknown => {
                record.dup = true;
                record.open_copy = None;
            }
        }
    }

    /// The record is in the store.
    pub fn appended(&mut self, seq: u64, level: Level, out: &mut Vec<LaneAction>) {
        let Some(index) = self.find(seq) else { return };
        let Some(record) = self.records.get_mut(index).filter(|record| record.at == At::Appending) else { return };
        record.at = At::Queued;
        if record.owes == Some(Need::Any) {
            record.owes = None;
            out.push(LaneAction::Complete { seq, completed: Completed::Reached(level) });
        }
    }

    /// The record could not be stored. `unknown`: it may be there after a restart (a failed sync).
    pub fn append_failed(&mut self, seq: u64, unknown: bool, out: &mut Vec<LaneAction>) {
        let Some(index) = self.find(seq) else { return };
        let Some(record) = self.records.get(index) else { return };
        if matches!(record.at, At::Appending | At::Withdrawing) {
            let doubtful = unknown || record.maybe_dup();
            let completed = if doubtful { Completed::Unknown } else { Completed::NotSent };
            self.end(index, completed, Fate::Unknown, out);
        }
    }

    /// The mark of a record is durable (`ok`), or could not be written.
    pub fn marked(&mut self, now: Moment, seq: u64, ok: bool, gate: Gate, out: &mut Vec<LaneAction>) {
        self.meet(gate, out);
        let Some(index) = self.find(seq) else { return };
        let may_go = self.may_go(index);
        let Some(record) = self.records.get_mut(index) else { return };
        let At::Marking { probe } = record.at else { return };
        record.marked |= ok;
        self.put(index, At::Queued);
        let shut = match gate.way {
            Way::Open => false,
            Way::Wait | Way::Blocked | Way::Spool => !probe,
            Way::Refuse => false,
        };
        if ok && may_go && !shut && self.held.is_none() {
            self.send(now, index, out);
        }
    }

    /// Forwards up to `budget` records, oldest first; answers how many are on their way now.
    pub fn forward(&mut self, now: Moment, gate: Gate, budget: u64, out: &mut Vec<LaneAction>) -> u64 {
        self.meet(gate, out);
        match gate.way {
            // A closing hub takes nothing new, but what it has goes out.
            Way::Open | Way::Refuse => self.advance(now, budget, false, out),
            Way::Wait | Way::Blocked | Way::Spool => 0,
        }
    }

    /// Sends the head, though the gate is shut, to see whether it is taken, or awaits the ending that its copy still
    /// owes; answers which record it is.
    pub fn probe(&mut self, now: Moment, gate: Gate, out: &mut Vec<LaneAction>) -> Option<Probe> {
        self.meet(gate, out);
        let from = out.len();
        self.advance(now, 1, true, out);
        let sent = out.iter().skip(from).find_map(|action| match action {
            LaneAction::Mark { seq } | LaneAction::Send { seq, .. } => Some(Probe { seq: *seq, awaits: None }),
            _ => None,
        });
        let awaited = || self.records.iter().find(|record| self.awaits_copy(record));
        sent.or_else(|| awaited().map(|record| Probe { seq: record.seq, awaits: record.open_copy }))
    }

    pub(super) fn awaits_copy(&self, record: &Record) -> bool {
        self.one_copy && record.open_copy.is_some()
    }

    fn advance(&mut self, now: Moment, budget: u64, probe: bool, out: &mut Vec<LaneAction>) -> u64 {
        let (mut used, mut index, mut marks) = (0, self.first_not_clear(), false);
        while used < budget && self.held.is_none() {
            let Some(record) = self.records.get(index) else { break };
            match record.at {
                At::Flying { .. } => {}
                // A probe that is behind them would not be sent.
                At::Marking { .. } if probe => break,
                At::Marking { .. } => marks = true,
                At::Leased if !self.keyed => {}
                At::Leased | At::Appending | At::Withdrawing => break,
                At::Queued if record.expires <= now => {
                    self.expired(index, out);
                    continue;
                }
                At::Queued if self.awaits_copy(record) => {
                    self.held_up = self.held_up.or(Some(now));
                    break;
                }
                // Its turn comes when those before it are marked and sent.
                At::Queued if record.marked && marks => break,
                At::Queued if record.marked => {
                    self.send(now, index, out);
                    used += 1;
                }
                At::Queued => {
                    out.push(LaneAction::Mark { seq: record.seq });
                    self.put(index, At::Marking { probe });
                    marks = true;
                    used += 1;
                }
            }
            index += 1;
        }
        used
    }

    /// The call of a record has waited long enough.
    pub fn timed_out(&mut self, seq: u64, out: &mut Vec<LaneAction>) {
        let Some(record) = self.find(seq).and_then(|index| self.records.get_mut(index)) else { return };
        if record.owes.is_none() || record.at == At::Withdrawing {
            return;
        }
        match record.at {
            At::Appending | At::Queued if !record.maybe_dup() => {
                record.at = At::Withdrawing;
                out.push(LaneAction::Withdraw { seq });
            }
            // It goes on, with its place in the lane.
            At::Appending | At::Queued | At::Marking { .. } | At::Flying { .. } | At::Leased | At::Withdrawing => {
                record.owes = None;
                out.push(LaneAction::Complete { seq, completed: Completed::Unknown });
            }
        }
    }

    /// A withdrawn record has left the store for good (`ok`), or may be there after a restart. Either
    /// way it is not sent by this process: a write that failed may have had its effect.
    pub fn withdrawn(&mut self, seq: u64, ok: bool, out: &mut Vec<LaneAction>) {
        let Some(index) = self.find(seq) else { return };
        if self.records.get(index).is_some_and(|record| record.at == At::Withdrawing) {
            let completed = if ok { Completed::NotSent } else { Completed::Unknown };
            self.end(index, completed, Fate::Unknown, out);
        }
    }

    /// Waits no longer for the endings of what has flown for so long and is not stored: each gets its place in the
    /// store, and its copy owes its ending.
    pub fn overdue(&mut self, now: Moment, limit: Duration, out: &mut Vec<LaneAction>) {
        let mut index = 0;
        while let Some(record) = self.records.get_mut(index) {
            let seq = record.seq;
            if let (At::Flying { epoch, since }, false) = (record.at, record.stored) {
                if now.since(since) < limit {
                    break;
                }
                record.open_copy = Some(epoch);
                self.held_up = self.held_up.or(Some(since));
                self.put_back(index, Ending::Unknown, out);
            }
            index += usize::from(self.records.get(index).is_some_and(|record| record.seq == seq));
        }
    }

    /// Lets a lane go on that was held: with the refused record once more, or without it.
    pub fn release(&mut self, skip: bool, out: &mut Vec<LaneAction>) {
        let Some(seq) = self.held.take() else { return };
        let refused = self.find(seq).filter(|_| skip);
        if let Some(index) = refused {
            out.push(LaneAction::DeadLetter { seq });
            self.end(index, Completed::Refused, Fate::Refused, out);
        }
    }

    /// The state, for people and for the table of lanes.
    pub fn state(&self) -> LaneState {
        if self.held.is_some() {
            return LaneState::Held { why: Why::Refused };
        }
        if self.keyed && self.records.front().is_some_and(|record| record.at == At::Leased) {
            return LaneState::Held { why: Why::Leased };
        }
        match (self.stored, self.forwarded()) {
            (0, _) => LaneState::Direct { inflight: self.records.len() },
            (backlog, 0) => LaneState::Spooling { backlog },
            (backlog, inflight) => LaneState::Forwarding { backlog, inflight },
        }
    }

    /// All records, in order, and where they are.
    pub fn places(&self) -> impl Iterator<Item = (u64, Place)> + '_ {
        self.records.iter().map(|record| (record.seq, record.place()))
    }

    /// Whether a local lease holds back what comes behind it.
    pub fn is_keyed(&self) -> bool {
        self.keyed
    }

    /// The newest epoch that it has met.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Nothing is left to be remembered.
    pub fn is_idle(&self) -> bool {
        self.records.is_empty()
    }

    /// Unsettled spool records.
    pub fn backlog(&self) -> usize {
        self.stored
    }

    /// Spool records handed over, or being marked for it.
    pub fn forwarded(&self) -> usize {
        self.on_way
    }

    /// The oldest record: lanes are served by it.
    pub fn oldest(&self) -> Option<u64> {
        self.records.front().map(|record| record.seq)
    }

    /// When the oldest record in flight was handed over, or an ending began to be waited for that came not with its
    /// epoch.
    pub fn oldest_flight(&self) -> Option<Moment> {
        self.records.iter().find_map(|record| match record.at {
            At::Flying { since, .. } => Some(since),
            _ if self.awaits_copy(record) => self.held_up,
            At::Appending | At::Queued | At::Marking { .. } | At::Leased | At::Withdrawing => None,
        })
    }

    /// Takes over a newer epoch: what was in flight in an older one goes back to its place, as it
    /// may have arrived. Whoever looks at the gate first does it, before anything is decided.
    pub fn meet(&mut self, gate: Gate, out: &mut Vec<LaneAction>) {
        if gate.epoch <= self.epoch {
            return;
        }
        (self.epoch, self.held_up) = (gate.epoch, None);
        let mut index = 0;
        while let Some(record) = self.records.get_mut(index) {
            let (seq, at) = (record.seq, record.at);
            if let At::Flying { epoch, .. } = at {
                // Two copies with an open ending: the older one is taken as unknown for good.
                record.dup |= record.open_copy.is_some();
                record.open_copy = Some(epoch);
                self.put_back(index, Ending::Unknown, out);
            }
            // Otherwise it has ended, and the next one has its place.
            index += usize::from(self.records.get(index).is_some_and(|record| record.seq == seq));
        }
    }

    /// A record that flew goes back to its place in the lane, or ends if it has none.
    fn put_back(&mut self, index: usize, ending: Ending, out: &mut Vec<LaneAction>) {
        let Some(record) = self.records.get_mut(index) else { return };
        let (seq, maybe_dup) = (record.seq, record.maybe_dup());
        // What is in the store can only leave it durably before its caller is told that it was not sent.
        let for_server = record.owes == Some(Need::Server) && !record.stored;
        let gives_up = !record.keeps || (ending == Ending::NotSent && !maybe_dup && for_server);
        if gives_up {
            let completed = if maybe_dup { Completed::Unknown } else { Completed::NotSent };
            return self.end(index, completed, Fate::Unknown, out);
        }
        if record.stored {
            return self.put(index, At::Queued);
        }
        record.at = At::Appending;
        record.stored = true;
        record.marked = maybe_dup;
        self.stored += 1;
        self.grounded(seq);
        out.push(LaneAction::Append { seq, maybe_dup });
    }

    fn refused(&mut self, index: usize, rules: &Rules, out: &mut Vec<LaneAction>) {
        let Some(record) = self.records.get_mut(index) else { return };
        let seq = record.seq;
        if record.owes.is_none() {
            if rules.strict && record.stored {
                self.put(index, At::Queued);
                if self.held.is_none() {
                    self.held = Some(seq);
                    out.push(LaneAction::Alarm { seq });
                }
                return;
            }
            out.push(LaneAction::DeadLetter { seq });
        }
        // No to this copy says nothing of an earlier one.
        let completed = if record.maybe_dup() { Completed::Unknown } else { Completed::Refused };
        self.end(index, completed, Fate::Refused, out);
    }

    pub(super) fn expired(&mut self, index: usize, out: &mut Vec<LaneAction>) {
        let doubtful = self.records.get(index).is_some_and(Record::maybe_dup);
        let completed = if doubtful { Completed::Unknown } else { Completed::Expired };
        self.end(index, completed, Fate::Expired, out);
    }

    fn send(&mut self, now: Moment, index: usize, out: &mut Vec<LaneAction>) {
        let epoch = self.epoch;
        let Some(record) = self.records.get_mut(index) else { return };
        let maybe_dup = record.maybe_dup();
        // The new copy's ending says nothing of the earlier one.
        record.dup = maybe_dup;
        record.open_copy = None;
        let (seq, attempt, handled) = (record.seq, record.attempt, record.handled);
        self.put(index, At::Flying { epoch, since: now });
        out.push(LaneAction::Send { seq, epoch, maybe_dup, attempt, handled });
    }

    /// Whether all before it are on their way, so that order is kept if it goes now.
    fn may_go(&mut self, index: usize) -> bool {
        let known = self.first_not_clear();
        let on_way = |record: &&Record| match record.at {
            At::Flying { .. } => true,
            At::Leased => !self.keyed,
            At::Appending | At::Queued | At::Marking { .. } | At::Withdrawing => false,
        };
        let more = self.records.iter().skip(known).take(index.saturating_sub(known)).take_while(on_way).count();
        let clear = known + more;
        self.clear_to = self.records.get(clear).map_or(self.clear_to, |record| record.seq);
        clear >= index
    }

    pub(super) fn first_not_clear(&self) -> usize {
        self.records.partition_point(|record| record.seq < self.clear_to)
    }

    /// A record is on its way no more.
    pub(super) fn grounded(&mut self, seq: u64) {
        self.clear_to = self.clear_to.min(seq);
    }

    /// The record is settled: its caller is told, or its fate if that was done before. The step back
    /// to direct is taken here, in the call that saw the backlog reach zero.
    pub(super) fn end(&mut self, index: usize, completed: Completed, fate: Fate, out: &mut Vec<LaneAction>) {
        let Some(record) = self.records.remove(index) else { return };
        let seq = record.seq;
        if record.stored {
            self.stored -= 1;
            self.on_way -= usize::from(record.is_on_way());
            out.push(LaneAction::Remove { seq });
        }
        match record.owes {
            Some(_) => out.push(LaneAction::Complete { seq, completed }),
            None => out.push(LaneAction::Fate { seq, fate }),
        }
        // However it ended, it holds the lane no longer.
        self.held = self.held.filter(|held| *held != seq);
        if record.stored && self.stored == 0 {
            out.push(LaneAction::Wake);
        }
    }

    /// Moves a record of the spool to another place.
    fn put(&mut self, index: usize, at: At) {
        let Some(record) = self.records.get_mut(index) else { return };
        self.on_way -= usize::from(record.is_on_way());
        record.at = at;
        let (seq, is_on_way) = (record.seq, record.is_on_way());
        self.on_way += usize::from(is_on_way);
        if !matches!(at, At::Flying { .. }) {
            self.grounded(seq);
        }
    }

    /// Whether a record is on its way into the store, which is all that its call waits for.
    pub fn is_being_stored(&self, seq: u64) -> bool {
        let record = self.find(seq).and_then(|index| self.records.get(index));
        record.is_some_and(|record| record.at == At::Appending && record.owes == Some(Need::Any))
    }

    /// Whether a record is not settled yet.
    pub fn has(&self, seq: u64) -> bool {
        self.find(seq).is_some()
    }

    pub(super) fn find(&self, seq: u64) -> Option<usize> {
        // Most are looked up, or looked for in vain, as they end in their order.
        let oldest = self.oldest()?;
        if seq <= oldest {
            return (seq == oldest).then_some(0);
        }
        self.records.binary_search_by_key(&seq, |record| record.seq).ok()
    }
}
