//! How durable a single append has to be before it returns.

use std::io::IoSlice;

use super::staging::{Mark, Want};
use super::wal::Wal;
use crate::error::Result;
use crate::ids::{Lsn, StreamId};

/// What a record survives when its append has returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Everything: it and all before it are on stable storage.
    #[default]
    Disk,
    /// A kill of the process, but not a power cut or a crash of the machine: the kernel has it and
    /// all before it. It becomes durable with the next append at [`Disk`](Durability::Disk), the
    /// next [`sync`](Wal::sync), or [`close`](Wal::close), and is shown to readers then, not
    /// before. After a power cut its LSN may be given to another record (LOG.md L13).
    Buffered,
}

/// How [`Wal::append_with`] appends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendOptions {
    /// The stream. Default [`StreamId::DEFAULT`].
    pub stream: StreamId,
    /// What the record survives when the call returns. Default [`Durability::Disk`].
    pub durability: Durability,
}

impl Wal {
    /// Appends a record to a stream, with the durability it needs. Whatever that is, it keeps its
    /// place in the one order of all records: what stands before a durable record is durable.
    ///
    /// What a crash leaves is said at [`Durability`]. When this fails as `Poisoned`, the record is
    /// indeterminate at either durability; on a full disk nothing was appended.
    ///
    /// # Errors
    /// As [`append`](Wal::append).
    ///
    /// ```
    /// use sawmill::{AppendOptions, Durability, StreamId};
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// let cheap = AppendOptions { stream: StreamId::new(3), durability: Durability::Buffered };
    /// let metric = wal.append_with(b"42", cheap)?;
    /// assert!(wal.written_lsn() >= metric);
    /// let order = wal.append(b"an order")?; // makes what stands before it durable as well
    /// assert!(metric < order && wal.durable_lsn() >= order);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_with(&self, payload: &[u8], options: AppendOptions) -> Result<Lsn> {
        let until = match options.durability {
            Durability::Disk => Mark::Durable,
            Durability::Buffered => Mark::Written,
        };
        let want = Want::user(options.stream, until);
        self.timed(|core| Ok(core.append(want, &[payload])?.first()))
    }

    /// Appends one record whose payload is the concatenation of `parts`, for callers that hold it
    /// in pieces. Durable on return, as [`append`](Wal::append), and whole or not there at all
    /// after a crash. Several parts are put together in memory first.
    ///
    /// # Errors
    /// As [`append`](Wal::append).
    ///
    /// ```
    /// use std::io::IoSlice;
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// let lsn = wal.append_vectored(&[IoSlice::new(b"head"), IoSlice::new(b"body")])?;
    /// assert_eq!(wal.get(lsn)?.map(|record| record.payload), Some(b"headbody".to_vec()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_vectored(&self, parts: &[IoSlice<'_>]) -> Result<Lsn> {
        if let [part] = parts {
            return self.append(part);
        }
        let bytes = parts.iter().map(|part| part.len()).sum();
        // Before anything is allocated: parts may name the same bytes many times.
        self.core().check_record(bytes)?;
        let mut payload = Vec::with_capacity(bytes);
        parts.iter().for_each(|part| payload.extend_from_slice(part));
        self.append(&payload)
    }
}
