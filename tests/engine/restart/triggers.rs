//! When batches are cut, how large they are, and which time they have (E9), by a clock that is
//! moved by hand.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sawmill::clock::{Clock, ManualClock, Sleeper};
use sawmill::sim::SimDisk;
use sawmill::testing::{Harness, NoHooks, Stepped};
use sawmill::{
    BatchReport, CollectedRows, Engine, EngineOptions, Ingest, Job, Received, RunOptions,
    TextFiles, Trigger, WalOptions, name,
};

/// Ten days, a little past a tick of a second.
const START_NS: u64 = 864_000_000_000_000 + 20_000_000;
const SECOND: Duration = Duration::from_secs(1);

/// A wall clock that can be stepped back beside a monotonic one that cannot.
#[derive(Debug, Default)]
struct Clocks {
    manual: ManualClock,
    back_ns: AtomicU64,
}

impl Clock for Clocks {
    fn wall_ns(&self) -> u64 {
        START_NS + self.manual.wall_ns() - self.back_ns.load(Ordering::SeqCst)
    }

    fn monotonic_ns(&self) -> u64 {
        self.manual.monotonic_ns()
    }

    fn sleep(&self, duration: Duration) {
        self.manual.sleep(duration);
    }

    fn passes(&self) -> bool {
        false
    }

    fn watch(&self, sleeper: Weak<dyn Sleeper>) {
        self.manual.watch(sleeper);
    }

    fn sleep_until(&self, until_ns: u64) {
        self.manual.sleep_until(until_ns);
    }
}

/// A job over one stream, driven by hand.
struct Driven {
    clocks: Arc<Clocks>,
    disk: SimDisk,
    engine: Engine,
    events: Ingest,
    rows: CollectedRows<Vec<u8>>,
    harness: Harness,
}

impl Driven {
    fn new(options: RunOptions) -> Driven {
        Driven::on(SimDisk::new(1), Arc::default(), options, 0)
    }

    fn on(disk: SimDisk, clocks: Arc<Clocks>, options: RunOptions, backlog: usize) -> Driven {
        let log = WalOptions {
            segment_size: 64 << 10,
            background: sawmill::Background::Inline,
            ..WalOptions::default()
        };
        let engine_options = EngineOptions { log, threads: 1, ..EngineOptions::default() };
        let (storage, clock) = (Arc::new(disk.clone()), Arc::clone(&clocks) as Arc<_>);
        let engine = Engine::open_with(storage, clock, "/data", engine_options).unwrap();
        let events = engine.ingest(name!("events")).unwrap();
        for _ in 0..backlog {
            events.append(b"oak").unwrap();
        }
        let (job, rows) = Job::build(name!("job"), |job| {
            let words = job.source(name!("in"), Received::from(&events));
            words.map(<[u8]>::to_vec).collect(name!("rows"))
        })
        .unwrap();
        let harness = Harness::new(&engine, job, options, Box::new(NoHooks)).unwrap();
        Driven { clocks, disk, engine, events, rows, harness }
    }

    fn append(&self, count: usize) {
        for _ in 0..count {
            self.events.append(b"oak").unwrap();
        }
    }

    fn advance(&self, millis: u64) {
        self.clocks.manual.advance(Duration::from_millis(millis));
    }

    /// A batch; panics if none is due.
    fn batch(&mut self) -> BatchReport {
        let stepped = self.harness.step().unwrap();
        assert!(matches!(stepped, Stepped::Batch(_)), "{stepped:?}");
        self.harness.progress().last
    }

    fn idle(&mut self) {
        assert_eq!(self.harness.step().unwrap(), Stepped::Idle);
    }
}

fn every_second() -> RunOptions {
    RunOptions { trigger: Trigger::Interval(SECOND), parallelism: 2, ..RunOptions::default() }
}

#[test]
fn a_batch_is_cut_at_each_tick_that_has_input() {
    let mut job = Driven::new(every_second());
    job.append(2);
    let first = job.batch();
    assert_eq!((first.batch_time_ns, first.records), (START_NS - 20_000_000, 2));
    job.append(1);
    job.idle();
    job.advance(979);
    job.idle();
    job.advance(1);
    let second = job.batch();
    assert_eq!(second.batch_time_ns - first.batch_time_ns, 1_000_000_000);
    // Two ticks without input are not planned; the batch behind them covers them.
    job.advance(1000);
    job.idle();
    job.advance(1000);
    job.idle();
    job.append(1);
    job.idle();
    job.advance(1000);
    let third = job.batch();
    assert_eq!((third.batch.get(), third.ticks), (3, 3));
    assert_eq!(third.scheduling_delay, Duration::ZERO);
}

