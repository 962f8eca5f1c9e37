use std::path::Path;
use std::sync::Arc;

use super::write;
use crate::sim::{CrashManner, CrashOutcome, SimDisk, SimOptions};
use crate::storage::{BLOCK, Op, OpenMode, Storage};

/// A small job that uses everything; it ends where the power does.
fn job(disk: &SimDisk) -> Result<(), crate::storage::IoFailure> {
    let directory = disk.directory(Path::new("/d"), true)?;
    let lock = directory.lock("LOCK", "job")?;
    assert!(lock.is_ok());
    let file = directory.open("f.tmp", OpenMode::CreateDirect)?;
    file.allocate(8 * BLOCK as u64)?;
    file.sync()?;
    directory.sync()?;
    let mut channel = directory.channel()?;
    for block in 0..8 {
        let byte = disk.random()[0];
        channel.submit(write(&file, block, byte, block % 3 == 0));
    }
    while let Some(completion) = channel.complete() {
        completion.result?;
    }
    channel.run(Op::Sync { file: Arc::clone(&file) }).result?;
    directory.rename("f.tmp", "f")?;
    directory.sync()
}

fn run(seed: u64, crash: Option<u64>) -> (String, u64, u64) {
    let disk = SimDisk::new(seed);
    if let Some(number) = crash {
        disk.crash_at(number, CrashManner::Torn);
    }
    assert_eq!(job(&disk).is_err(), crash.is_some());
    let (trace, digest) = (disk.trace(), disk.digest());
    (trace, digest, disk.power_cycle(CrashOutcome::Seeded(seed)).digest())
}

#[test]
fn one_seed_gives_one_trace_and_one_digest() {
    assert_eq!(run(5, None), run(5, None));
    assert_ne!(run(5, None).0, run(6, None).0);
    assert_ne!(run(5, None).1, run(6, None).1);
    let disk = SimDisk::new(5);
    job(&disk).unwrap();
    for number in 1..=disk.ops() {
        assert_eq!(run(5, Some(number)), run(5, Some(number)), "crash at operation {number}");
    }
}

#[test]
fn synced_and_renamed_file_survives_every_crash_after() {
    let disk = SimDisk::new(5);
    job(&disk).unwrap();
    let whole = disk.read_file("/d/f").unwrap();
    for seed in 0..64 {
        let found = disk.power_cycle(CrashOutcome::Seeded(seed));
        assert_eq!(found.read_file("/d/f").unwrap(), whole);
        job(&found).unwrap();
    }
}

/// The job renames only what it has synced: at no crash point may a half file bear the name.
#[test]
fn rename_after_sync_is_atomic_at_every_crash_point() {
    let disk = SimDisk::new(9);
    job(&disk).unwrap();
    let (whole, ops) = (disk.read_file("/d/f").unwrap(), disk.ops());
    for number in 1..=ops {
        for manner in [CrashManner::Before, CrashManner::Torn, CrashManner::After] {
            let disk = SimDisk::new(9);
            disk.crash_at(number, manner);
            job(&disk).unwrap_err();
            for seed in 0..8 {
                let found = disk.power_cycle(CrashOutcome::Seeded(seed));
                let bytes = found.read_file("/d/f");
                assert!(
                    bytes.is_none_or(|bytes| bytes == whole),
                    "crash at {number}, {manner:?}, outcome {seed}:\n{}",
                    disk.trace()
                );
            }
        }
    }
}

#[test]
fn trace_keeps_the_last_lines() {
    let disk = SimDisk::with_options(5, SimOptions { trace_lines: 3, ..SimOptions::default() });
    job(&disk).unwrap();
    let trace = disk.trace();
    let lines: Vec<&str> = trace.lines().collect();
    let ops = disk.ops();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1], format!("#{} rename f.tmp f", ops - 1));
    assert_eq!(lines[2], format!("#{ops} sync directory \"/d\""));
}

#[test]
fn reads_count_only_if_asked() {
    let ops = |count_reads| {
        let options = SimOptions { count_reads, ..SimOptions::default() };
        let disk = SimDisk::with_options(1, options);
        disk.write_file("/d/f", b"x");
        let directory = disk.directory(Path::new("/d"), false).unwrap();
        directory.list().unwrap();
        directory.open("f", OpenMode::Read).unwrap().stamp().unwrap();
        disk.ops()
    };
    assert_eq!((ops(false), ops(true)), (0, 4));
}
