//! The custom broker against programs that keep the contract and programs that break it.

use std::time::Instant;

use super::*;
use crate::broker::{Batch, Delivery, Flow, Level, Taken, Wake};
use crate::clock::Clock;
use crate::error::Fate;
use crate::limits::Limits;
use crate::sync::Condvar;

type OnPublish = Box<dyn Fn(&CustomSink, u64) -> Result<()> + Send + Sync>;

/// A program's broker whose publish does what `on_publish` says; the rest is written down.
struct Program {
    sink: OnceCell<CustomSink>,
    on_publish: OnPublish,
    said: Arc<Mutex<Vec<String>>>,
}

impl CustomOps for Arc<Program> {
    fn capabilities(&self) -> Capabilities {
        Capabilities { tasks: Support::Native, payload_bytes_max: 100, name_bytes_max: 200, ..NO_CAPABILITIES }
    }

    fn connect(&self, _timeout: Duration) -> Result<()> {
        Ok(())
    }

    fn publish(&self, _topic: &str, _kind: TopicKind, _record: &Record<'_>, _seq: u64, ticket: u64) -> Result<()> {
        (self.on_publish)(self.sink.get().unwrap(), ticket)
    }

    fn subscribe(&self, pattern: &str, _: TopicKind, group: Option<&str>, prefetch: usize, sub: u64) -> Result<()> {
        self.said.lock().push(format!("subscribe {pattern} {group:?} {prefetch} {sub}"));
        if pattern == "none" {
            return Err(Error::new(Kind::NotFound, "no such queue"));
        }
        self.sink.get().unwrap().deliver(pattern, &Record::new(b"first"), sub, 70, 1)
    }

    fn unsubscribe(&self, sub: u64) {
        self.said.lock().push(format!("unsubscribe {sub}"));
    }

    fn settle(&self, sub: u64, their_token: u64, verdict: Verdict) {
        self.said.lock().push(format!("settle {sub} {their_token} {verdict:?}"));
    }

    fn close(&self, _timeout: Duration) -> Result<()> {
        self.said.lock().push("close".into());
        Ok(())
    }
}

/// The hub's end: what it was told, and on which threads.
#[derive(Default)]
struct Hub {
    told: Mutex<Vec<String>>,
    changed: Condvar,
}

impl Hub {
    fn tell(&self, line: String) {
        self.told.lock().push(line);
        self.changed.notify_all();
    }

    /// Waits until `count` lines were told, and answers all of them.
    fn told(&self, count: usize) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut told = self.told.lock();
        while told.len() < count {
            assert!(Instant::now() < deadline, "only this was told: {told:?}");
            told = self.changed.wait_until(told, Some(deadline));
        }
        told.clone()
    }
}

impl crate::broker::BackendSink for Hub {
    fn event(&self, event: BackendEvent) {
        self.tell(format!("{event:?}").split('(').next().unwrap_or_default().to_owned());
    }

    fn complete(&self, outcomes: &mut Vec<(Ticket, Outcome)>) {
        for (ticket, outcome) in outcomes.drain(..) {
            let name = format!("{outcome:?}");
            self.tell(format!("{} {}", ticket.0, name.split('(').next().unwrap_or_default()));
        }
    }
}

impl Sink for Hub {
    fn ready(&self) {
        self.tell("ready".into());
    }

    fn revoked(&self, tags: &[u64]) {
        self.tell(format!("revoked {tags:?}"));
    }
}

impl Wake for Hub {
    fn wake(&self) {
        self.tell("space".into());
    }
}

struct World {
    broker: Arc<Custom>,
    sink: CustomSink,
    hub: Arc<Hub>,
    said: Arc<Mutex<Vec<String>>>,
    numbers: AtomicU64,
}

