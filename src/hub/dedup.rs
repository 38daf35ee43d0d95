//! What is known of messages by their ids: who runs one, who waits for that, what is done. A pure machine:
//! no I/O, no lock, and time is given.
//!
//! It serves two uses, and what differs is only when an id is entered:
//!
//! - **dedup** ([`Keeps::Every`]): each id, when its delivery is handed over (*started*);
//! - **the ledger of breaks** ([`Keeps::Broken`]; not that of tokens in [`settle`](super::settle)): only the id of
//!   a delivery that was out when its connection broke, and that of a provisional copy.
//!
//! ```text
//!                     arrives, unknown                   its handler is done
//!           ─────────────────────────────> Out ────────────────────────────────> Done ── window ──> forgotten
//!                                           │  \ failed: the next copy runs       ^
//!                          connection broke │    (none: forgotten)                │ done, also so late
//!                                           v                                     │
//!   arrives while Out, Broken: held back   Broken ────────────────────────────────┘
//!   arrives while Done: to be acked         │ failed, or the window is over: the next copy runs
//! ```
//!
//! A delivery that is out has no end here: its lease is the broker's matter, who says when it has ended. One
//! whose connection broke has, as nobody else would end it. Ids known are at most `ids_max`: the oldest that
//! is done makes room, then the oldest that is broken; where all are out, an id is not entered and its copies
//! run, as they would without this. No rule here loses a message: what is not known is run.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::time::Duration;

use crate::clock::Moment;
use crate::numbers::NumberHasher;

pub(super) mod group;
pub(super) mod source;
#[cfg(test)]
mod tests;

/// A message's name: 128 bits of a keyed hash over what makes it the same message, so that what is remembered
/// is small and of one size. Two messages get the same one with a chance of some 10⁻²⁸ among 100,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(pub u64, pub u64);

/// Names one delivery: the subscription's number and the tag of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket {
    pub source: u64,
    pub tag: u64,
}

/// Which ids are entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Keeps {
    /// Each that is handed over.
    Every,
    /// Those that were out when their connection broke.
    Broken,
}

/// What becomes of a delivery that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival<C> {
    /// It is handed over.
    Run(C),
    /// Its message is done: it is acknowledged.
    Done(C),
    /// Its message is being handled: kept here until that has ended.
    Held,
}

/// What is to be done outside, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Effects<C> {
    /// To be acknowledged: their message is done.
    pub ack: Vec<C>,
    /// To be given back, as if they had not been handed over.
    pub back: Vec<C>,
    /// Not waited for any more: what is decided of them has no effect.
    pub ended: Vec<Ticket>,
    /// To be handed over.
    pub run: Vec<C>,
}

impl<C> Default for Effects<C> {
    fn default() -> Self {
        Self { ack: Vec::new(), back: Vec::new(), ended: Vec::new(), run: Vec::new() }
    }
}

impl<C> Effects<C> {
    pub fn is_empty(&self) -> bool {
        self.ack.is_empty() && self.back.is_empty() && self.ended.is_empty() && self.run.is_empty()
    }
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// The ids of one group of subscriptions. `C`: a copy that is held back.
#[derive(Debug)]
pub(super) struct Memory<C> {
    keeps: Keeps,
    window: Duration,
    ids_max: usize,
    known: Map<Id, Known<C>>,
    /// Of those that run and of those held back.
    tickets: Map<Ticket, Id>,
    /// When each of them is forgotten: all that is done, in order.
    done: VecDeque<(Moment, Id)>,
    /// The same of the broken ones.
    broken: BTreeSet<(Moment, Id)>,
    held: usize,
}

/// Boxed, as nearly all of many are done.
#[derive(Debug)]
enum Known<C> {
    Done,
    /// Of a provisional copy: one real copy is taken for it.
    DoneOnce,
    Runs(Box<Runs<C>>),
}

#[derive(Debug)]
struct Runs<C> {
    by: Ticket,
    /// Its connection broke: until when it is waited for.
    broken: Option<Moment>,
    held: VecDeque<(Ticket, C)>,
    /// A provisional copy: done, it takes the place of one real copy.
    once: bool,
}

impl<C> Memory<C> {
    pub fn new(keeps: Keeps, window: Duration, ids_max: usize) -> Self {
        Self {
            keeps,
            window,
            ids_max,
            known: Map::default(),
            tickets: Map::default(),
            done: VecDeque::new(),
            broken: BTreeSet::new(),
            held: 0,
        }
    }

