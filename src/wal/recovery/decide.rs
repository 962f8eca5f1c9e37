//! Torn or corrupt: the decision, as a table (`docs/recovery.md`). Pure.

use super::evidence::Evidence;
use super::walk::Walked;
use crate::ids::{Lsn, Position};
use crate::planted::{Bug, planted};
use crate::wal::log_file::LogState;
use crate::wal::scan::Fault;

/// What becomes of the end of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The log ends where its last frame ends.
    End,
    /// Something stands behind the last frame that nobody attests: the log is cut before it.
    Cut,
    /// Records from the chain's end to `last` were acknowledged, and do not stand.
    Corrupt { last: Lsn, witness: Witness },
}

/// What says that records were acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Witness {
    /// The durable LSN in `LOG`.
    Log,
    /// `LOG` knows a later incarnation than the chain.
    LogEpoch,
    /// The durable LSN in the header of a frame behind.
    Frame,
    /// A tombstone: it was known when the log was salvaged.
    Tombstone,
    /// A frame of a later incarnation, whose barrier is not in the chain.
    Incarnation(Position),
}

impl Witness {
    /// For the error's text.
    pub(super) fn describe(self) -> String {
        match self {
            Witness::Log => "LOG says that they were durable".to_owned(),
            Witness::LogEpoch => "LOG names a later opening of the log".to_owned(),
            Witness::Frame => "frames behind say that they were durable".to_owned(),
            Witness::Tombstone => "the last repair found them durable".to_owned(),
            Witness::Incarnation(position) => {
                format!("a later opening of the log wrote at {position}")
            }
        }
    }
}

/// Decides (LOG.md L15). The first bad frame ends the log only if nothing attests it.
pub(super) fn decide(walked: &Walked, evidence: &Evidence, state: &LogState) -> Decision {
    let torn = walked.fault != Fault::Blank || evidence.frames > 0;
    let ended = if torn { Decision::Cut } else { Decision::End };
    if planted(Bug::TruncateAtFirstBad) {
        return ended;
    }
    let next = walked.next_lsn();
    let last = state.durable_lsn.max(evidence.durable).max(walked.attested).max(next);
    let witness = if planted(Bug::RefuseBehindHole) && evidence.frames > 0 {
        Witness::Frame
    } else if state.durable_lsn >= next {
        Witness::Log
    } else if evidence.durable >= next {
        Witness::Frame
    } else if walked.attested >= next {
        Witness::Tombstone
    } else if let Some(header) = evidence.later {
        Witness::Incarnation(header.position)
    } else if state.highest_epoch > walked.epoch() {
        Witness::LogEpoch
    } else {
        return ended;
    };
    Decision::Corrupt { last, witness }
}
