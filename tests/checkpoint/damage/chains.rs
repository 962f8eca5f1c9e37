//! P5 for chains: a damaged file costs the checkpoints that need it, and no others.

use super::{PATTERNS, data_path};
use crate::common::model::*;
use crate::common::*;
use sawmill::ErrorKind;

/// After `acts`, damage of any byte of file `number` makes a start fall back so far.
fn flip(acts: usize, number: u64, expected: (u64, usize)) {
    let (disk, store) = lived(acts, false);
    drop(store);
    let length = disk.read_file(data_path(number)).unwrap().len() as u64;
    for (offset, mask) in (0..length).zip(PATTERNS.into_iter().cycle()) {
        disk.flip_byte(data_path(number), offset, mask).unwrap();
        assert_eq!(start(&disk).unwrap(), expected, "file {number}, byte {offset}");
        disk.flip_byte(data_path(number), offset, mask).unwrap();
    }
    assert_eq!(start(&disk).unwrap(), (batch_after(acts), 0));
}

#[test]
fn every_flipped_byte_of_a_chain_leads_to_the_newest_whole_one() {
    // 1, 2 are bases, 3, 4, 5 deltas on 2.
    flip(5, 5, (4, 1));
    flip(5, 3, (2, 3));
    flip(5, 2, (1, 4));
    flip(5, 1, (5, 0));
    // 6 is 5 folded, 7 and 8 are deltas on it; 1 has gone.
    flip(8, 8, (6, 1));
    flip(8, 7, (5, 2));
    flip(8, 6, (5, 3));
    flip(8, 4, (7, 0));
    flip(8, 2, (7, 0));
}

#[test]
fn a_missing_or_exchanged_file_of_a_chain_is_noticed() {
    for (number, expected) in [(8, (6, 1)), (7, (5, 2)), (6, (5, 3)), (3, (7, 0))] {
        let (disk, store) = lived(8, false);
        drop(store);
        let whole = disk.read_file(data_path(number)).unwrap();
        for other in (2..=8).filter(|other| *other != number) {
            disk.write_file(data_path(number), &disk.read_file(data_path(other)).unwrap());
            assert_eq!(start(&disk).unwrap(), expected, "{other} in the place of {number}");
        }
        disk.write_file(data_path(number), &whole);
        home(&disk).unlink(&format!("{number:020}.ckpt")).unwrap();
        assert_eq!(start(&disk).unwrap(), expected, "without {number}");
    }
}

#[test]
fn one_file_of_each_chain_lost_is_an_error_and_the_log_is_not_used_for_it() {
    let (disk, store) = lived(8, false);
    drop(store);
    for number in [6, 2] {
        disk.flip_byte(data_path(number), 100, 1).unwrap();
    }
    assert_eq!(start(&disk).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// A fold of files that have rotted meanwhile gives up, and the next checkpoint is a base: what is
/// in memory is whole.
#[test]
fn a_fold_of_a_damaged_chain_fails_and_a_base_follows() {
    for number in 2..=5 {
        let (disk, mut store) = lived(5, false);
        disk.flip_byte(data_path(number), 64 + 24 + 20, 1).unwrap();
        assert_eq!(store.fold().unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(!store.takes_delta(newest(&store).0), "nothing builds on a damaged file");
        Act::Base(6).on(&mut store).unwrap();
        drop(store);
        assert_eq!(start(&disk).unwrap(), (6, 0), "file {number}");
        assert!(disk.read_file(data_path(number)).is_none(), "the damaged file is gone");
    }
}

#[test]
fn a_delta_on_what_is_not_there_is_refused() {
    let (disk, mut store) = lived(8, false);
    let operations = disk.ops();
    for parent in [1, 9, 100] {
        let meta = sawmill::checkpoint::CheckpointMeta { parent, ..meta(9) };
        assert_eq!(store.write(meta, &[]).unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(disk.ops(), operations);
}

#[cfg(feature = "planted")]
#[test]
fn planted_delta_skipped_is_caught() {
    use sawmill::planted::{Bug, with_planted};
    let caught =
        with_planted(Bug::DeltaSkipped, || std::panic::catch_unwind(|| flip(5, 3, (2, 3))));
    assert!(caught.is_err(), "the test of damage passes in spite of the bug");
}
