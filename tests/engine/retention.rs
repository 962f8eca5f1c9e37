//! E3: what the log keeps. Ingest runs ahead of processing by more than ten times, checkpoints
//! truncate the log behind what is processed, the process is killed or the power goes: every
//! acknowledged record is counted once.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

use std::time::Duration;

use super::engine_common::*;
use sawmill::sim::CrashOutcome;
use sawmill::testing::{Harness, NoHooks};
use sawmill::{Ingest, Job, Received, Result, name};

const AHEAD: u64 = 600;
const BATCHES: u64 = 50;

/// Appends everything first, then processes a few batches, with a checkpoint after every batch;
/// returns the log's first LSN and that of the first record that was not processed.
fn process_a_few(world: &World) -> Result<(u64, u64)> {
    let engine = world.engine()?;
    let events = engine.ingest(name!("events"))?;
    let mut lsns = Vec::new();
    for record in 1..=AHEAD {
        world.outside.lock().unwrap().tried = record;
        lsns.push(events.append(format!("r{record} oak").as_bytes())?);
        world.outside.lock().unwrap().acknowledged.insert(record);
    }
    let (job, _) = world.job(&events, &engine.side_input(name!("side")))?;
    let mut harness = Harness::new(&engine, job, options(), Box::new(NoHooks))?;
    for _ in 0..BATCHES {
        harness.step()?;
        world.clock.advance(Duration::from_millis(11));
    }
    let outside = world.outside.lock().unwrap().clone();
    let rows = outside.batches.values().flat_map(|(_, rows)| rows);
    let done = rows.filter(|(word, _)| word.starts_with('r')).count();
    assert!(
        done > 0 && done as u64 * 10 < AHEAD,
        "ingest is far ahead: {done} of {AHEAD} are processed"
    );
    Ok((engine.log().first_lsn().get(), lsns[done].get()))
}

fn ahead_truncated_killed() -> Result<(), String> {
    let world = World::new(3);
    let (first, unread) = process_a_few(&world).map_err(|error| error.to_string())?;
    let killed = world.with_disk(world.disk.kill());
    world.disk.power_off();
    if first <= 1 {
        return Err("nothing was truncated".to_owned());
    }
    if first > unread {
        return Err(format!("the log begins at {first}, record {unread} is not processed"));
    }
    let finished = life(&killed, Box::new(NoHooks)).map_err(|error| error.to_string())?;
    check(&killed, &finished)?;
    for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(1)] {
        let found = world.with_disk(world.disk.power_cycle(outcome));
        let finished = life(&found, Box::new(NoHooks)).map_err(|error| error.to_string())?;
        check(&found, &finished)?;
    }
    Ok(())
}

#[test]
fn ingest_ahead_of_processing_loses_nothing_to_truncation() {
    ahead_truncated_killed().unwrap();
}

/// A stream that no source reads is kept whole: somebody may read it later.
#[test]
fn a_stream_that_nobody_reads_pins_the_log() {
    let world = World::new(4);
    let engine = world.engine().unwrap();
    let unread = engine.ingest(name!("unread")).unwrap();
    let lsn = unread.append(b"kept").unwrap();
    engine.close().unwrap();
    process_a_few(&world).unwrap();
    let engine = world.engine().unwrap();
    assert!(engine.log().first_lsn() <= lsn);
    let mut replay = engine.log().replay().unwrap();
    assert_eq!(replay.next().unwrap().unwrap().payload, b"kept");
    // The name means the same stream, and another name another one.
    assert_eq!(engine.ingest(name!("unread")).unwrap().stream(), unread.stream());
    assert_ne!(engine.ingest(name!("other")).unwrap().stream(), unread.stream());
}

#[cfg(feature = "planted")]
#[test]
fn a_floor_from_the_logs_end_is_caught() {
    use sawmill::planted::{Bug, with_planted};
    let story = with_planted(Bug::FloorFromLogEnd, ahead_truncated_killed).unwrap_err();
    println!("caught: {story}");
}

/// A source that waits for records which are rare does not keep those of the others.
#[test]
fn a_quiet_stream_does_not_pin_what_it_has_no_records_in() {
    let world = World::new(5);
    let engine = world.engine().unwrap();
    let (busy, quiet) = (engine.ingest(name!("busy")).unwrap(), name!("quiet"));
    let job = |busy: &Ingest, quiet: &Ingest| {
        Job::build(name!("both"), |job| {
            let busy = job.source(name!("busy"), Received::from(busy));
            let quiet = job.source(name!("quiet"), Received::from(quiet));
            let pairs = busy.union(&quiet).map_to_pair(|record| (record[0], 1u64));
            let counts = pairs.map_with_state::<u64, ()>(name!("counts"), |_, new, count| {
                *count = Some(count.unwrap_or(0) + new.sum::<u64>());
                None
            });
            counts.state
        })
        .unwrap()
    };
    let mut rare = engine.ingest(quiet).unwrap();
    let (mut engine, mut busy) = (engine, busy);
    // First without any record of the quiet stream, then with one in each life.
    for life in 0..3_u64 {
        let (job, counts) = job(&busy, &rare);
        let mut harness = Harness::new(&engine, job, options(), Box::new(NoHooks)).unwrap();
        let before = engine.log().first_lsn();
        assert_eq!(counts.get(b'q').unwrap_or(0), life.saturating_sub(1));
        if life > 0 {
            rare.append(b"q").unwrap();
        }
        for _ in 0..60 {
            busy.append(&[b'b'; 4000]).unwrap();
            harness.step().unwrap();
            world.clock.advance(Duration::from_millis(11));
        }
        assert_eq!(counts.get(b'b'), Some(60 * (life + 1)));
        assert_eq!(counts.get(b'q').unwrap_or(0), life);
        let first = engine.log().first_lsn();
        assert!(first > before, "life {life}: the log begins at {first}, as before");
        drop((harness, busy, rare, engine));
        engine = world.engine().unwrap();
        busy = engine.ingest(name!("busy")).unwrap();
        rare = engine.ingest(quiet).unwrap();
    }
}
