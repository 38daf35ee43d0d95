//! Events that are kept, shown to groups of this process while their server is away: each once to each group, in
//! their order, and of a key one at a time where the group asks for that.
//!
//! A group's view is made when it first looks, and told of what comes from then on; it ends with the last kept event.

use std::collections::{HashMap, VecDeque};

use super::{LaneKey, SpoolTopic, State};
use crate::broker::Ordered;
use crate::hub::failover::Way;
use crate::hub::spool::{After, Spool};
use crate::message::{Message, TopicKind};

/// What one group has not been shown yet.
#[derive(Debug, Default)]
pub(in crate::hub::spool) struct View {
    /// One bit.
    group: u64,
    queue: VecDeque<u64>,
    /// Keys of which a copy is out, and what waits behind it.
    keys: HashMap<LaneKey, VecDeque<u64>>,
    /// Let go by the copy before it; its key is taken already.
    next: VecDeque<u64>,
}

impl State {
    fn view(&mut self, group: u64) -> &mut View {
        let known = self.views.iter().position(|view| view.group == group);
        let at = known.unwrap_or_else(|| {
            let mut queue: Vec<u64> = self.lanes.values().flat_map(|lane| lane.places()).map(|(seq, _)| seq).collect();
            queue.sort_unstable();
            self.views.push(View { group, queue: queue.into(), ..View::default() });
            self.views.len() - 1
        });
        &mut self.views[at]
    }

    /// An event is kept from now on.
    pub(in crate::hub::spool) fn has_come(&mut self, seq: u64) {
        self.views.iter_mut().for_each(|view| view.queue.push_back(seq));
    }

    /// With the last lane the views end.
    pub(super) fn no_views_of_nothing(&mut self) {
        if self.lanes.is_empty() {
            self.views.clear();
        }
    }
}

impl SpoolTopic {
    /// Shows up to `max` events to a group.
    pub fn show(&self, spool: &Spool, group: u64, ordered: Ordered, max: usize) -> Vec<(u64, Message)> {
        let mut shown = Vec::new();
        if self.kind != TopicKind::Event || !self.is_local() || max == 0 {
            return shown;
        }
        let mut state = self.lock();
        let (gate, now) = (self.gate(spool), spool.context.clock.now());
        if gate.way == Way::Open || state.lanes.is_empty() {
            return shown;
        }
        state.view(group);
        let State { views, lanes, records, .. } = &mut *state;
        let Some(view) = views.iter_mut().find(|view| view.group == group) else { return shown };
        while shown.len() < max {
            let (seq, has_key) = match view.next.pop_front() {
                Some(seq) => (seq, true),
                None => match view.queue.pop_front() {
                    Some(seq) => (seq, false),
                    None => break,
                },
            };
            let Some(kept) = records.get(&seq) else { continue };
            let keyed = ordered != Ordered::No && kept.lane.is_keyed();
            if let Some(waiting) = view.keys.get_mut(&kept.lane).filter(|_| keyed && !has_key) {
                waiting.push_back(seq);
                continue;
            }
            let is_shown = lanes.get_mut(&kept.lane).is_some_and(|lane| lane.show(seq, now, gate, group, &self.rules));
            match &kept.message {
                Some(message) if is_shown => {
                    if keyed && !has_key {
                        view.keys.insert(kept.lane.clone(), VecDeque::new());
                    }
                    shown.push((seq, message.clone()));
                }
                _ if has_key => view.let_go(&kept.lane),
                _ => {}
            }
        }
        shown
    }

    /// A group has handled its copy, or it has not: then it comes from the server, and so does what is behind it where
    /// nothing may pass it.
    pub fn is_seen(&self, spool: &Spool, group: u64, (seq, message): (u64, &Message), ordered: Ordered, done: bool) {
        let mut after = After { local: true, ..After::default() };
        {
            let mut state = self.lock();
            let key = LaneKey::of(self.kind, message.key(), message.priority());
            if done {
                let gate = self.gate(spool);
                self.with_lane(spool, &mut state, &key, gate, &mut after, |lane, out| lane.handled(seq, group, out));
            }
            if let Some(view) = state.views.iter_mut().find(|view| view.group == group) {
                match done || ordered != Ordered::Strict {
                    true => view.let_go(&key),
                    false => drop(view.keys.get_mut(&key).map(VecDeque::clear)),
                }
            }
        }
        spool.finish(after);
    }
}

impl View {
    /// The next of a key may be shown.
    fn let_go(&mut self, key: &LaneKey) {
        let Some(waiting) = self.keys.get_mut(key) else { return };
        match waiting.pop_front() {
            Some(seq) => self.next.push_back(seq),
            None => drop(self.keys.remove(key)),
        }
    }
}
