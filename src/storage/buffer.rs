//! Memory that a direct write accepts: aligned to [`BLOCK`], zeroed, owned by one party at a time.
#![allow(unsafe_code, reason = "aligned allocation has no safe form in std")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::BLOCK;

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
        AlignedBuf { start, capacity, len }
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
        // SAFETY: allocated in `zeroed` with this very layout, and freed once.
        unsafe { dealloc(self.start.as_ptr(), layout(self.capacity)) }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity)
    }
}
