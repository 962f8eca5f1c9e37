//! Sectors that do not give back what was written to them.

use std::collections::BTreeMap;
use std::path::Path;

use super::disk::SimDisk;
use super::inode::Inode;
use super::pages::{LONGEST, SECTOR};
use crate::storage::IoFailure;

/// What is wrong with a sector.
#[derive(Clone, Debug)]
pub(super) enum Defect {
    /// It cannot be read, ever.
    Unreadable,
    /// It cannot be read until it is written.
    Latent,
    /// It reads as this, whatever is written to it.
    Stale([u8; SECTOR]),
    /// Bits of it are flipped on the medium until it is written.
    Rot([u8; SECTOR]),
}

/// The defects of a file, by sector.
#[derive(Clone, Debug, Default)]
pub(super) struct Defects(BTreeMap<u64, Defect>);

impl Defects {
    pub(super) fn put(&mut self, sector: u64, defect: Defect) {
        self.0.insert(sector, defect);
    }

    fn rot(&mut self, offset: u64, mask: u8) {
        let (sector, within) = (offset / SECTOR as u64, offset % SECTOR as u64);
        let within = usize::try_from(within).unwrap_or(0);
        match self.0.entry(sector).or_insert(Defect::Rot([0; SECTOR])) {
            Defect::Rot(bits) | Defect::Stale(bits) => bits[within] ^= mask,
            Defect::Unreadable | Defect::Latent => {}
        }
    }

    /// What a write of whole sectors heals.
    pub(super) fn written(&mut self, start: u64, end: u64) {
        let first = start.div_ceil(SECTOR as u64);
        let last = end / SECTOR as u64;
        if first < last && !self.0.is_empty() {
            let healed: Vec<u64> = self
                .0
                .range(first..last)
                .filter(|(_, defect)| matches!(defect, Defect::Latent | Defect::Rot(_)))
                .map(|(sector, _)| *sector)
                .collect();
            for sector in healed {
                self.0.remove(&sector);
            }
        }
    }

    /// Whether `count` bytes from `offset` can be read at all.
    pub(super) fn readable(&self, offset: u64, count: usize) -> bool {
        let sector = SECTOR as u64;
        let last = (offset + count as u64).div_ceil(sector);
        let bad = |defect: &Defect| matches!(defect, Defect::Unreadable | Defect::Latent);
        !self.0.range(offset / sector..last).any(|(_, defect)| bad(defect))
    }

    /// Turns what was written at `offset` into what the medium gives.
    pub(super) fn distort(&self, offset: u64, bytes: &mut [u8]) {
        let sector = SECTOR as u64;
        let end = offset + bytes.len() as u64;
        for (number, defect) in self.0.range(offset / sector..end.div_ceil(sector)) {
            let start = number * sector;
            for at in start.max(offset)..(start + sector).min(end) {
                let into = &mut bytes[usize::try_from(at - offset).unwrap_or(0)];
                let within = usize::try_from(at - start).unwrap_or(0);
                match defect {
                    Defect::Stale(held) => *into = held[within],
                    Defect::Rot(bits) => *into ^= bits[within],
                    Defect::Unreadable | Defect::Latent => {}
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl SimDisk {
    /// Makes the sector at `offset` of a file unreadable (`EIO`), for good: across renames, kills
    /// and crashes.
    ///
    /// # Errors
    /// `ENOENT` if there is no such file.
    pub fn fail_reads_at(&self, path: impl AsRef<Path>, offset: u64) -> Result<(), IoFailure> {
        self.defect(path.as_ref(), offset, |_| Defect::Unreadable)
    }

    /// Makes the sector at `offset` of a file unreadable until it is written: a latent error, which
    /// the device remaps.
    ///
    /// # Errors
    /// `ENOENT` if there is no such file.
    pub fn latent_error_at(&self, path: impl AsRef<Path>, offset: u64) -> Result<(), IoFailure> {
        self.defect(path.as_ref(), offset, |_| Defect::Latent)
    }

    /// Lets the sector at `offset` of a file read, from now on, as what it holds now: later writes
    /// to it are reported done and never seen. The page cache shows them until a crash.
    ///
    /// # Errors
    /// `ENOENT` if there is no such file.
    pub fn stale_reads_at(&self, path: impl AsRef<Path>, offset: u64) -> Result<(), IoFailure> {
        self.defect(path.as_ref(), offset, |inode| {
            let mut held = [0; SECTOR];
            inode.view(true).read(offset / SECTOR as u64 * SECTOR as u64, &mut held);
            Defect::Stale(held)
        })
    }

    /// Flips bits of one byte on the medium. The page cache shows the right ones until a crash; a
    /// write of the sector mends it.
    ///
    /// # Errors
    /// `ENOENT` if there is no such file.
    pub fn rot_byte(&self, path: impl AsRef<Path>, offset: u64, mask: u8) -> Result<(), IoFailure> {
        self.on_file(path.as_ref(), |inode| inode.defects.rot(offset, mask))
    }

    /// Flips bits of one byte, on the medium and in the page cache: rot that nobody notices.
    ///
    /// # Errors
    /// `ENOENT` if there is no such file.
    ///
    /// # Panics
    /// If no file can have this offset (4 GiB and above).
    pub fn flip_byte(
        &self,
        path: impl AsRef<Path>,
        offset: u64,
        mask: u8,
    ) -> Result<(), IoFailure> {
        assert!(offset < LONGEST, "SIM: no file is that long");
        self.on_file(path.as_ref(), |inode| {
            inode.visible.flip(offset, mask);
            inode.durable.flip(offset, mask);
        })
    }

    /// Replaces bytes of a file, on the medium and in the page cache. Counts as no operation. What
    /// would lie behind the file's end is left out.
    ///
    /// # Errors
    /// `ENOENT` if there is no such file.
    pub fn overwrite(
        &self,
        path: impl AsRef<Path>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), IoFailure> {
        self.on_file(path.as_ref(), |inode| {
            let room = usize::try_from(inode.length.saturating_sub(offset)).unwrap_or(usize::MAX);
            let bytes = &bytes[..bytes.len().min(room)];
            inode.visible.write(offset, bytes, |_, _, _| {});
            inode.durable.write(offset, bytes, |_, _, _| {});
        })
    }

    fn defect(
        &self,
        path: &Path,
        offset: u64,
        make: impl FnOnce(&Inode) -> Defect,
    ) -> Result<(), IoFailure> {
        self.on_file(path, |inode| {
            let defect = make(inode);
            inode.defects.put(offset / SECTOR as u64, defect);
        })
    }
}
