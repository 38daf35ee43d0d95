//! The embedded broker on disk: the one in memory, behind a journal.
//!
//! A publish takes space in memory, is given its number, and waits for the writer. Nothing is
//! delivered before it is on disk, so the order of the journal is the order of deliveries. All else
//! is the broker in memory as it is, which tells the journal what has to leave the disk.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::directory::Directory;
use super::journal::Journal;
use super::restore::restore;
use super::row::{Row, TopicRow};
use super::spool::{SpoolRows, SpooledTopic};
use super::sqlite::Sqlite;
use super::store::{Failure, Store};
use super::writer::{Rules, Seen, Writer};
use super::DiskConfig;
use crate::broker::embedded::core::{closed, failure};
use crate::broker::embedded::{Embedded, EmbeddedConfig, Topic};
use crate::broker::{
    Admin, BackendEvent, BackendKind, BackendSink, Batch, Broker, Capabilities, CloseReport, Context, Declared,
    Description, Destination, Epoch, Level, Receipts, Sink, Source, Storage, SubscribeSpec, Taken, TopicSpec, Wake,
};
use crate::clock::Moment;
use crate::error::{Error, Fate, Kind, Result};
use crate::message::segment::record_bytes;
use crate::message::{Record, TopicKind};
use crate::runtime::{ready, Pending};
use crate::sync::{Mutex, RwLock};

/// The embedded broker on disk.
pub struct Durable {
    shared: Arc<Shared>,
    sink: Arc<dyn BackendSink>,
    rules: Rules,
    seen: Arc<Seen>,
    directory: String,
    bytes_max: u64,
    /// What opening found damaged.
    damage: Option<String>,
    /// It is told once there is somebody to tell.
    was_told: AtomicBool,
    /// What an earlier process kept for servers, until they take it.
    spooled: Mutex<Vec<SpooledTopic>>,
}

/// What destinations share with their broker.
#[derive(Debug)]
struct Shared {
    inner: Arc<Embedded>,
    journal: Arc<Journal>,
    id_prefix: u64,
}

impl Durable {
    /// Opens the directory, and takes over what an earlier process left in it. A damaged file is
    /// set aside; what can be read of it is taken over, and the rest is counted and told.
    ///
    /// # Errors
    /// `Locked`: another hub has the directory. `Storage`: it cannot be used.
    pub fn open(config: DiskConfig, cx: Context) -> Result<Arc<Self>> {
        let directory = Directory::take(&config.dir)?;
        let path = directory.path().display().to_string();
        let store = Sqlite::open(directory, config.sync).map_err(|failure| unusable(&path, &failure))?;
        Self::over(Box::new(store), config, cx)
    }

    /// As [`Durable::open`], on any store.
    pub(super) fn over(mut store: Box<dyn Store>, config: DiskConfig, cx: Context) -> Result<Arc<Self>> {
        let directory = config.dir.display().to_string();
        let (journal, sink) = (Journal::new(), Arc::clone(&cx.sink));
        let rules =
            Rules { sync: config.sync, sync_every: config.sync_every, free_space_floor: config.free_space_floor };
        let memory = EmbeddedConfig {
            memory_bytes_max: usize::try_from(config.bytes_max).unwrap_or(usize::MAX),
            partitions: config.partitions,
            topics: config.topics,
        };
        let id_prefix = cx.id_prefix;
        let inner = Embedded::open_over(memory, cx, Some(Arc::clone(&journal)))?;
        let mut restored = restore(&inner, &mut *store, &journal).map_err(|failure| unusable(&directory, &failure))?;
        let seen = Arc::<Seen>::default();
        let writer = Writer::new(&journal, &inner, store, Arc::clone(&sink), rules, &seen);
        crate::runtime::spawn_thread("hmq-disk", move || writer.run())?;
        Ok(Arc::new(Self {
            damage: restored.warning(&directory),
            was_told: AtomicBool::new(false),
            spooled: Mutex::new(std::mem::take(&mut restored.spooled)),
            shared: Arc::new(Shared { inner, journal, id_prefix }),
            sink,
            rules,
            seen,
            directory,
            bytes_max: config.bytes_max,
        }))
    }

    /// The level of what is written here.
    pub fn level(&self) -> Level {
        self.rules.level()
    }

