//! Handles in the wrong hands, and in the middle of things.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a thread that a deadlock would keep")]

use std::sync::mpsc::channel;
use std::time::Duration;

use sawmill::{
    Bytes, Engine, EngineOptions, ErrorKind, Ingest, Job, Received, RunOptions, StateHandle,
    Stream, name,
};

fn open(path: &std::path::Path) -> (Engine, Ingest) {
    let options = EngineOptions { threads: 1, ..EngineOptions::default() };
    let engine = Engine::open(path, options).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    (engine, events)
}

fn count(words: &Stream<Bytes>) -> StateHandle<Bytes, u64> {
    let pairs = words.pair_with(|_| 1u64);
    let counts = pairs.map_with_state::<u64, ()>(name!("counts"), |_, new, count| {
        *count = Some(count.unwrap_or(0) + new.sum::<u64>());
        None
    });
    counts.state
}

fn counting(events: &Ingest) -> (Job, StateHandle<Bytes, u64>) {
    Job::build(name!("count"), |job| count(&job.source(name!("in"), Received::from(events))))
        .unwrap()
}

/// Its positions would be of one log, and its plans and retention of another.
#[test]
fn a_job_that_reads_another_engines_stream_is_refused() {
    let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (engine, _events) = open(places[0].path());
    let (_other, foreign) = open(places[1].path());
    let before = engine.log().appended_lsn();
    let error = engine.start(counting(&foreign).0, RunOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("source `in`"), "{error}");
    assert_eq!(engine.log().appended_lsn(), before, "nothing was written");
}

/// Its inputs would be missing when the first batch runs.
#[test]
fn a_stream_of_another_job_is_refused_when_the_job_is_built() {
    let place = tempfile::tempdir().unwrap();
    let (_engine, events) = open(place.path());
    let (_, foreign) = Job::build(name!("one"), |job| {
        let words = job.source(name!("in"), Received::from(&events));
        words.for_each_batch(name!("nothing"), |_| Ok(()));
        words
    })
    .unwrap();
    let built = Job::build(name!("two"), |job| {
        let words = job.source(name!("other"), Received::from(&events));
        count(&words.union(&foreign))
    });
    assert_eq!(built.unwrap_err().kind(), ErrorKind::Invalid);
    // And what is added to a job after it was built would never run.
    let late = || foreign.for_each_batch(name!("late"), |_| Ok(()));
    let late = std::panic::catch_unwind(std::panic::AssertUnwindSafe(late));
    assert!(late.is_err(), "a sink that never gets anything is not accepted in silence");
}

/// A reader may ask for other keys while it walks over all of them, and take its time: the job
/// goes on meanwhile.
#[test]
fn walking_over_the_state_blocks_nobody() {
    let place = tempfile::tempdir().unwrap();
    let (engine, events) = open(place.path());
    let (job, counts) = counting(&events);
    let run = engine.start(job, RunOptions { parallelism: 1, ..RunOptions::default() }).unwrap();
    let wait_for = |records: u64| {
        while counts.get(b"oak") != Some(records) {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    events.append(b"oak").unwrap();
    wait_for(1);
    let (done, finished) = channel();
    let (walker, appender) = (counts.clone(), events.clone());
    let thread = std::thread::spawn(move || {
        walker
            .for_each(|key, count| {
                assert_eq!((key, *count), (b"oak".as_slice(), 1));
                appender.append(b"oak").unwrap();
                // The batch completes while we are in here.
                while walker.get(b"oak") != Some(2) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            })
            .unwrap();
        done.send(()).unwrap();
    });
    finished.recv_timeout(Duration::from_secs(20)).expect("the reader and the job wait in vain");
    thread.join().unwrap();
    wait_for(2);
    run.stop().unwrap();
}
