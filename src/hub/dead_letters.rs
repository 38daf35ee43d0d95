//! Dead letters: list, redrive, discard.
//!
//! Dead letters are ordinary tasks in a topic of their own. They are read here with a subscription
//! of the library, which gives back what is not redriven or discarded, so all backends can do it.
//! While this runs, other consumers of the same dead-letter topic may hold some of them.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{json, Value};

use super::backends::Backend;
use super::retry::{ATTEMPTS, DEAD_AT, DEAD_HEADERS, ORIGIN_KIND, ORIGIN_TOPIC, REASON, REDRIVEN};
use super::{Hub, Shared, Timeout};
use crate::broker::{
    BackendKind, Delivery, Flow, Group, Level, Ordered, Sink, Source, Start, Stop, SubscribeSpec, Verdict,
};
use crate::config::options::{DeadLetterAction, DeadLetterQuery};
use crate::error::{Error, Kind, Result};
use crate::limits::{PREFETCH_MAX, TOPICS_MAX};
use crate::message::{HeaderBlock, Message, Record, TopicKind};
use crate::pattern::{Pattern, DEAD_LETTER_SUFFIX};
use crate::sync::{Bell, Deadline, Mutex};

impl Hub {
    /// Carries out a query; answers the dead letters it met.
    pub fn dead_letters(&self, query: &DeadLetterQuery, timeout: Timeout) -> Result<Value> {
        let hub = &self.0;
        hub.check_open()?;
        let deadline = Deadline::after(timeout);
        let mut out = Vec::new();
        let mut failed = Vec::new();
        let mut more = false;
        let pattern = Pattern::parse(query.topic.as_deref().unwrap_or("#"))?;
        for (backend, topic, waiting) in hub.dead_letter_topics(pattern.is_exact().then_some(&pattern), timeout)? {
            if more {
                break;
            }
            let mut browse = Browse::open(hub, &backend, &topic, waiting, timeout)?;
            while let Some(delivery) = browse.next() {
                if !wanted(query, &pattern, &delivery.message) {
                    continue;
                }
                if out.len() == query.limit {
                    more = true;
                    break;
                }
                if deadline.has_passed() && timeout != Some(Duration::ZERO) {
                    return Err(Error::new(Kind::Timeout, format!("{} dead letters were handled in time", out.len())));
                }
                out.push(to_json(&delivery.message));
                if query.dry_run {
                    continue;
                }
                match query.action {
                    DeadLetterAction::List => {}
                    DeadLetterAction::Discard => browse.done(delivery.tag),
                    DeadLetterAction::Redrive => match redrive(hub, &delivery.message, deadline) {
                        Ok(()) => browse.done(delivery.tag),
                        Err(error) => {
                            failed.push(json!({"id": delivery.message.id().as_str(), "error": error.to_json()}))
                        }
                    },
                }
            }
        }
        Ok(json!({"count": out.len(), "more": more, "dead_letters": out, "failed": failed, "dry_run": query.dry_run}))
    }
}

impl Shared {
    /// Every topic that holds dead letters, by the suffix or as a subscription named it, and how many
    /// there are to wait for: a server's messages come some time after they are asked for.
    /// `asked`: those of one topic, which a server may hold without having told of it.
    fn dead_letter_topics(&self, asked: Option<&Pattern>, timeout: Timeout) -> Result<Vec<Held>> {
        let mut names: Vec<Held> = Vec::new();
        let own = asked.map(|asked| match asked.as_str().ends_with(DEAD_LETTER_SUFFIX) {
            true => asked.as_str().to_owned(),
            false => format!("{asked}{DEAD_LETTER_SUFFIX}"),
        });
        for backend in self.backends() {
            let Some(admin) = backend.broker.admin() else { continue };
            let until = super::backends::deadline(&self.context.clock, timeout);
            let is_server = backend.driver().is_some();
            let mut all = Vec::new();
            let mut named = Vec::new();
            if backend.kind == BackendKind::Kafka {
                // A cluster may have many topics, of others too.
                named = self.named_dead_letter_topics(backend.kind);
                let asked = own.as_deref().unwrap_or(DEAD_LETTERS);
                for pattern in std::iter::once(asked).chain(named.iter().map(String::as_str)) {
                    all.extend(crate::runtime::wait(admin.describe(pattern, until), timeout)?);
                }
            } else {
                all = crate::runtime::wait(admin.describe("#", until), timeout)?;
            }
            let unseen = own.as_ref().filter(|own| is_server && !all.iter().any(|topic| topic.name == **own));
            if let Some(own) = unseen {
                all.extend(crate::runtime::wait(admin.describe(own, until), timeout)?);
            }
            let is_named = |topic: &str| named.iter().any(|own| own == topic);
            let tasks = all.into_iter().filter(|topic| topic.kind == TopicKind::Task.name() || is_named(&topic.name));
            let waiting = |count| if is_server { count } else { 0 };
            names.extend(tasks.map(|topic| (Arc::clone(&backend), topic.name, waiting(topic.messages))));
        }
        names.retain(|(_, name, _)| self.keeps_dead_letters(name));
        Ok(names)
    }

