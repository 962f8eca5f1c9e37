//! Explicit salvage: what is damaged is kept aside, and a tombstone is written over it, so that the
//! log opens again and every reader is told once what it lost (LOG.md L15).
//!
//! REPAIR-1: nothing is written unless the caller has named exactly the records that are lost.
//! REPAIR-2: no byte is written over before a copy of it is durable in `quarantine/`.
//! REPAIR-3: after a crash at any place the log is refused as before, with the same records lost or
//! fewer, and repairing it again ends what was begun; or it opens, with all tombstones.
//! REPAIR-4: of several tombstones of one hole the last is written first: what is not reached yet
//! is still found damaged from the first. REPAIR-5: no tombstone reaches the frame behind the hole.

use std::path::PathBuf;

use super::RecoverOptions;
use super::files::FileFault;
use super::inventory;
use super::quarantine::Quarantine;
use super::survey::{Hole, Survey};
use crate::checksum::crc32c;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogId, Lsn, Position, SegmentNumber, to_u64};
use crate::storage::{AlignedBuf, BLOCK, Channel, Directory, File, LockKind, OpenMode};
use crate::sync::Arc;
use crate::wal::frame::{FRAME_HEADER, FrameHeader, FrameKind};
use crate::wal::log_file::LOG_NAME;
use crate::wal::segment::{FIRST_FRAME, SegmentHeader, file_name};
use crate::wal::tombstone::{Resume, TOMBSTONE, Tombstone};
use crate::wal::transfer;

/// A segment until it takes the place of a damaged one.
const UNFINISHED: &str = ".repair";
/// Bytes of one read and one write.
const PIECE: u64 = 1 << 20;

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Repaired {
    /// First and last of each range of records given up, this time or before.
    pub(crate) lost: Vec<(Lsn, Lsn)>,
    /// Where the damaged bytes are now.
    pub(crate) quarantined: Vec<PathBuf>,
    /// Blocks that could not be read: zeros stand for them in those files.
    pub(crate) unreadable_blocks: u64,
    /// Tombstones written.
    pub(crate) tombstones: u64,
    /// Segment files made anew.
    pub(crate) rebuilt: u64,
}

/// Repairs the log in `directory`, giving up the records of `accepted` (first and last of each
/// range) and no others.
///
/// # Errors
/// `Invalid` if what is damaged is not exactly that; `Locked`; as [`Survey::take`]; `DiskFull` and
/// `Io`.
pub(crate) fn repair(
    directory: &Arc<dyn Directory>,
    clock: &dyn Clock,
    options: &RecoverOptions,
    accepted: &[(Lsn, Lsn)],
) -> Result<Repaired> {
    let _lock = inventory::lock(&**directory, clock, options)?;
    await_writes(&**directory, clock, options)?;
    let survey = Survey::take(directory)?;
    check(&survey, accepted)?;
    survey.holes.iter().try_for_each(|hole| check_room(&survey, hole))?;
    let mut repair = Repair {
        directory,
        channel: directory.channel()?,
        quarantine: Quarantine::new(directory),
        log: survey.files.state.log,
        time_ns: clock.wall_ns(),
        done: Repaired::default(),
    };
    if !survey.is_sound() {
        repair.run(&survey)?;
        let after = Survey::take(directory)?;
        if !after.is_sound() && after.has_unreadable() {
            let message = "what a repair has written cannot be read: check the device, and repair \
                           the log again with the same words";
            return Err(Error::new(ErrorKind::Unreadable, message).at_path(directory.path()));
        }
        if !after.is_sound() {
            let message = "the log is still damaged after the repair: the disk does not hold what \
                           is written, or something else writes the files";
            return Err(Error::new(ErrorKind::Corrupt, message).at_path(directory.path()));
        }
        repair.done.lost = after.lost;
    } else {
        repair.done.lost = survey.lost;
    }
    (repair.done.quarantined, repair.done.unreadable_blocks) = repair.quarantine.into_parts();
    Ok(repair.done)
}

