//! How close does the word count on datasets come to a hand-written loop on rayon?
//!
//! A running count over generated text in memory, on all cores, in batches of 3 M words out of 1 M
//! distinct ones (Zipf): each batch is counted, and its counts are added to totals. By hand there
//! are two loops, both with keys that are slices of the text: one sends every word through the
//! shuffle, the other counts within each piece first. All must arrive at the same totals. Rounds
//! alternate, so that a busy machine disturbs all. Two batches a round; `SAWMILL_S1_BATCHES=17` is
//! the whole work of 50 M words. A number as argument is that of the threads (default: all cores),
//! `scaling` compares one thread with all.

#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]
#![allow(clippy::print_stdout, reason = "the ratios are what this prints")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of a bench, far below the limits"
)]

mod common;
#[path = "common/count.rs"]
#[allow(dead_code, reason = "shared with another bench")]
mod count;

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use count::{Checksum, Counts, Totals, is_space};
use rayon::prelude::*;
use sawmill::{Bytes, Dataset, Executor, Kv};
use xxhash_rust::xxh3::xxh3_64;

/// About 3 M words.
const BATCH_BYTES: usize = 25 << 20;
const DISTINCT: usize = 1_000_000;
const PARTITIONS: usize = 16;
const ROUNDS: usize = 15;

struct Batch {
    text: Arc<Vec<u8>>,
    pieces: Vec<Range<usize>>,
    counts: Dataset<Kv<Bytes, u64>>,
}

impl Batch {
    fn new(seed: u64, bytes: usize) -> Batch {
        let text = Arc::new(common::zipf_text(seed, bytes, DISTINCT));
        let pieces = common::cut_at_lines(&text, PARTITIONS);
        let source = common::Text { bytes: Arc::clone(&text), pieces: pieces.clone() };
        Batch { text, pieces, counts: word_count(&Dataset::from_source(Arc::new(source))) }
    }
}

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

fn on_datasets(executor: &Executor, batches: &[Batch]) -> Checksum {
    let totals: Vec<_> = (0..PARTITIONS).map(|_| Mutex::new(Totals::default())).collect();
    for batch in batches {
        let add = |rows: sawmill::Rows<'_, Kv<Bytes, u64>>| {
            let mut totals = totals[rows.partition() as usize].lock().expect("no panics");
            rows.for_each(|(word, count)| totals.add(xxh3_64(word), word, count))
        };
        let run = executor.context();
        executor.for_each_partition(&run, &batch.counts, add).expect("a word count");
    }
    let sums = totals.iter().map(|totals| totals.lock().expect("no panics").checksum());
    sums.fold(Checksum::default(), Checksum::merge)
}

type Way<'w> = Box<dyn Fn() -> Checksum + 'w>;
type Shuffled<'t> = Vec<Vec<(u64, &'t [u8], u64)>>;

/// Every word of a piece, by partition.
fn send_words<'t>(text: &'t [u8], room: usize) -> Shuffled<'t> {
    let mut buckets: Shuffled<'t> = (0..PARTITIONS).map(|_| Vec::with_capacity(room)).collect();
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        let hash = xxh3_64(word);
        buckets[(hash >> 60) as usize].push((hash, word, 1));
    }
    buckets
}

/// The words of a piece by partition, each once with its count.
fn send_counts<'t>(text: &'t [u8], _room: usize) -> Shuffled<'t> {
    let mut tables: Vec<_> = (0..PARTITIONS).map(|_| Counts::with_capacity(2048)).collect();
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        let hash = xxh3_64(word);
        tables[(hash >> 60) as usize].add(hash, word, 1);
    }
    tables.into_iter().map(|table| table.rows).collect()
}

fn by_hand<'t>(
    pool: &rayon::ThreadPool,
    batches: &'t [Batch],
    send: impl Fn(&'t [u8], usize) -> Shuffled<'t> + Sync,
) -> Checksum {
    let mut totals: Vec<_> = (0..PARTITIONS).map(|_| Counts::with_capacity(1024)).collect();
    let mut room = 1024;
    for batch in batches {
        let pieces = batch.pieces.par_iter().with_max_len(1);
        let sent: Vec<_> =
            pool.install(|| pieces.map(|p| send(&batch.text[p.clone()], room)).collect());
        room = sent.iter().flatten().map(Vec::len).max().unwrap_or(0) * 9 / 8;
        pool.install(|| {
            totals.par_iter_mut().with_max_len(1).enumerate().for_each(|(partition, totals)| {
                for &(hash, word, count) in sent.iter().flat_map(|sent| &sent[partition]) {
                    totals.add(hash, word, count);
                }
            });
        });
    }
    totals.iter().map(Counts::checksum).fold(Checksum::default(), Checksum::merge)
}

