//! Consuming: one channel and one task for each subscription. The task brings deliveries in and
//! acknowledgements out; whoever consumes fetches and settles without waiting for it.
//!
//! ```text
//! server ──> waiting ── fetch ──> out ── Ack ─────────> acks, gathered into few frames
//!               ^                  ├── Return ────────> back to the queue
//!               │ due              ├── Retry < 1 s ───> held here, unacknowledged, then waiting again
//!               └── later <────────┘
//!                                  └── Retry ≥ 1 s ───> published to the delays, then acknowledged
//! ```
//!
//! A channel that ends (connection lost, queue deleted, acknowledgement too late) takes all of this
//! with it: the server hands the messages over again. The subscription opens another one while the
//! connection stands, and is opened again by [`Broker::restore`] when it is back.
//!
//! [`Broker::restore`]: crate::broker::Broker::restore

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use tokio::sync::Notify;

use super::acks::{Acks, Frame, ServerTag};
use super::error::{error, of};
use super::publish::{Done, Job};
use super::topology::EVENTS;
use super::wire::{self, short, Incoming, Made, Outgoing, Target};
use super::{Shared, CLOSE_MAX};
use crate::broker::{Broken, Sink, SubscribeSpec};
use crate::clock::{Clock, Moment};
use crate::config::Wire;
use crate::error::{Error, Kind, Result};
use crate::message::{HeaderBlock, Message, Record, Stamp, TopicKind};
use crate::pattern::DEAD_LETTER_SUFFIX;
use crate::runtime::Pending;
use crate::sync::Mutex;

/// A dead letter keeps headers of at most so many bytes.
const BURIED_HEADERS_MAX: usize = 64 * 1024;
/// Deliveries taken from the client library before acknowledgements are looked at.
const AT_ONCE: usize = 256;
/// Longest wait for a channel, and for its consumer: a quorum queue without a leader does not answer.
/// A new queue takes eight round trips, which on a slow line are some 600 ms each.
const OPEN_MAX: Duration = Duration::from_secs(10);
/// Wait before a channel is opened again, or a message that could not be moved is looked at again ...
const AGAIN: Duration = Duration::from_millis(500);
/// ... and later the more often that has failed: each time may cost a channel of the connection.
const AGAIN_MAX: Duration = Duration::from_secs(8);

/// What the client library brings.
type Came = lapin::Result<lapin::message::Delivery>;

/// A subscription, as long as the program has it.
pub(super) struct Subscriber {
    pub spec: SubscribeSpec,
    /// Of all its deliveries, where they are of one topic: a task comes with the routing key of its delay,
    /// or whatever its publisher took, and so does an event from an exchange of its own.
    form: Option<Wire>,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) shared: Weak<Shared>,
    pub(super) clock: Clock,
    own: Weak<Subscriber>,
    /// There is something to tell the server, or the subscription is closed.
    pub(super) changed: Notify,
    pub(super) state: Mutex<State>,
}

/// Guarded together: a delivery is in exactly one of these places.
#[derive(Default)]
pub(super) struct State {
    pub(super) waiting: VecDeque<Held>,
    pub(super) out: HashMap<u64, Held>,
    later: BTreeMap<(Moment, u64), Held>,
    moving: HashMap<u64, Held>,
    pub(super) acks: Acks,
    /// Names given so far, for deliveries and for the order of `later`.
    pub(super) names: u64,
    /// The queue that is consumed.
    queue: String,
    pub(super) idle: bool,
    /// Of a dead letter that cannot be written.
    warned: bool,
    runs: bool,
    pub(super) closed: bool,
    /// Its queue was deleted here, or its connection was lost: the channel is opened again.
    reopens: bool,
    pub(super) lost: Option<Error>,
}

/// A delivery that the server counts as out.
pub(super) struct Held {
    pub(super) server_tag: ServerTag,
    /// Why no handler can have it.
    unfit: Option<Arc<str>>,
    pub(super) message: Message,
    /// Attempts before this one.
    pub(super) attempts: u32,
    /// Those of them that the server counted.
    pub(super) counted: u32,
    pub(super) redelivered: bool,
}

