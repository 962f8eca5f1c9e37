//! Between the driver and a sink: calls that do not arrive, answers that do not come back, and the
//! death of the process around them.

use std::any::Any;

use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Executor, RunContext};
use crate::ids::BatchId;
use crate::sim::SimDisk;
use crate::sink::{Output, Promise, Sink, SinkContext, SinkIdentity, TwoPhase, dying_at_row};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock};

/// What happens at a call of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process dies before the call reaches the sink.
    KillBefore,
    /// The process dies while the sink looks at the second row.
    KillWithin,
    /// The process dies when the sink is done.
    KillAfter,
    /// The sink is not reached, and the driver is told that it failed.
    Refused,
    /// The sink does its work, and the driver is told that it failed.
    ReplyLost,
}

impl Fault {
    pub(super) const ALL: [Fault; 5] =
        [Fault::KillBefore, Fault::KillWithin, Fault::KillAfter, Fault::Refused, Fault::ReplyLost];
}

/// The calls of one schedule, over all lives of the process.
#[derive(Debug)]
pub(super) struct Calls {
    faults: Vec<(u64, Fault)>,
    count: AtomicU64,
    dead: AtomicBool,
    /// What the sink needs to go on behind the last batch it published.
    progress: Mutex<Option<Vec<u8>>>,
}

impl Calls {
    pub(super) fn new(faults: &[(u64, Fault)]) -> Calls {
        let (count, dead) = (AtomicU64::new(0), AtomicBool::new(false));
        Calls { faults: faults.to_vec(), count, dead, progress: Mutex::default() }
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn progress(&self) -> Option<Vec<u8>> {
        lock(&self.progress).clone()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(super) fn revive(&self) {
        self.dead.store(false, Ordering::Relaxed);
    }
}

/// A sink whose calls are counted, and may be struck.
#[derive(Debug)]
pub(super) struct Interposed {
    inner: Arc<dyn Sink>,
    calls: Arc<Calls>,
    disk: SimDisk,
}

impl Interposed {
    pub(super) fn around(
        inner: Arc<dyn Sink>,
        calls: &Arc<Calls>,
        disk: &SimDisk,
    ) -> Arc<dyn Sink> {
        Arc::new(Interposed { inner, calls: Arc::clone(calls), disk: disk.clone() })
    }

    fn call<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.calls.is_dead() {
            return Err(dead());
        }
        let number = self.calls.count.fetch_add(1, Ordering::Relaxed) + 1;
        let fault = self.calls.faults.iter().find(|(at, _)| *at == number);
        match fault.map(|(_, fault)| *fault) {
            None => call(),
            Some(Fault::Refused) => Err(failed("the sink was not reached")),
            Some(Fault::ReplyLost) => {
                call()?;
                Err(failed("the sink's answer was lost"))
            }
            Some(Fault::KillBefore) => self.die(),
            Some(Fault::KillWithin) => {
                drop(dying_at_row(1, call));
                self.die()
            }
            Some(Fault::KillAfter) => {
                drop(call());
                self.die()
            }
        }
    }

    fn die<T>(&self) -> Result<T> {
        self.calls.dead.store(true, Ordering::Relaxed);
        self.disk.power_off();
        Err(dead())
    }

    fn phases(&self) -> Result<&dyn TwoPhase> {
        self.inner.two_phase().ok_or_else(|| failed("a sink has two phases, or it has not"))
    }
}

fn dead() -> Error {
    Error::new(ErrorKind::Poisoned, "the process is dead")
}

fn failed(text: &str) -> Error {
    Error::new(ErrorKind::SinkFailed, text)
}

impl Sink for Interposed {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn open(
        &self,
        cx: SinkContext<'_>,
        identity: &SinkIdentity,
        progress: Option<&[u8]>,
    ) -> Result<()> {
        self.call(|| self.inner.open(cx, identity, progress))
    }

    fn compute(&self, executor: &Executor, run: &RunContext) -> Result<Output> {
        self.inner.compute(executor, run)
    }

    fn digest(&self, output: &(dyn Any + Send + Sync)) -> Option<u64> {
        self.inner.digest(output)
    }

    fn publish(
        &self,
        batch: BatchId,
        attempt: u32,
        output: &(dyn Any + Send + Sync),
    ) -> Result<Vec<u8>> {
        let published = self.call(|| self.inner.publish(batch, attempt, output))?;
        *lock(&self.calls.progress) = Some(published.clone());
        Ok(published)
    }

    fn has(&self, batch: BatchId) -> Result<Option<bool>> {
        self.inner.has(batch)
    }

    fn settle(&self) -> Result<()> {
        if self.calls.is_dead() { Err(dead()) } else { self.inner.settle() }
    }

    fn promise(&self) -> (Promise, &'static str) {
        self.inner.promise()
    }

    fn two_phase(&self) -> Option<&dyn TwoPhase> {
        self.inner.two_phase().map(|_| self as &dyn TwoPhase)
    }
}

impl TwoPhase for Interposed {
    fn prepare(
        &self,
        batch: BatchId,
        attempt: u32,
        output: &(dyn Any + Send + Sync),
    ) -> Result<Vec<u8>> {
        let phases = self.phases()?;
        self.call(|| phases.prepare(batch, attempt, output))
    }

    fn publish_prepared(&self, batch: BatchId, token: &[u8]) -> Result<Option<Vec<u8>>> {
        let phases = self.phases()?;
        let published = self.call(|| phases.publish_prepared(batch, token))?;
        lock(&self.calls.progress).clone_from(&published);
        Ok(published)
    }

    fn abort(&self, batch: BatchId) -> Result<()> {
        let phases = self.phases()?;
        self.call(|| phases.abort(batch))
    }
}
