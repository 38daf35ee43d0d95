//! What a lane is asked, what it answers, and what it knows of one record.

use std::time::Duration;

use super::policy::{Failure, Need, OnOutage, Room};
use super::Level;
use crate::clock::Moment;

pub use crate::message::TopicKind as Kind;

/// What holds for all lanes of a destination.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Tasks or events.
    pub kind: Kind,
    /// What the route does in an outage.
    pub on_outage: OnOutage,
    /// A refused record holds its lane until a person decides.
    pub strict: bool,
    /// The level that the spool gives: memory or disk.
    pub spool_level: Level,
    /// How long a call waits for a server that may be away, or for a lane that is nearly home.
    pub suspect_wait: Duration,
    /// How long it waits for a server that asked publishers to stop.
    pub blocked_wait: Duration,
    /// A backlog up to this many records is a short one, if all are on their way.
    pub short_backlog: usize,
    /// The server's client ends every record that it took, if late, and sends them in order, whatever becomes of
    /// connections: no second copy of a record is made while the first has no ending.
    pub one_copy: bool,
}

/// What one call asks for.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// When the call began.
    pub began: Moment,
    /// When it has to return; a call that may not wait at all: `began`.
    pub deadline: Moment,
    /// The level that it requires.
    pub require: Option<Level>,
    /// When the record expires; [`Moment::NEVER`] if it does not.
    pub expires: Moment,
    /// When a task may be handed to a worker.
    pub due: Moment,
    /// Room in the spool.
    pub room: Room,
}

/// What becomes of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Hand it to the server now, before the lock is let go; if it is not taken, say so by
    /// [`Lane::not_taken`](super::lane::Lane::not_taken).
    Send(u64),
    /// Ask again when the gate has changed, when the lane is direct ([`LaneAction::Wake`]), when a record
    /// has left the spool and made room, or at this moment.
    WaitUntil(Moment),
    /// Write it to the spool; then [`Lane::appended`](super::lane::Lane::appended) or [`Lane::append_failed`](super::lane::Lane::append_failed).
    Append(u64),
    /// Evict the oldest record of the destination ([`Lane::evict`](super::lane::Lane::evict)) and ask again.
    MakeRoom,
    /// It fails, not sent.
    Fail(Failure),
    /// It is dropped; level `none`.
    Drop,
}

/// How a publish ended for its caller. Once for each record that was given a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completed {
    /// It has reached this level.
    Reached(Level),
    /// The server said no.
    Refused,
    /// It never left this process, and will not.
    NotSent,
    /// It may or may not have arrived, or may arrive yet.
    Unknown,
    /// Its time was over before it was sent.
    Expired,
}

/// What became of a record after its caller was told something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The server has it.
    Confirmed,
    /// The server said no; it is a dead letter.
    Refused,
    /// Its time was over.
    Expired,
    /// It made room for newer ones.
    Evicted,
    /// A worker of this process has done it, or given it up for good.
    LocalDone,
    /// It was in flight and could not be stored: not known, and not sent again.
    Unknown,
}

/// What is to be done, in this order. All that goes to the store is done there in the order given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneAction {
    /// Write this record, which so far was in flight only; then [`Lane::appended`](super::lane::Lane::appended) or
    /// [`Lane::append_failed`](super::lane::Lane::append_failed).
    Append {
        /// The record.
        seq: u64,
        /// Written with it: it may be at the server already.
        maybe_dup: bool,
    },
    /// Write durably that this record may be at the server from now on; then [`Lane::marked`](super::lane::Lane::marked).
    Mark {
        /// The record.
        seq: u64,
    },
    /// Hand it to the server.
    Send {
        /// The record.
        seq: u64,
        /// Its ending is told with this epoch.
        epoch: u64,
        /// It may be at the server already.
        maybe_dup: bool,
        /// How often local workers have tried it.
        attempt: u16,
        /// The local groups that have handled it.
        handled: u64,
    },
    /// Take it out of the store, now or later; no answer is awaited.
    Remove {
        /// The record.
        seq: u64,
    },
    /// Take it out of the store durably; then [`Lane::withdrawn`](super::lane::Lane::withdrawn).
    Withdraw {
        /// The record.
        seq: u64,
    },
    /// Note with it, now or later, what local consumers did.
    Note {
        /// The record.
        seq: u64,
        /// Attempts of local workers.
        attempt: u16,
        /// Local groups that have handled it.
        handled: u64,
    },
    /// Tell its caller.
    Complete {
        /// The record.
        seq: u64,
        /// How it ended.
        completed: Completed,
    },
    /// Tell who asked for fates.
    Fate {
        /// The record.
        seq: u64,
        /// What became of it.
        fate: Fate,
    },
    /// Keep it as a local dead letter; comes before the record leaves the store.
    DeadLetter {
        /// The record.
        seq: u64,
    },
    /// The lane is held: a person has to decide.
    Alarm {
        /// The record that was refused.
        seq: u64,
    },
    /// The lane is direct again: publishers that wait for it may ask again.
    Wake,
}

