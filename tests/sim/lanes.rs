//! Operations on lanes, as a hub does them under their locks, and what they ask for.

use helixmq::clock::Moment;
use helixmq::hub::failover::lane::{Ask, Decision, Lane, LaneAction, Rules};
use helixmq::hub::failover::{Ending, Gate};

use crate::broker_model::{Sent, Wire};
use crate::store_model::{Answer, Op, Row};
use crate::world::{Event, Step, World, MS};
use crate::LaneId;

impl World {
    /// One operation on a lane, under its lock.
    pub fn lane_op<R>(
        &mut self,
        id: LaneId,
        name: &'static str,
        op: impl FnOnce(&mut Lane, Gate, &Rules, Moment, &mut Vec<LaneAction>) -> R,
    ) -> Option<R> {
        let epoch = self.hub.as_ref()?.lanes.get(&id).map(Lane::epoch);
        // Half of the time the step to a new epoch is looked at by itself.
        if epoch.is_some_and(|epoch| epoch < self.gate(id.topic).epoch) && self.rng.chance(50) && name != "not taken" {
            self.lane_do(id, "epoch", |lane, gate, _, _, out| lane.meet(gate, out));
        }
        self.lane_do(id, name, op)
    }

    fn lane_do<R>(
        &mut self,
        id: LaneId,
        name: &'static str,
        op: impl FnOnce(&mut Lane, Gate, &Rules, Moment, &mut Vec<LaneAction>) -> R,
    ) -> Option<R> {
        let gate = self.gate_if(id.topic)?;
        let (hub, now) = (self.hub.as_mut()?, self.now);
        let lane = match name {
            "publish" => hub.lanes.entry(id).or_insert_with(|| Lane::new(id.key != 0, &self.setup.rules[id.topic])),
            _ => hub.lanes.get_mut(&id)?,
        };
        let mut out = Vec::new();
        let old = lane.epoch() < gate.epoch;
        self.before.clear();
        self.before.extend(lane.places());
        let result = op(lane, gate, &self.setup.rules[id.topic], now, &mut out);
        let met = if old && name != "epoch" { Ok(()) } else { self.marks.moved(&self.before, name, lane, &out) };
        if lane.is_idle() {
            hub.lanes.remove(&id);
        }
        self.check(met);
        self.perform(id, out);
        Some(result)
    }

    pub fn lane_publish(&mut self, id: LaneId, ask: &Ask) -> Option<Decision> {
        let numbers = self.numbers.clone();
        let decision = self
            .lane_op(id, "publish", |lane, gate, rules, now, out| lane.publish(now, gate, rules, ask, &numbers, out))?;
        self.trace(Step::Decided(id, decision));
        Some(decision)
    }

    pub fn lane_not_taken(&mut self, id: LaneId, seq: u64) {
        self.lane_op(id, "not taken", |lane, _, _, _, _| lane.not_taken(seq));
    }

    pub fn perform(&mut self, id: LaneId, actions: Vec<LaneAction>) {
        let mut refused = Vec::new();
        for action in &actions {
            self.trace(Step::Lane(id, *action));
            match *action {
                LaneAction::Append { seq, maybe_dup } => self.append(id, seq, maybe_dup),
                LaneAction::Mark { seq } => self.write(Op::Mark { seq }),
                LaneAction::Send { seq, epoch, maybe_dup, handled, .. } => {
                    let checked = self.checker.forwarded(seq, handled, &self.store, self.now);
                    self.check(checked);
                    if epoch != self.gate(id.topic).epoch {
                        self.fail("I2: sent in an epoch that is over");
                    }
                    // After the first that is not taken none is, so that nothing passes it.
                    if !refused.is_empty() || !self.send(id, seq, epoch, maybe_dup) {
                        refused.push((seq, epoch));
                    }
                }
                LaneAction::Remove { seq } => {
                    self.checker.removed(seq);
                    self.write(Op::Remove { seq });
                }
                LaneAction::Withdraw { seq } => self.write(Op::Withdraw { seq }),
                LaneAction::Note { seq, attempt, handled } => self.write(Op::Note { seq, attempt, handled }),
                LaneAction::Complete { seq, completed } => {
                    let checked = self.checker.completed(seq, completed, &self.store, self.now);
                    self.check(checked);
                }
                LaneAction::Fate { seq, fate } => {
                    let checked = self.checker.fate(seq, fate, self.now);
                    self.check(checked);
                }
                LaneAction::DeadLetter { seq } => self.checker.dead_letter(seq),
                LaneAction::Alarm { .. } => {
                    let (later, skip) = (self.rng.between(1, 4_000) * MS, self.calm || self.rng.chance(70));
                    self.after(later, Event::Release { run: self.run, lane: id, skip });
                }
                LaneAction::Wake => self.wake_all(),
            }
        }
        let checked = self.checker.all_settled();
        self.check(checked);
        for (seq, epoch) in refused {
            let not_sent = Ending::NotSent;
            self.lane_op(id, "not_sent", |lane, _, rules, _, out| lane.complete(seq, epoch, not_sent, rules, out));
        }
    }

    pub fn append(&mut self, id: LaneId, seq: u64, maybe_dup: bool) {
        self.checker.spooled(seq);
        let (expires, due) = self.checker.times(seq);
        let row = Row { lane: id, maybe_dup, attempt: 0, handled: 0, expires, due };
        self.write(Op::Append { seq, row });
    }

    /// Hands a record of the spool over; `false`: the client's window is full.
    fn send(&mut self, lane: LaneId, seq: u64, epoch: u64, maybe_dup: bool) -> bool {
        let wire = Wire { lane, seq, epoch, maybe_dup, bad: self.checker.is_bad(seq) };
        let sent = self.server.send(self.now, wire);
        if sent == Sent::WindowFull {
            return false;
        }
        let checked = self.checker.sent(seq, epoch, self.run, maybe_dup, false);
        self.check(checked);
        match sent {
            Sent::On(conn) => self.arrives_soon(conn),
            Sent::NoConnection | Sent::WindowFull => self.ends_soon(wire, 0, Ending::NotSent),
        }
        true
    }

    pub fn written(&mut self) {
        let (answers, next) = self.store.written(&mut self.rng);
        if let Some(takes) = next {
            self.after(takes, Event::Written);
        }
        if self.hub.is_none() {
            return;
        }
        let level = self.setup.level;
        for answer in answers {
            match answer {
                Answer::Appended { seq, lane } => {
                    self.lane_op(lane, "appended", |lane, _, _, _, out| lane.appended(seq, level, out));
                }
                Answer::NotAppended { seq, lane, unknown } => {
                    self.lane_op(lane, "append_failed", |lane, _, _, _, out| lane.append_failed(seq, unknown, out));
                }
                Answer::Marked { seq, ok } => {
                    let (id, name) = (self.checker.lane_of(seq), if ok { "marked" } else { "mark_failed" });
                    self.lane_op(id, name, |lane, gate, _, now, out| lane.marked(now, seq, ok, gate, out));
                }
                Answer::Withdrawn { seq, ok } => {
                    let (id, name) = (self.checker.lane_of(seq), if ok { "withdrawn" } else { "not_withdrawn" });
                    self.lane_op(id, name, |lane, _, _, _, out| lane.withdrawn(seq, ok, out));
                }
            }
        }
        self.report_perhaps();
    }
}
