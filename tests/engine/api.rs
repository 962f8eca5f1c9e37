//! What an engine refuses, reports and survives, on the real disk and with real threads.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::engine_common::{World, check, life, options};
use sawmill::checkpoint::CheckpointStore;
use sawmill::sim::{CrashOutcome, FaultKind};
use sawmill::storage::Storage;
use sawmill::testing::{Harness, NoHooks, Stepped};
use sawmill::{
    Bytes, Engine, EngineOptions, ErrorKind, Ingest, Job, Received, Result, RunOptions, State,
    StateHandle, Stream, TextFiles, Trigger, WalOptions, name,
};

fn open(path: &Path) -> Result<Engine> {
    let lock_wait = Duration::ZERO;
    let log = WalOptions { segment_size: 1 << 20, lock_wait, ..WalOptions::default() };
    Engine::open(path, EngineOptions { log, threads: 2, ..EngineOptions::default() })
}

fn count(words: &Stream<Bytes>) -> StateHandle<Bytes, u64> {
    let counted = words.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
    let counts = counted.map_with_state::<u64, ()>(name!("counts"), |_, new, count| {
        *count = Some(count.unwrap_or(0) + new.sum::<u64>());
        None
    });
    counts.state
}

fn received(events: &Ingest) -> (Job, StateHandle<Bytes, u64>) {
    Job::build(name!("count"), |job| count(&job.source(name!("in"), Received::from(events))))
        .unwrap()
}

