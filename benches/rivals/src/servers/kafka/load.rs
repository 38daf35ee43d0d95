//! What is published, the same on every side.

use std::fmt::Write;
use std::time::Duration;

use helixmq_rivals::pairs::Sample;

/// The header that ours writes, and the peers as well where ours does.
pub const ID_HEADER: &str = "hmq-id";
/// Characters of its value.
pub const ID_CHARS: usize = 32;

/// One kind of message and where it goes.
#[derive(Clone)]
pub struct Load {
    pub topic: String,
    pub bytes: usize,
    /// Messages without a delivery report, at most.
    pub window: usize,
    pub codec: Codec,
    /// Messages carry an id in a header. Ours then has the wire form `native`, else `plain`.
    pub named: bool,
    /// The peer copies the payload, as ours does (rdkafka_performance only; the others always do).
    pub copied: bool,
}

/// How batches are compressed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    None,
    Lz4,
}

impl Codec {
    /// By librdkafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Lz4 => "lz4",
        }
    }
}

impl Load {
    /// Text such as programs send. All messages of a turn have the same, since rdkafka_performance can
    /// send no other.
    pub fn body(&self) -> String {
        let mut text = String::with_capacity(self.bytes + 64);
        let mut number = 1_u32;
        while text.len() < self.bytes {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let _ = write!(text, r#"{{"id":{number},"name":"user-{}","open":true}}"#, number >> 16);
        }
        text.truncate(self.bytes);
        text
    }
}

/// A client that publishes, idempotent and with all acknowledgements, and takes every delivery report.
pub trait Publishes {
    /// Publishes for about `time` with the window kept full, waits for the rest: delivered per second.
    fn publish(&mut self, load: &Load, time: Duration) -> Sample;
}
