//! Whether one topic of a server takes records: runs the machine of a destination, as
//! [`driver`](crate::hub::driver) runs that of the server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::topic::SpoolTopic;
use super::{After, Probed, Spool};
use crate::broker::Wake;
use crate::clock::Moment;
use crate::hub::failover::backend::{Input, Sign};
use crate::hub::failover::destination::{Deed, Destination, DestinationConfig, Seen, Standing as State};
use crate::hub::failover::lane::Probe;
use crate::hub::failover::{blame, is_stuck, Blame, Word};
use crate::sync::Mutex;

/// The standing of a topic.
pub(super) struct Standing {
    machine: Mutex<Destination>,
    /// The gate word, packed.
    gate: AtomicU64,
    /// The record that shows whether it is back, and the epoch that it shows that of.
    tried: Mutex<Option<(u32, Probe)>>,
    /// A confirm was overdue when that was looked at last.
    is_late: AtomicBool,
}

impl Standing {
    pub fn new(config: DestinationConfig, seed: u64) -> Self {
        let machine = Destination::new(config, seed);
        let gate = AtomicU64::new(machine.gate().pack());
        Self { machine: Mutex::new(machine), gate, tried: Mutex::default(), is_late: AtomicBool::new(false) }
    }

    /// The gate.
    pub fn word(&self) -> Word {
        Word::unpack(self.gate.load(Ordering::Acquire))
    }

    /// Whether its records are forwarded with all others.
    pub fn is_there(&self) -> bool {
        matches!(self.machine.lock().standing(), State::Fine | State::Doubtful)
    }

    fn is_fine(&self) -> bool {
        self.machine.lock().standing() == State::Fine
    }

    pub(super) fn is_tried_by(&self, is_it: impl Fn(&Probe) -> bool) -> bool {
        self.tried.lock().is_some_and(|(_, own)| is_it(&own))
    }

    /// Whether a record is the one that was tried, by its copy of this epoch, or any; answers the epoch that it shows
    /// the standing of.
    pub(super) fn of_tried(&self, seq: u64, epoch: Option<u64>) -> Option<u32> {
        let tried = self.tried.lock().take_if(|(of, own)| {
            let is_it = |epoch| epoch as u32 == *of || own.awaits == Some(epoch);
            own.seq == seq && epoch.is_none_or(is_it)
        });
        tried.map(|(of, _)| of)
    }
}

impl SpoolTopic {
    /// What is not confirmed in time is kept; its copy goes on.
    fn keep_overdue(&self, spool: &Spool, now: Moment, limit: Duration) {
        let mut after = After::default();
        {
            let mut state = self.lock();
            let gate = self.gate(spool);
            for id in state.lanes.ids() {
                self.with_lane(spool, &mut state, id, gate, &mut after, |lane, out| lane.overdue(now, limit, out));
            }
        }
        spool.finish(after);
    }
}

impl Spool {
    /// Something was seen of a topic, in this epoch of it or in the present one. No lock of a topic is held.
    pub(super) fn saw(&self, topic: &Arc<SpoolTopic>, epoch: Option<u32>, seen: Seen) {
        self.step(topic, |machine, now, deeds| {
            let epoch = epoch.unwrap_or(machine.gate().epoch);
            machine.on(now, epoch, seen, deeds);
        });
    }

