//! How a record was made durable, for who asks for it when appending.
//!
//! RECEIPT-1: who asks is noted under the mutex under which its record gets its place, so before
//! the record's frame can be taken out; what the frame's landing says is kept for exactly those.

use std::collections::BTreeMap;
use std::fmt;

use super::core::{Core, Panics};
use super::entry::Entry;
use super::frame::FrameHeader;
use super::pending::Pending;
use super::range::LsnRange;
use super::staging::{Mark, NoRoom, Want};
use super::wal::Wal;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, Position};
use crate::storage::Backend;
use crate::sync::{Arc, lock};

/// How a record came to where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Safeguard {
    /// Its frame was written durable, in one write.
    DurableWrite,
    /// Its frame was written plain, and a sync has made it durable since.
    Sync,
    /// The kernel has it: [`Durability::Buffered`](crate::Durability::Buffered) asks for no more.
    Kernel,
}

/// How one record was made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The record.
    pub lsn: Lsn,
    /// Where its frame begins.
    pub position: Position,
    /// How bytes reach the medium: by whom, and whether past the page cache.
    pub backend: Backend,
    /// What its durability rests on.
    pub safeguard: Safeguard,
    /// How many records its frame has: those that shared its write.
    pub group: u64,
    /// Bytes of its frame on the medium, padding included.
    pub frame_bytes: u64,
}

/// A frame that has landed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    position: Position,
    records: u64,
    bytes: u64,
    durable: bool,
}

impl Facts {
    pub(super) fn of(header: &FrameHeader, durable: bool) -> Facts {
        let (position, bytes) = (header.position, header.length_on_disk());
        Facts { position, records: u64::from(header.records), bytes, durable }
    }
}

/// The records whose appenders want to know, and what is known of them; under the log's mutex.
#[derive(Debug, Default)]
pub(crate) struct Receipts(BTreeMap<Lsn, Option<Facts>>);

impl Receipts {
    /// A frame with these records has landed.
    pub(super) fn landed(&mut self, last: Lsn, facts: Facts) {
        if self.0.is_empty() || facts.records == 0 {
            return;
        }
        let first = Lsn::new(last.get() + 1 - facts.records);
        self.0.range_mut(first..=last).for_each(|(_, known)| *known = Some(facts));
    }
}

impl Core {
    /// As [`Core::append`], of one record whose receipt will be asked for.
    fn append_noted(&self, want: Want, body: &[u8]) -> Result<Lsn> {
        self.check_fork()?;
        let bytes = self.measure(&[body])?;
        let _panics = Panics::poison(self);
        let mut open = lock(&self.open);
        let reservation = loop {
            open.check()?;
            match open.staging.place(&self.stage, want, 1, bytes) {
                Ok(reservation) => break reservation,
                Err(NoRoom::Memory) => open = self.await_memory(open),
                Err(NoRoom::Segment(need)) => open = self.await_segment(open, need)?,
            }
        };
        let lsn = reservation.lsns().first();
        open.receipts.0.insert(lsn, None);
        let placed = self.placed(open, want, reservation, &[body], bytes);
        if placed.is_err() {
            self.forget_receipt(lsn);
        }
        placed.as_ref().map(LsnRange::first).map_err(Clone::clone)
    }

    fn take_facts(&self, lsn: Lsn) -> Option<Facts> {
        lock(&self.open).receipts.0.remove(&lsn).flatten()
    }

    /// Nobody asks for this record's receipt any more.
    fn forget_receipt(&self, lsn: Lsn) {
        lock(&self.open).receipts.0.remove(&lsn);
    }

