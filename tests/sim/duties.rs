//! What the machine of the backend asks its driver for: reports, probes, budgets, checks.

use std::time::Duration;

use helixmq::hub::failover::backend::{Input, Sign, State};
use helixmq::hub::failover::destination::{Seen, Standing};
use helixmq::hub::failover::lane::{Lane, LaneState, Probe, Why};
use helixmq::hub::failover::ramp::share;
use helixmq::hub::failover::{blame, is_stuck, Blame, Way};

use crate::world::{Hub, World};
use crate::LaneId;

impl Hub {
    /// Lanes with something to forward, oldest first, of destinations that are not away.
    pub fn ready_lanes(&self) -> Vec<LaneId> {
        let there = |topic: usize| matches!(self.destinations[topic].standing(), Standing::Fine | Standing::Doubtful);
        let held = |lane: &Lane| lane.state() == LaneState::Held { why: Why::Refused };
        let ready = self.lanes.iter().filter(|(id, lane)| there(id.topic) && lane.backlog() > 0 && !held(lane));
        let mut lanes: Vec<(Option<u64>, LaneId)> = ready.map(|(id, lane)| (lane.oldest(), *id)).collect();
        lanes.sort();
        lanes.into_iter().map(|(_, id)| id).collect()
    }
}

/// What the machine of the backend asks for.
impl World {
    pub fn report(&mut self) {
        let hub = self.hub.as_ref().unwrap();
        let ready = hub.ready_lanes();
        let backlog = ready.iter().map(|id| hub.lanes[id].backlog() as u64).sum();
        let inflight = hub.lanes.values().map(|lane| lane.forwarded() as u64).sum();
        self.backend_on(Input::Spool { backlog, inflight });
    }

    pub fn probe(&mut self, epoch: u32, turn: u32) {
        let hub = self.hub.as_mut().unwrap();
        hub.probe = None;
        let mut lanes = hub.ready_lanes();
        let turn = turn as usize % lanes.len().max(1);
        lanes.rotate_left(turn);
        let found = lanes.into_iter().find_map(|id| Some((id, self.probe_lane(id)?)));
        match found {
            Some((id, probe)) => self.hub.as_mut().unwrap().probe = Some((epoch, id, probe)),
            None => self.backend_on(Input::Link(epoch, Sign::ProbeOk)),
        }
    }

    pub fn try_topic(&mut self, topic: usize, epoch: u32) {
        let hub = self.hub.as_ref().unwrap();
        if !matches!(hub.backend.gate().way, Way::Open | Way::Refuse) || hub.backend.state() == State::Suspect {
            return;
        }
        let ids: Vec<LaneId> = hub.lanes.keys().copied().filter(|id| id.topic == topic).collect();
        let found = ids.into_iter().find_map(|id| Some((id, self.probe_lane(id)?)));
        match found {
            Some((id, probe)) => self.hub.as_mut().unwrap().tried[topic] = Some((epoch, id, probe)),
            None => self.topic_on(topic, epoch, Seen::ProbeOk),
        }
    }

    fn probe_lane(&mut self, id: LaneId) -> Option<Probe> {
        self.lane_op(id, "probe", |lane, gate, _, now, out| lane.probe(now, gate, out)).flatten()
    }

    pub fn forward(&mut self, budget: u64) {
        let lanes = self.hub.as_ref().unwrap().ready_lanes();
        let (each, mut left) = (share(budget, lanes.len() as u64), budget);
        for id in lanes {
            let part = each.min(left);
            let used = self.lane_op(id, "forward", |lane, gate, _, now, out| lane.forward(now, gate, part, out));
            left -= used.unwrap_or(0);
        }
        // So that the next budget knows of this one.
        self.report();
    }

    pub fn sweep(&mut self) {
        let ids: Vec<LaneId> = self.hub.as_ref().unwrap().lanes.keys().copied().collect();
        for id in ids {
            self.lane_op(id, "expire", |lane, gate, _, now, out| {
                lane.meet(gate, out);
                lane.expire(now, out);
            });
        }
        self.report();
    }

    /// What is overdue is kept, where its copy stays with the client.
    fn give_up_waiting(&mut self) {
        let rules = &self.setup.rules;
        let ids = self.hub.as_ref().unwrap().lanes.keys().filter(|id| rules[id.topic].one_copy);
        for id in ids.copied().collect::<Vec<_>>() {
            self.lane_op(id, "overdue", |lane, _, _, now, out| lane.overdue(now, Duration::from_secs(1), out));
        }
    }

    pub fn check_confirms(&mut self) {
        let topics = self.setup.rules.len();
        self.give_up_waiting();
        let hub = self.hub.as_ref().unwrap();
        let (mut backend, epoch) = (Sign::InTime, hub.backend.view().epoch);
        let mut words = Vec::new();
        for topic in 0..topics {
            let flights = hub.lanes.iter().filter(|(id, _)| id.topic == topic);
            let oldest = flights.filter_map(|(_, lane)| lane.oldest_flight()).min();
            let overdue = oldest.filter(|sent| self.now.since(*sent) >= Duration::from_secs(1));
            let word = match overdue.map(|sent| blame(sent, hub.confirmed)) {
                None => Seen::InTime,
                Some(Blame::Destination) => Seen::Overdue,
                Some(Blame::Backend) => {
                    backend = Sign::Overdue;
                    continue;
                }
            };
            words.push((topic, hub.destinations[topic].gate().epoch, word));
        }
        let full = self.server.current.and_then(|id| self.server.conns[&id].full_since);
        if is_stuck(self.now, full, hub.confirmed, Duration::from_secs(1)) {
            backend = Sign::Sick;
        }
        self.backend_on(Input::Link(epoch, backend));
        words.into_iter().for_each(|(topic, epoch, word)| self.topic_on(topic, epoch, word));
    }
}
