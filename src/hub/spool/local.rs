//! Subscriptions over an outage: opened while the server is away, and handed what is kept for it.
//!
//! A subscription to tasks of a route with `"on_outage": "local"` gets kept tasks while its server is away: each is
//! done here or sent, never both, which is the lane's to decide. A group that subscribes to events of such a route is
//! shown what is kept, as provisional copies; each event is sent all the same. A subscription that is opened while the
//! server is away begins there when it is back.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::topic::SpoolTopic;
use super::Spool;
use crate::broker::{BackendEvent, Delivery, Flow, Level, Sink, Source, Start, SubscribeSpec, Verdict};
use crate::clock::Moment;
use crate::error::{Error, Kind, Result};
use crate::hub::failover::lane::Verdict as Settled;
use crate::hub::provisional::name_of;
use crate::limits::PREFETCH_MAX;
use crate::message::{Message, TopicKind};
use crate::numbers::NumberMap;
use crate::pattern::Pattern;
use crate::sync::{Mutex, RwLock};

/// Set in the tags of what was kept here; those of servers are smaller.
const LOCAL: u64 = 1 << 63;
/// Groups that are shown events: each is a bit.
const GROUPS_MAX: usize = 64;
/// Longest attempt to open a subscription at a server that has come back.
const OPENING: Duration = Duration::from_secs(30);
/// Waits after attempts in vain, doubled each time.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_LONGEST: Duration = Duration::from_secs(60);

/// A subscription at a server, or to be opened there, and to what is kept for it.
pub(super) struct LocalSource {
    spool: Weak<Spool>,
    spec: SubscribeSpec,
    pattern: Pattern,
    sink: Arc<dyn Sink>,
    server: RwLock<Option<Arc<dyn Source>>>,
    opening: Mutex<Opening>,
    closed: AtomicBool,
    /// The bit of its group, where that is shown events.
    group: Option<u64>,
    /// The last fetch wanted something, and found too little.
    wants: AtomicBool,
    next_tag: AtomicU64,
    out: Mutex<NumberMap<Out>>,
}

/// Being opened at the server.
#[derive(Default)]
struct Opening {
    under_way: bool,
    /// It could not be opened: when it is tried again, and the wait of then.
    again: Option<(Moment, Duration)>,
}

/// A kept message that is out.
struct Out {
    topic: Arc<SpoolTopic>,
    seq: u64,
    message: Message,
}

impl Spool {
    /// A subscription; `server`: where it is open already.
    pub(super) fn local_source(
        self: &Arc<Self>,
        spec: &SubscribeSpec,
        sink: Arc<dyn Sink>,
        server: Option<Arc<dyn Source>>,
    ) -> Result<Arc<LocalSource>> {
        let source = Arc::new(LocalSource {
            spool: Arc::downgrade(self),
            spec: spec.clone(),
            pattern: Pattern::parse(&spec.pattern)?,
            sink,
            server: RwLock::new(server),
            opening: Mutex::default(),
            closed: AtomicBool::new(false),
            group: self.group_of(spec),
            wants: AtomicBool::new(false),
            next_tag: AtomicU64::new(LOCAL),
            out: Mutex::default(),
        });
        let mut sources = self.sources.lock();
        sources.retain(|weak| weak.strong_count() > 0);
        sources.push(Arc::downgrade(&source));
        Ok(source)
    }

    /// The bit of the group that is shown events; `None`: it is none, or all bits are given.
    fn group_of(&self, spec: &SubscribeSpec) -> Option<u64> {
        let name = &name_of(self.server.kind(), spec)?;
        let mut groups = self.groups.lock();
        let known = groups.iter().position(|own| own == name);
        let at = known.unwrap_or(groups.len());
        if at >= GROUPS_MAX {
            return None;
        }
        if known.is_none() {
            groups.push(name.clone());
        }
        Some(1 << at)
    }

