//! What is known of one partition here: messages that wait, that are out, that rest before a retry, and
//! up to where all is done. No I/O, and time is given.
//!
//! Only what is done without a gap may be committed, so a message that is done behind one that is not
//! stays as an empty place until the one before it is done.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::broker::{Ordered, Verdict};
use crate::clock::Moment;
use crate::message::Message;

/// Places of messages that are done, or wait, or are out: more are not fetched until the first is done.
const PLACES_MAX: usize = 16_384;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waits,
    Out,
    Rests,
    Done,
}

#[derive(Debug)]
struct Place {
    /// `None` once it is done.
    message: Option<Message>,
    offset: i64,
    attempt: u32,
    redelivered: bool,
    stage: Stage,
    /// It never held its key: it went nowhere but to the dead letters.
    keyless: bool,
}

/// One message to be handed over.
#[derive(Debug)]
pub(super) struct Taken {
    /// Its name here.
    pub place: u64,
    pub message: Message,
    pub offset: i64,
    pub attempt: u32,
    pub redelivered: bool,
}

/// The state of one partition.
#[derive(Debug)]
pub(super) struct Partition {
    ordered: Ordered,
    places: VecDeque<Place>,
    /// The name of the first place.
    first: u64,
    /// To be handed over next, in order.
    ready: VecDeque<u64>,
    rests: BTreeSet<(Moment, u64)>,
    /// Keys of which one is ready, out, or (strict) rests; and those that wait behind it.
    keys: HashMap<Box<[u8]>, VecDeque<u64>>,
    waiting: usize,
    waiting_bytes: usize,
    out: usize,
    /// Where the group goes on, if that has moved since it was last asked.
    moved: Option<i64>,
    /// The offset behind the last one that was handed over.
    handed: i64,
}

impl Partition {
    pub fn new(ordered: Ordered) -> Self {
        Self {
            ordered,
            places: VecDeque::new(),
            first: 0,
            ready: VecDeque::new(),
            rests: BTreeSet::new(),
            keys: HashMap::new(),
            waiting: 0,
            waiting_bytes: 0,
            out: 0,
            moved: None,
            handed: 0,
        }
    }

    /// A message came, the next one of the partition. `attempt`: of its first handing-over.
    pub fn arrive(&mut self, message: Message, offset: i64, attempt: u32, redelivered: bool) {
        let place = self.first + self.places.len() as u64;
        self.waiting += 1;
        self.waiting_bytes += message.size();
        match message.key().filter(|_| self.ordered != Ordered::No) {
            Some(key) => match self.keys.get_mut(key) {
                Some(behind) => behind.push_back(place),
                None => {
                    self.keys.insert(key.into(), VecDeque::new());
                    self.ready.push_back(place);
                }
            },
            None => self.ready.push_back(place),
        }
        let stage = Stage::Waits;
        self.places.push_back(Place { message: Some(message), offset, attempt, redelivered, stage, keyless: false });
    }

    /// As [`Partition::arrive`], but out at once: not for the program.
    pub fn arrive_out(&mut self, message: Message, offset: i64) -> u64 {
        let name = self.first + self.places.len() as u64;
        self.out += 1;
        let place =
            Place { message: Some(message), offset, attempt: 1, redelivered: false, stage: Stage::Out, keyless: true };
        self.places.push_back(place);
        name
    }

    /// There is nothing to hand over at this offset.
    pub fn pass(&mut self, offset: i64) {
        let stage = Stage::Done;
        self.places.push_back(Place { message: None, offset, attempt: 0, redelivered: false, stage, keyless: true });
        self.trim();
    }

    /// The next one to hand over.
    pub fn take(&mut self) -> Option<Taken> {
        let name = self.ready.pop_front()?;
        let place = self.place_mut(name)?;
        place.stage = Stage::Out;
        let message = place.message.clone()?;
        let taken = Taken {
            place: name,
            offset: place.offset,
            attempt: place.attempt,
            redelivered: place.redelivered,
            message,
        };
        self.waiting -= 1;
        self.waiting_bytes -= taken.message.size();
        self.out += 1;
        self.handed = self.handed.max(taken.offset + 1);
        Some(taken)
    }

    /// The message of one that is out.
    pub fn held(&self, name: u64) -> Option<&Message> {
        self.place(name).filter(|place| place.stage == Stage::Out)?.message.as_ref()
    }

