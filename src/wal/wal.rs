//! The log's public handle.

use std::fmt;
use std::path::Path;

use super::core::Core;
use super::open;
use super::options::WalOptions;
use super::pending::Pending;
use super::range::LsnRange;
use super::replay::Replay;
use super::share::Share;
use super::staging::{Mark, Want};
use crate::clock::{Clock, SystemClock};
use crate::error::Result;
use crate::ids::{LogId, Lsn, StreamId};
use crate::storage::{Backend, Storage, SystemStorage};
use crate::sync::Arc;

/// A durable, segmented, append-only log of records: a directory of its own, one writer.
///
/// A handle is cheap to clone and can be used from any number of threads. What a call promises:
///
/// | Call | When it returns `Ok` |
/// |---|---|
/// | [`append`](Wal::append), [`append_batch`] | it and all before survive kill and power cut |
/// | [`submit`](Wal::submit) | it has its place in the order, in memory: a kill may lose it |
/// | [`sync`](Wal::sync), [`wait_durable`], [`Pending::wait`] | what was before survives them |
/// | [`close`](Wal::close) | as `sync`, and the next opening sees if something is missing |
///
/// [`append_batch`]: Wal::append_batch
/// [`wait_durable`]: Wal::wait_durable
///
/// An append that fails with [`Poisoned`](crate::ErrorKind::Poisoned) is *indeterminate*: after
/// opening the log again its record is there whole, or not at all. One that fails with any other
/// kind was not appended.
///
/// When the last clone is dropped without [`close`](Wal::close), what was submitted is still
/// written and made durable; errors have nobody to go to then.
///
/// ```
/// use sawmill::{Wal, WalOptions};
/// # let place = tempfile::tempdir()?;
/// # let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
/// let wal = Wal::open(place.path(), options)?;
/// let lsn = wal.append(b"one line of log")?; // durable when it returns
/// wal.submit(b"nobody waits for this one")?;
/// wal.sync()?;
/// let mut replay = wal.replay()?;
/// let record = replay.next().expect("two records")?;
/// assert_eq!((record.lsn, record.payload), (lsn, b"one line of log".as_slice()));
/// wal.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Wal {
    handle: Arc<open::Handle>,
}

impl Wal {
    /// Opens the log in `path` for writing, and makes the directory and the log if there is none.
    /// Everything that an earlier incarnation acknowledged is there.
    ///
    /// # Errors
    /// `Invalid` options; `Locked` if another process or handle writes the log and does not go
    /// within [`WalOptions::lock_wait`]; `Corrupt` or `Unreadable` if acknowledged bytes are
    /// damaged (nothing is changed); `Unsupported` for a newer format; `DiskFull` and `Io`.
    pub fn open(path: impl AsRef<Path>, options: WalOptions) -> Result<Wal> {
        let storage = Arc::new(SystemStorage::new(options.backend)?);
        Wal::open_with(storage, Arc::new(SystemClock), path, options)
    }

    /// As [`open`](Wal::open), on another storage and clock.
    ///
    /// # Errors
    /// As [`open`](Wal::open).
    #[doc(hidden)]
    pub fn open_with(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        path: impl AsRef<Path>,
        options: WalOptions,
    ) -> Result<Wal> {
        Ok(Wal { handle: Arc::new(open::open(&storage, clock, path.as_ref(), &options)?) })
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        self.handle.core()
    }

    /// What a pending submission keeps.
    #[inline]
    pub(super) fn share(&self) -> Arc<Share> {
        self.handle.share()
    }

    /// Runs a blocking append and counts how long its acknowledgement took.
    pub(super) fn timed<T>(&self, append: impl FnOnce(&Core) -> Result<T>) -> Result<T> {
        let core = self.core();
        let begun = core.stats.now();
        let outcome = append(core)?;
        core.stats.appended(begun);
        Ok(outcome)
    }

    /// Appends a record to the default stream and returns when it, and every record before it, is
    /// on stable storage. An empty payload is a record too.
    ///
    /// # Errors
    /// `TooLarge` and `DiskFull`: nothing was appended. `Poisoned`: indeterminate. `Closed`,
    /// `Forked`.
    pub fn append(&self, payload: &[u8]) -> Result<Lsn> {
        self.append_to(StreamId::DEFAULT, payload)
    }

