//! Hours in minutes: writers, truncation, recycling, and tailing readers, one that stalls and one
//! in another process; memory, descriptors and disk must not grow, and every LSN is looked at.
//!
//! The short one runs by count, not by time. `just soak` runs the long one for
//! `SAWMILL_SOAK_SECONDS` (600) with `SAWMILL_SOAK_WRITERS` (64) threads.
#![allow(clippy::unwrap_used, reason = "a test stops at what fails")]
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it says what it saw")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sawmill::storage::{BackendChoice, LockKind, OpenMode, Storage, SystemStorage};
use sawmill::{ErrorKind, Lsn, Wal, WalOptions};

const SEGMENT: u64 = 256 << 10;
const RETAINED: u64 = 16;
/// Names the log that the reader in another process reads.
const READER: &str = "SAWMILL_SOAK_READER";
/// So many records the log has to lose below the reader that stalls.
const STALL: u64 = 5_000;
/// So far writers may be ahead of the reader that checks.
const LEAD: u64 = 10_000;

fn options() -> WalOptions {
    WalOptions {
        segment_size: SEGMENT,
        memory: 4 << 20,
        retain_bytes: Some(RETAINED * SEGMENT),
        ..WalOptions::default()
    }
}

/// When it is over.
#[derive(Clone, Copy)]
enum Until {
    Records(u64),
    Time(Duration),
}

/// What the process holds at a moment.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    anonymous_kib: u64,
    descriptors: u64,
    segments: u64,
}

impl Held {
    fn now(log: &Path) -> Held {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
        let anonymous_kib = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        let count = |path: &Path| std::fs::read_dir(path).unwrap().count() as u64;
        let descriptors = count(Path::new("/proc/self/fd"));
        Held { anonymous_kib, descriptors, segments: count(log) }
    }
}

/// What everybody sees of the others.
struct Soak<'a> {
    wal: &'a Wal,
    stop: AtomicBool,
    /// The last LSN that was checked.
    checked: AtomicU64,
    /// How often the log went away below the reader that stalls, and how often that was told so;
    /// otherwise it had open what it needed.
    stalls: AtomicU64,
    overtaken: AtomicU64,
}

fn payload(writer: u64, number: u64) -> Vec<u8> {
    let mut bytes = [writer.to_le_bytes(), number.to_le_bytes()].concat();
    bytes.resize(16 + usize::try_from(number * 37 % 1500).unwrap(), writer.to_le_bytes()[0]);
    bytes
}

impl Soak<'_> {
    /// Appends until told to stop; returns how many.
    fn write(&self, writer: u64) -> u64 {
        let (mut number, mut last) = (0, Lsn::ZERO);
        while !self.stop.load(Ordering::Relaxed) {
            let lsn = self.wal.append(&payload(writer, number)).unwrap();
            assert!(lsn > last, "writer {writer} got {lsn} after {last}");
            (last, number) = (lsn, number + 1);
            while lsn.get() > self.checked.load(Ordering::Relaxed) + LEAD {
                thread::sleep(Duration::from_millis(1));
            }
        }
        number
    }

    /// Follows the log from its start to its end, and checks every record; returns how many each
    /// writer wrote.
    fn check(&self, writers: u64) -> Vec<u64> {
        let mut tail = self.wal.tail(Lsn::FIRST).unwrap();
        let pin = self.wal.pin("check", Lsn::FIRST).unwrap();
        let mut numbers = vec![0; usize::try_from(writers).unwrap()];
        let mut next = Lsn::FIRST;
        while let Some(record) = tail.next() {
            let record = record.unwrap();
            assert_eq!(record.lsn, next, "each LSN once, in order");
            let writer = u64::from_le_bytes(*record.payload.first_chunk().unwrap());
            let number = &mut numbers[usize::try_from(writer).unwrap()];
            assert!(record.payload == payload(writer, *number), "bytes of record {next}");
            *number += 1;
            if next.get().is_multiple_of(1000) {
                pin.advance(next).unwrap();
            }
            self.checked.store(next.get(), Ordering::Relaxed);
            next = next.next();
        }
        numbers
    }

    /// Reads a little, and then nothing, for as long as the log needs to go away below it.
    fn stall(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let from = self.wal.durable_lsn().next();
            let mut tail = self.wal.tail(from).unwrap();
            match tail.next() {
                None => return,
                Some(Ok(first)) => assert_eq!(first.lsn, from),
                // On a busy machine the log went away below it before it ran.
                Some(Err(error)) => {
                    assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Closed));
                    continue;
                }
            }
            while self.wal.first_lsn() <= from.advance(STALL) {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
            self.stalls.fetch_add(1, Ordering::Relaxed);
            // What it holds, in memory or open, and then an error: never a gap.
            for next in from.get() + 1..from.get() + STALL {
                match tail.next() {
                    None => return,
                    Some(Ok(record)) => assert_eq!(record.lsn.get(), next, "from {from} on"),
                    Some(Err(error)) if error.kind() == ErrorKind::Closed => return,
                    Some(Err(error)) => {
                        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                        self.overtaken.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                }
            }
        }
    }
}

