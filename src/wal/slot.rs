//! Write slots, and the one place where frames are sealed.
//!
//! SLOT-1: a write or sync that failed or fell short is reported once and never repeated (LOG.md
//! L12). SLOT-3: chain, seal time and position of a frame follow those of the frame before.
//! SLOT-4: a slot has nothing in flight unless a leader has it: who submits, reaps.

use std::io;

use super::compress::{Compression, Packer};
use super::flight::{Arrival, Landed};
use super::frame::{FRAME_HEADER, FrameHeader, FrameKind, frame_length};
use super::progress::Progress;
use super::receipt::Facts;
use super::recovery::Tail;
use super::segment::FIRST_FRAME;
use super::staging::Frame;
use super::stats::{Stats, Written};
use crate::checksum::crc32c;
use crate::error::{Error, ErrorKind};
use crate::ids::{Epoch, LogId, Lsn, Position, SegmentNumber, to_u64, to_usize};
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

/// What the next frame's header follows. Whoever has taken it out of the log's state seals; nobody
/// else does, so frames are sealed in the order in which they were taken out.
#[derive(Debug)]
pub(crate) struct Sealer {
    identity: Identity,
    /// Header CRC of the last frame.
    chain: u32,
    seal_time_ns: u64,
    /// Where the next frame stands, unless it starts a segment.
    next: Position,
    packer: Packer,
    /// Bytes that compressed frames of a segment have left, of which staging does not know yet.
    saved: Option<(SegmentNumber, u64)>,
}

/// What a frame's header says of the records before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attests {
    pub(crate) durable: Lsn,
    pub(crate) catalog: Lsn,
}

/// A frame with its header, ready to be written.
#[derive(Debug)]
pub(crate) struct Sealed {
    header: FrameHeader,
    buffer: AlignedBuf,
    /// The number of its staging buffer.
    number: usize,
    file: Arc<dyn File>,
    durable: bool,
}

impl Sealer {
    pub(crate) fn new(identity: Identity, tail: &Tail, compression: Compression) -> Sealer {
        Sealer {
            identity,
            chain: tail.chain,
            seal_time_ns: tail.seal_time_ns,
            next: tail.position,
            packer: Packer::new(compression),
            saved: None,
        }
    }

    /// What the last frame has left of its place, in which segment.
    pub(super) fn take_saved(&mut self) -> Option<(SegmentNumber, u64)> {
        self.saved.take()
    }

    /// Whether `frame` is the first of a segment.
    pub(crate) fn starts_segment(&self, frame: &Frame) -> bool {
        frame.position().segment != self.next.segment
    }

    /// Checksums a frame and writes its header. Outside the log's mutex.
    pub(crate) fn seal(
        &mut self,
        frame: &Frame,
        mut buffer: AlignedBuf,
        durable: bool,
        now_ns: u64,
        attests: Attests,
    ) -> Sealed {
        self.seal_time_ns = self.seal_time_ns.max(now_ns);
        let packed = match frame.kind {
            FrameKind::Records => self.packer.pack(&mut buffer, frame.used),
            FrameKind::Barrier
            | FrameKind::Attestation
            | FrameKind::Closing
            | FrameKind::Tombstone => None,
        };
        let used = packed.unwrap_or(frame.used);
        let plain = packed.map(|_| length_of(&buffer[FRAME_HEADER..frame.used]));
        let header = self.header_of(frame, &buffer[FRAME_HEADER..used], plain, attests);
        let wanted = to_usize(header.length_on_disk());
        buffer[used..wanted].fill(0);
        buffer.set_len(wanted);
        self.chain = header.encode(&mut buffer);
        self.next = header.end();
        if let Some(plain) = plain {
            let saved = frame_length(u64::from(plain)) - header.length_on_disk();
            self.saved = Some((header.position.segment, saved));
        }
        let file = Arc::clone(frame.segment.file());
        Sealed { header, buffer, number: frame.buffer, file, durable }
    }

    fn header_of(
        &self,
        frame: &Frame,
        payload: &[u8],
        plain: Option<u32>,
        attests: Attests,
    ) -> FrameHeader {
        let mut position = frame.position();
        let starts = position.offset == FIRST_FRAME && position.segment == self.next.segment.next();
        if !starts && self.packer.is_on() && position.segment == self.next.segment {
            // It stands where the one before ends; staging may have reserved more for that one.
            assert!(position.offset >= self.next.offset, "SLOT-3: a frame before its place");
            position = self.next;
        }
        assert!(starts || position == self.next, "SLOT-3: a frame at {position} out of order");
        let payload_length = length_of(payload);
        debug_assert_eq!(frame_length(to_u64(payload.len())) % 4096, 0);
        FrameHeader {
            log: self.identity.log,
            position,
            epoch: self.identity.epoch,
            nonce: self.identity.nonce,
            first_lsn: frame.first_lsn,
            durable_lsn: attests.durable,
            seal_time_ns: self.seal_time_ns,
            records: frame.records,
            payload_length,
            payload_crc: crc32c(payload),
            chain: self.chain,
            kind: frame.kind,
            plain,
            catalog: attests.catalog,
        }
    }
}

