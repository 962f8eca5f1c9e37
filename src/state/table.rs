//! A table keyed by bytes: keys in one arena, rows in first-seen order, an index of slots.
//!
//! STATE-1: iteration is in first-seen order; a removed key that comes back is seen first then.
//! STATE-2: the order does not depend on growth, removal of others, compaction, encoding.
//! STATE-5: a row's ordinal stays valid while the table's edition does: changes that were computed
//! by ordinal are merged into the very table they were computed from.

use std::fmt;

use super::Tracking;
use super::frozen::Frozen;
use super::touched::Touched;
use crate::exec::{Probe, Word};
use crate::ids::to_usize;

/// Rows are numbered by 32 bits, from 1 in a slot.
const EMPTY: u64 = 0;

/// What a key in its row is expected to take, encoded.
const KEY_BYTES: usize = 8;

/// Of a small value, half a cache line, and never in two of them: each look-up misses the cache
/// once here, and once more where a row lies across lines. So rows have no hash, which is needed
/// only where rows move or go, and is made from the key then.
#[repr(align(32))]
struct Row<S> {
    word: Word,
    /// `None`: removed, no slot points here.
    value: Option<S>,
}

/// Keyed values of one partition. Keys are canonical bytes; the caller hands in their XXH3 hash,
/// computed once.
///
/// ```
/// use sawmill::state::{StateTable, hash_key};
/// let mut table = StateTable::new();
/// table.insert(hash_key(b"b"), b"b", 1u64);
/// table.insert(hash_key(b"a"), b"a", 2u64);
/// let order: Vec<_> = table.iter().map(|(key, value)| (key.to_vec(), *value)).collect();
/// assert_eq!(order, [(b"b".to_vec(), 1), (b"a".to_vec(), 2)]);
/// ```
#[derive(Clone)]
pub struct StateTable<S> {
    /// Slots: the hash's low 32 bits, and the row's ordinal plus one; 0 is empty. The bits of the
    /// hash say where a slot belongs in an index of any size, so that one that grows or closes a
    /// gap is read from end to end and touches no row.
    index: Vec<u64>,
    rows: Vec<Row<S>>,
    arena: Vec<u8>,
    live: usize,
    /// Moves with every row that comes, goes or moves.
    edition: u64,
    /// What has changed since the last cuts, if there are any to come.
    touched: Option<Box<Touched>>,
    /// The last cut, while it is encoded.
    frozen: Option<Box<Frozen<S>>>,
}

impl<S: Clone> Clone for Row<S> {
    fn clone(&self) -> Row<S> {
        Row { word: self.word, value: self.value.clone() }
    }
}

impl<S> Default for StateTable<S> {
    fn default() -> StateTable<S> {
        StateTable::new()
    }
}

impl<S> fmt::Debug for StateTable<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateTable({} keys)", self.live)
    }
}

fn slot(hash: u64, row: usize) -> u64 {
    #[allow(clippy::expect_used, reason = "2^32 rows of 32 bytes and more are beyond any limit")]
    let ordinal = u32::try_from(row + 1).expect("STATE: a partition has less than 2^32 keys");
    hash << 32 | u64::from(ordinal)
}

fn row_of(slot: u64) -> usize {
    to_usize(slot & u64::from(u32::MAX)) - 1
}

fn same_tag(slot: u64, hash: u64) -> bool {
    (slot >> 32) ^ (hash & u64::from(u32::MAX)) == 0
}

/// Where the search for a slot begins.
fn home(slot: u64, mask: usize) -> usize {
    to_usize(slot >> 32) & mask
}

impl<S> StateTable<S> {
    /// An empty table. Allocates nothing.
    #[must_use]
    pub fn new() -> StateTable<S> {
        let (index, rows, arena) = (Vec::new(), Vec::new(), Vec::new());
        let (touched, frozen) = (None, None);
        StateTable { index, rows, arena, live: 0, edition: 0, touched, frozen }
    }