fn world(on_publish: impl Fn(&CustomSink, u64) -> Result<()> + Send + Sync + 'static) -> World {
    let said = Arc::new(Mutex::default());
    let program =
        Arc::new(Program { sink: OnceCell::new(), on_publish: Box::new(on_publish), said: Arc::clone(&said) });
    let (broker, sink) = Custom::over(Box::new(Arc::clone(&program)));
    assert!(program.sink.set(sink.clone()).is_ok());
    let hub = Arc::new(Hub::default());
    let backend_sink: Arc<dyn crate::broker::BackendSink> = Arc::<Hub>::clone(&hub);
    let context =
        Context { clock: Clock::virtual_(), limits: Limits::tiny(), id_prefix: 1, hub: 0, sink: backend_sink };
    broker.attach(context.clone()).unwrap();
    assert_eq!(broker.attach(context).unwrap_err().kind(), Kind::State);
    World { broker, sink, hub, said, numbers: AtomicU64::new(0) }
}

impl World {
    fn publish(&self, first_ticket: u64, count: usize) -> Taken {
        let records = vec![Record::new(b"x"); count];
        let batch = Batch {
            records: &records,
            first_ticket: Ticket(first_ticket),
            numbers: &self.numbers,
            now_us: 0,
            require: None,
            since: None,
        };
        self.broker.destination("t", TopicKind::Task).unwrap().publish(&batch)
    }

    fn subscribe(&self, pattern: &str, prefetch: usize) -> Result<Arc<dyn Source>> {
        let spec = SubscribeSpec {
            pattern: pattern.into(),
            kind: TopicKind::Task,
            group: Group::Named("g".into()),
            start: Start::Earliest,
            stop: Stop::Never,
            prefetch,
            ordered: Ordered::No,
            lease: None,
            read_only: false,
        };
        let sink: Arc<dyn Sink> = Arc::<Hub>::clone(&self.hub);
        wait(self.broker.subscribe(&spec, sink, Moment::NEVER))
    }
}

fn wait<T>(pending: Pending<T>) -> Result<T> {
    crate::runtime::wait(pending, Some(Duration::from_secs(10)))
}

fn kind<T: fmt::Debug>(result: Result<T>) -> Kind {
    result.unwrap_err().kind()
}

#[test]
fn outcomes_given_inside_publish_are_its_answer() {
    let world = world(|sink, ticket| sink.complete(ticket, Outcome::Confirmed(Level::Broker)));
    let taken = world.publish(10, 3);
    assert_eq!((taken.count, taken.level), (3, Some(Level::Broker)));
    assert_eq!(kind(world.sink.complete(10, Outcome::Confirmed(Level::Broker))), Kind::NotFound);
    assert!(world.hub.told(0).is_empty());
}

#[test]
fn mixed_outcomes_complete_by_ticket_and_once() {
    let world = world(|sink, ticket| match ticket {
        1 => sink.complete(1, Outcome::Refused(Error::new(Kind::Refused, "no"))),
        _ => Ok(()),
    });
    let taken = world.publish(0, 3);
    assert_eq!((taken.count, taken.level), (3, None));
    assert_eq!(world.hub.told(1), ["1 Refused"]);
    world.sink.complete(2, Outcome::Confirmed(Level::Broker)).unwrap();
    assert_eq!(kind(world.sink.complete(2, Outcome::Confirmed(Level::Broker))), Kind::NotFound);
    wait(world.broker.close(Moment::NEVER)).unwrap();
    assert_eq!(world.hub.told(3), ["1 Refused", "2 Confirmed", "0 Unknown"]);
    assert_eq!(kind(world.sink.complete(0, Outcome::Confirmed(Level::Broker))), Kind::Closed);
}

#[test]
fn a_refusal_leaves_the_rest_with_the_caller() {
    let world = world(|_, ticket| match ticket {
        2 => Err(Error::new(Kind::Full, "full")),
        _ => Ok(()),
    });
    let taken = world.publish(0, 5);
    let stopped = taken.stopped.unwrap();
    assert_eq!((taken.count, stopped.kind(), stopped.fate()), (2, Kind::Full, Some(Fate::NotSent)));
    assert_eq!(kind(world.sink.complete(3, Outcome::Confirmed(Level::Broker))), Kind::NotFound);
    let destination = world.broker.destination("t", TopicKind::Task).unwrap();
    destination.on_space(Arc::<Hub>::downgrade(&world.hub));
    assert!(world.hub.told(0).is_empty());
    world.sink.complete(0, Outcome::Confirmed(Level::Broker)).unwrap();
    assert_eq!(world.hub.told(2), ["0 Confirmed", "space"]);
    destination.on_space(Arc::<Hub>::downgrade(&world.hub));
    assert_eq!(world.hub.told(3).last().unwrap(), "space", "the sign of space was missed");
}

