//! Jobs that rest, are drained, stopped in time, given up; and what they tell meanwhile.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use sawmill::{
    Bytes, Engine, EngineOptions, ErrorKind, Event, EventListener, Ingest, Job, Received, Result,
    RunOptions, StateHandle, StreamRun, Trigger, name,
};

struct Place {
    engine: Engine,
    events: Ingest,
    _place: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = tempfile::tempdir().unwrap();
        let options = EngineOptions { threads: 1, ..EngineOptions::default() };
        let engine = Engine::open(place.path(), options).unwrap();
        let events = engine.ingest(name!("events")).unwrap();
        Place { engine, events, _place: place }
    }

    fn start(
        &self,
        options: RunOptions,
        each: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> (StreamRun, StateHandle<Bytes, u64>) {
        self.try_start(options, each).unwrap()
    }

    /// Counts words; `each` is called with every one of them while it is computed.
    fn try_start(
        &self,
        options: RunOptions,
        each: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> Result<(StreamRun, StateHandle<Bytes, u64>)> {
        let (job, counts) = Job::build(name!("count"), |job| {
            let words = job.source(name!("in"), Received::from(&self.events));
            let words = words.filter(move |word| {
                each(word);
                true
            });
            words.for_each_batch(name!("callback"), |_| Ok(()));
            let counted = words.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
            let counts = counted.map_with_state::<u64, ()>(name!("counts"), |_, new, count| {
                *count = Some(count.unwrap_or(0) + new.sum::<u64>());
                None
            });
            counts.state
        })
        .unwrap();
        Ok((self.engine.start(job, options)?, counts))
    }
}

fn wait_for(what: impl Fn() -> bool) {
    while !what() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_paused_job_begins_no_batch_until_it_is_resumed() {
    let place = Place::new();
    let (run, counts) = place.start(RunOptions::default(), |_| ());
    place.events.append(b"oak").unwrap();
    wait_for(|| counts.get(b"oak") == Some(1));
    run.pause();
    wait_for(|| run.progress().paused);
    place.events.append(b"oak").unwrap();
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(run.progress().batch.get(), 1);
    run.resume();
    wait_for(|| counts.get(b"oak") == Some(2));
    assert!(!run.progress().paused);
    run.pause();
    wait_for(|| run.progress().paused);
    place.events.append(b"oak").unwrap();
    // A paused job is drained and stopped like any other.
    assert_eq!(run.drain().unwrap().batch.get(), 3);
    assert_eq!(counts.get(b"oak"), Some(3));
}

#[test]
fn draining_waits_for_no_tick_and_takes_everything_that_is_there() {
    let place = Place::new();
    let trigger = Trigger::Interval(Duration::from_secs(3600));
    let options = RunOptions { trigger, batch_bytes: 200, ..RunOptions::default() };
    let (run, counts) = place.start(options, |_| ());
    place.events.append(b"oak").unwrap();
    wait_for(|| counts.get(b"oak").is_some() || run.progress().batch.get() == 0);
    for _ in 0..100 {
        place.events.append(b"ash").unwrap();
    }
    let progress = run.drain().unwrap();
    assert_eq!((counts.get(b"oak"), counts.get(b"ash")), (Some(1), Some(100)));
    assert!(progress.batches >= 10, "bounded batches: {}", progress.batches);
    assert_eq!(progress.checkpoint, progress.batch);
}

/// A gate that user code waits at.
#[derive(Default)]
struct Gate(Mutex<(bool, u32)>, Condvar);

impl Gate {
    fn enter(&self) {
        let mut gate = self.0.lock().unwrap();
        gate.1 += 1;
        while !gate.0 {
            gate = self.1.wait(gate).unwrap();
        }
    }

    fn open(&self) {
        self.0.lock().unwrap().0 = true;
        self.1.notify_all();
    }

    fn entered(&self) -> u32 {
        self.0.lock().unwrap().1
    }
}

#[test]
fn a_job_that_does_not_end_in_time_is_given_up_and_goes_on_with_the_same_batch() {
    let place = Place::new();
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let (run, _) = place.start(RunOptions::default(), move |_| held.enter());
    place.events.append(b"oak").unwrap();
    wait_for(|| gate.entered() == 1);
    let error = run.stop_within(Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    // User code has not returned: the job's place is taken until it has.
    let refused = place.try_start(RunOptions::default(), |_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    gate.open();
    let mut started = None;
    while started.is_none() {
        started = place.try_start(RunOptions::default(), |_| ()).ok();
        std::thread::sleep(Duration::from_millis(1));
    }
    let (run, counts) = started.unwrap();
    wait_for(|| counts.get(b"oak") == Some(1));
    assert_eq!(run.stop_within(Duration::from_secs(60)).unwrap().batch.get(), 1);
}

#[test]
fn an_aborted_job_loses_nothing() {
    let place = Place::new();
    let slow = |_: &[u8]| std::thread::sleep(Duration::from_micros(200));
    for word in 0..2000 {
        place.events.append(format!("w{}", word % 7).as_bytes()).unwrap();
    }
    for life in 0..4 {
        let options = RunOptions { trigger: Trigger::Records(300), ..RunOptions::default() };
        let (run, _) = place.start(options, slow);
        std::thread::sleep(Duration::from_millis(20 * life));
        run.abort().unwrap();
    }
    let (run, counts) = place.start(RunOptions::default(), |_| ());
    run.drain().unwrap();
    let mut sum = 0;
    counts.for_each(|_, count| sum += count).unwrap();
    assert_eq!(sum, 2000);
}

#[test]
fn a_batch_tells_its_life_in_order() {
    let place = Place::new();
    let told: Arc<Mutex<Vec<Event>>> = Arc::default();
    let listener: EventListener = {
        let told = Arc::clone(&told);
        Arc::new(move |event: &Event| told.lock().unwrap().push(event.clone()))
    };
    let options = RunOptions { on_event: Some(listener), ..RunOptions::default() };
    place.events.append_batch(&["oak", "ash", "oak"]).unwrap();
    let (run, counts) = place.start(options, |_| ());
    wait_for(|| counts.len() == 2);
    run.stop().unwrap();
    let told = told.lock().unwrap();
    let texts: Vec<String> = told.iter().map(|event| format!("{event}")).collect();
    let [planned, started, published, completed] = texts.as_slice() else { panic!("{texts:?}") };
    assert_eq!(planned, "batch 1 planned: 9 bytes");
    assert_eq!(started, "batch 1 started, attempt 1");
    assert!(published.starts_with("batch 1 published by `callback` in"), "{published}");
    assert!(completed.starts_with("batch 1 completed: 3 records in"), "{completed}");
    let Event::BatchCompleted(report) = &told[3] else { panic!("{:?}", told[3]) };
    assert_eq!((report.bytes, report.records, report.state_rows), (9, 3, 2));
    assert!(report.computing + report.publishing <= report.processing_time);
}

/// E11: user code never breaks the engine.
#[test]
fn a_panic_in_the_event_listener_ends_the_job_only() {
    let place = Place::new();
    let listener: EventListener = Arc::new(|_: &Event| panic!("planted in a test"));
    let options = RunOptions { on_event: Some(listener), ..RunOptions::default() };
    let (run, _) = place.start(options, |_| ());
    place.events.append(b"oak").unwrap();
    assert_eq!(run.await_termination().unwrap_err().kind(), ErrorKind::TaskFailed);
    let (run, counts) = place.start(RunOptions::default(), |_| ());
    run.drain().unwrap();
    assert_eq!(counts.get(b"oak"), Some(1));
}
