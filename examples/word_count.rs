//! Counts the words of files, each exactly once, through any number of kills.
//!
//! ```text
//! cargo run --release --example word_count -- \
//!     [--data DIR] [--threads N] [--rate RECORDS_PER_S] FILE...
//! ```
//!
//! prints `count<TAB>word`, highest count first, ties by the bytes of the word. Kill it at any
//! moment, start it again with the same `--data` and files: it goes on where it was, and prints
//! what it would have printed. `--rate` slows it down to so many lines a second, to be watched.
//! Exit code 2 if it could not: bad arguments, or a file that is not what was read before.

#![allow(clippy::disallowed_methods, reason = "sawmill's seams are not its users'")]

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use sawmill::{
    Bytes, Engine, EngineOptions, Job, Progress, RunOptions, StateHandle, StreamRun, TextFiles,
    Trigger, WalOptions, name,
};

const USAGE: &str = "usage: word_count [--data DIR] [--threads N] [--rate RECORDS_PER_S] FILE...";

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What separates words: C `isspace`, the bytes 9 to 13 and 32.
fn is_space(byte: &u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

/// The job: lines to words, words to their counts in the batch, these to totals that last.
fn word_count(files: &[PathBuf]) -> sawmill::Result<(Job, StateHandle<Bytes, u64>)> {
    Job::build(name!("word_count"), |job| {
        let lines = job.source(name!("files"), TextFiles::new(files));
        let words = lines.flat_map_rows::<Bytes>(|line, out| {
            line.split(is_space).filter(|word| !word.is_empty()).for_each(|word| out.push(word));
        });
        let counts = words.pair_with(|_word| 1u64).reduce_by_key(|a, b| a + b);
        let totals = counts.map_with_state::<u64, ()>(name!("totals"), |_word, counts, total| {
            *total = Some(total.unwrap_or(0) + counts.sum::<u64>());
            None
        });
        totals.state
    })
}

/// Opens the directory, runs the job to the end of its input, prints the totals.
fn run(arguments: &Arguments, data: &Path) -> Outcome<()> {
    // The files' bytes do not go through the log, only what was read of which: it stays small.
    let log = WalOptions { segment_size: 16 << 20, ..WalOptions::default() };
    let options = EngineOptions { threads: arguments.threads, log, ..EngineOptions::default() };
    let engine = Engine::open(data, options)?;
    let (job, totals) = word_count(&arguments.files)?;

    let (sender, reports) = channel();
    let pace = OnceLock::new();
    let rate = arguments.rate;
    let on_progress = move |progress: &Progress| {
        sender.send(progress.clone()).ok();
        if let Some(rate) = rate {
            // What was read before the first report, to recover, needs no slowing down.
            let (since, from) = *pace.get_or_init(|| (Instant::now(), progress.records_read));
            let due = (progress.records_read - from) as f64 / rate;
            std::thread::sleep(Duration::from_secs_f64(due).saturating_sub(since.elapsed()));
        }
    };
    let run = engine.start(
        job,
        RunOptions {
            trigger: Trigger::AvailableNow { bytes: batch_bytes(rate) },
            checkpoint_interval: Duration::from_secs(1),
            on_progress: Some(Arc::new(on_progress)),
            ..RunOptions::default()
        },
    )?;
    show(&run, &reports);
    let progress = run.await_termination()?;
    engine.close()?;

    print(&totals)?;
    let recovered = progress.recovered_batch.map_or("none".to_owned(), |batch| batch.to_string());
    say(&format!(
        "done: batches={} bytes_read={} input_bytes={} recovered_batch={recovered}",
        progress.batches, progress.bytes_read, progress.input_bytes
    ));
    Ok(())
}

/// 4 MiB at full speed; slowed down, about 20 batches a second of lines of 32 bytes: so that there
/// is something to see, and little to do again, whenever it is killed.
fn batch_bytes(rate: Option<f64>) -> u64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in these bounds")]
    rate.map_or(4 << 20, |rate| (rate * 32.0 / 20.0).clamp(1.0, f64::from(4 << 20)) as u64)
}

