//! From a directory to a log that can be written: the only code that cuts a log (LOG.md L14 to
//! L16). The decisions are a table: `docs/recovery.md`.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ids::{Epoch, LogId, Lsn, Position};
use crate::storage::Lock;
use crate::sync::Arc;
use crate::wal::index::SegmentEntry;
use crate::wal::log_file::LogFile;
use crate::wal::segment::Segment;

/// What recovery must know.
#[derive(Clone, Debug)]
pub(crate) struct RecoverOptions {
    /// Bytes of each segment prepared from now on; also of a new log's.
    pub(crate) segment_size: u64,
    /// How long to wait for another writer to go.
    pub(crate) lock_wait: Duration,
    /// Who opens: the text of `LOCK`.
    pub(crate) holder: String,
}

/// Where the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Where the next frame goes, if it fits the segment.
    pub(crate) position: Position,
    /// Header CRC of the last frame.
    pub(crate) chain: u32,
    /// The next record's.
    pub(crate) next_lsn: Lsn,
    /// The last frame's; the next one's is not below.
    pub(crate) seal_time_ns: u64,
}

/// A log that is open for writing. Its barrier is durable, as is everything before it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) log: LogId,
    pub(crate) epoch: Epoch,
    pub(crate) nonce: u64,
    /// The first LSN of the log.
    pub(crate) start: Lsn,
    pub(crate) tail: Tail,
    /// From the start to the active one, which is the last.
    pub(crate) segments: Vec<SegmentEntry>,
    /// Prepared segments behind the active one, in the order of their numbers.
    pub(crate) spares: VecDeque<Arc<Segment>>,
    pub(crate) log_file: LogFile,
    pub(crate) lock: Box<dyn Lock>,
    pub(crate) report: RecoveryReport,
}

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecoveryReport {
    /// Whether the log was created by this opening.
    pub(crate) created: bool,
    /// Where the log was cut, if there was something behind.
    pub(crate) cut: Option<Position>,
    /// Whole frame headers behind the cut, which nothing attested.
    pub(crate) dropped_frames: u64,
    /// Bytes read from the device.
    pub(crate) bytes_read: u64,
}

/// Opens the log.
pub(crate) fn recover(
    _storage: &dyn crate::storage::Storage,
    _directory: &Arc<dyn crate::storage::Directory>,
    _clock: &dyn crate::clock::Clock,
    _options: &RecoverOptions,
    _channel: &mut dyn crate::storage::Channel,
) -> crate::error::Result<Opened> {
    use crate::error::{Error, ErrorKind};
    Err(Error::new(ErrorKind::Unsupported, "recovery is not built yet"))
}
