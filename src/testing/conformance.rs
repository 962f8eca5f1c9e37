//! The conformance kit: what does a sink keep of what it promises, when the process dies between
//! any two steps of its protocol, and replies are lost?

use super::certificate::{Certificate, Verdict};
use super::interpose::{Calls, Fault, Interposed};
use super::{Harness, Hooks, NoHooks, Step, Stepped};
use crate::clock::ManualClock;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BatchId, Epoch};
use crate::options::EngineOptions;
use crate::sim::{CrashManner, CrashOutcome, SimDisk};
use crate::sink::{CollectedRows, Promise, Sink, SinkContext, SinkError, SinkIdentity};
use crate::source::Received;
use crate::storage::Storage;
use crate::stream::{Job, RunOptions, Stream, Trigger};
use crate::sync::Arc;
use crate::wal::{Background, WalOptions};

/// A sink that is to be certified, with everything that is outside of the process.
///
/// Made anew for each schedule. What it shares with the sinks that it attaches survives the death
/// of the process; the sinks themselves do not.
pub trait SinkUnderTest {
    /// Gives the rows to the sink: once in each life of the process. `disk` is where the engine
    /// keeps its files, and where sinks that use the engine's storage keep theirs.
    fn attach(&self, rows: &Stream<String>, disk: &SimDisk);

    /// The rows that anybody outside can see now, in their order. No process is alive.
    ///
    /// # Errors
    /// Any: the certificate names it.
    fn visible(&self, disk: &SimDisk) -> Result<Vec<String>, SinkError>;
}

/// Runs a job into the sink that `new` makes, again and again: with the process killed before,
/// within and after each call of the sink, between all steps of all batches and at operations of
/// the disk; with calls refused and replies lost; with a second death in recovery. Then with a
/// writer that was taken over from. Says which promise was kept.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use sawmill::sim::SimDisk;
/// use sawmill::testing::{SinkUnderTest, certify};
/// use sawmill::{Promise, SinkError, Stream, name};
///
/// /// A callback that appends, and does not look at the batch's id.
/// #[derive(Default)]
/// struct Append(Arc<Mutex<Vec<String>>>);
///
/// impl SinkUnderTest for Append {
///     fn attach(&self, rows: &Stream<String>, _disk: &SimDisk) {
///         let all = Arc::clone(&self.0);
///         rows.for_each_batch(name!("append"), move |batch| {
///             // A kill strikes between two rows, too: no lock is held over them.
///             let rows: Vec<String> = batch.rows().cloned().collect();
///             all.lock().unwrap().extend(rows);
///             Ok(())
///         });
///     }
///
///     fn visible(&self, _disk: &SimDisk) -> Result<Vec<String>, SinkError> {
///         Ok(self.0.lock().unwrap().clone())
///     }
/// }
///
/// let certificate = certify(Append::default);
/// assert_eq!(certificate.promise, Some(Promise::AtLeastOnce));
/// assert!(certificate.require(Promise::Idempotent).is_err());
/// ```
///
/// # Panics
/// If the sink fails where nothing goes wrong.
pub fn certify<W: SinkUnderTest>(new: impl Fn() -> W) -> Certificate {
    let mut kit = Kit { new, batches: Vec::new(), calls: 0, ops: 0, verdict: Verdict::default() };
    let declared = kit.undisturbed();
    for call in 1..=kit.calls {
        for fault in Fault::ALL {
            kit.one(&[(call, fault)]);
            // The process dies again, a little later.
            let next = call + 1 + call % 2;
            kit.one(&[(call, fault), (next, Fault::KillAfter)]);
        }
    }
    for step in Step::ALL {
        for number in 0..kit.batches.len() {
            kit.at_step(step, number);
        }
    }
    for op in (1..=kit.ops).step_by(3) {
        kit.at_operation(op);
    }
    kit.taken_over();
    kit.verdict.certificate(declared)
}

const RECORDS: usize = 9;

struct Kit<F> {
    new: F,
    /// What each batch gives.
    batches: Vec<Vec<String>>,
    /// Calls of the sink when nothing goes wrong.
    calls: u64,
    /// Operations of the disk then.
    ops: u64,
    verdict: Verdict,
}

/// One schedule: the sink's world, and the disk.
struct Life<W> {
    world: W,
    disk: SimDisk,
    clock: Arc<ManualClock>,
    calls: Arc<Calls>,
}

impl<W: SinkUnderTest> Life<W> {
    fn new(world: W, faults: &[(u64, Fault)]) -> Life<W> {
        let (disk, clock) = (SimDisk::new(1), Arc::new(ManualClock::default()));
        let calls = Arc::new(Calls::new(faults));
        Life { world, disk, clock, calls }
    }

