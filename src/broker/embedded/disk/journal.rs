//! What waits to be written, and what the broker in memory tells of: a queue with limits, from which
//! the writer takes all at once.
//!
//! Its lock is a leaf: it is taken under the locks of topics and sources, and nothing is called
//! with it held.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

use super::row::{Mark, Row, Spot, TopicRow};
use super::spool::{Asked, SpoolRows, Spooled};
use super::store::TopicChange;
use crate::broker::embedded::core::{closed, failure};
use crate::broker::embedded::log::Log;
use crate::broker::embedded::queue_state::Entry;
use crate::broker::embedded::Topic;
use crate::broker::{Batch, CloseReport, Ticket, TopicSpec, Wake, Wakers};
use crate::error::{Error, Fate, Kind, Result};
use crate::message::TopicKind;
use crate::runtime::{ready, Pending};
use crate::sync::{Bell, Mutex};

/// Records that wait to be written, at most: some groups of what a commit takes best.
pub(super) const RECORDS_MAX: usize = 10_000;
/// Their bytes, at most: this memory is beside that of the messages. One record may be larger.
pub(super) const BYTES_MAX: usize = 32 << 20;

/// Records of one publish.
#[derive(Debug)]
pub(super) struct Run {
    pub topic: Topic,
    pub first: Ticket,
    pub rows: Vec<Row>,
    /// What each takes of its topic.
    pub sizes: Vec<usize>,
}

/// What is written in one unit.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub topics: Vec<TopicChange>,
    pub runs: Vec<Run>,
    pub marks: Vec<Mark>,
    pub removed: Vec<u64>,
    /// Logs whose offsets have changed.
    pub moved: BTreeMap<u64, Weak<Log>>,
    /// Offsets beside those.
    pub spots: Vec<(Spot, u64)>,
    /// Records of spools, and what else those are to be told of.
    pub spooled: Spooled,
    pub asked: Vec<(Arc<SpoolRows>, u64, Asked)>,
    /// To be told when it is written.
    pub barriers: Vec<oneshot::Sender<Result<()>>>,
    records: usize,
    bytes: usize,
}

impl Group {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        let Self { topics, runs, marks, removed, moved, spots, spooled, asked, barriers, .. } = self;
        topics.is_empty()
            && spooled.is_empty()
            && asked.is_empty()
            && runs.is_empty()
            && marks.is_empty()
            && removed.is_empty()
            && moved.is_empty()
            && spots.is_empty()
            && barriers.is_empty()
    }

    /// Puts what `earlier` has before what is here; for all but messages, which are not tried again.
    pub fn after(&mut self, mut earlier: Group) {
        earlier.topics.append(&mut self.topics);
        earlier.marks.append(&mut self.marks);
        earlier.removed.append(&mut self.removed);
        (self.topics, self.marks, self.removed) = (earlier.topics, earlier.marks, earlier.removed);
        self.moved.append(&mut earlier.moved);
        self.spots.append(&mut earlier.spots);
    }
}

/// Whether the journal takes anything.
#[derive(Debug)]
enum Life {
    Open,
    Closing(Vec<oneshot::Sender<CloseReport>>),
    Ended,
}

/// Guarded together: what waits, whether more may come, and who waits for room.
#[derive(Debug)]
struct State {
    waiting: Group,
    life: Life,
    /// The last number given. Numbers rise, whichever counter they are taken from.
    last_seq: u64,
    /// Why no message is taken.
    no_space: Option<String>,
    publishers: Wakers,
    wanted: bool,
}

/// The queue before the writer.
#[derive(Debug)]
pub(in crate::broker::embedded) struct Journal {
    state: Mutex<State>,
    bell: Bell,
}

