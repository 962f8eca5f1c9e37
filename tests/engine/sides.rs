//! E8: what batches may have from outside: side inputs, each in the version that the plan names,
//! random numbers that a batch has again, and nothing else. The crash gate of all of it is in
//! `engine_crash`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::engine_common::{World, options};
use sawmill::testing::{Harness, Hooks, NoHooks, Step, Stepped};
use sawmill::{
    BatchId, Engine, ErrorKind, Ingest, Job, Received, Result, RunOptions, SideInput, Value, name,
};

/// Of each batch what it read, once for each time that it was published.
type Seen = Arc<Mutex<BTreeMap<u64, Vec<String>>>>;

fn see(seen: &Seen, batch: BatchId, text: String) {
    seen.lock().unwrap().entry(batch.get()).or_default().push(text);
}

/// A job that shows each record with the side input beside it.
fn priced<T: Value + std::fmt::Debug>(events: &Ingest, side: &SideInput<T>, seen: &Seen) -> Job {
    let seen = Arc::clone(seen);
    let (job, ()) = Job::build(name!("priced"), |job| {
        let side = job.side_input(side);
        let records = job.source(name!("in"), Received::from(events));
        let priced = records.map_partitions::<String>(move |rows, out| {
            let price = side.of(rows.run())?;
            rows.for_each(|row| out.push(format!("{} {price:?}", String::from_utf8_lossy(row))))
        });
        priced.for_each_batch(name!("seen"), move |batch| {
            let rows: Vec<String> = batch.rows().cloned().collect();
            see(&seen, batch.id(), rows.join(", "));
            Ok(())
        });
    })
    .unwrap();
    job
}

/// Checkpoints only where recovery takes one.
fn rarely() -> RunOptions {
    RunOptions { checkpoint_interval: Duration::from_secs(3600), ..options() }
}

/// Sets the side input when a batch has been planned and computed, and ends the driver there.
#[derive(Debug)]
struct SetAndCrash(SideInput<u64>, BatchId);

impl Hooks for SetAndCrash {
    fn at(&mut self, step: Step, batch: BatchId) -> Result<()> {
        if step == Step::Computed && batch == self.1 {
            self.0.set(&2)?;
            return Err(sawmill::Error::new(ErrorKind::Closed, "a crash"));
        }
        Ok(())
    }
}

#[derive(Debug)]
struct CrashWhenRecovered;

impl Hooks for CrashWhenRecovered {
    fn at(&mut self, step: Step, _: BatchId) -> Result<()> {
        let crash = sawmill::Error::new(ErrorKind::Closed, "a crash");
        if step == Step::Recovered { Err(crash) } else { Ok(()) }
    }
}

fn parts(world: &World) -> (Engine, Ingest, SideInput<u64>) {
    let engine = world.engine().unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    let side = engine.side_input::<u64>(name!("price"));
    (engine, events, side)
}

/// A batch is planned with version 1; version 2 comes; the process dies; recovery takes a
/// checkpoint, behind which the log is not read any more; the process dies again. The batch still
/// reads version 1, and the next one version 2.
fn planned_then_overtaken() -> Result<BTreeMap<u64, Vec<String>>> {
    let (world, seen) = (World::new(1), Seen::default());
    let (engine, events, side) = parts(&world);
    let hooks = SetAndCrash(side.clone(), BatchId::new(2));
    let job = priced(&events, &side, &seen);
    let mut harness = Harness::new(&engine, job, rarely(), Box::new(hooks))?;
    side.set(&1)?;
    for record in ["a", "b"] {
        events.append(record.as_bytes())?;
        let _ends = harness.step();
    }
    drop((harness, events, side, engine));

    let world = world.with_disk(world.disk.kill());
    let (engine, events, side) = parts(&world);
    let job = priced(&events, &side, &seen);
    let crash = Harness::new(&engine, job, rarely(), Box::new(CrashWhenRecovered));
    assert!(crash.is_err());
    drop((events, side, engine));

    let world = world.with_disk(world.disk.kill());
    let (engine, events, side) = parts(&world);
    let job = priced(&events, &side, &seen);
    let mut harness = Harness::new(&engine, job, rarely(), Box::new(NoHooks))?;
    assert_eq!(harness.progress().checkpoint, BatchId::new(1), "recovery took it");
    assert_eq!(harness.step()?, Stepped::Batch(BatchId::new(2)));
    events.append(b"c")?;
    assert_eq!(harness.step()?, Stepped::Batch(BatchId::new(3)));
    Ok(seen.lock().unwrap().clone())
}

#[test]
fn a_planned_version_outlives_newer_ones_checkpoints_and_two_crashes() {
    let seen = planned_then_overtaken().unwrap();
    let expected = [(1, "a Some(1)"), (2, "b Some(1)"), (3, "c Some(2)")];
    assert_eq!(seen, expected.map(|(batch, rows)| (batch, vec![rows.to_owned()])).into());
}

#[cfg(feature = "planted")]
mod planted {
    use sawmill::planted::{Bug, with_planted};

    use super::*;

    /// Nobody else would notice: a checkpoint without the version that an unfinished plan names.
    #[test]
    fn side_input_unkept_is_caught() {
        let error = with_planted(Bug::SideInputUnkept, planned_then_overtaken).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("`price`") && error.lsns().is_some(), "{error}");
    }

    #[test]
    fn side_input_latest_is_caught() {
        let seen = with_planted(Bug::SideInputLatest, planned_then_overtaken).unwrap();
        assert_eq!(seen[&2], ["b Some(2)"]);
    }
}

