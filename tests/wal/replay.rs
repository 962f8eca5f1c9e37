//! Reading the log back on a real disk: damage by others, bounds.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use sawmill::storage::{BackendChoice, Directory, OpenMode, Storage as _, SystemStorage};
use sawmill::{ErrorKind, Lsn, StreamId, Wal, WalOptions};

fn open(path: &Path) -> Wal {
    let options = WalOptions { segment_size: 1 << 20, ..WalOptions::default() };
    Wal::open(path, options).unwrap()
}

fn payload(lsn: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![lsn.to_le_bytes()[0]; length];
    bytes[..8].copy_from_slice(&lsn.to_le_bytes());
    bytes
}

/// The files of the segments, oldest first.
fn segments(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some()).collect();
    found.sort();
    found
}

/// Ten frames of 300 KiB, three in a segment; and the log that holds them.
fn large_frames(path: &Path) -> Wal {
    let wal = open(path);
    for lsn in 1..=10 {
        assert_eq!(wal.append(&payload(lsn, 300 << 10)).unwrap(), Lsn::new(lsn));
    }
    wal
}

fn cut(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

#[test]
fn a_sealed_segment_that_is_cut_under_a_replay_is_an_error_and_no_signal() {
    for length in [0, 8192, 400 << 10] {
        let place = tempfile::tempdir().unwrap();
        let wal = large_frames(place.path());
        // Held by the page cache, it is mapped.
        segments(place.path()).iter().for_each(|path| drop(std::fs::read(path).unwrap()));
        let mut replay = wal.replay().unwrap();
        assert_eq!(replay.next().unwrap().unwrap().payload, payload(1, 300 << 10));
        cut(&segments(place.path())[0], length);
        let error = replay.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
        assert!(error.position().is_some(), "{error}");
        assert!(replay.next().is_none());
    }
}

/// Whether the page cache holds any of these files.
fn is_cached(directory: &dyn Directory, names: &[String]) -> bool {
    names.iter().any(|name| {
        let map = directory.open(name, OpenMode::Read).unwrap().map(1 << 20).unwrap();
        (0..1 << 20).step_by(4096).any(|at| map.is_resident(at))
    })
}

#[test]
fn what_the_cache_does_not_hold_is_read_past_it_and_stays_out_of_it() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let wal = open(place.path());
    for lsn in 1..=400 {
        drop(wal.submit(&payload(lsn, 17_000)).unwrap());
    }
    wal.sync().unwrap();
    let storage = SystemStorage::new(BackendChoice::Auto).unwrap();
    let directory = storage.directory(place.path(), false).unwrap();
    let names = directory.list().unwrap().into_iter().filter(|name| name.ends_with(".seg"));
    let names: Vec<_> = names.take(5).collect();
    for name in &names {
        directory.open(name, OpenMode::Read).unwrap().forget_cached().unwrap();
    }
    // Where there is no way past the cache, or it does not let go, this shows nothing.
    let shows = wal.backend().direct && !is_cached(&*directory, &names);
    for threads in [0, 2] {
        let mut replay = wal.replay().unwrap().verify_ahead(threads);
        for lsn in 1..=400 {
            let record = replay.next().unwrap().unwrap();
            assert_eq!((record.lsn.get(), record.payload), (lsn, &*payload(lsn, 17_000)));
        }
        assert!(replay.next().is_none());
        assert!(!shows || !is_cached(&*directory, &names));
    }
    // What it holds is taken from there.
    names.iter().for_each(|name| drop(std::fs::read(place.path().join(name)).unwrap()));
    let mut replay = wal.replay().unwrap();
    assert_eq!((0..400).filter(|_| replay.next().unwrap().is_ok()).count(), 400);
}