/// Why a lane stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its head was refused, and the route is strict.
    Refused,
    /// A local worker has its head.
    Leased,
}

/// The state of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneState {
    /// Nothing is stored.
    Direct {
        /// Handed over, not confirmed.
        inflight: usize,
    },
    /// Records wait in the spool.
    Spooling {
        /// Unsettled spool records.
        backlog: usize,
    },
    /// Records of the spool are on their way.
    Forwarding {
        /// Unsettled spool records.
        backlog: usize,
        /// Handed over, or being marked for it.
        inflight: usize,
    },
    /// The lane stands still.
    Held {
        /// Why.
        why: Why,
    },
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Appending,
    Queued,
    Marking { probe: bool },
    Flying { epoch: u64, since: Moment },
    Leased,
    Withdrawing,
}

/// Where a record is, for people and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Being written to the spool.
    Appending,
    /// In the spool.
    Queued,
    /// In the spool; being marked as one that may be at the server from now on.
    Marking,
    /// Handed over without having been stored.
    Direct,
    /// Handed over from the spool.
    Flying,
    /// A local worker has it.
    Leased,
    /// Being taken out of the spool, as its call has waited long enough.
    Withdrawing,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub(super) seq: u64,
    pub(super) at: At,
    /// The caller has not been told yet, and waits for this.
    pub(super) owes: Option<Need>,
    /// It has a place in the store, or will have.
    pub(super) stored: bool,
    /// The store has it that it may be at the server.
    pub(super) marked: bool,
    /// An earlier copy ended unknown.
    pub(super) dup: bool,
    /// The copy of this epoch was given up before its ending came.
    pub(super) open_copy: Option<u64>,
    /// The route keeps it when its connection is lost.
    pub(super) keeps: bool,
    pub(super) attempt: u16,
    pub(super) expires: Moment,
    pub(super) due: Moment,
    /// Local groups that were shown it, and those that have handled it.
    pub(super) shown: u64,
    pub(super) handled: u64,
}

impl Record {
    pub(super) fn maybe_dup(&self) -> bool {
        self.dup || self.open_copy.is_some()
    }

    /// Of the spool, and handed over or being marked for it.
    pub(super) fn is_on_way(&self) -> bool {
        self.stored && matches!(self.at, At::Flying { .. } | At::Marking { .. })
    }

    pub(super) fn place(&self) -> Place {
        match self.at {
            At::Appending => Place::Appending,
            At::Queued => Place::Queued,
            At::Marking { .. } => Place::Marking,
            At::Flying { .. } if self.stored => Place::Flying,
            At::Flying { .. } => Place::Direct,
            At::Leased => Place::Leased,
            At::Withdrawing => Place::Withdrawing,
        }
    }
}

/// A record of the spool, found when the process starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// Its number; rising.
    pub seq: u64,
    /// It was marked, or written as such.
    pub maybe_dup: bool,
    /// Attempts of local workers.
    pub attempt: u16,
    /// When it expires.
    pub expires: Moment,
    /// When a worker may have it.
    pub due: Moment,
    /// Local groups that have handled it, as bits of this run's numbering.
    pub handled: u64,
}

/// The record that shows whether its server takes any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// The record.
    pub seq: u64,
    /// It was not sent for that: the ending of its copy of this epoch is awaited.
    pub awaits: Option<u64>,
}

/// A record for a local worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leased {
    /// The record.
    pub seq: u64,
    /// Attempts of local workers before.
    pub attempt: u16,
}

/// What a local worker made of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Done,
    /// Failed: the next attempt is due at this moment, here or at the server.
    Failed(Moment),
    /// Given up for good; the dead letter is written by whoever counts attempts.
    Dead,
    /// Given back as if it had not been handed over.
    Returned,
}
