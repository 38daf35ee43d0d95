//! Closing: it keeps its deadline, misses nobody, and refuses to wait for itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc, Barrier, Mutex};
use std::time::Instant;

use helixmq::error::Kind;
use helixmq::hub::{LogLevel, TextHandler};

use super::*;

fn options(json: &str) -> SubscribeOptions {
    SubscribeOptions::from_json(json).unwrap()
}

/// One lock was held by the first close to its end, so the second one waited as long as the first.
#[test]
fn a_close_behind_another_keeps_its_own_deadline() {
    let hub = open("{}");
    let (entered, inside) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (entered, released) = (Mutex::new(entered), Mutex::new(released));
    let handle = handler(move |_| {
        entered.lock().unwrap().send(()).unwrap();
        let _ = released.lock().unwrap().recv();
        Some(HandlerVerdict::Ack)
    });
    let _sub = hub.subscribe(options(r#"{"topic":"tasks.a"}"#), handle, WAIT).unwrap();
    publish(&hub, "tasks.a", "x");
    inside.recv_timeout(Duration::from_secs(10)).unwrap();
    let first = {
        let hub = hub.clone();
        std::thread::spawn(move || hub.close(None))
    };
    while hub.inbox(InboxOptions::from_json("{}").unwrap()).is_ok() {
        std::thread::yield_now();
    }
    let start = Instant::now();
    assert_eq!(hub.close(Some(Duration::from_millis(30))).unwrap_err().kind(), Kind::Timeout);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let third = {
        let hub = hub.clone();
        std::thread::spawn(move || hub.close(WAIT))
    };
    release.send(()).unwrap();
    first.join().unwrap().unwrap();
    third.join().unwrap().unwrap();
    hub.close(NOW).unwrap();
}

/// What a drop function saw when it called back into the hub.
struct CallsOnDrop(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for CallsOnDrop {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

impl TextHandler for CallsOnDrop {
    fn text(&self, _: LogLevel, _: &str) {}
}

/// The drop function of the state callback ran under the lock that a second close wants.
#[test]
fn a_drop_function_that_closes_its_hub_is_refused() {
    let hub = open("{}");
    let answer = Arc::new(Mutex::new(None));
    let (own, kept) = (hub.clone(), Arc::clone(&answer));
    let on_drop = CallsOnDrop(Some(Box::new(move || {
        *kept.lock().unwrap() = Some(own.close(None).unwrap_err().kind());
    })));
    hub.on_state(Some(Box::new(on_drop))).unwrap();
    hub.close(WAIT).unwrap();
    assert_eq!(*answer.lock().unwrap(), Some(Kind::Reentrant));
}

/// A dispatcher dropped the handler outside of what marks a callback, so a close from the drop
/// function waited for the dispatcher it ran on.
#[test]
fn a_drop_function_that_closes_its_subscription_is_refused() {
    let hub = open("{}");
    let answers = Arc::new(Mutex::new(Vec::new()));
    let (own, kept) = (Arc::new(Mutex::new(None::<Subscription>)), Arc::clone(&answers));
    let (slot, owner) = (Arc::clone(&own), hub.clone());
    let on_drop = CallsOnDrop(Some(Box::new(move || {
        let sub = slot.lock().unwrap().take().unwrap();
        let mut answers = kept.lock().unwrap();
        answers.push(sub.close(None).unwrap_err().kind());
        answers.push(sub.wait(None).unwrap_err().kind());
        answers.push(owner.close(None).unwrap_err().kind());
    })));
    let on_drop = Mutex::new(on_drop);
    let handle = handler(move |_| {
        let _moved = &on_drop;
        Some(HandlerVerdict::Ack)
    });
    let sub = hub.subscribe(options(r#"{"topic":"tasks.a"}"#), handle, WAIT).unwrap();
    *own.lock().unwrap() = Some(sub.clone());
    sub.close(WAIT).unwrap();
    assert_eq!(*answers.lock().unwrap(), [Kind::Reentrant; 3]);
}

/// A close that had looked at the list of subscriptions and inboxes missed those that were being
/// made, and they stayed open in a closed hub.
#[test]
fn what_is_made_while_a_hub_closes_is_refused_or_ends() {
    for round in 0..300 {
        let hub = open("{}");
        let barrier = Arc::new(Barrier::new(3));
        let making = {
            let (hub, barrier) = (hub.clone(), Arc::clone(&barrier));
            std::thread::spawn(move || {
                barrier.wait();
                helixmq::sync::spin_for(Duration::from_micros(round % 50));
                hub.inbox(InboxOptions::from_json("{}").unwrap()).map(|inbox| {
                    let sub = hub.subscribe_inbox(options(r#"{"topic":"tasks.a"}"#), &inbox, 0, WAIT);
                    (inbox, sub)
                })
            })
        };
        let calling = {
            let (hub, barrier) = (hub.clone(), Arc::clone(&barrier));
            std::thread::spawn(move || {
                let dropped = Arc::new(AtomicBool::new(false));
                let told = Arc::clone(&dropped);
                let on_drop = Mutex::new(CallsOnDrop(Some(Box::new(move || told.store(true, Ordering::SeqCst)))));
                let handle = handler(move |_| {
                    let _moved = &on_drop;
                    Some(HandlerVerdict::Ack)
                });
                barrier.wait();
                (hub.subscribe(options(r#"{"topic":"tasks.b"}"#), handle, WAIT), dropped)
            })
        };
        barrier.wait();
        hub.close(WAIT).unwrap();
        if let Ok((inbox, sub)) = making.join().unwrap() {
            let stood = sub.is_ok();
            if let Ok(sub) = sub {
                sub.wait(WAIT).unwrap();
            }
            let mut events = Vec::new();
            while inbox.poll(8, WAIT, &mut events) != Polled::Closed {}
            assert_eq!(events.len(), usize::from(stood), "a subscription that stood has one end, another has none");
        }
        // An answer that is an error leaves nothing to be told.
        let (sub, dropped) = calling.join().unwrap();
        if let Ok(sub) = sub {
            sub.wait(WAIT).unwrap();
        }
        assert!(dropped.load(Ordering::SeqCst), "the user data are dropped once the hub is closed");
    }
}

/// A handler that publishes into a full topic waits for space that nobody makes any more, and the
/// close waits for the handler.
#[test]
fn a_close_does_not_wait_for_a_handler_that_waits_for_space() {
    let hub = open(r#"{"topics":[{"pattern":"tasks.full","messages_max":1}]}"#);
    publish(&hub, "tasks.full", "1");
    let (answers, answer) = mpsc::channel();
    let (own, answers) = (hub.clone(), Mutex::new(answers));
    let handle = handler(move |_| {
        answers.lock().unwrap().send(None).unwrap();
        let refused = own.publish("tasks.full", None, &Record::new(b"2"), None, None).unwrap_err();
        answers.lock().unwrap().send(Some(refused.kind())).unwrap();
        Some(HandlerVerdict::Ack)
    });
    let _sub = hub.subscribe(options(r#"{"topic":"tasks.a"}"#), handle, WAIT).unwrap();
    publish(&hub, "tasks.a", "x");
    assert_eq!(answer.recv_timeout(Duration::from_secs(10)).unwrap(), None);
    hub.close(None).unwrap();
    assert_eq!(answer.recv_timeout(Duration::from_secs(10)).unwrap(), Some(Kind::Closed));
}

/// Only the innermost function of the program was remembered: `on_ready`, called by a handler's
/// publish, could wait for that handler.
#[test]
fn a_function_inside_a_handler_cannot_wait_for_the_handler() {
    let (hub, other) = (open("{}"), open("{}"));
    let (own, told) = (Arc::new(Mutex::new(None::<Subscription>)), Arc::new(Mutex::new(Vec::new())));
    let elsewhere = inbox(&other);
    let _feeds = subscribe_to(&other, r#"{"topic":"tasks.b"}"#, &elsewhere, 0);
    assert_quiet(&elsewhere);
    let (slot, answers, its_hub) = (Arc::clone(&own), Arc::clone(&told), hub.clone());
    let on_ready = move || {
        let sub = slot.lock().unwrap().clone().unwrap();
        let mut answers = answers.lock().unwrap();
        answers.push(sub.close(None).unwrap_err().kind());
        answers.push(its_hub.close(None).unwrap_err().kind());
    };
    elsewhere.on_ready(Box::new(on_ready)).unwrap();
    let (done, finished) = mpsc::channel();
    let done = Mutex::new(done);
    let handle = handler(move |_| {
        publish(&other, "tasks.b", "y");
        done.lock().unwrap().send(()).unwrap();
        Some(HandlerVerdict::Ack)
    });
    let sub = hub.subscribe(options(r#"{"topic":"tasks.a"}"#), handle, WAIT).unwrap();
    *own.lock().unwrap() = Some(sub);
    publish(&hub, "tasks.a", "x");
    finished.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(*told.lock().unwrap(), [Kind::Reentrant; 2]);
}

/// A subscribe that failed half-way had started threads that took messages already, and waited for
/// their handlers.
#[test]
fn a_subscribe_that_fails_has_called_nothing() {
    let hub = open("{}");
    let many = |count: usize| {
        let json = format!(r#"{{"topic":"tasks.many","concurrency":{count}}}"#);
        hub.subscribe(options(&json), handler(|_| Some(HandlerVerdict::Ack)), WAIT).unwrap()
    };
    let _subs = [many(64), many(64), many(64), many(63)];
    publish(&hub, "tasks.a", "x");
    let dropped = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&dropped);
    let on_drop = Mutex::new(CallsOnDrop(Some(Box::new(move || told.store(true, Ordering::SeqCst)))));
    let handle = handler(move |_| {
        let _moved = &on_drop;
        panic!("called by a subscription that never was");
    });
    let refused = hub.subscribe(options(r#"{"topic":"tasks.a","concurrency":2}"#), handle, NOW).unwrap_err();
    assert_eq!(refused.kind(), Kind::Full);
    assert!(dropped.load(Ordering::SeqCst));
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 0);
    let untouched = next(&inbox);
    assert_eq!((untouched.attempt, untouched.redelivered), (1, false));
}

/// An inbox that was freed while a subscription for it was being made did not end that one.
#[test]
fn what_is_made_for_an_inbox_that_ends_is_refused_or_ends() {
    let hub = open("{}");
    for round in 0..300 {
        let inbox = inbox(&hub);
        let barrier = Arc::new(Barrier::new(2));
        let making = {
            let (hub, inbox, barrier) = (hub.clone(), inbox.clone(), Arc::clone(&barrier));
            std::thread::spawn(move || {
                barrier.wait();
                hub.subscribe_inbox(options(r#"{"topic":"tasks.a"}"#), &inbox, 0, WAIT)
            })
        };
        barrier.wait();
        helixmq::sync::spin_for(Duration::from_micros(round % 30));
        inbox.end();
        if let Ok(sub) = making.join().unwrap() {
            sub.wait(WAIT).unwrap();
        }
    }
}
