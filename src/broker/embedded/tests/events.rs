//! Event topics.

use super::*;

fn offsets(deliveries: &[Delivery]) -> Vec<i64> {
    deliveries.iter().map(|delivery| delivery.offset).collect()
}

#[test]
fn every_group_sees_every_event_and_members_share_partitions() {
    with_both(|house| {
        let other = house.subscribe(&event_spec("e", "other"));
        let pair = [house.subscribe(&event_spec("e", "g")), house.subscribe(&event_spec("e", "g"))];
        for number in 0..40 {
            house.event("e", &format!("k{}", number % 8), &number.to_string());
        }
        assert_eq!(other.all().len(), 40);
        let shares = pair.each_ref().map(|member| member.all());
        assert_eq!(shares[0].len() + shares[1].len(), 40);
        let parts =
            |own: &Vec<Delivery>| own.iter().map(|own| own.partition).collect::<std::collections::BTreeSet<_>>();
        assert!(parts(&shares[0]).is_disjoint(&parts(&shares[1])));
        assert_eq!(
            parts(&shares[0]).len() + parts(&shares[1]).len(),
            house.describe("e").partitions.iter().filter(|own| own.1 > 0).count()
        );
    });
}

#[test]
fn events_without_a_key_keep_their_order() {
    with_both(|house| {
        let names: Vec<String> = (0..50).map(|number| number.to_string()).collect();
        for name in &names {
            house.event("e", "", name);
        }
        let got = house.subscribe(&event_spec("e", "g")).all();
        assert_eq!(texts(&got), names);
        assert_eq!(offsets(&got), (0..50).collect::<Vec<_>>());
    });
}

#[test]
fn a_replay_merges_partitions_and_topics_in_order_of_publishing() {
    with_both(|house| {
        let names: Vec<String> = (0..60).map(|number| number.to_string()).collect();
        for (number, name) in names.iter().enumerate() {
            house.event(["e.a", "e.b"][number % 2], &format!("k{}", number % 7), name);
        }
        let spec = SubscribeSpec { read_only: true, stop: Stop::Now, prefetch: 5, ..event_spec("e.*", "g") };
        let replay = house.subscribe(&spec);
        house.event("e.a", "k1", "too late");
        let got = replay.all();
        assert_eq!(texts(&got), names);
        assert_eq!(replay.flow(), Flow::End);
        assert!(house.describe("e.a").lag.is_empty());
        assert_eq!(house.subscribe(&event_spec("e.*", "g")).all().len(), 61);
    });
}

#[test]
fn offsets_are_kept_per_group_topic_and_partition() {
    with_both(|house| {
        for number in 0..10 {
            house.event("e", "k", &number.to_string());
            house.event("f", "k", &number.to_string());
        }
        let reader = house.subscribe(&event_spec("e", "g"));
        let out = reader.all();
        reader.ack(&out[..4]);
        reader.ack(&out[6..7]);
        assert_eq!((house.describe("e").lag["g"], house.describe("e").unsettled), (5, 5));
        reader.source.close();
        let next = house.subscribe(&SubscribeSpec { start: Start::Latest, ..event_spec("e", "g") });
        let again = next.all();
        assert_eq!(texts(&again), ["4", "5", "7", "8", "9"]);
        assert!(again.iter().all(|own| own.redelivered && own.attempt == 2));
        assert_eq!(house.subscribe(&event_spec("f", "g")).all().len(), 10);
    });
}

#[test]
fn a_new_group_starts_where_it_asks() {
    with_both(|house| {
        for number in 0..10 {
            house.event("e", "", &number.to_string());
            house.advance(10);
        }
        let from = |start, group: &str| {
            let reader = house.subscribe(&SubscribeSpec { start, ..event_spec("e", group) });
            texts(&reader.all()).first().map(|text| text.to_string())
        };
        assert_eq!(from(Start::Earliest, "a").as_deref(), Some("0"));
        assert_eq!(from(Start::Latest, "b"), None);
        assert_eq!(from(Start::Offset(7), "c").as_deref(), Some("7"));
        let at = house.clock.wall_us() - 45_000;
        assert_eq!(from(Start::Time(at), "d").as_deref(), Some("6"));
        assert_eq!(from(Start::Time(house.clock.wall_us() + 1), "e"), None);
        assert_eq!(from(Start::Offset(-5), "f").as_deref(), Some("0"));
    });
}

