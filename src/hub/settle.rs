//! Settlement: tokens, and the ledger of each subscription.
//!
//! A token is 53 bits, exact in the numbers of JavaScript and Lua, and settles a delivery from any
//! thread without any other object:
//!
//! ```text
//! 52        34 33      19 18         0
//! subscription    slot    generation
//! ```
//!
//! The subscription field indexes a table of the process, so a token finds its own hub. A slot's
//! generation moves on each time a delivery leaves it; an old token is recognised here, locally,
//! and never reaches a broker. The last [`HISTORY`] generations of a slot remember how they ended,
//! so that a second settle (`Settled`) is told from a lease that ended (`Stale`).
//!
//! Lock order: a ledger's lock is a leaf. No source or sink is called under it.

use std::cell::Cell;
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::retry::Attempts;
use crate::broker::{Source, Verdict};
use crate::error::{Error, Kind, Result};
use crate::limits::{PREFETCH_MAX, SUBSCRIPTIONS_MAX};
use crate::sync::{Mutex, MutexGuard};

/// Names one delivery, process-wide.
pub type Token = u64;

const GENERATION_BITS: u32 = 19;
const SLOT_BITS: u32 = 15;
const _: () = assert!(PREFETCH_MAX == 1 << SLOT_BITS);
const _: () = assert!(SUBSCRIPTIONS_MAX == 1 << (53 - GENERATION_BITS - SLOT_BITS));
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;
/// Slots of a ledger from the start: many, so that a generation comes round late.
const SLOTS_FIRST: usize = 256;
/// Generations of a slot whose end is remembered.
pub const HISTORY: u32 = 64;
const LEDGERS_PER_CHUNK: usize = 256;
const CHUNKS: usize = SUBSCRIPTIONS_MAX / LEDGERS_PER_CHUNK;

/// What the program decided about a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Done.
    Ack,
    /// Hand over again, after `delay` or by the subscription's policy; at its last attempt: dead letter.
    Retry {
        /// `None`: by policy.
        delay: Option<Duration>,
        /// Kept in the dead letter.
        reason: &'a str,
    },
    /// Dead letter now.
    Reject {
        /// Kept in the dead letter.
        reason: &'a str,
    },
}

/// Settles one delivery. Any thread; never blocks on a broker.
pub fn settle(token: Token, decision: Decision<'_>) -> Result<()> {
    let (open, owner) = ledger_of(token)?.take(token)?;
    owner.attempts.decide(&owner.source, open, decision)
}

/// Settles `count` deliveries: `get` names each token and decision, `put` gets each result. Runs
/// of acknowledgements of one subscription cost one step.
pub fn settle_many<'a>(
    count: usize,
    get: impl Fn(usize) -> (Token, Decision<'a>),
    mut put: impl FnMut(usize, Result<()>),
) {
    // A thread that is ending has no memory to lend.
    let mut run_memory = RUN.try_with(Cell::take).unwrap_or_default();
    let mut from = 0;
    while from < count {
        let (token, decision) = get(from);
        let subscription = subscription_of(token);
        let in_run = |index: &usize| {
            let (token, decision) = get(*index);
            token != 0 && decision == Decision::Ack && subscription_of(token) == subscription
        };
        let run = (from..count).take_while(in_run).count();
        match (run, ledger_of(token)) {
            (0, _) => put(from, settle(token, decision)),
            (_, Ok(ledger)) => {
                let tokens = (from..from + run).map(|index| (index, get(index).0));
                ledger.ack_run(tokens, &mut put, &mut run_memory);
            }
            (_, Err(error)) => (from..from + run).for_each(|index| put(index, Err(error.clone()))),
        }
        from += run.max(1);
    }
    let _ = RUN.try_with(|kept| kept.set(run_memory));
}

/// Acknowledgements of one subscription, and which of the caller's settlements each is.
#[derive(Default)]
struct Run {
    verdicts: Vec<(u64, Verdict)>,
    indexes: Vec<usize>,
}

thread_local! {
    /// Memory that the runs of one thread use again and again.
    static RUN: Cell<Run> = const { Cell::new(Run { verdicts: Vec::new(), indexes: Vec::new() }) };
}

/// Renews the lease of a delivery, counted from now.
pub fn extend(token: Token, lease: Duration) -> Result<()> {
    let (tag, owner) = {
        let state = ledger_of(token)?.state.lock();
        let open = state.open(token)?;
        (open.tag, state.owner.clone())
    };
    owner.ok_or_else(stale)?.source.extend(tag, lease)
}

/// What a ledger knows of the subscription that uses it.
#[derive(Debug)]
pub struct Owner {
    /// Where verdicts go.
    pub source: Arc<dyn Source>,
    /// Retry policy and dead letters of the subscription.
    pub attempts: Attempts,
}

