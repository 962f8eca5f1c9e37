//! Disk full and memory full (LOG.md L5).

use super::{contents, disk, open, options, watched};
use crate::clock::ManualClock;
use crate::error::ErrorKind;
use crate::ids::{Lsn, StreamId};
use crate::sim::{Device, SimDisk};
use crate::sync::{Arc, spawn};
use crate::wal::{Background, Wal, WalOptions};

/// Appends until the disk is full; returns how many fitted.
fn fill(wal: &Wal) -> u64 {
    (0..).find(|_| wal.append(&[9; 30_000]).is_err()).unwrap()
}

fn full(background: Background) -> (SimDisk, Wal, u64) {
    let disk = disk(8, Device::Flush);
    // LOCK, LOG, and five segments with their rounding.
    disk.capacity(Some(5 * (64 << 10) + (32 << 10)));
    let wal = open(&disk, background).unwrap();
    let count = fill(&wal);
    (disk, wal, count)
}

#[test]
fn a_full_disk_refuses_before_an_lsn_is_given_and_goes_on_when_space_returns() {
    for background in [Background::Inline, Background::Threads] {
        watched(move || {
            let (disk, wal, count) = full(background);
            let error = wal.append(&[9; 30_000]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DiskFull);
            let text = error.to_string();
            assert!(text.contains("/log") && text.contains("65536 bytes are needed"), "{text}");
            let plan = wal.truncation_plan(wal.durable_lsn()).unwrap();
            let more = format!("a truncation could free {} more", plan.bytes);
            assert!(plan.bytes >= 65536 && text.contains(&more), "{text}, {plan:?}");
            assert_eq!(wal.appended_lsn().get(), count);
            // The reserve is there for the engine: it can still plan, truncate and close.
            wal.append_internal(StreamId::new(9), &[&[1; 30_000]]).unwrap();
            disk.capacity(None);
            let lsn = wal.append(&[9; 30_000]).unwrap();
            assert_eq!(lsn.get(), count + 2, "no hole");
            wal.close().unwrap();
            let wal = open(&disk, Background::Inline).unwrap();
            assert_eq!(contents(&wal).unwrap().len() as u64, count + 1);
        });
    }
}

#[test]
fn truncation_on_a_full_disk_gives_the_space_back() {
    let (_disk, wal, count) = full(Background::Inline);
    wal.truncate_before(Lsn::new(count)).unwrap();
    assert_eq!(wal.append(&[9; 30_000]).unwrap().get(), count + 1);
    wal.close().unwrap();
}

#[test]
fn a_full_disk_closes_and_reopens() {
    let (disk, wal, count) = full(Background::Inline);
    wal.close().unwrap();
    let wal = open(&disk, Background::Inline).unwrap();
    assert_eq!(contents(&wal).unwrap().len() as u64, count);
    assert_eq!(wal.append(&[9; 30_000]).unwrap_err().kind(), ErrorKind::DiskFull);
}

#[test]
fn planted_lsn_before_space_leaves_a_hole_that_is_seen() {
    use crate::planted::{Bug, with_planted};
    let (disk, wal, count) = full(Background::Inline);
    with_planted(Bug::LsnBeforeSpace, || wal.append(&[9; 30_000]).unwrap_err());
    disk.capacity(None);
    let lsn = wal.append(&[9; 30_000]);
    assert_ne!(lsn.ok(), Some(Lsn::new(count + 1)), "the bug leaves a hole");
}

#[test]
fn staging_is_bounded_whoever_writes() {
    for background in [Background::Inline, Background::Threads] {
        watched(move || {
            let disk = disk(9, Device::Flush);
            let wal = open(&disk, background).unwrap();
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    let wal = wal.clone();
                    let body = move || {
                        for _ in 0..100 {
                            wal.submit(&[5; 20_000]).unwrap();
                            let held = wal.staged_bytes();
                            assert!(held <= 1 << 20, "{held} bytes are held");
                        }
                    };
                    spawn("submitter", body).unwrap()
                })
                .collect();
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            assert_eq!(wal.sync().unwrap(), Lsn::new(400));
        });
    }
}

#[test]
fn a_record_larger_than_the_memory_bound_goes_through_alone() {
    let disk = disk(10, Device::Flush);
    let options = WalOptions { segment_size: 8 << 20, ..options(Background::Inline) };
    let clock = Arc::new(ManualClock::default());
    let wal = Wal::open_with(Arc::new(disk), clock, "/log", options).unwrap();
    wal.submit(&[1; 100]).unwrap();
    wal.submit(&vec![2; 3 << 20]).unwrap();
    wal.append(&[3; 100]).unwrap();
    let lengths: Vec<_> = contents(&wal).unwrap().iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(lengths, [100, 3 << 20, 100]);
}
