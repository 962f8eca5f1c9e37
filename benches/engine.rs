//! How close does the whole engine come to a loop written by hand?
//!
//! A running word count (S1):
//!
//! - `files`: over text files, in batches of 4 MiB, each with a plan and a completion in the log.
//! - `logged`: words that come through the log: appended in blocks of lines, one sync for each
//!   batch, in batches of 4 MiB, while the job counts what is durable.
//! - `small`: the same in batches of 12 k words (100 KB).
//! - `large`: the same in batches of 3 M words (25 MiB); only when it is asked for by name.
//!
//! Each with a checkpoint every second, which is told; `files` also with the one at the end. With
//! 64 MiB a round may be over before; with `SAWMILL_BENCH=full` it is not. Beside them two loops
//! on rayon that count the same batches: one that keeps nothing, and one that writes each batch to
//! a prepared file that it uses again and again, durably, before it counts it. All must arrive at
//! the same checksum. Rounds alternate. CPU time is that of all threads, which a busy machine
//! disturbs less than the wall clock. `cargo bench --bench engine [-- WORK..]`, with
//! `SAWMILL_BENCH=full` for 15 rounds of 256 MiB.

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
#[allow(dead_code, reason = "shared with another bench")]
mod count;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bench::Outcome;
use bench::figures::Spread;
use count::{Checksum, Counts, is_space};
use rayon::prelude::*;
use sawmill::storage::files::write_all_at;
use sawmill::storage::{
    BLOCK, BackendChoice, Channel, File, OpenMode, Storage as _, SystemStorage, files,
};
use sawmill::{
    Bytes, Engine, EngineOptions, Job, Received, RunOptions, StateHandle, StreamSource, TextFiles,
    Trigger,
};
use xxhash_rust::xxh3::xxh3_64;

const BATCH: usize = 4 << 20;
/// About 12 k words.
const SMALL: usize = 100 << 10;
/// About 3 M words.
const LARGE: usize = 25 << 20;
/// What is appended as one record, at most: a client's block of lines.
const BLOCK_OF_LINES: usize = 16 << 10;
const DISTINCT: usize = 1_000_000;
const PARTITIONS: usize = 16;
const FILES: u64 = 4;
const LOG: u64 = 64 << 20;
const SECOND: Duration = Duration::from_secs(1);

type Counted = (Job, StateHandle<Bytes, u64>);

/// Seconds, by the clock and of the processors.
#[derive(Clone, Copy)]
struct Took {
    wall: f64,
    cpu: f64,
    /// That stood before the last batch was completed.
    checkpoints: u32,
}

struct Begun {
    wall: Instant,
    cpu: f64,
}

impl Begun {
    fn now() -> Begun {
        Begun { wall: Instant::now(), cpu: count::cpu_seconds() }
    }

    fn took(&self) -> Took {
        let wall = self.wall.elapsed().as_secs_f64();
        Took { wall, cpu: count::cpu_seconds() - self.cpu, checkpoints: 0 }
    }
}

/// Checkpoints that a run has told of.
#[derive(Default)]
struct Stood {
    last: AtomicU64,
    count: AtomicU32,
}

