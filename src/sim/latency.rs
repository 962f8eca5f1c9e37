//! How long operations take, in the time of a [`Clock`]: nothing waits for a real device.
//!
//! A disk with [`SimOptions::latency`](super::SimOptions::latency) gives each operation of a
//! channel the moment at which it is done, when it is submitted. [`Channel::complete`] hands out
//! the operation that is done first and calls [`Clock::sleep_until`] for its moment. So time passes
//! only where somebody waits for the disk:
//!
//! - with [`SimDisk::clock`](super::SimDisk::clock), a [`ManualClock`], no thread ever sleeps, and
//!   one thread with one seed sees the same times on every machine. That judges *depth*: what N
//!   writes in flight on one or several channels take, to the nanosecond;
//! - with [`SystemClock`](crate::clock::SystemClock) (by
//!   [`SimDisk::with_clock`](super::SimDisk::with_clock)) threads sleep for real, and the same
//!   device can be put under a log with threads.
//!
//! ```
//! use std::{path::Path, sync::Arc};
//! use sawmill::clock::Clock;
//! use sawmill::sim::{Device, Latency, SimDisk, SimOptions};
//! use sawmill::storage::{AlignedBuf, BLOCK, Op, OpenMode, Storage};
//!
//! // What does a burst of eight durable blocks take, all in flight together?
//! let burst = |latency, device| {
//!     let options = SimOptions { latency: Some(latency), device, ..SimOptions::default() };
//!     let disk = SimDisk::with_options(1, options);
//!     disk.write_file("/d/f", &[0; 8 * BLOCK]);
//!     let directory = disk.directory(Path::new("/d"), false)?;
//!     let file = directory.open("f", OpenMode::WriteDirect)?;
//!     let mut channel = directory.channel()?;
//!     for block in 0..8 {
//!         let (file, buffer) = (Arc::clone(&file), AlignedBuf::zeroed(BLOCK));
//!         channel.submit(Op::Write { file, offset: block * 4096, buffer, durable: true });
//!     }
//!     while channel.complete().is_some() {}
//!     Ok::<u64, sawmill::storage::IoFailure>(disk.clock().monotonic_ns())
//! };
//! let (flush, fua) = (Latency::flushing(), Latency::fua());
//! // Eight flushes, one after the other; or eight writes side by side.
//! assert!(burst(flush, Device::Flush)? >= 8 * flush.flush_ns);
//! assert!(burst(fua, Device::Fua)? < 2 * (fua.command_ns + fua.fua_ns) + 8 * fua.block_ns);
//! # Ok::<(), sawmill::storage::IoFailure>(())
//! ```
//!
//! # The device
//!
//! An operation is a command. It waits for one of [`Latency::units`], then for the bus, which
//! carries one block after the other, then takes [`Latency::command_ns`]. What makes it durable
//! comes last:
//!
//! - LATENCY-1: on a [`Device::Flush`] a durable write is followed by a flush of the device, and
//!   flushes run one after the other: N durable writes in flight take N flushes.
//! - LATENCY-2: on a [`Device::Fua`] a durable write takes [`Latency::fua_ns`] more in its own
//!   unit: durable writes in flight run side by side, as many as there are units.
//! - LATENCY-3: a sync of a file or a directory is a flush on both.
//! - LATENCY-4: latency changes when operations complete, in which order, and nothing else.
//!
//! [`Channel::complete`]: crate::storage::Channel::complete
//! [`ManualClock`]: crate::clock::ManualClock

use super::Device;
use super::flight::Kind;
use super::rng::Rng;
use crate::clock::{Clock, ManualClock};
use crate::storage::BLOCK;
use crate::sync::Arc;

/// What each part of an operation takes, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// A command, whatever it does. Commands of different units run side by side.
    pub command_ns: u64,
    /// A block of 4096 bytes on the bus, which all commands share.
    pub block_ns: u64,
    /// A flush of the device's cache. One runs at a time.
    pub flush_ns: u64,
    /// What a durable write takes more than a plain one on a device with FUA.
    pub fua_ns: u64,
    /// Commands that run side by side. At least 1.
    pub units: usize,
    /// Up to so many percent more for each command and flush, as the seed decides.
    pub jitter_percent: u64,
}

impl Latency {
    /// A disk with a volatile cache and no FUA: 60 us a command, 2 us a block, 400 us a flush.
    #[must_use]
    pub const fn flushing() -> Latency {
        Latency {
            command_ns: 60_000,
            block_ns: 2_000,
            flush_ns: 400_000,
            fua_ns: 0,
            units: 32,
            jitter_percent: 0,
        }
    }

    /// A disk with FUA: 20 us a command and 60 us more if it is durable, 1 us a block, 400 us a
    /// flush.
    #[must_use]
    pub const fn fua() -> Latency {
        Latency {
            command_ns: 20_000,
            block_ns: 1_000,
            flush_ns: 400_000,
            fua_ns: 60_000,
            units: 32,
            jitter_percent: 0,
        }
    }
}

/// When each part of the device is free again.
#[derive(Debug)]
pub(super) struct Timing {
    pub(super) clock: Arc<dyn Clock>,
    rng: Rng,
    bus: u64,
    flush: u64,
    units: Vec<u64>,
}

impl Timing {
    pub(super) fn new(seed: u64, clock: Arc<dyn Clock>) -> Timing {
        Timing { clock, rng: Rng::lane(seed, u64::MAX), bus: 0, flush: 0, units: Vec::new() }
    }

    pub(super) fn manual(seed: u64) -> Timing {
        Timing::new(seed, Arc::new(ManualClock::default()))
    }

    fn jittered(&mut self, latency: &Latency, ns: u64) -> u64 {
        let most = ns.saturating_mul(latency.jitter_percent) / 100;
        if most == 0 { ns } else { ns + self.rng.next() % (most + 1) }
    }

    /// When an operation is done that is submitted now.
    pub(super) fn done_at(
        &mut self,
        latency: &Latency,
        device: Device,
        kind: Kind,
        bytes: usize,
    ) -> u64 {
        let now = self.clock.monotonic_ns();
        if kind == Kind::Sync {
            return self.flushed_at(latency, now);
        }
        self.units.resize(latency.units.max(1), 0);
        let command = self.jittered(latency, latency.command_ns);
        let first = self.units.iter().enumerate().min_by_key(|(_, free)| **free);
        let (unit, free) = first.map_or((0, 0), |(unit, free)| (unit, *free));
        let blocks = bytes.div_ceil(BLOCK) as u64;
        self.bus = self.bus.max(now).max(free) + blocks * latency.block_ns;
        let mut done = self.bus + command;
        let durable = kind == (Kind::Write { durable: true });
        if durable && device == Device::Fua {
            done += self.jittered(latency, latency.fua_ns);
        }
        self.units[unit] = done;
        if durable && device == Device::Flush { self.flushed_at(latency, done) } else { done }
    }

    /// When a flush is done that cannot begin before `ready`.
    pub(super) fn flushed_at(&mut self, latency: &Latency, ready: u64) -> u64 {
        let begin = self.flush.max(ready);
        self.flush = begin + self.jittered(latency, latency.flush_ns);
        self.flush
    }
}
