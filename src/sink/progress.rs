//! What the file sink must know to go on (ENGINE.md E19): part of every completed batch.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::BatchId;
use crate::versioned;

const VERSION: u8 = 1;

/// A file with output of completed batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileMark {
    /// In its name.
    pub(super) number: u64,
    /// Bytes that count.
    pub(super) length: u64,
    /// CRC32C of them.
    pub(super) crc32c: u32,
    /// The first batch that has bytes in it.
    pub(super) first: BatchId,
    /// The last one.
    pub(super) last: BatchId,
}

/// Where the sink stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The last batch published.
    pub(super) last: BatchId,
    /// The file that the next bytes go to, if it was begun.
    pub(super) open: Option<FileMark>,
    /// The files before it, in order.
    pub(super) finished: Vec<FileMark>,
}

impl Progress {
    pub(super) fn decode(bytes: &[u8]) -> Result<Progress> {
        versioned::decode("progress of a file sink", VERSION, bytes)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        versioned::encode(VERSION, self)
    }

    /// All files, in order.
    pub(super) fn files(&self) -> impl Iterator<Item = &FileMark> {
        self.finished.iter().chain(&self.open)
    }

    /// The number of the next file to be begun.
    pub(super) fn next_number(&self) -> u64 {
        self.files().last().map_or(0, |file| file.number + 1)
    }
}
