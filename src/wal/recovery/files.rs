//! The files of a log as they are found, each judged by itself, without writing: for looking at a
//! log that may be damaged anywhere. What opening makes of the same files is in `inventory.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::inventory;
use super::survey::no_log;
use super::walk::{Device, Segments};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogId, Lsn, SegmentNumber, to_u64};
use crate::storage::{AlignedBuf, BLOCK, Directory, File, OpenMode};
use crate::sync::Arc;
use crate::wal::backup::BACKUP_UNFINISHED;
use crate::wal::log_file::{self, LOG_LENGTH, LOG_NAME, LogState, LogVerdict};
use crate::wal::scan::Expected;
use crate::wal::segment::{
    FIRST_FRAME, HeaderFault, Segment, SegmentHeader, file_name, parse_name,
};
use crate::wal::transfer;

/// The most segments that may be missing: beyond it a stray name, not a loss, is what is wrong.
const MISSING_MAX: u64 = 1024;

/// What is wrong with a segment's file as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileFault {
    /// There is none, and `LOG` or a later segment says that there was.
    Missing,
    /// Its header does not stand.
    Header,
    /// It belongs to this log.
    Foreign(LogId),
    /// It is the file of another segment.
    Number(SegmentNumber),
    /// Its header names another length than it has.
    Length { said: u64, found: u64 },
    /// Its first block cannot be read.
    Unreadable,
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileFault::Missing => f.write_str("the segment is missing"),
            FileFault::Header => f.write_str("the segment's header is damaged"),
            FileFault::Foreign(log) => write!(f, "the file belongs to another log, {log}"),
            FileFault::Number(number) => write!(f, "the file is that of segment {number}"),
            FileFault::Length { said, found } => {
                write!(f, "the file has {found} bytes where its header says {said}")
            }
            FileFault::Unreadable => f.write_str("the segment's header cannot be read"),
        }
    }
}

/// The files of a log.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) state: LogState,
    /// The sequence in each slot of `LOG` that verifies.
    pub(super) slots: [Option<u64>; 2],
    /// What can be looked at for frames.
    pub(super) segments: Segments,
    pub(super) faults: BTreeMap<SegmentNumber, FileFault>,
    /// The last ones, whose preparation did not finish: normal.
    pub(super) unfinished: Vec<SegmentNumber>,
    /// Below the start: what a truncation did not come to remove.
    pub(super) below: Vec<SegmentNumber>,
}

impl Files {
    /// Looks at the directory.
    ///
    /// # Errors
    /// As [`Survey::take`](super::survey::Survey::take).
    pub(super) fn look(directory: &dyn Directory, device: &mut Device<'_>) -> Result<Files> {
        let names = directory.list()?;
        let numbers: Vec<SegmentNumber> =
            names.iter().filter_map(|name| parse_name(name)).collect();
        let (state, slots) = read_log(directory, device)?;
        let start = state.start_segment;
        let mut files = Files {
            state,
            slots,
            segments: Segments::new(),
            faults: BTreeMap::new(),
            unfinished: Vec::new(),
            below: numbers.iter().copied().filter(|number| *number < start).collect(),
        };
        for number in numbers.into_iter().filter(|number| *number >= start) {
            files.add(directory, device, number)?;
        }
        files.find_missing(directory)?;
        Ok(files)
    }

    fn add(
        &mut self,
        directory: &dyn Directory,
        device: &mut Device<'_>,
        number: SegmentNumber,
    ) -> Result<()> {
        let file = directory.open(&file_name(number), OpenMode::ReadDirect)?;
        let found = file.stamp()?.length;
        let header = match transfer::read(device.channel, &file, 0, AlignedBuf::zeroed(BLOCK)) {
            Ok(block) => SegmentHeader::decode(&block),
            Err(_) => {
                self.faults.insert(number, FileFault::Unreadable);
                self.know(device, number, found);
                return Ok(());
            }
        };
        let header = match header {
            Err(HeaderFault::Version(version)) => {
                return Err(inventory::newer(file.path(), version));
            }
            Err(HeaderFault::Damaged) => None,
            Ok(header) => Some(header),
        };
        let fault = match header {
            Some(header) if header.log != self.state.log => FileFault::Foreign(header.log),
            Some(header) if header.number != number => FileFault::Number(header.number),
            Some(header) if header.size != found => FileFault::Length { said: header.size, found },
            Some(_) => {
                self.know(device, number, found);
                return Ok(());
            }
            None => FileFault::Header,
        };
        let named = number <= self.state.last_named() && self.state.highest_epoch.get() > 0;
        if !named && !self.holds_frames(&file, number, header, device)? {
            self.unfinished.push(number);
            return Ok(());
        }
        self.faults.insert(number, fault);
        if matches!(fault, FileFault::Header | FileFault::Length { .. }) {
            self.know(device, number, found);
        }
        Ok(())
    }

