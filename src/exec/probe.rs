//! Keys as tables hold and compare them.
//!
//! PROBE-1: a key of up to 15 bytes lies in its row itself, zero-padded, its length in the last
//! byte: two of them are equal exactly when their 16 bytes are. Most words and all numbers are
//! such keys, and looking one up touches nothing but the slot and the row.
//! PROBE-2: of a longer key the row has the length and where the key begins in the table's arena.

use crate::ids::to_usize;

/// Keys up to this length lie in their row.
pub(crate) const INLINE: usize = 15;
/// In the last byte: a longer key.
const LONG: u8 = u8::MAX;

/// What a row has of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word([u8; INLINE + 1]);

impl Word {
    #[inline]
    fn of(low: u64, high: u64) -> Word {
        Word((u128::from(high) << 64 | u128::from(low)).to_le_bytes())
    }

    #[inline]
    pub(crate) fn low(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    #[inline]
    fn high(&self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    #[inline]
    fn is_short(&self) -> bool {
        self.0[INLINE] != LONG
    }

    /// The key of a row.
    #[inline]
    pub(crate) fn key<'k>(&'k self, arena: &'k [u8]) -> &'k [u8] {
        if self.is_short() {
            return &self.0[..usize::from(self.0[INLINE]).min(INLINE)];
        }
        let (place, length) = (to_usize(self.low()), to_usize(self.high() & (u64::MAX >> 8)));
        &arena[place..place + length]
    }
}

/// At most 8 bytes, zero-padded, in at most three loads: those that overlap agree where they meet.
#[inline]
fn few(key: &[u8]) -> u64 {
    let len = key.len();
    if let (Some(low), Some(high)) = (key.first_chunk::<4>(), key.last_chunk::<4>()) {
        let high = u64::from(u32::from_le_bytes(*high)) << (8 * (len - 4));
        u64::from(u32::from_le_bytes(*low)) | high
    } else if len > 0 {
        let (middle, last) = (len / 2, len - 1);
        u64::from(key[0])
            | u64::from(key[middle]) << (8 * middle)
            | u64::from(key[last]) << (8 * last)
    } else {
        0
    }
}

/// A key that is looked up: its hash, and what its row would have, made once.
///
/// The halves of the word stay apart, in registers: joined in memory and compared there as one, the
/// processor would wait until both had left it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe<'k> {
    pub(crate) hash: u64,
    low: u64,
    high: u64,
    /// The key, if it is long.
    long: &'k [u8],
}

impl<'k> Probe<'k> {
    #[inline]
    pub(crate) fn new(hash: u64, key: &'k [u8]) -> Probe<'k> {
        let len = (key.len() as u64) << 56;
        if key.len() > INLINE {
            let high = key.len() as u64 | u64::from(LONG) << 56;
            return Probe { hash, low: 0, high, long: key };
        }
        let (low, high) = match (key.first_chunk::<8>(), key.last_chunk::<8>()) {
            // Loads that overlap; what both have is shifted out of the second one.
            (Some(low), Some(high)) => {
                let shared = 8 * (16 - key.len());
                #[allow(clippy::cast_possible_truncation, reason = "at most 64")]
                let high = u64::from_le_bytes(*high).checked_shr(shared as u32).unwrap_or(0);
                (u64::from_le_bytes(*low), high)
            }
            _ => (few(key), 0),
        };
        Probe { hash, low, high: high | len, long: &[] }
    }

    /// Of a key of `len` bytes, at most 8, which are zero-padded.
    #[inline]
    pub(crate) fn padded(hash: u64, key: u64, len: usize) -> Probe<'static> {
        Probe { hash, low: key, high: (len as u64) << 56, long: &[] }
    }

