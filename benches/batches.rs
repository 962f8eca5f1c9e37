//! What does a batch cost, and how long is a record on its way?
//!
//! - `overhead`: batches of one record and no operator, into a callback that does nothing: time
//!   for each batch, of which computing and publishing; the rest is one durable write, and waiting
//!   for the next record.
//! - `latency`: 10,000 records a second, appended durably by four threads, with a tick of 1 ms:
//!   from before the append to when that returns, to the callback, and to a reader of another log.
//! - `publication`: the same 256 MiB through a job into a callback that does nothing, and into
//!   files, another log (in steady state) and SQLite: throughput beside the callback's, in turns;
//!   and beside `raw`: the device, given the same bytes by nobody else, made durable by the batch.
//!   Three jobs: one that gives `all` its rows out, one that gives a `tenth`, and one that counts
//!   the `words` of each batch, ten thousand different ones; each also by its name.
//! - `commits`: publishing batches of 1,000 records into files and into SQLite, beside what such a
//!   commit costs by itself: an append and a sync, and a transaction.
//!
//! `cargo bench --bench batches --features sqlite [-- WORK..]`; `SAWMILL_BENCH_SECONDS` for how
//! long `latency` runs (default 5).

#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]
#![allow(clippy::print_stdout, reason = "the table is what this prints")]
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of a bench")]
#![allow(clippy::cast_precision_loss, reason = "figures of a bench")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sawmill::{
    CommittedRows, Engine, EngineOptions, Event, EventListener, Job, JobBuilder, Received,
    RunOptions, Stream, Trigger, Wal, WalOptions, name,
};

type Bytes = Stream<sawmill::Bytes>;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    // `cargo test --benches` says no `--bench`: hardly anything then.
    if std::env::args().all(|arg| arg != "--bench") {
        return overhead(30);
    }
    let wanted = |work: &str| asked.is_empty() || asked.iter().any(|asked| asked == work);
    if wanted("overhead") {
        overhead(3000);
    }
    if wanted("latency") {
        latency("for_each_batch");
        latency("write_log");
    }
    for work in WORKS {
        if wanted("publication") || wanted(work.name) {
            publication(work);
        }
    }
    if wanted("commits") {
        commits();
    }
}

fn place() -> tempfile::TempDir {
    match std::env::var_os("SAWMILL_BENCH_DIR") {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")),
    }
    .unwrap()
}

/// The value below which so many of a hundred lie.
fn percentile(sorted: &[u64], percent: f64) -> f64 {
    #[allow(clippy::cast_sign_loss, reason = "an index")]
    let at = ((sorted.len() - 1) as f64 * percent / 100.0) as usize;
    Duration::from_nanos(sorted[at]).as_secs_f64() * 1e3
}

fn print(what: &str, mut nanos: Vec<u64>) {
    nanos.sort_unstable();
    println!(
        "{what:<24} {:>8} values  median {:>7.3} ms  p99 {:>7.3} ms  max {:>7.3} ms",
        nanos.len(),
        percentile(&nanos, 50.0),
        percentile(&nanos, 99.0),
        percentile(&nanos, 100.0)
    );
}

type Reports = Arc<Mutex<Vec<sawmill::BatchReport>>>;

/// Keeps what a job says about its batches.
fn listener() -> (Reports, EventListener) {
    let reports = Reports::default();
    let kept = Arc::clone(&reports);
    let listener = move |event: &Event| {
        if let Event::BatchCompleted(report) = event {
            kept.lock().unwrap().push(report.clone());
        }
    };
    (reports, Arc::new(listener))
}

fn overhead(batches: u32) {
    let place = place();
    let engine = Engine::open(place.path(), EngineOptions::default()).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    let (reports, listener) = listener();
    let (job, ()) = Job::build(name!("nothing"), |job| {
        let rows = job.source(name!("in"), Received::from(&events));
        rows.for_each_batch(name!("nothing"), |_| Ok(()));
    })
    .unwrap();
    // One record a batch, all there before: nothing waits for a record.
    (0..batches).for_each(|_| drop(events.submit(b"one").unwrap()));
    engine.log().sync().unwrap();
    await_prepared(engine.log());
    let options = RunOptions {
        trigger: Trigger::Records(1),
        on_event: Some(listener),
        ..RunOptions::default()
    };
    let begun = Instant::now();
    engine.start(job, options).unwrap().drain().unwrap();
    let each = begun.elapsed() / batches;
    let raw = raw_append(&engine);
    let reports = reports.lock().unwrap();
    println!("overhead: {each:?} a batch; a lone durable append beside it {raw:?}");
    let part = |of: fn(&sawmill::BatchReport) -> Duration| {
        reports.iter().map(|report| of(report).as_nanos() as u64).collect::<Vec<u64>>()
    };
    print("  whole", part(|report| report.processing_time));
    print("  computing", part(|report| report.computing));
    print("  publishing", part(|report| report.publishing));
}

