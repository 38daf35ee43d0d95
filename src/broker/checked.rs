//! `Checked`: the layer between the hub and every backend that refuses what the backend cannot do.
//!
//! - A feature that the backend has not is `Unsupported`, naming feature and backend, before
//!   anything is sent. Nothing asked for is silently left out.
//! - Names, payload sizes, priorities and prefetch outside their range are refused here, so a
//!   backend may rely on them.
//!
//! It costs nothing where nothing is left to check: what the caller of [`Checked::over`] enforces
//! for every record already (see [`Enforced`]) is not checked twice, and a backend that can do
//! everything within it hands out its own [`Destination`] and [`Source`], unwrapped.
//!
//! A key is not refused where [`Capabilities::ordered_key`] is missing: it is data as well, and
//! order is asked for by the subscription.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{
    Admin, BackendKind, Batch, Broker, Capabilities, CloseReport, Declared, Delivery, Destination, Epoch, Flow, Level,
    Ordered, Receipts, Sink, Source, Start, Stop, Storage, SubscribeSpec, Support, Taken, TopicSpec, Verdict, Wake,
};
use crate::clock::Moment;
use crate::error::{Error, Fate, Kind, Result};
use crate::limits::{
    FOREIGN_NAME_BYTES_MAX, ID_BYTES_MAX, KEY_BYTES_MAX, PARTITIONS_MAX, PREFETCH_MAX, PRIORITY_DEFAULT, PRIORITY_MAX,
    SPAN_MS_MAX, TYPE_BYTES_MAX,
};
use crate::message::{Message, Record, TopicKind};
use crate::runtime::{ready, Pending};

/// What whoever publishes through a [`Checked`] broker has made sure of for every record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforced {
    /// Nothing.
    Nothing,
    /// [`check_record`] holds with this payload limit in bytes.
    Records {
        /// Largest payload let through.
        payload_bytes_max: usize,
    },
}

/// A broker that is only asked for what it can do.
#[derive(Debug)]
pub struct Checked {
    inner: Arc<dyn Broker>,
    enforced: Enforced,
}

impl Checked {
    /// Checks every call to `inner`, but for what is `enforced` above.
    pub fn over(inner: Arc<dyn Broker>, enforced: Enforced) -> Arc<Self> {
        Arc::new(Self { inner, enforced })
    }

    /// What the backend can do and what it is called; asked again on each rare call, because it
    /// may sharpen with a connect.
    fn rules(&self) -> Rules {
        Rules { can: self.inner.capabilities(), backend: self.inner.kind(), enforced: self.enforced }
    }
}

