//! A buffer into which several threads copy at once, each into a range of its own that one atomic
//! step gave it. The argument is in `wal/README.md`, "Reserving without the mutex".
//!
//! STAGE-1: memory moves in when nobody has a range, and out when the word was closed and every
//! range was given back. In between nobody replaces it, and each byte has at most one holder.
#![allow(unsafe_code, reason = "disjoint parts of one buffer are written by several threads")]

use std::cell::UnsafeCell;
use std::fmt;
use std::slice;

use super::AlignedBuf;
use super::staging_word::{Claim, Claimed, Room, StagingWord};
use crate::ids::{to_u64, to_usize};
use crate::sync::atomic::{AtomicU8, Ordering};

const EMPTY: u8 = 0;
const MOVING: u8 = 1;
const FILLED: u8 = 2;

/// A place for a buffer, and the word by which it is shared out.
pub(crate) struct StagingBuffer {
    word: StagingWord,
    phase: AtomicU8,
    memory: UnsafeCell<Option<AlignedBuf>>,
}

// SAFETY: `memory` is written by one thread at a time (`phase`), and then nobody else reads it
// (STAGE-1); its bytes are written by the holders of disjoint ranges (WORD-1).
unsafe impl Sync for StagingBuffer {}

impl StagingBuffer {
    /// A place without memory.
    pub(crate) fn new() -> StagingBuffer {
        let (word, phase) = (StagingWord::new(), AtomicU8::new(EMPTY));
        StagingBuffer { word, phase, memory: UnsafeCell::new(None) }
    }

    /// Moves from one phase through `MOVING` to another, alone.
    fn moving<T>(&self, from: u8, to: u8, body: impl FnOnce() -> T) -> T {
        let order = (Ordering::Acquire, Ordering::Relaxed);
        let moved = self.phase.compare_exchange(from, MOVING, order.0, order.1);
        assert!(moved.is_ok(), "STAGE-1: a staging buffer in the wrong phase");
        let out = body();
        self.phase.store(to, Ordering::Release);
        out
    }

    /// Puts memory in and shares out a room of it, the first `bytes` bytes to the caller, for
    /// `records` records.
    ///
    /// # Panics
    /// If there is memory, or if it is too short.
    pub(crate) fn open(
        &self,
        memory: AlignedBuf,
        room: Room,
        bytes: usize,
        records: usize,
    ) -> Range<'_> {
        let inside = room.start <= room.end && room.end <= to_u64(memory.len());
        assert!(inside, "STAGE-1: room outside the buffer");
        let claim = self.moving(EMPTY, FILLED, || {
            // SAFETY: alone by `phase`, and the word is closed with every range given back, so
            // that nobody reads it (STAGE-1).
            let place = unsafe { &mut *self.memory.get() };
            *place = Some(memory);
            self.word.open(room, to_u64(bytes), to_u64(records))
        });
        Range { buffer: self, claim, lane: crate::sync::lane() }
    }

    /// Gets `bytes` bytes for `records` records; `None` if there is no such room for the caller.
    #[inline]
    pub(crate) fn reserve(&self, bytes: usize, records: usize, may: bool) -> Option<Range<'_>> {
        let claim = self.word.claim(to_u64(bytes), to_u64(records), may)?;
        Some(Range { buffer: self, claim, lane: crate::sync::lane() })
    }

    /// What a claim would get as tag and ordinal together, as it looks at the moment.
    #[inline]
    pub(crate) fn next_number(&self) -> u64 {
        self.word.next_number()
    }

    /// How much of it is taken.
    pub(crate) fn claimed(&self) -> Claimed {
        self.word.claimed()
    }

    /// Ends reservations; what was reserved is final. By the owner of the buffer only.
    pub(crate) fn close(&self) -> Claimed {
        self.word.close()
    }

    /// Closes it, waits until everybody has copied, and takes the memory out.
    ///
    /// # Panics
    /// If there is no memory.
    pub(crate) fn take(&self) -> AlignedBuf {
        let memory = self.moving(FILLED, EMPTY, || {
            self.word.close();
            self.word.await_copied();
            // SAFETY: alone by `phase`; closed and all ranges given back, so that nobody reads it
            // or writes to its bytes (STAGE-1, WORD-3).
            let place = unsafe { &mut *self.memory.get() };
            place.take()
        });
        memory.unwrap_or_else(|| unreachable!("STAGE-1: filled without memory"))
    }
}

impl fmt::Debug for StagingBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StagingBuffer({:?})", self.word.claimed())
    }
}

/// Bytes of a staging buffer that one holder may write. Dropping it says that they are written.
#[derive(Debug)]
pub(crate) struct Range<'a> {
    buffer: &'a StagingBuffer,
    claim: Claim,
    lane: usize,
}

impl Range<'_> {
    /// Records that were reserved before this.
    pub(crate) fn ordinal(&self) -> u64 {
        self.claim.ordinal
    }

    /// What the owner gave with the memory.
    pub(crate) fn tag(&self) -> u64 {
        self.claim.tag
    }

    /// The bytes. They hold what an earlier use left there.
    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as long as this range is held, nobody replaces the memory (STAGE-1); it was put
        // there before the word was opened, which the claim has acquired.
        let place = unsafe { &*self.buffer.memory.get() };
        let Some(memory) = place else { unreachable!("STAGE-1: shared out without memory") };
        let start = to_usize(self.claim.start);
        let bytes = to_usize(self.claim.bytes);
        // SAFETY: `start + bytes` is within the room that `open` checked (WORD-1).
        let first = unsafe { memory.as_ptr().add(start) };
        // SAFETY: initialised since its allocation, and nobody else's until this range is
        // dropped (WORD-1); the borrow of `self` excludes a second slice of it.
        unsafe { slice::from_raw_parts_mut(first, bytes) }
    }
}

impl Drop for Range<'_> {
    #[inline]
    fn drop(&mut self) {
        self.buffer.word.give_back(self.lane, self.claim.bytes);
    }
}
