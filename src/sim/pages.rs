//! The bytes of a file in shared pages: a copy costs nothing, the first write to a copy a vector of
//! pointers and each what it touches, and a block of zeros costs nothing.

use crate::checksum::is_zero;
use crate::storage::BLOCK;
use crate::sync::Arc;

/// Bytes in a sector: what the simulated medium writes whole or not at all.
pub(super) const SECTOR: usize = 512;
/// All sectors of a block.
pub(super) const WHOLE: u8 = 0xff;
const _: () = assert!(BLOCK / SECTOR == 8, "a block's sectors fill the bits of one byte");

/// No file grows beyond this.
pub(super) const LONGEST: u64 = 4 << 30;

/// One block; `None` is a block of zeros.
pub(super) type Page = Option<Arc<[u8; BLOCK]>>;

/// A file's bytes. What lies behind its end reads as zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages(Arc<Vec<Page>>);

/// Splits a byte position into block and offset. Positions are below [`LONGEST`].
pub(super) fn place(offset: u64) -> (usize, usize) {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    (offset / BLOCK, offset % BLOCK)
}

/// The sectors of a block that `start..end` touches, as bits.
pub(super) fn sectors(start: usize, end: usize) -> u8 {
    (start / SECTOR..end.div_ceil(SECTOR)).fold(0, |mask, sector| mask | 1 << sector)
}

/// The sectors of `block` that begin below `length`.
pub(super) fn sectors_below(block: usize, length: u64) -> u8 {
    let (end_block, end) = place(length);
    match block.cmp(&end_block) {
        std::cmp::Ordering::Less => WHOLE,
        std::cmp::Ordering::Equal => sectors(0, end),
        std::cmp::Ordering::Greater => 0,
    }
}

impl Pages {
    pub(super) fn page(&self, block: usize) -> &Page {
        self.0.get(block).unwrap_or(&None)
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = (usize, &Arc<[u8; BLOCK]>)> {
        self.0.iter().enumerate().filter_map(|(block, page)| Some((block, page.as_ref()?)))
    }

    fn slot(&mut self, block: usize) -> &mut Page {
        let pages = Arc::make_mut(&mut self.0);
        if block >= pages.len() {
            pages.resize(block + 1, None);
        }
        &mut pages[block]
    }

    fn bytes_mut(&mut self, block: usize) -> &mut [u8; BLOCK] {
        Arc::make_mut(self.slot(block).get_or_insert_with(|| Arc::new([0; BLOCK])))
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) {
        let (mut block, mut start) = place(offset);
        let mut rest = into;
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut(rest.len().min(BLOCK - start));
            match self.page(block) {
                Some(page) => now.copy_from_slice(&page[start..start + now.len()]),
                None => now.fill(0),
            }
            (rest, block, start) = (later, block + 1, 0);
        }
    }

    /// Writes, and tells of each block touched which of its sectors were.
    pub(super) fn write(
        &mut self,
        offset: u64,
        bytes: &[u8],
        mut touched: impl FnMut(usize, u8, &Page),
    ) {
        let (mut block, mut start) = place(offset);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK - start));
            let end = start + now.len();
            if let Ok(whole) = <&[u8; BLOCK]>::try_from(now) {
                let zeros = is_zero(whole);
                *self.slot(block) = if zeros { None } else { Some(Arc::new(*whole)) };
            } else {
                self.bytes_mut(block)[start..end].copy_from_slice(now);
            }
            touched(block, sectors(start, end), self.page(block));
            (rest, block, start) = (later, block + 1, 0);
        }
    }

    /// Takes the masked sectors of a block from `page`.
    pub(super) fn take_sectors(&mut self, block: usize, mask: u8, page: &Page) {
        if mask == WHOLE {
            self.slot(block).clone_from(page);
            return;
        }
        let into = self.bytes_mut(block);
        for sector in (0..BLOCK / SECTOR).filter(|sector| mask >> sector & 1 == 1) {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            match page {
                Some(from) => into[range.clone()].copy_from_slice(&from[range]),
                None => into[range].fill(0),
            }
        }
    }

    /// Which of the masked sectors of a block are those of `page`.
    pub(super) fn same_sectors(&self, block: usize, mask: u8, page: &Page) -> u8 {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        let own = self.page(block).as_ref().map_or(&ZEROS, |page| &**page);
        let other = page.as_ref().map_or(&ZEROS, |page| &**page);
        if std::ptr::eq(own, other) {
            return mask;
        }
        let same = |sector: &usize| {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            mask >> sector & 1 == 1 && own[range.clone()] == other[range]
        };
        (0..BLOCK / SECTOR).filter(same).fold(0, |same, sector| same | 1 << sector)
    }

    /// Zeros everything from `length` on.
    pub(super) fn cut(&mut self, length: u64) {
        let (block, start) = place(length);
        let whole = block + usize::from(start > 0);
        if whole < self.0.len() {
            Arc::make_mut(&mut self.0).truncate(whole);
        }
        if start > 0 && self.page(block).as_ref().is_some_and(|page| !is_zero(&page[start..])) {
            self.bytes_mut(block)[start..].fill(0);
        }
    }

    pub(super) fn flip(&mut self, offset: u64, mask: u8) {
        let (block, start) = place(offset);
        self.bytes_mut(block)[start] ^= mask;
    }
}