    fn step(&self, topic: &Arc<SpoolTopic>, step: impl FnOnce(&mut Destination, Moment, &mut Vec<Deed>)) {
        let mut deeds = Vec::new();
        {
            let mut machine = topic.standing.machine.lock();
            step(&mut machine, self.context.clock.now(), &mut deeds);
            topic.standing.gate.store(machine.gate().pack(), Ordering::Release);
        }
        let mut troubled = self.troubled.lock();
        let known = troubled.iter().position(|own| Arc::ptr_eq(own, topic));
        match (topic.standing.is_fine(), known) {
            (true, Some(at)) => drop(troubled.swap_remove(at)),
            (false, None) => troubled.push(Arc::clone(topic)),
            (true, None) | (false, Some(_)) => {}
        }
        drop(troubled);
        for deed in deeds {
            match deed {
                Deed::SetGate(_) => {
                    self.wake();
                    self.driver.look();
                    self.report();
                }
                // Nothing is taken back: what the client holds goes first, in order, when the topic is back.
                Deed::Purge { .. } => topic.server.look_again(),
                Deed::Doubt { since } => {
                    if blame(since, self.last_confirm()) == Blame::Backend {
                        self.driver.input(Input::Link(self.driver.view().epoch, Sign::Sick));
                    }
                }
                Deed::Probe { epoch } => self.try_topic(topic, epoch),
            }
        }
    }

    /// When a topic wants to be looked at.
    pub fn next_deadline(&self) -> Option<Moment> {
        // What a topic does not answer is the server's fault while that is away.
        if !self.driver.is_open() {
            return None;
        }
        let troubled = self.troubled.lock();
        troubled.iter().filter_map(|topic| topic.standing.machine.lock().next_deadline()).min()
    }

    /// Topics whose time has come.
    pub fn tick(&self) {
        let now = self.context.clock.now();
        let due = |topic: &&Arc<SpoolTopic>| topic.standing.machine.lock().next_deadline().is_some_and(|at| at <= now);
        let due: Vec<_> = self.troubled.lock().iter().filter(due).cloned().collect();
        due.iter().for_each(|topic| self.step(topic, |machine, now, deeds| machine.tick(now, deeds)));
    }

    /// The server is there again: so may be the topics that were not.
    pub fn server_is_back(&self) {
        let troubled = self.troubled.lock().clone();
        troubled.iter().for_each(|topic| self.saw(topic, None, Seen::Back));
    }

    /// Sends one record of a topic that was away, when its server is there.
    fn try_topic(&self, topic: &Arc<SpoolTopic>, epoch: u32) {
        let mut after = After::default();
        let note = |probed: Probed| *topic.standing.tried.lock() = Some((epoch, probed.probe));
        let lanes = Arc::clone(topic).waiting(|lane| lane.backlog() > 0);
        let sent = lanes.iter().any(|(_, topic, id)| topic.probe(self, *id, &mut after, note));
        self.finish(after);
        if !sent {
            self.saw(topic, Some(epoch), Seen::ProbeOk);
        }
    }

    /// When the server last confirmed anything, of whatever topic: one partition may be away while others are not.
    fn last_confirm(&self) -> Option<Moment> {
        moment(&self.confirmed)
    }

    /// Whether a confirm takes too long, and whose fault that is.
    pub fn check_confirms(&self, epoch: u32) {
        let (now, confirmed) = (self.context.clock.now(), self.last_confirm());
        let mut sign = Sign::InTime;
        for topic in self.topics() {
            let factor = if topic.rules.one_copy { 1 } else { super::OVERDUE_FACTOR };
            let limit = self.confirm_timeout.saturating_mul(factor);
            let late = topic.oldest_flight().filter(|sent| now.since(*sent) >= limit);
            if !topic.standing.is_late.swap(late.is_some(), Ordering::AcqRel) && late.is_some() {
                topic.server.look_again();
            }
            if late.is_some() && topic.rules.one_copy {
                topic.keep_overdue(self, now, limit);
            }
            match late.map(|sent| blame(sent, confirmed)) {
                None => {}
                Some(Blame::Backend) => sign = Sign::Overdue,
                Some(Blame::Destination) => self.saw(&topic, None, Seen::Overdue),
            }
        }
        if is_stuck(now, moment(&self.full_since), confirmed, self.confirm_timeout) {
            sign = Sign::Sick;
        }
        self.driver.input(Input::Link(epoch, sign));
    }
}

/// A moment that is kept as a number; 0: none.
fn moment(kept: &AtomicU64) -> Option<Moment> {
    Some(kept.load(Ordering::Acquire)).filter(|at| *at > 0).map(Moment)
}
