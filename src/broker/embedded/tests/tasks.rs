//! Task queues.

use super::*;

#[test]
fn higher_priorities_go_first_and_equal_ones_in_order() {
    with_both(|house| {
        for round in 0..10u8 {
            for priority in [5u8, 0, 10, 5] {
                let payload = [round, priority];
                let taken = house.publish("q", TopicKind::Task, &[Record { priority, ..Record::new(&payload) }]);
                assert_eq!(taken.count, 1);
            }
        }
        let got = house.subscribe(&task_spec("q")).all();
        let got: Vec<_> = got.iter().map(|own| (own.message.priority(), own.message.payload()[0])).collect();
        let mut sorted = got.clone();
        sorted.sort_by_key(|(priority, round)| (10 - priority, *round));
        assert_eq!(got, sorted);
        assert_eq!(got.len(), 40);
    });
}

#[test]
fn workers_share_and_each_task_goes_to_one() {
    with_both(|house| {
        let (one, other) = (house.subscribe(&task_spec("q")), house.subscribe(&task_spec("q")));
        assert_eq!((one.flow(), other.flow()), (Flow::Idle, Flow::Idle));
        one.signals.take();
        other.signals.take();
        house.tasks("q", &["a", "b", "c", "d"]);
        assert_eq!((one.signals.take(), other.signals.take()), (1, 1));
        let (first, second) = (one.fetch(64), other.fetch(64));
        assert_eq!(texts(&first), ["a", "b"]);
        assert_eq!(texts(&second), ["c"]);
        assert_eq!(texts(&other.all()), ["d"]);
    });
}

#[test]
fn a_message_wakes_one_idle_worker_in_turn() {
    with_both(|house| {
        let workers: Vec<_> = (0..3).map(|_| house.subscribe(&task_spec("q"))).collect();
        for worker in &workers {
            worker.flow();
            worker.signals.take();
        }
        for turn in 0..3 {
            house.tasks("q", &["x"]);
            let woken: Vec<_> = workers.iter().map(|worker| worker.signals.take()).collect();
            assert_eq!(woken.iter().sum::<usize>(), 1);
            assert_eq!(woken[turn], 1);
        }
    });
}

#[test]
fn what_a_closing_worker_was_told_of_goes_to_another() {
    with_both(|house| {
        let (one, other) = (house.subscribe(&task_spec("q")), house.subscribe(&task_spec("q")));
        one.flow();
        other.flow();
        other.signals.take();
        house.tasks("q", &["a"]);
        assert_eq!(other.signals.take(), 0);
        one.source.close();
        assert_eq!(other.signals.take(), 1);
        assert_eq!(texts(&other.all()), ["a"]);
        assert_eq!(one.flow(), Flow::End);
    });
}

#[test]
fn no_more_than_prefetch_is_out_and_a_settle_calls_ready() {
    with_both(|house| {
        let worker = house.subscribe(&SubscribeSpec { prefetch: 2, ..task_spec("q") });
        house.tasks("q", &["a", "b", "c"]);
        let out = worker.all();
        assert_eq!(texts(&out), ["a", "b"]);
        worker.signals.take();
        worker.ack(&out[..1]);
        assert_eq!(worker.signals.take(), 1);
        assert_eq!(texts(&worker.all()), ["c"]);
        assert_eq!(house.describe("q").unsettled, 2);
    });
}

#[test]
fn retry_waits_and_counts_and_return_does_not() {
    with_both(|house| {
        let worker = house.subscribe(&task_spec("q"));
        house.tasks("q", &["a", "b", "c"]);
        let out = worker.all();
        assert_eq!(out.iter().map(|own| own.attempt).collect::<Vec<_>>(), [1, 1, 1]);
        worker.source.settle(&[
            (out[0].tag, Verdict::Retry(millis(50))),
            (out[2].tag, Verdict::Return),
            (out[1].tag, Verdict::Return),
        ]);
        house.tasks("q", &["d"]);
        let again = worker.all();
        assert_eq!(texts(&again), ["b", "c", "d"]);
        assert!(again.iter().all(|own| own.attempt == 1 && !own.redelivered));
        house.advance(49);
        assert_eq!(worker.flow(), Flow::Idle);
        assert_eq!(house.describe("q").delayed, 1);
        worker.signals.take();
        house.advance(1);
        assert_eq!(worker.signals.take(), 1);
        let retried = worker.all();
        assert_eq!((texts(&retried), retried[0].attempt, retried[0].redelivered), (vec!["a"], 2, true));
        worker.settle(&retried[0], Verdict::Retry(Duration::ZERO));
        assert_eq!(worker.all()[0].attempt, 3);
    });
}

#[test]
fn attempts_of_earlier_copies_are_counted() {
    with_both(|house| {
        house.publish("q", TopicKind::Task, &[Record { attempts: 3, ..Record::new(b"x") }]);
        assert_eq!(house.subscribe(&task_spec("q")).all()[0].attempt, 4);
    });
}