    /// The groups of these bits.
    pub(super) fn group_names(&self, bits: u64) -> Vec<String> {
        if bits == 0 {
            return Vec::new();
        }
        let groups = self.groups.lock();
        groups.iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0).map(|(_, name)| name.clone()).collect()
    }

    fn live_sources(&self) -> Vec<Arc<LocalSource>> {
        self.sources.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// The server is there: subscriptions that are not open there are opened.
    pub fn open_sources(self: &Arc<Self>) {
        for source in self.live_sources() {
            source.open(self);
        }
    }

    /// Kept tasks may be had: whoever waits for some is told. No lock is held.
    pub fn ring_sources(&self) {
        for source in self.live_sources() {
            if source.takes_kept() && source.wants.swap(false, Ordering::AcqRel) {
                source.sink.ready();
            }
        }
    }
}

impl LocalSource {
    /// Whether kept messages are for it.
    fn takes_kept(&self) -> bool {
        let takes = self.spec.kind == TopicKind::Task || self.group.is_some();
        takes && !self.spec.read_only && !self.closed.load(Ordering::Acquire)
    }

    fn server(&self) -> Option<Arc<dyn Source>> {
        self.server.read().clone()
    }

    /// Opens it at the server, unless it is open, or was tried a moment ago.
    fn open(self: Arc<Self>, spool: &Arc<Spool>) {
        if self.server().is_some() || self.closed.load(Ordering::Acquire) {
            return;
        }
        let now = spool.context.clock.now();
        {
            let mut opening = self.opening.lock();
            if opening.under_way || opening.again.is_some_and(|(at, _)| at > now) {
                return;
            }
            opening.under_way = true;
        }
        let opened = spool.server.subscribe(&self.spec, Arc::clone(&self.sink), now.plus(OPENING));
        let (source, own) = (Arc::clone(&self), Arc::clone(spool));
        let task = async move {
            let late = || Err(Error::new(Kind::Timeout, "the server did not answer in time"));
            let opened = tokio::time::timeout(OPENING, opened).await.unwrap_or_else(|_| late());
            source.opened(&own, opened);
        };
        match crate::runtime::handle() {
            Ok(runtime) => drop(runtime.spawn(task)),
            Err(failed) => self.opened(spool, Err(failed)),
        }
    }

    fn opened(&self, spool: &Spool, opened: Result<Arc<dyn Source>>) {
        let mut opening = self.opening.lock();
        opening.under_way = false;
        match opened {
            Ok(source) => {
                drop(opening);
                *self.server.write() = Some(Arc::clone(&source));
                if self.closed.load(Ordering::Acquire) {
                    source.close();
                }
                self.sink.ready();
            }
            Err(failed) => {
                let wait = opening.again.map_or(AGAIN_FIRST, |(_, before)| (before * 2).min(AGAIN_LONGEST));
                opening.again = Some((spool.context.clock.now().plus(wait), wait));
                drop(opening);
                let text = format!("the subscription to `{}` is tried again in {wait:?}: {failed}", self.spec.pattern);
                spool.sink.event(BackendEvent::Warned(text));
            }
        }
    }

    /// Kept messages, as many as there is room for.
    fn fetch_kept(&self, max: usize, out: &mut Vec<Delivery>) -> usize {
        let Some(spool) = self.spool.upgrade().filter(|spool| self.takes_kept() && !spool.driver.is_open()) else {
            return 0;
        };
        // Beside what is out from the server, in as many places as a subscription has.
        let places = self.spec.prefetch.min(PREFETCH_MAX - self.spec.prefetch);
        let places = if self.group.is_some() { places } else { self.spec.prefetch };
        let room = places.saturating_sub(self.out.lock().len()).min(max);
        let before = out.len();
        for topic in spool.topics().into_iter().filter(|topic| self.pattern.matches(topic.name())) {
            let room = room - (out.len() - before);
            match self.group {
                None => out.extend(topic.lease(&spool, room).into_iter().map(|own| {
                    let attempt = u32::from(own.message.attempts()) + u32::from(own.tries) + 1;
                    let redelivered = own.again || attempt > 1;
                    Delivery { attempt, redelivered, ..self.hand_out(&topic, own.seq, own.message) }
                })),
                Some(group) => {
                    let shown = topic.show(&spool, group, self.spec.ordered, room).into_iter();
                    let shown = shown.map(|(seq, message)| self.hand_out(&topic, seq, message));
                    out.extend(shown.map(|own| Delivery { provisional: true, ..own }));
                }
            }
        }
        out.len() - before
    }

