//! What is declared on the server, and under which names.
//!
//! ```text
//! task topic T       durable quorum queue T (classic with x-max-priority by configuration);
//!                    published through the default exchange, so a queue is all there is
//! event topic E      topic exchange hmq.events, routing key E
//! group G, pattern P durable quorum queue hmq.group.G:P (wildcards as %2A and %23), bound to
//!                    hmq.events with key P;
//!                    a private group: an exclusive queue with a name of the server's
//! form helixagent    topic exchange T and durable classic queue T, bound with #, as the package of
//!                    that name declares them; exchange and queue helixagent.dlq, where it rejects to
//! delays             level n: topic exchange hmq.delay.n and quorum queue hmq.delay.n with a TTL of
//!                    2^n seconds, which hands what has waited on to level n-1, and level 0 to
//!                    hmq.delay.due, to which each task queue is bound
//! ```
//!
//! A delay is rounded up to whole seconds and travels as bits in front of the routing key, the
//! highest level first: at its level a 1 waits, a 0 passes on. So every queue is first in first out
//! with one TTL for all, which is what the server expires exactly. The delay queues dead-letter at
//! least once: a message leaves one only when the next has confirmed it.

use std::sync::atomic::Ordering;

use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Connection, ExchangeKind};

use super::error::of;
use super::wire::short;
use super::Shared;
use crate::broker::{Declared, Group, TopicSpec};
use crate::config::{Declare, QueueType};
use crate::error::{Kind, Result};
use crate::limits::PRIORITY_MAX;
use crate::message::TopicKind;
use crate::sync::Mutex;

pub(super) const EVENTS: &str = "hmq.events";
const DUE: &str = "hmq.delay.due";
/// Where the package `helixagent` rejects to.
const SHARED_DEAD: &str = "helixagent.dlq";
/// Levels of delay: a queue's TTL has 32 bits of milliseconds.
pub(super) const LEVELS: u32 = 23;
/// Longest delay: all levels.
pub(super) const DELAY_S_MAX: u64 = (1 << LEVELS) - 1;
/// Our own count of attempts decides; a limit of the server's (20 from 4.0 on) would drop messages.
/// The same on every version, so that an upgraded server finds its queues as they were declared.
const DELIVERY_LIMIT: i64 = 1_000_000_000;

/// Longest name of a queue that can be delayed to: the bits of the delay are in front of it.
const QUEUE_NAME_BYTES_MAX: usize = 255 - 2 * LEVELS as usize;

/// The queue of a group of events: another one for each group and pattern, without wildcards, as its
/// name is a binding key for delays, too.
fn group_queue(name: &str, pattern: &str) -> Result<String> {
    let queue = format!("hmq.group.{}:{}", escaped(name), escaped(pattern));
    if queue.len() > QUEUE_NAME_BYTES_MAX {
        let text =
            format!("group and pattern make a queue name of {} bytes, longest is {QUEUE_NAME_BYTES_MAX}", queue.len());
        return Err(super::error::error(Kind::Name, text));
    }
    Ok(queue)
}

/// Everything but the characters of topic names as `%` and two hexadecimal digits.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Exchange and routing key that bring a message to `queue` after `seconds`.
pub(super) fn delayed(queue: &str, seconds: u64) -> (ShortString, ShortString) {
    let seconds = seconds.clamp(1, DELAY_S_MAX);
    let level = 63 - seconds.leading_zeros();
    let mut key = String::with_capacity(2 * LEVELS as usize + queue.len());
    for bit in (0..LEVELS).rev() {
        key.push_str(if seconds >> bit & 1 == 1 { "1." } else { "0." });
    }
    key.push_str(queue);
    (short(&level_name(level)), short(&key))
}

/// The highest level that a delay needs.
pub(super) fn level_of(seconds: u64) -> u32 {
    63 - seconds.clamp(1, DELAY_S_MAX).leading_zeros()
}

fn level_name(level: u32) -> String {
    format!("hmq.delay.{level}")
}

/// Declares with scratch channels: the server closes a channel on which something is refused.
pub(super) struct Topology<'a> {
    connection: &'a Connection,
    shared: &'a Shared,
    /// A channel to try on, used again as long as the server leaves it open.
    scratch: Mutex<Option<lapin::Channel>>,
}

