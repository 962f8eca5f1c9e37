//! The records of an output in a log: one byte says which, then what `docs/format.md` says.

use serde::{Deserialize, Serialize};

use crate::checksum::{Xxh3, xxh3};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BatchId, Epoch, Lsn};
use crate::sink::SinkIdentity;
use crate::versioned;

const ROW: u8 = 1;
const VERSION: u8 = 1;
const NOTE: u8 = 2;
/// The row's kind and its transaction.
pub(super) const ROW_HEADER: usize = 9;

/// Which rows belong together: the same for no two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TransactionId(u64);

impl TransactionId {
    /// Attempts of a batch rise within an epoch, epochs rise within an output.
    pub(super) fn new(output: &str, epoch: Epoch, batch: BatchId, attempt: u32) -> TransactionId {
        let numbers = [epoch.get(), batch.get(), u64::from(attempt)];
        let numbers = numbers.map(u64::to_le_bytes).concat();
        TransactionId(xxh3(&[output.as_bytes(), &numbers].concat()))
    }
}

/// What the sink says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Note {
    /// A writer of this epoch goes on with the output.
    Opened { output: String, epoch: Epoch },
    /// All rows of a transaction are before this, and count.
    Committed(Commit),
}

/// What is committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Commit {
    pub(super) output: String,
    pub(super) epoch: Epoch,
    pub(super) batch: BatchId,
    pub(super) transaction: TransactionId,
    /// Where its rows begin; `None`: they are the records right before this one.
    pub(super) first: Option<Lsn>,
    pub(super) rows: u64,
    /// Of the rows, in order.
    pub(super) digest: u64,
}

/// A record of an output.
#[derive(Debug)]
pub(super) enum Found<'a> {
    Row(TransactionId, &'a [u8]),
    Note(Note),
}

pub(super) fn put_row(out: &mut Vec<u8>, transaction: TransactionId, row: &[u8]) {
    out.push(ROW);
    out.extend_from_slice(&transaction.0.to_le_bytes());
    out.extend_from_slice(row);
}

pub(super) fn put_note(out: &mut Vec<u8>, note: &Note) {
    out.push(NOTE);
    out.extend(versioned::encode(VERSION, note));
}

/// # Errors
/// `Corrupt` for what is no record of an output, `Unsupported` for a later version.
pub(super) fn decode(record: &[u8], lsn: Lsn) -> Result<Found<'_>> {
    match record.split_first_chunk::<ROW_HEADER>() {
        Some((&[ROW, a, b, c, d, e, f, g, h], row)) => {
            let transaction = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            Ok(Found::Row(TransactionId(transaction), row))
        }
        _ => match record.split_first() {
            Some((&NOTE, note)) => {
                let note = versioned::decode("note of a log output", VERSION, note);
                Ok(Found::Note(note.map_err(|error| error.for_lsns(lsn, lsn))?))
            }
            _ => {
                let text = "a record is of no sink: the stream has other records than its rows";
                Err(Error::new(ErrorKind::Corrupt, text).for_lsns(lsn, lsn))
            }
        },
    }
}

/// What the digest of rows takes of one.
pub(super) fn hash_of(row: &[u8]) -> u64 {
    xxh3(row)
}

/// Digest of rows, one after the other, of their hashes.
#[derive(Default)]
pub(super) struct RowDigest(Xxh3);

impl RowDigest {
    pub(super) fn add(&mut self, hash: u64) {
        self.0.update(&hash.to_le_bytes());
    }

    pub(super) fn get(&self) -> u64 {
        self.0.digest()
    }
}

/// The name under which an output's notes stand.
pub(super) fn name_of(identity: &SinkIdentity) -> String {
    identity.to_string()
}
