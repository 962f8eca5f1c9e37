//! Every byte of a small log that was closed cleanly rots, every file of it is cut anywhere, and
//! files are swapped, doubled and lost: the log then shows exactly what was appended, or fails with
//! an error that names the place. Never fewer records, never other ones, never a panic.
//!
//! `SAWMILL_SIM=long` tries each byte with each pattern and each length; otherwise frame headers
//! whole and a share of the rest. Each test prints how many damages it tried.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests stop at what fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::{CrashOutcome, SimDisk, SimOptions};
use sawmill::storage::Storage;
use sawmill::{Background, Error, ErrorKind, Wal, WalOptions};

const PLACE: &str = "/log";
const BLOCK: usize = 4096;

type Records = Vec<(u64, Vec<u8>)>;

fn open(disk: &SimDisk) -> Result<Wal, Error> {
    let options = WalOptions {
        segment_size: 64 * 1024,
        lock_wait: Duration::ZERO,
        background: Background::Inline,
        ..WalOptions::default()
    };
    Wal::open_with(Arc::new(disk.clone()), Arc::new(ManualClock::default()), PLACE, options)
}

fn read(wal: &Wal) -> Result<Records, Error> {
    let mut replay = wal.replay()?;
    let mut records = Vec::new();
    while let Some(record) = replay.next() {
        let record = record?;
        records.push((record.lsn.get(), record.payload.to_vec()));
    }
    Ok(records)
}

/// A log of three segments with frames of one block and of several, two incarnations, and an atomic
/// batch; and what is in it.
struct Example {
    disk: SimDisk,
    records: Records,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Example {
    fn new() -> Example {
        let disk = SimDisk::with_options(5, SimOptions { trace_lines: 0, ..SimOptions::default() });
        let mut wal = open(&disk).unwrap();
        for (number, length) in
            [10, 5000, 30_000, 0, 30_000, 20, 9000, 31_000, 3].into_iter().enumerate()
        {
            if number == 5 {
                drop(wal);
                wal = open(&disk).unwrap();
            }
            wal.append(&vec![u8::try_from(number).unwrap() + 1; length]).unwrap();
        }
        wal.append_batch(&[b"first".as_slice(), b"", b"third"]).unwrap();
        wal.append(&[9; 30_000]).unwrap();
        let records = read(&wal).unwrap();
        wal.close().unwrap();
        let disk = disk.power_cycle(CrashOutcome::LoseAll);
        disk.power_off();
        let files: BTreeMap<_, _> = disk
            .files()
            .into_iter()
            .filter(|path| !path.ends_with("LOCK"))
            .map(|path| (path.clone(), disk.read_file(&path).unwrap()))
            .collect();
        let used = files.iter().filter(|(path, bytes)| {
            path.extension().is_some_and(|ending| ending == "seg")
                && bytes[BLOCK..].iter().any(|byte| *byte != 0)
        });
        assert!(used.count() >= 3 && records.len() == 13);
        Example { disk, records, files }
    }

    /// What a damaged copy shows: `true` for all records, `false` for an error that says where.
    fn judge(&self, what: &str, damage: impl FnOnce(&SimDisk)) -> bool {
        let disk = self.disk.power_cycle(CrashOutcome::LoseAll);
        damage(&disk);
        let found = open(&disk).and_then(|wal| read(&wal));
        match found {
            Ok(records) => {
                let count = records.len();
                assert!(records == self.records, "{what}: {count} records, no error");
                true
            }
            Err(error) => {
                let kind = error.kind();
                assert!(
                    matches!(kind, ErrorKind::Corrupt | ErrorKind::Unsupported),
                    "{what}: {error}"
                );
                assert!(error.path().is_some(), "{what}: which file? {error}");
                false
            }
        }
    }
}

fn is_long() -> bool {
    std::env::var("SAWMILL_SIM").is_ok_and(|value| value == "long")
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Flips bits in each byte; without `SAWMILL_SIM=long` headers of frames whole,
/// and of the rest the bytes whose number leaves `share`.
fn flip(pattern: u8, share: usize) {
    let example = Example::new();
    let (mut shown, mut refused) = (0, 0);
    for (path, bytes) in &example.files {
        for at in 0..bytes.len() {
            let block = at / BLOCK * BLOCK;
            let header = at - block < 128 && bytes[block..block + 4] == *b"FRAM";
            let chosen = header || at % 61 == share;
            if !is_long() && !chosen {
                continue;
            }
            let what = format!("{} byte {at} ^ {pattern:#x}", name(path));
            let flipped =
                example.judge(&what, |disk| disk.flip_byte(path, at as u64, pattern).unwrap());
            if flipped { shown += 1 } else { refused += 1 }
        }
    }
    println!("{pattern:#x}: {shown} flips left every record, {refused} were refused");
    assert!(shown > 500 && refused > 500);
}

#[test]
fn a_flipped_low_bit_anywhere_is_no_loss_or_is_named() {
    flip(0x01, 0);
}

#[test]
fn a_flipped_high_bit_anywhere_is_no_loss_or_is_named() {
    flip(0x80, 1);
}

#[test]
fn an_inverted_byte_anywhere_is_no_loss_or_is_named() {
    flip(0xff, 2);
}

#[test]
fn a_file_cut_anywhere_is_no_loss_or_is_named() {
    let example = Example::new();
    let (mut shown, mut refused) = (0, 0);
    for (path, bytes) in &example.files {
        for length in 0..bytes.len() {
            let near = (length + 1) % BLOCK < 3 || length % 499 == 0;
            if !is_long() && !near {
                continue;
            }
            let what = format!("{} cut to {length} bytes", name(path));
            let whole = example.judge(&what, |disk| disk.write_file(path, &bytes[..length]));
            if whole { shown += 1 } else { refused += 1 }
        }
    }
    println!("{shown} cuts left every record, {refused} were refused");
    assert!(shown > 50 && refused > 50);
}

#[test]
fn swapped_doubled_and_lost_files_are_no_loss_or_are_named() {
    let example = Example::new();
    let (mut shown, mut refused) = (0, 0);
    let mut judge = |what: &str, damage: &dyn Fn(&SimDisk)| {
        if example.judge(what, damage) { shown += 1 } else { refused += 1 }
    };
    let remove = |disk: &SimDisk, path: &Path| {
        let directory = disk.directory(Path::new(PLACE), false).unwrap();
        directory.unlink(&name(path)).unwrap();
        directory.sync().unwrap();
    };
    let files: Vec<_> = example.files.iter().collect();
    for (path, bytes) in &files {
        judge(&format!("{} lost", name(path)), &|disk| remove(disk, path));
        for (other, others) in files.iter().filter(|(other, _)| other != path) {
            let what = format!("{} and {}", name(path), name(other));
            judge(&format!("{what} swapped"), &|disk| {
                disk.write_file(path, others);
                disk.write_file(other, bytes);
            });
            judge(&format!("{what} both the first"), &|disk| disk.write_file(other, bytes));
            judge(&format!("{what} lost"), &|disk| {
                remove(disk, path);
                remove(disk, other);
            });
        }
    }
    println!("{shown} left every record, {refused} were refused");
    assert!(shown > 0 && refused > 20);
}