    /// A delivery has come from its broker.
    pub fn arrive(&mut self, now: Moment, id: Id, by: Ticket, copy: C, effects: &mut Effects<C>) -> Arrival<C> {
        self.forget_done(now);
        match self.known.get_mut(&id) {
            Some(Known::Done) => Arrival::Done(copy),
            Some(Known::DoneOnce) => {
                // A program may use an id again: what comes next is another message.
                self.known.remove(&id);
                Arrival::Done(copy)
            }
            Some(Known::Runs(runs)) => {
                runs.held.push_back((by, copy));
                self.held += 1;
                self.tickets.insert(by, id);
                Arrival::Held
            }
            None => {
                if self.keeps == Keeps::Every && self.make_room(effects) {
                    self.enter(id, by, None, false);
                }
                Arrival::Run(copy)
            }
        }
    }

    /// A provisional copy is handed over: its real one waits for what becomes of it.
    pub fn start(&mut self, now: Moment, id: Id, by: Ticket, effects: &mut Effects<C>) {
        self.forget_done(now);
        if self.known.contains_key(&id) {
            // Two that cannot be told apart: the real one of each comes.
            self.forget(id, effects);
        } else if self.make_room(effects) {
            self.enter(id, by, None, true);
        }
    }

    /// Whether something is known of an id.
    pub fn knows(&self, id: Id) -> bool {
        self.known.contains_key(&id)
    }

    /// Its message is done. `false`: nothing is known of it.
    pub fn done(&mut self, now: Moment, by: Ticket, effects: &mut Effects<C>) -> bool {
        let Some((id, runs)) = self.running(by) else { return false };
        let (broken, once, held) = (runs.broken, runs.once, std::mem::take(&mut runs.held));
        let is_over = once && !held.is_empty();
        self.unbreak(id, broken);
        self.tickets.remove(&by);
        self.held -= held.len();
        for (ticket, copy) in held {
            self.tickets.remove(&ticket);
            effects.ack.push(copy);
        }
        if is_over {
            self.known.remove(&id);
            return true;
        }
        self.known.insert(id, if once { Known::DoneOnce } else { Known::Done });
        self.done.push_back((now.plus(self.window), id));
        if self.done.len() > self.ids_max {
            // Those that were taken for their copies are known no more, and still in there.
            self.forget_oldest_done();
        }
        true
    }

    /// It was not done: its lease has ended, or it comes again. One that is held back is so no more.
    pub fn failed(&mut self, by: Ticket, effects: &mut Effects<C>) {
        if let Some((id, _)) = self.running(by) {
            return self.next(id, effects);
        }
        let Some(id) = self.tickets.remove(&by) else { return };
        if let Some(Known::Runs(runs)) = self.known.get_mut(&id) {
            let before = runs.held.len();
            runs.held.retain(|(ticket, _)| *ticket != by);
            self.held -= before - runs.held.len();
        }
    }

    /// Its connection broke, while its handler runs on. `false`: it is not waited for.
    pub fn broke(&mut self, now: Moment, id: Id, by: Ticket, effects: &mut Effects<C>) -> bool {
        let until = now.plus(self.window);
        if let Some((id, runs)) = self.running(by) {
            let before = runs.broken.replace(until);
            self.unbreak(id, before);
            self.broken.insert((until, id));
            return true;
        }
        if self.tickets.contains_key(&by) {
            self.failed(by, effects);
            return false;
        }
        self.forget_done(now);
        if self.known.contains_key(&id) {
            // Two messages that cannot be told apart: of neither can it be said that it is done.
            if self.keeps == Keeps::Broken {
                self.forget(id, effects);
            }
            return false;
        }
        if !self.make_room(effects) {
            return false;
        }
        self.enter(id, by, Some(until), false);
        self.broken.insert((until, id));
        true
    }

    /// Forgets what is over.
    pub fn expire(&mut self, now: Moment, effects: &mut Effects<C>) {
        self.forget_done(now);
        while let Some((_, id)) = self.broken.first().copied().filter(|(until, _)| *until <= now) {
            self.end_broken(id, effects);
        }
    }

    /// When [`Memory::expire`] has something to do that somebody waits for.
    pub fn next_end(&self) -> Option<Moment> {
        self.broken.first().map(|(until, _)| *until)
    }

    /// Forgets all: messages are to be handed over that were handed over before.
    pub fn clear(&mut self, effects: &mut Effects<C>) {
        for (_, known) in self.known.drain() {
            let Known::Runs(runs) = known else { continue };
            effects.ended.extend(runs.broken.map(|_| runs.by));
            effects.back.extend(runs.held.into_iter().map(|(_, copy)| copy));
        }
        self.tickets.clear();
        self.done.clear();
        self.broken.clear();
        self.held = 0;
        effects.ended.sort_unstable();
    }

