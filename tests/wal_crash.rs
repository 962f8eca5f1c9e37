//! The power goes, or the process dies, at every operation of the disk in every short life of a
//! log; whatever survives, the next opening finds what was acknowledged, in order, whole, with the
//! same LSNs, and nothing that was never there or that an earlier opening did not show.
//!
//! A life is a sequence of up to three [`Step`]s. Crash points of a sequence's beginning belong to
//! the shorter sequence, so that each state is looked at once. `SAWMILL_SIM=long` looks at all
//! sequences of three, and at more subsets of what may survive; otherwise at a fixed share.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests stop at what fails")]

mod wal_crash_common;

use std::sync::Mutex;

use sawmill::sim::{Device, SimDisk, SimOptions};
use wal_crash_common::{
    ACROSS_FILES, Gate, IN_FLIGHT, Model, RECYCLING, Step, is_long, life, sequences,
};

/// What the power cuts of the same lives left on each device.
static IMAGES: Mutex<Vec<(Device, u64)>> = Mutex::new(Vec::new());

fn every_crash(device: Device, offset: usize) {
    let long = is_long();
    let mut gate = Gate::new(device, if long { 53 } else { 197 });
    let mut run = |steps: &[Step]| {
        gate.run(steps).unwrap_or_else(|violation| panic!("{violation}"));
        gate.digest
    };
    let short = sequences(|_| false);
    let same = short.iter().map(Vec::as_slice).chain(RECYCLING).chain(IN_FLIGHT);
    let left = same.map(&mut run).last().unwrap();
    // Both devices leave the very same, state by state: see below.
    let mut images = IMAGES.lock().unwrap();
    images.push((device, left));
    assert!(images.iter().all(|(_, others)| *others == left), "{images:?}");
    drop(images);
    for steps in ACROSS_FILES {
        run(steps);
    }
    // 95 shares no factor with 8: all steps are last ones, after all kinds of others.
    let three = sequences(|number| long || number % 95 == offset).split_off(short.len());
    for (nth, steps) in three.iter().enumerate() {
        run(steps);
        if long && nth % 16 == 15 {
            println!("{device:?}: {} of {} sequences of three", nth + 1, three.len());
        }
    }
    let Gate { states, distinct, nested, .. } = gate;
    println!(
        "{device:?}: {states} states, {distinct} that differ, {nested} of crashes in openings"
    );
    assert!(states > 10_000 && distinct > 3_000 && nested > 100, "{states} {distinct} {nested}");
}

#[test]
fn every_crash_keeps_what_was_acknowledged_flush() {
    every_crash(Device::Flush, 3);
}

#[test]
fn every_crash_keeps_what_was_acknowledged_fua() {
    every_crash(Device::Fua, 11);
}

/// Those lives do what they are for.
#[test]
fn the_gate_looks_at_recycled_segments() {
    for steps in RECYCLING.into_iter().chain([[Step::Recycle].as_slice()]) {
        let disk =
            SimDisk::with_options(1, SimOptions { trace_lines: 10_000, ..Default::default() });
        life(&disk, steps, &mut Model::default()).unwrap();
        assert!(disk.trace().contains("rename 0000000000000000"), "{steps:?}: {}", disk.trace());
    }
}

/// How many operations are in flight at most, as a disk's trace tells.
fn most_in_flight(trace: &str) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    for line in trace.lines() {
        now += usize::from(line.contains("submit write"));
        now -= usize::from(line.contains("complete write"));
        most = most.max(now);
    }
    most
}

#[test]
fn the_gate_looks_at_several_writes_in_flight() {
    for steps in [[Step::Append, Step::Burst], [Step::Append, Step::PlainBurst]] {
        let disk =
            SimDisk::with_options(1, SimOptions { trace_lines: 10_000, ..Default::default() });
        life(&disk, &steps, &mut Model::default()).unwrap();
        let trace = disk.trace();
        assert!(most_in_flight(&trace) >= 3, "{steps:?}: {trace}");
    }
}