/// A process that follows the log, and holds the oldest segment as a reader does.
struct Reader(Child);

impl Reader {
    fn start(log: &Path) -> Reader {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "reads_in_another_process", "--nocapture"])
            .env(READER, log)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Reader(child.unwrap())
    }

    /// Ends it; returns what it did.
    fn end(mut self) -> String {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "the reader in another process: {text}");
        text.lines().find(|line| line.contains("followed ")).unwrap().to_owned()
    }
}

/// Not a test of its own: what [`Reader`] starts. It ends when its stdin does.
#[test]
fn reads_in_another_process() {
    let Some(log) = std::env::var_os(READER) else { return };
    let log = Path::new(&log);
    let over = AtomicBool::new(false);
    let (held, tailed) = thread::scope(|scope| {
        let holding = scope.spawn(|| hold(log, &over));
        let tailing = scope.spawn(|| follow(log, &over));
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
        over.store(true, Ordering::Relaxed);
        (holding.join().unwrap(), tailing.join().unwrap())
    });
    println!("held {held} segments, followed {tailed} records");
}

/// Holds one segment after the other as a reader does, and looks at it twice.
fn hold(log: &Path, over: &AtomicBool) -> u64 {
    let directory = SystemStorage::new(BackendChoice::Pwrite).unwrap();
    let directory = directory.directory(log, false).unwrap();
    let mut held = 0;
    while !over.load(Ordering::Relaxed) {
        let names = directory.list().unwrap();
        let Some(name) = names.iter().find(|name| name.ends_with(".seg")) else { continue };
        let number: u64 = name.trim_end_matches(".seg").parse().unwrap();
        let Ok(file) = directory.open(name, OpenMode::Read) else { continue };
        if !file.try_lock(1, LockKind::Shared).unwrap() {
            continue;
        }
        let read = || file.map(file.stamp().unwrap().length).unwrap().to_vec();
        let before = read();
        if before[32..40] != number.to_le_bytes() || (names.len() as u64) < RETAINED {
            // It was used again before it was locked, or it is still being written.
            continue;
        }
        thread::sleep(Duration::from_millis(100));
        assert!(read() == before, "segment {number} changed in a reader's hands");
        held += 1;
    }
    held
}