/// A delivery that is out.
#[derive(Debug, Clone, Copy)]
pub struct Open {
    /// The source's name for it.
    pub tag: u64,
    /// Attempts, this one included.
    pub attempt: u32,
}

/// The open deliveries of one subscription. Lives for ever and serves one subscription after another.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    owner: Option<Arc<Owner>>,
    slots: Vec<Slot>,
    /// First in, first out, so that a slot is reused as late as possible.
    free: VecDeque<u32>,
}

#[derive(Debug)]
struct Slot {
    generation: u64,
    /// Bit n: the end of the generation n + 1 before the present one; set = the lease ended.
    ends: u64,
    open: Option<Open>,
}

impl Ledger {
    fn ack_run(
        &self,
        run: impl Iterator<Item = (usize, Token)>,
        put: &mut impl FnMut(usize, Result<()>),
        Run { verdicts, indexes }: &mut Run,
    ) {
        let owner = {
            let mut state = self.state.lock();
            for (index, token) in run {
                let taken = state.take(token).map(|open| {
                    verdicts.push((open.tag, Verdict::Ack));
                    indexes.push(index);
                });
                put(index, taken);
            }
            state.owner.clone()
        };
        if let (Some(owner), false) = (owner, verdicts.is_empty()) {
            // Leases that have ended since the tokens were taken.
            let ended = owner.source.settle(verdicts);
            for tag in &ended {
                let place = verdicts.iter().position(|(own, _)| own == tag);
                if let Some(index) = place.and_then(|place| indexes.get(place)) {
                    put(*index, Err(stale()));
                }
            }
            owner.attempts.count_settled(Decision::Ack, (verdicts.len() - ended.len()) as u64);
        }
        verdicts.clear();
        indexes.clear();
    }

    fn take(&self, token: Token) -> Result<(Open, Arc<Owner>)> {
        let mut state = self.state.lock();
        let owner = state.owner.clone();
        let open = state.take(token)?;
        Ok((open, owner.ok_or_else(stale)?))
    }
}

impl State {
    fn open(&self, token: Token) -> Result<&Open> {
        let slot = self.slots.get(slot_of(token)).ok_or_else(unknown)?;
        match (&slot.open, slot.generation == token & GENERATION_MASK) {
            (Some(open), true) => Ok(open),
            _ => Err(slot.how_ended(token, self.owner.is_none())),
        }
    }

    fn take(&mut self, token: Token) -> Result<Open> {
        self.open(token)?;
        self.end(slot_of(token), false).ok_or_else(unknown)
    }

    fn end(&mut self, index: usize, by_lease: bool) -> Option<Open> {
        let slot = self.slots.get_mut(index)?;
        let open = slot.open.take()?;
        // 1..=MASK: a token is never zero.
        slot.generation = slot.generation % GENERATION_MASK + 1;
        slot.ends = slot.ends << 1 | u64::from(by_lease);
        self.free.push_back(index as u32);
        Some(open)
    }

    fn grow(&mut self) {
        let from = self.slots.len();
        let to = (from * 2).clamp(SLOTS_FIRST, PREFETCH_MAX);
        self.slots.resize_with(to, || Slot { generation: 1, ends: u64::MAX, open: None });
        self.free.extend(from as u32..to as u32);
    }
}

impl Slot {
    fn how_ended(&self, token: Token, closed: bool) -> Error {
        let behind = (self.generation + GENERATION_MASK - (token & GENERATION_MASK)) % GENERATION_MASK;
        if (1..=u64::from(HISTORY)).contains(&behind) && self.ends >> (behind - 1) & 1 == 0 {
            Error::new(Kind::Settled, "this delivery has been settled already")
        } else if behind > GENERATION_MASK / 2 {
            unknown()
        } else if closed {
            Error::new(Kind::Closed, "the subscription of this delivery is closed; what it held went back")
        } else {
            stale()
        }
    }
}

/// A subscription's use of a ledger; ends all its leases when dropped.
#[derive(Debug)]
pub struct LedgerUse {
    index: usize,
    ledger: &'static Ledger,
}

impl LedgerUse {
    /// Takes a free ledger.
    pub fn obtain() -> Result<Self> {
        let index = {
            let mut free = FREE.lock();
            match free.pop_front() {
                Some(index) => index,
                None => NEXT.fetch_add(1, Ordering::Relaxed),
            }
        } as usize;
        let ledger = ledger_at(index).ok_or_else(|| {
            Error::new(Kind::Full, format!("{SUBSCRIPTIONS_MAX} subscriptions are open in this process"))
        })?;
        Ok(Self { index, ledger })
    }

