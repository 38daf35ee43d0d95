//! Settled deliveries of one channel, gathered into few acknowledgements. Pure.
//!
//! The server's tags of a channel rise by one. Everything up to the first delivery that is still out
//! is acknowledged by one frame (`multiple`); what lies behind it has a frame of its own.

use std::collections::BTreeMap;

/// The server's name of a delivery on one channel.
pub(super) type ServerTag = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Out,
    Acked,
}

/// A frame to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// Acknowledges this one, or with `multiple` all up to it.
    Ack { tag: ServerTag, multiple: bool },
    /// Gives it back to the queue.
    Requeue(ServerTag),
}

/// Deliveries of one channel that the server counts as out.
#[derive(Debug, Default)]
pub(super) struct Acks {
    open: BTreeMap<ServerTag, Fate>,
    requeued: Vec<ServerTag>,
}

impl Acks {
    /// A delivery came.
    pub fn out(&mut self, tag: ServerTag) {
        self.open.insert(tag, Fate::Out);
    }

    /// It is done.
    pub fn ack(&mut self, tag: ServerTag) {
        if let Some(fate) = self.open.get_mut(&tag) {
            *fate = Fate::Acked;
        }
    }

    /// It goes back.
    pub fn requeue(&mut self, tag: ServerTag) {
        if self.open.remove(&tag).is_some() {
            self.requeued.push(tag);
        }
    }

    /// The frames that tell the server all that was decided since the last call.
    pub fn frames(&mut self) -> Vec<Frame> {
        // Given back first: an acknowledgement of all up to a tag must not take them along.
        let mut frames: Vec<Frame> = self.requeued.drain(..).map(Frame::Requeue).collect();
        let head = self.open.iter().take_while(|(_, fate)| **fate == Fate::Acked).map(|(tag, _)| *tag).last();
        if let Some(last) = head {
            let behind = self.open.split_off(&(last + 1));
            let count = std::mem::replace(&mut self.open, behind).len();
            frames.push(Frame::Ack { tag: last, multiple: count > 1 });
        }
        let single: Vec<ServerTag> =
            self.open.iter().filter(|(_, fate)| **fate == Fate::Acked).map(|(tag, _)| *tag).collect();
        for tag in single {
            self.open.remove(&tag);
            frames.push(Frame::Ack { tag, multiple: false });
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_run_is_one_frame() {
        let mut acks = Acks::default();
        (1..=5).for_each(|tag| acks.out(tag));
        for tag in [1, 2, 4] {
            acks.ack(tag);
        }
        assert_eq!(acks.frames(), [Frame::Ack { tag: 2, multiple: true }, Frame::Ack { tag: 4, multiple: false }]);
        acks.ack(3);
        assert_eq!(acks.frames(), [Frame::Ack { tag: 3, multiple: false }]);
        acks.requeue(5);
        assert_eq!(acks.frames(), [Frame::Requeue(5)]);
        assert_eq!(acks.frames(), []);
    }

    proptest! {
        /// A server that follows the frames settles exactly what was decided, each once.
        #[test]
        fn the_server_settles_what_was_decided(steps in prop::collection::vec((0u8..4, any::<u16>()), 0..200)) {
            let mut acks = Acks::default();
            let (mut at_server, mut out, mut next) = (BTreeSet::new(), Vec::new(), 1);
            let (mut acked, mut requeued) = (BTreeSet::new(), BTreeSet::new());
            let (mut done, mut back) = (BTreeSet::new(), BTreeSet::new());
            for (what, which) in steps.into_iter().chain([(3, 0)]) {
                match what {
                    0 => {
                        acks.out(next);
                        at_server.insert(next);
                        out.push(next);
                        next += 1;
                    }
                    1 | 2 if !out.is_empty() => {
                        let tag = out.remove(which as usize % out.len());
                        if what == 1 { acks.ack(tag); acked.insert(tag); } else { acks.requeue(tag); requeued.insert(tag); }
                    }
                    3 => for frame in acks.frames() {
                        match frame {
                            Frame::Ack { tag, multiple: true } => {
                                let rest = at_server.split_off(&(tag + 1));
                                done.extend(std::mem::replace(&mut at_server, rest));
                            }
                            Frame::Ack { tag, multiple: false } => { prop_assert!(at_server.remove(&tag)); done.insert(tag); }
                            Frame::Requeue(tag) => { prop_assert!(at_server.remove(&tag)); back.insert(tag); }
                        }
                    },
                    _ => {}
                }
            }
            prop_assert_eq!((done, back), (acked, requeued));
        }
    }
}
