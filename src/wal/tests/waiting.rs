//! Who waits for whom: groups, hand-over, internal records, order.

use std::collections::BTreeMap;

use super::{contents, disk, open, watched};
use crate::error::ErrorKind;
use crate::ids::{Lsn, StreamId};
use crate::sim::Device;
use crate::sync::{lock, spawn};
use crate::wal::Background;

#[test]
fn every_lsn_holds_its_payload_whoever_led() {
    watched(|| {
        let disk = disk(11, Device::Fua);
        let wal = open(&disk, Background::Threads).unwrap();
        let workers: Vec<_> = (0..12u8)
            .map(|thread| {
                let wal = wal.clone();
                let body = move || {
                    let mut mine = Vec::new();
                    for number in 0..100u8 {
                        let bytes = vec![thread; usize::from(number) * 40];
                        let lsn = if (thread + number) % 3 == 0 {
                            wal.submit(&bytes).unwrap().lsn()
                        } else {
                            let lsn = wal.append(&bytes).unwrap();
                            assert!(wal.durable_lsn() >= lsn, "acknowledged before durable");
                            lsn
                        };
                        mine.push((lsn, bytes));
                    }
                    mine
                };
                spawn("appender", body).unwrap()
            })
            .collect();
        let mut expected = BTreeMap::new();
        for worker in workers {
            expected.extend(worker.join().unwrap());
        }
        wal.sync().unwrap();
        let found: BTreeMap<_, _> = contents(&wal).unwrap().into_iter().collect();
        assert_eq!(expected.len(), 1200, "no LSN was given twice");
        assert_eq!(found, expected);
        wal.close().unwrap();
    });
}

#[test]
fn a_lone_append_is_one_durable_write_and_no_sync() {
    let disk = disk(12, Device::Fua);
    let wal = open(&disk, Background::Inline).unwrap();
    wal.append(b"first").unwrap();
    for _ in 0..5 {
        let before = disk.ops();
        wal.append(&[1; 100]).unwrap();
        assert_eq!(disk.ops() - before, 2, "a submit and its completion");
    }
}

#[test]
fn a_submitted_record_becomes_durable_with_the_next_append() {
    let disk = disk(13, Device::Fua);
    let wal = open(&disk, Background::Inline).unwrap();
    let pending = wal.submit(b"first").unwrap();
    assert_eq!((wal.appended_lsn(), wal.durable_lsn()), (Lsn::FIRST, Lsn::ZERO));
    assert!(contents(&wal).unwrap().is_empty(), "nothing above the durable LSN is shown (L19)");
    assert_eq!(wal.append(b"second").unwrap(), Lsn::new(2));
    let before = disk.ops();
    assert_eq!(pending.wait().unwrap(), Lsn::FIRST);
    assert_eq!(wal.sync().unwrap(), Lsn::new(2));
    assert_eq!(disk.ops(), before, "nothing was left to do");
}

#[test]
fn internal_records_take_lsns_and_are_shown_on_demand_only() {
    let disk = disk(14, Device::Flush);
    let wal = open(&disk, Background::Inline).unwrap();
    wal.append(b"user").unwrap();
    let plan = wal.append_internal(StreamId::new(7), &[b"plan", b"more"]).unwrap();
    assert_eq!((plan.first(), plan.len()), (Lsn::new(2), 2));
    let done = wal.leave_internal(StreamId::new(7), b"done").unwrap();
    assert_eq!(wal.wait_durable(done).unwrap(), done);
    wal.append_to(StreamId::new(3), b"user").unwrap();
    let lsns: Vec<_> = contents(&wal).unwrap().iter().map(|(lsn, _)| lsn.get()).collect();
    assert_eq!(lsns, [1, 5]);
    let mut replay = wal.replay_all_from(Lsn::new(3)).unwrap();
    let mut seen = Vec::new();
    while let Some(record) = replay.next() {
        let record = record.unwrap();
        seen.push((record.lsn.get(), record.stream.get(), record.internal));
    }
    assert_eq!(seen, [(3, 7, true), (4, 7, true), (5, 3, false)]);
}

#[test]
fn closing_while_others_append_loses_nothing_that_was_acknowledged() {
    for seed in 0..5 {
        watched(move || {
            let disk = disk(20 + seed, Device::Fua);
            let wal = open(&disk, Background::Threads).unwrap();
            let workers: Vec<_> = (0..6u8)
                .map(|thread| {
                    let wal = wal.clone();
                    let body = move || {
                        let mut last = Lsn::ZERO;
                        loop {
                            match wal.append(&[thread; 50]) {
                                Ok(lsn) => last = lsn,
                                Err(error) => return (last, error.kind()),
                            }
                        }
                    };
                    spawn("appender", body).unwrap()
                })
                .collect();
            while wal.durable_lsn() < Lsn::new(50) {
                std::thread::yield_now();
            }
            wal.close().unwrap();
            let mut highest = Lsn::ZERO;
            for worker in workers {
                let (last, kind) = worker.join().unwrap();
                assert_eq!(kind, ErrorKind::Closed);
                highest = highest.max(last);
            }
            let wal = open(&disk, Background::Inline).unwrap();
            assert!(contents(&wal).unwrap().len() as u64 >= highest.get());
        });
    }
}

