//! The log finds out how many durable writes pay (LOG.md L9), on a simulated disk whose operations
//! take time: that of a clock that moves only where somebody waits for the disk, so that a figure
//! is the same on every machine.

use std::sync::Arc;

use sawmill::sim::{Device, Latency, SimDisk, SimOptions};
use sawmill::{Background, Wal, WalOptions};

/// Frames that want to be durable at once.
const BURST: usize = 400;

/// Records a second of the last half of so many bursts, and the depth at the end.
fn run(
    device: Device,
    latency: Latency,
    write_depth: Option<usize>,
    bursts: usize,
) -> (u64, usize) {
    let options =
        SimOptions { device, latency: Some(latency), trace_lines: 0, ..SimOptions::default() };
    let disk = SimDisk::with_options(5, options);
    let clock = disk.clock();
    let options = WalOptions {
        segment_size: 4 << 20,
        // All of them at once: a buffer each.
        memory: 512 << 20,
        background: Background::Inline,
        write_depth,
        ..WalOptions::default()
    };
    let wal = Wal::open_with(Arc::new(disk), Arc::clone(&clock), "/log", options).unwrap();
    let burst = || {
        for _ in 0..BURST {
            wal.submit_alone(b"one record in a frame of its own").unwrap();
        }
        wal.sync().unwrap();
        wal.truncate_before(wal.durable_lsn()).unwrap();
    };
    let measured = bursts / 2;
    (measured..bursts).for_each(|_| burst());
    let begun = clock.monotonic_ns();
    (0..measured).for_each(|_| burst());
    let took = clock.monotonic_ns() - begun;
    let records = u64::try_from(measured * BURST).unwrap();
    (records * 1_000_000_000 / took, wal.stats().write_depth)
}

/// Adapts, and compares with each fixed depth: how near the best one it comes, in percent.
fn adapt(device: Device, latency: Latency) -> (usize, u64) {
    let fixed = [1, 2, 4, 8, 16].map(|depth| run(device, latency, Some(depth), 6).0);
    let (rate, depth) = run(device, latency, None, 32);
    println!("{device:?}: fixed {fixed:?}, found {depth}: {rate}");
    (depth, rate * 100 / fixed.iter().max().unwrap())
}

#[test]
fn dependent_flushes_settle_at_two_at_most() {
    let quick = Latency { flush_ns: 90_000, ..Latency::flushing() };
    for latency in [Latency::flushing(), Latency { jitter_percent: 20, ..quick }] {
        let (depth, percent) = adapt(Device::Flush, latency);
        assert!(depth <= 2 && percent >= 90, "depth {depth}, {percent} % of the best");
    }
}

#[test]
fn independent_durable_writes_settle_at_eight_at_least() {
    for jitter_percent in [0, 20] {
        let latency = Latency { jitter_percent, ..Latency::fua() };
        let (depth, percent) = adapt(Device::Fua, latency);
        assert!(depth >= 8 && percent >= 90, "depth {depth}, {percent} % of the best");
    }
}
