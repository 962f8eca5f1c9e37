//! The rows of a batch on their way into a log: one behind the other, not one by one.

use std::any::Any;

use super::format::{RowDigest, hash_of};
use crate::exec::{Lent, Reuse};

/// Pieces of bytes in one allocation: the rows of a partition, or records.
#[derive(Debug, Default)]
pub(super) struct Packed {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Packed {
    /// Adds what `put` appends.
    pub(super) fn push(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        put(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut from = 0;
        self.ends.iter().map(move |end| &self.bytes[std::mem::replace(&mut from, *end)..*end])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// The rows of a partition, each of them hashed once: where it is computed, not where the batch
/// is put together.
#[derive(Debug, Default)]
pub(super) struct Partition {
    rows: Packed,
    hashes: Vec<u64>,
}

impl Partition {
    /// Adds the row that `put` appends.
    pub(super) fn push<E>(
        &mut self,
        put: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let from = self.rows.bytes();
        let mut outcome = Ok(());
        self.rows.push(|out| outcome = put(out));
        self.hashes.push(hash_of(&self.rows.bytes[from..]));
        outcome
    }
}

impl Reuse for Partition {
    fn clear(&mut self) {
        self.rows.clear();
        self.hashes.clear();
    }

    fn memory(&self) -> usize {
        self.rows.bytes.memory() + self.rows.ends.memory() + self.hashes.memory()
    }

    fn filled(&self) -> usize {
        self.rows.bytes.filled() + self.rows.ends.filled() + self.hashes.filled()
    }
}

/// Rows of all partitions, and their digest.
pub(super) struct BatchRows {
    partitions: Vec<Lent<Partition>>,
    pub(super) digest: u64,
}

impl BatchRows {
    pub(super) fn new(partitions: Vec<Lent<Partition>>) -> BatchRows {
        let mut digest = RowDigest::default();
        partitions.iter().flat_map(|part| &part.hashes).for_each(|hash| digest.add(*hash));
        BatchRows { partitions, digest: digest.get() }
    }

    /// What the sink computed.
    pub(super) fn of(output: &(dyn Any + Send + Sync)) -> &BatchRows {
        let Some(rows) = output.downcast_ref() else {
            unreachable!("SINK: a sink is given what it computed")
        };
        rows
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.partitions.iter().flat_map(|part| part.rows.iter())
    }

    pub(super) fn count(&self) -> usize {
        self.partitions.iter().map(|part| part.rows.ends.len()).sum()
    }

    /// Of all rows together.
    pub(super) fn bytes(&self) -> usize {
        self.partitions.iter().map(|part| part.rows.bytes()).sum()
    }
}
