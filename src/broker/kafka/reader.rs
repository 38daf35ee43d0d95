//! The thread of a subscription without a group: it reads every partition of its topics by itself, from
//! where it is told to, up to where it is told to, and keeps no offsets at the cluster. Replays are
//! such, and private groups.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::consume::{Seek, Subscriber};
use super::error::{error, of};
use super::positions;
use super::pump::{Intake, Line, Pump, Trouble};
use super::raw::{Client, Code, Failure, Queue, Reader};
use super::Shared;
use crate::broker::{Start, Stop};
use crate::clock::Moment;
use crate::error::{Kind, Result};
use crate::sync::Deadline;

/// Longest wait for one answer of a broker.
const ASK_MAX: Duration = Duration::from_secs(5);
/// How often new topics and partitions are looked for, and a partition that stopped is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(2);

struct Alone {
    pump: Pump,
    /// When to look for new topics and partitions; `None`: never, as it ends.
    look_at: Option<Moment>,
    stuck: Vec<(Moment, Trouble)>,
}

/// Begins to read. What is there is looked up before the first answer.
pub(super) fn start(shared: &Arc<Shared>, own: &Arc<Subscriber>, client: Arc<Client>) -> Result<()> {
    let main = Queue::main(&client).ok_or_else(|| error(Kind::Resources, "librdkafka gave no queue"))?;
    let pump = Pump::new(own, client, main.raises(&own.wake));
    let alone = Alone { pump, look_at: None, stuck: Vec::new() };
    let (weak, own) = (Arc::downgrade(shared), Arc::clone(own));
    crate::runtime::spawn_thread("hmq-kafka", move || {
        alone.run(&weak);
        super::ended(&weak, &own);
    })
}

impl Alone {
    fn run(mut self, weak: &Weak<Shared>) {
        let own = Arc::clone(&self.pump.own);
        let end = match weak.upgrade() {
            Some(shared) => self.look(&shared, own.spec.start),
            None => return,
        };
        if end.is_ok() {
            own.answer_start(Ok(()));
        }
        let end = end.and_then(|()| loop {
            let Some(shared) = weak.upgrade() else { break Ok(()) };
            if own.state.lock().closed {
                break Ok(());
            }
            if let Err(failure) = self.turn(&shared) {
                break Err(failure);
            }
            drop(shared);
            self.pump.sleep(self.stuck.iter().map(|(at, _)| *at).chain(self.look_at).min());
        });
        if let Err(failure) = end {
            let lost = of(&format!("reading `{}` has ended", own.spec.pattern), &failure);
            tracing::error!("{lost}");
            own.lose(lost);
        }
    }

    fn turn(&mut self, shared: &Shared) -> std::result::Result<(), Failure> {
        self.pump.hear_all(shared)?;
        let own = Arc::clone(&self.pump.own);
        let mut seeks: Vec<Seek> = std::mem::take(&mut own.state.lock().seeks);
        seeks.retain(|(_, answer)| !answer.is_closed());
        for (to, answer) in seeks {
            let _ = answer.send(self.seek_to(to));
        }
        let now = own.clock.now();
        if self.look_at.is_some_and(|at| at <= now) {
            // What came since is new: all of it is meant.
            if let Err(failure) = self.look(shared, Start::Earliest) {
                tracing::debug!("topics of `{}` could not be looked up: {failure}", own.spec.pattern);
                self.look_at = Some(now.plus(LOOK_EVERY));
            }
        }
        for trouble in self.pump.fill(shared) {
            match (trouble.failure.code, trouble.again_from) {
                (Code::AutoOffsetReset | Code::OffsetOutOfRange, None) => self.stuck.push((now, trouble)),
                (_, Some(_)) => self.stuck.push((now.plus(LOOK_EVERY), trouble)),
                (Code::TopicAuthorizationFailed, None) => return Err(trouble.failure),
                // Its end would never come.
                (Code::UnknownTopic | Code::UnknownTopicOrPartition, None) if own.spec.stop != Stop::Never => {
                    return Err(trouble.failure);
                }
                _ => tracing::warn!("a partition of `{}`: {}", own.spec.pattern, trouble.failure),
            }
        }
        self.go_on(shared, now)?;
        self.pump.tick(shared);
        self.tell_end();
        let mut state = own.state.lock();
        state.forget_past();
        // Nothing is stored.
        state.collect_moved();
        state.moved_to.clear();
        Ok(())
    }

    /// The end is told when every partition is at its own.
    fn tell_end(&self) {
        let own = &self.pump.own;
        if own.spec.stop == Stop::Never || !self.pump.intakes.iter().all(|intake| intake.ended) {
            return;
        }
        if !std::mem::replace(&mut own.state.lock().at_end, true) {
            own.ring();
        }
    }

    /// Begins to read what is not read yet.
    fn look(&mut self, shared: &Shared, start: Start) -> std::result::Result<(), Failure> {
        let own = Arc::clone(&self.pump.own);
        let client = Arc::clone(&self.pump.client);
        let mut names = positions::partitions(&client, &own.pattern, ASK_MAX)?;
        let until = within(names.len());
        names.retain(|(topic, number)| {
            let known = |intake: &Intake| *intake.topic == **topic && intake.number == *number;
            own.receives(topic) && !self.pump.intakes.iter().any(known)
        });
        let stops = match own.spec.stop {
            Stop::Time(us) => positions::of_time(&client, &names, us, until)?,
            _ => Default::default(),
        };
        for place in positions::of_start(&client, &names, start, until)? {
            let (low, high) = match own.spec.stop {
                Stop::Never => (0, i64::MAX),
                _ => positions::marks(&client, &place.topic, place.number, until)?,
            };
            let at_time = stops.get(&(place.topic.clone(), place.number)).copied();
            let stop = (own.spec.stop != Stop::Never).then(|| at_time.unwrap_or(high).min(high));
            let begins = place.offset.max(low).max(place.from);
            self.read(shared, &place, stop, stop.is_some_and(|stop| begins >= stop))?;
        }
        self.look_at = (own.spec.stop == Stop::Never).then(|| own.clock.now().plus(LOOK_EVERY));
        Ok(())
    }

