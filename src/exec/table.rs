//! A hash table from key bytes to values, made for counting: nothing is allocated for a key.
//!
//! - TABLE-1: iteration is in first-seen order, whatever the capacity (ENGINE.md E7).
//! - TABLE-2: at most 5 of 8 slots are taken, so a probe ends.
//!
//! A slot is 32 bits: the row's number in as many as the table needs, in the rest a tag from the
//! high half of the hash, so that a probe hardly ever touches the row of another key (with 4,096
//! slots once in a million). Slots of 64 bits with a longer tag were slower: they miss the cache
//! more often.

use super::probe::{Probe, Word};
use super::spare::{Lent, Reuse};
use crate::error::Result;

/// Look-ups whose cache misses are made to overlap.
pub(crate) const WARM: usize = 16;
/// Bytes of rows that the nearest cache of a core holds.
const CACHED: usize = 32 << 10;
const MIN_SLOTS: usize = 16;
const MAX_SLOTS: usize = 1 << 31;

/// Who takes rows, and looks each up in a table.
pub(crate) trait Take<V> {
    /// Touches what the look-ups of these rows, which come next, will touch.
    fn warm(&self, hashes: impl Iterator<Item = u64>);

    fn take(&mut self, probe: Probe<'_>, value: V) -> Result<()>;
}

/// What a look-up touches. Hashes, which it does not, are apart: so more rows fit the cache.
struct Entry<A> {
    word: Word,
    value: A,
}

/// key bytes -> value.
pub(crate) struct ByteTable<A> {
    /// Tag, then row number + 1 in the low bits; 0 is free. Its length is a power of two, and that
    /// of the row bits is its logarithm: by TABLE-2 they suffice.
    slots: Vec<u32>,
    entries: Vec<Entry<A>>,
    /// Of each row the hash of its key.
    hashes: Vec<u64>,
    arena: Vec<u8>,
}

impl<A> std::fmt::Debug for ByteTable<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ByteTable({} keys)", self.entries.len())
    }
}

impl<A> Default for ByteTable<A> {
    fn default() -> Self {
        ByteTable { slots: vec![], entries: vec![], hashes: vec![], arena: vec![] }
    }
}

/// The tag of a hash in a table of `slots` slots: bits that choose neither the slot nor (they are
/// not the highest) the partition.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the bits cut off are not part of the tag")]
fn tag(hash: u64, slots: usize) -> u32 {
    (((hash >> 32) as u32) << slots.trailing_zeros()) & !row_mask(slots)
}

/// The bits of a slot that hold the row's number.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "a table has at most 2^31 slots")]
fn row_mask(slots: usize) -> u32 {
    (slots - 1) as u32
}

impl<A> ByteTable<A> {
    /// A table that takes `keys` keys before it grows, with room for so many bytes of long ones; in
    /// the room of one that is empty.
    pub(crate) fn with_room(mut self, keys: usize, arena: usize) -> ByteTable<A> {
        assert!(self.is_empty(), "SPARE-1: a buffer is empty when it is taken");
        self.slots.clear();
        if keys > 0 {
            // No copies of what was there.
            if self.slots.capacity() < slots_for(keys) {
                self.slots = vec![0; slots_for(keys)];
            } else {
                self.slots.resize(slots_for(keys), 0);
            }
            self.entries.reserve_exact(keys);
            self.hashes.reserve_exact(keys);
        }
        self.arena.reserve_exact(arena);
        self
    }

    /// Bytes of long keys.
    pub(crate) fn arena_len(&self) -> usize {
        self.arena.len()
    }

    /// Number of keys.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Over how many bytes look-ups are spread.
    pub(crate) fn spread(&self) -> usize {
        self.slots.len() * size_of::<u32>() + self.entries.len() * size_of::<Entry<A>>()
    }

