//! The driver of the simulated hub: feeds the machines and executes what they answer. It holds no rule.

use helixmq::clock::Moment;
use helixmq::hub::failover::backend::{Action, Input, Sign, State};
use helixmq::hub::failover::backoff::DENIED;
use helixmq::hub::failover::destination::{Deed, Seen, Standing};
use helixmq::hub::failover::lane::Probe;
use helixmq::hub::failover::{blame, Blame, Ending, Gate};

use crate::broker_model::{Read, Wire};
use crate::world::{Event, Step, World, MS, STABLE_FOR};
use crate::LaneId;

impl World {
    pub fn next_deadline(&self) -> Option<Moment> {
        let hub = self.hub.as_ref()?;
        let topics = hub.destinations.iter().filter_map(|topic| topic.next_deadline());
        topics.chain(hub.backend.next_deadline()).min()
    }

    pub fn tick(&mut self) {
        let now = self.now;
        let Some(hub) = &mut self.hub else { return };
        if hub.backend.due(now).is_some() {
            return self.backend_on(Input::Tick);
        }
        for topic in 0..hub.destinations.len() {
            let hub = self.hub.as_mut().unwrap();
            if let Some(timer) = hub.destinations[topic].due(now) {
                let from = hub.destinations[topic].standing();
                let mut out = Vec::new();
                hub.destinations[topic].tick(now, &mut out);
                return self.deeds(topic, (from, 100 + timer as usize), || format!("timer {timer:?}"), out);
            }
        }
    }

    pub fn happens(&mut self, event: Event) {
        let here = |run: u32| run == self.run && self.hub.is_some();
        match event {
            Event::Publish => self.publish(),
            Event::Ask { run, call } if here(run) => self.ask(call, false),
            Event::Deadline { run, call } if here(run) => self.deadline(call),
            Event::Sign { run, epoch, sign } if here(run) => self.backend_on(Input::Link(epoch, sign)),
            Event::Echo { run, epoch, sign } if here(run) => {
                if self.hub.as_ref().is_some_and(|hub| hub.backend.view().epoch != epoch) {
                    self.backend_on(Input::Link(epoch, sign));
                }
            }
            Event::Seen { run, topic, epoch, seen } if here(run) => self.topic_on(topic, epoch, seen),
            Event::Attempt { run, epoch } if here(run) => self.attempt(epoch),
            Event::Lost { conn } => self.lost(conn),
            Event::Arrive { conn } => {
                let reads = self.server.read(conn, &mut self.rng);
                reads.into_iter().for_each(|read| self.was_read(read));
            }
            Event::Ends { run, lane, seq, epoch, ending, conn } if here(run) => {
                self.ends(lane, seq, epoch, ending, conn);
            }
            Event::Written => self.written(),
            Event::Work => self.work(),
            Event::Worked { run, lane, seq, verdict } if here(run) => self.worked(lane, seq, verdict),
            Event::Show => self.show(),
            Event::Shown { run, lane, seq, group } if here(run) => self.shown(lane, seq, group),
            Event::Order(command) if self.hub.is_some() => self.backend_on(Input::Command(command)),
            Event::Release { run, lane, skip } if here(run) => {
                let name = if skip { "skip" } else { "release" };
                self.lane_op(lane, name, |lane, _, _, _, out| lane.release(skip, out));
            }
            Event::Nemesis => self.nemesis(),
            Event::Heal(fault, topic) => self.heal(fault, topic),
            Event::Restart if self.hub.is_none() => self.start_process(),
            // Of a process that is gone.
            Event::Ask { .. }
            | Event::Deadline { .. }
            | Event::Sign { .. }
            | Event::Echo { .. }
            | Event::Seen { .. }
            | Event::Attempt { .. }
            | Event::Ends { .. }
            | Event::Worked { .. }
            | Event::Shown { .. }
            | Event::Order(_)
            | Event::Release { .. }
            | Event::Restart => {}
        }
    }

    pub fn gate(&self, topic: usize) -> Gate {
        self.gate_if(topic).unwrap()
    }

    pub fn gate_if(&self, topic: usize) -> Option<Gate> {
        let hub = self.hub.as_ref()?;
        Some(Gate::of(hub.backend.gate(), hub.destinations[topic].gate()))
    }

