//! Appending under locks other than the log's own: what finds no room gives them back before it
//! waits, for whoever waits may have to write, and whoever writes may run a task's waker.

use super::core::{Core, Open, Panics};
use super::range::LsnRange;
use super::record::{RECORD_HEADER, RecordKind};
use super::staging::{Mark, NoRoom, Want};
use crate::error::Result;
use crate::sync::{MutexGuard, lock};

/// What came of it.
pub(super) enum Tried<'a> {
    /// The records have their places.
    Placed(LsnRange),
    /// Nothing was appended: give every lock back, and then [wait](Core::await_place).
    NoRoom(Refused<'a>),
}

/// A refusal, with the log's lock still held, so that nothing is missed.
pub(super) struct Refused<'a>(MutexGuard<'a, Open>, NoRoom);

impl Core {
    /// Bytes of records with their headers, if they are within the limits. The log's own records
    /// may be larger than the user's.
    ///
    /// # Errors
    /// `TooLarge`.
    pub(super) fn measure_for(&self, want: Want, payloads: &[&[u8]]) -> Result<usize> {
        match want.kind {
            RecordKind::Internal => {
                let bytes = payloads.iter().map(|payload| RECORD_HEADER + payload.len()).sum();
                self.check_bytes_of_batch(bytes)
            }
            RecordKind::User | RecordKind::Void => self.measure(payloads),
        }
    }

    /// Appends records as one batch, if there is room, and waits for nothing. They were measured.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`, `Forked`.
    pub(super) fn try_place(
        &self,
        want: Want,
        payloads: &[&[u8]],
        bytes: usize,
    ) -> Result<Tried<'_>> {
        debug_assert!(want.until == Mark::Appended, "who waits would wait under the locks");
        self.check_fork()?;
        if let Some(reservation) = self.stage.reserve(payloads.len(), bytes) {
            return Ok(Tried::Placed(reservation.fill(want, payloads)));
        }
        let _panics = Panics::poison(self);
        let mut open = lock(&self.open);
        open.check()?;
        match open.staging.place(&self.stage, want, payloads.len(), bytes) {
            Ok(reservation) => {
                Ok(Tried::Placed(self.placed(open, want, reservation, payloads, bytes)?))
            }
            Err(reason) => Ok(Tried::NoRoom(Refused(open, reason))),
        }
    }

    /// Waits until there may be room.
    ///
    /// # Errors
    /// `DiskFull`, `Poisoned`, `Closed`, `Io`. Nothing was appended.
    pub(super) fn await_place(&self, refused: Refused<'_>) -> Result<()> {
        let Refused(open, reason) = refused;
        self.await_room_until(open, reason, u64::MAX).map(drop)
    }
}