    fn read(
        &mut self,
        shared: &Shared,
        place: &positions::Place,
        stop: Option<i64>,
        ended: bool,
    ) -> std::result::Result<(), Failure> {
        if ended {
            return Ok(());
        }
        let own = Arc::clone(&self.pump.own);
        let no_queue =
            || Failure { code: Code::CriticalSystemResource, text: "librdkafka gave no queue".into(), fatal: false };
        let client = &self.pump.client;
        let queue = Queue::new(client).ok_or_else(no_queue)?.raises(&own.wake);
        let reader = Reader::start(client, &place.topic, place.number, place.offset, queue)?;
        let topic: Arc<str> = Arc::from(place.topic.as_str());
        let slot = own.state.lock().add(&topic, place.number, own.ordered());
        self.pump.intakes.push(Intake {
            slot,
            wire: shared.forms.of(&topic),
            topic,
            number: place.number,
            line: Line::Alone(reader),
            next: place.offset,
            from: place.from,
            handed: place.handed,
            stop,
            ended,
            halted: false,
        });
        Ok(())
    }

    fn go_on(&mut self, shared: &Shared, now: Moment) -> std::result::Result<(), Failure> {
        let due: Vec<Trouble> = self.stuck.extract_if(.., |(at, _)| *at <= now).map(|(_, trouble)| trouble).collect();
        for trouble in due {
            if let Err(failure) = self.reposition(shared, &trouble) {
                if failure.fatal {
                    return Err(failure);
                }
                tracing::warn!("a partition of `{}` cannot go on: {failure}", self.pump.own.spec.pattern);
                self.stuck.push((now.plus(LOOK_EVERY), trouble));
            }
        }
        Ok(())
    }

    /// Reads a partition anew, from where it stopped or the oldest that is there.
    fn reposition(&mut self, shared: &Shared, trouble: &Trouble) -> std::result::Result<(), Failure> {
        let client = Arc::clone(&self.pump.client);
        let Some(index) = self.pump.intakes.iter().position(|intake| intake.slot == trouble.slot) else {
            return Ok(());
        };
        let (topic, number) = {
            let intake = &self.pump.intakes[index];
            (Arc::clone(&intake.topic), intake.number)
        };
        let offset = match trouble.again_from {
            Some(offset) => offset,
            None => {
                let low = positions::after_a_gap(&client, &topic, number, ASK_MAX)?;
                shared.warn_of_gap(&self.pump.own, &self.pump.intakes[index], low);
                low
            }
        };
        self.begin_again(index, offset)
    }

    /// Reads a partition from elsewhere. It is read once at a time: the reader before must have stopped.
    fn begin_again(&mut self, index: usize, offset: i64) -> std::result::Result<(), Failure> {
        let client = Arc::clone(&self.pump.client);
        // Without its reader the partition would look as if it had ended.
        let fatal = |failure: Failure| Failure { fatal: true, ..failure };
        let no_queue =
            || Failure { code: Code::CriticalSystemResource, text: "librdkafka gave no queue".into(), fatal: false };
        let queue = Queue::new(&client).ok_or_else(no_queue)?.raises(&self.pump.own.wake);
        let Intake { slot, topic, number, from, handed, stop, ended, wire, line, .. } =
            self.pump.intakes.swap_remove(index);
        drop(line);
        let reader = Reader::start(&client, &topic, number, offset, queue).map_err(fatal)?;
        let (line, next, halted) = (Line::Alone(reader), offset, false);
        self.pump.intakes.push(Intake { slot, topic, number, next, from, handed, stop, ended, halted, wire, line });
        Ok(())
    }

    fn seek_to(&mut self, to: Start) -> Result<()> {
        let own = Arc::clone(&self.pump.own);
        if own.spec.stop != Stop::Never {
            return Err(error(Kind::Unsupported, "a replay that ends is not moved: begin another one"));
        }
        let failed = |failure: Failure| of("seek", &failure);
        let names: Vec<(String, i32)> =
            self.pump.intakes.iter().map(|intake| (intake.topic.to_string(), intake.number)).collect();
        let until = within(names.len());
        for place in positions::of_start(&self.pump.client, &names, to, until).map_err(failed)? {
            let found = |intake: &Intake| *intake.topic == *place.topic && intake.number == place.number;
            let Some(index) = self.pump.intakes.iter().position(found) else { continue };
            let slot = self.pump.intakes[index].slot;
            self.stuck.retain(|(_, trouble)| trouble.slot != slot);
            let renewed = own.state.lock().renew(slot, own.ordered());
            let intake = &mut self.pump.intakes[index];
            (intake.slot, intake.from, intake.handed) = (renewed.unwrap_or(slot), place.from, 0);
            self.begin_again(index, place.offset).map_err(failed)?;
        }
        Ok(())
    }
}

/// Time to ask about so many partitions, one after the other.
fn within(partitions: usize) -> Deadline {
    let each = Duration::from_millis(50) * u32::try_from(partitions).unwrap_or(u32::MAX).min(1_000);
    Deadline::after(Some(ASK_MAX + each))
}
