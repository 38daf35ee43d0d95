//! Closing, and what is called behind it.

use helixmq::broker::CloseReport;
use helixmq::error::Kind;
use helixmq::message::TopicKind;

use crate::harness::{records, refusal, spec, wait, Bench};

pub fn close_tells_what_is_lost(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["done", "out", "waiting", "waiting"]);
    let consumer = bench.worker(&topic, 2);
    let out = consumer.take(2);
    consumer.settle(&out[0], helixmq::broker::Verdict::Ack);
    let CloseReport { lost, kept } = bench.close();
    assert_eq!(lost + kept, 3, "lost {lost}, kept {kept}");
}

pub fn calls_after_close_are_closed(bench: &Bench) {
    let topic = bench.topic();
    let to = bench.destination(&topic, TopicKind::Task);
    bench.close();
    let (taken, _) = bench.offer(&*to, &records(&["a", "b"]));
    assert_eq!((taken.count, taken.stopped.map(|error| error.kind())), (0, Some(Kind::Closed)));
    assert_eq!(refusal(bench.broker.destination(&topic, TopicKind::Task)), Kind::Closed);
    assert_eq!(refusal(bench.try_subscribe(spec(&topic, TopicKind::Task))), Kind::Closed);
    let declared = bench.broker.declare(&topic, TopicKind::Task, &Default::default(), bench.soon());
    assert_eq!(refusal(wait(declared)), Kind::Closed);
}

pub fn closing_twice_is_harmless(bench: &Bench) {
    bench.tasks(&bench.topic(), &["a"]);
    bench.close();
    bench.close();
}

pub fn sources_of_a_closed_broker_give_nothing(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a", "b"]);
    let consumer = bench.worker(&topic, 1);
    let out = consumer.one();
    bench.close();
    consumer.settle(&out, helixmq::broker::Verdict::Ack);
    consumer.nothing();
    consumer.source.close();
}

pub fn closing_a_source_twice_is_harmless(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a"]);
    let consumer = bench.worker(&topic, 1);
    consumer.one();
    consumer.source.close();
    consumer.source.close();
    let other = bench.worker(&topic, 1);
    assert_eq!(other.ack(1), ["a"]);
    other.nothing();
}

pub fn outcomes_are_told_before_close_returns(bench: &Bench) {
    let to = bench.destination(&bench.topic(), TopicKind::Task);
    let (taken, first) = bench.offer(&*to, &records(&["a"; 50]));
    bench.close();
    if taken.level.is_none() {
        assert_eq!(bench.outcomes.count(), taken.count, "a record taken has no outcome");
        bench.outcomes.of(first, taken.count);
    }
}

/// Whatever the interleaving, a record is either taken and ends once, or refused as closed.
pub fn close_while_others_publish(bench: &Bench) {
    let to = bench.destination(&bench.topic(), TopicKind::Task);
    std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let (taken, first) = bench.offer(&*to, &records(&["x"]));
                        match taken.stopped {
                            Some(error) if error.kind() == Kind::Closed => return,
                            Some(error) => panic!("refused, but not as closed: {error}"),
                            None if taken.level.is_none() => drop(bench.outcomes.of(first, 1)),
                            None => {}
                        }
                    }
                })
            })
            .collect();
        bench.close();
        for publisher in publishers {
            publisher.join().expect("no publisher fails");
        }
    });
}
