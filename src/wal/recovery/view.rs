//! What recovery would find, for a reader who writes nothing (LOG.md L19).
//!
//! VIEW-1: nothing is written. VIEW-2: without a writer, what is shown is what the next opening
//! would keep: the files are synced first, so that a crash takes nothing of it back, and a verdict
//! of `Corrupt` or `Unreadable` is the reader's error too.

use super::decide::{self, Decision};
use super::evidence;
use super::files::{FileFault, Files};
use super::inventory;
use super::walk::{self, Device, Segments};
use super::{corrupt, expected_at, sealed_entries, walk_start, walked_entries, whole_behind};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogId, Lsn, SegmentNumber, to_u64};
use crate::storage::{BLOCK, Directory, OpenMode};
use crate::sync::Arc;
use crate::wal::frame::FrameHeader;
use crate::wal::home::Home;
use crate::wal::index::SegmentEntry;
use crate::wal::log_file::{LOG_NAME, LogState};
use crate::wal::scan::Expected;
use crate::wal::segment::{FIRST_FRAME, Segment, SegmentHeader, file_name};
use crate::wal::window::{WINDOW, Window};

/// The name of the directory's lock.
pub(crate) const LOCK_NAME: &str = inventory::LOCK_NAME;

/// A log as its files show it.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) state: LogState,
    /// From the start to the one in which the chain ends, which is the last.
    pub(crate) entries: Vec<SegmentEntry>,
    /// The last record that stands.
    pub(crate) last: Lsn,
    /// The highest that `LOG` and the frames attest.
    pub(crate) attested: Lsn,
    /// From which record on the log says what its catalog holds; zero if it holds nothing.
    pub(crate) catalog: Lsn,
    /// Whether what stands is all that ever will: no write of a killed writer is in flight.
    pub(crate) settled: bool,
}

impl View {
    /// Looks at the log in `directory`. `settled`: nobody writes it, and what stands is to be
    /// shown.
    ///
    /// # Errors
    /// `Invalid` if there is no log; `Corrupt`, `Unreadable` and `Unsupported` by
    /// `docs/recovery.md`; `Io`.
    pub(crate) fn take(directory: &Arc<dyn Directory>, settled: bool) -> Result<View> {
        let mut channel = directory.channel()?;
        let home = Home::new(Arc::clone(directory));
        let mut device = Device { channel: &mut *channel, window: Window::new(WINDOW), home };
        let files = Files::look(&**directory, &mut device)?;
        let state = files.state;
        // A killed writer's writes still come (LOG.md L11).
        let in_flight = || in_flight(&**directory, &files.segments, state.start_segment);
        let mut settled = settled && !in_flight()?;
        // A writer may be making the last one at this moment.
        let wrong =
            files.faults.iter().find(|(number, _)| settled || **number <= state.last_named());
        if let Some((number, fault)) = wrong {
            let path = directory.path().join(file_name(*number));
            if matches!(fault, FileFault::Unreadable) {
                return Err(inventory::unreadable_at(&path));
            }
            let message = format!("{fault}: restore it from a copy, or salvage the log");
            return Err(Error::new(ErrorKind::Corrupt, message).at_path(path));
        }
        let segments = dense(files.segments.clone(), state.start_segment);
        if segments.is_empty() {
            let last = state.start_lsn.previous();
            let (entries, attested, catalog) = (Vec::new(), state.durable_lsn, Lsn::ZERO);
            return Ok(View { state, entries, last, attested, catalog, settled });
        }
        let start = walk_start(&mut device, &segments, &state)?;
        let mut entries = sealed_entries(&mut device, &segments, &state, start)?;
        if settled {
            sync(&**directory, &segments, start)?;
            device.window.forget();
        }
        let walked = walk::walk(&mut device, &segments, expected_at(&segments, &state, start))?;
        settled = settled && !in_flight()?;
        if settled {
            let found = evidence::search(&mut device, &segments, &walked)?;
            let decision = decide::decide(&walked, &found, &state);
            if let Decision::Corrupt { last, witness } = decision {
                let behind = whole_behind(&mut device, &segments, state.log, &found);
                return Err(corrupt(&**directory, &walked, behind, last, witness));
            }
        }
        entries.extend(walked_entries(&segments, &walked));
        let by_frame = walked.last.map_or(Lsn::ZERO, |last| last.durable_lsn);
        let attested = state.durable_lsn.max(by_frame).max(walked.attested);
        let last = walked.next_lsn().previous();
        let catalog = walked.last.map_or(Lsn::ZERO, |last| last.catalog);
        Ok(View { state, entries, last, attested, catalog, settled })
    }

    /// The header of the first frame of segment `number`, and the segment; `None` if there is none.
    ///
    /// # Errors
    /// `Unreadable`; `Io` if it is there and cannot be opened.
    pub(crate) fn first_frame(
        directory: &Arc<dyn Directory>,
        log: LogId,
        home: &Arc<Home>,
        number: SegmentNumber,
    ) -> Result<Option<(FrameHeader, Arc<Segment>)>> {
        let file = match directory.open(&file_name(number), OpenMode::Read) {
            Err(failure) if failure.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            outcome => outcome?,
        };
        let size = file.stamp()?.length / to_u64(BLOCK) * to_u64(BLOCK);
        if size <= FIRST_FRAME {
            return Ok(None);
        }
        let mut channel = directory.channel()?;
        let home = Arc::clone(home);
        let segment = Arc::new(Segment::sealed(&home, &SegmentHeader { log, number, size }));
        let mut device = Device { channel: &mut *channel, window: Window::new(0), home };
        let expected = Expected::start_of(log, number, size);
        let found = walk::header_at(&mut device, &segment, &expected)?;
        Ok(found.map(|header| (header, segment)))
    }

    /// What `LOG` says at this moment.
    ///
    /// # Errors
    /// As [`View::take`].
    pub(crate) fn state_of(directory: &Arc<dyn Directory>) -> Result<LogState> {
        let mut channel = directory.channel()?;
        let home = Home::new(Arc::clone(directory));
        let mut device = Device { channel: &mut *channel, window: Window::new(0), home };
        super::files::state_of(&**directory, &mut device)
    }
}

/// The segments from `start` on without a gap.
fn dense(segments: Segments, start: SegmentNumber) -> Segments {
    let mut next = start;
    let follows = |(number, _): &(SegmentNumber, _)| {
        let follows = *number == next;
        next = next.next();
        follows
    };
    segments.into_iter().take_while(follows).collect()
}

/// Whether somebody still holds a segment as its writer does: a killed one, until its writes end.
fn in_flight(directory: &dyn Directory, segments: &Segments, start: SegmentNumber) -> Result<bool> {
    for (number, _) in segments.range(start..) {
        if directory.open(&file_name(*number), OpenMode::Read)?.is_locked(0)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Step (1) of LOG.md L14, as far as it can be done without writing.
fn sync(directory: &dyn Directory, segments: &Segments, start: SegmentNumber) -> Result<()> {
    let names = segments.range(start..).map(|(number, _)| file_name(*number));
    for name in names.chain([LOG_NAME.to_owned()]) {
        directory.open(&name, OpenMode::Read)?.sync()?;
    }
    directory.sync()?;
    Ok(())
}
