//! The decision table of `docs/recovery.md`, row by row.

use crate::error::ErrorKind;
use crate::ids::{Epoch, Lsn};
use crate::wal::test_writer::{Writer, disk};

#[test]
fn a_new_log_is_created_and_opens_again() {
    let disk = disk(1);
    let mut writer = Writer::open(&disk).unwrap();
    assert!(writer.report().created);
    assert_eq!((writer.opened.epoch, writer.tail().next_lsn), (Epoch::new(1), Lsn::FIRST));
    writer.append(b"hello").unwrap();
    assert_eq!(Writer::open(&disk).unwrap_err().kind(), ErrorKind::Locked);
    drop(writer);
    let writer = Writer::open(&disk).unwrap();
    assert!(!writer.report().created);
    assert_eq!((writer.opened.epoch, writer.tail().next_lsn), (Epoch::new(2), Lsn::new(2)));
    assert_eq!(writer.report().cut, None);
}

#[test]
fn frames_continue_over_many_segments_and_openings() {
    let disk = disk(2);
    for round in 0..5_u64 {
        let mut writer = Writer::open(&disk).unwrap();
        assert_eq!(writer.tail().next_lsn, Lsn::new(round * 40 + 1));
        for _ in 0..40 {
            writer.append(&[7; 3000]).unwrap();
        }
        if round % 2 == 0 {
            writer.close().unwrap();
        }
    }
}
