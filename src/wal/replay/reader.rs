//! Reading a segment piece by piece, with the next piece on its way while this one is looked at.
//!
//! The first piece comes from the device: a poll of a few records touches no cache. Who goes on, or
//! comes from other segments, reads through the page cache, where another reader may have left the
//! bytes. What is found there needs no trust: a piece that does not hold what it must is read again
//! from the device.
//!
//! READER-1: at most one read is in flight, and none when the channel is given back.
//! READER-2: what was read ahead is only a copy taken early of bytes that do not change any more,
//! or that nobody looks at: frames above the durable LSN. A failed read ahead is as good as none.

use std::fmt;

use crate::error::Result;
use crate::ids::{LogId, Lsn, Position, SegmentNumber, to_u64, to_usize};
use crate::storage::{AlignedBuf, Channel, Directory, Op};
use crate::sync::Arc;
use crate::wal::frame::FrameHeader;
use crate::wal::index::SegmentIndex;
use crate::wal::segment::Segment;
use crate::wal::window::Window;

/// How much is read at first: a poll of a few records reads little.
const STEP: u64 = 256 * 1024;
/// How much is read ahead at once, by who goes on reading.
const AHEAD: u64 = 512 * 1024;

/// A reader of segments and the channel it reads through.
pub(super) struct Reader {
    index: Arc<SegmentIndex>,
    directory: Arc<dyn Directory>,
    log: LogId,
    through: Lsn,
    channel: Option<Box<dyn Channel>>,
    window: Window,
    /// A segment once more, opened to be read through the page cache.
    cached: Option<Segment>,
    ahead: Option<(SegmentNumber, u64)>,
    idle: Option<AlignedBuf>,
    /// How often the window was moved on.
    moves: u64,
}

impl Reader {
    pub(super) fn new(
        index: Arc<SegmentIndex>,
        directory: Arc<dyn Directory>,
        log: LogId,
        through: Lsn,
    ) -> Reader {
        let (channel, window) = (None, Window::new(STEP));
        let (cached, ahead, idle, moves) = (None, None, None, 0);
        Reader { index, directory, log, through, channel, window, cached, ahead, idle, moves }
    }

    /// Reads on up to `through`.
    pub(super) fn extend(&mut self, through: Lsn) {
        self.through = through;
        self.forget();
    }

    /// The next piece is not the first one: who reads comes from elsewhere in the log.
    pub(super) fn go_on(&mut self) {
        self.moves = self.moves.max(1);
    }

    /// Everything that is loaded.
    #[inline]
    pub(super) fn loaded(&self) -> &[u8] {
        self.window.loaded()
    }

    /// Where in the segment the loaded bytes start.
    pub(super) fn start(&self) -> u64 {
        self.window.start()
    }

    /// Forgets what was read.
    pub(super) fn forget(&mut self) {
        self.window.forget();
        if let (Some(channel), Some(_)) = (&mut self.channel, self.ahead.take()) {
            self.idle = channel.complete().and_then(|completion| completion.buffer);
        }
    }

    /// As [`Window::load`]; `direct`: what is not loaded comes from the device.
    pub(super) fn load(
        &mut self,
        segment: &Segment,
        offset: u64,
        wanted: u64,
        direct: bool,
    ) -> Result<&[u8]> {
        let moved = !self.window.covers(segment, offset, wanted);
        if moved {
            self.moves += 1;
            self.land(segment);
        }
        if !self.window.covers(segment, offset, wanted) {
            let known = self.cached.as_ref().is_some_and(|file| file.number() == segment.number());
            if self.moves > 1 && !known {
                // Where it cannot be had any more, the device will do.
                self.cached = segment.through_cache().ok();
            }
            let channel = match &mut self.channel {
                Some(channel) => channel,
                None => self.channel.insert(self.index.channel(&*self.directory)?),
            };
            let cached = self.cached.as_ref().filter(|known| known.number() == segment.number());
            let source = cached.filter(|_| !direct).unwrap_or(segment);
            self.window.load(&mut **channel, source, offset, wanted)?;
        }
        if moved && !direct {
            self.read_ahead(offset);
        }
        let skip = to_usize(offset - self.window.start());
        Ok(self.window.loaded().get(skip..).unwrap_or_default())
    }

    /// Waits for what is in flight, and looks there from now on if it is of this segment.
    fn land(&mut self, segment: &Segment) {
        let (Some(channel), Some((number, start))) = (&mut self.channel, self.ahead.take()) else {
            return;
        };
        let Some(completion) = channel.complete() else { return };
        let Some(buffer) = completion.buffer else { return };
        let whole = completion.result.is_ok_and(|moved| moved == buffer.len());
        self.idle = match whole && number == segment.number() {
            true => self.window.adopt(segment, start, buffer),
            false => Some(buffer),
        };
    }

    /// Starts the read of what follows the last whole frame of the window, in which a frame stands
    /// at `offset`. Only headers are looked at, and only as a hint.
    fn read_ahead(&mut self, offset: u64) {
        let (Some(channel), Some(segment)) = (&mut self.channel, &self.cached) else { return };
        if self.ahead.is_some() {
            return;
        }
        let mut at = offset;
        let mut wanted = AHEAD;
        loop {
            let bytes = self.window.loaded().get(to_usize(at - self.window.start())..);
            let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { break };
            let position = Position { segment: segment.number(), offset: at };
            let Some((header, _)) = FrameHeader::decode(bytes, self.log, position) else { return };
            if header.first_lsn > self.through {
                return;
            }
            let length = header.length_on_disk();
            if length > to_u64(bytes.len()) {
                wanted = wanted.max(length);
                break;
            }
            at += length;
        }
        let room = segment.size().saturating_sub(at);
        if room == 0 || at == offset {
            return;
        }
        let length = to_usize(wanted.min(room));
        let buffer = match self.idle.take() {
            Some(mut buffer) if buffer.capacity() >= length => {
                buffer.set_len(length);
                buffer
            }
            _ => AlignedBuf::zeroed(length),
        };
        channel.submit(Op::Read { file: Arc::clone(segment.file()), offset: at, buffer });
        self.ahead = Some((segment.number(), at));
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.forget();
        if let Some(channel) = self.channel.take() {
            self.index.give_back(channel);
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("window", &self.window).finish_non_exhaustive()
    }
}
