//! Damaged images of small logs, opened on the simulated disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use crate::checksum::crc32c;
use crate::clock::ManualClock;
use crate::error::ErrorKind;
use crate::ids::{Lsn, ProducerId, to_u64};
use crate::sim::{CrashManner, CrashOutcome, SimDisk, SimOptions};
use crate::storage::BLOCK;
use crate::sync::Arc;
use crate::wal::{Background, Entry, ProducerStamp, Wal, WalOptions};

const PLACE: &str = "/log";

/// A log as it is found: its disk, off, and the bytes of its files.
struct Image {
    disk: SimDisk,
    files: Vec<(PathBuf, Vec<u8>)>,
}

/// Each is made once; every input opens a copy, which shares what it does not change.
static IMAGES: LazyLock<[Image; 3]> =
    LazyLock::new(|| [killed(), closed(), torn()].map(|disk| Image::of(&disk)));

/// The image of a small log with some of its bytes replaced, as `edits` says (file, offset, byte:
/// four bytes each), or, where `edits` starts with zero, a file that holds the rest of it. The
/// first byte says which log, and, in its lowest bits, what is made right again, so that the edits
/// get past it: 1 the checksums of blocks that were touched, 3 every checksum, and the chain too.
/// Opening it recovers or refuses with a typed error; what is recovered reads to its end, opens
/// again, and then shows the same.
///
/// # Panics
/// If it does not: that is the finding.
pub fn recover_image(edits: &[u8]) {
    let input = edits;
    let Some((choice, edits)) = edits.split_first() else { return };
    let image = &IMAGES[usize::from(choice / 4) % IMAGES.len()];
    let disk = image.disk.power_cycle(CrashOutcome::KeepAll);
    if *choice == 0 {
        let Some((index, bytes)) = edits.split_first() else { return };
        disk.write_file(&image.file(*index).0, bytes);
    } else {
        image.edit(&disk, edits, choice % 4);
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
    let again = open(&disk).map(|wal| read(&wal));
    let differs = || format!("{} of {input:?}", brief(&again));
    assert!(again == Ok(shown), "RECOVERY-3: recovering twice is once, not {}", differs());
}

impl Image {
    /// What a crash leaves of it has nothing pending: it is cheap to copy.
    fn of(disk: &SimDisk) -> Image {
        let disk = disk.power_cycle(CrashOutcome::KeepAll);
        disk.power_off();
        let bytes = |path: PathBuf| Some((path.clone(), disk.read_file(path)?));
        let files = disk.files().into_iter().filter_map(bytes).collect();
        Image { disk, files }
    }

    fn file(&self, index: u8) -> &(PathBuf, Vec<u8>) {
        &self.files[usize::from(index) % self.files.len()]
    }

    /// Does what `edits` says to `disk`, and makes right what `mode` asks for.
    fn edit(&self, disk: &SimDisk, edits: &[u8], mode: u8) {
        let mut blocks: BTreeMap<(usize, usize), Vec<u8>> = BTreeMap::new();
        for edit in edits.chunks_exact(4) {
            let file = usize::from(edit[0]) % self.files.len();
            let offset = usize::from(u16::from_le_bytes([edit[1], edit[2]]));
            let (number, within) = (offset / BLOCK, offset % BLOCK);
            let Some(block) = self.files[file].1.chunks(BLOCK).nth(number) else { continue };
            let block = blocks.entry((file, number)).or_insert_with(|| block.to_vec());
            if let Some(byte) = block.get_mut(within) {
                *byte = edit[3];
            }
        }
        if mode & 1 == 1 {
            blocks.values_mut().for_each(|block| seal(block));
        }
        if mode == 3 {
            return self.rechain(disk, &blocks);
        }
        for ((file, number), block) in &blocks {
            disk.overwrite(&self.files[*file].0, to_u64(number * BLOCK), block).ok();
        }
    }

    /// Writes the changed blocks, and makes every frame of the log follow the one before.
    fn rechain(&self, disk: &SimDisk, blocks: &BTreeMap<(usize, usize), Vec<u8>>) {
        let mut chain = None;
        for (file, (path, bytes)) in self.files.iter().enumerate() {
            let mut bytes = bytes.clone();
            for ((_, number), block) in blocks.range((file, 0)..(file + 1, 0)) {
                bytes[number * BLOCK..][..block.len()].copy_from_slice(block);
            }
            let mut at = BLOCK;
            while let Some(frame) = bytes.get_mut(at..).filter(|frame| frame.starts_with(b"FRAM")) {
                match follow(frame, &mut chain) {
                    Some(length) => at += length,
                    None => break,
                }
            }
            disk.overwrite(path, 0, &bytes).ok();
        }
    }
}

/// Makes the checksums of the frame that `bytes` start with right, and those that it carries of the
/// one before; its length.
fn follow(bytes: &mut [u8], chain: &mut Option<u32>) -> Option<usize> {
    let (header, rest) = bytes.split_at_mut_checked(128)?;
    let length = u32::from_le_bytes(header[84..88].try_into().ok()?);
    let payload = rest.get_mut(..usize::try_from(length).ok()?)?;
    if let Some(before) = *chain {
        header[92..96].copy_from_slice(&before.to_le_bytes());
        if header[96] == 2 && payload.len() >= 28 {
            payload[24..28].copy_from_slice(&before.to_le_bytes());
        }
    }
    header[88..92].copy_from_slice(&crc32c(payload).to_le_bytes());
    let crc = crc32c(&header[8..]);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    *chain = Some(crc);
    Some((128 + payload.len()).next_multiple_of(BLOCK))
}

/// Makes the checksum of a block right, if it is one that has some.
fn seal(block: &mut [u8]) {
    if block.len() < BLOCK {
        return;
    }
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
        memory: 1 << 20,
        recycled: 1,
        lock_wait: Duration::ZERO,
        background: Background::Inline,
        ..WalOptions::default()
    };
    let clock = Arc::new(ManualClock::default());
    Wal::open_with(Arc::new(disk.clone()), clock, Path::new(PLACE), options)
        .map_err(|error| error.kind())
}

