//! Latencies by size class: fixed memory, one relaxed addition per sample.
//!
//! Classes are log-linear: each power of two is cut into four, so a class is at most a quarter as
//! wide as its lower end, and a quantile is at most 25 % above the true one.

use std::fmt;
use std::time::Duration;

use crate::sync::counting::{AtomicU64, Ordering};

/// Classes for each power of two.
const CUTS: usize = 4;
/// Powers of two from 2^2 on; what lasts 2^40 ns (18 minutes) or more goes to the last class.
const POWERS: usize = 39;
const CLASSES: usize = CUTS * POWERS;

/// The class of a sample.
fn class_of(nanos: u64) -> usize {
    let power = nanos.max(1).ilog2() as usize;
    if power < 2 {
        return usize::from(nanos > 1) + usize::from(nanos > 2);
    }
    // The two bits behind the highest one choose the cut.
    let cut = (nanos >> (power - 2)) & 3;
    let class = CUTS * (power - 1) + usize::from(cut >= 1) + usize::from(cut >= 2);
    (class + usize::from(cut >= 3)).min(CLASSES - 1)
}

/// The highest sample of a class.
fn end_of(class: usize) -> u64 {
    match class {
        0..=2 => class as u64 + 1,
        3 => 3,
        _ => {
            let power = class / CUTS + 1;
            let step = 1 << (power - 2);
            (1 << power) + (class % CUTS + 1) as u64 * step - 1
        }
    }
}

/// Where samples are counted, by any thread.
#[derive(Debug)]
pub(crate) struct Recorder {
    classes: [AtomicU64; CLASSES],
    sum: AtomicU64,
    most: AtomicU64,
}

impl Recorder {
    /// Without samples.
    pub(crate) fn new() -> Recorder {
        let classes = std::array::from_fn(|_| AtomicU64::new(0));
        Recorder { classes, sum: AtomicU64::new(0), most: AtomicU64::new(0) }
    }

    /// Counts a sample.
    pub(crate) fn record(&self, nanos: u64) {
        self.classes[class_of(nanos)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(nanos, Ordering::Relaxed);
        // The maximum rarely moves: look first, and leave the line alone.
        if nanos > self.most.load(Ordering::Relaxed) {
            self.most.fetch_max(nanos, Ordering::Relaxed);
        }
    }

    /// What was counted so far.
    pub(crate) fn snapshot(&self) -> Latencies {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let classes: Vec<u64> = self.classes.iter().map(load).collect();
        Latencies { classes, sum: load(&self.sum), most: load(&self.most) }
    }
}

/// A distribution of latencies since the log was opened. Each figure is at most 25 % above the true
/// one, and never below it.
///
/// ```
/// use std::time::Duration;
/// # let place = tempfile::tempdir()?;
/// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
/// let wal = sawmill::Wal::open(place.path(), options)?;
/// wal.append(b"a record")?;
/// let appends = wal.stats().append_latency;
/// assert_eq!(appends.count(), 1);
/// assert!(appends.quantile(0.5) > Duration::ZERO);
/// assert!(appends.quantile(0.5) <= appends.max());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Latencies {
    classes: Vec<u64>,
    sum: u64,
    most: u64,
}

impl Latencies {
    /// How many samples.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// The latency that a fraction `of_samples` (0.5 is the median, 0.99 the p99) does not exceed;
    /// zero without samples. Fractions outside 0 to 1 count as the nearer end.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank within the count; a distribution is not exact anyway"
    )]
    pub fn quantile(&self, of_samples: f64) -> Duration {
        let count = self.count();
        let rank = (of_samples.clamp(0.0, 1.0) * count as f64).ceil() as u64;
        let mut below = 0;
        for (class, samples) in self.classes.iter().enumerate() {
            below += samples;
            if below >= rank.max(1) {
                return Duration::from_nanos(end_of(class).min(self.most));
            }
        }
        Duration::from_nanos(self.most)
    }

    /// The mean; zero without samples.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum.checked_div(self.count()).unwrap_or(0))
    }

    /// The highest sample, exact.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.most)
    }
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latencies")
            .field("count", &self.count())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("p999", &self.quantile(0.999))
            .field("max", &self.max())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_in_order_and_each_holds_its_own_end() {
        let mut last = 0;
        for nanos in (0..10_000).chain((13..50).map(|power| (1 << power) + 12_345)) {
            let class = class_of(nanos);
            assert!(class >= last, "{nanos}");
            last = class;
            if class < CLASSES - 1 {
                let end = end_of(class);
                assert!(end >= nanos && end <= (nanos + nanos / 4).max(1), "{nanos} in ..={end}");
                assert_eq!(class_of(end), class, "{end}");
            }
        }
        assert_eq!(class_of(u64::MAX), CLASSES - 1);
    }

    #[test]
    fn quantiles_are_close_and_never_too_low() {
        let recorder = Recorder::new();
        (1..=1000).for_each(|micros| recorder.record(micros * 1000));
        let found = recorder.snapshot();
        assert_eq!((found.count(), found.max()), (1000, Duration::from_millis(1)));
        assert_eq!(found.mean(), Duration::from_nanos(500_500));
        for (fraction, micros) in [(0.0, 1), (0.5, 500), (0.99, 990), (1.0, 1000)] {
            let (true_one, said) = (Duration::from_micros(micros), found.quantile(fraction));
            assert!(said >= true_one && said <= true_one * 5 / 4, "{fraction}: {said:?}");
        }
        assert_eq!(Recorder::new().snapshot().quantile(0.5), Duration::ZERO);
    }
}
