//! The seam to time. Wall time decides *when* something happens, never what a result is.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where time comes from.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Nanoseconds since the Unix epoch. May jump.
    fn wall_ns(&self) -> u64;
    /// Nanoseconds since some fixed start. Never falls.
    fn monotonic_ns(&self) -> u64;
    /// Waits.
    fn sleep(&self, duration: Duration);
    /// Waits until [`Clock::monotonic_ns`] is at least `until_ns`. Several who wait for one moment
    /// wait side by side.
    fn sleep_until(&self, until_ns: u64) {
        let left = until_ns.saturating_sub(self.monotonic_ns());
        if left > 0 {
            self.sleep(Duration::from_nanos(left));
        }
    }
    /// How long who waits for a deadline that is `left` away may sleep before it has to look at
    /// this clock again. As long as that, where time passes by itself.
    fn look_again_after(&self, left: Duration) -> Duration {
        left
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[allow(clippy::disallowed_methods, reason = "this is the seam")]
impl Clock for SystemClock {
    fn wall_ns(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |elapsed| u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }

    fn monotonic_ns(&self) -> u64 {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        let elapsed = START.get_or_init(std::time::Instant::now).elapsed();
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// A clock that moves only when told to, or by what is slept: for tests and simulation.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Moves time forward.
    pub fn advance(&self, duration: Duration) {
        let step = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(step, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }

    fn sleep_until(&self, until_ns: u64) {
        self.0.fetch_max(until_ns, Ordering::SeqCst);
    }

    /// Time moves when a test says so, and wakes nobody: look often.
    fn look_again_after(&self, left: Duration) -> Duration {
        left.min(Duration::from_millis(1))
    }
}
