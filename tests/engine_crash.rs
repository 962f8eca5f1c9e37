//! The crash gate of the engine: a job of two sources, state and two sinks is struck at every disk
//! operation and between every two steps of its batches; what it leaves in the end is what it
//! leaves when nobody strikes it.
//!
//! `SAWMILL_SIM=long` looks at more of what a crash may leave, and at many more pairs of crashes.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "engine_crash/deaths.rs"]
mod deaths;
mod engine_common;
#[path = "engine_crash/failing.rs"]
mod failing;
#[path = "engine_crash/faults.rs"]
mod faults;
#[path = "engine_crash/lost.rs"]
mod lost;
#[path = "engine_crash/parallelism.rs"]
mod parallelism;
#[path = "engine_crash/seeds.rs"]
mod seeds;

use std::path::Path;

use engine_common::*;
use sawmill::checkpoint::CheckpointStore;
use sawmill::sim::{CrashManner, CrashOutcome, Device};
use sawmill::storage::Storage;
use sawmill::testing::{NoHooks, Step};

const MANNERS: [CrashManner; 3] = [CrashManner::Before, CrashManner::Torn, CrashManner::After];

fn long() -> bool {
    std::env::var("SAWMILL_SIM").is_ok_and(|value| value == "long")
}

/// What the power takes of what was not durable.
fn outcomes() -> Vec<CrashOutcome> {
    let seeds = if long() { 1..=24 } else { 7..=7 };
    let all = [CrashOutcome::LoseAll, CrashOutcome::KeepAll].into_iter();
    all.chain(seeds.map(CrashOutcome::Seeded)).collect()
}

/// Lives on after a crash, to the end, and compares.
fn live_on(world: &World, story: &str) -> Result<(), String> {
    let finished = life(world, Box::new(NoHooks));
    let finished = finished.map_err(|e| format!("{story}: {e}\n{}", world.disk.trace()))?;
    check(world, &finished).map_err(|e| format!("{story}: {e}\n{}", world.disk.trace()))
}

fn undisturbed(device: Device) -> (World, u64, Finished) {
    let world = World::on(device, 1);
    let finished = life(&world, Box::new(NoHooks)).unwrap();
    check(&world, &finished).unwrap();
    let ops = world.disk.ops();
    (world, ops, finished)
}

/// Whether some of the last checkpoints of a life are deltas.
fn takes_deltas(world: &World) -> bool {
    let home = world.disk.directory(Path::new("/data/checkpoints"), false).unwrap();
    let store = CheckpointStore::open(home, 2).unwrap();
    store.kept().any(|meta| meta.parent != 0)
}

fn strike_in(world: World, op: u64, manner: CrashManner) -> World {
    world.disk.crash_at(op, manner);
    let ended = life(&world, Box::new(NoHooks));
    assert!(ended.is_err() || world.disk.is_off() || manner == CrashManner::After);
    world
}

fn crash_at_operations(device: Device, manner: CrashManner) -> Result<u64, String> {
    let (_, ops, _) = undisturbed(device);
    let mut states = 0;
    for op in 1..=ops {
        let struck = strike_in(World::on(device, 1), op, manner);
        for outcome in outcomes() {
            let world = struck.with_disk(struck.disk.power_cycle(outcome));
            live_on(&world, &format!("{device:?}, operation {op} {manner:?}, {outcome:?}"))?;
            states += 1;
        }
    }
    Ok(states)
}

fn crash_at_steps() -> Result<u64, String> {
    let mut states = 0;
    for step in Step::ALL {
        for number in 0..100 {
            let world = World::new(1);
            let hooks = Box::new(CrashAt(step, number));
            if life(&world, hooks).is_ok() {
                // No sink of this job has two phases: `crash_around_two_phase_sinks`.
                assert!(number > 0 || step == Step::SinkPrepared, "{step:?} is passed");
                break;
            }
            world.disk.power_off();
            for outcome in outcomes() {
                let world = world.with_disk(world.disk.power_cycle(outcome));
                live_on(&world, &format!("{step:?} number {number}, {outcome:?}"))?;
                states += 1;
            }
            // A kill leaves the page cache.
            let world = world.with_disk(world.disk.kill());
            live_on(&world, &format!("{step:?} number {number}, killed"))?;
            states += 1;
        }
    }
    Ok(states)
}

