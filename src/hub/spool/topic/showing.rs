//! Events that are kept, shown to groups of this process while their server is away: each once to each group, in
//! their order, and of a key one at a time where the group asks for that.
//!
//! A group's view is made when it first looks, and told of what comes from then on.

use std::collections::{HashMap, VecDeque};

use super::{LaneKey, SpoolTopic, State};
use crate::broker::{Ordered, Verdict};
use crate::hub::failover::Way;
use crate::hub::provisional::{is_for_all, HANDLED};
use crate::hub::spool::{After, Spool};
use crate::message::{HeaderBlock, Message, Record, TopicKind};

/// What one group has not been shown yet.
#[derive(Debug, Default)]
pub(in crate::hub::spool) struct View {
    /// One bit.
    group: u64,
    queue: Line,
    /// Keys of which none is to be shown.
    keys: HashMap<LaneKey, Slot>,
    /// To be shown first; the slots of their keys are theirs already.
    next: VecDeque<(u64, LaneKey)>,
}

/// Why of a key none is to be shown.
#[derive(Debug)]
enum Slot {
    /// A copy is out, or about to be; what is behind it.
    Out { owner: u64, waiting: Line },
    /// One was given back, and none may pass it, until it has left the spool.
    Shut { owner: u64 },
}

/// Numbers of records, in order. Those of records that are gone are dropped now and then.
#[derive(Debug, Default)]
struct Line {
    seqs: VecDeque<u64>,
    dropped_at: usize,
}

const DROPPED_FROM: usize = 1024;

impl Line {
    fn push(&mut self, seq: u64, is_kept: impl Fn(u64) -> bool) {
        self.seqs.push_back(seq);
        if self.seqs.len() > self.dropped_at.max(DROPPED_FROM) {
            self.seqs.retain(|seq| is_kept(*seq));
            self.dropped_at = 2 * self.seqs.len();
        }
    }
}

impl View {
    fn new(group: u64, queue: Vec<u64>) -> Self {
        Self { group, queue: Line { seqs: queue.into(), dropped_at: 0 }, ..Self::default() }
    }

    /// Shows up to `max`. `key_of`: of a record that is kept; `show`: whether it is to be shown after all.
    fn take(
        &mut self,
        max: usize,
        ordered: bool,
        key_of: impl Fn(u64) -> Option<LaneKey>,
        mut show: impl FnMut(u64) -> bool,
    ) -> Vec<u64> {
        let mut shown = Vec::new();
        let is_kept = |seq| key_of(seq).is_some();
        while shown.len() < max {
            if let Some((seq, key)) = self.next.pop_front() {
                match is_kept(seq) && show(seq) {
                    true => shown.push(seq),
                    false => self.let_go(seq, &key),
                }
                continue;
            }
            let Some(seq) = self.queue.seqs.pop_front() else { break };
            let Some(key) = key_of(seq) else { continue };
            let keyed = ordered && key.is_keyed();
            match self.keys.get_mut(&key).filter(|_| keyed) {
                Some(Slot::Out { waiting, .. }) => {
                    waiting.push(seq, is_kept);
                    continue;
                }
                Some(Slot::Shut { owner }) if is_kept(*owner) => continue,
                Some(Slot::Shut { .. }) | None => {}
            }
            if show(seq) {
                shown.push(seq);
                if keyed {
                    self.keys.insert(key, Slot::Out { owner: seq, waiting: Line::default() });
                }
            }
        }
        shown
    }

    /// What became of a copy.
    fn settled(&mut self, seq: u64, key: LaneKey, verdict: Verdict, ordered: Ordered) {
        let is_owner = matches!(self.keys.get(&key), Some(Slot::Out { owner, .. }) if *owner == seq);
        match verdict {
            // Nobody has seen it.
            Verdict::Return if is_owner => self.next.push_front((seq, key)),
            Verdict::Return => self.queue.seqs.push_front(seq),
            Verdict::Retry(_) if is_owner && ordered == Ordered::Strict => {
                self.keys.insert(key, Slot::Shut { owner: seq });
            }
            Verdict::Ack | Verdict::Retry(_) => self.let_go(seq, &key),
        }
    }

