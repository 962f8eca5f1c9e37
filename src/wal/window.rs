//! Reading a segment from the device, a window at a time: bounded memory whatever its size. Only a
//! frame longer than the window makes it grow, to that frame, which fits a segment.

use std::io;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Position, SegmentNumber, to_u64, to_usize};
use crate::storage::{AlignedBuf, BLOCK, Channel, File, IoFailure};
use crate::sync::Arc;
use crate::wal::segment::Segment;
use crate::wal::transfer;

/// How many bytes are read at once, unless a frame is longer.
pub(crate) const WINDOW: u64 = 2 * 1024 * 1024;

/// The bytes of a segment around the place that is looked at.
#[derive(Debug)]
pub(crate) struct Window {
    buffer: Option<AlignedBuf>,
    segment: SegmentNumber,
    start: u64,
    step: u64,
    bytes_read: u64,
    /// What a sealed segment is read through.
    file: Option<(SegmentNumber, Arc<dyn File>)>,
}

impl Window {
    /// An empty window that reads `step` bytes at once.
    pub(crate) fn new(step: u64) -> Window {
        let segment = SegmentNumber::new(0);
        Window { buffer: None, segment, start: 0, step, bytes_read: 0, file: None }
    }

    /// How many bytes were read from the device.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Everything that is loaded.
    #[inline]
    pub(crate) fn loaded(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| buffer)
    }

    /// Where in the segment the loaded bytes start.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Forgets what was read: the device is asked again.
    pub(crate) fn forget(&mut self) {
        self.segment = SegmentNumber::new(0);
        self.file = None;
    }

    /// What the segment is read through.
    fn file(&mut self, segment: &Segment) -> Result<Arc<dyn File>, IoFailure> {
        match &self.file {
            Some((number, file)) if *number == segment.number() && !segment.is_open() => {
                return Ok(Arc::clone(file));
            }
            _ => {}
        }
        let file = segment.device()?;
        self.file = (!segment.is_open()).then(|| (segment.number(), Arc::clone(&file)));
        Ok(file)
    }

    /// The bytes from `offset`, a block boundary inside the segment, on: at least `wanted` of them,
    /// or up to the segment's end, often more.
    ///
    /// # Errors
    /// `Unreadable` with the position, whatever the device said: never less than was asked.
    pub(crate) fn load(
        &mut self,
        channel: &mut dyn Channel,
        segment: &Segment,
        offset: u64,
        wanted: u64,
    ) -> Result<&[u8]> {
        let room = segment.size().saturating_sub(offset);
        let wanted = wanted.min(room);
        if !self.covers(segment, offset, wanted) {
            let whole = |length: u64| length.min(room).next_multiple_of(to_u64(BLOCK));
            let (least, most) = (whole(wanted), whole(wanted.max(self.step)));
            match self.read(channel, segment, offset, most) {
                // What is wanted may be readable, and its neighbour not.
                Err(_) if least < most => self.read(channel, segment, offset, least)?,
                other => other?,
            }
        }
        let skip = to_usize(offset - self.start);
        Ok(self.buffer.as_ref().map_or(&[], |buffer| &buffer[skip..]))
    }

    /// Whether the bytes from `offset` on are loaded, `wanted` of them or up to the segment's end.
    pub(crate) fn covers(&self, segment: &Segment, offset: u64, wanted: u64) -> bool {
        let wanted = wanted.min(segment.size().saturating_sub(offset));
        let loaded = self.buffer.as_ref().map_or(0, |buffer| to_u64(buffer.len()));
        self.segment == segment.number()
            && self.start <= offset
            && offset + wanted <= self.start + loaded
    }

    /// Takes over bytes that were read elsewhere, from `start` on; hands back its own buffer.
    pub(crate) fn adopt(
        &mut self,
        segment: &Segment,
        start: u64,
        buffer: AlignedBuf,
    ) -> Option<AlignedBuf> {
        self.bytes_read += to_u64(buffer.len());
        (self.segment, self.start) = (segment.number(), start);
        self.buffer.replace(buffer)
    }

    /// As [`Window::load`], but reads no more than `wanted` bytes.
    ///
    /// # Errors
    /// As [`Window::load`].
    pub(crate) fn load_only(
        &mut self,
        channel: &mut dyn Channel,
        segment: &Segment,
        offset: u64,
        wanted: u64,
    ) -> Result<&[u8]> {
        let step = std::mem::replace(&mut self.step, 0);
        let failed = self.load(channel, segment, offset, wanted).err();
        self.step = step;
        match failed {
            Some(error) => Err(error),
            None => self.load(channel, segment, offset, wanted),
        }
    }

    fn read(
        &mut self,
        channel: &mut dyn Channel,
        segment: &Segment,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        self.segment = SegmentNumber::new(0);
        let file = self.file(segment)?;
        let length = to_usize(length);
        let mut buffer = match self.buffer.take() {
            Some(buffer) if buffer.capacity() >= length => buffer,
            _ => AlignedBuf::large(length.max(BLOCK)),
        };
        buffer.set_len(length);
        if length > 0 {
            buffer = transfer::read(channel, &file, offset, buffer)
                .map_err(|failure| unreadable(segment, offset, failure))?;
        }
        if buffer.len() < length {
            let error = io::Error::from(io::ErrorKind::UnexpectedEof);
            let failure = IoFailure::new("read", segment.path(), &error);
            return Err(unreadable(segment, offset + to_u64(buffer.len()), failure));
        }
        self.bytes_read += to_u64(length);
        (self.segment, self.start) = (segment.number(), offset);
        self.buffer = Some(buffer);
        Ok(())
    }
}

fn unreadable(segment: &Segment, offset: u64, failure: IoFailure) -> Error {
    let message = "the medium does not return bytes of the log; nothing was changed: check the \
                   device, copy what can be read, restore the rest from a copy";
    let position = Position { segment: segment.number(), offset };
    Error::new(ErrorKind::Unreadable, message)
        .at_path(segment.path())
        .at_position(position)
        .caused_by(failure)
}
