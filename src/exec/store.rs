//! What a run holds: partitions and buckets, and under a byte budget those that may go again.
//!
//! - STORE-1: what may go (*spare*: persisted partitions, buckets nobody is going to read) and what
//!   is *needed* take together at most the budget, unless the needed alone takes more: then nothing
//!   is spared. What was used longest ago goes first. Which that is may depend on the schedule; no
//!   result does (ENGINE.md E6): what is gone is computed again.
//! - STORE-2: user types are dropped without the lock.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Held, OperatorId};
use super::run::Lost;
use crate::sync::{Mutex, lock};

/// A place in the partition store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slot {
    /// A partition of an operator.
    Partition(u32),
    /// What one map task holds for one reduce partition.
    Bucket { map: u32, reduce: u32 },
}

type Place = (OperatorId, Slot);

struct Entry {
    held: Held,
    /// Of what is spare: when it was used last.
    used: Option<u64>,
}

/// What a run takes of memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) needed: usize,
    pub(crate) spare: usize,
    /// The share of persisted partitions in `spare`.
    pub(crate) persisted: usize,
    /// How many persisted partitions had to go for others.
    pub(crate) evicted: u64,
}

#[derive(Default)]
struct Inner {
    entries: BTreeMap<Place, Entry>,
    /// What is spare, by last use.
    by_use: BTreeMap<u64, Place>,
    /// Counts uses.
    uses: u64,
    usage: Usage,
}

impl Inner {
    fn remove(&mut self, place: Place) -> Option<Held> {
        let Entry { held, used } = self.entries.remove(&place)?;
        match used {
            Some(used) => {
                self.by_use.remove(&used);
                self.usage.spare -= held.bytes;
                self.usage.persisted -= persisted(place, &held);
            }
            None => self.usage.needed -= held.bytes,
        }
        Some(held)
    }

    fn add(&mut self, place: Place, held: Held, is_spare: bool) {
        let used = is_spare.then(|| {
            self.uses += 1;
            self.by_use.insert(self.uses, place);
            self.usage.spare += held.bytes;
            self.usage.persisted += persisted(place, &held);
            self.uses
        });
        if used.is_none() {
            self.usage.needed += held.bytes;
        }
        self.entries.insert(place, Entry { held, used });
    }

    /// STORE-1: lets spare ones go until `more` bytes have room, or nothing is left to go.
    fn make_room(&mut self, budget: Option<usize>, more: usize, gone: &mut Vec<Held>) {
        let Some(budget) = budget else { return };
        let taken = |usage: &Usage| usage.needed.saturating_add(usage.spare).saturating_add(more);
        while taken(&self.usage) > budget {
            let Some((_, oldest)) = self.by_use.first_key_value() else { return };
            let oldest = *oldest;
            gone.extend(self.remove(oldest));
            self.usage.evicted += u64::from(matches!(oldest.1, Slot::Partition(_)));
        }
    }
}

/// The bytes, if it is a partition: only persisted ones are ever spare.
fn persisted(place: Place, held: &Held) -> usize {
    match place.1 {
        Slot::Partition(_) => held.bytes,
        Slot::Bucket { .. } => 0,
    }
}

/// The partitions and buckets held by one run.
#[derive(Default)]
pub(crate) struct Store {
    inner: Mutex<Inner>,
    budget: Option<usize>,
}

impl Store {
    /// A store that holds at most so many bytes beyond what is needed.
    pub(crate) fn with_budget(bytes: usize) -> Store {
        Store { budget: Some(bytes), ..Store::default() }
    }

    /// How many bytes may be held; `None`: any number.
    pub(crate) fn budget(&self) -> Option<usize> {
        self.budget
    }

    pub(crate) fn usage(&self) -> Usage {
        lock(&self.inner).usage
    }

    pub(crate) fn get(&self, operator: OperatorId, slot: Slot) -> Option<Held> {
        let mut inner = lock(&self.inner);
        let Inner { entries, by_use, uses, .. } = &mut *inner;
        let entry = entries.get_mut(&(operator, slot))?;
        if let Some(used) = &mut entry.used {
            by_use.remove(used);
            *uses += 1;
            *used = *uses;
            by_use.insert(*uses, (operator, slot));
        }
        Some(Held::clone(&entry.held))
    }

    pub(crate) fn holds(&self, operator: OperatorId, slot: Slot) -> bool {
        lock(&self.inner).entries.contains_key(&(operator, slot))
    }

    /// Holds what is needed, until it is dropped or [released](Store::release).
    pub(crate) fn put(&self, operator: OperatorId, slot: Slot, held: Held) {
        let mut gone = Vec::new();
        let mut inner = lock(&self.inner);
        gone.extend(inner.remove((operator, slot)));
        inner.add((operator, slot), held, false);
        inner.make_room(self.budget, 0, &mut gone);
        drop(inner);
        drop(gone);
    }