/// Rows R0 to R7b of `docs/execution.md`.
#[test]
fn crash_at_every_step() {
    let states = crash_at_steps().unwrap();
    println!("{states} states after crashes between steps");
    assert!(states > 200, "{states}");
}

/// Every row, and R7a and R8 at each of their operations, on a device that flushes; on one with FUA
/// within each, unless there is time for more.
#[test]
fn crash_at_every_operation() {
    let (world, ops, finished) = undisturbed(Device::Flush);
    assert!(finished.truncated, "the small job is long enough to truncate its log");
    assert!(takes_deltas(&world), "and takes deltas among its checkpoints");
    let states: u64 = std::thread::scope(|scope| {
        let on = |device| MANNERS.map(|manner| (device, manner));
        let mut ways = on(Device::Flush).to_vec();
        let fua = on(Device::Fua).into_iter();
        ways.extend(fua.filter(|(_, manner)| long() || *manner == CrashManner::Torn));
        let start = |(device, manner)| scope.spawn(move || crash_at_operations(device, manner));
        let threads: Vec<_> = ways.into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).sum()
    });
    println!("{states} states after crashes at {ops} operations");
    assert!(states >= ops * 9);
}

/// E1 step 5, E20: the callback fails once for every other batch, and is called again in the same
/// life, unless the power goes just then. Its attempts rise over all of that.
#[test]
fn crash_around_a_sink_that_is_tried_again() {
    let flaky = || World { flaky: true, ..World::new(1) };
    let undisturbed = flaky();
    let finished = life(&undisturbed, Box::new(NoHooks)).unwrap();
    check(&undisturbed, &finished).unwrap();
    let tries = |world: &World| {
        let outside = world.outside.lock().unwrap();
        outside.batches.values().filter(|(attempts, _)| *attempts == [1, 2]).count()
    };
    assert!(tries(&undisturbed) > 2);
    let mut states = 0;
    for op in 1..=undisturbed.disk.ops() {
        let struck = flaky();
        struck.disk.crash_at(op, CrashManner::Torn);
        assert!(life(&struck, Box::new(NoHooks)).is_err() || struck.disk.is_off());
        for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll] {
            let world = struck.with_disk(struck.disk.power_cycle(outcome));
            live_on(&world, &format!("flaky, operation {op}, {outcome:?}")).unwrap();
            states += 1;
        }
    }
    println!("{states} states around repeated attempts");
}

fn crash_beside_the_next_batch(sideless: bool) -> Result<u64, String> {
    let late = || World { late: true, sideless, ..World::new(1) };
    let undisturbed = late();
    let finished = life(&undisturbed, Box::new(NoHooks)).unwrap();
    check(&undisturbed, &finished)?;
    assert!(finished.truncated, "late checkpoints truncate, too");
    assert_ne!(
        undisturbed.disk.ops(),
        self::undisturbed(Device::Flush).1,
        "another order of operations"
    );
    let mut states = 0;
    for op in 1..=undisturbed.disk.ops() {
        // One of the two at each, unless there is time.
        let manners = [CrashManner::Before, CrashManner::Torn];
        let manners = manners.into_iter().filter(|m| long() || (*m == MANNERS[0]) == (op % 2 == 0));
        for manner in manners {
            let struck = strike_in(late(), op, manner);
            for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll] {
                let world = struck.with_disk(struck.disk.power_cycle(outcome));
                live_on(&world, &format!("late, operation {op} {manner:?}, {outcome:?}"))?;
                states += 1;
            }
        }
    }
    Ok(states)
}

/// E1 step 7, E15: the checkpoint of a batch is written while the next one goes through its steps,
/// as a job on its own thread may do; struck at every operation of that.
#[test]
fn crash_around_a_checkpoint_beside_the_next_batch() {
    println!("{} states around late checkpoints", crash_beside_the_next_batch(false).unwrap());
}

/// E1: the next batch is drafted, too, before the one before it is published.
#[test]
fn crash_around_a_draft_of_the_next_batch() {
    println!("{} states around drafts", crash_beside_the_next_batch(true).unwrap());
}

fn with_ledgers(expire: bool) -> World {
    World { ledgers: Some(Ledgers { expire, ..Ledgers::default() }), ..World::new(1) }
}

