//! Partitions lost and tasks that panic in the middle of a batch: the same result, and exactly the
//! lost tasks are done again.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::engine_common::*;
use sawmill::testing::{Harness, Hooks, Step, Stepped};
use sawmill::{
    Accumulator, BatchId, Bytes, Job, Lost, OperatorId, Result, RunContext, TaskKind, TaskOutcome,
    TaskRecord, TextFiles, name,
};

/// The operators that can be struck.
#[derive(Clone, Copy, Debug)]
struct Operators {
    shuffle: OperatorId,
    reduce: OperatorId,
    state: OperatorId,
}

type Strike = fn(&RunContext, Operators);

#[derive(Debug)]
struct Drill {
    strike: Strike,
    operators: Operators,
    tasks: Arc<Mutex<Vec<TaskRecord>>>,
}

impl Hooks for Drill {
    fn at(&mut self, _step: Step, _batch: BatchId) -> Result<()> {
        Ok(())
    }

    fn computing(&mut self, _batch: BatchId, run: &RunContext) {
        (self.strike)(run, self.operators);
    }

    fn computed(&mut self, _batch: BatchId, run: &RunContext) {
        self.tasks.lock().unwrap().extend(run.tasks());
    }
}

/// Tasks by what they were for and how they ended.
type Tally = BTreeMap<String, usize>;

struct Done {
    counts: BTreeMap<String, u64>,
    output: String,
    /// What the accumulator of lines says.
    lines: i64,
    batches: usize,
    tally: Tally,
}

fn run(strike: Strike) -> Done {
    let world = World::new(9);
    let engine = world.engine().unwrap();
    let (job, (state, operators)) = Job::build(name!("lineage"), |job| {
        let paths = TEXT.iter().map(|(file, _)| Path::new("/in").join(file));
        let lines = job.source(name!("files"), TextFiles::new(paths));
        let seen = Accumulator::new(name!("lines"));
        let words = lines.flat_map_rows::<Bytes>(move |line, out| {
            seen.add(1);
            line.split(|byte| *byte == b' ').filter(|w| !w.is_empty()).for_each(|w| out.push(w))
        });
        let counted = words.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
        let counts = counted.map_with_state::<u64, u64>(name!("counts"), |_, new, count| {
            *count = Some(count.unwrap_or(0) + new.sum::<u64>());
            *count
        });
        counts.out.write_json_lines(name!("out"), "/out");
        let shuffle = counted.shuffle().unwrap();
        let (reduce, state) = (counted.operator(), counts.out.operator());
        (counts.state, Operators { shuffle, reduce, state })
    })
    .unwrap();
    let tasks = Arc::default();
    let drill = Drill { strike, operators, tasks: Arc::clone(&tasks) };
    let mut harness = Harness::new(&engine, job, options(), Box::new(drill)).unwrap();
    let mut batches = 0;
    while harness.step().unwrap() != Stepped::Ended {
        batches += 1;
    }
    let mut counts = BTreeMap::new();
    state
        .for_each(|word, count| {
            counts.insert(String::from_utf8_lossy(word).into_owned(), *count);
        })
        .unwrap();
    let mut tally = Tally::new();
    for task in tasks.lock().unwrap().iter() {
        let kind = match (task.kind, task.operator) {
            (TaskKind::Hold, operator) if operator == operators.reduce => "reduce",
            (TaskKind::Hold, _) => "state",
            (TaskKind::Map, _) => "map",
            _ => "action",
        };
        let ended = if task.outcome == TaskOutcome::Done { "" } else { " failed" };
        *tally.entry(format!("{kind}{ended}")).or_default() += 1;
    }
    let lines = harness.progress().accumulators["lines"];
    Done { counts, output: output(&world.disk), lines, batches, tally }
}

/// The tasks of a run with a strike, less those of one without; both must give the same.
fn extra(strike: Strike) -> (Tally, usize) {
    let calm = run(|_, _| {});
    let struck = run(strike);
    assert_eq!((&struck.counts, &struck.output), (&calm.counts, &calm.output));
    let text: usize = TEXT.iter().map(|(_, text)| text.lines().count()).sum();
    assert_eq!((struck.lines, calm.lines), (text as i64, text as i64), "E12: each line once");
    assert_eq!(struck.counts["oak"], 4);
    assert!(calm.batches >= 2, "several batches");
    let mut extra = struck.tally;
    for (kind, count) in calm.tally {
        let left = extra[&kind] - count;
        extra.insert(kind, left);
    }
    extra.retain(|_, count| *count > 0);
    (extra, calm.batches)
}

fn tally(entries: &[(&str, usize)]) -> Tally {
    entries.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect()
}

#[test]
fn a_lost_reduce_partition_reuses_held_buckets() {
    let (extra, batches) = extra(|run, operators| {
        run.drills().lose_after(operators.reduce, operators.reduce, Lost::Partition(1));
    });
    assert_eq!(extra, tally(&[("reduce", batches)]));
}

#[test]
fn a_lost_state_partition_is_computed_again_from_the_completed_state() {
    let (extra, batches) = extra(|run, operators| {
        run.drills().lose_after(operators.state, operators.state, Lost::Partition(0));
    });
    assert_eq!(extra, tally(&[("state", batches)]));
}

/// State partition 0 needs reduce partition 0, which needs of each map task (these batches have
/// one each) its bucket: all of that was lost, and nothing else is done again.
#[test]
fn everything_lost_is_computed_again_as_far_as_it_is_needed() {
    let (extra, batches) = extra(|run, operators| {
        let drills = run.drills();
        drills.lose_after(operators.state, operators.shuffle, Lost::All);
        drills.lose_after(operators.state, operators.reduce, Lost::All);
        drills.lose_after(operators.state, operators.state, Lost::Partition(0));
    });
    assert_eq!(extra, tally(&[("map", batches), ("reduce", batches), ("state", batches)]));
}

#[test]
fn a_task_that_panics_once_is_done_once() {
    let (extra, batches) = extra(|run, operators| {
        run.drills().panic_at(operators.state, TaskKind::Hold, 1, 1);
        run.drills().panic_at(operators.reduce, TaskKind::Hold, 0, 2);
    });
    assert_eq!(extra, tally(&[("reduce failed", 2 * batches), ("state failed", batches)]));
}

/// E12: what is computed again adds nothing.
#[cfg(feature = "planted")]
#[test]
fn an_accumulator_that_counts_recomputation_is_caught() {
    use sawmill::planted::{Bug, with_planted};
    let strike: Strike = |run, operators| {
        run.drills().lose_after(operators.state, operators.shuffle, Lost::All);
        run.drills().lose_after(operators.state, operators.reduce, Lost::All);
        run.drills().lose_after(operators.state, operators.state, Lost::Partition(0));
    };
    let calm = run(|_, _| {});
    let struck = with_planted(Bug::CountOnRecompute, || run(strike));
    assert_ne!(struck.lines, calm.lines);
}

/// E10: what a failed attempt changed is no part of the next one.
#[cfg(feature = "planted")]
#[test]
fn a_merged_overlay_of_a_failed_attempt_is_caught() {
    use sawmill::planted::{Bug, with_planted};
    let strike: Strike =
        |run, operators| run.drills().panic_at(operators.state, TaskKind::Hold, 1, 1);
    let calm = run(|_, _| {});
    let struck = with_planted(Bug::MergeFailedOverlay, || run(strike));
    assert_ne!(struck.counts, calm.counts);
}
