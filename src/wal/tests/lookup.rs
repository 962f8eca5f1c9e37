//! Single records and the marks.

use super::{contents, disk, open, watched};
use crate::error::ErrorKind;
use crate::ids::{Lsn, StreamId};
use crate::sim::{Device, FaultKind};
use crate::sync::{Arc, atomic::AtomicBool, atomic::Ordering, spawn};
use crate::wal::Background;

#[test]
fn every_record_is_found_by_its_lsn_and_nothing_else() {
    let disk = disk(50, Device::Fua);
    let wal = open(&disk, Background::Inline).unwrap();
    assert_eq!(wal.get(Lsn::FIRST).unwrap(), None, "an empty log");
    for number in 0..40u8 {
        wal.append_batch(&[vec![number; 3000], vec![number; 10], Vec::new()]).unwrap();
        wal.append_to(StreamId::new(u16::from(number)), &[number; 200]).unwrap();
    }
    let internal = wal.append_internal(StreamId::new(9), &[b"plan"]).unwrap().first();
    wal.append(b"last").unwrap();
    let all = contents(&wal).unwrap();
    assert_eq!(all.len(), 161);
    for (lsn, payload) in &all {
        let found = wal.get(*lsn).unwrap().unwrap();
        assert_eq!((found.lsn, &found.payload), (*lsn, payload));
    }
    assert_eq!(wal.get(Lsn::new(8)).unwrap().unwrap().stream, StreamId::new(1));
    assert_eq!(wal.get(internal).unwrap(), None, "the engine's own");
    assert_eq!(wal.get(Lsn::ZERO).unwrap(), None);
    let pending = wal.submit(b"later").unwrap();
    assert_eq!(wal.get(pending.lsn()).unwrap(), None, "not durable yet (L19)");
    pending.wait().unwrap();
    assert_eq!(wal.get(pending.lsn()).unwrap().unwrap().payload, b"later");
    let first = wal.truncate_before(Lsn::new(100)).unwrap();
    assert!(first > Lsn::FIRST, "segments went");
    assert_eq!(wal.get(first.previous()).unwrap(), None, "truncated");
    assert_eq!(wal.get(first).unwrap().map(|record| record.lsn), Some(first));
    assert_eq!(wal.last_lsn(), pending.lsn());
}

#[test]
fn damage_on_the_way_is_an_error_and_poison_refuses() {
    let disk = disk(51, Device::Fua);
    let wal = open(&disk, Background::Inline).unwrap();
    wal.append(&[1; 100]).unwrap();
    wal.append(&[2; 100]).unwrap();
    let file = super::PLACE.to_owned() + "/00000000000000000001.seg";
    // Behind the segment's header, the barrier and the first record's frame.
    disk.flip_byte(&file, 3 * 4096 + 150, 0xff).unwrap();
    assert_eq!(wal.get(Lsn::FIRST).unwrap().unwrap().payload, [1; 100]);
    assert_eq!(wal.get(Lsn::new(2)).unwrap_err().kind(), ErrorKind::Corrupt);
    disk.fail_op(disk.ops() + 1, 5, FaultKind::NotExecuted);
    wal.append(b"x").unwrap_err();
    assert_eq!(wal.get(Lsn::FIRST).unwrap_err().kind(), ErrorKind::Poisoned);
}

#[test]
fn marks_stay_in_order_while_the_log_runs() {
    watched(|| {
        let wal = open(&disk(52, Device::Flush), Background::Threads).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let (reader, stop) = (wal.clone(), Arc::clone(&done));
        let reading = spawn("reader", move || {
            let mut last = reader.marks();
            while !stop.load(Ordering::Acquire) {
                let marks = reader.marks();
                assert!(marks.durable >= last.durable && marks.appended >= last.appended);
                last = marks;
            }
        });
        for number in 0..500usize {
            wal.submit(&vec![0; number * 10]).unwrap();
            if number % 7 == 0 {
                wal.append(b"now").unwrap();
            }
        }
        wal.sync().unwrap();
        done.store(true, Ordering::Release);
        reading.unwrap().join().unwrap();
        let marks = wal.marks();
        assert!(marks.durable == marks.written && marks.written == marks.appended);
    });
}
