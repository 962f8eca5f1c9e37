//! A running word count (S1) with checkpoints: what they cost it, and what they save it when it is
//! killed.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sawmill::{
    Bytes, Engine, EngineOptions, Job, Received, RunOptions, StateHandle, StreamRun, name,
};
use xxhash_rust::xxh3::xxh3_64;

use super::{DAY, MIB, common, median, place};

/// 50 M words with 1 M different ones.
fn text() -> Vec<u8> {
    common::zipf_text(1, 420 * MIB, 1_000_000)
}

fn word_job(engine: &Engine) -> (Job, StateHandle<Bytes, u64>) {
    let events = engine.ingest(name!("words")).unwrap();
    Job::build(name!("count"), |job| {
        let lines = job.source(name!("in"), Received::from(&events));
        let words = lines.flat_map_rows::<Bytes>(|line, out| {
            let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.for_each(|word| out.push(word));
        });
        let counted = words.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
        let counts = counted.map_with_state::<u64, ()>(name!("counts"), |_, new, count| {
            *count = Some(count.unwrap_or(0) + new.sum::<u64>());
            None
        });
        counts.state
    })
    .unwrap()
}

/// Appends a text in blocks of lines.
fn send(engine: &Engine, text: &[u8]) {
    let events = engine.ingest(name!("words")).unwrap();
    let pieces = common::cut_at_lines(text, text.len().div_ceil(4 * MIB));
    for piece in pieces {
        let lines = &text[piece];
        let mut last = None;
        for block in common::cut_at_lines(lines, lines.len().div_ceil(16 << 10)) {
            last = Some(events.submit(&lines[block]).unwrap());
        }
        last.map(|last| last.wait()).transpose().unwrap();
    }
}

