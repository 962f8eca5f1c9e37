//! A log of thousands of segments must not meet the process's limit of open files: sealed segments
//! are opened when they are read, and closed again.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which looks at /proc")]

use std::path::Path;

use sawmill::{Wal, WalOptions};

/// How many descriptors of this process lead into `place`.
fn descriptors(place: &Path) -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| target.starts_with(place)).count()
}

/// A fast place for many syncs, if there is one.
fn place() -> (tempfile::TempDir, u64) {
    tempfile::tempdir_in("/dev/shm")
        .map_or_else(|_| (tempfile::tempdir().unwrap(), 200), |place| (place, 2000))
}

#[test]
fn a_log_of_two_thousand_segments_opens_few_files() {
    let (place, segments) = place();
    let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
    let wal = Wal::open(place.path(), options.clone()).unwrap();
    let mut most = 0;
    // Two of these do not fit one segment.
    for number in 1..=segments {
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(30_000, 7);
        assert_eq!(wal.append(&bytes).unwrap().get(), number);
        if number % 100 == 0 {
            most = most.max(descriptors(place.path()));
        }
    }
    assert!(most <= 20, "{most} descriptors while it grew");
    wal.close().unwrap();
    let wal = Wal::open(place.path(), options).unwrap();
    let mut replay = wal.replay().unwrap();
    let mut count = 0;
    while let Some(record) = replay.next() {
        count += 1;
        assert_eq!(record.unwrap().payload[..8], u64::to_le_bytes(count));
        if count % 100 == 0 {
            most = most.max(descriptors(place.path()));
        }
    }
    assert_eq!(count, segments);
    assert!(most <= 20, "{most} descriptors while it was read");
}