    fn engine(&self) -> Result<Engine> {
        let log = WalOptions {
            segment_size: 64 << 10,
            lock_wait: std::time::Duration::ZERO,
            background: Background::Inline,
            ..WalOptions::default()
        };
        let options = EngineOptions { log, threads: 1, ..EngineOptions::default() };
        let (disk, clock) = (Arc::new(self.disk.clone()), Arc::clone(&self.clock) as Arc<_>);
        Engine::open_with(disk, clock, "/data", options)
    }

    /// The job, and what it gives to a second sink.
    fn job(&self, engine: &Engine) -> Result<(Job, CollectedRows<String>)> {
        let events = engine.ingest(crate::name!("events"))?;
        let (mut job, model) = Job::build(crate::name!("conformance"), |job| {
            let records = job.source(crate::name!("in"), Received::from(&events));
            let rows = records.map(|record| String::from_utf8_lossy(record).into_owned());
            self.world.attach(&rows, &self.disk);
            rows.collect(crate::name!("model"))
        })?;
        for sink in job.sinks.iter_mut().filter(|sink| sink.name() != "model") {
            *sink = Interposed::around(Arc::clone(sink), &self.calls, &self.disk);
        }
        Ok((job, model))
    }

    /// One life of the process, to the end of the input.
    fn live(&self, hooks: Box<dyn Hooks>) -> Result<CollectedRows<String>> {
        let engine = self.engine()?;
        let events = engine.ingest(crate::name!("events"))?;
        // One atomic append: it is there or not.
        let rows: Vec<String> = (0..RECORDS).map(|row| format!("row {row}")).collect();
        if engine.log().replay()?.next().is_none() {
            events.append_batch(&rows)?;
        }
        let (job, model) = self.job(&engine)?;
        let options = RunOptions {
            trigger: Trigger::Bytes(24),
            parallelism: 2,
            checkpoint_interval: std::time::Duration::from_millis(8),
            ..RunOptions::default()
        };
        let mut harness = Harness::new(&engine, job, options, hooks)?;
        while harness.step()? != Stepped::Idle {
            self.clock.advance(std::time::Duration::from_millis(6));
        }
        harness.finish()?;
        Ok(model)
    }

    /// What the power, or the end of the process, leaves.
    fn die(&mut self, power: bool) {
        self.disk = match power {
            true => self.disk.power_cycle(CrashOutcome::Seeded(3)),
            false => self.disk.kill(),
        };
        self.calls.revive();
    }
}

impl<W: SinkUnderTest, F: Fn() -> W> Kit<F> {
    fn undisturbed(&mut self) -> Promise {
        let life = Life::new((self.new)(), &[]);
        let fails =
            |error: Error| -> ! { panic!("the sink fails where nothing goes wrong: {error}") };
        let model = life.live(Box::new(NoHooks)).unwrap_or_else(|error| fails(error));
        self.batches = model.batches().into_values().collect();
        let several = self.batches.len() > 2 && self.batches.iter().any(|rows| rows.len() > 1);
        assert!(several, "the kit's job has several batches, of several rows: {:?}", self.batches);
        (self.calls, self.ops) = (life.calls.count(), life.disk.ops());
        self.judge(&life, "undisturbed");
        let job = life.engine().and_then(|engine| Ok(life.job(&engine)?.0));
        job.unwrap_or_else(|error| fails(error)).sinks[0].promise().0
    }

    /// Lives on until the end, and judges what is seen then.
    fn go_on(&mut self, mut life: Life<W>, story: &str) {
        let mut lives = 0;
        loop {
            self.look(&life, story);
            let ended = life.live(Box::new(NoHooks));
            let died = life.calls.is_dead();
            match ended {
                Ok(_) => return self.judge(&life, story),
                Err(_) if died && lives < 3 => lives += 1,
                Err(error) => {
                    let why = || format!("the job does not go on: {error}");
                    for promise in [Promise::AtMostOnce, Promise::AtLeastOnce] {
                        self.verdict.breaks(promise, story, why);
                    }
                    return;
                }
            }
            life.die(lives % 2 == 0);
        }
    }

    fn one(&mut self, faults: &[(u64, Fault)]) {
        for power in [false, true] {
            let mut life = Life::new((self.new)(), faults);
            let story = format!("{faults:?}, power {power}");
            let ended = life.live(Box::new(NoHooks));
            if ended.is_ok() {
                self.judge(&life, &story);
                continue;
            }
            life.die(power);
            self.go_on(life, &story);
        }
    }

    fn at_step(&mut self, step: Step, number: usize) {
        let mut life = Life::new((self.new)(), &[]);
        let hooks = Die { step, number, disk: life.disk.clone() };
        if life.live(Box::new(hooks)).is_ok() {
            return;
        }
        life.die(number.is_multiple_of(2));
        self.go_on(life, &format!("death at {step:?} number {number}"));
    }

