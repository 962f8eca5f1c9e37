//! What a run holds: partitions and buckets, and under a byte budget those that may go again.
//!
//! - STORE-1: what is kept under the budget is never more than the budget; what was used longest
//!   ago goes first. Which that is may depend on the schedule; no result does (ENGINE.md E6): what
//!   is gone is computed again.
//! - STORE-2: user types are dropped without the lock.

use std::collections::BTreeMap;

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
    /// Of what is kept under the budget: its bytes, and when it was used last.
    kept: Option<(usize, u64)>,
}

#[derive(Default)]
struct Inner {
    entries: BTreeMap<Place, Entry>,
    /// What is kept under the budget, by last use.
    by_use: BTreeMap<u64, Place>,
    kept_bytes: usize,
    /// Counts uses.
    uses: u64,
    evicted: u64,
}

impl Inner {
    fn remove(&mut self, place: Place) -> Option<Held> {
        let entry = self.entries.remove(&place)?;
        if let Some((bytes, used)) = entry.kept {
            self.by_use.remove(&used);
            self.kept_bytes -= bytes;
        }
        Some(entry.held)
    }
}

/// The partitions and buckets held by one run.
#[derive(Default)]
pub(crate) struct Store {
    inner: Mutex<Inner>,
    budget: Option<usize>,
}

impl Store {
    /// A store that keeps at most so many bytes of persisted partitions.
    pub(crate) fn with_budget(bytes: usize) -> Store {
        Store { budget: Some(bytes), ..Store::default() }
    }

    /// How many bytes of persisted partitions may be kept; `None`: all of them are.
    pub(crate) fn budget(&self) -> Option<usize> {
        self.budget
    }

    /// Bytes of persisted partitions kept under the budget, and how many had to go so far.
    pub(crate) fn kept(&self) -> (usize, u64) {
        let inner = lock(&self.inner);
        (inner.kept_bytes, inner.evicted)
    }

    pub(crate) fn get(&self, operator: OperatorId, slot: Slot) -> Option<Held> {
        let mut inner = lock(&self.inner);
        let Inner { entries, by_use, uses, .. } = &mut *inner;
        let entry = entries.get_mut(&(operator, slot))?;
        if let Some((_, used)) = &mut entry.kept {
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

    /// Holds until it is dropped.
    pub(crate) fn put(&self, operator: OperatorId, slot: Slot, held: Held) {
        let mut inner = lock(&self.inner);
        let before = inner.remove((operator, slot));
        inner.entries.insert((operator, slot), Entry { held, kept: None });
        drop(inner);
        drop(before);
    }

    /// Keeps a persisted partition as long as the budget allows.
    pub(crate) fn keep(&self, operator: OperatorId, partition: u32, held: Held, bytes: usize) {
        let budget = self.budget.unwrap_or(usize::MAX);
        let place = (operator, Slot::Partition(partition));
        let mut gone = Vec::new();
        let mut inner = lock(&self.inner);
        gone.extend(inner.remove(place));
        if bytes > budget {
            return;
        }
        while inner.kept_bytes > budget - bytes {
            let Some((_, oldest)) = inner.by_use.first_key_value() else { break };
            let oldest = *oldest;
            gone.extend(inner.remove(oldest));
            inner.evicted += 1;
        }
        inner.uses += 1;
        let used = inner.uses;
        inner.by_use.insert(used, place);
        inner.kept_bytes += bytes;
        inner.entries.insert(place, Entry { held, kept: Some((bytes, used)) });
        assert!(inner.kept_bytes <= budget, "STORE-1: {} bytes are kept", inner.kept_bytes);
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
    use crate::sync::Arc;

    proptest! {
        #[test]
        fn what_was_used_longest_ago_goes_first(
            steps in prop::collection::vec((0u32..8, 0usize..50, any::<bool>()), 1..80),
        ) {
            let (operator, store) = (Meta::first("kept").id, Store::with_budget(100));
            // Newest use last.
            let mut model: Vec<(u32, usize)> = Vec::new();
            for (partition, bytes, reads) in steps {
                if reads {
                    let found = store.get(operator, Slot::Partition(partition)).is_some();
                    let at = model.iter().position(|(kept, _)| *kept == partition);
                    prop_assert_eq!(found, at.is_some());
                    if let Some(at) = at {
                        let used = model.remove(at);
                        model.push(used);
                    }
                } else {
                    store.keep(operator, partition, Arc::new(()), bytes);
                    model.retain(|(kept, _)| *kept != partition);
                    while model.iter().map(|(_, bytes)| bytes).sum::<usize>() + bytes > 100 {
                        model.remove(0);
                    }
                    model.push((partition, bytes));
                }
                let kept = model.iter().map(|(_, bytes)| bytes).sum::<usize>();
                prop_assert_eq!(store.kept().0, kept);
            }
        }
    }
}
