//! What every side of a comparison is: senders and receivers of byte strings.

/// Hands payloads over.
pub trait Sender: Send {
    /// Messages that one `send` makes.
    const PER_CALL: u64 = 1;

    /// Sends `payload` [`Self::PER_CALL`] times; waits while the bound is reached.
    fn send(&mut self, payload: &[u8]);
}

/// Takes payloads out.
pub trait Receiver: Send {
    /// Waits for messages, shows each to `on`, and is done with them.
    fn receive(&mut self, on: impl FnMut(&[u8]));
}