#[test]
fn closing_hands_unsettled_tasks_to_others_in_order() {
    with_both(|house| {
        let worker = house.subscribe(&task_spec("q"));
        house.tasks("q", &["a", "b", "c"]);
        let out = worker.all();
        worker.ack(&out[1..2]);
        worker.source.close();
        worker.source.close();
        worker.ack(&out);
        let other = house.subscribe(&task_spec("q"));
        let again = other.all();
        assert_eq!(texts(&again), ["a", "c"]);
        assert!(again.iter().all(|own| own.redelivered && own.attempt == 2));
        other.ack(&again);
        assert_eq!(house.describe("q").bytes, 0);
    });
}

#[test]
fn a_lease_ends_by_time_unless_extended() {
    with_both(|house| {
        let worker = house.subscribe(&SubscribeSpec { lease: Some(millis(100)), ..task_spec("q") });
        house.tasks("q", &["a", "b"]);
        let out = worker.all();
        house.advance(60);
        worker.source.extend(out[1].tag, millis(100)).unwrap();
        house.advance(40);
        assert_eq!(*worker.signals.revoked.lock(), [out[0].tag]);
        assert_eq!(worker.source.settle(&[(out[0].tag, Verdict::Ack)]), [out[0].tag], "too late");
        assert_eq!(worker.source.extend(out[0].tag, millis(1)).unwrap_err().kind(), Kind::Stale);
        let again = worker.all();
        assert_eq!((texts(&again), again[0].attempt, again[0].redelivered), (vec!["a"], 2, true));
        house.advance(60);
        assert_eq!(worker.signals.revoked.lock().len(), 2);
        house.advance(40);
        assert_eq!(worker.signals.revoked.lock().len(), 3);
    });
}

#[test]
fn expired_tasks_are_counted_and_not_delivered() {
    with_both(|house| {
        house.publish(
            "q",
            TopicKind::Task,
            &[
                Record::new(b"stays"),
                Record { ttl_ms: 10, ..Record::new(b"goes") },
                Record { ttl_ms: 30, ..Record::new(b"later") },
            ],
        );
        house.advance(10);
        let worker = house.subscribe(&task_spec("q"));
        let got = worker.all();
        assert_eq!(texts(&got), ["stays", "later"]);
        worker.source.settle(&[(got[1].tag, Verdict::Retry(millis(20)))]);
        house.advance(20);
        assert_eq!(worker.flow(), Flow::Idle);
        let described = house.describe("q");
        assert_eq!((described.expired, described.messages, described.unsettled), (2, 0, 1));
        worker.ack(&got);
        assert_eq!(house.describe("q").bytes, 0);
    });
}

#[test]
fn the_heads_of_a_queue_expire_without_a_consumer_and_by_the_ttl_of_the_topic() {
    with_both(|house| {
        let spec = TopicSpec { ttl: Some(millis(10)), messages_max: Some(2), ..TopicSpec::default() };
        house.declare("q", TopicKind::Task, spec).unwrap();
        house.tasks("q", &["a"]);
        house.advance(5);
        house.tasks("q", &["b"]);
        house.advance(5);
        assert_eq!((house.describe("q").messages, house.describe("q").expired), (1, 1));
        house.advance(5);
        assert_eq!((house.describe("q").bytes, house.describe("q").expired), (0, 2));
    });
}

#[test]
fn a_delayed_task_comes_at_its_time() {
    with_both(|house| {
        let worker = house.subscribe(&task_spec("q"));
        worker.flow();
        worker.signals.take();
        house.publish(
            "q",
            TopicKind::Task,
            &[Record { delay_ms: 20, ..Record::new(b"second") }, Record { delay_ms: 10, ..Record::new(b"first") }],
        );
        assert_eq!((worker.signals.take(), house.describe("q").delayed), (0, 2));
        house.advance(10);
        assert_eq!(worker.signals.take(), 1);
        assert_eq!(texts(&worker.all()), ["first"]);
        house.advance(10);
        assert_eq!(texts(&worker.all()), ["second"]);
    });
}

#[test]
fn a_pattern_takes_from_many_queues_and_from_those_made_later() {
    with_both(|house| {
        house.tasks("jobs.a", &["1"]);
        house.event("jobs.e", "", "not a task");
        let worker = house.subscribe(&task_spec("jobs.*"));
        assert_eq!(texts(&worker.all()), ["1"]);
        worker.signals.take();
        house.tasks("jobs.b", &["2"]);
        house.tasks("other.b", &["x"]);
        assert_eq!(worker.signals.take(), 1);
        house.tasks("jobs.a", &["3"]);
        let mut got = texts(&worker.all()).into_iter().map(String::from).collect::<Vec<_>>();
        got.sort();
        assert_eq!(got, ["2", "3"]);
    });
}