/// Low quartile, median, high quartile.
fn spread(mut figures: Vec<f64>) -> (f64, f64, f64) {
    figures.sort_by(f64::total_cmp);
    let at = |quarter: usize| figures[(figures.len() - 1) * quarter / 4];
    (at(1), at(2), at(3))
}

/// `cargo bench` says `--bench`; run as a test, a bench does hardly anything.
fn is_test() -> bool {
    let given = |name: &str| std::env::args().any(|word| word == name);
    !given("--bench") || given("--test")
}

/// What the rounds of one way took, in seconds.
#[derive(Default)]
struct Took {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

/// Seconds of each round: through the shuffle by hand, combined by hand, on datasets.
fn rounds(threads: usize, batches: &[Batch], rounds: usize) -> [Took; 3] {
    let executor = Executor::new(threads, PARTITIONS as u32).expect("threads");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let pool = pool.thread_name(|index| format!("hand-{index}")).build().expect("threads");
    let ways: [(&str, Way<'_>); 3] = [
        ("by_hand", Box::new(|| by_hand(&pool, batches, send_words))),
        ("by_hand_combined", Box::new(|| by_hand(&pool, batches, send_counts))),
        ("datasets", Box::new(|| on_datasets(&executor, batches))),
    ];
    let mut times = [(); 3].map(|()| Took::default());
    let mut sums = [Checksum::default(); 3];
    for round in 0..=rounds {
        for ((_, way), (times, sum)) in ways.iter().zip(times.iter_mut().zip(&mut sums)) {
            let (start, cpu) = (Instant::now(), count::cpu_seconds());
            *sum = way();
            // The first round warms the machine up.
            if round > 0 {
                times.wall.push(start.elapsed().as_secs_f64());
                times.cpu.push(count::cpu_seconds() - cpu);
            }
        }
        assert_eq!((sums[1], sums[2]), (sums[0], sums[0]), "all ways count the same");
    }
    for ((name, _), times) in ways.iter().zip(&times) {
        let rates = times.wall.iter().map(|seconds| sums[0].words as f64 / seconds / 1e6).collect();
        let (low, median, high) = spread(rates);
        println!(
            "exec/word_count/{name}: {} threads, {} words, {} distinct: \
             {median:.1} M words/s ({low:.1}..{high:.1})",
            executor.threads(),
            sums[0].words,
            sums[0].distinct,
        );
    }
    times
}

fn ratio(what: &str, over: &Took, under: &Took) {
    let of = |over: &[f64], under: &[f64]| {
        spread(over.iter().zip(under).map(|(over, under)| over / under).collect())
    };
    let ((low, median, high), cpu) = (of(&over.wall, &under.wall), of(&over.cpu, &under.cpu).1);
    println!("exec/word_count: {median:.2}x of {what} ({low:.2}..{high:.2}), by CPU {cpu:.2}x");
}

fn main() {
    let given = |name: &str| std::env::args().any(|word| word == name);
    let number = |text: String| text.parse::<usize>().ok();
    let count = std::env::var("SAWMILL_S1_BATCHES").ok().and_then(number).unwrap_or(2);
    let threads = std::env::args().find_map(number).unwrap_or(0);
    let (bytes, runs) = if is_test() { (BATCH_BYTES / 256, 1) } else { (BATCH_BYTES, ROUNDS) };
    let batches: Vec<_> = (0..count as u64).map(|seed| Batch::new(seed, bytes)).collect();
    let [hand, combined, datasets] = rounds(threads, &batches, runs);
    ratio("the loop by hand", &hand, &datasets);
    ratio("the loop by hand that combines", &combined, &datasets);
    if given("scaling") {
        let [hand_1, _, datasets_1] = rounds(1, &batches, runs);
        let gain = |one: &Took, all: &Took| spread(one.wall.clone()).1 / spread(all.wall.clone()).1;
        let (hand, datasets) = (gain(&hand_1, &hand), gain(&datasets_1, &datasets));
        println!(
            "exec/word_count/scaling: by hand {hand:.2}x, datasets {datasets:.2}x, ratio {:.2}",
            datasets / hand
        );
    }
}
