//! A random life of a log on the simulated disk, beside a model of what it promised.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::mem_forget,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests, whose numbers are small"
)]

mod acts;
mod model;
mod plan;
mod world;

use std::collections::BTreeMap;

pub(crate) use plan::Plan;
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
    run_plan(Plan::new(seed))
}

/// As [`run`], after a look at the plan.
pub(crate) fn run_plan(plan: Plan) -> Result<Counts, String> {
    let seed = plan.seed;
    let mut world = World::new(plan);
    let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.live()));
    let violation = match lived {
        Ok(Ok(())) => return Ok(world.into_counts()),
        Ok(Err(violation)) => violation,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            // The log may be in the middle of anything: it is left alone.
            let text = format!("panic: {}", text.unwrap_or_default());
            let message = describe(seed, &text, &world.story());
            std::mem::forget(world);
            return Err(message);
        }
    };
    Err(describe(seed, &violation, &world.story()))
}

fn describe(seed: u64, violation: &str, story: &str) -> String {
    format!(
        "seed {seed}: {violation}\n{story}again: SAWMILL_SIM_SEED={seed} cargo test --release \
         --all-features --test wal_sim one_seed -- --nocapture"
    )
}