impl Subscriber {
    pub fn new(shared: &Arc<Shared>, spec: &SubscribeSpec, sink: Arc<dyn Sink>) -> Arc<Self> {
        let wire = shared.forms.of(&spec.pattern);
        let form = (spec.kind == TopicKind::Task || wire == Wire::Helixagent).then_some(wire);
        Arc::new_cyclic(|own| Self {
            spec: spec.clone(),
            form,
            sink,
            shared: Arc::downgrade(shared),
            clock: shared.context.clock.clone(),
            own: own.clone(),
            changed: Notify::new(),
            state: Mutex::default(),
        })
    }

    /// Whether it wants a channel and has none.
    pub fn wants_channel(&self) -> bool {
        let state = self.state.lock();
        !state.closed && !state.runs && state.lost.is_none()
    }

    /// Opens its channel on `connection` and starts its task.
    pub fn start(self: &Arc<Self>, connection: &Arc<Connection>) -> Pending<()> {
        // Boxed, as a task may start its successor.
        Box::pin(Arc::clone(self).started(Arc::clone(connection)))
    }

    async fn started(self: Arc<Self>, connection: Arc<Connection>) -> Result<()> {
        {
            let mut state = self.state.lock();
            if state.closed || std::mem::replace(&mut state.runs, true) {
                return Ok(());
            }
            state.reopens = false;
        }
        match self.opened(&connection).await {
            Ok((channel, consumer)) => {
                let own = Arc::clone(&self);
                let task = tokio::spawn(async move { own.run(channel, consumer).await });
                if let Some(shared) = self.shared.upgrade() {
                    shared.keep(task);
                }
                Ok(())
            }
            Err(failed) => {
                self.state.lock().runs = false;
                Err(failed)
            }
        }
    }

    async fn opened(&self, connection: &Connection) -> Result<(Channel, Consumer)> {
        let late = |_| error(Kind::Timeout, "the server did not open the consumer in time");
        let shared = self.shared.upgrade().ok_or_else(super::error::away)?;
        let channel = tokio::time::timeout(OPEN_MAX, shared.channel(connection)).await.map_err(late)??;
        let consumer = tokio::time::timeout(OPEN_MAX, self.open(connection, &channel)).await;
        match consumer.map_err(late).and_then(|opened| opened) {
            Ok(consumer) => Ok((channel, consumer)),
            Err(failed) => {
                // A consumer that is granted late would take messages that nobody reads.
                let _ = tokio::time::timeout(CLOSE_MAX, channel.close(200, "OK".into())).await;
                Err(failed)
            }
        }
    }

