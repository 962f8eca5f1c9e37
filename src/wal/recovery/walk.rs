//! Along the chain: from a segment's start to the first place where no frame stands.
//!
//! WALK-1: what was walked is one chain without holes, each frame whole (LOG.md L3).

use std::collections::BTreeMap;

use crate::error::{ErrorKind, Result};
use crate::ids::{Epoch, Lsn, Position, SegmentNumber, to_u64};
use crate::planted::{Bug, planted};
use crate::storage::{BLOCK, Channel};
use crate::sync::Arc;
use crate::wal::barrier::Barrier;
use crate::wal::frame::{FrameHeader, FrameKind};
use crate::wal::home::Home;
use crate::wal::scan::{self, Expected, Fault, Verdict};
use crate::wal::segment::Segment;
use crate::wal::tombstone::Tombstone;
use crate::wal::window::Window;

/// Segments by their numbers.
pub(super) type Segments = BTreeMap<SegmentNumber, Arc<Segment>>;

/// What to read with.
pub(super) struct Device<'c> {
    pub(super) channel: &'c mut dyn Channel,
    pub(super) window: Window,
    pub(super) home: Arc<Home>,
}

/// A barrier on the way.
#[derive(Clone, Debug)]
pub(super) struct FoundBarrier {
    pub(super) position: Position,
    pub(super) epoch: Epoch,
    pub(super) first_lsn: Lsn,
    pub(super) barrier: Barrier,
}

/// Where the chain led.
#[derive(Debug)]
pub(super) struct Walked {
    /// What the next frame would have had to be, and where.
    pub(super) end: Expected,
    /// Why none stands there.
    pub(super) fault: Fault,
    /// Where the frame is that does not stand: `end`, or the start of the next segment.
    pub(super) fault_at: Position,
    /// The last frame that stands.
    pub(super) last: Option<FrameHeader>,
    /// The newest barrier.
    pub(super) barrier: Option<FoundBarrier>,
    /// The first LSN of each segment that was walked.
    pub(super) first_lsns: BTreeMap<SegmentNumber, Lsn>,
    /// The highest LSN that the tombstones on the way say was durable.
    pub(super) attested: Lsn,
}

/// What a frame holds that the walk must know.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Plain,
    Barrier(Barrier),
    Tombstone(Tombstone),
}

/// What is called with each frame that stands, and its payload.
pub(super) type Visit<'a> = dyn FnMut(&FrameHeader, &[u8]) + 'a;

impl Walked {
    /// A walk that begins here.
    pub(super) fn at(start: Expected) -> Walked {
        Walked {
            end: start,
            fault: Fault::Blank,
            fault_at: start.position,
            last: None,
            barrier: None,
            first_lsns: BTreeMap::new(),
            attested: Lsn::ZERO,
        }
    }

    /// The LSN that the next record gets.
    pub(super) fn next_lsn(&self) -> Lsn {
        self.end.next_lsn.unwrap_or(Lsn::FIRST)
    }

    /// The epoch of the last frame that stands; zero if none does.
    pub(super) fn epoch(&self) -> Epoch {
        self.last.map_or(Epoch::new(0), |header| header.epoch)
    }

    fn accept(&mut self, segments: &Segments, header: FrameHeader, crc: u32, content: Content) {
        self.first_lsns.entry(header.position.segment).or_insert(header.first_lsn);
        self.end = match content {
            Content::Tombstone(tombstone) => {
                self.attested = self.attested.max(tombstone.durable);
                let size = |number| segments.get(&number).map_or(0, |segment| segment.size());
                self.end.over(&header, crc, &tombstone, size)
            }
            Content::Barrier(barrier) => {
                let (position, epoch) = (header.position, header.epoch);
                let first_lsn = header.first_lsn;
                self.barrier = Some(FoundBarrier { position, epoch, first_lsn, barrier });
                self.end.after(&header, crc)
            }
            Content::Plain => self.end.after(&header, crc),
        };
        self.last = Some(header);
    }
}

/// The verdict on one place, without the bytes.
enum Found {
    Frame(FrameHeader, u32, Content),
    Not(Fault),
}

/// Walks from `start` over `segments` as far as frames stand.
///
/// # Errors
/// `Unreadable` where the device returns no bytes (never taken for the end, LOG.md L14).
pub(super) fn walk(
    device: &mut Device<'_>,
    segments: &Segments,
    start: Expected,
) -> Result<Walked> {
    let mut walked = Walked::at(start);
    walk_on(device, segments, &mut walked, &mut |_, _| ())?;
    Ok(walked)
}

