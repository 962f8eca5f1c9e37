//! What one batch changes in one partition, kept apart until the batch completes (ENGINE.md E10).

use std::fmt;

use super::table::StateTable;

/// The keys that a batch touched, each with its new value or its removal. Dropping it undoes the
/// batch, in time proportional to the touched keys.
///
/// ```
/// use sawmill::state::{Overlay, StateTable, hash_key};
/// let mut table = StateTable::new();
/// table.insert(hash_key(b"k"), b"k", 1u64);
/// let mut batch = Overlay::new();
/// *batch.state(&table, hash_key(b"k"), b"k") = Some(2);
/// assert_eq!(table.get(hash_key(b"k"), b"k"), Some(&1));
/// assert_eq!(batch.get(&table, hash_key(b"k"), b"k"), Some(&2));
/// batch.merge_into(&mut table);
/// assert_eq!(table.get(hash_key(b"k"), b"k"), Some(&2));
/// ```
#[derive(Clone)]
pub struct Overlay<S> {
    touched: StateTable<Option<S>>,
}

impl<S> Default for Overlay<S> {
    fn default() -> Overlay<S> {
        Overlay::new()
    }
}

impl<S> fmt::Debug for Overlay<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Overlay({} keys)", self.touched.len())
    }
}

impl<S> Overlay<S> {
    /// An overlay that changes nothing.
    #[must_use]
    pub fn new() -> Overlay<S> {
        Overlay { touched: StateTable::new() }
    }

    /// Number of touched keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.touched.len()
    }

    /// Whether no key was touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }

    /// The key's value as the batch sees it: its own change, else the completed state.
    #[must_use]
    #[inline]
    pub fn get<'a>(&'a self, table: &'a StateTable<S>, hash: u64, key: &[u8]) -> Option<&'a S> {
        match self.touched.get(hash, key) {
            Some(changed) => changed.as_ref(),
            None => table.get(hash, key),
        }
    }

    /// Sets the key's value (`None`: removes it).
    #[inline]
    pub fn put(&mut self, hash: u64, key: &[u8], value: Option<S>) {
        self.touched.insert(hash, key, value);
    }

    /// Touched keys with their new values, in the order of their first touch.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&S>)> {
        self.touched.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// Makes the changes, in the order of first touch: new keys come behind the old ones.
    /// A key that the batch removed and set again keeps its place.
    pub fn merge_into(self, table: &mut StateTable<S>) {
        self.touched.drain_into(|hash, key, value| match value {
            Some(value) => {
                table.insert(hash, key, value);
            }
            None => {
                table.remove(hash, key);
            }
        });
    }
}

impl<S: Clone> Overlay<S> {
    /// The key's value as the batch sees it, to change it in place; the first touch copies it
    /// from the completed state.
    #[inline]
    pub fn state<'a>(
        &'a mut self,
        table: &StateTable<S>,
        hash: u64,
        key: &[u8],
    ) -> &'a mut Option<S> {
        self.touched.get_or_insert_with(hash, key, || table.get(hash, key).cloned())
    }
}

impl<S> StateTable<S> {
    /// Makes a completed batch's changes.
    pub fn merge(&mut self, overlay: Overlay<S>) {
        overlay.merge_into(self);
    }
}
