//! The log's progress marks, asserted in one place.
//!
//! WAL-1: durable <= written <= appended. WAL-2: no mark ever falls.

use super::marks::Marks;
use super::recent::Recent;
use crate::ids::Lsn;
use crate::sync::atomic::{AtomicU64, Ordering};

/// How far the log has come. Marks are raised under the log's mutex and read by anybody.
#[derive(Debug)]
pub(crate) struct Progress {
    appended: AtomicU64,
    written: AtomicU64,
    durable: AtomicU64,
    /// No mark: from which record on the log says what its catalog holds. Every frame repeats it.
    catalog: AtomicU64,
    /// What was written last, for tails.
    pub(crate) recent: Recent,
    /// Where readers in other processes are told.
    published: Option<Marks>,
}

impl Progress {
    /// Right after recovery: everything that stands is durable.
    pub(crate) fn starting_at(durable: Lsn) -> Progress {
        let mark = || AtomicU64::new(durable.get());
        let recent = Recent::default();
        let (catalog, published) = (AtomicU64::new(0), None);
        Progress { appended: mark(), written: mark(), durable: mark(), catalog, recent, published }
    }

    /// Tells readers in other processes as well from now on.
    pub(crate) fn telling(mut self, marks: Option<Marks>) -> Progress {
        self.published = marks;
        self
    }

    /// Tells readers in other processes nothing more: the log is closed.
    pub(crate) fn fall_silent(&self) {
        if let Some(marks) = &self.published {
            marks.let_go();
        }
    }

    /// From which record on the log says what its catalog holds; zero if it never held anything.
    pub(crate) fn catalog(&self) -> Lsn {
        Lsn::new(self.catalog.load(Ordering::Acquire))
    }

    /// Has every frame from now on say where the catalog begins, unless that was said before.
    pub(crate) fn begin_catalog(&self, lsn: Lsn) {
        // Who comes second gets its LSN later than the first one looked, so that one's will do.
        let order = Ordering::AcqRel;
        self.catalog.compare_exchange(0, lsn.get(), order, Ordering::Acquire).ok();
    }

    /// Has every frame from now on say that the catalog begins here, unless it is further already.
    pub(crate) fn raise_catalog(&self, lsn: Lsn) {
        self.catalog.fetch_max(lsn.get(), Ordering::AcqRel);
    }

    /// The last record of a frame that was sealed and taken out: those behind it count in staging.
    pub(crate) fn appended(&self) -> Lsn {
        Lsn::new(self.appended.load(Ordering::Acquire))
    }

    /// The last record of which, and of all before it, the kernel reported the write complete.
    pub(crate) fn written(&self) -> Lsn {
        Lsn::new(self.written.load(Ordering::Acquire))
    }

    /// The last record that, with all before it, is on stable storage.
    pub(crate) fn durable(&self) -> Lsn {
        Lsn::new(self.durable.load(Ordering::Acquire))
    }

    /// Raises the appended mark.
    pub(crate) fn set_appended(&self, lsn: Lsn) {
        assert!(lsn >= self.appended(), "WAL-2: appended falls to {lsn}");
        self.appended.store(lsn.get(), Ordering::Release);
    }

    /// Raises the written mark.
    pub(crate) fn set_written(&self, lsn: Lsn) {
        assert!(lsn >= self.written(), "WAL-2: written falls to {lsn}");
        assert!(lsn <= self.appended(), "WAL-1: written {lsn} above appended");
        self.written.store(lsn.get(), Ordering::Release);
    }

    /// Raises the durable mark.
    pub(crate) fn set_durable(&self, lsn: Lsn) {
        assert!(lsn >= self.durable(), "WAL-2: durable falls to {lsn}");
        assert!(lsn <= self.written(), "WAL-1: durable {lsn} above written");
        self.durable.store(lsn.get(), Ordering::Release);
        if let Some(marks) = &self.published {
            marks.set_durable(lsn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_rise_in_order() {
        let progress = Progress::starting_at(Lsn::new(4));
        progress.set_appended(Lsn::new(7));
        progress.set_written(Lsn::new(6));
        progress.set_durable(Lsn::new(6));
        assert_eq!((progress.appended(), progress.durable()), (Lsn::new(7), Lsn::new(6)));
    }

    #[test]
    #[should_panic(expected = "WAL-1")]
    fn durable_above_written_is_a_bug() {
        let progress = Progress::starting_at(Lsn::new(4));
        progress.set_appended(Lsn::new(7));
        progress.set_durable(Lsn::new(5));
    }

    #[test]
    #[should_panic(expected = "WAL-2")]
    fn a_falling_mark_is_a_bug() {
        Progress::starting_at(Lsn::new(4)).set_appended(Lsn::new(3));
    }
}
