//! From a directory to a log that can be written: the only code that cuts a log (LOG.md L14 to
//! L16). The decisions are a table: `docs/recovery.md`.

//! RECOVERY-1: nothing is written to the log before the barrier, but the same bytes again where the
//! medium cannot be read past the page cache, and nothing is shown before the barrier is durable.
//! RECOVERY-2: where a decision is `Corrupt` or `Unreadable`, nothing was changed.
//! RECOVERY-3: recovery of a recovery is the same code (LOG.md L14).

mod behind;
mod cut;
mod decide;
mod evidence;
mod files;
mod findings;
mod inventory;
mod quarantine;
pub(crate) mod repair;
pub(crate) mod survey;
#[cfg(test)]
mod tests;
pub(crate) mod view;
mod walk;

use std::collections::VecDeque;
use std::time::Duration;

use self::decide::Decision;
use self::evidence::Evidence;
use self::inventory::Inventory;
use self::walk::{Content, Device, FoundBarrier, Segments, Walked};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, LogId, Lsn, Position, SegmentNumber};
use crate::planted::{Bug, planted};
use crate::storage::{Channel, Directory, Lock, OpenMode, Storage};
use crate::sync::Arc;
use crate::wal::frame::FrameHeader;
use crate::wal::home::Home;
use crate::wal::index::SegmentEntry;
use crate::wal::lineage::Lineage;
use crate::wal::log_file::{LogFile, LogState};
use crate::wal::scan::Expected;
use crate::wal::segment::{FIRST_FRAME, Segment, SegmentHeader, file_name};
use crate::wal::window::{WINDOW, Window};

/// No writer counts that far; half of what decoding accepts.
const COUNTER_MAX: u64 = u64::MAX / 4;

/// What recovery must know.
#[derive(Clone, Debug)]
pub(crate) struct RecoverOptions {
    /// Bytes of each segment prepared from now on; also of a new log's.
    pub(crate) segment_size: u64,
    /// How long to wait for another writer to go.
    pub(crate) lock_wait: Duration,
    /// Who opens: the text of `LOCK`.
    pub(crate) holder: String,
}

/// Where the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Where the next frame goes, if it fits the segment.
    pub(crate) position: Position,
    /// Header CRC of the last frame.
    pub(crate) chain: u32,
    /// The next record's.
    pub(crate) next_lsn: Lsn,
    /// The last frame's; the next one's is not below.
    pub(crate) seal_time_ns: u64,
    /// The last frame's: from where on the catalog is to be read.
    pub(crate) catalog: Lsn,
}

/// A log that is open for writing. Its barrier is durable, as is everything before it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) log: LogId,
    pub(crate) epoch: Epoch,
    pub(crate) nonce: u64,
    /// The epochs until this one.
    pub(crate) lineage: Lineage,
    /// The first LSN of the log.
    pub(crate) start: Lsn,
    pub(crate) tail: Tail,
    /// From the start to the active one, which is the last.
    pub(crate) segments: Vec<SegmentEntry>,
    /// Prepared segments behind the active one, in the order of their numbers.
    pub(crate) spares: VecDeque<Arc<Segment>>,
    pub(crate) log_file: LogFile,
    pub(crate) lock: Box<dyn Lock>,
    #[allow(dead_code, reason = "tests read it; the command line will show it")]
    pub(crate) report: RecoveryReport,
}

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecoveryReport {
    /// Whether the log was created by this opening.
    pub(crate) created: bool,
    /// Where the log was cut, if there was something behind.
    pub(crate) cut: Option<Position>,
    /// Whole frame headers behind the cut, which nothing attested.
    pub(crate) dropped_frames: u64,
    /// Bytes read from the device.
    pub(crate) bytes_read: u64,
}

