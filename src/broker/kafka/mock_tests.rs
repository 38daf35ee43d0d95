//! Faults at an exact request, which no real cluster makes when it is asked to: rows F21 to F23.

use std::sync::atomic::AtomicU64;
use std::time::Instant;

use rdkafka_sys::rd_kafka_resp_err_t as Answer;

use super::raw::Mock;
use super::*;
use crate::broker::{BackendSink, Delivery, Flow, Group, Ordered, Outcome, Stop, Ticket};
use crate::clock::Clock;
use crate::error::Error;
use crate::limits::Limits;
use crate::sync::Condvar;

const PATIENCE: Duration = Duration::from_secs(20);

/// What the hub was told.
#[derive(Default)]
struct Told {
    outcomes: Mutex<HashMap<u64, Vec<Outcome>>>,
    lost: Mutex<Vec<Error>>,
    changed: Condvar,
}

impl BackendSink for Told {
    fn event(&self, event: BackendEvent) {
        if let BackendEvent::Lost(cause) = event {
            self.lost.lock().push(cause);
        }
        self.changed.notify_all();
    }

    fn complete(&self, outcomes: &mut Vec<(Ticket, Outcome)>) {
        let mut told = self.outcomes.lock();
        for (ticket, outcome) in outcomes.drain(..) {
            told.entry(ticket.0).or_default().push(outcome);
        }
        self.changed.notify_all();
    }
}

impl Told {
    /// The outcomes of the first `count` tickets: each has one.
    fn outcomes(&self, count: usize) -> Vec<Outcome> {
        let until = Instant::now() + PATIENCE;
        let mut told = self.outcomes.lock();
        while told.len() < count {
            assert!(Instant::now() < until, "{} of {count} were told", told.len());
            told = self.changed.wait_until(told, Some(until));
        }
        (0..count as u64)
            .map(|ticket| {
                assert_eq!(told[&ticket].len(), 1, "ticket {ticket}");
                told[&ticket][0].clone()
            })
            .collect()
    }
}

fn settings(mock: &Mock) -> Settings {
    Settings {
        kafka: KafkaConfig { brokers: mock.brokers(), ..KafkaConfig::default() },
        name: "mock".into(),
        group_id: "g".into(),
        connection_timeout: PATIENCE,
        confirm_timeout: PATIENCE,
        message_bytes_max: 1 << 20,
        publish_window: 5_000,
        routes: Vec::new(),
        topics: Vec::new(),
        patience: Arc::new(|_| false),
        token: None,
    }
}

fn open(mock: &Mock, told: &Arc<Told>) -> Arc<Kafka> {
    open_with(settings(mock), told)
}

/// Of several requests on their way, a pretended broker may take the later ones when it fails the first: unlike a
/// real one it looks at no number of an idempotent producer. So there is one.
fn open_in_step(mock: &Mock, told: &Arc<Told>) -> Arc<Kafka> {
    let mut settings = settings(mock);
    settings.kafka.options.0.insert("max.in.flight.requests.per.connection".into(), "1".into());
    open_with(settings, told)
}

fn open_with(settings: Settings, told: &Arc<Told>) -> Arc<Kafka> {
    let sink = Arc::clone(told) as Arc<dyn BackendSink>;
    let clock = Clock::real();
    clock.start().unwrap();
    let context = Context { clock, limits: Limits::production(), id_prefix: 7, hub: 0, sink };
    let broker = Kafka::open(settings, context).unwrap();
    connect(&broker);
    broker
}

fn connect(broker: &Kafka) {
    let deadline = broker.shared.context.clock.now().plus(PATIENCE);
    crate::runtime::wait(broker.connect(Epoch(1), deadline), Some(PATIENCE)).unwrap();
}

/// Publishes numbers, all with one key, with the tickets from `first` on.
fn publish(broker: &Kafka, topic: &str, numbers: std::ops::Range<u64>) {
    let destination = broker.destination(topic, TopicKind::Event).unwrap();
    for number in numbers {
        let text = number.to_string();
        let record = Record { key: Some(b"k"), ..Record::new(text.as_bytes()) };
        let numbers = AtomicU64::new(number);
        let first_ticket = Ticket(number);
        let batch = Batch {
            records: std::slice::from_ref(&record),
            first_ticket,
            numbers: &numbers,
            now_us: 0,
            require: None,
            since: None,
        };
        let taken = destination.publish(&batch);
        assert_eq!(taken.count, 1, "{:?}", taken.stopped);
    }
}

