//! Kafka's faults: the server stops, dies, stands still, is not there, lies, and forgets topics.
//!
//! A proxy would carry the first connection only: a broker tells its clients where it really is. So what
//! the network does is done by the server itself, or by none.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::sync::atomic::AtomicBool;

use helixmq::error::{Fate, Kind};

use super::fake::{Fake, Peer};
use super::hostile::{noise, suffers_as};
use super::kafka::{alone, delete_topic, event, hub, hub_at, member, port, selector, server, topic};
use super::*;

/// Keeps the server stopped, so that a test that fails leaves it running.
struct Paused;

impl Paused {
    fn server() -> Self {
        server(&["pause"]);
        Self
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        server(&["resume"]);
    }
}

/// Starts the server again, also if the test fails.
struct Stopped;

impl Stopped {
    fn by(how: &str) -> Self {
        server(&[how]);
        Self
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        server(&["start"]);
    }
}

/// Publishes until it works; answers how long that took.
fn published_again(hub: &Hub, topic: &str, payload: &str) -> Duration {
    let start = Instant::now();
    loop {
        let asked = Instant::now();
        let Err(failed) = event(hub, topic, Some("k"), payload) else { return start.elapsed() };
        let told = || format!("{failed}, after {:?}; {} {}", asked.elapsed(), own(hub), hub.health()["state_changes"]);
        if start.elapsed() >= Duration::from_secs(30) {
            let other = super::kafka::hub(json!({}));
            panic!("no publish: {}; by another hub: {:?}", told(), event(&other, topic, Some("k"), payload).map(drop));
        }
        std::thread::yield_now();
    }
}

/// F02: a clean stop.
#[test]
fn f02_both_ends_go_on_after_the_server_was_stopped() {
    both_ends_go_on("stop");
}

#[test]
fn both_ends_go_on_after_the_server_was_killed() {
    both_ends_go_on("kill");
}

