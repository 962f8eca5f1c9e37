//! The word that shares out a staging buffer, under every interleaving: see
//! `src/wal/README.md`, "Reserving without the mutex". `just loom` runs it. The product's own file
//! is compiled in, over the checker's atomics.
#![allow(dead_code, reason = "the models use a part of the word")]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

#[path = "../../../src/storage/staging_word.rs"]
mod staging_word;

use staging_word::{Claim, Room, StagingWord};

/// What the product's `sync` gives the word.
pub(crate) mod sync {
    pub(crate) mod atomic {
        pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    }

    use atomic::{AtomicU32, Ordering};
    use loom::sync::{Condvar, Mutex};

    /// As the product's, with a condition variable for the kernel's queue. The word alone carries
    /// what must be visible.
    #[derive(Debug, Default)]
    pub(crate) struct Gate {
        word: AtomicU32,
        queue: Mutex<()>,
        woken: Condvar,
    }

    impl Gate {
        pub(crate) fn swap(&self, value: u32) -> u32 {
            self.word.swap(value, Ordering::AcqRel)
        }

        pub(crate) fn open(&self, value: u32) {
            self.word.swap(value, Ordering::AcqRel);
            drop(self.queue.lock().unwrap());
            self.woken.notify_all();
        }

        pub(crate) fn wait_while(&self, value: u32) -> u32 {
            let mut queue = self.queue.lock().unwrap();
            loop {
                let now = self.word.load(Ordering::Acquire);
                if now != value {
                    return now;
                }
                queue = self.woken.wait(queue).unwrap();
            }
        }
    }
}

/// Bytes of a record.
const SIZE: u64 = 4;
const BYTES: usize = 4 * SIZE as usize;

/// A word, and cells that tell the checker who reads and writes what the word guards.
struct Model {
    word: StagingWord,
    /// The buffer as such: replaced between two times, looked at by whoever copies.
    memory: UnsafeCell<()>,
    bytes: Vec<UnsafeCell<u8>>,
}

impl Model {
    fn new() -> Model {
        Model {
            word: StagingWord::new(),
            memory: UnsafeCell::new(()),
            bytes: (0..BYTES).map(|_| UnsafeCell::new(0)).collect(),
        }
    }

    /// Opens it with one record, which is copied at once.
    fn open(&self, room: Room) {
        self.memory.with_mut(|_| ());
        let first = self.word.open(room, SIZE, 1);
        self.copy(0, &first);
    }

    fn copy(&self, lane: usize, claim: &Claim) {
        self.memory.with(|_| ());
        for at in claim.start..claim.start + claim.bytes {
            self.bytes[at as usize].with_mut(|_| ());
        }
        self.word.give_back(lane, claim.bytes);
    }

    /// Claims and copies; the LSN, if there was room.
    fn append(&self, lane: usize) -> Option<u64> {
        let claim = self.word.claim(SIZE, 1, false)?;
        self.copy(lane, &claim);
        Some(claim.tag + claim.ordinal)
    }

    /// Closes it and takes everything out; how many records there were.
    fn take(&self, start: u64) -> u64 {
        let claimed = self.word.close();
        self.word.await_copied();
        self.memory.with_mut(|_| ());
        for at in start..claimed.end {
            self.bytes[at as usize].with(|_| ());
        }
        assert_eq!(claimed.end - start, claimed.records * SIZE, "WORD-1");
        assert_eq!(self.word.close(), claimed, "WORD-2");
        claimed.records
    }
}

fn check(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(5);
    builder.check(body);
}

/// Two threads claim what may be too little for both, on the same and on different lanes, while the
/// owner closes and takes: ranges are disjoint, LSNs dense, and nothing is taken under a copy.
fn two_claims_and_a_close(end: u64, lanes: [usize; 2]) {
    check(move || {
        let model = Arc::new(Model::new());
        model.open(Room { start: 0, end, tag: 10, reserved: false });
        let threads = lanes.map(|lane| {
            let model = Arc::clone(&model);
            thread::spawn(move || model.append(lane))
        });
        let records = model.take(0);
        let mut lsns: Vec<_> =
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
        lsns.sort_unstable();
        assert_eq!(lsns, (11..10 + records).collect::<Vec<_>>(), "dense");
        assert!(records * SIZE <= end);
    });
}

#[test]
fn two_claims_with_room_for_both_and_a_close() {
    two_claims_and_a_close(3 * SIZE, [0, 1]);
}

#[test]
fn two_claims_on_one_lane_and_a_close() {
    two_claims_and_a_close(3 * SIZE, [1, 1]);
}

#[test]
fn two_claims_with_room_for_one_and_a_close() {
    two_claims_and_a_close(2 * SIZE, [0, 1]);
}

/// A thread that found the buffer in one time may claim in the next one, and gets a place of that
/// time and no other.
#[test]
fn a_late_claim_belongs_to_the_time_it_is_made_in() {
    check(|| {
        let model = Arc::new(Model::new());
        model.open(Room { start: 0, end: 2 * SIZE, tag: 10, reserved: false });
        let late = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.append(1))
        };
        let first = model.take(0);
        model.open(Room { start: 2 * SIZE, end: 4 * SIZE, tag: 50, reserved: false });
        let second = model.take(2 * SIZE);
        let expected = match late.join().unwrap() {
            Some(11) => (2, 1),
            Some(51) => (1, 2),
            None => (1, 1),
            other => panic!("a place of no time: {other:?}"),
        };
        assert_eq!((first, second), expected);
    });
}

/// A reserved room refuses whoever may not.
#[test]
fn a_reserved_room_refuses() {
    check(|| {
        let model = Arc::new(Model::new());
        model.open(Room { start: 0, end: 3 * SIZE, tag: 10, reserved: true });
        let stranger = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.append(1))
        };
        let claim = model.word.claim(SIZE, 1, true).unwrap();
        model.copy(0, &claim);
        assert_eq!(model.take(0), 2);
        assert_eq!(stranger.join().unwrap(), None);
    });
}
