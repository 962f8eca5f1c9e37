//! Verifying ahead of the reader, on threads of its own.
//!
//! AHEAD-1: what comes out is what the reader would have found itself, in the same order. At the
//! first thing that is out of the ordinary the threads stop before it, and the reader goes on
//! alone from there: it confirms and reports errors in their place. A segment that the page cache
//! does not hold is out of the ordinary: the device delivers more slowly than one core verifies,
//! and threads would only wait for one another there.
//! AHEAD-2: at most `limit` batches exist at once, each of one frame or about [`BATCH`] bytes.
//! AHEAD-3: no thread outlives the value.
//!
//! One thread at a time walks the headers of sealed segments and cuts batches, under the mutex;
//! payloads are verified outside it. Waits: a worker without room sleeps on `room`, woken with the
//! others by the reader that has taken half of the batches, or by the drop; the reader sleeps on
//! `ready`, woken by the worker that finishes the batch it waits for, and by each worker that ends.
//! Maps that the reader has done with are given up by the workers: that takes longer than reading.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use super::frames::is_wanted;
use super::mapped::Mapped;
use super::source::PastCache;
use crate::ids::{Lsn, to_u64, to_usize};
use crate::storage::BLOCK;
use crate::sync::{Arc, Condvar, JoinHandle, Mutex, lock, spawn, wait};
use crate::wal::frame::{self, FRAME_HEADER, FrameHeader, FrameKind};
use crate::wal::index::SegmentEntry;
use crate::wal::scan::{self, Expected};
use crate::wal::segment::SegmentMap;

/// About how many bytes a batch verifies.
const BATCH: u64 = 512 * 1024;
/// How much of a map the walk of the headers populates at once.
const PIECE: usize = 64 * 1024;

/// A frame whose header stands, and whose payload stands too once the batch is verified.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) header: FrameHeader,
    pub(super) crc: u32,
    /// Where the payload is; empty if nobody wants it.
    pub(super) payload: Range<usize>,
}

/// Frames that follow each other in one segment.
#[derive(Debug)]
struct Batch {
    /// Which entry they are in, and where the first one stands.
    at: usize,
    place: Expected,
    map: Arc<SegmentMap>,
    pieces: Vec<Piece>,
    /// Whether all of them stand; else those that do are left.
    whole: bool,
}

/// Where the walk of the headers is.
#[derive(Debug)]
struct Scout {
    sealed: Vec<SegmentEntry>,
    at: usize,
    expected: Expected,
    from: Lsn,
    through: Lsn,
    map: Option<Mapped>,
    past_cache: PastCache,
}

#[derive(Debug)]
struct State {
    /// `None`: nothing more comes.
    scout: Option<Scout>,
    /// Batches in order; `None`: still being verified.
    batches: VecDeque<Option<Batch>>,
    /// How many batches were taken away before the first of these.
    taken: usize,
    running: usize,
    /// How many workers sleep for want of room.
    sleeping: usize,
    /// Maps that the reader has done with.
    spent: Vec<Arc<SegmentMap>>,
    stop: bool,
}

/// What the threads and the reader have in common.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    limit: usize,
    ready: Condvar,
    room: Condvar,
}

/// Threads that verify, and what they have verified.
pub(super) struct Ahead {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    current: Option<Batch>,
    /// The map of the batch before: whoever called may look at it until the next call.
    before: Option<Arc<SegmentMap>>,
    shown: usize,
}

/// What [`Ahead::next`] found.
pub(super) struct Next<'a> {
    pub(super) piece: &'a Piece,
    pub(super) map: &'a Arc<SegmentMap>,
    /// Of the first of a batch: which entry it is in, and where it stands.
    pub(super) place: Option<(usize, Expected)>,
}