/// The median of lone durable appends.
fn raw_append(engine: &Engine) -> Duration {
    let mut nanos: Vec<u64> = (0..1000)
        .map(|_| {
            let begun = Instant::now();
            engine.log().append(b"one").unwrap();
            begun.elapsed().as_nanos() as u64
        })
        .collect();
    nanos.sort_unstable();
    Duration::from_nanos(nanos[nanos.len() / 2])
}

fn latency(sink: &str) {
    let seconds = std::env::var("SAWMILL_BENCH_SECONDS").ok().and_then(|s| s.parse().ok());
    let (place, target) = (place(), place());
    let engine = Engine::open(place.path(), EngineOptions::default()).unwrap();
    let target = Wal::open(target.path().join("target"), WalOptions::default()).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    let zero = Instant::now();
    let (nanos, durable): (Arc<Mutex<Vec<u64>>>, Mutex<Vec<u64>>) = Default::default();
    let see = {
        let nanos = Arc::clone(&nanos);
        move |record: &[u8]| {
            let sent = u64::from_le_bytes(record[..8].try_into().unwrap());
            nanos.lock().unwrap().push(zero.elapsed().as_nanos() as u64 - sent);
        }
    };
    let (job, ()) = Job::build(name!("latency"), |job| {
        let rows = job.source(name!("in"), Received::from(&events));
        let see = see.clone();
        match sink {
            "write_log" => rows.write_log(name!("log"), &target, "rows"),
            _ => rows.for_each_batch(name!("callback"), move |batch| {
                batch.rows().for_each(|row| see(row));
                Ok(())
            }),
        }
    })
    .unwrap();
    let trigger = Trigger::Interval(Duration::from_millis(1));
    let run = engine.start(job, RunOptions { trigger, ..RunOptions::default() }).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if sink == "write_log" {
            scope.spawn(|| {
                let mut rows = CommittedRows::of(&target, "rows").unwrap();
                while !ended.load(Ordering::Relaxed) {
                    while let Some(row) = rows.next() {
                        see(&row.unwrap().payload);
                    }
                    std::thread::sleep(Duration::from_micros(100));
                }
            });
        }
        let writers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (begun, step) = (Instant::now(), Duration::from_micros(400));
                    let all = Duration::from_secs(seconds.unwrap_or(5)).as_micros() / 400;
                    let mut waits = Vec::with_capacity(all as usize);
                    for number in 0..all as u32 {
                        // What comes late is sent at once, and its lateness counts.
                        let due = begun + step * number;
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        let sent = due.duration_since(zero).as_nanos() as u64;
                        let mut record = [0; 100];
                        record[..8].copy_from_slice(&sent.to_le_bytes());
                        events.append(&record).unwrap();
                        waits.push(zero.elapsed().as_nanos() as u64 - sent);
                    }
                    durable.lock().unwrap().append(&mut waits);
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        std::thread::sleep(Duration::from_millis(50));
        ended.store(true, Ordering::Relaxed);
    });
    let progress = run.stop().unwrap();
    print(&format!("latency, {sink}"), nanos.lock().unwrap().clone());
    print("  until it is durable", durable.into_inner().unwrap());
    println!("  in {} batches", progress.batches);
}

const RECORD: usize = 128;
const INPUT: usize = 256 << 20;
const RECORDS: usize = INPUT / RECORD;
/// Input bytes of a batch.
const BATCH: usize = 4 << 20;

/// What a job makes of its records.
#[derive(Clone, Copy)]
struct Work {
    name: &'static str,
    rows: fn(&Bytes) -> Bytes,
    /// One in so many bytes comes out, about.
    share: usize,
}

const WORKS: [Work; 3] = [
    Work { name: "all", rows: Bytes::clone, share: 1 },
    Work { name: "tenth", rows: |rows| rows.filter(|row| row[0] % 10 == 0), share: 10 },
    Work { name: "words", rows: counts, share: 30 },
];

