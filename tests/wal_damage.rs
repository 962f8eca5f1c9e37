//! Of a log of more than a mebibyte, closed cleanly or killed, every byte rots, every file is cut
//! anywhere, every sector is lost, stale or in another's place, and files are swapped, doubled,
//! lost and taken from another log: the log then shows exactly what was appended, or fails with an
//! error that names the place. Never fewer records, never other ones, never a panic. Only of a
//! killed log what its last group held may go without a word, where the damage strikes it (LOG.md
//! L15).
//!
//! `SAWMILL_SIM=long` tries each damage; otherwise a share of them. Each test prints how many.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests stop at what fails")]

mod wal_damage_common;

use std::path::Path;

use sawmill::sim::SimDisk;
use sawmill::storage::Storage;
use wal_damage_common::{BLOCK, ENDINGS, Example, PLACE, SECTOR};

/// One in so many damages is judged by reading all records, and not those around it.
const WHOLE: usize = 16;

fn is_long() -> bool {
    std::env::var("SAWMILL_SIM").is_ok_and(|value| value == "long")
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Counts what damages led to.
#[derive(Debug, Default)]
struct Tally {
    shown: usize,
    refused: usize,
}

impl Tally {
    fn add(&mut self, whole: bool) {
        if whole {
            self.shown += 1
        } else {
            self.refused += 1
        }
        if (self.shown + self.refused).is_multiple_of(100_000) {
            println!("{self:?} so far");
        }
    }

    /// Whether the next damage is judged by what stands around it.
    fn near(&self) -> bool {
        !(self.shown + self.refused).is_multiple_of(WHOLE)
    }

    fn report(&self, what: &str, example: &Example) {
        let Tally { shown, refused } = self;
        println!(
            "{:?}, {what}: {shown} left every record, {refused} were refused",
            example.ending()
        );
        assert!(*shown > 5 && *refused > 100, "{what}: {self:?}");
    }
}

/// Flips bits in each byte; without `SAWMILL_SIM=long` of headers of frames one in 11 bytes, and of
/// the rest one in 1,021, from `share` on.
fn flip(pattern: u8, share: usize) {
    for example in ENDINGS.map(Example::new) {
        let mut tally = Tally::default();
        for (path, bytes) in &example.files {
            for at in 0..bytes.len() {
                let block = at / BLOCK * BLOCK;
                let header = at - block < 128 && bytes[block..block + 4] == *b"FRAM";
                let one_in = if header { 11 } else { 1021 };
                if !is_long() && at % one_in != share {
                    continue;
                }
                let what = || format!("{} byte {at} ^ {pattern:#x}", name(path));
                tally.add(example.judge(&what, &[(path, at..at + 1)], tally.near(), |disk| {
                    disk.flip_byte(path, at as u64, pattern).unwrap();
                }));
            }
        }
        tally.report(&format!("bytes ^ {pattern:#x}"), &example);
    }
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
    for example in ENDINGS.map(Example::new) {
        let mut tally = Tally::default();
        for (path, bytes) in &example.files {
            for length in 0..bytes.len() {
                let near = (length + 1) % BLOCK < 3 && length % 7 == 0;
                if !is_long() && !near && length % 997 != 0 {
                    continue;
                }
                let what = || format!("{} cut to {length} bytes", name(path));
                let rest = length..bytes.len();
                tally.add(example.judge(&what, &[(path, rest)], tally.near(), |disk| {
                    disk.write_file(path, &bytes[..length]);
                }));
            }
        }
        tally.report("files cut", &example);
    }
}

/// What a sector holds instead of its own bytes: zeros, what it held before, what its neighbour or
/// the same place in the next file holds, which gets its bytes in turn.
#[test]
fn a_sector_lost_stale_or_misplaced_is_no_loss_or_is_named() {
    for example in ENDINGS.map(Example::new) {
        let mut tally = Tally::default();
        let files: Vec<_> = example.files.iter().collect();
        for (nth, (path, bytes)) in files.iter().enumerate() {
            for at in (0..bytes.len()).step_by(SECTOR) {
                if !is_long() && !(at / SECTOR + nth).is_multiple_of(13) {
                    continue;
                }
                let own = at..at + SECTOR;
                let mut put = |what: &str, there: &[u8], other: Option<(&Path, usize)>| {
                    let what = || format!("{} sector at {at} {what}", name(path));
                    let mut damaged = vec![(path.as_path(), own.clone())];
                    damaged.extend(other.map(|(path, at)| (path, at..at + SECTOR)));
                    // Two places may be far from each other.
                    let near = other.is_none() && tally.near();
                    tally.add(example.judge(&what, &damaged, near, |disk| {
                        disk.overwrite(path, at as u64, there).unwrap();
                        if let Some((path, other)) = other {
                            disk.overwrite(path, other as u64, &bytes[own.clone()]).unwrap();
                        }
                    }));
                };
                put("zeroed", &[0; SECTOR], None);
                let earlier = example.earlier.get(*path).and_then(|bytes| bytes.get(own.clone()));
                put("stale", earlier.unwrap_or(&[0; SECTOR]), None);
                if let Some(next) = bytes.get(at + SECTOR..at + 2 * SECTOR) {
                    put("swapped with the next one", next, Some((path, at + SECTOR)));
                }
                let other = files.get(nth + 1).and_then(|(_, bytes)| bytes.get(own.clone()));
                if let Some(other) = other {
                    let next = files[nth + 1].0;
                    put("swapped with that of the next file", other, Some((next, at)));
                }
            }
        }
        tally.report("sectors", &example);
    }
}

#[test]
fn swapped_doubled_lost_and_foreign_files_are_no_loss_or_are_named() {
    for example in ENDINGS.map(Example::new) {
        let foreign = Example::of_seed(example.ending(), 6);
        let mut tally = Tally::default();
        let remove = |disk: &SimDisk, path: &Path| {
            let directory = disk.directory(Path::new(PLACE), false).unwrap();
            directory.unlink(&name(path)).unwrap();
            directory.sync().unwrap();
        };
        let files: Vec<_> = example.files.iter().collect();
        for (nth, (path, bytes)) in files.iter().enumerate() {
            let mut judge = |what: &str, other: Option<&Path>, damage: &dyn Fn(&SimDisk)| {
                let what = || format!("{} {what} {other:?}", name(path));
                let paths = [Some(path.as_path()), other].into_iter().flatten();
                let damaged: Vec<_> = paths.map(|path| (path, 0..1 << 16)).collect();
                tally.add(example.judge(&what, &damaged, false, damage));
            };
            judge("lost", None, &|disk| remove(disk, path));
            if let Some(bytes) = foreign.files.get(*path) {
                judge("of another log", None, &|disk| disk.write_file(path, bytes));
            }
            if let Some(bytes) = example.earlier.get(*path) {
                judge("as it was earlier", None, &|disk| disk.write_file(path, bytes));
            }
            for (other_nth, (other, others)) in files.iter().enumerate() {
                if nth == other_nth || !is_long() && (nth + other_nth * 3) % 7 != 0 {
                    continue;
                }
                judge("swapped with", Some(other), &|disk| {
                    disk.write_file(path, others);
                    disk.write_file(other, bytes);
                });
                judge("in the place of", Some(other), &|disk| disk.write_file(other, bytes));
                judge("lost, and", Some(other), &|disk| {
                    remove(disk, path);
                    remove(disk, other);
                });
            }
        }
        tally.report("files", &example);
    }
}