fn both_ends_go_on(how: &str) {
    let _alone = alone();
    let hub = hub(json!({}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let _sub = member(&hub, &topic, &inbox, json!({}));
    event(&hub, &topic, Some("k"), "before").unwrap();
    let before = next(&inbox);
    let stopped = Stopped::by(how);
    until("the loss", || !is_up(&hub));
    let refused = event(&hub, &topic, Some("k"), "meanwhile").unwrap_err();
    assert_eq!((refused.kind(), refused.fate()), (Kind::BackendDown, Some(Fate::NotSent)));
    drop(stopped);
    until("the return", || is_up(&hub));
    published_again(&hub, &topic, "after");
    // The group may have kept its partitions, or not: then what was not acknowledged comes again.
    let mut kept = settle(before.token, Decision::Ack).is_ok();
    loop {
        let incoming = next_within(&inbox, Duration::from_secs(30)).unwrap();
        ack(&incoming);
        match text(&incoming).as_str() {
            "before" => kept = true,
            "after" => break,
            other => panic!("{other}"),
        }
    }
    assert!(kept, "what was not acknowledged did not come again");
    hub.close(WAIT).unwrap();
}

/// Every publish has an outcome, those that were confirmed arrive, those that were not sent do not, and
/// keys keep their order.
#[test]
fn a_kill_in_the_middle_of_publishes_is_told_as_it_was() {
    let _alone = alone();
    let (hub, direct) = (hub(json!({})), super::kafka::hub(json!({})));
    let (topic, inbox) = (topic(), inbox(&direct));
    let results = hub.inbox(InboxOptions::from_json(r#"{"capacity": 100000}"#).unwrap()).unwrap();
    event(&hub, &topic, Some("0"), "first").unwrap();
    let publisher = publisher(&hub, &topic);
    let (stop, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    let refused = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let (mut refused, start) = (0, Instant::now());
            while !stop.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(120) {
                let tag = taken.load(Ordering::SeqCst);
                let (key, payload) = ((tag % 7).to_string(), tag.to_string());
                let record = Record { key: Some(key.as_bytes()), ..Record::new(payload.as_bytes()) };
                match publisher.send_inbox(&[record], &[tag], &results, None) {
                    (1, None) => {
                        taken.fetch_add(1, Ordering::SeqCst);
                    }
                    (_, Some(failed)) if matches!(failed.kind(), Kind::BackendDown | Kind::Full) => refused += 1,
                    other => panic!("{other:?}"),
                }
                pass(Duration::from_micros(200));
            }
            refused
        });
        until("the beginning", || taken.load(Ordering::SeqCst) > 500);
        drop(Stopped::by("kill"));
        let back = taken.load(Ordering::SeqCst);
        until("the return", || taken.load(Ordering::SeqCst) > back + 500);
        stop.store(true, Ordering::SeqCst);
        publishing.join().unwrap()
    });
    let taken = taken.load(Ordering::SeqCst);
    let told: BTreeMap<u64, Option<Fate>> = super::limits::outcomes(&results, taken as usize)
        .into_iter()
        .map(|(tag, result)| (tag, result.err().map(|failed| failed.fate().unwrap())))
        .collect();
    assert_eq!(told.len() as u64, taken, "each once");
    published_again(&hub, &topic, "last");
    until("the other hub's return", || is_up(&direct));
    let _sub = member(&direct, &topic, &inbox, json!({"prefetch": 1000}));
    let mut seen = BTreeMap::<u64, usize>::new();
    let mut latest = BTreeMap::<u64, u64>::new();
    // "last" is behind the others of its own partition alone.
    let acked = told.values().filter(|fate| fate.is_none()).count();
    let confirmed = |seen: &BTreeMap<u64, usize>| seen.keys().filter(|tag| told[*tag].is_none()).count();
    while confirmed(&seen) < acked {
        let Some(incoming) = next_within(&inbox, Duration::from_secs(20)) else {
            let missing: Vec<_> = told.iter().filter(|(tag, fate)| fate.is_none() && !seen.contains_key(tag)).collect();
            panic!(
                "confirmed, and not delivered: {missing:?}; there is {:?}",
                direct.describe(&selector(&topic), WAIT)
            );
        };
        ack(&incoming);
        let Ok(number) = text(&incoming).parse::<u64>() else { continue };
        let before = latest.entry(number % 7).or_insert(number);
        if *seen.entry(number).and_modify(|count| *count += 1).or_insert(1) == 1 {
            assert!(number >= *before, "{number} behind {before}");
            *before = number;
        }
    }
    while let Some(incoming) = next_within(&inbox, Duration::from_millis(500)) {
        ack(&incoming);
        text(&incoming).parse().map(|number| *seen.entry(number).or_default() += 1).ok();
    }
    let unknown = told.values().filter(|fate| **fate == Some(Fate::Unknown)).count();
    println!("{taken} taken, {refused} refused at once, {acked} confirmed, {unknown} unknown");
    for (tag, fate) in &told {
        let count = seen.get(tag).copied().unwrap_or_default();
        let right = match fate {
            None => count == 1,
            Some(Fate::Unknown) => count <= 1,
            Some(_) => count == 0,
        };
        assert!(right, "{tag} was told as {fate:?}, and delivered {count} times");
    }
    for hub in [hub, direct] {
        hub.close(WAIT).unwrap();
    }
}

#[test]
fn f03_a_server_that_stands_still_is_found_out() {
    let _alone = alone();
    let timeout = Duration::from_millis(1000);
    let hub = hub(json!({
        "connection_timeout_ms": 1000, "failover": {"confirm_timeout_ms": timeout.as_millis() as u64},
    }));
    let (topic, results) = (topic(), inbox(&hub));
    event(&hub, &topic, Some("k"), "first").unwrap();
    let publisher = publisher(&hub, &topic);
    let paused = Paused::server();
    let start = Instant::now();
    for tag in 0..10 {
        assert_eq!(publisher.send_inbox(&[Record::new(b"x")], &[tag], &results, None).0, 1);
    }
    let told = super::limits::outcomes(&results, 10);
    let fates: Vec<_> = told.into_iter().map(|(_, result)| result.unwrap_err().fate()).collect();
    // Those that waited for the first ones to be answered never left.
    assert!(fates.iter().all(|fate| matches!(fate, Some(Fate::Unknown | Fate::NotSent))), "{fates:?}");
    assert!(fates.contains(&Some(Fate::Unknown)), "{fates:?}");
    assert!(start.elapsed() <= timeout + Duration::from_millis(1500), "{:?}", start.elapsed());
    until("the loss", || !is_up(&hub));
    let refused = event(&hub, &topic, Some("k"), "x").unwrap_err();
    assert_eq!(refused.fate(), Some(Fate::NotSent), "{refused}");
    pass(Duration::from_secs(scaled(2, 60) as u64));
    drop(paused);
    until("the return", || is_up(&hub));
    published_again(&hub, &topic, "last");
    hub.close(WAIT).unwrap();
}

#[test]
fn f05_no_call_waits_longer_than_it_may_while_the_server_is_silent() {
    let _alone = alone();
    let hub = hub(json!({"connection_timeout_ms": 1000, "failover": {"confirm_timeout_ms": 1000}}));
    let (topic, inbox) = (topic(), inbox(&hub));
    event(&hub, &topic, None, "first").unwrap();
    let paused = Paused::server();
    let (start, timeout) = (Instant::now(), Some(Duration::from_millis(200)));
    let (mut found, mut worst) = (None, Duration::ZERO);
    let options = super::kafka::options(json!({"topic": topic, "kind": "event"}));
    while start.elapsed() < Duration::from_secs(scaled(4, 45) as u64) || found.is_none() {
        let mut timed = |call: &mut dyn FnMut()| {
            let begun = Instant::now();
            call();
            worst = worst.max(begun.elapsed());
        };
        timed(&mut || {
            let record = Record::new(b"meanwhile");
            let failed = hub.publish(&topic, Some(TopicKind::Event), &record, None, timeout).unwrap_err();
            assert!(matches!(failed.kind(), Kind::BackendDown | Kind::OutcomeUnknown | Kind::Timeout), "{failed}");
        });
        timed(&mut || drop(hub.subscribe_inbox(options.clone(), &inbox, 0, timeout).unwrap_err()));
        timed(&mut || drop(hub.describe(&selector(&topic), timeout).unwrap_err()));
        timed(&mut || drop(hub.flush(timeout)));
        if found.is_none() && !is_up(&hub) {
            found = Some(start.elapsed());
        }
        assert!(start.elapsed() < Duration::from_secs(60), "the silence was not found out");
        pass(Duration::from_millis(20));
    }
    assert!(worst <= timeout.unwrap() + Duration::from_millis(100), "{worst:?}");
    drop(paused);
    published_again(&hub, &topic, "last");
    hub.close(WAIT).unwrap();
}

#[test]
fn f12_a_flapping_server_is_not_stormed_and_order_is_kept() {
    let _alone = alone();
    let (hub, direct) = (hub(json!({})), super::kafka::hub(json!({})));
    let (topic, inbox) = (topic(), inbox(&direct));
    event(&hub, &topic, Some("k"), "0").unwrap();
    let (start, before) = (Instant::now(), attempts(&hub));
    let done = AtomicBool::new(false);
    let published = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let mut number: u64 = 0;
            while !done.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(900) {
                match event(&hub, &topic, Some("k"), &(number + 1).to_string()) {
                    Ok(_) => number += 1,
                    Err(_) => pass(Duration::from_millis(5)),
                }
                pass(Duration::from_millis(1));
            }
            number += 1;
            published_again(&hub, &topic, &number.to_string());
            number
        });
        for _ in 0..scaled(2, 20) {
            pass(Duration::from_secs(1));
            let _stopped = Stopped::by("kill");
            pass(Duration::from_secs(2));
        }
        done.store(true, Ordering::SeqCst);
        publishing.join().unwrap()
    });
    let (took, tried) = (start.elapsed().as_secs_f64(), attempts(&hub) - before);
    until("the other hub's return", || is_up(&direct));
    let _sub = member(&direct, &topic, &inbox, json!({}));
    let mut latest = 0;
    while latest < published {
        let incoming = next(&inbox);
        ack(&incoming);
        let number: u64 = text(&incoming).parse().unwrap();
        // A second copy of one that was seen is no matter.
        assert!(number <= latest + 1, "{number} after {latest}");
        latest = latest.max(number);
    }
    println!("{tried} attempts in {took:.1} s, {published} published");
    assert!(tried as f64 <= took, "{tried} attempts in {took:.1} s");
    for hub in [hub, direct] {
        hub.close(WAIT).unwrap();
    }
}

