//! Wake-ups that must not be lost, swallowed or multiplied. Each test tells what broke once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use helixmq::broker::embedded::{Embedded, EmbeddedConfig};
use helixmq::broker::faulty::{Fault, Faulty, Seam, Times};
use helixmq::broker::Broker;
use helixmq::hub::backends::{BrokerHandle, Role};
use helixmq::hub::{settle, Decision};

use super::*;

/// A fetch collected hints only when it had found nothing, so a queue that always had messages kept
/// the other queues of its pattern waiting for ever.
#[test]
fn a_busy_queue_does_not_starve_another_of_the_same_pattern() {
    let hub = open("{}");
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.*","prefetch":4}"#, &inbox, 0);
    publish(&hub, "tasks.rare", "0");
    settle(next(&inbox).token, Decision::Ack).unwrap();
    assert_quiet(&inbox);
    for _ in 0..500 {
        publish(&hub, "tasks.busy", "busy");
    }
    settle(next(&inbox).token, Decision::Ack).unwrap();
    publish(&hub, "tasks.rare", "rare");
    for taken in 0..200 {
        let incoming = next(&inbox);
        if incoming.message.payload() == b"rare" {
            return;
        }
        settle(incoming.token, Decision::Ack).unwrap();
        assert!(taken < 199, "200 messages of the busy queue came first");
    }
}

/// A paused subscription stayed in the queue's list of those that wait; a publish woke it, and
/// nobody else.
#[test]
fn a_paused_subscription_leaves_its_wake_up_to_another() {
    for pause_late in [false, true] {
        let hub = open("{}");
        let (paused, working) = (inbox(&hub), inbox(&hub));
        let first = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &paused, 1);
        let _second = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &working, 2);
        assert_quiet(&paused);
        assert_quiet(&working);
        if pause_late {
            // It is told of the message before it pauses, and has not fetched it.
            publish(&hub, "tasks.a", "x");
            first.pause(true).unwrap();
        } else {
            first.pause(true).unwrap();
            publish(&hub, "tasks.a", "x");
        }
        settle(next(&working).token, Decision::Ack).unwrap();
        first.pause(false).unwrap();
        assert_quiet(&paused);
        publish(&hub, "tasks.a", "y");
        settle(next(&paused).token, Decision::Ack).unwrap();
    }
}

/// As above, for one whose manual credit is used up.
#[test]
fn a_subscription_without_credit_leaves_its_wake_up_to_another() {
    let hub = open("{}");
    let (asking, working) = (inbox(&hub), inbox(&hub));
    let first = subscribe_to(&hub, r#"{"topic":"tasks.a","credit":"manual"}"#, &asking, 1);
    let _second = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &working, 2);
    first.request(1).unwrap();
    assert_quiet(&asking);
    assert_quiet(&working);
    publish(&hub, "tasks.a", "1");
    settle(next(&asking).token, Decision::Ack).unwrap();
    assert_quiet(&asking);
    for _ in 0..3 {
        publish(&hub, "tasks.a", "more");
        settle(next(&working).token, Decision::Ack).unwrap();
    }
}

/// An inbox that nobody polls any more kept its subscriptions, which held what they had and were
/// woken in place of others.
#[test]
fn an_ended_inbox_ends_its_subscriptions() {
    let hub = open("{}");
    let (gone, working) = (inbox(&hub), inbox(&hub));
    let sub = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &gone, 1);
    publish(&hub, "tasks.a", "held");
    let held = next(&gone);
    let _second = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &working, 2);
    assert_quiet(&working);
    gone.end();
    let again = next(&working);
    assert_eq!((again.message.payload(), again.redelivered), (&b"held"[..], true));
    assert!(settle(held.token, Decision::Ack).is_err());
    sub.wait(WAIT).unwrap();
    publish(&hub, "tasks.a", "next");
    assert_eq!(next(&working).message.payload(), b"next");
}

/// A poll that found data made the descriptor quiet, although a wake-up was still to be answered.
#[test]
fn a_wake_up_stays_visible_until_a_poll_answers_it() {
    let hub = open("{}");
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 0);
    assert_quiet(&inbox);
    let fd = inbox.fd();
    assert!(!is_readable(fd));
    publish(&hub, "tasks.a", "x");
    inbox.wake();
    let mut events = Vec::new();
    assert_eq!(inbox.poll(8, WAIT, &mut events), Polled::Data);
    assert!(is_readable(fd), "the wake-up is not answered yet");
    assert_eq!(inbox.poll(1, WAIT, &mut events), Polled::NoData, "a wake-up ends the wait");
    assert!(!is_readable(fd));
    inbox.wake();
    assert!(is_readable(fd));
    assert_eq!(inbox.poll(1, WAIT, &mut events), Polled::NoData);
    assert!(!is_readable(fd));
}

