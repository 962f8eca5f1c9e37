//! How close do join, sort and grep on datasets come to what one would write by hand on rayon?
//!
//! Each work is done both ways, on all cores, in rounds that alternate, and both must arrive at the
//! same checksum of every row. Short by default; `SAWMILL_BENCH=full cargo bench --bench exec_ops`
//! takes the sizes of docs/benchmarking.md (10 M rows). A word as argument picks one of `join`,
//! `sort`, `grep`, `unique` (sums by keys of which hardly one comes twice), and `lost`: what it
//! costs to compute lost partitions again.

#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]
#![allow(clippy::disallowed_types, reason = "and reads what the kernel counts")]
#![allow(clippy::print_stdout, reason = "the ratio is what this prints")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of a bench, far below the limits"
)]

mod common;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Random, Text, line};
use rayon::prelude::*;
use sawmill::{
    Bytes, Dataset, Executor, Kv, Lost, PartitionSource, RunContext, StorageLevel, TaskKind,
};

const PARTITIONS: usize = 16;

type Pair = (u64, u64);

/// Sum of what rows say; the order does not show.
type Checksum = (u64, u64);

fn add(a: Checksum, b: Checksum) -> Checksum {
    (a.0 + b.0, a.1.wrapping_add(b.1))
}

/// Runs both ways in turn and prints the medians and the median of the ratios.
fn compare<T: PartialEq + std::fmt::Debug>(
    (name, rows, rounds): (&str, usize, usize),
    by_hand: impl Fn() -> T,
    on_datasets: impl Fn() -> T,
) {
    let (mut hand, mut datasets, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let start = Instant::now();
        let expected = by_hand();
        let one = start.elapsed();
        let start = Instant::now();
        let found = on_datasets();
        let other = start.elapsed();
        assert_eq!(found, expected, "both ways come to the same result");
        // The first round warms the machine up.
        if round > 0 {
            hand.push(one);
            datasets.push(other);
            ratios.push(one.as_secs_f64() / other.as_secs_f64());
        }
    }
    ratios.sort_by(f64::total_cmp);
    let (hand, datasets) = (median(hand), median(datasets));
    let rate = |time: Duration| rows as f64 / time.as_secs_f64() / 1e6;
    let quarter = |quarter: usize| ratios[(ratios.len() - 1) * quarter / 4];
    println!(
        "exec/{name}: {rows} rows, {rounds} rounds: by hand {hand:?} ({:.1} M/s), datasets \
         {datasets:?} ({:.1} M/s), ratio {:.2} ({:.2}..{:.2})",
        rate(hand),
        rate(datasets),
        quarter(2),
        quarter(1),
        quarter(3),
    );
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn pairs(seed: u64, rows: usize, keys: u64) -> Vec<Pair> {
    let mut random = Random(seed);
    (0..rows).map(|_| (random.next() % keys, random.next())).collect()
}

/// Pairs in memory, read in place.
struct Pairs {
    rows: Arc<Vec<Pair>>,
}

fn piece(rows: usize, partition: usize) -> Range<usize> {
    partition * rows / PARTITIONS..(partition + 1) * rows / PARTITIONS
}

impl PartitionSource<Kv<u64, u64>> for Pairs {
    fn name(&self) -> &str {
        "pairs"
    }

    fn partitions(&self, _run: &RunContext) -> sawmill::Result<u32> {
        Ok(PARTITIONS as u32)
    }

    fn read(
        &self,
        _run: &RunContext,
        partition: u32,
        out: &mut dyn FnMut(Pair),
    ) -> sawmill::Result<()> {
        self.rows[piece(self.rows.len(), partition as usize)].iter().for_each(|row| out(*row));
        Ok(())
    }

    fn describe(&self, _run: &RunContext, partition: u32) -> String {
        format!("rows {:?}", piece(self.rows.len(), partition as usize))
    }
}

fn dataset(rows: &Arc<Vec<Pair>>) -> Dataset<Kv<u64, u64>> {
    Dataset::from_source(Arc::new(Pairs { rows: Arc::clone(rows) }))
}

/// A strong and cheap hash of a number: what one would write for keys that are numbers.
fn mixed(key: u64) -> u64 {
    let hash = (key ^ (key >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

/// Rows by the hash of their key: for each piece, a bucket for each partition.
fn partitioned(rows: &[Pair]) -> Vec<Vec<Vec<Pair>>> {
    let pieces = (0..PARTITIONS).into_par_iter().with_max_len(1);
    pieces
        .map(|at| {
            let room = rows.len() / PARTITIONS / PARTITIONS * 9 / 8;
            let mut buckets: Vec<_> = (0..PARTITIONS).map(|_| Vec::with_capacity(room)).collect();
            for &row in &rows[piece(rows.len(), at)] {
                buckets[(mixed(row.0) >> 60) as usize].push(row);
            }
            buckets
        })
        .collect()
}

/// The partitioned hash join, for keys that are unique on the right: open addressing, half full.
fn join_by_hand(left: &[Pair], right: &[Pair]) -> Checksum {
    let (left, right) = (partitioned(left), partitioned(right));
    let joined = (0..PARTITIONS).into_par_iter().with_max_len(1).map(|partition| {
        let rows: usize = right.iter().map(|buckets| buckets[partition].len()).sum();
        let mask = (rows * 2).next_power_of_two() - 1;
        let mut slots: Vec<Pair> = vec![(u64::MAX, 0); mask + 1];
        for &(key, value) in right.iter().flat_map(|buckets| &buckets[partition]) {
            let mut at = mixed(key) as usize & mask;
            while slots[at].0 != u64::MAX {
                at = (at + 1) & mask;
            }
            slots[at] = (key, value);
        }
        let mut sum = (0, 0);
        for &(key, value) in left.iter().flat_map(|buckets| &buckets[partition]) {
            let mut at = mixed(key) as usize & mask;
            while slots[at].0 != key && slots[at].0 != u64::MAX {
                at = (at + 1) & mask;
            }
            if slots[at].0 == key {
                sum = add(sum, (1, key ^ value ^ slots[at].1));
            }
        }
        sum
    });
    joined.reduce(|| (0, 0), add)
}

fn join(executor: &Executor, pool: &rayon::ThreadPool, rows: usize, rounds: usize) {
    let left = Arc::new(pairs(1, rows, rows as u64 / 8));
    let mut random = Random(2);
    let right = Arc::new((0..rows as u64 / 10).map(|key| (key, random.next())).collect::<Vec<_>>());
    let joined = dataset(&left).join(&dataset(&right));
    compare(
        ("join", rows + right.len(), rounds),
        || pool.install(|| join_by_hand(&left, &right)),
        || {
            let fold = |sum: &mut Checksum, (key, (a, b)): (u64, Pair)| {
                *sum = add(*sum, (1, key ^ a ^ b));
            };
            executor.fold(&executor.context(), &joined, || (0, 0), fold, add).expect("a join")
        },
    );
}

fn sort(executor: &Executor, pool: &rayon::ThreadPool, rows: usize, rounds: usize) {
    let rows = Arc::new(pairs(3, rows, u64::MAX));
    let sorted = dataset(&rows).sort_by_key();
    // Whether keys ascend, and a sum that shows where in the order a row stands: the same work for
    // both ways.
    let check = |parts: &mut dyn Iterator<Item = &[Pair]>| {
        let (mut last, mut at, mut sum) = (0, 0u64, 0u64);
        for &(key, value) in parts.flatten() {
            assert!(last <= key, "keys ascend");
            (last, at) = (key, at + 1);
            sum = sum.wrapping_add((key ^ value).wrapping_mul(at | 1));
        }
        (at, sum)
    };
    let collect = || {
        let run = executor.context();
        executor
            .for_each_partition(&run, &sorted, |rows| {
                let mut part = Vec::new();
                rows.for_each(|row| part.push(row))?;
                Ok(part)
            })
            .expect("a sort")
    };
    compare(
        ("sort", rows.len(), rounds),
        || {
            let all = pool.install(|| {
                let mut all: Vec<Pair> = rows.par_iter().copied().collect();
                all.par_sort_by_key(|row| row.0);
                all
            });
            check(&mut std::iter::once(&all[..]))
        },
        || check(&mut collect().iter().map(|part| &part[..])),
    );
}

/// Sums by key, of keys of which hardly one comes twice: folding before the shuffle is in vain.
fn unique(executor: &Executor, pool: &rayon::ThreadPool, rows: usize, rounds: usize) {
    let rows = Arc::new(pairs(5, rows, u64::MAX));
    let sums = dataset(&rows).reduce_by_key(u64::wrapping_add);
    let fold = |sum: &mut Checksum, (key, value): Pair| *sum = add(*sum, (1, key ^ value));
    compare(
        ("unique", rows.len(), rounds),
        || pool.install(|| sum_by_hand(&rows)),
        || executor.fold(&executor.context(), &sums, || (0, 0), fold, add).expect("sums"),
    );
}

/// Rows are sent to their partition, and summed there: open addressing, half full.
fn sum_by_hand(rows: &[Pair]) -> Checksum {
    let sent = partitioned(rows);
    let summed = (0..PARTITIONS).into_par_iter().with_max_len(1).map(|partition| {
        let rows: usize = sent.iter().map(|buckets| buckets[partition].len()).sum();
        let mask = (rows * 2).next_power_of_two() - 1;
        let mut slots: Vec<Option<Pair>> = vec![None; mask + 1];
        for &(key, value) in sent.iter().flat_map(|buckets| &buckets[partition]) {
            let mut at = mixed(key) as usize & mask;
            while slots[at].is_some_and(|slot| slot.0 != key) {
                at = (at + 1) & mask;
            }
            let sum = slots[at].get_or_insert((key, 0));
            sum.1 = sum.1.wrapping_add(value);
        }
        slots.iter().flatten().fold((0, 0), |sum, (key, value)| add(sum, (1, key ^ value)))
    });
    summed.reduce(|| (0, 0), add)
}

/// What is sought in a line: the level, which is the second field.
fn is_error(line: &[u8]) -> bool {
    line.get(9..14) == Some(b"ERROR")
}

fn grep(executor: &Executor, pool: &rayon::ThreadPool, rows: usize, rounds: usize) {
    let mut random = Random(4);
    let mut text = Vec::with_capacity(rows * 100);
    // Lines of 100 bytes.
    for _ in 0..rows {
        let level = if random.next().is_multiple_of(10) { "ERROR" } else { "INFO " };
        let line = format!("{:08x} {level} ", random.next() as u32);
        text.extend_from_slice(line.as_bytes());
        text.extend((0..84).map(|_| b'a' + (random.next() % 26) as u8));
        text.push(b'\n');
    }
    let text = Arc::new(text);
    let pieces = common::cut_at_lines(&text, PARTITIONS);
    let lines = Text { bytes: Arc::clone(&text), pieces: pieces.clone() };
    // Map, filter, count.
    let found = Dataset::from_source(Arc::new(lines))
        .flat_map_rows::<Bytes>(|line, out| out.push(line.trim_ascii_end()))
        .filter(|line| is_error(line));
    compare(
        ("grep", rows, rounds),
        || {
            pool.install(|| {
                let counts = pieces.par_iter().with_max_len(1).map(|piece| {
                    let (mut rest, mut count) = (&text[piece.clone()], (0, 0));
                    while !rest.is_empty() {
                        let line = line(rest);
                        let trimmed = line.trim_ascii_end();
                        if is_error(trimmed) {
                            count = add(count, (1, trimmed.len() as u64));
                        }
                        rest = &rest[line.len()..];
                    }
                    count
                });
                counts.reduce(|| (0, 0), add)
            })
        },
        || {
            let each = |sum: &mut Checksum, line: &[u8]| *sum = add(*sum, (1, line.len() as u64));
            executor.fold(&executor.context(), &found, || (0, 0), each, add).expect("a count")
        },
    );
}

/// CPU time that k of 64 lost partitions of a narrow lineage cost, as a share of what the whole job
/// cost: k/64 would be nothing but the lost ones.
fn lost(executor: &Executor, _pool: &rayon::ThreadPool, rows: usize, rounds: usize) {
    const PARTITIONS: u32 = 64;
    let rows = 8 * rows as u64;
    let squares = Dataset::from_fn(PARTITIONS, move |partition| {
        let cut = |partition: u32| u64::from(partition) * rows / u64::from(PARTITIONS);
        cut(partition)..cut(partition + 1)
    });
    let squares = squares.map(|n| Random(n).next()).filter(|n| n % 3 > 0).map(|n| n ^ (n >> 7));
    let squares = squares.persist(StorageLevel::Memory);
    // The task counts what is computed; the action takes no rows, so that it costs nothing.
    let compute = |run: &RunContext| {
        let (cpu, seen) = (cpu_seconds(), run.tasks().len());
        executor.for_each_partition(run, &squares, |_| Ok(())).expect("partitions");
        let tasks = run.tasks().into_iter().skip(seen);
        let held = tasks.filter(|task| task.kind == TaskKind::Hold).count();
        (cpu_seconds() - cpu, held as u32)
    };
    let mut expected = None;
    for k in [1, 8, 32] {
        let mut shares = Vec::new();
        for round in 0..=rounds {
            let run = executor.context();
            let (whole, held) = compute(&run);
            assert_eq!(held, PARTITIONS, "all are computed at first");
            let lost = (0..k).map(|number| number * PARTITIONS / k);
            lost.for_each(|lost| {
                run.drop_partition(squares.operator(), Lost::Partition(lost));
            });
            let (again, held) = compute(&run);
            assert_eq!(held, k, "exactly the lost ones");
            let sum = executor.reduce(&run, &squares, u64::wrapping_add).expect("a sum");
            assert_eq!(*expected.get_or_insert(sum), sum, "the same rows as at first");
            if round > 0 {
                shares.push(again / whole * f64::from(PARTITIONS) / f64::from(k));
            }
        }
        shares.sort_by(f64::total_cmp);
        println!(
            "recompute/lost_partition: {k} of {PARTITIONS}, {rows} rows, {rounds} rounds: \
             {:.2}x of {k}/{PARTITIONS} of the CPU time of all",
            shares[shares.len() / 2]
        );
    }
}

/// Seconds of CPU time of all threads so far.
fn cpu_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let stats = threads.filter_map(|t| std::fs::read_to_string(t.path().join("schedstat")).ok());
    stats.filter_map(|stat| stat.split(' ').next()?.parse::<f64>().ok()).sum::<f64>() / 1e9
}

fn main() {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let full = std::env::var("SAWMILL_BENCH").is_ok_and(|size| size == "full");
    let (rows, rounds) = if full { (10_000_000, 15) } else { (1_000_000, 15) };
    let executor = Executor::new(0, PARTITIONS as u32).expect("threads");
    let pool = rayon::ThreadPoolBuilder::new().build().expect("threads");
    type Work = fn(&Executor, &rayon::ThreadPool, usize, usize);
    let works: [(&str, Work); 5] =
        [("join", join), ("sort", sort), ("grep", grep), ("unique", unique), ("lost", lost)];
    for (name, work) in works {
        if only.as_deref().is_none_or(|only| only == name) {
            work(&executor, &pool, rows, rounds);
        }
    }
}
