//! Which publish each confirm and each return means. Pure: no connection, no time.
//!
//! The client library hands a returned (unroutable) message to whichever confirm it completes
//! next, so a confirm that carries a return says nothing of its own message. What it does say: a
//! confirm that carries none was completed when no return was waiting to be handed out. The server
//! sends the return of a message before its confirm, so from such a confirm on every return of the
//! messages confirmed before it is known.
//!
//! ```text
//! a round          all confirms that were completed by now, the earlier ones never missing
//! carries none     decided at once: its own return, if there was one, is in this round or before
//! carries another  undecided until its own return comes, or a later round has one that carries none
//! nothing open     undecided ones would wait for ever: a barrier is published to get that confirm
//! ```

use std::collections::HashSet;

/// Names one publish on one channel.
pub(super) type Serial = u64;

/// How the server answered one publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Confirm {
    pub serial: Serial,
    /// Taken; `false`: refused.
    pub ack: bool,
    /// The publish whose returned message came with this confirm.
    pub carries: Option<Serial>,
}

/// How a publish ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Confirmed,
    Refused,
    Returned,
}

/// The state of one channel.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    /// Returned, and its own confirm is not decided yet.
    returned: HashSet<Serial>,
    undecided: Vec<(Serial, bool)>,
}

impl Confirms {
    /// Takes one round; appends what is decided by it to `out`.
    pub fn round(&mut self, confirms: &[Confirm], out: &mut Vec<(Serial, Ending)>) {
        self.returned.extend(confirms.iter().filter_map(|confirm| confirm.carries));
        // A confirm of this round was completed behind all of the rounds before.
        let proves_the_rest = confirms.iter().any(|confirm| confirm.carries.is_none());
        for (serial, ack) in std::mem::take(&mut self.undecided) {
            if self.returned.contains(&serial) || proves_the_rest {
                out.push((serial, self.ending(serial, ack)));
            } else {
                self.undecided.push((serial, ack));
            }
        }
        for Confirm { serial, ack, carries } in confirms {
            if carries.is_none() || self.returned.contains(serial) {
                out.push((*serial, self.ending(*serial, *ack)));
            } else {
                self.undecided.push((*serial, *ack));
            }
        }
    }

    /// Whether some wait for a confirm that carries nothing.
    pub fn wants_barrier(&self) -> bool {
        !self.undecided.is_empty()
    }

    /// The channel is gone: those that were confirmed, but perhaps returned.
    pub fn give_up(&mut self) -> Vec<Serial> {
        self.returned.clear();
        self.undecided.drain(..).map(|(serial, _)| serial).collect()
    }

    fn ending(&mut self, serial: Serial, ack: bool) -> Ending {
        match (self.returned.remove(&serial), ack) {
            (true, _) => Ending::Returned,
            (false, true) => Ending::Confirmed,
            (false, false) => Ending::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    fn one(confirms: &mut Confirms, round: &[(Serial, Option<Serial>)]) -> Vec<(Serial, Ending)> {
        let round: Vec<_> = round.iter().map(|&(serial, carries)| Confirm { serial, ack: true, carries }).collect();
        let mut out = Vec::new();
        confirms.round(&round, &mut out);
        out
    }

    #[test]
    fn a_return_with_the_wrong_confirm_finds_its_own() {
        let mut confirms = Confirms::default();
        assert_eq!(
            one(&mut confirms, &[(1, Some(2)), (2, None)]),
            [(1, Ending::Confirmed), (2, Ending::Returned)][..0]
                .iter()
                .copied()
                .chain([(2, Ending::Returned)])
                .collect::<Vec<_>>()
        );
        assert!(confirms.wants_barrier());
        assert_eq!(one(&mut confirms, &[(3, None)]), [(1, Ending::Confirmed), (3, Ending::Confirmed)]);
        assert!(!confirms.wants_barrier());
    }

    #[test]
    fn a_return_that_comes_behind_its_confirm_is_waited_for() {
        let mut confirms = Confirms::default();
        assert_eq!(one(&mut confirms, &[(2, Some(1))]), []);
        assert_eq!(one(&mut confirms, &[(1, Some(2))]), [(2, Ending::Returned), (1, Ending::Returned)]);
    }

    proptest! {
        /// A server that confirms in any order, a client library that hands out returns as lapin
        /// does, rounds of any size: every publish ends as it did at the server.
        #[test]
        fn every_publish_ends_as_at_the_server(
            routable in prop::collection::vec(any::<bool>(), 1..60),
            order in any::<u64>(),
            rounds in prop::collection::vec(1usize..9, 60),
        ) {
            let mut random = order | 1;
            let mut next = |below: usize| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random % below as u64) as usize
            };
            let mut open: Vec<Serial> = (0..routable.len() as u64).collect();
            let mut waiting = VecDeque::new();
            let mut completed = Vec::new();
            let mut unreturned: VecDeque<Serial> = open.iter().copied().filter(|serial| !routable[*serial as usize]).collect();
            while !open.is_empty() {
                // Returns come in order, each before its own confirm.
                let serial = open.remove(next(open.len().min(5)));
                while unreturned.front().is_some_and(|first| *first <= serial) {
                    waiting.extend(unreturned.pop_front());
                }
                completed.push(Confirm { serial, ack: true, carries: waiting.pop_front() });
            }
            let mut confirms = Confirms::default();
            let mut ended = BTreeMap::new();
            let mut rest = &completed[..];
            for size in rounds {
                let (round, more) = rest.split_at(size.min(rest.len()));
                // Inside a round the order is not known.
                let mut round = round.to_vec();
                round.reverse();
                let mut out = Vec::new();
                confirms.round(&round, &mut out);
                for (serial, ending) in out {
                    prop_assert!(ended.insert(serial, ending).is_none(), "{serial} ended twice");
                }
                rest = more;
            }
            let mut barrier = 1_000;
            while confirms.wants_barrier() {
                let mut out = Vec::new();
                confirms.round(&[Confirm { serial: barrier, ack: true, carries: waiting.pop_front() }], &mut out);
                ended.extend(out.into_iter().filter(|(serial, _)| *serial < 1_000));
                barrier += 1;
            }
            for (serial, routable) in routable.iter().enumerate() {
                let expected = if *routable { Ending::Confirmed } else { Ending::Returned };
                prop_assert_eq!(ended.get(&(serial as u64)).copied(), Some(expected), "publish {}", serial);
            }
        }
    }
}