/// The gap that a map cannot close: the bytes that are being looked at.
#[test]
fn a_sealed_segment_that_is_cut_under_the_record_in_hand_is_no_signal_where_it_is_copied() {
    let place = tempfile::tempdir().unwrap();
    let wal = large_frames(place.path());
    let mut replay = wal.replay().unwrap().verify_ahead(2).copied();
    let record = replay.next().unwrap().unwrap();
    cut(&segments(place.path())[0], 0);
    assert_eq!(record.payload, payload(1, 300 << 10), "after the file was cut");
    let error = loop {
        if let Err(error) = replay.next().unwrap() {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
    assert!(error.position().is_some() && replay.next().is_none(), "{error}");
}

#[test]
fn a_sealed_segment_that_was_cut_before_it_is_reached_is_an_error_too() {
    let place = tempfile::tempdir().unwrap();
    let wal = large_frames(place.path());
    let mut replay = wal.replay().unwrap();
    cut(&segments(place.path())[1], 4096);
    let mut shown = 0;
    let error = loop {
        match replay.next().unwrap() {
            Ok(record) => {
                shown += 1;
                assert_eq!(record.payload, payload(shown, 300 << 10));
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
    assert!(shown < 10, "{shown}");
    // What does not touch the file is there.
    let mut replay = wal.replay_from(Lsn::new(shown + 4)).unwrap();
    assert_eq!(replay.next().unwrap().unwrap().payload, payload(shown + 4, 300 << 10));
}

#[test]
fn bounds_and_streams_over_segments() {
    let place = tempfile::tempdir().unwrap();
    let wal = open(place.path());
    for lsn in 1..=40_000_u64 {
        let stream = StreamId::new(u16::try_from(lsn % 7).unwrap());
        wal.submit_to(stream, &payload(lsn, 100)).unwrap();
    }
    wal.sync().unwrap();
    for (from, to) in [(1, 40_000), (9_000, 31_000), (39_990, 50_000), (500, 400)] {
        let (from, to) = (Lsn::new(from), Lsn::new(to));
        let stream = StreamId::new(3);
        let mut replay = wal.replay().unwrap().stream(stream).from(from).to(to);
        let mut wanted = (from.get()..=to.get().min(40_000)).filter(|lsn| lsn % 7 == 3);
        while let Some(record) = replay.next() {
            let record = record.unwrap();
            let lsn = wanted.next().unwrap();
            assert_eq!((record.lsn, record.stream), (Lsn::new(lsn), stream));
            assert_eq!(record.payload, payload(lsn, 100));
        }
        assert_eq!(wanted.next(), None);
    }
}

#[test]
fn consumers_of_the_segments_see_everything_once() {
    let place = tempfile::tempdir().unwrap();
    let wal = open(place.path());
    let count = 40_000_u64;
    for lsn in 1..=count {
        wal.submit(&payload(lsn, 100)).unwrap();
    }
    wal.sync().unwrap();
    for threads in [0, 1, 3, 16] {
        let parts = wal.par_replay(threads, |mut replay| {
            let mut lsns = Vec::new();
            while let Some(record) = replay.next() {
                let record = record?;
                assert_eq!(record.payload, payload(record.lsn.get(), 100));
                lsns.push(record.lsn.get());
            }
            Ok(lsns)
        });
        let parts = parts.unwrap();
        assert!(parts.len() >= 5, "{}", parts.len());
        assert_eq!(parts.concat(), (1..=count).collect::<Vec<_>>());
    }
    // The oldest one's error counts; bounds hold within each.
    let failed = wal.par_replay(3, |mut replay| {
        let first = replay.next().unwrap()?.lsn;
        if first > Lsn::FIRST { wal.wait_durable(Lsn::new(1 << 60)).map(drop) } else { Ok(()) }
    });
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Invalid);
    let few = wal.par_replay(2, |replay| {
        let mut replay = replay.to(Lsn::new(3));
        let mut shown = 0;
        while let Some(record) = replay.next() {
            record?;
            shown += 1;
        }
        Ok(shown)
    });
    assert_eq!(few.unwrap().iter().sum::<u64>(), 3);
}

#[test]
fn verified_ahead_everything_is_there_and_a_cut_segment_is_an_error() {
    let place = tempfile::tempdir().unwrap();
    let wal = open(place.path());
    let count = 60_000_u64;
    for lsn in 1..=count {
        wal.submit(&payload(lsn, 100)).unwrap();
    }
    wal.sync().unwrap();
    for threads in [1, 4] {
        let mut replay = wal.replay().unwrap().verify_ahead(threads);
        for lsn in 1..=count {
            let record = replay.next().unwrap().unwrap();
            assert_eq!((record.lsn, record.payload), (Lsn::new(lsn), &*payload(lsn, 100)));
        }
        assert!(replay.next().is_none());
    }
    cut(&segments(place.path())[3], 4096);
    let mut replay = wal.replay().unwrap().verify_ahead(2);
    let mut last = 0;
    let error = loop {
        match replay.next().unwrap() {
            Ok(record) => last = record.lsn.get(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
    assert!((1..count).contains(&last), "{last}");
}

#[test]
fn a_tail_that_keeps_up_reads_no_file() {
    let place = tempfile::tempdir().unwrap();
    let wal = open(place.path());
    for lsn in 1..=50 {
        wal.append(&payload(lsn, 100)).unwrap();
    }
    let mut tail = wal.tail(Lsn::new(40)).unwrap();
    let follower = std::thread::Builder::new().spawn(move || {
        for lsn in 40..=500 {
            let record = tail.next().unwrap().unwrap();
            assert_eq!((record.lsn, record.payload), (Lsn::new(lsn), &*payload(lsn, 100)));
        }
        assert!(tail.next().is_none(), "the log was closed");
        tail.file_reads()
    });
    for lsn in 51..=500 {
        wal.append(&payload(lsn, 100)).unwrap();
    }
    wal.close().unwrap();
    assert_eq!(follower.unwrap().join().unwrap(), 1, "the past, and nothing more");
}