    /// A table with room for `keys` keys of `bytes` bytes together.
    #[must_use]
    pub fn with_capacity(keys: usize, bytes: usize) -> StateTable<S> {
        let mut table = StateTable::new();
        table.rows.reserve(keys);
        table.arena.reserve(bytes);
        if keys > 0 {
            table.index = vec![EMPTY; slots_for(keys)];
        }
        table
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Bytes of memory behind the table, without what the values own.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.index.capacity() * size_of::<u64>()
            + self.rows.capacity() * size_of::<Row<S>>()
            + self.arena.capacity()
    }

    /// About how many bytes the encoded table has.
    pub(super) fn encoded_hint(&self) -> usize {
        self.arena.len() + self.live * (KEY_BYTES + 2 + size_of::<S>()) + 8
    }

    #[inline]
    fn key<'t>(&'t self, row: &'t Row<S>) -> &'t [u8] {
        row.word.key(&self.arena)
    }

    /// The slot that points to the key's row.
    #[inline]
    fn find(&self, probe: &Probe<'_>) -> Option<(usize, usize)> {
        if self.index.is_empty() {
            return None;
        }
        let mask = self.index.len() - 1;
        let mut place = to_usize(probe.hash) & mask;
        loop {
            let slot = self.index[place];
            if slot == EMPTY {
                return None;
            }
            if same_tag(slot, probe.hash) {
                let ordinal = row_of(slot);
                if probe.is(&self.rows[ordinal].word, &self.arena) {
                    return Some((place, ordinal));
                }
            }
            place = (place + 1) & mask;
        }
    }

    /// The key's value.
    #[must_use]
    #[inline]
    pub fn get(&self, hash: u64, key: &[u8]) -> Option<&S> {
        let (_, ordinal) = self.find(&Probe::new(hash, key))?;
        self.rows[ordinal].value.as_ref()
    }

    /// The key's value, to change it.
    #[inline]
    pub fn get_mut(&mut self, hash: u64, key: &[u8]) -> Option<&mut S> {
        let (_, ordinal) = self.find(&Probe::new(hash, key))?;
        self.touch(ordinal);
        self.rows[ordinal].value.as_mut()
    }

    #[inline]
    fn touch(&mut self, ordinal: usize) {
        if let Some(touched) = &mut self.touched {
            touched.mark(ordinal);
        }
        self.keep(ordinal);
    }

    /// STATE-7: before a row's value changes.
    #[inline]
    fn keep(&mut self, ordinal: usize) {
        if let Some(frozen) = &mut self.frozen {
            frozen.keep(ordinal, &self.rows[ordinal].value);
        }
    }

    /// Whether the table has the key.
    #[must_use]
    pub fn contains(&self, hash: u64, key: &[u8]) -> bool {
        self.find(&Probe::new(hash, key)).is_some()
    }

    /// The key's value; if there is none, first what `make` gives.
    #[inline]
    #[allow(clippy::missing_panics_doc, reason = "only if an invariant of this type breaks")]
    pub fn get_or_insert_with(
        &mut self,
        hash: u64,
        key: &[u8],
        make: impl FnOnce() -> S,
    ) -> &mut S {
        let probe = Probe::new(hash, key);
        let ordinal = match self.find(&probe) {
            Some((_, ordinal)) => {
                self.touch(ordinal);
                ordinal
            }
            None => self.append(&probe, make()),
        };
        #[allow(clippy::expect_used, reason = "a slot points to rows with a value only")]
        self.rows[ordinal].value.as_mut().expect("STATE: an indexed row has a value")
    }

    /// Sets the key's value. Returns the one before. A key that stays keeps its place in the order.
    #[inline]
    pub fn insert(&mut self, hash: u64, key: &[u8], value: S) -> Option<S> {
        let probe = Probe::new(hash, key);
        if let Some((_, ordinal)) = self.find(&probe) {
            self.touch(ordinal);
            return self.rows[ordinal].value.replace(value);
        }
        self.append(&probe, value);
        None
    }

    /// Adds a row for a key that is not there.
    fn append(&mut self, probe: &Probe<'_>, value: S) -> usize {
        let right = || probe.with_key(super::hash_key) == probe.hash;
        debug_assert!(right(), "STATE: the hash is the key's XXH3");
        if (self.live + 1) * 4 > self.index.len() * 3 {
            self.grow();
        }
        let word = probe.enter(&mut self.arena);
        let ordinal = self.rows.len();
        self.rows.push(Row { word, value: Some(value) });
        self.edition += 1;
        place_in(&mut self.index, slot(probe.hash, ordinal));
        self.live += 1;
        ordinal
    }