/// Follows the log as far as it can, from its start again where it was left behind.
fn follow(log: &Path, over: &AtomicBool) -> u64 {
    let reader = Wal::open_read_only(log).unwrap();
    let (mut tail, mut next, mut followed) = (reader.tail(Lsn::FIRST), None, 0);
    while !over.load(Ordering::Relaxed) {
        match tail.try_next() {
            Some(Ok(record)) => {
                assert!(next.is_none_or(|next| next == record.lsn), "{next:?}: {}", record.lsn);
                let word = |at: usize| *record.payload[at..].first_chunk().unwrap();
                let [writer, number] = [0, 8].map(|at| u64::from_le_bytes(word(at)));
                assert!(record.payload == payload(writer, number), "record {}", record.lsn);
                next = Some(record.lsn.next());
                followed += 1;
            }
            Some(Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                (tail, next) = (reader.tail(Lsn::FIRST), None);
            }
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
    followed
}

fn soak(writers: u64, until: Until) {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = place.path().join("log");
    let wal = Wal::open(&log, options()).unwrap();
    let reader = Reader::start(&log);
    let soak = Soak {
        wal: &wal,
        stop: AtomicBool::new(false),
        checked: AtomicU64::new(0),
        stalls: AtomicU64::new(0),
        overtaken: AtomicU64::new(0),
    };
    let (mut samples, began) = (Vec::new(), Instant::now());
    let (wrote, found) = thread::scope(|scope| {
        let soak = &soak;
        let writing: Vec<_> =
            (0..writers).map(|writer| scope.spawn(move || soak.write(writer))).collect();
        let stalling = scope.spawn(|| soak.stall());
        let checking = scope.spawn(|| soak.check(writers));
        let over = || match until {
            Until::Records(records) => soak.checked.load(Ordering::Relaxed) >= records,
            Until::Time(time) => began.elapsed() >= time,
        };
        while !over() && !checking.is_finished() {
            thread::sleep(Duration::from_millis(100));
            samples.push(Held::now(&log));
        }
        soak.stop.store(true, Ordering::Relaxed);
        let wrote: Vec<u64> = writing.into_iter().map(|one| one.join().unwrap()).collect();
        println!("after {:?}: {}", began.elapsed(), wal.stats());
        wal.clone().close().unwrap();
        stalling.join().unwrap();
        (wrote, checking.join().unwrap())
    });
    assert_eq!(found, wrote, "what was acknowledged, and what the tail saw");
    let held = reader.end();
    let stats = wal.stats();
    let new_files = stats.segments_prepared - stats.segments_recycled;
    let (stalls, overtaken) = (soak.stalls.into_inner(), soak.overtaken.into_inner());
    println!(
        "{} records; {} segments used again, {new_files} new files; {stalls} stalls, {overtaken} \
         overtaken; another process: {held}",
        wrote.iter().sum::<u64>(),
        stats.segments_recycled
    );
    assert!(stalls > 0 || matches!(until, Until::Records(_)), "the log never went away");
    assert!(stats.poison.is_none() && stats.segments_recycled > 0, "{stats}");
    bounded(&samples, writers);
}

/// Nothing grows: what is held at the end is what was held after the first quarter.
fn bounded(samples: &[Held], writers: u64) {
    let most = |of: fn(&Held) -> u64, range: std::ops::Range<usize>| {
        samples[range].iter().map(of).max().unwrap_or(0)
    };
    let count = samples.len();
    let (early, late) = (count / 4..count / 2, count / 2..count);
    let grows_not = |name: &str, of: fn(&Held) -> u64, slack: u64| {
        let (early, late) = (most(of, early.clone()), most(of, late.clone()));
        println!("{name}: {early}, later {late}");
        // A short run has no early part worth the name.
        assert!(count < 40 || late <= early + slack, "{name}: {early}, later {late}");
    };
    grows_not("KiB of memory", |held| held.anonymous_kib, 16 << 10);
    // Rings of up to 16 write slots, and what readers leave for the next one, may come late.
    grows_not("descriptors", |held| held.descriptors, 32);
    // As many as hold the lead, a block for each record at most.
    grows_not("files", |held| held.segments, LEAD * 4096 / SEGMENT);
    // The log's own bounds, whatever came before: options, stacks, what the test holds.
    let last = samples.last().copied().unwrap_or_default();
    assert!(last.anonymous_kib < (64 << 10) + writers * 256, "{last:?}");
    assert!(last.descriptors < 128, "{last:?}");
}

#[test]
fn a_short_soak_loses_nothing() {
    soak(8, Until::Records(40_000));
}

#[test]
#[ignore = "ten minutes: just soak"]
fn a_long_soak_grows_nothing() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |value| value.parse().unwrap())
    };
    let seconds = number("SAWMILL_SOAK_SECONDS", 600);
    soak(number("SAWMILL_SOAK_WRITERS", 64), Until::Time(Duration::from_secs(seconds)));
}
