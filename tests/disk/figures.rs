//! How fast publishing to disk is on this machine: `cargo test --release --test disk figures -- --ignored --nocapture`.

use std::sync::{Arc, Condvar, Mutex};

use super::*;

/// Messages per second while `publish` is called for each of `count`.
fn rate(count: usize, mut publish: impl FnMut(usize)) -> f64 {
    let start = Instant::now();
    (0..count).for_each(&mut publish);
    count as f64 / start.elapsed().as_secs_f64()
}

#[test]
#[ignore = "figures, not a test: it takes a while and depends on the machine"]
fn publishing() {
    let payload = vec![7; 1024];
    let record = Record::new(&payload);
    for sync in ["each", "interval", "none"] {
        let dir = TestDir::new();
        let hub = try_open(&dir.0, json!({"failover": {"sync": sync}})).unwrap();
        let to = publisher(&hub, json!({"topic": "tasks.a"}));
        let one = rate(5_000, |_| {
            to.send(&record, WAIT).unwrap();
        });
        let window = Arc::new((Mutex::new(0), Condvar::new()));
        let many = rate(200_000, |_| {
            let (open, changed) = &*window;
            let mut open = changed.wait_while(open.lock().unwrap(), |open| *open >= 500).unwrap();
            *open += 1;
            drop(open);
            let told = Arc::clone(&window);
            let tell = move |result: helixmq::error::Result<_>| {
                result.unwrap();
                *told.0.lock().unwrap() -= 1;
                told.1.notify_one();
            };
            to.send_async(&record, Box::new(tell)).unwrap();
        });
        hub.flush(WAIT).unwrap();
        let inbox = inbox(&hub);
        let _sub = subscribe(&hub, json!({"topic": "tasks.a", "prefetch": 500}), &inbox);
        let mut events = Vec::new();
        let mut left = 205_000_usize;
        let start = Instant::now();
        while left > 0 {
            inbox.poll(500, WAIT, &mut events);
            let tokens: Vec<u64> = events
                .drain(..)
                .filter_map(|event| match event {
                    Event::Message { incoming, .. } => Some(incoming.token),
                    _ => None,
                })
                .collect();
            left -= tokens.len();
            let get = |index: usize| (tokens[index], helixmq::hub::Decision::Ack);
            helixmq::hub::settle_many(tokens.len(), get, |_, result| result.unwrap());
        }
        let worked = 205_000.0 / start.elapsed().as_secs_f64();
        println!("sync {sync}: one by one {one:.0}/s, 500 in flight {many:.0}/s, taken and acknowledged {worked:.0}/s");
        let start = Instant::now();
        hub.close(WAIT).unwrap();
        println!("sync {sync}: closed in {:.2} s", start.elapsed().as_secs_f64());
    }
}