impl Broker for Checked {
    fn kind(&self) -> BackendKind {
        self.inner.kind()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn receipts(&self) -> Receipts {
        self.inner.receipts()
    }

    fn storage(&self) -> Option<Storage> {
        self.inner.storage()
    }

    fn connect(&self, epoch: Epoch, deadline: Moment) -> Pending<()> {
        self.inner.connect(epoch, deadline)
    }

    fn disconnect(&self, epoch: Epoch) {
        self.inner.disconnect(epoch);
    }

    fn restore(&self) -> Pending<()> {
        self.inner.restore()
    }

    fn declare(&self, topic: &str, kind: TopicKind, spec: &TopicSpec, deadline: Moment) -> Pending<Declared> {
        match self.rules().declare(topic, kind, spec) {
            Ok(()) => self.inner.declare(topic, kind, spec, deadline),
            Err(refused) => ready(Err(refused)),
        }
    }

    fn destination(&self, topic: &str, kind: TopicKind) -> Result<Arc<dyn Destination>> {
        let rules = self.rules();
        rules.kind(kind)?;
        rules.name(topic)?;
        let inner = self.inner.destination(topic, kind)?;
        if rules.nothing_to_check(kind) {
            return Ok(inner);
        }
        Ok(Arc::new(CheckedDestination { inner, rules, kind }))
    }

    fn subscribe(&self, spec: &SubscribeSpec, sink: Arc<dyn Sink>, deadline: Moment) -> Pending<Arc<dyn Source>> {
        let rules = self.rules();
        if let Err(refused) = rules.subscribe(spec) {
            return ready(Err(refused));
        }
        let opened = self.inner.subscribe(spec, sink, deadline);
        if rules.can.extend.is_there() && rules.can.replay_time.is_there() && rules.can.replay_offset.is_there() {
            return opened;
        }
        Box::pin(async move {
            let inner = opened.await?;
            let source: Arc<dyn Source> = Arc::new(CheckedSource { inner, rules });
            Ok(source)
        })
    }

    fn admin(&self) -> Option<&dyn Admin> {
        self.inner.admin()
    }

    fn close(&self, deadline: Moment) -> Pending<CloseReport> {
        self.inner.close(deadline)
    }
}

/// Checks what no backend takes: sizes of the small fields, priority, negative times.
///
/// # Errors
/// `Arg` or `TooLarge`, naming the field and its limit.
pub fn check_record(record: &Record<'_>, payload_bytes_max: usize) -> Result<()> {
    at_most("payload", record.payload.len(), payload_bytes_max)?;
    at_most("key", record.key.map_or(0, <[u8]>::len), KEY_BYTES_MAX)?;
    at_most("id", record.id.len(), ID_BYTES_MAX)?;
    at_most("type", record.type_.len(), TYPE_BYTES_MAX)?;
    if record.priority > PRIORITY_MAX {
        return Err(Error::new(Kind::Arg, format!("priority {} is above {PRIORITY_MAX}", record.priority)));
    }
    let spans = 0..=SPAN_MS_MAX;
    if !spans.contains(&record.delay_ms) || !spans.contains(&record.ttl_ms) {
        return Err(Error::new(Kind::Arg, format!("a delay and a TTL are 0 to {SPAN_MS_MAX} milliseconds")));
    }
    Ok(())
}

/// Checks a topic name: 1 to `bytes_max` bytes, no character that a broker refuses or that would
/// mislead whoever reads it, no wildcard, not `.` or `..`.
///
/// # Errors
/// `Name`, with the reason.
pub fn check_name(name: &str, bytes_max: usize) -> Result<()> {
    let wrong = |why: String| Err(Error::new(Kind::Name, format!("topic name {name:.80?} {why}")));
    if name.is_empty() {
        return wrong("is empty".into());
    }
    if name.len() > bytes_max {
        return wrong(format!("has {} bytes; at most {bytes_max} are taken", name.len()));
    }
    if name == "." || name == ".." {
        return wrong("names a directory".into());
    }
    match name.chars().find(|character| !is_name_character(*character)) {
        Some(character) => wrong(format!("has the character {character:?}, which no broker takes")),
        None => Ok(()),
    }
}

/// Checks a pattern: a topic name in which whole words may be `*` or `#`.
///
/// # Errors
/// `Name`, with the reason.
pub fn check_pattern(pattern: &str, bytes_max: usize) -> Result<()> {
    if !is_wildcard(pattern) {
        return check_name(pattern, bytes_max);
    }
    let plain: Vec<&str> = pattern.split('.').map(|word| if matches!(word, "*" | "#") { "w" } else { word }).collect();
    check_name(&plain.join("."), bytes_max).map_err(|wrong| {
        Error::new(Kind::Name, format!("pattern {pattern:.80?}: `*` and `#` stand for whole words")).caused_by(wrong)
    })
}

/// Whether `pattern` may stand for more than one topic.
pub fn is_wildcard(pattern: &str) -> bool {
    pattern.split('.').any(|word| matches!(word, "*" | "#"))
}

/// Printable, and none of the characters with which a name passes for a path, a pattern or, by
/// the direction of its writing, for another name.
fn is_name_character(character: char) -> bool {
    let reverses = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}');
    let reserved = matches!(character, '*' | '#' | '/' | '\\' | '\u{feff}');
    !(character.is_control() || character.is_whitespace() || reverses || reserved)
}

fn at_most(field: &str, bytes: usize, bytes_max: usize) -> Result<()> {
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(Error::new(Kind::TooLarge, format!("the {field} has {bytes} bytes; at most {bytes_max} are taken")))
}

/// The checks for one backend.
#[derive(Debug, Clone, Copy)]
struct Rules {
    can: Capabilities,
    backend: BackendKind,
    enforced: Enforced,
}

impl Rules {
    fn need(&self, support: Support, feature: &str) -> Result<()> {
        if support.is_there() {
            return Ok(());
        }
        let backend = self.backend.name();
        Err(Error::new(Kind::Unsupported, format!("{backend} does not support {feature}")).with_backend(backend))
    }

