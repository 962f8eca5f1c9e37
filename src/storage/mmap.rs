//! Read-only maps of files that nobody changes any more.
#![allow(unsafe_code, reason = "a map is only as constant as its file")]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use memmap2::{Advice, Mmap, MmapOptions};

use super::BLOCK;

/// Maps the first `length` bytes; the caller has checked that the file has them. `length` is not
/// zero: an empty map has no address.
pub(super) fn map(descriptor: BorrowedFd<'_>, length: usize) -> io::Result<Mmap> {
    // SAFETY: only sealed files are mapped: the writer never changes them, recycling needs the
    // exclusive lock of a byte that every reader holds shared (LOG.md L18), and the length was
    // checked against the file. Readers populate before they touch, so that a file that a stranger
    // has cut is an error; only one that is cut under the very bytes being read can raise SIGBUS,
    // and nothing in user space can exclude that.
    let map = unsafe { MmapOptions::new().len(length).map(descriptor.as_raw_fd()) }?;
    // Only advice: a kernel that refuses it reads ahead less.
    drop(map.advise(Advice::Sequential));
    Ok(map)
}

/// Brings a range into memory; an error where touching it would raise a signal.
pub(super) fn populate(map: &Mmap, range: Range<usize>) -> io::Result<()> {
    map.advise_range(Advice::PopulateRead, range.start, range.len())
}

/// Whether the page cache holds the page at `at`. Where the kernel does not say, it does.
pub(super) fn is_resident(map: &Mmap, at: usize) -> bool {
    let mut page = [1_u8];
    if at >= map.len() {
        return true;
    }
    // SAFETY: within the map, checked above.
    let start = unsafe { map.as_ptr().add(at - at % BLOCK) };
    // SAFETY: one page of the map, and a byte for what is said of it; nothing is touched.
    let told = unsafe { libc::mincore(start.cast_mut().cast(), 1, page.as_mut_ptr()) };
    told != 0 || page[0] & 1 == 1
}
