//! Memory that a direct write accepts: aligned to [`BLOCK`], zeroed, owned by one party at a time.
//!
//! Large buffers lie in huge pages, where the system has them: the device is then told of one
//! piece of memory instead of hundreds, and the kernel pins one page. Reads and writes of 256 KiB
//! and more are a third quicker so, and take a quarter of the processor's time
//! (`docs/benchmarking.md`).
//!
//! BUFFER-1: buffers that share a region never overlap, and the region stays until the last of them
//! is dropped.
#![allow(unsafe_code, reason = "aligned allocation has no safe form in std")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::BLOCK;

/// Bytes of a huge page.
pub(crate) const HUGE: usize = 2 << 20;

/// A block-aligned buffer. Its capacity is a multiple of [`BLOCK`] and fixed; its length is what
/// the next operation moves.
///
/// ```
/// # use sawmill::storage::AlignedBuf;
/// let mut buffer = AlignedBuf::zeroed(5000);
/// assert_eq!((buffer.len(), buffer.capacity()), (5000, 8192));
/// buffer[4999] = 1;
/// buffer.set_len(4096);
/// assert!(buffer.iter().all(|byte| *byte == 0));
/// ```
pub struct AlignedBuf {
    start: NonNull<u8>,
    capacity: usize,
    len: usize,
    /// Bytes in front of `start` that are its own too.
    hidden: usize,
    /// What it lies in; if nothing, in an allocation of its own.
    region: Option<Arc<Region>>,
}

// SAFETY: the memory is owned by this value alone; nothing in it is tied to a thread.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

fn layout(capacity: usize) -> Layout {
    #[allow(clippy::expect_used, reason = "BLOCK is a power of two; capacity was checked")]
    Layout::from_size_align(capacity, BLOCK).expect("buffer capacity fits the address space")
}

impl AlignedBuf {
    /// A zeroed buffer of `len` bytes, with capacity for `len` rounded up to a block.
    ///
    /// # Panics
    /// If `len` is zero.
    #[must_use]
    pub fn zeroed(len: usize) -> AlignedBuf {
        assert!(len > 0, "STORAGE: an empty buffer has no address");
        let capacity = len.next_multiple_of(BLOCK);
        let layout = layout(capacity);
        // SAFETY: the layout's size is not zero, asserted above.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        AlignedBuf { start, capacity, len, hidden: 0, region: None }
    }

    /// `count` such buffers beside one another: in huge pages if they fill at least one and the
    /// system has some. The memory is given back when the last of them is dropped.
    ///
    /// ```
    /// # use sawmill::storage::AlignedBuf;
    /// let mut buffers = AlignedBuf::several(1 << 20, 4);
    /// buffers[1].fill(7);
    /// assert_eq!(buffers.len(), 4);
    /// assert!(buffers[0].iter().chain(buffers[2].iter()).all(|byte| *byte == 0));
    /// ```
    ///
    /// # Panics
    /// If `len` is zero.
    #[must_use]
    pub fn several(len: usize, count: usize) -> Vec<AlignedBuf> {
        let each = || (0..count).map(|_| AlignedBuf::zeroed(len)).collect();
        let capacity = len.next_multiple_of(BLOCK);
        let whole = |bytes: &usize| *bytes >= HUGE && !cfg!(miri);
        let Some(bytes) = capacity.checked_mul(count).filter(whole) else {
            return each();
        };
        let Ok(region) = Region::new(bytes) else { return each() };
        let region = Arc::new(region);
        let part = |number: usize| {
            // SAFETY: `count` parts of `capacity` bytes lie within the region.
            let start = unsafe { region.start.add(number * capacity) };
            AlignedBuf { start, capacity, len, hidden: 0, region: Some(Arc::clone(&region)) }
        };
        (0..count).map(part).collect()
    }

    /// One such buffer: in huge pages if it fills one and the system has some.
    ///
    /// # Panics
    /// If `len` is zero.
    pub(crate) fn large(len: usize) -> AlignedBuf {
        AlignedBuf::several(len, 1).pop().unwrap_or_else(|| AlignedBuf::zeroed(len))
    }

