//! Looking at single records, and at how far the log has come.

use super::extension::ProducerStamp;
use super::replay::{Record, Replay};
use super::wal::Wal;
use crate::error::Result;
use crate::ids::{Lsn, StreamId};
use crate::sync::Arc;

/// A record that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OwnedRecord {
    /// Its place in the total order.
    pub lsn: Lsn,
    /// The stream it was appended to.
    pub stream: StreamId,
    /// The bytes that were appended.
    pub payload: Vec<u8>,
    /// Its [key](crate::Entry::key), if it has one.
    pub key: Option<Vec<u8>>,
    /// Its [timestamp](crate::Entry::timestamp), if it has one.
    pub timestamp: Option<i64>,
    /// Who sent it, if it was sent by a producer.
    pub producer: Option<ProducerStamp>,
}

/// How far a log has come, as one consistent view: `durable <= written <= appended`.
///
/// What a crash leaves: everything up to `durable` for sure. A kill of the process alone leaves
/// everything up to `written` as well. What is above may be there or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogMarks {
    /// The last record that, with all before it, is on stable storage.
    pub durable: Lsn,
    /// The last record of which, and of all before it, the kernel reported the write complete.
    pub written: Lsn,
    /// The last record that has its place in the log.
    pub appended: Lsn,
}

impl Record<'_> {
    pub(super) fn to_owned_record(self) -> OwnedRecord {
        let key = self.key().map(<[u8]>::to_vec);
        let (timestamp, producer) = (self.timestamp(), self.producer());
        let (lsn, stream, payload) = (self.lsn, self.stream, self.payload.to_vec());
        OwnedRecord { lsn, stream, payload, key, timestamp, producer }
    }
}

impl Wal {
    /// The record with this LSN; `None` if there is none to be shown: truncated, not durable yet
    /// (LOG.md L19), or one of the engine's own.
    ///
    /// Its frame is verified by checksum. The way to it is a walk over the headers of the frames
    /// of its segment: good for looking something up, slow for reading much; for that, take
    /// [`replay_from`](Wal::replay_from).
    ///
    /// What was returned once is returned after every crash and opening, until it is truncated
    /// (LOG.md L13). A full disk does not matter.
    ///
    /// # Errors
    /// `Corrupt` if the bytes on the way are damaged, `Unreadable`, `Io`; `Poisoned`, `Closed`,
    /// `Forked`.
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// let lsn = wal.append(b"found again")?;
    /// let record = wal.get(lsn)?.expect("it is durable");
    /// assert_eq!(record.payload, b"found again");
    /// let pending = wal.submit(b"on its way")?;
    /// assert!(wal.get(lsn.advance(7))?.is_none(), "no such record");
    /// # pending.wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn get(&self, lsn: Lsn) -> Result<Option<OwnedRecord>> {
        let core = self.core();
        core.check()?;
        if lsn < core.first_lsn() || lsn > core.progress.durable() {
            return Ok(None);
        }
        let (index, directory) = (Arc::clone(&core.index), Arc::clone(&core.directory));
        let mut replay = Replay::new(index, directory, core.log, lsn, lsn, false);
        let Some(record) = replay.next().transpose()? else { return Ok(None) };
        // A frame holds records behind it too, and the one asked for may be internal.
        Ok((record.lsn == lsn).then(|| record.to_owned_record()))
    }

    /// The last record that a reader of this log can see: the durable LSN. One below
    /// [`first_lsn`](Wal::first_lsn) if the log holds no record.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.durable_lsn()
    }

    /// How far the log has come: three marks of one moment, in their order. Never falls, also not
    /// when the log is poisoned, full or closed.
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// let lsn = wal.append(b"durable")?;
    /// wal.submit(b"maybe not yet")?;
    /// let marks = wal.marks();
    /// assert!(lsn <= marks.durable && marks.durable <= marks.written);
    /// assert!(marks.written <= marks.appended && marks.appended == lsn.next());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn marks(&self) -> LogMarks {
        let core = self.core();
        let progress = &core.progress;
        // Marks only rise, so reading them from the lowest up keeps their order.
        let durable = progress.durable();
        let written = progress.written();
        let appended = core.appended();
        debug_assert!(durable <= written && written <= appended, "WAL-1: marks out of order");
        LogMarks { durable, written, appended }
    }
}