impl<'a> Topology<'a> {
    pub fn new(connection: &'a Connection, shared: &'a Shared) -> Self {
        Self { connection, shared, scratch: Mutex::default() }
    }

    /// The queue of a task topic, ready for direct and for delayed tasks.
    pub async fn task_queue(&self, name: &str, spec: &TopicSpec, existed: bool) -> Result<Declared> {
        if self.is_passive() && *spec != TopicSpec::default() {
            let text =
                format!("`{name}` is used as it is, as `rabbitmq.declare` is passive: settings cannot be asked for");
            return Err(super::error::error(Kind::Unsupported, text));
        }
        self.queue(name, self.task_arguments(spec), existed).await?;
        if existed {
            return Ok(Declared::Existed);
        }
        self.delayable(name).await.map(|()| Declared::Created)
    }

    fn task_arguments(&self, spec: &TopicSpec) -> FieldTable {
        let mut arguments = match self.shared.settings.rabbitmq.queue_type {
            QueueType::Quorum => quorum(),
            QueueType::Classic => {
                let mut arguments = FieldTable::default();
                arguments.insert("x-queue-type".into(), text("classic"));
                arguments.insert("x-max-priority".into(), AMQPValue::LongInt(i32::from(PRIORITY_MAX)));
                arguments
            }
        };
        limits(&mut arguments, spec);
        arguments
    }

    /// Lets a queue get what has waited for it: a delayed message may be on its way to an earlier queue of
    /// this name.
    async fn delayable(&self, name: &str) -> Result<()> {
        if self.is_passive() || !self.shared.may_delay.load(Ordering::Relaxed) {
            return Ok(());
        }
        let bound = match self.exchange(DUE).await {
            Ok(()) => self.due(name).await,
            refused => refused,
        };
        match bound {
            Err(refused) if refused.kind() == Kind::Refused => {
                // Who may not delay can still use the queue, and need not ask for each.
                self.shared.may_delay.store(false, Ordering::Relaxed);
                Ok(())
            }
            bound => bound,
        }
    }

    /// As [`Topology::task_queue`] with no settings; one that is there with others takes tasks, too.
    pub async fn usable_task_queue(&self, name: &str) -> Result<()> {
        self.usable(name, self.task_arguments(&TopicSpec::default())).await?;
        self.delayable(name).await
    }

    /// Makes a queue, or finds it as it is asked for. Looks for it only where it may not be made: each
    /// that is not found costs a channel. `existed`: it was found before.
    async fn queue(&self, name: &str, arguments: FieldTable, existed: bool) -> Result<()> {
        let refused = match self.is_passive() {
            true => not_made(&format!("queue `{name}`")),
            false => {
                let channel = self.scratch().await?;
                let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                match channel.queue_declare(short(name), options, arguments).await {
                    Ok(_) => {
                        self.keep(channel);
                        return Ok(());
                    }
                    Err(refused) => of(&format!("queue `{name}`"), &refused),
                }
            }
        };
        // One that may be used but not declared is used as it is.
        let may_be_used = self.is_passive() || refused.kind() == Kind::Refused;
        if may_be_used && (existed || self.passive(name).await?.is_some()) {
            return Ok(());
        }
        Err(refused)
    }

    /// Messages and consumers of a queue; `None` if there is no such queue.
    pub async fn passive(&self, name: &str) -> Result<Option<(u32, u32)>> {
        let channel = self.scratch().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match channel.queue_declare(short(name), options, FieldTable::default()).await {
            Ok(found) => {
                self.keep(channel);
                Ok(Some((found.message_count(), found.consumer_count())))
            }
            Err(refused) => {
                let error = of(&format!("queue `{name}`"), &refused);
                if error.kind() == Kind::NotFound {
                    return Ok(None);
                }
                Err(error)
            }
        }
    }

    /// The queue of a group, bound to an exchange with a key; answers its name.
    pub async fn group(
        &self,
        channel: &lapin::Channel,
        group: &Group,
        pattern: &str,
        (exchange, key): (&str, &str),
    ) -> Result<String> {
        self.exchange(exchange).await?;
        let name = match group {
            Group::Named(name) => {
                let name = group_queue(name, pattern)?;
                self.queue(&name, quorum(), false).await?;
                self.delayable(&name).await?;
                self.bind(&name, exchange, key).await?;
                name
            }
            Group::Private => {
                let options =
                    QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
                let made = channel.queue_declare("".into(), options, FieldTable::default()).await;
                let name = made.map_err(|refused| of("a private queue", &refused))?.name().to_string();
                // Of a passive user, too: it is its own.
                self.bind_in_any_case(&name, exchange, key).await?;
                name
            }
        };
        Ok(name)
    }