    /// Bytes of memory held, without what the values own.
    pub(crate) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
            + self.entries.capacity() * size_of::<Entry<A>>()
            + self.hashes.capacity() * size_of::<u64>()
            + self.arena.capacity()
    }

    /// The row of a key, or the free slot where it belongs. The table has slots.
    #[inline(always)]
    fn find(&self, probe: &Probe<'_>) -> std::result::Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let (tag, rows) = (tag(probe.hash, self.slots.len()), row_mask(self.slots.len()));
        let mut at = crate::ids::to_usize(probe.hash) & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return Err(at);
            }
            if slot & !rows == tag {
                let row = (slot & rows) as usize - 1;
                if probe.is(&self.entries[row].word, &self.arena) {
                    return Ok(row);
                }
            }
            at = (at + 1) & mask;
        }
    }

    /// The number of a key, in first-seen order, and its value.
    #[inline]
    pub(crate) fn look_up(&self, probe: &Probe<'_>) -> Option<(usize, &A)> {
        if self.slots.is_empty() {
            return None;
        }
        let row = self.find(probe).ok()?;
        Some((row, &self.entries[row].value))
    }

    /// The value of a key, to be changed; a new key gets the value that `make` returns.
    #[inline]
    pub(crate) fn get_or_insert_with(
        &mut self,
        hash: u64,
        key: &[u8],
        make: impl FnOnce() -> A,
    ) -> &mut A {
        self.value(&Probe::new(hash, key), make)
    }

    /// As [`ByteTable::get_or_insert_with`].
    #[inline]
    pub(crate) fn value(&mut self, probe: &Probe<'_>, make: impl FnOnce() -> A) -> &mut A {
        let row = self.number(probe, make);
        &mut self.entries[row].value
    }

    /// The number of a key, in first-seen order; a new key gets the value that `make` returns.
    #[inline]
    pub(crate) fn number(&mut self, probe: &Probe<'_>, make: impl FnOnce() -> A) -> usize {
        self.make_room();
        match self.find(probe) {
            Ok(row) => row,
            Err(slot) => self.insert(slot, probe, make()),
        }
    }

    /// Gives a new key this value, or folds it into the value the key has.
    #[inline(always)]
    pub(crate) fn upsert(&mut self, probe: &Probe<'_>, value: A, fold: impl FnOnce(A, A) -> A)
    where
        A: Clone,
    {
        self.make_room();
        match self.find(probe) {
            Ok(row) => self.fold(row, value, fold),
            Err(slot) => {
                self.insert(slot, probe, value);
            }
        }
    }

    /// Replaces a value by its fold. Plain values are copied; one that owns memory is moved out of
    /// the vector and back, which saves a clone for each row (quadratic for strings that grow).
    #[inline]
    fn fold(&mut self, row: usize, value: A, fold: impl FnOnce(A, A) -> A)
    where
        A: Clone,
    {
        if std::mem::needs_drop::<A>() {
            let Entry { word, value: old } = self.entries.swap_remove(row);
            self.entries.push(Entry { word, value: fold(old, value) });
            let last = self.entries.len() - 1;
            self.entries.swap(row, last);
        } else {
            let old = &mut self.entries[row].value;
            *old = fold(old.clone(), value);
        }
    }

    #[inline]
    fn make_room(&mut self) {
        if (self.entries.len() + 1) * 8 > self.slots.len() * 5 {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        let slots = slots_for((self.entries.len() + 1) * 2);
        let mask = slots - 1;
        self.slots.clear();
        self.slots.resize(slots, 0);
        for (row, &hash) in (1u32..).zip(&self.hashes) {
            let mut at = crate::ids::to_usize(hash) & mask;
            while self.slots[at] != 0 {
                at = (at + 1) & mask;
            }
            self.slots[at] = tag(hash, slots) | row;
        }
    }

    fn insert(&mut self, slot: usize, probe: &Probe<'_>, value: A) -> usize {
        let row = self.entries.len();
        let word = probe.enter(&mut self.arena);
        self.entries.push(Entry { word, value });
        self.hashes.push(probe.hash);
        let number = u32::try_from(row + 1).expect("TABLE-2: `grow` bounds the rows");
        self.slots[slot] = tag(probe.hash, self.slots.len()) | number;
        row
    }

    /// Touches what look-ups of these hashes will touch: the cache misses of all of them then pass
    /// at the same time, and not one after the other. A table that the cache holds has none.
    #[inline]
    pub(crate) fn warm(&self, hashes: impl Iterator<Item = u64>) {
        if self.entries.len() * size_of::<Entry<A>>() >= CACHED {
            let touched = hashes.fold(0, |all, hash| all ^ self.touch(self.slot_of(hash)));
            std::hint::black_box(touched);
        }
    }

    /// What the first slot of a hash holds.
    #[inline]
    pub(super) fn slot_of(&self, hash: u64) -> u32 {
        let mask = self.slots.len().wrapping_sub(1);
        self.slots.get(crate::ids::to_usize(hash) & mask).copied().unwrap_or(0)
    }

    /// Touches the row of a slot; of a free one, some row.
    #[inline]
    pub(super) fn touch(&self, slot: u32) -> u64 {
        let row = (slot & row_mask(self.slots.len().max(1))).saturating_sub(1);
        self.entries.get(row as usize).map_or(0, |entry| entry.word.low())
    }

    /// Hands over every row, in first-seen order.
    pub(crate) fn pass_to(&self, to: &mut impl Take<A>) -> Result<()>
    where
        A: Clone,
    {
        for piece in self.pieces() {
            to.warm(piece.hashes());
            for (probe, value) in piece.probes() {
                to.take(probe, value.clone())?;
            }
        }
        Ok(())
    }

    /// All rows, in first-seen order, in pieces small enough to [`warm`](ByteTable::warm) another
    /// table for each.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece<'_, A>> {
        let rows = self.entries.chunks(WARM).zip(self.hashes.chunks(WARM));
        rows.map(|(rows, hashes)| Piece { rows, hashes, arena: &self.arena })
    }

    /// Hash, key and value of each row, in first-seen order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &[u8], &A)> {
        let rows = self.entries.iter().zip(&self.hashes);
        rows.map(|(Entry { word, value }, hash)| (*hash, word.key(&self.arena), value))
    }
}

