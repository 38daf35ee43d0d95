//! Offsets on their way to the cluster. What was not taken is sent again: while members come and go, a
//! group takes commits only at times, and what is lost then would come again to others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::consume::State;
use super::raw::{Client, Code, Failure, List, Queue};
use crate::clock::{Clock, Moment};
use crate::sync::Deadline;

/// How often offsets that have moved are committed, and how soon those that were not taken.
const EVERY: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_millis(100);
/// Between two looks at what else the client says.
const STEP: Duration = Duration::from_millis(20);

type Name = (Arc<str>, i32);

pub(super) struct Commits {
    client: Arc<Client>,
    clock: Clock,
    reply: Queue,
    /// To be committed, with a note.
    pending: BTreeMap<Name, (i64, String)>,
    /// Of them, what is under way.
    sent: Option<Vec<(Name, i64)>>,
    next: Moment,
}

impl Commits {
    pub fn new(client: &Arc<Client>, clock: &Clock, reply: Queue) -> Self {
        Self {
            client: Arc::clone(client),
            clock: clock.clone(),
            reply,
            pending: BTreeMap::new(),
            sent: None,
            next: Moment::default(),
        }
    }

    /// Takes over where partitions have moved to.
    pub fn take(&mut self, state: &mut State) {
        state.collect_moved();
        for (topic, number, offset, note) in state.moved_to.drain(..) {
            self.pending.insert((topic, number), (offset, note));
        }
    }

    /// Partitions that are somebody else's now.
    pub fn forget(&mut self, gone: impl Fn(&str, i32) -> bool) {
        self.pending.retain(|(topic, number), _| !gone(topic, *number));
    }

    /// Hears what was taken, and sends what is due.
    pub fn turn(&mut self) {
        while let Some(event) = self.reply.poll(Duration::ZERO) {
            let _ = self.on_answer(event.result(), &event.partitions());
        }
        if self.sent.is_none() && self.next <= self.clock.now() {
            self.send();
        }
    }

    /// When [`Commits::turn`] has something to send.
    pub fn due(&self) -> Option<Moment> {
        (!self.pending.is_empty() && self.sent.is_none()).then_some(self.next)
    }

    fn send(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut list = List::new();
        let mut sent = Vec::new();
        for ((topic, number), (offset, note)) in &self.pending {
            // Names came from librdkafka.
            let _ = list.add_noted(topic, *number, *offset, note);
            sent.push(((Arc::clone(topic), *number), *offset));
        }
        match self.client.commit(&list, &self.reply) {
            Ok(()) => self.sent = Some(sent),
            Err(_) => self.next = self.clock.now().plus(AGAIN),
        }
    }

    /// Whether all of it was taken.
    fn on_answer(&mut self, answer: Result<(), Failure>, list: &List) -> bool {
        let now = self.clock.now();
        let sent = self.sent.take().unwrap_or_default();
        self.next = now.plus(EVERY);
        let mut all = true;
        if let Err(failure) = &answer {
            tracing::debug!("offsets were not committed, and are again: {failure}");
            all = false;
        }
        for (name, offset) in sent.into_iter().filter(|_| answer.is_ok() || !list.is_empty()) {
            let own = list.iter().find(|own| own.topic == &*name.0 && own.partition == name.1);
            let refused = own.and_then(|own| own.result.err());
            match refused {
                // Of a topic that was deleted, nothing has to be kept.
                Some(failure) if failure.code == Code::UnknownTopicOrPartition => {}
                Some(_) => {
                    all = false;
                    continue;
                }
                None if answer.is_err() => continue,
                None => {}
            }
            if self.pending.get(&name).is_some_and(|(own, _)| *own == offset) {
                self.pending.remove(&name);
            }
        }
        if !all {
            self.next = now.plus(AGAIN);
        }
        all
    }

    /// Commits all that is pending, if that can be done in time. `meanwhile` hears what else the client says (a
    /// group may have to come to rest first), and answers the partitions that were lost.
    pub fn flush(&mut self, deadline: Deadline, mut meanwhile: impl FnMut() -> Vec<(String, i32)>) {
        self.next = Moment::default();
        while !self.pending.is_empty() && !deadline.has_passed() {
            if self.sent.is_none() && self.next <= self.clock.now() {
                self.send();
            }
            let step = deadline.left().unwrap_or(STEP).min(STEP);
            if let Some(event) = self.reply.poll(step) {
                if self.on_answer(event.result(), &event.partitions()) {
                    self.next = Moment::default();
                }
            }
            let lost = meanwhile();
            self.forget(|topic, number| lost.iter().any(|(own, of)| own == topic && *of == number));
        }
    }
}
