//! What the file sink must know to go on (ENGINE.md E19): part of every completed batch.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::BatchId;
use crate::versioned;

const VERSION: u8 = 2;

/// A file with output of completed batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileMark {
    /// In its name; of a compacted file, that of the first file it replaced.
    pub(super) number: u64,
    /// The number of the last file it replaced; its own, if it replaced none.
    pub(super) through: u64,
    /// Bytes that count.
    pub(super) length: u64,
    /// CRC32C of them.
    pub(super) crc32c: u32,
    /// Rows among them.
    pub(super) rows: u64,
    /// Time of the batch that began it.
    pub(super) begun_ns: u64,
    /// The first batch that has bytes in it.
    pub(super) first: BatchId,
    /// The last one.
    pub(super) last: BatchId,
}

impl FileMark {
    pub(super) fn is_compacted(&self) -> bool {
        self.through > self.number
    }
}

/// Where the sink stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The last batch published.
    pub(super) last: BatchId,
    /// The file that the next bytes go to, if it was begun.
    pub(super) open: Option<FileMark>,
    /// The last [`REMEMBERED`] files before it, in order. Those before these count, too, and are
    /// not looked at any more: every completion in the log carries this list.
    pub(super) finished: Vec<FileMark>,
}

/// Finished files whose lengths are known, and compared at a start.
const REMEMBERED: usize = 64;

impl Progress {
    pub(super) fn decode(bytes: &[u8]) -> Result<Progress> {
        versioned::decode("progress of a file sink", VERSION, bytes)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        versioned::encode(VERSION, self)
    }

    /// The files that are remembered, in order.
    pub(super) fn files(&self) -> impl Iterator<Item = &FileMark> {
        self.finished.iter().chain(&self.open)
    }

    /// Finishes the open file.
    pub(super) fn finish(&mut self) {
        self.finished.extend(self.open.take());
    }

    /// Forgets the oldest of too many files, and returns them.
    pub(super) fn forget(&mut self) -> Vec<FileMark> {
        let forgotten = self.finished.len().saturating_sub(REMEMBERED);
        self.finished.drain(..forgotten).collect()
    }

    /// Whether the file of these numbers has bytes that count.
    pub(super) fn counts(&self, (number, through): (u64, u64)) -> bool {
        match self.files().next() {
            Some(oldest) if number >= oldest.number => {
                self.files().any(|file| (file.number, file.through) == (number, through))
            }
            Some(_) => true,
            None => false,
        }
    }

    /// Whether a compaction has replaced the file of these numbers.
    pub(super) fn is_replaced(&self, (number, through): (u64, u64)) -> bool {
        let covers = |file: &&FileMark| file.number <= number && through <= file.through;
        self.finished
            .iter()
            .find(covers)
            .is_some_and(|file| (file.number, file.through) != (number, through))
    }

    /// The number of the next file to be begun.
    pub(super) fn next_number(&self) -> u64 {
        self.files().last().map_or(0, |file| file.through + 1)
    }
}
