//! Random lives of the small job, decided by a seed: which sinks it has and what they do, where the
//! power goes, how often, and what it takes. `SAWMILL_SIM_SEEDS=0..100000` chooses the seeds.

use sawmill::sim::{CrashManner, CrashOutcome};
use sawmill::testing::NoHooks;

use super::engine_common::{Ledgers, Strike, World, check, life};

/// Splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn chance(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// Lives until nobody strikes any more, and compares; how often it died.
fn live(seed: u64) -> Result<u64, String> {
    let mut random = Random(seed);
    let mut world = World { flaky: random.chance(), late: random.chance(), ..World::new(seed) };
    world.sideless = random.chance();
    let rescaled = random.chance();
    if random.chance() {
        let strike = random.chance().then(|| {
            let strike = Strike::ALL[usize::try_from(random.below(3)).unwrap()];
            (random.chance(), 1 + random.below(12), strike)
        });
        let expire = random.chance();
        world.ledgers = Some(Ledgers { expire, strike, ..Ledgers::default() });
    }
    let crashes = 1 + random.below(4);
    for deaths in 0..=crashes {
        let manner = [CrashManner::Before, CrashManner::Torn, CrashManner::After];
        if deaths < crashes {
            let operation = 1 + random.below(if deaths == 0 { 500 } else { 120 });
            world.disk.crash_at(operation, manner[usize::try_from(random.below(3)).unwrap()]);
        }
        let ended = life(&world, Box::new(NoHooks));
        match ended {
            Ok(finished) if !world.disk.is_off() => {
                let checked = check(&world, &finished).map(|()| deaths);
                return checked.map_err(|error| format!("seed {seed}: {error}"));
            }
            Err(error) if !world.disk.is_off() => return Err(format!("seed {seed}: {error}")),
            Ok(_) | Err(_) => {}
        }
        if rescaled {
            world.parallelism = 1 + u32::try_from(random.below(5)).unwrap();
        }
        world = world.with_disk(match random.below(4) {
            0 => world.disk.kill(),
            1 => world.disk.power_cycle(CrashOutcome::LoseAll),
            2 => world.disk.power_cycle(CrashOutcome::KeepAll),
            _ => world.disk.power_cycle(CrashOutcome::Seeded(random.below(1 << 20))),
        });
    }
    Err(format!("seed {seed}: it dies though nobody strikes"))
}

fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("SAWMILL_SIM_SEEDS").unwrap_or_else(|_| "0..300".to_owned());
    let (from, to) = asked.split_once("..").unwrap();
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
fn random_lives_of_a_job_end_as_the_model_does() {
    let seeds = seeds();
    println!("seeds {seeds:?}");
    let lives: Vec<u64> = seeds.clone().map(|seed| live(seed).unwrap()).collect();
    let deaths: u64 = lives.iter().sum();
    println!("{} lives, {deaths} deaths, seeds {seeds:?}", lives.len());
    assert!(usize::try_from(deaths).unwrap() > lives.len() / 2, "{deaths}");
}

/// The planted bugs of batches are found within few seeds: the lives do look.
#[cfg(feature = "planted")]
#[test]
fn random_lives_find_planted_bugs() {
    use sawmill::planted::{Bug, with_planted};
    for bug in [Bug::AbortPrepared, Bug::ReplanAfterRestart, Bug::NoSinkCut, Bug::PlanNotDurable] {
        let found = (0..10_000).find(|&seed| {
            let lived = || std::panic::catch_unwind(|| live(seed).is_err()).unwrap_or(true);
            with_planted(bug, lived)
        });
        println!("{} found by seed {found:?}", bug.name());
        assert!(found.is_some(), "{}", bug.name());
    }
}
