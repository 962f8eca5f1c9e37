//! Preparing gives way to the appends, and hurries where it is needed (PREPARE-3); it gives way to
//! truncations, too (PREPARE-4).

use std::time::Duration;

use super::{PLACE, disk, options, watched};
use crate::clock::Clock;
use crate::sim::{Device, SimDisk};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock};
use crate::wal::{Background, Wal, WalOptions};

/// Passes by itself, a microsecond a look, and notes what was slept.
#[derive(Debug, Default)]
struct Noted {
    now_us: AtomicU64,
    slept: Mutex<Vec<Duration>>,
    /// Who prepares and rests does so until this is taken back.
    held: AtomicBool,
    resting: AtomicU64,
}

impl Clock for Noted {
    fn wall_ns(&self) -> u64 {
        self.monotonic_ns()
    }

    fn monotonic_ns(&self) -> u64 {
        self.now_us.fetch_add(1, Ordering::Relaxed) * 1000
    }

    fn sleep(&self, duration: Duration) {
        lock(&self.slept).push(duration);
        if std::thread::current().name() == Some("sawmill-prepare") {
            self.resting.fetch_add(1, Ordering::Relaxed);
            while self.held.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            self.resting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A piece is 256 KiB.
fn opened(clock: &Arc<Noted>, background: Background) -> Wal {
    opened_on(&Arc::new(disk(60, Device::Flush)), clock, background)
}

fn opened_on(disk: &Arc<SimDisk>, clock: &Arc<Noted>, background: Background) -> Wal {
    let options = WalOptions { segment_size: 2 << 20, attest_after: None, ..options(background) };
    let (disk, clock) = (Arc::clone(disk), Arc::clone(clock) as Arc<dyn Clock>);
    Wal::open_with(disk, clock, PLACE, options).unwrap()
}

#[test]
fn nobody_needs_it_so_it_rests_between_pieces() {
    watched(|| {
        let clock = Arc::new(Noted::default());
        let wal = opened(&clock, Background::Threads);
        while wal.stats().segments_prepared < 2 {
            std::thread::yield_now();
        }
        let slept = lock(&clock.slept).clone();
        assert!(slept.len() >= 7, "{slept:?}");
        let bounds = Duration::from_micros(8)..=Duration::from_millis(4);
        assert!(slept.iter().all(|rest| bounds.contains(rest)), "{slept:?}");
        wal.close().unwrap();
    });
}

#[test]
fn a_truncation_does_not_wait_for_segments_that_are_made_anew() {
    watched(|| {
        let clock = Arc::new(Noted::default());
        let wal = opened(&clock, Background::Threads);
        let append = |count| (0..count).for_each(|_| _ = wal.append(&[1; 700_000]).unwrap());
        append(6);
        while lock(&wal.core().open).staging.missing_spare().is_some() {
            std::thread::yield_now();
        }
        clock.held.store(true, Ordering::Relaxed);
        // The first of two in its segment, so that there is time to rest behind most of the next.
        append(1);
        while clock.resting.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        // In the middle of a segment.
        assert!(wal.truncate_before(wal.durable_lsn()).unwrap().get() > 4);
        assert_eq!(clock.resting.load(Ordering::Relaxed), 1);
        clock.held.store(false, Ordering::Relaxed);
        append(6);
        wal.close().unwrap();
    });
}

/// PREPARE-2: nothing is left of a segment that nobody needs any more.
#[test]
fn closing_gives_up_what_is_not_whole() {
    watched(|| {
        let clock = Arc::new(Noted::default());
        let disk = Arc::new(disk(61, Device::Flush));
        let wal = opened_on(&disk, &clock, Background::Threads);
        clock.held.store(true, Ordering::Relaxed);
        while clock.resting.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        let segments = || disk.files().iter().filter(|path| path.extension().is_some()).count();
        let before = segments();
        std::thread::scope(|scope| {
            scope.spawn(|| wal.clone().close().unwrap());
            // The thread is let go when it is to stop.
            while !lock(&wal.core().open).stop {
                std::thread::yield_now();
            }
            clock.held.store(false, Ordering::Relaxed);
        });
        assert_eq!(segments(), before - 1);
    });
}

#[test]
fn where_there_are_no_threads_nothing_rests() {
    let clock = Arc::new(Noted::default());
    let wal = opened(&clock, Background::Inline);
    for _ in 0..6 {
        wal.append(&[1; 700_000]).unwrap();
    }
    assert!(wal.stats().segments_prepared > 2);
    assert_eq!(*lock(&clock.slept), []);
}

#[test]
fn a_segment_that_is_filled_faster_than_the_next_one_is_not_waited_for() {
    let wal = opened(&Arc::default(), Background::Inline);
    let needs = |done| lock(&wal.core().open).staging.needs_more_than(done);
    assert!(needs(0) && !needs(256 << 10), "nothing was appended");
    wal.append(&[1; 700_000]).unwrap();
    assert!(needs(1 << 20) && !needs((1 << 20) + (512 << 10)), "a third of the segment");
    wal.append(&[1; 700_000]).unwrap();
    assert!(needs(2 << 20), "two thirds");
}
