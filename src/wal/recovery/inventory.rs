//! What is in the directory: `LOG`, the segments, and what a crash or a truncation left over.

use std::time::Duration;

use super::RecoverOptions;
use super::walk::{Device, Segments};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogId, Position, SegmentNumber, to_u64, to_usize};
use crate::planted::{Bug, planted};
use crate::storage::{AlignedBuf, BLOCK, Channel, Directory, File, Lock, LockKind, OpenMode};
use crate::storage::{IoFailure, Storage};
use crate::sync::Arc;
use crate::wal::backup::BACKUP_UNFINISHED;
use crate::wal::log_file::{
    self, LOG_LENGTH, LOG_NAME, LOG_UNFINISHED, LogFile, LogState, LogVerdict,
};
use crate::wal::scan;
use crate::wal::segment::{
    FIRST_FRAME, HeaderFault, Segment, SegmentHeader, file_name, parse_name,
};
use crate::wal::transfer;

pub(super) const LOCK_NAME: &str = "LOCK";
/// How long to wait between two attempts to lock.
const LOCK_STEP: Duration = Duration::from_millis(10);

/// The directory's files, before anything is decided.
#[derive(Debug)]
pub(super) struct Inventory {
    pub(super) log_file: LogFile,
    pub(super) created: bool,
    /// From the start on, dense; open to be read.
    pub(super) segments: Segments,
    /// Files below the start: a truncation that did not finish.
    pub(super) below: Vec<String>,
    /// The last segments, whose preparation did not finish.
    pub(super) unfinished: Vec<SegmentNumber>,
}

/// The directory's lock, waited for as long as the options allow.
///
/// # Errors
/// `Locked` with the holder.
pub(super) fn lock(
    directory: &dyn Directory,
    clock: &dyn Clock,
    options: &RecoverOptions,
) -> Result<Box<dyn Lock>> {
    retry(clock, options.lock_wait, || directory.lock(LOCK_NAME, &options.holder))?.map_err(
        |holder| {
            let message = format!("another writer has this log open: {}", holder.trim_end());
            Error::new(ErrorKind::Locked, message).at_path(directory.path())
        },
    )
}

/// Locks byte 0 of a file, waiting for writes that a killed process left in flight (LOG.md L11).
///
/// # Errors
/// `Locked`.
pub(super) fn lock_file(file: &dyn File, clock: &dyn Clock, wait: Duration) -> Result<()> {
    let attempt = || file.try_lock(0, LockKind::Exclusive).map(|got| got.then_some(()).ok_or(()));
    retry(clock, wait, attempt)?.map_err(|()| {
        let message = "a writer still holds this file, or writes of a killed one are in flight";
        Error::new(ErrorKind::Locked, message).at_path(file.path())
    })
}

fn retry<T, E>(
    clock: &dyn Clock,
    wait: Duration,
    mut attempt: impl FnMut() -> Result<Result<T, E>, IoFailure>,
) -> Result<Result<T, E>> {
    let wait = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
    let deadline = clock.monotonic_ns().saturating_add(wait);
    loop {
        let outcome = attempt()?;
        if outcome.is_ok() || clock.monotonic_ns() >= deadline {
            return Ok(outcome);
        }
        clock.sleep(LOCK_STEP);
    }
}

impl Inventory {
    /// Lists the directory, finds or makes `LOG`, opens the segments to be read.
    ///
    /// # Errors
    /// `Unsupported`, `Corrupt`, `Unreadable`, `Locked`, by `docs/recovery.md`.
    pub(super) fn take(
        storage: &dyn Storage,
        directory: &dyn Directory,
        clock: &dyn Clock,
        options: &RecoverOptions,
        device: &mut Device<'_>,
    ) -> Result<Inventory> {
        let names = directory.list()?;
        let numbers: Vec<SegmentNumber> =
            names.iter().filter_map(|name| parse_name(name)).collect();
        let found = if names.iter().any(|name| name == LOG_NAME) {
            let file = directory.open(LOG_NAME, OpenMode::WriteDirect)?;
            lock_file(&*file, clock, options.lock_wait)?;
            read_log(file, device.channel)?
        } else {
            None
        };
        let Some(log_file) = found else {
            return Inventory::create(storage, directory, options, device, &names);
        };
        let start = log_file.state().start_segment;
        let below = numbers.iter().filter(|number| **number < start).map(|n| file_name(*n));
        // With `LOG` it is a whole copy.
        let finished = names.iter().filter(|name| *name == BACKUP_UNFINISHED).cloned();
        let mut inventory = Inventory {
            below: below.chain(finished).collect(),
            log_file,
            created: false,
            segments: Segments::new(),
            unfinished: Vec::new(),
        };
        for number in numbers.into_iter().filter(|number| *number >= start) {
            inventory.add(directory, device, number)?;
        }
        inventory.check()?;
        Ok(inventory)
    }

