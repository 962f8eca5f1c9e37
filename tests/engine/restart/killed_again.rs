//! Processes that are killed again before a checkpoint of what they rebuilt stands.

use std::sync::atomic::{AtomicU64, Ordering};

use sawmill::RunContext;
use sawmill::checkpoint::CheckpointStore;
use sawmill::storage::Storage;

use super::*;

/// Ends a life behind its first new batch, and counts what was computed before.
#[derive(Debug)]
struct DiesEarly(Arc<AtomicU64>);

impl Hooks for DiesEarly {
    fn at(&mut self, step: Step, _batch: BatchId) -> Result<()> {
        if step == Step::Completed { Err(stop()) } else { Ok(()) }
    }

    fn computing(&mut self, _batch: BatchId, _run: &RunContext) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Any error will do.
fn stop() -> Error {
    Job::build(name!("none"), |_| ()).unwrap_err()
}

/// The lengths of records, by record; each batch takes 100 ms.
fn slow_job(events: &Ingest, clock: &Arc<ManualClock>) -> Job {
    let clock = Arc::clone(clock);
    let (job, _) = Job::build(name!("slow"), |job| {
        let rows = job.source(name!("in"), Received::from(events));
        let rows = rows.map_partitions::<Bytes>(move |rows, out| {
            rows.for_each(|row| {
                clock.advance(Duration::from_millis(100));
                // A record that is a number stands for so many keys.
                let keys = std::str::from_utf8(row).ok().and_then(|text| text.parse().ok());
                (0..keys.unwrap_or(1)).for_each(|key: u32| out.push(&key.to_le_bytes()));
            })
        });
        let counted = rows.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
        let counts = counted.map_with_state::<u64, ()>(name!("counts"), |_, new, count| {
            *count = Some(count.unwrap_or(0) + new.sum::<u64>());
            None
        });
        counts.state
    })
    .unwrap();
    job
}

fn late(
    disk: &SimDisk,
    clock: &Arc<ManualClock>,
    record: &[u8],
    hooks: Box<dyn Hooks>,
) -> (Engine, Result<Harness>) {
    let log = WalOptions { background: Background::Inline, ..WalOptions::default() };
    let options = EngineOptions { log, threads: 1, ..EngineOptions::default() };
    let storage = Arc::new(disk.clone());
    let engine = Engine::open_with(storage, Arc::clone(clock) as Arc<_>, "/data", options).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    events.append(record).unwrap();
    let options = RunOptions {
        trigger: Trigger::Records(1),
        recovery_budget: Duration::from_millis(500),
        checkpoint_interval: DAY,
        parallelism: 2,
        ..RunOptions::default()
    };
    let job = slow_job(&events, clock);
    let harness = Harness::with_late_checkpoints(&engine, job, options, hooks);
    (engine, harness)
}

/// Each life adds a batch, and dies with its checkpoint unwritten: what has to be rebuilt stays
/// within the budget all the same.
#[test]
fn what_is_rebuilt_never_outgrows_the_budget() {
    let (disk, clock) = (SimDisk::new(1), Arc::new(ManualClock::default()));
    let mut most = 0;
    for life in 0..30 {
        let computed = Arc::new(AtomicU64::new(0));
        let hooks = Box::new(DiesEarly(Arc::clone(&computed)));
        let (engine, harness) = late(&disk, &clock, b"record", hooks);
        let mut harness = harness.unwrap();
        let rebuilt = computed.load(Ordering::Relaxed);
        let completed = harness.progress().batch.get();
        assert_eq!(completed, life, "each life completes a batch");
        most = most.max(rebuilt);
        assert!(harness.step().is_err());
        drop((harness, engine));
    }
    assert!((3..=6).contains(&most), "{most} batches of 100 ms were computed again");
}

/// What was recovered may hang on a single chain: the checkpoint of a recovery is a base if one is
/// wanted, however large.
#[test]
fn a_recovery_writes_the_base_that_is_wanted() {
    let (disk, clock) = (SimDisk::new(1), Arc::new(ManualClock::default()));
    let newest = || {
        let home = disk.directory(Path::new("/data/checkpoints"), false).unwrap();
        let store = CheckpointStore::open(home, 2).unwrap();
        store.kept().map(|meta| (meta.batch.get(), meta.parent)).max().unwrap()
    };
    let (engine, harness) = late(&disk, &clock, b"70000", Box::new(NoHooks));
    let mut harness = harness.unwrap();
    harness.step().unwrap();
    harness.finish().unwrap();
    drop((harness, engine));
    assert_eq!(newest(), (1, 0));
    let hooks = Box::new(DiesEarly(Arc::default()));
    let (engine, harness) = late(&disk, &clock, b"record", hooks);
    assert!(harness.unwrap().step().is_err());
    drop(engine);
    let (engine, harness) = late(&disk, &clock, b"record", Box::new(NoHooks));
    let mut harness = harness.unwrap();
    harness.step().unwrap();
    assert_eq!(newest(), (2, 0), "a base, and the first one");
    drop((harness, engine));
}
