//! What one batch changes in one partition when every key is touched at most once: lists, without
//! a table of their own (ENGINE.md E10).

use std::fmt;

use super::overlay::Overlay;
use super::table::StateTable;
use crate::exec::{Probe, WARM, Word};

/// The changes of a batch, computed against one edition of a partition's table and merged into
/// that very one (STATE-5). Dropping them undoes the batch.
pub(crate) struct Changes<S> {
    edition: u64,
    /// Rows that the table has, by ordinal, with their new values; `None`: removed.
    known: Vec<(usize, Option<S>)>,
    /// Keys that it has not: hash, key, value. In the order of touch.
    fresh: Vec<(u64, Word, S)>,
    /// Of the fresh ones those that are long.
    keys: Vec<u8>,
}

impl<S> fmt::Debug for Changes<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Changes({} known keys, {} fresh)", self.known.len(), self.fresh.len())
    }
}

impl<S: Clone> Changes<S> {
    /// No changes of this table yet.
    pub(crate) fn of(table: &StateTable<S>) -> Changes<S> {
        Changes { edition: table.edition(), known: vec![], fresh: vec![], keys: vec![] }
    }

    /// Makes room for the changes of so many keys.
    pub(crate) fn reserve(&mut self, keys: usize) {
        self.known.reserve(keys);
    }

    /// Lets `change` see and change the value of a key; call it once for each key.
    #[inline]
    pub(crate) fn touch<T>(
        &mut self,
        table: &StateTable<S>,
        probe: &Probe<'_>,
        change: impl FnOnce(&mut Option<S>) -> T,
    ) -> T {
        let (place, mut value) = match table.locate(probe) {
            Some((place, value)) => (Some(place), Some(value.clone())),
            None => (None, None),
        };
        let result = change(&mut value);
        match (place, value) {
            (Some(place), value) => self.known.push((place, value)),
            (None, Some(value)) => {
                self.fresh.push((probe.hash, probe.enter(&mut self.keys), value));
            }
            (None, None) => {}
        }
        result
    }

    /// Makes the changes; new keys come behind the old ones, in the order of touch.
    ///
    /// # Panics
    /// If the table is not as it was when they were computed (STATE-5).
    pub(crate) fn merge_into(self, table: &mut StateTable<S>) {
        assert_eq!(self.edition, table.edition(), "STATE-5: a table changed below its changes");
        table.change(self.known.into_iter());
        let (keys, mut fresh) = (self.keys, self.fresh.into_iter());
        while !fresh.as_slice().is_empty() {
            let next = fresh.as_slice().iter().take(WARM);
            table.warm_slots(next.map(|(hash, ..)| *hash));
            for (hash, word, value) in fresh.by_ref().take(WARM) {
                table.add(&Probe::of_row(hash, &word, &keys), value);
            }
        }
    }

    /// The same as an overlay, which can be asked.
    pub(crate) fn to_overlay(&self, table: &StateTable<S>) -> Overlay<S> {
        let mut overlay = Overlay::new();
        for (ordinal, value) in &self.known {
            let (hash, key) = table.key_at(*ordinal);
            overlay.put(hash, key, value.clone());
        }
        for (hash, word, value) in &self.fresh {
            overlay.put(*hash, word.key(&self.keys), Some(value.clone()));
        }
        overlay
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::hash_key;

    type Touched = Vec<(Vec<u8>, Option<u32>)>;

    fn batches() -> impl Strategy<Value = Vec<Touched>> {
        let key = prop::collection::vec(0u8..3, 0..11);
        let touched = prop::collection::btree_map(key, any::<Option<u32>>(), 0..60);
        let shuffled = touched.prop_map(|map| map.into_iter().collect::<Vec<_>>()).prop_shuffle();
        prop::collection::vec(shuffled, 1..8)
    }

    proptest! {
        #[test]
        fn merged_changes_are_a_merged_overlay(batches in batches()) {
            let (mut table, mut model) = (StateTable::new(), StateTable::new());
            for batch in batches {
                let (mut changes, mut overlay) = (Changes::of(&table), Overlay::new());
                for (key, value) in &batch {
                    let hash = hash_key(key);
                    let before = changes.touch(&table, &Probe::new(hash, key), |now| {
                        std::mem::replace(now, *value)
                    });
                    prop_assert_eq!(before.as_ref(), model.get(hash, key));
                    overlay.put(hash, key, *value);
                }
                changes.merge_into(&mut table);
                overlay.merge_into(&mut model);
                prop_assert_eq!(table.len(), model.len());
                prop_assert!(table.iter().eq(model.iter()), "also the order is the same");
                for (key, value) in &batch {
                    prop_assert_eq!(table.get(hash_key(key), key), value.as_ref());
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "STATE-5")]
    fn changes_of_another_edition_are_refused() {
        let mut table = StateTable::new();
        let changes = Changes::of(&table);
        table.insert(hash_key(b"late"), b"late", 1u32);
        changes.merge_into(&mut table);
    }
}
