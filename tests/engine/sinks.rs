//! Sinks that fail, and callbacks that do what they should not: a batch is published under one id,
//! as often as it takes, and nobody waits for ever.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::engine_common::*;
use sawmill::sim::{CrashOutcome, FaultKind};
use sawmill::testing::{Harness, NoHooks, Stepped};
use sawmill::{
    Engine, EngineOptions, ErrorKind, Ingest, Job, Listener, OutputFiles, Progress, Received,
    Result, RunOptions, StreamRun, name,
};

type Calls = Arc<Mutex<Vec<(u64, u32)>>>;

/// A job whose callback notes batch and attempt, then does what it is told for that attempt.
fn callback(
    events: &Ingest,
    calls: &Calls,
    fails: impl Fn(u32) -> bool + Send + Sync + 'static,
) -> Job {
    let calls = Arc::clone(calls);
    let (job, ()) = Job::build(name!("calls"), |job| {
        let words = job.source(name!("in"), Received::from(events));
        words.for_each_batch(name!("callback"), move |batch| {
            calls.lock().unwrap().push((batch.id().get(), batch.attempt()));
            if fails(batch.attempt()) { Err("not today".into()) } else { Ok(()) }
        });
    })
    .unwrap();
    job
}

/// One life of that job with one record; how its only step ended.
fn one_step(
    world: &World,
    calls: &Calls,
    sink_attempts: u32,
    fails: impl Fn(u32) -> bool + Send + Sync + 'static,
) -> Result<Stepped> {
    let engine = world.engine()?;
    let events = engine.ingest(name!("events"))?;
    events.append(b"oak")?;
    let options = RunOptions { sink_attempts, ..options() };
    Harness::new(&engine, callback(&events, calls, fails), options, Box::new(NoHooks))?.step()
}

/// E1 step 5, E20: retried in the process, the same id, the attempt grows.
#[test]
fn a_callback_that_fails_twice_is_called_a_third_time() {
    let (world, calls) = (World::new(1), Calls::default());
    let stepped = one_step(&world, &calls, 5, |attempt| attempt < 3).unwrap();
    assert!(matches!(stepped, Stepped::Batch(_)));
    assert_eq!(*calls.lock().unwrap(), [(1, 1), (1, 2), (1, 3)]);
}

#[test]
fn attempts_are_bounded_and_the_next_start_goes_on_counting() {
    let (world, calls) = (World::new(1), Calls::default());
    for _ in 0..2 {
        let error = one_step(&world, &calls, 2, |_| true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SinkFailed);
        let text = error.to_string();
        assert!(text.contains("`callback`") && text.contains("not today"), "{text}");
    }
    one_step(&world, &calls, 2, |_| false).unwrap();
    let expected: Vec<(u64, u32)> = (1..=5).map(|attempt| (1, attempt)).collect();
    assert_eq!(*calls.lock().unwrap(), expected);
}

/// PUBLISH-1: an attempt that was seen outside is never given a second time, whenever the power
/// goes.
#[test]
fn a_repeated_attempt_is_durable_before_the_sink_sees_it() {
    for last in 1..=4 {
        let (world, calls) = (World::new(1), Calls::default());
        let disk = world.disk.clone();
        let ended = one_step(&world, &calls, 9, move |attempt| {
            if attempt == last {
                disk.power_off();
            }
            true
        });
        assert!(ended.is_err());
        let world = world.with_disk(world.disk.power_cycle(CrashOutcome::LoseAll));
        one_step(&world, &calls, 1, |_| false).unwrap();
        let expected: Vec<(u64, u32)> = (1..=last + 1).map(|attempt| (1, attempt)).collect();
        assert_eq!(*calls.lock().unwrap(), expected);
    }
}

/// Each operation of the file sink fails once, in each way: the batch is published in the same
/// life, and what is written is what an undisturbed life writes.
#[test]
fn a_file_sink_that_fails_once_is_published_again() {
    let undisturbed = World::new(1);
    life(&undisturbed, Box::new(NoHooks)).unwrap();
    let trace = undisturbed.disk.trace();
    let number = |line: &str| line.trim_start_matches('#').split(' ').next()?.parse::<u64>().ok();
    let of_sink = trace.lines().filter(|line| line.contains("part-"));
    let operations: Vec<u64> = of_sink.filter_map(number).collect();
    assert!(operations.len() > 20, "{trace}");
    let mut retried = 0;
    for &operation in &operations {
        for kind in [FaultKind::NotExecuted, FaultKind::ExecutedButReported, FaultKind::Short(3)] {
            let world = World::new(1);
            world.disk.fail_op(operation, 5, kind);
            let finished = life(&world, Box::new(NoHooks));
            let finished = finished.unwrap_or_else(|e| {
                panic!("operation {operation} {kind:?}: {e}\n{}", world.disk.trace())
            });
            check(&world, &finished).unwrap();
            // What a failed sync forgot, the next attempt has written again.
            world.disk.power_off();
            let after = world.disk.power_cycle(CrashOutcome::LoseAll);
            assert_eq!(output(&after), finished.output, "operation {operation} {kind:?}");
            let outside = world.outside.lock().unwrap();
            // The callback comes behind the file sink: its first attempt is the batch's second.
            retried += outside.batches.values().filter(|(all, _)| *all == [2]).count();
        }
    }
    println!("{} operations, {retried} batches published again", operations.len());
    assert!(retried >= operations.len(), "{retried} of {}", operations.len());
}

