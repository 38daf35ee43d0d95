//! The writer: one thread that takes all that waits, writes it as one unit, and only then lets
//! messages be seen and tells their outcomes.
//!
//! What a failed unit held of messages ends there: *not sent* where the store is sure that nothing is
//! kept, else *unknown*; it is never tried again as if nothing had happened. The rest (topics,
//! verdicts, offsets) says the same when it is said twice, so it is written with the next unit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::journal::{full, Group, Journal, Run};
use super::row::Spot;
use super::spool::{tell, Asked, SpoolRows, Spooled, Told};
use super::store::{Failure, Store, TopicChange};
use crate::broker::embedded::core::{closed, failure, no_memory};
use crate::broker::embedded::{Embedded, Topic};
use crate::broker::{BackendEvent, BackendSink, CloseReport, Level, Outcome, Ticket};
use crate::config::SyncMode;
use crate::error::{Error, Fate, Kind};
use crate::sync::Deadline;

/// Until a store that failed, or had no space, is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What the writer last saw, for health.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub bytes: AtomicU64,
    pub free_bytes: AtomicU64,
}

/// How the writer writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub sync: SyncMode,
    pub sync_every: Duration,
    pub free_space_floor: u64,
}

impl Rules {
    /// What a commit is worth.
    pub fn level(&self) -> Level {
        match self.sync {
            SyncMode::Each => Level::Disk,
            SyncMode::Interval | SyncMode::None => Level::Memory,
        }
    }
}

/// The thread's own.
pub(super) struct Writer {
    journal: Arc<Journal>,
    inner: Arc<Embedded>,
    /// `None` once it is closed.
    store: Option<Box<dyn Store>>,
    sink: Arc<dyn BackendSink>,
    rules: Rules,
    seen: Arc<Seen>,
    /// What a failed unit held beside messages.
    left: Group,
    retry: Option<Deadline>,
    /// When what was written has to be made safe.
    flush: Option<Deadline>,
    /// What the store has of offsets.
    spots: HashMap<Spot, u64>,
    /// Tickets without an outcome, should this thread end by a panic.
    open: Vec<(Ticket, usize)>,
    open_spooled: Vec<(Arc<SpoolRows>, u64)>,
    open_asked: Vec<(Arc<SpoolRows>, u64, Asked)>,
    is_broken: bool,
}

/// Why a unit is not kept, and whether that is sure.
struct Failed {
    failure: Failure,
    is_sure: bool,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { failure, is_sure: true }
    }
}

impl Writer {
    /// A writer that does not run yet.
    pub fn new(
        journal: &Arc<Journal>,
        inner: &Arc<Embedded>,
        store: Box<dyn Store>,
        sink: Arc<dyn BackendSink>,
        rules: Rules,
        seen: &Arc<Seen>,
    ) -> Self {
        let mut own = Self {
            journal: Arc::clone(journal),
            inner: Arc::clone(inner),
            store: Some(store),
            sink,
            rules,
            seen: Arc::clone(seen),
            left: Group::default(),
            retry: None,
            flush: None,
            spots: HashMap::new(),
            open: Vec::new(),
            open_spooled: Vec::new(),
            open_asked: Vec::new(),
            is_broken: false,
        };
        own.look();
        own
    }

    /// Runs until the journal is closed.
    pub fn run(mut self) {
        // A function of the program that publishes from here would wait for this very thread.
        crate::runtime::serve_others();
        loop {
            let heard = self.journal.bell().heard();
            let (group, is_closing) = self.journal.take();
            let is_idle = group.is_empty();
            let retries = !self.left.is_empty() && self.retry.is_none_or(Deadline::has_passed);
            if !is_idle || retries {
                self.write(group);
            }
            self.look_for_space();
            self.flush_if_due();
            if is_idle && is_closing {
                return self.finish();
            }
            if is_idle {
                self.journal.bell().wait(heard, self.next_deadline());
            }
        }
    }

    fn next_deadline(&self) -> Deadline {
        let waits = [self.retry, self.flush].into_iter().flatten();
        let left = waits.filter_map(Deadline::left).min();
        Deadline::after(left)
    }