/// E9: batch time is a tick, and rises; the pace is that of the monotonic clock.
#[test]
fn a_wall_clock_that_is_stepped_back_one_hour_changes_nothing_but_its_phase() {
    let mut job = Driven::new(every_second());
    job.append(1);
    let mut last = job.batch().batch_time_ns;
    job.advance(980);
    for second in 0..10 {
        if second == 3 {
            job.clocks.back_ns.store(3_600_000_000_000, Ordering::SeqCst);
        }
        job.append(1);
        let batch = job.batch();
        assert_eq!(batch.batch_time_ns - last, 1_000_000_000, "second {second}");
        assert_eq!((batch.ticks, batch.scheduling_delay), (1, Duration::ZERO));
        last = batch.batch_time_ns;
        job.append(1);
        job.idle();
        job.advance(1000);
    }
    // Also by another process, which has only the plans.
    let (disk, clocks) = (job.disk.clone(), Arc::clone(&job.clocks));
    job.batch();
    drop(job);
    let mut job = Driven::on(disk, clocks, every_second(), 1);
    assert!(job.batch().batch_time_ns > last + 1_000_000_000);
}

/// E9: one late batch, and no burst.
#[test]
fn a_stall_of_three_seconds_at_an_interval_of_one_is_one_late_batch() {
    let mut job = Driven::new(every_second());
    job.append(1);
    job.batch();
    job.advance(980);
    job.append(1);
    let before = job.batch();
    for _ in 0..3 {
        job.append(1);
        job.advance(1000);
    }
    job.advance(200);
    job.append(1);
    let late = job.batch();
    assert_eq!((late.ticks, late.records), (3, 4));
    assert_eq!(late.batch_time_ns - before.batch_time_ns, 3_000_000_000);
    assert_eq!(late.scheduling_delay, Duration::from_millis(2200));
    job.append(1);
    job.idle();
    job.advance(799);
    job.idle();
    job.advance(1);
    let next = job.batch();
    assert_eq!((next.ticks, next.scheduling_delay), (1, Duration::ZERO));
}

#[test]
fn batches_have_as_many_records_as_the_trigger_says() {
    let options = RunOptions { trigger: Trigger::Records(3), ..every_second() };
    let mut job = Driven::on(SimDisk::new(1), Arc::default(), options, 10);
    let records: Vec<u64> = (0..4).map(|_| job.batch().records).collect();
    assert_eq!(records, [3, 3, 3, 1]);
    job.idle();
    assert_eq!(job.rows.rows().len(), 10);
}

#[test]
fn files_are_cut_at_so_many_lines() {
    let disk = SimDisk::new(1);
    disk.write_file(Path::new("/in/a"), b"1\n2\n3\n4\n5");
    disk.write_file(Path::new("/in/b"), b"6\n\n8\n");
    let job = Driven::new(every_second());
    let storage = Arc::new(disk);
    let engine = Engine::open_with(
        storage,
        Arc::clone(&job.clocks) as Arc<_>,
        "/data",
        EngineOptions {
            log: WalOptions { background: sawmill::Background::Inline, ..WalOptions::default() },
            ..EngineOptions::default()
        },
    )
    .unwrap();
    let (files, rows) = Job::build(name!("lines"), |job| {
        let lines = job.source(name!("in"), TextFiles::new(["/in/a", "/in/b"]));
        lines.map(<[u8]>::to_vec).collect(name!("rows"))
    })
    .unwrap();
    let options = RunOptions { trigger: Trigger::Records(2), ..every_second() };
    let mut harness = Harness::new(&engine, files, options, Box::new(NoHooks)).unwrap();
    while harness.step().unwrap() != Stepped::Ended {}
    let batches: Vec<usize> = rows.batches().into_values().map(|rows| rows.len()).collect();
    assert_eq!(batches, [2, 2, 2, 2]);
    assert_eq!(rows.rows().concat(), b"1234568");
}

#[test]
fn once_is_one_batch_and_the_first_batch_may_be_smaller() {
    let once = RunOptions { trigger: Trigger::Once, ..every_second() };
    let mut job = Driven::on(SimDisk::new(1), Arc::default(), once.clone(), 100);
    assert_eq!(job.batch().records, 100);
    job.append(1);
    assert_eq!(job.harness.step().unwrap(), Stepped::Ended);
    assert_eq!(job.rows.rows().len(), 100);
    // A record counts 16 bytes more than it has.
    let bounded = RunOptions { batch_bytes: 190, ..once };
    let mut job = Driven::on(SimDisk::new(1), Arc::default(), bounded.clone(), 100);
    assert_eq!(job.batch().records, 10);
    assert_eq!(job.harness.step().unwrap(), Stepped::Ended);
    let first =
        RunOptions { trigger: Trigger::Bytes(1 << 20), first_batch_bytes: Some(19 * 3), ..bounded };
    let mut job = Driven::on(SimDisk::new(1), Arc::default(), first, 100);
    let records: Vec<u64> = (0..3).map(|_| job.batch().records).collect();
    assert_eq!(records, [3, 10, 10], "and a backlog is worked off in bounded batches");
    drop(job.engine);
}
