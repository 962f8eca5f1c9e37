//! What is on the medium of a device, and what a power cut may leave there.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::random::Random;
use crate::trace::Event;

const PAGE: usize = 4096;
/// The log's writes tear between these.
const SECTOR: usize = 512;
/// How the log's own writes begin (docs/format.md): frames, segments, slots of `LOG`.
const OURS: [&[u8]; 3] = [b"FRAM", b"SAWMSEG1", b"SAWMLOG1"];

/// Bytes of a device, most of them zeros.
#[derive(Clone, Debug)]
pub(crate) struct Medium {
    bytes: Vec<u8>,
    /// Pages that may hold something else than zeros.
    used: Vec<bool>,
}

/// What reaches the medium.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    Bytes { offset: usize, bytes: Box<[u8]> },
    Zeros { offset: usize, length: usize },
}

impl Medium {
    pub(crate) fn blank(length: usize) -> Medium {
        Medium { bytes: vec![0; length], used: vec![false; length.div_ceil(PAGE)] }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Bytes { offset, bytes } => {
                self.bytes[*offset..offset + bytes.len()].copy_from_slice(bytes);
                self.used[offset / PAGE..(offset + bytes.len()).div_ceil(PAGE)].fill(true);
            }
            Change::Zeros { offset, length } => self.bytes[*offset..offset + length].fill(0),
        }
    }

    /// Makes `file` an image of the medium, with holes where nothing was written.
    pub(crate) fn write_to(&self, file: &File) -> io::Result<()> {
        file.set_len(0)?;
        file.set_len(self.bytes.len() as u64)?;
        let mut at = 0;
        while let Some(from) = (at..self.used.len()).find(|page| self.used[*page]) {
            at = (from..self.used.len()).find(|page| !self.used[*page]).unwrap_or(self.used.len());
            let range = from * PAGE..(at * PAGE).min(self.bytes.len());
            file.write_all_at(&self.bytes[range.clone()], range.start as u64)?;
        }
        Ok(())
    }
}

impl Change {
    /// Writes it into an image.
    pub(crate) fn write_to(&self, file: &File) -> io::Result<()> {
        match self {
            Change::Bytes { offset, bytes } => file.write_all_at(bytes, *offset as u64),
            Change::Zeros { offset, length } => {
                file.write_all_at(&vec![0; *length], *offset as u64)
            }
        }
    }

    fn part(&self, range: Range<usize>) -> Change {
        match self {
            Change::Bytes { offset, bytes } => {
                Change::Bytes { offset: offset + range.start, bytes: bytes[range].into() }
            }
            Change::Zeros { offset, .. } => {
                Change::Zeros { offset: offset + range.start, length: range.len() }
            }
        }
    }

    fn length(&self) -> usize {
        match self {
            Change::Bytes { bytes, .. } => bytes.len(),
            Change::Zeros { length, .. } => *length,
        }
    }

    fn is_ours(&self) -> bool {
        match self {
            Change::Bytes { bytes, .. } => OURS.iter().any(|start| bytes.starts_with(start)),
            Change::Zeros { .. } => false,
        }
    }

    /// Whether it is less than a block: a torn write of the log left it.
    pub(crate) fn is_torn(&self) -> bool {
        self.length() == SECTOR
    }
}

/// A write or discard that no flush covers yet.
#[derive(Clone, Debug)]
struct Pending {
    id: u32,
    complete: bool,
    /// The flush that will cover it, if that one completes.
    flush: Option<u32>,
    change: Change,
}

/// A medium and what is on its way there.
#[derive(Clone, Debug)]
pub(crate) struct Volatile {
    pub(crate) durable: Medium,
    pending: Vec<Pending>,
}

impl Volatile {
    pub(crate) fn new(durable: Medium) -> Volatile {
        Volatile { durable, pending: Vec::new() }
    }