/// F14 (`on_outage: fail`): no server at the start; opening says so, and connects when it can.
#[test]
fn f14_a_hub_opens_without_its_server_and_finds_it_later() {
    let _alone = alone();
    let stopped = Stopped::by("kill");
    let start = Instant::now();
    let hub = hub(json!({"connection_timeout_ms": 1000}));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(event(&hub, "events.server-x", None, "x").unwrap_err().kind(), Kind::BackendDown);
    drop(stopped);
    until("a connection", || is_up(&hub));
    event(&hub, &topic(), None, "x").unwrap();
    hub.close(WAIT).unwrap();
}

#[test]
fn dead_addresses_before_a_live_one_do_no_harm() {
    let _alone = alone();
    let live = format!("127.0.0.1:{}", port());
    for dead in ["127.0.0.1:1", "no-such-host.invalid:9092"] {
        let start = Instant::now();
        let hub = hub_at(&[dead.to_owned(), live.clone()], json!({}));
        assert_eq!(state(&hub), "up", "{dead}: {}", own(&hub));
        event(&hub, &topic(), None, "x").unwrap();
        assert!(start.elapsed() < Duration::from_secs(5), "{dead}: {:?}", start.elapsed());
        hub.close(WAIT).unwrap();
    }
}

#[test]
fn dead_addresses_alone_leave_a_hub_that_says_so() {
    let _alone = lock();
    let timeout = Duration::from_millis(1000);
    for brokers in [["127.0.0.1:1", "127.0.0.1:2"], ["no-such-host.invalid:9092", "127.0.0.1:1"]] {
        let start = Instant::now();
        let more = json!({"connection_timeout_ms": timeout.as_millis() as u64});
        let hub = hub_at(&brokers.map(str::to_owned), more);
        assert!(start.elapsed() <= timeout + Duration::from_secs(1), "{:?}", start.elapsed());
        let health = hub.health();
        assert_eq!((&health["degraded"], &health["ready"]), (&json!(true), &json!(false)), "{health}");
        until("the end of the attempt", || state(&hub) == "down");
        assert!(own(&hub)["last_error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{health}");
        let failed = event(&hub, "events.server-x", None, "x").unwrap_err();
        assert_eq!((failed.kind(), failed.fate()), (Kind::BackendDown, Some(Fate::NotSent)), "{failed}");
        let start = Instant::now();
        hub.close(Some(Duration::from_secs(1))).unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        // Who needs a server is told.
        let mut config = json!({"connect": "require", "connection_timeout_ms": 500});
        config["kafka"] = json!({"brokers": brokers});
        let refused = Hub::open(Config::from_json(&config.to_string()).unwrap(), WAIT).unwrap_err();
        assert!(matches!(refused.kind(), Kind::BackendDown | Kind::Timeout | Kind::Kafka), "{refused}");
    }
}

#[test]
fn a_list_of_brokers_that_is_none() {
    let read = |brokers: Value| Config::from_json(&json!({"kafka": {"brokers": brokers}}).to_string());
    for (brokers, path) in [
        (json!([""]), "kafka.brokers[0]"),
        (json!(["127.0.0.1"]), "kafka.brokers[0]"),
        (json!(["127.0.0.1:9392", "127.0.0.1:0"]), "kafka.brokers[1]"),
        (json!(["127.0.0.1:65536"]), "kafka.brokers[0]"),
        (json!(["kafka://127.0.0.1:9392"]), "kafka.brokers[0]"),
        (json!(["alice:hunter2-canary@127.0.0.1:9392"]), "kafka.brokers[0]"),
        (json!(["127.0.0.1:9392,127.0.0.1:9393"]), "kafka.brokers[0]"),
    ] {
        let refused = read(brokers.clone()).unwrap_err();
        assert_eq!((refused.kind(), refused.path()), (Kind::Config, Some(path)), "{brokers}: {refused}");
        assert!(!refused.to_json().to_string().contains("hunter2"), "{refused}");
    }
    // None is no cluster: events stay in the process.
    let hub = Hub::open(read(json!([])).unwrap(), WAIT).unwrap();
    assert_eq!(event(&hub, "events.server-x", None, "x").unwrap().backend.name(), "embedded");
    hub.close(WAIT).unwrap();
}

/// Another program deletes the topic under both ends. What is published meanwhile is told as it was, and
/// what is published later arrives.
#[test]
fn a_topic_deleted_under_both_ends_comes_back() {
    let _alone = alone();
    let hub = hub(json!({"failover": {"confirm_timeout_ms": 2000}}));
    let (topic, neighbour, inbox, other) = (topic(), topic(), inbox(&hub), inbox(&hub));
    let _subs = [member(&hub, &topic, &inbox, json!({})), member(&hub, &neighbour, &other, json!({}))];
    for name in [&topic, &neighbour] {
        event(&hub, name, Some("k"), "before").unwrap();
    }
    ack(&next(&inbox));
    ack(&next(&other));
    delete_topic(&topic);
    let (mut told, start) = (Vec::new(), Instant::now());
    until("publishes that succeed again", || {
        let begun = Instant::now();
        let result = event(&hub, &topic, Some("k"), &format!("{}", told.len()));
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        event(&hub, &neighbour, Some("k"), "x").unwrap();
        told.push(result.err().map(|failed| failed.fate().unwrap()));
        told.len() >= 20 && told.iter().rev().take(10).all(Option::is_none)
    });
    println!("{} publishes in {:?}, {} failed", told.len(), start.elapsed(), told.iter().flatten().count());
    // The last ten are in the new topic, whatever became of the others.
    let mut wanted = told.len() - 10;
    while wanted < told.len() {
        let incoming = next_within(&inbox, Duration::from_secs(30)).unwrap();
        ack(&incoming);
        let number: usize = text(&incoming).parse().unwrap();
        assert!(!matches!(told[number], Some(Fate::NotSent | Fate::Refused)), "{number} was {:?}", told[number]);
        wanted += usize::from(number == wanted);
    }
    while let Some(incoming) = next_within(&other, Duration::from_millis(500)) {
        ack(&incoming);
        assert!(!incoming.redelivered, "the neighbour was disturbed");
    }
    assert_eq!((attempts(&hub), state(&hub).as_str()), (1, "up"));
    hub.close(WAIT).unwrap();
}

/// F43: the time that a close has is kept, whatever is on its way.
#[test]
fn f43_a_close_with_a_server_that_does_not_answer_ends_in_time() {
    let _alone = alone();
    for timeout in [0, 1000] {
        let timeout = Duration::from_millis(timeout);
        let hub = hub(json!({}));
        let (topic, inbox, results) = (topic(), inbox(&hub), inbox(&hub));
        event(&hub, &topic, None, "first").unwrap();
        let subs = ["one", "two"].map(|name| {
            let sub = member(&hub, &topic, &inbox, json!({"group": format!("{name}-of-{topic}")}));
            (sub, next(&inbox))
        });
        let publisher = publisher(&hub, &topic);
        let paused = Paused::server();
        for tag in 0..100 {
            assert_eq!(publisher.send_inbox(&[Record::new(b"x")], &[tag], &results, None).0, 1);
        }
        let start = Instant::now();
        let closed = hub.close(Some(timeout));
        let took = start.elapsed();
        println!("{took:?} of {timeout:?}: {closed:?}");
        assert!(took <= timeout + Duration::from_secs(1), "{took:?}");
        drop((subs, paused));
        until("the end of what was late", || hub.close(Some(Duration::from_secs(1))).is_ok());
        let (mut told, mut events) = (0, Vec::new());
        while results.poll(1000, Some(Duration::from_secs(1)), &mut events) == Polled::Data {
            told += events.drain(..).filter(|event| matches!(event, Event::Published { .. })).count();
        }
        assert_eq!(told, 100, "each once");
    }
}

#[test]
fn f54_a_slow_consumer_of_a_fast_publisher_costs_no_memory() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let _sub = member(&hub, &topic, &inbox, json!({"prefetch": 20}));
    super::limits::publish_faster_than_consume(&hub, &topic, &inbox);
    hub.delete(&selector(&topic), WAIT).unwrap();
    hub.close(WAIT).unwrap();
}

