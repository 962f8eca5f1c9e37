//! Named streams, multiplexed in one log.

use std::fmt;

use super::catalog::{NAME_MAX, Named, Saying, is_name};
use super::entry::Entry;
use super::pending::Pending;
use super::range::LsnRange;
use super::replay::Replay;
use super::tail::Tail;
use super::trying::Tried;
use super::wal::Wal;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, StreamId};
use crate::sync::Arc;

/// One of the log's named streams. A handle is cheap to clone and keeps the log open.
///
/// All streams of a log share its one order, its commits and its retention: records of several
/// streams become durable with one write. Each reader chooses what it is shown.
///
/// ```
/// use sawmill::{Entry, Lsn, Wal, WalOptions};
/// # let place = tempfile::tempdir()?;
/// # let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
/// let wal = Wal::open(place.path(), options)?;
/// let (orders, audit) = (wal.stream("orders")?, wal.stream("audit")?);
/// let first = orders.append(b"order 1")?; // durable when it returns
/// audit.append(b"somebody ordered")?;
/// let second = wal.append_record(&Entry::new(b"order 2").key(b"2").stream(&orders))?;
/// let mut replay = orders.replay()?;
/// let mut shown = Vec::new();
/// while let Some(record) = replay.next() {
///     shown.push(record?.lsn);
/// }
/// assert_eq!(shown, [first, second]);
/// assert_eq!(orders.tail(second)?.next().expect("a record")?.payload, b"order 2");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct WalStream {
    wal: Wal,
    name: Arc<str>,
    id: StreamId,
}

impl From<&WalStream> for StreamId {
    fn from(stream: &WalStream) -> StreamId {
        stream.id
    }
}

impl Wal {
    /// The stream of this name, 1 to 255 bytes. A new name becomes a new stream: it has its number
    /// durably when this returns, before any record, and for as long as the log exists, whatever
    /// is truncated.
    ///
    /// Named streams have the numbers from 0x8000 to 0xFFFD; those below are for callers that
    /// number streams themselves ([`append_to`](Wal::append_to)), and for an engine's.
    ///
    /// A crash during the call leaves the name known or not; on a poisoned log it fails.
    ///
    /// # Errors
    /// `Invalid` for an empty name; `TooLarge` for one over 255 bytes and for the 32,767th name;
    /// as [`append`](Wal::append) if the name is new.
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options.clone())?;
    /// let id = wal.stream("orders")?.id();
    /// drop(wal);
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// assert_eq!(wal.stream("orders")?.id(), id);
    /// assert!(wal.find_stream("no such").is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stream(&self, name: &str) -> Result<WalStream> {
        let core = self.core();
        core.check_fork()?;
        if !is_name(name) {
            let (kind, length) = match name.len() {
                0 => (ErrorKind::Invalid, "no byte".to_owned()),
                length => (ErrorKind::TooLarge, format!("{length} bytes")),
            };
            let message = format!("a stream's name has 1 to {NAME_MAX} bytes, not {length}");
            return Err(Error::new(kind, message).at_path(self.path()));
        }
        let (name, named) = loop {
            let mut names = core.names();
            if let Some(known) = names.number(name) {
                break known;
            }
            let Some(id) = names.fresh() else {
                let message = "32766 named streams are the most that a log can have";
                return Err(Error::new(ErrorKind::TooLarge, message).at_path(self.path()));
            };
            match core.try_say(&Saying::Stream(id, name))? {
                Tried::Placed(lsns) => {
                    let added = names.add(name, id, lsns.first());
                    debug_assert!(added, "CATALOG-3: neither the name nor its number was known");
                }
                Tried::NoRoom(refused) => {
                    drop(names);
                    core.await_place(refused)?;
                }
            }
        };
        // Nobody uses the number before: it may be somebody else's after a crash.
        core.wait_durable(named.said)?;
        Ok(WalStream { wal: self.clone(), name, id: named.id })
    }

    /// The handle of a name, if that is durable.
    fn handle(&self, name: &Arc<str>, named: Named) -> Option<WalStream> {
        let durable = named.said <= self.durable_lsn();
        let (wal, name, id) = (self.clone(), Arc::clone(name), named.id);
        durable.then_some(WalStream { wal, name, id })
    }

    /// The stream of this name, if there is one.
    #[must_use]
    pub fn find_stream(&self, name: &str) -> Option<WalStream> {
        self.core().check_fork().ok()?;
        let (name, named) = self.core().names().number(name)?;
        self.handle(&name, named)
    }

    /// All named streams, in the order of their names.
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// wal.stream("orders")?;
    /// wal.stream("audit")?;
    /// let names: Vec<_> = wal.streams().iter().map(|stream| stream.name().to_owned()).collect();
    /// assert_eq!(names, ["audit", "orders"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn streams(&self) -> Vec<WalStream> {
        if self.core().check_fork().is_err() {
            return Vec::new();
        }
        let names = self.core().names();
        names.all().filter_map(|(name, named)| self.handle(name, named)).collect()
    }
}

impl WalStream {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number in the log, by which records name it.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// The log.
    #[must_use]
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// As [`Wal::append`], to this stream.
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn append(&self, payload: &[u8]) -> Result<Lsn> {
        self.wal.append_to(self.id, payload)
    }

    /// As [`Wal::append_batch`], to this stream.
    ///
    /// # Errors
    /// As [`Wal::append_batch`].
    pub fn append_batch(&self, payloads: &[impl AsRef<[u8]>]) -> Result<LsnRange> {
        self.wal.append_batch_to(self.id, payloads)
    }

    /// As [`Wal::submit`], to this stream.
    ///
    /// # Errors
    /// As [`Wal::submit`].
    pub fn submit(&self, payload: &[u8]) -> Result<Pending> {
        self.wal.submit_to(self.id, payload)
    }

    /// As [`Wal::try_submit`], to this stream.
    ///
    /// # Errors
    /// As [`Wal::try_submit`].
    pub fn try_submit(&self, payload: &[u8]) -> Result<Pending> {
        self.wal.try_submit_to(self.id, payload)
    }

    /// As [`Wal::append_record`], to this stream, whatever stream the entry names.
    ///
    /// # Errors
    /// As [`Wal::append_record`].
    pub fn append_record(&self, entry: &Entry<'_>) -> Result<Lsn> {
        self.wal.append_record(&entry.stream(self))
    }

    /// As [`Wal::submit_record`], to this stream, whatever stream the entry names.
    ///
    /// # Errors
    /// As [`Wal::submit_record`].
    pub fn submit_record(&self, entry: &Entry<'_>) -> Result<Pending> {
        self.wal.submit_record(&entry.stream(self))
    }

    /// As [`Wal::replay`], of this stream's records.
    ///
    /// # Errors
    /// As [`Wal::replay`].
    pub fn replay(&self) -> Result<Replay> {
        Ok(self.wal.replay()?.stream(self))
    }

    /// As [`Wal::tail`], of this stream's records.
    ///
    /// # Errors
    /// As [`Wal::tail`].
    pub fn tail(&self, from: Lsn) -> Result<Tail> {
        Ok(self.wal.tail(from)?.stream(self))
    }
}

impl fmt::Debug for WalStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WalStream({}, {})", self.name, self.id.get())
    }
}
