//! A copy of the log beside its running writer.
//!
//! BACKUP-1: the copy ends with the record that was durable when it began; what the writer adds
//! meanwhile is not in it. BACKUP-2: `LOG` is written last, when every copied frame was read back
//! and verified. BACKUP-3: before anything else a file says that this is an unfinished copy,
//! durably; it goes when `LOG` is there. Whoever opens a directory with that file and without `LOG`
//! is refused: an unfinished copy is not taken for a new log.

use std::path::{Path, PathBuf};

use super::core::{Core, closed};
use super::frame::{FRAME_HEADER, FrameHeader};
use super::home::Home;
use super::index::{SegmentEntry, SegmentIndex};
use super::log_file::{LOG_NAME, LOG_UNFINISHED, LogFile, LogState};
use super::pins::Pin;
use super::replay::Replay;
use super::segment::{FIRST_FRAME, Segment, SegmentHeader, file_name, parse_name};
use super::transfer;
use super::wal::Wal;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, Position, to_u64, to_usize};
use crate::storage::{AlignedBuf, BLOCK, Channel, Directory, IoFailure, OpenMode};
use crate::sync::Arc;

const LOCK_NAME: &str = "LOCK";
/// What an unfinished copy has.
pub(super) const BACKUP_UNFINISHED: &str = "BACKUP";
/// Bytes of one read and one write.
const PIECE: u64 = 1 << 20;

/// What [`Wal::backup`] has copied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// The directory of the copy.
    pub path: PathBuf,
    /// The copy's first LSN.
    pub first_lsn: Lsn,
    /// Its last record: the one that was durable when the backup began.
    pub last_lsn: Lsn,
    /// How many segments it has.
    pub segments: u64,
    /// Bytes of these segments.
    pub bytes: u64,
}

/// What is copied.
struct Extent {
    state: LogState,
    entries: Vec<SegmentEntry>,
    /// The last record, and where its frame ends.
    through: Lsn,
    records_end: Position,
    /// Where the copy ends: behind the newest barrier, if that stands behind the last record.
    end: Position,
}

impl Wal {
    /// Copies the log to another directory, up to the record that is durable now, while it goes on
    /// being written. The copy is verified, on stable storage when this returns, and opens as a log
    /// of its own with the same records, LSNs and [`log_id`](Wal::log_id). Do not mix files of the
    /// two.
    ///
    /// The destination must not exist, be empty, or hold what a backup left that failed. What is
    /// copied is held by a pin named `backup` meanwhile, so the disk may need more space than
    /// otherwise. Appends do not wait for it.
    ///
    /// After a crash or an error the destination holds no usable copy and does not open: remove it,
    /// or back up to it again. (Where that came before anything was made, it is an empty directory,
    /// and opens as a new log.) The log itself is
    /// not affected, also not when the destination's disk is full. A poisoned log is not copied:
    /// open it again first.
    ///
    /// # Errors
    /// `Invalid` if the destination is not empty, `Locked` if somebody else uses it; `DiskFull` and
    /// `Io` there; `Corrupt` and `Unreadable` if records of this log are damaged; `Poisoned`,
    /// `Closed`, `Forked`.
    ///
    /// ```
    /// use sawmill::{Wal, WalOptions};
    /// # let place = tempfile::tempdir()?;
    /// # let options = WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = Wal::open(place.path().join("log"), options.clone())?;
    /// let lsn = wal.append(b"worth keeping")?;
    /// let backup = wal.backup(place.path().join("copy"))?;
    /// assert_eq!(backup.last_lsn, lsn);
    /// wal.append(b"too late for the copy")?;
    /// let copy = Wal::open(&backup.path, options)?;
    /// assert_eq!(copy.get(lsn)?.map(|record| record.payload), Some(b"worth keeping".to_vec()));
    /// assert_eq!(copy.last_lsn(), lsn);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn backup(&self, destination: impl AsRef<Path>) -> Result<Backup> {
        let core = self.core();
        core.check()?;
        let directory = core.storage.directory(destination.as_ref(), true)?;
        check_free(&*directory)?;
        let holder = format!("a backup by process {}", std::process::id());
        let locked = directory.lock(LOCK_NAME, &holder)?.map_err(|holder| {
            let message = format!("somebody else uses this directory: {}", holder.trim_end());
            Error::new(ErrorKind::Locked, message).at_path(directory.path())
        })?;
        // Somebody else may have made a copy here until then.
        check_free(&*directory)?;
        let pin = self.pin_start()?;
        let begun = begin(&*directory).and_then(|()| Ok(clear(&*directory)?));
        let outcome = begun.and_then(|()| core.copy_to(&directory));
        if outcome.is_err() {
            clear(&*directory).ok();
        }
        drop((locked, pin));
        outcome
    }

    /// Pins everything that the log has.
    fn pin_start(&self) -> Result<Pin> {
        loop {
            match self.pin("backup", self.first_lsn()) {
                // Truncated in between.
                Err(error) if error.kind() == ErrorKind::Invalid => {}
                outcome => return outcome,
            }
        }
    }
}

