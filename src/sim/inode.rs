//! A file's bytes and length: as programs see them, as the medium holds them, and what lies
//! between.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::medium::Defects;
use super::pages::{LONGEST, Page, Pages, SECTOR, WHOLE, place, sectors, sectors_below};
use crate::storage::{BLOCK, LockKind};

/// A change that a crash may keep or lose.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Sectors of one block, with the block's bytes at that time.
    Sectors { block: usize, mask: u8, page: Page },
    /// The length.
    Length(u64),
}

/// A change that is not durable.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// When the write completed, on the disk's own count.
    pub(super) stamp: u64,
    /// A failed sync has forgotten it: no later sync makes it durable, and sectors never arrive.
    pub(super) clean: bool,
    /// It is in the page cache, which a flush of the device does not reach.
    pub(super) cached: bool,
    pub(super) change: Change,
}

impl Pending {
    /// Whether it has left the page cache, and completed up to `stamp`.
    fn is_flushable(&self, stamp: u64) -> bool {
        let sectors = matches!(self.change, Change::Sectors { .. });
        sectors && !self.cached && self.stamp <= stamp
    }
}

/// A lock on one byte, held by an open file description.
#[derive(Clone, Debug)]
pub(super) struct ByteLock {
    pub(super) byte: u64,
    pub(super) handle: u64,
    pub(super) kind: LockKind,
}

/// A file, with or without a name.
#[derive(Debug, Default)]
pub(super) struct Inode {
    pub(super) home: PathBuf,
    pub(super) visible: Pages,
    pub(super) length: u64,
    pub(super) durable: Pages,
    pub(super) durable_length: u64,
    pub(super) pending: Vec<Pending>,
    pub(super) modified_ns: i64,
    /// Bytes of the disk that it occupies.
    pub(super) charged: u64,
    /// What the medium does not give back.
    pub(super) defects: Defects,
    /// No page cache has it: it was found after a power cut.
    pub(super) cold: bool,
    pub(super) handles: u32,
    pub(super) byte_locks: Vec<ByteLock>,
    /// The holder of a directory lock on this file.
    pub(super) locked_by: Option<u64>,
}

pub(super) fn charge(length: u64) -> u64 {
    length.min(LONGEST).next_multiple_of(BLOCK as u64)
}

/// Applies a change to an image.
pub(super) fn apply(change: &Change, pages: &mut Pages, length: &mut u64) {
    match change {
        Change::Sectors { block, mask, page } => pages.take_sectors(*block, *mask, page),
        Change::Length(new) => {
            if *new < *length {
                pages.cut(*new);
            }
            *length = *new;
        }
    }
}

