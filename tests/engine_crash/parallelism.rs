//! A job that is started again with another parallelism: a planned batch has that of its plan, the
//! ones behind it the new one (ENGINE.md E4), whatever a crash leaves of the change.

use sawmill::sim::{CrashManner, CrashOutcome};
use sawmill::testing::{NoHooks, Step};

use super::engine_common::{CrashAt, World, check, life};
use super::long;

fn at(world: &World, parallelism: u32) -> World {
    World { parallelism, ..world.clone() }
}

/// Ends a life at parallelism 8 at the n-th passing of a step; `None` if it is not passed so often.
fn ended_at(step: Step, number: u32) -> Option<World> {
    let world = at(&World::new(1), 8);
    life(&world, Box::new(CrashAt(step, number))).is_err().then_some(world)
}

fn live_on(world: &World, story: &str) -> Result<(), String> {
    let finished = life(world, Box::new(NoHooks)).map_err(|error| format!("{story}: {error}"))?;
    check(world, &finished).map_err(|error| format!("{story}: {error}"))
}

/// E4: at 8 to some step of some batch, between its sinks too, then at 3.
fn changed_at_every_step() -> Result<u32, String> {
    let mut states = 0;
    for step in Step::ALL {
        for number in 0.. {
            let Some(world) = ended_at(step, number) else { break };
            for killed in [true, false] {
                let disk = match killed {
                    true => world.disk.kill(),
                    false => world.disk.power_cycle(CrashOutcome::LoseAll),
                };
                let world = at(&world.with_disk(disk), 3);
                live_on(&world, &format!("{step:?} number {number}, killed: {killed}"))?;
                states += 1;
            }
        }
    }
    Ok(states)
}

#[test]
fn a_plan_at_parallelism_8_killed_at_every_step_and_started_again_at_3() {
    let states = changed_at_every_step().unwrap();
    println!("{states} states around a changed parallelism");
    assert!(states > 100, "{states}");
}

/// E4, E13, E15: the power goes at every operation of the life that changes it, which then goes on
/// with a third one; so also within the checkpoint that the change takes.
#[test]
fn a_crash_at_every_operation_of_a_change_of_parallelism() {
    let before = ended_at(Step::Published, 3).unwrap();
    let begun = || at(&before.with_disk(before.disk.kill()), 3);
    let undisturbed = begun();
    live_on(&undisturbed, "undisturbed").unwrap();
    // The change is among the first ones.
    let (ops, mut states) = (undisturbed.disk.ops().min(if long() { 400 } else { 100 }), 0);
    for op in 1..=ops {
        for manner in [CrashManner::Before, CrashManner::After] {
            let world = begun();
            world.disk.crash_at(op, manner);
            drop(life(&world, Box::new(NoHooks)));
            for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll] {
                let world = at(&world.with_disk(world.disk.power_cycle(outcome)), 5);
                live_on(&world, &format!("operation {op} {manner:?}, {outcome:?}")).unwrap();
                states += 1;
            }
        }
    }
    println!("{states} states around the change itself");
    assert_eq!(states, 4 * ops);
}

#[cfg(feature = "planted")]
#[test]
fn parallelism_under_plan_is_caught() {
    use sawmill::planted::{Bug, with_planted};
    let found =
        with_planted(Bug::ParallelismUnderPlan, || std::panic::catch_unwind(changed_at_every_step));
    match found {
        Ok(Ok(states)) => panic!("another parallelism under a plan passed {states} states"),
        Ok(Err(story)) => println!("parallelism-under-plan caught: {story}"),
        Err(_) => println!("parallelism-under-plan caught by an assertion"),
    }
}