/// Prints a line for every batch, and at least one every 100 ms, until the job ends.
fn show(run: &StreamRun, reports: &Receiver<Progress>) {
    let start = Instant::now();
    let mut progress = run.progress();
    let recovered = progress.records_read;
    loop {
        if let Some(alarm) = &progress.checkpoint_alarm {
            say(&format!("the checkpoint failed: {alarm}"));
        }
        let Progress { batch, checkpoint, records_read, bytes_read, .. } = &progress;
        let rate = (records_read - recovered) as f64 / start.elapsed().as_secs_f64();
        say(&format!(
            "batch={batch} checkpoint={checkpoint} records={records_read} rate={rate:.0}/s \
             bytes_read={bytes_read}"
        ));
        progress = match reports.recv_timeout(Duration::from_millis(90)) {
            Ok(progress) => progress,
            Err(RecvTimeoutError::Timeout) => run.progress(),
            Err(RecvTimeoutError::Disconnected) => return,
        };
    }
}

/// Prints all totals, highest first.
fn print(totals: &StateHandle<Bytes, u64>) -> Outcome<()> {
    let mut rows = Vec::with_capacity(totals.len());
    totals.for_each(|word, total| rows.push((*total, word.to_vec())))?;
    rows.sort_unstable_by(|(a, a_word), (b, b_word)| b.cmp(a).then_with(|| a_word.cmp(b_word)));
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    for (total, word) in rows {
        write!(out, "{total}\t")?;
        out.write_all(&word)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// A line on standard error, in one piece: whoever kills us gets whole lines.
fn say(line: &str) {
    // Nobody may be there to read it; the counts matter more.
    io::stderr().write_all(format!("{line}\n").as_bytes()).ok();
}

#[derive(Default)]
struct Arguments {
    data: Option<PathBuf>,
    threads: usize,
    rate: Option<f64>,
    files: Vec<PathBuf>,
}

fn parse(mut given: impl Iterator<Item = OsString>) -> Outcome<Arguments> {
    let mut arguments = Arguments::default();
    while let Some(argument) = given.next() {
        let option = argument.to_str().unwrap_or_default();
        let mut value = || given.next().ok_or(format!("{option} needs a value; {USAGE}"));
        match option {
            "--data" => arguments.data = Some(value()?.into()),
            "--threads" => arguments.threads = number(option, &value()?)?,
            "--rate" => arguments.rate = Some(f64::from(number::<u32>(option, &value()?)?)),
            "--" => arguments.files.extend(given.by_ref().map(PathBuf::from)),
            _ if option.starts_with("--") => {
                return Err(format!("{option} is no option; {USAGE}").into());
            }
            _ => arguments.files.push(argument.into()),
        }
    }
    if arguments.files.is_empty() {
        return Err(format!("name at least one file; {USAGE}").into());
    }
    Ok(arguments)
}

/// A number of at least 1.
fn number<N: std::str::FromStr + Default + PartialEq>(of: &str, value: &OsString) -> Outcome<N> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    let number = number.filter(|number| *number != N::default());
    number.ok_or_else(|| format!("{of} needs a number from 1 on, not {}", value.display()).into())
}

fn count() -> Outcome<()> {
    let arguments = parse(std::env::args_os().skip(1))?;
    match &arguments.data {
        Some(data) => run(&arguments, data),
        None => {
            say("counting in a temporary directory; with --data DIR a killed run can go on later");
            let temporary = tempfile::Builder::new().prefix("word_count-").tempdir()?;
            let outcome = run(&arguments, temporary.path());
            temporary.close()?;
            outcome
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn main() -> ExitCode {
    match count() {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads the counts has seen enough, as `head` does.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("word_count: {error}"));
            ExitCode::from(2)
        }
    }
}