impl Core {
    fn copy_to(&self, directory: &Arc<dyn Directory>) -> Result<Backup> {
        let extent = self.extent()?;
        let mut reading = self.index.channel(&*self.directory)?;
        let mut writing = directory.channel()?;
        for entry in &extent.entries {
            let last = entry.segment.number() == extent.end.segment;
            let used = if last { extent.end.offset } else { entry.segment.size() };
            let channels: [&mut dyn Channel; 2] = [&mut *reading, &mut *writing];
            self.copy_segment(&entry.segment, used, &**directory, channels)?;
        }
        self.index.give_back(reading);
        directory.sync()?;
        self.verify(&extent, directory)?;
        LogFile::create(&**directory, self.copied_state(&extent), &mut *writing)?;
        directory.unlink(BACKUP_UNFINISHED)?;
        directory.sync()?;
        Ok(Backup {
            path: directory.path().to_owned(),
            first_lsn: extent.state.start_lsn,
            last_lsn: extent.through,
            segments: to_u64(extent.entries.len()),
            bytes: extent.entries.iter().map(|entry| entry.segment.size()).sum(),
        })
    }

    /// From the start to the last durable record. The start does not move: it is pinned.
    fn extent(&self) -> Result<Extent> {
        let state = self.hold_preparer().as_ref().map(|preparer| *preparer.log_file.state());
        let state = state.ok_or_else(closed)?;
        let through = self.progress.durable();
        let mut entries = self.index.reaching(Lsn::ZERO);
        let (index, source) = (Arc::clone(&self.index), Arc::clone(&self.directory));
        let records_end = end_of(Replay::new(index, source, self.log, through, through, true))?;
        let mut end = records_end;
        if state.barrier >= end {
            // Nothing was appended since the log was opened, and `LOG` names this barrier.
            let holds = |entry: &&SegmentEntry| entry.segment.number() == state.barrier.segment;
            let entry = entries.iter().find(holds);
            let header = entry.map(|entry| self.header_at(entry, state.barrier)).transpose()?;
            end = header.flatten().ok_or_else(|| lost(state.barrier))?.end();
        }
        entries.retain(|entry| entry.segment.number() <= end.segment);
        Ok(Extent { state, entries, through, records_end, end })
    }

    fn header_at(&self, entry: &SegmentEntry, position: Position) -> Result<Option<FrameHeader>> {
        let mut channel = self.index.channel(&*self.directory)?;
        let file = entry.segment.device()?;
        let block = transfer::read_exact(&mut *channel, &file, position.offset, BLOCK)?;
        self.index.give_back(channel);
        let header = FrameHeader::decode(&block[..FRAME_HEADER], self.log, position);
        Ok(header.map(|(header, _)| header))
    }

    /// Copies the first `used` bytes of a segment, and zeros behind them. As when one is prepared,
    /// its header comes last, when the rest is durable (SEGMENT-1).
    fn copy_segment(
        &self,
        segment: &Segment,
        used: u64,
        directory: &dyn Directory,
        [reading, writing]: [&mut dyn Channel; 2],
    ) -> Result<()> {
        let (source, size) = (segment.device()?, segment.size());
        let file = directory.open(&file_name(segment.number()), OpenMode::CreateDirect)?;
        file.allocate(size)?;
        let mut offset = FIRST_FRAME;
        while offset < size {
            let end = if offset < used { used } else { size };
            let length = to_usize((end - offset).min(PIECE));
            let buffer = if offset < used {
                transfer::read_exact(reading, &source, offset, length)?
            } else {
                AlignedBuf::zeroed(length)
            };
            transfer::write_all(writing, &file, offset, buffer, false)?;
            offset += to_u64(length);
        }
        file.sync()?;
        let mut block = AlignedBuf::zeroed(BLOCK);
        SegmentHeader { log: self.log, number: segment.number(), size }.encode(&mut block);
        transfer::write_all(writing, &file, 0, block, true)?;
        Ok(())
    }