/// Opens the log in `directory` for writing: creates it if there is none, otherwise takes the
/// locks, finds where it ends, and seals that place with a barrier. `channel` has nothing in
/// flight.
///
/// A crash at any place leaves a directory that opens to the same records, or to the same error.
///
/// # Errors
/// `Locked` after the wait; `Corrupt`, `Unreadable` and `Unsupported` by `docs/recovery.md`;
/// `DiskFull` and `Io`. Nothing was changed for the first four.
pub(crate) fn recover(
    storage: &dyn Storage,
    opened: &Arc<dyn Directory>,
    clock: &dyn Clock,
    options: &RecoverOptions,
    channel: &mut dyn Channel,
) -> Result<Opened> {
    let directory = &**opened;
    let lock = inventory::lock(directory, clock, options)?;
    let home = Home::new(Arc::clone(opened));
    let mut device = Device { channel, window: Window::new(WINDOW), home: Arc::clone(&home) };
    let found = Inventory::take(storage, directory, clock, options, &mut device)?;
    let Inventory { mut log_file, created, mut segments, below, unfinished } = found;
    let start = walk_start(&mut device, &segments, log_file.state())?;
    let mut entries = sealed_entries(&mut device, &segments, log_file.state(), start)?;
    reopen_for_writing(&home, clock, options, &mut segments, start)?;
    device.window.forget();

    let walked =
        walk::walk(&mut device, &segments, expected_at(&segments, log_file.state(), start))?;
    check_sealed(&entries, &walked, log_file.state())?;
    let found = evidence::search(&mut device, &segments, &walked)?;
    let decision = decide::decide(&walked, &found, log_file.state());
    if let Decision::Corrupt { last, witness } = decision {
        let behind = whole_behind(&mut device, &segments, walked.end.log, &found);
        return Err(corrupt(directory, &walked, behind, last, witness));
    }
    let previous = previous_barrier(&mut device, &segments, &log_file, &walked)?;
    let epoch = next_epoch(directory, &walked, &found, &log_file)?;
    if !directory.backend().direct && !planted(Bug::RecoverFromCache) {
        cut::write_again(&mut device, &segments, start, walked.end.position)?;
    }

    entries.extend(walked_entries(&segments, &walked));
    let mut opening = cut::Opening {
        home: &home,
        clock,
        segments,
        unfinished,
        entries,
        epoch,
        nonce: cut::nonce(storage),
        segment_size: options.segment_size,
        lineage: Lineage::default(),
    };
    let tail = opening.seal(&mut device, &walked, previous, &mut log_file)?;
    cut::remove(directory, &below)?;
    let spares = opening.spares(tail.position.segment);
    let report = RecoveryReport {
        created,
        cut: (decision == Decision::Cut).then_some(walked.end.position),
        dropped_frames: found.frames,
        bytes_read: device.window.bytes_read(),
    };
    Ok(Opened {
        log: log_file.state().log,
        epoch: opening.epoch,
        nonce: opening.nonce,
        lineage: opening.lineage,
        start: log_file.state().start_lsn,
        tail,
        segments: opening.entries,
        spares,
        log_file,
        lock,
        report,
    })
}

/// What the first frame of segment `number` must be: all that is known without the one before.
fn expected_at(segments: &Segments, state: &LogState, number: SegmentNumber) -> Expected {
    let size = segments.get(&number).map_or(0, |segment| segment.size());
    let mut expected = Expected::start_of(state.log, number, size);
    if number == state.start_segment {
        expected.next_lsn = Some(state.start_lsn);
        // The log's very first frame follows none.
        expected.chain = (state.start_lsn == Lsn::FIRST).then_some(0);
    }
    expected
}

/// Where to start along the chain: the segment that `LOG` names as the last durable one, or, if its
/// first frame does not stand, the nearest one before. What lies before is sealed and durable; it
/// is verified when it is read.
fn walk_start(
    device: &mut Device<'_>,
    segments: &Segments,
    state: &LogState,
) -> Result<SegmentNumber> {
    let mut number = state.durable_segment;
    while number > state.start_segment {
        let expected = expected_at(segments, state, number);
        let first = walk::frame_at(device, segments, &expected)?;
        if first.is_some_and(|(header, _)| header.first_lsn <= state.durable_lsn) {
            break;
        }
        number = SegmentNumber::new(number.get() - 1);
    }
    Ok(number)
}