    /// Keeps a persisted partition as long as the budget allows.
    pub(crate) fn keep(&self, operator: OperatorId, partition: u32, held: Held) {
        let place = (operator, Slot::Partition(partition));
        let mut gone = Vec::new();
        let mut inner = lock(&self.inner);
        gone.extend(inner.remove(place));
        let budget = self.budget.unwrap_or(usize::MAX);
        if inner.usage.needed.saturating_add(held.bytes) <= budget {
            inner.make_room(self.budget, held.bytes, &mut gone);
            inner.add(place, held, true);
            let taken = inner.usage.needed + inner.usage.spare;
            assert!(taken <= budget, "STORE-1: {:?} in {budget} bytes", inner.usage);
        } else {
            gone.push(held);
        }
        drop(inner);
        drop(gone);
    }

    /// Makes the buckets spare of all shuffles but those that are still to be read.
    pub(crate) fn release(&self, still_read: &BTreeSet<OperatorId>) {
        if self.budget.is_none() {
            return;
        }
        let mut gone = Vec::new();
        let mut inner = lock(&self.inner);
        let done = |((operator, slot), entry): (&Place, &Entry)| {
            let is_bucket = matches!(slot, Slot::Bucket { .. });
            let done = is_bucket && entry.used.is_none() && !still_read.contains(operator);
            done.then_some((*operator, *slot))
        };
        let done: Vec<Place> = inner.entries.iter().filter_map(done).collect();
        for place in done {
            if let Some(held) = inner.remove(place) {
                inner.add(place, held, true);
            }
        }
        inner.make_room(self.budget, 0, &mut gone);
        drop(inner);
        drop(gone);
    }

    pub(crate) fn remove(&self, operator: OperatorId, lost: Lost) -> usize {
        let mut taken = Vec::new();
        {
            let mut inner = lock(&self.inner);
            let places: Vec<_> = inner
                .entries
                .range((operator, Slot::Partition(0))..)
                .take_while(|((holder, _), _)| *holder == operator)
                .map(|(place, _)| *place)
                .filter(|(_, slot)| lost.covers(*slot))
                .collect();
            taken.extend(places.into_iter().filter_map(|place| inner.remove(place)));
        }
        taken.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exec::node::Meta;

    /// What is needed was above the budget, and a partition without bytes was kept beside it, until
    /// the next look let it go again.
    #[test]
    fn nothing_is_kept_beside_more_than_the_budget() {
        let (operator, store) = (Meta::first("kept").id, Store::with_budget(100));
        store.put(operator, Slot::Partition(0), Held::new((), 101));
        store.keep(operator, 1, Held::new((), 0));
        assert!(!store.holds(operator, Slot::Partition(1)));
        assert!(store.holds(operator, Slot::Partition(0)));
    }

    proptest! {
        #[test]
        fn what_was_used_longest_ago_goes_first(
            steps in prop::collection::vec((0u32..8, 0usize..50, 0u8..5), 1..80),
        ) {
            let (operator, store) = (Meta::first("kept").id, Store::with_budget(100));
            let bucket = |number| Slot::Bucket { map: number, reduce: 0 };
            // Newest use last; what is needed apart.
            let mut spare: Vec<(Slot, usize)> = Vec::new();
            let mut needed: Vec<(Slot, usize)> = Vec::new();
            let sum = |entries: &[(Slot, usize)]| entries.iter().map(|e| e.1).sum::<usize>();
            for (number, bytes, step) in steps {
                let slot = if step % 2 == 0 { Slot::Partition(number) } else { bucket(number) };
                match step {
                    0 | 1 => {
                        let found = store.get(operator, slot).is_some();
                        if let Some(at) = spare.iter().position(|(place, _)| *place == slot) {
                            let used = spare.remove(at);
                            spare.push(used);
                            prop_assert!(found);
                        } else {
                            prop_assert_eq!(found, needed.iter().any(|(at, _)| *at == slot));
                        }
                    }
                    2 => {
                        store.keep(operator, number, Held::new((), bytes));
                        spare.retain(|(place, _)| *place != slot);
                        if sum(&needed) + bytes <= 100 {
                            while sum(&needed) + sum(&spare) + bytes > 100 {
                                spare.remove(0);
                            }
                            spare.push((slot, bytes));
                        }
                    }
                    3 => {
                        store.put(operator, slot, Held::new((), bytes));
                        spare.retain(|(place, _)| *place != slot);
                        needed.retain(|(place, _)| *place != slot);
                        needed.push((slot, bytes));
                    }
                    _ => {
                        store.release(&BTreeSet::new());
                        needed.sort();
                        spare.append(&mut needed);
                    }
                }
                while !spare.is_empty() && sum(&needed) + sum(&spare) > 100 {
                    spare.remove(0);
                }
                let usage = store.usage();
                prop_assert_eq!((usage.needed, usage.spare), (sum(&needed), sum(&spare)));
                for (slot, _) in spare.iter().chain(&needed) {
                    prop_assert!(store.holds(operator, *slot));
                }
            }
        }
    }
}