impl Stood {
    fn see(&self, progress: &sawmill::Progress) {
        let now = progress.checkpoint.get();
        if self.last.swap(now, Ordering::Relaxed) != now {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }
}

fn job<S: StreamSource<Row = Bytes>>(source: S) -> sawmill::Result<Counted> {
    Job::build(sawmill::name!("word_count"), |job| {
        let lines = job.source(sawmill::name!("words"), source);
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
fn by_engine(place: &Path, paths: &[PathBuf]) -> Outcome<(Took, Checksum)> {
    let directory = tempfile::tempdir_in(place)?;
    let engine = Engine::open(directory.path(), EngineOptions::default())?;
    let (job, totals) = job(TextFiles::new(paths))?;
    let trigger = Trigger::AvailableNow { bytes: BATCH as u64 };
    let begun = Begun::now();
    let options = RunOptions { trigger, checkpoint_interval: SECOND, ..RunOptions::default() };
    let stood = Arc::new(Stood::default());
    let on_progress: Option<sawmill::Listener> = {
        let stood = Arc::clone(&stood);
        Some(Arc::new(move |progress| stood.see(progress)))
    };
    let run = engine.start(job, RunOptions { on_progress, ..options })?;
    run.await_termination()?;
    let took = Took { checkpoints: stood.count(), ..begun.took() };
    let mut sum = Checksum::default();
    totals.for_each(|word, count| sum.add(word, *count))?;
    engine.close()?;
    Ok((took, sum))
}

/// Seconds from the first append to the completion of the last batch, in a fresh directory.
fn by_engine_logged(place: &Path, text: &[u8], batch: usize) -> Outcome<(Took, Checksum)> {
    let directory = tempfile::tempdir_in(place)?;
    let engine = Engine::open(directory.path(), EngineOptions::default())?;
    let words = engine.ingest(sawmill::name!("words"))?;
    let (job, totals) = job(Received::from(&words))?;
    let total = text.len() as u64;
    let (told, all_done) = std::sync::mpsc::channel();
    let stood = Arc::new(Stood::default());
    let seen = Arc::clone(&stood);
    let on_progress: sawmill::Listener = Arc::new(move |progress| {
        seen.see(progress);
        if progress.input_bytes == total {
            told.send(()).ok();
        }
    });
    let options = RunOptions {
        trigger: Trigger::Bytes(batch as u64),
        checkpoint_interval: SECOND,
        on_progress: Some(on_progress),
        ..RunOptions::default()
    };
    let run = engine.start(job, options)?;
    let begun = Begun::now();
    for range in cut(text, text.len().div_ceil(batch), 0) {
        let lines = &text[range];
        let mut last = None;
        for block in cut(lines, lines.len().div_ceil(BLOCK_OF_LINES), 0) {
            last = Some(words.submit(&lines[block])?);
        }
        // One sync for the batch.
        last.map(|last| last.wait()).transpose()?;
    }
    all_done.recv()?;
    let took = Took { checkpoints: stood.count(), ..begun.took() };
    run.stop()?;
    let mut sum = Checksum::default();
    totals.for_each(|word, count| sum.add(word, *count))?;
    engine.close()?;
    Ok((took, sum))
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

/// Reads the texts, and counts them by hand: the seconds of both.
fn by_hand_from_files(
    pool: &rayon::ThreadPool,
    paths: &[PathBuf],
    log: Option<&mut Log>,
) -> Outcome<(Took, Checksum)> {
    let begun = Begun::now();
    let texts = paths.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    let read = begun.took();
    let (counted, sum) = by_hand(pool, &texts, BATCH, log)?;
    let (wall, cpu) = (read.wall + counted.wall, read.cpu + counted.cpu);
    Ok((Took { wall, cpu, checkpoints: 0 }, sum))
}

/// Seconds of the loop by hand, from texts in memory to running counts.
fn by_hand(
    pool: &rayon::ThreadPool,
    texts: &[Vec<u8>],
    batch_bytes: usize,
    mut log: Option<&mut Log>,
) -> Outcome<(Took, Checksum)> {
    let begun = Begun::now();
    let mut totals: Vec<_> = (0..PARTITIONS).map(|_| Counts::with_capacity(1024)).collect();
    for text in texts {
        for batch in cut(text, text.len().div_ceil(batch_bytes), 0) {
            if let Some(log) = &mut log {
                log.append(&text[batch.clone()])?;
            }
            let pieces = cut(&text[batch.clone()], PARTITIONS, batch.start);
            pool.install(|| count_batch(text, &pieces, &mut totals));
        }
    }
    let took = begun.took();
    let sum = totals.iter().map(|total| {
        let mut sum = Checksum::default();
        total.rows.iter().for_each(|(_, word, count)| sum.add(word, *count));
        sum
    });
    Ok((took, sum.fold(Checksum::default(), Checksum::merge)))
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

fn line(work: &str, name: &str, words: u64, took: &[Took]) {
    let rates = took.iter().map(|took| words as f64 / took.wall / 1e6).collect();
    if let Some(Spread { low, median, high }) = Spread::of(rates) {
        let busy = Spread::of(took.iter().map(|took| took.cpu / took.wall).collect());
        let busy = busy.map_or(0.0, |busy| busy.median);
        let checkpoints: u32 = took.iter().map(|took| took.checkpoints).sum();
        println!(
            "engine/{work}/{name}: {median:.1} M words/s ({low:.1}..{high:.1}), {busy:.2} \
             processors busy, {checkpoints} checkpoints in all rounds"
        );
    }
}

fn ratio(work: &str, name: &str, over: &[Took], engine: &[Took]) {
    let spread = |of: fn(&Took) -> f64| {
        Spread::of(over.iter().zip(engine).map(|(theirs, ours)| of(theirs) / of(ours)).collect())
    };
    let (wall, cpu) = (spread(|took| took.wall), spread(|took| took.cpu));
    if let (Some(Spread { low, median, high }), Some(cpu)) = (wall, cpu) {
        println!(
            "engine/{work}: {median:.2}x of {name} ({low:.2}..{high:.2}), by CPU {:.2} \
             ({:.2}..{:.2})",
            cpu.median, cpu.low, cpu.high
        );
    }
}

/// What the three ways of one work have as input.
struct Inputs<'i> {
    pool: rayon::ThreadPool,
    place: &'i Path,
    paths: Vec<PathBuf>,
    text: Vec<u8>,
    log: Log,
}

impl Inputs<'_> {
    /// One round of a work: by hand, by hand with a log, by the engine.
    fn round(&mut self, work: &str) -> Outcome<[(Took, Checksum); 3]> {
        let batch = match work {
            "small" => SMALL,
            "large" => LARGE,
            _ => BATCH,
        };
        let (pool, log) = (&self.pool, &mut self.log);
        if work == "files" {
            return Ok([
                by_hand_from_files(pool, &self.paths, None)?,
                by_hand_from_files(pool, &self.paths, Some(log))?,
                by_engine(self.place, &self.paths)?,
            ]);
        }
        // In one piece: the same batches for each.
        let texts = std::slice::from_ref(&self.text);
        Ok([
            by_hand(pool, texts, batch, None)?,
            by_hand(pool, texts, batch, Some(log))?,
            by_engine_logged(self.place, &self.text, batch)?,
        ])
    }
}

fn main() -> Outcome {
    let protocol = asked::protocol();
    let bytes = protocol.bulk_bytes;
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let (mut paths, mut all) = (Vec::new(), Vec::new());
    for seed in 0..FILES {
        let path = place.path().join(format!("{seed}.txt"));
        let text = common::zipf_text(seed, (bytes / FILES) as usize, DISTINCT);
        std::fs::write(&path, &text)?;
        paths.push(path);
        all.extend(text);
    }
    let pool = rayon::ThreadPoolBuilder::new().build()?;
    let log = Log::open(&place.path().join("raw"))?;
    let (mib, rounds, threads) = (bytes >> 20, protocol.rounds, pool.current_num_threads());
    let mut inputs = Inputs { pool, place: place.path(), paths, text: all, log };
    let names = asked::names();
    for work in ["files", "logged", "small", "large"] {
        let is_asked = names.iter().any(|name| name == work);
        if !(is_asked || (names.is_empty() && work != "large")) {
            continue;
        }
        let (mut hand, mut logged, mut engine) = (vec![], vec![], vec![]);
        let mut words = 0;
        for round in 0..=rounds {
            let [(hand_now, expected), (logged_now, also), (engine_now, found)] =
                inputs.round(work)?;
            assert_eq!((also, found), (expected, expected), "all ways count the same");
            words = found.words;
            // The first round warms the machine up.
            if round > 0 {
                hand.push(hand_now);
                logged.push(logged_now);
                engine.push(engine_now);
            }
        }
        println!("{work}: {words} words in {mib} MiB, {threads} threads, {rounds} rounds");
        line(work, "by_hand", words, &hand);
        line(work, "by_hand_with_log", words, &logged);
        line(work, "engine", words, &engine);
        ratio(work, "the loop by hand", &hand, &engine);
        ratio(work, "the loop with a log", &logged, &engine);
    }
    Ok(())
}
