//! The rows of a batch on their way into a log: one behind the other, not one by one.

use std::any::Any;

use super::format::RowDigest;

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

/// Rows of all partitions, and their digest, for which they are hashed once.
#[derive(Debug)]
pub(super) struct BatchRows {
    partitions: Vec<Packed>,
    pub(super) digest: u64,
}

impl BatchRows {
    pub(super) fn new(partitions: Vec<Packed>) -> BatchRows {
        let mut digest = RowDigest::default();
        partitions.iter().flat_map(Packed::iter).for_each(|row| digest.add(row));
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
        self.partitions.iter().flat_map(Packed::iter)
    }

    pub(super) fn count(&self) -> usize {
        self.partitions.iter().map(|rows| rows.ends.len()).sum()
    }

    /// Of all rows together.
    pub(super) fn bytes(&self) -> usize {
        self.partitions.iter().map(|rows| rows.bytes.len()).sum()
    }
}
