//! The watchdog of the other tests: what it sees, and what it leaves alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use super::patience::{give_slot, hold_slot};
use super::{disk, open};
use crate::sim::Device;
use crate::sync::{Arc, Mutex, lock, spawn};
use crate::wal::Background;
use crate::wal::watch::watched_for;

#[test]
fn an_append_that_stays_unresolved_is_reported_with_the_committers_state() {
    let (go, gone) = mpsc::channel::<()>();
    let ended = Arc::new(Mutex::new(None));
    let end = Arc::clone(&ended);
    let body = move || {
        let wal = open(&disk(90, Device::Fua), Background::Threads).unwrap();
        let slot = hold_slot(&wal);
        let writer = wal.clone();
        let thread = spawn("appender", move || writer.append(b"waits").unwrap()).unwrap();
        gone.recv().unwrap_err();
        give_slot(&wal, slot);
        *lock(&end) = Some(thread.join().unwrap());
    };
    let watched = || watched_for(Duration::from_millis(300), body);
    let panic = catch_unwind(AssertUnwindSafe(watched)).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    for word in ["somebody still waits", "log /log", "taken: 1", "leader: Asleep"] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
    drop(go);
    while lock(&ended).is_none() {
        std::thread::yield_now();
    }
}

#[test]
fn a_log_that_nobody_waits_for_and_one_that_moves_are_left_alone() {
    watched_for(Duration::from_millis(300), || {
        let wal = open(&disk(91, Device::Fua), Background::Threads).unwrap();
        let tail = wal.clone();
        let tail = spawn("tail", move || {
            let mut tail = tail.tail(crate::ids::Lsn::FIRST).unwrap();
            for lsn in 1..=8 {
                assert_eq!(tail.next().unwrap().unwrap().lsn.get(), lsn);
            }
        });
        for _ in 0..8 {
            wal.append(b"moves").unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
        tail.unwrap().join().unwrap();
    });
}
