//! One after another: they stop the server under each other.

use helixmq::broker::Level;
use helixmq::config::options::TopicSelector;
use helixmq::error::{Fate, Kind};
use helixmq::message::HeaderBlock;

use super::*;

#[test]
fn a_task_goes_through_the_server_and_comes_back() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    let receipt = publish(&hub, &topic, "work").unwrap();
    assert_eq!((receipt.level, receipt.backend.name()), (Level::Broker, "rabbitmq"));
    let incoming = next(&inbox);
    assert_eq!((text(&incoming).as_str(), incoming.attempt), ("work", 1));
    assert_eq!(incoming.message.id().as_str(), receipt.id.text().as_str());
    ack(&incoming);
    hub.close(WAIT).unwrap();
}

#[test]
fn a_failing_task_is_retried_by_way_of_the_server_and_becomes_a_dead_letter() {
    let _alone = alone();
    let hub = hub(json!({"retry": {"attempts": 3, "delay_ms": 1000, "jitter": false}}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    publish(&hub, &topic, "bad").unwrap();
    let start = Instant::now();
    for attempt in 1..=3 {
        let incoming = next(&inbox);
        assert_eq!((text(&incoming).as_str(), incoming.attempt), ("bad", attempt));
        settle(incoming.token, Decision::Retry { delay: None, reason: "no luck" }).unwrap();
    }
    assert!(start.elapsed() >= Duration::from_secs(3), "one and two seconds, not {:?}", start.elapsed());
    let dead = dead_letter(&hub, &topic);
    assert_eq!((&dead["reason"], &dead["attempts"]), (&json!("no luck"), &json!(3)));
    sub.close(WAIT).unwrap();
    hub.close(WAIT).unwrap();
}

#[test]
fn a_delayed_task_comes_at_its_time() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    let start = Instant::now();
    let delayed = Record { delay_ms: 2500, ..Record::new(b"late") };
    hub.publish(&topic, Some(TopicKind::Task), &delayed, None, WAIT).unwrap();
    publish(&hub, &topic, "early").unwrap();
    assert_eq!(text(&next(&inbox)), "early");
    assert_eq!(text(&next(&inbox)), "late");
    let took = start.elapsed();
    assert!((Duration::from_millis(2900)..Duration::from_secs(5)).contains(&took), "3 s, not {took:?}");
    hub.close(WAIT).unwrap();
}

/// F17: the client library gives half of the returns to the wrong publishes.
#[test]
fn f17_each_return_is_told_of_its_own_publish() {
    let _alone = alone();
    let hub = hub(json!({"publish_window": 6000}));
    let (there, gone) = (topic(), topic());
    let inbox = hub.inbox(InboxOptions::from_json(r#"{"capacity": 8000}"#).unwrap()).unwrap();
    let publishers = [&there, &gone].map(|topic| {
        publish(&hub, topic, "first").unwrap();
        publisher(&hub, topic)
    });
    server(&["ctl", "delete_queue", &gone]);
    for index in 0..5000_u64 {
        let (count, failed) = publishers[(index % 2) as usize].send_inbox(&[Record::new(b"x")], &[index], &inbox, None);
        assert_eq!(count, 1, "{failed:?}");
    }
    let mut events = Vec::new();
    let mut wrong = Vec::new();
    let mut told = 0;
    let mut returned = 0;
    while told < 5000 {
        assert_eq!(inbox.poll(1000, WAIT, &mut events), Polled::Data, "{told} were told");
        for event in events.drain(..) {
            let Event::Published { tag, result, .. } = event else { panic!("{event:?}") };
            told += 1;
            match (tag % 2, result) {
                (0, Ok(_)) => {}
                (1, Err(error)) if error.kind() == Kind::Unroutable => returned += 1,
                // Some time after the first return the queue is made again.
                (1, Ok(_)) if returned > 0 => {}
                (_, result) => wrong.push((tag, result.map(drop))),
            }
        }
    }
    assert!(wrong.is_empty(), "{} of 5000: {:?}", wrong.len(), wrong.first());
    assert!(returned > 0);
    hub.close(WAIT).unwrap();
}

/// F02: a clean stop.
#[test]
fn f02_both_ends_go_on_after_the_server_was_stopped() {
    both_ends_go_on("stop", "quorum");
}

/// On classic queues: a quorum queue that was made moments before its only node was killed may come
/// back without a leader (3.10.8), and then no client can use it.
#[test]
fn both_ends_go_on_after_the_server_was_killed() {
    both_ends_go_on("kill", "classic");
}

fn both_ends_go_on(how: &str, queue_type: &str) {
    let _alone = alone();
    let hub = hub(json!({"rabbitmq": {"queue_type": queue_type}}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    publish(&hub, &topic, "done").unwrap();
    publish(&hub, &topic, "before").unwrap();
    let (done, before) = (next(&inbox), next(&inbox));
    server(&[how]);
    until("the loss", || !is_up(&hub));
    let refused = publish(&hub, &topic, "meanwhile").unwrap_err();
    assert_eq!((refused.kind(), refused.fate()), (Kind::BackendDown, Some(Fate::NotSent)));
    ack(&done);
    let retry = Decision::Retry { delay: None, reason: "" };
    assert_eq!(settle(before.token, retry).unwrap_err().kind(), Kind::Stale);
    server(&["start"]);
    until("the return", || is_up(&hub));
    // Neither was acknowledged, so the server hands both over again; what was done is not run again.
    let again = next(&inbox);
    assert_eq!((text(&again).as_str(), again.redelivered), ("before", true));
    ack(&again);
    publish(&hub, &topic, "after").unwrap();
    let after = next(&inbox);
    assert_eq!(text(&after), "after");
    ack(&after);
    assert_eq!(metric(&hub, "helixmq_ledger_acked_total"), 1);
    hub.close(WAIT).unwrap();
}

/// F14 (`on_outage: fail`): no server at the start; opening says so, and connects when it can.
#[test]
fn f14_a_hub_opens_without_its_server_and_finds_it_later() {
    let _alone = alone();
    server(&["kill"]);
    let start = Instant::now();
    let hub = hub(json!({"connection_timeout_ms": 1000}));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(publish(&hub, "tasks.x", "x").unwrap_err().kind(), Kind::BackendDown);
    server(&["start"]);
    until("a connection", || is_up(&hub));
    publish(&hub, &topic(), "x").unwrap();
    hub.close(WAIT).unwrap();
}

/// F50: a wrong password is told, is not in the text, and is not tried in a tight loop.
#[test]
fn f50_a_wrong_password_is_refused_and_not_repeated_at_once() {
    let _alone = alone();
    let canary = "hunter2-canary";
    let hub = hub(json!({"rabbitmq": {"username": "nobody", "password": canary}}));
    until("the refusal", || state(&hub) == "refused");
    let failed = publish(&hub, "tasks.x", "x").unwrap_err();
    assert_eq!(failed.kind(), Kind::BackendDown);
    let told = format!("{failed} {}", hub.health());
    assert!(told.contains("ACCESS") && !told.contains(canary), "{told}");
    let before = attempts(&hub);
    let _ = inbox(&hub).poll(1, Some(Duration::from_millis(1500)), &mut Vec::new());
    assert_eq!(attempts(&hub), before);
    hub.close(WAIT).unwrap();
}

/// F15: a queue that is deleted under its consumer is made again.
#[test]
fn f15_a_queue_deleted_under_its_consumer_comes_back() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    publish(&hub, &topic, "1").unwrap();
    ack(&next(&inbox));
    server(&["ctl", "delete_queue", &topic]);
    until("a publish", || publish(&hub, &topic, "2").is_ok());
    assert_eq!(text(&next(&inbox)), "2");
    hub.close(WAIT).unwrap();
}

/// F10, F11 (`on_outage: fail`): under a memory alarm publishes fail by their cause, and
/// acknowledgements still flow, as they have a connection of their own.
#[test]
fn f11_acknowledgements_flow_during_an_alarm() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (topic, inbox) = (topic(), inbox(&hub));
    for number in 0..50 {
        publish(&hub, &topic, &number.to_string()).unwrap();
    }
    let _sub = subscribe(&hub, json!({"topic": topic, "prefetch": 5}), &inbox);
    server(&["ctl", "set_vm_memory_high_watermark", "absolute", "1000000"]);
    // The server tells a publisher when it next writes.
    until("the alarm", || publish(&hub, &topic, "more").is_err());
    for _ in 0..50 {
        ack(&next(&inbox));
    }
    // Questions go the same way.
    let selector = TopicSelector::from_json(&json!({"name": topic}).to_string()).unwrap();
    assert_eq!(hub.describe(&selector, WAIT).unwrap()[0]["name"], topic);
    server(&["ctl", "set_vm_memory_high_watermark", "0.6"]);
    until("the end of the alarm", || is_up(&hub) && publish(&hub, &topic, "last").is_ok());
    hub.close(WAIT).unwrap();
}

#[test]
fn events_reach_each_group_and_patterns_work() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (one, two) = (inbox(&hub), inbox(&hub));
    let name = format!("user-{}", std::process::id());
    let _subs = [
        subscribe(&hub, json!({"topic": format!("{name}.*"), "group": "one"}), &one),
        subscribe(&hub, json!({"topic": format!("{name}.#"), "group": "two"}), &two),
    ];
    for topic in ["created", "created.twice"] {
        let record = Record { key: Some(b"k"), ..Record::new(topic.as_bytes()) };
        hub.publish(&format!("{name}.{topic}"), None, &record, None, WAIT).unwrap();
    }
    let first = next(&one);
    assert_eq!((text(&first).as_str(), &**first.message.topic()), ("created", format!("{name}.created").as_str()));
    ack(&first);
    assert!(next_within(&one, Duration::from_millis(200)).is_none());
    for expected in ["created", "created.twice"] {
        let incoming = next(&two);
        assert_eq!((text(&incoming).as_str(), incoming.message.key()), (expected, Some(&b"k"[..])));
        ack(&incoming);
    }
    hub.close(WAIT).unwrap();
}

/// Each of them would make the server close the connection under everything else that is on it.
#[test]
fn what_the_server_cannot_hold_is_refused_before_it_gets_there() {
    let _alone = alone();
    let hub = hub(json!({}));
    let topic = topic();
    publish(&hub, &topic, "first").unwrap();
    let before = hub.health()["backends"].clone();
    let [mut copies, mut many, mut long] = [(); 3].map(|()| HeaderBlock::default());
    copies.push("CC", b"elsewhere");
    long.push(&"n".repeat(256), b"cut to 255, it would be another");
    (0..60).for_each(|index| many.push(&format!("h{index}"), &[b'v'; 8000]));
    let good = Record::new(b"x");
    for (wrong, kind) in [
        (Record { headers: copies.headers(), ..good }, Kind::Header),
        (Record { headers: many.headers(), ..good }, Kind::Header),
        (Record { headers: long.headers(), ..good }, Kind::Header),
        (Record { ttl_ms: 5_000_000_000, ..good }, Kind::Unsupported),
    ] {
        let refused = hub.publish(&topic, Some(TopicKind::Task), &wrong, None, WAIT).unwrap_err();
        assert_eq!(refused.kind(), kind, "{refused}");
    }
    publish(&hub, &topic, "last").unwrap();
    assert_eq!(hub.health()["backends"], before, "the connection stood");
    hub.close(WAIT).unwrap();
}

#[test]
fn a_delayed_task_keeps_its_time_to_live() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    let start = Instant::now();
    for (payload, delay_ms, ttl_ms) in [("never", 3000, 1000), ("later", 3000, 60_000)] {
        let record = Record { delay_ms, ttl_ms, ..Record::new(payload.as_bytes()) };
        hub.publish(&topic, Some(TopicKind::Task), &record, None, WAIT).unwrap();
    }
    assert_eq!(text(&next(&inbox)), "later");
    assert!(start.elapsed() >= Duration::from_secs(3), "not at the end of the time to live of the other");
    assert!(next_within(&inbox, Duration::from_secs(1)).is_none());
    hub.close(WAIT).unwrap();
}

/// Another program deletes the queue; who consumes from it makes it again, who publishes to it does
/// not know.
#[test]
fn a_queue_that_was_made_again_gets_its_delayed_tasks() {
    let _alone = alone();
    let (producer, worker) = (hub(json!({})), hub(json!({})));
    let (topic, inbox) = (topic(), inbox(&worker));
    let _sub = subscribe(&worker, json!({"topic": topic}), &inbox);
    let delayed = Record { delay_ms: 2000, ..Record::new(b"late") };
    for _ in 0..2 {
        producer.publish(&topic, Some(TopicKind::Task), &delayed, None, WAIT).unwrap();
        ack(&next(&inbox));
        server(&["ctl", "delete_queue", &topic]);
    }
    for hub in [producer, worker] {
        hub.close(WAIT).unwrap();
    }
}

/// The queue of a pattern has a name without wildcards: it would get the retries of others.
#[test]
fn a_retry_goes_back_to_its_own_group() {
    let _alone = alone();
    let hub = hub(json!({}));
    let name = topic().replace("tasks.", "user.");
    let inboxes = [format!("{name}.*"), format!("{name}.x")].map(|pattern| {
        let inbox = inbox(&hub);
        let options = json!({"topic": pattern, "kind": "event", "retry": {"delay_ms": 1000, "jitter": false}});
        (subscribe(&hub, options, &inbox), inbox)
    });
    hub.publish(&format!("{name}.x"), Some(TopicKind::Event), &Record::new(b"event"), None, WAIT).unwrap();
    for (_, inbox) in &inboxes {
        settle(next(inbox).token, Decision::Retry { delay: None, reason: "later" }).unwrap();
    }
    for (_, inbox) in &inboxes {
        let again = next(inbox);
        assert_eq!(again.attempt, 2);
        ack(&again);
    }
    for (_, inbox) in &inboxes {
        assert!(next_within(inbox, Duration::from_secs(1)).is_none(), "one copy for each");
    }
    hub.close(WAIT).unwrap();
}

/// More than are taken from the client library at once.
#[test]
fn a_backlog_arrives_whole_with_a_large_prefetch() {
    a_backlog_arrives_in_order(2000, 2000);
}

/// A ring that came while deliveries were buffered was forgotten, and nothing came any more.
#[test]
fn a_backlog_arrives_whole_with_a_small_prefetch() {
    a_backlog_arrives_in_order(8000, 5);
}

fn a_backlog_arrives_in_order(messages: usize, prefetch: usize) {
    let _alone = alone();
    let hub = hub(json!({"publish_window": messages}));
    let (topic, incoming) = (topic(), inbox(&hub));
    let results = hub.inbox(InboxOptions::from_json(&json!({"capacity": messages}).to_string()).unwrap()).unwrap();
    let publisher = publisher(&hub, &topic);
    let payloads: Vec<String> = (0..messages).map(|index| index.to_string()).collect();
    let records: Vec<Record<'_>> = payloads.iter().map(|payload| Record::new(payload.as_bytes())).collect();
    let (count, failed) = publisher.send_inbox(&records, &[], &results, None);
    assert_eq!(count, messages, "{failed:?}");
    hub.flush(WAIT).unwrap();
    let _sub = subscribe(&hub, json!({"topic": topic, "prefetch": prefetch}), &incoming);
    for payload in &payloads {
        let delivery = next(&incoming);
        assert_eq!(text(&delivery), *payload);
        ack(&delivery);
    }
    hub.close(WAIT).unwrap();
}

#[test]
fn a_user_with_rights_on_task_queues_alone_can_use_them() {
    let _alone = alone();
    let user = User::with("limited", TASKS_ALONE);
    let hub = user.hub(json!({}));
    let inbox = inbox(&hub);
    let (first, second) = (topic(), topic());
    let _sub = subscribe(&hub, json!({"topic": first}), &inbox);
    publish(&hub, &first, "work").unwrap();
    publish(&hub, &second, "more").unwrap();
    assert_eq!(text(&next(&inbox)), "work");
    hub.close(WAIT).unwrap();
}

/// A number that the server has of the connections of a hub with this name, added up.
fn told_of(name: &str, what: &str) -> usize {
    let told = tool("rabbitmq.sh", &["ctl", "list_connections", "client_properties", what]);
    let own = told.lines().filter(|line| line.contains(name));
    own.filter_map(|line| line.rsplit('\t').next()?.parse::<usize>().ok()).sum()
}

/// A connection has 2,047 channels.
#[test]
fn questions_leave_no_channels_behind_and_health_asks_none() {
    let _alone = alone();
    let topic = topic();
    let hub = hub(json!({"name": topic}));
    publish(&hub, &topic, "work").unwrap();
    let selector = TopicSelector::from_json(&json!({"name": topic}).to_string()).unwrap();
    let describe = || hub.describe(&selector, WAIT).unwrap()[0]["messages"] == 1;
    until("it is there", describe);
    let mut channels = 0;
    until("the channel of the last question to go", || {
        let now = told_of(&topic, "channels");
        std::mem::replace(&mut channels, now) == now && now > 0
    });
    (0..20).for_each(|_| assert!(describe()));
    until("their channels to go", || told_of(&topic, "channels") <= channels);
    let before = told_of(&topic, "recv_oct");
    (0..50).for_each(|_| drop(hub.health()));
    // Both connections may have sent their signs of life.
    let sent = told_of(&topic, "recv_oct") - before;
    assert!(sent < 50, "{sent} bytes for 50 looks at health");
    hub.close(WAIT).unwrap();
}

/// Many on their way at once: one by one, a confirm for each, it would take a second.
#[test]
fn a_batch_is_pipelined_and_tells_of_each_record() {
    let _alone = alone();
    let hub = hub(json!({"publish_window": 100}));
    let topic = topic();
    let publisher = hub.publisher(PublisherOptions::from_json(&json!({"topic": topic}).to_string()).unwrap()).unwrap();
    publish(&hub, &topic, "first").unwrap();
    let mut each = vec![-1; 1000];
    let records = vec![Record::new(b"x"); 1000];
    assert_eq!(publisher.send_batch(&records, WAIT, Some(&mut each)).0, 1000);
    assert!(each.iter().all(|status| *status == 0));
    let selector = TopicSelector::from_json(&json!({"name": topic}).to_string()).unwrap();
    until("all in the queue", || hub.describe(&selector, WAIT).unwrap()[0]["messages"] == 1001);

    // A header that the server would cut is refused by itself, and stops the batch.
    let (name, mut headers) = ("n".repeat(256), HeaderBlock::default());
    headers.push(&name, b"v");
    let mut records = vec![Record::new(b"x"); 5];
    records[2].headers = headers.headers();
    let (count, failed) = publisher.send_batch(&records, WAIT, Some(&mut each));
    assert_eq!((count, failed.unwrap().kind()), (2, Kind::Header));
    assert_eq!(each[..5], [0, 0, Kind::Header.code(), Kind::Cancelled.code(), Kind::Cancelled.code()]);
    let (results, mut ops) = (inbox(&hub), vec![7; 5]);
    let (count, failed) = publisher.send_inbox(&records, &[0; 5], &results, Some(&mut ops));
    assert_eq!((count, failed.unwrap().kind()), (2, Kind::Header));
    assert!(ops[..2].iter().all(|op| *op > 0) && ops[2..] == [0; 3], "{ops:?}");

    // Told late: those that were on their way by then have outcomes of their own.
    server(&["ctl", "delete_queue", &topic]);
    let (count, failed) = publisher.send_batch(&vec![Record::new(b"x"); 50], WAIT, Some(&mut each));
    assert_eq!((count, failed.unwrap().kind()), (0, Kind::Unroutable));
    assert!(each[..50].iter().all(|status| [Kind::Unroutable.code(), Kind::Cancelled.code()].contains(status)));
    assert_eq!(each[0], Kind::Unroutable.code());
    hub.close(WAIT).unwrap();
}

/// Whoever publishes to a queue that does not answer waits for it; the others do not.
#[test]
fn a_queue_that_does_not_answer_holds_up_nobody_else() {
    let _alone = alone();
    let hub = hub(json!({"rabbitmq": {"queue_type": "classic"}}));
    let (stuck, other) = (topic(), topic());
    let lookup = format!("{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{stuck}\">>)), ");
    publish(&hub, &stuck, "makes the queue").unwrap();
    hub.close(WAIT).unwrap();
    server(&["ctl", "eval", &format!("{lookup} sys:suspend(amqqueue:get_pid(Q)).")]);
    let hub = crate::hub(json!({"rabbitmq": {"queue_type": "classic"}}));
    let publisher = |topic: &str| {
        hub.publisher(PublisherOptions::from_json(&json!({"topic": topic}).to_string()).unwrap()).unwrap()
    };
    let told = std::sync::Arc::new(Mutex::new(Vec::new()));
    let publisher = publisher(&stuck);
    for index in 0..3_u8 {
        let told = std::sync::Arc::clone(&told);
        let done = move |result: helixmq::error::Result<_>| told.lock().unwrap().push(result.map(|_| index));
        publisher.send_async(&Record::new(&[index]), Box::new(done)).unwrap();
    }
    let start = Instant::now();
    publish(&hub, &other, "x").unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(told.lock().unwrap().is_empty());
    server(&["ctl", "eval", &format!("{lookup} sys:resume(amqqueue:get_pid(Q)).")]);
    hub.flush(WAIT).unwrap();
    let told: Vec<u8> = told.lock().unwrap().drain(..).map(Result::unwrap).collect();
    assert_eq!(told, [0, 1, 2]);
    hub.close(WAIT).unwrap();
}

/// A quorum queue counts what it gets back from a subscription that is closed. A task that no handler has
/// failed is handed over all the same.
#[test]
fn closing_subscriptions_buries_no_task() {
    let _alone = alone();
    let hub = hub(json!({"retry": {"attempts": 2}}));
    let (topic, inbox) = (topic(), inbox(&hub));
    publish(&hub, &topic, "patient").unwrap();
    for attempt in 1..=5 {
        let sub = subscribe(&hub, json!({"topic": topic}), &inbox);
        let incoming = next(&inbox);
        assert_eq!((text(&incoming).as_str(), incoming.attempt), ("patient", attempt));
        if attempt == 5 {
            ack(&incoming);
        }
        sub.close(WAIT).unwrap();
        while !matches!(inbox.poll(1, WAIT, &mut Vec::new()), Polled::Data) {}
    }
    let query = DeadLetterQuery::from_json(&json!({"topic": topic}).to_string()).unwrap();
    assert_eq!(hub.dead_letters(&query, WAIT).unwrap()["count"], 0);
    hub.close(WAIT).unwrap();
}

/// Another process looks for the dead letters of a topic that it has not used.
#[test]
fn dead_letters_are_found_by_a_hub_that_has_not_seen_them() {
    let _alone = alone();
    let (first, topic) = (hub(json!({})), topic());
    let inbox = inbox(&first);
    let _sub = subscribe(&first, json!({"topic": topic}), &inbox);
    publish(&first, &topic, "bad").unwrap();
    settle(next(&inbox).token, Decision::Reject { reason: "no" }).unwrap();
    first.close(WAIT).unwrap();
    let second = hub(json!({}));
    for name in [&topic, &format!("{topic}.dlq")] {
        dead_letter(&second, name);
    }
    let event = Record { delay_ms: 1000, ..Record::new(b"x") };
    let refused = second.publish("user.x", Some(TopicKind::Event), &event, None, WAIT).unwrap_err();
    assert_eq!((refused.kind(), refused.fate()), (Kind::Unsupported, Some(Fate::Refused)));
    second.close(WAIT).unwrap();
}
