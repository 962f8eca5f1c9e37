//! Preparing gives way to the appends, and hurries where it is needed (PREPARE-3).

use std::time::Duration;

use super::{PLACE, disk, options, watched};
use crate::clock::Clock;
use crate::sim::Device;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock};
use crate::wal::{Background, Wal, WalOptions};

/// Passes by itself, a microsecond a look, and notes what was slept.
#[derive(Debug, Default)]
struct Noted {
    now_us: AtomicU64,
    slept: Mutex<Vec<Duration>>,
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
    }
}

/// A piece is 256 KiB.
fn opened(clock: &Arc<Noted>, background: Background) -> Wal {
    let options = WalOptions { segment_size: 2 << 20, attest_after: None, ..options(background) };
    let disk = Arc::new(disk(60, Device::Flush));
    Wal::open_with(disk, Arc::clone(clock) as Arc<dyn Clock>, PLACE, options).unwrap()
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
