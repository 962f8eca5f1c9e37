//! Compressed frames: read by everybody as they were appended, and recovered as any other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::{CrashManner, CrashOutcome, Device, SimDisk, SimOptions};
use sawmill::{Background, Compression, Entry, Error, ErrorKind, Lsn, Wal, WalOptions};

const MANNERS: [CrashManner; 3] = [CrashManner::Before, CrashManner::Torn, CrashManner::After];

fn options() -> WalOptions {
    WalOptions {
        segment_size: 256 << 10,
        compression: Compression::Lz4,
        lock_wait: Duration::ZERO,
        ..WalOptions::default()
    }
}

fn simulated(disk: &SimDisk) -> Result<Wal, Error> {
    let background = Background::Inline;
    let options = WalOptions { segment_size: 64 << 10, background, ..options() };
    let clock = Arc::new(ManualClock::default());
    Wal::open_with(Arc::new(disk.clone()), clock, Path::new("/log"), options)
}

/// Bytes that no compressor makes shorter.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// What the `nth` record holds: text, noise, and both, of many lengths.
fn payload(nth: u64) -> Vec<u8> {
    let length = usize::try_from(nth * 977 % 30_000).unwrap();
    let text = format!("{{\"record\": {nth}, \"what\": \"a line of a log\"}} ");
    let mut bytes = match nth % 4 {
        0 => noise(nth, length),
        _ => text.as_bytes().repeat(length / text.len() + 1),
    };
    if nth % 4 == 1 {
        bytes.extend(noise(nth, length / 3));
    }
    bytes
}

fn check(record: (Lsn, &[u8], Option<&[u8]>)) {
    let (lsn, bytes, key) = record;
    assert_eq!(bytes, payload(lsn.get()), "record {lsn}");
    assert_eq!(key, Some(lsn.get().to_le_bytes().as_slice()), "record {lsn}");
}

fn append(wal: &Wal, nth: u64) -> Result<(), Error> {
    let (payload, key) = (payload(nth), nth.to_le_bytes());
    let entry = Entry::new(&payload).key(&key);
    match nth % 3 {
        0 => drop(wal.submit_record(&entry)?),
        _ => assert_eq!(wal.append_record(&entry)?, Lsn::new(nth)),
    }
    Ok(())
}

fn count(wal: &Wal) -> u64 {
    let mut replay = wal.replay().unwrap();
    let mut count = 0;
    while let Some(record) = replay.next() {
        let record = record.unwrap();
        count += 1;
        check((record.lsn, record.payload, record.key()));
    }
    count
}

/// Frames in the segments of a directory: how many, and how many of them are compressed.
fn frames(place: &Path) -> (u64, u64) {
    let mut found = (0, 0);
    for entry in std::fs::read_dir(place).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            let bytes = std::fs::read(path).unwrap();
            for block in bytes.chunks(4096).filter(|block| block.starts_with(b"FRAM")) {
                found.0 += 1;
                found.1 += u64::from(block[97]);
            }
        }
    }
    found
}

#[test]
fn every_reader_shows_what_was_appended() {
    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("log");
    let wal = Wal::open(&log, options()).unwrap();
    let mut tail = wal.tail(Lsn::FIRST).unwrap();
    for nth in 1..=200 {
        append(&wal, nth).unwrap();
    }
    wal.sync().unwrap();
    let mut late = wal.tail(Lsn::FIRST).unwrap();
    for tail in [&mut tail, &mut late] {
        for nth in 1..=200 {
            let record = tail.try_next().unwrap().unwrap();
            assert_eq!(record.lsn, Lsn::new(nth));
            check((record.lsn, record.payload, record.key()));
        }
    }
    assert_eq!(count(&wal), 200);
    let ahead = wal.replay().unwrap().verify_ahead(2);
    for mut replay in [ahead, wal.replay_from(Lsn::new(77)).unwrap()] {
        while let Some(record) = replay.next() {
            let record = record.unwrap();
            check((record.lsn, record.payload, record.key()));
        }
    }
    let counts = wal.par_replay(3, |mut replay| {
        let mut count = 0;
        while let Some(record) = replay.next() {
            let record = record?;
            check((record.lsn, record.payload, record.key()));
            count += 1;
        }
        Ok(count)
    });
    assert_eq!(counts.unwrap().iter().sum::<i32>(), 200);
    let found = wal.get(Lsn::new(123)).unwrap().unwrap();
    check((found.lsn, &found.payload, found.key.as_deref()));
    wal.backup(place.path().join("copy")).unwrap();
    drop((tail, late, wal));
    let (all, compressed) = frames(&log);
    assert!(compressed > 20 && all > compressed, "{compressed} of {all}");
    // It is decided frame by frame: the log goes on without, and comes back to it.
    for (life, compression) in [(1, Compression::None), (2, Compression::Lz4)] {
        let wal = Wal::open(&log, WalOptions { compression, ..options() }).unwrap();
        assert_eq!(count(&wal), 160 + life * 40);
        for nth in 161 + life * 40..=200 + life * 40 {
            append(&wal, nth).unwrap();
        }
        wal.close().unwrap();
        if compression == Compression::None {
            assert!(frames(&log).0 > all && frames(&log).1 == compressed);
        }
    }
    assert_eq!(count(&Wal::open(place.path().join("copy"), options()).unwrap()), 200);
    assert_eq!(count(&Wal::open(&log, options()).unwrap()), 280);
}

