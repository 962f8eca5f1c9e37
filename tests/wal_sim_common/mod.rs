//! A random life of a log on the simulated disk, beside a model of what it promised.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::mem_forget,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests, whose numbers are small"
)]

mod acts;
mod crashes;
mod medium;
mod model;
mod plan;
mod sends;
mod world;

use std::collections::BTreeMap;

pub(crate) use plan::{Plan, Rng};
pub(crate) use world::World;

/// What was seen, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(pub(crate) BTreeMap<String, u64>);

impl Counts {
    pub(crate) fn add(&mut self, what: &str) {
        self.add_many(what, 1);
    }

    pub(crate) fn add_many(&mut self, what: &str, many: u64) {
        if many > 0 {
            *self.0.entry(what.to_owned()).or_default() += many;
        }
    }

    pub(crate) fn merge(&mut self, other: &Counts) {
        for (what, many) in &other.0 {
            self.add_many(what, *many);
        }
    }
}

/// Lives one seed to its end.
///
/// # Errors
/// What the log did that it must not, with the command that does it again.
pub(crate) fn run(seed: u64) -> Result<Counts, String> {
    run_plan(&Plan::new(seed))
}

/// As [`run`], with this plan.
pub(crate) fn run_plan(plan: &Plan) -> Result<Counts, String> {
    run_life(plan, &Rng::new(!plan.seed)).map_err(|story| {
        format!(
            "seed {}: {story}again: SAWMILL_SIM_SEED={} cargo test --release --all-features \
             --test wal_sim one_seed -- --nocapture",
            plan.seed, plan.seed
        )
    })
}

/// A life that `bytes` decide: they are the plan and then what happens, until they are used up.
///
/// # Errors
/// What the log did that it must not.
pub(crate) fn run_bytes(bytes: &[u8]) -> Result<Counts, String> {
    let mut rng = Rng::of(bytes);
    let seed = rng.below(256);
    let plan = Plan::draw(seed, &mut rng);
    run_life(&plan, &rng)
}

/// Lives; if a promise was broken, lives the same again to tell how it came to that.
fn run_life(plan: &Plan, rng: &Rng) -> Result<Counts, String> {
    let live = |telling| live(World::new(plan.clone(), rng.clone(), telling));
    match live(false) {
        Ok(counts) => Ok(counts),
        Err(_) => Err(match live(true) {
            Err(story) => story,
            Ok(_) => format!("{plan:?} failed, and not again: chance decides something\n"),
        }),
    }
}

fn live(mut world: World) -> Result<Counts, String> {
    let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.live()));
    match lived {
        Ok(Ok(())) => Ok(world.into_counts()),
        Ok(Err(violation)) => Err(format!("{violation}\n{}", world.story())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let story = format!("panic: {}\n{}", text.unwrap_or_default(), world.story());
            // The log may be in the middle of anything: it is left alone.
            std::mem::forget(world);
            Err(story)
        }
    }
}