    fn hand_out(&self, topic: &Arc<SpoolTopic>, seq: u64, message: Message) -> Delivery {
        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        self.out.lock().insert(tag, Out { topic: Arc::clone(topic), seq, message: message.clone() });
        Delivery {
            message,
            tag,
            attempt: 1,
            unsure: 0,
            redelivered: false,
            provisional: false,
            partition: 0,
            offset: -1,
        }
    }

    fn settle_kept(&self, tag: u64, verdict: Verdict) -> bool {
        let (Some(own), Some(spool)) = (self.out.lock().remove(&tag), self.spool.upgrade()) else { return false };
        if let Some(group) = self.group {
            own.topic.settle_shown(&spool, group, (own.seq, &own.message), self.spec.ordered, verdict);
            return true;
        }
        let settled = match verdict {
            Verdict::Ack => Settled::Done,
            Verdict::Retry(delay) => Settled::Failed(spool.context.clock.now().plus(delay)),
            Verdict::Return => Settled::Returned,
        };
        own.topic.settle(&spool, own.seq, settled);
        true
    }
}

impl Source for LocalSource {
    fn fetch(&self, max: usize, out: &mut Vec<Delivery>) -> Flow {
        let server = self.server();
        let before = out.len();
        // Before it looks, so that what comes meanwhile is told of.
        self.wants.store(max > 0, Ordering::Release);
        let flow = server.map_or(Flow::Idle, |server| server.fetch(max, out));
        let left = max.saturating_sub(out.len() - before);
        match flow {
            Flow::Idle if left > 0 && self.fetch_kept(left, out) == left => Flow::More,
            flow => flow,
        }
    }

    fn settle(&self, verdicts: &[(u64, Verdict)]) -> Vec<u64> {
        let is_kept = |tag: u64| tag & LOCAL != 0;
        if !verdicts.iter().any(|(tag, _)| is_kept(*tag)) {
            return self.server().map_or_else(Vec::new, |server| server.settle(verdicts));
        }
        let (kept, others): (Vec<_>, Vec<_>) = verdicts.iter().partition(|(tag, _)| is_kept(*tag));
        let gone = kept.into_iter().filter(|(tag, verdict)| !self.settle_kept(*tag, *verdict));
        let mut gone: Vec<u64> = gone.map(|(tag, _)| tag).collect();
        if let Some(server) = self.server().filter(|_| !others.is_empty()) {
            gone.extend(server.settle(&others));
        }
        gone
    }

    fn held(&self, tag: u64) -> Option<Message> {
        match tag & LOCAL {
            0 => self.server()?.held(tag),
            _ => self.out.lock().get(&tag).map(|own| own.message.clone()),
        }
    }

    fn level(&self, tag: u64) -> Level {
        match tag & LOCAL {
            0 => self.server().map_or(Level::Broker, |server| server.level(tag)),
            _ => self.spool.upgrade().map_or(Level::Memory, |spool| spool.level()),
        }
    }

    fn extend(&self, tag: u64, lease: Duration) -> Result<()> {
        match (tag & LOCAL, self.server()) {
            (0, Some(server)) => server.extend(tag, lease),
            // What is kept here has no lease that could end.
            _ => Ok(()),
        }
    }

    fn seek(&self, to: Start) -> Result<()> {
        match self.server() {
            Some(server) => server.seek(to),
            None => Err(Error::new(Kind::BackendDown, "the subscription is not open at its server yet")),
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let tags: Vec<u64> = self.out.lock().keys().copied().collect();
        for tag in tags {
            self.settle_kept(tag, Verdict::Return);
        }
        if let Some(server) = self.server() {
            server.close();
        }
    }
}

impl fmt::Debug for LocalSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSource").field("pattern", &self.spec.pattern).finish_non_exhaustive()
    }
}