/// Lives in which a durable frame follows a plain one.
#[cfg(feature = "planted")]
const PLAIN_THEN_DURABLE: [&[Step]; 3] = [
    &[Step::Buffered],
    &[Step::Append, Step::Buffered, Step::Append],
    &[Step::Buffered, Step::Truncate, Step::Buffered],
];

/// Why the two devices count the same states, and leave the same images in all of them: the log
/// syncs what it wrote plain before anything durable follows (LOG.md L8), so a flush of the device
/// finds nothing to do. Only where plain frames lie in two files does the sync of the first reach
/// the other on a device without FUA, and for the moment until that one is synced as well the two
/// devices hold different things.
#[test]
fn a_flush_finds_nothing_to_do_unless_plain_frames_lie_in_two_files() {
    for device in [Device::Flush, Device::Fua] {
        let all = sequences(|_| true);
        let all = all.iter().map(Vec::as_slice).chain(RECYCLING).chain(IN_FLIGHT);
        for (steps, across) in all.map(|it| (it, false)).chain(ACROSS_FILES.map(|it| (it, true))) {
            let disk = Gate::new(device, 1).disk();
            life(&disk, steps, &mut Model::default()).unwrap();
            assert_eq!(disk.flush_matters() > 0, across, "{device:?} {steps:?}");
        }
    }
}

/// And the devices do differ: without that sync, the one without FUA keeps what the one with FUA
/// loses. So the gate needs both, and a test on a real disk without FUA would not see the bug.
#[test]
#[cfg(feature = "planted")]
fn planted_plain_before_durable_is_noticed_with_fua_only() {
    use sawmill::planted::{Bug, with_planted};
    with_planted(Bug::PlainBeforeDurable, || {
        for steps in PLAIN_THEN_DURABLE {
            let disk = Gate::new(Device::Fua, 499).disk();
            life(&disk, steps, &mut Model::default()).unwrap();
            assert!(disk.flush_matters() > 0, "{steps:?} does what it is for");
            let mut flush = Gate::new(Device::Flush, 499);
            flush.run(steps).unwrap_or_else(|violation| panic!("{violation}"));
            assert!(flush.states > 20, "{}", flush.states);
        }
        let mut fua = Gate::new(Device::Fua, 499);
        let found = PLAIN_THEN_DURABLE.iter().find_map(|steps| fua.run(steps).err()).unwrap();
        assert!(found.contains("are acknowledged"), "{found}");
    });
}

/// The gate must bite: each of these bugs is found by it.
#[test]
#[cfg(feature = "planted")]
fn every_planted_bug_is_found() {
    use sawmill::planted::{Bug, with_planted};
    let bugs = [
        Bug::SkipDurableFlag,
        Bug::AcknowledgeAtSubmit,
        Bug::PlainBeforeDurable,
        Bug::DurableOverHole,
        Bug::NoDirectorySync,
        Bug::NoBarrier,
        Bug::ShowBeforeBarrier,
        Bug::RecoverFromCache,
        Bug::UnlinkBeforeStart,
        Bug::PaddingIsEnd,
    ];
    let mut missed = Vec::new();
    for bug in bugs {
        let seen = with_planted(bug, || {
            [Device::Fua, Device::Flush].into_iter().find_map(|device| {
                let mut gate = Gate::new(device, 499);
                let short = sequences(|_| false);
                let mut lives: Vec<_> = short.iter().map(Vec::as_slice).collect();
                if bug == Bug::DurableOverHole {
                    // One frame after the other does not show it.
                    lives = IN_FLIGHT.into_iter().chain(ACROSS_FILES).collect();
                }
                lives.iter().find_map(|steps| gate.run(steps).err())
            })
        });
        match seen {
            Some(violation) => println!("{}: {violation}", bug.name()),
            None => missed.push(bug.name()),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