    fn write(&mut self, mut group: Group) {
        group.after(std::mem::take(&mut self.left));
        let (mut runs, mut spooled) = (std::mem::take(&mut group.runs), std::mem::take(&mut group.spooled));
        self.open_asked.append(&mut group.asked);
        self.open.extend(runs.iter().map(|run| (run.first, run.rows.len())));
        self.open_spooled.extend(spooled.owners().map(|(of, seq)| (Arc::clone(of), seq)));
        if let Some(why) = self.no_space().filter(|_| !runs.is_empty() || !spooled.is_empty()) {
            if self.journal.no_space().is_none() {
                self.warn(&format!("{why}; messages are not taken until there is space again"));
            }
            self.journal.set_space(Some(why.clone()));
            self.end_runs(std::mem::take(&mut runs), &full(&why), true);
            let (sent, others) = spooled.split();
            self.end_spooled(&others, &full(&why));
            spooled = sent;
        }
        let mut written = self.unit(&group, &mut runs, &spooled);
        while let Err(failed) = &written {
            self.failed(failed);
            if runs.is_empty() && spooled.is_empty() {
                break;
            }
            let error = self.error_of(failed);
            if !failed.is_sure {
                // Should they be there after all: nobody will get them from this process, and
                // what comes next has their places.
                let rows = runs.iter().flat_map(|run| &run.rows).chain(&spooled.rows);
                group.removed.extend(rows.map(|row| row.head.seq));
            }
            let (sent, others) = spooled.split();
            // Without the others there may be space for what was sent before.
            let again = failed.is_sure && !(runs.is_empty() && others.is_empty());
            self.end_runs(std::mem::take(&mut runs), &error, failed.is_sure);
            self.end_spooled(&others, &error);
            if !again {
                self.end_spooled(&sent, &error);
            }
            spooled = if again { sent } else { Spooled::default() };
            // What is said twice does no harm: without the messages there may be space for it.
            written = self.unit(&group, &mut runs, &spooled);
        }
        let barriers = std::mem::take(&mut group.barriers);
        let answer = match written {
            Ok(()) => {
                self.retry = self.journal.no_space().map(|_| self.retry.unwrap_or_else(soon));
                self.is_broken = false;
                self.publish(runs);
                Ok(())
            }
            Err(failed) => {
                self.left = group;
                self.retry = Some(soon());
                Err(self.error_of(&failed))
            }
        };
        let is_kept = answer.is_ok();
        self.open_spooled.clear();
        let asked = std::mem::take(&mut self.open_asked);
        let written = spooled.owners().map(|(of, seq)| (Arc::clone(of), seq, Told::Written));
        tell(written.chain(asked.into_iter().map(|(of, seq, asked)| (of, seq, asked.told(is_kept)))));
        for barrier in barriers {
            // Who asked may have stopped waiting.
            let _ = barrier.send(answer.clone());
        }
    }

    /// Writes all of it as one unit.
    fn unit(&mut self, group: &Group, runs: &mut [Run], spooled: &Spooled) -> Result<(), Failed> {
        let spots = self.moved(group);
        let Some(store) = &mut self.store else {
            return Err(Failure::Broken("it is closed".into()).into());
        };
        let (made, gone): (Vec<_>, Vec<_>) =
            group.topics.iter().cloned().partition(|change| matches!(change, TopicChange::Made(_)));
        if !made.is_empty() {
            store.topics(&made)?;
        }
        let mut next: HashMap<u64, Vec<u64>> = HashMap::new();
        for run in runs.iter_mut() {
            if let Topic::Events(log) = &run.topic {
                log.place(&mut run.rows, next.entry(log.id).or_default());
            }
            store.append(&run.rows)?;
        }
        if !spooled.is_empty() {
            store.append(&spooled.rows)?;
        }
        if !group.marks.is_empty() {
            store.mark(&group.marks)?;
        }
        if !group.removed.is_empty() {
            store.remove(&group.removed)?;
        }
        if !spots.is_empty() {
            store.commit(&spots)?;
        }
        if !gone.is_empty() {
            store.topics(&gone)?;
        }
        store.sync().map_err(|failure| {
            let is_sure = matches!(failure, Failure::Full(_));
            Failed { failure, is_sure }
        })?;
        self.spots.extend(spots);
        for change in &gone {
            if let TopicChange::Gone(id) = change {
                self.spots.retain(|spot, _| spot.topic != *id);
            }
        }
        if self.rules.sync == SyncMode::Interval {
            self.flush.get_or_insert_with(|| Deadline::after(Some(self.rules.sync_every)));
        }
        Ok(())
    }