    /// Removes the key. Returns its value.
    pub fn remove(&mut self, hash: u64, key: &[u8]) -> Option<S> {
        let (place, ordinal) = self.find(&Probe::new(hash, key))?;
        let value = self.bury(place, ordinal);
        self.compact_if_sparse();
        value
    }

    /// Takes a row's value, and the slot that points to it.
    fn bury(&mut self, place: usize, ordinal: usize) -> Option<S> {
        self.keep(ordinal);
        self.vacate(place);
        self.live -= 1;
        self.edition += 1;
        if let Some(touched) = &mut self.touched {
            touched.remove(ordinal, self.rows[ordinal].word.key(&self.arena));
        }
        self.rows[ordinal].value.take()
    }

    /// Dead rows cost memory and iteration: drops them when they outnumber the living.
    fn compact_if_sparse(&mut self) {
        if self.rows.len() > 2 * self.live + 32 && self.frozen.is_none() {
            self.compact();
        }
    }

    /// Which state of the rows this is (STATE-5).
    pub(super) fn edition(&self) -> u64 {
        self.edition
    }

    /// The ordinal and the value of a key.
    #[inline]
    pub(super) fn locate(&self, probe: &Probe<'_>) -> Option<(usize, &S)> {
        let (_, ordinal) = self.find(probe)?;
        self.rows[ordinal].value.as_ref().map(|value| (ordinal, value))
    }

    /// Touches what look-ups of these hashes will touch: the cache misses of all of them then pass
    /// at the same time, and not one after the other.
    pub(crate) fn warm(&self, hashes: impl Iterator<Item = u64>) {
        let touched = hashes.fold(0, |touched, hash| {
            // Of an empty slot some row, which costs less than to guess wrong.
            let row = to_usize(self.slot_of(hash) & u64::from(u32::MAX)).saturating_sub(1);
            touched ^ self.rows.get(row).map_or(0, |row| row.word.low())
        });
        std::hint::black_box(touched);
    }

    /// As [`StateTable::warm`], for keys that the table does not have.
    pub(super) fn warm_slots(&self, hashes: impl Iterator<Item = u64>) {
        std::hint::black_box(hashes.fold(0, |touched, hash| touched ^ self.slot_of(hash)));
    }

    /// The slot at which the search for a hash begins.
    #[inline]
    fn slot_of(&self, hash: u64) -> u64 {
        let mask = self.index.len().wrapping_sub(1);
        self.index.get(to_usize(hash) & mask).copied().unwrap_or(EMPTY)
    }

    /// Hash and key of the row at an ordinal.
    pub(super) fn key_at(&self, ordinal: usize) -> (u64, &[u8]) {
        let key = self.key(&self.rows[ordinal]);
        (super::hash_key(key), key)
    }

    /// Makes changes of the keys at these ordinals (`None`: removed), which are of this edition.
    pub(super) fn change(&mut self, changes: impl Iterator<Item = (usize, Option<S>)>) {
        for (ordinal, value) in changes {
            if value.is_some() {
                self.touch(ordinal);
                self.rows[ordinal].value = value;
            } else if let Some(place) = self.place_of(ordinal) {
                self.bury(place, ordinal);
            }
        }
        // Only now: compaction moves rows.
        self.compact_if_sparse();
    }

    /// Where the slot is that points to a row.
    fn place_of(&self, ordinal: usize) -> Option<usize> {
        let (hash, _) = self.key_at(ordinal);
        let (mask, wanted) = (self.index.len() - 1, slot(hash, ordinal));
        let mut place = to_usize(hash) & mask;
        while self.index[place] != EMPTY {
            if self.index[place] == wanted {
                return Some(place);
            }
            place = (place + 1) & mask;
        }
        None
    }

    /// Adds a key that the table does not have.
    pub(super) fn add(&mut self, probe: &Probe<'_>, value: S) {
        self.append(probe, value);
    }

