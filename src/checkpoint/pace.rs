//! Lets the log have its turn on the device (ENGINE.md E16): each of its commits flushes all that
//! the device has not written through yet, whoever wrote it.
//!
//! PACE-1: while records are appended, at most [`WINDOW`] bytes of a checkpoint are written, or
//! read back, between two commits of the log. While nobody appends nothing waits.

use std::fmt;
use std::time::Duration;

use super::io::CHUNK;
use crate::storage::{Channel, Completion, Op};
use crate::sync::{Arc, Condvar, Mutex, lock, nap};

/// Bytes between two commits of the log.
const WINDOW: usize = CHUNK;
/// A log in which nothing becomes durable for so long has no appender.
const QUIET: u32 = 20;
const LOOK: Duration = Duration::from_micros(100);

/// Says how far others are on the same device.
pub(crate) trait Turns: fmt::Debug + Send + Sync {
    /// A number that grows with every commit.
    fn commits(&self) -> u64;
}

/// Whom writes give way to; nobody by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(Option<Arc<dyn Turns>>);

impl Pace {
    pub(crate) fn by(turns: Arc<dyn Turns>) -> Pace {
        Pace(Some(turns))
    }

    /// The channel, on which bytes wait for their turn.
    pub(super) fn channel(&self, channel: Box<dyn Channel>) -> Box<dyn Channel> {
        let Some(turns) = &self.0 else { return channel };
        let (turns, seen) = (Arc::clone(turns), turns.commits());
        Box::new(Paced { channel, turns, seen, moved: 0, is_quiet: false })
    }
}

#[derive(Debug)]
struct Paced {
    channel: Box<dyn Channel>,
    turns: Arc<dyn Turns>,
    /// Commits when the window began.
    seen: u64,
    /// Bytes since then.
    moved: usize,
    /// Whether nobody appended when it was looked last.
    is_quiet: bool,
}

impl Paced {
    fn wait(&mut self, bytes: usize) {
        self.moved += bytes;
        if self.moved <= WINDOW {
            return;
        }
        // Who found nobody does not wait for somebody again, until there is one.
        let mut looks = if self.is_quiet { QUIET } else { 0 };
        let mut now = self.turns.commits();
        while now == self.seen && looks < QUIET {
            let (mutex, nobody) = (Mutex::new(()), Condvar::new());
            drop(nap(&mutex, &nobody, lock(&mutex), LOOK));
            looks += 1;
            now = self.turns.commits();
        }
        self.is_quiet = now == self.seen;
        (self.seen, self.moved) = (now, bytes);
    }
}

impl Channel for Paced {
    fn submit(&mut self, op: Op) -> u64 {
        match &op {
            Op::Write { buffer, .. } | Op::Read { buffer, .. } => self.wait(buffer.len()),
            Op::Sync { .. } => {}
        }
        self.channel.submit(op)
    }

    fn complete(&mut self) -> Option<Completion> {
        self.channel.complete()
    }

    fn start(&mut self) {
        self.channel.start();
    }

    fn depth(&self) -> usize {
        self.channel.depth()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::storage::AlignedBuf;

    /// Commits at every third look, until nobody appends any more.
    #[derive(Debug, Default)]
    struct Busy {
        looks: AtomicU64,
        quiet: std::sync::atomic::AtomicBool,
    }

    impl Turns for Busy {
        fn commits(&self) -> u64 {
            if self.quiet.load(Ordering::Relaxed) {
                return 7;
            }
            self.looks.fetch_add(1, Ordering::Relaxed) / 3 + 100
        }
    }

    /// Notes at which commit each operation was submitted.
    #[derive(Debug)]
    struct Noting(Arc<Busy>, Arc<Mutex<Vec<u64>>>);

    impl Channel for Noting {
        fn submit(&mut self, _op: Op) -> u64 {
            lock(&self.1).push(self.0.looks.load(Ordering::Relaxed) / 3);
            0
        }

        fn complete(&mut self) -> Option<Completion> {
            None
        }
    }

    #[test]
    fn bytes_wait_for_a_commit_while_there_are_any() {
        let (busy, notes) = (Arc::new(Busy::default()), Arc::default());
        let pace = Pace::by(Arc::clone(&busy) as Arc<_>);
        let mut channel = pace.channel(Box::new(Noting(Arc::clone(&busy), Arc::clone(&notes))));
        let folder = tempfile::tempdir().unwrap();
        let storage = crate::storage::SystemStorage::from_name("pwrite").unwrap();
        let directory = crate::storage::Storage::directory(&storage, folder.path(), true).unwrap();
        let file = directory.open("file", crate::storage::OpenMode::Create).unwrap();
        let mut submit = || {
            let (file, buffer) = (Arc::clone(&file), AlignedBuf::zeroed(WINDOW / 2));
            channel.submit(Op::Write { file, offset: 0, buffer, durable: false });
        };
        (0..20).for_each(|_| submit());
        let seen = lock(&notes).clone();
        let of_one = |commit: &u64| seen.iter().filter(|seen| *seen == commit).count();
        assert!(seen.iter().all(|commit| of_one(commit) <= 2), "two halves a window: {seen:?}");
        // Nobody appends: found out once, then nothing waits.
        busy.quiet.store(true, Ordering::Relaxed);
        (0..1000).for_each(|_| submit());
        assert_eq!(lock(&notes).len(), 1020);
    }
}
