//! The thread of a member of a consumer group: joins, takes partitions over from where the group is,
//! gives them up when others join, and leaves.
//!
//! A partition that is asked back is given up when what is out of it is settled, or after
//! [`REVOKE_WAIT`]; what is done by then is committed. One that is lost is not committed any more:
//! it is somebody else's.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::commits::Commits;
use super::consume::{Seek, Subscriber};
use super::error::{error, of};
use super::positions::{self, Place};
use super::pump::{Intake, Line, Pump, Trouble};
use super::raw::{About, Client, Code, Failure, List, Queue};
use super::Shared;
use crate::broker::{Broken, Start};
use crate::clock::Moment;
use crate::error::{Kind, Result};
use crate::sync::Deadline;

/// How long handlers may take before partitions go to others all the same.
const REVOKE_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for one answer of a broker; deliveries of this subscription wait meanwhile.
const ASK_MAX: Duration = Duration::from_secs(5);
/// Longest wait for what is settled to be committed.
const COMMIT_MAX: Duration = Duration::from_secs(2);
/// Longest leave of a group.
const LEAVE_MAX: Duration = Duration::from_secs(5);
/// After a partition could not be gone on with.
const AGAIN: Duration = Duration::from_secs(1);

struct Member {
    pump: Pump,
    consumer: Queue,
    commits: Commits,
    /// Partitions that are asked back, and until when their handlers are waited for.
    leaving: Option<(List, Moment)>,
    /// Partitions that cannot go on, and when that is tried again.
    stuck: Vec<(Moment, Trouble)>,
}

/// What the program subscribed to, joined.
pub(super) fn start(shared: &Arc<Shared>, own: &Arc<Subscriber>, client: Arc<Client>) -> Result<()> {
    let no_queue = || error(Kind::Resources, "librdkafka gave no queue");
    let main = Queue::main(&client).ok_or_else(no_queue)?.raises(&own.wake);
    let consumer = Queue::consumer(&client).ok_or_else(no_queue)?.raises(&own.wake);
    let reply = Queue::new(&client).ok_or_else(no_queue)?.raises(&own.wake);
    let commits = Commits::new(&client, &own.clock, reply);
    let mut topics = List::new();
    let name = positions::subscription(&own.pattern);
    topics.add(&name, -1, -1).map_err(|failure| of("subscribe", &failure))?;
    client.subscribe(&topics).map_err(|failure| of("subscribe", &failure))?;
    let pump = Pump::new(own, client, main);
    let member = Member { pump, consumer, commits, leaving: None, stuck: Vec::new() };
    let (weak, own) = (Arc::downgrade(shared), Arc::clone(own));
    crate::runtime::spawn_thread("hmq-kafka", move || {
        member.run(&weak);
        super::ended(&weak, &own);
    })
}

impl Member {
    fn run(mut self, weak: &Weak<Shared>) {
        let own = Arc::clone(&self.pump.own);
        let end = loop {
            let Some(shared) = weak.upgrade() else { break Ok(()) };
            if own.state.lock().closed {
                break Ok(());
            }
            if let Err(failure) = self.turn(&shared) {
                break Err(failure);
            }
            drop(shared);
            let leaving = self.leaving.iter().map(|(_, until)| *until);
            let stuck = self.stuck.iter().map(|(at, _)| *at);
            self.pump.sleep(leaving.chain(stuck).chain(self.commits.due()).min());
        };
        if let Err(failure) = end {
            let lost = of(&format!("the subscription to `{}` has ended", own.spec.pattern), &failure);
            tracing::error!("{lost}");
            own.lose(lost);
        }
        self.leave(weak);
    }

    fn turn(&mut self, shared: &Shared) -> std::result::Result<(), Failure> {
        self.pump.hear_all(shared)?;
        self.hear_group(shared)?;
        self.seek(shared)?;
        let troubles = self.pump.fill(shared);
        let now = self.pump.own.clock.now();
        for trouble in troubles {
            self.on_trouble(now, trouble)?;
        }
        self.go_on(shared, now);
        self.pump.tick(shared);
        self.commit();
        self.give_up();
        Ok(())
    }