    pub fn backend_on(&mut self, input: Input) {
        let hub = self.hub.as_mut().unwrap();
        let from = hub.backend.state();
        let due = hub.backend.due(self.now);
        let since = hub.backend.view().since;
        let stale = matches!(input, Input::Link(epoch, _) if epoch != hub.backend.view().epoch);
        let mut out = std::mem::take(&mut self.actions);
        hub.backend.on(self.now, input, &mut out);
        let to = hub.backend.state();
        if stale && (from != to || !out.is_empty()) {
            self.fail("I7: the word of an old epoch has an effect");
        }
        let hub = self.hub.as_ref().unwrap();
        if (from, to) == (State::Forwarding, State::Up) && self.now.since(since) < STABLE_FOR {
            self.fail("I7: up before it has stayed");
        }
        let checked = self.checker.backend(&hub.backend, self.now);
        self.check(checked);
        self.trace(Step::Backend(from, input, to));
        if to == State::Refused && matches!(input, Input::Link(_, Sign::Denied)) && !stale {
            self.hub.as_mut().unwrap().denied = Some(self.now);
        }
        let short = match (input, due) {
            (Input::Tick, due) => due.map_or(99, |timer| timer as usize),
            (Input::Link(_, sign), _) => 100 + sign as usize,
            (Input::Spool { backlog, .. }, _) => 200 + usize::from(backlog > 0),
            (Input::Command(command), _) => 300 + command as usize,
        };
        let met = self.marks.met((0, from as u8, short, to as u8), from != to || !out.is_empty(), || {
            let name = match input {
                Input::Tick => due.map_or(String::new(), |timer| format!("timer {timer:?}")),
                Input::Link(_, sign) => format!("{sign:?}"),
                Input::Spool { backlog: 0, .. } => "no backlog".into(),
                Input::Spool { .. } => "backlog".into(),
                Input::Command(command) => format!("{command:?}"),
            };
            format!("backend: {from:?} | {name} | {to:?}")
        });
        self.check(met);
        if let Input::Link(epoch, sign) = input {
            let run = self.run;
            if sign != Sign::InTime && self.rng.chance(5) {
                let late = self.rng.between(1, 3_000) * MS;
                self.after(late, Event::Echo { run, epoch, sign });
            }
        }
        for action in out.drain(..) {
            self.act(action);
        }
        self.actions = out;
    }

    fn act(&mut self, action: Action) {
        self.trace(Step::Action(action));
        let run = self.run;
        let hub = self.hub.as_mut().unwrap();
        match action {
            Action::SetGate(_) => self.wake_all(),
            Action::Connect { epoch, .. } => {
                if hub.connecting.is_some() || self.server.current.is_some() || epoch <= hub.last_epoch {
                    self.fail("I7: a second connection, or an old epoch");
                }
                if hub.denied.is_some_and(|at| self.now.since(at) < DENIED) {
                    self.fail("I7: a server that refuses who we are is asked again at once");
                }
                (hub.connecting, hub.last_epoch) = (Some(epoch), epoch);
                let takes = self.rng.between(1, 80) * MS;
                self.after(takes, Event::Attempt { run, epoch });
                // A connection that is lost while it is being made, and an attempt that does not know.
                if self.rng.chance(5) {
                    self.after(takes / 2, Event::Sign { run, epoch, sign: Sign::Lost });
                }
            }
            Action::Disconnect { epoch } => {
                hub.connecting = hub.connecting.filter(|attempt| *attempt != epoch);
                if let Some(id) = self.server.current.filter(|id| self.server.conns[id].epoch == epoch) {
                    // A client that is given up is another one afterwards.
                    let stays = self.server.keeps && self.rng.chance(50);
                    self.close(id, stays);
                }
            }
            Action::BlameProbed => {
                if let Some((_, id, _)) = hub.probe.take() {
                    let epoch = hub.destinations[id.topic].gate().epoch;
                    self.topic_on(id.topic, epoch, Seen::Vain);
                }
            }
            Action::Probe { epoch, turn } => self.probe(epoch, turn),
            Action::Forward { budget } => {
                let forwarded: usize = hub.lanes.values().map(|lane| lane.forwarded()).sum();
                // Each destination may have a probe of its own out beside.
                if budget > 0 && forwarded + budget as usize > self.setup.window / 2 + hub.destinations.len() {
                    self.fail("I6: live traffic has not its half of the window");
                }
                self.forward(budget);
            }
            Action::StopForwarding | Action::Notify { .. } => {}
            Action::Sweep => self.sweep(),
            Action::CheckConfirms => self.check_confirms(),
        }
    }

    fn attempt(&mut self, epoch: u32) {
        let hub = self.hub.as_mut().unwrap();
        if hub.connecting != Some(epoch) || self.server.hole {
            return;
        }
        hub.connecting = None;
        let sign = match (self.server.up, self.server.denies) {
            // A connection that is lost while it is being made.
            (false, _) if self.rng.chance(20) => Sign::Lost,
            (false, _) => Sign::ConnectErr,
            (true, true) => Sign::Denied,
            (true, false) => {
                let id = self.server.connect(epoch, self.run);
                if self.server.keeps {
                    self.arrives_soon(id);
                }
                Sign::ConnectOk
            }
        };
        self.backend_on(Input::Link(epoch, sign));
        // A server tells newcomers that it wants nothing now.
        if sign == Sign::ConnectOk && self.server.blocked {
            self.backend_on(Input::Link(epoch, Sign::Blocked));
        }
    }

