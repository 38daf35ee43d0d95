//! Subscriptions over an outage: opened while the server is away, and handed what is kept for it.
//!
//! A subscription to tasks of a route with `"on_outage": "local"` gets kept tasks while its server is away: each is
//! done here or sent, never both, which is the lane's to decide. A subscription that is opened while the server is away
//! begins there when it is back.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::topic::SpoolTopic;
use super::Spool;
use crate::broker::{Delivery, Flow, Sink, Source, Start, SubscribeSpec, Verdict};
use crate::error::{Error, Kind, Result};
use crate::hub::failover::lane::Verdict as Settled;
use crate::message::{Message, TopicKind};
use crate::numbers::NumberMap;
use crate::pattern::Pattern;
use crate::sync::{Mutex, RwLock};

/// Set in the tags of what was kept here; those of servers are smaller.
const LOCAL: u64 = 1 << 63;
/// Longest attempt to open a subscription at a server that has come back.
const OPENING: Duration = Duration::from_secs(30);

/// A subscription at a server, or to be opened there, and to what is kept for it.
pub(super) struct LocalSource {
    spool: Weak<Spool>,
    spec: SubscribeSpec,
    pattern: Pattern,
    sink: Arc<dyn Sink>,
    server: RwLock<Option<Arc<dyn Source>>>,
    /// It is being opened at the server.
    opening: AtomicBool,
    closed: AtomicBool,
    /// The last fetch wanted something, and found too little.
    wants: AtomicBool,
    next_tag: AtomicU64,
    out: Mutex<NumberMap<Out>>,
}

/// A kept task that is out.
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
            opening: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            wants: AtomicBool::new(false),
            next_tag: AtomicU64::new(LOCAL),
            out: Mutex::default(),
        });
        let mut sources = self.sources.lock();
        sources.retain(|weak| weak.strong_count() > 0);
        sources.push(Arc::downgrade(&source));
        Ok(source)
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
        self.spec.kind == TopicKind::Task && !self.spec.read_only && !self.closed.load(Ordering::Acquire)
    }

    fn open(self: Arc<Self>, spool: &Arc<Spool>) {
        let is_open = self.server.read().is_some() || self.closed.load(Ordering::Acquire);
        if is_open || self.opening.swap(true, Ordering::AcqRel) {
            return;
        }
        let until = spool.context.clock.now().plus(OPENING);
        let opening = spool.server.subscribe(&self.spec, Arc::clone(&self.sink), until);
        let spool = Arc::clone(spool);
        let task = async move {
            let opened = tokio::time::timeout(OPENING, opening).await;
            let opened = opened.unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "the server did not answer in time")));
            match opened {
                Ok(source) => {
                    *self.server.write() = Some(Arc::clone(&source));
                    if self.closed.load(Ordering::Acquire) {
                        source.close();
                    }
                    self.sink.ready();
                }
                Err(failed) => {
                    let text = format!("the subscription to `{}` is tried again: {failed}", self.spec.pattern);
                    spool.sink.event(crate::broker::BackendEvent::Warned(text));
                }
            }
            self.opening.store(false, Ordering::Release);
        };
        if let Ok(runtime) = crate::runtime::handle() {
            runtime.spawn(task);
        }
    }

    /// Kept tasks, as many as there is room for.
    fn fetch_kept(&self, max: usize, out: &mut Vec<Delivery>) -> usize {
        let Some(spool) = self.spool.upgrade().filter(|spool| self.takes_kept() && !spool.driver.is_open()) else {
            return 0;
        };
        let room = self.spec.prefetch.saturating_sub(self.out.lock().len()).min(max);
        let mut given = 0;
        for topic in spool.topics().into_iter().filter(|topic| self.pattern.matches(topic.name())) {
            while given < room {
                let Some((seq, message, attempt)) = topic.lease(&spool) else { break };
                let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
                let again = attempt > 0;
                let attempt = u32::from(message.attempts()) + u32::from(attempt) + 1;
                self.out.lock().insert(tag, Out { topic: Arc::clone(&topic), seq, message: message.clone() });
                let redelivered = again || attempt > 1;
                let provisional = false;
                out.push(Delivery {
                    message,
                    tag,
                    attempt,
                    unsure: 0,
                    redelivered,
                    provisional,
                    partition: 0,
                    offset: -1,
                });
                given += 1;
            }
        }
        given
    }

    fn settle_kept(&self, tag: u64, verdict: Verdict) -> bool {
        let (Some(own), Some(spool)) = (self.out.lock().remove(&tag), self.spool.upgrade()) else { return false };
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
        let server = self.server.read().clone();
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
            return self.server.read().clone().map_or_else(Vec::new, |server| server.settle(verdicts));
        }
        let (kept, others): (Vec<_>, Vec<_>) = verdicts.iter().partition(|(tag, _)| is_kept(*tag));
        let gone = kept.into_iter().filter(|(tag, verdict)| !self.settle_kept(*tag, *verdict));
        let mut gone: Vec<u64> = gone.map(|(tag, _)| tag).collect();
        if let Some(server) = self.server.read().clone().filter(|_| !others.is_empty()) {
            gone.extend(server.settle(&others));
        }
        gone
    }

    fn held(&self, tag: u64) -> Option<Message> {
        match tag & LOCAL {
            0 => self.server.read().clone()?.held(tag),
            _ => self.out.lock().get(&tag).map(|own| own.message.clone()),
        }
    }

    fn extend(&self, tag: u64, lease: Duration) -> Result<()> {
        match (tag & LOCAL, self.server.read().clone()) {
            (0, Some(server)) => server.extend(tag, lease),
            // What is kept here has no lease that could end.
            _ => Ok(()),
        }
    }

    fn seek(&self, to: Start) -> Result<()> {
        match self.server.read().clone() {
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
        if let Some(server) = self.server.read().clone() {
            server.close();
        }
    }
}

impl fmt::Debug for LocalSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSource").field("pattern", &self.spec.pattern).finish_non_exhaustive()
    }
}
