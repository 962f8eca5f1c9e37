//! The only randomness that operators may use (ENGINE.md E8).

use super::name::Name;
use crate::checksum::xxh3;
use crate::ids::BatchId;

/// Random numbers that are the same ones whenever a partition of a batch is computed again: they
/// follow from the batch's number, the partition and a name, and from nothing else. Made by
/// [`Rows::rng`](crate::Rows::rng).
///
/// The numbers are fixed for ever, since old batches may be executed again: splitmix64, which is
/// fast and even, and no secret.
#[derive(Clone, Debug)]
pub struct BatchRng(u64);

impl BatchRng {
    pub(crate) fn new(batch: Option<BatchId>, partition: u32, name: Name) -> BatchRng {
        let batch = batch.unwrap_or_default().get().to_le_bytes();
        let partition = partition.to_le_bytes();
        BatchRng(xxh3(&[&batch[..], &partition, name.get().as_bytes()].concat()))
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        let scaled = (u128::from(self.next_u64()) * u128::from(limit)) >> 64;
        u64::try_from(scaled).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_fixed_for_ever_and_differ_by_batch_partition_and_name() {
        const A: Name = Name::new("a");
        let first = |batch, partition, name| BatchRng::new(batch, partition, name).next_u64();
        // Written down by an independent computation of splitmix64 over the XXH3 of
        // 07 00 .. 00 | 03 00 00 00 | 61.
        let mut random = BatchRng::new(Some(BatchId::new(7)), 3, A);
        assert_eq!([random.next_u64(), random.next_u64()], GOLDEN);
        let others = [
            first(Some(BatchId::new(8)), 3, A),
            first(Some(BatchId::new(7)), 4, A),
            first(Some(BatchId::new(7)), 3, Name::new("b")),
            first(None, 3, A),
        ];
        assert!(others.iter().all(|other| *other != GOLDEN[0]), "{others:?}");
    }

    const GOLDEN: [u64; 2] = [0x4d4b_a806_8a61_54fd, 0x8604_627f_ab98_d124];

    #[test]
    fn numbers_below_a_limit_are_below_it_and_even() {
        let mut random = BatchRng::new(None, 0, Name::new("even"));
        let mut counts = [0u32; 7];
        for _ in 0..7_000 {
            counts[usize::try_from(random.below(7)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_eq!(random.below(0), 0);
    }
}
