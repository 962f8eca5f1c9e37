//! The word by which threads share out one buffer without a lock: who may copy where, when nobody
//! may any more, and when everybody has copied. The argument is in `wal/README.md`, "Reserving
//! without the mutex"; a model checker goes through it in `tests/models/src/staging.rs`.
//!
//! WORD-1: the ranges of claims never overlap and lie below the room; their ordinals are dense in
//! the order of the ranges. WORD-2: after `close` nobody gets a claim, and what it returns is
//! final. WORD-3: `await_copied` returns when every claim before `close` was given back, and sees
//! what their holders wrote.

use crate::sync::Gate;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Counters of copied bytes, so that threads do not fight over one cache line.
const LANES: usize = if cfg!(any(loom, shuttle)) { 2 } else { 8 };

/// In the state: nobody gets a claim any more.
const CLOSED: u64 = 1 << 63;
/// In the state: only who says that it may gets a claim.
const RESERVED: u64 = 1 << 62;
/// In the state, above the bytes that are left: one claimed record.
const RECORD: u64 = 1 << 32;
const LEFT: u64 = RECORD - 1;
/// In a lane: whoever adds to it next wakes the one that waits.
const AWAITED: u64 = 1 << 63;
/// How often a closer looks before it sleeps: copies take less than a wake-up.
const SPINS: usize = if cfg!(any(loom, shuttle)) { 0 } else { 200 };

/// Two cache lines: processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

/// The word, and what belongs to it.
#[derive(Debug)]
pub(crate) struct StagingWord {
    state: Apart<AtomicU64>,
    /// The end of the room; stable while it is open or anybody holds a claim, like the next two.
    end: Apart<AtomicU64>,
    start: AtomicU64,
    tag: AtomicU64,
    copied: Apart<Gate>,
    lanes: [Apart<AtomicU64>; LANES],
}

/// What a word shares out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Handed to everyone who gets a part.
    pub(crate) tag: u64,
    /// Whether only those who say that they may get a part.
    pub(crate) reserved: bool,
}

/// A range that its holder may write to, until it gives it back with [`StagingWord::give_back`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "who closes waits until it is given back"]
pub(crate) struct Claim {
    /// Where it starts.
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    /// Records before it.
    pub(crate) ordinal: u64,
    /// What was given to [`StagingWord::open`].
    pub(crate) tag: u64,
}

/// How much was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// Where the last claim ends.
    pub(crate) end: u64,
    pub(crate) records: u64,
}

impl StagingWord {
    /// A closed word without claims.
    pub(crate) fn new() -> StagingWord {
        StagingWord {
            state: Apart(AtomicU64::new(CLOSED)),
            end: Apart(AtomicU64::new(0)),
            start: AtomicU64::new(0),
            tag: AtomicU64::new(0),
            copied: Apart(Gate::default()),
            lanes: std::array::from_fn(|_| Apart(AtomicU64::new(0))),
        }
    }

    /// Opens it for claims from `start` to `end`, of which the caller gets the first `bytes` for
    /// `records` records; the rest is for everybody, or `reserved` for those who say that they
    /// may. Only the one thread that owns the buffer calls this, after
    /// [`StagingWord::await_copied`] of the time before.
    ///
    /// # Panics
    /// If it is open, if the room is 2 GiB or more, or the first claim larger than the room.
    pub(crate) fn open(&self, room: Room, bytes: u64, records: u64) -> Claim {
        let Room { start, end, tag, reserved } = room;
        let left = end - start - bytes;
        assert!(end - start < 1 << 31, "WORD-1: room has 31 bits");
        assert!(records <= bytes / 2, "WORD-1: the count has 30 bits");
        // Claims of the time before are over: nobody but their holders read these.
        let before = self.state.0.load(Ordering::Acquire);
        assert!(before & CLOSED != 0, "WORD-2: opened while open");
        for lane in &self.lanes {
            lane.0.store(0, Ordering::Relaxed);
        }
        self.end.0.store(end, Ordering::Relaxed);
        self.start.store(start, Ordering::Relaxed);
        self.tag.store(tag, Ordering::Relaxed);
        let state = left + records * RECORD;
        let state = if reserved { state | RESERVED } else { state };
        // Publishes the stores above, and the buffer, to whoever claims.
        self.state.0.store(state, Ordering::Release);
        Claim { start, bytes, ordinal: 0, tag }
    }

