//! The write side on the simulated disk: every fault, every crash, disk full, waiting threads.

mod attesting;
mod backup;
mod buffered;
mod crashes;
mod faults;
mod gathering;
mod lookup;
mod patience;
mod positions;
mod preparing;
mod recycling;
mod reservations;
mod retention;
mod seeking;
mod space;
mod stats;
mod tail;
mod waiting;
mod wakers;
mod watching;

use std::time::Duration;

use crate::clock::ManualClock;
use crate::error::Result;
use crate::ids::Lsn;
use crate::sim::{Device, SimDisk, SimOptions};
use crate::sync::Arc;
use crate::wal::watch::watched;
use crate::wal::{Background, Wal, WalOptions};

const PLACE: &str = "/log";

fn disk(seed: u64, device: Device) -> SimDisk {
    SimDisk::with_options(seed, SimOptions { device, sector: 4096, ..SimOptions::default() })
}

fn options(background: Background) -> WalOptions {
    WalOptions {
        segment_size: 64 << 10,
        memory: 1 << 20,
        lock_wait: Duration::ZERO,
        recycled: 4,
        background,
        ..WalOptions::default()
    }
}

fn open(disk: &SimDisk, background: Background) -> Result<Wal> {
    let clock = Arc::new(ManualClock::default());
    Wal::open_with(Arc::new(disk.clone()), clock, PLACE, options(background))
}

/// Every user record, in order.
fn contents(wal: &Wal) -> Result<Vec<(Lsn, Vec<u8>)>> {
    let mut replay = wal.replay()?;
    let mut found = Vec::new();
    while let Some(record) = replay.next() {
        let record = record?;
        found.push((record.lsn, record.payload.to_vec()));
    }
    Ok(found)
}