    /// Whether a file without a valid header holds frames; what cannot be read may be some.
    fn holds_frames(
        &self,
        file: &Arc<dyn File>,
        number: SegmentNumber,
        header: Option<SegmentHeader>,
        device: &mut Device<'_>,
    ) -> Result<bool> {
        // What stood in the place of a file before may be a segment that the log has given up.
        let (log, start) = (self.state.log, self.state.start_segment);
        let given_up = |header: &SegmentHeader| header.log == log && header.number < start;
        let foreign = header.filter(|header| !given_up(header));
        let foreign = foreign.map(|header| (header.number, header.log));
        for (number, log) in [Some((number, self.state.log)), foreign].into_iter().flatten() {
            match inventory::holds_frames(file, number, Some(log), device) {
                Ok(false) => {}
                Ok(true) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Unreadable => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Takes a segment whose frames can be looked at.
    fn know(&mut self, device: &Device<'_>, number: SegmentNumber, length: u64) {
        let size = length / to_u64(BLOCK) * to_u64(BLOCK);
        if size > FIRST_FRAME {
            let header = SegmentHeader { log: self.state.log, number, size };
            self.segments.insert(number, Arc::new(Segment::sealed(&device.home, &header)));
        }
    }

    /// # Errors
    /// `Corrupt` if more than [`MISSING_MAX`] are.
    fn find_missing(&mut self, directory: &dyn Directory) -> Result<()> {
        let written = self.state.highest_epoch.get() > 0;
        let named = written.then(|| self.state.last_named());
        let there = self.segments.keys().chain(self.faults.keys()).chain(&self.unfinished);
        let there: BTreeSet<SegmentNumber> = there.copied().collect();
        let mut missing = Vec::new();
        let mut expected = self.state.start_segment.get();
        for number in there.iter().copied().chain(named).collect::<BTreeSet<_>>() {
            let absent = u64::from(!there.contains(&number));
            let gap = number.get() - expected.min(number.get()) + absent;
            if gap > MISSING_MAX - to_u64(missing.len()) {
                let expected = SegmentNumber::new(expected);
                let by = if absent == 1 { "LOG names" } else { "there is a file of" };
                let message = format!(
                    "segment {expected} is missing, and so are more than can be made anew: {by} \
                     segment {number}; if that is not the log's remove it, or restore the whole \
                     directory from a copy"
                );
                let path = directory.path().join(file_name(expected));
                return Err(Error::new(ErrorKind::Corrupt, message).at_path(path));
            }
            missing.extend((expected..expected + gap).map(SegmentNumber::new));
            expected = number.next().get();
        }
        self.faults.extend(missing.into_iter().map(|number| (number, FileFault::Missing)));
        // What has no header and no frames is unfinished only behind everything else.
        let last_good = self.segments.keys().next_back().copied().unwrap_or_default();
        let (early, late) =
            self.unfinished.iter().partition::<Vec<_>, _>(|number| **number < last_good);
        self.unfinished = late;
        self.faults.extend(early.into_iter().map(|number| (number, FileFault::Header)));
        Ok(())
    }

    /// The size of a segment, of one that has to be made as well.
    pub(super) fn size(&self, number: SegmentNumber) -> u64 {
        match (self.faults.get(&number), self.segments.get(&number)) {
            (Some(FileFault::Length { said, .. }), _) => *said,
            // Nothing says that the file is as long as it was: it may be cut short as well.
            (Some(FileFault::Header | FileFault::Unreadable), Some(segment)) => {
                segment.size().max(self.state.segment_size)
            }
            (_, Some(segment)) => segment.size(),
            (_, None) => self.state.segment_size,
        }
    }

    /// What the first frame of the log must be.
    pub(super) fn expected_at_start(&self) -> Expected {
        let number = self.state.start_segment;
        let mut expected = Expected::start_of(self.state.log, number, self.size(number));
        expected.next_lsn = Some(self.state.start_lsn);
        expected.chain = (self.state.start_lsn == Lsn::FIRST).then_some(0);
        expected
    }
}

/// What the valid slot of `LOG` says.
///
/// # Errors
/// As [`Files::look`].
pub(super) fn state_of(directory: &dyn Directory, device: &mut Device<'_>) -> Result<LogState> {
    Ok(read_log(directory, device)?.0)
}

/// What the valid slot of `LOG` says, and the sequences of both.
fn read_log(
    directory: &dyn Directory,
    device: &mut Device<'_>,
) -> Result<(LogState, [Option<u64>; 2])> {
    let lost = |path: &std::path::Path| {
        let message = "LOG is lost, so nothing says where the log starts: restore LOG or the \
                       whole directory from a copy";
        Error::new(ErrorKind::Corrupt, message).at_path(path)
    };
    let file = match directory.open(LOG_NAME, OpenMode::ReadDirect) {
        Ok(file) => file,
        Err(failure) if failure.kind() == std::io::ErrorKind::NotFound => {
            let names = directory.list()?;
            if names.iter().any(|name| name == BACKUP_UNFINISHED) {
                return Err(inventory::unfinished_backup(directory));
            }
            let any = names.iter().any(|name| parse_name(name).is_some());
            return Err(match any {
                true => lost(&directory.path().join(LOG_NAME)),
                false => no_log(directory),
            });
        }
        Err(failure) => return Err(failure.into()),
    };
    let buffer = AlignedBuf::zeroed(LOG_LENGTH + BLOCK);
    let bytes = transfer::read(device.channel, &file, 0, buffer)
        .map_err(|failure| inventory::unreadable(&*file, failure))?;
    let slots = [0, 1].map(|slot: u64| {
        let start = BLOCK * usize::from(slot == 1);
        let slot = LogState::decode(bytes.get(start..).unwrap_or_default(), slot);
        slot.ok().map(|(_, sequence)| sequence)
    });
    match log_file::judge(&bytes) {
        LogVerdict::Valid { state, .. } => Ok((state, slots)),
        LogVerdict::NoSlot => Err(lost(file.path())),
        LogVerdict::Version(version) => Err(inventory::newer(file.path(), version)),
        LogVerdict::Foreign => Err(inventory::foreign(file.path())),
    }
}