fn counts(rows: &Bytes) -> Bytes {
    let words = rows.flat_map_rows::<sawmill::Bytes>(|row, out| {
        row.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).for_each(|w| out.push(w));
    });
    words.count_by_value().flat_map_rows::<sawmill::Bytes>(|(word, count), out| {
        let mut line = word.to_vec();
        write!(line, " {count}").unwrap();
        out.push(&line);
    })
}

/// Words of four digits, the small ones more often.
fn line(state: &mut u64, record: &mut [u8; RECORD]) {
    for (number, place) in record.chunks_mut(5).enumerate() {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (a, b) = ((*state >> 33) % 10_000, (*state >> 13) % 10_000);
        let word = if number == 0 { a } else { a * b / 10_000 };
        let text = format!("{word:04} ");
        place.copy_from_slice(&text.as_bytes()[..place.len()]);
    }
}

/// Seconds for all records through a job with these sinks: at the pace from its first batch to its
/// last, without the start, which looks through the log once.
fn through(work: Work, sinks: impl Fn(&mut JobBuilder, &Bytes, &Path)) -> f64 {
    let place = place();
    let engine = Engine::open(place.path().join("data"), EngineOptions::default()).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    let (mut record, mut state) = ([0; RECORD], 1);
    for _ in 0..RECORDS {
        line(&mut state, &mut record);
        drop(events.submit(&record).unwrap());
    }
    engine.log().sync().unwrap();
    await_prepared(engine.log());
    let (job, ()) = Job::build(name!("through"), |job| {
        let rows = job.source(name!("in"), Received::from(&events));
        sinks(job, &(work.rows)(&rows), place.path());
    })
    .unwrap();
    let trigger = Trigger::AvailableNow { bytes: BATCH as u64 };
    let completed: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let told = Arc::clone(&completed);
    let listener: EventListener = Arc::new(move |event: &Event| {
        if let Event::BatchCompleted(_) = event {
            told.lock().unwrap().push(Instant::now());
        }
    });
    let options = RunOptions { trigger, on_event: Some(listener), ..RunOptions::default() };
    engine.start(job, options).unwrap().await_termination().unwrap();
    let completed = completed.lock().unwrap();
    let [first, .., last] = completed[..] else { unreachable!("more than two batches") };
    let gaps = completed.len() - 1;
    (last - first).as_secs_f64() * (gaps + 1) as f64 / gaps as f64
}

/// Waits until the log has as many segments ready as it wants: making them uses the device.
fn await_prepared(log: &Wal) {
    let count = || log.stats().segments_prepared + log.stats().segments_recycled;
    let mut before = u64::MAX;
    while before != count() {
        before = count();
        std::thread::sleep(Duration::from_millis(1500));
    }
}

fn publication(work: Work) {
    #[allow(clippy::type_complexity, reason = "a table of sinks")]
    let sinks: &[(&str, &dyn Fn(&mut JobBuilder, &Bytes, &Path))] = &[
        ("for_each_batch, nothing", &|_, rows, _| {
            rows.for_each_batch(name!("nothing"), |_| Ok(()));
        }),
        ("write_text", &|_, rows, place| rows.write_text(name!("files"), place.join("out"))),
        ("write_log", &|_, rows, place| rows.write_log(name!("log"), &used(place), "rows")),
        #[cfg(feature = "sqlite")]
        ("write_sqlite", &|_, rows, place| {
            let file = place.join("rows.db");
            let table = sawmill::SqliteTable::new(file, "INSERT INTO rows VALUES (?1)")
                .with_setup("CREATE TABLE IF NOT EXISTS rows (value BLOB)");
            rows.write_sqlite(name!("sqlite"), table, |row: &Vec<u8>| vec![row.clone().into()]);
        }),
    ];
    let (mut best, mut raw) = (vec![f64::MAX; sinks.len()], f64::MAX);
    for _ in 0..3 {
        for ((_, sink), best) in sinks.iter().zip(&mut best) {
            *best = best.min(through(work, sink));
        }
        raw = raw.min(raw_batches(work.share));
    }
    let rate = |seconds: f64| (INPUT >> 20) as f64 / seconds;
    println!("publication, {}: raw {:.0} MiB/s of input", work.name, rate(raw));
    for ((name, _), seconds) in sinks.iter().zip(&best) {
        let (callback, raw) = (best[0] / seconds, raw / seconds);
        let rate = rate(*seconds);
        println!("  {name:<24} {rate:>6.0}, {callback:.2} of the callback, {raw:.2} of raw");
    }
}