    /// Reads every frame of the copy back.
    fn verify(&self, extent: &Extent, directory: &Arc<dyn Directory>) -> Result<()> {
        let home = Home::new(Arc::clone(directory));
        let copied = |entry: &SegmentEntry| {
            let (number, size) = (entry.segment.number(), entry.segment.size());
            let header = SegmentHeader { log: self.log, number, size };
            let segment = Arc::new(Segment::sealed(&home, &header));
            SegmentEntry { segment, first_lsn: entry.first_lsn }
        };
        let entries = extent.entries.iter().map(copied).collect();
        let index = Arc::new(SegmentIndex::new(entries));
        let (target, through) = (Arc::clone(directory), extent.through);
        let end = end_of(Replay::new(index, target, self.log, Lsn::ZERO, through, true))?;
        if end == extent.records_end {
            return Ok(());
        }
        let message = format!("the copy ends at {end} instead of {}", extent.records_end);
        Err(Error::new(ErrorKind::Corrupt, message).at_path(directory.path()))
    }

    /// What the copy's `LOG` says: the same, but for how far it is durable.
    fn copied_state(&self, extent: &Extent) -> LogState {
        let holder = self.index.segment_of(extent.through).unwrap_or(extent.state.start_segment);
        LogState {
            durable_lsn: extent.through,
            durable_segment: holder.max(extent.state.durable_segment),
            clean: false,
            ..extent.state
        }
    }
}

/// Reads to the end; where that is.
fn end_of(mut replay: Replay) -> Result<Position> {
    while let Some(record) = replay.next() {
        match record {
            // The copy has the tombstone.
            Err(error) if error.kind() == ErrorKind::Lost => {}
            other => drop(other?),
        }
    }
    Ok(replay.position())
}

fn lost(position: Position) -> Error {
    let message = "the barrier that LOG names is damaged: restore the segment from a copy";
    Error::new(ErrorKind::Corrupt, message).at_position(position)
}

/// That nothing is here, or nothing but what a failed backup left (BACKUP-3).
fn check_free(directory: &dyn Directory) -> Result<()> {
    let names = directory.list()?;
    let unfinished = names.iter().any(|name| name == BACKUP_UNFINISHED);
    let left = |name: &str| {
        unfinished
            && (parse_name(name).is_some() || [BACKUP_UNFINISHED, LOG_UNFINISHED].contains(&name))
    };
    if names.iter().all(|name| name == LOCK_NAME || left(name)) {
        return Ok(());
    }
    let message = "a backup goes to a new or empty directory, and this one is not empty";
    Err(Error::new(ErrorKind::Invalid, message).at_path(directory.path()))
}

/// Says that what is here is not a whole copy yet (BACKUP-3).
fn begin(directory: &dyn Directory) -> Result<()> {
    Ok(mark(directory)?)
}

fn mark(directory: &dyn Directory) -> Result<(), IoFailure> {
    if !directory.list()?.iter().any(|name| name == BACKUP_UNFINISHED) {
        directory.open(BACKUP_UNFINISHED, OpenMode::Create)?;
    }
    directory.sync()
}

/// Removes what a backup that failed has made, to give the space back, but for what says that it
/// is unfinished. `LOG` goes first: without it nothing here is taken for a copy.
fn clear(directory: &dyn Directory) -> Result<(), IoFailure> {
    let names = directory.list()?;
    if names.iter().any(|name| name == LOG_NAME) {
        // It may be gone already.
        mark(directory)?;
        directory.unlink(LOG_NAME)?;
        directory.sync()?;
    }
    let made = |name: &&String| parse_name(name).is_some() || *name == LOG_UNFINISHED;
    for name in names.iter().filter(made) {
        directory.unlink(name)?;
    }
    directory.sync()
}