#[test]
fn a_busy_worker_passes_on_what_it_has_no_room_for() {
    with_both(|house| {
        let wide = house.subscribe(&SubscribeSpec { prefetch: 1, ..task_spec("jobs.*") });
        let narrow = house.subscribe(&task_spec("jobs.b"));
        house.tasks("jobs.a", &["a"]);
        wide.flow_or_take();
        // The wide one is idle again on `b`, and is told first.
        narrow.flow();
        narrow.signals.take();
        house.tasks("jobs.b", &["b"]);
        wide.all();
        assert_eq!(texts(&narrow.all()), ["b"]);
    });
}

impl Reader {
    fn flow_or_take(&self) {
        let got = self.all();
        self.ack(&got[..0]);
    }
}

#[test]
fn purge_removes_what_waits_and_leaves_what_is_out() {
    with_both(|house| {
        let worker = house.subscribe(&SubscribeSpec { prefetch: 1, ..task_spec("q") });
        house.tasks("q", &["a", "b", "c"]);
        let out = worker.all();
        let admin = house.broker.admin().unwrap();
        assert_eq!(now(admin.purge("q", Moment::NEVER)).unwrap(), 2);
        assert_eq!((house.describe("q").messages, house.describe("q").unsettled), (0, 1));
        worker.ack(&out);
        assert_eq!(house.describe("q").bytes, 0);
        assert_eq!(now(admin.purge("none", Moment::NEVER)).unwrap_err().kind(), Kind::NotFound);
    });
}

#[test]
fn a_deleted_queue_is_made_again_by_an_old_destination_and_joined_by_old_subscriptions() {
    with_both(|house| {
        let worker = house.subscribe(&task_spec("q"));
        let destination = house.broker.destination("q", TopicKind::Task).unwrap();
        house.publish_to(&*destination, &[Record::new(b"lost")]);
        let out = worker.all();
        house.publish_to(&*destination, &[Record::new(b"lost")]);
        now(house.broker.admin().unwrap().delete("q", Moment::NEVER)).unwrap();
        worker.settle(&out[0], Verdict::Retry(Duration::ZERO));
        assert_eq!(worker.flow(), Flow::Idle);
        assert_eq!(house.publish_to(&*destination, &[Record::new(b"new")]).count, 1);
        assert_eq!(texts(&worker.all()), ["new"]);
        assert_eq!(house.describe("q").consumers, 1);
    });
}

#[test]
fn a_closed_broker_says_so_and_tells_what_was_lost() {
    with_both(|house| {
        let worker = house.subscribe(&SubscribeSpec { prefetch: 1, ..task_spec("q") });
        let destination = house.broker.destination("q", TopicKind::Task).unwrap();
        house.tasks("q", &["out", "waits"]);
        house.publish("q", TopicKind::Task, &[Record { delay_ms: 5, ..Record::new(b"later") }]);
        let out = worker.all();
        assert_eq!(now(house.broker.close(Moment::NEVER)).unwrap(), CloseReport { lost: 3, kept: 0 });
        assert_eq!(house.publish_to(&*destination, &[Record::new(b"x")]).stopped.unwrap().kind(), Kind::Closed);
        assert_eq!(worker.flow(), Flow::End);
        worker.ack(&out);
        let refused = house.broker.destination("q", TopicKind::Task).unwrap_err();
        assert_eq!(refused.kind(), Kind::Closed);
        assert_eq!(house.declare("q", TopicKind::Task, TopicSpec::default()).unwrap_err().kind(), Kind::Closed);
        assert_eq!(now(house.broker.close(Moment::NEVER)).unwrap(), CloseReport::default());
    });
}

#[test]
fn one_name_has_one_kind_and_one_setting() {
    with_both(|house| {
        house.tasks("q", &["x"]);
        assert_eq!(house.broker.destination("q", TopicKind::Event).unwrap_err().kind(), Kind::TopicKind);
        let spec = |max| TopicSpec { messages_max: Some(max), ..TopicSpec::default() };
        assert_eq!(house.declare("r", TopicKind::Task, spec(5)).unwrap(), Declared::Created);
        assert_eq!(house.declare("r", TopicKind::Task, spec(5)).unwrap(), Declared::Existed);
        let conflict = house.declare("r", TopicKind::Task, spec(6)).unwrap_err();
        assert_eq!(conflict.kind(), Kind::Conflict);
        assert!(conflict.message().contains('5') && conflict.message().contains('6'));
        let none = TopicSpec { partitions: Some(0), ..TopicSpec::default() };
        assert_eq!(house.declare("s", TopicKind::Event, none).unwrap_err().kind(), Kind::Arg);
    });
}

/// A topic that is not there was looked for under the lock that the search itself takes.
#[test]
fn what_is_not_there_cannot_be_deleted_or_emptied() {
    with_both(|house| {
        let admin = house.broker.admin().unwrap();
        assert_eq!(now(admin.delete("none", Moment::NEVER)).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(now(admin.purge("none", Moment::NEVER)).unwrap_err().kind(), Kind::NotFound);
    });
}