    /// The rows of a topic of a server, from the first record on.
    pub fn spool_rows(&self, server: BackendKind, topic: &str, kind: TopicKind) -> Arc<SpoolRows> {
        let row = TopicRow {
            id: self.shared.inner.core.id(),
            name: topic.to_owned(),
            kind,
            server: Some(server),
            partitions: 1,
            asked: TopicSpec::default(),
        };
        SpoolRows::new(row, &self.shared.journal, false)
    }

    /// What an earlier process kept for this server, each topic once.
    pub fn take_spooled(&self, server: BackendKind) -> Vec<SpooledTopic> {
        let mut taken: Vec<SpooledTopic> = Vec::new();
        let own: Vec<_> = self.spooled.lock().extract_if(.., |topic| topic.rows.server() == Some(server)).collect();
        for topic in own {
            let is_same = |known: &&mut SpooledTopic| {
                (known.rows.name(), known.rows.kind()) == (topic.rows.name(), topic.rows.kind())
            };
            match taken.iter_mut().find(is_same) {
                Some(known) => known.records.extend(topic.records),
                None => taken.push(topic),
            }
        }
        taken.iter_mut().for_each(|topic| topic.records.sort_by_key(|record| record.message.seq()));
        taken
    }

    /// What was kept for servers that nobody has asked for: their kinds, and how many records. They stay where they are.
    pub fn left_spooled(&self) -> BTreeMap<&'static str, usize> {
        let mut left = BTreeMap::new();
        for topic in self.spooled.lock().iter() {
            *left.entry(topic.rows.server().map_or("", BackendKind::name)).or_default() += topic.records.len();
        }
        left
    }

    /// A number above all that are in use here.
    pub fn next_number(&self) -> u64 {
        self.shared.journal.last_number() + 1
    }

    /// Why no more should be brought for servers now.
    pub fn no_room(&self) -> Option<String> {
        self.shared.journal.no_room()
    }

    /// Tells `waker` once there is room again; `false`: there is.
    pub fn wait_for_room(&self, waker: &Weak<dyn Wake>) -> bool {
        self.shared.journal.wait_for_room(waker)
    }

    /// `answer`, once all that was told to the journal is on disk.
    fn once_written<T: Send + 'static>(&self, answer: T) -> Pending<T> {
        let written = self.shared.journal.written();
        Box::pin(async move { written.await.map(|()| answer) })
    }
}

fn unusable(directory: &str, what: &Failure) -> Error {
    failure(Kind::Storage, format!("the data directory {directory} cannot be used: {}", what.text()))
}

impl Broker for Durable {
    fn kind(&self) -> BackendKind {
        BackendKind::Embedded
    }

    fn capabilities(&self) -> Capabilities {
        self.shared.inner.capabilities()
    }

    fn receipts(&self) -> Receipts {
        Receipts { level: self.rules.level(), at_once: false }
    }

    fn storage(&self) -> Option<Storage> {
        Some(Storage {
            storage: "disk",
            bytes: self.shared.inner.bytes(),
            bytes_max: self.bytes_max,
            directory: Some(self.directory.clone()),
            file_bytes: Some(self.seen.bytes.load(Ordering::Relaxed)),
            disk_free_bytes: Some(self.seen.free_bytes.load(Ordering::Relaxed)),
            full: self.shared.journal.no_space(),
            damage: self.damage.clone(),
        })
    }

    fn connect(&self, epoch: Epoch, deadline: Moment) -> Pending<()> {
        if let Some(text) = self.damage.as_ref().filter(|_| !self.was_told.swap(true, Ordering::Relaxed)) {
            self.sink.event(BackendEvent::Warned(text.clone()));
        }
        self.shared.inner.connect(epoch, deadline)
    }

    fn declare(&self, topic: &str, kind: TopicKind, spec: &TopicSpec, _deadline: Moment) -> Pending<Declared> {
        match self.shared.inner.declare_now(topic, kind, spec) {
            Ok(Declared::Created) => self.once_written(Declared::Created),
            answer => ready(answer),
        }
    }

    fn destination(&self, topic: &str, kind: TopicKind) -> Result<Arc<dyn Destination>> {
        let found = self.shared.inner.topic_for(topic, kind)?;
        Ok(Arc::new(ToDisk { shared: Arc::clone(&self.shared), kind, topic: RwLock::new(found) }))
    }

    fn subscribe(&self, spec: &SubscribeSpec, sink: Arc<dyn Sink>, deadline: Moment) -> Pending<Arc<dyn Source>> {
        self.shared.inner.subscribe(spec, sink, deadline)
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn close(&self, _deadline: Moment) -> Pending<CloseReport> {
        match self.shared.journal.close() {
            None => ready(Ok(CloseReport::default())),
            Some(closing) => Box::pin(async move { closing.await.map_err(|_| closed()) }),
        }
    }
}

impl Admin for Durable {
    fn describe(&self, pattern: &str, deadline: Moment) -> Pending<Vec<Description>> {
        self.shared.inner.describe(pattern, deadline)
    }

