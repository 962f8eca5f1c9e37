//! Which rows of a table have changed since a cut: what a delta has to hold (ENGINE.md E10, E15).
//!
//! STATE-6: whatever has changed since the last checkpoint that stands is in `since`, or in `cut`
//! while a checkpoint of it is on its way. A checkpoint that fails gives its part back.

use super::codec::put_bytes;
use crate::ids::to_usize;

/// What has changed since one moment.
#[derive(Clone, Default)]
pub(super) struct Span {
    /// Rows from this ordinal on came after the moment.
    clean: usize,
    /// One bit for each row below `clean`: its value was set.
    bits: Vec<u64>,
    /// The rows whose bit is set, each once.
    set: Vec<u32>,
    /// Keys of rows below `clean` that were removed, as they are encoded.
    removed: Vec<u8>,
    removals: usize,
}

impl Span {
    fn at(clean: usize) -> Span {
        Span { clean, bits: vec![0; clean.div_ceil(64)], ..Span::default() }
    }

    #[inline]
    fn mark(&mut self, ordinal: usize) {
        if ordinal < self.clean {
            let (word, bit) = (&mut self.bits[ordinal / 64], 1 << (ordinal % 64));
            if *word & bit == 0 {
                *word |= bit;
                #[allow(clippy::cast_possible_truncation, reason = "a slot has 32 bits for it")]
                self.set.push(ordinal as u32);
            }
        }
    }

    /// The first row from this one on that may hold a changed value; the rows that came are among
    /// them.
    pub(super) fn changed_from(&self, row: usize) -> usize {
        if row >= self.clean {
            return row;
        }
        let (first, above) = (row / 64, u64::MAX << (row % 64));
        let word = |place: usize| self.bits[place] & if place == first { above } else { u64::MAX };
        let set = (first..self.bits.len()).find(|place| word(*place) != 0);
        set.map_or(self.clean, |place| place * 64 + to_usize(word(place).trailing_zeros().into()))
    }

    /// Keys that were removed, encoded, and how many.
    pub(super) fn removed(&self) -> (usize, &[u8]) {
        (self.removals, &self.removed)
    }

    fn is_set(&self, ordinal: usize) -> bool {
        ordinal < self.clean && self.bits[ordinal / 64] >> (ordinal % 64) & 1 == 1
    }

    fn remove(&mut self, ordinal: usize, key: &[u8]) {
        if ordinal < self.clean {
            put_bytes(&mut self.removed, key);
            self.removals += 1;
        }
    }

    /// The same span when the rows that are not alive are gone.
    fn compacted(&self, alive: impl Iterator<Item = bool>) -> Span {
        let (mut next, mut marked, mut clean) = (0, Vec::new(), 0);
        for (ordinal, _) in alive.enumerate().filter(|(_, alive)| *alive) {
            if ordinal < self.clean {
                clean = next + 1;
            }
            if self.is_set(ordinal) {
                marked.push(next);
            }
            next += 1;
        }
        let mut span = Span::at(clean);
        marked.into_iter().for_each(|ordinal| span.mark(ordinal));
        Span { removed: self.removed.clone(), removals: self.removals, ..span }
    }

    /// This span and the one that followed it, as one.
    fn and_then(mut self, later: &Span) -> Span {
        later.set.iter().for_each(|ordinal| self.mark(to_usize(u64::from(*ordinal))));
        // A key that came in between and went again is among them: to remove it changes nothing.
        self.removed.extend_from_slice(&later.removed);
        self.removals += later.removals;
        self
    }
}

/// What has changed in a table since the last cut, and what the cut on its way has of it.
#[derive(Clone)]
pub(super) struct Touched {
    since: Span,
    cut: Option<Span>,
}

impl Touched {
    /// Nothing has changed yet in a table of so many rows.
    pub(super) fn since(rows: usize) -> Touched {
        Touched { since: Span::at(rows), cut: None }
    }

    #[inline]
    pub(super) fn mark(&mut self, ordinal: usize) {
        self.since.mark(ordinal);
    }

    pub(super) fn remove(&mut self, ordinal: usize, key: &[u8]) {
        self.since.remove(ordinal, key);
    }

    /// Rows are about to move: `alive` says of each whether it stays.
    pub(super) fn compact<I: Iterator<Item = bool>>(&mut self, alive: impl Fn() -> I) {
        self.since = self.since.compacted(alive());
        self.cut = self.cut.as_ref().map(|cut| cut.compacted(alive()));
    }

    /// How many keys may have changed, in a table of so many rows.
    pub(super) fn keys(&self, rows: usize) -> usize {
        self.since.set.len() + self.since.removals + (rows - self.since.clean)
    }

    /// What the cut on its way has taken.
    pub(super) fn taken(&self) -> Option<&Span> {
        self.cut.as_ref()
    }

    /// A checkpoint takes what has changed; what changes from now on is the next one's.
    ///
    /// # Panics
    /// If the one before has not ended.
    pub(super) fn cut(&mut self, rows: usize) {
        assert!(self.cut.is_none(), "STATE-6: one cut is on its way at most");
        self.cut = Some(std::mem::replace(&mut self.since, Span::at(rows)));
    }

    /// The checkpoint of the cut stands.
    pub(super) fn settle(&mut self) {
        self.cut = None;
    }