impl Ahead {
    /// Starts `threads` threads over the sealed segments from `expected`, in entry `at`, on; fewer
    /// if there are no processors for them or the system refuses some, `None` if none is left.
    pub(super) fn start(
        threads: usize,
        past_cache: PastCache,
        sealed: &[SegmentEntry],
        at: usize,
        expected: Expected,
        (from, through): (Lsn, Lsn),
    ) -> Option<Ahead> {
        if at >= sealed.len() {
            return None;
        }
        let threads = threads.min(processors_for_others());
        let (sealed, map) = (sealed.to_vec(), None);
        let scout = Scout { sealed, at, expected, from, through, map, past_cache };
        let state = Mutex::new(State {
            scout: Some(scout),
            batches: VecDeque::new(),
            taken: 0,
            running: 0,
            sleeping: 0,
            spent: Vec::new(),
            stop: false,
        });
        let (ready, room) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { state, limit: 8 * threads, ready, room });
        let mut started = Vec::new();
        for _ in 0..threads {
            lock(&shared.state).running += 1;
            let worker = Worker(Arc::clone(&shared));
            // A worker that was refused is dropped, and so counted out.
            if let Ok(thread) = spawn("sawmill-verify", move || worker.run()) {
                started.push(thread);
            }
        }
        let (current, before, shown) = (None, None, 0);
        (!started.is_empty()).then_some(Ahead { shared, threads: started, current, before, shown })
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> std::sync::Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    /// The next frame; `None` when the reader has to go on alone.
    pub(super) fn next(&mut self) -> Option<Next<'_>> {
        if self.current.as_ref().is_none_or(|batch| self.shown == batch.pieces.len()) {
            if self.current.as_ref().is_some_and(|batch| !batch.whole) {
                return None;
            }
            let last = self.current.take().map(|batch| batch.map);
            let spent = std::mem::replace(&mut self.before, last);
            self.current = self.shared.take(spent);
            self.shown = 0;
        }
        let batch = self.current.as_ref()?;
        let piece = batch.pieces.get(self.shown)?;
        let place = (self.shown == 0).then_some((batch.at, batch.place));
        self.shown += 1;
        Some(Next { piece, map: &batch.map, place })
    }
}

impl Shared {
    /// The next batch, when it is verified; `None` if none comes any more. Meanwhile the reader
    /// verifies too: it never waits for a thread that has not begun.
    fn take(&self, spent: Option<Arc<SegmentMap>>) -> Option<Batch> {
        let mut state = lock(&self.state);
        state.spent.extend(spent);
        loop {
            if let Some(Some(_)) = state.batches.front() {
                let batch = state.batches.pop_front().flatten();
                state.taken += 1;
                // Not for each batch: waking somebody costs as much as walking over half of one.
                let wake = state.sleeping > 0 && state.batches.len() <= self.limit / 2;
                drop(state);
                if wake {
                    self.room.notify_all();
                }
                return batch;
            }
            let finished = state.scout.is_none() && state.batches.is_empty();
            if finished || state.running == 0 {
                return None;
            }
            if state.scout.is_none() || state.batches.len() >= self.limit {
                state = wait(&self.ready, state);
                continue;
            }
            drop(state);
            self.verify_one(false);
            state = lock(&self.state);
        }
    }

    /// Verifies the next batch; `false` when there is none, or no room and it may not wait.
    fn verify_one(&self, may_wait: bool) -> bool {
        let Some((number, mut batch)) = self.cut(may_wait) else { return false };
        batch.verify();
        self.put(number, batch);
        true
    }

    /// A batch to verify, and its number.
    fn cut(&self, may_wait: bool) -> Option<(usize, Batch)> {
        let mut state = lock(&self.state);
        loop {
            if state.stop || state.scout.is_none() {
                return None;
            }
            if state.batches.len() < self.limit {
                break;
            }
            if !may_wait {
                return None;
            }
            state.sleeping += 1;
            state = wait(&self.room, state);
            state.sleeping -= 1;
        }
        // The reader leaves them to the workers.
        let spent = if may_wait { std::mem::take(&mut state.spent) } else { Vec::new() };
        let batch = state.scout.as_mut().and_then(Scout::cut);
        match batch {
            Some(batch) => {
                let number = state.taken + state.batches.len();
                state.batches.push_back(None);
                drop(state);
                drop(spent);
                Some((number, batch))
            }
            None => {
                state.scout = None;
                drop(state);
                drop(spent);
                self.room.notify_all();
                None
            }
        }
    }

    fn put(&self, number: usize, batch: Batch) {
        let mut state = lock(&self.state);
        if !batch.whole {
            state.scout = None;
        }
        let nth = number - state.taken;
        if let Some(place) = state.batches.get_mut(nth) {
            *place = Some(batch);
        }
        drop(state);
        if nth == 0 {
            self.ready.notify_one();
        }
    }
}