    /// Takes a verdict over; `false`: that one is not out.
    pub fn settle(&mut self, name: u64, verdict: Verdict, now: Moment) -> bool {
        let ordered = self.ordered;
        let Some(place) = self.place_mut(name).filter(|place| place.stage == Stage::Out) else { return false };
        match verdict {
            Verdict::Ack => {
                place.stage = Stage::Done;
                let keyless = place.keyless;
                let message = place.message.take();
                self.out -= 1;
                if let Some(message) = message.filter(|_| !keyless) {
                    self.release(&message);
                }
                self.trim();
            }
            Verdict::Return => self.comes_back(name, true),
            Verdict::Retry(delay) => {
                place.redelivered = true;
                place.attempt += 1;
                if delay.is_zero() {
                    self.comes_back(name, ordered != Ordered::No);
                    return true;
                }
                place.stage = Stage::Rests;
                let message = place.message.clone();
                self.out -= 1;
                self.rests.insert((now.plus(delay), name));
                if let Some(message) = message.filter(|_| ordered == Ordered::Key) {
                    self.release(&message);
                }
            }
        }
        true
    }

    /// Out before, waits again; its key, if that counts, is still its own.
    fn comes_back(&mut self, name: u64, first: bool) {
        self.out -= 1;
        self.waits(name);
        match first {
            true => self.ready_in_order(name),
            false => self.ready.push_back(name),
        }
    }

    /// Those that came earlier go before it, those that came later behind.
    fn ready_in_order(&mut self, name: u64) {
        let at = self.ready.iter().position(|other| *other > name).unwrap_or(self.ready.len());
        self.ready.insert(at, name);
    }

    fn waits(&mut self, name: u64) {
        let Some(place) = self.place_mut(name) else { return };
        place.stage = Stage::Waits;
        let bytes = place.message.as_ref().map_or(0, Message::size);
        self.waiting += 1;
        self.waiting_bytes += bytes;
    }

    /// The next one of a key may go.
    fn release(&mut self, message: &Message) {
        let Some(key) = message.key().filter(|_| self.ordered != Ordered::No) else { return };
        match self.keys.get_mut(key).map(VecDeque::pop_front) {
            Some(Some(next)) => self.ready.push_back(next),
            Some(None) => drop(self.keys.remove(key)),
            None => {}
        }
    }

    /// Those whose rest is over wait again; answers whether there were any.
    pub fn wake(&mut self, now: Moment) -> bool {
        let mut any = false;
        while let Some((_, name)) = self.rests.first().copied().filter(|(at, _)| *at <= now) {
            self.rests.pop_first();
            self.waits(name);
            any = true;
            let key = self.place(name).and_then(|place| place.message.as_ref()?.key());
            let key: Option<Box<[u8]>> = key.filter(|_| self.ordered == Ordered::Key).map(Into::into);
            match key {
                // Its key is with another meanwhile.
                Some(key) => match self.keys.get_mut(&key) {
                    Some(behind) => behind.push_front(name),
                    None => {
                        self.keys.insert(key, VecDeque::new());
                        self.ready.push_back(name);
                    }
                },
                None => self.ready_in_order(name),
            }
        }
        any
    }