    /// The checkpoint of the cut, if there was one, failed: the next one has to hold its part.
    pub(super) fn revert(&mut self) {
        if let Some(cut) = self.cut.take() {
            self.since = cut.and_then(&self.since);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::planted::{Bug, with_planted};
    use crate::state::frozen::Encoding;
    use crate::state::{Overlay, StateTable, Tracking, fold, hash_key};

    #[derive(Clone, Debug)]
    enum Act {
        /// A batch completes.
        Batch(Vec<(Vec<u8>, Option<u32>)>),
        /// A checkpoint is begun, and stands or fails so many batches later.
        Checkpoint { whole: bool, stands: bool, after: usize },
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let key = prop::collection::vec(0u8..4, 0..4);
        let batch = prop::collection::vec((key, any::<Option<u32>>()), 0..40).prop_map(Act::Batch);
        let checkpoint = (prop::bool::weighted(0.2), any::<bool>(), 0usize..3)
            .prop_map(|(whole, stands, after)| Act::Checkpoint { whole, stands, after });
        prop::collection::vec(prop_oneof![2 => batch, 1 => checkpoint], 1..40)
    }

    fn bytes(table: &StateTable<u32>) -> Vec<u8> {
        let mut out = Vec::new();
        table.encode(&mut out).unwrap();
        out
    }

    /// A checkpoint on its way: what is encoded of it, what it has to be, how it ends.
    struct OnItsWay {
        whole: bool,
        encoding: Encoding,
        becomes: Vec<u8>,
        stands: bool,
        left: usize,
    }

    fn deltas_are_the_table(acts: Vec<Act>) -> Result<(), TestCaseError> {
        let mut table = StateTable::<u32>::new();
        table.track(Tracking::Begin);
        let (mut base, mut deltas) = (bytes(&table), Vec::<Vec<u8>>::new());
        let mut flight: Option<OnItsWay> = None;
        for act in acts {
            match act {
                Act::Batch(changes) => {
                    let mut overlay = Overlay::new();
                    for (key, value) in &changes {
                        overlay.put(hash_key(key), key, *value);
                    }
                    overlay.merge_into(&mut table);
                }
                Act::Checkpoint { whole, stands, after } if flight.is_none() => {
                    table.track(Tracking::Cut);
                    let (becomes, encoding) = (bytes(&table), Encoding::new(!whole));
                    flight = Some(OnItsWay { whole, encoding, becomes, stands, left: after });
                }
                Act::Checkpoint { .. } => {}
            }
            match &mut flight {
                Some(on) if on.left > 0 => {
                    on.left -= 1;
                    table.encode_some(&mut on.encoding, 3).unwrap();
                }
                Some(on) if on.stands => {
                    while table.encode_some(&mut on.encoding, 3).unwrap() {}
                    table.track(Tracking::Settle);
                    let on = flight.take().unwrap();
                    match on.encoding.into_bytes() {
                        Some(bytes) if on.whole => (base, deltas) = (bytes, Vec::new()),
                        delta => deltas.extend(delta),
                    }
                    prop_assert_eq!(&fold(&base, &deltas).unwrap(), &on.becomes);
                    let mut typed = StateTable::<u32>::decode(&base).unwrap();
                    deltas.iter().for_each(|delta| typed.apply(delta).unwrap());
                    prop_assert_eq!(&bytes(&typed), &on.becomes);
                }
                Some(_) => {
                    table.track(Tracking::Revert);
                    flight = None;
                }
                None => {}
            }
        }
        Ok(())
    }

    #[test]
    fn planted_cut_moves_is_caught() {
        let batch = |value| Act::Batch((0..9u8).map(|key| (vec![key], Some(value))).collect());
        let cut = Act::Checkpoint { whole: true, stands: true, after: 2 };
        let acts = || vec![batch(1), cut.clone(), batch(2), batch(3)];
        deltas_are_the_table(acts()).unwrap();
        assert!(with_planted(Bug::CutMoves, || deltas_are_the_table(acts())).is_err());
    }

    proptest! {
        /// Whatever comes, goes and comes back while they are encoded, whichever checkpoints fail:
        /// a base and the deltas on it are the table at the last cut that stood, its order
        /// included.
        #[test]
        fn deltas_on_a_base_are_the_table(acts in acts()) {
            deltas_are_the_table(acts)?;
        }

        #[test]
        fn any_bytes_are_safe_to_fold(
            base in prop::collection::vec(any::<u8>(), 0..60),
            delta in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let folded = fold(&base, &[delta]);
            prop_assert!(folded.is_err() || base.len() >= 8);
        }
    }

    /// What a batch costs a delta is what it touched, however large the table.
    #[test]
    fn a_delta_has_what_was_touched_and_no_more() {
        let mut table = StateTable::new();
        for number in 0..10_000u32 {
            table.insert(hash_key(&number.to_le_bytes()), &number.to_le_bytes(), number);
        }
        table.track(Tracking::Begin);
        assert_eq!(table.touched().unwrap().keys(table.rows()), 0);
        for number in (0..10_000u32).step_by(100) {
            *table.get_mut(hash_key(&number.to_le_bytes()), &number.to_le_bytes()).unwrap() += 1;
        }
        assert_eq!(table.touched().unwrap().keys(table.rows()), 100);
        table.track(Tracking::Cut);
        let mut encoding = Encoding::new(true);
        assert!(!table.encode_some(&mut encoding, 101).unwrap());
        let out = encoding.into_bytes().unwrap();
        // Key and length, value and length.
        assert!(out.len() <= 16 + 100 * (5 + 4), "{} bytes", out.len());
    }
}
