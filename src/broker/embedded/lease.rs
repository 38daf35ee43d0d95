//! Deliveries that are out: a slab of leases, found by tag.
//!
//! A tag is the slot's index in its low half and the slot's generation in its high half. The
//! generation rises whenever a slot is emptied, so a tag of an ended lease finds nothing.

/// Leases of one source.
#[derive(Debug)]
pub(super) struct Leases<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    lease: Option<T>,
}

impl<T> Default for Leases<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Leases<T> {
    /// Deliveries out.
    #[inline]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Keeps `lease` and answers its tag, which is never 0.
    #[inline]
    pub fn insert(&mut self, lease: T) -> u64 {
        if let Some(index) = self.free.pop() {
            if let Some(slot) = self.slots.get_mut(index as usize) {
                slot.lease = Some(lease);
                return tag_of(index, slot.generation);
            }
        }
        let index = self.slots.len() as u32;
        self.slots.push(Slot { generation: 1, lease: Some(lease) });
        tag_of(index, 1)
    }

    /// The lease called `tag`, while it lasts.
    #[inline]
    pub fn find(&mut self, tag: u64) -> Option<&mut T> {
        let slot = self.slots.get_mut(tag as u32 as usize)?;
        if slot.generation != (tag >> 32) as u32 {
            return None;
        }
        slot.lease.as_mut()
    }

    /// Ends the lease called `tag`.
    #[inline]
    pub fn remove(&mut self, tag: u64) -> Option<T> {
        let slot = self.slots.get_mut(tag as u32 as usize)?;
        if slot.generation != (tag >> 32) as u32 {
            return None;
        }
        let lease = slot.lease.take()?;
        slot.generation = slot.generation.wrapping_add(1).max(1);
        self.free.push(tag as u32);
        Some(lease)
    }

    /// All leases with their tags.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| slot.lease.as_ref().map(|lease| (tag_of(index as u32, slot.generation), lease)))
    }

    /// Ends every lease that `which` chooses; answers them with their tags, in order of tags.
    pub fn remove_if(&mut self, which: impl Fn(&T) -> bool) -> Vec<(u64, T)> {
        let tags: Vec<u64> = self.iter().filter(|(_, lease)| which(lease)).map(|(tag, _)| tag).collect();
        tags.into_iter().filter_map(|tag| self.remove(tag).map(|lease| (tag, lease))).collect()
    }
}

fn tag_of(index: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}
