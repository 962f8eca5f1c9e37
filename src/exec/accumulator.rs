//! Named sums that closures add to while they work (ENGINE.md E12).
//!
//! - ACC-1: what a closure adds counts once for each (operator, partition) of a run: at the first
//!   task that computes the partition and succeeds. A failed attempt counts nothing, a partition
//!   that is computed again nothing more.
//! - ACC-2: sums are of whole numbers and saturate: no order of addition shows.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::name::Name;
use super::node::OperatorId;
use crate::planted::{Bug, planted};

/// Whether this process has made an accumulator: until then no call of user code is marked.
static USED: AtomicBool = AtomicBool::new(false);

/// A named sum that the closures of operators add to: how many lines were malformed, how many rows
/// a rule dropped.
///
/// What is added counts once for each partition of an operator, whatever is attempted again or
/// computed again: in a job once for each batch, and the totals survive restarts. It belongs into
/// the closures of narrow operators (`map`, `filter`, `flat_map` ...), which see each row of a
/// partition; a fold by key is called as often as its map side happens to combine. Two accumulators
/// of one name are one.
///
/// ```
/// use sawmill::{Accumulator, Dataset, Executor, name};
/// let odd = Accumulator::new(name!("odd"));
/// let counted = odd.clone();
/// let halves = Dataset::from_vec(vec![1, 2, 3, 4, 5], 2).map(move |number| {
///     counted.add(number % 2);
///     number / 2
/// });
/// let executor = Executor::new(2, 4)?;
/// let run = executor.context();
/// assert_eq!(executor.collect(&run, &halves)?, [0, 1, 1, 2, 2]);
/// assert_eq!(executor.count(&run, &halves)?, 5);
/// assert_eq!(run.accumulated(&odd), 3, "computed twice, counted once");
/// # Ok::<(), sawmill::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accumulator {
    name: Name,
}

impl Accumulator {
    /// The accumulator of this name.
    #[must_use]
    pub fn new(name: Name) -> Accumulator {
        USED.store(true, Ordering::Relaxed);
        Accumulator { name }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> Name {
        self.name
    }

    /// Adds to the sum, on behalf of the partition that is being computed. Outside of an operator's
    /// closure, and on a thread that the closure started itself, it does nothing.
    pub fn add(&self, amount: i64) {
        let Some(place) = PLACE.get() else { return };
        TALLY.with_borrow_mut(|tally| {
            let sum = tally.entry((place, self.name.get())).or_insert(0);
            *sum = sum.saturating_add(amount);
        });
    }
}

/// The operator whose closure adds, and the partition it works on.
type Place = (OperatorId, u32);

/// What one attempt has added so far.
pub(crate) type Tally = BTreeMap<(Place, &'static str), i64>;

thread_local! {
    static PLACE: Cell<Option<Place>> = const { Cell::new(None) };
    static TALLY: RefCell<Tally> = const { RefCell::new(Tally::new()) };
}

/// Whether calls of user code have to say where they are.
#[inline]
pub(crate) fn in_use() -> bool {
    USED.load(Ordering::Relaxed)
}

/// Calls user code of an operator, so that what it adds is laid to that place.
pub(crate) fn at<T>(place: (OperatorId, u32), user: impl FnOnce() -> T) -> T {
    struct Back(Option<Place>);
    impl Drop for Back {
        fn drop(&mut self) {
            PLACE.set(self.0);
        }
    }
    let _back = Back(PLACE.replace(Some(place)));
    user()
}

/// Runs an attempt and returns what it has added. A thread of the pool may take up another task in
/// the middle of one (user code that uses rayon itself): what that adds is kept apart.
pub(crate) fn tallied<T>(attempt: impl FnOnce() -> T) -> (T, Tally) {
    if !in_use() {
        return (attempt(), Tally::new());
    }
    let (outer, place) = (TALLY.take(), PLACE.take());
    let result = attempt();
    PLACE.set(place);
    (result, TALLY.replace(outer))
}

/// The sums of one run.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    counted: BTreeSet<Place>,
    sums: BTreeMap<&'static str, i64>,
}

impl Sums {
    /// ACC-1: takes what a task that has succeeded added.
    pub(crate) fn take(&mut self, tally: Tally) {
        let mut fresh = BTreeSet::new();
        for ((place, name), amount) in tally {
            let first = fresh.contains(&place) || self.counted.insert(place);
            if first {
                fresh.insert(place);
            }
            if first || planted(Bug::CountOnRecompute) {
                let sum = self.sums.entry(name).or_insert(0);
                *sum = sum.saturating_add(amount);
            }
        }
    }

    pub(crate) fn get(&self, name: &str) -> i64 {
        self.sums.get(name).copied().unwrap_or(0)
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> Vec<(String, i64)> {
        self.sums.iter().map(|(name, sum)| ((*name).to_owned(), *sum)).collect()
    }
}