    /// A subscription is closed: all it had went back.
    pub fn forget_source(&mut self, source: u64, effects: &mut Effects<C>) {
        let own = self.tickets.iter().filter(|(ticket, _)| ticket.source == source);
        let mut all: Vec<(bool, Ticket)> = own.map(|(ticket, id)| (self.runs(*id, *ticket), *ticket)).collect();
        // Those held back first, so that none of them is told to run.
        all.sort_unstable();
        for (_, ticket) in all {
            self.failed(ticket, effects);
        }
    }

    /// Ids known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Deliveries that this must be told of: those that run, and those held back.
    pub fn tickets(&self) -> usize {
        self.tickets.len()
    }

    /// Copies held back.
    pub fn held(&self) -> usize {
        self.held
    }

    /// The copies that wait for this one.
    pub fn held_behind(&self, by: Ticket) -> impl Iterator<Item = &C> {
        let known = self.tickets.get(&by).and_then(|id| self.known.get(id));
        let runs = known.and_then(|known| match known {
            Known::Runs(runs) if runs.by == by => Some(runs),
            _ => None,
        });
        runs.into_iter().flat_map(|runs| runs.held.iter().map(|(_, copy)| copy))
    }

    fn enter(&mut self, id: Id, by: Ticket, broken: Option<Moment>, once: bool) {
        self.known.insert(id, Known::Runs(Box::new(Runs { by, broken, held: VecDeque::new(), once })));
        self.tickets.insert(by, id);
    }

    /// What runs by this ticket.
    fn running(&mut self, by: Ticket) -> Option<(Id, &mut Runs<C>)> {
        let id = *self.tickets.get(&by)?;
        match self.known.get_mut(&id)? {
            Known::Runs(runs) if runs.by == by => Some((id, runs)),
            _ => None,
        }
    }

    fn runs(&self, id: Id, by: Ticket) -> bool {
        matches!(self.known.get(&id), Some(Known::Runs(runs)) if runs.by == by)
    }

    fn unbreak(&mut self, id: Id, until: Option<Moment>) {
        if let Some(until) = until {
            self.broken.remove(&(until, id));
        }
    }

    /// Who ran it does so no more: the next copy runs.
    fn next(&mut self, id: Id, effects: &mut Effects<C>) {
        let Some(Known::Runs(runs)) = self.known.get_mut(&id) else { return };
        let (by, broken) = (runs.by, runs.broken.take());
        let next = runs.held.pop_front();
        self.tickets.remove(&by);
        if let Some((ticket, copy)) = next {
            runs.by = ticket;
            self.held -= 1;
            effects.run.push(copy);
        } else {
            self.known.remove(&id);
        }
        self.unbreak(id, broken);
    }

    fn end_broken(&mut self, id: Id, effects: &mut Effects<C>) {
        if let Some(Known::Runs(runs)) = self.known.get(&id) {
            effects.ended.push(runs.by);
        }
        self.next(id, effects);
    }

    fn forget(&mut self, id: Id, effects: &mut Effects<C>) {
        match self.known.remove(&id) {
            Some(Known::Done | Known::DoneOnce) => self.done.retain(|(_, own)| *own != id),
            Some(Known::Runs(runs)) => {
                self.unbreak(id, runs.broken);
                self.tickets.remove(&runs.by);
                effects.ended.extend(runs.broken.map(|_| runs.by));
                self.held -= runs.held.len();
                for (ticket, copy) in runs.held {
                    self.tickets.remove(&ticket);
                    effects.run.push(copy);
                }
            }
            None => {}
        }
    }

    fn forget_done(&mut self, now: Moment) {
        while self.done.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest_done();
        }
    }

    fn forget_oldest_done(&mut self) -> bool {
        let Some((_, id)) = self.done.pop_front() else { return false };
        // It may be known anew by now.
        if matches!(self.known.get(&id), Some(Known::Done | Known::DoneOnce)) {
            self.known.remove(&id);
        }
        true
    }

    /// Whether one more can be entered.
    fn make_room(&mut self, effects: &mut Effects<C>) -> bool {
        while self.known.len() >= self.ids_max {
            if self.forget_oldest_done() {
                continue;
            }
            let Some((_, id)) = self.broken.first().copied() else { return false };
            self.end_broken(id, effects);
        }
        true
    }
}