    /// What the group says.
    fn hear_group(&mut self, shared: &Shared) -> std::result::Result<(), Failure> {
        while let Some(event) = self.consumer.poll(Duration::ZERO) {
            match event.about() {
                About::Assigned => self.on_assigned(shared, &event.partitions()),
                About::Revoked => self.on_revoked(&event.partitions()),
                _ => self.pump.hear(shared, &event)?,
            }
        }
        Ok(())
    }

    fn on_assigned(&mut self, shared: &Shared, assigned: &List) {
        let own = Arc::clone(&self.pump.own);
        let until = within(assigned.iter().count());
        let found = positions::of_group(&self.pump.client, assigned, own.start_now(), until);
        let mut list = List::new();
        let mut slots = Vec::new();
        for place in found {
            slots.extend(self.take_over(shared, &place, &mut list));
        }
        if let Err(failure) = self.pump.client.assign(&list) {
            tracing::warn!("partitions of `{}` could not be taken over: {failure}", own.spec.pattern);
            // The group waits for an answer; each is tried alone.
            drop(self.pump.client.assign(&List::new()));
            let at = own.clock.now().plus(AGAIN);
            self.stuck.retain(|(_, trouble)| !slots.contains(&trouble.slot));
            self.stuck.extend(slots.into_iter().map(|slot| {
                let failure = failure.clone();
                (at, Trouble { slot, failure, again_from: None, unassigned: true })
            }));
        }
        own.answer_start(Ok(()));
    }

    /// The slot of a partition that is read from now on.
    fn take_over(&mut self, shared: &Shared, place: &Place, list: &mut List) -> Option<u32> {
        let own = Arc::clone(&self.pump.own);
        let queue = Queue::partition(&self.pump.client, &place.topic, place.number)?;
        let topic: Arc<str> = Arc::from(place.topic.as_str());
        note(&own, place);
        let slot = own.state.lock().add(&topic, place.number, own.ordered());
        if let Some(failure) = &place.unknown {
            // Its start could not be looked up yet.
            let trouble = Trouble { slot, failure: failure.clone(), again_from: None, unassigned: true };
            self.stuck.push((own.clock.now().plus(AGAIN), trouble));
        } else {
            // Names came from librdkafka.
            let _ = list.add(&place.topic, place.number, place.offset);
        }
        self.pump.intakes.push(Intake {
            slot,
            wire: shared.forms.of(&topic),
            topic,
            number: place.number,
            line: Line::Grouped(queue.raises(&own.wake)),
            next: place.offset,
            from: place.from,
            handed: place.handed,
            stop: None,
            ended: false,
            halted: place.unknown.is_some(),
        });
        Some(slot)
    }

    /// Answers the group that these partitions are given up. Those that were given up before are not the
    /// client's any more, and it would refuse them all.
    fn answer_revoked(&self, list: &List) {
        let is_unassigned = |topic: &str, number: i32| {
            let intake = self.pump.intakes.iter().find(|own| *own.topic == *topic && own.number == number);
            let slot = intake.map(|intake| intake.slot);
            self.stuck.iter().any(|(_, trouble)| trouble.unassigned && Some(trouble.slot) == slot)
        };
        let mut present = List::new();
        for own in list.iter().filter(|own| !is_unassigned(own.topic, own.partition)) {
            // Names came from librdkafka.
            let _ = present.add(own.topic, own.partition, own.offset);
        }
        if let Err(failure) = self.pump.client.unassign(&present) {
            tracing::warn!("partitions of `{}` could not be given up: {failure}", self.pump.own.spec.pattern);
            // Unanswered, the group would stand still here.
            drop(self.pump.client.unassign(&List::new()));
        }
    }

