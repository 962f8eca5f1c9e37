//! Where the bytes of sealed segments come from: a map where the page cache holds them, and the
//! device, past the cache, where it does not.

use std::fmt;
use std::ops::Deref;

use super::cold::{Cold, Piece};
use super::mapped::Mapped;
use crate::ids::Lsn;
use crate::storage::Directory;
use crate::sync::Arc;
use crate::wal::index::{SegmentEntry, SegmentIndex};
use crate::wal::segment::SegmentMap;

/// In how many places it is looked whether the page cache holds a segment.
const SPOTS: usize = 16;

/// Bytes of one segment that stay as they are while this is held.
#[derive(Clone, Debug)]
pub(super) enum Held {
    /// The whole segment.
    Map(Arc<SegmentMap>),
    /// A piece of it.
    Piece(Arc<Piece>),
}

impl Held {
    /// Where in the segment the bytes begin.
    pub(super) fn start(&self) -> u64 {
        match self {
            Held::Map(_) => 0,
            Held::Piece(piece) => piece.start(),
        }
    }
}

impl Deref for Held {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Held::Map(map) => map,
            Held::Piece(piece) => piece,
        }
    }
}

/// Which segments are read past the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PastCache {
    /// None: there is no way past it.
    Never,
    /// Those of which it holds less than half.
    Cold,
    /// All.
    #[cfg(test)]
    Always,
}

impl PastCache {
    #[cfg(not(test))]
    fn of_cold() -> PastCache {
        PastCache::Cold
    }

    #[cfg(test)]
    fn of_cold() -> PastCache {
        tests::past_cache()
    }

    /// Whether this segment is.
    pub(super) fn goes_for(self, map: &SegmentMap) -> bool {
        match self {
            PastCache::Never => false,
            PastCache::Cold => {
                let spot = |number| map.len() / SPOTS * number;
                let resident = (0..SPOTS).filter(|number| map.is_resident(spot(*number)));
                resident.count() < SPOTS / 2
            }
            #[cfg(test)]
            PastCache::Always => true,
        }
    }
}

/// The bytes of sealed segments, in order.
pub(super) struct Source {
    index: Arc<SegmentIndex>,
    directory: Arc<dyn Directory>,
    through: Lsn,
    past_cache: PastCache,
    /// How much of a map is populated at once.
    piece: usize,
    mapped: Option<Mapped>,
    cold: Option<Cold>,
}

impl Source {
    /// Reads segments that begin at `through` or below.
    pub(super) fn new(
        index: Arc<SegmentIndex>,
        directory: Arc<dyn Directory>,
        through: Lsn,
        piece: usize,
    ) -> Source {
        let past_cache =
            if directory.backend().direct { PastCache::of_cold() } else { PastCache::Never };
        Source { index, directory, through, past_cache, piece, mapped: None, cold: None }
    }

    /// The bytes of segment `at` from `offset` on, of which `wanted` may be touched, fewer only at
    /// the end; `None` if they cannot be had this way: ask the file. Offsets never fall within a
    /// segment.
    pub(super) fn secure(
        &mut self,
        sealed: &[SegmentEntry],
        at: usize,
        offset: u64,
        wanted: u64,
    ) -> Option<&[u8]> {
        let segment = &sealed.get(at)?.segment;
        if self.cold.as_mut().is_some_and(|cold| cold.reach(sealed, at, offset, wanted)) {
            return self.cold.as_ref()?.bytes(offset, wanted);
        }
        // What is read ahead in vain is waited for here.
        self.cold = None;
        if self.mapped.as_ref().is_none_or(|map| map.segment() != segment.number()) {
            self.mapped = None;
            let map = Mapped::of(segment, self.piece)?;
            if self.past_cache.goes_for(&map.share()) {
                let (index, directory) = (Arc::clone(&self.index), Arc::clone(&self.directory));
                let place = (at, offset);
                let cold = Cold::start(index, &*directory, self.past_cache, self.through, place);
                let cold = self.cold.insert(cold?);
                if cold.reach(sealed, at, offset, wanted) {
                    return self.cold.as_ref()?.bytes(offset, wanted);
                }
                self.cold = None;
            }
            self.mapped = Some(map);
        }
        self.mapped.as_mut()?.secure(offset, wanted)
    }

    /// What holds the bytes that were secured last.
    pub(super) fn share(&self) -> Option<Held> {
        match (&self.cold, &self.mapped) {
            (Some(cold), _) => cold.current().map(Held::Piece),
            (None, Some(mapped)) => Some(Held::Map(mapped.share())),
            (None, None) => None,
        }
    }

    /// Whether the bytes that were secured last came past the cache.
    pub(super) fn is_past_cache(&self) -> bool {
        self.cold.is_some()
    }

    /// Which segments are read past it.
    pub(super) fn past_cache(&self) -> PastCache {
        self.past_cache
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mapped, cold) = (&self.mapped, &self.cold);
        f.debug_struct("Source").field("mapped", mapped).field("cold", cold).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::PastCache;

    thread_local! {
        static PAST_CACHE: Cell<PastCache> = const { Cell::new(PastCache::Cold) };
    }

    pub(super) fn past_cache() -> PastCache {
        PAST_CACHE.get()
    }

    /// Runs `body`; the replays that this thread begins read every sealed segment past the cache.
    pub(in crate::wal) fn past_the_cache<T>(body: impl FnOnce() -> T) -> T {
        let before = PAST_CACHE.replace(PastCache::Always);
        let out = body();
        PAST_CACHE.set(before);
        out
    }
}