    /// The next of a key may be shown, if this was the one before it.
    fn let_go(&mut self, seq: u64, key: &LaneKey) {
        let Some(Slot::Out { owner, waiting }) = self.keys.get_mut(key) else { return };
        if *owner != seq {
            return;
        }
        match waiting.seqs.pop_front() {
            Some(next) => {
                *owner = next;
                self.next.push_back((next, key.clone()));
            }
            None => drop(self.keys.remove(key)),
        }
    }
}

impl State {
    fn view(&mut self, group: u64) -> usize {
        let known = self.views.iter().position(|view| view.group == group);
        known.unwrap_or_else(|| {
            let mut queue: Vec<u64> =
                self.lanes.iter().flat_map(|(_, lane)| lane.places()).map(|(seq, _)| seq).collect();
            queue.sort_unstable();
            self.views.push(View::new(group, queue));
            self.views.len() - 1
        })
    }

    /// An event is kept from now on.
    pub(in crate::hub::spool) fn has_come(&mut self, seq: u64) {
        let records = &self.records;
        self.views.iter_mut().for_each(|view| view.queue.push(seq, |seq| records.contains_key(&seq)));
    }
}

impl SpoolTopic {
    /// Shows up to `max` events to a group.
    pub fn show(&self, spool: &Spool, group: u64, ordered: Ordered, max: usize) -> Vec<(u64, Message)> {
        if self.kind != TopicKind::Event || !self.is_local() || max == 0 || !self.can_tell() {
            return Vec::new();
        }
        let mut state = self.lock();
        let (gate, now) = (self.gate(spool), spool.context.clock.now());
        if gate.way == Way::Open || state.lanes.is_empty() {
            return Vec::new();
        }
        let at = state.view(group);
        let State { views, lanes, records, .. } = &mut *state;
        let Some(view) = views.get_mut(at) else { return Vec::new() };
        let message = |seq: u64| records.get(&seq).and_then(|kept| kept.message.as_ref());
        let key_of = |seq: u64| Some(self.key_of_message(message(seq)?));
        let shown = view.take(max, ordered != Ordered::No, key_of, |seq| {
            let is_for_all = message(seq).is_none_or(is_for_all);
            let lane = records.get(&seq).and_then(|kept| lanes.get_mut(kept.lane));
            !is_for_all && lane.is_some_and(|lane| lane.show(seq, now, gate, group, &self.rules))
        });
        shown.into_iter().filter_map(|seq| Some((seq, message(seq)?.clone()))).collect()
    }

    fn key_of_message(&self, message: &Message) -> LaneKey {
        LaneKey::of(self.kind, message.key(), message.priority())
    }

    /// Whether it can be told with an event who has handled it: else a group would be handed all of it twice.
    fn can_tell(&self) -> bool {
        *self.can_tell.get_or_init(|| {
            let mut headers = HeaderBlock::default();
            headers.push(HANDLED, b"-");
            self.server.check(&Record { headers: headers.headers(), ..Record::new(b"") }).is_ok()
        })
    }

