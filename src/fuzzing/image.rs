//! Damaged images of a small log, opened on the simulated disk.

use std::path::Path;
use std::time::Duration;

use crate::checksum::crc32c;
use crate::clock::ManualClock;
use crate::error::ErrorKind;
use crate::ids::Lsn;
use crate::sim::SimDisk;
use crate::storage::BLOCK;
use crate::sync::Arc;
use crate::wal::{Background, Wal, WalOptions};

const PLACE: &str = "/log";

/// The image of a small log with some of its bytes replaced, as `edits` says (file, offset, byte:
/// four bytes each), or, where `edits` starts with zero, a file that holds the rest of it. Where it
/// starts with an odd number every checksum is made right again, so that the edits get past them.
/// Opening it recovers or refuses with a typed error; what is recovered reads to its end, opens
/// again, and then shows the same.
///
/// # Panics
/// If it does not: that is the finding.
pub fn recover_image(edits: &[u8]) {
    let disk = example();
    let files = disk.files();
    let Some((choice, edits)) = edits.split_first() else { return };
    let file = |index: u8| &files[usize::from(index) % files.len()];
    if *choice == 0 {
        let Some((index, bytes)) = edits.split_first() else { return };
        disk.write_file(file(*index), bytes);
    }
    for edit in edits.chunks_exact(4).filter(|_| *choice != 0) {
        let offset = usize::from(u16::from_le_bytes([edit[1], edit[2]]));
        let Some(mut bytes) = disk.read_file(file(edit[0])) else { continue };
        if let Some(byte) = bytes.get_mut(offset) {
            *byte = edit[3];
        }
        disk.write_file(file(edit[0]), &bytes);
    }
    if choice % 2 == 1 {
        for path in &files {
            let Some(mut bytes) = disk.read_file(path) else { continue };
            bytes.chunks_exact_mut(BLOCK).for_each(seal);
            disk.write_file(path, &bytes);
        }
    }
    let first = match open(&disk) {
        Ok(wal) => wal,
        Err(kind) => {
            assert_eq!(open(&disk).err(), Some(kind), "one image, one answer");
            return;
        }
    };
    let shown = read(&first);
    drop(first);
    let again = open(&disk);
    assert!(again.is_ok_and(|wal| read(&wal) == shown), "RECOVERY-3: recovering twice is once");
}

/// Makes the checksums of a block right, if it is one that has some.
fn seal(block: &mut [u8]) {
    if block.starts_with(b"SAWM") {
        let crc = crc32c(&block[..BLOCK - 4]);
        block[BLOCK - 4..].copy_from_slice(&crc.to_le_bytes());
    } else if block.starts_with(b"FRAM") {
        let crc = crc32c(&block[8..128]);
        block[4..8].copy_from_slice(&crc.to_le_bytes());
    }
}

fn open(disk: &SimDisk) -> Result<Wal, ErrorKind> {
    let options = WalOptions {
        segment_size: 64 * 1024,
        lock_wait: Duration::ZERO,
        background: Background::Inline,
        ..WalOptions::default()
    };
    let clock = Arc::new(ManualClock::default());
    Wal::open_with(Arc::new(disk.clone()), clock, Path::new(PLACE), options)
        .map_err(|error| error.kind())
}

type Shown = Vec<(Lsn, Vec<u8>)>;

fn read(wal: &Wal) -> Result<Shown, ErrorKind> {
    let mut replay = wal.replay().map_err(|error| error.kind())?;
    let mut records = Vec::new();
    while let Some(record) = replay.next() {
        let record = record.map_err(|error| error.kind())?;
        records.push((record.lsn, record.payload.to_vec()));
    }
    Ok(records)
}

/// A log of two segments with a few records, not closed.
#[allow(clippy::expect_used, reason = "an undisturbed simulated disk does not fail")]
fn example() -> SimDisk {
    let disk = SimDisk::new(1);
    let wal = open(&disk).expect("a new log opens");
    for length in [10, 5000, 30_000, 30_000, 20] {
        wal.append(&vec![7; length]).expect("an append succeeds");
    }
    drop(wal);
    disk
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::decode_wal;

    /// Every field of every header, changed with its checksum made right: nobody wrote that, and no
    /// checksum says so.
    #[test]
    fn headers_that_lie_never_panic_and_never_hang() {
        let disk = example();
        for (index, path) in disk.files().into_iter().enumerate() {
            let bytes = disk.read_file(&path).unwrap();
            for start in (0..bytes.len()).step_by(BLOCK) {
                let block = &bytes[start..];
                if !block.starts_with(b"SAWM") && !block.starts_with(b"FRAM") {
                    continue;
                }
                for (at, byte) in bytes.iter().enumerate().take(start + 128).skip(start + 8) {
                    let [low, high, ..] = at.to_le_bytes();
                    let file = u8::try_from(index).unwrap();
                    for value in [byte ^ 1, 0x3f, 0xff] {
                        recover_image(&[1, file, low, high, value]);
                    }
                }
            }
        }
    }

    #[test]
    fn arbitrary_and_nearly_valid_bytes_never_panic() {
        let disk = example();
        for path in disk.files() {
            let bytes = disk.read_file(&path).unwrap();
            for start in (0..bytes.len()).step_by(BLOCK) {
                decode_wal(&bytes[start..]);
            }
        }
        let mut state = 1_u64;
        for _ in 0..300 {
            let edits: Vec<u8> = (0..40)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    state.to_le_bytes()[6]
                })
                .collect();
            recover_image(&edits);
            decode_wal(&edits);
        }
    }
}
