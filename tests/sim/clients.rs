//! Programs that publish, local workers that lease tasks, and local groups that are shown events.

use helixmq::clock::Moment;
use helixmq::hub::failover::lane::{Ask, Decision, Kind, Lane, Verdict};
use helixmq::hub::failover::policy::Room;
use helixmq::hub::failover::{Level, Way};

use crate::broker_model::{Sent, Wire, WINDOW};
use crate::checker::Told;
use crate::store_model::Op;
use crate::world::{Event, World, MS};
use crate::LaneId;

/// One publish call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub lane: LaneId,
    pub began: Moment,
    pub deadline: Moment,
    /// It waits for its outcome, no longer than its deadline.
    pub waits: bool,
    pub require: Option<Level>,
    pub expires: Moment,
    pub due: Moment,
    pub bad: bool,
    pub state: CallState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallState {
    Asking,
    Given(u64),
    Done,
}

/// Never late by more than the store needs to take a record back.
pub const SLACK: u64 = 1_500 * MS;

impl World {
    pub fn publish(&mut self) {
        let small = !self.setup.chance;
        if small && self.setup.window > WINDOW {
            return self.flood();
        }
        if self.calm || self.setup.publish_every == 0 || (small && self.published >= 3) {
            return;
        }
        let next = self.rng.between(1, self.setup.publish_every * 2);
        self.after(next, Event::Publish);
        if self.hub.is_none() {
            return;
        }
        let burst = if small || self.rng.chance(80) { 1 } else { self.rng.between(2, 9) };
        for _ in 0..burst {
            let call = self.new_call(small);
            self.published += 1;
            let (run, hub) = (self.run, self.hub.as_mut().unwrap());
            hub.calls.push(call);
            let at = hub.calls.len() - 1;
            if call.waits {
                self.at(call.deadline, Event::Deadline { run, call: at });
            }
            self.ask(at, false);
        }
    }

    /// As many records as half of the cap, at once.
    fn flood(&mut self) {
        (0..self.setup.cap / 2).for_each(|_| self.publish_to(0, 1));
    }

    /// Publishes that wait for nothing, under eight keys in turn.
    pub fn publish_to(&mut self, topic: usize, count: usize) {
        for _ in 0..count {
            let mut call = self.new_call(true);
            (call.waits, call.deadline) = (false, self.now);
            call.lane = LaneId { topic, key: (self.published % 8) as u8 };
            self.published += 1;
            let hub = self.hub.as_mut().unwrap();
            hub.calls.push(call);
            let at = hub.calls.len() - 1;
            self.ask(at, false);
        }
    }

    fn new_call(&mut self, small: bool) -> Call {
        let rng = &mut self.rng;
        let topic = rng.below(self.setup.rules.len() as u64) as usize;
        let key = rng.below(self.setup.keys + 1) as u8;
        let lane = LaneId { topic, key: if small { (self.published % 2) as u8 } else { key } };
        let waits = small || rng.chance(70);
        let patience = if waits { rng.pick(&[100, 500, 3_000]) * MS } else { 0 };
        let broker = Some(Level::Broker);
        let levels = [None, None, Some(Level::Memory), Some(Level::Disk), broker, broker];
        let task = self.setup.rules[topic].kind == Kind::Task;
        let expires = !small && rng.chance(25);
        Call {
            lane,
            began: self.now,
            deadline: Moment(self.now.0 + patience),
            waits,
            require: if small { None } else { rng.pick(&levels) },
            expires: if expires { Moment(self.now.0 + rng.between(300, 5_000) * MS) } else { Moment::NEVER },
            due: Moment(if task && rng.chance(20) { self.now.0 + rng.between(1, 2_000) * MS } else { 0 }),
            bad: !small && rng.chance(4),
            state: CallState::Asking,
        }
    }

