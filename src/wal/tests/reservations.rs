//! Records that were reserved: their LSNs, and what becomes of those that never came.

use super::*;
use crate::ids::to_u64;
use crate::sync::spawn;

/// A reservation that is given up keeps its LSN, which no reader is shown; what stands around it
/// is whole, before and after the log is opened again.
#[test]
fn a_reservation_that_was_given_up_is_skipped_by_readers() {
    let disk = disk(11, Device::Flush);
    let wal = open(&disk, Background::Inline).unwrap();
    wal.submit(b"before").unwrap();
    assert!(wal.give_up_reservation(500));
    wal.submit(b"behind").unwrap();
    assert_eq!(wal.appended_lsn(), Lsn::new(3));
    assert_eq!(wal.append(b"durable").unwrap(), Lsn::new(4));
    let expected: Vec<_> = [(1, "before"), (3, "behind"), (4, "durable")]
        .map(|(lsn, text)| (Lsn::new(lsn), text.as_bytes().to_vec()))
        .into();
    assert_eq!(contents(&wal).unwrap(), expected);
    drop(wal);
    let wal = open(&disk, Background::Inline).unwrap();
    assert_eq!(contents(&wal).unwrap(), expected);
    assert_eq!(wal.append(b"next").unwrap(), Lsn::new(5));
}

/// Submissions, appends of all sizes, futures-to-be and reservations given up, by several threads
/// at once over small segments: each LSN holds the payload that its caller was told.
#[test]
fn every_lsn_holds_its_payload_however_it_was_reserved() {
    watched(|| {
        let disk = disk(12, Device::Flush);
        let wal = open(&disk, Background::Threads).unwrap();
        let workers: Vec<_> = (0..4_u8)
            .map(|worker| {
                let wal = wal.clone();
                let body = move || {
                    let mut mine = Vec::new();
                    for number in 0..200_u8 {
                        let size = 1 + usize::from(number) * usize::from(worker) * 7;
                        let payload = vec![worker.wrapping_mul(31) ^ number; size];
                        let lsn = match number % 16 {
                            7 => wal.append(&payload).unwrap(),
                            9 => wal.submit(&payload).unwrap().wait().unwrap(),
                            11 => {
                                wal.give_up_reservation(size);
                                continue;
                            }
                            _ => wal.submit(&payload).unwrap().lsn(),
                        };
                        mine.push((lsn, payload));
                    }
                    mine
                };
                spawn("appender", body).unwrap()
            })
            .collect();
        let mut expected: Vec<_> =
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        expected.sort_by_key(|record| record.0);
        let last = wal.sync().unwrap();
        assert_eq!(contents(&wal).unwrap(), expected);
        assert!(last.get() >= to_u64(expected.len()));
        wal.close().unwrap();
        let wal = open(&disk, Background::Inline).unwrap();
        assert_eq!(contents(&wal).unwrap(), expected);
    });
}
