//! Jobs that are started again in the process that ran them before.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod killed_again;
mod lifecycle;
mod triggers;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::SimDisk;
use sawmill::testing::{Harness, Hooks, NoHooks, Step, Stepped};
use sawmill::{
    Background, BatchId, Bytes, CommittedRows, Engine, EngineOptions, Error, ErrorKind, Ingest,
    Job, Lsn, Received, Result, RunOptions, StateHandle, TextFiles, Trigger, Wal, WalOptions, name,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn open(path: &Path) -> Engine {
    Engine::open(path, EngineOptions { threads: 1, ..EngineOptions::default() }).unwrap()
}

type Calls = Arc<Mutex<Vec<(u64, u32)>>>;

fn job(events: &Ingest, calls: &Calls) -> (Job, StateHandle<Bytes, u64>) {
    let calls = Arc::clone(calls);
    Job::build(name!("count"), |job| {
        let words = job.source(name!("in"), Received::from(events));
        words.for_each_batch(name!("callback"), move |batch| {
            calls.lock().unwrap().push((batch.id().get(), batch.attempt()));
            Ok(())
        });
        let counted = words.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
        let counts = counted.map_with_state::<u64, ()>(name!("counts"), |_, new, count| {
            *count = Some(count.unwrap_or(0) + new.sum::<u64>());
            None
        });
        counts.state
    })
    .unwrap()
}

/// E20: a completed batch is never handed over again. Its completion may not be durable yet when
/// its run is dropped: the next start must not take the batch for one in flight.
#[test]
fn a_batch_whose_completion_is_on_its_way_is_complete() {
    let place = tempfile::tempdir().unwrap();
    let calls = Calls::default();
    let engine = open(place.path());
    let events = engine.ingest(name!("events")).unwrap();
    for life in 1..=20 {
        let (job, counts) = job(&events, &calls);
        let run = engine.start(job, RunOptions::default()).unwrap();
        events.append(b"oak").unwrap();
        while counts.get(b"oak") != Some(life) {
            std::thread::sleep(Duration::from_micros(50));
        }
        drop(run);
    }
    drop((events, engine));
    let expected: Vec<(u64, u32)> = (1..=20).map(|batch| (batch, 1)).collect();
    assert_eq!(*calls.lock().unwrap(), expected);
    // And the log says so, too.
    let engine = open(place.path());
    let (job, counts) = job(&engine.ingest(name!("events")).unwrap(), &calls);
    let run = engine.start(job, RunOptions::default()).unwrap();
    assert_eq!(counts.get(b"oak"), Some(20));
    run.stop().unwrap();
}

/// What recovery reads to rebuild state, it has compared: it is not read once more to compare.
#[test]
fn a_range_that_was_just_rebuilt_is_not_read_again() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("input");
    std::fs::write(&file, "oak ash elm\n".repeat(1000)).unwrap();
    let life = |steps: u32| {
        let engine = open(&place.path().join("data"));
        let (job, ()) = Job::build(name!("files"), |job| {
            let lines = job.source(name!("in"), TextFiles::new([&file]));
            lines.for_each_batch(name!("nothing"), |_| Ok(()));
        })
        .unwrap();
        let checkpoint_interval = Duration::from_secs(3600);
        let trigger = Trigger::Bytes(1000);
        let options = RunOptions { trigger, checkpoint_interval, ..RunOptions::default() };
        let mut harness = Harness::new(&engine, job, options, Box::new(NoHooks)).unwrap();
        let read = harness.progress().bytes_read;
        for _ in 0..steps {
            harness.step().unwrap();
        }
        (read, harness.progress().input_bytes)
    };
    let (read, first) = life(3);
    assert_eq!(read, 0);
    // No checkpoint yet: all of it is read, to rebuild.
    let (read, second) = life(0);
    assert_eq!((read, second), (first, first));
    // A checkpoint, and nothing behind it: the last range is read, to compare.
    let (read, _) = life(2);
    assert!(0 < read && read < first, "{read} of {first}");
}

/// Ends a life behind the plan of a batch.
#[derive(Debug)]
struct Dies(u64);

impl Hooks for Dies {
    fn at(&mut self, step: Step, batch: BatchId) -> Result<()> {
        let dies = step == Step::PlanDurable && batch.get() == self.0;
        if dies { Err(Error::new(ErrorKind::Io, "the end of this life")) } else { Ok(()) }
    }
}