    async fn open(&self, connection: &Connection, channel: &Channel) -> Result<Consumer> {
        let shared = self.shared.upgrade().ok_or_else(super::error::away)?;
        let topology = shared.topology(connection);
        let prefetch = u16::try_from(self.spec.prefetch).unwrap_or(u16::MAX);
        let qos = channel.basic_qos(prefetch, BasicQosOptions::default()).await;
        qos.map_err(|refused| of("the prefetch", &refused))?;
        let pattern = &self.spec.pattern;
        let queue = match self.spec.kind {
            TopicKind::Task => {
                match self.form {
                    Some(Wire::Helixagent) => topology.shared_queue(pattern).await?,
                    _ => topology.usable_task_queue(pattern).await?,
                }
                shared.know(pattern);
                pattern.clone()
            }
            TopicKind::Event => {
                // In the form helixagent each topic has an exchange of its own.
                let from = self.form.map_or((EVENTS, pattern.as_str()), |_| (pattern, "#"));
                topology.group(channel, &self.spec.group, pattern, from).await?
            }
        };
        let consume =
            channel.basic_consume(short(&queue), "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let consumer = consume.await.map_err(|refused| of(&format!("consuming `{queue}`"), &refused))?;
        self.state.lock().queue = queue;
        Ok(consumer)
    }

    async fn run(self: Arc<Self>, channel: Channel, mut consumer: Consumer) {
        let cause = loop {
            let due = self.next_due();
            // An end among what came is acted on below: what was settled is told first.
            let mut end = None;
            tokio::select! {
                delivered = consumer.next() => end = self.bring_in(delivered, &mut consumer),
                () = self.changed.notified() => {}
                () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {}
            }
            self.take_due();
            // Together: what was settled before the close is told before the channel goes.
            let (frames, closed) = {
                let mut state = self.state.lock();
                (state.acks.frames(), state.closed)
            };
            let failed = tell(&channel, frames).await;
            if closed {
                // What is still out goes back to the queue with the channel.
                let _ = tokio::time::timeout(CLOSE_MAX, channel.close(200, "OK".into())).await;
                self.end_channel();
                return;
            }
            if let Some(failed) = failed {
                break of("the channel ended", &failed);
            }
            if let Some(end) = end {
                break end;
            }
            if std::mem::take(&mut self.state.lock().reopens) {
                break error(Kind::NotFound, "its queue was deleted, or the connection was lost");
            }
        };
        self.end_channel();
        drop(consumer);
        let _ = tokio::time::timeout(CLOSE_MAX, channel.close(200, "OK".into())).await;
        tracing::debug!("a channel of {} ended: {cause}", self.spec.pattern);
        // Not at once: whatever ended it may still be going on.
        tokio::time::sleep(AGAIN).await;
        let _ = self.revive().await;
    }

    /// Opens another channel, as often as it takes, while there is a connection; without one it waits
    /// to be revived by [`Shared::restore`].
    pub fn revive(self: Arc<Self>) -> Pending<()> {
        Box::pin(async move {
            let mut pause = AGAIN;
            while self.wants_channel() {
                let Some(connection) = self.shared.upgrade().and_then(|shared| shared.consuming().ok()) else { break };
                match self.start(&connection).await {
                    Ok(()) => break,
                    // Not found is one that comes back: a classic queue whose node is down.
                    Err(refused) if matches!(refused.kind(), Kind::Refused | Kind::Conflict | Kind::Name) => {
                        self.state.lock().lost = Some(refused);
                        self.sink.ready();
                    }
                    Err(failed) => {
                        tracing::debug!("the subscription to {} is opened again: {failed}", self.spec.pattern);
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(AGAIN_MAX);
                    }
                }
            }
            Ok(())
        })
    }

    /// Takes what has come; answers the end of the channel, which the stream tells once.
    fn bring_in(&self, first: Option<Came>, consumer: &mut Consumer) -> Option<Error> {
        let (mut rings, mut end) = (false, None);
        // Whatever is taken from the stream is looked at: it comes once.
        let further = (1..AT_ONCE).map_while(|_| consumer.next().now_or_never());
        for came in std::iter::once(first).chain(further) {
            match came {
                Some(Ok(delivery)) => rings |= self.take_in(delivery),
                Some(Err(failed)) => end = Some(of("the channel ended", &failed)),
                None => end = Some(error(Kind::BackendDown, "the server cancelled the consumer: its queue is gone")),
            }
            if end.is_some() {
                break;
            }
        }
        if rings {
            self.sink.ready();
        }
        end
    }

    /// Takes one delivery in; answers whether the sink must be told.
    fn take_in(&self, delivery: lapin::message::Delivery) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        let server_tag = delivery.delivery_tag;
        let (pattern, max) = (self.spec.pattern.as_str(), shared.settings.message_bytes_max);
        let form = |topic: &str| self.form.unwrap_or_else(|| shared.forms.of(topic));
        let incoming = Incoming::of(delivery, self.spec.kind, max, form);
        let topic = if self.form.is_some() { pattern } else { &incoming.topic };
        let stamp = Stamp { seq: shared.next_seq(), now_us: shared.context.clock.wall_us() };
        let record = incoming.record();
        // Not the prefix of what is published here: a message without an id must not get one of those.
        let message = Message::alone(&shared.pool, &Arc::from(topic), !shared.context.id_prefix, &record, stamp);
        let mut state = self.state.lock();
        if state.reopens {
            // Its channel is given up, or gone: it comes again.
            return false;
        }
        state.acks.out(server_tag);
        if incoming.expires_us.is_some_and(|expires_us| expires_us <= stamp.now_us) {
            state.acks.ack(server_tag);
            self.changed.notify_one();
            return false;
        }
        let Some(message) = message else {
            // No memory for it now: somebody else may have some.
            state.acks.requeue(server_tag);
            self.changed.notify_one();
            return false;
        };
        // A dead letter is where it belongs: moved by all who look at it, it would go on for ever.
        let is_dead = pattern.ends_with(DEAD_LETTER_SUFFIX);
        let too_large = (incoming.body.len() > max).then(|| format!("larger than message_bytes_max {max}"));
        let held = Held {
            server_tag,
            unfit: incoming.unreadable.or(too_large).filter(|_| !is_dead).map(Arc::from),
            attempts: u32::from(incoming.attempts),
            counted: u32::from(incoming.counted),
            redelivered: incoming.redelivered || incoming.attempts > 0,
            message,
        };
        self.offer(&shared, &mut state, held) && std::mem::take(&mut state.idle)
    }