/// Waits until no write of a killed process is in flight, and syncs: what is read afterwards is
/// what a crash would leave. With the directory's lock held nobody begins another.
fn await_writes(
    directory: &dyn Directory,
    clock: &dyn Clock,
    options: &RecoverOptions,
) -> Result<()> {
    for name in directory.list()? {
        if name == LOG_NAME || crate::wal::segment::parse_name(&name).is_some() {
            let file = directory.open(&name, OpenMode::WriteDirect)?;
            inventory::lock_file(&*file, clock, options.lock_wait)?;
            file.sync()?;
        }
    }
    directory.sync()?;
    Ok(())
}

/// That exactly what is damaged was accepted (REPAIR-1). What was given up before may be named
/// again: a repair that was interrupted is repeated with the same words.
fn check(survey: &Survey, accepted: &[(Lsn, Lsn)]) -> Result<()> {
    let refuse =
        |message: String| Err(Error::new(ErrorKind::Invalid, message).at_path(&survey.path));
    let damaged: Vec<_> = survey.ranges().collect();
    let list = || {
        let ranges: Vec<_> = damaged.iter().map(|(a, b)| format!("{a}..{b}")).collect();
        if ranges.is_empty() { "no record".to_owned() } else { ranges.join(", ") }
    };
    if !survey.senseless.is_empty() {
        return refuse(
            "a frame whose checksum holds makes no sense: no repair can say what it was".to_owned(),
        );
    }
    let surplus =
        accepted.iter().find(|range| !damaged.contains(range) && !survey.lost.contains(range));
    if let Some((first, last)) = surplus {
        return refuse(format!(
            "records {first}..{last} are not what is damaged, and nothing was changed: damaged \
             is {}",
            list()
        ));
    }
    if let Some((first, last)) = damaged.iter().find(|range| !accepted.contains(range)) {
        return refuse(format!(
            "records {first}..{last} are damaged too and were not accepted as lost, and \
             nothing was changed: damaged is {}",
            list()
        ));
    }
    Ok(())
}

impl Survey {
    /// First and last of each range of records that are damaged and not given up yet.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (Lsn, Lsn)> + '_ {
        let lost = self.holes.iter().filter(|hole| hole.next > hole.first);
        lost.map(|hole| (hole.first, hole.next.previous()))
    }
}

/// Where the tombstones of a hole go, in order.
fn stones(hole: &Hole) -> Vec<Position> {
    let mut stones = vec![hole.at];
    if let Some(resume) = hole.resume {
        let between = hole.at.segment.next().get()..=resume.position.segment.get();
        let starts = between
            .map(|number| Position { segment: SegmentNumber::new(number), offset: FIRST_FRAME });
        stones.extend(starts.filter(|start| *start < resume.position));
    }
    stones
}

/// That each tombstone ends before the frame behind its hole begins (REPAIR-5).
fn check_room(survey: &Survey, hole: &Hole) -> Result<()> {
    let Some(resume) = hole.resume else { return Ok(()) };
    let end = |at: Position| Position { offset: at.offset + to_u64(BLOCK), ..at };
    match stones(hole).into_iter().find(|at| end(*at) > resume.position) {
        None => Ok(()),
        Some(at) => {
            let message = "there is no room for a tombstone before the next whole frame, and \
                           nothing was changed: restore the segment from a copy";
            let error = Error::new(ErrorKind::Corrupt, message);
            Err(error.at_path(survey.path_of(at.segment)).at_position(at))
        }
    }
}

/// A repair under way. The directory is locked.
struct Repair<'a> {
    directory: &'a Arc<dyn Directory>,
    channel: Box<dyn Channel>,
    quarantine: Quarantine<'a>,
    log: LogId,
    time_ns: u64,
    done: Repaired,
}

