//! The memory of one group of subscriptions, shared by those of one hub; and all groups of a hub.
//!
//! A copy that one subscription holds back may wait for a handler of another, so what a settlement brings about
//! is carried out here, for all, with no lock held.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use super::source::Watched;
use super::{Effects, Id, Keeps, Memory, Ticket};
use crate::broker::{BackendKind, Delivery, Group as Sharing, SubscribeSpec, Verdict};
use crate::clock::{Alarm, AlarmId, Clock, Moment};
use crate::config::Config;
use crate::hub::provisional::name_of;
use crate::hub::retry::REDRIVEN;
use crate::hub::Shared;
use crate::message::{Message, TopicKind};
use crate::metrics::{Counter, Gauge, Metrics};
use crate::sync::Mutex;

/// A delivery that is held back.
#[derive(Debug)]
pub(in crate::hub) struct Copy {
    pub source: Weak<Watched>,
    pub delivery: Delivery,
}

/// The ids that subscriptions of one group know.
#[derive(Debug)]
pub(in crate::hub) struct Group {
    pub keeps: Keeps,
    memory: Mutex<Memory<Copy>>,
    /// Of the memory, so that whoever has nothing to do there need not lock it.
    known: AtomicUsize,
    tickets: AtomicUsize,
    /// By their numbers.
    sources: Mutex<Vec<(u64, Weak<Watched>)>>,
    clock: Clock,
    alarm: AlarmId,
    own: Weak<Group>,
    metrics: Arc<Metrics>,
    /// Ids of messages that came without one are made with this, anew for each delivery.
    nameless: u64,
    keys: [std::hash::RandomState; 2],
}

impl Group {
    fn new(hub: &Shared, keeps: Keeps) -> Arc<Self> {
        let clock = hub.context.clock.clone();
        let failover = &hub.config.failover;
        Arc::new_cyclic(|own| Self {
            keeps,
            memory: Mutex::new(Memory::new(keeps, failover.dedup_window, failover.dedup_ids_max)),
            known: AtomicUsize::new(0),
            tickets: AtomicUsize::new(0),
            sources: Mutex::default(),
            alarm: clock.alarm(),
            clock,
            own: own.clone(),
            metrics: Arc::clone(&hub.metrics),
            nameless: !hub.context.id_prefix,
            keys: Default::default(),
        })
    }

    /// The name of a message; `None`: it has none that would come again.
    pub fn id(&self, message: &Message, partition: u32, offset: i64) -> Option<Id> {
        if message.given_id().is_none() && message.id_prefix() == self.nameless {
            return None;
        }
        let half = |keys: &std::hash::RandomState| {
            let mut hasher = keys.build_hasher();
            (&**message.topic(), message.id().as_str()).hash(&mut hasher);
            match self.keeps {
                // Back from the dead letters it is to be handled again.
                Keeps::Every => message.headers().find(REDRIVEN).hash(&mut hasher),
                // A program may use an id again: what is acknowledged unasked must be that very message.
                Keeps::Broken => {
                    (partition, offset, message.key(), message.payload(), message.headers().bytes()).hash(&mut hasher);
                }
            }
            hasher.finish()
        };
        let [first, second] = &self.keys;
        Some(Id(half(first), half(second)))
    }

    /// The name that a provisional copy has with its real one, which is known by its place otherwise.
    pub fn id_of_copy(&self, message: &Message) -> Id {
        let id = message.id();
        let name = ("copy", &**message.topic(), id.as_str(), message.key(), message.payload());
        let [first, second] = &self.keys;
        Id(first.hash_one(name), second.hash_one(name))
    }

    /// Whether nothing could be known of what arrives.
    pub fn knows_nothing(&self) -> bool {
        self.keeps == Keeps::Broken && self.known.load(Ordering::Acquire) == 0
    }

    /// Whether it need not be told of any settlement.
    pub fn waits_for_nothing(&self) -> bool {
        self.tickets.load(Ordering::Acquire) == 0
    }

    /// Lets the memory do something; what follows is the caller's to [carry out](Group::carry_out).
    pub fn with<T>(&self, act: impl FnOnce(&mut Memory<Copy>, Moment, &mut Effects<Copy>) -> T) -> (T, Effects<Copy>) {
        let mut effects = Effects::default();
        let mut memory = self.memory.lock();
        let before = memory.next_end();
        let answer = act(&mut memory, self.clock.now(), &mut effects);
        self.known.store(memory.len(), Ordering::Release);
        self.tickets.store(memory.tickets(), Ordering::Release);
        let next = memory.next_end();
        if next != before {
            // Without its thread an alarm is late: until the next one is set.
            let own: Weak<dyn Alarm> = Weak::<Self>::clone(&self.own);
            let _ = self.clock.set_alarm(self.alarm, next.unwrap_or(Moment::NEVER), own);
        }
        (answer, effects)
    }

