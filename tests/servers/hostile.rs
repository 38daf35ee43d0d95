//! Servers that say what no server should. Each gets an error and a wait, never memory or the process.

use std::io::{Result, Write};

use helixmq::config::options::DeadLetterQuery;

use super::fake::{long, short, Fake, Peer, Tune, BODY, HEADER, TUNE};
use super::*;

const MIB: u64 = 1 << 20;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length).map(|_| (random(&mut state) >> 32) as u8).collect()
}

fn of_fake(fake: &Fake) -> Hub {
    hub_at(fake.port, json!({"connection_timeout_ms": 500, "retry": {"attempts": 1}}))
}

/// Runs a hub on it for a while, with a subscription where it gets so far.
fn suffers(what: &str, script: fn(&mut Peer) -> Result<()>) {
    suffers_as(what, of_fake, script);
}

/// The same with another hub of the fake server.
pub fn suffers_as(what: &str, of_fake: fn(&Fake) -> Hub, script: fn(&mut Peer) -> Result<()>) {
    let fake = Fake::start(script);
    let before = resident(false);
    forget_peak();
    let start = Instant::now();
    let hub = of_fake(&fake);
    let inbox = inbox(&hub);
    let options = SubscribeOptions::from_json(r#"{"topic": "tasks.hostile"}"#).unwrap();
    let sub = hub.subscribe_inbox(options, &inbox, 0, Some(Duration::from_millis(500)));
    until("another attempt", || attempts(&hub) >= 2 && start.elapsed() > Duration::from_millis(600));
    let (tried, took) = (attempts(&hub), start.elapsed());
    let closing = Instant::now();
    let _ = hub.close(Some(Duration::from_secs(3)));
    let closed = closing.elapsed();
    drop(sub);
    let grown = resident(true).saturating_sub(before);
    println!("{what}: {tried} attempts in {took:?}, closed in {closed:?}, {} MiB", grown / MIB);
    assert!(tried as f64 <= 6.0 + 10.0 * took.as_secs_f64(), "{what}: {tried} attempts in {took:?}");
    assert!(closed < Duration::from_secs(4), "{what}: {closed:?}");
    assert!(grown < 64 * MIB, "{what}: {grown} bytes");
}

/// Gets the client to consume, and then says this.
fn at_consumer(peer: &mut Peer, mut say: impl FnMut(&mut Peer, u16) -> Result<()>) -> Result<()> {
    peer.greet(TUNE)?;
    peer.serve(|peer, channel| {
        SAID.fetch_add(1, Ordering::SeqCst);
        say(peer, channel)?;
        Err(std::io::ErrorKind::ConnectionAborted.into())
    })
}

static SAID: AtomicU64 = AtomicU64::new(0);

#[test]
fn f57_before_the_login() {
    let _alone = lock();
    suffers("an end at once", |_| Ok(()));
    suffers("noise", |peer| peer.stream.write_all(&noise(7, 65_536)).and_then(|()| peer.drain()));
    suffers("another protocol", |peer| peer.stream.write_all(b"AMQP\x01\x01\x00\x0a").and_then(|()| peer.drain()));
    suffers("no login that we know", |peer| peer.header().and_then(|()| peer.start("")).and_then(|()| peer.drain()));
    suffers("a table longer than its frame", |peer| {
        peer.header()?;
        peer.method(0, 10, 10, &[&[0, 9][..], &u32::MAX.to_be_bytes(), &[1; 100]].concat())?;
        peer.drain()
    });
    suffers("a frame without an end", |peer| {
        peer.header()?;
        peer.stream.write_all(&[&[1, 0, 0][..], &u32::MAX.to_be_bytes()].concat())?;
        (0..256).try_for_each(|_| peer.stream.write_all(&[b'x'; 131_072]))
    });
    suffers("a login asked for again and again", |peer| {
        peer.header()?;
        (0..1000).try_for_each(|_| peer.start("PLAIN"))
    });
}

#[test]
fn f57_after_the_login() {
    let _alone = lock();
    suffers("noise", |peer| peer.greet(TUNE).and_then(|()| peer.stream.write_all(&noise(11, 65_536))));
    suffers("a frame with a wrong end", |peer| {
        peer.greet(TUNE)?;
        peer.stream.write_all(&[8, 0, 0, 0, 0, 0, 0, 0])
    });
    suffers("a channel that is not open", |peer| {
        peer.greet(TUNE)?;
        peer.method(7, 20, 11, &long(b""))?;
        peer.method(u16::MAX, 60, 80, &[0; 9])?;
        peer.frame(BODY, 9, b"body")
    });
    suffers("methods that do not exist", |peer| {
        peer.greet(TUNE)?;
        peer.method(0, 10, 99, &[])?;
        peer.method(0, u16::MAX, u16::MAX, &[1; 64])
    });
    suffers("a close for no reason", |peer| {
        peer.greet(TUNE)?;
        peer.method(0, 10, 50, &[&[0, 0][..], &short("\u{1b}[31m no reason"), &[0; 4]].concat())?;
        peer.drain()
    });
}

#[test]
fn f56_f57_to_a_consumer() {
    let _alone = lock();
    let before = SAID.load(Ordering::SeqCst);
    suffers("a body of 2^63 bytes", |peer| {
        at_consumer(peer, |peer, channel| {
            peer.deliver(channel, 1, 1 << 63, &[0, 0])?;
            peer.frame(BODY, channel, &[b'x'; 4096])
        })
    });
    suffers("a body of more bytes than there are", |peer| {
        at_consumer(peer, |peer, channel| peer.deliver(channel, 1, u64::MAX, &[0, 0]))
    });
    suffers("a header without an end", |peer| {
        at_consumer(peer, |peer, channel| {
            peer.deliver(channel, 1, 5, &[0xff; 100_000])?;
            peer.frame(BODY, channel, b"12345")
        })
    });
    suffers("a body longer than was said", |peer| {
        at_consumer(peer, |peer, channel| {
            peer.deliver(channel, 1, 5, &[0, 0])?;
            peer.frame(BODY, channel, &[b'x'; 4096])
        })
    });
    suffers("a header and a body of nothing", |peer| {
        at_consumer(peer, |peer, channel| {
            peer.frame(HEADER, channel, &[0; 14])?;
            peer.frame(BODY, channel, b"body")
        })
    });
    suffers("a confirm and a return of nothing", |peer| {
        at_consumer(peer, |peer, channel| {
            peer.method(channel, 60, 80, &[0xff; 9])?;
            peer.method(channel, 60, 50, &[&[0, 0][..], &short("x"), &short(""), &short("")].concat())
        })
    });
    suffers("a cancel", |peer| {
        at_consumer(peer, |peer, channel| peer.method(channel, 60, 30, &[&short("tag")[..], &[1]].concat()))
    });
    let said = SAID.load(Ordering::SeqCst) - before;
    assert!(said >= 2 * 7, "{said} consumers in 7 cases");
}

/// What the server says of frames, channels and heartbeats decides about our memory only downwards.
#[test]
fn f57_sizes_that_the_server_would_like() {
    let _alone = lock();
    for tune in [
        Tune { frame_max: 0, ..TUNE },
        Tune { frame_max: 1, ..TUNE },
        Tune { frame_max: u32::MAX, ..TUNE },
        Tune { channel_max: 0, ..TUNE },
        Tune { channel_max: u16::MAX, heartbeat: u16::MAX, ..TUNE },
    ] {
        let fake = Fake::start(move |peer| {
            peer.greet(tune)?;
            peer.serve(|_, _| Ok(()))
        });
        let before = resident(false);
        forget_peak();
        let hub = of_fake(&fake);
        publish(&hub, "tasks.sizes", &"x".repeat(100_000)).unwrap();
        let grown = resident(true).saturating_sub(before);
        println!("frames of {}: {} MiB", tune.frame_max, grown / MIB);
        assert!(grown < 64 * MIB, "frames of {}: {grown} bytes", tune.frame_max);
        hub.close(WAIT).unwrap();
    }
}

/// Frames that are right on the outside, with anything in them, at any time after the login.
#[test]
fn f57_random_frames() {
    let _alone = lock();
    let seed = AtomicU64::new(1);
    let sent = std::sync::Arc::new(AtomicU64::new(0));
    let count = std::sync::Arc::clone(&sent);
    let fake = Fake::start(move |peer| {
        let mut state = noise_seed(seed.fetch_add(1, Ordering::SeqCst));
        peer.greet(TUNE)?;
        let mut frames = 0;
        let mut say = |peer: &mut Peer, channel: u16| -> Result<()> {
            while frames < 50 {
                frames += 1;
                count.fetch_add(1, Ordering::SeqCst);
                let class = [10, 20, 40, 50, 60, 85, 90][random(&mut state) as usize % 7];
                let (id, length) = (random(&mut state) % 12 * 10 + random(&mut state) % 2, random(&mut state) % 64);
                let payload = noise(random(&mut state), length as usize);
                let channel =
                    if random(&mut state).is_multiple_of(4) { random(&mut state) as u16 % 4 } else { channel };
                match random(&mut state) % 6 {
                    0 => peer.frame(HEADER, channel, &payload)?,
                    1 => peer.frame(BODY, channel, &payload)?,
                    2 => peer.deliver(channel, random(&mut state), random(&mut state) % 100, &payload)?,
                    _ => peer.method(channel, class, id as u16, &payload)?,
                }
            }
            Ok(())
        };
        peer.serve(&mut say)
    });
    let before = resident(false);
    forget_peak();
    let start = Instant::now();
    let wanted = scaled(500, 100_000) as u64;
    while sent.load(Ordering::SeqCst) < wanted {
        let hub = hub_at(fake.port, json!({"connection_timeout_ms": 300}));
        let inbox = inbox(&hub);
        let options = SubscribeOptions::from_json(r#"{"topic": "tasks.hostile"}"#).unwrap();
        let sub = hub.subscribe_inbox(options, &inbox, 0, Some(Duration::from_millis(100)));
        let _ = inbox.poll(10, Some(Duration::from_millis(20)), &mut Vec::new());
        drop(sub);
        let _ = hub.close(Some(Duration::from_secs(1)));
    }
    let grown = resident(true).saturating_sub(before);
    println!(
        "{wanted} frames, {} connections in {:?}, {} MiB",
        fake.connections.load(Ordering::SeqCst),
        start.elapsed(),
        grown / MIB
    );
    assert!(grown < 128 * MIB, "{grown} bytes");
}

fn noise_seed(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

#[test]
fn f56_a_message_over_the_limit_becomes_one_dead_letter() {
    let _alone = alone();
    let (large, small) = (hub(json!({})), hub(json!({"message_bytes_max": 1000})));
    let (topic, inbox) = (topic(), inbox(&small));
    let _sub = subscribe(&small, json!({"topic": topic}), &inbox);
    for length in [1000, 1001, 500_000, 999] {
        publish(&large, &topic, &"x".repeat(length)).unwrap();
    }
    for length in [1000, 999] {
        let incoming = next(&inbox);
        assert_eq!((incoming.message.payload().len(), incoming.redelivered), (length, false));
        ack(&incoming);
    }
    let query = DeadLetterQuery::from_json(&json!({"topic": topic}).to_string()).unwrap();
    let mut list = json!({});
    until("both dead letters", || {
        list = small.dead_letters(&query, WAIT).unwrap();
        list["count"] == 2
    });
    assert!(list["dead_letters"][0]["reason"].to_string().contains("message_bytes_max 1000"), "{list}");
    assert!(next_within(&inbox, Duration::from_millis(700)).is_none());
    assert_eq!(small.dead_letters(&query, WAIT).unwrap()["count"], 2);
    for hub in [large, small] {
        hub.close(WAIT).unwrap();
    }
}
