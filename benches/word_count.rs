//! How close does the word count on datasets come to a hand-written loop on rayon?
//!
//! Both count the words of the same 16 MiB of text in memory, on all cores, and must arrive at the
//! same checksum. Rounds alternate, so that a busy machine disturbs both. `cargo bench --bench
//! word_count` prints the ratio of the medians first, then criterion's figures.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]
#![allow(clippy::print_stdout, reason = "the ratio is what this prints")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of a bench, far below the limits"
)]

mod common;
#[path = "common/count.rs"]
mod count;

use std::sync::Arc;
use std::time::{Duration, Instant};

use count::{Checksum, Counts, is_space};
use criterion::{Criterion, Throughput};
use rayon::prelude::*;
use sawmill::{Bytes, Dataset, Executor, Kv};
use xxhash_rust::xxh3::xxh3_64;

const TEXT_BYTES: usize = 16 << 20;
const DISTINCT: usize = 200_000;
const PARTITIONS: usize = 16;
const ROUNDS: usize = 15;

fn word_count(lines: &Dataset<Bytes>) -> Dataset<Kv<Bytes, u64>> {
    lines
        .flat_map_rows::<Bytes>(|line, out| {
            for word in line.split(is_space).filter(|word| !word.is_empty()) {
                out.push(word);
            }
        })
        .pair_with(|_| 1u64)
        .reduce_by_key(|a, b| a + b)
}

fn on_datasets(executor: &Executor, counts: &Dataset<Kv<Bytes, u64>>) -> Checksum {
    let run = executor.context();
    let add = |sum: &mut Checksum, (word, count): (&[u8], u64)| sum.add(word, count);
    executor.fold(&run, counts, Checksum::default, add, Checksum::merge).expect("a word count")
}

fn by_hand(pool: &rayon::ThreadPool, text: &[u8], pieces: &[std::ops::Range<usize>]) -> Checksum {
    pool.install(|| {
        let counted: Vec<Vec<Counts<'_>>> = pieces
            .par_iter()
            .with_max_len(1)
            .map(|piece| {
                let mut tables: Vec<_> =
                    (0..PARTITIONS).map(|_| Counts::with_capacity(DISTINCT / 64)).collect();
                for word in text[piece.clone()].split(is_space).filter(|word| !word.is_empty()) {
                    let hash = xxh3_64(word);
                    tables[(hash >> 60) as usize].add(hash, word, 1);
                }
                tables
            })
            .collect();
        (0..PARTITIONS)
            .into_par_iter()
            .with_max_len(1)
            .map(|partition| {
                let mut merged = Counts::with_capacity(DISTINCT / PARTITIONS);
                for tables in &counted {
                    for &(hash, word, count) in &tables[partition].rows {
                        merged.add(hash, word, count);
                    }
                }
                let mut sum = Checksum::default();
                merged.rows.iter().for_each(|&(_, word, count)| sum.add(word, count));
                sum
            })
            .reduce(Checksum::default, Checksum::merge)
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// `cargo bench` says `--bench`; run as a test, a bench does hardly anything.
fn is_test() -> bool {
    let given = |name: &str| std::env::args().any(|word| word == name);
    !given("--bench") || given("--test")
}

fn main() {
    let (bytes, rounds) = if is_test() { (TEXT_BYTES / 256, 1) } else { (TEXT_BYTES, ROUNDS) };
    let text = Arc::new(common::zipf_text(7, bytes, DISTINCT));
    let pieces = common::cut_at_lines(&text, PARTITIONS);
    let executor = Executor::new(0, PARTITIONS as u32).expect("threads");
    let pool = rayon::ThreadPoolBuilder::new().build().expect("threads");
    let source = common::Text { bytes: Arc::clone(&text), pieces: pieces.clone() };
    let counts = word_count(&Dataset::from_source(Arc::new(source)));

    let (mut hand, mut datasets) = (Vec::new(), Vec::new());
    let mut words = 0;
    for round in 0..=rounds {
        let start = Instant::now();
        let expected = by_hand(&pool, &text, &pieces);
        let by_hand = start.elapsed();
        let start = Instant::now();
        let found = on_datasets(&executor, &counts);
        let by_datasets = start.elapsed();
        assert_eq!(found, expected, "both ways count the same");
        words = found.words;
        // The first round warms the machine up.
        if round > 0 {
            hand.push(by_hand);
            datasets.push(by_datasets);
        }
    }
    let (hand, datasets) = (median(hand), median(datasets));
    let rate = |time: Duration| words as f64 / time.as_secs_f64() / 1e6;
    println!(
        "word_count: {} threads, {} MiB, {words} words: by hand {hand:?} ({:.1} M words/s), \
         datasets {datasets:?} ({:.1} M words/s), ratio {:.2}",
        executor.threads(),
        text.len() >> 20,
        rate(hand),
        rate(datasets),
        hand.as_secs_f64() / datasets.as_secs_f64(),
    );

    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group("exec/word_count/16_mib");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    group.bench_function("by_hand", |b| b.iter(|| by_hand(&pool, &text, &pieces)));
    group.bench_function("datasets", |b| b.iter(|| on_datasets(&executor, &counts)));
    group.finish();
    criterion.final_summary();
}
