//! Records that were submitted, and for which nobody waits.

use std::sync::Arc;
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::SimDisk;
use sawmill::testing::{Harness, NoHooks, Stepped};
use sawmill::{
    Background, Engine, EngineOptions, ErrorKind, Ingest, Job, Received, RunOptions, Trigger,
    WalOptions, name,
};

fn printing_nothing(events: &Ingest) -> Job {
    let built = Job::build(name!("watch"), |job| {
        let rows = job.source(name!("in"), Received::from(events));
        rows.for_each_batch(name!("nothing"), |_| Ok(()));
    });
    built.unwrap().0
}

/// Its bytes are in the log's memory, and nothing else happens in the log.
#[test]
fn a_record_that_nobody_waits_for_is_processed_when_a_batch_is_due() {
    let log = WalOptions { background: Background::Inline, ..WalOptions::default() };
    let options = EngineOptions { log, ..EngineOptions::default() };
    let clock = Arc::new(ManualClock::default());
    let engine = Engine::open_with(Arc::new(SimDisk::new(7)), clock, "/data", options).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    let (job, options) = (printing_nothing(&events), RunOptions::default());
    let mut job = Harness::new(&engine, job, options, Box::new(NoHooks)).unwrap();
    assert_eq!(job.step().unwrap(), Stepped::Idle);
    for number in 1..4 {
        drop(events.submit(b"submitted").unwrap());
        assert!(matches!(job.step().unwrap(), Stepped::Batch(_)), "record {number}");
        assert_eq!(job.step().unwrap(), Stepped::Idle);
    }
    let (durable, ops) = (engine.log().durable_lsn(), engine.log().stats().durable_frames);
    assert_eq!(job.step().unwrap(), Stepped::Idle);
    assert_eq!(engine.log().durable_lsn(), durable);
    assert_eq!(engine.log().stats().durable_frames, ops, "who finds nothing writes nothing");
}

/// The same with threads, each record alone: every one is a batch's, and the job never starves.
#[test]
fn records_submitted_one_by_one_come_through_without_any_other() {
    let place = tempfile::tempdir().unwrap();
    let options = EngineOptions { threads: 1, ..EngineOptions::default() };
    let engine = Engine::open(place.path(), options).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    let trigger = Trigger::Interval(Duration::from_millis(1));
    let options = RunOptions { trigger, ..RunOptions::default() };
    let run = engine.start(printing_nothing(&events), options).unwrap();
    for number in 1..=50 {
        drop(events.submit(b"submitted").unwrap());
        // A minute in all: only a job that starves takes as long.
        for _ in 0..60_000 {
            assert!(!run.is_ended());
            if run.progress().batches == number {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(run.progress().batches, number);
    }
    assert_eq!(run.stop().unwrap().batches, 50);
}

/// The completion of one batch and the plan of the next: what the log is asked for, however often
/// the driver is put to sleep in between.
#[test]
fn a_batch_is_one_durable_write_of_the_log() {
    const BATCHES: u64 = 200;
    let place = tempfile::tempdir().unwrap();
    let options = EngineOptions { threads: 1, ..EngineOptions::default() };
    let engine = Engine::open(place.path(), options).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    (0..BATCHES).for_each(|_| drop(events.submit(b"submitted").unwrap()));
    engine.log().sync().unwrap();
    let before = engine.log().stats();
    let trigger = Trigger::Records(1);
    let checkpoint_interval = Duration::from_secs(3600);
    let options = RunOptions { trigger, checkpoint_interval, ..RunOptions::default() };
    let run = engine.start(printing_nothing(&events), options).unwrap();
    assert_eq!(run.drain().unwrap().batches, BATCHES);
    let after = engine.log().stats();
    let idle = after.attestations - before.attestations;
    let frames = after.frames - before.frames - idle;
    let syncs = after.syncs - before.syncs;
    // The job's start, the last completion, and what the checkpoint at the end waits for.
    assert!(frames + syncs <= BATCHES + 10, "{frames} frames, {syncs} syncs");
}

/// What it left in the log for its own next step is written, though there is none.
#[test]
fn a_job_that_fails_leaves_nothing_unwritten() {
    let place = tempfile::tempdir().unwrap();
    // Else an idle log would write an attestation, and what stands before it.
    let log = WalOptions { attest_after: None, ..WalOptions::default() };
    let engine = Engine::open(place.path(), EngineOptions { log, ..Default::default() }).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    events.append_batch(&["good", "good", "bad"]).unwrap();
    let built = Job::build(name!("fails"), |job| {
        let rows = job.source(name!("in"), Received::from(&events));
        let rows = rows.map(|row| assert_ne!(row, b"bad"));
        rows.for_each_batch(name!("nothing"), |_| Ok(()));
    });
    let options = RunOptions { trigger: Trigger::Records(1), ..RunOptions::default() };
    let run = engine.start(built.unwrap().0, options).unwrap();
    assert_eq!(run.await_termination().unwrap_err().kind(), ErrorKind::TaskFailed);
    for _ in 0..60_000 {
        if engine.log().durable_lsn() == engine.log().appended_lsn() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the last completion waits in memory");
}
