//! One consumer for each segment, side by side.
//!
//! PAR-1: every record is shown to exactly one consumer, in LSN order within its segment.
//! PAR-2: who reads its segment to the end has also seen that the next one continues it.

use super::Replay;
use super::frames::Frames;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Mutex, lock, scoped};
use crate::wal::Wal;

impl Wal {
    /// Reads the user's records, those of each segment by a call of `consume`, on `threads`
    /// threads, the calling one included (0 counts as 1). Returns what the calls returned, oldest
    /// segment first. What is shown is what was durable when this is called.
    ///
    /// Within a segment records come in LSN order; segments are read side by side, in no order.
    /// Each [`Replay`] can be narrowed like any other. Threads end before this returns.
    ///
    /// # Errors
    /// That of the oldest segment of which the call failed; no further calls are made then. What
    /// [`Wal::replay`] fails with. `Io` if the system refuses a thread.
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// for _ in 0..40 {
    ///     wal.append(&[7; 10_000])?;
    /// }
    /// let counts = wal.par_replay(4, |mut replay| {
    ///     let mut count = 0;
    ///     while let Some(record) = replay.next() {
    ///         count += record?.payload.len();
    ///     }
    ///     Ok(count)
    /// })?;
    /// assert!(counts.len() > 1);
    /// assert_eq!(counts.iter().sum::<usize>(), 400_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn par_replay<T: Send>(
        &self,
        threads: usize,
        consume: impl Fn(Replay) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let core = self.core();
        core.check()?;
        let (through, log) = (core.progress.durable(), core.log);
        let pieces = Frames::by_segment(&core.index, &core.directory, log, through);
        in_parallel(threads, pieces, |frames| consume(Replay::of(frames, false)))
    }
}

/// Calls `consume` with each piece; results come in the order of the pieces.
pub(crate) fn in_parallel<P: Send, T: Send>(
    threads: usize,
    pieces: Vec<P>,
    consume: impl Fn(P) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let count = pieces.len();
    let places: Vec<_> = pieces.into_iter().map(|piece| Mutex::new((Some(piece), None))).collect();
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let Some(place) = places.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let Some(piece) = lock(place).0.take() else { continue };
            let result = consume(piece);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            lock(place).1 = Some(result);
        }
    };
    scoped("sawmill-replay", threads.min(count), work).map_err(|failure| {
        let message = "the system refused a thread for reading the log";
        Error::new(ErrorKind::Io, message).caused_by(failure)
    })?;
    let results = places.into_iter().map(|place| {
        let (_, result) = place.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Pieces are taken in order: what was left out lies behind the one that failed.
        result.unwrap_or_else(|| unreachable!("PAR-1: a piece was left out"))
    });
    results.collect()
}