    /// Lets the program have a delivery, if it can; answers whether it waits for it now.
    fn offer(&self, shared: &Shared, state: &mut State, held: Held) -> bool {
        match held.unfit.clone() {
            Some(reason) => self.bury(shared, state, held, &reason),
            None => state.waiting.push_back(held),
        }
        !state.waiting.is_empty()
    }

    /// A message that no handler can have becomes a dead letter, once.
    fn bury(&self, shared: &Shared, state: &mut State, held: Held, reason: &str) {
        let mut headers = HeaderBlock::default();
        // With ours they must fit into a frame, or it could never be written.
        if held.message.headers().bytes().len() < BURIED_HEADERS_MAX {
            headers.extend(held.message.headers(), &[]);
        }
        headers.push("hmq-origin-topic", held.message.topic().as_bytes());
        headers.push("hmq-origin-kind", self.spec.kind.name().as_bytes());
        headers.push("hmq-dead-reason", reason.as_bytes());
        let id = held.message.id();
        let record = Record { headers: headers.headers(), ..Record::again(&held.message, id.as_str()) };
        let topic = format!("{}{DEAD_LETTER_SUFFIX}", held.message.topic());
        let target = Target { priority: false, again: true, ..shared.target(&topic, TopicKind::Task, Wire::Native) };
        let out = wire::outgoing(&record, target, Made::default(), shared.context.clock.wall_us());
        self.post(shared, state, held, Move { queue: &topic, wire: Wire::Native, outgoing: out, delay_s: 0 });
    }

    /// Publishes the copy of a delivery, which is acknowledged when that is confirmed.
    fn post(&self, shared: &Shared, state: &mut State, held: Held, copy: Move<'_>) {
        let Move { queue, wire, outgoing, delay_s } = copy;
        state.names += 1;
        let name = state.names;
        state.moving.insert(name, held);
        let done = Done::Moved(self.own.clone(), name);
        let sent = outgoing.and_then(|outgoing| {
            let job = Job { topic: Arc::from(queue), kind: TopicKind::Task, wire, outgoing, delay_s, done };
            shared.jobs().map(|jobs| jobs.send(job).is_ok())
        });
        let sent = sent.unwrap_or_else(|failed| {
            tracing::debug!("a copy for {queue} cannot be published: {failed}");
            false
        });
        if !sent {
            if let Some(held) = state.moving.remove(&name) {
                state.put_later(held, self.clock.now().plus(AGAIN));
            }
        }
    }

    /// The copy of a delivery was confirmed, or could not be made.
    pub fn moved(&self, name: u64, confirmed: bool) {
        let mut state = self.state.lock();
        let Some(held) = state.moving.remove(&name) else { return };
        if confirmed {
            state.acks.ack(held.server_tag);
        } else {
            if let Some(reason) = held.unfit.as_ref().filter(|_| !std::mem::replace(&mut state.warned, true)) {
                let pattern = &self.spec.pattern;
                tracing::warn!(
                    "a message of {pattern} cannot be handled ({reason}), and its dead letter not be written"
                );
            }
            state.put_later(held, self.clock.now().plus(AGAIN));
        }
        drop(state);
        self.changed.notify_one();
    }

