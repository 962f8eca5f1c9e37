//! Segments that are used again, on a real file system, through every backend that works here.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sawmill::clock::SystemClock;
use sawmill::storage::{Storage, SystemStorage};
use sawmill::{Lsn, Replay, Wal, WalOptions};

/// One block each, fifteen to a segment.
const SMALL: usize = 3000;
/// Two of these do not fit one segment.
const LARGE: usize = 30_000;

fn segment(place: &Path, number: u64) -> PathBuf {
    place.join(format!("{number:020}.seg"))
}

fn append(wal: &Wal, count: u64, length: usize) {
    for _ in 0..count {
        let number = wal.appended_lsn().get() + 1;
        assert_eq!(wal.append(&number.to_le_bytes().repeat(length / 8)).unwrap().get(), number);
    }
}

fn shows(replay: &mut Replay, numbers: RangeInclusive<u64>) {
    for number in numbers {
        let record = replay.next().unwrap().unwrap();
        assert_eq!(record.lsn, Lsn::new(number));
        assert_eq!(record.payload[..8], number.to_le_bytes());
    }
}

/// How many segments hold frames of other ones: files that were used before.
fn used_before(place: &Path) -> usize {
    let is_old = |number: u64, block: &[u8]| {
        block.starts_with(b"FRAM") && block[24..32] != number.to_le_bytes()
    };
    let bytes = |number| Some((number, std::fs::read(segment(place, number)).ok()?));
    let files = (1..50_u64).filter_map(bytes);
    files.filter(|(number, bytes)| bytes.chunks(4096).any(|block| is_old(*number, block))).count()
}

#[test]
fn segments_are_used_again_and_what_somebody_sees_stays() {
    for name in ["uring", "pwrite", "uring-buffered", "pwrite-buffered"] {
        let place = tempfile::tempdir().unwrap();
        let path = place.path();
        let storage: Arc<dyn Storage> = Arc::new(SystemStorage::from_name(name).unwrap());
        // Not every machine lets io_uring be used.
        let Ok(directory) = storage.directory(path, true) else { continue };
        let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
        let open = || {
            let clock = Arc::new(SystemClock);
            Wal::open_with(Arc::clone(&storage), clock, path, options.clone()).unwrap()
        };
        let wal = open();
        append(&wal, 60, SMALL);
        let backup = path.join("backup");
        std::fs::hard_link(segment(path, 1), &backup).unwrap();
        let linked = std::fs::read(&backup).unwrap();
        // Stands in segment 2, which is mapped.
        let mut replay = wal.replay_from(Lsn::new(20)).unwrap();
        shows(&mut replay, 20..=20);

        assert!(wal.truncate_before(Lsn::new(60)).unwrap() > Lsn::new(20));
        append(&wal, 6, LARGE);
        assert_eq!(std::fs::read(&backup).unwrap(), linked, "{name}: a hard link's bytes changed");
        assert_eq!(used_before(path), 0, "{name}: a reader still reads them all");
        shows(&mut replay, 21..=60);
        drop(replay);
        append(&wal, 6, LARGE);
        // Those that were made ready before are taken first.
        let mut last = 72;
        while directory.overwrites_in_place() && used_before(path) == 0 {
            assert!(last < 200, "{name}: nothing was used again");
            append(&wal, 1, LARGE);
            last += 1;
        }
        assert_eq!(wal.truncate_before(Lsn::new(65)).unwrap(), Lsn::new(65));
        append(&wal, 6, LARGE);
        // As if it had been killed: what was kept stays below the start.
        drop(wal);
        let wal = open();
        let mut replay = wal.replay().unwrap();
        shows(&mut replay, 65..=last + 6);
        assert!(replay.next().is_none());
        assert!(!segment(path, 1).exists() && !segment(path, 6).exists(), "{name}");
    }
}