fn wait_for(what: impl Fn() -> bool) {
    while !what() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_job_is_built_whole_or_refused() {
    let kind = |built: Result<(Job, ())>| built.unwrap_err().kind();
    assert_eq!(kind(Job::build(name!("none"), |_| ())), ErrorKind::Invalid);
    let twice = Job::build(name!("twice"), |job| {
        let lines = job.source(name!("in"), TextFiles::new(["a"]));
        drop((count(&lines), count(&lines)));
    });
    assert!(twice.as_ref().unwrap_err().to_string().contains("`counts`"));
    let sources = Job::build(name!("sources"), |job| {
        count(&job.source(name!("in"), TextFiles::new(["a"])));
        job.source(name!("in"), TextFiles::new(["b"]));
    });
    assert!(sources.unwrap_err().to_string().contains("two sources named `in`"));
    let idle = Job::build(name!("idle"), |job| {
        job.source(name!("in"), TextFiles::new(["a"]));
    });
    assert_eq!(kind(idle), ErrorKind::Invalid);
}

#[test]
fn a_stopped_job_goes_on_where_it_was_and_one_runs_at_a_time() {
    let place = tempfile::tempdir().unwrap();
    for life in 1..=3_u64 {
        let engine = open(place.path()).unwrap();
        assert_eq!(open(place.path()).unwrap_err().kind(), ErrorKind::Locked);
        let events = engine.ingest(name!("events")).unwrap();
        let (job, counts) = received(&events);
        let run = engine.start(job, RunOptions::default()).unwrap();
        let refused = engine.start(received(&events).0, RunOptions::default()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert_eq!(counts.get(b"oak").unwrap_or(0), 10 * (life - 1), "recovered before the start");
        for _ in 0..10 {
            events.append(b"oak").unwrap();
        }
        wait_for(|| counts.get(b"oak") == Some(10 * life));
        if life == 2 {
            drop(run); // no checkpoint of its own: the log has it all
            drop((events, engine));
            continue;
        }
        let progress = run.stop().unwrap();
        assert_eq!(progress.checkpoint, progress.batch);
        assert_eq!(progress.recovered_batch.is_some(), life > 1);
        drop(events);
        engine.close().unwrap();
    }
}

/// RECOVERY-3: named, and nothing is touched.
#[test]
fn another_job_is_refused_and_named() {
    let place = tempfile::tempdir().unwrap();
    let engine = open(place.path()).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    events.append(b"oak").unwrap();
    let now = || RunOptions { trigger: Trigger::AvailableNow { bytes: 100 }, ..Default::default() };
    engine.start(received(&events).0, now()).unwrap().await_termination().unwrap();
    let other = |name, source: Ingest, state: fn(&Stream<Bytes>)| {
        let in_name = if name == name!("source") { name!("elsewhere") } else { name!("in") };
        let job_name = if name == name!("job") { name } else { name!("count") };
        Job::build(job_name, |job| state(&job.source(in_name, Received::from(&source)))).unwrap().0
    };
    let same: fn(&Stream<Bytes>) = |words| drop(count(words));
    let retyped: fn(&Stream<Bytes>) = |words| retype::<i64>(words);
    let sunk: fn(&Stream<Bytes>) = |words| {
        count(words);
        words.for_each_batch(name!("new_sink"), |_| Ok(()));
    };
    let stream = engine.ingest(name!("another")).unwrap();
    let cases = [
        (other(name!("job"), events.clone(), same), "`job`"),
        (other(name!("source"), events.clone(), same), "source `elsewhere` is new"),
        (other(name!("stream"), stream, same), "source `in` reads another input"),
        (other(name!("state"), events.clone(), retyped), "operator `counts`"),
        (other(name!("sink"), events.clone(), sunk), "sink `new_sink` is new"),
    ];
    let before = engine.log().appended_lsn();
    for (job, named) in cases {
        let error = engine.start(job, now()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::JobMismatch, "{error}");
        assert!(error.to_string().contains(named), "{error} names {named}");
    }
    assert_eq!(engine.log().appended_lsn(), before, "nothing was written");
    let (job, counts) = received(&events);
    engine.start(job, now()).unwrap().await_termination().unwrap();
    assert_eq!(counts.get(b"oak"), Some(1));
}

fn retype<S: State + Default>(words: &Stream<Bytes>) {
    let pairs = words.pair_with(|_| 1u64);
    drop(pairs.map_with_state::<S, ()>(name!("counts"), |_, _, state| {
        *state = Some(S::default());
        None
    }));
}

/// E20: a stable id, rising attempts that survive the process; `Err` ends the job.
#[test]
fn a_failing_callback_ends_the_job_and_is_called_again_with_the_same_batch() {
    let place = tempfile::tempdir().unwrap();
    let seen: Arc<Mutex<Vec<(u64, u32)>>> = Arc::default();
    for life in 1..=3 {
        let engine = open(place.path()).unwrap();
        let events = engine.ingest(name!("events")).unwrap();
        events.append(b"oak").unwrap();
        let calls = Arc::clone(&seen);
        let (job, ()) = Job::build(name!("calls"), |job| {
            let words = job.source(name!("in"), Received::from(&events));
            words.for_each_batch(name!("callback"), move |batch| {
                calls.lock().unwrap().push((batch.id().get(), batch.attempt()));
                assert_eq!(batch.rows().count(), if batch.id().get() == 1 { 1 } else { 2 });
                if life < 3 { Err("not today".into()) } else { Ok(()) }
            });
        })
        .unwrap();
        let trigger = Trigger::AvailableNow { bytes: 100 };
        let options = RunOptions { trigger, sink_attempts: 1, ..RunOptions::default() };
        let run = engine.start(job, options).unwrap();
        match run.await_termination() {
            Ok(progress) => assert_eq!((life, progress.batches), (3, 2)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::SinkFailed),
        }
    }
    assert_eq!(*seen.lock().unwrap(), [(1, 1), (1, 2), (1, 3), (2, 1)]);
}

/// E17: a checkpoint that fails raises the alarm, and the job goes on behind its predecessor.
#[test]
fn a_failed_checkpoint_is_an_alarm_and_not_the_end() {
    let world = World::new(5);
    let engine = world.engine().unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    let (job, _) = world.job(&events, &engine.side_input(name!("side"))).unwrap();
    let mut harness = Harness::new(&engine, job, options(), Box::new(NoHooks)).unwrap();
    harness.step().unwrap();
    world.clock.advance(Duration::from_millis(20));
    // The batch writes plan and sink, then the checkpoint: its file cannot be made.
    let before = world.disk.ops();
    let create = first_checkpoint_operation(&world);
    world.disk.fail_op(before + create, 5, FaultKind::NotExecuted);
    assert!(matches!(harness.step().unwrap(), Stepped::Batch(_)));
    let progress = harness.progress();
    assert!(progress.checkpoint_alarm.is_some(), "{progress:?}\n{}", world.disk.trace());
    assert_eq!(progress.checkpoint.get(), 0);
    world.clock.advance(Duration::from_millis(20));
    harness.step().unwrap();
    let progress = harness.progress();
    assert_eq!(progress.checkpoint_alarm, None);
    assert_eq!(progress.checkpoint, progress.batch);
    drop((harness, events, engine));
    let finished = life(&world, Box::new(NoHooks)).unwrap();
    check(&world, &finished).unwrap();
}

/// How many operations a second batch does before its checkpoint's file is made.
fn first_checkpoint_operation(like: &World) -> u64 {
    let world = World::new(like.disk.seed());
    let engine = world.engine().unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    let (job, _) = world.job(&events, &engine.side_input(name!("side"))).unwrap();
    let mut harness = Harness::new(&engine, job, options(), Box::new(NoHooks)).unwrap();
    harness.step().unwrap();
    world.clock.advance(Duration::from_millis(20));
    let before = world.disk.ops();
    harness.step().unwrap();
    let trace = world.disk.trace();
    let create = trace.lines().find(|line| line.contains("create") && line.contains(".ckpt"));
    let number = create.unwrap().trim_start_matches('#').split(' ').next().unwrap();
    number.parse::<u64>().unwrap() - before
}

/// Counts words; the checkpoint of one batch fails for want of space, the next one succeeds; then
/// the power goes. Gives what the next life has of `one`, touched in the first of the two, and of
/// `two`, touched in the second, and how many files it was loaded from.
fn after_a_failed_checkpoint() -> (Option<u64>, Option<u64>, usize) {
    let world = World::new(6);
    let start = |world: &World| {
        let engine = world.engine().unwrap();
        let events = engine.ingest(name!("events")).unwrap();
        let (job, counts) = Job::build(name!("words"), |job| {
            count(&job.source(name!("in"), Received::from(&events)))
        })
        .unwrap();
        let harness = Harness::new(&engine, job, options(), Box::new(NoHooks)).unwrap();
        (engine, events, harness, counts)
    };
    let (engine, events, mut harness, counts) = start(&world);
    let mut batch = |words: &[String]| {
        world.clock.advance(Duration::from_millis(20));
        for word in words {
            events.append(word.as_bytes()).unwrap();
        }
        while harness.step().unwrap() != Stepped::Idle {}
        harness.progress()
    };
    let many: Vec<String> = (0..60).map(|number| format!("word-{number}")).collect();
    let (one, two) = (["one".to_owned()], ["two".to_owned()]);
    for words in [&many[..], &one, &two, &one] {
        assert_eq!(batch(words).checkpoint_alarm, None);
    }
    world.disk.capacity(Some(0));
    let alarm = batch(&one).checkpoint_alarm;
    assert!(alarm.is_some(), "the checkpoint fails");
    world.disk.capacity(None);
    assert_eq!(batch(&two).checkpoint_alarm, None);
    drop((harness, events, engine, counts));
    let world = world.with_disk(world.disk.power_cycle(CrashOutcome::LoseAll));
    let home = world.disk.directory(Path::new("/data/checkpoints"), false).unwrap();
    let files = CheckpointStore::open(home, 2).unwrap().newest().unwrap().unwrap().files.len();
    let (_engine, _events, _harness, counts) = start(&world);
    (counts.get(b"one"), counts.get(b"two"), files)
}

/// E17: a delta has what has changed since the last checkpoint that stands, not since the last one
/// that was tried.
#[test]
fn what_a_failed_checkpoint_had_taken_is_in_the_next_delta() {
    let (one, two, files) = after_a_failed_checkpoint();
    assert!(files > 1, "the last checkpoint is a delta");
    assert_eq!((one, two), (Some(3), Some(2)));
}

#[cfg(feature = "planted")]
#[test]
fn planted_failed_cut_forgotten_is_caught() {
    use sawmill::planted::{Bug, with_planted};
    let (one, two, _) = with_planted(Bug::FailedCutForgotten, after_a_failed_checkpoint);
    assert_eq!((one, two), (Some(2), Some(2)), "the bug shows");
}

/// The disk is full when a checkpoint comes that is larger than the spare, and a reader has just
/// let go of the log. Gives the alarm.
fn a_checkpoint_on_a_full_disk() -> Option<String> {
    let world = World::new(6);
    let engine = world.engine().unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    let (job, counts) = received(&events);
    let options = RunOptions { trigger: Trigger::default(), ..options() };
    let mut harness = Harness::new(&engine, job, options, Box::new(NoHooks)).unwrap();
    let mut finish = || {
        world.clock.advance(Duration::from_millis(20));
        while harness.step().unwrap() != Stepped::Idle {}
        harness.progress()
    };
    let pin = engine.log().pin("reader", engine.log().first_lsn()).unwrap();
    for number in 0..40u32 {
        let words = (0..500).map(|word| format!("word-{}-{word}", number % 2));
        let words: Vec<Vec<u8>> = words.map(String::into_bytes).collect();
        events.append_batch(&words).unwrap();
        assert_eq!(finish().checkpoint_alarm, None);
    }
    let words = (0..4000).map(|word| format!("{word}-{}", "o".repeat(40)).into_bytes());
    let words: Vec<Vec<u8>> = words.collect();
    for words in words.chunks(500) {
        events.append_batch(words).unwrap();
    }
    let length = |path| world.disk.read_file(path).unwrap().len() as u64;
    let used = world.disk.files().iter().map(length).sum();
    world.disk.capacity(Some(used));
    drop(pin);
    let (first, progress) = (engine.log().first_lsn(), finish());
    if progress.checkpoint_alarm.is_none() {
        assert_eq!(progress.checkpoint, progress.batch);
        assert!(engine.log().first_lsn() > first, "the log made room");
    }
    assert_eq!(counts.len(), 5000);
    progress.checkpoint_alarm
}

/// E15: the log makes room for a checkpoint, as far as those that stand do not need it.
#[test]
fn a_full_disk_gives_up_the_log_that_no_checkpoint_needs() {
    assert_eq!(a_checkpoint_on_a_full_disk(), None);
}

#[cfg(feature = "planted")]
#[test]
fn planted_full_disk_keeps_log_is_caught() {
    use sawmill::planted::{Bug, with_planted};
    let alarm = with_planted(Bug::FullDiskKeepsLog, a_checkpoint_on_a_full_disk);
    assert!(alarm.is_some_and(|alarm| alarm.contains("space")), "the bug shows");
}

/// What a checkpoint costs is what has changed: of 200,000 keys with values of 100 bytes one in a
/// hundred is touched.
#[test]
fn a_delta_is_little_more_than_what_has_changed() {
    let place = tempfile::tempdir().unwrap();
    let run = |keys: &mut dyn Iterator<Item = u64>| {
        let engine = open(place.path()).unwrap();
        let events = engine.ingest(name!("events")).unwrap();
        let records: Vec<_> = keys.map(|key| key.to_le_bytes()).collect();
        for records in records.chunks(1000) {
            events.append_batch(records).unwrap();
        }
        let (job, _) = Job::build(name!("values"), |job| {
            let keys = job.source(name!("in"), Received::from(&events)).pair_with(|_| 1u64);
            let values = keys.map_with_state::<Vec<u8>, ()>(name!("values"), |_, new, value| {
                let more = new.sum::<u64>().to_le_bytes()[0];
                let last = value.as_ref().map_or(0, |value| value[0]);
                *value = Some(vec![last.wrapping_add(more); 100]);
                None
            });
            values.state
        })
        .unwrap();
        let trigger = Trigger::AvailableNow { bytes: 64 << 20 };
        let run = engine.start(job, RunOptions { trigger, ..RunOptions::default() }).unwrap();
        run.await_termination().unwrap();
        engine.close().unwrap();
        let report = Engine::inspect(place.path(), true).unwrap();
        assert!(report.is_sound());
        report.checkpoints.into_iter().next_back().unwrap()
    };
    let base = run(&mut (0..200_000));
    assert_eq!((base.parent, base.operators[0].keys), (None, Some(200_000)));
    let other = run(&mut (0..1));
    assert_eq!(other.parent, None, "two that share no file come first");
    let delta = run(&mut (0..200_000).step_by(100));
    assert_eq!((delta.parent, delta.operators[0].keys), (Some(other.number), Some(200_000)));
    let changed = 2_000 * (8 + 100);
    println!("{} bytes of delta for {changed} that changed, base {}", delta.bytes, base.bytes);
    assert!(delta.bytes * 10 <= changed * 11, "{} bytes", delta.bytes);
}

#[test]
fn a_file_that_changed_under_a_stopped_job_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("input.txt");
    std::fs::write(&file, "oak ash\nelm\n").unwrap();
    let start = || {
        let engine = open(&place.path().join("data")).unwrap();
        let (job, counts) = Job::build(name!("files"), |job| {
            count(&job.source(name!("in"), TextFiles::new([&file])))
        })
        .unwrap();
        let run = engine.start(job, RunOptions::default());
        let ended = run.and_then(sawmill::StreamRun::await_termination);
        ended.map(|progress| (progress, counts.len()))
    };
    let (progress, words) = start().unwrap();
    assert_eq!((progress.bytes_read, words), (12, 2));
    let (progress, words) = start().unwrap();
    assert_eq!((progress.bytes_read, progress.batches, words), (0, 0, 2));
    std::fs::write(&file, "oak ash\nfir\n").unwrap();
    let error = start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged);
    assert_eq!(error.path(), Some(file.as_path()));
}

