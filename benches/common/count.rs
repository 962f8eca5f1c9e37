//! Counting words by hand: what every bench of words has as its yardstick.

use xxhash_rust::xxh3::xxh3_64;

/// What separates words: C `isspace`.
pub(crate) fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | 9..=13)
}

/// The result of either way: the same whatever the order of words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checksum {
    pub(crate) words: u64,
    pub(crate) distinct: u64,
    pub(crate) digest: u64,
}

impl Checksum {
    pub(crate) fn add(&mut self, word: &[u8], count: u64) {
        self.words += count;
        self.distinct += 1;
        self.digest = self.digest.wrapping_add(xxh3_64(word).wrapping_mul(count));
    }

    pub(crate) fn merge(self, other: Checksum) -> Checksum {
        Checksum {
            words: self.words + other.words,
            distinct: self.distinct + other.distinct,
            digest: self.digest.wrapping_add(other.digest),
        }
    }
}

/// Counts by slices of the text: open addressing, half full at most, nothing copied.
pub(crate) struct Counts<'t> {
    slots: Vec<u32>,
    pub(crate) rows: Vec<(u64, &'t [u8], u64)>,
}

impl<'t> Counts<'t> {
    pub(crate) fn with_capacity(words: usize) -> Counts<'t> {
        let slots = vec![0; (words * 2).next_power_of_two()];
        Counts { slots, rows: Vec::with_capacity(words) }
    }

    pub(crate) fn add(&mut self, hash: u64, word: &'t [u8], count: u64) {
        if (self.rows.len() + 1) * 2 > self.slots.len() {
            let mask = self.slots.len() * 2 - 1;
            self.slots = vec![0; mask + 1];
            for (row, (hash, _, _)) in (1..).zip(&self.rows) {
                let mut at = *hash as usize & mask;
                while self.slots[at] != 0 {
                    at = (at + 1) & mask;
                }
                self.slots[at] = row;
            }
        }
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != 0 {
            let row = &mut self.rows[self.slots[at] as usize - 1];
            if row.0 == hash && row.1 == word {
                row.2 += count;
                return;
            }
            at = (at + 1) & mask;
        }
        self.rows.push((hash, word, count));
        self.slots[at] = self.rows.len() as u32;
    }
}

impl Counts<'_> {
    pub(crate) fn checksum(&self) -> Checksum {
        let mut sum = Checksum::default();
        self.rows.iter().for_each(|(_, word, count)| sum.add(word, *count));
        sum
    }
}

/// As [`Counts`], with words that outlive the text: they are copied when they are first seen.
#[derive(Default)]
pub(crate) struct Totals {
    slots: Vec<u32>,
    /// Hash, where the word begins and ends in the arena, count.
    rows: Vec<(u64, u32, u32, u64)>,
    arena: Vec<u8>,
}

impl Totals {
    fn place(slots: &mut [u32], hash: u64, row: u32) {
        let mask = slots.len() - 1;
        let mut at = hash as usize & mask;
        while slots[at] != 0 {
            at = (at + 1) & mask;
        }
        slots[at] = row;
    }

    pub(crate) fn add(&mut self, hash: u64, word: &[u8], count: u64) {
        if (self.rows.len() + 1) * 2 > self.slots.len() {
            self.slots = vec![0; (self.slots.len() * 2).max(2048)];
            for (row, (hash, ..)) in (1..).zip(&self.rows) {
                Totals::place(&mut self.slots, *hash, row);
            }
        }
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != 0 {
            let row = &mut self.rows[self.slots[at] as usize - 1];
            if row.0 == hash && &self.arena[row.1 as usize..row.2 as usize] == word {
                row.3 += count;
                return;
            }
            at = (at + 1) & mask;
        }
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(word);
        self.rows.push((hash, start, self.arena.len() as u32, count));
        self.slots[at] = self.rows.len() as u32;
    }

    pub(crate) fn checksum(&self) -> Checksum {
        let mut sum = Checksum::default();
        for &(_, start, end, count) in &self.rows {
            sum.add(&self.arena[start as usize..end as usize], count);
        }
        sum
    }
}

/// Seconds of CPU time of all threads so far, those that have ended too, in ticks of 10 ms: on a
/// busy machine, steadier than the wall clock.
pub(crate) fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the program's name, which may hold anything.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
