//! What is recorded of received records, and the records of a planned input.

use serde::{Deserialize, Serialize};

use super::records::Records;
use super::{Input, RecordPlace};
use crate::checksum::Xxh3;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::Lent;
use crate::ids::{Lsn, StreamId, to_u64, to_usize};
use crate::sync::OnceLock;
use crate::versioned;

const VERSION: u8 = 1;

/// Bytes of a partition, as a share of the limit and in absolute numbers: payloads.
const PARTITIONS_PER_LIMIT: u64 = 16;
const PARTITION_MIN: u64 = 4 << 10;
/// What comes of a partition should stay in the caches of one core, and partitions be many enough
/// that no core waits long for the last one.
const PARTITION_MAX: u64 = 1 << 20;

/// Bytes that a record counts besides its payload when inputs are cut, so that empty records, too,
/// fill a batch.
const RECORD_OVERHEAD: u64 = 16;

/// The first LSN that a source at this position has not planned.
pub(super) fn decode_position(position: Option<&[u8]>) -> Result<Lsn> {
    let decode = |bytes| versioned::decode("position of received records", VERSION, bytes);
    position.map_or(Ok(Lsn::FIRST), decode)
}

/// The position behind a record.
pub(super) fn position_behind(last: Lsn) -> Vec<u8> {
    position_at(last.next())
}

/// The position at a record that is not planned yet.
pub(super) fn position_at(next: Lsn) -> Vec<u8> {
    versioned::encode(VERSION, &next)
}

/// A planned input: the records of one stream in a range of LSNs, both ends included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlannedRecords {
    pub(super) stream: StreamId,
    pub(super) first: Lsn,
    pub(super) last: Lsn,
    /// How many of them are of the stream.
    pub(super) records: u64,
    /// The first LSN of each partition but the first one.
    pub(super) cuts: Vec<Lsn>,
}

/// What counts for cutting.
pub(super) fn weight(payload: &[u8]) -> u64 {
    to_u64(payload.len()) + RECORD_OVERHEAD
}

/// How much goes into a partition, in terms of [`weight`]. From the limit alone (SOURCE-1).
fn partition_weight(limit: u64) -> u64 {
    (limit / PARTITIONS_PER_LIMIT).clamp(PARTITION_MIN, PARTITION_MAX)
}

impl PlannedRecords {
    /// The plan of all of these records; `None` if there are none.
    pub(super) fn of(stream: StreamId, records: &Records, limit: u64) -> Option<PlannedRecords> {
        let (first, last) = (records.first()?, records.last()?);
        let (mut cuts, mut filled) = (Vec::new(), 0);
        for (lsn, payload) in records.range(0, records.len()) {
            if filled >= partition_weight(limit) {
                cuts.push(lsn);
                filled = 0;
            }
            filled += weight(payload);
        }
        let records = to_u64(records.len());
        Some(PlannedRecords { stream, first, last, records, cuts })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        versioned::encode(VERSION, self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<PlannedRecords> {
        let planned: PlannedRecords =
            versioned::decode("input of received records", VERSION, bytes)?;
        let ends = [planned.first].into_iter().chain(planned.cuts.iter().copied());
        let rising = ends.clone().zip(ends.skip(1)).all(|(one, next)| one < next);
        let within = planned.cuts.last().is_none_or(|cut| *cut <= planned.last);
        if planned.first <= planned.last && rising && within {
            return Ok(planned);
        }
        let text = "the recorded input of received records contradicts itself";
        Err(Error::new(ErrorKind::Corrupt, text))
    }

    /// The error of a log that has not the records that were planned.
    fn missing(&self, found: usize) -> Error {
        let text = format!(
            "{found} of {} records that were planned are in the log: the log is not the one they \
             were planned from, or was truncated too far",
            self.records
        );
        Error::new(ErrorKind::Corrupt, text).for_lsns(self.first, self.last)
    }
}

/// What was read: how many records, and XXH3 of the digests of all partitions. That of a partition
/// is XXH3 of its payloads, one after the other, then their lengths.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RecordsDigest {
    records: u64,
    xxh3: u64,
}

/// An opened input of received records.
#[derive(Debug)]
pub(super) struct ReceivedInput {
    planned: PlannedRecords,
    records: Lent<Records>,
    /// Of each partition: its digest, since its records were first passed on.
    digests: Vec<OnceLock<u64>>,
}

impl ReceivedInput {
    /// The input with its records, which must be all that were planned.
    pub(super) fn new(planned: PlannedRecords, records: Lent<Records>) -> Result<ReceivedInput> {
        let whole = to_u64(records.len()) == planned.records
            && records.first().is_none_or(|first| first >= planned.first)
            && records.last().is_none_or(|last| last <= planned.last);
        if whole {
            let digests = (0..=planned.cuts.len()).map(|_| OnceLock::new()).collect();
            Ok(ReceivedInput { planned, records, digests })
        } else {
            Err(planned.missing(records.len()))
        }
    }

