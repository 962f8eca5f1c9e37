//! How long callers wait: not at all, until a deadline, or until the kernel has the bytes.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::{PLACE, contents, disk, open, options, watched};
use crate::clock::ManualClock;
use crate::error::ErrorKind;
use crate::ids::{Lsn, StreamId};
use crate::sim::{CrashOutcome, Device, FaultKind};
use crate::sync::{Arc, lock, spawn};
use crate::wal::commit::Until;
use crate::wal::slot::Slot;
use crate::wal::{AppendOptions, Background, Durability, Wal, WalOptions};

/// Unparks the thread that sleeps in [`block_on`].
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Takes the write slot away, so that nothing is written until it is given back.
pub(super) fn hold_slot(wal: &Wal) -> Slot {
    loop {
        let slot = lock(&wal.core().open).take_free();
        if let Some(slot) = slot {
            return slot;
        }
        std::thread::yield_now();
    }
}

pub(super) fn give_slot(wal: &Wal, slot: Slot) {
    wal.core().lead(lock(&wal.core().open), slot, Until::Idle, false);
}

const BUFFERED: AppendOptions =
    AppendOptions { stream: StreamId::DEFAULT, durability: Durability::Buffered };

#[test]
fn a_buffered_record_survives_a_kill_and_a_power_cut_may_take_it() {
    for device in [Device::Fua, Device::Flush] {
        let disk = disk(60, device);
        let wal = open(&disk, Background::Inline).unwrap();
        wal.append(b"durable").unwrap();
        let lsn = wal.append_with(b"buffered", BUFFERED).unwrap();
        let marks = wal.marks();
        assert_eq!((marks.written, marks.durable), (lsn, lsn.previous()));
        assert_eq!(wal.get(lsn).unwrap(), None, "shown only when it is durable (L19)");
        let killed = open(&disk.kill(), Background::Inline).unwrap();
        assert_eq!(contents(&killed).unwrap().len(), 2, "a kill takes nothing");
        let cut = open(&disk.power_cycle(CrashOutcome::LoseAll), Background::Inline).unwrap();
        assert_eq!(contents(&cut).unwrap(), [(Lsn::FIRST, b"durable".to_vec())]);
        let again = cut.append(b"other").unwrap();
        assert_eq!(again, lsn, "its LSN was never durable, so it may be given again (L13)");
    }
}

#[test]
fn a_durable_append_makes_the_buffered_ones_before_it_durable() {
    for device in [Device::Fua, Device::Flush] {
        let disk = disk(61, device);
        let wal = open(&disk, Background::Inline).unwrap();
        for number in 0..30u8 {
            wal.append_with(&[number; 5000], BUFFERED).unwrap();
        }
        assert_eq!((wal.written_lsn(), wal.durable_lsn()), (Lsn::new(30), Lsn::ZERO));
        wal.append(b"durable").unwrap();
        let cut = open(&disk.power_cycle(CrashOutcome::LoseAll), Background::Inline).unwrap();
        assert_eq!(contents(&cut).unwrap().len(), 31);
    }
}