/// The entries of the segments before `end`, by the headers of their first frames.
fn sealed_entries(
    device: &mut Device<'_>,
    segments: &Segments,
    state: &LogState,
    end: SegmentNumber,
) -> Result<Vec<SegmentEntry>> {
    let mut entries: Vec<SegmentEntry> = Vec::new();
    for (number, segment) in segments.range(..end) {
        let expected = expected_at(segments, state, *number);
        let first = walk::header_at(device, segment, &expected)?;
        let before = entries.last().map_or(state.start_lsn, |entry| entry.first_lsn);
        match first.filter(|header| header.first_lsn >= before) {
            Some(header) => {
                let segment = Arc::clone(segment);
                entries.push(SegmentEntry { segment, first_lsn: header.first_lsn });
            }
            None => return Err(damaged_first(segment, before, state)),
        }
    }
    Ok(entries)
}

/// The first frame of a sealed segment is not what it has to be.
fn damaged_first(segment: &Segment, before: Lsn, state: &LogState) -> Error {
    let message = "the first frame of a sealed segment is damaged; nothing was changed: restore \
                   the segment from a copy, or let `sawmill wal verify` name all that is lost and \
                   `sawmill wal repair` give it up";
    Error::new(ErrorKind::Corrupt, message)
        .at_path(segment.path())
        .at_position(Position { segment: segment.number(), offset: FIRST_FRAME })
        .for_lsns(before, state.durable_lsn)
}

/// That the segments before the walk begin below it: one whose first frame says otherwise would
/// have everything behind it looked for in the wrong segment.
fn check_sealed(entries: &[SegmentEntry], walked: &Walked, state: &LogState) -> Result<()> {
    let first = walked.first_lsns.values().next();
    match (entries.last(), first) {
        (Some(last), Some(first)) if last.first_lsn > *first => {
            let before = entries.iter().rev().nth(1).map_or(state.start_lsn, |it| it.first_lsn);
            Err(damaged_first(&last.segment, before, state))
        }
        _ => Ok(()),
    }
}

/// Step (1) of LOG.md L14: every segment from `start` on is opened to be written, locked, synced;
/// then the directory is. What is read afterwards is what a crash will leave.
fn reopen_for_writing(
    home: &Arc<Home>,
    clock: &dyn Clock,
    options: &RecoverOptions,
    segments: &mut Segments,
    start: SegmentNumber,
) -> Result<()> {
    for (number, segment) in segments.range_mut(start..) {
        let cached = planted(Bug::RecoverFromCache);
        let mode = if cached { OpenMode::Write } else { OpenMode::WriteDirect };
        let file = home.directory().open(&file_name(*number), mode)?;
        inventory::lock_file(&*file, clock, options.lock_wait)?;
        if !cached {
            file.sync()?;
        }
        let log = LogId::from_bytes([0; 16]);
        let header = SegmentHeader { log, number: *number, size: segment.size() };
        *segment = Arc::new(Segment::opened(home, &header, file));
    }
    home.directory().sync()?;
    Ok(())
}

fn walked_entries<'a>(
    segments: &'a Segments,
    walked: &'a Walked,
) -> impl Iterator<Item = SegmentEntry> + 'a {
    walked.first_lsns.iter().filter_map(|(number, first_lsn)| {
        let segment = Arc::clone(segments.get(number)?);
        Some(SegmentEntry { segment, first_lsn: *first_lsn })
    })
}

