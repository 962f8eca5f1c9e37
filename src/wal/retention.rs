//! Which records may go by size and age, and what a truncation would take.
//!
//! RETENTION-1: the options only choose an LSN; what goes, and in which order, is truncation's
//! (LOG.md L17): whole segments, nothing that is pinned, nothing that is not durable, never the
//! segment of the durable LSN.

use std::time::Duration;

use super::core::{Core, closed};
use super::frame::FrameHeader;
use super::group::Resolved;
use super::index::SegmentEntry;
use super::options::WalOptions;
use super::prepare::Preparer;
use super::segment::FIRST_FRAME;
use super::transfer;
use super::wal::Wal;
use crate::error::Result;
use crate::ids::{Lsn, Position, SegmentNumber};
use crate::storage::{BLOCK, Channel};
use crate::sync::lock;

/// How much of the log is kept without being asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    bytes: Option<u64>,
    age: Option<Duration>,
}

impl Retention {
    /// What the options say.
    pub(crate) fn new(options: &WalOptions) -> Retention {
        Retention { bytes: options.retain_bytes, age: options.retain_age }
    }

    pub(super) fn is_off(&self) -> bool {
        self.bytes.is_none() && self.age.is_none()
    }
}

/// What keeps records that one might want to be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hold {
    /// A named reader, at this LSN.
    Pin {
        /// Its name.
        name: String,
        /// The first record it needs.
        lsn: Lsn,
    },
    /// Records above this one are not durable.
    NotDurable {
        /// The durable LSN.
        durable: Lsn,
    },
    /// Records go by the segment, and this one holds records that stay. The segment of the durable
    /// LSN always stays.
    Segment {
        /// Its number.
        number: SegmentNumber,
        /// Its first record.
        first: Lsn,
    },
}

/// What [`Wal::truncate_before`] would do at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TruncationPlan {
    /// The log's first LSN afterwards.
    pub first_lsn: Lsn,
    /// How many segments go.
    pub segments: u64,
    /// Bytes of these segments.
    pub bytes: u64,
    /// What holds the records from there to the LSN that was asked for, the strongest first; empty
    /// if they all go.
    pub holds: Vec<Hold>,
}

impl Core {
    /// Gives up what the options let go. For who has the preparer.
    pub(super) fn retain(
        &self,
        preparer: &mut Preparer,
        resolved: &mut Vec<Resolved>,
    ) -> Result<Lsn> {
        if self.retention.is_off() {
            return Ok(self.first_lsn());
        }
        let floor = self.retention_floor(&mut *preparer.channel)?;
        if floor <= self.first_lsn() {
            return Ok(self.first_lsn());
        }
        self.truncate_with(preparer, floor.min(self.progress.durable().next()), resolved)
    }

    /// The first record that the options want to be kept.
    fn retention_floor(&self, channel: &mut dyn Channel) -> Result<Lsn> {
        let entries = self.index.reaching(Lsn::ZERO);
        let mut first = 0;
        if let Some(limit) = self.retention.bytes {
            let mut bytes: u64 = entries.iter().map(|entry| entry.segment.size()).sum();
            while first + 1 < entries.len() && bytes > limit {
                bytes -= entries[first].segment.size();
                first += 1;
            }
        }
        if let Some(age) = self.retention.age {
            let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            let now = self.clock.wall_ns();
            // No record of a segment is younger than the first frame of the next one.
            while let Some(next) = entries.get(first + 1)
                && let Some(sealed) = self.seal_time(next, channel)?
                && sealed.saturating_add(age) <= now
            {
                first += 1;
            }
        }
        Ok(entries.get(first).map_or(Lsn::ZERO, |entry| entry.first_lsn))
    }

    /// When a segment's first frame was sealed; `None` if it was not written yet.
    fn seal_time(&self, entry: &SegmentEntry, channel: &mut dyn Channel) -> Result<Option<u64>> {
        let position = Position { segment: entry.segment.number(), offset: FIRST_FRAME };
        let block = transfer::read_exact(channel, &entry.segment.device()?, FIRST_FRAME, BLOCK)?;
        let header = FrameHeader::decode(&block, self.log, position);
        Ok(header.map(|(header, _)| header.seal_time_ns))
    }