    /// Claims room for `records` records of `bytes` bytes together, in one step. `None` if it is
    /// closed, has less room, or is reserved and the caller may not. A caller that looks at a
    /// word which was closed and opened again meanwhile gets a claim of the new time: as good.
    ///
    /// # Panics
    /// If a record has less than two bytes, or there is none.
    #[inline]
    pub(crate) fn claim(&self, bytes: u64, records: u64, may: bool) -> Option<Claim> {
        assert!(records > 0 && records <= bytes / 2, "WORD-1: the count has 30 bits");
        let shut = if may { CLOSED } else { CLOSED | RESERVED };
        let mut state = self.state.0.load(Ordering::Relaxed);
        loop {
            if state & shut != 0 || state & LEFT < bytes {
                return None;
            }
            let next = state - bytes + records * RECORD;
            // Acquire: with what `open` published. The claims in between are read-modify-writes
            // and continue its release sequence.
            let order = (Ordering::Acquire, Ordering::Relaxed);
            match self.state.0.compare_exchange_weak(state, next, order.0, order.1) {
                Ok(_) => break,
                Err(seen) => state = seen,
            }
        }
        // Stable from here on: `open` comes again only after this claim was given back.
        Some(Claim {
            start: self.end.0.load(Ordering::Relaxed) - (state & LEFT),
            bytes,
            ordinal: (state & !(CLOSED | RESERVED)) / RECORD,
            tag: self.tag.load(Ordering::Relaxed),
        })
    }

    /// Gives a claim back: its bytes are written. The last access of its holder to the buffer.
    #[inline]
    pub(crate) fn give_back(&self, lane: usize, bytes: u64) {
        // Release: who sees the count sees the bytes.
        let before = self.lanes[lane % LANES].0.fetch_add(bytes, Ordering::Release);
        if before & AWAITED != 0 {
            self.copied.0.open(1);
        }
    }

    /// The tag and the records claimed so far: a guess of what the next claim will get.
    #[inline]
    pub(crate) fn next_number(&self) -> u64 {
        let state = self.state.0.load(Ordering::Relaxed);
        self.tag.load(Ordering::Relaxed) + (state & !(CLOSED | RESERVED)) / RECORD
    }

    /// How much is claimed, while it is open or after it was closed.
    pub(crate) fn claimed(&self) -> Claimed {
        self.measure(self.state.0.load(Ordering::Acquire))
    }

    fn measure(&self, state: u64) -> Claimed {
        let records = (state & !(CLOSED | RESERVED)) / RECORD;
        Claimed { end: self.end.0.load(Ordering::Relaxed) - (state & LEFT), records }
    }

    /// Ends claims. Only by who owns the buffer; closing again changes nothing.
    pub(crate) fn close(&self) -> Claimed {
        let state = self.state.0.fetch_or(CLOSED, Ordering::AcqRel);
        self.measure(state)
    }

    /// Waits until every claim was given back. Only by who closed it.
    pub(crate) fn await_copied(&self) {
        let wanted = self.claimed().end - self.start.load(Ordering::Relaxed);
        let counted = || -> u64 {
            self.lanes.iter().map(|lane| lane.0.load(Ordering::Acquire) & !AWAITED).sum()
        };
        #[allow(clippy::reversed_empty_ranges, reason = "a model does not spin")]
        for _ in 0..SPINS {
            if counted() == wanted {
                return;
            }
            std::hint::spin_loop();
        }
        // A holder was put to sleep within its copy. Whoever adds to a lane after this mark sees
        // the mark and opens the gate; whoever added before is counted here.
        let marked = |lane: &Apart<AtomicU64>| lane.0.fetch_or(AWAITED, Ordering::AcqRel);
        let mut sum: u64 = self.lanes.iter().map(|lane| marked(lane) & !AWAITED).sum();
        while sum != wanted {
            self.copied.0.wait_while(0);
            // A read-modify-write: with a gate that it finds open, it sees what was added before;
            // one that is opened later ends the next sleep.
            self.copied.0.swap(0);
            sum = counted();
        }
    }
}