    /// Asks its lane what becomes of a call. `evicted`: there is nothing to evict for it.
    pub fn ask(&mut self, at: usize, nothing_to_evict: bool) {
        let Some(call) = self.hub.as_ref().and_then(|hub| hub.calls.get(at)).copied() else { return };
        if call.state != CallState::Asking {
            return;
        }
        let Call { lane, began, deadline, require, expires, due, .. } = call;
        let room = match self.checker.stored(lane.topic) < self.setup.cap {
            true => Room::Free,
            false if self.setup.evicts && !nothing_to_evict => Room::Evict,
            false => Room::Full,
        };
        let ask = Ask { began, deadline, require, expires, due, room };
        let Some(decision) = self.lane_publish(lane, &ask) else { return };
        match decision {
            Decision::Send(seq) => {
                self.given(at, seq, &call);
                self.send_direct(at, seq, &call);
            }
            Decision::Append(seq) => {
                self.given(at, seq, &call);
                if room != Room::Free {
                    self.fail("I6: stored beyond the cap");
                }
                self.append(lane, seq, false);
            }
            Decision::WaitUntil(until) => {
                if until <= self.now || until > deadline {
                    self.fail("I8: a call is to wait for what has been, or beyond its deadline");
                }
                let (run, hub) = (self.run, self.hub.as_mut().unwrap());
                if !hub.waiting.contains(&at) {
                    hub.waiting.push(at);
                }
                self.at(until, Event::Ask { run, call: at });
            }
            Decision::MakeRoom => {
                let found = self.evict(lane.topic);
                self.ask(at, !found);
            }
            Decision::Fail(_) | Decision::Drop => {
                let checked = match decision {
                    Decision::Drop => self.checker.dropped(require),
                    _ => Ok(()),
                };
                self.check(checked);
                self.call_is(at, CallState::Done);
            }
        }
    }

    fn given(&mut self, at: usize, seq: u64, call: &Call) {
        self.call_is(at, CallState::Given(seq));
        let late = if call.waits { Moment(call.deadline.0 + SLACK) } else { Moment::NEVER };
        let told = Told { call: at, require: call.require, late };
        self.checker.given(seq, call, told);
    }

    fn call_is(&mut self, at: usize, state: CallState) {
        let hub = self.hub.as_mut().unwrap();
        hub.calls[at].state = state;
        hub.waiting.retain(|waits| *waits != at);
    }

    fn send_direct(&mut self, at: usize, seq: u64, call: &Call) {
        let epoch = self.gate(call.lane.topic).epoch;
        let hub = self.hub.as_ref().unwrap();
        let words = [hub.backend.gate(), hub.destinations[call.lane.topic].gate()];
        if words.iter().any(|word| word.way != Way::Open) {
            self.fail("I3: sent direct, though a gate is shut");
        }
        let checked = self.checker.sent(seq, epoch, self.run, false, true);
        self.check(checked);
        let wire = Wire { lane: call.lane, seq, epoch, maybe_dup: false, bad: call.bad };
        match self.server.send(self.now, wire) {
            Sent::On(conn) => return self.arrives_soon(conn),
            // It is not taken, or taken and given back.
            Sent::NoConnection if self.rng.chance(50) => {
                return self.ends_soon(wire, 0, helixmq::hub::failover::Ending::NotSent);
            }
            Sent::NoConnection | Sent::WindowFull => {}
        }
        self.lane_not_taken(call.lane, seq);
        self.checker.not_given(seq);
        self.call_is(at, CallState::Done);
    }

    pub fn deadline(&mut self, at: usize) {
        let Some(call) = self.hub.as_ref().and_then(|hub| hub.calls.get(at)).copied() else { return };
        match call.state {
            CallState::Asking => {
                self.ask(at, false);
                let state = self.hub.as_ref().map(|hub| hub.calls[at].state);
                match state {
                    Some(CallState::Asking) => self.fail("a call goes on waiting at its deadline"),
                    // It was stored in the last moment, and has answered or is withdrawn.
                    Some(CallState::Given(seq)) => self.time_out(call.lane, seq),
                    Some(CallState::Done) | None => {}
                }
            }
            CallState::Given(seq) => self.time_out(call.lane, seq),
            CallState::Done => {}
        }
    }

    fn time_out(&mut self, lane: LaneId, seq: u64) {
        self.lane_op(lane, "timed_out", |lane, _, _, _, out| lane.timed_out(seq, out));
    }

    /// The oldest record of the topic that can go, goes.
    fn evict(&mut self, topic: usize) -> bool {
        let hub = self.hub.as_ref().unwrap();
        let of_topic = hub.lanes.iter().filter(|(id, _)| id.topic == topic);
        let mut lanes: Vec<(Option<u64>, LaneId)> = of_topic.map(|(id, lane)| (lane.oldest(), *id)).collect();
        lanes.sort();
        for (_, id) in lanes {
            if let Some(Some(seq)) = self.lane_op(id, "evict", |lane, _, _, _, out| lane.evict(out)) {
                let checked = self.checker.evicted(seq);
                self.check(checked);
                return true;
            }
        }
        false
    }

