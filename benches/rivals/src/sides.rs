//! helixmq as senders and receivers: message by message, and in batches.

use helixmq_rivals::hub::{Publisher, Subscription, BATCH};

use crate::transport::{Receiver, Sender};

/// Message by message: one publish call, and poll, settle, clear for each.
pub struct Single<T>(pub T);

impl Sender for Single<Publisher> {
    fn send(&mut self, payload: &[u8]) {
        self.0.send_one(payload);
    }
}

impl Receiver for Single<Subscription> {
    fn receive(&mut self, mut on: impl FnMut(&[u8])) {
        self.0.receive_one(&mut on);
    }
}

/// [`BATCH`] messages per call.
pub struct Batched<T>(pub T);

impl Sender for Batched<Publisher> {
    const PER_CALL: u64 = BATCH as u64;

    fn send(&mut self, payload: &[u8]) {
        self.0.send_batch(payload);
    }
}

impl Receiver for Batched<Subscription> {
    fn receive(&mut self, mut on: impl FnMut(&[u8])) {
        self.0.receive_batch(&mut on);
    }
}
