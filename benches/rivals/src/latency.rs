//! One message every 10 µs, and how long after its intended start each arrives. A sender that is
//! late does not move the next start, so a stall counts for every message that it delays.

use std::time::{Duration, Instant};

use crate::cores;
use crate::transport::{Receiver, Sender};
use helixmq_rivals::pairs::{Meter, Sample};

const INTERVAL: Duration = Duration::from_micros(10);
const SIZE: usize = 100;
/// In place of a start: the last message.
const END: u64 = u64::MAX;

/// Latencies of one run, microseconds.
#[derive(Clone, Copy)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

/// Runs one sender at the fixed rate for `time`.
pub fn run(sender: &mut impl Sender, receiver: &mut impl Receiver, time: Duration) -> (Sample, Latency) {
    let count = (time.as_nanos() / INTERVAL.as_nanos()) as usize;
    let zero = Instant::now() + Duration::from_millis(5);
    std::thread::scope(|scope| {
        let meter = Meter::start();
        let receiving = scope.spawn(move || {
            cores::take(1, 2);
            receive(receiver, zero, count)
        });
        scope.spawn(move || {
            cores::take(0, 2);
            send(sender, zero, count);
        });
        let mut nanos = receiving.join().expect("the receiver failed");
        nanos.sort_unstable();
        let at = |part: f64| nanos[((nanos.len() - 1) as f64 * part) as usize] as f64 / 1_000.0;
        let latency = Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999) };
        (meter.sample(count as u64, latency.p50), latency)
    })
}

fn send(sender: &mut impl Sender, zero: Instant, count: usize) {
    let mut payload = [0; SIZE];
    for index in 0..count {
        let offset = INTERVAL * index as u32;
        while zero.elapsed() < offset || Instant::now() < zero {
            std::hint::spin_loop();
        }
        payload[..8].copy_from_slice(&(offset.as_nanos() as u64).to_le_bytes());
        sender.send(&payload);
    }
    payload[..8].copy_from_slice(&END.to_le_bytes());
    sender.send(&payload);
}

fn receive(receiver: &mut impl Receiver, zero: Instant, count: usize) -> Vec<u64> {
    let mut nanos = Vec::with_capacity(count);
    let mut ended = false;
    while !ended {
        receiver.receive(|payload| {
            let start = u64::from_le_bytes(payload[..8].try_into().expect("eight bytes"));
            if start == END {
                ended = true;
            } else {
                nanos.push((zero.elapsed().as_nanos() as u64).saturating_sub(start));
            }
        });
    }
    nanos
}
