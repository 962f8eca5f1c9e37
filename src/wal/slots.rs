//! Where the write slots are.

use super::slot::{Sealer, Slot};

/// The log's write slots, and the sealer; under the log's mutex. There is one slot until the depth
/// asks for more.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Vec<Slot>,
    /// Each for a candidate that was appointed.
    handed: Vec<Slot>,
    /// How many leaders have one.
    taken: usize,
    /// `None`: a leader seals, or syncs before it seals.
    pub(super) sealer: Option<Box<Sealer>>,
    /// Somebody makes another one, or it could not be had.
    making: bool,
    /// No leader any more: the log is poisoned or closed.
    gone: bool,
}

impl Slots {
    pub(super) fn new(slot: Slot, sealer: Box<Sealer>) -> Slots {
        let (free, handed) = (vec![slot], Vec::new());
        Slots { free, handed, taken: 0, sealer: Some(sealer), making: false, gone: false }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.free.len() + self.handed.len() + self.taken
    }

    /// Whether nobody leads or is about to.
    pub(super) fn is_idle(&self) -> bool {
        !self.gone && self.taken == 0 && self.handed.is_empty()
    }

    /// Whether somebody was appointed who is waking.
    pub(super) fn is_handed(&self) -> bool {
        !self.handed.is_empty()
    }

    /// Whether one can be taken, and what is sealed next with it.
    pub(super) fn is_ready(&self) -> bool {
        !self.gone && !self.free.is_empty() && self.sealer.is_some()
    }

    /// Takes a free one.
    pub(super) fn take(&mut self) -> Option<Slot> {
        let slot = self.free.pop()?;
        self.taken += 1;
        Some(slot)
    }

    /// Puts a free one aside for somebody who was appointed.
    pub(super) fn hand(&mut self) {
        self.handed.extend(self.free.pop());
    }

    /// Takes one that was put aside; `None` if the log was poisoned meanwhile.
    pub(super) fn take_handed(&mut self) -> Option<Slot> {
        let slot = self.handed.pop()?;
        self.taken += 1;
        Some(slot)
    }

    /// Takes one back from a leader. When the log is poisoned or closed, or there are `wanted`
    /// others, it is returned, to be dropped without the log's mutex.
    pub(super) fn give_back(&mut self, slot: Slot, wanted: usize) -> Option<Slot> {
        self.taken -= 1;
        if self.gone {
            return Some(slot);
        }
        assert!(slot.is_empty(), "SLOT-4: a slot without a leader has writes in flight");
        if self.count() >= wanted {
            return Some(slot);
        }
        self.free.push(slot);
        None
    }

    /// Whether `wanted` are more than there are and nobody is making one. Then the caller is.
    pub(super) fn wants_more(&mut self, wanted: usize) -> bool {
        let more = !self.gone && !self.making && self.count() < wanted;
        self.making |= more;
        more
    }

    /// Takes one more; returns it when the log is poisoned or closed.
    pub(super) fn add(&mut self, slot: Slot) -> Option<Slot> {
        self.making = false;
        if self.gone {
            return Some(slot);
        }
        self.free.push(slot);
        None
    }

    /// Takes the sealer back, if that is here.
    pub(super) fn restore(&mut self, sealer: &mut Option<Box<Sealer>>) {
        if let Some(sealer) = sealer.take() {
            assert!(self.sealer.is_none(), "COMMIT-2: one sealer");
            self.sealer = Some(sealer);
        }
    }

    /// Lets nobody lead any more; returns those that no leader has.
    pub(super) fn go(&mut self) -> Vec<Slot> {
        self.gone = true;
        let mut slots = std::mem::take(&mut self.free);
        slots.append(&mut self.handed);
        slots
    }
}
