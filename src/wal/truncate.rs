//! Giving up the oldest segments. The order is the whole point (LOG.md L17): the new start is
//! durable in both slots of `LOG`, then the files go, then the directory is synced. A crash at any
//! place leaves either the old log, or the new one and files that the next opening removes.

use crate::error::Result;
use crate::ids::Lsn;
use crate::planted::{Bug, planted};
use crate::storage::{Channel, Directory};
use crate::wal::index::{SegmentEntry, SegmentIndex};
use crate::wal::log_file::LogFile;
use crate::wal::segment::file_name;

/// Removes whole segments whose records all lie below `lsn`; returns the new first LSN, which is
/// at most `lsn`. The segment that holds the durable LSN always stays, so that the log never
/// starts with a segment that may turn out to be empty. Open readers keep what they hold.
///
/// # Errors
/// The operating system's. Each is final (LOG.md L12). After a failed unlink or sync of the
/// directory the new start holds, and the next opening removes the rest.
pub(crate) fn truncate_before(
    lsn: Lsn,
    durable: Lsn,
    index: &SegmentIndex,
    directory: &dyn Directory,
    log_file: &mut LogFile,
    channel: &mut dyn Channel,
) -> Result<Lsn> {
    let old = log_file.state().start_lsn;
    let kept = index.reaching(lsn.min(durable));
    let Some(first) = kept.first() else { return Ok(old) };
    let number = first.segment.number();
    if first.first_lsn <= old || number <= log_file.state().start_segment {
        return Ok(old);
    }
    let mut state = *log_file.state();
    state.start_lsn = first.first_lsn;
    state.start_segment = number;
    if durable > state.durable_lsn {
        state.durable_lsn = durable;
        state.durable_segment = index.segment_of(durable).unwrap_or(number);
    }
    state.durable_segment = state.durable_segment.max(number);
    if planted(Bug::UnlinkBeforeStart) {
        unlink(&index.remove_before(number), directory)?;
        log_file.write_both(state, channel)?;
        return Ok(state.start_lsn);
    }
    log_file.write_both(state, channel)?;
    unlink(&index.remove_before(number), directory)?;
    Ok(state.start_lsn)
}

fn unlink(entries: &[SegmentEntry], directory: &dyn Directory) -> Result<()> {
    for entry in entries {
        directory.unlink(&file_name(entry.segment.number()))?;
    }
    directory.sync()?;
    Ok(())
}
