//! The LSNs that one atomic batch got.

use crate::ids::Lsn;

/// Consecutive LSNs: what an atomic batch got, in the batch's order.
///
/// ```
/// # let place = tempfile::tempdir()?;
/// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
/// let wal = sawmill::Wal::open(place.path(), options)?;
/// let range = wal.append_batch(&["one", "two"])?;
/// assert_eq!((range.len(), range.last()), (2, range.first().next()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LsnRange {
    first: Lsn,
    count: u64,
}

impl LsnRange {
    pub(crate) const fn new(first: Lsn, count: u64) -> LsnRange {
        LsnRange { first, count }
    }

    /// The LSNs from `first` through `last`, both included; none if `last` is below `first`.
    ///
    /// ```
    /// use sawmill::{Lsn, LsnRange};
    /// assert_eq!(LsnRange::between(Lsn::new(5), Lsn::new(7)).len(), 3);
    /// assert!(LsnRange::between(Lsn::new(5), Lsn::new(4)).is_empty());
    /// ```
    #[must_use]
    pub const fn between(first: Lsn, last: Lsn) -> LsnRange {
        LsnRange { first, count: last.get().saturating_add(1).saturating_sub(first.get()) }
    }

    /// The first LSN; of an empty range, the one that the next record would get.
    #[must_use]
    pub const fn first(&self) -> Lsn {
        self.first
    }

    /// The last LSN; of an empty range, the one before [`first`](LsnRange::first).
    #[must_use]
    pub const fn last(&self) -> Lsn {
        self.first.advance(self.count).previous()
    }

    /// How many LSNs.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether `lsn` is one of them.
    #[must_use]
    pub fn contains(&self, lsn: Lsn) -> bool {
        self.first <= lsn && lsn <= self.last()
    }
}