    /// How long until the first of those held back is due.
    fn next_due(&self) -> Option<Duration> {
        let due = self.state.lock().later.first_key_value().map(|((due, _), _)| *due)?;
        Some(due.since(self.clock.now()))
    }

    fn take_due(&self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let rings = {
            let mut state = self.state.lock();
            let state = &mut *state;
            let now = self.clock.now();
            let mut came = false;
            while state.later.first_key_value().is_some_and(|((due, _), _)| *due <= now) {
                let Some((_, held)) = state.later.pop_first() else { break };
                came |= self.offer(&shared, state, held);
            }
            came && std::mem::take(&mut state.idle)
        };
        if rings {
            self.sink.ready();
        }
    }

    /// The channel is gone.
    fn end_channel(&self) {
        self.revoke(|state| state.runs = false);
    }

    /// The connection is gone, and the channel will be found to be.
    pub fn disconnected(&self) {
        self.revoke(|state| state.reopens = true);
        self.changed.notify_one();
    }

    /// Every lease has ended.
    fn revoke(&self, change: impl FnOnce(&mut State)) {
        let mut ended: Vec<Broken> = {
            let mut state = self.state.lock();
            change(&mut state);
            state.acks = Acks::default();
            state.waiting.clear();
            state.later.clear();
            state.moving.clear();
            let out = std::mem::take(&mut state.out).into_iter();
            out.map(|(tag, held)| Broken { tag, message: held.message, partition: 0, offset: -1 }).collect()
        };
        if !ended.is_empty() {
            ended.sort_unstable_by_key(|own| own.tag);
            self.sink.broken(ended);
        }
    }

    /// Its queue was deleted here. The server tells consumers of that, but not one whose queue is made
    /// again at once (3.10).
    pub fn reopen(&self) {
        self.state.lock().reopens = true;
        self.changed.notify_one();
    }

    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }
}

/// Tells the server what was decided; answers why it could not be told.
async fn tell(channel: &Channel, frames: Vec<Frame>) -> Option<lapin::Error> {
    let sent = frames.into_iter().map(|frame| async move {
        match frame {
            Frame::Ack { tag, multiple } => channel.basic_ack(tag, BasicAckOptions { multiple }).await,
            Frame::Requeue(tag) => channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await,
        }
    });
    join_all(sent).await.into_iter().find_map(std::result::Result::err)
}

/// The copy of a delivery on its way to another queue.
struct Move<'a> {
    queue: &'a str,
    /// Of the queue.
    wire: Wire,
    outgoing: Result<Box<Outgoing>>,
    delay_s: u64,
}

impl State {
    pub(super) fn put_later(&mut self, held: Held, due: Moment) {
        self.names += 1;
        self.later.insert((due, self.names), held);
    }
}

impl Subscriber {
    /// Publishes a copy that comes back after `delay`; the delivery is acknowledged when that is
    /// confirmed, so it survives this process.
    pub(super) fn delay(&self, shared: &Shared, state: &mut State, held: Held, delay: Duration) {
        let id = held.message.id();
        let record = Record {
            attempts: u16::try_from(held.attempts).unwrap_or(u16::MAX),
            ..Record::again(&held.message, id.as_str())
        };
        let wire = shared.forms.of(held.message.topic());
        let target = Target { again: true, ..shared.target(held.message.topic(), self.spec.kind, wire) };
        let mut outgoing = wire::outgoing(&record, target, Made::default(), shared.context.clock.wall_us());
        outgoing.iter_mut().for_each(|outgoing| wire::set_topic(outgoing, held.message.topic()));
        let delay_s = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        // The queue of a group is ours, whatever the form of its events.
        let wire = if self.spec.kind == TopicKind::Task { wire } else { Wire::Native };
        let queue = state.queue.clone();
        self.post(shared, state, held, Move { queue: &queue, wire, outgoing, delay_s });
    }
}
