//! The store: writes in groups, one after another, each durable or not; a crash keeps what is durable.

use std::collections::{BTreeMap, VecDeque};

use crate::rng::Rng;
use crate::LaneId;

/// A durable row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub lane: LaneId,
    pub maybe_dup: bool,
    pub attempt: u16,
    pub handled: u64,
    pub expires: u64,
    pub due: u64,
}

#[derive(Debug, Clone, Copy)]
pub enum Op {
    Append { seq: u64, row: Row },
    Mark { seq: u64 },
    Remove { seq: u64 },
    Withdraw { seq: u64 },
    Note { seq: u64, attempt: u16, handled: u64 },
}

/// What the hub is told of one write.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    Appended { seq: u64, lane: LaneId },
    NotAppended { seq: u64, lane: LaneId, unknown: bool },
    Marked { seq: u64, ok: bool },
    Withdrawn { seq: u64, ok: bool },
}

/// How the disk does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Fine,
    /// Nothing new fits; marks and removals have a reserve.
    Full,
    /// Every other write fails, cleanly.
    Short,
    /// Syncs fail: what they covered is there, or not.
    BadSync,
}

/// A disk, or the memory of the process.
#[derive(Debug)]
pub struct Store {
    pub rows: BTreeMap<u64, Row>,
    pub health: Health,
    pub slow: bool,
    waiting: VecDeque<Op>,
    /// The group that is being written.
    group: Vec<Op>,
}

impl Store {
    pub fn new() -> Self {
        Self { rows: BTreeMap::new(), health: Health::Fine, slow: false, waiting: VecDeque::new(), group: Vec::new() }
    }

    /// Enqueues a write; answers how long the group takes if one begins now.
    pub fn write(&mut self, op: Op, rng: &mut Rng) -> Option<u64> {
        self.waiting.push_back(op);
        self.begin(rng)
    }

    fn begin(&mut self, rng: &mut Rng) -> Option<u64> {
        if !self.group.is_empty() || self.waiting.is_empty() {
            return None;
        }
        self.group = self.waiting.drain(..).collect();
        Some(if self.slow { rng.between(50, 400) } else { rng.between(1, 8) } * 1_000_000)
    }

    /// The group is written; answers what is told, and how long the next group takes.
    pub fn written(&mut self, rng: &mut Rng) -> (Vec<Answer>, Option<u64>) {
        let group = std::mem::take(&mut self.group);
        let (durable, ok) = match self.health {
            Health::Fine | Health::Full => (true, true),
            Health::Short => {
                let works = rng.chance(50);
                (works, works)
            }
            Health::BadSync => (rng.chance(50), false),
        };
        let mut answers = Vec::new();
        for op in group {
            let fits = !(self.health == Health::Full && matches!(op, Op::Append { .. }));
            if durable && fits {
                self.apply(op);
            }
            match op {
                Op::Append { seq, row } if ok && fits => answers.push(Answer::Appended { seq, lane: row.lane }),
                Op::Append { seq, row } => {
                    let unknown = self.health == Health::BadSync;
                    answers.push(Answer::NotAppended { seq, lane: row.lane, unknown });
                }
                Op::Mark { seq } => answers.push(Answer::Marked { seq, ok }),
                Op::Withdraw { seq } => answers.push(Answer::Withdrawn { seq, ok }),
                // Tried until it is done: nobody waits for it.
                Op::Remove { .. } if !durable => self.waiting.push_back(op),
                Op::Remove { .. } | Op::Note { .. } => {}
            }
        }
        (answers, self.begin(rng))
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Append { seq, row } => {
                self.rows.insert(seq, row);
            }
            Op::Mark { seq } => {
                if let Some(row) = self.rows.get_mut(&seq) {
                    row.maybe_dup = true;
                }
            }
            Op::Remove { seq } | Op::Withdraw { seq } => {
                self.rows.remove(&seq);
            }
            Op::Note { seq, attempt, handled } => {
                if let Some(row) = self.rows.get_mut(&seq) {
                    (row.attempt, row.handled) = (attempt, handled);
                }
            }
        }
    }

    /// The process dies: the group that was being written is there as a whole, or not at all.
    /// Answers what was asked to be removed and still is there.
    pub fn crash(&mut self, keeps: bool, rng: &mut Rng) -> Vec<u64> {
        let group = std::mem::take(&mut self.group);
        if rng.chance(50) {
            group.iter().for_each(|op| self.apply(*op));
        }
        let lost = group.iter().chain(self.waiting.iter());
        let removals = lost.filter_map(|op| match op {
            Op::Remove { seq } | Op::Withdraw { seq } => Some(*seq),
            Op::Append { .. } | Op::Mark { .. } | Op::Note { .. } => None,
        });
        let left = removals.filter(|seq| self.rows.contains_key(seq)).collect();
        self.waiting.clear();
        if !keeps {
            self.rows.clear();
        }
        left
    }
}