fn wait_for(run: &StreamRun, bytes: u64) {
    while run.progress().input_bytes < bytes {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Seconds to count a text that is appended meanwhile, and the batch of the last checkpoint.
fn count(text: &[u8], interval: Duration) -> (f64, u64) {
    let place = place();
    let engine = Engine::open(place.path(), EngineOptions::default()).unwrap();
    let (job, _) = word_job(&engine);
    let options =
        RunOptions { checkpoint_interval: interval, recovery_budget: DAY, ..RunOptions::default() };
    let run = engine.start(job, options).unwrap();
    let begun = Instant::now();
    send(&engine, text);
    wait_for(&run, text.len() as u64);
    let (took, progress) = (begun.elapsed().as_secs_f64(), run.progress());
    drop(run);
    (took, progress.checkpoint.get())
}

pub(crate) fn cost(rounds: usize) {
    let text = text();
    let (mut ratios, mut taken) = (vec![], 0);
    for _ in 0..rounds {
        let (without, _) = count(&text, DAY);
        let (with, last) = count(&text, Duration::from_secs(1));
        taken = last;
        ratios.push(without / with);
        println!("cost: {} MiB in {without:.2} s without, {with:.2} s with", text.len() / MIB);
    }
    println!(
        "cost: {:.3} of the throughput without checkpoints (last one of batch {taken})",
        median(ratios)
    );
}

/// Words and their digest, whatever their order: of each word its hash, as often as it occurs.
type Sum = (u64, u64);

fn add(sum: Sum, word: &[u8], times: u64) -> Sum {
    (sum.0 + times, sum.1.wrapping_add(xxh3_64(word).wrapping_mul(times)))
}

/// Of so many bytes of a text that is repeated.
fn expected(text: &[u8], bytes: u64) -> Sum {
    let (rounds, rest) = (bytes / text.len() as u64, bytes as usize % text.len());
    let of = |bytes: &[u8], times| {
        let words = bytes.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.fold((0, 0), |sum, word| add(sum, word, times))
    };
    let (whole, part) = (of(text, rounds), of(&text[..rest], 1));
    (whole.0 + part.0, whole.1.wrapping_add(part.1))
}

fn counted(counts: &StateHandle<Bytes, u64>) -> Sum {
    let mut sum = (0, 0);
    counts.for_each(|word: &[u8], count| sum = add(sum, word, *count)).unwrap();
    sum
}

/// What the source of a job that keeps up is ahead of it.
const AHEAD: u64 = 32 << 20;

/// Counts what comes until it is killed: `restart DIR BUDGET_MS`, or `log DIR BYTES`.
pub(crate) fn child(arguments: &[String]) {
    let path = Path::new(&arguments[1]);
    let text = std::fs::read(path.with_extension("text")).unwrap();
    let engine = Engine::open(path, EngineOptions::default()).unwrap();
    let say = |line: String| {
        println!("{line}");
        std::io::stdout().flush().unwrap();
    };
    if arguments[0] == "restart" {
        let options = RunOptions {
            checkpoint_interval: Duration::from_secs(1),
            recovery_budget: Duration::from_millis(arguments[2].parse().unwrap()),
            ..RunOptions::default()
        };
        let run = engine.start(word_job(&engine).0, options).unwrap();
        say("begun".to_owned());
        let mut sent = 0;
        for piece in common::cut_at_lines(&text, text.len().div_ceil(16 * MIB)).into_iter().cycle()
        {
            sent += piece.len() as u64;
            send(&engine, &text[piece]);
            wait_for(&run, sent.saturating_sub(AHEAD));
        }
        return;
    }
    // What nobody reads keeps all of the log.
    drop(engine.ingest(name!("unread")).unwrap());
    let bytes: u64 = arguments[2].parse().unwrap();
    let options =
        RunOptions { checkpoint_interval: DAY, recovery_budget: DAY, ..RunOptions::default() };
    let run = engine.start(word_job(&engine).0, options).unwrap();
    let (begun, mut sent, mut saved) = (Instant::now(), 0, 0);
    let pieces = common::cut_at_lines(&text, 4);
    for piece in pieces.into_iter().cycle() {
        sent += piece.len() as u64;
        send(&engine, &text[piece]);
        if saved == 0 && sent * 10 >= bytes * 9 {
            wait_for(&run, sent);
            run.savepoint("ninety").unwrap();
            Engine::remove_savepoint(path, "ninety").unwrap();
            saved = sent;
        }
        if sent >= bytes {
            break;
        }
    }
    wait_for(&run, sent);
    say(format!("{} {sent} {saved}", begun.elapsed().as_secs_f64()));
    std::thread::park();
}

/// Begins a child, and returns the first line that it says.
fn begin(arguments: &[&str]) -> (Child, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut child = command.arg("child").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, line)
}

/// Opens what a killed child has left, with a job that goes on.
fn recover(path: &Path) -> (Engine, StreamRun, StateHandle<Bytes, u64>, [Duration; 2]) {
    let begun = Instant::now();
    let engine = Engine::open(path, EngineOptions::default()).unwrap();
    let opened = begun.elapsed();
    let (job, counts) = word_job(&engine);
    let options = RunOptions { recovery_budget: DAY, ..RunOptions::default() };
    let run = engine.start(job, options).unwrap();
    (engine, run, counts, [opened, begun.elapsed()])
}

pub(crate) fn restart() {
    let (home, text) = (place(), text());
    let kills = |budget| [1500, 2200, 2900].map(|kill_after| (budget, kill_after));
    for (budget, kill_after) in [kills("2000"), kills("400"), kills("150")].concat() {
        let path = home.path().join(format!("{budget}-{kill_after}"));
        std::fs::write(path.with_extension("text"), &text).unwrap();
        let (mut child, _) = begin(&["restart", path.to_str().unwrap(), budget]);
        std::thread::sleep(Duration::from_millis(kill_after));
        child.kill().unwrap();
        child.wait().unwrap();
        let told = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let engine = Engine::open(&path, EngineOptions::default()).unwrap();
        let opened = begun.elapsed();
        // The job has no sink: what it publishes is told by its progress.
        let (job, counts) = word_job(&engine);
        let told_now = Arc::clone(&told);
        let options = RunOptions {
            on_progress: Some(Arc::new(move |_| {
                told_now.fetch_add(1, Ordering::Release);
            })),
            ..RunOptions::default()
        };
        let run = engine.start(job, options).unwrap();
        let started = begun.elapsed();
        engine.ingest(name!("words")).unwrap().append(b"zzz\n").unwrap();
        while told.load(Ordering::Acquire) == 0 {
            std::thread::sleep(Duration::from_micros(100));
        }
        let published = begun.elapsed();
        let progress = run.drain().unwrap();
        let sum = expected(&text, progress.input_bytes - 4);
        assert_eq!(counted(&counts), add(sum, b"zzz", 1), "exactly what the log holds");
        println!(
            "restart: a budget of {budget} ms, killed after {kill_after} ms with {} MiB counted \
             and {} keys: opened after {opened:?}, started after {started:?}, first batch \
             published after {published:?}; {} words, all counts exact",
            progress.input_bytes / MIB as u64,
            counts.len(),
            sum.0
        );
    }
}

pub(crate) fn long_log() {
    let gib: u64 = std::env::var("SAWMILL_BENCH_GIB").map_or(10, |gib| gib.parse().unwrap());
    let (home, text) = (place(), text());
    let path = home.path().join("log");
    std::fs::write(path.with_extension("text"), &text).unwrap();
    let (mut child, line) = begin(&["log", path.to_str().unwrap(), &(gib << 30).to_string()]);
    child.kill().unwrap();
    child.wait().unwrap();
    let said: Vec<f64> = line.split_whitespace().map(|field| field.parse().unwrap()).collect();
    let [took, bytes, saved] = said[..] else { panic!("the child says {line}") };
    let checkpoint = Engine::inspect(&path, false).unwrap().checkpoints.pop().unwrap();
    let (engine, run, counts, [opened, started]) = recover(&path);
    let all = expected(&text, bytes as u64);
    assert_eq!(counted(&counts), all, "exactly what the log holds");
    let live = all.0 as f64 / took;
    let again = (all.0 - expected(&text, saved as u64).0) as f64;
    let replay = again / (started - opened).as_secs_f64();
    println!(
        "log: {} MiB, a checkpoint of {} MiB at batch {} of {}; opened after {opened:?}, started \
         after {started:?}: {:.1} M words counted again, {:.1} M/s; live {:.1} M/s; {:.2} of it",
        bytes as u64 / MIB as u64,
        checkpoint.bytes / MIB as u64,
        checkpoint.batch,
        run.progress().batch,
        again / 1e6,
        replay / 1e6,
        live / 1e6,
        replay / live
    );
    drop((run, engine));
}
