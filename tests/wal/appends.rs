//! The log through its public face, on the operating system's files: on whichever backend
//! `SAWMILL_BACKEND` names.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use sawmill::testing::watched;
use sawmill::{ErrorKind, Lsn, Wal, WalOptions};

fn options() -> WalOptions {
    let lock_wait = Duration::ZERO;
    WalOptions { segment_size: 256 << 10, memory: 1 << 20, lock_wait, ..WalOptions::default() }
}

/// Every user record of the log.
fn contents(wal: &Wal) -> BTreeMap<Lsn, Vec<u8>> {
    let mut replay = wal.replay().unwrap();
    let mut found = BTreeMap::new();
    let mut last = Lsn::ZERO;
    while let Some(record) = replay.next() {
        let record = record.unwrap();
        assert!(record.lsn > last, "{} after {last}", record.lsn);
        last = record.lsn;
        found.insert(record.lsn, record.payload.to_vec());
    }
    found
}

fn reopened(path: &Path) -> BTreeMap<Lsn, Vec<u8>> {
    let wal = Wal::open(path, options()).unwrap();
    let found = contents(&wal);
    wal.close().unwrap();
    found
}

/// What thread `thread` appends as its `number`th record: of all sizes, empty ones too.
fn payload(thread: usize, number: usize) -> Vec<u8> {
    let length = [0, 1, 100, 1000, 5000, 30_000][(thread * 7 + number * 13) % 6];
    let mut bytes = format!("{thread}/{number}/").into_bytes();
    bytes.resize(bytes.len() + length, b'.');
    if (thread + number).is_multiple_of(11) { Vec::new() } else { bytes }
}

#[test]
fn many_threads_append_submit_and_sync_and_every_lsn_holds_its_payload() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().to_owned();
    let expected = watched(move || {
        let wal = Wal::open(path, options()).unwrap();
        let mut expected = BTreeMap::new();
        thread::scope(|scope| {
            let workers: Vec<_> = (0..16)
                .map(|thread| {
                    let wal = wal.clone();
                    scope.spawn(move || work(&wal, thread))
                })
                .collect();
            for worker in workers {
                for (lsn, payload) in worker.join().unwrap() {
                    assert_eq!(expected.insert(lsn, payload), None, "LSN {lsn} was given twice");
                }
            }
        });
        let durable = wal.sync().unwrap();
        assert_eq!(durable, wal.appended_lsn());
        assert_eq!(contents(&wal), expected);
        wal.close().unwrap();
        expected
    });
    let lsns: Vec<_> = expected.keys().map(|lsn| lsn.get()).collect();
    assert_eq!(lsns, (1..=lsns.len() as u64).collect::<Vec<_>>(), "dense from 1");
    assert_eq!(reopened(place.path()), expected);
}

fn work(wal: &Wal, thread: usize) -> Vec<(Lsn, Vec<u8>)> {
    let mut mine = Vec::new();
    for number in 0..60 {
        let bytes = payload(thread, number);
        match number % 5 {
            0 | 1 => {
                let lsn = wal.append(&bytes).unwrap();
                assert!(wal.durable_lsn() >= lsn);
                mine.push((lsn, bytes));
            }
            2 => mine.push((wal.submit(&bytes).unwrap().lsn(), bytes)),
            3 => {
                let pending = wal.submit(&bytes).unwrap();
                let lsn = pending.wait().unwrap();
                assert!(wal.durable_lsn() >= lsn);
                mine.push((lsn, bytes));
            }
            _ => {
                let batch = [bytes.clone(), payload(thread, number + 1000), bytes];
                let lsns = wal.append_batch(&batch).unwrap();
                let each = (0..).map(|step| lsns.first().advance(step));
                mine.extend(each.zip(batch));
                if number % 3 == 0 {
                    assert!(wal.sync().unwrap() >= lsns.last());
                }
            }
        }
    }
    mine
}

#[test]
fn a_log_that_was_dropped_without_closing_keeps_what_was_submitted() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    for number in 0..500 {
        wal.submit(&payload(1, number)).unwrap();
    }
    drop(wal);
    let found = reopened(place.path());
    assert_eq!(found.len(), 500);
    assert!(found.values().enumerate().all(|(number, bytes)| *bytes == payload(1, number)));
}

