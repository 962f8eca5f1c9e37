//! A page of memory that other processes of the same user can read: how far a writer has come, told
//! without a system call.
//!
//! PAGE-1: the page belongs to no file system: no full disk and no cut file can turn a store or a
//! load into a signal. It is an anonymous file that is sealed against shrinking, and a reader maps
//! no other. PAGE-2: it goes with the last process that holds it; a reader that still has it mapped
//! reads what was stored last. That its writer lives, another lock must say.
#![allow(unsafe_code, reason = "shared memory has no safe form in std")]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use super::BLOCK;

/// How many words there are.
pub(crate) const WORDS: usize = BLOCK / size_of::<u64>();

/// One mapped page of words.
struct Words {
    start: NonNull<AtomicU64>,
}

// SAFETY: the page is owned by this value, is tied to no thread, and holds only atomics.
unsafe impl Send for Words {}
// SAFETY: shared access goes through the atomics.
unsafe impl Sync for Words {}

impl Words {
    /// Maps the first page of a file whose length is sealed.
    fn map(memory: &OwnedFd, protection: ProtFlags) -> io::Result<Words> {
        let (none, flags) = (std::ptr::null_mut(), MapFlags::SHARED);
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { rustix::mm::mmap(none, BLOCK, protection, flags, memory, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Words { start })
    }

    #[inline]
    fn word(&self, word: usize) -> &AtomicU64 {
        assert!(word < WORDS, "PAGE: a page has {WORDS} words");
        // SAFETY: inside the page, asserted above.
        let at = unsafe { self.start.add(word) };
        // SAFETY: mapped until `drop`, aligned as pages are, readable for ever as the file cannot
        // shrink (PAGE-1), and of a type for which all bytes are valid and that others may change.
        unsafe { at.as_ref() }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`; `&mut self` says that nobody reads it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), BLOCK) };
        debug_assert!(unmapped.is_ok(), "the page was mapped in map");
    }
}

/// The writer's end.
pub struct SharedPage {
    words: Words,
    memory: OwnedFd,
}

impl SharedPage {
    /// A page of zeros.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn new() -> io::Result<SharedPage> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("sawmill-marks", flags)?;
        rustix::fs::ftruncate(&memory, BLOCK as u64)?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)?;
        let words = Words::map(&memory, ProtFlags::READ | ProtFlags::WRITE)?;
        // Nobody else shall write it; a kernel before 5.1 does not know how to forbid that.
        rustix::fs::fcntl_add_seals(&memory, SealFlags::FUTURE_WRITE).ok();
        Ok(SharedPage { words, memory })
    }

    /// The path by which other processes of this user open it while this one lives.
    pub(crate) fn address(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.memory.as_raw_fd())
    }

    /// Stores a word. What was done before is visible to who loads it.
    #[inline]
    pub(crate) fn store(&self, word: usize, value: u64) {
        self.words.word(word).store(value, Ordering::Release);
    }
}

/// A reader's end.
pub struct PageView {
    words: Words,
}

impl PageView {
    /// Opens a page by its address.
    ///
    /// # Errors
    /// The operating system's: no such process, or another user's; `InvalidData` if there is
    /// something else.
    pub(crate) fn open(address: &str) -> io::Result<PageView> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let memory = rustix::fs::open(address, flags, Mode::empty())?;
        // Whatever has this number now: only a sealed file of this size cannot be cut (PAGE-1).
        let seals = rustix::fs::fcntl_get_seals(&memory)?;
        let length = rustix::fs::fstat(&memory)?.st_size;
        if !seals.contains(SealFlags::SHRINK) || usize::try_from(length) != Ok(BLOCK) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(PageView { words: Words::map(&memory, ProtFlags::READ)? })
    }

    /// Loads a word.
    #[inline]
    pub(crate) fn load(&self, word: usize) -> u64 {
        self.words.word(word).load(Ordering::Acquire)
    }
}

impl fmt::Debug for SharedPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedPage({})", self.address())
    }
}

impl fmt::Debug for PageView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PageView")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded_through_the_address() {
        let page = SharedPage::new().unwrap();
        let view = PageView::open(&page.address()).unwrap();
        assert_eq!(view.load(3), 0);
        page.store(3, 7);
        page.store(WORDS - 1, 9);
        assert_eq!((view.load(3), view.load(WORDS - 1)), (7, 9));
        assert!(rustix::fs::ftruncate(&page.memory, 0).is_err(), "PAGE-1: it cannot be cut");
        let address = page.address();
        drop(page);
        assert_eq!(view.load(3), 7, "PAGE-2: what was stored last stays");
        assert!(PageView::open(&address).is_err());
    }

    #[test]
    fn other_files_are_refused() {
        assert!(PageView::open("/proc/self/exe").is_err());
        assert!(PageView::open("/dev/null").is_err());
        assert!(PageView::open("/proc/0/fd/3").is_err());
    }
}