    /// The offsets that the store does not have yet.
    fn moved(&self, group: &Group) -> Vec<(Spot, u64)> {
        let logs = group.moved.values().filter_map(|log| log.upgrade());
        let spots = logs.flat_map(|log| log.spots()).chain(group.spots.iter().cloned());
        spots.filter(|(spot, offset)| self.spots.get(spot) != Some(offset)).collect()
    }

    /// Lets messages that are written be seen, and tells their outcomes.
    fn publish(&mut self, runs: Vec<Run>) {
        let mut outcomes = Vec::with_capacity(runs.iter().map(|run| run.rows.len()).sum());
        let level = self.rules.level();
        for Run { topic, first, rows, sizes } in runs {
            let appended = topic.append_stored(&rows, &sizes);
            for (index, row) in rows.iter().enumerate() {
                let outcome = if index < appended {
                    Outcome::Confirmed(level)
                } else {
                    self.journal.removed(std::iter::once(row.head.seq));
                    Outcome::NotSent(no_memory())
                };
                outcomes.push((Ticket(first.0 + index as u64), outcome));
            }
        }
        self.complete(&mut outcomes);
    }

    /// Ends messages that are not kept, or of which nobody knows it.
    fn end_runs(&mut self, runs: Vec<Run>, error: &Error, is_sure: bool) {
        let mut outcomes = Vec::new();
        for Run { topic, first, rows, sizes } in runs {
            topic.withdraw(&sizes);
            outcomes.extend((first.0..).take(rows.len()).map(|ticket| {
                let error = error.clone();
                (Ticket(ticket), if is_sure { Outcome::NotSent(error) } else { Outcome::Unknown(error) })
            }));
        }
        self.complete(&mut outcomes);
    }

    /// Ends records of spools that are not kept, or of which nobody knows it.
    fn end_spooled(&mut self, spooled: &Spooled, error: &Error) {
        tell(spooled.owners().map(|(of, seq)| (Arc::clone(of), seq, Told::NotWritten(error.clone()))));
    }

    fn complete(&mut self, outcomes: &mut Vec<(Ticket, Outcome)>) {
        self.open.clear();
        if !outcomes.is_empty() {
            self.sink.complete(outcomes);
        }
    }

    fn failed(&mut self, failed: &Failed) {
        let text = failed.failure.text();
        match &failed.failure {
            Failure::Full(_) => {
                let why = format!("the disk of the data directory is full: {text}");
                if self.journal.no_space().is_none() {
                    self.warn(&format!("{why}; messages are not taken until there is space again"));
                }
                self.journal.set_space(Some(why));
                self.retry = Some(soon());
            }
            Failure::Broken(_) if !self.is_broken => {
                self.is_broken = true;
                self.warn(&format!("the data directory could not be written: {text}"));
            }
            Failure::Broken(_) => {}
        }
    }

    fn error_of(&self, failed: &Failed) -> Error {
        let text = failed.failure.text();
        match (&failed.failure, failed.is_sure) {
            (Failure::Full(_), _) => full(&format!("the disk of the data directory is full: {text}")),
            (Failure::Broken(_), true) => {
                failure(Kind::Storage, format!("the data directory could not be written: {text}"))
                    .with_fate(Fate::NotSent)
            }
            (Failure::Broken(_), false) => {
                let text = format!("the data directory was not synced: {text}; the message may or may not be there");
                failure(Kind::Storage, text).with_fate(Fate::Unknown)
            }
        }
    }

    /// Why there is no space for messages: less is free than is to be left.
    fn no_space(&mut self) -> Option<String> {
        let free = self.look();
        let floor = self.rules.free_space_floor;
        (free < floor).then(|| {
            format!(
                "{free} bytes are free on the disk of the data directory, and {floor} are to be left \
                     (failover.free_space_floor_bytes)"
            )
        })
    }