/// REREAD-2: what recovery reads batches again with holds their segment, and is gone when it is
/// over, also before the first tick of a job that has one an hour: the segment is used again.
#[test]
fn recovery_keeps_no_segment() {
    let (disk, clock) = (SimDisk::new(5), Arc::new(ManualClock::default()));
    let life = |disk: &SimDisk| {
        let background = Background::Inline;
        let log = WalOptions { segment_size: 64 << 10, background, ..WalOptions::default() };
        let (threads, checkpoints_kept) = (1, 1);
        let options = EngineOptions { log, threads, checkpoints_kept, ..EngineOptions::default() };
        let (storage, clock) = (Arc::new(disk.clone()), Arc::clone(&clock));
        let engine = Engine::open_with(storage, clock, "/data", options).unwrap();
        let events = engine.ingest(name!("events")).unwrap();
        (engine, events)
    };
    let start = |(engine, events): &(Engine, Ingest), trigger, hooks| {
        let (job, counts) = job(events, &Calls::default());
        let (checkpoint_interval, recovery_budget) = (Duration::from_secs(60), DAY);
        let options =
            RunOptions { trigger, checkpoint_interval, recovery_budget, ..RunOptions::default() };
        (Harness::new(engine, job, options, hooks).unwrap(), counts)
    };
    // Behind the name of the stream, two of them fill the first segment, three the next ones.
    let word = [b'o'; 20_000];
    let append = |events: &Ingest, times| {
        (0..times).for_each(|_| assert!(events.append(&word).unwrap() > Lsn::ZERO));
    };
    let first = life(&disk);
    append(&first.1, 9);
    let (mut harness, _) = start(&first, Trigger::Records(1), Box::new(Dies(5)));
    for batch in 1..=4 {
        assert_eq!(harness.step().unwrap(), Stepped::Batch(BatchId::new(batch)));
    }
    harness.step().unwrap_err();
    drop(harness);
    let killed = disk.kill();
    disk.power_off();
    let second = life(&killed);
    let recycled = || second.0.log().stats().segments_recycled;
    let (mut harness, counts) = start(&second, Trigger::Interval(DAY), Box::new(NoHooks));
    append(&second.1, 30);
    assert_eq!((counts.get(&word), recycled()), (Some(4), 1), "four are rebuilt, in a checkpoint");
    assert_eq!(harness.step().unwrap(), Stepped::Batch(BatchId::new(5)));
    harness.finish().unwrap();
    append(&second.1, 30);
    assert_eq!((counts.get(&word), recycled()), (Some(5), 2), "the fifth is finished, too");
}

/// The first start may go wrong in many ways: what it recorded binds nobody before it did anything.
#[test]
fn a_job_that_planned_nothing_may_be_another_one_next_time() {
    let place = tempfile::tempdir().unwrap();
    let engine = open(&place.path().join("data"));
    let events = engine.ingest(name!("events")).unwrap();
    events.append(b"oak").unwrap();
    let missing = place.path().join("missing");
    let (job_of_files, ()) = Job::build(name!("first"), |job| {
        let lines = job.source(name!("files"), TextFiles::new([&missing]));
        lines.for_each_batch(name!("nothing"), |_| Ok(()));
    })
    .unwrap();
    let trigger = Trigger::AvailableNow { bytes: 1000 };
    let options = RunOptions { trigger, ..RunOptions::default() };
    let run = engine.start(job_of_files, options.clone()).unwrap();
    assert_eq!(run.await_termination().unwrap_err().kind(), ErrorKind::Io);
    let calls = Calls::default();
    let (second, counts) = job(&events, &calls);
    let run = engine.start(second, RunOptions { parallelism: 3, ..options.clone() }).unwrap();
    run.await_termination().unwrap();
    assert_eq!(counts.get(b"oak"), Some(1));
    // From then on the directory is that job's.
    let another = Job::build(name!("another"), |job| {
        job.source(name!("in"), Received::from(&events)).for_each_batch(name!("out"), |_| Ok(()));
    });
    let refused = engine.start(another.unwrap().0, options.clone()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::JobMismatch);
    drop((events, engine));
    let engine = open(&place.path().join("data"));
    let events = engine.ingest(name!("events")).unwrap();
    let (third, counts) = job(&events, &calls);
    // Another parallelism is no other job: the state is the same.
    events.append(b"oak").unwrap();
    let run = engine.start(third, RunOptions { parallelism: 5, ..options }).unwrap();
    run.await_termination().unwrap();
    assert_eq!(counts.get(b"oak"), Some(2));
}

/// E5: two engines, each with a job and a sink of the same names, write into one stream of one log,
/// and are aborted and started again in turns: of each the log has every row once, in order.
#[test]
fn two_jobs_on_one_log_are_kept_apart() {
    const ROWS: u64 = 3000;
    let place = tempfile::tempdir().unwrap();
    let options = WalOptions { segment_size: 1 << 20, ..WalOptions::default() };
    let target = Wal::open(place.path().join("target"), options).unwrap();
    let write = |data: &str| {
        for appended in (0..ROWS).step_by(500) {
            let engine = open(&place.path().join(data));
            let events = engine.ingest(name!("events")).unwrap();
            for row in appended..appended + 500 {
                drop(events.submit(format!("{data} {row}").as_bytes()).unwrap());
            }
            engine.log().sync().unwrap();
            let (job, ()) = Job::build(name!("copy"), |job| {
                let rows = job.source(name!("in"), Received::from(&events));
                rows.write_log(name!("out"), &target, "rows");
            })
            .unwrap();
            let trigger = Trigger::Bytes(1000);
            let run = engine.start(job, RunOptions { trigger, ..RunOptions::default() }).unwrap();
            if appended + 500 == ROWS {
                run.drain().unwrap();
            } else {
                while run.progress().batches < 3 {
                    std::thread::yield_now();
                }
                run.abort().unwrap();
            }
        }
    };
    std::thread::scope(|scope| {
        let write = &write;
        for data in ["left", "right"] {
            scope.spawn(move || write(data));
        }
    });
    let (mut rows, mut outputs) = (CommittedRows::of(&target, "rows").unwrap(), Vec::new());
    let mut next = [0, 0];
    while let Some(row) = rows.next() {
        let row = row.unwrap();
        let number = outputs.iter().position(|output| *output == row.output).unwrap_or_else(|| {
            outputs.push(row.output.clone());
            outputs.len() - 1
        });
        let text = String::from_utf8(row.payload).unwrap();
        let (data, found) = text.split_once(' ').unwrap();
        assert_eq!(found, next[number].to_string(), "of {data}, output {number}");
        next[number] += 1;
    }
    assert_eq!((next, outputs.len()), ([ROWS, ROWS], 2), "{outputs:?}");
}
