//! How close does the whole engine come to a loop written by hand?
//!
//! A running word count over text files: batches of 4 MiB, a plan and a completion in the log for
//! each, a checkpoint every second and at the end. Beside it two loops on rayon that count the
//! same batches of the same files: one that keeps nothing, and one that writes each batch to a
//! prepared file, durably, before it counts it. All must arrive at the same checksum. Rounds
//! alternate. `cargo bench --bench engine`, with `SAWMILL_BENCH=full` for 15 rounds of 256 MiB.

#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]
#![allow(clippy::print_stdout, reason = "the table is what this prints")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of a bench, far below the limits"
)]

#[path = "common/asked.rs"]
#[allow(dead_code, reason = "shared with the other benches")]
mod asked;
#[path = "../src/bin/sawmill/bench/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the command line and the other benches")]
mod bench;
mod common;
#[path = "common/count.rs"]
mod count;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bench::Outcome;
use bench::figures::Spread;
use count::{Checksum, Counts, is_space};
use rayon::prelude::*;
use sawmill::storage::files::write_all_at;
use sawmill::storage::{
    BLOCK, BackendChoice, Channel, File, OpenMode, Storage as _, SystemStorage, files,
};
use sawmill::{Bytes, Engine, EngineOptions, Job, RunOptions, StateHandle, TextFiles, Trigger};
use xxhash_rust::xxh3::xxh3_64;

const BATCH: usize = 4 << 20;
const DISTINCT: usize = 1_000_000;
const PARTITIONS: usize = 16;
const FILES: u64 = 4;
const LOG: u64 = 64 << 20;

fn job(paths: &[PathBuf]) -> sawmill::Result<(Job, StateHandle<Bytes, u64>)> {
    Job::build(sawmill::name!("word_count"), |job| {
        let lines = job.source(sawmill::name!("files"), TextFiles::new(paths));
        let words = lines.flat_map_rows::<Bytes>(|line, out| {
            line.split(is_space).filter(|word| !word.is_empty()).for_each(|word| out.push(word));
        });
        let counts = words.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
        let total = sawmill::name!("totals");
        let totals = counts.map_with_state::<u64, ()>(total, |_, counts, total| {
            *total = Some(total.unwrap_or(0) + counts.sum::<u64>());
            None
        });
        totals.state
    })
}

/// Seconds from the start of the job to its end, with its last checkpoint, in a fresh directory.
fn by_engine(place: &Path, paths: &[PathBuf]) -> Outcome<(f64, Checksum)> {
    let directory = tempfile::tempdir_in(place)?;
    let engine = Engine::open(directory.path(), EngineOptions::default())?;
    let (job, totals) = job(paths)?;
    let trigger = Trigger::AvailableNow { bytes: BATCH as u64 };
    let begun = Instant::now();
    let run = engine.start(job, RunOptions { trigger, ..RunOptions::default() })?;
    run.await_termination()?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut sum = Checksum::default();
    totals.for_each(|word, count| sum.add(word, *count))?;
    engine.close()?;
    Ok((seconds, sum))
}

/// A file that each batch goes to before it is counted; round and round.
struct Log {
    file: Arc<dyn File>,
    channel: Box<dyn Channel>,
    offset: u64,
}

impl Log {
    fn open(path: &Path) -> Outcome<Log> {
        let directory = SystemStorage::new(BackendChoice::Auto)?.directory(path, true)?;
        let file = directory.open("log", OpenMode::CreateDirect)?;
        file.allocate(LOG)?;
        let mut channel = directory.channel()?;
        files::fill_zeros(&mut *channel, &file, 0, LOG)?;
        file.sync()?;
        Ok(Log { file, channel, offset: 0 })
    }

