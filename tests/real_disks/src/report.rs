//! Campaigns of power cuts: which, and what came out.

use std::ops::Range;
use std::time::Instant;

use crate::cuts::{self, Effort, Tally};
use crate::oracle::Step;
use crate::place;
use crate::recording::{self, Plan, Start};
use crate::trace::{Event, Kinds};
use crate::{Failure, Outcome};

/// Subsets of each moment, and images looked at side by side.
const EFFORT: Effort = Effort { subsets: 8, jobs: 8 };
/// So many of the media that a cut left are recovered under the eyes of the device.
const NESTED: usize = 3;
/// The rule without which nothing is durable.
const CONTROL: &str = "skip-durable-flag";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Chosen {
    seeds: Range<u64>,
    file_system: Option<String>,
    /// Only this bug, which has to be noticed.
    planted: Option<String>,
}

impl Chosen {
    pub(crate) fn of(words: &[&str]) -> Result<Chosen, Failure> {
        let seeds = match words.first() {
            None => 0..1,
            Some(word) => match word.split_once("..") {
                Some((from, to)) => from.parse()?..to.parse()?,
                None => 0..word.parse()?,
            },
        };
        let word = |at: usize| words.get(at).map(|word| (*word).to_owned());
        Ok(Chosen { seeds, file_system: word(1).filter(|name| name != "all"), planted: word(2) })
    }
}

/// Cuts the power of each file system and seed, and then, to see that it would be noticed, with
/// durability switched off.
pub(crate) fn power_cuts(chosen: &Chosen) -> Outcome {
    let mut wrong = Vec::new();
    for file_system in &place::ALL {
        let name = file_system.name;
        if chosen.file_system.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        if let Some(why) = file_system.refused() {
            println!("{name}: skipped: {why}");
            continue;
        }
        for seed in chosen.seeds.clone() {
            let planted = chosen.planted.as_deref();
            wrong.extend(campaign(Plan { file_system, seed, planted })?);
        }
        if chosen.planted.is_none() {
            let seed = chosen.seeds.start;
            wrong.extend(campaign(Plan { file_system, seed, planted: Some(CONTROL) })?);
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// A recording and all its cuts, then some of these recovered, and cut within that; what is wrong
/// with the outcome, if anything.
fn campaign(plan: Plan<'_>) -> Result<Option<String>, Failure> {
    let name = plan.file_system.name;
    let bug = plan.planted.map(|bug| format!(" with the bug {bug}")).unwrap_or_default();
    let title = format!("{name}, seed {}, {}{bug}", plan.seed, plan.backend());
    let start = Start::blank(plan.file_system);
    let events = recording::record(plan, &start)?;
    let kinds = Kinds::of(&events);
    println!("{title}: {kinds}");
    let tally = replayed(plan, &start, &events)?;
    let met = [kinds.flushes_beside_writes, tally.torn, tally.subsets];
    let unseen = Step::ALL.iter().any(|(_, name)| !tally.steps.contains_key(name));
    let missed = unseen || met.contains(&0);
    let mut violations = tally.violations.len();
    for cut in cuts::some_cuts(plan, &start, &events, NESTED)? {
        if violations > 0 {
            break;
        }
        let events = recording::record(plan, &cut)?;
        println!("  recovered: {}", Kinds::of(&events));
        violations += replayed(plan, &cut, &events)?.violations.len();
    }
    Ok(match (plan.planted, violations) {
        (None, 1..) => Some(format!("{title}: {violations} violations")),
        (None, 0) if missed => Some(format!("{title}: what it is for was not met")),
        (Some(_), 0) => Some(format!("{title}: nothing was noticed")),
        _ => None,
    })
}

/// What all cuts of a recording have shown.
fn replayed(plan: Plan<'_>, start: &Start, events: &[Event]) -> Result<Tally, Failure> {
    let begun = Instant::now();
    let tally = cuts::replay(plan, start, events, EFFORT)?;
    let Tally { prefixes, subsets, torn, steps, held, violations } = &tally;
    let rate = (prefixes + subsets) as f64 / begun.elapsed().as_secs_f64();
    println!(
        "    {held} records held; {prefixes} prefixes + {subsets} subsets ({torn} torn), \
         {steps:?}, {rate:.0}/s: {} violations",
        violations.len()
    );
    violations.iter().take(3).for_each(|violation| println!("    {violation}"));
    Ok(tally)
}
