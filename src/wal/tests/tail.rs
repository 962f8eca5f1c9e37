//! Tails on the simulated disk: from memory, from files, waiting, and how they end.

use std::task::{Context, Poll, Wake, Waker};

use super::{disk, open, watched};
use crate::error::ErrorKind;
use crate::ids::{Lsn, StreamId};
use crate::sim::{Device, FaultKind};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, spawn};
use crate::wal::recent::RECENT_BYTES;
use crate::wal::{AppendOptions, Background, Durability, Tail, Wal};

const EIO: i32 = 5;
const BUFFERED: AppendOptions =
    AppendOptions { stream: StreamId::DEFAULT, durability: Durability::Buffered };

fn inline(seed: u64) -> Wal {
    open(&disk(seed, Device::Fua), Background::Inline).unwrap()
}

/// What a tail has at the moment: LSNs and payloads.
fn drain(tail: &mut Tail) -> Vec<(u64, Vec<u8>)> {
    let mut shown = Vec::new();
    while let Some(record) = tail.try_next() {
        let record = record.unwrap();
        shown.push((record.lsn.get(), record.payload.to_vec()));
    }
    shown
}

#[test]
fn the_past_from_files_and_what_comes_from_memory() {
    let wal = inline(1);
    for lsn in 1..=30_u64 {
        wal.append(&lsn.to_le_bytes()).unwrap();
    }
    let mut tail = wal.tail(Lsn::new(11)).unwrap();
    let shown = drain(&mut tail);
    assert_eq!(
        shown.iter().map(|shown| shown.0).collect::<Vec<_>>(),
        (11..=30).collect::<Vec<_>>()
    );
    let reads = tail.file_reads();
    for lsn in 31..=200_u64 {
        // Segments are rotated meanwhile.
        wal.append(&vec![u8::try_from(lsn).unwrap(); 1000]).unwrap();
        let bytes = vec![u8::try_from(lsn).unwrap(); 1000];
        assert_eq!(drain(&mut tail), [(lsn, bytes)]);
    }
    assert_eq!(tail.file_reads(), reads, "who keeps up reads no file");
    wal.append_internal(StreamId::DEFAULT, &[b"not for users"]).unwrap();
    wal.append_batch(&["two", "at once"]).unwrap();
    assert_eq!(drain(&mut tail).len(), 2);
    assert_eq!(tail.next_lsn(), Lsn::new(204));
}

#[test]
fn a_frame_in_memory_is_entered_in_the_middle() {
    let wal = inline(2);
    let mut first = wal.tail(Lsn::FIRST).unwrap();
    wal.append_batch(&["a", "b", "c", "d"]).unwrap();
    let mut second = wal.tail(Lsn::new(3)).unwrap();
    assert_eq!(drain(&mut second), [(3, b"c".to_vec()), (4, b"d".to_vec())]);
    assert_eq!((drain(&mut first).len(), second.file_reads()), (4, 0));
}

#[test]
fn nothing_that_is_not_durable_is_shown() {
    let wal = inline(3);
    let mut tail = wal.tail(Lsn::FIRST).unwrap();
    wal.append_with(b"written, not durable", BUFFERED).unwrap();
    wal.submit(b"not even written").unwrap();
    assert_eq!(drain(&mut tail), []);
    wal.sync().unwrap();
    assert_eq!(drain(&mut tail).len(), 2);
    assert_eq!(tail.file_reads(), 0);
}

#[test]
fn planted_read_above_durable_is_seen_by_a_tail() {
    let wal = inline(3);
    let mut tail = wal.tail(Lsn::FIRST).unwrap();
    wal.append_with(b"written, not durable", BUFFERED).unwrap();
    let bug = crate::planted::Bug::ReadAboveDurable;
    let shown = crate::planted::with_planted(bug, || tail.try_next().is_some());
    assert!(shown, "a record was shown that a crash may take back");
}

