//! Wakers are user code that runs on whichever thread leads: they may panic, and they may drop the
//! last handle of the log.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Wake, Waker};

use super::{contents, disk, open, watched};
use crate::error::ErrorKind;
use crate::sim::{Device, FaultKind};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, lock};
use crate::wal::Background;

/// Does something once, when it is woken.
struct Once(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for Once {
    fn wake(self: Arc<Self>) {
        let body = lock(&self.0).take();
        if let Some(body) = body {
            body();
        }
    }
}

fn waker(body: impl FnOnce() + Send + 'static) -> Waker {
    Waker::from(Arc::new(Once(Mutex::new(Some(Box::new(body))))))
}

/// Polls once: the waker is left with whoever writes the record.
fn left(pending: crate::wal::Pending, waker: &Waker) -> bool {
    pin!(pending).poll(&mut Context::from_waker(waker)).is_pending()
}

/// A task that owned the last handle was woken by the thread that held the write slot. Dropping the
/// handle there waits until everything is durable, which only that thread could do: it hung. A
/// handle is now dropped beside a free slot.
#[test]
fn a_waker_may_drop_the_last_handle_while_more_is_to_be_written() {
    for seed in 0..20 {
        let disk = disk(40 + seed, Device::Fua);
        let watched_disk = disk.clone();
        watched(move || {
            let wal = open(&watched_disk, Background::Threads).unwrap();
            let first = wal.submit(&[1; 30_000]).unwrap();
            // Frames behind the one that is waited for.
            let rest: Vec<_> = (0..3).map(|_| wal.submit(&[2; 30_000]).unwrap()).collect();
            let (dropped, seen) = std::sync::mpsc::channel();
            let waker = waker(move || {
                drop(wal);
                dropped.send(()).unwrap_or_default();
            });
            if left(first, &waker) {
                drop(waker);
                seen.recv().unwrap();
            }
            drop(rest);
        });
        let wal = open(&disk, Background::Inline).unwrap();
        assert_eq!(contents(&wal).unwrap().len(), 4);
    }
}

/// As above, where a write of `LOG` fails: its thread held what whoever closes the log needs.
#[test]
fn a_waker_may_close_the_log_when_a_truncation_poisons_it() {
    watched(|| {
        let disk = disk(70, Device::Fua);
        let wal = open(&disk, Background::Inline).unwrap();
        for _ in 0..6 {
            wal.append(&[1; 30_000]).unwrap();
        }
        wal.submit(b"never written").unwrap();
        let closing = wal.clone();
        let (closed, seen) = std::sync::mpsc::channel();
        wal.leave_waker(&waker(move || drop(closed.send(closing.close()))));
        disk.fail_op(disk.ops() + 1, 5, FaultKind::NotExecuted);
        let error = wal.truncate_before(wal.durable_lsn()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned);
        assert_eq!(seen.recv().unwrap().unwrap_err().kind(), ErrorKind::Poisoned);
    });
}

/// A waker that panics took the other ones and the followers of later groups with it, who slept
/// for ever, and poisoned the log. Now it harms nobody but itself.
#[test]
fn a_waker_that_panics_harms_nobody_else() {
    watched(|| {
        let disk = disk(71, Device::Fua);
        let wal = open(&disk, Background::Threads).unwrap();
        let woken = Arc::new(AtomicUsize::new(0));
        let mut wanted = 0;
        for number in 0..50_u8 {
            let bad = waker(|| std::panic::resume_unwind(Box::new("a bug of the user's")));
            let count = Arc::clone(&woken);
            let good = waker(move || {
                count.fetch_add(1, Ordering::SeqCst);
            });
            let pending = wal.submit(&[number; 100]).unwrap();
            let lsn = pending.lsn();
            left(pending, &bad);
            let other = wal.submit(&[number; 100]).unwrap();
            wanted += usize::from(left(other, &good));
            wal.append(b"x").unwrap();
            assert!(wal.durable_lsn() > lsn);
        }
        wal.sync().unwrap();
        wal.close().unwrap();
        assert_eq!(woken.load(Ordering::SeqCst), wanted);
    });
}