/// Who appends without end does not keep an available-now job from ending.
#[test]
fn available_now_ends_at_what_was_there() {
    let place = tempfile::tempdir().unwrap();
    let engine = open(place.path()).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    for _ in 0..5 {
        events.append(b"oak").unwrap();
    }
    let more = events.clone();
    let (job, counts) = Job::build(name!("endless"), |job| {
        let words = job.source(name!("in"), Received::from(&events));
        words.for_each_batch(name!("more"), move |_| Ok(more.append(b"ash").map(drop)?));
        count(&words)
    })
    .unwrap();
    let trigger = Trigger::AvailableNow { bytes: 1 };
    let run = engine.start(job, RunOptions { trigger, ..RunOptions::default() }).unwrap();
    let progress = run.await_termination().unwrap();
    assert_eq!(counts.get(b"oak"), Some(5));
    // The records before the job's own first one, and at most one batch over that.
    assert!(progress.batches <= 6, "{progress:?}");
}

/// E9: strictly increasing, also when the wall clock stands still or a restart finds it behind.
#[test]
fn batch_time_rises_whatever_the_clock_does() {
    let mut world = World::new(6);
    let times: Arc<Mutex<Vec<_>>> = Arc::default();
    for life in 1..=2_u64 {
        let engine = world.engine().unwrap();
        let events = engine.ingest(name!("events")).unwrap();
        let seen = Arc::clone(&times);
        let (job, ()) = Job::build(name!("times"), |job| {
            let words = job.source(name!("in"), Received::from(&events));
            words.for_each_batch(name!("times"), move |batch| {
                seen.lock().unwrap().push(batch.batch_time());
                Ok(())
            });
        })
        .unwrap();
        let mut harness = Harness::new(&engine, job, options(), Box::new(NoHooks)).unwrap();
        for _ in 0..3 {
            events.append(b"oak").unwrap();
            harness.step().unwrap();
        }
        assert_eq!(times.lock().unwrap().len() as u64, 3 * life);
        drop((harness, events, engine));
        // The next life begins with a clock at zero.
        world = World { clock: Arc::default(), ..world };
    }
    assert!(times.lock().unwrap().windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
}
