//! Where a reader is, in a way that survives what happens to the log (LOG.md L21).
//!
//! LINEAGE-1: a record that a reader saw in epoch *e* is in the log as long as no later epoch began
//! at its LSN or below: a barrier there cut it off. LINEAGE-2: the pairs (epoch, first LSN) reach
//! back to the start of the log, in this table or along the chain of barriers.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::barrier::Barrier;
use super::core::Core;
use super::frame::{self, FrameHeader, FrameKind};
use super::replay::Replay;
use super::tail::Tail;
use super::wal::Wal;
use super::window::Window;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Lsn, Position, to_u64};
use crate::planted::{Bug, planted};
use crate::storage::BLOCK;

/// How far a reader of a log has come: it has seen the records up to `lsn`, in the log as it was
/// in `epoch`. Store it with what was made of the records, and go on there with
/// [`Wal::replay_from_position`] or [`Wal::tail_from`].
///
/// An LSN alone may come to stand for another record: of what was handed out and never made
/// durable, or where a log was restored from an older copy. The epoch tells, with one limit: a
/// restored copy counts its epochs on from the copied one, so a position that was read in an epoch
/// of the original *after* the backup may seem to stand in the copy's epoch of the same number.
/// After restoring an older copy let readers that were ahead of it start anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReaderPosition {
    /// The writer's incarnation in which the record was read.
    pub epoch: Epoch,
    /// The last record that was read; zero: none. A position with zero is not checked at all: with
    /// it reading begins at the start of the log, wherever truncation has moved that.
    pub lsn: Lsn,
}

impl fmt::Display for ReaderPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} of epoch {}", self.lsn, self.epoch)
    }
}

/// The epochs of a log, from the one that holds its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    /// Epochs and the first LSN of each, ascending; the last is this opening's.
    pub(crate) pairs: Vec<(Epoch, Lsn)>,
    /// The barrier before the one that named them; zeros if there is none any more.
    pub(crate) previous: Position,
}

/// What the pairs say of a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// What was read there is in the log.
    Stands,
    /// A later epoch began at that LSN or below. The last record that is shared.
    Cut(Lsn),
    /// It is older than all of the pairs.
    Older,
    /// No such epoch ever was.
    Foreign,
}

impl Lineage {
    fn judge(&self, position: ReaderPosition) -> Verdict {
        let behind = self.pairs.partition_point(|(epoch, _)| *epoch <= position.epoch);
        let own = behind.checked_sub(1).and_then(|at| self.pairs.get(at));
        match (own, self.pairs.get(behind)) {
            (None, _) => Verdict::Older,
            (Some((epoch, _)), _) if *epoch != position.epoch => Verdict::Foreign,
            (_, Some((_, first))) if *first <= position.lsn => Verdict::Cut(first.previous()),
            (_, _) => Verdict::Stands,
        }
    }

    /// Puts what an older barrier says in front.
    fn extend(&mut self, barrier: Barrier) {
        let first = self.pairs.first().copied();
        let older = |(epoch, _): &(Epoch, Lsn)| first.is_none_or(|(first, _)| *epoch < first);
        let mut pairs: Vec<_> = barrier.pairs.into_iter().filter(older).collect();
        pairs.append(&mut self.pairs);
        self.pairs = pairs;
        self.previous = barrier.previous;
    }
}

impl Core {
    /// Refuses a position from which what was read is not the beginning of this log any more.
    fn check_position(&self, position: ReaderPosition) -> Result<()> {
        if position.lsn == Lsn::ZERO || planted(Bug::SilentDivergence) {
            return Ok(());
        }
        if position.lsn.get() >= u64::MAX / 2 {
            let message = format!("no log has a record with LSN {}", position.lsn);
            return Err(Error::new(ErrorKind::Invalid, message).at_path(self.directory.path()));
        }
        let mut lineage = self.lineage.clone();
        let last_good = loop {
            match lineage.judge(position) {
                Verdict::Stands => break None,
                Verdict::Cut(last_good) => break Some(last_good),
                Verdict::Foreign => break Some(Lsn::ZERO),
                Verdict::Older => match self.barrier_at(lineage.previous)? {
                    Some(barrier) => lineage.extend(barrier),
                    // Nothing is left of that time, so nothing of it can be compared.
                    None if position.lsn.next() < self.first_lsn() => break None,
                    None => break Some(Lsn::ZERO),
                },
            }
        };
        let start = self.first_lsn();
        let error = match last_good {
            Some(last_good) => {
                let kind = ErrorKind::Diverged { last_good };
                let message = match last_good {
                    Lsn::ZERO => format!(
                        "{position} is not of this log's past: read again from the start, or find \
                         the log that it belongs to"
                    ),
                    last => format!(
                        "{position} was cut off when the log was opened later: what was read up \
                         to record {last} stands, what was read behind it does not"
                    ),
                };
                Error::new(kind, message)
            }
            None if position.lsn.next() < start => {
                let message = "records were removed by truncation before this reader came to them";
                let error = Error::new(ErrorKind::Invalid, message);
                error.for_lsns(position.lsn.next(), start.previous())
            }
            None if position.lsn > self.appended() => {
                let message = format!("no record has LSN {} yet", position.lsn);
                Error::new(ErrorKind::Invalid, message)
            }
            None => return Ok(()),
        };
        Err(error.at_path(self.directory.path()))
    }

