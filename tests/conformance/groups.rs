//! Groups: who sees which events.

use helixmq::broker::{Group, Start, SubscribeSpec, Verdict};
use helixmq::message::TopicKind;

use crate::harness::{ack_from_any, keyed, spec, text, texts, Bench, Consumer};

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
    let mut got = ack_from_any(&members, sent.len());
    members.iter().for_each(Consumer::nothing);
    got.sort_unstable();
    assert_eq!(got, sent, "each event goes to one member");
}

pub fn a_group_goes_on_where_it_was(bench: &Bench) {
    let topic = bench.topic();
    bench.group(&topic, "g");
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
    bench.group(&topic, "g");
    bench.events(&topic, &["a", "b", "c"]);
    let first = bench.member(&topic, "g");
    let out = first.take(2);
    first.settle(&out[0], Verdict::Ack);
    first.source.close();
    let mut again = bench.member(&topic, "g").take(2);
    again.sort_by_key(text);
    let left: Vec<&str> = ["a", "b", "c"].into_iter().filter(|own| *own != text(&out[0])).collect();
    assert_eq!(texts(&again), left);
    let was_out = again.iter().find(|delivery| text(delivery) == text(&out[1])).expect("what was out comes again");
    assert!(was_out.redelivered, "an event that was out is marked when it comes again");
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