/// A log that has filled segments before and uses them again.
fn used(place: &Path) -> Wal {
    let options = WalOptions { retain_bytes: Some(64 << 20), ..WalOptions::default() };
    let target = Wal::open(place.join("target"), options).unwrap();
    for _ in 0..3 {
        let rows: Vec<_> = (0..1 << 10).map(|_| target.submit(&[b'x'; 64 << 10])).collect();
        rows.into_iter().for_each(|row| drop(row.unwrap()));
        target.sync().unwrap();
    }
    await_prepared(&target);
    target
}

/// Seconds for the same bytes into a file, synced behind each batch's.
fn raw_batches(share: usize) -> f64 {
    let (place, batch) = (place(), vec![b'x'; BATCH / share]);
    let mut file = File::create(place.path().join("raw")).unwrap();
    let begun = Instant::now();
    for _ in 0..INPUT / BATCH {
        file.write_all(&batch).unwrap();
        file.sync_data().unwrap();
    }
    begun.elapsed().as_secs_f64()
}

const COMMITTED: usize = 1000;
const COMMITS: usize = 200;

/// Publishing times of batches of so many records.
fn publishing(sinks: impl Fn(&Bytes, &Path), place: &Path) -> Vec<u64> {
    let engine = Engine::open(place.join("data"), EngineOptions::default()).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    let record = [b'x'; RECORD];
    (0..COMMITTED * COMMITS).for_each(|_| drop(events.submit(&record).unwrap()));
    engine.log().sync().unwrap();
    await_prepared(engine.log());
    let (job, ()) = Job::build(name!("commits"), |job| {
        sinks(&job.source(name!("in"), Received::from(&events)), place);
    })
    .unwrap();
    let (reports, listener) = listener();
    let options = RunOptions {
        trigger: Trigger::Records(COMMITTED as u64),
        on_event: Some(listener),
        ..RunOptions::default()
    };
    engine.start(job, options).unwrap().drain().unwrap();
    let reports = reports.lock().unwrap();
    reports.iter().map(|report| report.publishing.as_nanos() as u64).collect()
}

/// Times of a call.
fn timed(mut call: impl FnMut()) -> Vec<u64> {
    let time = |_| {
        let begun = Instant::now();
        call();
        begun.elapsed().as_nanos() as u64
    };
    (0..COMMITS).map(time).collect()
}

fn commits() {
    let place = place();
    let at = place.path();
    print(
        "commits, write_text",
        publishing(
            |rows, at| {
                rows.write_text(name!("files"), at.join("out"));
            },
            at,
        ),
    );
    let mut file = std::fs::File::create(at.join("raw")).unwrap();
    let lines = [b'x'; (RECORD + 1) * COMMITTED];
    print(
        "  an append and a sync",
        timed(|| {
            std::io::Write::write_all(&mut file, &lines).unwrap();
            file.sync_data().unwrap();
        }),
    );
    #[cfg(feature = "sqlite")]
    commits_of_sqlite();
}

#[cfg(feature = "sqlite")]
fn commits_of_sqlite() {
    let place = place();
    const TABLE: &str = "CREATE TABLE IF NOT EXISTS rows (value BLOB)";
    const INSERT: &str = "INSERT INTO rows VALUES (?1)";
    print(
        "commits, write_sqlite",
        publishing(
            |rows, at| {
                let table = sawmill::SqliteTable::new(at.join("rows.db"), INSERT).with_setup(TABLE);
                rows.write_sqlite(name!("sqlite"), table, |row: &Vec<u8>| vec![row.clone().into()]);
            },
            place.path(),
        ),
    );
    let mut raw = rusqlite::Connection::open(place.path().join("raw.db")).unwrap();
    raw.pragma_update(None, "synchronous", "FULL").unwrap();
    raw.execute(TABLE, []).unwrap();
    print(
        "  a transaction",
        timed(|| {
            let transaction = raw.transaction().unwrap();
            {
                let mut insert = transaction.prepare(INSERT).unwrap();
                for _ in 0..COMMITTED {
                    insert.execute([&[b'x'; RECORD][..]]).unwrap();
                }
            }
            transaction.commit().unwrap();
        }),
    );
}