impl Repair<'_> {
    fn run(&mut self, survey: &Survey) -> Result<()> {
        for (number, fault) in survey.faults() {
            self.rebuild(survey, number, *fault)?;
        }
        // A file with blocks that cannot be read gets a copy with zeros there: what stood behind
        // the end, nobody knows, and nothing says that it was acknowledged.
        let mut bad: Vec<_> = survey.unreadable.iter().map(|at| at.segment).collect();
        bad.dedup();
        for number in bad {
            self.rebuild(survey, number, FileFault::Unreadable)?;
        }
        for hole in &survey.holes {
            self.fill(survey, hole)?;
        }
        Ok(())
    }

    /// Puts a whole file in the place of a damaged or missing one, with all that can be read of
    /// its frames. Until the rename the log is as it was.
    fn rebuild(&mut self, survey: &Survey, number: SegmentNumber, fault: FileFault) -> Result<()> {
        let name = file_name(number);
        let size = survey.files.size(number);
        let keeps =
            !matches!(fault, FileFault::Missing | FileFault::Foreign(_) | FileFault::Number(_));
        let source = match fault {
            FileFault::Missing => None,
            FileFault::Header
            | FileFault::Foreign(_)
            | FileFault::Number(_)
            | FileFault::Length { .. }
            | FileFault::Unreadable => Some(self.directory.open(&name, OpenMode::ReadDirect)?),
        };
        if let Some(file) = &source {
            let length = file.stamp()?.length;
            self.quarantine.keep(&mut *self.channel, file, &name, 0..length)?;
        }
        let unfinished = format!("{name}{UNFINISHED}");
        crate::storage::files::remove_if_there(&**self.directory, &unfinished)?;
        let file = self.directory.open(&unfinished, OpenMode::CreateDirect)?;
        file.allocate(size)?;
        let mut offset = FIRST_FRAME;
        while offset < size {
            let end = (offset + PIECE).min(size);
            let buffer = match source.as_ref().filter(|_| keeps) {
                Some(source) => read_what_can_be(&mut *self.channel, source, offset..end)?.0,
                None => AlignedBuf::zeroed(crate::ids::to_usize(end - offset)),
            };
            transfer::write_all(&mut *self.channel, &file, offset, buffer, false)?;
            offset = end;
        }
        file.sync()?;
        SegmentHeader { log: self.log, number, size }.write(&file, &mut *self.channel)?;
        self.directory.rename(&unfinished, &name)?;
        self.directory.sync()?;
        self.done.rebuilt += 1;
        Ok(())
    }

    /// Keeps the bytes of a hole aside and writes its tombstones, the last one first (REPAIR-4).
    fn fill(&mut self, survey: &Survey, hole: &Hole) -> Result<()> {
        let stones = stones(hole);
        self.keep(survey, hole)?;
        let mut resume = hole.resume;
        for (nth, at) in stones.iter().enumerate().rev() {
            let first = nth == 0;
            let header = FrameHeader {
                log: self.log,
                position: *at,
                epoch: hole.epoch,
                nonce: hole.nonce,
                first_lsn: if first { hole.first } else { hole.next },
                durable_lsn: hole.first.previous(),
                seal_time_ns: hole.seal_time_ns,
                records: 0,
                payload_length: u32::try_from(TOMBSTONE).unwrap_or(u32::MAX),
                payload_crc: 0,
                chain: hole.chain,
                kind: FrameKind::Tombstone,
                plain: None,
                catalog: hole.catalog,
            };
            let tombstone = Tombstone {
                next: hole.next,
                durable: hole.attested,
                time_ns: self.time_ns,
                resume,
            };
            self.write(survey, &header, &tombstone)?;
            let (epoch, nonce, chain) = (hole.epoch, hole.nonce, hole.chain);
            resume = Some(Resume { position: *at, epoch, nonce, chain });
        }
        Ok(())
    }

    /// Writes one tombstone. If the place does not take it, the file gets another.
    fn write(
        &mut self,
        survey: &Survey,
        header: &FrameHeader,
        tombstone: &Tombstone,
    ) -> Result<()> {
        let mut block = AlignedBuf::zeroed(BLOCK);
        tombstone.encode(&mut block[FRAME_HEADER..]);
        let payload_crc = crc32c(&block[FRAME_HEADER..FRAME_HEADER + TOMBSTONE]);
        FrameHeader { payload_crc, ..*header }.encode(&mut block);
        let Position { segment, offset } = header.position;
        for rebuilt in [false, true] {
            let file = self.directory.open(&file_name(segment), OpenMode::WriteDirect)?;
            if !file.try_lock(0, LockKind::Exclusive)? {
                let message = "somebody writes a segment of a log that is being repaired";
                return Err(Error::new(ErrorKind::Locked, message).at_path(file.path()));
            }
            let mut copy = AlignedBuf::zeroed(BLOCK);
            copy.copy_from_slice(&block);
            let channel = &mut *self.channel;
            let written = transfer::write_all(channel, &file, offset, copy, true);
            let read = written.and_then(|_| transfer::read_exact(channel, &file, offset, BLOCK));
            match read {
                Ok(found) if found[..] == block[..] => break,
                Ok(_) | Err(_) if !rebuilt => {
                    drop(file);
                    self.rebuild(survey, segment, FileFault::Unreadable)?;
                }
                Ok(_) => {
                    let message = "a tombstone that was written does not read back";
                    let error = Error::new(ErrorKind::Corrupt, message).at_path(file.path());
                    return Err(error.at_position(header.position));
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        self.done.tombstones += 1;
        Ok(())
    }

    /// Copies a hole's bytes: up to the frame behind it, or, if there is none, all that is not
    /// blank to the end of the log (REPAIR-2).
    fn keep(&mut self, survey: &Survey, hole: &Hole) -> Result<()> {
        let last = match hole.resume {
            Some(resume) => resume.position,
            None => Position { segment: SegmentNumber::new(u64::MAX), offset: 0 },
        };
        let rebuilt: Vec<_> = survey.faults().map(|(number, _)| number).collect();
        for (number, _) in survey.files.segments.range(hole.at.segment..=last.segment) {
            if rebuilt.contains(number) {
                continue;
            }
            let name = file_name(*number);
            let file = self.directory.open(&name, OpenMode::ReadDirect)?;
            let start = if *number == hole.at.segment { hole.at.offset } else { FIRST_FRAME };
            let length = file.stamp()?.length;
            let end = if *number == last.segment { last.offset } else { length };
            if start < end {
                self.quarantine.keep(&mut *self.channel, &file, &name, start..end)?;
            }
        }
        Ok(())
    }
}

/// The bytes of a range, zeros for the blocks that the device does not return and for what lies
/// behind the end of the file; how many blocks those are.
pub(super) fn read_what_can_be(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
    range: std::ops::Range<u64>,
) -> Result<(AlignedBuf, u64)> {
    let length = crate::ids::to_usize(range.end - range.start);
    // Direct reads want whole blocks.
    let blocks = length.next_multiple_of(BLOCK);
    let mut whole = AlignedBuf::zeroed(blocks);
    let mut unreadable = 0;
    if let Ok(bytes) = transfer::read(channel, file, range.start, AlignedBuf::zeroed(blocks)) {
        whole[..bytes.len()].copy_from_slice(&bytes);
    } else {
        for at in (0..blocks).step_by(BLOCK) {
            let buffer = AlignedBuf::zeroed(BLOCK);
            match transfer::read(channel, file, range.start + to_u64(at), buffer) {
                Ok(block) => whole[at..at + block.len()].copy_from_slice(&block),
                Err(_) => unreadable += 1,
            }
        }
    }
    whole[length..].fill(0);
    whole.set_len(length);
    Ok((whole, unreadable))
}