    /// Goes on by one event.
    pub(crate) fn step(&mut self, event: &Event) {
        let change = match event {
            Event::Write { offset, bytes, .. } => {
                Change::Bytes { offset: *offset, bytes: bytes.clone() }
            }
            Event::Discard { offset, length, .. } => {
                Change::Zeros { offset: *offset, length: *length }
            }
            Event::Complete { id } => {
                let done = self.pending.iter_mut().filter(|pending| pending.id == *id);
                return done.for_each(|pending| pending.complete = true);
            }
            Event::FlushBegun { id } => {
                let covered = self.pending.iter_mut().filter(|pending| pending.complete);
                return covered.for_each(|pending| pending.flush = pending.flush.or(Some(*id)));
            }
            Event::FlushComplete { id } => return self.flushed(*id),
            Event::Mark(_) => return,
        };
        if let Event::Write { id, .. } | Event::Discard { id, .. } = event {
            self.pending.push(Pending { id: *id, complete: false, flush: None, change });
        }
    }

    fn flushed(&mut self, flush: u32) {
        let pending = std::mem::take(&mut self.pending);
        for pending in pending {
            if pending.flush.is_some_and(|own| own <= flush) {
                self.durable.apply(&pending.change);
            } else {
                self.pending.push(pending);
            }
        }
    }

    /// Nothing is on its way.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// Nothing that is on its way is lost.
    pub(crate) fn all(&self) -> Vec<Change> {
        self.pending.iter().map(|pending| pending.change.clone()).collect()
    }

    /// What a power cut leaves of what is on its way: each change may be lost, or torn.
    ///
    /// The log's own writes tear between sectors, those of the file system between its blocks of
    /// `block` bytes: XFS does not mount again when half of a directory block is new, nor ext4 with
    /// half of a new super block.
    pub(crate) fn some(&self, random: &mut Random, block: usize) -> Vec<Change> {
        let mut left = Vec::new();
        let (lost, torn) = (1 + random.below(4), 1 + random.below(4));
        for Pending { change, .. } in &self.pending {
            if random.below(5) < lost {
                continue;
            }
            if random.below(5) >= torn {
                left.push(change.clone());
                continue;
            }
            let (piece, length) = (if change.is_ours() { SECTOR } else { block }, change.length());
            for from in (0..length).step_by(piece) {
                if random.one_in(2) {
                    left.push(change.part(from..(from + piece).min(length)));
                }
            }
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(id: u32, byte: u8) -> Event {
        Event::Write { id, offset: 0, bytes: Box::from([byte; 1024]) }
    }

    #[test]
    fn a_flush_covers_what_was_complete_when_it_began() {
        let mut volatile = Volatile::new(Medium::blank(8192));
        let events = [
            write(0, 1),
            Event::Complete { id: 0 },
            Event::Write { id: 1, offset: 4096, bytes: Box::from([2; 512]) },
            Event::FlushBegun { id: 2 },
            Event::Complete { id: 1 },
        ];
        events.iter().for_each(|event| volatile.step(event));
        assert_eq!(volatile.all().len(), 2, "nothing is durable before the flush is complete");
        volatile.step(&Event::FlushComplete { id: 2 });
        assert_eq!(volatile.durable.bytes[..1024], [1; 1024]);
        assert_eq!(volatile.durable.bytes[4096], 0, "completed too late for this flush");
        assert_eq!(volatile.all().len(), 1);
    }

    /// What 200 cuts leave of a write of two sectors: how often nothing, all, and one of them.
    fn cuts(begins: &[u8]) -> [usize; 3] {
        let mut bytes = [7; 1024];
        bytes[..begins.len()].copy_from_slice(begins);
        let mut volatile = Volatile::new(Medium::blank(4096));
        volatile.step(&Event::Write { id: 0, offset: 0, bytes: Box::from(bytes) });
        let mut counts = [0; 3];
        for seed in 0..200 {
            let left = volatile.some(&mut Random::new(&[seed]), 1024);
            match left.iter().map(Change::length).sum() {
                0 => counts[0] += 1,
                1024 => counts[1] += 1,
                _ => counts[2] += 1,
            }
        }
        counts
    }

    #[test]
    fn a_cut_loses_keeps_and_tears_frames() {
        let [lost, kept, torn] = cuts(b"FRAM");
        assert!(lost > 20 && kept > 20 && torn > 20, "{lost} {kept} {torn}");
    }

    #[test]
    fn a_cut_does_not_tear_blocks_of_the_file_system() {
        let [lost, kept, torn] = cuts(b"");
        assert!(lost > 20 && kept > 20 && torn == 0, "{lost} {kept} {torn}");
    }
}