    /// Empties a slot, and moves back those behind it that it had displaced.
    fn vacate(&mut self, mut hole: usize) {
        let mask = self.index.len() - 1;
        let mut next = (hole + 1) & mask;
        while self.index[next] != EMPTY {
            let home = home(self.index[next], mask);
            // The entry may move if its home is not behind the hole, going round.
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.index[hole] = self.index[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.index[hole] = EMPTY;
    }

    fn grow(&mut self) {
        if self.rows.len() > self.live + self.live / 2 && self.frozen.is_none() {
            self.compact();
        }
        let larger = vec![EMPTY; slots_for(self.live + 1).max(self.index.len() * 2)];
        let slots = std::mem::replace(&mut self.index, larger);
        slots.into_iter().filter(|slot| *slot != EMPTY).for_each(|slot| {
            place_in(&mut self.index, slot);
        });
    }

    fn rebuild(&mut self, slots: usize) {
        self.index.clear();
        self.index.resize(slots, EMPTY);
        for (ordinal, row) in self.rows.iter().enumerate().filter(|(_, row)| row.value.is_some()) {
            let hash = super::hash_key(row.word.key(&self.arena));
            place_in(&mut self.index, slot(hash, ordinal));
        }
    }

    /// Drops dead rows and their keys; the order stays (STATE-2).
    fn compact(&mut self) {
        if let Some(touched) = &mut self.touched {
            touched.compact(|| self.rows.iter().map(|row| row.value.is_some()));
        }
        let mut arena = Vec::with_capacity(self.arena.len() / 2);
        let old = std::mem::take(&mut self.arena);
        self.rows.retain_mut(|row| {
            if row.value.is_none() {
                return false;
            }
            // A word has nothing of the hash.
            row.word = Probe::of_row(0, &row.word, &old).enter(&mut arena);
            true
        });
        self.edition += 1;
        self.arena = arena;
        self.rebuild(self.index.len());
    }

    /// Keys and values in first-seen order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &S)> {
        self.rows.iter().filter_map(|row| row.value.as_ref().map(|value| (self.key(row), value)))
    }

    /// What has changed, if the table is to know that.
    pub(super) fn touched(&self) -> Option<&Touched> {
        self.touched.as_deref()
    }

    /// The last cut, while it is encoded.
    pub(super) fn frozen(&self) -> Option<&Frozen<S>> {
        self.frozen.as_deref()
    }

    /// Number of rows, dead ones included: the ordinal of the next one.
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Key and value of a row; `None`: it is dead.
    pub(super) fn row(&self, ordinal: usize) -> (&[u8], Option<&S>) {
        let row = &self.rows[ordinal];
        (self.key(row), row.value.as_ref())
    }

    /// Hashes, keys and values in first-seen order, by value.
    pub(super) fn drain_into(self, mut each: impl FnMut(u64, &[u8], S)) {
        for mut row in self.rows {
            if let Some(value) = row.value.take() {
                let key = row.word.key(&self.arena);
                each(super::hash_key(key), key, value);
            }
        }
    }
}

impl<S: Clone> StateTable<S> {
    /// Takes a step in what is known of changes.
    pub(super) fn track(&mut self, step: Tracking) {
        let rows = self.rows.len();
        let touched = self.touched.as_deref_mut();
        match step {
            Tracking::Begin => self.touched = Some(Box::new(Touched::since(rows))),
            Tracking::Cut => touched.into_iter().for_each(|touched| touched.cut(rows)),
            Tracking::Settle => touched.into_iter().for_each(Touched::settle),
            Tracking::Revert => touched.into_iter().for_each(Touched::revert),
        }
        self.frozen = (step == Tracking::Cut).then(|| Box::new(Frozen::at(rows)));
    }
}

/// Slots for so many keys at three quarters full, a power of two.
fn slots_for(keys: usize) -> usize {
    let slots = (keys + keys / 3 + 1).next_power_of_two().max(16);
    assert!(slots <= 1 << 32, "STATE: a partition has at most 3 * 2^30 keys");
    slots
}

fn place_in(index: &mut [u64], slot: u64) {
    let mask = index.len() - 1;
    let mut place = home(slot, mask);
    while index[place] != EMPTY {
        place = (place + 1) & mask;
    }
    index[place] = slot;
}
