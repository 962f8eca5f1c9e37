//! Random lives of a log: callers append, submit, wait, sync, truncate, pin, read, close and open
//! again, while the power fails, processes are killed, operations fail, the disk fills up, or the
//! medium does worse. A model beside it says what must be there, what may be, and what must not.
//!
//! A seed decides a whole life. A failure prints the seed, what happened, and the command that does
//! it again. `SAWMILL_SIM_SEEDS=FROM..TO` chooses the seeds, `SAWMILL_SIM_SEED` one of them.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests stop at what fails")]

mod wal_sim_common;

use std::ops::Range;

use wal_sim_common::{Counts, run};

/// The seeds that the gate lives through.
const SEEDS: Range<u64> = 0..2_000;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("SAWMILL_SIM_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").unwrap_or(("0", &text));
    from.parse().unwrap()..to.parse().unwrap()
}

/// Lives through all seeds on `threads` threads; stops at the first violation of each.
fn campaign(seeds: Range<u64>, threads: u64) -> (Counts, Vec<String>) {
    let workers: Vec<_> = (0..threads)
        .map(|worker| {
            let seeds = seeds.clone();
            let body = move || {
                let mut counts = Counts::default();
                for seed in seeds.filter(|seed| seed % threads == worker) {
                    match run(seed) {
                        Ok(seen) => counts.merge(&seen),
                        Err(violation) => return (counts, Some(violation)),
                    }
                }
                (counts, None)
            };
            std::thread::Builder::new().spawn(body).unwrap()
        })
        .collect();
    let mut all = (Counts::default(), Vec::new());
    for worker in workers {
        let (counts, violation) = worker.join().unwrap();
        all.0.merge(&counts);
        all.1.extend(violation);
    }
    all
}

#[test]
fn random_lives_keep_every_promise() {
    let seeds = seeds();
    println!("seeds {seeds:?}: disk, log, callers and trouble are the seed's");
    let (counts, violations) = campaign(seeds.clone(), 3);
    for (what, many) in &counts.0 {
        println!("{what}: {many}");
    }
    assert!(violations.is_empty(), "{}", violations.join("\n\n"));
    println!("seeds {seeds:?}: no violation");
}

/// One seed, with all that happened in it.
#[test]
fn one_seed_is_lived_again() {
    let seed = std::env::var("SAWMILL_SIM_SEED").map_or(7, |seed| seed.parse().unwrap());
    let first = run(seed).unwrap_or_else(|violation| panic!("{violation}"));
    let second = run(seed).unwrap();
    assert_eq!(first, second, "seed {seed} decides everything");
}

/// The simulation must bite: how many seeds until each planted bug of the log is seen.
#[test]
#[cfg(feature = "planted")]
fn planted_bugs_are_seen_by_random_lives() {
    use sawmill::planted::{Bug, with_planted};
    let most = std::env::var("SAWMILL_SIM_PLANTED").map_or(1_000, |most| most.parse().unwrap());
    let mut missed = Vec::new();
    for bug in Bug::ALL.iter().copied() {
        let found = with_planted(bug, || {
            (0..most).find_map(|seed| run(seed).err().map(|violation| (seed, violation)))
        });
        match found {
            Some((seed, violation)) => {
                let line = violation.lines().next().unwrap_or_default();
                println!("{}: {} seeds: {line}", bug.name(), seed + 1);
            }
            None => missed.push(bug.name()),
        }
    }
    println!("not seen: {missed:?}");
}