/// Walks on from where `walked` ends, as far as frames stand; `visit` gets each with its payload.
/// After an error `walked` says how far it came.
///
/// # Errors
/// As [`walk`].
pub(super) fn walk_on(
    device: &mut Device<'_>,
    segments: &Segments,
    walked: &mut Walked,
    visit: &mut Visit<'_>,
) -> Result<()> {
    loop {
        walked.fault_at = walked.end.position;
        let fault = match look(device, segments, &walked.end, visit)? {
            Found::Frame(header, crc, content) => {
                walked.accept(segments, header, crc, content);
                continue;
            }
            Found::Not(fault) => fault,
        };
        (walked.fault, walked.fault_at) = (fault, walked.end.position);
        if planted(Bug::PaddingIsEnd) && fault == Fault::Blank {
            return Ok(());
        }
        // The rest of a segment stays as it was where the next frame did not fit. Only the chain
        // tells: a frame at the next segment's start that continues ours proves that no other
        // stood between.
        let number = walked.end.position.segment.next();
        let Some(next) = segments.get(&number) else { return Ok(()) };
        let there = walked.end.at_segment(number, next.size());
        match look(device, segments, &there, visit)? {
            Found::Frame(header, crc, content) => {
                walked.end = there;
                walked.accept(segments, header, crc, content);
            }
            Found::Not(Fault::Payload) => {
                (walked.fault, walked.fault_at) = (Fault::Payload, there.position);
                return Ok(());
            }
            Found::Not(_) => return Ok(()),
        }
    }
}

/// What stands at one place, read from the device.
fn look(
    device: &mut Device<'_>,
    segments: &Segments,
    expected: &Expected,
    visit: &mut Visit<'_>,
) -> Result<Found> {
    let Position { segment, offset } = expected.position;
    let Some(segment) = segments.get(&segment) else { return Ok(Found::Not(Fault::Blank)) };
    if offset >= segment.size() {
        return Ok(Found::Not(Fault::Blank));
    }
    match judge_at(device, segment, expected, visit) {
        Err(error) if error.kind() == ErrorKind::Unreadable && planted(Bug::ReadErrorIsTorn) => {
            Ok(Found::Not(Fault::NoHeader))
        }
        other => other,
    }
}

fn judge_at(
    device: &mut Device<'_>,
    segment: &Segment,
    expected: &Expected,
    visit: &mut Visit<'_>,
) -> Result<Found> {
    let offset = expected.position.offset;
    let mut wanted = to_u64(BLOCK);
    loop {
        let bytes = device.window.load(device.channel, segment, offset, wanted)?;
        match scan::judge(bytes, expected) {
            // Only a length that was believed can ask for more than the segment has.
            Verdict::More(length) if length <= wanted => return Ok(Found::Not(Fault::Length)),
            Verdict::More(length) => wanted = length,
            Verdict::Not(fault) => return Ok(Found::Not(fault)),
            Verdict::Frame { header, crc, payload } => {
                let content = match header.kind {
                    FrameKind::Barrier => Barrier::decode(&header, payload).map(Content::Barrier),
                    FrameKind::Tombstone => {
                        Tombstone::decode(&header, payload).map(Content::Tombstone)
                    }
                    FrameKind::Records | FrameKind::Attestation | FrameKind::Closing => {
                        Some(Content::Plain)
                    }
                };
                let Some(content) = content else { return Ok(Found::Not(Fault::Senseless)) };
                visit(&header, payload);
                return Ok(Found::Frame(header, crc, content));
            }
        }
    }
}

/// The frame at one place, with nothing known of what came before; `None` if none stands there.
///
/// # Errors
/// As [`walk`].
pub(super) fn frame_at(
    device: &mut Device<'_>,
    segments: &Segments,
    expected: &Expected,
) -> Result<Option<(FrameHeader, Content)>> {
    match look(device, segments, expected, &mut |_, _| ())? {
        Found::Frame(header, _, content) => Ok(Some((header, content))),
        Found::Not(_) => Ok(None),
    }
}

/// The header at one place, its payload not looked at; `None` if none stands there.
///
/// # Errors
/// `Unreadable`.
pub(super) fn header_at(
    device: &mut Device<'_>,
    segment: &Segment,
    expected: &Expected,
) -> Result<Option<FrameHeader>> {
    let bytes = device.window.load_only(
        device.channel,
        segment,
        expected.position.offset,
        to_u64(BLOCK),
    )?;
    Ok(scan::judge_header(bytes, expected).ok().map(|(header, _)| header))
}