#[test]
fn without_a_value_there_is_none_and_a_new_value_makes_no_batch() {
    let (world, seen) = (World::new(1), Seen::default());
    let (engine, events, side) = parts(&world);
    let job = priced(&events, &side, &seen);
    let mut harness = Harness::new(&engine, job, rarely(), Box::new(NoHooks)).unwrap();
    events.append(b"a").unwrap();
    harness.step().unwrap();
    let version = side.set(&5).unwrap();
    assert!(engine.log().durable_lsn() >= version);
    assert_eq!(harness.step().unwrap(), Stepped::Idle);
    // Of many versions that no batch read the newest one stays.
    (6..20).for_each(|value| assert!(side.set(&value).unwrap() > version));
    events.append(b"b").unwrap();
    harness.step().unwrap();
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen[&1], ["a None"]);
    assert_eq!(seen[&2], ["b Some(19)"]);
}

#[test]
fn what_is_wrong_with_a_side_input_is_a_typed_error() {
    let (world, seen) = (World::new(1), Seen::default());
    let (engine, events, side) = parts(&world);
    let text = engine.side_input::<String>(name!("price"));
    let error = text.set(&"x".repeat(1 << 20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    side.set(&300).unwrap();
    events.append(b"a").unwrap();

    // Another type than the one it was set with.
    let start = |job| Harness::new(&engine, job, rarely(), Box::new(NoHooks)).unwrap().step();
    let error = start(priced(&events, &text, &seen)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::JobMismatch, "{error}");
    assert!(error.to_string().contains("`price`"), "{error}");

    // The batch is planned by now, and the job with it: one without the side input is another.
    let (without, ()) = Job::build(name!("priced"), |job| {
        let records = job.source(name!("in"), Received::from(&events));
        let side = side.clone();
        let priced = records.map_partitions::<String>(move |rows, out| {
            out.push(format!("{:?}", side.of(rows.run())?));
            Ok(())
        });
        priced.for_each_batch(name!("seen"), |_| Ok(()));
    })
    .unwrap();
    let mismatch = Harness::new(&engine, without, rarely(), Box::new(NoHooks)).unwrap_err();
    assert_eq!(mismatch.kind(), ErrorKind::JobMismatch);
    assert!(mismatch.to_string().contains("side input `price` is gone"), "{mismatch}");
    start(priced(&events, &side, &seen)).unwrap();
    assert_eq!(seen.lock().unwrap()[&1], ["a Some(300)"]);
}

#[test]
fn a_side_input_must_be_read_and_of_this_engine() {
    let (world, seen) = (World::new(1), Seen::default());
    let (engine, events, side) = parts(&world);
    let job = Job::build(name!("unread"), |job| {
        let side = side.clone();
        let records = job.source(name!("in"), Received::from(&events));
        let rows = records.map_partitions::<u64>(move |rows, _| side.of(rows.run()).map(|_| ()));
        rows.for_each_batch(name!("seen"), |_| Ok(()));
    });
    events.append(b"a").unwrap();
    let (job, ()) = job.unwrap();
    let mut harness = Harness::new(&engine, job, rarely(), Box::new(NoHooks)).unwrap();
    let error = harness.step().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("does not read side input `price`"), "{error}");
    drop(harness);

    let (_other_engine, _, foreign) = parts(&World::new(2));
    let job = priced(&events, &foreign, &seen);
    let error = Harness::new(&engine, job, rarely(), Box::new(NoHooks)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("another engine"), "{error}");

    let twice = Job::build(name!("twice"), |job| {
        let _side = job.side_input(&side);
        let records = job.source(name!("price"), Received::from(&events));
        records.for_each_batch(name!("seen"), |_| Ok(()));
    });
    assert_eq!(twice.unwrap_err().kind(), ErrorKind::Invalid);
}

/// The same random numbers after a crash, others in the next batch.
#[test]
fn a_batch_has_its_random_numbers_again() {
    let (world, seen) = (World::new(1), Seen::default());
    let job = |events: &Ingest| {
        let seen = Arc::clone(&seen);
        Job::build(name!("random"), |job| {
            let records = job.source(name!("in"), Received::from(events));
            let random = records.map_partitions::<u64>(|rows, out| {
                let mut random = rows.rng(name!("sample"));
                rows.for_each(|_| out.push(random.next_u64()))
            });
            random.for_each_batch(name!("seen"), move |batch| {
                let rows: Vec<u64> = batch.rows().copied().collect();
                see(&seen, batch.id(), format!("{rows:?}"));
                if batch.attempt() == 1 { Err("not yet".into()) } else { Ok(()) }
            });
        })
        .unwrap()
        .0
    };
    let once = RunOptions { sink_attempts: 1, ..rarely() };
    let (engine, events, side) = parts(&world);
    events.append(b"a").unwrap();
    let mut harness = Harness::new(&engine, job(&events), once.clone(), Box::new(NoHooks)).unwrap();
    assert_eq!(harness.step().unwrap_err().kind(), ErrorKind::SinkFailed);
    drop((harness, events, side, engine));

    let world = world.with_disk(world.disk.kill());
    let (engine, events, _side) = parts(&world);
    let mut harness = Harness::new(&engine, job(&events), once, Box::new(NoHooks)).unwrap();
    harness.step().unwrap();
    events.append(b"b").unwrap();
    assert_eq!(harness.step().unwrap_err().kind(), ErrorKind::SinkFailed);
    let seen = seen.lock().unwrap();
    assert_eq!(seen[&1].len(), 2);
    assert_eq!(seen[&1][0], seen[&1][1]);
    assert_ne!(seen[&1][0], seen[&2][0]);
}
