//! Subscriptions: by callback, on dispatcher threads of our own, or into an inbox.
//!
//! A callback subscription owns its threads (one, unless `concurrency` says more), so it is serial
//! and ordered, and a slow handler delays nobody else. Closing one waits until no callback runs
//! and none will, which is counted, not guessed from a flag.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use serde_json::{json, Value};

use super::dedup::source::Watched;
use super::feed::{Deferred, Feed, Incoming, Reads};
use super::inbox::{Inbox, WeakInbox};
use super::provisional::name_of;
use super::retry::{Attempts, DeadLetterTopic};
use super::route::Use;
use super::settle::{self, Decision, LedgerUse, Owner};
use super::{Hub, Shared, Timeout};
use crate::broker::{BackendKind, Flow, Group, Ordered, Source, Start, Stop, SubscribeSpec};
use crate::config::options::{Credit, DeadLetterChoice, Filter, GroupChoice, SeekOptions, SubscribeOptions};
use crate::config::RetryPolicy;
use crate::error::{Error, Kind, Result};
use crate::limits::{DISPATCHERS_MAX, PREFETCH_MAX, SPIN};
use crate::message::TopicKind;
use crate::metrics::Counter;
use crate::pattern::Pattern;
use crate::reentrancy::{as_callback, not_from_handler_of, Caller};
use crate::sync::{Bell, Condvar, Deadline, Mutex};

pub(super) mod sink;

use sink::SubSink;

/// What a callback answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandlerVerdict {
    /// Done.
    Ack,
    /// Another attempt, by the subscription's policy.
    Retry,
    /// Dead letter now.
    Reject,
    /// Settled later, by token.
    Later,
}

/// A program's handler. Dropped exactly once, after its last call has returned.
pub trait Handler: Send + Sync {
    /// Handles one delivery. `None`: the program's answer was no verdict.
    fn handle(&self, incoming: Incoming) -> Option<HandlerVerdict>;
}

/// A handle on a subscription; cheap to clone.
#[derive(Debug, Clone)]
pub struct Subscription(Arc<SubShared>);

/// What a subscription is made from, beyond what the broker is told.
pub(super) struct Making {
    pub(super) spec: SubscribeSpec,
    pub(super) topic: String,
    pub(super) filter: Option<Filter>,
    pub(super) retry: RetryPolicy,
    pub(super) dead_letter: Option<DeadLetterTopic>,
    pub(super) manual_credit: bool,
    pub(super) concurrency: usize,
    /// Count what would be handed over, and hand over nothing.
    pub(super) dry_run: bool,
    /// Hand over each id once.
    pub(super) dedup: bool,
}

/// Where deliveries go.
pub(super) enum Target<'a> {
    Callback(Box<dyn Handler>),
    Inbox(&'a Inbox, u64),
}

/// Shared by handles, dispatcher threads, the inbox and the source's sink.
#[derive(Debug)]
pub(super) struct SubShared {
    pub(super) id: u64,
    pub(super) tag: u64,
    pub(super) topic: String,
    pub(super) kind: TopicKind,
    pub(super) feed: Feed,
    hub: Weak<Shared>,
    hub_id: u64,
    inbox: Option<WeakInbox>,
    bell: Bell,
    /// What it subscribes, if that is a pattern.
    pub(super) pattern: Option<Pattern>,
    /// In the inbox's list of those that are ready; guarded by the inbox's lock.
    pub(super) listed: AtomicBool,
    life: Mutex<Life>,
    life_changed: Condvar,
}

/// Guarded together: who still runs, and how it ends.
#[derive(Debug, Default)]
struct Life {
    /// Threads that may still call the handler.
    running: usize,
    /// Threads that have not ended: those above, and the last one while it finishes.
    dispatchers: usize,
    /// The subscription stands, so its threads may begin.
    started: bool,
    closing: bool,
    ended: Option<Result<()>>,
    end_told: bool,
}

impl Hub {
    /// Subscribes with a callback.
    pub fn subscribe(
        &self,
        options: SubscribeOptions,
        handler: Box<dyn Handler>,
        timeout: Timeout,
    ) -> Result<Subscription> {
        self.open_subscription(self.making(options)?, Target::Callback(handler), timeout)
    }