    fn lost(&mut self, id: u32) {
        let Some(conn) = self.server.conns.get(&id).filter(|conn| conn.open) else { return };
        let (epoch, run) = (conn.epoch, conn.run);
        self.close(id, true);
        // The endings may come before the word of the loss, and publishes in between.
        let late = if self.rng.chance(50) { 0 } else { self.rng.between(1, 30) };
        self.after(late * MS, Event::Sign { run, epoch, sign: Sign::Lost });
    }

    /// The client gives up a connection and says how its records ended; or says it late, or not at all.
    fn close(&mut self, id: u32, stays: bool) {
        let run = self.server.conns[&id].run;
        let (wires, unwritten) = self.server.give_up(id, &mut self.rng);
        let written = wires.len() - unwritten;
        if self.server.keeps && stays {
            if run == self.run {
                self.server.carry(id, wires);
            }
            return;
        }
        // A client that tells old endings again at each loss.
        let again = if self.server.keeps { Vec::new() } else { std::mem::take(&mut self.told) };
        for wire in again {
            let late = self.rng.between(0, 200);
            self.ends_soon(wire, late, Ending::NotSent);
        }
        if run != self.run || self.rng.chance(30) && !self.server.keeps {
            return;
        }
        for (at, wire) in wires.into_iter().enumerate() {
            let ending = if at >= written { self.server.over(run, &wire) } else { Ending::Unknown };
            let late = if self.rng.chance(70) { 0 } else { self.rng.between(0, 3_000) };
            self.ends_soon(wire, late, ending);
        }
    }

    pub fn ends_soon(&mut self, wire: Wire, late_ms: u64, ending: Ending) {
        let Wire { lane, seq, epoch, .. } = wire;
        if ending == Ending::NotSent && self.told.len() < 64 {
            self.told.push(wire);
        }
        let ends = Event::Ends { run: self.run, lane, seq, epoch, ending, conn: 0 };
        self.after(late_ms * MS, ends);
        // A client that tells it once more, when nobody expects it.
        if self.rng.chance(20) && !self.server.keeps {
            let again = self.rng.between(0, 1_500) * MS;
            self.after(again, ends);
        }
    }

    pub fn arrives_soon(&mut self, conn: u32) {
        let takes = self.rng.between(1, 20) * MS;
        self.after(takes, Event::Arrive { conn });
    }

    pub fn read_all(&mut self) {
        for id in self.server.conns.keys().copied().collect::<Vec<_>>() {
            let reads = self.server.read(id, &mut self.rng);
            reads.into_iter().for_each(|read| self.was_read(read));
        }
    }

    /// The server has read a record.
    pub fn was_read(&mut self, read: Read) {
        let Read { wire, conn, accepted, says, nowhere } = read;
        self.trace(Step::Read(wire.seq, wire.maybe_dup, accepted));
        if accepted {
            let checked = self.checker.seen(&wire);
            self.check(checked);
        }
        if nowhere {
            let (run, late) = (self.server.conns[&conn].run, self.rng.between(0, 20) * MS);
            let (topic, epoch) = (wire.lane.topic, wire.epoch as u32);
            self.after(late, Event::Seen { run, topic, epoch, seen: Seen::Gone });
        }
        let Some(ending) = says else { return };
        let run = self.server.conns[&conn].run;
        let Wire { lane, seq, epoch, .. } = wire;
        for _ in 0..(if self.rng.chance(3) { 2 } else { 1 }) {
            let late =
                if !self.rng.chance(self.server.late) { self.rng.between(1, 30) } else { self.rng.between(30, 3_000) };
            self.after(late * MS, Event::Ends { run, lane, seq, epoch, ending, conn });
        }
    }

