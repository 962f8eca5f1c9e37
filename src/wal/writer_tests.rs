//! A small writer of frames for tests: one frame at a time, no groups, no threads. What it writes
//! is durable when it says so.

use std::path::Path;
use std::time::Duration;

use crate::checksum::crc32c;
use crate::clock::ManualClock;
use crate::error::Result;
use crate::ids::{Lsn, Position, StreamId, to_u64, to_usize};
use crate::sim::SimDisk;
use crate::storage::{AlignedBuf, Channel, Directory, Op, Storage};
use crate::sync::Arc;
use crate::wal::frame::{FRAME_HEADER, FrameHeader, FrameKind, frame_length};
use crate::wal::index::{SegmentEntry, SegmentIndex};
use crate::wal::log_file::LogFile;
use crate::wal::record::{self, RECORD_HEADER, RecordKind};
use crate::wal::recovery::{Opened, RecoverOptions, RecoveryReport, Tail, recover};
use crate::wal::recycle::Recycler;
use crate::wal::replay::Replay;
use crate::wal::segment::{FIRST_FRAME, SEGMENT_SIZE_MIN, Segment};
use crate::wal::transfer;
use crate::wal::truncate::truncate_before;

/// Where the tests' logs are.
pub(crate) const PLACE: &str = "/log";

/// A log open for writing, by hand.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) channel: Box<dyn Channel>,
    pub(crate) index: Arc<SegmentIndex>,
    pub(crate) opened: Opened,
    pub(crate) durable: Lsn,
    active: Arc<Segment>,
}

/// How the tests open.
pub(crate) fn options() -> RecoverOptions {
    let lock_wait = Duration::ZERO;
    RecoverOptions { segment_size: SEGMENT_SIZE_MIN, lock_wait, holder: "test".to_owned() }
}

/// One record as bytes of a payload.
pub(crate) fn one_record(kind: RecordKind, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; RECORD_HEADER];
    let length = u32::try_from(bytes.len()).unwrap();
    record::encode_header(&mut out, length, StreamId::DEFAULT, kind);
    out.extend(bytes);
    out
}

impl Writer {
    /// Opens the log on a disk.
    pub(crate) fn open(storage: &dyn Storage) -> Result<Writer> {
        Writer::open_at(storage, Path::new(PLACE))
    }

    /// Opens the log at a path.
    pub(crate) fn open_at(storage: &dyn Storage, path: &Path) -> Result<Writer> {
        let directory = storage.directory(path, true)?;
        let mut channel = directory.channel()?;
        let clock = ManualClock::default();
        let opened = recover(storage, &directory, &clock, &options(), &mut *channel)?;
        let index = Arc::new(SegmentIndex::new(opened.segments.clone()));
        let active = Arc::clone(&opened.segments.last().unwrap().segment);
        let durable = opened.tail.next_lsn.previous();
        Ok(Writer { directory, channel, index, opened, durable, active })
    }

    pub(crate) fn report(&self) -> &RecoveryReport {
        &self.opened.report
    }

    pub(crate) fn tail(&self) -> &Tail {
        &self.opened.tail
    }

    pub(crate) fn log_file(&mut self) -> &mut LogFile {
        &mut self.opened.log_file
    }

    /// The bytes of the next frame, and where they go; the tail moves behind it.
    pub(crate) fn seal(
        &mut self,
        kind: FrameKind,
        records: &[Vec<u8>],
    ) -> Result<(Position, AlignedBuf)> {
        let payload = records.concat();
        let length = frame_length(to_u64(payload.len()));
        if self.opened.tail.position.offset + length > self.active.size() {
            self.roll()?;
        }
        let mut buffer = AlignedBuf::zeroed(to_usize(length));
        buffer[FRAME_HEADER..FRAME_HEADER + payload.len()].copy_from_slice(&payload);
        let tail = self.opened.tail;
        let header = FrameHeader {
            log: self.opened.log,
            position: tail.position,
            epoch: self.opened.epoch,
            nonce: self.opened.nonce,
            first_lsn: tail.next_lsn,
            durable_lsn: self.durable,
            seal_time_ns: tail.seal_time_ns,
            records: u32::try_from(records.len()).unwrap(),
            payload_length: u32::try_from(payload.len()).unwrap(),
            payload_crc: crc32c(&payload),
            chain: tail.chain,
            kind,
            plain: None,
            catalog: tail.catalog,
        };
        self.opened.tail.chain = header.encode(&mut buffer);
        self.opened.tail.position = header.end();
        self.opened.tail.next_lsn = header.next_lsn();
        Ok((tail.position, buffer))
    }

