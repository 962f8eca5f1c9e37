//! A small log, as several of these tests have it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::SimDisk;
use sawmill::{Background, Result, Wal, WalOptions};

/// Segments of 64 KiB; who finds the log locked does not wait.
pub(crate) fn options() -> WalOptions {
    WalOptions { segment_size: 64 << 10, lock_wait: Duration::ZERO, ..WalOptions::default() }
}

/// The log of a simulated disk, without a thread of its own.
pub(crate) fn simulated(disk: &SimDisk) -> Result<Wal> {
    let options = WalOptions { background: Background::Inline, ..options() };
    let clock = Arc::new(ManualClock::default());
    Wal::open_with(Arc::new(disk.clone()), clock, Path::new("/log"), options)
}
