//! The seam to time. Wall time decides *when* something happens, never what a result is.
//!
//! Where time passes by itself, who waits for a moment sleeps for as long as it is away. Where it
//! is moved by hand, moving it is an event, of which those who wait are told.

use std::fmt;
use std::sync::Weak;
use std::time::Duration;

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, lock};

/// Somebody who waits for a moment.
pub trait Sleeper: fmt::Debug + Send + Sync {
    /// Time was moved by hand: look at the clock again. Called without any lock of the clock.
    fn time_moved(&self);
}

/// Where time comes from.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Nanoseconds since the Unix epoch. May jump.
    fn wall_ns(&self) -> u64;
    /// Nanoseconds since some fixed start. Never falls.
    fn monotonic_ns(&self) -> u64;
    /// Waits.
    fn sleep(&self, duration: Duration);
    /// Whether time passes by itself. If not, who waits for a moment waits until it is told.
    fn passes(&self) -> bool {
        true
    }
    /// From now on, `sleeper` is told whenever time was moved by hand. Where time passes by itself
    /// there is nothing to tell.
    fn watch(&self, sleeper: Weak<dyn Sleeper>) {
        drop(sleeper);
    }
    /// Waits until [`Clock::monotonic_ns`] is at least `until_ns`. Several who wait for one moment
    /// wait side by side.
    fn sleep_until(&self, until_ns: u64) {
        let left = until_ns.saturating_sub(self.monotonic_ns());
        if left > 0 {
            self.sleep(Duration::from_nanos(left));
        }
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
pub struct ManualClock {
    now_ns: AtomicU64,
    sleepers: Mutex<Vec<Weak<dyn Sleeper>>>,
}

impl ManualClock {
    /// Moves time forward, and then tells everybody who waits.
    pub fn advance(&self, duration: Duration) {
        let step = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.now_ns.fetch_add(step, Ordering::SeqCst);
        self.tell();
    }

    fn tell(&self) {
        let sleepers: Vec<_> = lock(&self.sleepers).iter().filter_map(Weak::upgrade).collect();
        sleepers.iter().for_each(|sleeper| sleeper.time_moved());
    }
}

impl Clock for ManualClock {
    fn wall_ns(&self) -> u64 {
        self.now_ns.load(Ordering::SeqCst)
    }

    fn monotonic_ns(&self) -> u64 {
        self.now_ns.load(Ordering::SeqCst)
    }

    fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }

    fn passes(&self) -> bool {
        false
    }

    fn watch(&self, sleeper: Weak<dyn Sleeper>) {
        let mut sleepers = lock(&self.sleepers);
        sleepers.retain(|known| known.strong_count() > 0);
        sleepers.push(sleeper);
    }

    fn sleep_until(&self, until_ns: u64) {
        self.now_ns.fetch_max(until_ns, Ordering::SeqCst);
        self.tell();
    }
}
