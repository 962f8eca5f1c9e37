//! How far is a durable append from what the device and the scheduler allow?
//!
//! Blocking appends by 1, 8 and 64 threads against `raw`: a group commit of a mutex and a condition
//! variable over the same kind of prepared file and the same durable writes, one in flight, without
//! checksums of headers, rotation or recovery. Rounds of both alternate; what is printed is the
//! median of the rounds' ratios. `cargo bench --bench wal_append [-- ROUNDS [MILLISECONDS]]`.
#![allow(clippy::disallowed_methods, reason = "a bench measures wall time")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench stops at what fails")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sawmill::storage::{
    AlignedBuf, BLOCK, BackendChoice, Channel, File, Op, OpenMode, Storage, SystemStorage,
};
use sawmill::{Wal, WalOptions};

const SEGMENT: u64 = 256 << 20;
const BUFFER: usize = 1 << 20;

/// The hand-written group commit.
struct Raw {
    state: Mutex<State>,
    done: Condvar,
    file: Arc<dyn File>,
}

struct State {
    filling: AlignedBuf,
    used: usize,
    /// The group that `filling` belongs to, and the last one that is durable.
    group: u64,
    durable: u64,
    offset: u64,
    /// The channel and the other buffer; whoever takes them leads.
    idle: Option<(Box<dyn Channel>, AlignedBuf)>,
}

impl Raw {
    fn open(path: &Path) -> Raw {
        let storage = SystemStorage::new(BackendChoice::Auto).unwrap();
        let directory = storage.directory(path, true).unwrap();
        let file = directory.open("raw", OpenMode::CreateDirect).unwrap();
        file.allocate(SEGMENT).unwrap();
        let mut channel = directory.channel().unwrap();
        let mut zeros = AlignedBuf::zeroed(BUFFER);
        for offset in (0..SEGMENT).step_by(BUFFER) {
            let (file, buffer) = (Arc::clone(&file), zeros);
            let written = channel.run(Op::Write { file, offset, buffer, durable: false });
            zeros = written.buffer.unwrap();
        }
        file.sync().unwrap();
        let state = State {
            filling: AlignedBuf::zeroed(BUFFER),
            used: 0,
            group: 1,
            durable: 0,
            offset: 0,
            idle: Some((channel, zeros)),
        };
        Raw { state: Mutex::new(state), done: Condvar::new(), file }
    }

    fn append(&self, payload: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let at = state.used;
        state.filling.set_len(BUFFER);
        state.filling[at..at + 8].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        state.filling[at + 8..at + 8 + payload.len()].copy_from_slice(payload);
        state.used += 8 + payload.len();
        let mine = state.group;
        while state.durable < mine {
            let Some((mut channel, other)) = state.idle.take() else {
                state = self.done.wait(state).unwrap();
                continue;
            };
            let mut buffer = std::mem::replace(&mut state.filling, other);
            let length = state.used.next_multiple_of(BLOCK);
            let offset = state.offset;
            let used = std::mem::take(&mut state.used);
            state.offset = (offset + length as u64) % (SEGMENT - BUFFER as u64);
            let group = state.group;
            state.group += 1;
            drop(state);
            buffer[used..length].fill(0);
            std::hint::black_box(crc32c::crc32c(&buffer[..used]));
            buffer.set_len(length);
            let file = Arc::clone(&self.file);
            let written = channel.run(Op::Write { file, offset, buffer, durable: true });
            assert_eq!(written.result.unwrap(), length);
            state = self.state.lock().unwrap();
            state.durable = group;
            state.idle = Some((channel, written.buffer.unwrap()));
            self.done.notify_all();
        }
    }
}

/// Appends per second of `threads` that append for `time`, and the mean latency in microseconds.
fn round(threads: usize, size: usize, time: Duration, append: &(impl Fn(&[u8]) + Sync)) -> f64 {
    let stop = AtomicBool::new(false);
    let count = AtomicU64::new(0);
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let payload = vec![b'x'; size];
                let mut mine = 0;
                while !stop.load(Ordering::Relaxed) {
                    append(&payload);
                    mine += 1;
                }
                count.fetch_add(mine, Ordering::Relaxed);
            });
        }
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let rounds = numbers.first().copied().unwrap_or(7);
    let time = Duration::from_millis(numbers.get(1).copied().unwrap_or(300));
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let raw = Raw::open(&place.path().join("raw"));
    let options = WalOptions { segment_size: SEGMENT, ..WalOptions::default() };
    let wal = Wal::open(place.path().join("wal"), options).unwrap();
    println!("backend {}; appends/s, median of {rounds} rounds of {time:?}", wal.backend());
    // The first segments are on their way to the disk in the background.
    thread::sleep(Duration::from_millis(1500));
    for (threads, size) in [(1, 100), (1, 1024), (8, 100), (8, 1024), (64, 100), (64, 1024)] {
        let (mut ours, mut theirs, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..rounds {
            let theirs_now = round(threads, size, time, &|payload: &[u8]| raw.append(payload));
            let ours_now = round(threads, size, time, &|payload: &[u8]| {
                wal.append(payload).unwrap();
            });
            theirs.push(theirs_now);
            ours.push(ours_now);
            ratios.push(ours_now / theirs_now);
        }
        println!(
            "wal_append/{threads}_writers/{size}_bytes: sawmill {:.0}/s, raw {:.0}/s, ratio {:.2}",
            median(ours),
            median(theirs),
            median(ratios)
        );
    }
    wal.close().unwrap();
}