#[test]
fn a_subscription_ends_at_its_stop_once_all_is_settled() {
    with_both(|house| {
        for number in 0..4 {
            house.event("e", "k", &number.to_string());
            house.advance(10);
        }
        let reader = house.subscribe(&SubscribeSpec { stop: Stop::Now, ..event_spec("e", "g") });
        house.event("e", "k", "late");
        let out = reader.all();
        assert_eq!(out.len(), 4);
        assert_eq!(reader.flow(), Flow::Idle);
        reader.settle(&out[0], Verdict::Retry(millis(5)));
        reader.ack(&out[1..]);
        assert_eq!(reader.flow(), Flow::Idle);
        house.advance(5);
        let again = reader.all();
        assert_eq!(again[0].attempt, 2);
        reader.signals.take();
        reader.ack(&again);
        assert_eq!((reader.signals.take(), reader.flow()), (1, Flow::End));
        let until = house.clock.wall_us() - 30_000;
        let spec = SubscribeSpec { stop: Stop::Time(until), read_only: true, ..event_spec("e", "h") };
        assert_eq!(texts(&house.subscribe(&spec).all()), ["0", "1"]);
    });
}

#[test]
fn a_retry_does_not_block_the_partition() {
    with_both(|house| {
        let reader = house.subscribe(&event_spec("e", "g"));
        house.event("e", "k", "a");
        house.event("e", "k", "b");
        let out = reader.fetch(1);
        reader.settle(&out[0], Verdict::Retry(millis(30)));
        let next = reader.all();
        assert_eq!(texts(&next), ["b"]);
        reader.ack(&next);
        assert_eq!(house.describe("e").lag["g"], 1);
        reader.signals.take();
        house.advance(30);
        assert_eq!(reader.signals.take(), 1);
        let again = reader.all();
        assert_eq!((texts(&again), again[0].attempt, again[0].redelivered), (vec!["a"], 2, true));
        reader.settle(&again[0], Verdict::Return);
        assert_eq!(reader.all()[0].attempt, 2);
    });
}

#[test]
fn ordered_by_key_hands_one_of_a_key_at_a_time_and_lets_a_retry_be_passed() {
    with_both(|house| {
        let reader = house.subscribe(&SubscribeSpec { ordered: Ordered::Key, ..event_spec("e", "g") });
        for (key, text) in [("k", "k1"), ("k", "k2"), ("l", "l1"), ("k", "k3")] {
            house.event("e", key, text);
        }
        let out = reader.all();
        assert_eq!(texts(&out), ["k1", "l1"]);
        reader.signals.take();
        reader.settle(&out[0], Verdict::Retry(millis(10)));
        assert_eq!(reader.signals.take(), 1);
        let second = reader.all();
        assert_eq!(texts(&second), ["k2"]);
        house.advance(10);
        assert_eq!(reader.flow(), Flow::Idle);
        reader.ack(&second);
        let third = reader.all();
        assert_eq!(texts(&third), ["k1"]);
        reader.ack(&third);
        assert_eq!(texts(&reader.all()), ["k3"]);
    });
}

#[test]
fn strict_order_waits_for_the_retry() {
    with_both(|house| {
        let reader = house.subscribe(&SubscribeSpec { ordered: Ordered::Strict, ..event_spec("e", "g") });
        for (key, text) in [("k", "k1"), ("k", "k2"), ("l", "l1")] {
            house.event("e", key, text);
        }
        let out = reader.all();
        assert_eq!(texts(&out), ["k1", "l1"]);
        reader.settle(&out[0], Verdict::Retry(millis(10)));
        assert_eq!(reader.flow(), Flow::Idle);
        house.advance(10);
        let again = reader.all();
        assert_eq!(texts(&again), ["k1"]);
        reader.ack(&again);
        assert_eq!(texts(&reader.all()), ["k2"]);
    });
}

#[test]
fn partitions_move_when_members_come_and_go_and_nothing_is_handed_twice() {
    with_both(|house| {
        let one = house.subscribe(&event_spec("e", "g"));
        for number in 0..20 {
            house.event("e", &format!("k{number}"), "x");
        }
        let first = one.fetch(10);
        let other = house.subscribe(&event_spec("e", "g"));
        let mut got: Vec<_> = [&first, &one.all(), &other.all()]
            .iter()
            .flat_map(|some| some.iter().map(|own| (own.partition, own.offset)))
            .collect();
        got.sort_unstable();
        got.dedup();
        assert_eq!(got.len(), 20);
        one.ack(&first);
        other.signals.take();
        one.source.close();
        assert_eq!(other.signals.take(), 1);
        let rest = other.all();
        assert!(rest.iter().all(|own| own.redelivered && own.attempt == 2));
        assert_eq!(house.describe("e").unsettled, 10);
    });
}

