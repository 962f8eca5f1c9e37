//! Which row of the input was on its way when user code failed (ENGINE.md E11).
//!
//! Only runs that look for it pay for it: who reads a source for them says before each row which
//! one it is. Whatever is computed from the row in one pass runs before the next one is said.

use std::cell::Cell;

/// A row of a run's inputs. Their order is that in which inputs are processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InputRow {
    /// The input, by its place in the job.
    pub(crate) input: u32,
    pub(crate) partition: u32,
    /// The row, by its place in the partition.
    pub(crate) row: u64,
}

/// A task that failed at every attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The operator whose code failed, as a person finds it.
    pub(crate) operator: String,
    /// What it said.
    pub(crate) error: String,
    /// The row that was on its way, if one was, and if anybody said so.
    pub(crate) row: Option<InputRow>,
}

thread_local!(static CURRENT: Cell<Option<InputRow>> = const { Cell::new(None) });

/// Says which row is on its way on this thread; returns the one before.
pub(crate) fn on_its_way(row: Option<InputRow>) -> Option<InputRow> {
    CURRENT.replace(row)
}

/// The row that is on its way on this thread.
pub(crate) fn current() -> Option<InputRow> {
    CURRENT.get()
}
