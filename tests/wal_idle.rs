//! A log that has little to do costs little: its threads sleep, and each wake-up comes.
//!
//! `just idle` runs 50 appends a second for `SAWMILL_IDLE_SECONDS` (60).
#![allow(clippy::unwrap_used, reason = "a test stops at what fails")]
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it says what it saw")]
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sawmill::{Lsn, Wal, WalOptions};

/// One test at a time: they look at all threads of the process.
static ALONE: Mutex<()> = Mutex::new(());

/// An append that takes longer was never woken.
const LOST: Duration = Duration::from_secs(10);

/// Of each thread that the log started: how often it was switched to.
fn switches() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        let name = status.lines().next().unwrap_or_default();
        if name.contains("sawmill-") {
            let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
            let count =
                counts.map(|line| line.split_whitespace().last().unwrap().parse::<u64>().unwrap());
            let number = entry.file_name().into_string().unwrap();
            found.insert(format!("{name} {number}"), count.sum());
        }
    }
    found
}

/// Time on a processor of all threads that are there.
fn cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let times = tasks.filter_map(|entry| {
        let text = std::fs::read_to_string(entry.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(times.sum())
}

fn options() -> WalOptions {
    WalOptions { segment_size: 64 << 10, ..WalOptions::default() }
}

#[test]
fn threads_of_a_log_that_rests_are_not_switched_to() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    let mut tail = wal.tail(Lsn::FIRST).unwrap();
    // Through several segments, waited for and not.
    for number in 0..100_u64 {
        wal.append(&number.to_le_bytes()).unwrap();
        drop(wal.submit(&number.to_le_bytes()).unwrap());
    }
    wal.sync().unwrap();
    for number in 0..200_u64 {
        let record = tail.next().unwrap().unwrap();
        assert_eq!(*record.payload, (number / 2).to_le_bytes());
    }
    // What is still to be done after the last append takes as long as it takes.
    let mut before = switches();
    assert!(before.len() >= 2, "a committer and a preparing thread: {before:?}");
    let quiet = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(200));
        let now = switches();
        let same = now == before;
        before = now;
        same
    });
    assert!(quiet, "the log's threads find no rest: {before:?}");
    thread::sleep(Duration::from_millis(600));
    assert_eq!(switches(), before, "nothing wakes them but work");
    // And work does.
    assert_eq!(wal.append(b"more").unwrap().get(), 201);
    assert_eq!(tail.next().unwrap().unwrap().lsn.get(), 201);
}

#[test]
#[ignore = "a minute: just idle"]
fn fifty_appends_a_second_cost_next_to_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let seconds: u64 =
        std::env::var("SAWMILL_IDLE_SECONDS").map_or(60, |value| value.parse().unwrap());
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    let mut tail = wal.tail(Lsn::FIRST).unwrap();
    let (count, seen) = (seconds * 50, AtomicU64::new(0));
    let (begun, used) = (Instant::now(), cpu());
    let mut latest = Duration::ZERO;
    let cost = thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=count {
                assert_eq!(tail.next().unwrap().unwrap().lsn.get(), number);
                seen.store(number, Ordering::Release);
            }
        });
        for number in 1..=count {
            let due = Duration::from_millis(20) * u32::try_from(number).unwrap();
            thread::sleep(due.saturating_sub(begun.elapsed()));
            let asked = Instant::now();
            // Each third one by the committer, whom nobody leads for.
            let lsn = match number % 3 {
                0 => pollster(wal.submit(&number.to_le_bytes()).unwrap()),
                _ => wal.append(&number.to_le_bytes()).unwrap(),
            };
            assert_eq!(lsn.get(), number);
            latest = latest.max(asked.elapsed());
            assert!(latest < LOST, "record {number} took {latest:?}");
            // The tail is woken too.
            while seen.load(Ordering::Acquire) < number {
                assert!(asked.elapsed() < LOST, "the tail did not see record {number}");
                thread::sleep(Duration::from_millis(1));
            }
        }
        cpu().saturating_sub(used)
    });
    let share = cost.as_secs_f64() / begun.elapsed().as_secs_f64();
    let each = cost / u32::try_from(count).unwrap();
    println!("{count} appends: {:.3} % of a processor, {each:?} each", share * 100.0);
    println!("the latest after {latest:?}; {}", wal.stats());
    assert!(share < 0.02, "{share} of a processor for 50 appends/s");
}

/// Polls to the end.
fn pollster(pending: sawmill::Pending) -> Lsn {
    struct Unpark(thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(std::sync::Arc::new(Unpark(thread::current())));
    let mut context = std::task::Context::from_waker(&waker);
    let mut pending = std::pin::pin!(pending);
    let asked = Instant::now();
    loop {
        match pending.as_mut().poll(&mut context) {
            std::task::Poll::Ready(lsn) => return lsn.unwrap(),
            std::task::Poll::Pending => thread::park_timeout(LOST),
        }
        assert!(asked.elapsed() < LOST, "a future was not woken");
    }
}