    /// As [`append`](Wal::append), to a stream.
    ///
    /// # Errors
    /// As [`append`](Wal::append).
    pub fn append_to(&self, stream: StreamId, payload: &[u8]) -> Result<Lsn> {
        let want = Want::user(stream, Mark::Durable);
        self.timed(|core| Ok(core.append(want, &[payload])?.first()))
    }

    /// Appends records as one: after a crash all of them are there, or none. Returns when they are
    /// on stable storage. An empty batch appends nothing.
    ///
    /// # Errors
    /// As [`append`](Wal::append). `TooLarge` if payloads and 8 bytes for each do not fit half a
    /// segment.
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// let lsns = wal.append_batch(&["debit", "credit"])?;
    /// assert_eq!(wal.durable_lsn(), lsns.last());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_batch(&self, payloads: &[impl AsRef<[u8]>]) -> Result<LsnRange> {
        self.append_batch_to(StreamId::DEFAULT, payloads)
    }

    /// As [`append_batch`](Wal::append_batch), to a stream.
    ///
    /// # Errors
    /// As [`append_batch`](Wal::append_batch).
    pub fn append_batch_to(
        &self,
        stream: StreamId,
        payloads: &[impl AsRef<[u8]>],
    ) -> Result<LsnRange> {
        // User code runs here, before anything is reserved (LOG.md L6).
        let payloads: Vec<&[u8]> = payloads.iter().map(AsRef::as_ref).collect();
        let want = Want::user(stream, Mark::Durable);
        self.timed(|core| core.append(want, &payloads))
    }

    /// Appends a record to the default stream without waiting: its place in the order is fixed,
    /// its bytes are in memory. Waits only while the log holds as many bytes as
    /// [`WalOptions::memory`] allows. The record is written soon, and durable when somebody waits
    /// for it, for a later one, or for [`sync`](Wal::sync): until then a tail does not show it.
    ///
    /// # Errors
    /// As [`append`](Wal::append).
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// let first = wal.submit(b"first")?;
    /// let second = wal.submit(b"second")?;
    /// assert_eq!(second.wait()?, first.lsn().next()); // now both are durable
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit(&self, payload: &[u8]) -> Result<Pending> {
        self.submit_to(StreamId::DEFAULT, payload)
    }

    /// As [`submit`](Wal::submit), to a stream.
    ///
    /// # Errors
    /// As [`append`](Wal::append).
    pub fn submit_to(&self, stream: StreamId, payload: &[u8]) -> Result<Pending> {
        let want = Want::user(stream, Mark::Appended);
        let lsns = self.core().append(want, &[payload])?;
        Ok(Pending::new(self.share(), lsns.first()))
    }

    /// As [`submit_to`](Wal::submit_to), several records as one.
    pub(crate) fn submit_all_to(&self, stream: StreamId, payloads: &[&[u8]]) -> Result<LsnRange> {
        self.core().append(Want::user(stream, Mark::Appended), payloads)
    }

    /// As [`submit`](Wal::submit), in a frame of its own that is written durable: so that one
    /// thread can have several of them in flight.
    ///
    /// # Errors
    /// As [`append`](Wal::append).
    #[doc(hidden)]
    pub fn submit_alone(&self, payload: &[u8]) -> Result<Lsn> {
        self.core().submit_alone(payload)
    }

    /// Appends internal records as one atomic batch, durable on return. May use the segment that
    /// is kept in reserve when the disk is full (LOG.md L5). `replay` does not show them.
    pub(crate) fn append_internal(&self, stream: StreamId, payloads: &[&[u8]]) -> Result<LsnRange> {
        self.core().append(Want::internal(stream, Mark::Durable), payloads)
    }

    /// Gives an internal record its place, and leaves it there: who waits for it, which must be
    /// soon, writes it with all that was left before it, at once and durable. The committer would
    /// write it plain, and the wait would come to one operation of the device more.
    pub(crate) fn leave_internal(&self, stream: StreamId, payload: &[u8]) -> Result<Lsn> {
        Ok(self.core().append(Want::left(stream), &[payload])?.first())
    }

    /// Has what was left, up to `lsn`, made durable beside the caller.
    pub(crate) fn begin_durable(&self, lsn: Lsn) {
        self.core().begin_durable(lsn);
    }

    /// Waits until everything appended before this call is on stable storage; returns the durable
    /// LSN.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`, `Forked`.
    pub fn sync(&self) -> Result<Lsn> {
        self.core().check()?;
        self.core().wait_durable(self.core().appended())
    }

    /// Waits until `lsn` and everything before it is on stable storage; returns the durable LSN,
    /// which may be higher.
    ///
    /// # Errors
    /// `Invalid` if no record has this LSN yet; `Poisoned`, `Closed`, `Forked`.
    pub fn wait_durable(&self, lsn: Lsn) -> Result<Lsn> {
        self.core().wait_durable(lsn)
    }

    /// Reads the user's records in LSN order, from the first to the one that is durable when this
    /// is called.
    ///
    /// # Errors
    /// `Corrupt`, `Unreadable`, `Io`; `Poisoned`, `Closed`, `Forked`.
    pub fn replay(&self) -> Result<Replay> {
        self.core().replay(Lsn::ZERO, false)
    }

    /// As [`replay`](Wal::replay), from `lsn` on.
    ///
    /// # Errors
    /// As [`replay`](Wal::replay).
    pub fn replay_from(&self, lsn: Lsn) -> Result<Replay> {
        self.core().replay(lsn, false)
    }

    /// As [`replay_from`](Wal::replay_from), the engine's internal records included.
    ///
    /// # Errors
    /// As [`replay`](Wal::replay).
    #[doc(hidden)]
    pub fn replay_all_from(&self, lsn: Lsn) -> Result<Replay> {
        self.core().replay(lsn, true)
    }

    /// Removes whole segments of which every record is below `lsn`. Returns the log's new first
    /// LSN, at most `lsn`: records go by the segment. The new start is durable before anything is
    /// removed (LOG.md L17). Where the log has named streams or producers, what is known of them is
    /// said again first, in records of the log's own, which may use the segment that is kept in
    /// reserve.
    ///
    /// # Errors
    /// `Invalid` if `lsn` is above the durable LSN's successor; `DiskFull` if that reserve is not
    /// enough for what has to be said again; `Poisoned`, `Closed`, `Forked`, `Io`.
    pub fn truncate_before(&self, lsn: Lsn) -> Result<Lsn> {
        self.core().truncate_before(lsn)
    }

    /// The LSN at which the log starts: that of its oldest record, or of the next one if it has
    /// none.
    #[must_use]
    pub fn first_lsn(&self) -> Lsn {
        self.core().first_lsn()
    }

    /// The last record that, with all before it, is on stable storage.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.core().progress.durable()
    }

    /// The last record of which, and of all before it, the kernel reported the write complete.
    #[must_use]
    pub fn written_lsn(&self) -> Lsn {
        self.core().progress.written()
    }

    /// The last record that has its place in the log.
    #[must_use]
    pub fn appended_lsn(&self) -> Lsn {
        self.core().appended()
    }

    /// Bytes of all staging buffers.
    #[cfg(test)]
    pub(crate) fn staged_bytes(&self) -> usize {
        crate::sync::lock(&self.core().open).staging.allocated()
    }

    /// Leaves a waker with the open frame, and nobody who writes it.
    #[cfg(test)]
    pub(crate) fn leave_waker(&self, waker: &std::task::Waker) {
        crate::sync::lock(&self.core().open).staging.waiting_for_open().join_future(waker);
    }

    /// Reserves room for a record of `bytes` bytes in the open frame and gives it up before it is
    /// copied, as a panic there would. Whether there was room.
    #[cfg(any(test, shuttle))]
    #[doc(hidden)]
    pub fn give_up_reservation(&self, bytes: usize) -> bool {
        self.core().stage.reserve(1, super::record::RECORD_HEADER + bytes).is_some()
    }

    /// Raises the written mark above what will be written: a bug, for the test of panics.
    #[cfg(test)]
    pub(crate) fn break_marks(&self) {
        let progress = &self.core().progress;
        progress.set_appended(progress.appended().advance(5));
        progress.set_written(progress.appended());
    }

    /// The committer's state, for a failing test's message.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    #[must_use]
    pub fn dump(&self) -> String {
        self.core().dump()
    }

    /// How bytes reach the medium, as found when the log was opened.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.core().directory.backend()
    }

    /// The log's identity.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.core().log
    }

    /// The log's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.core().directory.path()
    }

    /// Makes everything durable, writes the closing frame, and gives the directory free. Other
    /// clones of the handle get [`Closed`](crate::ErrorKind::Closed) from then on; closing twice
    /// is no error.
    ///
    /// # Errors
    /// `Poisoned`, `Forked`, `Io`: what was acknowledged is safe all the same.
    pub fn close(self) -> Result<()> {
        self.handle.close()
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wal({}, durable {})", self.path().display(), self.durable_lsn())
    }
}
