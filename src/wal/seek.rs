//! Finding records by the time at which they were written (LOG.md L24).
//!
//! SEEK-1: seal times never fall from frame to frame, also not across openings: so halving the
//! segments finds the one in which a time is passed, and what was found once stays found.

use super::core::Core;
use super::frame::{self, FrameHeader, FrameKind};
use super::index::SegmentEntry;
use super::scan::{self, Expected};
use super::tombstone::Tombstone;
use super::wal::Wal;
use super::window::{WINDOW, Window};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, to_u64};
use crate::storage::{BLOCK, Channel};

/// Reads headers, through one channel and one window.
struct Seeker<'a> {
    core: &'a Core,
    channel: Box<dyn Channel>,
    window: Window,
    /// Nothing above is looked at.
    durable: Lsn,
}

impl Seeker<'_> {
    /// The header of a segment's first frame; `None` if that may not be durable yet.
    fn first_of(&mut self, entry: &SegmentEntry) -> Result<Option<FrameHeader>> {
        if entry.first_lsn > self.durable {
            return Ok(None);
        }
        let found = self.header(entry, &self.place(entry))?;
        match found {
            Some((header, _)) => Ok(Some(header)),
            None => Err(self.damaged(entry, &self.place(entry), entry.first_lsn)),
        }
    }

    fn place(&self, entry: &SegmentEntry) -> Expected {
        let segment = &entry.segment;
        let place = Expected::start_of(self.core.log, segment.number(), segment.size());
        Expected { next_lsn: Some(entry.first_lsn), ..place }
    }

    /// The header that stands at a place: read past the page cache if it does not stand at first.
    fn header(
        &mut self,
        entry: &SegmentEntry,
        expected: &Expected,
    ) -> Result<Option<(FrameHeader, u32)>> {
        let offset = expected.position.offset;
        if offset >= entry.segment.size() {
            return Ok(None);
        }
        for again in [false, true] {
            if again {
                self.window.forget();
            }
            let block = to_u64(BLOCK);
            let bytes = self.window.load(&mut *self.channel, &entry.segment, offset, block)?;
            if let Ok(found) = scan::judge_header(bytes, expected) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The first record from segment `at` on that was sealed at `time_ns` or later. Records before
    /// that segment were sealed earlier, those of the next one later.
    fn search(&mut self, entries: &[SegmentEntry], at: usize, time_ns: u64) -> Result<Lsn> {
        let (mut at, mut expected) = (at, self.place(&entries[at]));
        loop {
            let entry = &entries[at];
            let lsn = expected.next_lsn.unwrap_or(entry.first_lsn);
            if lsn > self.durable {
                return Ok(lsn);
            }
            match self.header(entry, &expected)? {
                Some((header, _)) if header.records > 0 && header.seal_time_ns >= time_ns => {
                    return Ok(header.first_lsn);
                }
                Some((header, crc)) if header.kind == FrameKind::Tombstone => {
                    expected = self.over(entries, at, &expected, (&header, crc))?;
                    let number = expected.position.segment;
                    let resumed = entries.iter().position(|next| next.segment.number() == number);
                    at = resumed.ok_or_else(|| self.damaged(entry, &expected, lsn))?;
                }
                Some((header, crc)) => expected = expected.after(&header, crc),
                None if entries.get(at + 1).is_some_and(|next| next.first_lsn == lsn) => {
                    return Ok(lsn);
                }
                None => return Err(self.damaged(entry, &expected, lsn)),
            }
        }
    }

    /// What follows a tombstone: a repair gave up what lies between.
    fn over(
        &mut self,
        entries: &[SegmentEntry],
        at: usize,
        expected: &Expected,
        (header, crc): (&FrameHeader, u32),
    ) -> Result<Expected> {
        let (entry, offset) = (&entries[at], expected.position.offset);
        let length = header.length_on_disk();
        let bytes = self.window.load(&mut *self.channel, &entry.segment, offset, length)?;
        let payload = frame::payload(header, bytes).unwrap_or_default();
        let Some(tombstone) = Tombstone::decode(header, payload) else {
            return Err(self.damaged(entry, expected, header.first_lsn));
        };
        let size = |number| {
            let found = entries.iter().find(|entry| entry.segment.number() == number);
            found.map_or(0, |entry| entry.segment.size())
        };
        Ok(expected.over(header, crc, &tombstone, size))
    }

    fn damaged(&self, entry: &SegmentEntry, expected: &Expected, lsn: Lsn) -> Error {
        let message = "the header of an acknowledged frame is damaged, also when read from the \
                       device again: restore the segment from a copy, or salvage the log";
        Error::new(ErrorKind::Corrupt, message)
            .at_path(entry.segment.path())
            .at_position(expected.position)
            .for_lsns(lsn, lsn)
    }

    fn seek(&mut self, entries: &[SegmentEntry], time_ns: u64) -> Result<Lsn> {
        // The last segment that begins before that time.
        let (mut low, mut high) = (0, entries.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let first = self.first_of(&entries[middle])?;
            if first.is_some_and(|header| header.seal_time_ns < time_ns) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        match low.checked_sub(1) {
            Some(at) => self.search(entries, at, time_ns),
            None => Ok(entries.first().map_or(Lsn::FIRST, |entry| entry.first_lsn)),
        }
    }
}

impl Wal {
    /// The first durable record whose frame was sealed at `time_ns` or later, in nanoseconds since
    /// the Unix epoch: where to begin a [`replay_from`](Wal::replay_from) that shall show what was
    /// written since. One above the durable LSN if there is none yet.
    ///
    /// A frame is sealed when it is written: all records that were written together have one time.
    /// It is the writer's clock, but never falls, also not when the clock was set back or the log
    /// was opened again: records from while a clock was behind have the time before. What a record
    /// itself says of time is part of its payload.
    ///
    /// The search halves the segments and walks the frames of one; it waits for nobody. A crash and
    /// a full disk do not matter.
    ///
    /// # Errors
    /// `Corrupt` if a header on the way is damaged, `Unreadable`, `Io`; `Poisoned`, `Closed`,
    /// `Forked`.
    ///
    /// ```
    /// # let place = tempfile::tempdir()?;
    /// # let options = sawmill::WalOptions { segment_size: 64 << 10, ..Default::default() };
    /// use std::time::{Duration, SystemTime};
    /// let wal = sawmill::Wal::open(place.path(), options)?;
    /// let lsn = wal.append(b"now")?;
    /// let hour = Duration::from_secs(3600).as_nanos() as u64;
    /// let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64;
    /// assert_eq!(wal.seek_time(now - hour)?, lsn);
    /// assert_eq!(wal.seek_time(now + hour)?, lsn.next(), "nothing so late");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn seek_time(&self, time_ns: u64) -> Result<Lsn> {
        let core = self.core();
        core.check()?;
        let entries = core.index.reaching(Lsn::ZERO);
        let channel = core.index.channel(&*core.directory)?;
        let (window, durable) = (Window::new(WINDOW), core.progress.durable());
        let mut seeker = Seeker { core, channel, window, durable };
        let found = seeker.seek(&entries, time_ns)?;
        core.index.give_back(seeker.channel);
        Ok(found.clamp(core.first_lsn(), durable.next()))
    }
}
