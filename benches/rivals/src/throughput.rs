//! Senders against receivers, as fast as they go: messages per second.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::cores;
use crate::transport::{Receiver, Sender};
use helixmq_rivals::pairs::{Meter, Sample};

/// First byte of the last message of a sender.
const LAST: u8 = 1;

/// Lets every sender and every receiver run on a thread of its own for `time`. The messages counted
/// are those of one receiver: each receiver gets all.
pub fn run<S: Sender, R: Receiver>(senders: &mut [S], receivers: &mut [R], size: usize, time: Duration) -> Sample {
    let threads = senders.len() + receivers.len();
    let start = Barrier::new(threads + 1);
    let last_expected = senders.len() as u64 * S::PER_CALL;
    std::thread::scope(|scope| {
        let start = &start;
        let sending = senders.len();
        for (index, sender) in senders.iter_mut().enumerate() {
            scope.spawn(move || {
                cores::take(index, threads);
                start.wait();
                send_for(sender, size, time);
            });
        }
        let receiving: Vec<_> = receivers
            .iter_mut()
            .enumerate()
            .map(|(index, receiver)| {
                scope.spawn(move || {
                    cores::take(sending + index, threads);
                    start.wait();
                    receive_until(receiver, last_expected)
                })
            })
            .collect();
        let meter = Meter::start();
        start.wait();
        let counts: Vec<u64> = receiving.into_iter().map(|thread| thread.join().expect("a receiver failed")).collect();
        meter.rate(counts[0])
    })
}

fn send_for<S: Sender>(sender: &mut S, size: usize, time: Duration) {
    /// Messages between two looks at the clock.
    const STRIDE: u64 = 64;
    let mut payload = vec![0; size];
    let end = Instant::now() + time;
    while Instant::now() < end {
        for _ in 0..STRIDE / S::PER_CALL {
            sender.send(&payload);
        }
    }
    payload[0] = LAST;
    sender.send(&payload);
}

fn receive_until<R: Receiver>(receiver: &mut R, last_expected: u64) -> u64 {
    let (mut count, mut last, mut sum) = (0, 0, 0_u64);
    while last < last_expected {
        receiver.receive(|payload| {
            count += 1;
            last += u64::from(payload[0]);
            sum = sum.wrapping_add(u64::from(payload[payload.len() - 1]));
        });
    }
    std::hint::black_box(sum);
    count
}