    /// Exchange and queue of a topic in the form `helixagent`, with the arguments that the package of that
    /// name declares them with.
    pub async fn shared_queue(&self, name: &str) -> Result<()> {
        self.exchange(SHARED_DEAD).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(86_400_000));
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(100_000));
        self.usable(SHARED_DEAD, arguments).await?;
        self.bind(SHARED_DEAD, SHARED_DEAD, "#").await?;
        self.exchange(name).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-dead-letter-exchange".into(), text(SHARED_DEAD));
        arguments.insert("x-dead-letter-routing-key".into(), text("dlq"));
        self.usable(name, arguments).await?;
        self.delayable(name).await?;
        self.bind(name, name, "#").await
    }

    /// A queue that is there with other arguments is used as it is.
    async fn usable(&self, name: &str, arguments: FieldTable) -> Result<()> {
        match self.queue(name, arguments, false).await {
            Err(refused) if refused.kind() == Kind::Conflict => Ok(()),
            declared => declared,
        }
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str) -> Result<()> {
        match self.is_passive() {
            true => Ok(()),
            false => self.bind_in_any_case(queue, exchange, key).await,
        }
    }

    async fn bind_in_any_case(&self, queue: &str, exchange: &str, key: &str) -> Result<()> {
        let channel = self.scratch().await?;
        let options = QueueBindOptions::default();
        let bound = channel.queue_bind(short(queue), short(exchange), short(key), options, FieldTable::default());
        bound.await.map_err(|refused| of(&format!("binding of `{queue}`"), &refused))?;
        self.keep(channel);
        Ok(())
    }

    fn is_passive(&self) -> bool {
        self.shared.settings.rabbitmq.declare == Declare::Passive
    }

    /// The levels of delay up to `highest`, and the way back to `queue`.
    pub async fn delays(&self, highest: u32, queue: &str) -> Result<()> {
        if self.is_passive() {
            // Whoever made the highest level made those below it, and the bindings.
            return self.exchange(&level_name(highest)).await;
        }
        self.exchange(DUE).await?;
        for level in 0..=highest {
            let (name, below) = (level_name(level), if level == 0 { DUE.to_owned() } else { level_name(level - 1) });
            self.exchange(&name).await?;
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), text("quorum"));
            arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(1_000 << level));
            arguments.insert("x-dead-letter-exchange".into(), text(&below));
            arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
            arguments.insert("x-overflow".into(), text("reject-publish"));
            self.queue(&name, arguments, false).await?;
            let before = "*.".repeat((LEVELS - 1 - level) as usize);
            self.bind(&name, &name, &format!("{before}1.#")).await?;
            let channel = self.scratch().await?;
            let passes = channel.exchange_bind(
                short(&below),
                short(&name),
                short(&format!("{before}0.#")),
                ExchangeBindOptions::default(),
                FieldTable::default(),
            );
            passes.await.map_err(|refused| of(&name, &refused))?;
            self.keep(channel);
        }
        self.due(queue).await
    }

    /// Binds a queue to what has waited for it.
    async fn due(&self, queue: &str) -> Result<()> {
        self.bind(queue, DUE, &format!("{}{queue}", "*.".repeat(LEVELS as usize))).await
    }

    pub async fn purge(&self, name: &str) -> Result<u64> {
        let channel = self.scratch().await?;
        let purged = channel.queue_purge(short(name), QueuePurgeOptions::default()).await;
        let count = purged.map_err(|refused| of(&format!("queue `{name}`"), &refused))?;
        self.keep(channel);
        Ok(count.into())
    }

    pub async fn delete(&self, name: &str) -> Result<()> {
        let channel = self.scratch().await?;
        let deleted = channel.queue_delete(short(name), QueueDeleteOptions::default()).await;
        deleted.map_err(|refused| of(&format!("queue `{name}`"), &refused))?;
        self.keep(channel);
        Ok(())
    }

    pub async fn exchange(&self, name: &str) -> Result<()> {
        let channel = self.scratch().await?;
        let passive = self.is_passive();
        let options = ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
        let declared = channel.exchange_declare(short(name), ExchangeKind::Topic, options, FieldTable::default());
        declared.await.map_err(|refused| match of(&format!("exchange `{name}`"), &refused) {
            missing if passive && missing.kind() == Kind::NotFound => not_made(&format!("exchange `{name}`")),
            failed => failed,
        })?;
        self.keep(channel);
        Ok(())
    }

    async fn scratch(&self) -> Result<lapin::Channel> {
        let kept = self.scratch.lock().take();
        match kept.filter(|channel| channel.status().connected()) {
            Some(channel) => Ok(channel),
            None => self.shared.channel(self.connection).await,
        }
    }

    /// It has served, and may serve again.
    fn keep(&self, channel: lapin::Channel) {
        *self.scratch.lock() = Some(channel);
    }
}