    fn on_revoked(&mut self, list: &List) {
        let wait = match self.pump.client.has_lost_assignment() {
            true => Duration::ZERO,
            false => REVOKE_WAIT,
        };
        {
            let mut state = self.pump.own.state.lock();
            for slot in state.slots.values_mut() {
                slot.leaving |= list.iter().any(|own| own.topic == &*slot.topic && own.partition == slot.number);
            }
        }
        let mut all = List::new();
        let before = self.leaving.take();
        let before = before.iter().flat_map(|(list, _)| list.iter());
        for own in before.chain(list.iter()) {
            // Names came from librdkafka.
            let _ = all.add(own.topic, own.partition, own.offset);
        }
        self.leaving = Some((all, self.pump.own.clock.now().plus(wait)));
    }

    /// Sends offsets that have moved; at once, if somebody waits for it.
    fn commit(&mut self) {
        let own = Arc::clone(&self.pump.own);
        let wishes = {
            let mut state = own.state.lock();
            self.commits.take(&mut state);
            state.forget_past();
            std::mem::take(&mut state.commits)
        };
        if !wishes.is_empty() {
            self.commits.flush(Deadline::after(Some(COMMIT_MAX)), Vec::new);
            for wish in wishes {
                let _ = wish.send(());
            }
        }
        self.commits.turn();
    }

    /// Gives partitions up when their handlers are done, or late.
    fn give_up(&mut self) {
        let own = Arc::clone(&self.pump.own);
        let is_lost = self.pump.client.has_lost_assignment();
        let Some((list, _)) = self.leaving.take_if(|(_, until)| {
            let state = own.state.lock();
            let out =
                state.slots.values().filter(|slot| slot.leaving && !slot.past).any(|slot| slot.partition.out() > 0);
            !out || is_lost || *until <= own.clock.now()
        }) else {
            return;
        };
        if !is_lost {
            // Asked back, they are taken still; nothing else comes before they are given up.
            let mut state = own.state.lock();
            self.commits.take(&mut state);
            state.collect_handed();
            self.commits.take(&mut state);
            drop(state);
            self.commits.flush(Deadline::after(Some(COMMIT_MAX)), Vec::new);
        }
        let gone = |topic: &str, number| list.iter().any(|own| own.topic == topic && own.partition == number);
        self.commits.forget(gone);
        let ended: Vec<Broken> = {
            let mut state = own.state.lock();
            let slots = state.slots.iter().filter(|(_, slot)| gone(&slot.topic, slot.number));
            let names: Vec<u32> = slots.map(|(name, _)| *name).collect();
            names.into_iter().flat_map(|name| state.forget(name)).collect()
        };
        // Before another member, perhaps of this process, can have them.
        own.revoke(ended);
        self.answer_revoked(&list);
        let left: Vec<Intake> = self.pump.intakes.extract_if(.., |intake| gone(&intake.topic, intake.number)).collect();
        left.iter().for_each(|intake| self.pump.forget_burials(intake.slot));
        self.stuck.retain(|(_, trouble)| !left.iter().any(|intake| intake.slot == trouble.slot));
        // What was out took places that others can have.
        own.ring();
    }

