//! Latencies in buckets of 3 % width.

/// Buckets in each doubling: 2^5.
const BITS: u32 = 5;
const BUCKETS: usize = 1952;

/// How often which latency was seen, from 0 ns to centuries.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Box<[u64]>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; BUCKETS].into_boxed_slice(), total: 0 }
    }
}

fn bucket(ns: u64) -> usize {
    let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(BITS + 1);
    ((shift << BITS) as usize) + (ns >> shift) as usize
}

/// The middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let shift = (bucket >> BITS).saturating_sub(1);
    let low = (bucket - (shift << BITS)) as u64;
    (low << shift) + ((1 << shift) >> 1)
}

impl Histogram {
    pub(crate) fn add(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.total += 1;
    }

    pub(crate) fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// The latency that `share` of all (0.5: the median) did not exceed, in nanoseconds. `None`
    /// if nothing was added.
    pub(crate) fn quantile(&self, share: f64) -> Option<u64> {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        self.counts
            .iter()
            .position(|count| {
                seen += count;
                seen >= wanted
            })
            .map(middle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_dense_and_narrow() {
        let mut last = 0;
        for ns in 0..100_000 {
            let at = bucket(ns);
            assert!(at == last || at == last + 1, "{ns}");
            last = at;
            assert!(middle(at).abs_diff(ns) * 32 <= ns, "{ns} is far from {}", middle(at));
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_are_those_of_what_was_added() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for ns in 1..=50 {
            histogram.add(ns);
        }
        let mut other = Histogram::default();
        other.add(1_000_000);
        histogram.merge(&other);
        assert_eq!(histogram.quantile(0.5), Some(26));
        assert!(histogram.quantile(0.999).is_some_and(|ns| ns.abs_diff(1_000_000) < 32_000));
    }
}