    /// Subscribes into an inbox; events carry `tag`.
    pub fn subscribe_inbox(
        &self,
        options: SubscribeOptions,
        inbox: &Inbox,
        tag: u64,
        timeout: Timeout,
    ) -> Result<Subscription> {
        self.open_subscription(self.making(options)?, Target::Inbox(inbox, tag), timeout)
    }

    fn making(&self, options: SubscribeOptions) -> Result<Making> {
        self.0.check_open()?;
        crate::config::check_pattern("topic", &options.topic)?;
        let asked = options.kind.map(|kind| (kind, Use::Subscribe));
        let kind = self.0.kind_of(&options.topic, asked, true)?;
        let defaults = &self.0.config;
        let group = match options.group {
            GroupChoice::Hub => Group::Named(defaults.group_id.clone()),
            GroupChoice::Private => Group::Private,
            GroupChoice::Named(name) => Group::Named(name),
        };
        let private = group == Group::Private;
        if options.dedup && !super::dedup::group::is_on(defaults) {
            let text = "`dedup`: `failover.dedup_window_ms` or `dedup_ids_max` is 0, so nothing is remembered";
            return Err(Error::new(Kind::Config, text).at("dedup", 0, 0));
        }
        let dead_letter = match options.dead_letter {
            DeadLetterChoice::Default => Some(DeadLetterTopic::OfOrigin),
            DeadLetterChoice::None => None,
            DeadLetterChoice::Topic(name) => {
                // Its own dead letters would come back to it for ever.
                if kind == TopicKind::Task && Pattern::parse(&options.topic)?.matches(&name) {
                    let text = format!("`dead_letter`: the subscription to `{}` would receive it", options.topic);
                    return Err(Error::new(Kind::Config, text).at("dead_letter", 0, 0));
                }
                Some(DeadLetterTopic::Named(name))
            }
        };
        let start = options.start.unwrap_or(if private { Start::Latest } else { Start::Earliest });
        Ok(Making {
            spec: SubscribeSpec {
                pattern: options.topic.clone(),
                kind,
                group,
                start,
                stop: Stop::Never,
                prefetch: options.prefetch.unwrap_or(defaults.prefetch).clamp(1, PREFETCH_MAX),
                ordered: options.ordered.unwrap_or(Ordered::No),
                lease: options.lease,
                read_only: false,
            },
            topic: options.topic,
            filter: options.filter,
            retry: options.retry.over(&defaults.retry)?,
            dead_letter,
            manual_credit: options.credit == Credit::Manual,
            concurrency: options.concurrency,
            dry_run: false,
            dedup: options.dedup,
        })
    }

    pub(super) fn open_subscription(
        &self,
        making: Making,
        target: Target<'_>,
        timeout: Timeout,
    ) -> Result<Subscription> {
        let hub = &self.0;
        if let Target::Inbox(inbox, _) = &target {
            inbox.0.check_hub(hub.id)?;
        }
        hub.mark_used();
        let concurrency = making.concurrency;
        let sink = Arc::new(SubSink::default());
        let dead_letter = making.dead_letter.clone();
        let backend = hub.backend_for(&making.spec.pattern, making.spec.kind)?.kind;
        let (source, watched) = super::dedup::source::open(hub, (backend, &making.spec), making.dedup, &sink, timeout)?;
        let shared =
            SubShared::new(hub, making, backend, (&source, watched), &target).inspect_err(|_| source.close())?;
        hub.subscriptions.lock().insert(shared.id, Arc::downgrade(&shared));
        let handler = match target {
            Target::Callback(handler) => Some(Arc::from(handler)),
            Target::Inbox(..) => None,
        };
        let mut started = hub.check_open();
        if let (Ok(()), Some(handler)) = (&started, &handler) {
            started = start_dispatchers(hub, &shared, handler, concurrency);
        }
        if let (Ok(()), Some(DeadLetterTopic::Named(name))) = (&started, &dead_letter) {
            started = hub.remember_dead_letter_topic(name, backend);
        }
        // A close that has looked at the list before has not seen this one.
        if let Err(error) = started.and_then(|()| hub.check_open()).and_then(|()| shared.check_inbox()) {
            return Err(shared.abandon(error));
        }
        hub.warn_of_topics_of_the_other_kind(&shared);
        // From now on the dispatchers have all holds, so its drop comes before their end is told.
        if let Err((error, _handler)) = shared.start(handler) {
            return Err(shared.abandon(error));
        }
        sink.attach(&shared);
        Ok(Subscription(shared))
    }
}