/// Dies at every call of a two-phase sink: before it, after it, or with the reply lost.
fn strike_calls(expire: bool) -> Result<u64, String> {
    let undisturbed = with_ledgers(expire);
    let finished = life(&undisturbed, Box::new(NoHooks)).unwrap();
    check(&undisturbed, &finished)?;
    let calls = |world: &World| world.ledgers.as_ref().unwrap().left.lock().unwrap().calls;
    assert!(calls(&undisturbed) > 10, "each batch is prepared and published");
    let mut states = 0;
    for (right, strike) in [false, true].into_iter().flat_map(|r| Strike::ALL.map(|s| (r, s))) {
        for call in 1..=calls(&undisturbed) {
            let mut struck = with_ledgers(expire);
            struck.ledgers.as_mut().unwrap().strike = Some((right, call, strike));
            let ended = life(&struck, Box::new(NoHooks));
            let story = format!("right {right}, call {call}, {strike:?}, expire {expire}");
            states += 1;
            if strike == Strike::ReplyLost {
                let finished = ended.map_err(|error| format!("{story}: {error}"))?;
                check(&struck, &finished).map_err(|error| format!("{story}: {error}"))?;
                continue;
            }
            for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll] {
                let world = struck.with_disk(struck.disk.power_cycle(outcome));
                live_on(&world, &format!("{story}, {outcome:?}"))?;
                states += 1;
            }
        }
    }
    Ok(states)
}

/// Every step and every operation of a job whose batches are prepared.
fn strike_prepared(expire: bool, every: u64) -> Result<u64, String> {
    let undisturbed = with_ledgers(expire);
    life(&undisturbed, Box::new(NoHooks)).unwrap();
    let mut struck = Vec::new();
    for step in [Step::SinkPrepared, Step::Prepared, Step::SinkPublished, Step::Published] {
        for number in 0..100 {
            let world = with_ledgers(expire);
            if life(&world, Box::new(CrashAt(step, number))).is_ok() {
                assert!(number > 5, "{step:?} is passed");
                break;
            }
            world.disk.power_off();
            struck.push((format!("{step:?} number {number}"), world));
        }
    }
    for op in (1..=undisturbed.disk.ops()).step_by(usize::try_from(every).unwrap()) {
        let world = strike_in(with_ledgers(expire), op, CrashManner::Torn);
        struck.push((format!("operation {op}"), world));
    }
    let mut states = 0;
    for (story, struck) in struck {
        for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll] {
            let world = struck.with_disk(struck.disk.power_cycle(outcome));
            live_on(&world, &format!("{story}, {outcome:?}, expire {expire}"))?;
            states += 1;
        }
    }
    Ok(states)
}

/// E1 step 4, E2, rows R4a to R4d: two two-phase sinks beside a file and a callback.
#[test]
fn crash_around_two_phase_sinks() {
    let mut states = 0;
    for expire in [false, true] {
        states += strike_calls(expire).unwrap();
        states += strike_prepared(expire, if long() { 1 } else { 3 }).unwrap();
    }
    println!("{states} states around two-phase sinks");
    assert!(states > 500, "{states}");
}

/// E2: what was prepared is published as it was prepared. A function that is not pure, or was
/// changed meanwhile, is told from one that is; nothing more is published, and nothing aborted.
#[test]
fn a_prepared_batch_that_is_computed_differently_ends_the_job() {
    let changed = |expire| {
        let world = with_ledgers(expire);
        assert!(life(&world, Box::new(CrashAt(Step::Prepared, 2))).is_err());
        let world = world.with_disk(world.disk.kill());
        let held = |world: &World| world.ledgers.as_ref().unwrap().left.lock().unwrap().clone();
        let before = held(&world);
        assert!(before.held.len() == 1 && before.published.len() == 2, "{before:?}");
        let shouting = World { shout: true, ..world.with_disk(world.disk.kill()) };
        let error = life(&shouting, Box::new(NoHooks)).unwrap_err();
        assert_eq!(error.kind(), sawmill::ErrorKind::OutputChanged, "{error}");
        assert_eq!(held(&shouting).published, before.published);
        let kept = if expire { Default::default() } else { before.held };
        assert_eq!(held(&shouting).held, kept, "nothing was aborted");
        let back = World { shout: false, ..shouting.with_disk(shouting.disk.kill()) };
        live_on(&back, "as it was").unwrap();
    };
    changed(false);
    changed(true);
}

