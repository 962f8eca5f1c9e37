//! One write for all who come back: the lowest rung of the depth.
//!
//! Callers who append in a loop come in two halves: while one half's frame is written, the other
//! half waits, and a frame is written as soon as the one before has landed. So each write carries
//! half of them. Where a write takes longer than waking a few threads, it is better to leave the
//! next frame open until those who were just served have put their next records into it: each
//! write carries all. The one who comes last leads, without having slept.
//!
//! GATHER-1: a frame is held only while nothing is in flight, fewer records are in it than were
//! under way together lately, and its candidate looks after it. So a lone record is never held,
//! nor one that only futures wait for. GATHER-2: that candidate sleeps no longer than a few writes
//! take; then it writes the frame with what is there, and fewer are waited for from then on. So
//! COMMIT-1 holds: whoever waits in a held frame has somebody who will lead. GATHER-3: whether
//! frames are held at all is found by trying, like any depth (`depth.rs`).

use super::core::{Core, Open, Phase};
use super::group::Group;
use super::slot::Slot;
use crate::planted::{Bug, planted};
use crate::sync::Arc;

impl Open {
    /// Whether the frame that would be written next is left open for those who will come back.
    pub(super) fn is_held(&mut self) -> bool {
        let crowd = self.depth.gathers();
        let alone = self.flights.is_empty() && self.syncing.is_none();
        if crowd == 0 || !alone || self.phase != Phase::Open {
            return false;
        }
        self.staging.oldest().is_some_and(|oldest| {
            // A frame without records is one of the log's own.
            let few = (1..crowd).contains(&oldest.records);
            few && !oldest.is_sealed && oldest.waiting.is_patient()
        })
    }

    /// The candidate of `group` was not called in time: it leads, if nobody does.
    pub(super) fn lose_patience(&mut self, group: &Arc<Group>) -> Option<Slot> {
        let held = self.is_held();
        let waiting = self.queued().find(|waiting| waiting.is_of(group))?;
        if !waiting.is_patient() {
            // Somebody has appointed it, and the call is on its way.
            return None;
        }
        waiting.end_patience();
        if held && let Some(oldest) = self.staging.oldest() {
            let came = oldest.records;
            self.depth.stayed_away(came);
        }
        self.take_slot()
    }
}

impl Core {
    /// Has the candidate of `group` look after its frame, should it have to sleep now: returns when
    /// it has to, if frames are held at present. Before a slot is asked for, or the first one back
    /// would never be held.
    pub(super) fn be_patient(&self, open: &mut Open, group: &Arc<Group>) -> Option<u64> {
        let patience_ns = open.depth.patience_ns()?;
        let waiting = open.staging.all_waiting().find(|waiting| waiting.is_of(group))?;
        waiting.set_patient();
        if planted(Bug::PatienceWithoutEnd) {
            return None;
        }
        Some(self.clock.monotonic_ns().saturating_add(patience_ns))
    }
}