    fn append(&mut self, bytes: &[u8]) -> Outcome {
        // Whole blocks: what is behind the last one would be padding.
        let bytes = &bytes[..bytes.len() / BLOCK * BLOCK];
        std::hint::black_box(crc_fast::crc32_iscsi(bytes));
        if self.offset + bytes.len() as u64 > LOG {
            self.offset = 0;
        }
        write_all_at(&mut *self.channel, &self.file, self.offset, bytes, true)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

fn cut(text: &[u8], into: usize, base: usize) -> Vec<Range<usize>> {
    let ranges = common::cut_at_lines(text, into).into_iter();
    ranges.map(|range| base + range.start..base + range.end).collect()
}

/// Seconds of the loop by hand, from the files to running counts.
fn by_hand(
    pool: &rayon::ThreadPool,
    paths: &[PathBuf],
    mut log: Option<&mut Log>,
) -> Outcome<(f64, Checksum)> {
    let begun = Instant::now();
    let texts = paths.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    let mut totals: Vec<_> = (0..PARTITIONS).map(|_| Counts::with_capacity(1024)).collect();
    for text in &texts {
        for batch in cut(text, text.len().div_ceil(BATCH), 0) {
            if let Some(log) = &mut log {
                log.append(&text[batch.clone()])?;
            }
            let pieces = cut(&text[batch.clone()], PARTITIONS, batch.start);
            pool.install(|| count_batch(text, &pieces, &mut totals));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let sum = totals.iter().map(|total| {
        let mut sum = Checksum::default();
        total.rows.iter().for_each(|(_, word, count)| sum.add(word, *count));
        sum
    });
    Ok((seconds, sum.fold(Checksum::default(), Checksum::merge)))
}

fn count_batch<'t>(text: &'t [u8], pieces: &[Range<usize>], totals: &mut [Counts<'t>]) {
    let count = |piece: &Range<usize>| {
        let mut tables: Vec<_> = (0..PARTITIONS).map(|_| Counts::with_capacity(256)).collect();
        for word in text[piece.clone()].split(is_space).filter(|word| !word.is_empty()) {
            let hash = xxh3_64(word);
            tables[(hash >> 60) as usize].add(hash, word, 1);
        }
        tables
    };
    let counted: Vec<Vec<Counts<'t>>> = pieces.par_iter().with_max_len(1).map(count).collect();
    totals.par_iter_mut().with_max_len(1).enumerate().for_each(|(partition, total)| {
        for tables in &counted {
            for &(hash, word, count) in &tables[partition].rows {
                total.add(hash, word, count);
            }
        }
    });
}

fn line(name: &str, words: u64, seconds: &[f64]) {
    let rates = seconds.iter().map(|seconds| words as f64 / seconds / 1e6).collect();
    if let Some(Spread { low, median, high }) = Spread::of(rates) {
        println!("engine/word_count/{name}: {median:.1} M words/s ({low:.1}..{high:.1})");
    }
}

fn ratio(name: &str, over: &[f64], engine: &[f64]) {
    let ratios = over.iter().zip(engine).map(|(theirs, ours)| theirs / ours).collect();
    if let Some(Spread { low, median, high }) = Spread::of(ratios) {
        println!("engine/word_count: {median:.2}x of {name} ({low:.2}..{high:.2})");
    }
}

fn main() -> Outcome {
    let protocol = asked::protocol();
    let bytes = protocol.bulk_bytes;
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut paths = Vec::new();
    for seed in 0..FILES {
        let path = place.path().join(format!("{seed}.txt"));
        std::fs::write(&path, common::zipf_text(seed, (bytes / FILES) as usize, DISTINCT))?;
        paths.push(path);
    }
    let pool = rayon::ThreadPoolBuilder::new().build()?;
    let mut log = Log::open(&place.path().join("raw"))?;
    let (mut hand, mut logged, mut engine) = (vec![], vec![], vec![]);
    let mut words = 0;
    for round in 0..=protocol.rounds {
        let (hand_now, expected) = by_hand(&pool, &paths, None)?;
        let (logged_now, also) = by_hand(&pool, &paths, Some(&mut log))?;
        let (engine_now, found) = by_engine(place.path(), &paths)?;
        assert_eq!((also, found), (expected, expected), "all ways count the same");
        words = found.words;
        // The first round warms the machine up.
        if round > 0 {
            hand.push(hand_now);
            logged.push(logged_now);
            engine.push(engine_now);
        }
    }
    let (mib, rounds) = (bytes >> 20, protocol.rounds);
    println!("{words} words in {mib} MiB, {} threads, {rounds} rounds", pool.current_num_threads());
    line("by_hand", words, &hand);
    line("by_hand_with_log", words, &logged);
    line("engine", words, &engine);
    ratio("the loop by hand", &hand, &engine);
    ratio("the loop with a log", &logged, &engine);
    Ok(())
}