/// Row R9: a crash while recovering from a crash, at a sample of both.
#[test]
fn crash_during_recovery() {
    let (_, ops, _) = undisturbed(Device::Flush);
    let (first, second) = if long() { (3, 2) } else { (23, 9) };
    let mut states = 0;
    for op in (5..=ops).step_by(first) {
        let struck = strike_in(World::new(1), op, CrashManner::Torn);
        for outcome in [CrashOutcome::LoseAll, CrashOutcome::Seeded(op)] {
            for second in (1..80).step_by(second) {
                let world = struck.with_disk(struck.disk.power_cycle(outcome));
                world.disk.crash_at(second, CrashManner::Torn);
                if life(&world, Box::new(NoHooks)).is_ok() && !world.disk.is_off() {
                    break;
                }
                let again = world.with_disk(world.disk.power_cycle(CrashOutcome::Seeded(second)));
                live_on(&again, &format!("operation {op}, {outcome:?}, then {second}")).unwrap();
                states += 1;
            }
        }
    }
    println!("{states} states after two crashes");
    assert!(states > 100, "{states}");
}

#[test]
fn the_same_run_is_the_same_run() {
    let (first, ops, finished) = undisturbed(Device::Flush);
    let (second, ops_again, finished_again) = undisturbed(Device::Flush);
    assert_eq!((ops, finished), (ops_again, finished_again));
    assert_eq!(first.disk.digest(), second.disk.digest());
}

#[cfg(feature = "planted")]
mod planted {
    use sawmill::planted::{Bug, with_planted};

    use super::*;

    fn is_caught(bug: Bug) {
        let found = with_planted(bug, || {
            std::panic::catch_unwind(|| {
                crash_at_steps()?;
                MANNERS
                    .into_iter()
                    .map(|manner| crash_at_operations(Device::Flush, manner))
                    .sum::<Result<u64, _>>()
            })
        });
        match found {
            Ok(Ok(states)) => panic!("{} passed {states} states", bug.name()),
            Ok(Err(story)) => println!("{} caught: {story}", bug.name()),
            Err(_) => println!("{} caught by an assertion", bug.name()),
        }
    }

    #[test]
    fn checkpoint_before_completion_is_caught() {
        is_caught(Bug::CheckpointBeforeCompletion);
    }

    #[test]
    fn plan_not_durable_is_caught() {
        is_caught(Bug::PlanNotDurable);
    }

    /// E1: what was computed of a draft is what its plan says, also of records that came meanwhile.
    #[test]
    fn draft_planned_anew_is_caught() {
        let found = with_planted(Bug::DraftPlannedAnew, || {
            std::panic::catch_unwind(|| crash_beside_the_next_batch(true))
        });
        match found {
            Ok(Ok(states)) => panic!("a draft planned anew passed {states} states"),
            Ok(Err(story)) => println!("draft-planned-anew caught: {story}"),
            Err(_) => println!("draft-planned-anew caught by an assertion"),
        }
    }

    #[test]
    fn replan_after_restart_is_caught() {
        is_caught(Bug::ReplanAfterRestart);
    }

    /// E2: seen where two-phase sinks are struck, before it is believed.
    #[test]
    fn abort_prepared_is_caught() {
        let found = with_planted(Bug::AbortPrepared, || strike_calls(false));
        let story = found.expect_err("a prepared batch that is prepared anew is published twice");
        println!("abort-prepared caught: {story}");
        with_planted(Bug::AbortPrepared, || strike_prepared(false, 3)).unwrap_err();
    }

    #[test]
    fn side_input_latest_is_caught() {
        is_caught(Bug::SideInputLatest);
    }

    #[test]
    fn no_sink_cut_is_caught() {
        is_caught(Bug::NoSinkCut);
    }

    #[test]
    fn manifest_before_data_is_caught() {
        is_caught(Bug::ManifestBeforeData);
    }

    #[test]
    fn skipped_durable_flag_is_caught() {
        is_caught(Bug::SkipDurableFlag);
    }
}