/// Everything that is in a topic.
fn read(broker: &Kafka, topic: &str) -> Vec<u64> {
    let spec = SubscribeSpec {
        pattern: topic.into(),
        kind: TopicKind::Event,
        group: Group::Private,
        start: Start::Earliest,
        stop: Stop::Now,
        prefetch: 1_000,
        ordered: Ordered::No,
        lease: None,
        read_only: true,
    };
    let bell = Arc::new(Bell::new());
    let deadline = broker.shared.context.clock.now().plus(PATIENCE);
    let opening = broker.subscribe(&spec, Arc::<Bell>::clone(&bell), deadline);
    let source = crate::runtime::wait(opening, Some(PATIENCE)).unwrap();
    let (mut all, until) = (Vec::<Delivery>::new(), Deadline::after(Some(PATIENCE)));
    loop {
        let heard = bell.heard();
        match source.fetch(1_000, &mut all) {
            Flow::End => break,
            Flow::More => {}
            Flow::Idle => bell.wait(heard, until),
            Flow::Lost => panic!("the replay was lost"),
        }
        assert!(!until.has_passed(), "no end after {}", all.len());
    }
    all.iter().map(|delivery| std::str::from_utf8(delivery.message.payload()).unwrap().parse().unwrap()).collect()
}

fn close(broker: &Kafka) {
    let deadline = broker.shared.context.clock.now().plus(PATIENCE);
    crate::runtime::wait(broker.close(deadline), Some(PATIENCE)).unwrap();
}

fn confirmed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Confirmed(_))
}

#[test]
fn f21_answers_of_a_leader_that_moves_cost_neither_message_nor_order() {
    let (mock, told) = (Mock::new(3), Arc::<Told>::default());
    mock.topic("moves", 1);
    let broker = open_in_step(&mock, &told);
    publish(&broker, "moves", 0..1);
    told.outcomes(1);
    mock.fail(&[
        Answer::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Answer::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        Answer::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        Answer::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Answer::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
    ]);
    publish(&broker, "moves", 1..300);
    mock.lead("moves", 0, 2);
    publish(&broker, "moves", 300..600);
    mock.lead("moves", 0, 3);
    publish(&broker, "moves", 600..900);
    assert!(told.outcomes(900).iter().all(confirmed));
    assert_eq!(read(&broker, "moves"), (0..900).collect::<Vec<_>>());
    close(&broker);
}

#[test]
fn f22_connections_that_end_under_requests_cost_neither_message_nor_order() {
    // With one broker alone this would be the cluster's loss, and later publishes would be refused.
    let (mock, told) = (Mock::new(3), Arc::<Told>::default());
    mock.topic("cut", 1);
    let broker = open_in_step(&mock, &told);
    publish(&broker, "cut", 0..1);
    told.outcomes(1);
    mock.fail(&[Answer::RD_KAFKA_RESP_ERR__TRANSPORT; 3]);
    publish(&broker, "cut", 1..500);
    assert!(told.outcomes(500).iter().all(confirmed));
    assert_eq!(read(&broker, "cut"), (0..500).collect::<Vec<_>>());
    close(&broker);
}

/// Where records are kept by whoever publishes them, the client gives none up for its time: those behind it would
/// arrive before its next copy.
#[test]
fn what_is_kept_is_sent_in_order_however_late() {
    let (mock, told) = (Mock::new(1), Arc::<Told>::default());
    mock.topic("slow", 1);
    let confirm_timeout = Duration::from_millis(400);
    let broker = open_with(Settings { patience: Arc::new(|_| true), confirm_timeout, ..settings(&mock) }, &told);
    publish(&broker, "slow", 0..1);
    told.outcomes(1);
    mock.slow_down(Duration::from_secs(2));
    publish(&broker, "slow", 1..100);
    let pause = Bell::new();
    pause.wait(pause.heard(), Deadline::after(Some(confirm_timeout.saturating_mul(3))));
    assert_eq!(told.outcomes.lock().len(), 1, "some were given up");
    mock.slow_down(Duration::ZERO);
    assert!(told.outcomes(100).iter().all(confirmed));
    // What was asked and not answered in time was taken all the same, by a broker that is pretended.
    let mut firsts = Vec::new();
    read(&broker, "slow").into_iter().for_each(|number| {
        if !firsts.contains(&number) {
            firsts.push(number);
        }
    });
    assert_eq!(firsts, (0..100).collect::<Vec<_>>());
    close(&broker);
}