type Shown = Vec<(Lsn, Vec<u8>)>;

/// What was shown, for a message.
fn brief(shown: &Result<Result<Shown, ErrorKind>, ErrorKind>) -> String {
    let lsns = |records: &Shown| records.iter().map(|(lsn, _)| *lsn).collect::<Vec<_>>();
    format!("{:?}", shown.as_ref().map(|read| read.as_ref().map(lsns)))
}

fn read(wal: &Wal) -> Result<Shown, ErrorKind> {
    let mut replay = wal.replay().map_err(|error| error.kind())?;
    let mut records = Vec::new();
    while let Some(record) = replay.next() {
        let record = record.map_err(|error| error.kind())?;
        records.push((record.lsn, record.payload.to_vec()));
    }
    Ok(records)
}

#[allow(clippy::expect_used, reason = "an undisturbed simulated disk does not fail")]
fn new_log() -> (SimDisk, Wal) {
    let disk = SimDisk::with_options(1, SimOptions { trace_lines: 0, ..SimOptions::default() });
    let wal = open(&disk).expect("a new log opens");
    (disk, wal)
}

#[allow(clippy::expect_used, reason = "an undisturbed simulated disk does not fail")]
fn fill(wal: &Wal, lengths: &[usize]) {
    for length in lengths {
        wal.append(&vec![7; *length]).expect("an append succeeds");
    }
}

/// A log of two segments with a few records, not closed.
fn killed() -> SimDisk {
    let (disk, wal) = new_log();
    fill(&wal, &[10, 5000, 30_000, 30_000, 20]);
    drop(wal);
    disk
}

/// A log of two incarnations with a stream, a producer and a batch, closed.
#[allow(clippy::expect_used, reason = "an undisturbed simulated disk does not fail")]
fn closed() -> SimDisk {
    let (disk, wal) = new_log();
    fill(&wal, &[10, 9000]);
    wal.stream("orders").and_then(|stream| stream.append(b"one")).expect("a stream takes records");
    drop(wal);
    let wal = open(&disk).expect("it opens again");
    let stamp = ProducerStamp { id: ProducerId::new(3), epoch: 1, sequence: 0 };
    let entry = Entry::new(b"sent").key(b"key").timestamp(5).producer(stamp);
    wal.append_record(&entry).expect("a producer's record is stored");
    wal.append_batch(&[b"first".as_slice(), b"", b"third"]).expect("a batch is stored");
    wal.close().expect("it closes");
    disk
}

