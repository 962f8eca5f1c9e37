//! The log under test.

use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use sawmill::{Pending, Pin, Wal, WalOptions, WalStats};

use super::contender::{Contender, Written};
use super::raw::locked;
use super::workload::Kind;
use super::writer::{Reader, Tally, Writer};
use super::{Outcome, now_ns};

/// What the log has under its feet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Files that it gave up, as a log has that runs for long: it is truncated behind, whenever it
    /// comes into a new segment, and uses its segments again (LOG.md L18).
    Steady,
    /// New files only, as right after it was made: each byte is written twice, first as a zero.
    Fresh,
}

/// So many files wait to be used again: those of a round.
const RECYCLED: u64 = 256;
/// More than ever are ready before they are needed.
const AHEAD: u64 = 8;

/// A log of sawmill's, as a user opens it.
pub(crate) struct SawmillLog {
    state: State,
    name: &'static str,
    wal: Wal,
    /// What the round that runs appends is kept until it was read back; what is before goes as the
    /// log grows.
    round: Pin,
    segment_size: u64,
    /// The counters after the last round, and how many bytes it wrote.
    last: Mutex<(WalStats, u64)>,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl SawmillLog {
    pub(crate) fn open(
        state: State,
        name: &'static str,
        path: &Path,
        mut options: WalOptions,
    ) -> Outcome<SawmillLog> {
        options.recycled = if state == State::Steady { RECYCLED } else { 0 };
        // What nobody pins goes at each rotation.
        options.retain_bytes = (state == State::Steady).then_some(options.segment_size);
        let segment_size = options.segment_size;
        let wal = Wal::open(path, options)?;
        let round = wal.pin("round", wal.appended_lsn().next())?;
        let last = Mutex::new((wal.stats(), 0));
        Ok(SawmillLog { state, name, wal, round, segment_size, last })
    }

    pub(crate) fn wal(&self) -> &Wal {
        &self.wal
    }

    pub(crate) fn close(self) -> Outcome {
        Ok(self.wal.close()?)
    }
}

impl Contender for SawmillLog {
    fn name(&self) -> &'static str {
        self.name
    }

    fn can(&self, _kind: Kind) -> bool {
        true
    }

    fn wants_warm_up(&self) -> bool {
        self.state == State::Steady
    }

    /// Has as many files made as two rounds like the last one take, and those that are ready
    /// before. They are used again from then on.
    fn warm_up(&self) -> Outcome {
        let segments = locked(&self.last).1 / self.segment_size + 2;
        let wanted = (2 * segments + AHEAD).min(RECYCLED);
        let piece = vec![0; (self.segment_size / 64).min(1 << 20) as usize];
        loop {
            let stats = self.wal.stats();
            if stats.segments_prepared - stats.segments_recycled >= wanted {
                break;
            }
            self.wal.submit(&piece)?;
        }
        self.wal.sync()?;
        self.round.advance(self.wal.durable_lsn().next())?;
        self.wal.apply_retention()?;
        loop {
            // Until the preparation is at rest.
            let before = self.wal.stats().segments_prepared;
            thread::sleep(Duration::from_millis(100));
            let now = self.wal.stats();
            if now.segments_prepared == before {
                locked(&self.last).0 = now;
                return Ok(());
            }
        }
    }

    fn is_variant(&self) -> bool {
        self.state == State::Fresh
    }

    fn append(&self, _who: usize, payload: &[u8]) -> Outcome<u64> {
        Ok(self.wal.append(payload)?.get())
    }

    fn append_batch(&self, _who: usize, payloads: &[Vec<u8>]) -> Outcome<u64> {
        Ok(self.wal.append_batch(payloads)?.first().get())
    }

    fn submit(&self, writer: &mut Writer, records: u64) -> Outcome {
        for _ in 0..records {
            let lsn = self.wal.submit(writer.payload())?.lsn();
            writer.placed(lsn.get());
        }
        Ok(())
    }

    fn sync(&self) -> Outcome {
        self.wal.sync()?;
        Ok(())
    }

    fn in_flight(&self, writer: &mut Writer, depth: usize, stop: &AtomicBool) -> Outcome {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut window: VecDeque<(Pending, u64)> = VecDeque::with_capacity(depth);
        loop {
            let more = !stop.load(Ordering::Relaxed);
            while more && window.len() < depth {
                let begun = now_ns();
                let pending = self.wal.submit(writer.payload())?;
                writer.placed(pending.lsn().get());
                window.push_back((pending, begun));
            }
            let mut done = 0;
            while let Some((oldest, begun)) = window.front_mut() {
                match pin::Pin::new(oldest).poll(&mut context) {
                    Poll::Ready(outcome) => outcome?,
                    Poll::Pending => break,
                };
                writer.latency.add(now_ns() - *begun);
                window.pop_front();
                done += 1;
            }
            if window.is_empty() && !more {
                return Ok(());
            }
            if done == 0 {
                thread::park();
            }
        }
    }

    fn settle(&self, _kind: Kind, size: usize, appended: Tally) -> Outcome<Option<Written>> {
        let now = self.wal.stats();
        let mut reader = Reader::new(size);
        let mut replay = self.wal.replay_from(self.round.lsn())?;
        while let Some(record) = replay.next() {
            let record = record?;
            reader.check(record.lsn.get(), record.payload)?;
        }
        drop(replay);
        reader.expect(self.name, appended)?;
        let next = self.wal.durable_lsn().next();
        self.round.advance(next)?;
        if self.state == State::Fresh {
            self.wal.truncate_before(next)?;
        }
        let mut last = locked(&self.last);
        let before = &last.0;
        let written = Written {
            flushes: now.frames - before.frames,
            bytes: now.written_bytes - before.written_bytes,
            prepared: now.prepared_bytes - before.prepared_bytes,
        };
        *last = (now, written.bytes);
        Ok(Some(written))
    }
}