/// Closing and opening leaves nothing behind.
#[test]
fn hubs_that_come_and_go_leave_no_descriptors_and_no_threads() {
    let _alone = alone();
    let topic = topic();
    let round = || {
        let hub = hub(json!({}));
        let inbox = inbox(&hub);
        event(&hub, &topic, None, "x").unwrap();
        let _sub = member(&hub, &topic, &inbox, json!({}));
        ack(&next(&inbox));
        hub.close(WAIT).unwrap();
    };
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    round();
    let (descriptors_before, threads_before) = (descriptors(), threads());
    for _ in 0..scaled(5, 200) {
        round();
    }
    until("the end of all", || descriptors() <= descriptors_before && threads() <= threads_before);
}

#[test]
fn f52_a_process_without_descriptors_goes_on_when_it_has_some() {
    let _alone = alone();
    child("kafka_faults::f52_child", 96, &[]);
}

#[test]
#[ignore = "a process of its own, for f52"]
fn f52_child() {
    let config = json!({"kafka": {"brokers": [format!("127.0.0.1:{}", port())]}});
    super::limits::without_descriptors(config, |hub| event(hub, "events.server-f52", None, "x"));
}

fn of_fake(fake: &Fake) -> Hub {
    let more = json!({"connection_timeout_ms": 500, "routes": super::kafka::tasks_by_kafka()});
    hub_at(&[format!("127.0.0.1:{}", fake.port)], more)
}

