//! Reading several partitions in the order of publishing.
//!
//! First go the events that are to be handed over again; then the partition whose next event has
//! the lowest number is read up to the next-lowest number of the others, and so on. One partition
//! alone, with no order among keys and no expiry to look at, is read in one run.

use super::group::{order_key, Again, Group, Settled, Tracker, HELD_MAX};
use super::log_state::State;
use super::partition::Partition;
use crate::broker::{Delivery, Ordered};
use crate::clock::{Clock, Moment};
use crate::message::Message;
use crate::sync::MutexGuard;

/// One event handed over, as its lease remembers it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handed {
    pub partition: u32,
    pub epoch: u32,
    pub offset: u64,
    pub key: Option<u64>,
    pub tries: u32,
    /// It was handed over before this time too.
    pub before: bool,
}

impl Handed {
    /// It is to be handed over again, now, with so many attempts more.
    pub fn again(&self, attempts: u32) -> Again {
        let (tries, key) = (self.tries + attempts, self.key);
        Again { tries, handed: self.before || attempts > 0, due: Moment(0), key }
    }

    /// The end of its delivery.
    pub fn settled(&self, slot: u32, again: Option<Again>, holds: bool) -> Settled {
        let Handed { partition, epoch, offset, key, .. } = *self;
        Settled { slot, partition, epoch, offset, key, again, holds }
    }
}

/// A locked log of a source.
pub(super) struct Locked<'a> {
    pub slot: u32,
    pub group: usize,
    pub state: MutexGuard<'a, State>,
    /// Something was found in it.
    pub found: bool,
}

/// A partition with something to read.
#[derive(Debug)]
pub(super) struct Head {
    log: usize,
    partition: usize,
    stop: u64,
    seq: u64,
}

/// Reads for one fetch.
pub(super) struct Reader<'a, G> {
    id: u64,
    ordered: Ordered,
    clock: &'a Clock,
    left: usize,
    out: &'a mut Vec<Delivery>,
    give: &'a mut G,
}

/// What a step of reading came to.
#[derive(PartialEq)]
enum Step {
    Given,
    Passed,
    Stopped,
}

impl<'a, G: FnMut(u32, Handed) -> u64> Reader<'a, G> {
    /// A reader of the source `id` that appends up to `want` events to `out`, taking a tag for
    /// each from `give`.
    pub fn new(
        id: u64,
        ordered: Ordered,
        clock: &'a Clock,
        want: usize,
        out: &'a mut Vec<Delivery>,
        give: &'a mut G,
    ) -> Self {
        Self { id, ordered, clock, left: want, out, give }
    }

    /// Reads from all `logs`; `heads` is empty, and kept by the caller for its memory.
    pub fn merge(&mut self, logs: &mut [Locked<'_>], heads: &mut Vec<Head>) {
        for (index, log) in logs.iter_mut().enumerate() {
            let before = self.left;
            self.open(index, log, heads);
            log.found = self.left < before;
        }
        while self.left > 0 {
            let Some((at, bound)) = lowest(heads) else { break };
            let Some(head) = heads.get_mut(at) else { break };
            let Some(log) = logs.get_mut(head.log) else { break };
            let before = self.left;
            let goes_on = self.read(log, head, bound);
            log.found |= self.left < before;
            if !goes_on {
                heads.swap_remove(at);
            }
        }
        heads.clear();
    }
}

/// The head with the lowest number, and the lowest number of the others.
fn lowest(heads: &[Head]) -> Option<(usize, u64)> {
    let (at, _) = heads.iter().enumerate().min_by_key(|(_, head)| head.seq)?;
    let others = heads.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, head)| head.seq);
    Some((at, others.min().unwrap_or(u64::MAX)))
}

