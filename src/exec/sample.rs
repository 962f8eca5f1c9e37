//! Whether folding before the shuffle pays, found out from the rows themselves.
//!
//! SAMPLE-1: the answer is a function of the hashes of a partition's first rows, in their order,
//! and of nothing else: not of the buckets that are wanted, the threads, or earlier batches
//! (ENGINE.md E7).

/// The rows that are looked at: enough to tell, and few to fold in vain.
pub(crate) const SAMPLED: u32 = 8_192;
/// Folding goes on if at most so many of them, in fifths, have a key of their own.
const FIFTHS: u32 = 4;
/// Bits in which a key leaves its mark. Two keys in eight samples' worth of bits seldom meet.
const BITS: usize = 1 << 16;

/// Looks at the first rows of one partition.
pub(crate) struct Sample {
    marks: Vec<u64>,
    distinct: u32,
    left: u32,
    folds: bool,
}

impl Sample {
    pub(crate) fn new() -> Sample {
        Sample { marks: vec![0; BITS / 64], distinct: 0, left: SAMPLED, folds: true }
    }

    /// Takes the hash of the next row's key and says whether the row is to be folded.
    #[inline]
    pub(crate) fn next(&mut self, hash: u64) -> bool {
        let folds = self.folds;
        if self.left > 0 {
            self.look(hash);
        }
        folds
    }

    /// Marks the key. The answer for the rows behind the sample is given with its last row.
    fn look(&mut self, hash: u64) {
        // Neither the bits that choose the partition nor those that choose the slot.
        let bit = crate::ids::to_usize(hash >> 24) % BITS;
        let (word, mark) = (&mut self.marks[bit / 64], 1 << (bit % 64));
        self.distinct += u32::from(*word & mark == 0);
        *word |= mark;
        self.left -= 1;
        if self.left == 0 {
            self.folds = u64::from(self.distinct) * 5 <= u64::from(SAMPLED * FIFTHS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::key::hash;

    /// How many of `rows` rows with `distinct` keys in turn are folded.
    fn folded(rows: u64, distinct: u64) -> usize {
        let mut sample = Sample::new();
        let hashes = (0..rows).map(|row| hash(&(row % distinct).to_le_bytes()));
        hashes.filter(|hash| sample.next(*hash)).count()
    }

    #[test]
    fn many_keys_end_the_folding_behind_the_sample() {
        let sampled = u64::from(SAMPLED);
        assert_eq!(folded(3 * sampled, u64::MAX), SAMPLED as usize);
        assert_eq!(folded(3 * sampled, sampled * 9 / 10), SAMPLED as usize);
        assert_eq!(folded(3 * sampled, sampled * 3 / 4), 3 * SAMPLED as usize);
        assert_eq!(folded(3 * sampled, 1), 3 * SAMPLED as usize);
    }

    #[test]
    fn few_rows_are_always_folded() {
        let sampled = u64::from(SAMPLED);
        assert_eq!(folded(sampled, u64::MAX), SAMPLED as usize);
    }
}
