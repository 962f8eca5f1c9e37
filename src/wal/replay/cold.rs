//! Sealed segments that the page cache does not hold, read from the device with several reads in
//! flight, into buffers that are used again.
//!
//! COLD-1: a piece is shown only if its read moved all of it. At the first one that did not, and at
//! a frame longer than [`HEAD`], this ends, and the reader turns to the map and the file, which say
//! what is wrong.
//! COLD-2: memory is that of [`IN_FLIGHT`] pieces, of as many idle ones, and of two that the reader
//! holds: each is a buffer of [`HEAD`] and [`PIECE`].
//! COLD-3: each read goes through a description that holds the shared lock of byte 1 (LOG.md L18),
//! and keeps it open; what was read is a copy, and depends on no file.
//!
//! A frame that begins in one piece and ends in the next one is put together there: each buffer has
//! room in front of its piece for the beginning of such a frame.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;

use super::source::PastCache;
use crate::ids::{Lsn, SegmentNumber, to_u64, to_usize};
use crate::storage::buffer::HUGE;
use crate::storage::{AlignedBuf, BLOCK, Channel, Directory, File, Op};
use crate::sync::{Arc, Mutex, lock};
use crate::wal::index::{SegmentEntry, SegmentIndex};
use crate::wal::segment::FIRST_FRAME;

/// Bytes of one read. Less than a segment and a frame of the tests, so that they meet all cases.
const PIECE: usize = if cfg!(test) { 8 * 1024 } else { HUGE / 2 };
/// The most of a frame that may lie in the piece before.
const HEAD: usize = if cfg!(test) { 32 * 1024 } else { HUGE / 2 };
/// Bytes of the first read: who looks for a few records reads little.
const FIRST: usize = if cfg!(test) { BLOCK } else { 256 * 1024 };
/// Reads in flight, of who goes on.
const IN_FLIGHT: usize = 4;

/// Bytes of a segment, from `start` on.
#[derive(Debug)]
pub(super) struct Piece {
    segment: SegmentNumber,
    start: u64,
    buffer: Option<AlignedBuf>,
    pool: Arc<Pool>,
}

/// Buffers that nobody uses.
#[derive(Debug, Default)]
struct Pool(Mutex<Vec<AlignedBuf>>);

impl Pool {
    fn take(&self) -> AlignedBuf {
        let idle = lock(&self.0).pop();
        idle.unwrap_or_else(|| {
            let mut buffer = AlignedBuf::large(HEAD + PIECE);
            buffer.hide(HEAD);
            buffer
        })
    }

    fn give_back(&self, mut buffer: AlignedBuf) {
        buffer.hide(HEAD - buffer.hidden());
        let mut idle = lock(&self.0);
        if idle.len() < IN_FLIGHT {
            idle.push(buffer);
        }
    }
}

impl Piece {
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    fn end(&self) -> u64 {
        self.start + to_u64(self.len())
    }

    /// Puts the bytes before it in front of it.
    fn put_in_front(&mut self, bytes: &[u8]) {
        if let Some(buffer) = &mut self.buffer {
            buffer.reveal(bytes.len());
            buffer[..bytes.len()].copy_from_slice(bytes);
            self.start -= to_u64(bytes.len());
        }
    }
}

impl Deref for Piece {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| buffer)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.give_back(buffer);
        }
    }
}

/// A piece that is being read.
#[derive(Debug)]
struct Coming {
    token: u64,
    segment: SegmentNumber,
    start: u64,
    length: usize,
    /// What came: nothing, if it was not all of it.
    landed: Option<Option<AlignedBuf>>,
}

/// The reads of one reader.
pub(super) struct Cold {
    index: Arc<SegmentIndex>,
    channel: Option<Box<dyn Channel>>,
    past_cache: PastCache,
    through: Lsn,
    /// Where the next read begins, and how many bytes it has at most.
    next: Option<(usize, u64)>,
    step: usize,
    file: Option<(SegmentNumber, Arc<dyn File>)>,
    /// How many reads shall be in flight: more with each piece that was wanted.
    wanted: usize,
    coming: VecDeque<Coming>,
    current: Option<Arc<Piece>>,
    pool: Arc<Pool>,
}

impl Cold {
    /// Reads from this place on, also of the segments behind it as long as the cache does not hold
    /// them and they begin at `through` or below. `None` without a channel.
    pub(super) fn start(
        index: Arc<SegmentIndex>,
        directory: &dyn Directory,
        past_cache: PastCache,
        through: Lsn,
        place: (usize, u64),
    ) -> Option<Cold> {
        let channel = Some(index.channel(directory).ok()?);
        let (next, step, file, wanted) = (Some(place), FIRST, None, 1);
        let (coming, current, pool) = (VecDeque::new(), None, Arc::default());
        Some(Cold {
            index,
            channel,
            past_cache,
            through,
            next,
            step,
            file,
            wanted,
            coming,
            current,
            pool,
        })
    }