    /// Settles copies, and tells subscriptions. With no lock held.
    pub fn carry_out(&self, effects: Effects<Copy>) {
        let Effects { ack, back, ended, run } = effects;
        self.count_dropped(ack.len());
        for (copies, verdict) in [(ack, Verdict::Ack), (back, Verdict::Return)] {
            for copy in copies {
                if let Some(source) = copy.source.upgrade() {
                    source.settle_copy(copy.delivery.tag, verdict);
                }
            }
        }
        for ticket in ended {
            let sources = self.sources.lock();
            let source = sources.iter().find(|(number, _)| *number == ticket.source).map(|(_, weak)| Weak::clone(weak));
            drop(sources);
            if let Some(source) = source.and_then(|weak| weak.upgrade()) {
                source.wait_ended(ticket.tag);
            }
        }
        for copy in run {
            if let Some(source) = copy.source.upgrade() {
                source.release(copy.delivery);
            }
        }
    }

    /// Counts deliveries that were acknowledged and not handed over.
    pub fn count_dropped(&self, count: usize) {
        let counter = match self.keeps {
            Keeps::Every => Counter::DuplicatesDropped,
            Keeps::Broken => Counter::LedgerAcked,
        };
        if count > 0 {
            self.metrics.add(counter, count as u64);
        }
    }

    pub(super) fn add(&self, number: u64, source: Weak<Watched>) {
        let mut sources = self.sources.lock();
        sources.retain(|(_, weak)| weak.strong_count() > 0);
        sources.push((number, source));
    }

    /// Those that wait for `ticket`.
    pub fn held_behind(&self, ticket: Ticket) -> Vec<(Weak<Watched>, u64)> {
        let memory = self.memory.lock();
        memory.held_behind(ticket).map(|copy| (Weak::clone(&copy.source), copy.delivery.tag)).collect()
    }

    /// Ids known, and copies held back.
    fn sizes(&self) -> (usize, usize) {
        let ((), effects) = self.with(|memory, now, effects| memory.expire(now, effects));
        self.carry_out(effects);
        let memory = self.memory.lock();
        (memory.len(), memory.held())
    }
}

impl Alarm for Group {
    fn ring(&self, _now: Moment) {
        let ((), effects) = self.with(|memory, now, effects| memory.expire(now, effects));
        self.carry_out(effects);
    }
}

/// Who shares a memory: the subscriptions of one kind and group. All of tasks are one group.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    kind: TopicKind,
    group: String,
    keeps: Keeps,
}

/// All memories of a hub.
#[derive(Debug, Default)]
pub(in crate::hub) struct Memories(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    /// Kept while they know something: a subscription may be closed, and another opened.
    named: Vec<(Name, Arc<Group>)>,
    private: Vec<Weak<Group>>,
}

impl Memories {
    /// The memory of a subscription; `None`: nothing is to be remembered.
    pub fn group(
        &self,
        hub: &Shared,
        (backend, spec): (BackendKind, &SubscribeSpec),
        keeps: Keeps,
    ) -> Option<Arc<Group>> {
        if !is_on(&hub.config) {
            return None;
        }
        let group = match (spec.kind, &spec.group) {
            (TopicKind::Task, _) => String::new(),
            (TopicKind::Event, Sharing::Named(name)) => match keeps {
                Keeps::Every => name.clone(),
                Keeps::Broken => name_of(backend, spec).unwrap_or_else(|| name.clone()),
            },
            (TopicKind::Event, Sharing::Private) => {
                let own = Group::new(hub, keeps);
                let mut lists = self.0.lock();
                lists.private.retain(|weak| weak.strong_count() > 0);
                lists.private.push(Arc::downgrade(&own));
                return Some(own);
            }
        };
        let name = Name { kind: spec.kind, group, keeps };
        let mut lists = self.0.lock();
        if let Some((_, own)) = lists.named.iter().find(|(own, _)| *own == name) {
            return Some(Arc::clone(own));
        }
        lists.named.retain(|(_, own)| Arc::strong_count(own) > 1 || own.sizes().0 > 0);
        let own = Group::new(hub, keeps);
        lists.named.push((name, Arc::clone(&own)));
        Some(own)
    }

    /// How much is remembered, and held back.
    pub fn gauges(&self, gauges: &mut Vec<Gauge>) {
        let lists = self.0.lock();
        let private = lists.private.iter().filter_map(Weak::upgrade);
        let all: Vec<Arc<Group>> = lists.named.iter().map(|(_, own)| Arc::clone(own)).chain(private).collect();
        drop(lists);
        for (keeps, label) in [(Keeps::Every, "dedup"), (Keeps::Broken, "ledger")] {
            let sizes = all.iter().filter(|own| own.keeps == keeps).map(|own| own.sizes());
            let (known, held) = sizes.fold((0, 0), |(known, held), own| (known + own.0, held + own.1));
            let gauge = |name, value| Gauge { name, label_value: label.to_owned(), value: value as u64 };
            gauges.extend([gauge("remembered_ids", known), gauge("held_back", held)]);
        }
    }
}

/// Whether the configuration lets ids be remembered.
pub(in crate::hub) fn is_on(config: &Config) -> bool {
    config.failover.dedup_ids_max > 0 && !config.failover.dedup_window.is_zero()
}