#[test]
fn a_panic_within_the_log_poisons_it_and_wakes_who_waits() {
    let kind = watched(|| {
        let disk = disk(30, Device::Fua);
        let wal = open(&disk, Background::Threads).unwrap();
        wal.append(b"good").unwrap();
        let breaking = wal.clone();
        // A mark that is ahead of what is written breaks WAL-1 in the next leader's hands.
        let broken = spawn("breaking", move || {
            breaking.break_marks();
            breaking.append(b"x").map(|_| ())
        });
        assert!(broken.unwrap().join().is_err(), "an assertion failed");
        let (first, second) = (wal.append(b"y").unwrap_err(), wal.sync().unwrap_err());
        assert_eq!(first.kind(), second.kind());
        assert_eq!(wal.clone().close().unwrap_err().kind(), ErrorKind::Poisoned);
        first.kind()
    });
    assert_eq!(kind, ErrorKind::Poisoned);
}

#[test]
fn a_replay_keeps_the_log_locked_until_it_is_dropped() {
    let disk = disk(31, Device::Fua);
    let wal = open(&disk, Background::Inline).unwrap();
    wal.append(b"shown").unwrap();
    let mut replay = wal.replay().unwrap();
    wal.close().unwrap();
    assert_eq!(open(&disk, Background::Inline).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(replay.next().unwrap().unwrap().payload, b"shown");
    drop(replay);
    assert_eq!(contents(&open(&disk, Background::Inline).unwrap()).unwrap().len(), 1);
}

/// The second one waited for ever for the first, which had panicked.
#[test]
fn a_panic_while_closing_leaves_no_second_closer_waiting() {
    watched(|| {
        let disk = disk(32, Device::Fua);
        let wal = open(&disk, Background::Threads).unwrap();
        wal.break_marks();
        let closing = wal.clone();
        let first = spawn("closing", move || closing.close());
        let first = first.unwrap().join();
        assert!(first.is_err() || first.unwrap().is_err());
        wal.close().ok();
    });
}

#[test]
fn a_slot_more_than_the_depth_asks_for_goes_with_who_gives_it_back() {
    let wal = open(&disk(17, Device::Fua), Background::Threads).unwrap();
    let count = || lock(&wal.core().open).slots.count();
    wal.core().add_slot();
    wal.core().add_slot();
    assert_eq!(count(), 3);
    for left in [2, 1, 1] {
        wal.append(b"record").unwrap();
        assert_eq!(count(), left);
    }
    wal.close().unwrap();
}

/// The committer was not told of the frame: whoever adds to it tells it.
#[test]
fn a_record_submitted_behind_one_that_was_left_is_written() {
    let disk = disk(32, Device::Fua);
    let wal = open(&disk, Background::Threads).unwrap();
    for _ in 0..20 {
        let left = wal.leave_internal(StreamId::new(7), b"left").unwrap();
        let behind = wal.submit(b"nobody waits").unwrap().lsn();
        assert_eq!(behind, left.next());
        let wal = wal.clone();
        watched(move || {
            while wal.written_lsn() < behind {
                std::thread::yield_now();
            }
        });
    }
}

/// What the engine leaves for itself is everybody's who waits: nobody else would write it.
#[test]
fn a_record_that_was_left_is_written_by_who_waits_or_told_to_begin() {
    let disk = disk(31, Device::Fua);
    let wal = open(&disk, Background::Threads).unwrap();
    let left = wal.leave_internal(StreamId::new(7), b"left").unwrap();
    assert_eq!(wal.append(b"waits").unwrap(), left.next());
    let stats = wal.stats();
    assert_eq!((stats.frames, stats.durable_frames), (1, 1), "both in one frame");
    let left = wal.leave_internal(StreamId::new(7), b"begun").unwrap();
    wal.begin_durable(left);
    watched(move || {
        while wal.durable_lsn() < left {
            std::thread::yield_now();
        }
        let left = wal.leave_internal(StreamId::new(7), b"at the end").unwrap();
        wal.close().unwrap();
        let wal = open(&disk, Background::Inline).unwrap();
        assert_eq!(wal.durable_lsn(), left);
    });
}
