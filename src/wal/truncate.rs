//! Giving up the oldest segments. The order is the whole point (LOG.md L17): the new start is
//! durable in both slots of `LOG`, then the files go or are kept to be used again, then the
//! directory is synced. A crash at any place leaves either the old log, or the new one and files
//! that the next opening removes.

use crate::error::Result;
use crate::ids::Lsn;
use crate::planted::{Bug, planted};
use crate::storage::Channel;
use crate::wal::index::SegmentIndex;
use crate::wal::log_file::LogFile;
use crate::wal::recycle::Recycler;

/// Removes whole segments whose records all lie below `lsn`; returns the new first LSN, which is
/// at most `lsn`. The segment that holds the durable LSN always stays, so that the log never
/// starts with a segment that may turn out to be empty. Open readers keep what they hold: those
/// segments go when they are done.
///
/// # Errors
/// A write of `LOG` that failed: final (LOG.md L12). That a file cannot be removed is no error:
/// the new start holds, the next truncation or preparation tries again, and the next opening
/// removes what is left.
pub(crate) fn truncate_before(
    lsn: Lsn,
    durable: Lsn,
    index: &SegmentIndex,
    log_file: &mut LogFile,
    channel: &mut dyn Channel,
    recycler: &mut Recycler,
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
        recycler.clear();
        recycler.give_up(index.remove_before(number));
        log_file.write_both(state, channel)?;
        return Ok(state.start_lsn);
    }
    log_file.write_both(state, channel)?;
    recycler.give_up(index.remove_before(number));
    Ok(state.start_lsn)
}
