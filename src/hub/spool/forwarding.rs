//! What is kept goes out: of which keys first, and how much at once.

use std::sync::Arc;

use super::topic::{LaneId, SpoolTopic};
use super::{After, Spool};
use crate::hub::failover::lane::Lane;
use crate::hub::failover::ramp::share;
use crate::hub::failover::Way;

/// Records that are forwarded under one hold of a topic's lock: publishers and outcomes wait for it.
const FORWARDED_AT_ONCE: u64 = 1024;

impl Spool {
    /// Lanes of which something can be forwarded, those that wait longest first; `max` of them.
    fn waiting(&self, max: u64) -> Vec<(u64, Arc<SpoolTopic>, LaneId)> {
        let wanted = |topic: Arc<SpoolTopic>| {
            let gate = topic.gate(self);
            let is_open = matches!(gate.way, Way::Open | Way::Refuse);
            // Or it has to take over a newer epoch first.
            let is_behind = |lane: &Lane| lane.backlog() > 0 && lane.epoch() < gate.epoch;
            topic.waiting(|lane| is_behind(lane) || (is_open && lane.may_forward()))
        };
        let mut lanes: Vec<_> = self.ready().flat_map(wanted).collect();
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        if max < lanes.len() {
            lanes.select_nth_unstable_by_key(max, |(oldest, ..)| *oldest);
            lanes.truncate(max);
        }
        lanes.sort_unstable_by_key(|(oldest, ..)| *oldest);
        lanes
    }

    /// Lanes of which something is kept, those that wait longest first.
    pub(super) fn with_backlog(&self) -> Vec<(u64, Arc<SpoolTopic>, LaneId)> {
        let mut lanes: Vec<_> = self.ready().flat_map(|topic| topic.waiting(|lane| lane.backlog() > 0)).collect();
        lanes.sort_unstable_by_key(|(oldest, ..)| *oldest);
        lanes
    }

    /// Forwards up to so many records.
    pub fn forward(&self, budget: u64) {
        if budget == 0 {
            return;
        }
        let lanes = self.waiting(budget);
        let (each, mut left) = (share(budget, lanes.len() as u64), budget);
        for (_, topic, id) in lanes {
            let mut own = each.min(left);
            while own > 0 {
                let (mut after, part) = (After::default(), own.min(FORWARDED_AT_ONCE));
                let used = topic.forward(self, id, part, &mut after).min(part);
                let goes_on = used == part && !after.server_full;
                self.finish(after);
                left -= used;
                own = if goes_on { own - used } else { 0 };
            }
        }
    }
}