impl<A: Send + Sync + 'static> Reuse for ByteTable<A> {
    fn clear(&mut self) {
        self.slots.clear();
        self.entries.clear();
        self.hashes.clear();
        self.arena.clear();
    }

    fn memory(&self) -> usize {
        self.memory()
    }

    fn filled(&self) -> usize {
        self.spread() + self.arena.len()
    }
}

/// A partition that is held as a table.
pub(crate) type HeldTable<A> = Lent<ByteTable<A>>;

/// A few rows of a table, one after the other.
pub(crate) struct Piece<'t, A> {
    rows: &'t [Entry<A>],
    hashes: &'t [u64],
    arena: &'t [u8],
}

impl<'t, A> Piece<'t, A> {
    pub(crate) fn hashes(&self) -> impl Iterator<Item = u64> + use<'t, A> {
        self.hashes.iter().copied()
    }

    /// Key, as it is looked up, and value of each row.
    #[inline]
    pub(crate) fn probes(&self) -> impl Iterator<Item = (Probe<'t>, &'t A)> + use<'t, A> {
        let (rows, arena) = (self.rows.iter().zip(self.hashes), self.arena);
        rows.map(move |(Entry { word, value }, hash)| (Probe::of_row(*hash, word, arena), value))
    }

    /// The same, and the key as it is seen.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Probe<'t>, &'t [u8], &'t A)> + use<'t, A> {
        let (keys, arena) = (self.rows.iter(), self.arena);
        let keys = keys.map(move |row| row.word.key(arena));
        self.probes().zip(keys).map(|((probe, value), key)| (probe, key, value))
    }
}

fn slots_for(keys: usize) -> usize {
    let slots = (keys * 8).div_ceil(5).next_power_of_two().max(MIN_SLOTS);
    assert!(slots <= MAX_SLOTS, "TABLE-2: more than 2^30 keys in one partition");
    slots
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::exec::key::hash;

    proptest! {
        #[test]
        fn equals_a_map_in_first_seen_order(
            keys in prop::collection::vec(prop::collection::vec(0u8..3, 0..20), 0..300),
            capacity in 0usize..100,
            weak: bool,
        ) {
            // `weak`: every key collides, in the slot and in the tag.
            let hash = |key: &[u8]| if weak { 7 } else { hash(key) };
            let mut table = ByteTable::default().with_room(capacity, 0);
            let mut model: BTreeMap<Vec<u8>, String> = BTreeMap::new();
            let mut order = Vec::new();
            for (at, key) in keys.iter().enumerate() {
                let value = format!("{at},");
                table.upsert(&Probe::new(hash(key), key), value.clone(), |old, new| old + &new);
                model.entry(key.clone()).or_insert_with(|| {
                    order.push(key.clone());
                    String::new()
                }).push_str(&value);
            }
            let seen: Vec<_> = table.iter().map(|(_, key, v)| (key.to_vec(), v.clone())).collect();
            let expected: Vec<_> =
                order.iter().map(|key| (key.clone(), model[key].clone())).collect();
            prop_assert_eq!(seen, expected);
            for (key, value) in &model {
                let found = table.look_up(&Probe::new(hash(key), key));
                prop_assert_eq!(found.map(|(_, value)| value), Some(value));
                prop_assert!(found.is_some_and(|(row, _)| order[row] == *key));
            }
            prop_assert!(table.look_up(&Probe::new(hash(b"absent"), b"absent")).is_none());
            prop_assert_eq!(table.get_or_insert_with(hash(b"new"), b"new", String::new), "");
        }
    }
}
