//! What a hub keeps on this disk for its servers: rows beside those of the broker's own topics, written in the same
//! units.
//!
//! A spool says what is to be written, marked and taken out, and the writer's thread tells it when that is so. What
//! follows from it is the spool's to know.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::journal::Journal;
use super::row::{Head, Mark, Pieces, Row, TopicRow};
use crate::broker::BackendKind;
use crate::error::Error;
use crate::message::{Message, TopicKind};

/// Who is told of rows. The writer's thread calls, and holds no lock.
pub trait SpoolSink: Send + Sync {
    /// What became of these records, in the order in which it was asked for.
    fn told(&self, told: Vec<(u64, Told)>);
}

/// What became of a record on disk.
#[derive(Debug, Clone)]
pub enum Told {
    /// It is there.
    Written,
    /// It is not; or, by the fate of the error, it may be.
    NotWritten(Error),
    /// Its mark is there, or could not be written.
    Marked(bool),
    /// It has left the disk for good, or may be there after a restart.
    Removed(bool),
}

/// A topic of a server, as an earlier process left it.
#[derive(Debug)]
pub struct SpooledTopic {
    /// Its rows.
    pub rows: Arc<SpoolRows>,
    /// What is in them, in the order of their numbers.
    pub records: Vec<SpooledRecord>,
}

/// A record that an earlier process left.
#[derive(Debug)]
pub struct SpooledRecord {
    /// With its number, and the id that it had.
    pub message: Message,
    /// When it is due, wall time; 0: at once.
    pub due_us: i64,
    /// How often workers of that process had tried it.
    pub tries: u16,
    /// It may be at the server.
    pub maybe_dup: bool,
}

/// The rows of one topic of one server.
pub struct SpoolRows {
    topic: TopicRow,
    journal: Arc<Journal>,
    sink: OnceLock<Weak<dyn SpoolSink>>,
    /// The topic is on disk, or on its way there.
    made: AtomicBool,
}

impl SpoolRows {
    pub(super) fn new(topic: TopicRow, journal: &Arc<Journal>, made: bool) -> Arc<Self> {
        Arc::new(Self { topic, journal: Arc::clone(journal), sink: OnceLock::new(), made: AtomicBool::new(made) })
    }

    /// The topic's name.
    pub fn name(&self) -> &str {
        &self.topic.name
    }

    /// What it carries.
    pub fn kind(&self) -> TopicKind {
        self.topic.kind
    }

    pub(super) fn server(&self) -> Option<BackendKind> {
        self.topic.server
    }

    pub(super) fn id(&self) -> u64 {
        self.topic.id
    }

    /// Names who is told; once, before anything is asked for.
    pub fn tell(&self, sink: Weak<dyn SpoolSink>) {
        let _ = self.sink.set(sink);
    }

    pub(super) fn told(&self, told: Vec<(u64, Told)>) {
        if let Some(sink) = self.sink.get().and_then(Weak::upgrade) {
            sink.told(told);
        }
    }

    /// Writes a record. One that `was_sent` is written though less space is free than is to be left: there is no
    /// caller who could keep it. `false`: the disk is closed, and nobody is told.
    #[must_use]
    pub fn append(self: &Arc<Self>, message: &Message, due_us: i64, maybe_dup: bool, was_sent: bool) -> bool {
        let row = self.row(message, due_us, maybe_dup);
        let is_new = !self.made.load(Ordering::Acquire) && !self.made.swap(true, Ordering::AcqRel);
        self.journal.spool(row, self, was_sent, is_new.then(|| self.topic.clone()))
    }

    /// Writes that a record may be at the server from now on. `false` as for [`append`](Self::append).
    #[must_use]
    pub fn mark(self: &Arc<Self>, seq: u64, tries: u16, due_us: i64) -> bool {
        self.journal.mark_spooled(mark(seq, tries, true, due_us), Some(self))
    }

    /// Notes how often workers of this process have tried a record, and when it is due. Nobody is told.
    pub fn note(self: &Arc<Self>, seq: u64, tries: u16, handed: bool, due_us: i64) {
        // Of a disk that is closed nothing is lost but this attempt.
        let _ = self.journal.mark_spooled(mark(seq, tries, handed, due_us), None);
    }

    /// Takes a record out, durably. `false` as for [`append`](Self::append).
    #[must_use]
    pub fn withdraw(self: &Arc<Self>, seq: u64) -> bool {
        self.journal.remove_spooled(seq, Some(self))
    }

    /// Takes a record out, now or later. Nobody is told.
    pub fn remove(self: &Arc<Self>, seq: u64) {
        // On a disk that is closed it stays, and is sent again.
        let _ = self.journal.remove_spooled(seq, None);
    }

    fn row(&self, message: &Message, due_us: i64, maybe_dup: bool) -> Row {
        let head = Head {
            seq: message.seq(),
            topic: self.topic.id,
            part: 0,
            place: -1,
            prefix: message.id_prefix(),
            at_us: message.timestamp_us(),
            expires_us: message.expires_us().unwrap_or(0),
            due_us,
            priority: message.priority(),
            attempts: message.attempts(),
            has_key: message.key().is_some(),
            maybe_dup: maybe_dup || message.maybe_dup(),
        };
        let pieces = Pieces {
            key: message.key().unwrap_or_default(),
            id: message.given_id().unwrap_or_default().as_bytes(),
            type_: message.type_().as_bytes(),
            headers: message.headers().bytes(),
            payload: message.payload(),
        };
        Row::new(head, pieces)
    }
}

fn mark(seq: u64, tries: u16, handed: bool, due_us: i64) -> Mark {
    Mark { seq, tries: tries.into(), handed, due_us }
}

impl fmt::Debug for SpoolRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpoolRows").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// Rows of spools that are written in one unit, and whose they are.
#[derive(Debug, Default)]
pub(super) struct Spooled {
    pub rows: Vec<Row>,
    of: Vec<(Arc<SpoolRows>, bool)>,
}

impl Spooled {
    pub fn push(&mut self, row: Row, of: &Arc<SpoolRows>, was_sent: bool) {
        self.rows.push(row);
        self.of.push((Arc::clone(of), was_sent));
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whose they are, and their numbers.
    pub fn owners(&self) -> impl Iterator<Item = (&Arc<SpoolRows>, u64)> {
        self.of.iter().zip(&self.rows).map(|((of, _), row)| (of, row.head.seq))
    }

    /// Those that were sent before, and the others.
    pub fn split(self) -> (Spooled, Spooled) {
        let (mut sent, mut others) = (Spooled::default(), Spooled::default());
        for (row, (of, was_sent)) in self.rows.into_iter().zip(self.of) {
            let to = if was_sent { &mut sent } else { &mut others };
            to.push(row, &of, was_sent);
        }
        (sent, others)
    }
}

/// What a spool waits to be told, of this record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Mark,
    Removal,
}

/// Tells each spool what became of its records.
pub(super) fn tell(all: impl Iterator<Item = (Arc<SpoolRows>, u64, Told)>) {
    type Share = (Arc<SpoolRows>, Vec<(u64, Told)>);
    let mut by_owner: Vec<Share> = Vec::new();
    for (of, seq, told) in all {
        match by_owner.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &of)) {
            Some((_, list)) => list.push((seq, told)),
            None => by_owner.push((of, vec![(seq, told)])),
        }
    }
    by_owner.into_iter().for_each(|(of, told)| of.told(told));
}