    fn at_operation(&mut self, op: u64) {
        let mut life = Life::new((self.new)(), &[]);
        life.disk.crash_at(op, CrashManner::Torn);
        drop(life.live(Box::new(NoHooks)));
        life.die(true);
        self.go_on(life, &format!("power cut at operation {op}"));
    }

    /// Between lives: whole batches, in order, or the sink is not transactional.
    fn look(&mut self, life: &Life<W>, story: &str) {
        let Some(seen) = self.visible(life, story) else { return };
        let mut rest = seen.as_slice();
        for batch in &self.batches {
            match rest.strip_prefix(batch.as_slice()) {
                Some(behind) => rest = behind,
                None => break,
            }
        }
        if !rest.is_empty() {
            let why = || format!("{seen:?} are not whole batches of {:?}", self.batches);
            self.verdict.breaks(Promise::Transactional, story, why);
        }
    }

    fn visible(&mut self, life: &Life<W>, story: &str) -> Option<Vec<String>> {
        match life.world.visible(&life.disk) {
            Ok(seen) => Some(seen),
            Err(error) => {
                for promise in [Promise::AtMostOnce, Promise::AtLeastOnce] {
                    self.verdict.breaks(promise, story, || format!("nothing can be read: {error}"));
                }
                None
            }
        }
    }

    /// At the end: every row, once, in order.
    fn judge(&mut self, life: &Life<W>, story: &str) {
        self.verdict.schedules += 1;
        let Some(seen) = self.visible(life, story) else { return };
        let expected = self.batches.concat();
        let times = |row: &String| seen.iter().filter(|seen| *seen == row).count();
        if let Some(row) = expected.iter().find(|row| times(row) == 0) {
            self.verdict.breaks(Promise::AtLeastOnce, story, || format!("`{row}` is lost"));
        }
        if let Some(row) = seen.iter().find(|row| times(row) > 1 || !expected.contains(row)) {
            let why = || format!("`{row}` is there {} times", times(row));
            self.verdict.breaks(Promise::AtMostOnce, story, why);
        }
        if seen != expected {
            let why = || format!("{seen:?} in the end, not {expected:?}");
            self.verdict.breaks(Promise::Idempotent, story, why);
        }
    }

    /// A later writer opens the output while this one is about to publish: it may not any more.
    fn taken_over(&mut self) {
        let life = Life::new((self.new)(), &[]);
        let engine = life.engine().and_then(|engine| {
            let (job, _) = life.job(&engine)?;
            let identity = SinkIdentity {
                log: engine.log().log_id(),
                job: "conformance".to_owned(),
                sink: job.sinks[0].name().to_owned(),
            };
            Ok((Arc::clone(&job.sinks[0]), identity))
        });
        let Ok((later, identity)) = engine else { return };
        let (disk, calls) = (life.disk.clone(), Arc::clone(&life.calls));
        let hooks = TakeOver { later, identity, disk, calls, done: false };
        let ended = life.live(Box::new(hooks));
        let story = "a writer that was taken over from";
        self.verdict.schedules += 1;
        let Some(seen) = self.visible(&life, story) else { return };
        if ended.is_ok() || seen != self.batches[0] {
            let why = || format!("it goes on publishing: {seen:?}");
            self.verdict.breaks(Promise::Transactional, story, why);
        }
    }
}

/// Ends the process at the n-th time a step is passed.
#[derive(Debug)]
struct Die {
    step: Step,
    number: usize,
    disk: SimDisk,
}

impl Hooks for Die {
    fn at(&mut self, step: Step, _batch: BatchId) -> Result<()> {
        if step != self.step {
            return Ok(());
        }
        if self.number == 0 {
            self.disk.power_off();
            return Err(Error::new(ErrorKind::Poisoned, "the process dies here"));
        }
        self.number -= 1;
        Ok(())
    }
}

/// Opens the output for a later epoch, once, when the second batch is computed.
#[derive(Debug)]
struct TakeOver {
    later: Arc<dyn Sink>,
    identity: SinkIdentity,
    disk: SimDisk,
    calls: Arc<Calls>,
    done: bool,
}

impl Hooks for TakeOver {
    fn at(&mut self, step: Step, batch: BatchId) -> Result<()> {
        if step == Step::PlanDurable && batch.get() == 2 && !self.done {
            self.done = true;
            let storage: Arc<dyn Storage> = Arc::new(self.disk.clone());
            let cx = SinkContext { storage: &storage, epoch: Epoch::new(1000) };
            // What it makes of it is seen by what the first one can do then.
            drop(self.later.open(cx, &self.identity, self.calls.progress().as_deref()));
        }
        Ok(())
    }
}