#[test]
fn what_is_saved_is_used_by_the_frames_behind() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    let line = [7; 20_000];
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..100 {
                    if round % 5 == 0 {
                        wal.submit(&line).unwrap();
                    } else {
                        wal.append(&line).unwrap();
                    }
                }
            });
        }
    });
    wal.sync().unwrap();
    let last = wal.append_for_receipt(&Entry::new(b"last")).unwrap();
    // 8 MB, which would take 30 segments and more; each frame takes a block.
    assert!(last.position.segment.get() <= 9, "{last:?}");
    drop(wal);
    let wal = Wal::open(place.path(), options()).unwrap();
    let mut replay = wal.replay().unwrap();
    for _ in 0..400 {
        assert_eq!(replay.next().unwrap().unwrap().payload, line);
    }
    assert_eq!(replay.next().unwrap().unwrap().payload, b"last");
    assert!(replay.next().is_none());
    let stats = wal.stats();
    drop((replay, stats));
}

/// What a log lives through: small frames and large ones, over segments, with truncation.
fn life(disk: &SimDisk, acknowledged: &mut u64) -> Result<(), Error> {
    let mut wal = simulated(disk)?;
    for nth in 1..=24 {
        append(&wal, nth)?;
        if nth % 3 != 0 {
            *acknowledged = nth;
        }
        if nth == 10 {
            drop(wal);
            wal = simulated(disk)?;
        }
        if nth == 20 {
            wal.truncate_before(Lsn::new(nth))?;
        }
    }
    wal.close()
}

#[test]
fn every_crash_keeps_what_was_acknowledged() {
    let mut states = 0;
    for device in [Device::Fua, Device::Flush] {
        let sim = SimOptions { device, trace_lines: 0, ..SimOptions::default() };
        let whole = SimDisk::with_options(4, sim.clone());
        life(&whole, &mut 0).unwrap();
        for op in 1..=whole.ops() {
            for manner in MANNERS {
                let disk = SimDisk::with_options(4, sim.clone());
                disk.crash_at(op, manner);
                let mut acknowledged = 0;
                drop(life(&disk, &mut acknowledged));
                for outcome in
                    [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(op)]
                {
                    let found = disk.power_cycle(outcome);
                    for _ in 0..2 {
                        let wal = simulated(&found).unwrap();
                        let (first, last) = (wal.first_lsn().get(), wal.last_lsn().get());
                        assert_eq!(count(&wal), last + 1 - first);
                        assert!(last >= acknowledged, "{op} {manner:?} {outcome:?}: {last}");
                        let next = last + 1;
                        wal.append_record(&Entry::new(&payload(next)).key(&next.to_le_bytes()))
                            .unwrap();
                        states += 1;
                    }
                }
            }
        }
    }
    assert!(states > 1000, "{states}");
}

/// CRC32C (Castagnoli), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1));
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// The last frame of the log, which is compressed, as `change` leaves its payload, with checksums
/// that hold.
fn forged(change: impl Fn(&mut Vec<u8>, &mut u32)) -> SimDisk {
    let disk = SimDisk::new(5);
    let wal = simulated(&disk).unwrap();
    let receipt = wal.append_for_receipt(&Entry::new(&[7; 20_000])).unwrap();
    let found = disk.power_cycle(CrashOutcome::LoseAll);
    drop(wal);
    let name = format!("/log/{:020}.seg", receipt.position.segment.get());
    let mut bytes = found.read_file(&name).unwrap();
    let at = usize::try_from(receipt.position.offset).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((bytes[at + 97], receipt.frame_bytes), (1, 4096));
    let (length, mut plain) = (usize::try_from(word(at + 84)).unwrap(), word(at + 100));
    let mut payload = bytes[at + 128..at + 128 + length].to_vec();
    change(&mut payload, &mut plain);
    assert!(payload.len() <= 4096 - 128);
    let frame = &mut bytes[at..at + 4096];
    frame[84..88].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    frame[88..92].copy_from_slice(&crc32c(&payload).to_le_bytes());
    frame[100..104].copy_from_slice(&plain.to_le_bytes());
    frame[128..].fill(0);
    frame[128..128 + payload.len()].copy_from_slice(&payload);
    let crc = crc32c(&frame[8..128]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    found.write_file(&name, &bytes);
    found
}

#[test]
fn hostile_payloads_are_refused_with_their_place() {
    let wal = simulated(&forged(|_, _| {})).unwrap();
    assert_eq!(wal.get(Lsn::FIRST).unwrap().unwrap().payload, [7; 20_000]);
    type Change = fn(&mut Vec<u8>, &mut u32);
    let changes: [Change; 6] = [
        |payload, _| payload.truncate(payload.len() - 1),
        |payload, _| payload.fill(0xff),
        |payload, _| payload[0] ^= 0x40,
        |_, plain| *plain += 1,
        |_, plain| *plain -= 1,
        |_, plain| *plain = 60_000,
    ];
    for (nth, change) in changes.into_iter().enumerate() {
        // Recovery does not unpack: the frame stands, its checksums hold.
        let wal = simulated(&forged(change)).unwrap();
        assert_eq!(wal.last_lsn(), Lsn::FIRST, "{nth}");
        let error = wal.get(Lsn::FIRST).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{nth}");
        assert!(error.position().is_some() && error.lsns().is_some(), "{nth}");
    }
    // What would not fit a segment is no frame.
    let wal = simulated(&forged(|_, plain| *plain = 1 << 20)).unwrap();
    assert_eq!(wal.last_lsn(), Lsn::ZERO);
}

#[test]
fn a_flipped_byte_is_found_by_the_checksum() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    for _ in 0..3 {
        wal.append(&[7; 20_000]).unwrap();
    }
    let receipt = wal.append_for_receipt(&Entry::new(&[8; 20_000])).unwrap();
    wal.append(b"attests").unwrap();
    drop(wal);
    let path = place.path().join(format!("{:020}.seg", receipt.position.segment.get()));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = usize::try_from(receipt.position.offset).unwrap() + 140;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = Wal::open(place.path(), options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.lsns(), Some((receipt.lsn, receipt.lsn)));
}