/// The client's next request: its correlation.
fn request(peer: &mut Peer) -> std::io::Result<[u8; 4]> {
    let mut size = [0; 4];
    peer.stream.read_exact(&mut size)?;
    let mut body = vec![0; u32::from_be_bytes(size) as usize];
    peer.stream.read_exact(&mut body)?;
    Ok([body[4], body[5], body[6], body[7]])
}

/// Answers every request in a frame that is right on the outside.
fn answer_with(peer: &mut Peer, mut body: impl FnMut(u64) -> Vec<u8>) -> std::io::Result<()> {
    for number in 1.. {
        let correlation = request(peer)?;
        let body = [&correlation[..], &body(number)].concat();
        peer.stream.write_all(&[&(body.len() as u32).to_be_bytes()[..], &body].concat())?;
    }
    Ok(())
}

#[test]
fn f57_servers_that_say_what_no_server_should() {
    let _alone = lock();
    suffers_as("an end at once", of_fake, |_| Ok(()));
    suffers_as("noise", of_fake, |peer| peer.stream.write_all(&noise(7, 65_536)).and_then(|()| peer.drain()));
    suffers_as("another protocol", of_fake, |peer| {
        peer.stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").and_then(|()| peer.drain())
    });
    suffers_as("a frame of 2^31 - 1 bytes", of_fake, |peer| {
        request(peer)?;
        peer.stream.write_all(&i32::MAX.to_be_bytes())?;
        (0..256).try_for_each(|_| peer.stream.write_all(&[b'x'; 131_072]))
    });
    suffers_as("a frame of fewer bytes than none", of_fake, |peer| {
        request(peer)?;
        peer.stream.write_all(&[0xff; 64]).and_then(|()| peer.drain())
    });
    suffers_as("an answer to nobody", of_fake, |peer| {
        request(peer)?;
        peer.stream.write_all(&[0, 0, 0, 8, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]).and_then(|()| peer.drain())
    });
    suffers_as("answers of nothing", of_fake, |peer| answer_with(peer, |_| Vec::new()));
    suffers_as("answers of ones", of_fake, |peer| answer_with(peer, |_| vec![0xff; 1000]));
    suffers_as("answers of noise", of_fake, |peer| answer_with(peer, |number| noise(number * 77, 500)));
    suffers_as("versions, then noise", of_fake, |peer| {
        answer_with(peer, |number| match number {
            1 => versions(35),
            2 => versions(0),
            _ => noise(number * 131, 300),
        })
    });
    suffers_as("versions, then a count of 2^31 - 1", of_fake, |peer| {
        answer_with(peer, |number| match number {
            1 => versions(35),
            2 => versions(0),
            _ => i32::MAX.to_be_bytes().repeat(20),
        })
    });
}

/// An answer about versions, in its own first version: every request in versions 0 to 12. With the error
/// 35 the client asks again in that version.
fn versions(error: u8) -> Vec<u8> {
    let mut body = vec![0, error];
    body.extend(40_i32.to_be_bytes());
    for api in 0..40_i16 {
        body.extend(api.to_be_bytes());
        body.extend([0, 0, 0, 12]);
    }
    body
}
