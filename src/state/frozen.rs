//! A table as it was at a cut, encoded a few rows at a time while batches go on (ENGINE.md E16).
//!
//! STATE-7: what is encoded of a row is what it held at the cut. A value that changes, or goes,
//! before it was encoded is kept until then; rows do not move meanwhile.

use std::collections::BTreeMap;

use serde::Serialize;

use super::codec::{put_bytes, put_count, put_value};
use super::table::StateTable;
use super::touched::Touched;
use crate::error::Result;
use crate::ids::to_u64;
use crate::planted::{Bug, planted};
use crate::sync::counting::{AtomicUsize, Ordering};

/// What a table needs to know of its last cut.
pub(super) struct Frozen<S> {
    /// Rows that the table had then, dead ones included.
    rows: usize,
    /// Rows below are encoded. Set by who only reads the table.
    encoded: AtomicUsize,
    /// What changed rows held at the cut.
    kept: BTreeMap<usize, Option<S>>,
    copy: fn(&Option<S>) -> Option<S>,
}

impl<S> Clone for Frozen<S> {
    fn clone(&self) -> Frozen<S> {
        Frozen {
            rows: self.rows,
            encoded: AtomicUsize::new(self.encoded.load(Ordering::Relaxed)),
            kept: self.kept.iter().map(|(row, value)| (*row, (self.copy)(value))).collect(),
            copy: self.copy,
        }
    }
}

impl<S: Clone> Frozen<S> {
    pub(super) fn at(rows: usize) -> Frozen<S> {
        let (encoded, kept) = (AtomicUsize::new(0), BTreeMap::new());
        Frozen { rows, encoded, kept, copy: Option::clone }
    }
}

impl<S> Frozen<S> {
    /// A row's value is about to change, or to go.
    pub(super) fn keep(&mut self, row: usize, value: &Option<S>) {
        let waits = (*self.encoded.get_mut()..self.rows).contains(&row);
        if waits && !planted(Bug::CutMoves) {
            let copy = self.copy;
            self.kept.entry(row).or_insert_with(|| copy(value));
        }
    }
}

/// The bytes of one partition at a cut, as far as they are encoded.
#[derive(Debug)]
pub(crate) struct Encoding {
    /// Of what has changed alone, for a delta.
    changes: bool,
    bytes: Vec<u8>,
    /// Where in the bytes the number of keys stands.
    count_at: usize,
    keys: usize,
    removals: usize,
    next: usize,
}

impl Encoding {
    pub(crate) fn new(changes: bool) -> Encoding {
        let (bytes, count_at, keys, removals, next) = (Vec::new(), 0, 0, 0, 0);
        Encoding { changes, bytes, count_at, keys, removals, next }
    }

    /// The bytes, when all is encoded; `None` if nothing has changed.
    pub(crate) fn into_bytes(self) -> Option<Vec<u8>> {
        let is_empty = self.changes && self.keys == 0 && self.removals == 0;
        (!is_empty).then_some(self.bytes)
    }
}

impl<S: Serialize> StateTable<S> {
    /// Encodes up to so many rows more of the last cut. Returns whether there are others.
    ///
    /// # Errors
    /// As [`StateTable::encode`].
    pub(super) fn encode_some(&self, encoding: &mut Encoding, mut rows: usize) -> Result<bool> {
        let Some(frozen) = self.frozen() else {
            // To say that nothing has changed would lose what did.
            panic!("STATE-7: a cut stands as long as it is encoded")
        };
        let changes = self.touched().and_then(Touched::taken).filter(|_| encoding.changes);
        assert_eq!(changes.is_some(), encoding.changes, "STATE-6: a delta's table is tracked");
        let out = &mut encoding.bytes;
        if out.is_empty() {
            match &changes {
                Some(taken) => {
                    let (removals, removed) = taken.removed();
                    encoding.removals = removals;
                    put_count(out, removals);
                    encoding.count_at = out.len();
                    put_count(out, 0);
                    out.extend_from_slice(removed);
                }
                None => {
                    out.reserve(self.encoded_hint());
                    put_count(out, 0);
                }
            }
        }
        while rows > 0 && encoding.next < frozen.rows {
            let row = match &changes {
                Some(taken) => taken.changed_from(encoding.next).min(frozen.rows),
                None => encoding.next,
            };
            encoding.next = row + 1;
            rows -= 1;
            if row == frozen.rows {
                break;
            }
            let (key, now) = self.row(row);
            if let Some(value) = frozen.kept.get(&row).map_or(now, Option::as_ref) {
                put_bytes(out, key);
                put_value(out, value)?;
                encoding.keys += 1;
            }
        }
        frozen.encoded.store(encoding.next, Ordering::Relaxed);
        let count = to_u64(encoding.keys).to_le_bytes();
        out[encoding.count_at..encoding.count_at + count.len()].copy_from_slice(&count);
        Ok(encoding.next < frozen.rows)
    }
}