#[test]
fn buffered_and_durable_appenders_share_one_order_and_nobody_is_forgotten() {
    watched(|| {
        let disk = disk(62, Device::Fua);
        let wal = open(&disk, Background::Threads).unwrap();
        let workers: Vec<_> = (0..8u8)
            .map(|thread| {
                let wal = wal.clone();
                let body = move || {
                    for number in 0..100u8 {
                        if (thread + number) % 3 == 0 {
                            let lsn = wal.append(&[thread; 40]).unwrap();
                            assert!(wal.durable_lsn() >= lsn);
                        } else {
                            let lsn = wal.append_with(&[thread; 70], BUFFERED).unwrap();
                            assert!(wal.written_lsn() >= lsn);
                        }
                    }
                };
                spawn("appender", body).unwrap()
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(wal.sync().unwrap(), Lsn::new(800));
        assert_eq!(contents(&wal).unwrap().len(), 800);
    });
}

#[test]
fn a_failed_plain_write_fails_the_buffered_append_and_poisons() {
    let disk = disk(63, Device::Fua);
    let wal = open(&disk, Background::Inline).unwrap();
    disk.fail_op(disk.ops() + 1, 5, FaultKind::NotExecuted);
    let error = wal.append_with(b"x", BUFFERED).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert_eq!(wal.try_submit(b"x").unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(block_on(wal.ready()).unwrap_err().kind(), ErrorKind::Poisoned);
    let late = wal.append_timeout(b"x", Duration::from_secs(9)).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Poisoned);
}

#[test]
fn a_try_is_refused_where_submit_would_wait_and_ready_tells_when_to_try_again() {
    let body = |background| {
        move || {
            let wal = open(&disk(64, Device::Fua), background).unwrap();
            let slot = hold_slot(&wal);
            let mut count = 0;
            let error = loop {
                match wal.try_submit(&[5; 20_000]) {
                    Ok(_) => count += 1,
                    Err(error) => break error,
                }
                assert!(count < 1000, "memory is bounded");
            };
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            assert_eq!(wal.appended_lsn(), Lsn::new(count), "no LSN without room");
            if background == Background::Threads {
                let mut ready = pin!(wal.ready());
                let mut context = Context::from_waker(Waker::noop());
                assert!(ready.as_mut().poll(&mut context).is_pending(), "nothing has happened");
            }
            give_slot(&wal, slot);
            for _ in 0..100 {
                while let Err(error) = wal.try_submit(&[5; 20_000]) {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    block_on(wal.ready()).unwrap();
                }
            }
            assert_eq!(wal.sync().unwrap(), Lsn::new(count + 100));
        }
    };
    watched(body(Background::Threads));
    watched(body(Background::Inline));
}

#[test]
fn many_tasks_with_back_pressure_all_come_through() {
    watched(|| {
        let wal = open(&disk(65, Device::Flush), Background::Threads).unwrap();
        let workers: Vec<_> = (0..6u8)
            .map(|thread| {
                let wal = wal.clone();
                let body = move || {
                    for _ in 0..150 {
                        while wal.try_submit(&[thread; 20_000]).is_err() {
                            block_on(wal.ready()).unwrap();
                        }
                    }
                };
                spawn("task", body).unwrap()
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(wal.sync().unwrap(), Lsn::new(900));
    });
}

#[test]
fn a_full_disk_is_said_to_who_does_not_wait_and_the_log_goes_on() {
    watched(|| {
        let disk = disk(66, Device::Flush);
        disk.capacity(Some(5 * (64 << 10) + (32 << 10)));
        let wal = open(&disk, Background::Threads).unwrap();
        let full = loop {
            match wal.try_submit(&[9; 30_000]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    block_on(wal.ready()).unwrap();
                }
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::DiskFull);
        let late = wal.append_timeout(&[9; 30_000], Duration::from_secs(9)).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::DiskFull);
        let count = wal.sync().unwrap();
        disk.capacity(None);
        while wal.try_submit(&[9; 30_000]).is_err() {
            block_on(wal.ready()).unwrap();
        }
        assert_eq!(wal.sync().unwrap(), count.next(), "no hole");
    });
}

#[test]
fn closing_ends_the_wait_for_room() {
    watched(|| {
        let wal = open(&disk(67, Device::Fua), Background::Threads).unwrap();
        let slot = hold_slot(&wal);
        while wal.try_submit(&[5; 20_000]).is_ok() {}
        let waiting = wal.clone();
        let waiter = spawn("task", move || block_on(waiting.ready()).map_err(|error| error.kind()));
        let closing = wal.clone();
        let closer = spawn("closer", move || closing.close().unwrap());
        let outcome = waiter.unwrap().join().unwrap();
        give_slot(&wal, slot);
        closer.unwrap().join().unwrap();
        assert!(matches!(outcome, Ok(()) | Err(ErrorKind::Closed)), "{outcome:?}");
        assert_eq!(block_on(wal.ready()).unwrap_err().kind(), ErrorKind::Closed);
    });
}

#[test]
fn a_record_that_came_too_late_is_nowhere() {
    watched(|| {
        let disk = disk(68, Device::Fua);
        let clock = Arc::new(ManualClock::default());
        let shared = Arc::clone(&clock);
        let storage = Arc::new(disk.clone());
        let wal = Wal::open_with(storage, shared, PLACE, options(Background::Threads));
        let wal = wal.unwrap();
        let slot = hold_slot(&wal);
        let limit = Duration::from_secs(10);
        let waiting = wal.clone();
        let late = spawn("late", move || waiting.append_timeout(b"late", limit)).unwrap();
        while wal.appended_lsn() < Lsn::FIRST {
            std::thread::yield_now();
        }
        let neighbour = wal.submit(b"in the same frame").unwrap();
        assert!(!late.is_finished(), "time stands still");
        clock.advance(limit);
        assert_eq!(late.join().unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
        give_slot(&wal, slot);
        neighbour.wait().unwrap();
        let soon = wal.append_timeout(b"soon", limit).unwrap();
        let expected = [(neighbour.lsn(), b"in the same frame".to_vec()), (soon, b"soon".to_vec())];
        assert_eq!(contents(&wal).unwrap(), expected);
        assert_eq!(wal.get(Lsn::FIRST).unwrap(), None, "void");
        wal.close().unwrap();
        let wal = open(&disk, Background::Inline).unwrap();
        assert_eq!(contents(&wal).unwrap(), expected, "nor after opening again");
    });
}

#[test]
fn the_deadline_counts_while_there_is_no_room() {
    watched(|| {
        let clock = Arc::new(ManualClock::default());
        let shared = Arc::clone(&clock);
        let storage = Arc::new(disk(69, Device::Fua));
        // The memory is full long before the segment is.
        let options = WalOptions { segment_size: 8 << 20, ..options(Background::Threads) };
        let wal = Wal::open_with(storage, shared, PLACE, options);
        let wal = wal.unwrap();
        let slot = hold_slot(&wal);
        while wal.try_submit(&[5; 20_000]).is_ok() {}
        let count = wal.appended_lsn();
        let waiting = wal.clone();
        let body = move || waiting.append_timeout(&[6; 20_000], Duration::from_secs(1));
        let late = spawn("late", body).unwrap();
        while wal.stats().memory_waits == 0 {
            std::thread::yield_now();
        }
        clock.advance(Duration::from_secs(1));
        assert_eq!(late.join().unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(wal.appended_lsn(), count, "no LSN was given");
        give_slot(&wal, slot);
        assert_eq!(wal.sync().unwrap(), count);
    });
}

#[test]
fn without_threads_the_caller_writes_until_its_deadline() {
    let wal = open(&disk(70, Device::Fua), Background::Inline).unwrap();
    let late = wal.append_timeout(b"late", Duration::ZERO).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::TimedOut);
    let lsn = wal.append_timeout(b"soon", Duration::from_secs(1)).unwrap();
    assert!(wal.durable_lsn() >= lsn);
    assert_eq!(contents(&wal).unwrap(), [(Lsn::new(2), b"soon".to_vec())]);
}