fn limits(arguments: &mut FieldTable, spec: &TopicSpec) {
    if let Some(max) = spec.messages_max {
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(i64::try_from(max).unwrap_or(i64::MAX)));
    }
    if let Some(max) = spec.bytes_max {
        arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(i64::try_from(max).unwrap_or(i64::MAX)));
    }
    if spec.messages_max.is_some() || spec.bytes_max.is_some() {
        let drops = spec.drop_oldest == Some(true);
        arguments.insert("x-overflow".into(), text(if drops { "drop-head" } else { "reject-publish" }));
    }
    if let Some(ttl) = spec.ttl {
        arguments
            .insert("x-message-ttl".into(), AMQPValue::LongLongInt(ttl.as_millis().try_into().unwrap_or(i64::MAX)));
    }
}

/// What a topic cannot be asked for here.
pub(super) fn check(kind: TopicKind, spec: &TopicSpec) -> Result<()> {
    let none = |what: &str| Err(super::error::error(Kind::Unsupported, format!("rabbitmq has no {what}")));
    if spec.partitions.is_some() {
        return none("partitions");
    }
    if spec.age_max.is_some() {
        return none("age_max_ms: a ttl_ms expires what waits in a queue");
    }
    if kind == TopicKind::Event && *spec != TopicSpec::default() {
        return none("settings of an event topic: events wait in the queues of their groups");
    }
    Ok(())
}

/// What the user said not to make.
fn not_made(what: &str) -> crate::error::Error {
    super::error::error(
        Kind::NotFound,
        format!("{what} is not there, and is not made, as `rabbitmq.declare` is passive"),
    )
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
    arguments
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks a routing key through the levels as the bindings do.
    fn walk(queue: &str, seconds: u64) -> u64 {
        let (exchange, key) = delayed(queue, seconds);
        let (exchange, key) = (exchange.as_str(), key.as_str());
        let mut level: u32 = exchange.trim_start_matches("hmq.delay.").parse().unwrap();
        let bits: Vec<&str> = key.split('.').take(LEVELS as usize).collect();
        assert!(key.ends_with(&format!(".{queue}")) && key.len() <= 255);
        let mut waited = 0;
        loop {
            match bits[(LEVELS - 1 - level) as usize] {
                "1" => waited += 1 << level,
                "0" => {}
                other => panic!("{other}"),
            }
            if level == 0 {
                return waited;
            }
            level -= 1;
        }
    }

    #[test]
    fn groups_have_queues_of_their_own() {
        assert_eq!(group_queue("g", "orders.*").unwrap(), "hmq.group.g:orders.%2A");
        let all = [("a.b", "c"), ("a", "b.c"), ("a", "*.c"), ("a", "%2A.c"), ("a:b", "c"), ("a", "b:c")];
        let names: std::collections::HashSet<_> = all.iter().map(|(g, p)| group_queue(g, p).unwrap()).collect();
        assert_eq!(names.len(), all.len());
        assert!(names.iter().all(|name| !name.contains(['*', '#'])));
        let (group, pattern) = ("g".repeat(100), "p".repeat(100));
        assert_eq!(group_queue(&group, &pattern).unwrap_err().kind(), Kind::Name);
    }

    #[test]
    fn a_delay_is_the_sum_of_its_levels() {
        for seconds in [1, 2, 3, 7, 8, 60, 86_399, 1 << 22, DELAY_S_MAX] {
            assert_eq!(walk("tasks.a.b", seconds), seconds);
        }
        assert_eq!(walk(&"x".repeat(200), DELAY_S_MAX), DELAY_S_MAX);
    }
}