impl Subscription {
    /// Counts of what went through.
    pub fn progress(&self) -> Result<Value> {
        let counts = self.0.feed.counts();
        Ok(json!({
            "topic": self.0.topic, "kind": self.0.kind.name(),
            "handed_over": counts.handed_over, "filtered": counts.filtered, "counted": counts.counted,
            "unsettled": self.0.feed.unsettled(), "ended": self.0.life.lock().ended.is_some(),
        }))
    }

    /// Waits until the subscription has ended, and answers how.
    pub fn wait(&self, timeout: Timeout) -> Result<()> {
        not_from_handler_of(self.0.hub_id, self.0.id, "hmq_sub_wait")?;
        let deadline = Deadline::after(timeout);
        let mut life = self.0.life.lock();
        loop {
            if let Some(ended) = &life.ended {
                if life.dispatchers == 0 {
                    return ended.clone();
                }
            }
            if deadline.has_passed() {
                return Err(Error::new(Kind::Timeout, "the subscription has not ended yet"));
            }
            life = self.0.life_changed.wait_until(life, deadline.instant());
        }
    }

    /// Moves an event subscription.
    pub fn seek(&self, options: &SeekOptions, _timeout: Timeout) -> Result<()> {
        self.0.check_open()?;
        let sought = self.0.feed.seek(options.to);
        self.0.ready();
        sought
    }

    /// Pauses or resumes.
    pub fn pause(&self, paused: bool) -> Result<()> {
        self.0.check_open()?;
        self.0.feed.pause(paused);
        if !paused {
            self.0.ready();
        }
        Ok(())
    }

    /// Allows `count` more deliveries of a subscription with manual credit.
    pub fn request(&self, count: u32) -> Result<()> {
        self.0.check_open()?;
        self.0.feed.request(count)?;
        self.0.ready();
        Ok(())
    }

    /// Ends the subscription and waits until no callback of it runs. Closing again is success.
    pub fn close(&self, timeout: Timeout) -> Result<()> {
        not_from_handler_of(self.0.hub_id, self.0.id, "hmq_sub_close")?;
        self.0.close_now();
        self.0.wait_for_dispatchers(Deadline::after(timeout))
    }

    /// Ends the subscription without waiting, from anywhere.
    pub fn close_in_background(&self) {
        self.0.close_now();
    }
}

impl SubShared {
    fn new(
        hub: &Arc<Shared>,
        making: Making,
        backend: BackendKind,
        (source, watched): (&Arc<dyn Source>, Option<Arc<Watched>>),
        target: &Target<'_>,
    ) -> Result<Arc<Self>> {
        let attempts = Attempts::new(hub, making.spec.kind, making.retry, making.dead_letter);
        let owner = Arc::new(Owner { source: Arc::clone(source), attempts });
        let ledger = if making.spec.read_only { None } else { Some(LedgerUse::obtain()?) };
        let is_pattern = !making.spec.read_only && crate::config::is_pattern(&making.topic);
        let pattern = if is_pattern { Some(Pattern::parse(&making.topic)?) } else { None };
        let (inbox, tag) = match target {
            Target::Callback(_) => (None, 0),
            Target::Inbox(inbox, tag) => (Some(Arc::downgrade(&inbox.0)), *tag),
        };
        let group = name_of(backend, &making.spec);
        let Making { filter, manual_credit, dry_run, .. } = making;
        let reads = Reads { filter, group, manual_credit, dry_run };
        Ok(Arc::new(Self {
            id: hub.next_id(),
            tag,
            topic: making.topic,
            kind: making.spec.kind,
            feed: Feed::new(hub, (owner, watched), ledger, reads),
            hub: Arc::downgrade(hub),
            hub_id: hub.id,
            inbox,
            bell: Bell::new(),
            pattern,
            listed: AtomicBool::new(false),
            life: Mutex::default(),
            life_changed: Condvar::new(),
        }))
    }

