//! Counts the words of files, exactly once each, through any number of kills.
//!
//! `cargo run --release --example word_count -- [--data DIR] [--threads N] [--rate RECORDS_PER_S]
//! FILE...` prints `count<TAB>word`, highest count first. With `--data` a killed run goes on where
//! it was when it is started again; without, the state is in a temporary directory.

#![allow(clippy::disallowed_methods, reason = "a program of its own, with its own clock")]

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sawmill::{
    Bytes, Engine, EngineOptions, ErrorKind, Job, Progress, RunOptions, StateHandle, StreamRun,
    TextFiles, Trigger, name,
};

const USAGE: &str = "usage: word_count [--data DIR] [--threads N] [--rate RECORDS_PER_S] FILE...";

#[derive(Default)]
struct Arguments {
    data: Option<PathBuf>,
    threads: usize,
    rate: Option<u64>,
    files: Vec<PathBuf>,
}

fn parse(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Arguments, String> {
    let mut parsed = Arguments::default();
    let mut options = true;
    while let Some(argument) = arguments.next() {
        let mut value = |of| arguments.next().ok_or(format!("{of} needs a value"));
        let number = |of, value: std::ffi::OsString| {
            value.to_str().and_then(|text| text.parse().ok()).ok_or(format!("{of} needs a number"))
        };
        match argument.to_str().filter(|_| options) {
            Some("--") => options = false,
            Some("--data") => parsed.data = Some(value("--data")?.into()),
            Some("--threads") => {
                let threads: u64 = number("--threads", value("--threads")?)?;
                parsed.threads = usize::try_from(threads).unwrap_or(usize::MAX);
            }
            Some("--rate") => parsed.rate = Some(number("--rate", value("--rate")?)?),
            Some(unknown) if unknown.starts_with("--") => {
                return Err(format!("unknown option {unknown}"));
            }
            _ => parsed.files.push(argument.into()),
        }
    }
    match (parsed.files.is_empty(), parsed.rate) {
        (true, _) => Err("name at least one file".to_owned()),
        (_, Some(0)) => Err("--rate is at least 1".to_owned()),
        _ => Ok(parsed),
    }
}

/// A new directory of our own, removed with all that is in it.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> io::Result<Temporary> {
        let base = std::env::temp_dir();
        for attempt in 0..1000 {
            let name = format!("sawmill-word-count-{}-{attempt}", std::process::id());
            match std::fs::create_dir(base.join(&name)) {
                Ok(()) => return Ok(Temporary(base.join(name))),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            say(&format!("{} could not be removed: {error}", self.0.display()));
        }
    }
}

/// One line on stderr. Nobody may be listening.
fn say(line: &str) {
    writeln!(io::stderr().lock(), "{line}").ok();
}

/// Prints progress, and slows the job down if asked to.
struct Reporter {
    start: Instant,
    records: Arc<AtomicU64>,
    rate: Option<u64>,
    /// When recovery was done, and how many records it had seen: they are not slowed down.
    recovered: OnceLock<(Instant, u64)>,
    printed: Mutex<Instant>,
}