impl Journal {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        let state = State {
            waiting: Group::default(),
            life: Life::Open,
            last_seq: 0,
            no_space: None,
            publishers: Wakers::default(),
            wanted: false,
        };
        Arc::new(Self { state: Mutex::new(state), bell: Bell::new() })
    }

    /// Numbers up to `seq` are in use.
    pub fn skip_numbers(&self, seq: u64) {
        let mut state = self.state.lock();
        state.last_seq = state.last_seq.max(seq);
    }

    /// Takes from the front of `rows` what there is room for, and gives them their numbers; answers
    /// how many, the first number, and why not more. `rows` and `sizes` keep what was not taken.
    pub(super) fn append(
        &self,
        topic: &Topic,
        rows: &mut Vec<Row>,
        sizes: &mut Vec<usize>,
        batch: &Batch<'_>,
    ) -> (usize, u64, Option<Error>) {
        let mut state = self.state.lock();
        let (count, stopped) = match (&state.life, &state.no_space) {
            (Life::Open, None) => state.waiting.room(rows),
            (Life::Open, Some(why)) => (0, Some(full(why))),
            _ => (0, Some(closed())),
        };
        state.wanted |= stopped.is_some();
        if count == 0 {
            return (0, 0, stopped);
        }
        batch.numbers.fetch_max(state.last_seq + 1, Ordering::Relaxed);
        let first_seq = batch.number(count);
        state.last_seq = first_seq + count as u64 - 1;
        let rest = (rows.split_off(count), sizes.split_off(count));
        let mut taken = std::mem::replace(rows, rest.0);
        let taken_sizes = std::mem::replace(sizes, rest.1);
        for (row, seq) in taken.iter_mut().zip(first_seq..) {
            row.head.seq = seq;
        }
        state.waiting.records += count;
        state.waiting.bytes += taken.iter().map(Row::size).sum::<usize>();
        let run = Run { topic: topic.clone(), first: batch.first_ticket, rows: taken, sizes: taken_sizes };
        state.waiting.runs.push(run);
        drop(state);
        self.bell.ring();
        (count, first_seq, stopped)
    }

    /// Adds a publisher to those who wait for room here; `false`: there is room, as yet.
    pub fn wait_for_room(&self, waker: &Weak<dyn Wake>) -> bool {
        let mut state = self.state.lock();
        if matches!(state.life, Life::Open) {
            // Also where there is room: others may take it before whoever waits has tried.
            state.publishers.add(Weak::clone(waker));
            state.wanted = true;
        }
        (state.no_space.is_some() || state.waiting.is_full()) && matches!(state.life, Life::Open)
    }

    /// A topic was made.
    pub fn made(&self, id: u64, name: &str, kind: TopicKind, partitions: u32, asked: &TopicSpec) {
        let asked = TopicSpec { partitions: None, ..asked.clone() };
        let row = TopicRow { id, name: name.to_owned(), kind, server: None, partitions, asked };
        self.note(|waiting| waiting.topics.push(TopicChange::Made(row)));
    }

    /// A topic was deleted.
    pub fn deleted(&self, id: u64) {
        self.note(|waiting| waiting.topics.push(TopicChange::Gone(id)));
    }

    /// Messages have left the broker.
    pub fn removed(&self, seqs: impl Iterator<Item = u64>) {
        let mut seqs = seqs.peekable();
        if seqs.peek().is_some() {
            self.note(|waiting| waiting.removed.extend(seqs));
        }
    }

    /// A task was handed over in vain.
    pub fn came_back(&self, entry: &Entry, due_us: Option<i64>) {
        if entry.tries > 0 || entry.handed || due_us.is_some() {
            let (seq, tries, handed) = (entry.message.seq(), entry.tries, entry.handed);
            self.note(|waiting| waiting.marks.push(Mark { seq, tries, handed, due_us: due_us.unwrap_or(0) }));
        }
    }

    /// The offsets of a log have changed.
    pub fn moved(&self, id: u64, log: &Weak<Log>) {
        self.note(|waiting| drop(waiting.moved.insert(id, Weak::clone(log))));
    }

    /// An offset that no log tells.
    pub(super) fn place(&self, spot: Spot, offset: u64) {
        self.note(|waiting| waiting.spots.push((spot, offset)));
    }

    /// A record of a spool; `topic`: of its rows, if they are the first. `false`: it has ended.
    pub(super) fn spool(&self, row: Row, of: &Arc<SpoolRows>, was_sent: bool, topic: Option<TopicRow>) -> bool {
        self.ask(|waiting| {
            waiting.topics.extend(topic.map(TopicChange::Made));
            waiting.records += 1;
            waiting.bytes += row.size();
            waiting.spooled.push(row, of, was_sent);
        })
    }

    /// A mark of a spool's record; `of`: who is told.
    pub(super) fn mark_spooled(&self, mark: Mark, of: Option<&Arc<SpoolRows>>) -> bool {
        self.ask(|waiting| {
            waiting.marks.push(mark);
            waiting.asked.extend(of.map(|of| (Arc::clone(of), mark.seq, Asked::Mark)));
        })
    }

    /// A record of a spool is done with; `of`: who is told.
    pub(super) fn remove_spooled(&self, seq: u64, of: Option<&Arc<SpoolRows>>) -> bool {
        self.ask(|waiting| {
            waiting.removed.push(seq);
            waiting.asked.extend(of.map(|of| (Arc::clone(of), seq, Asked::Removal)));
        })
    }

    /// As [`note`](Self::note), unless it has ended.
    fn ask(&self, what: impl FnOnce(&mut Group)) -> bool {
        {
            let mut state = self.state.lock();
            if matches!(state.life, Life::Ended) {
                return false;
            }
            what(&mut state.waiting);
        }
        self.bell.ring();
        true
    }

    /// Why a spool should not bring another record now.
    pub(super) fn no_room(&self) -> Option<String> {
        let state = self.state.lock();
        let waits = || state.waiting.is_full().then(|| many_wait(state.waiting.records, state.waiting.bytes));
        state.no_space.clone().or_else(waits)
    }

    /// The last number that is in use.
    pub(super) fn last_number(&self) -> u64 {
        self.state.lock().last_seq
    }

    fn note(&self, what: impl FnOnce(&mut Group)) {
        what(&mut self.state.lock().waiting);
        self.bell.ring();
    }

    /// Answers when all that was told before is written.
    pub fn written(&self) -> Pending<()> {
        let (told, answer) = oneshot::channel();
        {
            let mut state = self.state.lock();
            if matches!(state.life, Life::Ended) {
                return ready(Err(closed()));
            }
            state.waiting.barriers.push(told);
        }
        self.bell.ring();
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(closed())) })
    }

    /// Takes no messages any more; answers when all is written. `None`: it has ended.
    pub fn close(&self) -> Option<oneshot::Receiver<CloseReport>> {
        let (told, answer) = oneshot::channel();
        {
            let mut state = self.state.lock();
            match &mut state.life {
                Life::Open => state.life = Life::Closing(vec![told]),
                Life::Closing(others) => others.push(told),
                Life::Ended => return None,
            }
        }
        self.wake_publishers();
        self.bell.ring();
        Some(answer)
    }

    // The rest is the writer's.

    /// How often something was told.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Takes all that waits, and whether the journal is closing.
    pub(super) fn take(&self) -> (Group, bool) {
        let (group, is_closing, wakes) = {
            let mut state = self.state.lock();
            let group = std::mem::take(&mut state.waiting);
            let is_closing = !matches!(state.life, Life::Open);
            (group, is_closing, state.wanted && state.no_space.is_none())
        };
        if wakes {
            self.wake_publishers();
        }
        (group, is_closing)
    }

    /// Notes why no message can be taken, or (`None`) that they can again.
    pub fn set_space(&self, no_space: Option<String>) {
        let wakes = {
            let mut state = self.state.lock();
            let ends = state.no_space.is_some() && no_space.is_none();
            state.no_space = no_space;
            ends
        };
        if wakes {
            self.wake_publishers();
        }
    }

    /// Why no message is taken.
    pub fn no_space(&self) -> Option<String> {
        self.state.lock().no_space.clone()
    }

    /// Ends it, with what is left in it, and whom to tell.
    pub(super) fn end(&self) -> (Group, Vec<oneshot::Sender<CloseReport>>) {
        let (left, life) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.waiting), std::mem::replace(&mut state.life, Life::Ended))
        };
        self.wake_publishers();
        match life {
            Life::Closing(waiting) => (left, waiting),
            Life::Open | Life::Ended => (left, Vec::new()),
        }
    }

    fn wake_publishers(&self) {
        let wakers = {
            let mut state = self.state.lock();
            state.wanted = false;
            state.publishers.take()
        };
        wakers.for_each(|waker| waker.wake());
    }
}

impl Group {
    fn is_full(&self) -> bool {
        self.records >= RECORDS_MAX || self.bytes >= BYTES_MAX
    }

    /// How many of `rows` there is room for, and why for no more.
    fn room(&self, rows: &[Row]) -> (usize, Option<Error>) {
        let (mut records, mut bytes) = (self.records, self.bytes);
        for (index, row) in rows.iter().enumerate() {
            if records >= RECORDS_MAX || bytes >= BYTES_MAX {
                return (index, Some(full(&many_wait(records, bytes))));
            }
            records += 1;
            bytes += row.size();
        }
        (rows.len(), None)
    }
}

fn many_wait(records: usize, bytes: usize) -> String {
    format!("{records} messages of {bytes} bytes wait to be written to the disk")
}

/// There is no room, for this reason.
pub(super) fn full(why: &str) -> Error {
    failure(Kind::Full, why).with_fate(Fate::NotSent)
}