    /// Lets the dispatchers work, who have the handler; refused if it was closed meanwhile.
    fn start(&self, handler: Option<Arc<dyn Handler>>) -> std::result::Result<(), (Error, Option<Arc<dyn Handler>>)> {
        let mut life = self.life.lock();
        if life.closing {
            return Err((Error::new(Kind::Closed, "the hub is closed"), handler));
        }
        // Not the last hold: the dispatchers wait for what follows.
        drop(handler);
        life.started = true;
        drop(life);
        self.life_changed.notify_all();
        Ok(())
    }

    /// Ends a subscription that never stood: it has called nothing, and the last hold of its user
    /// data is its maker's.
    fn abandon(&self, error: Error) -> Error {
        self.close_now();
        self.wait_for_dispatchers(Deadline::after(None)).err().unwrap_or(error)
    }

    /// Whether they may; waits until it is decided.
    fn wait_for_start(&self) -> bool {
        let mut life = self.life.lock();
        while !life.started && !life.closing {
            life = self.life_changed.wait_until(life, None);
        }
        !life.closing
    }

    /// Refuses a subscription whose inbox was freed meanwhile, and did not see it.
    fn check_inbox(&self) -> Result<()> {
        match &self.inbox {
            Some(inbox) if inbox.upgrade().is_none_or(|inbox| inbox.is_closed()) => {
                Err(Error::new(Kind::Closed, "the inbox is closed"))
            }
            _ => Ok(()),
        }
    }

    fn check_open(&self) -> Result<()> {
        if self.life.lock().closing {
            return Err(Error::new(Kind::Closed, "the subscription is closed"));
        }
        Ok(())
    }

    /// There is something, or something has changed: whoever consumes shall look.
    pub(super) fn ready(self: &Arc<Self>) {
        if super::feed::tell_later(self) {
            return;
        }
        self.feed.ring();
        match &self.inbox {
            None => self.bell.ring(),
            Some(inbox) => {
                if let Some(inbox) = inbox.upgrade() {
                    inbox.feed_ready(Arc::clone(self));
                }
            }
        }
    }

    /// Ends it: nothing is handed over from now on. A callback that runs may still settle what it
    /// has; the last of them closes the source. The inbox is told.
    pub(super) fn close_now(&self) {
        let (running, started) = {
            let mut life = self.life.lock();
            if std::mem::replace(&mut life.closing, true) {
                return;
            }
            (life.running, life.started)
        };
        self.life_changed.notify_all();
        self.feed.stop();
        self.bell.ring();
        if running == 0 {
            self.feed.close();
        }
        // One that never stood has no end to tell.
        if let Some(result) = self.end_once(Ok(())).filter(|_| started) {
            if let Some(inbox) = self.inbox.as_ref().and_then(Weak::upgrade) {
                inbox.push_end(self.tag, result);
            }
        }
        if let Some(hub) = self.hub.upgrade() {
            hub.subscriptions.lock().remove(&self.id);
        }
    }

    /// Ends it with `result`, if it has not ended; answers what to report as the last event, to the
    /// first that asks.
    pub(super) fn end_once(&self, result: Result<()>) -> Option<Result<()>> {
        let mut life = self.life.lock();
        let result = life.ended.get_or_insert(result).clone();
        let first = !std::mem::replace(&mut life.end_told, true);
        drop(life);
        self.life_changed.notify_all();
        first.then_some(result)
    }

    pub(super) fn wait_for_dispatchers(&self, deadline: Deadline) -> Result<()> {
        let mut life = self.life.lock();
        while life.dispatchers > 0 {
            if deadline.has_passed() {
                return Err(Error::new(Kind::Timeout, format!("a callback of `{}` is still running", self.topic)));
            }
            life = self.life_changed.wait_until(life, deadline.instant());
        }
        Ok(())
    }

    fn is_closing(&self) -> bool {
        self.life.lock().closing
    }

    /// Whose function runs while its handler does.
    fn caller(&self) -> Caller {
        Caller::Subscription { hub: self.hub_id, id: self.id }
    }

    /// Whether its deliveries go into `inbox`.
    pub(super) fn feeds(&self, inbox: &WeakInbox) -> bool {
        self.inbox.as_ref().is_some_and(|own| own.ptr_eq(inbox))
    }