impl Reporter {
    fn print(&self, progress: &Progress) {
        let records = self.records.load(Ordering::Relaxed);
        let seconds = self.start.elapsed().as_secs_f64().max(1e-9);
        let alarm = progress.checkpoint_alarm.as_deref();
        let alarm = alarm.map_or(String::new(), |text| format!(" CHECKPOINT FAILED: {text}"));
        say(&format!(
            "records={records} rate={:.0}/s batch={} checkpoint={}{alarm} bytes_read={}",
            records as f64 / seconds,
            progress.batch,
            progress.checkpoint,
            progress.bytes_read
        ));
        *self.printed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// On the driver's thread, behind each batch.
    fn batch(&self, progress: &Progress) {
        self.print(progress);
        if let Some(rate) = self.rate {
            let records = self.records.load(Ordering::Relaxed);
            let (since, recovered) = *self.recovered.wait();
            let records = records.saturating_sub(recovered);
            let due = Duration::from_secs_f64(records as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(since.elapsed()));
        }
    }

    /// A line at least every 100 ms, until the job has ended.
    fn watch(&self, run: &StreamRun) {
        while !run.is_ended() {
            std::thread::sleep(Duration::from_millis(10));
            let printed = *self.printed.lock().unwrap_or_else(PoisonError::into_inner);
            if printed.elapsed() >= Duration::from_millis(80) {
                self.print(&run.progress());
            }
        }
    }
}

/// What separates words: C `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn count(
    arguments: &Arguments,
    data: &Path,
) -> sawmill::Result<(StateHandle<Bytes, u64>, Progress)> {
    let options = EngineOptions { threads: arguments.threads, ..EngineOptions::default() };
    let engine = Engine::open(data, options)?;
    let records = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&records);
    let (job, counts) = Job::build(name!("word_count"), |job| {
        let lines = job.source(name!("files"), TextFiles::new(&arguments.files));
        let words = lines.flat_map_rows::<Bytes>(move |line, out| {
            seen.fetch_add(1, Ordering::Relaxed);
            for word in line.split(|byte| is_space(*byte)).filter(|word| !word.is_empty()) {
                out.push(word);
            }
        });
        let counted = words.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
        let counts = counted.map_with_state::<u64, ()>(name!("counts"), |_, new, count| {
            *count = Some(count.unwrap_or(0) + new.sum::<u64>());
            None
        });
        counts.state
    })?;
    // Slowed down, a batch should still take less than the 100 ms between two lines.
    let bytes = if arguments.rate.is_some() { 1 << 20 } else { 4 << 20 };
    let now = Instant::now();
    let reporter = Arc::new(Reporter {
        start: now,
        records,
        rate: arguments.rate,
        recovered: OnceLock::new(),
        printed: Mutex::new(now),
    });
    let told = Arc::clone(&reporter);
    let run = engine.start(
        job,
        RunOptions {
            trigger: Trigger::AvailableNow { bytes },
            on_progress: Some(Arc::new(move |progress| told.batch(progress))),
            ..RunOptions::default()
        },
    )?;
    let seen = reporter.records.load(Ordering::Relaxed);
    reporter.recovered.get_or_init(|| (Instant::now(), seen));
    reporter.print(&run.progress());
    reporter.watch(&run);
    let progress = run.await_termination()?;
    engine.close()?;
    Ok((counts, progress))
}

fn print(counts: &StateHandle<Bytes, u64>) -> Result<(), Box<dyn std::error::Error>> {
    let mut rows = Vec::with_capacity(counts.len());
    counts.for_each(|word, count| rows.push((*count, word.to_vec())))?;
    rows.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let mut out = BufWriter::new(io::stdout().lock());
    for (count, word) in rows {
        write!(out, "{count}\t")?;
        out.write_all(&word)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let temporary = match &arguments.data {
        Some(_) => None,
        None => {
            say("the state is in a temporary directory; --data DIR makes a run resumable");
            Some(Temporary::new()?)
        }
    };
    let kept = arguments.data.as_deref();
    let data = temporary.as_ref().map(|temporary| temporary.0.as_path()).or(kept);
    let (counts, progress) = count(arguments, data.ok_or("no directory for the state")?)?;
    print(&counts)?;
    let recovered = progress.recovered_batch;
    say(&format!(
        "done: batches={} bytes_read={} input_bytes={} recovered_batch={}",
        progress.batches,
        progress.bytes_read,
        progress.input_bytes,
        recovered.map_or("none".to_owned(), |batch| batch.to_string())
    ));
    Ok(())
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(text) => {
            say(&format!("{text}\n{USAGE}"));
            return ExitCode::FAILURE;
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("word_count: {error}"));
            let changed = error
                .downcast_ref::<sawmill::Error>()
                .is_some_and(|error| error.kind() == ErrorKind::SourceChanged);
            if changed { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
