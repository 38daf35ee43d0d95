//! What networks do: silence, resets, cuts, slowness, one way or both.

use std::collections::BTreeMap;

use helixmq::config::options::TopicSelector;
use helixmq::error::{Fate, Kind};

use super::proxy::{Proxy, Toxic, Way};
use super::*;

pub const BLACKHOLE: Toxic = Toxic {
    latency: Duration::ZERO,
    jitter: Duration::ZERO,
    slice: 0,
    bytes_per_s: 0,
    blackhole: true,
    cut_after: None,
};
/// Longest silence of a peer with a heartbeat of a second, and a second more.
const DETECTED: Duration = Duration::from_secs(3);

fn through(proxy: &Proxy, more: Value) -> Hub {
    hub_at(proxy.port(), more)
}

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

/// Publishes until it works; answers how long that took.
fn published_again(hub: &Hub, topic: &str, payload: &str) -> Duration {
    let start = Instant::now();
    until("a publish", || publish(hub, topic, payload).is_ok());
    start.elapsed()
}

#[test]
fn f03_a_server_that_stands_still_is_found_out_and_its_late_words_are_nobodys() {
    let _alone = alone();
    let hub = hub(json!({"connection_timeout_ms": 1000, "rabbitmq": {"heartbeat_ms": 1000}}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let results = super::inbox(&hub);
    let sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    publish(&hub, &topic, "first").unwrap();
    let held = next(&inbox);
    let publisher = publisher(&hub, &topic);
    let paused = Paused::server();
    let start = Instant::now();
    for tag in 0..10 {
        assert_eq!(publisher.send_inbox(&[Record::new(b"x")], &[tag], &results, None).0, 1);
    }
    until("the loss", || !is_up(&hub));
    assert!(start.elapsed() <= DETECTED, "{:?}", start.elapsed());
    pass(Duration::from_secs(scaled(1, 60) as u64));
    drop(paused);
    until("the return", || is_up(&hub));
    publish(&hub, &topic, "last").unwrap();
    let mut events = Vec::new();
    let mut told = Vec::new();
    while results.poll(100, Some(Duration::from_millis(200)), &mut events) == Polled::Data {
        for event in events.drain(..) {
            let Event::Published { tag, result, .. } = event else { panic!("{event:?}") };
            let lost = result.unwrap_err();
            assert_eq!(lost.fate(), Some(Fate::Unknown), "{lost:?}");
            told.push(tag);
        }
    }
    told.sort_unstable();
    assert_eq!(told, (0..10).collect::<Vec<_>>(), "each once");
    let mut seen = BTreeMap::new();
    while !seen.contains_key("last") {
        let incoming = next(&inbox);
        ack(&incoming);
        *seen.entry(text(&incoming)).or_insert(0) += 1;
    }
    assert_eq!((seen.get("first"), seen["last"]), (None, 1), "its handler has it still: {seen:?}");
    ack(&held);
    until("its acknowledgement", || {
        assert!(next_within(&inbox, Duration::from_millis(5)).is_none());
        metric(&hub, "helixmq_ledger_acked_total") == 1
    });
    sub.close(WAIT).unwrap();
    hub.close(WAIT).unwrap();
}

#[test]
fn f04_a_reset_in_the_middle_of_a_frame_leaves_no_part_of_it() {
    let _alone = alone();
    let proxy = Proxy::to(port());
    let hub = through(&proxy, json!({}));
    let (topic, inbox, results) = (topic(), inbox(&hub), inbox(&hub));
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    let large = "0123456789abcdef".repeat(32 * 1024);
    let slow = Toxic { bytes_per_s: 400_000, ..Toxic::default() };
    publish(&hub, &topic, "first").unwrap();
    ack(&next(&inbox));

    let before = proxy.bytes(Way::Up);
    proxy.set(Way::Up, slow);
    let sent = publisher(&hub, &topic).send_inbox(&[Record::new(large.as_bytes())], &[1], &results, None);
    assert_eq!(sent.0, 1);
    until("the middle", || proxy.bytes(Way::Up) > before + 100_000);
    proxy.reset_one(0);
    proxy.heal();
    let took = published_again(&hub, &topic, "small");
    assert!(took <= Duration::from_secs(2), "{took:?}");
    let mut events = Vec::new();
    assert_eq!(results.poll(1, WAIT, &mut events), Polled::Data);
    let Some(Event::Published { result: Err(lost), .. }) = events.pop() else { panic!("{events:?}") };
    assert_eq!(lost.fate(), Some(Fate::Unknown), "{lost}");
    let small = next(&inbox);
    assert_eq!(text(&small), "small", "{} bytes", small.message.payload().len());
    ack(&small);

    let before = proxy.bytes(Way::Down);
    proxy.set(Way::Down, slow);
    publish(&hub, &topic, &large).unwrap();
    until("the middle", || proxy.bytes(Way::Down) > before + 100_000);
    let start = Instant::now();
    proxy.reset_one(1);
    proxy.heal();
    let again = next(&inbox);
    assert!(start.elapsed() <= Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(again.redelivered && text(&again) == large, "{} bytes", again.message.payload().len());
    ack(&again);
    hub.close(WAIT).unwrap();
}

#[test]
fn f05_no_call_waits_longer_than_it_may_while_the_network_is_silent() {
    let _alone = alone();
    let proxy = Proxy::to(port());
    let hub = through(&proxy, json!({"connection_timeout_ms": 1000, "rabbitmq": {"heartbeat_ms": 1000}}));
    let (topic, inbox) = (topic(), inbox(&hub));
    publish(&hub, &topic, "first").unwrap();
    proxy.set_both(BLACKHOLE);
    let (start, timeout) = (Instant::now(), Some(Duration::from_millis(200)));
    let silence = Duration::from_secs(scaled(4, 45) as u64);
    let (mut found, mut worst) = (None, Duration::ZERO);
    let options = SubscribeOptions::from_json(&json!({"topic": topic}).to_string()).unwrap();
    let selector = TopicSelector::from_json(&json!({"name": topic}).to_string()).unwrap();
    while start.elapsed() < silence || found.is_none() {
        let mut timed = |call: &mut dyn FnMut()| {
            let begun = Instant::now();
            call();
            worst = worst.max(begun.elapsed());
        };
        timed(&mut || {
            let record = Record::new(b"meanwhile");
            let failed = hub.publish(&topic, Some(TopicKind::Task), &record, None, timeout).unwrap_err();
            assert!(matches!(failed.kind(), Kind::BackendDown | Kind::OutcomeUnknown | Kind::Timeout), "{failed}");
        });
        timed(&mut || drop(hub.subscribe_inbox(options.clone(), &inbox, 0, timeout).unwrap_err()));
        timed(&mut || drop(hub.describe(&selector, timeout).unwrap_err()));
        timed(&mut || drop(hub.flush(timeout)));
        if found.is_none() && !is_up(&hub) {
            found = Some(start.elapsed());
        }
        pass(Duration::from_millis(20));
    }
    assert!(worst <= timeout.unwrap() + Duration::from_millis(100), "{worst:?}");
    assert!(found.unwrap() <= DETECTED, "{found:?}");
    proxy.heal();
    published_again(&hub, &topic, "last");
    hub.close(WAIT).unwrap();
}

#[test]
fn f06_lost_confirms_are_unknown_and_a_second_copy_has_the_same_id() {
    let _alone = alone();
    let proxy = Proxy::to(port());
    let hub = through(&proxy, json!({"failover": {"confirm_timeout_ms": 500}}));
    let (direct, topic) = (super::hub(json!({})), topic());
    let inbox = inbox(&direct);
    let _sub = subscribe(&direct, json!({"topic": topic}), &inbox);
    publish(&hub, &topic, "first").unwrap();
    ack(&next(&inbox));
    proxy.set(Way::Down, BLACKHOLE);
    let ids: Vec<String> = (0..5).map(|number| format!("{topic}-{number}")).collect();
    let send = |id: &str| {
        let record = Record { id, ..Record::new(b"x") };
        hub.publish(&topic, Some(TopicKind::Task), &record, None, WAIT)
    };
    for id in &ids {
        assert_eq!(send(id).unwrap_err().fate(), Some(Fate::Unknown));
    }
    proxy.heal();
    for id in &ids {
        until("a confirm", || send(id).is_ok());
    }
    publish(&hub, &topic, "last").unwrap();
    let mut seen = BTreeMap::<String, usize>::new();
    loop {
        let incoming = next(&inbox);
        ack(&incoming);
        if text(&incoming) == "last" {
            break;
        }
        *seen.entry(incoming.message.id().as_str().to_owned()).or_default() += 1;
    }
    assert_eq!(seen, ids.into_iter().map(|id| (id, 2)).collect(), "they had reached the server, each once");
    for hub in [hub, direct] {
        hub.close(WAIT).unwrap();
    }
}

#[test]
fn f07_a_cut_at_any_byte_of_a_publish_is_told_as_it_was() {
    let _alone = alone();
    let proxy = Proxy::to(port());
    let (direct, topic) = (hub(json!({})), topic());
    let inbox = inbox(&direct);
    let sub = subscribe(&direct, json!({"topic": topic, "prefetch": 1000}), &inbox);
    let ready = || {
        let hub = through(&proxy, json!({}));
        publish(&hub, &topic, "ready").unwrap();
        hub
    };
    let hub = ready();
    let before = [Way::Up, Way::Down].map(|way| proxy.bytes(way));
    publish(&hub, &topic, "ready").unwrap();
    let lengths = [proxy.bytes(Way::Up) - before[0], proxy.bytes(Way::Down) - before[1]];
    hub.close(WAIT).unwrap();
    let mut fates = BTreeMap::new();
    let up_step = if scaled(1, 2) == 1 { 5 } else { 1 };
    for (way, length, step) in [(Way::Up, lengths[0], up_step), (Way::Down, lengths[1], 1)] {
        for offset in (0..=length).step_by(step) {
            let hub = ready();
            proxy.set(way, Toxic { cut_after: Some(offset), ..Toxic::default() });
            let name = format!("{way:?} {offset} of {length}");
            let fate = publish(&hub, &topic, &name).err().map(|failed| failed.fate().unwrap());
            fates.insert(name, fate);
            proxy.heal();
            hub.close_in_background();
        }
    }
    publish(&direct, &topic, "last").unwrap();
    let mut seen = BTreeMap::<String, usize>::new();
    loop {
        let incoming = next(&inbox);
        ack(&incoming);
        match text(&incoming).as_str() {
            "last" => break,
            "ready" => {}
            name => *seen.entry(name.to_owned()).or_default() += 1,
        }
    }
    for (name, fate) in &fates {
        let seen = seen.get(name).copied().unwrap_or_default();
        let right = match fate {
            None => seen == 1,
            Some(Fate::Unknown) => seen <= 1,
            Some(_) => seen == 0,
        };
        assert!(right, "cut at {name}: told as {fate:?}, and delivered {seen} times");
    }
    let unknown = fates.values().filter(|fate| **fate == Some(Fate::Unknown)).count();
    assert!(lengths[0] > 100 && lengths[1] > 10 && unknown > fates.len() / 2, "{lengths:?} {fates:?}");
    sub.close(WAIT).unwrap();
    direct.close(WAIT).unwrap();
}

#[test]
fn f08_a_slow_network_of_single_bytes_is_slow_and_nothing_else() {
    let _alone = alone();
    let proxy = Proxy::to(port());
    let ms = |time: usize| Duration::from_millis(time as u64);
    let toxic = Toxic { latency: ms(scaled(75, 300)), jitter: ms(scaled(50, 200)), slice: 1, ..Toxic::default() };
    proxy.set_both(toxic);
    let hub = through(&proxy, json!({"connection_timeout_ms": 60_000, "failover": {"confirm_timeout_ms": 20_000}}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    for number in 0..3 {
        publish(&hub, &topic, &number.to_string()).unwrap();
    }
    for number in 0..3 {
        let incoming = next(&inbox);
        assert_eq!((text(&incoming), incoming.redelivered), (number.to_string(), false));
        ack(&incoming);
    }
    assert_eq!((attempts(&hub), proxy.connections()), (1, 2));
    proxy.heal();
    hub.close(WAIT).unwrap();
}

/// The bodies take longer than the heartbeats may, in both directions.
#[test]
fn f09_heartbeats_live_beside_large_bodies_on_a_narrow_line() {
    let _alone = alone();
    let proxy = Proxy::to(port());
    let (heartbeat, bytes_per_s) = if scaled(1, 2) == 1 { (1000, 256 * 1024) } else { (10_000, 16 * 1024) };
    let options = json!({"rabbitmq": {"heartbeat_ms": heartbeat}, "failover": {"confirm_timeout_ms": 200_000}});
    let hub = through(&proxy, options);
    let (topic, inbox) = (topic(), inbox(&hub));
    publish(&hub, &topic, "first").unwrap();
    let large = "x".repeat(1024 * 1024);
    proxy.set_both(Toxic { bytes_per_s, ..Toxic::default() });
    let (start, long) = (Instant::now(), Some(Duration::from_secs(200)));
    hub.publish(&topic, Some(TopicKind::Task), &Record::new(large.as_bytes()), None, long).unwrap();
    assert!(start.elapsed() > Duration::from_millis(3 * heartbeat), "{:?}", start.elapsed());
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    ack(&next(&inbox));
    let whole = next_within(&inbox, Duration::from_secs(200)).unwrap();
    assert_eq!((text(&whole).len(), whole.redelivered), (large.len(), false));
    ack(&whole);
    assert_eq!((attempts(&hub), proxy.connections()), (1, 2));
    proxy.heal();
    hub.close(WAIT).unwrap();
}

#[test]
fn f12_a_flapping_server_is_not_stormed_and_order_is_kept() {
    let _alone = alone();
    let proxy = Proxy::to(port());
    let hub = through(&proxy, json!({}));
    let (direct, topic) = (super::hub(json!({})), topic());
    let inbox = inbox(&direct);
    let _sub = subscribe(&direct, json!({"topic": topic}), &inbox);
    publish(&hub, &topic, "0").unwrap();
    let (start, before) = (Instant::now(), attempts(&hub));
    let done = std::sync::atomic::AtomicBool::new(false);
    let published = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::SeqCst) {
                match publish(&hub, &topic, &(number + 1).to_string()) {
                    Ok(_) => number += 1,
                    Err(_) => pass(Duration::from_millis(5)),
                }
                pass(Duration::from_millis(1));
            }
            number += 1;
            published_again(&hub, &topic, &number.to_string());
            number
        });
        for _ in 0..scaled(3, 50) {
            pass(Duration::from_secs(2));
            proxy.down();
            pass(Duration::from_secs(3));
            proxy.up();
        }
        done.store(true, Ordering::SeqCst);
        publishing.join().unwrap()
    });
    let (took, tried) = (start.elapsed().as_secs_f64(), attempts(&hub) - before);
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
    assert!((tried as f64) <= took, "{tried} attempts in {took:.1} s");
    for hub in [hub, direct] {
        hub.close(WAIT).unwrap();
    }
}

#[test]
fn f58_a_name_that_is_not_found_delays_nobody_longer_than_it_may() {
    let _alone = alone();
    let timeout = Duration::from_secs(2);
    let open = |nodes: Value| {
        let more = json!({
            "connection_timeout_ms": timeout.as_millis() as u64,
            "rabbitmq": {"host": "no-such-host.invalid", "nodes": nodes},
        });
        let start = Instant::now();
        let hub = hub(more);
        (hub, start.elapsed())
    };
    let (hub, took) = open(json!([]));
    assert!(took <= timeout + Duration::from_secs(1), "{took:?}");
    let failed = publish(&hub, "tasks.x", "x").unwrap_err();
    assert_eq!((failed.kind(), failed.fate()), (Kind::BackendDown, Some(Fate::NotSent)));
    assert!(own(&hub)["last_error"].to_string().contains("no-such-host.invalid"));
    let start = Instant::now();
    hub.close(WAIT).unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let (hub, took) = open(json!([format!("127.0.0.1:{}", port())]));
    assert!(took <= timeout + Duration::from_secs(1), "{took:?}");
    publish(&hub, &topic(), "x").unwrap();
    hub.close(WAIT).unwrap();
}