    fn kind(&self, kind: TopicKind) -> Result<()> {
        match kind {
            TopicKind::Task => self.need(self.can.tasks, "tasks"),
            TopicKind::Event => self.need(self.can.events, "events"),
        }
    }

    fn name(&self, name: &str) -> Result<()> {
        check_name(name, self.name_bytes_max())
    }

    fn name_bytes_max(&self) -> usize {
        self.can.name_bytes_max.min(FOREIGN_NAME_BYTES_MAX)
    }

    fn declare(&self, topic: &str, kind: TopicKind, spec: &TopicSpec) -> Result<()> {
        self.kind(kind)?;
        self.name(topic)?;
        if spec.ttl.is_some() {
            self.need(self.can.ttl, "a TTL")?;
        }
        match spec.partitions {
            Some(count) if count == 0 || count > PARTITIONS_MAX => {
                Err(Error::new(Kind::Arg, format!("{count} partitions; 1 to {PARTITIONS_MAX} can be had")))
            }
            Some(_) if kind == TopicKind::Task => Err(Error::new(Kind::Arg, "only events have partitions")),
            _ => Ok(()),
        }
    }

    fn subscribe(&self, spec: &SubscribeSpec) -> Result<()> {
        self.kind(spec.kind)?;
        check_pattern(&spec.pattern, self.name_bytes_max())?;
        if !(1..=PREFETCH_MAX).contains(&spec.prefetch) {
            return Err(Error::new(Kind::Arg, format!("prefetch {} is not within 1 to {PREFETCH_MAX}", spec.prefetch)));
        }
        if is_wildcard(&spec.pattern) {
            match spec.kind {
                TopicKind::Task => self.need(self.can.wildcard_tasks, "a pattern over task queues")?,
                TopicKind::Event => self.need(self.can.wildcard_events, "a pattern over event topics")?,
            }
        }
        if spec.ordered != Ordered::No {
            self.need(self.can.ordered_key, "order by key")?;
        }
        self.start(spec.start)?;
        match spec.stop {
            Stop::Never | Stop::Now => Ok(()),
            Stop::Time(_) => self.need(self.can.replay_time, "replay to a time"),
        }
    }

    fn start(&self, start: Start) -> Result<()> {
        match start {
            Start::Earliest | Start::Latest => Ok(()),
            Start::Offset(_) => self.need(self.can.replay_offset, "starting at an offset"),
            Start::Time(_) => self.need(self.can.replay_time, "starting at a time"),
        }
    }

    fn record(&self, record: &Record<'_>, kind: TopicKind) -> Result<()> {
        if self.enforced == Enforced::Nothing {
            check_record(record, usize::MAX)?;
        }
        at_most("payload", record.payload.len(), self.can.payload_bytes_max)?;
        // Every record has a priority; one that differs from the default was asked for.
        if kind == TopicKind::Task && record.priority != PRIORITY_DEFAULT {
            self.need(self.can.priority, "priorities")?;
        }
        if record.ttl_ms > 0 {
            self.need(self.can.ttl, "a TTL")?;
        }
        if record.delay_ms > 0 {
            if kind == TopicKind::Event {
                return self.need(Support::None, "a delay of an event, which is a fact in a log");
            }
            self.need(self.can.delay, "a delay")?;
            if record.delay_ms > self.can.delay_ms_max {
                let longest = self.can.delay_ms_max;
                let text =
                    format!("a delay of {} ms; {} holds at most {longest}", record.delay_ms, self.backend.name());
                return Err(Error::new(Kind::Arg, text).with_backend(self.backend.name()));
            }
        }
        if !record.headers.bytes().is_empty() {
            self.need(self.can.headers, "headers")?;
        }
        Ok(())
    }

    /// Whether [`Rules::record`] could not refuse any record that comes here.
    fn nothing_to_check(&self, kind: TopicKind) -> bool {
        let within = match self.enforced {
            Enforced::Nothing => false,
            Enforced::Records { payload_bytes_max } => payload_bytes_max <= self.can.payload_bytes_max,
        };
        let priority = kind == TopicKind::Event || self.can.priority.is_there();
        let delay = self.can.delay.is_there() && self.can.delay_ms_max >= SPAN_MS_MAX;
        within && priority && delay && self.can.ttl.is_there() && self.can.headers.is_there()
    }
}