    /// A log that has no slot: new, or its creation did not finish.
    fn create(
        storage: &dyn Storage,
        directory: &dyn Directory,
        options: &RecoverOptions,
        device: &mut Device<'_>,
        names: &[String],
    ) -> Result<Inventory> {
        let segments: Vec<_> =
            names.iter().filter_map(|name| Some((name, parse_name(name)?))).collect();
        for (name, number) in &segments {
            let file = directory.open(name, OpenMode::ReadDirect)?;
            if holds_frames(&file, *number, None, device)? {
                let message = "LOG is lost, and there are segments with records: restore LOG or \
                               the whole directory from a copy; nothing was changed";
                return Err(Error::new(ErrorKind::Corrupt, message).at_path(file.path()));
            }
        }
        if names.iter().any(|name| name == BACKUP_UNFINISHED) {
            return Err(unfinished_backup(directory));
        }
        for (name, _) in segments {
            directory.unlink(name)?;
        }
        for name in names.iter().filter(|name| [LOG_NAME, LOG_UNFINISHED].contains(&name.as_str()))
        {
            directory.unlink(name)?;
        }
        let log = LogId::from_bytes(storage.random());
        let state = LogState::new(log, options.segment_size);
        let log_file = LogFile::create(directory, state, device.channel)?;
        if !log_file.file().try_lock(0, LockKind::Exclusive)? {
            let message = "LOG was just created and is locked by somebody else";
            return Err(Error::new(ErrorKind::Locked, message).at_path(log_file.file().path()));
        }
        let (segments, below, unfinished) = (Segments::new(), Vec::new(), Vec::new());
        Ok(Inventory { log_file, created: true, segments, below, unfinished })
    }

    /// Opens one segment to be read and judges its header.
    fn add(
        &mut self,
        directory: &dyn Directory,
        device: &mut Device<'_>,
        number: SegmentNumber,
    ) -> Result<()> {
        let file = directory.open(&file_name(number), read_mode())?;
        let state = *self.log_file.state();
        let length = file.stamp()?.length;
        let block = transfer::read(device.channel, &file, 0, AlignedBuf::zeroed(BLOCK))
            .map_err(|failure| unreadable(&*file, failure))?;
        let header = match SegmentHeader::decode(&block) {
            Err(HeaderFault::Version(version)) => return Err(newer(file.path(), version)),
            Err(HeaderFault::Damaged) => None,
            Ok(header) => Some(header),
        };
        let own = header.filter(|header| {
            header.log == state.log && header.number == number && header.size == length
        });
        if let Some(header) = own {
            if let Some(first) = self.unfinished.first() {
                return Err(broken(directory, *first, "is damaged or missing"));
            }
            self.segments.insert(number, Arc::new(Segment::sealed(&device.home, &header)));
            return Ok(());
        }
        // Either its preparation never came to an end (then it holds no frame, and it is among the
        // last), or it is not the file that was here.
        let what = match header {
            Some(header) if header.log != state.log => "belongs to another log",
            Some(header) if header.number != number => "is another segment's file",
            Some(_) => "is shorter or longer than its header says",
            None => "has a damaged header",
        };
        // A file whose preparation was cut off may show what stood in its place before: also a
        // segment that the log has given up.
        let given_up =
            |header: &SegmentHeader| header.log == state.log && header.number < state.start_segment;
        let foreign = match header.filter(|header| !given_up(header)) {
            Some(header) => holds_frames(&file, header.number, Some(header.log), device)?,
            None => false,
        };
        let named = number <= state.last_named() && state.highest_epoch.get() > 0;
        if foreign || named || holds_frames(&file, number, Some(state.log), device)? {
            return Err(broken(directory, number, what));
        }
        self.unfinished.push(number);
        Ok(())
    }

    /// That no segment is missing which something names.
    fn check(&self) -> Result<()> {
        let state = self.log_file.state();
        let directory = self.log_file.file().path().parent().unwrap_or(self.log_file.file().path());
        let mut expected = state.start_segment;
        for number in self.segments.keys().chain(&self.unfinished) {
            if *number != expected {
                return Err(missing(directory, expected));
            }
            expected = expected.next();
        }
        let last = self.segments.keys().next_back().map_or(0, |number| number.get());
        if state.highest_epoch.get() > 0 && last < state.last_named().get() {
            return Err(missing(directory, SegmentNumber::new(last + 1)));
        }
        Ok(())
    }
}