    fn roll(&mut self) -> Result<()> {
        let number = self.active.number().next();
        let spare = match self.opened.spares.pop_front() {
            Some(spare) => spare,
            None => {
                let (log, size) = (self.opened.log, SEGMENT_SIZE_MIN);
                let channel = &mut *self.channel;
                Arc::new(Segment::prepare(self.active.home(), log, number, size, channel)?)
            }
        };
        assert_eq!(spare.number(), number);
        let first_lsn = self.opened.tail.next_lsn;
        self.index.push(SegmentEntry { segment: Arc::clone(&spare), first_lsn });
        self.active = spare;
        self.opened.tail.position = Position { segment: number, offset: FIRST_FRAME };
        Ok(())
    }

    /// Starts writing a frame; nothing waits for it.
    pub(crate) fn start(&mut self, kind: FrameKind, records: &[Vec<u8>]) -> Result<Position> {
        let (position, buffer) = self.seal(kind, records)?;
        let file = Arc::clone(self.active.file());
        let op = Op::Write { file, offset: position.offset, buffer, durable: false };
        self.channel.submit(op);
        Ok(position)
    }

    /// Writes a frame without making it durable.
    pub(crate) fn plain(&mut self, records: &[Vec<u8>]) -> Result<Position> {
        let (position, buffer) = self.seal(FrameKind::Records, records)?;
        let file = Arc::clone(self.active.file());
        transfer::write_all(&mut *self.channel, &file, position.offset, buffer, false)?;
        Ok(position)
    }

    /// Writes a frame, durable.
    pub(crate) fn frame(&mut self, kind: FrameKind, records: &[Vec<u8>]) -> Result<Position> {
        let (position, buffer) = self.seal(kind, records)?;
        let file = Arc::clone(self.active.file());
        transfer::write_all(&mut *self.channel, &file, position.offset, buffer, true)?;
        self.durable = self.opened.tail.next_lsn.previous();
        Ok(position)
    }

    /// Appends one user record, durable.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<Position> {
        self.frame(FrameKind::Records, &[one_record(RecordKind::User, bytes)])
    }

    /// Puts the durable LSN into `LOG`, as at rotation or close.
    pub(crate) fn write_log(&mut self, clean: bool) -> Result<()> {
        let mut state = *self.opened.log_file.state();
        state.durable_lsn = self.durable;
        state.durable_segment = self.index.segment_of(self.durable).unwrap();
        state.clean = clean;
        self.opened.log_file.write_slot(state, &mut *self.channel)?;
        Ok(())
    }

    /// Gives up what lies before `lsn`; no file is kept.
    pub(crate) fn truncate(&mut self, lsn: Lsn) -> Result<Lsn> {
        let known = self.opened.segments.len() - 1;
        self.opened.segments.drain(..known);
        let mut recycler = Recycler::new(Arc::clone(self.active.home()), 0, SEGMENT_SIZE_MIN);
        let (log_file, channel) = (&mut self.opened.log_file, &mut *self.channel);
        truncate_before(lsn, self.durable, &self.index, log_file, channel, &mut recycler)
    }

    /// Every user record from `from` on that is durable.
    pub(crate) fn read(&self, from: u64) -> Result<Vec<(u64, Vec<u8>)>> {
        let mut replay = self.replay(Lsn::new(from), false);
        let mut records = Vec::new();
        while let Some(record) = replay.next() {
            let record = record?;
            records.push((record.lsn.get(), record.payload.to_vec()));
        }
        Ok(records)
    }

    /// A replay of what is durable.
    pub(crate) fn replay(&self, from: Lsn, internal: bool) -> Replay {
        let (index, directory) = (Arc::clone(&self.index), Arc::clone(&self.directory));
        Replay::new(index, directory, self.opened.log, from, self.durable, internal)
    }

    /// Closes cleanly.
    pub(crate) fn close(mut self) -> Result<()> {
        self.frame(FrameKind::Closing, &[])?;
        self.write_log(true)
    }
}

/// A disk without delays and without traces.
pub(crate) fn disk(seed: u64) -> SimDisk {
    SimDisk::new(seed)
}