fn length_of(payload: &[u8]) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "a segment is at most 4 GiB")]
    let length = payload.len() as u32;
    length
}

/// A frame that was submitted.
#[derive(Debug)]
struct Writing {
    token: u64,
    /// Its number among all flights.
    serial: u64,
    header: FrameHeader,
    number: usize,
    wanted: usize,
    capacity: usize,
    file: Arc<dyn File>,
    durable: bool,
    begun: u64,
}

/// A way to the files: one leader at a time has it, several of them make several writes at once.
#[derive(Debug)]
pub(crate) struct Slot {
    channel: Box<dyn Channel>,
    writing: Vec<Writing>,
    stats: Arc<Stats>,
}

/// What became of a frame: its number among the flights, and what landed or why it did not.
pub(crate) struct Reaped {
    pub(crate) serial: u64,
    pub(crate) outcome: Result<Landed, Error>,
    /// The number and the size of its staging buffer, which an error does not hand back.
    pub(crate) number: usize,
    pub(crate) capacity: usize,
}

impl Slot {
    pub(crate) fn new(channel: Box<dyn Channel>, stats: Arc<Stats>) -> Slot {
        Slot { channel, writing: Vec::new(), stats }
    }

    /// Whether nothing was submitted that was not reaped.
    pub(crate) fn is_empty(&self) -> bool {
        self.writing.is_empty()
    }

    /// Whether one more may be submitted without waiting for another.
    pub(crate) fn has_room(&self) -> bool {
        self.writing.len() < self.channel.depth()
    }

    /// Starts the write of a frame. The system may learn of it only when [`Slot::start`] or
    /// [`Slot::reap`] is called.
    pub(crate) fn submit(&mut self, sealed: Sealed, serial: u64) {
        let Sealed { header, buffer, number, file, durable } = sealed;
        let (wanted, capacity) = (buffer.len(), buffer.capacity());
        let flag = durable && !planted(Bug::SkipDurableFlag);
        let offset = header.position.offset;
        let begun = self.stats.now();
        let op = Op::Write { file: Arc::clone(&file), offset, buffer, durable: flag };
        let token = self.channel.submit(op);
        let writing =
            Writing { token, serial, header, number, wanted, capacity, file, durable, begun };
        self.writing.push(writing);
    }

    /// Has what was submitted begin.
    pub(crate) fn start(&mut self) {
        self.channel.start();
    }

    /// Waits for one of the frames that were submitted; `None` if there is none. What could not
    /// be written is `Poisoned`, with the place and the LSNs. Final.
    pub(crate) fn reap(&mut self, progress: &Progress) -> Option<Reaped> {
        let completion = self.channel.complete()?;
        let at = self.writing.iter().position(|writing| writing.token == completion.token);
        let Some(at) = at else { unreachable!("SLOT-4: only frames are reaped here") };
        let writing = self.writing.swap_remove(at);
        let Writing { serial, number, capacity, .. } = writing;
        let ended_ns = self.stats.now();
        let outcome = writing.landed(completion).map(|buffer| {
            let header = &writing.header;
            let took_ns = ended_ns.saturating_sub(writing.begun);
            self.stats.wrote(took_ns, &writing.written());
            let recent = progress.recent.copy(header, &buffer);
            let dirty = (!writing.durable).then(|| Arc::clone(&writing.file));
            let facts = Some(Facts::of(header, writing.durable));
            let arrival = Arrival { recent, dirty, ended_ns, took_ns, facts, failed: None };
            Landed { buffer, arrival }
        });
        Some(Reaped { serial, outcome, number, capacity })
    }

    /// Makes what was written plain to these files durable, with one sync for each. Only while
    /// nothing is in flight.
    ///
    /// # Errors
    /// `Poisoned`. Final: what a failed sync lost, no other sync brings back.
    pub(crate) fn sync(&mut self, files: Vec<Arc<dyn File>>) -> Result<(), Error> {
        for file in files {
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
        Ok(())
    }
}

impl Writing {
    /// The buffer, if the write moved all of its bytes.
    fn landed(&self, completion: Completion) -> Result<AlignedBuf, Error> {
        let header = &self.header;
        whole(completion, self.wanted, &self.file).map_err(|failure| {
            let error = Error::new(ErrorKind::Poisoned, "a write of the log failed");
            let error = error.at_path(self.file.path()).at_position(header.position);
            let last = header.next_lsn().previous();
            let error = match header.records {
                0 => error,
                _ => error.for_lsns(header.first_lsn, last),
            };
            error.caused_by(failure.at(header.position.offset))
        })
    }

    fn written(&self) -> Written {
        Written {
            records: self.header.records,
            payload: u64::from(self.header.plain.unwrap_or(self.header.payload_length)),
            on_disk: to_u64(self.wanted),
            durable: self.durable,
        }
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