    /// A local worker looks for a task.
    pub fn work(&mut self) {
        if self.calm && self.lanes_idle() {
            return;
        }
        self.after(100 * MS, Event::Work);
        let Some(id) = self.some_lane(Kind::Task) else { return };
        let leased = self.lane_op(id, "lease", |lane, gate, rules, now, out| lane.lease(now, gate, rules, out));
        let Some(Some(leased)) = leased else { return };
        let checked = self.checker.leased(id, leased.seq, self.now);
        self.check(checked);
        let lasts = if self.rng.chance(80) { self.rng.between(1, 300) } else { self.rng.between(300, 4_000) };
        let verdict = match self.rng.below(10) {
            0..5 => Some(Verdict::Done),
            5..6 => Some(Verdict::Returned),
            6..9 => Some(Verdict::Failed(Moment(self.now.0 + (lasts + self.rng.below(500)) * MS))),
            _ => Some(Verdict::Dead),
        };
        self.after(lasts * MS, Event::Worked { run: self.run, lane: id, seq: leased.seq, verdict });
    }

    pub fn worked(&mut self, id: LaneId, seq: u64, verdict: Option<Verdict>) {
        let Some(verdict) = verdict else { return };
        let checked = self.checker.worked(seq, verdict);
        self.check(checked);
        let name = match verdict {
            Verdict::Done => "done",
            Verdict::Failed(_) => "failed",
            Verdict::Returned => "returned",
            Verdict::Dead => "dead",
        };
        self.lane_op(id, name, |lane, _, _, _, out| lane.settle(seq, verdict, out));
    }

    /// A local group looks for an event.
    pub fn show(&mut self) {
        if self.calm && self.lanes_idle() {
            return;
        }
        self.after(130 * MS, Event::Show);
        let Some(id) = self.some_lane(Kind::Event) else { return };
        let group = 1 << self.rng.below(2);
        let shown = self.lane_op(id, "shown", |lane, gate, rules, now, _| {
            let all: Vec<u64> = lane.places().map(|(seq, _)| seq).collect();
            all.into_iter().find(|seq| lane.show(*seq, now, gate, group, rules))
        });
        let shown = shown.flatten();
        let Some(seq) = shown else { return };
        let checked = self.checker.shown(seq, group);
        self.check(checked);
        let lasts = self.rng.between(1, 300) * MS;
        self.after(lasts, Event::Shown { run: self.run, lane: id, seq, group });
    }

    pub fn shown(&mut self, id: LaneId, seq: u64, group: u64) {
        self.lane_op(id, "handled", |lane, _, _, _, out| lane.handled(seq, group, out));
        self.checker.handled(seq, group);
    }

    fn some_lane(&mut self, kind: Kind) -> Option<LaneId> {
        let (hub, rules) = (self.hub.as_ref()?, &self.setup.rules);
        let lanes: Vec<LaneId> = hub.lanes.keys().copied().filter(|id| rules[id.topic].kind == kind).collect();
        let place = self.rng.below(lanes.len() as u64) as usize;
        lanes.get(place).copied()
    }

    /// The lanes of the store.
    pub fn recovered_lanes(&mut self) -> std::collections::BTreeMap<LaneId, Lane> {
        let mut found: std::collections::BTreeMap<LaneId, Vec<_>> = std::collections::BTreeMap::new();
        for (seq, row) in &self.store.rows {
            found.entry(row.lane).or_default().push(helixmq::hub::failover::lane::Recovered {
                seq: *seq,
                maybe_dup: row.maybe_dup,
                attempt: row.attempt,
                expires: Moment(row.expires),
                due: Moment(row.due),
                handled: row.handled,
            });
        }
        let recover =
            |id: LaneId, records: Vec<_>| Lane::recover(id.key != 0, &self.setup.rules[id.topic], records.into_iter());
        found.into_iter().map(|(id, records)| (id, recover(id, records))).collect()
    }

    pub fn write(&mut self, op: Op) {
        if let Some(takes) = self.store.write(op, &mut self.rng) {
            self.after(takes, Event::Written);
        }
    }
}
