//! Whether a server that is connected again takes records: one record of the spool shows it.

use std::sync::Arc;

use super::topic::SpoolTopic;
use super::{After, Spool};
use crate::hub::failover::backend::{Input, Sign};
use crate::hub::failover::destination::Seen;
use crate::hub::failover::lane::Probe;

/// A record that shows whether something takes records, and its topic's place in tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probed {
    pub base: u64,
    pub probe: Probe,
}

impl Spool {
    /// The probe was in vain: its topic may be to blame.
    pub fn blame_probed(&self) {
        let Some((_, probed)) = self.probe.lock().take() else { return };
        let topic = self.topics.read().of(probed.base).cloned();
        if let Some(topic) = topic {
            self.saw(&topic, None, Seen::Vain);
        }
    }

    /// What the end of a record says of the server and of its topic, if it is that of their probe: the copy of this
    /// epoch, or (`None`) any.
    pub(super) fn on_probe(
        &self,
        topic: &Arc<SpoolTopic>,
        seq: u64,
        epoch: Option<u64>,
        good: bool,
        after: &mut After,
    ) -> bool {
        if !good && epoch.is_some_and(|epoch| self.is_awaited(topic, seq, epoch)) {
            return true;
        }
        let mut probe = self.probe.lock();
        let of_server = probe.filter(|(of, own)| {
            let is_it = |epoch| epoch >> 32 == u64::from(*of) || own.probe.awaits == Some(epoch);
            (own.base, own.probe.seq) == (topic.base(), seq) && epoch.is_none_or(is_it)
        });
        // One that was in vain is asked for when its topic is blamed.
        *probe = probe.filter(|_| of_server.is_none() || !good);
        drop(probe);
        if let Some((of, _)) = of_server {
            after.inputs.push(Input::Link(of, if good { Sign::ProbeOk } else { Sign::ProbeErr }));
        }
        let of_topic = topic.standing.of_tried(seq, epoch);
        if let Some(of) = of_topic {
            let seen = if good { Seen::ProbeOk } else { Seen::ProbeErr };
            after.seen.push((Arc::clone(topic), Some(of), seen));
        }
        of_topic.is_some()
    }

    /// Whether some record shows of the server, or of the topic, whether it takes any.
    pub(super) fn is_probed(&self, topic: &SpoolTopic) -> bool {
        self.probe.lock().is_some() || topic.standing.is_tried_by(|_| true)
    }

    /// Whether a probe, of the server or of the topic, awaits the ending of this older copy.
    pub(super) fn is_awaited(&self, topic: &SpoolTopic, seq: u64, epoch: u64) -> bool {
        let is_it = |probe: &Probe| probe.seq == seq && probe.awaits == Some(epoch);
        let of_server = self.probe.lock().is_some_and(|(_, own)| own.base == topic.base() && is_it(&own.probe));
        of_server || topic.standing.is_tried_by(is_it)
    }

    /// Sends one record to see whether the server takes it.
    pub fn probe(&self, epoch: u32, turn: u32) {
        let mut lanes = self.with_backlog();
        let turn = turn as usize % lanes.len().max(1);
        lanes.rotate_left(turn);
        let mut after = After::default();
        let sent = lanes.into_iter().any(|(_, topic, id)| {
            // Under the topic's lock, so that its outcome finds it.
            topic.probe(self, id, &mut after, |probed| *self.probe.lock() = Some((epoch, probed)))
        });
        self.finish(after);
        if !sent {
            // With nothing to send, the connection is all there is to go by.
            self.driver.input(Input::Link(epoch, Sign::ProbeOk));
        }
    }
}