    /// How many bytes fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many bytes the next operation moves.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets how many bytes the next operation moves. The bytes are what was last written there.
    ///
    /// # Panics
    /// If `len` is above the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "STORAGE: length above capacity");
        self.len = len;
    }

    /// How many bytes are hidden.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Sets the first `bytes` bytes apart: the buffer begins, and the next operation moves bytes,
    /// behind them. Its length is what is left of the capacity then.
    ///
    /// ```
    /// # use sawmill::storage::AlignedBuf;
    /// let mut buffer = AlignedBuf::zeroed(8192);
    /// buffer.hide(4096);
    /// buffer.fill(7);
    /// buffer.reveal(1);
    /// assert_eq!((buffer.len(), buffer[0], buffer[1]), (4097, 0, 7));
    /// ```
    ///
    /// # Panics
    /// If that leaves nothing.
    pub fn hide(&mut self, bytes: usize) {
        assert!(bytes < self.capacity, "STORAGE: an empty buffer has no address");
        // SAFETY: within the buffer, asserted above.
        self.start = unsafe { self.start.add(bytes) };
        (self.hidden, self.capacity) = (self.hidden + bytes, self.capacity - bytes);
        self.len = self.capacity;
    }

    /// Puts the last `bytes` of those that are hidden in front of what the buffer holds.
    ///
    /// # Panics
    /// If fewer are hidden.
    pub fn reveal(&mut self, bytes: usize) {
        assert!(bytes <= self.hidden, "STORAGE: nothing more is hidden");
        // SAFETY: within the buffer: so many bytes were hidden, asserted above.
        self.start = unsafe { self.start.sub(bytes) };
        (self.hidden, self.capacity) = (self.hidden - bytes, self.capacity + bytes);
        self.len += bytes;
    }

    /// The address, for the kernel. Only leaf files of `storage` need it.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `capacity >= len` initialised (zeroed) bytes that this value
        // owns.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` excludes every other access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        self.reveal(self.hidden);
        if self.region.is_none() {
            // SAFETY: allocated in `zeroed` with this very layout, and freed once.
            unsafe { dealloc(self.start.as_ptr(), layout(self.capacity)) }
        }
    }
}

/// Memory of the system's own, from a boundary of huge pages on.
struct Region {
    start: NonNull<u8>,
    /// What was mapped, the way to the boundary included.
    map: NonNull<u8>,
    mapped: usize,
}

// SAFETY: the memory is this value's alone, and tied to no thread.
unsafe impl Send for Region {}
// SAFETY: nothing but its own drop reaches the memory through it; its parts go by `AlignedBuf`.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `bytes` zeros.
    fn new(bytes: usize) -> io::Result<Region> {
        let mapped = bytes.checked_add(HUGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let (read, write) = (ProtFlags::READ, ProtFlags::WRITE);
        let null = std::ptr::null_mut();
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
        let map =
            unsafe { rustix::mm::mmap_anonymous(null, mapped, read | write, MapFlags::PRIVATE) }?;
        let map = NonNull::new(map.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: less than `HUGE` bytes, which were mapped beside what was asked for.
        let start = unsafe { map.add(map.align_offset(HUGE)) };
        let region = Region { start, map, mapped };
        // SAFETY: within the mapping; the advice changes none of its bytes. A system without huge
        // pages refuses it, and has small ones.
        unsafe { rustix::mm::madvise(start.as_ptr().cast(), bytes, Advice::LinuxHugepage) }.ok();
        Ok(region)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no part is left (BUFFER-1).
        let unmapped = unsafe { rustix::mm::munmap(self.map.as_ptr().cast(), self.mapped) };
        debug_assert!(unmapped.is_ok(), "the region was mapped in new");
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_a_region_are_apart_and_outlive_each_other() {
        for (len, count) in [(BLOCK, 3), (HUGE / 2, 2), (HUGE + 1, 3), (5000, 600)] {
            let mut all = AlignedBuf::several(len, count);
            assert_eq!(all.len(), count);
            for (buffer, byte) in all.iter_mut().zip((0..=255_u8).cycle()) {
                assert_eq!((buffer.len(), buffer.as_ptr() as usize % BLOCK), (len, 0));
                assert!(buffer.iter().all(|byte| *byte == 0), "zeroed");
                buffer.set_len(buffer.capacity());
                buffer.fill(byte);
            }
            let last = all.pop().unwrap();
            let byte = u8::try_from((count - 1) % 256).unwrap();
            for (buffer, byte) in all.iter().zip((0..=255_u8).cycle()) {
                assert!(buffer.iter().all(|found| *found == byte));
            }
            drop(all);
            assert!(last.iter().all(|found| *found == byte), "BUFFER-1");
        }
    }
}