#[derive(Debug)]
struct CheckedDestination {
    inner: Arc<dyn Destination>,
    rules: Rules,
    kind: TopicKind,
}

impl Destination for CheckedDestination {
    fn publish(&self, batch: &Batch<'_>) -> Taken {
        let bad = batch.records.iter().enumerate().find_map(|(index, record)| {
            let wrong = self.rules.record(record, self.kind).err()?;
            Some((index, wrong.with_fate(Fate::Refused)))
        });
        let Some((index, wrong)) = bad else { return self.inner.publish(batch) };
        if index == 0 {
            return Taken { count: 0, first_seq: 0, level: None, stopped: Some(wrong) };
        }
        let good = Batch { records: batch.records.get(..index).unwrap_or_default(), ..*batch };
        let mut taken = self.inner.publish(&good);
        if taken.count == index && taken.stopped.is_none() {
            taken.stopped = Some(wrong);
        }
        taken
    }

    fn look_again(&self) {
        self.inner.look_again();
    }

    fn keeps_copies(&self) -> bool {
        self.inner.keeps_copies()
    }

    fn on_space(&self, waker: Weak<dyn Wake>) {
        self.inner.on_space(waker);
    }
}

#[derive(Debug)]
struct CheckedSource {
    inner: Arc<dyn Source>,
    rules: Rules,
}

impl Source for CheckedSource {
    fn fetch(&self, max: usize, out: &mut Vec<Delivery>) -> Flow {
        self.inner.fetch(max, out)
    }

    fn settle(&self, verdicts: &[(u64, Verdict)]) -> Vec<u64> {
        self.inner.settle(verdicts)
    }

    fn held(&self, tag: u64) -> Option<Message> {
        self.inner.held(tag)
    }

    fn level(&self, tag: u64) -> Level {
        self.inner.level(tag)
    }

    fn extend(&self, tag: u64, lease: Duration) -> Result<()> {
        self.rules.need(self.rules.can.extend, "extending a lease")?;
        self.inner.extend(tag, lease)
    }

    fn seek(&self, to: Start) -> Result<()> {
        self.rules.start(to)?;
        self.inner.seek(to)
    }

    fn close(&self) {
        self.inner.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_broker_takes_are_refused() {
        for name in ["", ".", "..", "a/../b", "a\\b", "a\r\nb", "a\u{202e}b", "a\0b", "a b", "user.*", "#"] {
            assert_eq!(check_name(name, 200).unwrap_err().kind(), Kind::Name, "{name:?}");
        }
        assert_eq!(check_name(&"n".repeat(201), 200).unwrap_err().kind(), Kind::Name);
        check_name(&"n".repeat(200), 200).unwrap();
        check_name("helixagent.tasks.größe-1_x", 200).unwrap();
    }

    #[test]
    fn a_pattern_has_whole_words_as_wildcards() {
        for pattern in ["#", "*", "user.*", "a.#.b", "plain"] {
            check_pattern(pattern, 200).unwrap();
        }
        for pattern in ["us*er", "user.*x", "a.#b", "*.a/b", ""] {
            assert_eq!(check_pattern(pattern, 200).unwrap_err().kind(), Kind::Name, "{pattern:?}");
        }
    }

    #[test]
    fn small_fields_have_limits() {
        let long = "x".repeat(256);
        let plain = Record::new(b"12345");
        check_record(&plain, 5).unwrap();
        let kind = |record: Record<'_>| check_record(&record, 5).unwrap_err().kind();
        assert_eq!(check_record(&plain, 4).unwrap_err().kind(), Kind::TooLarge);
        assert_eq!(kind(Record { id: &long[..64], ..plain }), Kind::TooLarge);
        assert_eq!(kind(Record { type_: &long, ..plain }), Kind::TooLarge);
        assert_eq!(kind(Record { key: Some(&[0; 4097]), ..plain }), Kind::TooLarge);
        assert_eq!(kind(Record { priority: 11, ..plain }), Kind::Arg);
        assert_eq!(kind(Record { ttl_ms: -1, ..plain }), Kind::Arg);
    }
}