    /// When the next rest is over.
    pub fn next_wake(&self) -> Option<Moment> {
        self.rests.first().map(|(at, _)| *at)
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Handed over and not settled.
    pub fn out(&self) -> usize {
        self.out
    }

    /// Fetched and not handed over.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many more may be fetched, if so many and so many bytes may wait.
    pub fn room(&self, waiting_max: usize, bytes_max: usize) -> usize {
        if self.waiting_bytes >= bytes_max {
            return 0;
        }
        waiting_max.saturating_sub(self.waiting).min(PLACES_MAX.saturating_sub(self.places.len()))
    }

    /// The offset to go on from, once for each time it moves.
    pub fn moved(&mut self) -> Option<i64> {
        self.moved.take()
    }

    /// The offset behind the last one that was handed over; 0: none was.
    pub fn handed(&self) -> i64 {
        self.handed
    }

    /// The first offset that is not done, if there is one.
    pub fn unfinished(&self) -> Option<i64> {
        self.places.front().map(|place| place.offset)
    }

    /// What waits or rests, and is before `offset`, is not handed over any more.
    pub fn drop_waiting(&mut self, offset: i64) {
        let mut keys = std::mem::take(&mut self.keys);
        for place in self.places.iter_mut().filter(|place| place.offset < offset) {
            match place.stage {
                Stage::Waits => {
                    self.waiting -= 1;
                    self.waiting_bytes -= place.message.as_ref().map_or(0, Message::size);
                }
                Stage::Rests => {}
                Stage::Out | Stage::Done => continue,
            }
            place.message = None;
            place.stage = Stage::Done;
        }
        let is_done = |name: &u64| self.place(*name).is_none_or(|place| place.stage == Stage::Done);
        let mut ready: VecDeque<u64> = self.ready.iter().copied().filter(|name| !is_done(name)).collect();
        let rests: BTreeSet<_> = self.rests.iter().copied().filter(|(_, name)| !is_done(name)).collect();
        // A key whose first is gone is its next one's.
        let busy = |key: &[u8]| {
            let has = |place: &Place| place.message.as_ref().and_then(Message::key) == Some(key);
            let rests = self.ordered == Ordered::Strict;
            let holds =
                |place: &Place| !place.keyless && (place.stage == Stage::Out || (rests && place.stage == Stage::Rests));
            self.places.iter().any(|place| holds(place) && has(place))
                || ready.iter().any(|name| self.place(*name).is_some_and(has))
        };
        let mut next = Vec::new();
        keys.retain(|key, behind| {
            behind.retain(|name| !is_done(name));
            if busy(key) {
                return true;
            }
            next.extend(behind.pop_front());
            next.last()
                .is_some_and(|name| self.place(*name).and_then(|place| place.message.as_ref()?.key()) == Some(key))
        });
        ready.extend(next);
        (self.keys, self.ready, self.rests) = (keys, ready, rests);
        self.trim();
    }

    /// What was moved to is nowhere any more.
    pub fn forget_moved(&mut self) {
        self.moved = None;
    }

    /// Whether [`Partition::moved`] would answer one.
    pub fn has_moved(&self) -> bool {
        self.moved.is_some()
    }

    /// All that are out: their names, messages and offsets.
    pub fn all_out(&self) -> impl Iterator<Item = (u64, Message, i64)> + '_ {
        let names = self.first..;
        let out = names.zip(&self.places).filter(|(_, place)| place.stage == Stage::Out);
        out.filter_map(|(name, place)| Some((name, place.message.clone()?, place.offset)))
    }

    fn place(&self, name: u64) -> Option<&Place> {
        self.places.get(usize::try_from(name.checked_sub(self.first)?).ok()?)
    }

    fn place_mut(&mut self, name: u64) -> Option<&mut Place> {
        self.places.get_mut(usize::try_from(name.checked_sub(self.first)?).ok()?)
    }