    /// Of the key of a row.
    #[inline]
    pub(crate) fn of_row(hash: u64, word: &Word, arena: &'k [u8]) -> Probe<'k> {
        let (low, high) = (word.low(), word.high());
        if word.is_short() {
            return Probe { hash, low, high, long: &[] };
        }
        let (place, length) = (to_usize(low), to_usize(high & (u64::MAX >> 8)));
        Probe { hash, low: 0, high, long: &arena[place..place + length] }
    }

    #[inline]
    pub(crate) fn is_short(&self) -> bool {
        self.high >> 56 != u64::from(LONG)
    }

    /// Without its borrow; `None` for a long key.
    #[inline]
    pub(crate) fn short(&self) -> Option<Short> {
        let Probe { hash, low, high, .. } = *self;
        self.is_short().then_some(Short { hash, low, high })
    }

    /// A key of up to 8 bytes, zero-padded, and its length.
    #[inline]
    pub(crate) fn few(&self) -> Option<(u64, usize)> {
        let len = to_usize(self.high >> 56);
        (len <= 8).then_some((self.low, len))
    }

    /// Calls `with` with the key.
    #[inline]
    pub(crate) fn with_key<T>(&self, with: impl FnOnce(&[u8]) -> T) -> T {
        match self.is_short() {
            true => with(Word::of(self.low, self.high).key(&[])),
            false => with(self.long),
        }
    }

    /// Whether a row with this word, of a table with this arena, has the key.
    #[inline]
    pub(crate) fn is(&self, row: &Word, arena: &[u8]) -> bool {
        if self.is_short() {
            return (self.low ^ row.low()) | (self.high ^ row.high()) == 0;
        }
        self.high == row.high() && row.key(arena) == self.long
    }

    /// What a new row has of the key, which goes into the arena if it is long.
    #[inline]
    pub(crate) fn enter(&self, arena: &mut Vec<u8>) -> Word {
        if self.is_short() {
            return Word::of(self.low, self.high);
        }
        let place = arena.len();
        arena.extend_from_slice(self.long);
        Word::of(place as u64, self.high)
    }
}

/// A short key that is looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Short {
    pub(crate) hash: u64,
    low: u64,
    high: u64,
}

impl Short {
    #[inline]
    pub(crate) fn probe(self) -> Probe<'static> {
        let Short { hash, low, high } = self;
        Probe { hash, low, high, long: &[] }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_have_their_keys_and_no_others(
            keys in prop::collection::vec(prop::collection::vec(0u8..2, 0..40), 1..20),
        ) {
            let mut arena = Vec::new();
            let words: Vec<_> =
                keys.iter().map(|key| Probe::new(0, key).enter(&mut arena)).collect();
            for (word, key) in words.iter().zip(&keys) {
                prop_assert_eq!(word.key(&arena), &key[..]);
                for other in &keys {
                    let same = key == other;
                    let (made, of_row) = (Probe::new(7, other), Probe::of_row(7, word, &arena));
                    prop_assert_eq!(made.is(word, &arena), same);
                    prop_assert!(of_row.with_key(|found| found == key));
                    prop_assert!(made.with_key(|found| found == other));
                    prop_assert_eq!(made.is_short(), other.len() <= INLINE);
                    let short = made.short();
                    prop_assert_eq!(short.is_some(), made.is_short());
                    prop_assert!(short.is_none_or(|short| short.probe().is(word, &arena) == same));
                    if let Some((few, len)) = made.few() {
                        prop_assert_eq!(len, other.len());
                        prop_assert_eq!(Probe::padded(7, few, len).is(word, &arena), same);
                    } else {
                        prop_assert!(other.len() > 8);
                    }
                }
            }
        }

        #[test]
        fn short_keys_are_padded_with_zeros(
            key in prop::collection::vec(any::<u8>(), 0..=INLINE),
        ) {
            let mut expected = [0; INLINE + 1];
            expected[..key.len()].copy_from_slice(&key);
            expected[INLINE] = u8::try_from(key.len()).unwrap();
            prop_assert_eq!(Probe::new(0, &key).enter(&mut Vec::new()), Word(expected));
        }
    }
}
