//! What is counted, and that poison shows its cause.

use super::{disk, open, watched};
use crate::error::ErrorKind;
use crate::sim::{Device, FaultKind};
use crate::wal::Background;

#[test]
fn frames_records_bytes_and_syncs_are_counted() {
    let disk = disk(40, Device::Fua);
    let wal = open(&disk, Background::Inline).unwrap();
    wal.append(&[1; 100]).unwrap();
    wal.append_batch(&[[2; 50]; 4]).unwrap();
    wal.submit(&[3; 5000]).unwrap();
    wal.sync().unwrap();
    let stats = wal.stats();
    assert_eq!((stats.frames, stats.records), (3, 6));
    assert_eq!((stats.payload_bytes, stats.written_bytes), (5300, 4 * 4096));
    assert_eq!(stats.append_latency.count(), 2, "nobody waited in submit");
    assert_eq!(stats.write_latency.count(), 3);
    assert_eq!(stats.segments_prepared, 2, "a spare and the reserve");
    assert_eq!((stats.segments_recycled, stats.prepared_bytes), (0, 2 * (64 << 10)));
    assert!((stats.records_per_frame() - 2.0).abs() < 1e-9);
    assert!(stats.poison.is_none());
}

#[test]
fn plain_frames_are_told_from_durable_ones_and_their_sync_is_counted() {
    let disk = disk(41, Device::Fua);
    let wal = open(&disk, Background::Inline).unwrap();
    let before = wal.stats();
    // More than the memory bound: the first frames are written while nobody waits for them.
    for _ in 0..100 {
        wal.submit(&[5; 20_000]).unwrap();
    }
    wal.sync().unwrap();
    let stats = wal.stats();
    assert!(stats.frames > stats.durable_frames, "{stats}");
    assert!(stats.syncs > before.syncs, "{stats}");
    assert_eq!(stats.records, 100);
}

#[test]
fn who_waits_for_memory_is_counted() {
    watched(|| {
        let disk = disk(42, Device::Flush);
        let wal = open(&disk, Background::Threads).unwrap();
        for _ in 0..400 {
            wal.submit(&[5; 20_000]).unwrap();
        }
        wal.sync().unwrap();
        let stats = wal.stats();
        // Each segment holds three such records: somebody had to wait for one, or for memory.
        assert!(stats.memory_waits + stats.segment_waits > 0, "{stats}");
    });
}

#[test]
fn poison_shows_its_cause_and_a_failed_append_is_no_sample() {
    let disk = disk(43, Device::Fua);
    let wal = open(&disk, Background::Inline).unwrap();
    disk.fail_op(disk.ops() + 1, 5, FaultKind::NotExecuted);
    let error = wal.append(b"x").unwrap_err();
    let stats = wal.stats();
    let poison = stats.poison.as_ref().unwrap();
    assert_eq!((poison.kind(), poison.to_string()), (ErrorKind::Poisoned, error.to_string()));
    assert_eq!((stats.append_latency.count(), stats.frames), (0, 0));
    assert!(stats.to_string().contains("poisoned"), "{stats}");
}

#[test]
fn segments_made_of_files_that_were_given_up_are_told_from_new_ones() {
    let disk = disk(43, Device::Fua);
    let wal = open(&disk, Background::Inline).unwrap();
    // Two of these do not fit one segment.
    for _ in 0..6 {
        wal.append(&[1; 30_000]).unwrap();
    }
    wal.truncate_before(wal.durable_lsn()).unwrap();
    let before = wal.stats();
    assert_eq!(before.segments_recycled, 0);
    for _ in 0..2 {
        wal.append(&[2; 30_000]).unwrap();
    }
    let after = wal.stats();
    assert_eq!(after.segments_prepared - before.segments_prepared, 2);
    assert_eq!((after.segments_recycled, after.prepared_bytes - before.prepared_bytes), (2, 8192));
}
