//! Lets the log have its turn on the device (ENGINE.md E16): each of its commits flushes all that
//! the device has not written through yet, whoever wrote it.
//!
//! PACE-1: while the log commits every 2 ms or more often, at most [`WINDOW`] bytes of a checkpoint
//! are written, or read back, between two of its commits. While nobody appends nothing waits.

use std::fmt;
use std::time::Duration;

use super::io::CHUNK;
use crate::clock::Clock;
use crate::storage::{Channel, Completion, Op};
use crate::sync::{Arc, Condvar, Mutex, lock, nap};

/// Bytes between two commits of the log.
const WINDOW: usize = CHUNK;
/// A log in which nothing becomes durable for so long has no appender. Looks are counted for clocks
/// that stand still only: on busy processors each may take as long as all of them should.
const QUIET_NS: u64 = 2_000_000;
const LOOKS: u32 = 20;
const LOOK: Duration = Duration::from_micros(100);

/// Says how far others are on the same device.
pub(crate) trait Turns: fmt::Debug + Send + Sync {
    /// A number that grows with every commit.
    fn commits(&self) -> u64;
}

/// Whom writes give way to; nobody by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(Option<(Arc<dyn Turns>, Arc<dyn Clock>)>);

impl Pace {
    pub(crate) fn by(turns: Arc<dyn Turns>, clock: Arc<dyn Clock>) -> Pace {
        Pace(Some((turns, clock)))
    }

    /// The channel, on which bytes wait for their turn.
    pub(super) fn channel(&self, channel: Box<dyn Channel>) -> Box<dyn Channel> {
        let Some((turns, clock)) = self.0.clone() else { return channel };
        let seen = turns.commits();
        Box::new(Paced { channel, turns, clock, seen, moved: 0, is_quiet: false })
    }
}

#[derive(Debug)]
struct Paced {
    channel: Box<dyn Channel>,
    turns: Arc<dyn Turns>,
    clock: Arc<dyn Clock>,
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
        let mut looks = if self.is_quiet { LOOKS } else { 0 };
        let mut now = self.turns.commits();
        let until = self.clock.monotonic_ns().saturating_add(QUIET_NS);
        while now == self.seen && looks < LOOKS && self.clock.monotonic_ns() < until {
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
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::clock::ManualClock;
    use crate::storage::AlignedBuf;

    /// Commits at every third look, until nobody appends any more.
    #[derive(Debug, Default)]
    struct Busy {
        looks: AtomicU64,
        quiet: std::sync::atomic::AtomicBool,
    }

    impl Turns for Busy {
        fn commits(&self) -> u64 {
            let looks = self.looks.fetch_add(1, Ordering::Relaxed);
            if self.quiet.load(Ordering::Relaxed) { 7 } else { looks / 3 + 100 }
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

    /// Submits half a window at each call.
    fn halves(
        busy: &Arc<Busy>,
        notes: &Arc<Mutex<Vec<u64>>>,
        clock: Arc<dyn Clock>,
    ) -> impl FnMut() {
        let pace = Pace::by(Arc::clone(busy) as Arc<_>, clock);
        let mut channel = pace.channel(Box::new(Noting(Arc::clone(busy), Arc::clone(notes))));
        let disk = crate::sim::SimDisk::new(1);
        let directory = crate::storage::Storage::directory(&disk, Path::new("/d"), true).unwrap();
        let file = directory.open("file", crate::storage::OpenMode::Create).unwrap();
        move || {
            let (file, buffer) = (Arc::clone(&file), AlignedBuf::zeroed(WINDOW / 2));
            channel.submit(Op::Write { file, offset: 0, buffer, durable: false });
        }
    }

    /// A millisecond passes at each look, as on busy processors.
    #[derive(Debug, Default)]
    struct Slow(AtomicU64);

    impl Clock for Slow {
        fn wall_ns(&self) -> u64 {
            self.monotonic_ns()
        }

        fn monotonic_ns(&self) -> u64 {
            self.0.fetch_add(1_000_000, Ordering::Relaxed)
        }

        fn sleep(&self, _: Duration) {}
    }

    #[test]
    fn nobody_is_waited_for_longer_than_two_milliseconds() {
        let (busy, notes) = (Arc::new(Busy::default()), Arc::default());
        busy.quiet.store(true, Ordering::Relaxed);
        let mut submit = halves(&busy, &notes, Arc::new(Slow::default()));
        (0..3).for_each(|_| submit());
        let looks = busy.looks.load(Ordering::Relaxed);
        assert!((3..=5).contains(&looks), "{looks} looks, of a millisecond each");
    }

    #[test]
    fn bytes_wait_for_a_commit_while_there_are_any() {
        let (busy, notes) = (Arc::new(Busy::default()), Arc::default());
        let mut submit = halves(&busy, &notes, Arc::new(ManualClock::default()));
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