/// A log whose first segment was given up and is used again, whose last frame is torn.
#[allow(clippy::expect_used, reason = "an undisturbed simulated disk does not fail")]
fn torn() -> SimDisk {
    let (disk, wal) = new_log();
    fill(&wal, &[30_000, 30_000, 20, 9000]);
    wal.truncate_before(wal.durable_lsn()).expect("what lies before is given up");
    fill(&wal, &[30_000, 20_000, 30_000, 100]);
    // The submit of the frame, then its completion.
    disk.crash_at(disk.ops() + 2, CrashManner::Torn);
    assert!(wal.append(&[8; 9000]).is_err() && disk.is_off(), "the power goes in the write");
    disk.power_cycle(CrashOutcome::Subset(0b1110_1111))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::decode_wal;

    /// Every field of every header, changed with its checksum made right: nobody wrote that, and no
    /// checksum says so.
    #[test]
    fn headers_that_lie_never_panic_and_never_hang() {
        for (which, image) in (0..).zip(&*IMAGES) {
            for (file, (_, bytes)) in (0..).zip(&image.files) {
                let starts = (0..bytes.len()).step_by(BLOCK);
                for start in starts.filter(|start| is_header(&bytes[*start..])) {
                    for (at, byte) in bytes.iter().enumerate().take(start + 128).skip(start + 8) {
                        let [low, high, ..] = at.to_le_bytes();
                        for value in [byte ^ 1, 0x3f, 0xff] {
                            recover_image(&[which * 4 + 1, file, low, high, value]);
                            recover_image(&[which * 4 + 3, file, low, high, value]);
                        }
                    }
                }
            }
        }
    }

    /// Of the closed log's second barrier: that the epoch before began far above all records. Of
    /// the killed log's first, which `LOG` names: a higher epoch than that of its records. Both
    /// were believed, repeated by the next opening, and not believed there.
    #[test]
    fn a_barrier_that_contradicts_itself_or_log_is_refused_at_once() {
        recover_image(&[4 + 3, 0, 0xbe, 0x80, 4]);
        recover_image(&[1, 0, 40, 16, 63]);
    }

    fn is_header(block: &[u8]) -> bool {
        block.starts_with(b"SAWM") || block.starts_with(b"FRAM")
    }

    /// The logs are what they are said to be: what is not edited opens, and what is made right
    /// again after an edit is not refused for a checksum.
    #[test]
    fn images_open_and_edits_get_past_checksums() {
        let records = IMAGES.each_ref().map(|image| {
            let disk = image.disk.power_cycle(CrashOutcome::KeepAll);
            read(&open(&disk).unwrap()).unwrap().len()
        });
        assert_eq!(records, [5, 7, 7]);
        let image = &IMAGES[0];
        let (file, bytes) = (0, &image.files[0].1);
        // A byte of the payload of the first record, in the frame behind the barrier.
        let at = 2 * BLOCK + 128 + 8;
        assert!(image.files[0].0.ends_with("00000000000000000001.seg") && bytes[at] == 7);
        let [low, high, ..] = at.to_le_bytes();
        let edits = [file, low, high, 9];
        let opened = |mode| {
            let disk = image.disk.power_cycle(CrashOutcome::KeepAll);
            image.edit(&disk, &edits, mode);
            open(&disk).and_then(|wal| read(&wal)).map(|records| records[0].1[0])
        };
        assert_eq!(opened(3), Ok(9));
        assert_eq!(opened(1), Err(ErrorKind::Corrupt));
    }

    #[test]
    fn arbitrary_and_nearly_valid_bytes_never_panic() {
        for (_, bytes) in IMAGES.iter().flat_map(|image| &image.files) {
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