/// How recovery reads: from the device (LOG.md L14).
fn read_mode() -> OpenMode {
    if planted(Bug::RecoverFromCache) { OpenMode::Read } else { OpenMode::ReadDirect }
}

/// `LOG`, if a slot is valid; `None` if its creation did not finish.
fn read_log(file: Arc<dyn File>, channel: &mut dyn Channel) -> Result<Option<LogFile>> {
    // One block more than it should have: a longer file is another program's.
    let buffer = AlignedBuf::zeroed(LOG_LENGTH + BLOCK);
    let bytes =
        transfer::read(channel, &file, 0, buffer).map_err(|failure| unreadable(&*file, failure))?;
    match log_file::judge(&bytes) {
        LogVerdict::Valid { state, sequence } => {
            Ok(Some(LogFile::from_parts(file, state, sequence)))
        }
        LogVerdict::NoSlot => Ok(None),
        LogVerdict::Version(version) => Err(newer(file.path(), version)),
        LogVerdict::Foreign => Err(foreign(file.path())),
    }
}

/// Whether a file that is no valid segment holds a decodable frame of segment `number` of `log`,
/// or of whichever log the frame names.
pub(super) fn holds_frames(
    file: &Arc<dyn File>,
    number: SegmentNumber,
    log: Option<LogId>,
    device: &mut Device<'_>,
) -> Result<bool> {
    let length = file.stamp()?.length / to_u64(BLOCK) * to_u64(BLOCK);
    if length <= FIRST_FRAME {
        return Ok(false);
    }
    // Only a place to read from: nothing is believed of it.
    let unknown = log.unwrap_or(LogId::from_bytes([0; 16]));
    let header = SegmentHeader { log: unknown, number, size: length };
    let segment = Segment::opened(&device.home, &header, Arc::clone(file));
    device.window.forget();
    let mut offset = FIRST_FRAME;
    let mut found = false;
    while offset < length && !found {
        let bytes = device.window.load(device.channel, &segment, offset, to_u64(BLOCK))?;
        found = bytes.chunks(BLOCK).enumerate().any(|(index, block)| {
            let position = Position { segment: number, offset: offset + to_u64(index * BLOCK) };
            let id = scan::log_named_by(block, position);
            id.is_some_and(|id| log.is_none_or(|log| log == id))
        });
        offset += to_u64(bytes.len());
    }
    device.window.forget();
    Ok(found)
}

pub(super) fn unreadable(file: &dyn File, failure: IoFailure) -> Error {
    unreadable_at(file.path()).caused_by(failure)
}

pub(super) fn unreadable_at(path: &std::path::Path) -> Error {
    let message = "the medium does not return bytes of the log; nothing was changed: check the \
                   device, copy what can be read, restore the rest from a copy";
    Error::new(ErrorKind::Unreadable, message).at_path(path)
}

pub(super) fn unfinished_backup(directory: &dyn Directory) -> Error {
    let message = "a backup to this directory did not come to its end, and what is here is not a \
                   whole copy: remove the directory and back up again";
    Error::new(ErrorKind::Corrupt, message).at_path(directory.path())
}

pub(super) fn foreign(path: &std::path::Path) -> Error {
    let message = "this directory belongs to another program: its LOG is not sawmill's";
    Error::new(ErrorKind::Unsupported, message).at_path(path)
}

pub(super) fn newer(path: &std::path::Path, version: u32) -> Error {
    let message = format!(
        "written in version {version} of the format, this release knows version 1: open it with a \
         newer sawmill"
    );
    Error::new(ErrorKind::Unsupported, message).at_path(path)
}

fn broken(directory: &dyn Directory, number: SegmentNumber, what: &str) -> Error {
    let name = file_name(number);
    let message = format!(
        "segment {number} {what}, and it holds or held acknowledged records: restore it from a \
         copy; nothing was changed"
    );
    Error::new(ErrorKind::Corrupt, message).at_path(directory.path().join(name))
}

fn missing(directory: &std::path::Path, number: SegmentNumber) -> Error {
    let message = format!(
        "segment {number} is missing, and others or LOG say that it was there: restore it from a \
         copy; nothing was changed"
    );
    Error::new(ErrorKind::Corrupt, message).at_path(directory.join(file_name(number)))
}

const _: () = assert!(to_usize(FIRST_FRAME) == BLOCK);
