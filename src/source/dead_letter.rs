//! Records that were left out because user code failed at them.

use serde::{Deserialize, Serialize};

use crate::ids::Lsn;

/// Where a record came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RecordPlace {
    /// A record of the log.
    Record {
        /// Its LSN.
        lsn: Lsn,
    },
    /// Bytes of a file.
    Range {
        /// The file.
        path: String,
        /// The first byte.
        start: u64,
        /// Behind the last byte, its delimiter not counted.
        end: u64,
    },
}

/// A record that a batch left out: see
/// [`JobBuilder::dead_letters`](crate::JobBuilder::dead_letters).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The source that read it.
    pub source: String,
    /// Where it is.
    pub place: RecordPlace,
    /// The record.
    pub payload: Vec<u8>,
    /// The operator that failed.
    pub operator: String,
    /// How.
    pub error: String,
}
