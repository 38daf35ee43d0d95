//! What an event topic guards with its lock: partitions, groups, and members to tell.

use std::sync::Arc;

use smallvec::SmallVec;

use super::core::{Life, Sinks};
use super::event_source::EventSource;
use super::group::Group;
use super::partition::Partition;
use crate::broker::{Group as GroupOf, SubscribeSpec};
use crate::clock::Moment;

/// Everything that changes together when events come or go, or readers move.
#[derive(Debug)]
pub(super) struct State {
    pub life: Life,
    pub partitions: Vec<Partition>,
    pub groups: Vec<Option<Group>>,
    pub members: Vec<Member>,
    /// Some event may have an expiry.
    pub expires: bool,
    pub expired: u64,
    /// Members whose last fetch found nothing.
    pub listed: usize,
    pub count: u64,
    pub bytes: u64,
    /// Of both: on its way to the disk, and not here yet.
    pub reserved_count: u64,
    pub reserved_bytes: u64,
    pub dropped: u64,
    pub ages: bool,
}

/// A source, as its log knows it.
#[derive(Debug)]
pub(super) struct Member {
    pub id: u64,
    pub group: usize,
    pub source: Arc<EventSource>,
    pub slot: u32,
    pub listed: bool,
    /// Per partition, the offset to stop before; empty: never.
    pub stops: Vec<u64>,
}

impl Member {
    /// The offset to stop before in a partition.
    pub fn stop(&self, partition: usize) -> u64 {
        self.stops.get(partition).copied().unwrap_or(u64::MAX)
    }
}

impl State {
    /// The partitions of the source `id`, with the offset to stop before.
    pub fn owned(&self, id: u64) -> impl Iterator<Item = (usize, u64)> + '_ {
        let member = self.members.iter().find(|member| member.id == id);
        let group = member.and_then(|member| self.groups.get(member.group)?.as_ref());
        let trackers = group.map_or(&[][..], |group| &group.trackers);
        let owned = trackers.iter().enumerate().filter(move |(_, tracker)| tracker.owner == Some(id));
        owned.map(move |(index, _)| (index, member.map_or(u64::MAX, |member| member.stop(index))))
    }

    /// Notes that the source `id` found nothing here.
    pub fn list(&mut self, id: u64) {
        if let Some(member) = self.members.iter_mut().find(|member| member.id == id && !member.listed) {
            member.listed = true;
            self.listed += 1;
        }
    }

    /// Tells listed members that have something. `now`: also of events to be handed over again.
    pub fn wake(&mut self, now: Option<Moment>, sinks: &mut Sinks) {
        for index in 0..self.members.len() {
            let Some(member) = self.members.get(index).filter(|member| member.listed) else { continue };
            let Some(Some(group)) = self.groups.get(member.group) else { continue };
            let has_something = self.owned(member.id).any(|(partition, stop)| {
                let (Some(tracker), Some(own)) = (group.trackers.get(partition), self.partitions.get(partition)) else {
                    return false;
                };
                tracker.cursor.offset.max(own.first()) < own.next().min(stop)
                    || now.is_some_and(|now| tracker.next_again(now).is_some())
            });
            if !has_something {
                continue;
            }
            if let Some(member) = self.members.get_mut(index) {
                member.listed = false;
                self.listed -= 1;
                if member.source.bell().hint(member.slot) {
                    sinks.push(Arc::clone(member.source.bell().sink()));
                }
            }
        }
    }

    /// The group that `spec` asks for; made if it is not there.
    pub fn group_for(&mut self, spec: &SubscribeSpec) -> usize {
        let name = match &spec.group {
            GroupOf::Named(name) if !spec.read_only => Some(name.clone()),
            _ => None,
        };
        let is_it = |own: &Option<Group>| own.as_ref().is_some_and(|own| own.name.is_some() && own.name == name);
        if let Some(index) = self.groups.iter().position(is_it) {
            return index;
        }
        let made = Some(Group::new(name, !spec.read_only, &self.partitions, spec.start));
        match self.groups.iter().position(Option::is_none) {
            Some(index) => {
                self.groups[index] = made;
                index
            }
            None => {
                self.groups.push(made);
                self.groups.len() - 1
            }
        }
    }

    /// The partition with the oldest event that is before its limit, and that event's number.
    pub fn oldest_before(&mut self, limits: &[u64]) -> Option<(u64, usize)> {
        if let ([own], [limit]) = (&self.partitions[..], limits) {
            // One partition: its events are in order, whatever their numbers.
            return (own.first() < own.next().min(*limit)).then_some((0, 0));
        }
        let partitions = self.partitions.iter_mut().zip(limits).enumerate();
        let may_go = partitions.filter(|(_, (own, limit))| own.first() < own.next().min(**limit));
        may_go.filter_map(|(index, (own, _))| own.first_seq().map(|seq| (seq, index))).min()
    }

    /// The partition with the oldest event that every group has settled, and that event's number.
    pub fn oldest_settled(&mut self) -> Option<(u64, usize)> {
        let limits: SmallVec<[u64; 16]> =
            (0..self.partitions.len()).map(|index| self.settled(index).unwrap_or(0)).collect();
        let (_, index) = self.oldest_before(&limits)?;
        self.partitions.get_mut(index)?.first_seq().map(|seq| (seq, index))
    }

    /// Offset before which every group has settled; `None` without a group.
    pub fn settled(&self, partition: usize) -> Option<u64> {
        let groups = self.groups.iter().flatten().filter(|group| group.settles);
        groups.filter_map(|group| group.trackers.get(partition)).map(|tracker| tracker.committed).min()
    }

    /// Events that some group has not settled.
    pub fn unsettled(&self, partition: usize) -> u64 {
        let groups = self.groups.iter().flatten().filter(|group| group.settles);
        let Some(own) = self.partitions.get(partition) else { return 0 };
        groups.filter_map(|group| group.trackers.get(partition)).map(|tracker| tracker.lag(own)).max().unwrap_or(0)
    }
}