    /// The piece that was reached.
    pub(super) fn current(&self) -> Option<Arc<Piece>> {
        self.current.as_ref().map(Arc::clone)
    }

    /// The bytes from `offset` on that were reached.
    pub(super) fn bytes(&self, offset: u64, wanted: u64) -> Option<&[u8]> {
        let piece = self.current.as_ref()?;
        let start = to_usize(offset.checked_sub(piece.start)?);
        let end = start.saturating_add(to_usize(wanted)).min(piece.len());
        piece.get(start..end)
    }

    /// Makes the piece that holds these bytes of segment `at` the current one; `false` if they
    /// cannot be had this way. Neither segments nor offsets fall.
    pub(super) fn reach(
        &mut self,
        sealed: &[SegmentEntry],
        at: usize,
        offset: u64,
        wanted: u64,
    ) -> bool {
        let segment = &sealed[at].segment;
        let end = offset.saturating_add(wanted).min(segment.size());
        if to_usize(end.saturating_sub(offset)) > HEAD {
            return false;
        }
        // Of a segment that is left, no more is read: behind its last frame it may be empty.
        if self.next.is_some_and(|next| next < (at, offset)) {
            self.next = Some((at, offset));
        }
        loop {
            let here = self.current.as_ref();
            let here = here.filter(|it| it.segment == segment.number() && it.start <= offset);
            if here.is_some_and(|piece| end <= piece.end()) {
                return true;
            }
            // The beginning of a frame that goes on in the next piece.
            let begun = here.filter(|piece| offset < piece.end()).map(Arc::clone);
            let Some(mut piece) = self.take(sealed) else { return false };
            if piece.segment > segment.number() {
                return false;
            }
            if piece.segment == segment.number() && piece.start > offset {
                let Some(begun) = begun.filter(|begun| begun.end() == piece.start) else {
                    return false;
                };
                piece.put_in_front(&begun[to_usize(offset - begun.start)..]);
            }
            self.current = Some(Arc::new(piece));
        }
    }

    /// The next piece; `None` if there is none, or if it could not be read.
    fn take(&mut self, sealed: &[SegmentEntry]) -> Option<Piece> {
        self.submit(sealed);
        let channel = self.channel.as_mut()?;
        while self.coming.front()?.landed.is_none() {
            let done = channel.complete()?;
            let mut coming = self.coming.iter_mut();
            let coming = coming.find(|coming| coming.token == done.token)?;
            let whole = done.result.is_ok_and(|moved| moved == coming.length);
            coming.landed = Some(done.buffer.filter(|_| whole));
        }
        let Coming { segment, start, landed, .. } = self.coming.pop_front()?;
        let buffer = Some(landed??);
        self.wanted = (2 * self.wanted).min(IN_FLIGHT);
        self.submit(sealed);
        Some(Piece { segment, start, buffer, pool: Arc::clone(&self.pool) })
    }

    /// Has as many reads in flight as there shall be.
    fn submit(&mut self, sealed: &[SegmentEntry]) {
        while self.coming.len() < self.wanted {
            let Some((at, start)) = self.next else { break };
            let Some(file) = self.file(sealed, at) else {
                self.next = None;
                break;
            };
            let Some(channel) = &mut self.channel else { break };
            let segment = &sealed[at].segment;
            let (size, segment) = (segment.size(), segment.number());
            let length = to_usize(size.saturating_sub(start)).min(self.step);
            self.step = PIECE;
            let end = start + to_u64(length);
            if length > 0 {
                let mut buffer = self.pool.take();
                buffer.set_len(length);
                let token = channel.submit(Op::Read { file, offset: start, buffer });
                self.coming.push_back(Coming { token, segment, start, length, landed: None });
            }
            self.next = if end < size { Some((at, end)) } else { self.behind(sealed, at) };
        }
        if let Some(channel) = &mut self.channel {
            channel.start();
        }
    }

    /// Where to go on behind a segment.
    fn behind(&self, sealed: &[SegmentEntry], at: usize) -> Option<(usize, u64)> {
        let next = sealed.get(at + 1).filter(|next| next.first_lsn <= self.through)?;
        let map = next.segment.map().ok()?;
        self.past_cache.goes_for(&map).then_some((at + 1, FIRST_FRAME))
    }

    /// What segment `at` is read through.
    fn file(&mut self, sealed: &[SegmentEntry], at: usize) -> Option<Arc<dyn File>> {
        let segment = &sealed.get(at)?.segment;
        if self.file.as_ref().is_none_or(|(number, _)| *number != segment.number()) {
            self.file = Some((segment.number(), segment.device().ok()?));
        }
        self.file.as_ref().map(|(_, file)| Arc::clone(file))
    }
}

impl Drop for Cold {
    fn drop(&mut self) {
        if let Some(mut channel) = self.channel.take() {
            while channel.complete().is_some() {}
            self.index.give_back(channel);
        }
    }
}

impl fmt::Debug for Cold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cold({} reads in flight)", self.coming.len())
    }
}