    /// The barrier at a place; `None` if that was truncated, or if there never was one.
    fn barrier_at(&self, place: Position) -> Result<Option<Barrier>> {
        let entries = self.index.reaching(Lsn::ZERO);
        let holder = entries.iter().find(|entry| entry.segment.number() == place.segment);
        let Some(segment) = holder.map(|entry| &entry.segment) else { return Ok(None) };
        let mut channel = self.index.channel(&*self.directory)?;
        let mut window = Window::new(0);
        let mut load = |bytes| {
            let loaded = window.load(&mut *channel, segment, place.offset, bytes);
            loaded.map(<[u8]>::to_vec)
        };
        let header = FrameHeader::decode(&load(to_u64(BLOCK))?, self.log, place);
        let header = header.map(|(header, _)| header);
        let fits = |header: &FrameHeader| place.offset + header.length_on_disk() <= segment.size();
        let mut found = None;
        if let Some(header) = header.filter(|header| header.kind == FrameKind::Barrier)
            && fits(&header)
        {
            let bytes = load(header.length_on_disk())?;
            found = frame::payload(&header, &bytes)
                .and_then(|payload| Barrier::decode(&header, payload));
        }
        self.index.give_back(channel);
        match found {
            Some(barrier) => Ok(Some(barrier)),
            None => {
                let message = "a barrier of the log is damaged: restore the segment from a copy";
                let error = Error::new(ErrorKind::Corrupt, message);
                Err(error.at_path(segment.path()).at_position(place))
            }
        }
    }
}

impl Wal {
    /// How far a reader has come that has seen everything durable. See [`position_at`].
    ///
    /// [`position_at`]: Wal::position_at
    #[must_use]
    pub fn position(&self) -> ReaderPosition {
        self.position_at(self.durable_lsn())
    }

    /// How far a reader of this handle has come whose last record was `lsn`: to be stored with what
    /// was made of the records, for [`replay_from_position`] or [`tail_from`] in a later life.
    ///
    /// [`replay_from_position`]: Wal::replay_from_position
    /// [`tail_from`]: Wal::tail_from
    #[must_use]
    pub fn position_at(&self, lsn: Lsn) -> ReaderPosition {
        let epoch = self.core().lineage.pairs.last().map_or(Epoch::new(0), |(epoch, _)| *epoch);
        ReaderPosition { epoch, lsn }
    }

    /// As [`replay_from`](Wal::replay_from), from the record behind a reader's position on, if what
    /// the reader has seen is still the beginning of this log.
    ///
    /// A position of durable records always is, after any crash. One of records that were not
    /// durable, or of a log that was restored from an older copy, may have been cut off; for the
    /// latter see the limit at [`ReaderPosition`].
    ///
    /// # Errors
    /// [`Diverged`](ErrorKind::Diverged) with the last record that the reader and the log share:
    /// what the reader made of later ones has to be undone. `Invalid` if records behind the
    /// position were truncated, or if it is above all records. `Corrupt` if a barrier that has to
    /// be asked is damaged. As [`replay`](Wal::replay).
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = || sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// use sawmill::Wal;
    /// let wal = Wal::open(place.path(), options())?;
    /// wal.append(b"seen")?;
    /// let position = wal.position();
    /// wal.append(b"unseen")?;
    /// wal.close()?;
    ///
    /// let wal = Wal::open(place.path(), options())?;
    /// let mut replay = wal.replay_from_position(position)?;
    /// assert_eq!(replay.next().expect("one more")?.payload, b"unseen");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn replay_from_position(&self, position: ReaderPosition) -> Result<Replay> {
        self.core().check()?;
        self.core().check_position(position)?;
        self.replay_from(position.lsn.next())
    }

    /// As [`tail`](Wal::tail), from the record behind a reader's position on, if what the reader
    /// has seen is still the beginning of this log.
    ///
    /// # Errors
    /// As [`replay_from_position`](Wal::replay_from_position).
    pub fn tail_from(&self, position: ReaderPosition) -> Result<Tail> {
        self.core().check()?;
        self.core().check_position(position)?;
        self.tail(position.lsn.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(epoch: u64, lsn: u64) -> ReaderPosition {
        ReaderPosition { epoch: Epoch::new(epoch), lsn: Lsn::new(lsn) }
    }

    fn lineage(pairs: &[(u64, u64)]) -> Lineage {
        let pair = |(epoch, lsn): &(u64, u64)| (Epoch::new(*epoch), Lsn::new(*lsn));
        Lineage { pairs: pairs.iter().map(pair).collect(), previous: Position::default() }
    }

    #[test]
    fn a_position_stands_until_a_later_epoch_begins_at_its_record_or_below() {
        let lineage = lineage(&[(2, 10), (3, 10), (5, 30)]);
        for (epoch, lsn, verdict) in [
            (2, 9, Verdict::Stands),
            (2, 10, Verdict::Cut(Lsn::new(9))),
            (3, 9, Verdict::Stands),
            (3, 29, Verdict::Stands),
            (3, 30, Verdict::Cut(Lsn::new(29))),
            (4, 30, Verdict::Foreign),
            (5, 30, Verdict::Stands),
            (5, 9999, Verdict::Stands),
            (6, 30, Verdict::Foreign),
            (1, 5, Verdict::Older),
        ] {
            assert_eq!(lineage.judge(position(epoch, lsn)), verdict, "{epoch} {lsn}");
        }
    }

    #[test]
    fn older_barriers_go_in_front() {
        let mut known = lineage(&[(7, 70), (8, 80)]);
        let older =
            Barrier { pairs: lineage(&[(5, 50), (6, 60), (7, 70)]).pairs, ..Barrier::default() };
        known.extend(older);
        assert_eq!(known, lineage(&[(5, 50), (6, 60), (7, 70), (8, 80)]));
        assert_eq!(known.judge(position(6, 75)), Verdict::Cut(Lsn::new(69)));
    }
}
