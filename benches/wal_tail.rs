//! How long after its acknowledgement does a tail see a record, and does it read files for it?
//!
//! Writers append 100-byte records and wait for each; a tail on a thread of its own takes them as
//! they come. The lag is the time from the append's return to the tail's; it is zero if the tail
//! was first. `paced`: one writer, about 1,000 records a second, so that the tail sleeps each time.
//! `flat out`: 8 writers. Beside `paced`, in turns with it, the limit: a thread that sleeps on a
//! condition variable and is woken by another one at the same pace. Every record is checked, and
//! that the tail has not turned to the files since the first one.
//! `cargo bench --bench wal_tail [-- RECORDS]`.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers")]
#![allow(clippy::disallowed_methods, reason = "a bench measures wall time")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench stops at what fails")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sawmill::{Lsn, Wal, WalOptions};

const PACE: Duration = Duration::from_millis(1);
const SIZE: usize = 100;

/// Times since the start, by the number of the record; zero: not yet.
struct Times {
    begun: Instant,
    at: Vec<AtomicU64>,
}

impl Times {
    fn new(count: usize) -> Times {
        Times { begun: Instant::now(), at: (0..count).map(|_| AtomicU64::new(0)).collect() }
    }

    fn note(&self, number: usize) {
        let now = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.at[number].store(now, Ordering::Release);
    }
}

/// The lags, in microseconds, sorted.
fn lags(done: &Times, seen: &Times) -> Vec<f64> {
    let early = seen.begun.duration_since(done.begun).as_nanos() as f64;
    let pairs = done.at.iter().zip(&seen.at);
    let mut lags: Vec<f64> = pairs
        .map(|(done, seen)| {
            let (done, seen) = (done.load(Ordering::Acquire), seen.load(Ordering::Acquire));
            assert!(done > 0 && seen > 0, "a record that nobody acknowledged, or saw");
            ((seen as f64 + early - done as f64) / 1000.0).max(0.0)
        })
        .collect();
    lags.sort_by(f64::total_cmp);
    lags
}

fn payload(number: usize) -> [u8; SIZE] {
    let mut payload = [b'x'; SIZE];
    payload[..8].copy_from_slice(&(number as u64).to_le_bytes());
    payload
}

/// Lets `writers` write `count` records, and a tail see them. Returns the lags and how often the
/// tail turned to the files while it followed.
fn follow(wal: &Wal, writers: usize, count: usize, pace: Option<Duration>) -> (Vec<f64>, u64) {
    let (done, seen) = (Times::new(count), Times::new(count));
    let mut tail = wal.tail(wal.durable_lsn().next()).unwrap();
    let reads = thread::scope(|scope| {
        let seen = &seen;
        let reader = scope.spawn(move || {
            let (before, mut last) = (tail.file_reads(), Lsn::ZERO);
            for _ in 0..count {
                let record = tail.next().unwrap().unwrap();
                assert!(record.lsn > last, "out of order");
                last = record.lsn;
                let number = u64::from_le_bytes(*record.payload.first_chunk().unwrap());
                assert_eq!(record.payload, payload(number as usize));
                seen.note(number as usize);
            }
            tail.file_reads() - before
        });
        for writer in 0..writers {
            let done = &done;
            scope.spawn(move || {
                for number in (writer..count).step_by(writers) {
                    if let Some(pace) = pace {
                        thread::sleep(pace);
                    }
                    wal.append(&payload(number)).unwrap();
                    done.note(number);
                }
            });
        }
        reader.join().unwrap()
    });
    (lags(&done, &seen), reads)
}

/// The limit: a thread sleeps, and another one wakes it.
fn wake(count: usize) -> Vec<f64> {
    let (done, seen) = (Times::new(count), Times::new(count));
    let (told, bell) = (Mutex::new(0), Condvar::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..count {
                let mut told = told.lock().unwrap();
                while *told <= number {
                    told = bell.wait(told).unwrap();
                }
                drop(told);
                seen.note(number);
            }
        });
        for number in 0..count {
            thread::sleep(PACE);
            done.note(number);
            *told.lock().unwrap() = number + 1;
            bell.notify_one();
        }
    });
    lags(&done, &seen)
}

fn line(name: &str, lags: &[f64], rest: &str) {
    let at = |part: f64| lags[((lags.len() - 1) as f64 * part) as usize];
    let first = lags.iter().take_while(|lag| **lag == 0.0).count() as f64 / lags.len() as f64;
    println!(
        "tail/{name}: median {:.1} us, p90 {:.1}, p99 {:.1}; first to know {:.0} %{rest}",
        at(0.5),
        at(0.9),
        at(0.99),
        100.0 * first
    );
}

fn main() {
    let asked = std::env::args().find_map(|word| word.parse().ok());
    let test = !std::env::args().any(|word| word == "--bench");
    let count: usize = asked.unwrap_or(if test { 20 } else { 2000 });
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let wal = Wal::open(place.path(), WalOptions::default()).unwrap();
    const TURNS: usize = 4;
    let (mut woken, mut paced, mut reads) = (Vec::new(), Vec::new(), 0);
    for _ in 0..TURNS {
        woken.extend(wake(count / TURNS));
        let (lags, turned) = follow(&wal, 1, count / TURNS, Some(PACE));
        paced.extend(lags);
        reads += turned;
    }
    woken.sort_by(f64::total_cmp);
    paced.sort_by(f64::total_cmp);
    line("limit: a wake-up", &woken, "");
    line("paced", &paced, &format!(", turns to the files {reads}"));
    assert_eq!(reads, 0, "a tail that keeps up reads no file");
    let (lags, reads) = follow(&wal, 8, 10 * count, None);
    line("flat out", &lags, &format!(", turns to the files {reads}"));
    wal.close().unwrap();
}
