//! The write slot: whoever holds it is the leader, and nobody else writes frames.
//!
//! SLOT-1: a write or sync that failed or fell short is reported once and never repeated, and
//! nothing is written after it (LOG.md L12). SLOT-2: a durable frame is written only when every
//! frame before it is durable (LOG.md L8). SLOT-3: chain, seal time and position of a frame follow
//! those of the frame before.

use std::io;

use super::frame::{FRAME_HEADER, FrameHeader, frame_length};
use super::progress::Progress;
use super::recovery::Tail;
use super::segment::FIRST_FRAME;
use super::staging::Frame;
use super::stats::{Stats, Written};
use crate::checksum::crc32c;
use crate::error::{Error, ErrorKind};
use crate::ids::{Epoch, LogId, Position, to_u64, to_usize};
use crate::planted::{Bug, planted};
use crate::storage::{AlignedBuf, Channel, Completion, File, IoFailure, Op};
use crate::sync::Arc;

/// What every frame of an incarnation says of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) log: LogId,
    pub(crate) epoch: Epoch,
    pub(crate) nonce: u64,
}

/// What a leader needs to write, handed from leader to leader.
#[derive(Debug)]
pub(crate) struct Slot {
    channel: Box<dyn Channel>,
    identity: Identity,
    /// Header CRC of the last frame.
    chain: u32,
    seal_time_ns: u64,
    /// Where the next frame stands, unless it starts a segment.
    next: Position,
    /// Files that hold frames which were written plain and not synced since.
    dirty: Vec<Arc<dyn File>>,
    stats: Arc<Stats>,
}

impl Slot {
    pub(crate) fn new(
        channel: Box<dyn Channel>,
        identity: Identity,
        tail: &Tail,
        stats: Arc<Stats>,
    ) -> Slot {
        Slot {
            channel,
            identity,
            chain: tail.chain,
            seal_time_ns: tail.seal_time_ns,
            next: tail.position,
            dirty: Vec::new(),
            stats,
        }
    }

    /// Whether `frame` is the first of a segment.
    pub(crate) fn starts_segment(&self, frame: &Frame) -> bool {
        frame.position().segment != self.next.segment
    }

    /// Seals and writes a frame and raises the marks; hands its `buffer` back. With `durable`, it
    /// and everything before it is durable then. Checksums and the write itself take place outside
    /// the log's mutex.
    ///
    /// # Errors
    /// `Poisoned`, with the place and the LSNs. Final.
    pub(crate) fn write(
        &mut self,
        frame: &Frame,
        mut buffer: AlignedBuf,
        durable: bool,
        now_ns: u64,
        progress: &Progress,
    ) -> Result<AlignedBuf, Error> {
        if durable && !planted(Bug::PlainBeforeDurable) {
            self.sync(progress)?;
        }
        self.seal_time_ns = self.seal_time_ns.max(now_ns);
        let header = self.header_of(frame, &buffer, progress);
        let offset = header.position.offset;
        let wanted = to_usize(header.length_on_disk());
        buffer[frame.used..wanted].fill(0);
        buffer.set_len(wanted);
        self.chain = header.encode(&mut buffer);
        self.next = header.end();
        let file = Arc::clone(frame.segment.file());
        let flag = durable && !planted(Bug::SkipDurableFlag);
        let op = Op::Write { file: Arc::clone(&file), offset, buffer, durable: flag };
        let begun = self.stats.now();
        let buffer = whole(self.channel.run(op), wanted, &file).map_err(|failure| {
            let error = Error::new(ErrorKind::Poisoned, "a write of the log failed");
            let error = error.at_path(file.path()).at_position(header.position);
            let last = header.next_lsn().previous();
            let error = match header.records {
                0 => error,
                _ => error.for_lsns(header.first_lsn, last),
            };
            error.caused_by(failure.at(offset))
        })?;
        let payload = u64::from(header.payload_length);
        let (records, on_disk) = (header.records, to_u64(wanted));
        self.stats.wrote(begun, Written { records, payload, on_disk, durable });
        let last = header.next_lsn().previous();
        progress.recent.keep(&header, &buffer);
        progress.set_written(last);
        if durable {
            progress.set_durable(last);
        } else if !self.dirty.iter().any(|dirty| Arc::ptr_eq(dirty, &file)) {
            self.dirty.push(file);
        }
        Ok(buffer)
    }

    fn header_of(&self, frame: &Frame, buffer: &[u8], progress: &Progress) -> FrameHeader {
        let position = frame.position();
        let starts = position.offset == FIRST_FRAME && position.segment == self.next.segment.next();
        assert!(starts || position == self.next, "SLOT-3: a frame at {position} out of order");
        let payload = &buffer[FRAME_HEADER..frame.used];
        #[allow(clippy::cast_possible_truncation, reason = "a segment is at most 4 GiB")]
        let payload_length = payload.len() as u32;
        debug_assert_eq!(frame_length(to_u64(payload.len())) % 4096, 0);
        FrameHeader {
            log: self.identity.log,
            position,
            epoch: self.identity.epoch,
            nonce: self.identity.nonce,
            first_lsn: frame.first_lsn,
            durable_lsn: progress.durable(),
            seal_time_ns: self.seal_time_ns,
            records: frame.records,
            payload_length,
            payload_crc: crc32c(payload),
            chain: self.chain,
            kind: frame.kind,
            catalog: progress.catalog(),
        }
    }

    /// Makes every frame that was written plain durable, with one sync for each file that holds
    /// some, and raises the durable mark.
    ///
    /// # Errors
    /// `Poisoned`. Final: what a failed sync lost, no other sync brings back.
    pub(crate) fn sync(&mut self, progress: &Progress) -> Result<(), Error> {
        if self.dirty.is_empty() {
            return Ok(());
        }
        for file in std::mem::take(&mut self.dirty) {
            self.stats.syncs.count();
            let mut result = self.channel.run(Op::Sync { file: Arc::clone(&file) }).result;
            if planted(Bug::RetrySync) && result.is_err() {
                result = self.channel.run(Op::Sync { file: Arc::clone(&file) }).result;
            }
            if let Err(failure) = result {
                let error = Error::new(ErrorKind::Poisoned, "a sync of the log failed");
                return Err(error.at_path(file.path()).caused_by(failure));
            }
        }
        progress.set_durable(progress.written());
        Ok(())
    }
}

/// The buffer of a write that moved all of its bytes.
fn whole(
    completion: Completion,
    wanted: usize,
    file: &Arc<dyn File>,
) -> Result<AlignedBuf, IoFailure> {
    let moved = completion.result?;
    let full = moved == wanted || planted(Bug::ShortWriteCounts);
    match completion.buffer {
        Some(buffer) if full => Ok(buffer),
        _ => {
            let text = format!("only {moved} of {wanted} bytes were written");
            let error = io::Error::new(io::ErrorKind::WriteZero, text);
            Err(IoFailure::new("write", file.path(), &error))
        }
    }
}
