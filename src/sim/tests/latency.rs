//! How long operations take.

use super::*;
use crate::clock::Clock;
use crate::sim::CrashOutcome;
use crate::sim::Latency;

/// Nanoseconds that `writes` take, `depth` of them in flight.
fn time(options: SimOptions, writes: u64, depth: u64, durable: bool) -> u64 {
    let mut bench = Bench::new(options, 64, OpenMode::WriteDirect);
    for block in 0..writes {
        let op = bench.op(block % 64, 1, durable);
        bench.channel.submit(op);
        if block + 1 >= depth {
            bench.channel.complete().unwrap();
        }
    }
    while bench.channel.complete().is_some() {}
    bench.disk.clock().monotonic_ns()
}

fn on(device: Device) -> SimOptions {
    let latency = match device {
        Device::Flush => Latency::flushing(),
        Device::Fua => Latency::fua(),
    };
    SimOptions { device, latency: Some(latency), ..SimOptions::default() }
}

/// LATENCY-1
#[test]
fn durable_writes_of_a_flushing_device_run_one_after_the_other() {
    let latency = Latency::flushing();
    let one = latency.block_ns + latency.command_ns + latency.flush_ns;
    assert_eq!(time(on(Device::Flush), 1, 1, true), one);
    assert_eq!(time(on(Device::Flush), 16, 1, true), 16 * one);
    // In flight together they share the commands, not the flushes.
    let deep = one + 15 * latency.flush_ns;
    assert_eq!(time(on(Device::Flush), 16, 16, true), deep);
}

/// LATENCY-2
#[test]
fn durable_writes_of_a_fua_device_run_side_by_side() {
    let latency = Latency::fua();
    let one = latency.block_ns + latency.command_ns + latency.fua_ns;
    assert_eq!(time(on(Device::Fua), 16, 1, true), 16 * one);
    assert_eq!(time(on(Device::Fua), 16, 16, true), one + 15 * latency.block_ns);
    // Only as many as there are units.
    let mut narrow = on(Device::Fua);
    narrow.latency = Some(Latency { units: 2, ..latency });
    assert!(time(narrow, 16, 16, true) >= 8 * (latency.command_ns + latency.fua_ns));
}

/// LATENCY-3
#[test]
fn syncs_are_flushes() {
    for device in [Device::Flush, Device::Fua] {
        let mut bench = Bench::new(on(device), 1, OpenMode::WriteDirect);
        let flush = on(device).latency.unwrap().flush_ns;
        bench.sync().result.unwrap();
        assert_eq!(bench.disk.clock().monotonic_ns(), flush);
        bench.file.sync().unwrap();
        bench.directory.sync().unwrap();
        assert_eq!(bench.disk.clock().monotonic_ns(), 3 * flush);
        let token = bench.channel.submit(Op::Sync { file: Arc::clone(&bench.file) });
        let second = bench.channel.submit(Op::Sync { file: Arc::clone(&bench.file) });
        assert_eq!(bench.channel.complete().unwrap().token, token);
        assert_eq!(bench.channel.complete().unwrap().token, second);
        assert_eq!(bench.disk.clock().monotonic_ns(), 5 * flush);
    }
}

/// LATENCY-4: switched off, nothing takes time; the disk found is the same either way.
#[test]
fn latency_changes_times_and_nothing_else() {
    let image = |latency| {
        let options = SimOptions { latency, trace_lines: 0, ..SimOptions::default() };
        let mut bench = Bench::new(options, 8, OpenMode::WriteDirect);
        for block in 0..8 {
            bench.written(block, 3, block % 2 == 0);
        }
        let found = bench.disk.power_cycle(CrashOutcome::LoseAll);
        (blocks(&found), bench.disk.clock().monotonic_ns())
    };
    let (plain, nothing) = image(None);
    let (timed, some) = image(Some(Latency::flushing()));
    assert_eq!(plain, timed);
    assert_eq!(nothing, 0);
    assert!(some > 0);
}

#[test]
fn jitter_is_the_seeds() {
    let jittered = |seed| {
        let mut options = on(Device::Fua);
        options.latency = Some(Latency { jitter_percent: 50, ..Latency::fua() });
        let mut bench = Bench::seeded(seed, options, 64, OpenMode::WriteDirect);
        let tokens: Vec<u64> = (0..16)
            .map(|block| {
                let op = bench.op(block, 1, true);
                bench.channel.submit(op)
            })
            .collect();
        let order: Vec<u64> = std::iter::from_fn(|| bench.channel.complete())
            .map(|completion| completion.token - tokens[0])
            .collect();
        (order, bench.disk.clock().monotonic_ns())
    };
    assert_eq!(jittered(1), jittered(1));
    assert_ne!(jittered(1), jittered(2));
}

/// Two channels share the device, and who waits for one does not wait for the other.
#[test]
fn channels_share_the_device() {
    let latency = Latency::fua();
    let mut bench = Bench::new(on(Device::Fua), 8, OpenMode::WriteDirect);
    let mut other = bench.directory.channel().unwrap();
    let (first, second) = (bench.op(0, 1, true), bench.op(1, 1, true));
    bench.channel.submit(first);
    other.submit(second);
    other.complete().unwrap();
    bench.channel.complete().unwrap();
    let one = latency.command_ns + latency.fua_ns;
    assert_eq!(bench.disk.clock().monotonic_ns(), 2 * latency.block_ns + one);
}

/// On a clock that somebody else owns, that clock is waited for.
#[test]
fn a_disk_can_share_its_clock() {
    let clock: Arc<dyn Clock> = Arc::new(crate::clock::ManualClock::default());
    let disk = SimDisk::with_clock(1, on(Device::Flush), Arc::clone(&clock));
    disk.directory(Path::new("/d"), true).unwrap().sync().unwrap();
    assert_eq!(clock.monotonic_ns(), Latency::flushing().flush_ns);
    let found = disk.power_cycle(CrashOutcome::LoseAll);
    assert_eq!(found.clock().monotonic_ns(), Latency::flushing().flush_ns);
}
