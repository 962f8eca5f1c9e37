//! Appending without ever blocking, and waiting for room without a thread.
//!
//! ROOM-1: whoever found no room is followed by an event: a frame that lands, an attempt to prepare
//! a segment that ends, or the end of the log. A refusal notes the number of events so far;
//! [`Wal::ready`] waits for a higher one. So no wake-up is lost between the two.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::commit::Until;
use super::core::{Core, Open, Panics};
use super::group::{Resolved, Ticket, Waiting};
use super::options::Background;
use super::pending::Pending;
use super::range::LsnRange;
use super::staging::{Mark, NoRoom, Want};
use super::wal::Wal;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::StreamId;
use crate::sync::{Arc, lock};

/// Who waits for room otherwise than by sleeping on the log's condition; under the log's mutex.
#[derive(Debug, Default)]
pub(crate) struct Room {
    waiting: Waiting,
    /// How often room may have come.
    events: u64,
    /// That number when somebody was refused last.
    refused_at: Option<u64>,
}

impl Room {
    /// How often room may have come.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// Whether somebody waits for the next event.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.is_awaited()
    }

    /// Joins as a blocking caller; the outcome comes with the next event.
    pub(super) fn follow(&mut self) -> Ticket {
        self.waiting.follow()
    }
}

impl Core {
    /// Room may have come: tells who waits for it. Tasks are woken by what this returns.
    pub(super) fn room_came(&self, open: &mut Open) -> Option<Resolved> {
        if open.room_waiters > 0 {
            self.room.notify_all();
        }
        open.spacious.events += 1;
        let waiting = &mut open.spacious.waiting;
        waiting.is_awaited().then(|| std::mem::take(waiting).resolve(None))
    }

    /// Appends without waiting, or refuses.
    pub(super) fn try_append(&self, want: Want, payload: &[u8]) -> Result<LsnRange> {
        self.check_fork()?;
        let bytes = self.measure(&[payload])?;
        if let Some(reservation) = self.stage.reserve(1, bytes) {
            return Ok(reservation.fill(want, &[payload]));
        }
        let _panics = Panics::poison(self);
        let mut open = lock(&self.open);
        let reason = loop {
            open.check()?;
            match open.staging.place(&self.stage, want, 1, bytes) {
                Ok(reservation) => return self.placed(open, want, reservation, &[payload], bytes),
                // Nobody else would prepare one: it is this call's work.
                Err(NoRoom::Segment(need)) if self.background == Background::Inline => {
                    open = self.await_segment(open, need)?;
                }
                Err(reason) => break reason,
            }
        };
        open.spacious.refused_at = Some(open.spacious.events);
        match reason {
            NoRoom::Memory => self.nudge(&mut open),
            NoRoom::Segment(need) => {
                // Asked for again each time, so that the log goes on by itself.
                if let Some(error) = self.want_segment(&mut open, need) {
                    return Err(error);
                }
            }
        }
        let message = match reason {
            NoRoom::Memory => "the log holds as many bytes as its option memory allows",
            NoRoom::Segment(_) => "no prepared segment is left at this moment",
        };
        Err(Error::new(ErrorKind::WouldBlock, message).at_path(self.directory.path()))
    }

    fn poll_ready(&self, context: &Context<'_>) -> Poll<Result<()>> {
        if let Err(error) = self.check_fork() {
            return Poll::Ready(Err(error));
        }
        let mut open = lock(&self.open);
        if let Err(error) = open.check() {
            return Poll::Ready(Err(error));
        }
        let Room { events, refused_at, .. } = open.spacious;
        if refused_at.is_none_or(|refused| refused < events) {
            return Poll::Ready(Ok(()));
        }
        if self.background == Background::Inline {
            // There is no thread that would do it.
            if open.has_work()
                && let Some(slot) = open.take_free()
            {
                self.lead(open, slot, Until::Once, false);
            }
            return Poll::Ready(Ok(()));
        }
        open.spacious.waiting.join_future(context.waker());
        self.nudge(&mut open);
        Poll::Pending
    }
}

impl Wal {
    /// As [`submit`](Wal::submit), but never waits: where `submit` would, this is refused with
    /// [`WouldBlock`](ErrorKind::WouldBlock), and nothing was appended. [`ready`](Wal::ready) tells
    /// when to try again.
    ///
    /// A crash may take the record until it is waited for. After poison every call is refused.
    ///
    /// # Errors
    /// `WouldBlock`: the log holds as many bytes as [`WalOptions::memory`] allows, or a segment is
    /// still being prepared. `DiskFull`: there was no space for a segment when it was tried last;
    /// it is tried again. `TooLarge`, `Poisoned`, `Closed`, `Forked`.
    ///
    /// [`WalOptions::memory`]: crate::WalOptions::memory
    ///
    /// ```
    /// use sawmill::ErrorKind;
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// let mut refused = 0;
    /// for _ in 0..100 {
    ///     match wal.try_submit(&[0; 1000]) {
    ///         Ok(_pending) => {}
    ///         Err(error) if error.kind() == ErrorKind::WouldBlock => refused += 1,
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// }
    /// wal.sync()?;
    /// assert_eq!(wal.durable_lsn().get() + refused, 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_submit(&self, payload: &[u8]) -> Result<Pending> {
        self.try_submit_to(StreamId::DEFAULT, payload)
    }

    /// As [`try_submit`](Wal::try_submit), to a stream.
    ///
    /// # Errors
    /// As [`try_submit`](Wal::try_submit).
    pub fn try_submit_to(&self, stream: StreamId, payload: &[u8]) -> Result<Pending> {
        let want = Want::user(stream, Mark::Appended);
        let lsns = self.core().try_append(want, payload)?;
        Ok(Pending::new(self.share(), lsns.first()))
    }

    /// Waits, as a future, until it is worth to [`try_submit`](Wal::try_submit) again:
    /// back-pressure that never blocks a thread of an executor and does no I/O there. Ready at once
    /// if nobody was refused since room last came. Others may be faster: the next try may be
    /// refused again.
    ///
    /// Resolves to an error when the log is poisoned, closed or in a forked child; on a full disk
    /// it resolves, and the next try gives `DiskFull`. Dropping it cancels nothing.
    ///
    /// ```no_run
    /// use sawmill::{ErrorKind, Pending, Result, Wal};
    /// async fn submit(wal: &Wal, payload: &[u8]) -> Result<Pending> {
    ///     loop {
    ///         match wal.try_submit(payload) {
    ///             Err(error) if error.kind() == ErrorKind::WouldBlock => wal.ready().await?,
    ///             other => return other,
    ///         }
    ///     }
    /// }
    /// ```
    #[must_use = "a future does nothing unless it is awaited"]
    pub fn ready(&self) -> Ready {
        Ready { core: Arc::clone(self.core()) }
    }
}

/// What [`Wal::ready`] returns.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Ready {
    core: Arc<Core>,
}

impl Future for Ready {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.core.poll_ready(context)
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ready({})", self.core.directory.path().display())
    }
}
