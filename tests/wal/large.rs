//! Frames that are larger than what recovery reads at once: a record of 16 MiB and a batch of about
//! 20 MiB in segments of the default size.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sawmill::clock::{ManualClock, SystemClock};
use sawmill::sim::{CrashManner, CrashOutcome, SimDisk, SimOptions};
use sawmill::storage::{Storage, SystemStorage};
use sawmill::{Background, Error, ErrorKind, Lsn, Wal, WalOptions};

const RECORD: usize = 16 << 20;
const PART: usize = 5000;
const PARTS: usize = 4096;

fn large() -> Vec<u8> {
    (0..RECORD).map(|at| u8::try_from(at / 4096 % 251).unwrap() + 1).collect()
}

fn batch() -> Vec<Vec<u8>> {
    (0..PARTS).map(|part| vec![u8::try_from(part % 250).unwrap() + 1; PART]).collect()
}

fn options() -> WalOptions {
    let (lock_wait, background) = (Duration::ZERO, Background::Inline);
    WalOptions { lock_wait, background, ..WalOptions::default() }
}

/// Reads everything and compares; returns how many records there are.
fn check(wal: &Wal) -> Result<u64, Error> {
    let (large, batch) = (large(), batch());
    let mut replay = wal.replay()?;
    let mut count = 0;
    while let Some(record) = replay.next() {
        let record = record?;
        count += 1;
        assert_eq!(record.lsn, Lsn::new(count));
        let wanted = match usize::try_from(count).unwrap() {
            1 => b"small".as_slice(),
            2 => &large,
            number => &batch[number - 3],
        };
        assert!(record.payload == wanted, "record {count}");
    }
    Ok(count)
}

fn all() -> u64 {
    2 + u64::try_from(PARTS).unwrap()
}

/// "small", the large record, and the batch; not closed.
fn write(wal: &Wal) -> Result<(), Error> {
    wal.append(b"small")?;
    wal.append(&large())?;
    wal.append_batch(&batch())?;
    Ok(())
}

fn segment(place: &Path, number: u64) -> PathBuf {
    place.join(format!("{number:020}.seg"))
}

/// Zeros one block, as if it had not arrived; returns what was there.
fn punch(path: &Path, offset: u64) -> Vec<u8> {
    let file: File = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut was = vec![0; 4096];
    file.read_exact_at(&mut was, offset).unwrap();
    assert!(was.iter().any(|byte| *byte != 0));
    file.write_all_at(&vec![0; 4096], offset).unwrap();
    was
}

fn large_frames_survive_and_tear_whole(storage: &Arc<dyn Storage>) {
    let place = tempfile::tempdir().unwrap();
    let open =
        || Wal::open_with(Arc::clone(storage), Arc::new(SystemClock), place.path(), options());
    let wal = open().unwrap();
    write(&wal).unwrap();
    drop(wal);
    assert_eq!(check(&open().unwrap()).unwrap(), all());
    // Two openings without a close have left barriers behind: they attest both frames.
    let first = segment(place.path(), 1);
    for offset in [8 << 20, (17 << 20) + (10 << 20)] {
        let was = punch(&first, offset);
        let error = open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let (from, _) = error.lsns().unwrap();
        assert_eq!(from.get(), if offset < 16 << 20 { 2 } else { 3 }, "{error}");
        let file = OpenOptions::new().write(true).open(&first).unwrap();
        file.write_all_at(&was, offset).unwrap();
    }
    assert_eq!(check(&open().unwrap()).unwrap(), all());
}

#[test]
fn large_frames_survive_and_their_damage_is_named() {
    let name = std::env::var("SAWMILL_BACKEND").unwrap_or_else(|_| "auto".to_owned());
    large_frames_survive_and_tear_whole(&(Arc::new(SystemStorage::from_name(&name).unwrap()) as _));
}

/// Where what is read is written again, a window at a time, through frames larger than it.
#[test]
fn large_frames_survive_through_the_page_cache() {
    let storage = SystemStorage::from_name("pwrite-buffered").unwrap();
    large_frames_survive_and_tear_whole(&(Arc::new(storage) as _));
}

#[test]
fn a_large_batch_torn_anywhere_is_gone_whole() {
    let open = |disk: &SimDisk| {
        let clock = Arc::new(ManualClock::default());
        Wal::open_with(Arc::new(disk.clone()), clock, "/log", options())
    };
    let sim = || SimDisk::with_options(3, SimOptions { trace_lines: 0, ..SimOptions::default() });
    let counted = sim();
    let wal = open(&counted).unwrap();
    wal.append(b"small").unwrap();
    wal.append(&large()).unwrap();
    let before = counted.ops();
    wal.append_batch(&batch()).unwrap();
    let (mut whole, mut gone) = (0, 0);
    for op in before + 1..=counted.ops() {
        let disk = sim();
        disk.crash_at(op, CrashManner::Torn);
        write(&open(&disk).unwrap()).unwrap_err();
        let outcomes = [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(op)];
        for outcome in outcomes {
            let found = disk.power_cycle(outcome);
            match check(&open(&found).unwrap()).unwrap() {
                2 => gone += 1,
                count => {
                    assert_eq!(count, all(), "{op} {outcome:?}: a part of a batch");
                    whole += 1;
                }
            }
        }
    }
    assert!(whole > 0 && gone > 0, "{whole} whole, {gone} gone");
}
