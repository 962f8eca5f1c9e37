//! Jobs whose batches a test gives them.

use std::sync::Arc;

use sawmill::clock::ManualClock;
use sawmill::sim::{CrashOutcome, SimDisk};
use sawmill::testing::{Harness, NoHooks, Queue, Stepped};
use sawmill::{
    Background, Engine, EngineOptions, ErrorKind, Job, Result, RunOptions, StateHandle, WalOptions,
    name,
};

/// Opens the engine on a disk and starts a job that counts the rows of a queue.
fn start(disk: &SimDisk, queue: &Queue) -> Result<(Harness, StateHandle<Vec<u8>, u64>)> {
    let log = WalOptions { background: Background::Inline, ..WalOptions::default() };
    let options = EngineOptions { log, ..EngineOptions::default() };
    let clock = Arc::new(ManualClock::default());
    let engine = Engine::open_with(Arc::new(disk.clone()), clock, "/data", options)?;
    let (job, counts) = Job::build(name!("counts"), |job| {
        let rows = job.source(name!("in"), queue.clone());
        let pairs = rows.map_to_pair(|row| (row.to_vec(), 1_u64));
        let counts = pairs.map_with_state::<u64, ()>(name!("counts"), |_, ones, count| {
            *count = Some(count.unwrap_or(0) + ones.sum::<u64>());
            None
        });
        counts.state
    })?;
    Ok((Harness::new(&engine, job, RunOptions::default(), Box::new(NoHooks))?, counts))
}

#[test]
fn each_push_is_a_batch_and_its_end_is_the_jobs() {
    let queue = Queue::new();
    let (mut job, counts) = start(&SimDisk::new(1), &queue).unwrap();
    assert_eq!(job.run_batches(1).unwrap(), 0);
    queue.push(["oak", "ash", "oak"]);
    queue.push_partitions(vec![vec![b"oak".to_vec()], Vec::new(), vec![b"elm".to_vec()]]);
    queue.push(Vec::<&str>::new());
    assert_eq!((queue.len(), job.run_batches(2).unwrap()), (3, 2));
    assert_eq!(counts.get(b"oak".to_vec()), Some(3));
    queue.end();
    assert_eq!(job.run_batches(5).unwrap(), 1, "an empty push is a batch without rows");
    assert_eq!(job.step().unwrap(), Stepped::Ended);
    assert_eq!(job.progress().batches, 3);
}

#[test]
fn a_queue_that_is_not_the_one_that_was_read_is_noticed() {
    let (queue, disk) = (Queue::new(), SimDisk::new(2));
    queue.push(["oak"]);
    queue.push(["ash"]);
    let (mut job, _) = start(&disk, &queue).unwrap();
    assert_eq!(job.run_batches(9).unwrap(), 2);
    drop(job);
    let crashed = || disk.power_cycle(CrashOutcome::KeepAll);
    let (mut job, counts) = start(&crashed(), &queue).unwrap();
    assert_eq!((job.run_batches(9).unwrap(), counts.get(b"ash".to_vec())), (0, Some(1)));
    let (shorter, other) = (Queue::new(), Queue::new());
    shorter.push(["oak"]);
    other.push(["oak"]);
    other.push(["elm"]);
    for (wrong, says) in [(shorter, "has 1"), (other, "other rows")] {
        let error = start(&crashed(), &wrong).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged);
        assert!(error.to_string().contains(says), "{error}");
    }
}