    /// What a truncation before `before` would do now.
    pub(super) fn plan(&self, before: Lsn) -> TruncationPlan {
        let pins = lock(&self.pins);
        let (durable, start) = (self.progress.durable(), self.first_lsn());
        let wanted = before.min(durable.next());
        let allowed = pins.clamp(wanted);
        let entries = self.index.reaching(Lsn::ZERO);
        let kept = self.index.reaching(allowed.min(durable));
        let first = kept.first().filter(|first| first.first_lsn > start);
        let first_lsn = first.map_or(start, |first| first.first_lsn);
        let number = first.map_or(SegmentNumber::new(0), |first| first.segment.number());
        let gone = entries.iter().filter(|entry| entry.segment.number() < number);
        let (mut segments, mut bytes) = (0, 0);
        gone.for_each(|entry| {
            segments += 1;
            bytes += entry.segment.size();
        });
        let mut holds: Vec<Hold> = pins.below(wanted).into_iter().map(Hold::from).collect();
        if before > durable.next() {
            holds.push(Hold::NotDurable { durable });
        }
        if let Some(entry) = kept.first().filter(|_| first_lsn < allowed) {
            let number = entry.segment.number();
            holds.push(Hold::Segment { number, first: entry.first_lsn });
        }
        TruncationPlan { first_lsn, segments, bytes, holds }
    }
}

impl From<(String, Lsn)> for Hold {
    fn from((name, lsn): (String, Lsn)) -> Hold {
        Hold::Pin { name, lsn }
    }
}

impl Wal {
    /// Gives up what [`WalOptions::retain_bytes`] and [`WalOptions::retain_age`] let go, as the log
    /// does by itself whenever it comes into a new segment; returns its first LSN. Without either
    /// option nothing goes.
    ///
    /// The order is that of [`truncate_before`](Wal::truncate_before): a crash leaves the old start
    /// or the new one. What is pinned stays. It works on a full disk, and gives space back.
    ///
    /// # Errors
    /// As [`truncate_before`](Wal::truncate_before).
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// use sawmill::{Wal, WalOptions};
    /// let retain_bytes = Some(128 << 10);
    /// let options = WalOptions { segment_size: 64 << 10, retain_bytes, ..Default::default() };
    /// let wal = Wal::open(place.path(), options)?;
    /// for _ in 0..20 {
    ///     wal.append(&[0; 28_000])?;
    /// }
    /// let first = wal.apply_retention()?;
    /// assert!(wal.last_lsn().get() - first.get() < 4, "two segments of two records each");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn apply_retention(&self) -> Result<Lsn> {
        let core = self.core();
        core.check()?;
        if !core.retention.is_off() {
            core.cover_catalog(core.progress.durable())?;
        }
        let mut resolved = Vec::new();
        let first = match core.hold_preparer().as_mut() {
            Some(preparer) => core.check().and_then(|()| core.retain(preparer, &mut resolved)),
            None => Err(closed()),
        };
        Resolved::wake(resolved);
        first
    }

    /// What [`truncate_before`](Wal::truncate_before) would do now, and what holds the rest.
    /// Changes nothing, and promises nothing: the log goes on.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`, `Forked`.
    ///
    /// ```
    /// use sawmill::{Hold, Lsn};
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// for _ in 0..10 {
    ///     wal.append(&[0; 28_000])?;
    /// }
    /// let _pin = wal.pin("indexer", Lsn::new(6))?;
    /// let plan = wal.truncation_plan(Lsn::new(9))?;
    /// let hold = Hold::Pin { name: "indexer".into(), lsn: Lsn::new(6) };
    /// assert_eq!((plan.first_lsn, &plan.holds[0]), (Lsn::new(5), &hold));
    /// assert_eq!(wal.truncate_before(Lsn::new(9))?, plan.first_lsn);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn truncation_plan(&self, before: Lsn) -> Result<TruncationPlan> {
        self.core().check()?;
        Ok(self.core().plan(before))
    }
}