    fn purge(&self, topic: &str, _deadline: Moment) -> Pending<u64> {
        match self.shared.inner.purge_now(topic) {
            Ok(purged) => self.once_written(purged),
            Err(error) => ready(Err(error)),
        }
    }

    fn delete(&self, topic: &str, _deadline: Moment) -> Pending<()> {
        match self.shared.inner.delete_now(topic) {
            Ok(()) => self.once_written(()),
            Err(error) => ready(Err(error)),
        }
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        // The thread writes what it has, and ends.
        drop(self.shared.journal.close());
    }
}

/// Where messages of one topic go.
#[derive(Debug)]
struct ToDisk {
    shared: Arc<Shared>,
    kind: TopicKind,
    /// Another one, once it was deleted.
    topic: RwLock<Topic>,
}

impl ToDisk {
    /// `None`: the topic was deleted.
    fn publish_to(&self, topic: &Topic, batch: &Batch<'_>) -> Option<Taken> {
        let (ttl_ms, records) = (topic.settings().ttl_ms(), batch.records);
        let mut sizes: Vec<usize> = records.iter().map(|record| size_of(record, ttl_ms)).collect();
        let (reserved, stopped) = topic.reserve(&sizes, records)?;
        if reserved == 0 {
            return Some(Taken { count: 0, first_seq: 0, level: None, stopped });
        }
        sizes.truncate(reserved);
        let (id, prefix) = (topic.id(), self.shared.id_prefix);
        let row = |record| Row::of(record, id, prefix, ttl_ms, batch.now_us);
        let mut rows: Vec<Row> = records.iter().take(reserved).map(row).collect();
        let (count, first_seq, refused) = self.shared.journal.append(topic, &mut rows, &mut sizes, batch);
        if !sizes.is_empty() {
            topic.withdraw(&sizes);
        }
        Some(Taken { count, first_seq, level: None, stopped: refused.or(stopped) })
    }
}

/// Bytes that a record takes of its topic.
fn size_of(record: &Record<'_>, ttl_ms: i64) -> usize {
    record_bytes(record) + if record.ttl_ms <= 0 && ttl_ms > 0 { 8 } else { 0 }
}

impl Destination for ToDisk {
    fn publish(&self, batch: &Batch<'_>) -> Taken {
        let none = |stopped| Taken { count: 0, first_seq: 0, level: None, stopped };
        if batch.records.is_empty() {
            return none(None);
        }
        loop {
            let topic = self.topic.read().clone();
            if let Some(taken) = self.publish_to(&topic, batch) {
                return taken;
            }
            // Deleted: it is made again, as its first publish would.
            match self.shared.inner.topic_for(topic.name(), self.kind) {
                Ok(found) => *self.topic.write() = found,
                Err(error) => return none(Some(error.with_fate(Fate::NotSent))),
            }
        }
    }

    fn on_space(&self, waker: Weak<dyn Wake>) {
        if self.shared.journal.wait_for_room(&waker) {
            return;
        }
        let topic = self.topic.read().clone();
        topic.as_destination().on_space(waker);
    }
}

impl Topic {
    fn reserve(&self, sizes: &[usize], records: &[Record<'_>]) -> Option<(usize, Option<Error>)> {
        match self {
            Topic::Tasks(queue) => queue.reserve(sizes),
            Topic::Events(log) => log.reserve(sizes, records),
        }
    }

    pub(super) fn withdraw(&self, sizes: &[usize]) {
        match self {
            Topic::Tasks(queue) => queue.withdraw(sizes),
            Topic::Events(log) => log.withdraw(sizes),
        }
    }

    pub(super) fn append_stored(&self, rows: &[Row], sizes: &[usize]) -> usize {
        match self {
            Topic::Tasks(queue) => queue.append_stored(rows, sizes),
            Topic::Events(log) => log.append_stored(rows, sizes),
        }
    }

    fn as_destination(&self) -> &dyn Destination {
        match self {
            Topic::Tasks(queue) => &**queue,
            Topic::Events(log) => &**log,
        }
    }
}

impl fmt::Debug for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durable").field("directory", &self.directory).field("inner", &self.shared.inner).finish()
    }
}
