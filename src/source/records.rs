//! Records in memory: payloads one after the other, in blocks.

use crate::exec::Reuse;
use crate::ids::{Lsn, to_u64};

/// Records of one stream, in LSN order, copied once out of the log.
#[derive(Debug, Default)]
pub(super) struct Records {
    payloads: Vec<u8>,
    /// Of each record: its LSN, and where its payload ends in `payloads`.
    marks: Vec<(Lsn, usize)>,
}

impl Reuse for Records {
    fn clear(&mut self) {
        self.payloads.clear();
        self.marks.clear();
    }

    fn memory(&self) -> usize {
        Reuse::memory(&self.payloads) + Reuse::memory(&self.marks)
    }

    fn filled(&self) -> usize {
        Reuse::filled(&self.payloads) + Reuse::filled(&self.marks)
    }
}

impl Records {
    pub(super) fn push(&mut self, lsn: Lsn, payload: &[u8]) {
        let last = self.marks.last().map(|(last, _)| *last);
        assert!(last < Some(lsn), "RECEIVED: record {lsn} behind {last:?}");
        self.payloads.extend_from_slice(payload);
        self.marks.push((lsn, self.payloads.len()));
    }

    /// Payload bytes.
    pub(super) fn bytes(&self) -> u64 {
        to_u64(self.payloads.len())
    }

    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    pub(super) fn first(&self) -> Option<Lsn> {
        self.marks.first().map(|(lsn, _)| *lsn)
    }

    pub(super) fn last(&self) -> Option<Lsn> {
        self.marks.last().map(|(lsn, _)| *lsn)
    }

    /// LSN and payload of the records from index `from` up to, not including, `to`.
    pub(super) fn range(&self, from: usize, to: usize) -> impl Iterator<Item = (Lsn, &[u8])> {
        let start = from.checked_sub(1).map_or(0, |before| self.marks[before].1);
        let ends = self.marks[from..to].iter();
        ends.scan(start, |start, &(lsn, end)| {
            let payload = &self.payloads[*start..end];
            *start = end;
            Some((lsn, payload))
        })
    }

    /// The payloads of the records from index `from` up to, not including, `to`, as one.
    pub(super) fn payloads(&self, from: usize, to: usize) -> &[u8] {
        let end = |records: usize| records.checked_sub(1).map_or(0, |last| self.marks[last].1);
        &self.payloads[end(from)..end(to)]
    }

    /// The index of the first record at or behind `lsn`.
    pub(super) fn index_of(&self, lsn: Lsn) -> usize {
        self.marks.partition_point(|(other, _)| *other < lsn)
    }
}