/// The barrier before the one to be written: on the way, or where `LOG` says. `None` if there was
/// none, or if it was truncated.
fn previous_barrier(
    device: &mut Device<'_>,
    segments: &Segments,
    log_file: &LogFile,
    walked: &Walked,
) -> Result<Option<FoundBarrier>> {
    let state = log_file.state();
    let position = state.barrier;
    if walked.barrier.is_some() || position.segment < state.start_segment {
        return Ok(walked.barrier.clone());
    }
    let size = segments.get(&position.segment).map_or(0, |segment| segment.size());
    let place = Expected::start_of(state.log, position.segment, size);
    let found = walk::frame_at(device, segments, &Expected { position, ..place })?;
    // What contradicts `LOG` or the records would be repeated in a barrier that nobody can read.
    let fits = |found: &FoundBarrier| {
        found.epoch <= state.highest_epoch && found.first_lsn <= walked.next_lsn()
    };
    if let Some((header, Content::Barrier(barrier))) = found {
        let (epoch, first_lsn) = (header.epoch, header.first_lsn);
        let found = FoundBarrier { position, epoch, first_lsn, barrier };
        if epoch == state.highest_epoch && fits(&found) {
            return Ok(Some(found));
        }
    } else {
        // It may have been given up by a repair: then the chain passes over its place.
        let again = expected_at(segments, state, position.segment);
        let passed = walk::walk(device, segments, again)?;
        if passed.end.position > position && passed.barrier.as_ref().is_none_or(fits) {
            return Ok(passed.barrier);
        }
    }
    let message = "the barrier that LOG names is damaged: restore the segment from a copy; nothing \
                   was changed";
    Err(Error::new(ErrorKind::Corrupt, message)
        .at_path(log_file.file().path().with_file_name(file_name(position.segment)))
        .at_position(position))
}

/// One more than the highest that was ever seen, accepted or not (LOG.md L16).
fn next_epoch(
    directory: &dyn Directory,
    walked: &Walked,
    found: &Evidence,
    log_file: &LogFile,
) -> Result<Epoch> {
    let highest = walked.epoch().max(found.highest_epoch).max(log_file.state().highest_epoch);
    // Decoding refuses counters at the end of their range, so that no sum overflows. What is near
    // it was never counted up to: writing on from there would be writing what nobody can read.
    if highest.get() >= COUNTER_MAX || walked.next_lsn().get() >= COUNTER_MAX {
        let message = "a checksum holds, and an epoch or a record's number is beyond what any \
                       writer reaches: restore the directory from a copy; nothing was changed";
        return Err(Error::new(ErrorKind::Corrupt, message).at_path(directory.path()));
    }
    Ok(highest.next())
}

/// The first frame behind the end that is whole.
fn whole_behind(
    device: &mut Device<'_>,
    segments: &Segments,
    log: LogId,
    found: &Evidence,
) -> Option<FrameHeader> {
    found.behind.iter().copied().find(|header| {
        let position = header.position;
        let size = segments.get(&position.segment).map_or(0, |segment| segment.size());
        let place = Expected::start_of(log, position.segment, size);
        let frame = walk::frame_at(device, segments, &Expected { position, ..place });
        frame.is_ok_and(|frame| frame.is_some())
    })
}

/// The error for acknowledged records that do not stand.
fn corrupt(
    directory: &dyn Directory,
    walked: &Walked,
    behind: Option<FrameHeader>,
    last: Lsn,
    witness: decide::Witness,
) -> Error {
    let next = walked.next_lsn();
    let before = next.previous();
    let after = match behind {
        Some(header) if header.first_lsn > next => {
            format!("whole frames follow from record {} at {}", header.first_lsn, header.position)
        }
        Some(header) => format!("whole frames follow at {}", header.position),
        None => "nothing whole follows".to_owned(),
    };
    let lost = match behind {
        Some(header) if header.first_lsn > next => header.first_lsn.previous(),
        _ => last,
    };
    let message = format!(
        "acknowledged records are damaged ({}); everything up to record {before} is intact, \
         {after}; nothing was changed: restore the directory from a copy, or let `sawmill wal \
         verify` name all that is lost and `sawmill wal repair` give it up",
        witness.describe()
    );
    Error::new(ErrorKind::Corrupt, message)
        .at_path(directory.path().join(file_name(walked.fault_at.segment)))
        .at_position(walked.fault_at)
        .for_lsns(next, lost)
}