    /// The receipt of a record that was noted and has come as far as its appender wanted.
    fn receipt(&self, lsn: Lsn) -> Receipt {
        let Some(facts) = self.take_facts(lsn) else {
            unreachable!("RECEIPT-1: a noted record has landed, and its frame is not known")
        };
        let Facts { position, records, bytes, durable } = facts;
        let safeguard = match durable {
            true => Safeguard::DurableWrite,
            false if self.progress.durable() >= lsn => Safeguard::Sync,
            false => Safeguard::Kernel,
        };
        let (backend, group) = (self.directory.backend(), records);
        Receipt { lsn, position, backend, safeguard, group, frame_bytes: bytes }
    }
}

impl Wal {
    /// As [`append_record`](Wal::append_record), and says how the record was made durable: what an
    /// audit keeps, and what shows whether group commit works. It costs the log's mutex once more.
    ///
    /// A crash leaves the record whole or not at all, as any other; receipts are not kept.
    ///
    /// # Errors
    /// As [`append`](Wal::append). `Invalid` for what a [producer](Entry::producer) sends: it may
    /// have been stored long ago.
    ///
    /// ```
    /// use sawmill::{Durability, Entry, Safeguard, Wal, WalOptions};
    /// # let place = tempfile::tempdir()?;
    /// # let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
    /// let wal = Wal::open(place.path(), options)?;
    /// let receipt = wal.append_for_receipt(&Entry::new(b"a contract"))?;
    /// assert_eq!((receipt.group, receipt.frame_bytes), (1, 4096));
    /// assert_eq!((receipt.safeguard, receipt.backend), (Safeguard::DurableWrite, wal.backend()));
    /// let note = Entry::new(b"a note").durability(Durability::Buffered);
    /// assert_eq!(wal.append_for_receipt(&note)?.safeguard, Safeguard::Kernel);
    /// let pending = wal.submit_for_receipt(&Entry::new(b"one of many"))?;
    /// assert!(pending.wait()?.lsn > receipt.lsn);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_for_receipt(&self, entry: &Entry<'_>) -> Result<Receipt> {
        let (want, body) = self.unproduced(entry)?;
        self.timed(|core| {
            let lsn = core.append_noted(want, &body)?;
            Ok(core.receipt(lsn))
        })
    }

    /// As [`append_for_receipt`](Wal::append_for_receipt), without waiting yet, as
    /// [`submit`](Wal::submit).
    ///
    /// # Errors
    /// As [`append_for_receipt`](Wal::append_for_receipt).
    pub fn submit_for_receipt(&self, entry: &Entry<'_>) -> Result<PendingReceipt> {
        let (want, body) = self.unproduced(entry)?;
        let core = self.core();
        let lsn = core.append_noted(Want { until: Mark::Appended, ..want }, &body)?;
        let pending = Pending::new(self.share(), lsn);
        Ok(PendingReceipt { core: Arc::clone(core), pending })
    }

    fn unproduced<'a>(&self, entry: &Entry<'a>) -> Result<(Want, std::borrow::Cow<'a, [u8]>)> {
        if entry.stamp().is_some() {
            let message = "what a producer sends may have been stored long ago: it has no receipt";
            return Err(Error::new(ErrorKind::Invalid, message).at_path(self.path()));
        }
        self.check_entry(entry)?;
        Ok(entry.encoded())
    }
}

/// A submitted record whose receipt will be asked for. Dropping it cancels nothing.
pub struct PendingReceipt {
    core: Arc<Core>,
    pending: Pending,
}

impl PendingReceipt {
    /// The record's LSN. A crash may still take it away, and give it to another record.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.pending.lsn()
    }

    /// Waits until the record and every one before it is on stable storage.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn wait(self) -> Result<Receipt> {
        let lsn = self.pending.wait()?;
        Ok(self.core.receipt(lsn))
    }
}

impl Drop for PendingReceipt {
    fn drop(&mut self) {
        // In a forked child the parent's other threads may hold the lock for ever.
        if self.core.check_fork().is_ok() {
            self.core.forget_receipt(self.lsn());
        }
    }
}

impl fmt::Debug for PendingReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PendingReceipt({})", self.lsn())
    }
}