    /// The topics that subscriptions to this backend named for their dead letters.
    fn named_dead_letter_topics(&self, kind: BackendKind) -> Vec<String> {
        let named = self.dead_letter_names.lock();
        let own = named.iter().filter(|(name, home)| **home == kind && !name.ends_with(DEAD_LETTER_SUFFIX));
        own.map(|(name, _)| name.clone()).collect()
    }

    /// Whether a topic is for dead letters: by its suffix, or as a subscription named it.
    pub(super) fn keeps_dead_letters(&self, topic: &str) -> bool {
        topic.ends_with(DEAD_LETTER_SUFFIX) || self.dead_letter_names.lock().contains_key(topic)
    }

    /// Notes that a subscription sends its dead letters to `topic`.
    pub(super) fn remember_dead_letter_topic(&self, topic: &str, backend: BackendKind) -> Result<()> {
        let mut names = self.dead_letter_names.lock();
        if names.len() >= TOPICS_MAX && !names.contains_key(topic) {
            let text = format!("the hub knows {TOPICS_MAX} names of dead-letter topics already");
            return Err(Error::new(Kind::Full, text).at("dead_letter", 0, 0));
        }
        if let Some(home) = names.get(topic).filter(|home| **home != backend) {
            let text = format!(
                "`{topic}` takes dead letters of the {} backend already; those of the {} backend need another name",
                home.name(),
                backend.name()
            );
            return Err(Error::new(Kind::Conflict, text).at("dead_letter", 0, 0));
        }
        names.insert(topic.to_owned(), backend);
        Ok(())
    }
}

/// Every topic of dead letters, but those that a subscription named itself.
const DEAD_LETTERS: &str = "#.dlq";

/// A topic with dead letters: where it is, its name, and how many are waited for.
type Held = (Arc<Backend>, String, u64);

/// Longest wait for a message that its server says it has.
const PATIENCE: Duration = Duration::from_secs(1);
/// Looked at in one query, at most.
const BROWSED_MAX: usize = PREFETCH_MAX;

/// Reads a task topic without taking anything away; what is not done goes back on drop, in order.
struct Browse {
    source: Arc<dyn Source>,
    bell: Arc<Bell>,
    /// So many are still to come.
    waiting: u64,
    buffer: Vec<Delivery>,
    seen: Vec<u64>,
}

impl Sink for Bell {
    fn ready(&self) {
        self.ring();
    }

    fn revoked(&self, _tags: &[u64]) {
        self.ring();
    }
}

impl Browse {
    fn open(hub: &Arc<Shared>, backend: &Backend, topic: &str, waiting: u64, timeout: Timeout) -> Result<Self> {
        let spec = SubscribeSpec {
            pattern: topic.to_owned(),
            kind: TopicKind::Task,
            group: Group::Named(hub.config.group_id.clone()),
            start: Start::Earliest,
            stop: Stop::Never,
            prefetch: BROWSED_MAX,
            ordered: Ordered::No,
            lease: None,
            read_only: false,
        };
        let bell = Arc::new(Bell::new());
        backend.check_up()?;
        let until = super::backends::deadline(&hub.context.clock, timeout);
        let opening = backend.broker.subscribe(&spec, Arc::<Bell>::clone(&bell), until);
        let source = crate::runtime::wait(opening, timeout)?;
        Ok(Self { source, bell, waiting, buffer: Vec::new(), seen: Vec::new() })
    }