#[test]
fn a_slow_tail_is_moved_to_the_files_and_comes_back() {
    let wal = inline(4);
    let mut slow = wal.tail(Lsn::FIRST).unwrap().stream(StreamId::new(1));
    let count = 2 * RECENT_BYTES / 20_000;
    for lsn in 1..=count {
        let stream = StreamId::new(u16::try_from(lsn % 2).unwrap());
        wal.append_to(stream, &vec![7; 20_000]).unwrap();
    }
    assert!(wal.core().progress.recent.bytes() <= RECENT_BYTES, "bounded");
    let shown = drain(&mut slow);
    let odd: Vec<_> = (1..=u64::try_from(count).unwrap()).step_by(2).collect();
    assert_eq!(shown.iter().map(|shown| shown.0).collect::<Vec<_>>(), odd);
    assert!(slow.file_reads() > 0);
    let reads = slow.file_reads();
    wal.append_to(StreamId::new(1), b"again in time").unwrap();
    assert_eq!(drain(&mut slow).len(), 1);
    assert_eq!(slow.file_reads(), reads);
    drop(slow);
    assert_eq!(wal.core().progress.recent.bytes(), 0, "nothing is kept for nobody");
}

#[test]
fn records_that_were_truncated_away_are_an_error_not_silence() {
    let wal = inline(5);
    let mut tail = wal.tail(Lsn::FIRST).unwrap();
    for _ in 0..3 * RECENT_BYTES / 20_000 {
        wal.append(&[7; 20_000]).unwrap();
    }
    let start = wal.truncate_before(wal.durable_lsn()).unwrap();
    assert!(start > Lsn::FIRST);
    let error = tail.try_next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.lsns(), Some((Lsn::FIRST, start.previous())));
    assert!(tail.try_next().is_none() && tail.next().is_none());
}

#[test]
fn waiting_tails_see_every_record_and_the_close() {
    watched(|| {
        let wal = open(&disk(6, Device::Fua), Background::Threads).unwrap();
        let tails: Vec<_> = (0..3)
            .map(|_| {
                let mut tail = wal.tail(Lsn::FIRST).unwrap();
                let follow = move || {
                    let mut lsns = Vec::new();
                    while let Some(record) = tail.next() {
                        lsns.push(record.unwrap().lsn.get());
                    }
                    lsns
                };
                spawn("tail", follow).unwrap()
            })
            .collect();
        let writers: Vec<_> = (0..3)
            .map(|_| {
                let wal = wal.clone();
                let write = move || {
                    for _ in 0..100 {
                        wal.append(b"x").unwrap();
                    }
                };
                spawn("writer", write)
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.unwrap().join().unwrap());
        wal.submit(b"made durable by the close").unwrap();
        wal.close().unwrap();
        for tail in tails {
            assert_eq!(tail.join().unwrap(), (1..=301).collect::<Vec<_>>());
        }
    });
}

#[test]
fn poison_comes_after_the_last_durable_record() {
    watched(|| {
        let disk = disk(7, Device::Fua);
        let wal = open(&disk, Background::Threads).unwrap();
        let mut tail = wal.tail(Lsn::FIRST).unwrap();
        let follow = move || {
            let shown = (tail.next().unwrap().unwrap().lsn, tail.next().unwrap().unwrap_err());
            assert!(tail.next().is_none());
            shown
        };
        let follower = spawn("tail", follow).unwrap();
        wal.append(b"durable").unwrap();
        disk.fail_from(disk.ops() + 1, EIO, FaultKind::NotExecuted);
        wal.append(b"indeterminate").unwrap_err();
        let (lsn, error) = follower.join().unwrap();
        assert_eq!((lsn, error.kind()), (Lsn::FIRST, ErrorKind::Poisoned));
    });
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_task_is_woken_once_for_what_became_durable() {
    let wal = inline(8);
    let mut tail = wal.tail(Lsn::FIRST).unwrap();
    let woken = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    for round in 1..=5 {
        assert!(tail.poll_next(&mut context).is_pending());
        assert!(tail.poll_next(&mut context).is_pending());
        wal.append_with(b"written, not durable", BUFFERED).unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), round - 1);
        wal.append(b"durable").unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), round);
        for _ in 0..2 {
            assert!(matches!(tail.poll_next(&mut context), Poll::Ready(Some(Ok(_)))));
        }
    }
    assert!(tail.poll_next(&mut context).is_pending());
    wal.close().unwrap();
    assert_eq!(woken.0.load(Ordering::SeqCst), 6);
    assert!(matches!(tail.poll_next(&mut context), Poll::Ready(None)));
}