    fn on_trouble(&mut self, now: Moment, trouble: Trouble) -> std::result::Result<(), Failure> {
        let Trouble { failure, again_from, .. } = &trouble;
        let own = &self.pump.own;
        match failure.code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => self.stuck.push((now, trouble)),
            _ if again_from.is_some() => {
                tracing::error!("{failure}");
                self.stuck.push((now.plus(AGAIN), trouble));
            }
            Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed if own.is_starting() => {
                return Err(failure.clone());
            }
            _ => tracing::warn!("a partition of `{}`: {failure}", own.spec.pattern),
        }
        Ok(())
    }

    /// Goes on with partitions that had stopped. Not while some are asked back: that would answer it.
    fn go_on(&mut self, shared: &Shared, now: Moment) {
        if self.leaving.is_some() {
            return;
        }
        let due: Vec<Trouble> = self.stuck.extract_if(.., |(at, _)| *at <= now).map(|(_, trouble)| trouble).collect();
        for mut trouble in due {
            if let Err(failure) = self.reposition(shared, &mut trouble) {
                tracing::warn!("a partition of `{}` cannot go on: {failure}", self.pump.own.spec.pattern);
                self.stuck.push((now.plus(AGAIN), trouble));
            }
        }
    }

    fn reposition(&mut self, shared: &Shared, trouble: &mut Trouble) -> std::result::Result<(), Failure> {
        let own = Arc::clone(&self.pump.own);
        let Some(intake) = self.pump.intakes.iter_mut().find(|intake| intake.slot == trouble.slot) else {
            return Ok(());
        };
        let offset = match trouble.again_from {
            Some(offset) => offset,
            None if intake.next < 0 => {
                // The group has no place there: the start of the subscription counts.
                let names = [(intake.topic.to_string(), intake.number)];
                let places = positions::of_start(&self.pump.client, &names, own.start_now(), within(1))?;
                let place = places.into_iter().next().ok_or_else(|| trouble.failure.clone())?;
                (intake.from, intake.handed) = (place.from, 0);
                note(&own, &place);
                place.offset
            }
            None => {
                let low = positions::after_a_gap(&self.pump.client, &intake.topic, intake.number, ASK_MAX)?;
                shared.warn_of_gap(&own, intake, low);
                low
            }
        };
        let mut list = List::new();
        list.add(&intake.topic, intake.number, offset)?;
        trouble.again_from = Some(offset);
        // As for a seek.
        self.hear_group(shared)?;
        if self.leaving.is_some() {
            return Err(trouble.failure.clone());
        }
        if !trouble.unassigned {
            self.pump.client.unassign(&list)?;
            trouble.unassigned = true;
        }
        self.pump.client.assign(&list)?;
        let Some(intake) = self.pump.intakes.iter_mut().find(|intake| intake.slot == trouble.slot) else {
            return Ok(());
        };
        (intake.next, intake.halted) = (offset, false);
        Ok(())
    }

    /// Carries out the program's wishes to go on elsewhere, once there is something to go on with.
    fn seek(&mut self, shared: &Shared) -> std::result::Result<(), Failure> {
        let own = Arc::clone(&self.pump.own);
        let seeks: Vec<Seek> = {
            let mut state = own.state.lock();
            state.seeks.retain(|(_, answer)| !answer.is_closed());
            match self.pump.intakes.is_empty() || self.leaving.is_some() {
                true => Vec::new(),
                false => std::mem::take(&mut state.seeks),
            }
        };
        for (to, answer) in seeks {
            let names: Vec<(String, i32)> =
                self.pump.intakes.iter().map(|intake| (intake.topic.to_string(), intake.number)).collect();
            let found = self.places_of(&names, to);
            // What the group asked for meanwhile goes first: giving partitions up would be taken for its answer.
            self.hear_group(shared)?;
            if self.leaving.is_some() || self.pump.intakes.len() != names.len() {
                own.state.lock().seeks.push((to, answer));
                continue;
            }
            let failed = |failure: Failure| of("seek", &failure);
            let _ = answer.send(found.and_then(|places| self.seek_to(&places)).map_err(failed));
        }
        Ok(())
    }

    /// Where that is, as offsets that can be committed.
    fn places_of(&self, names: &[(String, i32)], to: Start) -> std::result::Result<Vec<Place>, Failure> {
        let until = within(names.len());
        let mut places = positions::of_start(&self.pump.client, names, to, until)?;
        for place in places.iter_mut().filter(|place| place.offset < 0) {
            place.offset = positions::marks(&self.pump.client, &place.topic, place.number, until)?.0;
        }
        Ok(places)
    }

    /// Gives the partitions up and takes them over again, from elsewhere: that needs no answer of a broker, and
    /// serves those that had stopped as well.
    fn seek_to(&mut self, places: &[Place]) -> std::result::Result<(), Failure> {
        let own = Arc::clone(&self.pump.own);
        let is_unassigned = |slot| self.stuck.iter().any(|(_, own)| own.unassigned && own.slot == slot);
        let (mut present, mut list) = (List::new(), List::new());
        for intake in self.pump.intakes.iter().filter(|intake| !is_unassigned(intake.slot)) {
            present.add(&intake.topic, intake.number, 0)?;
        }
        for place in places {
            list.add(&place.topic, place.number, place.offset)?;
        }
        self.pump.client.unassign(&present)?;
        self.stuck.clear();
        let assigned = self.pump.client.assign(&list);
        let mut state = own.state.lock();
        for place in places {
            let found = |intake: &&mut Intake| *intake.topic == *place.topic && intake.number == place.number;
            let Some(intake) = self.pump.intakes.iter_mut().find(found) else { continue };
            if let Some(slot) = state.renew(intake.slot, own.ordered()) {
                intake.slot = slot;
            }
            (intake.next, intake.from, intake.handed, intake.halted) = (place.offset, place.from, 0, false);
            state.moved_to.push((Arc::clone(&intake.topic), place.number, place.offset, String::new()));
            if let Err(failure) = &assigned {
                // It goes on there when it can.
                let again_from = Some(place.offset);
                let trouble = Trouble { slot: intake.slot, failure: failure.clone(), again_from, unassigned: true };
                self.stuck.push((own.clock.now().plus(AGAIN), trouble));
            }
        }
        Ok(())
    }

    /// Leaves the group, so that others need not wait for it to be missed; what is done is committed.
    fn leave(mut self, weak: &Weak<Shared>) {
        let own = Arc::clone(&self.pump.own);
        self.commits.take(&mut own.state.lock());
        let (client, consumer) = (&self.pump.client, &self.consumer);
        self.commits.flush(Deadline::after(Some(COMMIT_MAX)), || {
            // A group that is being put together anew takes commits again when that is done.
            let mut lost = Vec::new();
            while let Some(event) = consumer.poll(Duration::ZERO) {
                let list = event.partitions();
                match event.about() {
                    About::Revoked => {
                        if client.has_lost_assignment() {
                            lost.extend(list.iter().map(|own| (own.topic.to_owned(), own.partition)));
                        }
                        if client.unassign(&list).is_err() {
                            drop(client.unassign(&List::new()));
                        }
                    }
                    About::Assigned => drop(client.assign(&list)),
                    _ => {}
                }
            }
            lost
        });
        let deadline = Deadline::after(Some(LEAVE_MAX));
        if self.pump.client.close_to(&self.consumer).is_ok() {
            if let Some((list, _)) = self.leaving.take() {
                // Unanswered, it would keep the client from leaving.
                self.answer_revoked(&list);
            }
            while !self.pump.client.is_closed() && !deadline.has_passed() {
                let Some(event) = self.consumer.poll(Duration::from_millis(20)) else { continue };
                match event.about() {
                    About::Revoked => self.answer_revoked(&event.partitions()),
                    About::Assigned => drop(self.pump.client.assign(&event.partitions())),
                    _ => {}
                }
                if let Some(shared) = weak.upgrade() {
                    drop(self.pump.hear_all(&shared));
                }
            }
        }
        if !self.pump.client.is_closed() {
            tracing::warn!("the group of `{}` was not left in time; it will miss this member", own.spec.pattern);
        }
    }
}

/// Time to ask about so many partitions, one after the other.
fn within(partitions: usize) -> Deadline {
    let each = Duration::from_millis(50) * u32::try_from(partitions).unwrap_or(u32::MAX).min(500);
    Deadline::after(Some(ASK_MAX + each))
}

/// Where a group begins is committed at once, or another member would begin elsewhere.
fn note(own: &Subscriber, place: &Place) {
    if let Some(offset) = place.noted {
        let moved = (Arc::from(place.topic.as_str()), place.number, offset, String::new());
        own.state.lock().moved_to.push(moved);
    }
}
