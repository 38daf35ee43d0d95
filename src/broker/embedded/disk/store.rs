//! The store: where rows are kept. One engine behind a small trait, so that another can replace it,
//! and so that tests can have one that fails.
//!
//! What is called between two [`Store::sync`]s is one unit: all of it is kept, or none. A call that
//! fails ends the unit, and nothing of it is kept, but for a failed `sync`: of that nobody knows.

use super::row::{Mark, Row, Spot, TopicRow};

/// Why a store did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no space. Nothing of the unit is kept.
    Full(String),
    /// The disk, or the engine, failed.
    Broken(String),
}

impl Failure {
    /// What the engine said.
    pub fn text(&self) -> &str {
        match self {
            Failure::Full(text) | Failure::Broken(text) => text,
        }
    }
}

pub(super) type Done = Result<(), Failure>;

/// A change of the set of topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TopicChange {
    /// It was made.
    Made(TopicRow),
    /// It was deleted, with all that it held.
    Gone(u64),
}

/// All but the messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub topics: Vec<TopicRow>,
    pub marks: Vec<Mark>,
    pub spots: Vec<(Spot, u64)>,
}

/// Takes over what a store holds.
pub(super) trait Recovery {
    /// All but the messages; comes first.
    fn begin(&mut self, found: &Found);

    /// A message; they come in the order of their numbers.
    fn row(&mut self, row: Row);
}

/// What a store has lost, and where the rest of it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Damage {
    /// Rows that were there, but not as they were written.
    pub rows: u64,
    /// The file, or a part of it, could not be read at all.
    pub unreadable: bool,
    /// The damaged file under its new name.
    pub set_aside: Option<String>,
}

impl Damage {
    /// Whether there is any.
    pub fn is_any(&self) -> bool {
        self.rows > 0 || self.unreadable
    }
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes that are free on their disk, for us.
    pub free_bytes: u64,
}

/// Keeps rows. Used by one thread.
pub(super) trait Store: Send {
    /// Reads everything. A store that is damaged gives what it can.
    fn recover(&mut self, to: &mut dyn Recovery) -> Result<Damage, Failure>;

    /// Topics that were made or deleted. Doing it again changes nothing.
    fn topics(&mut self, changes: &[TopicChange]) -> Done;

    /// Messages.
    fn append(&mut self, rows: &[Row]) -> Done;

    /// Tasks that were handed over in vain. Doing it again changes nothing.
    fn mark(&mut self, marks: &[Mark]) -> Done;

    /// Messages that are done with. Doing it again changes nothing.
    fn remove(&mut self, seqs: &[u64]) -> Done;

    /// Offsets. Doing it again changes nothing.
    fn commit(&mut self, spots: &[(Spot, u64)]) -> Done;

    /// Ends the unit: all since the last `sync` is kept. How safely, is the engine's setting.
    fn sync(&mut self) -> Done;

    /// Makes safe what was kept less safely (`sync: interval`).
    fn flush(&mut self) -> Done;

    /// How much there is.
    fn usage(&self) -> Usage;
}