/// A cluster that takes requests and answers none for longer than anybody waits, and the client that holds records
/// for it without an end.
fn silent(told: &Arc<Told>) -> (Mock, Arc<Kafka>) {
    let mock = Mock::new(1);
    mock.topic("silent", 1);
    let confirm_timeout = Duration::from_millis(400);
    let mut settings = Settings { patience: Arc::new(|_| true), confirm_timeout, ..settings(&mock) };
    // It is asked again and again, and each time in vain is told.
    settings.kafka.options.0.insert("reconnect.backoff.max.ms".into(), "100".into());
    let broker = open_with(settings, told);
    publish(&broker, "silent", 0..1);
    told.outcomes(1);
    mock.slow_down(PATIENCE.saturating_mul(3));
    publish(&broker, "silent", 1..50);
    (mock, broker)
}

#[test]
fn a_client_that_is_given_up_ends_all_that_it_holds() {
    let told = Arc::<Told>::default();
    let (mock, broker) = silent(&told);
    broker.disconnect(Epoch(7));
    assert_eq!(told.outcomes.lock().len(), 1, "that is another connection");
    broker.disconnect(Epoch(1));
    assert!(told.outcomes(50)[1..].iter().all(|outcome| matches!(outcome, Outcome::Unknown(_) | Outcome::NotSent(_))));
    mock.slow_down(Duration::ZERO);
    connect(&broker);
    publish(&broker, "silent", 50..60);
    assert!(told.outcomes(60)[50..].iter().all(confirmed));
    close(&broker);
}

#[test]
fn a_close_does_not_wait_for_a_cluster_that_says_nothing() {
    let told = Arc::<Told>::default();
    let (mock, broker) = silent(&told);
    drop(mock);
    let start = Instant::now();
    close(&broker);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(told.outcomes(50).len(), 50);
}

/// A partition that has not heard of a producer takes whatever comes first. If it refused the request before that,
/// librdkafka counts what was in it as confirmed, and it is nowhere.
#[test]
fn a_confirm_that_is_only_inferred_is_none() {
    let (mock, told) = (Mock::new(1), Arc::<Told>::default());
    mock.topic("fresh", 1);
    let broker = open(&mock, &told);
    broker.shared.make("fresh", PATIENCE).unwrap();
    mock.slow_down(Duration::from_millis(1500));
    mock.fail(&[Answer::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION]);
    publish(&broker, "fresh", 0..1);
    // Longer than the first one waits for company.
    let pause = Bell::new();
    pause.wait(pause.heard(), Deadline::after(Some(Duration::from_millis(300))));
    publish(&broker, "fresh", 1..2);
    let outcomes = told.outcomes(2);
    mock.slow_down(Duration::ZERO);
    assert_eq!(read(&broker, "fresh"), [1]);
    assert!(matches!(outcomes[0], Outcome::Unknown(_)) && confirmed(&outcomes[1]), "{outcomes:?}");
    close(&broker);
}

/// A producer that is broken for good is told as a loss, and the next attempt to connect makes another one.
/// Every record has one outcome, and none is told as confirmed that is not there.
#[test]
fn f23_a_broken_producer_is_replaced_and_every_record_is_told_of() {
    let (mock, told) = (Mock::new(1), Arc::<Told>::default());
    mock.topic("broken", 1);
    let broker = open(&mock, &told);
    publish(&broker, "broken", 0..200);
    let producer = broker.shared.producer().unwrap();
    producer.client.break_down();
    let until = Instant::now() + PATIENCE;
    let mut lost = told.lost.lock();
    while lost.is_empty() {
        assert!(Instant::now() < until, "nobody was told of the loss");
        lost = told.changed.wait_until(lost, Some(until));
    }
    drop(lost);
    let first = told.outcomes(200);
    let refused = broker.destination("broken", TopicKind::Event).unwrap();
    let record = Record::new(b"x");
    let numbers = AtomicU64::new(0);
    let batch = Batch {
        records: std::slice::from_ref(&record),
        first_ticket: Ticket(999),
        numbers: &numbers,
        now_us: 0,
        require: None,
        since: None,
    };
    let stopped = refused.publish(&batch).stopped.unwrap();
    assert_eq!(stopped.kind(), Kind::BackendDown, "{stopped}");

    connect(&broker);
    publish(&broker, "broken", 200..400);
    let all = told.outcomes(400);
    assert!(all[200..].iter().all(confirmed));
    let there = read(&broker, "broken");
    for (number, outcome) in (0..).zip(&first) {
        let count = there.iter().filter(|own| **own == number).count();
        match outcome {
            Outcome::Confirmed(_) => assert_eq!(count, 1, "{number}"),
            Outcome::Unknown(_) => assert!(count <= 1, "{number}"),
            Outcome::NotSent(_) | Outcome::Refused(_) => assert_eq!(count, 0, "{number}: {outcome:?}"),
        }
    }
    assert!(there.is_sorted(), "{there:?}");
    close(&broker);
}