#[test]
fn closing_is_final_for_every_clone_and_may_be_repeated() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    let (other, third) = (wal.clone(), wal.clone());
    let pending = wal.submit(b"kept").unwrap();
    wal.close().unwrap();
    assert_eq!(pending.wait().unwrap(), Lsn::FIRST, "closing made it durable");
    for kind in [
        other.append(b"late").unwrap_err().kind(),
        other.submit(b"late").unwrap_err().kind(),
        other.sync().unwrap_err().kind(),
        other.replay().unwrap_err().kind(),
        other.truncate_before(Lsn::FIRST).unwrap_err().kind(),
    ] {
        assert_eq!(kind, ErrorKind::Closed);
    }
    other.close().unwrap();
    // The directory is free although a clone lives.
    assert_eq!(reopened(place.path()).len(), 1);
    drop(third);
}

#[test]
fn a_second_writer_is_refused_until_the_first_is_gone() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    let error = Wal::open(place.path(), options()).unwrap_err();
    let holder = format!("process {}", std::process::id());
    let says = error.to_string();
    assert!(error.kind() == ErrorKind::Locked && says.contains(&holder), "{says}");
    drop(wal);
    Wal::open(place.path(), options()).unwrap();
}

#[test]
fn limits_are_checked_before_anything_is_appended() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), WalOptions { max_record: 1000, ..options() }).unwrap();
    assert_eq!(wal.append(&[0; 1001]).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(wal.append_batch(&vec![[0; 1000]; 200]).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(wal.appended_lsn(), Lsn::ZERO);
    let none: [&[u8]; 0] = [];
    assert!(wal.append_batch(&none).unwrap().is_empty());
    assert_eq!(wal.append(&[0; 1000]).unwrap(), Lsn::FIRST);
    assert_eq!(wal.wait_durable(Lsn::new(2)).unwrap_err().kind(), ErrorKind::Invalid);
    let bad = WalOptions { memory: 1, ..options() };
    assert_eq!(Wal::open(place.path(), bad).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn truncation_gives_up_whole_segments_and_never_more() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    for _ in 0..20 {
        wal.append(&[7; 100_000]).unwrap();
    }
    let start = wal.truncate_before(Lsn::new(15)).unwrap();
    assert!(start > Lsn::FIRST && start <= Lsn::new(15), "{start}");
    assert_eq!((wal.first_lsn(), wal.truncate_before(Lsn::FIRST).unwrap()), (start, start));
    assert_eq!(contents(&wal).keys().next(), Some(&start));
    assert_eq!(wal.truncate_before(Lsn::new(22)).unwrap_err().kind(), ErrorKind::Invalid);
    wal.close().unwrap();
    assert_eq!(reopened(place.path()).keys().next(), Some(&start));
}

#[test]
fn a_pending_record_is_a_future() {
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};

    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().to_owned();
    watched(move || {
        let wal = Wal::open(path, options()).unwrap();
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        for expected in 1..=200 {
            let mut pending = wal.submit(b"awaited").unwrap();
            let lsn = loop {
                match Pin::new(&mut pending).poll(&mut context) {
                    Poll::Ready(lsn) => break lsn.unwrap(),
                    Poll::Pending => thread::park(),
                }
            };
            assert_eq!(lsn, Lsn::new(expected));
            assert!(wal.durable_lsn() >= lsn);
        }
    });
}

/// On the machine's clock and disk: each idle time after an append brings one frame, and no more.
#[test]
fn an_idle_log_attests_on_disk() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().to_owned();
    watched(move || {
        let wal = Wal::open(&path, options()).unwrap();
        for round in 1..=3 {
            wal.append(b"acknowledged").unwrap();
            while wal.stats().attestations < round {
                thread::sleep(Duration::from_millis(1));
            }
        }
        thread::sleep(Duration::from_millis(150));
        assert_eq!(wal.stats().attestations, 3, "nothing is new");
        // Nobody closes it: the next opening walks over them.
        drop(wal);
        assert_eq!(reopened(&path).len(), 3);
        let never = WalOptions { attest_after: None, ..options() };
        let wal = Wal::open(&path, never).unwrap();
        wal.append(b"acknowledged").unwrap();
        thread::sleep(Duration::from_millis(150));
        assert_eq!(wal.stats().attestations, 0);
    });
}