fn real(place: &std::path::Path) -> (Engine, Ingest) {
    let engine = Engine::open(place, EngineOptions { threads: 1, ..Default::default() }).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    (engine, events)
}

fn wait_for(what: impl Fn() -> bool) {
    while !what() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Between two attempts the pause is up to 5 s, and there are up to 1000 of them.
#[test]
fn stopping_does_not_wait_for_a_sink_that_fails_on_and_on() {
    let place = tempfile::tempdir().unwrap();
    let (engine, events) = real(place.path());
    let calls = Calls::default();
    let job = callback(&events, &calls, |_| true);
    let options = RunOptions { sink_attempts: 1000, ..RunOptions::default() };
    let run = engine.start(job, options).unwrap();
    events.append(b"oak").unwrap();
    wait_for(|| calls.lock().unwrap().len() >= 2);
    assert!(run.progress().sink_alarm.unwrap().contains("not today"));
    let error = run.stop().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SinkFailed);
    assert!(calls.lock().unwrap().len() < 20);
}

/// E11: it is user code. The job ends, the engine does not.
#[test]
fn a_panic_in_the_progress_function_ends_the_job_only() {
    let place = tempfile::tempdir().unwrap();
    let (engine, events) = real(place.path());
    events.append(b"oak").unwrap();
    let calls = Calls::default();
    let listener =
        Some(Arc::new(|seen: &Progress| assert_eq!(seen.batches, 0, "planted in a test"))
            as Listener);
    let options = RunOptions { on_progress: listener, ..RunOptions::default() };
    let run = engine.start(callback(&events, &calls, |_| false), options).unwrap();
    assert_eq!(run.await_termination().unwrap_err().kind(), ErrorKind::TaskFailed);
    let job = callback(&events, &calls, |_| false);
    let run = engine.start(job, RunOptions::default()).unwrap();
    events.append(b"ash").unwrap();
    wait_for(|| run.progress().batch.get() == 2);
    run.stop().unwrap();
    assert_eq!(*calls.lock().unwrap(), [(1, 1), (2, 1)]);
}

/// It would wait for itself.
#[test]
fn a_job_that_is_stopped_from_its_own_callback_says_so() {
    let place = tempfile::tempdir().unwrap();
    let (engine, events) = real(place.path());
    let run: Arc<Mutex<Option<StreamRun>>> = Arc::default();
    let answer: Arc<Mutex<Option<ErrorKind>>> = Arc::default();
    let (held, told) = (Arc::clone(&run), Arc::clone(&answer));
    let listener = move |_: &_| {
        let run = held.lock().unwrap().take();
        if let Some(run) = run {
            let kind = run.stop().unwrap_err().kind();
            *told.lock().unwrap() = Some(kind);
        }
    };
    let options = RunOptions { on_progress: Some(Arc::new(listener)), ..RunOptions::default() };
    let job = callback(&events, &Calls::default(), |_| false);
    *run.lock().unwrap() = Some(engine.start(job, options).unwrap());
    events.append(b"oak").unwrap();
    wait_for(|| answer.lock().unwrap().is_some());
    assert_eq!(*answer.lock().unwrap(), Some(ErrorKind::Invalid));
    // It was asked to end all the same, and then another one may run.
    let job = || callback(&events, &Calls::default(), |_| false);
    wait_for(|| engine.start(job(), RunOptions::default()).is_ok());
}

/// A file that is longer than a roll size chosen later is finished where it is.
#[test]
fn a_smaller_roll_size_than_before_takes_effect_at_the_next_line() {
    let world = World::new(1);
    for (life, roll_bytes) in [(1, 1000), (2, 10), (3, 1000)] {
        let engine = world.engine().unwrap();
        let events = engine.ingest(name!("events")).unwrap();
        let (job, ()) = Job::build(name!("lines"), |job| {
            let words = job.source(name!("in"), Received::from(&events));
            let output = OutputFiles::new("/out").with_roll_bytes(roll_bytes);
            words.write_json_lines(name!("lines"), output);
        })
        .unwrap();
        let mut harness = Harness::new(&engine, job, options(), Box::new(NoHooks)).unwrap();
        for word in 0..5 {
            events.append(format!("word {life}{word}").as_bytes()).unwrap();
            assert!(matches!(harness.step().unwrap(), Stepped::Batch(_)));
        }
    }
    let word = |life, word| format!("\"word {life}{word}\"\n");
    let all: String = (1..=3).flat_map(|life| (0..5).map(move |w| word(life, w))).collect();
    assert_eq!(output(&world.disk), all);
    let parts = world.disk.files().into_iter().filter(|path| path.starts_with("/out")).count();
    assert_eq!(
        parts, 8,
        "`_sink`, `_manifest`, the first life's with a line more, 4 of one, the last life's"
    );
}