    fn look(&mut self) -> u64 {
        let usage = self.store.as_ref().map(|store| store.usage()).unwrap_or_default();
        self.seen.bytes.store(usage.bytes, Ordering::Relaxed);
        self.seen.free_bytes.store(usage.free_bytes, Ordering::Relaxed);
        usage.free_bytes
    }

    /// Takes messages again, once there may be space. Whether there is, shows when one is written.
    fn look_for_space(&mut self) {
        if self.journal.no_space().is_none() {
            return;
        }
        let retry = *self.retry.get_or_insert_with(soon);
        if !retry.has_passed() {
            return;
        }
        match self.no_space() {
            None => {
                self.retry = (!self.left.is_empty()).then(soon);
                self.journal.set_space(None);
            }
            Some(_) => self.retry = Some(soon()),
        }
    }

    fn flush_if_due(&mut self) {
        if self.flush.is_none_or(|due| !due.has_passed()) {
            return;
        }
        self.flush = None;
        if let Some(Err(failure)) = self.store.as_mut().map(|store| store.flush()) {
            self.failed(&failure.into());
            self.flush = Some(soon());
        }
    }

    /// Tells spools of what will not be written any more.
    fn not_written(&mut self, group: &Group, error: &Error) {
        self.end_spooled(&group.spooled, error);
        tell(group.asked.iter().map(|(of, seq, asked)| (Arc::clone(of), *seq, asked.told(false))));
    }

    fn warn(&self, text: &str) {
        self.sink.event(BackendEvent::Warned(text.to_owned()));
    }

    /// Writes the last offsets, closes everything, and answers who waits for it.
    fn finish(mut self) {
        let mut last = Group::default();
        for log in self.inner.topics().into_iter().filter_map(Topic::into_log) {
            log.collect_acks();
            last.moved.insert(log.id, Arc::downgrade(&log));
        }
        let (mut told, _) = self.journal.take();
        told.after(last);
        self.write(told);
        if self.flush.is_some() {
            self.flush = Some(Deadline::after(Some(Duration::ZERO)));
            self.flush_if_due();
        }
        let kept = self.inner.kept();
        self.inner.close_now();
        // Closed before anybody is told, so that the directory can be opened again.
        self.store = None;
        let (late, waiting) = self.journal.end();
        self.not_written(&late, &closed());
        for waiting in waiting {
            // Who closed it may have stopped waiting.
            let _ = waiting.send(CloseReport { lost: 0, kept });
        }
    }
}

impl Asked {
    fn told(self, is_kept: bool) -> Told {
        match self {
            Asked::Mark => Told::Marked(is_kept),
            Asked::Removal => Told::Removed(is_kept),
        }
    }
}

fn soon() -> Deadline {
    Deadline::after(Some(RETRY))
}

impl Drop for Writer {
    /// After a panic: nothing is told twice, and nothing that was taken stays without an outcome.
    fn drop(&mut self) {
        if self.store.is_none() {
            return;
        }
        let (left, _) = self.journal.end();
        self.open.extend(left.runs.iter().map(|run| (run.first, run.rows.len())));
        let error = failure(Kind::Storage, "the writer of the data directory ended by a defect of this library");
        let unknown = |ticket| (Ticket(ticket), Outcome::Unknown(error.clone().with_fate(Fate::Unknown)));
        let open = std::mem::take(&mut self.open);
        let mut outcomes = open.iter().flat_map(|(first, count)| (first.0..).take(*count)).map(unknown).collect();
        self.sink.complete(&mut outcomes);
        let unknown = error.clone().with_fate(Fate::Unknown);
        let open = std::mem::take(&mut self.open_spooled);
        tell(open.into_iter().map(|(of, seq)| (of, seq, Told::NotWritten(unknown.clone()))));
        let asked = std::mem::take(&mut self.open_asked);
        tell(asked.into_iter().map(|(of, seq, asked)| (of, seq, asked.told(false))));
        self.not_written(&left, &unknown);
        self.sink.event(BackendEvent::Lost(error));
    }
}
