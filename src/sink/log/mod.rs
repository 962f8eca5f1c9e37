//! Rows into another log, a transaction for each batch (ENGINE.md E5).
//!
//! LOGOUT-1: a row counts if a commit record names its transaction; the commit record stands behind
//! all rows of its transaction, and is durable only with them.
//! LOGOUT-2: a batch has one commit record: who opens the output looks for it before publishing.
//! LOGOUT-3: a writer of a lower epoch than one that has opened the output is refused.
//! LOGOUT-4: the target's log refuses it, in one step with the append: the output is a producer,
//! the epoch of the job's log its producer epoch. Nothing stands between a check and the append.

mod follow;
mod format;
mod read;
mod rows;
mod sink;
#[cfg(test)]
mod tests;

pub use read::{CommittedRow, CommittedRows};
pub(crate) use sink::log_sink;