impl Inode {
    /// A file that holds these bytes, durably.
    pub(super) fn settled(home: PathBuf, pages: Pages, length: u64, modified_ns: i64) -> Inode {
        Inode {
            home,
            visible: pages.clone(),
            length,
            durable: pages,
            durable_length: length,
            modified_ns,
            charged: charge(length),
            ..Inode::default()
        }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], stamp: u64, cached: bool) {
        let end = offset + bytes.len() as u64;
        let pending = &mut self.pending;
        if end > self.length {
            self.length = end;
            pending.push(Pending { stamp, clean: false, cached, change: Change::Length(end) });
        }
        self.charged = self.charged.max(charge(end));
        self.defects.written(offset, end);
        self.visible.write(offset, bytes, |block, mask, page| {
            let change = Change::Sectors { block, mask, page: page.clone() };
            pending.push(Pending { stamp, clean: false, cached, change });
        });
    }

    pub(super) fn set_length(&mut self, length: u64, stamp: u64) {
        if length == self.length {
            return;
        }
        if length < self.length {
            self.visible.cut(length);
            self.charged = self.charged.min(charge(length));
        }
        let cut = length < self.length;
        self.length = length;
        let mut push = |change| {
            self.pending.push(Pending { stamp, clean: false, cached: true, change });
        };
        push(Change::Length(length));
        let (block, end) = place(length);
        if cut && !end.is_multiple_of(SECTOR) {
            // The rest of the last sector is zeroed in the page cache, as a write of its own.
            let page = self.visible.page(block).clone();
            push(Change::Sectors { block, mask: sectors(end, end + 1), page });
        }
    }

    /// Makes the chosen changes durable. Older ones that they overwrite can no longer return.
    pub(super) fn commit(&mut self, chosen: impl Fn(&Pending) -> bool) {
        if self.pending.is_empty() {
            return;
        }
        let due = self.lengths_due(|item| chosen(item) && !item.clean);
        let mut covered: BTreeMap<usize, u8> = BTreeMap::new();
        let mut cut = None;
        let (mut taken, mut kept) = (Vec::new(), Vec::new());
        let pending = std::mem::take(&mut self.pending).into_iter().enumerate();
        for (index, mut item) in pending.rev() {
            let is_due = index < due && matches!(item.change, Change::Length(_));
            let take = is_due || chosen(&item) && !item.clean;
            match &mut item.change {
                Change::Sectors { block, mask, .. } => {
                    let over = covered.entry(*block).or_insert(0);
                    *mask &= !*over & cut.map_or(WHOLE, |length| sectors_below(*block, length));
                    if *mask == 0 {
                        continue;
                    }
                    if take {
                        *over |= *mask;
                    }
                }
                Change::Length(_) if !take && cut.is_some() => continue,
                Change::Length(length) if take => {
                    cut = Some(cut.map_or(*length, |shortest: u64| shortest.min(*length)));
                }
                Change::Length(_) => {}
            }
            if take { taken.push(item) } else { kept.push(item) }
        }
        for item in taken.iter().rev() {
            apply(&item.change, &mut self.durable, &mut self.durable_length);
        }
        kept.reverse();
        self.pending = kept;
    }

    /// A sync: all that completed up to `stamp`.
    pub(super) fn harden(&mut self, stamp: u64) {
        self.commit(|item| item.stamp <= stamp);
    }

    /// A flush of the device: what has left the page cache. Lengths are not the device's to know.
    pub(super) fn flush(&mut self, stamp: u64) {
        self.commit(|item| item.is_flushable(stamp));
    }

    /// Whether a flush of the device makes anything durable.
    pub(super) fn has_flushable(&self, stamp: u64) -> bool {
        self.pending.iter().any(|item| item.is_flushable(stamp) && !item.clean)
    }

    /// A durable write: its own sectors, and the length that is needed to read them.
    pub(super) fn harden_write(&mut self, stamp: u64, end: u64) {
        self.commit(|item| matches!(item.change, Change::Sectors { .. }) && item.stamp == stamp);
        self.durable_length = self.durable_length.max(end);
        let durable = self.durable_length;
        let mut differs = false;
        for item in &mut self.pending {
            if let Change::Length(length) = &mut item.change {
                *length = (*length).max(end);
                differs |= *length != durable;
            }
        }
        if !differs {
            self.pending.retain(|item| matches!(item.change, Change::Sectors { .. }));
        }
    }

    /// How many of the pending changes lie before bytes that are to become durable and behind
    /// which the file was cut. Their lengths have to become durable with them: a cut that is
    /// recorded later would take those bytes, one that is lost would bring back what it cut off.
    fn lengths_due(&self, chosen: impl Fn(&Pending) -> bool) -> usize {
        let (mut before, mut cut, mut due) = (self.durable_length, false, 0);
        for (index, item) in self.pending.iter().enumerate() {
            match item.change {
                Change::Length(length) => cut |= std::mem::replace(&mut before, length) > length,
                Change::Sectors { .. } if cut && chosen(item) => due = index,
                Change::Sectors { .. } => {}
            }
        }
        due
    }

    /// A write that was reported done and never left the controller.
    pub(super) fn drop_write(&mut self, stamp: u64) {
        for item in self.pending.iter_mut().filter(|item| item.stamp == stamp) {
            item.clean |= matches!(item.change, Change::Sectors { .. });
        }
    }

    /// A failed sync: what it should have made durable counts as clean from now on.
    pub(super) fn spoil(&mut self, stamp: u64) {
        for item in self.pending.iter_mut().filter(|item| item.stamp <= stamp) {
            item.clean = true;
        }
    }

    /// Reads up to the end of the file. `direct` reads past the page cache, so that it does not see
    /// what a failed sync left there.
    pub(super) fn read(&self, offset: u64, into: &mut [u8], direct: bool) -> Option<usize> {
        let there = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = into.len().min(there);
        if count == 0 {
            return Some(0);
        }
        if !self.defects.readable(offset, count) {
            return None;
        }
        self.view(direct).read(offset, &mut into[..count]);
        if direct || self.cold {
            self.defects.distort(offset, &mut into[..count]);
        }
        Some(count)
    }

    /// The bytes that a reader sees. What a failed sync has forgotten is gone from the device; the
    /// page cache still shows what was written through it.
    pub(super) fn view(&self, direct: bool) -> Cow<'_, Pages> {
        let gone = |item: &Pending| {
            let sectors = matches!(item.change, Change::Sectors { .. });
            sectors && item.clean && (direct || !item.cached)
        };
        if !self.pending.iter().any(gone) {
            return Cow::Borrowed(&self.visible);
        }
        let (mut pages, mut length) = (self.durable.clone(), self.durable_length);
        for item in self.pending.iter().filter(|item| !gone(item)) {
            apply(&item.change, &mut pages, &mut length);
        }
        Cow::Owned(pages)
    }
}