    fn dispatch(&self, handler: &dyn Handler) {
        if !self.wait_for_start() {
            return;
        }
        loop {
            let heard = self.bell.heard();
            if self.is_closing() {
                return;
            }
            let mut next = None;
            let mut deferred = Deferred::default();
            let flow = self.feed.take(1, &mut deferred, |incoming| next = Some(incoming));
            deferred.run();
            match (next, flow) {
                (Some(incoming), _) => self.handle(handler, incoming),
                (None, Flow::End | Flow::Lost) => {
                    // Told by `wait`; an inbox does not exist here.
                    let _ = self.end_once(end_of(flow));
                    return;
                }
                (None, Flow::More) => {}
                (None, Flow::Idle) => {
                    self.bell.wait_spinning(heard, SPIN, Deadline::after(None));
                }
            }
        }
    }

    fn handle(&self, handler: &dyn Handler, incoming: Incoming) {
        let token = incoming.token;
        let answer = crate::runtime::contained("handler", || handler.handle(incoming));
        if token == 0 {
            return;
        }
        let failed = |counter, why| {
            if let Some(hub) = self.hub.upgrade() {
                hub.metrics.add(counter, 1);
                hub.log_warn("not_settled", &format!("a handler of `{}` {why}; the message is retried", self.topic));
            }
            Decision::Retry { delay: None, reason: why }
        };
        let decision = match answer {
            Some(Some(HandlerVerdict::Ack)) => Decision::Ack,
            Some(Some(HandlerVerdict::Retry)) => Decision::Retry { delay: None, reason: "" },
            Some(Some(HandlerVerdict::Reject)) => Decision::Reject { reason: "rejected by its handler" },
            Some(Some(HandlerVerdict::Later)) => return,
            Some(None) => failed(Counter::NotSettled, "answered no verdict"),
            None => failed(Counter::HandlerPanics, "panicked"),
        };
        // An error means that the handler settled it by token, or that its lease has ended.
        let _ = settle::settle(token, decision);
    }
}

/// How a subscription ends whose source says so.
pub(super) fn end_of(flow: Flow) -> Result<()> {
    match flow {
        Flow::Lost => Err(Error::new(Kind::BackendDown, "the subscription ended with the connection of its backend")),
        Flow::End | Flow::Idle | Flow::More => Ok(()),
    }
}

fn start_dispatchers(
    hub: &Arc<Shared>,
    shared: &Arc<SubShared>,
    handler: &Arc<dyn Handler>,
    concurrency: usize,
) -> Result<()> {
    for _ in 0..concurrency {
        let running = hub.dispatchers.fetch_add(1, Ordering::AcqRel);
        let ended = DispatcherEnd { hub: Arc::clone(hub), shared: Arc::clone(shared) };
        {
            let mut life = shared.life.lock();
            life.running += 1;
            life.dispatchers += 1;
        }
        if running >= DISPATCHERS_MAX {
            return Err(Error::new(
                Kind::Full,
                format!(
                    "the hub runs {DISPATCHERS_MAX} dispatcher threads already; use an inbox for more subscriptions"
                ),
            ));
        }
        let (own, handler) = (Arc::clone(shared), Arc::clone(handler));
        crate::runtime::spawn_thread("hmq-dispatch", move || {
            as_callback(own.caller(), || {
                own.dispatch(&*handler);
                // The program's data is dropped before the end is told, so a close that has returned
                // means that the drop function has run.
                crate::runtime::contained("drop of a handler", || drop(handler));
            });
            drop(ended);
        })?;
    }
    Ok(())
}

/// Tells the end of a dispatcher thread, also when it could not be started.
struct DispatcherEnd {
    hub: Arc<Shared>,
    shared: Arc<SubShared>,
}

impl Drop for DispatcherEnd {
    fn drop(&mut self) {
        let last = {
            let mut life = self.shared.life.lock();
            life.running -= 1;
            life.running == 0
        };
        if last {
            self.shared.feed.close();
        }
        self.shared.life.lock().dispatchers -= 1;
        self.shared.life_changed.notify_all();
        self.hub.dispatchers.fetch_sub(1, Ordering::AcqRel);
        self.hub.dispatcher_ended.ring();
    }
}