    fn trim(&mut self) {
        while let Some(place) = self.places.front().filter(|place| place.stage == Stage::Done) {
            self.moved = Some(place.offset + 1);
            self.first += 1;
            self.places.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::message::{Pool, Record, Stamp};

    fn message(key: Option<&str>) -> Message {
        let record = Record { key: key.map(str::as_bytes), ..Record::new(b"x") };
        Message::alone(&Pool::new(0, 0), &Arc::from("t"), 1, &record, Stamp { seq: 0, now_us: 0 }).unwrap()
    }

    fn filled(ordered: Ordered, keys: &[Option<&str>]) -> Partition {
        let mut partition = Partition::new(ordered);
        for (offset, key) in (100..).zip(keys) {
            partition.arrive(message(*key), offset, 1, false);
        }
        partition
    }

    fn offsets(partition: &mut Partition) -> Vec<(i64, u64)> {
        std::iter::from_fn(|| partition.take()).map(|taken| (taken.offset, taken.place)).collect()
    }

    const NOW: Moment = Moment(0);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_what_is_done_without_a_gap_moves_on() {
        let mut partition = filled(Ordered::No, &[None; 4]);
        let out = offsets(&mut partition);
        assert_eq!((partition.out(), partition.moved()), (4, None));
        assert!(partition.settle(out[2].1, Verdict::Ack, NOW) && partition.settle(out[1].1, Verdict::Ack, NOW));
        assert_eq!(partition.moved(), None);
        assert!(partition.settle(out[0].1, Verdict::Ack, NOW));
        assert_eq!((partition.moved(), partition.moved()), (Some(103), None));
        assert!(!partition.settle(out[0].1, Verdict::Ack, NOW), "settled before");
        assert_eq!(partition.all_out().map(|(name, ..)| name).collect::<Vec<_>>(), [out[3].1]);
        partition.pass(104);
        assert_eq!(partition.moved(), None);
        assert!(partition.settle(out[3].1, Verdict::Ack, NOW));
        assert_eq!(partition.moved(), Some(105));
    }

    #[test]
    fn a_retry_counts_and_a_return_does_not() {
        let mut partition = filled(Ordered::No, &[None, None]);
        let first = partition.take().unwrap();
        assert!(partition.settle(first.place, Verdict::Return, NOW));
        let again = partition.take().unwrap();
        assert_eq!((again.offset, again.attempt, again.redelivered), (100, 1, false));
        assert!(partition.settle(again.place, Verdict::Retry(SECOND), NOW));
        assert_eq!(offsets(&mut partition), [(101, 1)]);
        assert!(!partition.wake(NOW) && partition.wake(NOW.plus(SECOND)));
        let third = partition.take().unwrap();
        assert_eq!((third.offset, third.attempt), (100, 2));
        assert_eq!(partition.moved(), None);
    }

    #[test]
    fn what_is_given_back_keeps_its_order() {
        let mut partition = filled(Ordered::No, &[None; 4]);
        let out: Vec<u64> = (0..3).map(|_| partition.take().unwrap().place).collect();
        out.iter().for_each(|place| assert!(partition.settle(*place, Verdict::Return, NOW)));
        assert_eq!(offsets(&mut partition).iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [100, 101, 102, 103]);
    }

    #[test]
    fn a_dead_letter_on_its_way_frees_no_key_of_others() {
        let mut partition = filled(Ordered::Key, &[Some("a"), Some("a")]);
        let dead = partition.arrive_out(message(Some("a")), 102);
        let first = partition.take().unwrap();
        assert!(partition.settle(dead, Verdict::Ack, NOW));
        assert!(partition.take().is_none(), "its key is out");
        assert!(partition.settle(first.place, Verdict::Ack, NOW));
        assert_eq!(partition.take().unwrap().offset, 101);
    }

    #[test]
    fn a_key_is_out_once_at_a_time_and_a_retry_may_be_passed() {
        let mut partition = filled(Ordered::Key, &[Some("a"), Some("a"), Some("b"), None, Some("a")]);
        let out = offsets(&mut partition);
        assert_eq!(out.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [100, 102, 103]);
        assert!(partition.settle(out[0].1, Verdict::Retry(SECOND), NOW));
        let next = offsets(&mut partition);
        assert_eq!(next[0].0, 101);
        assert!(partition.wake(NOW.plus(SECOND)));
        assert!(offsets(&mut partition).is_empty(), "its key is out");
        assert!(partition.settle(next[0].1, Verdict::Ack, NOW));
        let retried = offsets(&mut partition);
        assert_eq!(retried[0].0, 100, "before those that came later");
        assert!(partition.settle(retried[0].1, Verdict::Ack, NOW));
        assert_eq!((offsets(&mut partition)[0].0, partition.moved()), (104, Some(102)));
    }

    #[test]
    fn strict_order_waits_for_a_retry() {
        let mut partition = filled(Ordered::Strict, &[Some("a"), Some("a"), Some("b")]);
        let out = offsets(&mut partition);
        assert_eq!(out.len(), 2);
        assert!(partition.settle(out[0].1, Verdict::Retry(SECOND), NOW));
        assert!(offsets(&mut partition).is_empty());
        assert!(partition.wake(NOW.plus(SECOND)));
        let again = offsets(&mut partition);
        assert_eq!(again[0].0, 100);
        assert!(partition.settle(again[0].1, Verdict::Ack, NOW));
        assert_eq!(offsets(&mut partition)[0].0, 101);
    }

    #[test]
    fn what_is_dropped_is_done_and_frees_its_key() {
        let mut partition = filled(Ordered::Key, &[Some("a"), Some("a"), Some("b"), Some("b"), Some("a")]);
        let out = partition.take().unwrap();
        partition.drop_waiting(103);
        assert_eq!((partition.waiting(), partition.moved()), (2, None));
        let next = offsets(&mut partition);
        assert_eq!(next[0].0, 103, "the key of 102 is free, that of 100 is not");
        assert!(partition.settle(out.place, Verdict::Ack, NOW));
        assert_eq!(partition.moved(), Some(103));
        assert_eq!(offsets(&mut partition)[0].0, 104);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut partition = filled(Ordered::No, &[None; 3]);
        let bytes = message(None).size();
        assert_eq!((partition.room(5, 1 << 20), partition.room(3, 1 << 20), partition.room(5, bytes * 3)), (2, 0, 0));
        let out = offsets(&mut partition);
        assert_eq!(partition.room(5, bytes), 5);
        for (_, place) in &out[1..] {
            partition.settle(*place, Verdict::Ack, NOW);
        }
        assert_eq!(partition.places.len(), 3, "done, and kept behind the first");
    }
}
