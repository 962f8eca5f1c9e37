//! Looking at a whole log without writing: every frame from the start on, what is damaged, and what
//! stands behind the damage. `verify`, `inspect` and `repair` are told by this.
//!
//! SURVEY-1: nothing is written. SURVEY-2: damage is what recovery, or a reader, would call
//! `Corrupt` or `Unreadable`: the same walk and the same decision, from the start of the log and on
//! behind each hole. SURVEY-3: what a later opening has dropped is never taken for what follows a
//! hole. SURVEY-4: however many headers stand behind a hole, a bounded number is held.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::behind::Behind;
use super::decide::{self, Decision};
use super::evidence::Evidence;
use super::files::{FileFault, Files};
use super::walk::{self, Device, Segments, Walked};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, LogId, Lsn, Position, SegmentNumber, to_u64};
use crate::storage::{BLOCK, Directory};
use crate::sync::Arc;
use crate::wal::compress::{Packed, unpack};
use crate::wal::frame::{FrameHeader, FrameKind};
use crate::wal::home::Home;
use crate::wal::record;
use crate::wal::scan::{self, Expected, Fault};
use crate::wal::segment::{FIRST_FRAME, file_name};
use crate::wal::tombstone::{Resume, Tombstone};
use crate::wal::window::{WINDOW, Window};

/// What was found.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) path: PathBuf,
    pub(super) files: Files,
    pub(crate) tallies: BTreeMap<SegmentNumber, Tally>,
    /// Each incarnation's epoch, first LSN, and where its barrier stands.
    pub(crate) epochs: Vec<(Epoch, Lsn, Position)>,
    /// What was given up before.
    pub(crate) lost: Vec<(Lsn, Lsn)>,
    pub(super) holes: Vec<Hole>,
    /// Blocks behind the end that the device does not return.
    pub(crate) unreadable: Vec<Position>,
    /// Behind the last frame that stands, holes passed.
    pub(crate) end: Position,
    pub(crate) next_lsn: Lsn,
    /// The highest LSN that anything attests.
    pub(crate) attested: Lsn,
    /// Frame headers behind the end, which nothing attests.
    pub(crate) dropped_frames: u64,
    pub(crate) bytes_read: u64,
    /// Frames whose checksum holds and whose records make no sense.
    pub(crate) senseless: Vec<(Position, Lsn)>,
}

/// What the frames of one segment hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) first_lsn: Option<Lsn>,
    pub(crate) frames: u64,
    pub(crate) records: u64,
    pub(crate) payload: u64,
    /// Bytes of whole frames, headers and padding included.
    pub(crate) used: u64,
    /// Attestations, barriers, closing frames, tombstones.
    pub(crate) marks: u64,
}

/// Acknowledged bytes that do not stand.
#[derive(Clone, Debug)]
pub(super) struct Hole {
    /// Where the tombstone goes.
    pub(super) at: Position,
    /// Header CRC of the last whole frame before it.
    pub(super) chain: u32,
    pub(super) epoch: Epoch,
    pub(super) nonce: u64,
    pub(super) seal_time_ns: u64,
    /// Where the catalog is to be read from, as the last whole frame before it says.
    pub(super) catalog: Lsn,
    /// The first LSN that is lost, and the first behind it that is not: equal if no record is.
    pub(super) first: Lsn,
    pub(super) next: Lsn,
    /// The highest LSN that anything attests.
    pub(super) attested: Lsn,
    /// The whole frame behind it.
    pub(super) resume: Option<Resume>,
    pub(super) why: String,
}

