//! Where the records of an output are read: a log of this process, or of another one.

use crate::error::Result;
use crate::ids::{Lsn, StreamId};
use crate::wal::{ReaderTail, Record, Replay, Tail, Wal, WalReader};

/// Follows a stream of a log, and reads parts of it again.
pub(super) trait Follow: Send {
    /// The next record from `from` on, which is where the one before it ended.
    fn try_next(&mut self, from: Lsn) -> Result<Option<Record<'_>>>;

    /// The records from `from` on.
    fn again(&self, from: Lsn) -> Result<Replay>;
}

/// A log that this process has open: who keeps up reads no file.
pub(super) struct Own {
    pub(super) wal: Wal,
    pub(super) stream: StreamId,
    pub(super) tail: Option<Tail>,
}

impl Follow for Own {
    fn try_next(&mut self, from: Lsn) -> Result<Option<Record<'_>>> {
        let tail = match &mut self.tail {
            Some(tail) => tail,
            none => none.insert(self.wal.tail(from)?.stream(self.stream)),
        };
        tail.try_next().transpose()
    }

    fn again(&self, from: Lsn) -> Result<Replay> {
        self.wal.replay_from(from)
    }
}

/// A log that another process may write.
pub(super) struct Elsewhere {
    pub(super) reader: WalReader,
    pub(super) stream: StreamId,
    pub(super) tail: Option<ReaderTail>,
}

impl Follow for Elsewhere {
    fn try_next(&mut self, from: Lsn) -> Result<Option<Record<'_>>> {
        let tail = match &mut self.tail {
            Some(tail) => tail,
            none => none.insert(self.reader.tail(from).stream(self.stream)),
        };
        tail.try_next().transpose()
    }

    fn again(&self, from: Lsn) -> Result<Replay> {
        self.reader.replay_from(from)
    }
}