    fn next(&mut self) -> Option<Delivery> {
        if self.buffer.is_empty() {
            let patience = Deadline::after(Some(PATIENCE));
            loop {
                let heard = self.bell.heard();
                while self.source.fetch(64, &mut self.buffer) == Flow::More && self.buffer.is_empty() {}
                if !self.buffer.is_empty() || self.waiting == 0 || patience.has_passed() {
                    break;
                }
                self.bell.wait(heard, patience);
            }
            self.buffer.reverse();
        }
        let delivery = self.buffer.pop()?;
        self.waiting = self.waiting.saturating_sub(1);
        self.seen.push(delivery.tag);
        Some(delivery)
    }

    fn done(&mut self, tag: u64) {
        self.seen.retain(|own| *own != tag);
        self.source.settle(&[(tag, Verdict::Ack)]);
    }
}

impl Drop for Browse {
    fn drop(&mut self) {
        let tags = self.seen.drain(..).chain(self.buffer.drain(..).rev().map(|delivery| delivery.tag));
        let back: Vec<_> = tags.map(|tag| (tag, Verdict::Return)).collect();
        self.source.settle(&back);
        self.source.close();
    }
}

fn wanted(query: &DeadLetterQuery, pattern: &Pattern, message: &Message) -> bool {
    let topic = pattern.matches(&text(message, ORIGIN_TOPIC)) || pattern.matches(message.topic());
    let id = query.ids.as_ref().is_none_or(|ids| ids.iter().any(|id| id == message.id().as_str()));
    let reason = query.reason.as_ref().is_none_or(|reason| text(message, REASON) == *reason);
    topic && id && reason
}

/// Publishes the message to its origin again, with its own id, as a first attempt.
fn redrive(hub: &Arc<Shared>, message: &Message, deadline: Deadline) -> Result<()> {
    let topic = text(message, ORIGIN_TOPIC);
    if topic.is_empty() {
        return Err(Error::new(Kind::NotFound, "the dead letter does not say where it came from"));
    }
    let kind = if text(message, ORIGIN_KIND) == "event" { TopicKind::Event } else { TopicKind::Task };
    let mut headers = HeaderBlock::default();
    headers.extend(message.headers(), &[&DEAD_HEADERS[..], &[REDRIVEN]].concat());
    // Those who remember its id have it as done: it says that it is to be handled again.
    headers.push(REDRIVEN, format!("{}-{}", hub.context.clock.wall_us(), hub.next_id()).as_bytes());
    let id = message.id();
    let record = Record { headers: headers.headers(), ..Record::again(message, id.as_str()) };
    let (sent, answer) = std::sync::mpsc::channel();
    let sent = Mutex::new(sent);
    let done = move |result| drop(sent.lock().send(result));
    hub.publish_internal(&topic, kind, &record, Some(Level::Broker), Box::new(done));
    let late = || Error::new(Kind::Timeout, "the origin did not confirm in time");
    match deadline.left() {
        None => answer.recv().map_err(|_| late())?,
        Some(left) => answer.recv_timeout(left).map_err(|_| late())?,
    }
}

fn text(message: &Message, header: &str) -> String {
    String::from_utf8_lossy(message.headers().find(header).unwrap_or_default()).into_owned()
}

fn to_json(message: &Message) -> Value {
    let number = |header| text(message, header).parse::<i64>().ok();
    let payload = base64::engine::general_purpose::STANDARD.encode(message.payload());
    json!({
        "id": message.id().as_str(), "topic": &**message.topic(), "origin": text(message, ORIGIN_TOPIC),
        "kind": text(message, ORIGIN_KIND), "reason": text(message, REASON), "attempts": number(ATTEMPTS),
        "dead_at_us": number(DEAD_AT), "timestamp_us": message.timestamp_us(), "type": message.type_(),
        "payload_text": std::str::from_utf8(message.payload()).ok(), "payload_base64": payload,
    })
}
