//! A survey in the words of its users.

use std::cmp::Ordering;

use super::survey::{Hole, Survey, Tally};
use super::view::View;
use crate::error::Result;
use crate::ids::{Lsn, SegmentNumber};
use crate::storage::Directory;
use crate::sync::Arc;
use crate::wal::log_file::LogState;
use crate::wal::range::LsnRange;
use crate::wal::report::{Damage, SegmentReport, SegmentState};

impl Survey {
    /// Where the log in `directory` starts at this moment.
    ///
    /// # Errors
    /// As [`Survey::take`].
    pub(crate) fn start_of(directory: &Arc<dyn Directory>) -> Result<SegmentNumber> {
        Ok(View::state_of(directory)?.start_segment)
    }

    /// What the valid slot of `LOG` says.
    pub(crate) fn state(&self) -> &LogState {
        &self.files.state
    }

    /// The sequence in each slot of `LOG`.
    pub(crate) fn slots(&self) -> [Option<u64>; 2] {
        self.files.slots
    }

    /// The files, oldest first.
    pub(crate) fn segments(&self) -> Vec<SegmentReport> {
        let files = &self.files;
        let below = files.below.iter().map(|number| (*number, SegmentState::Retired));
        let damaged = files.faults.keys().map(|number| (*number, SegmentState::Damaged));
        let unfinished = files.unfinished.iter().map(|number| (*number, SegmentState::Unfinished));
        let known = files.segments.keys().filter(|number| !files.faults.contains_key(number));
        let known = known.map(|number| {
            let state = match number.cmp(&self.end.segment) {
                Ordering::Less => SegmentState::Sealed,
                Ordering::Equal => SegmentState::Active,
                Ordering::Greater => SegmentState::Spare,
            };
            (*number, state)
        });
        let mut all: Vec<_> = below.chain(damaged).chain(unfinished).chain(known).collect();
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(number, state)| self.segment(number, state)).collect()
    }

    fn segment(&self, number: SegmentNumber, state: SegmentState) -> SegmentReport {
        let Tally { first_lsn, frames, records, payload, used, marks } =
            self.tallies.get(&number).copied().unwrap_or_default();
        let bytes = self.files.segments.get(&number).map_or(0, |segment| segment.size());
        let path = self.path_of(number);
        SegmentReport {
            number,
            path,
            state,
            bytes,
            first_lsn,
            frames,
            marks,
            records,
            payload,
            used,
        }
    }

    /// Everything that is wrong.
    pub(crate) fn damages(&self) -> Vec<Damage> {
        let whole = self.faults().map(|(number, fault)| Damage {
            what: fault.to_string(),
            path: self.path_of(number),
            position: None,
            lost: None,
            intact_through: None,
            intact_from: None,
            repairable: true,
        });
        let holes = self.holes.iter().map(|hole| self.damage(hole));
        let unreadable = self.unreadable.iter().map(|at| Damage {
            what: "the device does not return this block, which lies behind the last frame; \
                   nothing says that a record stood there"
                .to_owned(),
            path: self.path_of(at.segment),
            position: Some(*at),
            lost: None,
            intact_through: Some(self.next_lsn.previous()),
            intact_from: None,
            repairable: true,
        });
        let senseless = self.senseless.iter().map(|(at, lsn)| Damage {
            what:
                "the frame's checksum holds and its records make no sense: it was not written by \
                   a correct writer"
                    .to_owned(),
            path: self.path_of(at.segment),
            position: Some(*at),
            lost: None,
            intact_through: Some(lsn.previous()),
            intact_from: None,
            repairable: false,
        });
        whole.chain(holes).chain(unreadable).chain(senseless).collect()
    }

    fn damage(&self, hole: &Hole) -> Damage {
        let lost = LsnRange::between(hole.first, hole.next.previous());
        let what = if lost.is_empty() {
            format!("a frame without records is damaged ({})", hole.why)
        } else {
            format!("acknowledged records are damaged ({})", hole.why)
        };
        Damage {
            what,
            path: self.path_of(hole.at.segment),
            position: Some(hole.at),
            lost: (!lost.is_empty()).then_some(lost),
            intact_through: Some(hole.first.previous()).filter(|lsn| *lsn > Lsn::ZERO),
            intact_from: hole.resume.map(|_| hole.next),
            repairable: true,
        }
    }
}
