//! The log's calls beside plain appending, on the operating system's files, with each carrier of
//! operations: deadlines, back-pressure, buffered records, look-ups, retention, backups, counters.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::IoSlice;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use sawmill::storage::BackendChoice;
use sawmill::testing::watched;
use sawmill::{AppendOptions, Durability, ErrorKind, Lsn, StreamId, Wal, WalOptions};

const BUFFERED: AppendOptions =
    AppendOptions { stream: StreamId::DEFAULT, durability: Durability::Buffered };

fn options(backend: BackendChoice) -> WalOptions {
    let lock_wait = Duration::ZERO;
    let small = WalOptions { segment_size: 256 << 10, memory: 1 << 20, ..WalOptions::default() };
    WalOptions { lock_wait, backend, ..small }
}

/// Runs `body` with io_uring and with `pwritev2`.
fn on_each(body: impl Fn(&Path, WalOptions) + Copy + Send + 'static) {
    for backend in [BackendChoice::Uring, BackendChoice::Pwrite] {
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let log = place.path().join("log");
        match Wal::open(&log, options(backend)) {
            Ok(wal) => wal.close().unwrap(),
            Err(error) if backend == BackendChoice::Uring => {
                println!("SKIPPED: io_uring does not work here: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        watched(move || body(&log, options(backend)));
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn contents(wal: &Wal) -> BTreeMap<Lsn, Vec<u8>> {
    let mut replay = wal.replay().unwrap();
    let mut found = BTreeMap::new();
    while let Some(record) = replay.next() {
        let record = record.unwrap();
        found.insert(record.lsn, record.payload.to_vec());
    }
    found
}

/// One thread's appends, each in another way; what must be in the log, and where.
fn work(wal: &Wal, thread: usize) -> BTreeMap<Lsn, Vec<u8>> {
    let mut mine = BTreeMap::new();
    for number in 0..80 {
        let bytes = format!("{thread}/{number}/").into_bytes().repeat(1 + number * 5);
        let lsn = match (thread + number) % 6 {
            0 => wal.append(&bytes).unwrap(),
            1 => wal.append_with(&bytes, BUFFERED).unwrap(),
            2 => {
                let (head, tail) = bytes.split_at(2);
                wal.append_vectored(&[IoSlice::new(head), IoSlice::new(tail)]).unwrap()
            }
            3 => wal.append_timeout(&bytes, Duration::from_secs(60)).unwrap(),
            4 => loop {
                match wal.try_submit(&bytes) {
                    Ok(pending) => break block_on(pending).unwrap(),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        block_on(wal.ready()).unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            },
            // Most of these come too late, and then they must be nowhere.
            _ => match wal.append_timeout(&bytes, Duration::from_micros(number as u64)) {
                Ok(lsn) => lsn,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
                    continue;
                }
            },
        };
        assert_eq!(mine.insert(lsn, bytes), None);
    }
    mine
}

#[test]
fn every_way_to_append_keeps_its_promise_and_its_place() {
    on_each(|log, options| {
        let wal = Wal::open(log, options.clone()).unwrap();
        let mut expected = BTreeMap::new();
        thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|thread| {
                    let wal = wal.clone();
                    scope.spawn(move || work(&wal, thread))
                })
                .collect();
            for worker in workers {
                for (lsn, bytes) in worker.join().unwrap() {
                    assert_eq!(expected.insert(lsn, bytes), None, "{lsn} was given twice");
                }
            }
        });
        wal.sync().unwrap();
        assert_eq!(contents(&wal), expected);
        let marks = wal.marks();
        assert!(marks.durable == marks.appended && wal.last_lsn() == marks.durable);
        let stats = wal.stats();
        assert!(stats.records >= expected.len() as u64 && stats.waste() > 1.0, "{stats}");
        assert!(stats.append_latency.count() > 0 && stats.write_latency.max() > Duration::ZERO);
        for (lsn, bytes) in expected.iter().step_by(37) {
            assert_eq!(wal.get(*lsn).unwrap().map(|record| record.payload).as_ref(), Some(bytes));
        }
        wal.close().unwrap();
        assert_eq!(contents(&Wal::open(log, options).unwrap()), expected);
    });
}

#[test]
fn a_copy_of_a_bounded_log_opens_beside_it() {
    on_each(|log, options| {
        let options = WalOptions { retain_bytes: Some(1 << 20), ..options };
        let wal = Wal::open(log, options.clone()).unwrap();
        let pin = wal.pin("reader", Lsn::FIRST).unwrap();
        for number in 0..60u8 {
            wal.append(&[number; 50_000]).unwrap();
        }
        assert_eq!(wal.first_lsn(), Lsn::FIRST, "pinned");
        pin.advance(Lsn::new(30)).unwrap();
        assert!(wal.apply_retention().unwrap() <= Lsn::new(30));
        let copied = thread::scope(|scope| {
            let writer = wal.clone();
            scope.spawn(move || (0..50).for_each(|_| drop(writer.submit(&[9; 5000]).unwrap())));
            wal.backup(log.with_file_name("copy")).unwrap()
        });
        let copy = Wal::open(&copied.path, options).unwrap();
        let (found, all) = (contents(&copy), contents(&wal));
        assert!(copied.first_lsn > Lsn::FIRST && copied.last_lsn >= Lsn::new(60));
        assert_eq!(found.first_key_value().map(|(lsn, _)| *lsn), Some(copied.first_lsn));
        assert_eq!(found.last_key_value().map(|(lsn, _)| *lsn), Some(copied.last_lsn));
        assert!(found.iter().all(|(lsn, bytes)| all.get(lsn).is_none_or(|own| own == bytes)));
        copy.close().unwrap();
        wal.close().unwrap();
    });
}