/// Each call added one more entry for the same subscription.
#[test]
fn asking_again_and_again_leaves_one_entry() {
    let hub = open("{}");
    let inbox = inbox(&hub);
    let sub = subscribe_to(&hub, r#"{"topic":"tasks.a","credit":"manual"}"#, &inbox, 0);
    sub.request(1).unwrap();
    let before = format!("{inbox:?}").len();
    for _ in 0..1000 {
        sub.request(1).unwrap();
        sub.pause(false).unwrap();
    }
    let after = format!("{inbox:?}").len();
    assert!(after < 2 * before, "{before} characters became {after}");
}

/// Putting unread events back called `on_ready` again, from inside `on_ready`.
#[test]
fn on_ready_is_not_called_by_whoever_reads_in_it() {
    let hub = open("{}");
    let inbox = inbox(&hub);
    let calls = Arc::new(AtomicUsize::new(0));
    let (own, counted) = (inbox.clone(), Arc::clone(&calls));
    let ready = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        let mut events = Vec::new();
        own.poll(8, NOW, &mut events);
        own.unpoll(events);
    };
    inbox.on_ready(Box::new(ready)).unwrap();
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 0);
    calls.store(0, Ordering::SeqCst);
    publish(&hub, "tasks.a", "x");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(next(&inbox).message.payload(), b"x");
}

/// A panic inside a fetch left the thread collecting wake-ups that nobody told any more.
#[test]
fn a_panic_in_a_fetch_does_not_silence_its_thread() {
    let hub = open("{}");
    let mut faulty = None;
    let broker = BrokerHandle::make(|context| {
        let made =
            Faulty::over(context, |context| {
                Ok(Embedded::open(
                    EmbeddedConfig { memory_bytes_max: 1 << 20, partitions: 4, topics: Vec::new() },
                    context,
                )? as Arc<dyn Broker>)
            })?;
        faulty = Some(Arc::clone(&made));
        Ok(made)
    });
    let faulty = {
        hub.set_broker(Role::Fallback, &broker.unwrap()).unwrap();
        faulty.unwrap()
    };
    let (breaking, sound) = (inbox(&hub), inbox(&hub));
    let _first = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &breaking, 1);
    let _second = subscribe_to(&hub, r#"{"topic":"tasks.b"}"#, &sound, 2);
    assert_quiet(&breaking);
    assert_quiet(&sound);
    publish(&hub, "tasks.a", "x");
    faulty.fail(Some(Seam::Fetch), 1, Times::Once, Fault::Panic);
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| next(&breaking)));
    assert!(panics.is_err());
    publish(&hub, "tasks.b", "y");
    assert_eq!(next(&sound).message.payload(), b"y");
}

/// What a replay had fetched ahead was thrown away by a pause, and its source was past it.
#[test]
fn a_replay_that_pauses_loses_nothing() {
    let hub = open("{}");
    for number in 0..500 {
        publish(&hub, "event.many", &number.to_string());
    }
    let inbox = inbox(&hub);
    let options = helixmq::config::options::ReplayOptions::from_json(r#"{"topic":"event.many"}"#).unwrap();
    let replay = hub.replay_inbox(options, &inbox, 1, WAIT).unwrap();
    for number in 0..500 {
        assert_eq!(next(&inbox).message.payload(), number.to_string().as_bytes());
        if number % 50 == 30 {
            replay.pause(true).unwrap();
            assert_quiet(&inbox);
            replay.pause(false).unwrap();
        }
    }
    replay.wait(NOW).unwrap_err();
    let mut events = Vec::new();
    assert_eq!(inbox.poll(1, WAIT, &mut events), Polled::Data);
    assert!(matches!(events[..], [Event::End { tag: 1, result: Ok(()) }]), "{events:?}");
}

/// Freeing an inbox told its subscriptions' ends to whoever polled it, and called `on_ready`.
#[test]
fn an_ended_inbox_tells_nothing_more() {
    let hub = open("{}");
    let inbox = inbox(&hub);
    let _subs = [
        subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 1),
        subscribe_to(&hub, r#"{"topic":"tasks.b"}"#, &inbox, 2),
    ];
    let calls = Arc::new(AtomicUsize::new(0));
    assert_quiet(&inbox);
    let counted = Arc::clone(&calls);
    let ready = move || {
        counted.fetch_add(1, Ordering::SeqCst);
    };
    inbox.on_ready(Box::new(ready)).unwrap();
    let polling = {
        let inbox = inbox.clone();
        std::thread::spawn(move || {
            let mut events = Vec::new();
            (inbox.poll(8, WAIT, &mut events), events.len())
        })
    };
    inbox.end();
    assert_eq!(polling.join().unwrap(), (Polled::Closed, 0));
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

fn is_readable(fd: i32) -> bool {
    let mut asked = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, of this function.
    let count = unsafe { libc::poll(&mut asked, 1, 0) };
    count == 1 && asked.revents & libc::POLLIN != 0
}
