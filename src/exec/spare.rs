//! Buffers that a node's tasks, or a source, fill again and again: those of one batch are the next
//! one's.
//! The allocator would give their pages back, and each batch would have them faulted in and
//! cleared anew.
//!
//! - SPARE-1: a buffer is empty when it is taken. How much room it has shows in no result.
//! - SPARE-2: each keeps at most [`KEPT`] bytes of them, and none that was hardly filled: after
//!   a large batch, small ones let its room go. What a run under a byte budget had is not kept.

use std::fmt::{self, Debug};
use std::ops::Deref;

use super::run::RunContext;
use crate::sync::{Arc, Mutex, lock};

/// Bytes that a node keeps.
const KEPT: usize = 256 << 20;
/// A buffer of more bytes is kept only if at least one in so many of them was filled.
const SMALL: usize = 64 << 10;
const FILLED: usize = 8;

/// What can be emptied and filled again.
pub(crate) trait Reuse: Send + Sync + 'static {
    /// Drops what it holds. Its room stays.
    fn clear(&mut self);

    /// Bytes of its room.
    fn memory(&self) -> usize;

    /// Bytes of it that are filled, about.
    fn filled(&self) -> usize;
}

impl<T: Send + Sync + 'static> Reuse for Vec<T> {
    fn clear(&mut self) {
        self.clear();
    }

    fn memory(&self) -> usize {
        self.capacity() * size_of::<T>()
    }

    fn filled(&self) -> usize {
        self.len() * size_of::<T>()
    }
}

/// The buffers of a node, or of a source, that nobody uses.
pub(crate) struct Spares<T>(Arc<Mutex<Shelf<T>>>);

struct Shelf<T> {
    buffers: Vec<T>,
    bytes: usize,
}

impl<T> Clone for Spares<T> {
    fn clone(&self) -> Spares<T> {
        Spares(Arc::clone(&self.0))
    }
}

impl<T> Default for Spares<T> {
    fn default() -> Spares<T> {
        Spares(Arc::new(Mutex::new(Shelf { buffers: Vec::new(), bytes: 0 })))
    }
}

impl<T: Reuse> Spares<T> {
    /// An empty buffer (SPARE-1), if one is left.
    pub(crate) fn take(&self) -> Option<T> {
        let mut shelf = lock(&self.0);
        let buffer = shelf.buffers.pop()?;
        shelf.bytes -= buffer.memory();
        Some(buffer)
    }

    /// A buffer that comes back when nobody holds it any more.
    pub(crate) fn give(&self, buffer: T) -> Lent<T> {
        Lent { buffer: Some(buffer), home: Some(Arc::clone(&self.0)) }
    }

    /// The same for what a run fills; under a byte budget it does not come back.
    pub(crate) fn lend(&self, buffer: T, run: &RunContext) -> Lent<T> {
        match run.store().budget() {
            None => self.give(buffer),
            Some(_) => Lent::from(buffer),
        }
    }
}

/// A filled buffer, which goes back to whose it is.
pub(crate) struct Lent<T: Reuse> {
    /// Until it is dropped.
    buffer: Option<T>,
    home: Option<Arc<Mutex<Shelf<T>>>>,
}

/// A buffer of nobody's.
impl<T: Reuse> From<T> for Lent<T> {
    fn from(buffer: T) -> Lent<T> {
        Lent { buffer: Some(buffer), home: None }
    }
}

impl<T: Reuse + Debug> Debug for Lent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.buffer.fmt(f)
    }
}

impl<T: Reuse> Deref for Lent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.buffer.as_ref().expect("SPARE: taken by drop only")
    }
}

impl<T: Reuse> Drop for Lent<T> {
    fn drop(&mut self) {
        let (Some(mut buffer), Some(home)) = (self.buffer.take(), &self.home) else { return };
        let room = buffer.memory();
        if room > SMALL && buffer.filled() * FILLED < room {
            return;
        }
        // User types are dropped without the lock.
        buffer.clear();
        let mut shelf = lock(home);
        if shelf.bytes + room <= KEPT {
            shelf.bytes += room;
            shelf.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lend(spares: &Spares<Vec<u8>>, room: usize, filled: usize) {
        let mut buffer = spares.take().unwrap_or_default();
        buffer.reserve_exact(room);
        buffer.resize(filled, 1);
        assert_eq!(spares.lend(buffer, &RunContext::new(1)).len(), filled);
    }

    #[test]
    fn a_buffer_comes_back_empty_with_its_room() {
        let spares = Spares::default();
        lend(&spares, SMALL * 2, SMALL);
        let (first, second) = (spares.take(), spares.take());
        assert_eq!(first.map(|buffer| (buffer.len(), buffer.capacity())), Some((0, SMALL * 2)));
        assert_eq!(second, None);
    }

    #[test]
    fn one_that_was_hardly_filled_is_let_go() {
        let spares = Spares::default();
        lend(&spares, SMALL * 2, 10);
        assert_eq!(spares.take(), None);
        lend(&spares, SMALL, 10);
        assert!(spares.take().is_some());
    }

    #[test]
    fn so_many_bytes_are_kept_and_no_more() {
        let (spares, part, run) = (Spares::default(), KEPT / 4, RunContext::new(1));
        // As good as filled, and no page of them is touched.
        let buffers: Vec<_> = (0..6).map(|_| spares.lend(vec![0u8; part], &run)).collect();
        drop(buffers);
        let mut kept = 0;
        while spares.take().is_some() {
            kept += 1;
        }
        assert_eq!(kept, 4);
        // And again, as if nothing had been there.
        drop(spares.lend(vec![0; part], &run));
        assert!(spares.take().is_some());
    }

    #[test]
    fn what_a_run_under_a_budget_had_is_not_kept() {
        let (spares, run) = (Spares::default(), RunContext::new(1).with_memory(1 << 20));
        drop(spares.lend(vec![0u8; 100], &run));
        assert_eq!(spares.take(), None);
    }
}