/// How many threads can run beside the reader. One more would take turns with it, and, put to sleep
/// with the next batch in its hands, keep it waiting.
fn processors_for_others() -> usize {
    if cfg!(test) {
        return usize::MAX;
    }
    std::thread::available_parallelism().map_or(1, |all| all.get() - 1)
}

/// One thread's share. Dropping it, also by a panic, counts it out.
struct Worker(Arc<Shared>);

impl Worker {
    fn run(self) {
        while self.0.verify_one(true) {}
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.running -= 1;
        // What a panicking thread has taken never comes: the others shall not wait for it.
        state.stop |= std::thread::panicking();
        drop(state);
        self.0.ready.notify_one();
        self.0.room.notify_all();
    }
}

impl Scout {
    /// The next batch; `None` at the first frame that is not to be verified ahead.
    fn cut(&mut self) -> Option<Batch> {
        self.turn_over();
        let (at, place) = (self.at, self.expected);
        let map = self.map.as_ref()?.share();
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH && self.expected.next_lsn.is_none_or(|next| next <= self.through) {
            let Some((header, crc)) = self.header() else { break };
            let start = to_usize(self.expected.position.offset) + FRAME_HEADER;
            let mut payload = start..start;
            if is_wanted(&header, self.from, self.through) {
                payload.end += to_usize(u64::from(header.payload_length));
                bytes += header.length_on_disk();
            }
            self.expected = self.expected.after(&header, crc);
            pieces.push(Piece { header, crc, payload });
            bytes += to_u64(FRAME_HEADER);
        }
        (!pieces.is_empty()).then_some(Batch { at, place, map, pieces, whole: true })
    }

    /// Goes to the next segment if no frame stands here and one stands there.
    fn turn_over(&mut self) {
        if self.header().is_some() {
            return;
        }
        let Some(next) = self.sealed.get(self.at + 1) else { return };
        let there = self.expected.at_segment(next.segment.number(), next.segment.size());
        let here = std::mem::replace(&mut self.expected, there);
        self.at += 1;
        if self.header().is_none() {
            self.at -= 1;
            self.expected = here;
        }
    }

    /// The header of the frame that stands here.
    fn header(&mut self) -> Option<(FrameHeader, u32)> {
        let segment = &self.sealed.get(self.at)?.segment;
        if self.map.as_ref().is_none_or(|map| map.segment() != segment.number()) {
            self.map = None;
            let map = Mapped::of(segment, PIECE)?;
            self.map = (!self.past_cache.goes_for(&map.share())).then_some(map);
        }
        let offset = self.expected.position.offset;
        let bytes = self.map.as_mut()?.secure(offset, to_u64(BLOCK))?;
        let found = scan::judge_header(bytes, &self.expected).ok();
        // Where the log goes on behind a tombstone, its payload says: the reader's work.
        found.filter(|(header, _)| header.kind != FrameKind::Tombstone)
    }
}

impl Batch {
    /// Drops the first frame that does not stand, and those behind it.
    fn verify(&mut self) {
        let wanted = self.pieces.iter().position(|piece| !piece.is_passed());
        let (Some(first), Some(last)) = (wanted, self.pieces.last()) else { return };
        let span = self.pieces[first].span().start..last.span().end;
        let bad = match self.map.populate(span) {
            Ok(()) => self.pieces.iter().position(|piece| !piece.stands(&self.map)),
            Err(_) => Some(first),
        };
        if let Some(bad) = bad {
            self.pieces.truncate(bad);
            self.whole = false;
        }
    }
}

impl Piece {
    /// Whether nobody wants its payload.
    fn is_passed(&self) -> bool {
        self.payload.is_empty() && self.header.payload_length > 0
    }

    /// All of it, in its segment.
    fn span(&self) -> Range<usize> {
        let start = self.payload.start - FRAME_HEADER;
        start..start.saturating_add(to_usize(self.header.length_on_disk()))
    }

    fn stands(&self, map: &SegmentMap) -> bool {
        let bytes = map.get(self.span());
        self.is_passed() || bytes.is_some_and(|bytes| frame::payload(&self.header, bytes).is_some())
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.room.notify_all();
        for thread in self.threads.drain(..) {
            // What a thread had to say by a panic, the reader finds itself.
            thread.join().ok();
        }
    }
}

impl fmt::Debug for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ahead({} threads)", self.threads.len())
    }
}
