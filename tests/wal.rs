//! The log through its public face, on the operating system's files: whichever backend
//! `SAWMILL_BACKEND` names.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use sawmill::{ErrorKind, Lsn, Wal, WalOptions};

fn options() -> WalOptions {
    WalOptions { segment_size: 256 << 10, memory: 1 << 20, ..WalOptions::default() }
}

#[test]
fn smoke() {
    let place = tempfile::tempdir().unwrap();
    let wal = Wal::open(place.path(), options()).unwrap();
    for i in 0..100u32 {
        assert_eq!(wal.append(&i.to_le_bytes()).unwrap(), Lsn::new(u64::from(i) + 1));
    }
    let threads: Vec<_> = (0..64)
        .map(|_| {
            let wal = wal.clone();
            thread::spawn(move || for _ in 0..50 { wal.append(&[7; 100]).unwrap(); })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(wal.durable_lsn(), Lsn::new(3300));
    wal.close().unwrap();
}
