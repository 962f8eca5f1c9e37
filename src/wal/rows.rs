//! Groups whose followers wake one another, row by row.
//!
//! ROWS-1: such a group is listed before its first row is woken, until nobody sleeps in it. While
//! one is listed, a slot is taken or handed: who settles frames there wakes one row more of the
//! oldest, and who leaves when nobody else leads, or is about to, wakes all of all of them. So
//! nobody depends on what other callers do after they were woken.

use std::collections::VecDeque;

use super::group::{Group, Resolved};
use crate::planted::{Bug, planted};
use crate::sync::Arc;

/// The list, oldest first; under the log's mutex.
#[derive(Debug, Default)]
pub(crate) struct Rows(VecDeque<Arc<Group>>);

impl Rows {
    /// Takes note of a group that was settled.
    pub(super) fn list(&mut self, resolved: &mut Resolved) {
        self.0.extend(resolved.set_in_rows());
    }

    /// One row more of the oldest group.
    pub(super) fn next(&mut self) -> Option<Resolved> {
        while self.0.front()?.is_through() {
            self.0.pop_front();
        }
        let oldest = self.0.front().filter(|_| !planted(Bug::RowsForgotten));
        oldest.map(|group| group.again(true))
    }

    /// All of all groups: nobody comes after the caller who would see to them.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = Resolved> {
        let seen = if planted(Bug::RowsForgotten) { 0 } else { self.0.len() };
        self.0.drain(..seen).map(|group| group.again(false))
    }
}
