//! Groups: who sees which events.

use helixmq::broker::{Group, Start, SubscribeSpec, Verdict};
use helixmq::message::TopicKind;

use crate::harness::{keyed, spec, text, texts, Bench, Consumer};

pub fn every_group_sees_every_event(bench: &Bench) {
    let topic = bench.topic();
    let early = bench.member(&topic, "early");
    bench.events(&topic, &["a", "b", "c"]);
    assert_eq!(early.ack(3), ["a", "b", "c"]);
    assert_eq!(bench.member(&topic, "late").ack(3), ["a", "b", "c"]);
    early.nothing();
}

pub fn members_of_a_group_share(bench: &Bench) {
    let topic = bench.topic();
    let members = [bench.member(&topic, "g"), bench.member(&topic, "g")];
    let sent: Vec<String> = (0..40).map(|number| format!("{number:02}")).collect();
    bench.publish(&topic, TopicKind::Event, &sent.iter().map(|text| keyed(text, text)).collect::<Vec<_>>());
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let rings = members.each_ref().map(|member| member.bell.rings());
        let before = got.len();
        for member in &members {
            let deliveries = member.fetch(5);
            member.settle_all(&deliveries, Verdict::Ack);
            got.extend(texts(&deliveries));
        }
        if got.len() == before {
            wait_for_either(&members, rings, deadline, got.len());
        }
    }
    members.iter().for_each(Consumer::nothing);
    got.sort_unstable();
    assert_eq!(got, sent, "each event goes to one member");
}

/// Which member an event is for is the backend's choice, so both are looked at in turns.
fn wait_for_either(members: &[Consumer; 2], rings: [u64; 2], deadline: std::time::Instant, got: usize) {
    while members.each_ref().map(|member| member.bell.rings()) == rings {
        assert!(std::time::Instant::now() < deadline, "{got} of 40 events came");
        std::thread::yield_now();
    }
}

pub fn a_group_goes_on_where_it_was(bench: &Bench) {
    let topic = bench.topic();
    bench.events(&topic, &["a", "b"]);
    let first = bench.member(&topic, "g");
    assert_eq!(first.ack(2), ["a", "b"]);
    first.source.close();
    bench.events(&topic, &["c", "d"]);
    let second = bench.member(&topic, "g");
    assert_eq!(second.ack(2), ["c", "d"]);
    second.nothing();
}

pub fn unsettled_events_come_again_to_the_group(bench: &Bench) {
    let topic = bench.topic();
    bench.events(&topic, &["a", "b", "c"]);
    let first = bench.member(&topic, "g");
    let out = first.take(2);
    first.settle(&out[0], Verdict::Ack);
    first.source.close();
    let again = bench.member(&topic, "g").take(2);
    assert_eq!(texts(&again), ["b", "c"]);
    assert!(again[0].redelivered, "an event that was out is marked when it comes again");
}

fn private(bench: &Bench, topic: &str, start: Start) -> Consumer {
    bench.subscribe(SubscribeSpec { group: Group::Private, start, ..spec(topic, TopicKind::Event) })
}

pub fn a_private_group_sees_all_from_now_on(bench: &Bench) {
    let topic = bench.topic();
    bench.events(&topic, &["before"]);
    let consumer = private(bench, &topic, Start::Latest);
    consumer.nothing();
    bench.events(&topic, &["after"]);
    assert_eq!(consumer.ack(1), ["after"]);
}

pub fn private_groups_do_not_share(bench: &Bench) {
    let topic = bench.topic();
    let consumers = [private(bench, &topic, Start::Latest), private(bench, &topic, Start::Latest)];
    bench.events(&topic, &["a", "b"]);
    for consumer in &consumers {
        assert_eq!(consumer.take(2).iter().map(text).collect::<Vec<_>>(), ["a", "b"]);
    }
    consumers[0].source.close();
    bench.events(&topic, &["c"]);
    assert_eq!(texts(&consumers[1].take(1)), ["c"]);
}