    /// The first LSN of a partition, and that behind it.
    fn lsns(&self, partition: u32) -> (Lsn, Lsn) {
        let cuts = &self.planned.cuts;
        let index = to_usize(partition.into());
        let behind = self.planned.last.next();
        let first = match index.checked_sub(1) {
            None => self.planned.first,
            Some(before) => cuts.get(before).copied().unwrap_or(behind),
        };
        (first, cuts.get(index).copied().unwrap_or(behind))
    }

    /// The records of a partition, by index.
    fn range(&self, partition: u32) -> (usize, usize) {
        let (first, behind) = self.lsns(partition);
        (self.records.index_of(first), self.records.index_of(behind))
    }

    /// The digest of a partition: computed where its records are passed on, by whichever thread
    /// does that, and once.
    fn partition_digest(&self, partition: u32) -> u64 {
        let digest = || {
            let (from, to) = self.range(partition);
            let mut xxh3 = Xxh3::new();
            xxh3.update(self.records.payloads(from, to));
            for (_, payload) in self.records.range(from, to) {
                xxh3.update(&to_u64(payload.len()).to_le_bytes());
            }
            xxh3.digest()
        };
        let known = self.digests.get(to_usize(partition.into()));
        known.map_or_else(digest, |known| *known.get_or_init(digest))
    }
}

impl Input for ReceivedInput {
    fn partitions(&self) -> u32 {
        u32::try_from(self.planned.cuts.len() + 1).unwrap_or(u32::MAX)
    }

    fn rows(&self, partition: u32, out: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.partition_digest(partition);
        let (from, to) = self.range(partition);
        self.records.range(from, to).for_each(|(_, payload)| out(payload));
        Ok(())
    }

    fn digest(&self) -> Result<Vec<u8>> {
        let mut xxh3 = Xxh3::new();
        for partition in 0..self.partitions() {
            xxh3.update(&self.partition_digest(partition).to_le_bytes());
        }
        let digest = RecordsDigest { records: self.planned.records, xxh3: xxh3.digest() };
        Ok(versioned::encode(VERSION, &digest))
    }

    fn describe(&self, partition: u32) -> String {
        let (first, behind) = self.lsns(partition);
        format!("records {first}..{behind} of stream {}", self.planned.stream.get())
    }

    fn locate(&self, partition: u32, row: u64) -> Result<Option<(RecordPlace, Vec<u8>)>> {
        let (from, to) = self.range(partition);
        let found = self.records.range(from, to).nth(to_usize(row));
        Ok(found.map(|(lsn, payload)| (RecordPlace::Record { lsn }, payload.to_vec())))
    }
}

/// Compares two digests of an input.
pub(super) fn compare(planned: &PlannedRecords, recorded: &[u8], actual: &[u8]) -> Result<()> {
    let decode =
        |bytes| versioned::decode::<RecordsDigest>("digest of received records", VERSION, bytes);
    if decode(recorded)? == decode(actual)? {
        return Ok(());
    }
    let text = "records of the log are not what they were when their batch completed";
    Err(Error::new(ErrorKind::SourceChanged, text).for_lsns(planned.first, planned.last))
}
