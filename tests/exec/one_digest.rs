//! E6, E7: a job of 15 operators comes to one digest, whatever the threads, the memory, what is
//! lost and which task panics.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::cast_possible_truncation, reason = "all numbers are small")]

use sawmill::{
    Accumulator, Broadcast, Bytes, Dataset, Executor, Lost, OperatorId, RunContext, StorageLevel,
    TaskKind, name,
};
use xxhash_rust::xxh3::Xxh3;

const PARALLELISM: u32 = 5;
const CONFIGURATIONS: u64 = 1_000;

type Row = (String, u64);

/// Small even numbers, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 29)) % limit
    }
}

struct Job {
    rows: Dataset<Row>,
    /// What can be struck.
    operators: Vec<OperatorId>,
    odd: Accumulator,
}

/// How the numbers of a key are folded, and what partitions have of it.
type Folds = (fn(&mut f64, &[u8]), fn(&mut f64, f64));

/// Each fold shows in the last bits: one digest for one number of partitions only.
const ROUNDED: Folds =
    (|sum, word| *sum = *sum / 3.0 + f64::from(word[1]), |sum, more| *sum = *sum / 7.0 + more);

/// Sums of whole numbers: however rows are cut into partitions, they come to the same.
const EXACT: Folds = (|sum, word| *sum += f64::from(word[1]), |sum, more| *sum += more);

/// Fifteen operators over so many partitions.
fn job(partitions: u32, (fold, merge): Folds) -> Job {
    let odd = Accumulator::new(name!("odd-lines"));
    let lines = (0..240u64).map(|n| format!("w{} w{} w{}", n % 7, n * n % 31, n % 97)).collect();
    let lines: Dataset<String> = Dataset::from_vec(lines, partitions);
    let (counted, weights) = (odd.clone(), Broadcast::new([3u64, 1, 4, 1, 5, 9, 2, 6]));
    let words = lines.flat_map_rows::<Bytes>(move |line, out| {
        counted.add(i64::from(line.len() % 2 == 1));
        line.split(' ').for_each(|word| out.push(word.as_bytes()));
    });
    let counts =
        words.filter(|word| *word != b"w1").pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
    let kept = counts.persist(StorageLevel::Memory);
    let weighed = kept.map_values(move |n| n * weights[(n % 8) as usize]);
    let lengths = words.key_by(|word| word.len() as u64).aggregate_by_key(|| 0f64, fold, merge);
    let pairs = weighed.map_to_pair(|(word, n)| (word.len() as u64, (word.to_vec(), n)));
    let joined = pairs.left_outer_join(&lengths).map(|(_, ((word, n), sum))| {
        (String::from_utf8(word).unwrap(), n ^ sum.map_or(0, f64::to_bits))
    });
    let again = kept.map(|(word, n)| (String::from_utf8(word.to_vec()).unwrap(), n));
    let both = joined.union(&again.repartition(4)).map_to_pair(|row| row);
    let grouped = both.cogroup(&again.distinct().map_to_pair(|row| row));
    let sorted = grouped
        .map_values(|(left, right)| {
            left.into_iter().chain(right).fold(7u64, |a, b| a.wrapping_mul(31) ^ b)
        })
        .sort_by_key();
    let mut operators = vec![words.operator(), counts.operator(), kept.operator()];
    operators.extend([lengths.operator(), grouped.operator(), sorted.operator()]);
    operators.extend([counts.shuffle(), lengths.shuffle()].into_iter().flatten());
    Job { rows: sorted.map(|row| row), operators, odd }
}

/// Orders some faults and a budget.
fn strike(run: RunContext, job: &Job, random: &mut Random) -> RunContext {
    let run = match random.below(3) {
        0 => run,
        _ => run.with_memory(random.below(4_000) as usize),
    };
    for _ in 0..random.below(4) {
        let pick = |random: &mut Random| job.operators[random.below(8) as usize];
        let (operator, partition) = (pick(random), random.below(6) as u32);
        match random.below(3) {
            0 => run.drills().lose_after(pick(random), operator, Lost::Partition(partition)),
            1 => run.drills().lose_after(pick(random), operator, Lost::All),
            _ => {
                let kind = [TaskKind::Map, TaskKind::Hold, TaskKind::Action];
                let kind = kind[random.below(3) as usize];
                run.drills().panic_at(operator, kind, partition, 1);
            }
        }
    }
    run
}

fn digest(executor: &Executor, run: &RunContext, job: &Job) -> (u64, i64) {
    let mut digest = Xxh3::new();
    for (word, n) in executor.collect(run, &job.rows).unwrap() {
        digest.update(word.as_bytes());
        digest.update(&n.to_le_bytes());
    }
    (digest.digest(), run.accumulated(&job.odd))
}

#[test]
fn a_thousand_configurations_have_one_digest() {
    let job = job(6, ROUNDED);
    let executors = [1, 2, 3, 8].map(|threads| Executor::new(threads, PARALLELISM).unwrap());
    let expected = digest(&executors[0], &executors[0].context(), &job);
    assert!(expected.1 > 0, "some lines are of odd length");
    let mut struck = 0;
    for seed in 0..CONFIGURATIONS {
        let random = &mut Random(seed);
        let executor = &executors[random.below(4) as usize];
        let run = strike(executor.context(), &job, random);
        assert_eq!(digest(executor, &run, &job), expected, "configuration {seed}");
        let tasks = run.tasks().len();
        run.drop_partition(job.operators[random.below(8) as usize], Lost::Partition(1));
        assert_eq!(digest(executor, &run, &job), expected, "configuration {seed}, again");
        struck += u64::from(run.tasks().len() > tasks);
    }
    assert_eq!(struck, CONFIGURATIONS, "each action is a task at least");
}

/// Where folds are exact, the partitions of the input and of the shuffles do not show either: the
/// rows come out sorted, and each key has its values in the order of the operators.
#[test]
fn partitions_do_not_show_where_folds_are_exact() {
    let executors = [1, 2, 3, 8].map(|threads| Executor::new(threads, 1).unwrap());
    let one = job(1, EXACT);
    let expected = digest(&executors[0], &RunContext::new(1), &one);
    let jobs: Vec<Job> = [1, 2, 5, 16, 300].map(|partitions| job(partitions, EXACT)).into();
    for seed in 0..CONFIGURATIONS / 5 {
        let random = &mut Random(seed);
        let executor = &executors[random.below(4) as usize];
        // One in ten has more partitions than lines.
        let job = &jobs[if seed % 10 == 0 { 4 } else { random.below(4) as usize }];
        let run = strike(RunContext::new(1 + random.below(7) as u32), job, random);
        assert_eq!(digest(executor, &run, job), expected, "configuration {seed}");
    }
}