    /// Names the subscription that owns the deliveries from now on.
    pub fn set_owner(&self, owner: Arc<Owner>) {
        self.ledger.state.lock().owner = Some(owner);
    }

    /// Locks the ledger to enter deliveries.
    pub fn entering(&self) -> Entering {
        let subscription = (self.index as u64) << (SLOT_BITS + GENERATION_BITS);
        Entering { state: self.ledger.state.lock(), subscription }
    }

    /// Takes back a delivery that was entered and is not to be handed over.
    pub fn withdraw(&self, token: Token) -> Option<u64> {
        self.ledger.state.lock().take(token).ok().map(|open| open.tag)
    }

    /// The source's name of a delivery that is out.
    pub fn tag_of(&self, token: Token) -> Option<u64> {
        self.ledger.state.lock().open(token).ok().map(|open| open.tag)
    }

    /// Those of `tags` that are out.
    pub fn open_of(&self, tags: &HashSet<u64>) -> HashSet<u64> {
        let state = self.ledger.state.lock();
        let open = state.slots.iter().filter_map(|slot| slot.open.as_ref());
        open.map(|open| open.tag).filter(|tag| tags.contains(tag)).collect()
    }

    /// Whether the delivery is out.
    pub fn is_open(&self, token: Token) -> bool {
        self.ledger.state.lock().open(token).is_ok()
    }

    /// The leases of these tags have ended; their tokens are stale from now on.
    pub fn revoke(&self, tags: &[u64]) {
        let mut state = self.ledger.state.lock();
        let ended: Vec<usize> = (0..state.slots.len())
            .filter(|index| state.slots[*index].open.as_ref().is_some_and(|open| tags.contains(&open.tag)))
            .collect();
        for index in ended {
            state.end(index, true);
        }
    }

    /// Ends all leases: their subscription is closed.
    pub fn end_all(&self) {
        let owner = {
            let mut state = self.ledger.state.lock();
            for index in 0..state.slots.len() {
                state.end(index, true);
            }
            state.owner.take()
        };
        drop(owner);
    }

    /// Deliveries out and not settled.
    pub fn open_count(&self) -> usize {
        let state = self.ledger.state.lock();
        state.slots.len() - state.free.len()
    }
}

/// A ledger, locked to enter deliveries.
pub struct Entering {
    state: MutexGuard<'static, State>,
    subscription: u64,
}

impl Entering {
    /// Enters a delivery and answers its token; `None` beyond the largest prefetch.
    #[inline]
    pub fn enter(&mut self, tag: u64, attempt: u32) -> Option<Token> {
        let state = &mut *self.state;
        if state.free.is_empty() {
            state.grow();
        }
        let index = state.free.pop_front()?;
        let slot = state.slots.get_mut(index as usize)?;
        slot.open = Some(Open { tag, attempt });
        Some(self.subscription | u64::from(index) << GENERATION_BITS | slot.generation)
    }
}

impl Drop for LedgerUse {
    fn drop(&mut self) {
        self.end_all();
        FREE.lock().push_back(self.index as u32);
    }
}

static TABLE: [OnceLock<Box<[Ledger]>>; CHUNKS] = [const { OnceLock::new() }; CHUNKS];
static FREE: Mutex<VecDeque<u32>> = Mutex::new(VecDeque::new());
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The ledger at `index`, made if it is not there yet.
fn ledger_at(index: usize) -> Option<&'static Ledger> {
    let chunk = TABLE.get(index / LEDGERS_PER_CHUNK)?;
    chunk.get_or_init(|| (0..LEDGERS_PER_CHUNK).map(|_| Ledger::default()).collect()).get(index % LEDGERS_PER_CHUNK)
}

fn ledger_of(token: Token) -> Result<&'static Ledger> {
    if token == 0 {
        return Err(Error::new(Kind::Arg, "token 0 settles nothing: what a replay hands over is not settled"));
    }
    let index = subscription_of(token);
    let chunk = TABLE.get(index / LEDGERS_PER_CHUNK).and_then(OnceLock::get);
    chunk.and_then(|ledgers| ledgers.get(index % LEDGERS_PER_CHUNK)).ok_or_else(unknown)
}

const fn subscription_of(token: Token) -> usize {
    (token >> (SLOT_BITS + GENERATION_BITS)) as usize
}

const fn slot_of(token: Token) -> usize {
    (token >> GENERATION_BITS) as usize & (PREFETCH_MAX - 1)
}

#[cold]
fn unknown() -> Error {
    Error::new(Kind::Stale, "no delivery with this token was ever handed over, or it was long ago")
}

#[cold]
pub(super) fn stale() -> Error {
    Error::new(Kind::Stale, "the lease of this delivery has ended; it has been or will be handed over again")
}