#[test]
fn a_panic_of_the_program_is_a_lost_connection() {
    let world = world(|_, ticket| if ticket == 1 { panic!("broken") } else { Ok(()) });
    let source = world.subscribe("q", 2).unwrap();
    let mut out = Vec::new();
    source.fetch(9, &mut out);
    let taken = world.publish(0, 3);
    assert_eq!((taken.count, taken.stopped.unwrap().kind()), (2, Kind::Panic));
    let mut told = world.hub.told(6);
    told.sort_unstable();
    assert_eq!(told, ["0 Unknown", "1 Unknown", "Lost", "ready", "ready", "revoked [1]"]);
    assert_eq!(source.fetch(9, &mut out), Flow::Lost, "there is nothing more from this source");
    assert_eq!(world.publish(7, 1).count, 1, "another connect may make it good");
}

#[test]
fn deliveries_keep_to_the_prefetch_and_settle_by_their_tokens() {
    let world = world(|_, _| Ok(()));
    let source = world.subscribe("q", 2).unwrap();
    assert_eq!(world.hub.told(1), ["ready"]);
    world.sink.deliver("q", &Record::new(b"second"), 1, 71, 3).unwrap();
    assert_eq!(kind(world.sink.deliver("q", &Record::new(b"third"), 1, 72, 1)), Kind::Full);
    assert_eq!(kind(world.sink.deliver("q", &Record::new(&[0; 101]), 1, 72, 1)), Kind::TooLarge);
    assert_eq!(kind(world.sink.deliver("q", &Record::new(b"x"), 9, 72, 1)), Kind::NotFound);
    let mut out: Vec<Delivery> = Vec::new();
    assert_eq!(source.fetch(1, &mut out), Flow::More);
    assert_eq!(source.fetch(9, &mut out), Flow::Idle);
    assert_eq!((out[1].message.payload(), out[1].attempt, out[1].redelivered), (&b"second"[..], 3, true));
    assert_ne!(out[0].message.id(), out[1].message.id());
    source.settle(&[(out[1].tag, Verdict::Ack), (out[1].tag, Verdict::Ack)]);
    world.sink.deliver("q", &Record::new(b"third"), 1, 72, 1).unwrap();
    assert_eq!(world.hub.told(2), ["ready", "ready"]);
    source.close();
    source.close();
    assert_eq!(source.fetch(9, &mut out), Flow::Lost);
    assert_eq!(kind(world.sink.deliver("q", &Record::new(b"x"), 1, 73, 1)), Kind::NotFound);
    assert_eq!(*world.said.lock(), ["subscribe q Some(\"g\") 2 1", "settle 1 71 Ack", "unsubscribe 1"]);
}

#[test]
fn what_the_operations_have_no_words_for_is_unsupported() {
    let world = world(|_, _| Ok(()));
    assert_eq!(kind(world.subscribe("none", 2)), Kind::NotFound);
    let source = world.subscribe("q", 2).unwrap();
    assert_eq!(kind(source.seek(Start::Earliest)), Kind::Unsupported);
    assert_eq!(kind(source.extend(1, Duration::ZERO)), Kind::Unsupported);
    let spec = TopicSpec { ttl: Some(Duration::ZERO), ..TopicSpec::default() };
    let declared = world.broker.declare("t", TopicKind::Task, &spec, Moment::NEVER);
    assert_eq!(kind(wait(declared)), Kind::Unsupported);
    wait(world.broker.close(Moment::NEVER)).unwrap();
    assert_eq!(kind(world.broker.destination("t", TopicKind::Task)), Kind::Closed);
    assert_eq!(kind(world.subscribe("q", 2)), Kind::Closed);
}

#[test]
fn the_program_s_object_is_dropped_with_the_broker() {
    let world = world(|_, _| Ok(()));
    let (sink, program) = (world.sink.clone(), Arc::downgrade(&world.broker.shared));
    drop(world);
    assert!(program.upgrade().is_none());
    assert_eq!(kind(sink.complete(0, Outcome::Confirmed(Level::Broker))), Kind::Closed);
}