    /// What became of a group's copy. Handled, it is done with; failed, it comes from the server.
    pub fn settle_shown(
        &self,
        spool: &Spool,
        group: u64,
        (seq, message): (u64, &Message),
        ordered: Ordered,
        verdict: Verdict,
    ) {
        let mut after = After { local: true, ..After::default() };
        {
            let mut state = self.lock();
            let (key, gate) = (self.key_of_message(message), self.gate(spool));
            if let Some(id) = state.records.get(&seq).map(|kept| kept.lane) {
                self.with_lane(spool, &mut state, id, gate, &mut after, |lane, out| match verdict {
                    Verdict::Ack => lane.handled(seq, group, out),
                    Verdict::Return => lane.not_shown(seq, group),
                    Verdict::Retry(_) => {}
                });
            }
            if let Some(view) = state.views.iter_mut().find(|view| view.group == group) {
                view.settled(seq, key, verdict, ordered);
            }
        }
        spool.finish(after);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    /// A view, and what is kept: numbers, whose key is their last digit.
    struct Bench {
        view: View,
        kept: RefCell<BTreeSet<u64>>,
        ordered: Ordered,
    }

    fn key(seq: u64) -> LaneKey {
        LaneKey::of(TopicKind::Event, Some(&[(seq % 10) as u8]), 0)
    }

    impl Bench {
        fn new(ordered: Ordered, seqs: &[u64]) -> Self {
            let view = View::new(1, seqs.to_vec());
            Self { view, kept: RefCell::new(seqs.iter().copied().collect()), ordered }
        }

        fn take(&mut self, max: usize) -> Vec<u64> {
            let kept = &self.kept;
            let key_of = |seq| kept.borrow().contains(&seq).then(|| key(seq));
            self.view.take(max, self.ordered != Ordered::No, key_of, |_| true)
        }

        fn come(&mut self, seq: u64) {
            self.kept.borrow_mut().insert(seq);
            let kept = &self.kept;
            self.view.queue.push(seq, |seq| kept.borrow().contains(&seq));
        }

        fn gone(&mut self, seq: u64) {
            self.kept.borrow_mut().remove(&seq);
        }

        fn settled(&mut self, seq: u64, verdict: Verdict) {
            self.view.settled(seq, key(seq), verdict, self.ordered);
        }
    }

    const RETRY: Verdict = Verdict::Retry(Duration::ZERO);

    #[test]
    fn each_is_shown_once_and_of_a_key_one_at_a_time() {
        assert_eq!(Bench::new(Ordered::No, &[1, 2, 11]).take(9), [1, 2, 11]);
        let mut bench = Bench::new(Ordered::Key, &[1, 2, 11, 12, 21]);
        assert_eq!((bench.take(9), bench.take(9)), (vec![1, 2], vec![]));
        bench.settled(1, RETRY);
        bench.settled(2, Verdict::Ack);
        assert_eq!((bench.take(1), bench.take(9)), (vec![11], vec![12]));
        bench.come(31);
        bench.settled(11, Verdict::Ack);
        assert_eq!(bench.take(9), [21]);
        bench.settled(12, Verdict::Ack);
        bench.settled(21, Verdict::Ack);
        assert_eq!(bench.take(9), [31]);
        bench.settled(31, Verdict::Ack);
        assert!(bench.view.keys.is_empty());
    }

    #[test]
    fn a_key_is_let_go_by_what_has_left_the_spool() {
        let mut bench = Bench::new(Ordered::Key, &[1, 11, 21, 31]);
        assert_eq!((bench.take(1), bench.take(9)), (vec![1], vec![]));
        bench.gone(11);
        bench.settled(1, Verdict::Ack);
        bench.gone(21);
        assert_eq!(bench.take(9), [31]);
        // Forwarded under its handler, it has its key until that is done.
        bench.gone(31);
        bench.come(41);
        assert_eq!(bench.take(9), [0_u64; 0]);
        // Another member, which keeps no order, has no say in that.
        bench.settled(21, Verdict::Ack);
        assert_eq!(bench.take(9), [0_u64; 0]);
        bench.settled(31, Verdict::Ack);
        assert_eq!(bench.take(9), [41]);
    }

    #[test]
    fn what_nobody_has_seen_comes_again_in_its_place() {
        for ordered in [Ordered::No, Ordered::Key, Ordered::Strict] {
            let mut bench = Bench::new(ordered, &[1, 11]);
            assert_eq!(bench.take(1), [1]);
            bench.settled(1, Verdict::Return);
            assert_eq!(bench.take(1), [1], "{ordered:?}");
            bench.settled(1, Verdict::Ack);
            assert_eq!(bench.take(9), [11]);
        }
    }

    #[test]
    fn in_strict_order_none_passes_one_that_failed_until_the_server_has_it() {
        let mut bench = Bench::new(Ordered::Strict, &[1, 2, 11]);
        assert_eq!(bench.take(9), [1, 2]);
        bench.settled(1, RETRY);
        bench.come(21);
        assert_eq!(bench.take(9), [0_u64; 0]);
        bench.gone(1);
        bench.come(31);
        assert_eq!(bench.take(9), [31]);
    }

    #[test]
    fn what_nobody_takes_does_not_grow() {
        let mut bench = Bench::new(Ordered::Key, &[1]);
        assert_eq!(bench.take(9), [1]);
        for number in 1..10_000 {
            bench.come(number * 10 + 1);
            if number % 2 == 0 {
                assert_eq!(bench.take(9), [0_u64; 0]);
            }
            bench.gone(number * 10 + 1);
        }
        let Some(Slot::Out { waiting, .. }) = bench.view.keys.get(&key(1)) else { panic!("its copy is out") };
        assert!(bench.view.queue.seqs.len() + waiting.seqs.len() <= 2 * DROPPED_FROM + 2);
    }
}