    pub fn ends(&mut self, lane: LaneId, seq: u64, epoch: u64, ending: Ending, conn: u32) {
        let window = self.server.window;
        if let Some(conn) = self.server.conns.get_mut(&conn) {
            if !conn.open && self.rng.chance(40) {
                return;
            }
            conn.inflight.retain(|wire| (wire.seq, wire.epoch) != (seq, epoch));
            conn.full_since = conn.full_since.filter(|_| conn.inflight.len() >= window);
            // Only what the present connection says shows that it is well.
            if conn.open {
                self.hub.as_mut().unwrap().confirmed = Some(self.now);
            }
        }
        self.checker.ended(seq, epoch, self.run, ending);
        let name = match ending {
            Ending::Confirmed => "confirmed",
            Ending::Refused => "refused",
            Ending::NotSent => "not_sent",
            Ending::Unknown => "unknown",
        };
        self.lane_op(lane, name, |lane, _, rules, _, out| lane.complete(seq, epoch, ending, rules, out));
        let good = matches!(ending, Ending::Confirmed | Ending::Refused);
        let hub = self.hub.as_mut().unwrap();
        let awaited = [hub.probe, hub.tried[lane.topic]]
            .into_iter()
            .flatten()
            .any(|(_, id, probe)| (id, probe.seq, probe.awaits) == (lane, seq, Some(epoch)));
        if awaited && !good {
            // It is over, and shows nothing: another copy does.
            self.lane_op(lane, "probe", |lane, gate, _, now, out| lane.probe(now, gate, out));
            return self.report_perhaps();
        }
        let hub = self.hub.as_mut().unwrap();
        if let Some((of, ..)) = hub.probe.filter(|(of, id, probe)| {
            (*id, probe.seq) == (lane, seq) && shows(probe, epoch, epoch >> 32 == u64::from(*of))
        }) {
            if good {
                hub.probe = None;
            }
            self.backend_on(Input::Link(of, if good { Sign::ProbeOk } else { Sign::ProbeErr }));
        }
        let tried = self.hub.as_ref().and_then(|hub| hub.tried[lane.topic]);
        if let Some((of, ..)) =
            tried.filter(|(of, id, probe)| (*id, probe.seq) == (lane, seq) && shows(probe, epoch, epoch as u32 == *of))
        {
            self.hub.as_mut().unwrap().tried[lane.topic] = None;
            self.topic_on(lane.topic, of, if good { Seen::ProbeOk } else { Seen::ProbeErr });
        }
        self.report_perhaps();
    }

    pub fn topic_on(&mut self, topic: usize, epoch: u32, seen: Seen) {
        let (now, hub) = (self.now, self.hub.as_mut().unwrap());
        let (from, mut out) = (hub.destinations[topic].standing(), Vec::new());
        let stale = hub.destinations[topic].gate().epoch != epoch;
        hub.destinations[topic].on(now, epoch, seen, &mut out);
        if stale && !out.is_empty() {
            self.fail("I7: the word of an old epoch has an effect");
        }
        self.deeds(topic, (from, seen as usize), || format!("{seen:?}"), out);
    }

    pub fn deeds(
        &mut self,
        topic: usize,
        (from, short): (Standing, usize),
        input: impl FnOnce() -> String,
        deeds: Vec<Deed>,
    ) {
        let to = self.hub.as_ref().unwrap().destinations[topic].standing();
        let met = self.marks.met((1, from as u8, short, to as u8), from != to || !deeds.is_empty(), || {
            format!("destination: {from:?} | {} | {to:?}", input())
        });
        self.check(met);
        for deed in deeds {
            self.trace(Step::Deed(topic, deed));
            match deed {
                Deed::SetGate(_) => self.wake_all(),
                // A client that can take nothing back keeps what it has.
                Deed::Purge { epoch } => {
                    if self.rng.chance(50) && !self.server.keeps {
                        self.purge(topic, epoch);
                    }
                }
                Deed::Doubt { since } => {
                    let hub = self.hub.as_ref().unwrap();
                    if blame(since, hub.confirmed) == Blame::Backend {
                        let epoch = hub.backend.view().epoch;
                        self.backend_on(Input::Link(epoch, Sign::Sick));
                    }
                }
                Deed::Probe { epoch } => self.try_topic(topic, epoch),
            }
        }
    }

    /// The client takes back what it keeps for a destination. What came behind that, of the same epoch and
    /// connection, is taken back as well: a client that sends it all the same keeps no order.
    fn purge(&mut self, topic: usize, epoch: u32) {
        let until = Some((self.run, epoch));
        self.server.deleted[topic] = self.server.deleted[topic].max(until);
        for (conn, wire) in self.server.purge(topic) {
            self.server.forget(conn, &wire);
            let late = self.rng.below(50);
            self.ends_soon(wire, late, Ending::NotSent);
        }
    }

    pub fn wake_all(&mut self) {
        let (run, hub) = (self.run, self.hub.as_mut().unwrap());
        for call in hub.waiting.clone() {
            // A wake-up that is missed: the call looks again by itself.
            if self.rng.chance(80) {
                self.after(0, Event::Ask { run, call });
            }
        }
    }

    /// Facts for the machine of the backend; a report that is missed is made up for by the sweep.
    pub fn report_perhaps(&mut self) {
        if self.rng.chance(40) {
            self.report();
        }
    }
}

/// Whether the ending of a copy is what a probe waits for: that of the epoch which it shows, or the one it awaits.
fn shows(probe: &Probe, epoch: u64, is_present: bool) -> bool {
    is_present || probe.awaits == Some(epoch)
}