#[test]
fn seek_moves_running_consumers_and_old_deliveries_have_no_effect() {
    with_both(|house| {
        for number in 0..10 {
            house.event("e", "", &number.to_string());
        }
        let reader = house.subscribe(&event_spec("e", "g"));
        let old = reader.all();
        assert_eq!(reader.flow(), Flow::Idle);
        reader.signals.take();
        reader.source.seek(Start::Offset(3)).unwrap();
        assert_eq!(reader.signals.take(), 1);
        reader.ack(&old);
        assert_eq!(house.describe("e").lag["g"], 7);
        let again = reader.all();
        assert_eq!(texts(&again), ["3", "4", "5", "6", "7", "8", "9"]);
        assert_eq!(again[0].attempt, 1);
        let worker = house.subscribe(&task_spec("q"));
        assert_eq!(worker.source.seek(Start::Earliest).unwrap_err().kind(), Kind::Unsupported);
    });
}

#[test]
fn a_private_group_starts_at_the_end_and_leaves_nothing() {
    with_both(|house| {
        house.event("e", "", "before");
        let spec = SubscribeSpec { group: Group::Private, start: Start::Latest, ..event_spec("e", "") };
        let (one, other) = (house.subscribe(&spec), house.subscribe(&spec));
        house.event("e", "", "after");
        assert_eq!((texts(&one.all()), texts(&other.all())), (vec!["after"], vec!["after"]));
        one.source.close();
        other.source.close();
        assert_eq!((house.describe("e").consumers, house.describe("e").lag.len()), (0, 0));
    });
}

#[test]
fn an_event_lease_ends_by_time() {
    with_both(|house| {
        let reader = house.subscribe(&SubscribeSpec { lease: Some(millis(100)), prefetch: 1, ..event_spec("e", "g") });
        house.event("e", "", "a");
        let out = reader.all();
        reader.signals.take();
        house.advance(100);
        assert_eq!(*reader.signals.revoked.lock(), [out[0].tag]);
        assert!(reader.signals.take() > 0);
        let again = reader.all();
        assert_eq!((again[0].attempt, again[0].redelivered), (2, true));
    });
}

#[test]
fn a_pattern_finds_topics_made_later() {
    with_both(|house| {
        let reader = house.subscribe(&SubscribeSpec { start: Start::Latest, ..event_spec("user.*", "g") });
        assert_eq!(reader.flow(), Flow::Idle);
        reader.signals.take();
        house.event("user.created", "k", "a");
        house.event("users.created", "k", "x");
        assert!(reader.signals.take() > 0);
        house.event("user.gone", "k", "b");
        let got = reader.all();
        assert_eq!(texts(&got), ["a", "b"]);
        reader.ack(&got);
        assert_eq!(house.describe("user.gone").lag["g"], 0);
    });
}

#[test]
fn expired_events_are_passed_over_and_counted_once() {
    with_both(|house| {
        house.publish("e", TopicKind::Event, &[Record { ttl_ms: 10, ..Record::new(b"old") }, Record::new(b"new")]);
        house.advance(10);
        for group in ["g", "h"] {
            let reader = house.subscribe(&event_spec("e", group));
            let got = reader.all();
            assert_eq!(texts(&got), ["new"]);
            reader.ack(&got);
            assert_eq!(house.describe("e").lag[group], 0);
        }
        assert_eq!(house.describe("e").expired, 1);
        let taken = house.publish("e", TopicKind::Event, &[Record { delay_ms: 1, ..Record::new(b"x") }]);
        assert_eq!(taken.stopped.unwrap().kind(), Kind::Unsupported);
    });
}

#[test]
fn unsettled_events_are_counted_when_the_broker_closes() {
    with_both(|house| {
        let reader = house.subscribe(&event_spec("e", "g"));
        house.event("free", "", "no group");
        for _ in 0..3 {
            house.event("e", "", "x");
        }
        reader.ack(&reader.fetch(1));
        assert_eq!(now(house.broker.close(Moment::NEVER)).unwrap().lost, 2);
        assert_eq!(reader.flow(), Flow::End);
        assert_eq!(reader.source.seek(Start::Earliest).unwrap_err().kind(), Kind::Closed);
    });
}
