//! Jobs that are started again in the process that ran them before.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sawmill::{Bytes, Engine, EngineOptions, Ingest, Job, Received, RunOptions, StateHandle, name};

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