impl<G: FnMut(u32, Handed) -> u64> Reader<'_, G> {
    /// Hands over what waits to be handed over again, and notes where there is more.
    fn open(&mut self, index: usize, log: &mut Locked<'_>, heads: &mut Vec<Head>) {
        let State { partitions, groups, members, .. } = &mut *log.state;
        let Some(Some(Group { trackers, .. })) = groups.get_mut(log.group) else { return };
        let member = members.iter().find(|member| member.id == self.id);
        for (partition, (tracker, own)) in trackers.iter_mut().zip(partitions).enumerate() {
            if tracker.owner != Some(self.id) {
                continue;
            }
            tracker.keep_up(own);
            if !tracker.again.is_empty() {
                self.read_again(log.slot, partition, tracker, own);
            }
            let stop = member.map_or(u64::MAX, |member| member.stop(partition));
            let mut cursor = tracker.cursor;
            if cursor.offset >= stop {
                continue;
            }
            if let Some(message) = own.chain.peek(&mut cursor) {
                heads.push(Head { log: index, partition, stop, seq: message.seq() });
            }
        }
    }

    fn read_again(&mut self, slot: u32, partition: usize, tracker: &mut Tracker, own: &Partition) {
        let now = self.clock.now();
        while self.left > 0 {
            let Some((offset, again)) = tracker.next_again(now) else { return };
            tracker.again.remove(&offset);
            let Some(message) = own.chain.peek(&mut own.chain.at(offset)) else {
                tracker.settle(offset);
                continue;
            };
            tracker.claim(again.key, offset);
            let handed = Handed {
                partition: partition as u32,
                epoch: tracker.epoch,
                offset,
                key: again.key,
                tries: again.tries,
                before: again.handed,
            };
            self.push(slot, message, handed);
        }
    }

    /// Reads from `head` up to the number `bound`; answers whether there is more behind it.
    fn read(&mut self, log: &mut Locked<'_>, head: &mut Head, bound: u64) -> bool {
        let slot = log.slot;
        let State { partitions, groups, expires, expired, .. } = &mut *log.state;
        let Some(Some(Group { trackers, settles, .. })) = groups.get_mut(log.group) else { return false };
        let Some(tracker) = trackers.get_mut(head.partition) else { return false };
        let Some(own) = partitions.get_mut(head.partition) else { return false };
        if bound == u64::MAX && self.ordered == Ordered::No && !*expires {
            self.read_run(slot, head, tracker, own, *settles);
            return false;
        }
        while self.left > 0 && tracker.cursor.offset < head.stop {
            let Some(message) = own.chain.peek(&mut tracker.cursor) else { return false };
            head.seq = message.seq();
            if head.seq > bound {
                return true;
            }
            if *expires && message.expires_us().is_some_and(|at| at <= self.clock.wall_us()) {
                let offset = tracker.cursor.offset;
                if offset >= own.expired_until {
                    own.expired_until = offset + 1;
                    *expired += 1;
                }
                own.chain.step(&mut tracker.cursor);
                tracker.hand_over(1, *settles);
                tracker.settle(offset);
                continue;
            }
            if self.read_one(slot, head, tracker, own, message, *settles) == Step::Stopped {
                return false;
            }
        }
        tracker.cursor.offset < head.stop
    }

    fn read_run(&mut self, slot: u32, head: &Head, tracker: &mut Tracker, own: &Partition, settles: bool) {
        let max = self.left.min(usize::try_from(head.stop - tracker.cursor.offset).unwrap_or(usize::MAX));
        let (mut offset, epoch, partition) = (tracker.cursor.offset, tracker.epoch, head.partition as u32);
        let give = &mut *self.give;
        let count = own.chain.read(&mut tracker.cursor, max, self.out, |message| {
            let handed = Handed { partition, epoch, offset, key: None, tries: 0, before: false };
            offset += 1;
            delivery(message, handed, give(slot, handed))
        });
        tracker.hand_over(count, settles);
        self.left -= count;
    }

    fn read_one(
        &mut self,
        slot: u32,
        head: &Head,
        tracker: &mut Tracker,
        own: &Partition,
        message: Message,
        settles: bool,
    ) -> Step {
        let key = if settles { order_key(&message, self.ordered) } else { None };
        let offset = tracker.cursor.offset;
        let is_free = tracker.claim(key, offset);
        if !is_free && tracker.again.len() >= HELD_MAX {
            return Step::Stopped;
        }
        own.chain.step(&mut tracker.cursor);
        tracker.hand_over(1, settles);
        if !is_free {
            let again = Again { tries: 0, handed: false, due: Moment(0), key };
            tracker.again.insert(offset, again);
            return Step::Passed;
        }
        let partition = head.partition as u32;
        self.push(slot, message, Handed { partition, epoch: tracker.epoch, offset, key, tries: 0, before: false });
        Step::Given
    }

    fn push(&mut self, slot: u32, message: Message, handed: Handed) {
        let tag = (self.give)(slot, handed);
        self.out.push(delivery(message, handed, tag));
        self.left -= 1;
    }
}

fn delivery(message: Message, handed: Handed, tag: u64) -> Delivery {
    Delivery {
        attempt: 1 + u32::from(message.attempts()) + handed.tries,
        message,
        tag,
        unsure: 0,
        redelivered: handed.before,
        provisional: false,
        partition: handed.partition,
        offset: handed.offset as i64,
    }
}