impl Survey {
    /// Looks at the log in `directory`. Beside a live writer what it has not made durable yet may
    /// be seen or not.
    ///
    /// # Errors
    /// `Invalid` if there is no log; `Unsupported`; `Corrupt` if `LOG` is lost, for then nothing
    /// says where the log starts; `Unreadable` if `LOG` is; `Io`.
    pub(crate) fn take(directory: &Arc<dyn Directory>) -> Result<Survey> {
        let mut channel = directory.channel()?;
        let home = Home::new(Arc::clone(directory));
        let mut device = Device { channel: &mut *channel, window: Window::new(WINDOW), home };
        let files = Files::look(&**directory, &mut device)?;
        let state = files.state;
        let mut survey = Survey {
            path: directory.path().to_owned(),
            tallies: BTreeMap::new(),
            epochs: Vec::new(),
            lost: Vec::new(),
            holes: Vec::new(),
            unreadable: Vec::new(),
            end: Position::default(),
            next_lsn: state.start_lsn,
            attested: state.durable_lsn,
            dropped_frames: 0,
            bytes_read: 0,
            senseless: Vec::new(),
            files,
        };
        if state.highest_epoch.get() > 0 || !survey.files.segments.is_empty() {
            survey.walk(&mut device)?;
        }
        survey.bytes_read = device.window.bytes_read();
        Ok(survey)
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_sound(&self) -> bool {
        self.holes.is_empty()
            && self.unreadable.is_empty()
            && self.files.faults.is_empty()
            && self.senseless.is_empty()
    }

    fn walk(&mut self, device: &mut Device<'_>) -> Result<()> {
        let state = self.files.state;
        let segments = self.files.segments.clone();
        let mut walked = Walked::at(self.files.expected_at_start());
        let mut last_look = None;
        loop {
            let failed = self.walk_on(device, &segments, &mut walked)?;
            let mut evidence = Evidence::default();
            let mut behind = Behind::default();
            let unreadable = scan_behind(device, &segments, &walked, |header| {
                evidence.add(header, &walked);
                behind.add(header, &walked);
            })?;
            self.attested = self.attested.max(evidence.durable).max(walked.attested);
            let decision = decide::decide(&walked, &evidence, &state);
            let Decision::Corrupt { witness, .. } = decision else {
                self.dropped_frames = evidence.frames;
                self.unreadable = unreadable;
                if let Some(at) = failed.filter(|at| !self.unreadable.contains(at)) {
                    self.unreadable.push(at);
                }
                break;
            };
            // A writer may have come further while this looked: what is attested now stands now.
            if last_look != Some(walked.end.position) {
                last_look = Some(walked.end.position);
                device.window.forget();
                continue;
            }
            let hole = self.hole(device, &walked, behind, witness.describe())?;
            let resume = hole.resume;
            self.holes.push(hole);
            let Some(resume) = resume else { break };
            walked.end = Expected {
                log: state.log,
                position: resume.position,
                segment_size: self.files.size(resume.position.segment),
                chain: Some(resume.chain),
                next_lsn: self.holes.last().map(|hole| hole.next),
                incarnation: Some((resume.epoch, resume.nonce)),
            };
        }
        self.end = walked.end.position;
        self.next_lsn = self.holes.last().map_or(Lsn::FIRST, |hole| hole.next);
        self.next_lsn = self.next_lsn.max(walked.next_lsn());
        Ok(())
    }

    /// Walks as far as frames stand; where the device returned nothing, if that ended it.
    fn walk_on(
        &mut self,
        device: &mut Device<'_>,
        segments: &Segments,
        walked: &mut Walked,
    ) -> Result<Option<Position>> {
        let (tallies, epochs) = (&mut self.tallies, &mut self.epochs);
        let (lost, senseless) = (&mut self.lost, &mut self.senseless);
        let outcome = walk::walk_on(device, segments, walked, &mut |header, payload| {
            tallies.entry(header.position.segment).or_default().add(header);
            match header.kind {
                FrameKind::Barrier => {
                    epochs.push((header.epoch, header.first_lsn, header.position));
                }
                FrameKind::Tombstone => {
                    let tombstone = Tombstone::decode(header, payload);
                    if let Some(gone) = tombstone.filter(|gone| gone.next > header.first_lsn) {
                        lost.push((header.first_lsn, gone.next.previous()));
                    }
                }
                FrameKind::Records if !has_sense(header, payload) => {
                    senseless.push((header.position, header.first_lsn));
                }
                FrameKind::Records | FrameKind::Attestation | FrameKind::Closing => {}
            }
        });
        match outcome {
            Ok(()) => Ok(None),
            Err(error) if error.kind() == ErrorKind::Unreadable => {
                walked.fault = Fault::NoHeader;
                walked.fault_at = error.position().unwrap_or(walked.end.position);
                let offset = walked.fault_at.offset / to_u64(BLOCK) * to_u64(BLOCK);
                Ok(Some(Position { offset, ..walked.fault_at }))
            }
            Err(error) => Err(error),
        }
    }

    /// What is to be said and done where the walk ended.
    fn hole(
        &self,
        device: &mut Device<'_>,
        walked: &Walked,
        behind: Behind,
        why: String,
    ) -> Result<Hole> {
        let state = &self.files.state;
        let first = walked.next_lsn();
        let (highest, named) = (behind.highest(), behind.named);
        let resume = self.first_whole(device, walked, behind)?;
        let (next, epoch, nonce) = match &resume {
            Some((header, resume)) => {
                let last = walked.last.map(|last| (last.epoch, last.nonce));
                let (epoch, nonce) = last.unwrap_or((resume.epoch, resume.nonce));
                (header.first_lsn, epoch, nonce)
            }
            None => {
                // Also what a header names whose records do not stand: it may have been told.
                let next = self.attested.next().max(first).max(named);
                (next, highest.max(state.highest_epoch).max(walked.epoch()), 0)
            }
        };
        Ok(Hole {
            at: self.place(walked),
            chain: walked.end.chain.unwrap_or(0),
            epoch,
            nonce,
            seal_time_ns: walked.last.map_or(0, |last| last.seal_time_ns),
            catalog: walked.last.map_or(Lsn::ZERO, |last| last.catalog),
            first,
            next,
            attested: self.attested,
            resume: resume.map(|(_, resume)| resume),
            why,
        })
    }

    /// Where a tombstone goes: over the first damaged frame.
    fn place(&self, walked: &Walked) -> Position {
        // Where the next frame would have come had it fitted is as good a place as any.
        let at = if walked.fault == Fault::Payload { walked.fault_at } else { walked.end.position };
        let fits = at.offset + to_u64(BLOCK) <= self.files.size(at.segment);
        if fits { at } else { Position { segment: at.segment.next(), offset: FIRST_FRAME } }
    }

    /// The first frame behind that stands by itself, and was not dropped by a later opening.
    fn first_whole(
        &self,
        device: &mut Device<'_>,
        walked: &Walked,
        mut behind: Behind,
    ) -> Result<Option<(FrameHeader, Resume)>> {
        let state = &self.files.state;
        let mut highest = walked.epoch();
        while let Some(header) = behind.next(device, &self.files.segments, walked)? {
            let named = state.barrier <= header.position && header.epoch < state.highest_epoch;
            if header.epoch < highest || named || behind.dropped(&header) {
                continue;
            }
            highest = header.epoch;
            let size = self.files.size(header.position.segment);
            let place = Expected::start_of(state.log, header.position.segment, size);
            let expected = Expected { position: header.position, ..place };
            let stands = match walk::frame_at(device, &self.files.segments, &expected) {
                Ok(found) => found.is_some(),
                Err(error) if error.kind() == ErrorKind::Unreadable => false,
                Err(error) => return Err(error),
            };
            if !stands {
                continue;
            }
            let before = Epoch::new(header.epoch.get().saturating_sub(1));
            let (epoch, nonce) = match header.kind {
                FrameKind::Barrier => (before, 0),
                FrameKind::Records
                | FrameKind::Attestation
                | FrameKind::Closing
                | FrameKind::Tombstone => (header.epoch, header.nonce),
            };
            let (position, chain) = (header.position, header.chain);
            return Ok(Some((header, Resume { position, epoch, nonce, chain })));
        }
        Ok(None)
    }

    /// The path of a segment.
    pub(crate) fn path_of(&self, number: SegmentNumber) -> PathBuf {
        self.path.join(file_name(number))
    }

    /// Whether the device did not return something that was asked for.
    pub(super) fn has_unreadable(&self) -> bool {
        let unreadable = |(_, fault): (_, &FileFault)| matches!(fault, FileFault::Unreadable);
        !self.unreadable.is_empty() || self.faults().any(unreadable)
    }

    /// What is wrong with single files.
    pub(super) fn faults(&self) -> impl Iterator<Item = (SegmentNumber, &FileFault)> {
        self.files.faults.iter().map(|(number, fault)| (*number, fault))
    }
}

impl Tally {
    fn add(&mut self, header: &FrameHeader) {
        self.first_lsn.get_or_insert(header.first_lsn);
        self.frames += 1;
        self.records += u64::from(header.records);
        self.used += header.length_on_disk();
        if header.kind == FrameKind::Records {
            self.payload += u64::from(header.payload_length);
        } else {
            self.marks += 1;
        }
    }
}

/// Whether the payload is as many whole records as the header says.
fn has_sense(header: &FrameHeader, payload: &[u8]) -> bool {
    let mut plain = Vec::new();
    let mut payload = match header.plain.map(|length| unpack(payload, length, &mut plain)) {
        None => payload,
        Some(Ok(())) => &plain,
        // It cannot be told without the feature `lz4`.
        Some(Err(Packed::Unknown)) => return true,
        Some(Err(Packed::Senseless)) => return false,
    };
    let whole = (0..header.records).all(|_| record::decode(&mut payload).is_some());
    whole && payload.is_empty()
}

/// Calls `found` with each decodable header behind the walk; the blocks that cannot be read.
pub(super) fn scan_behind(
    device: &mut Device<'_>,
    segments: &Segments,
    walked: &Walked,
    mut found: impl FnMut(&FrameHeader),
) -> Result<Vec<Position>> {
    let end = walked.end.position;
    let log: LogId = walked.end.log;
    let mut unreadable = Vec::new();
    for (number, segment) in segments.range(end.segment..) {
        let mut offset = if *number == end.segment { end.offset } else { FIRST_FRAME };
        while offset < segment.size() {
            let position = Position { segment: *number, offset };
            match device.window.load(device.channel, segment, offset, to_u64(BLOCK)) {
                Ok(bytes) => {
                    scan::headers(bytes, log, position).for_each(|(header, _)| found(&header));
                    offset += to_u64(bytes.len()).max(to_u64(BLOCK));
                }
                Err(error) if error.kind() == ErrorKind::Unreadable => {
                    unreadable.push(position);
                    offset += to_u64(BLOCK);
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(unreadable)
}

/// The error of a directory without a log.
pub(super) fn no_log(directory: &dyn Directory) -> Error {
    let message = "there is no log in this directory";
    Error::new(ErrorKind::Invalid, message).at_path(directory.path())
}
