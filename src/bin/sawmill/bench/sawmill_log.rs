//! The log under test.

use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use sawmill::{Lsn, Pending, Wal, WalOptions};

use super::contender::{Contender, Written};
use super::workload::Kind;
use super::writer::{Reader, Tally, Writer};
use super::{Outcome, frames, now_ns};

/// A log of sawmill's, as a user opens it.
pub(crate) struct SawmillLog {
    name: &'static str,
    wal: Wal,
    /// The first LSN of the round that runs.
    round: AtomicU64,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl SawmillLog {
    pub(crate) fn open(
        name: &'static str,
        path: &Path,
        options: WalOptions,
    ) -> Outcome<SawmillLog> {
        let wal = Wal::open(path, options)?;
        let round = AtomicU64::new(wal.appended_lsn().next().get());
        Ok(SawmillLog { name, wal, round })
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
                match Pin::new(oldest).poll(&mut context) {
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

    fn settle(&self, kind: Kind, size: usize, appended: Tally) -> Outcome<Option<Written>> {
        let first = Lsn::new(self.round.load(Ordering::Relaxed));
        let mut reader = Reader::new(size);
        let mut replay = self.wal.replay_from(first)?;
        while let Some(record) = replay.next() {
            let record = record?;
            reader.check(record.lsn.get(), record.payload)?;
        }
        drop(replay);
        reader.expect(self.name, appended)?;
        let written = match kind {
            Kind::Append | Kind::Batch(_) | Kind::InFlight(_) => {
                Some(frames::count(self.wal.path(), first)?)
            }
            Kind::Bulk | Kind::Replay => None,
        };
        let next = self.wal.durable_lsn().next();
        self.wal.truncate_before(next)?;
        self.round.store(next.get(), Ordering::Relaxed);
        Ok(written)
    }
}
