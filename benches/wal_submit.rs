//! How far is submitting without waiting from the bare loop, and how fast is staging alone?
//!
//! Three questions. `submit`: 1 and 4 threads submit 128-byte records, then one syncs, against a
//! bare loop that copies the same bytes into two buffers, writes them past the page cache to a
//! prepared file and syncs it once. `staging`: the same submissions over a storage whose writes
//! complete at once. `in flight`: 4 threads with 2,500 submissions each, every `Pending` polled to
//! completion. Rounds alternate; the median is printed.
//! `cargo bench --bench wal_submit [-- [staging|submit] ROUNDS [THOUSANDS]]`.
#![allow(clippy::disallowed_methods, reason = "a bench measures wall time")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench stops at what fails")]

use std::any::Any;
use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use sawmill::clock::SystemClock;
use sawmill::storage::{
    AlignedBuf, Backend, BackendChoice, Channel, Completion, Directory, File, FileStamp, IoFailure,
    Lock, LockKind, Mapping, Op, OpenMode, Storage, SystemStorage,
};
use sawmill::{Wal, WalOptions};

const SEGMENT: u64 = 512 << 20;
const BUFFER: usize = 1 << 20;
const SIZE: usize = 128;

/// A storage whose writes and syncs complete at once, without being carried out, as soon as it is
/// told so: what is left is sawmill's own work.
#[derive(Debug)]
struct Instantly {
    inner: SystemStorage,
    on: Arc<AtomicBool>,
}

#[derive(Debug)]
struct InstantDirectory {
    inner: Arc<dyn Directory>,
    on: Arc<AtomicBool>,
}

#[derive(Debug)]
struct InstantFile(Arc<dyn File>);

#[derive(Debug)]
struct InstantChannel {
    inner: Box<dyn Channel>,
    on: Arc<AtomicBool>,
    done: VecDeque<Completion>,
}

impl Storage for Instantly {
    fn directory(&self, path: &Path, create: bool) -> Result<Arc<dyn Directory>, IoFailure> {
        let inner = self.inner.directory(path, create)?;
        Ok(Arc::new(InstantDirectory { inner, on: Arc::clone(&self.on) }))
    }

    fn random(&self) -> [u8; 16] {
        self.inner.random()
    }
}

impl Directory for InstantDirectory {
    fn path(&self) -> &Path {
        self.inner.path()
    }
    fn backend(&self) -> Backend {
        self.inner.backend()
    }
    fn subdirectory(&self, name: &str) -> Result<Arc<dyn Directory>, IoFailure> {
        self.inner.subdirectory(name)
    }
    fn list(&self) -> Result<Vec<String>, IoFailure> {
        self.inner.list()
    }
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn File>, IoFailure> {
        Ok(Arc::new(InstantFile(self.inner.open(name, mode)?)))
    }
    fn rename(&self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.inner.rename(from, to)
    }
    fn unlink(&self, name: &str) -> Result<(), IoFailure> {
        self.inner.unlink(name)
    }
    fn sync(&self) -> Result<(), IoFailure> {
        Ok(())
    }
    fn lock(&self, name: &str, holder: &str) -> Result<Result<Box<dyn Lock>, String>, IoFailure> {
        self.inner.lock(name, holder)
    }
    fn channel(&self) -> Result<Box<dyn Channel>, IoFailure> {
        let inner = self.inner.channel()?;
        Ok(Box::new(InstantChannel { inner, on: Arc::clone(&self.on), done: VecDeque::new() }))
    }
    fn free_bytes(&self) -> Result<u64, IoFailure> {
        self.inner.free_bytes()
    }
}

impl File for InstantFile {
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn stamp(&self) -> Result<FileStamp, IoFailure> {
        self.0.stamp()
    }
    fn allocate(&self, length: u64) -> Result<(), IoFailure> {
        self.0.set_length(length)
    }
    fn set_length(&self, length: u64) -> Result<(), IoFailure> {
        self.0.set_length(length)
    }
    fn sync(&self) -> Result<(), IoFailure> {
        Ok(())
    }
    fn map(&self, length: u64) -> Result<Mapping, IoFailure> {
        self.0.map(length)
    }
    fn try_lock(&self, byte: u64, kind: LockKind) -> Result<bool, IoFailure> {
        self.0.try_lock(byte, kind)
    }
    fn as_any(&self) -> &dyn Any {
        self.0.as_any()
    }
}

impl Channel for InstantChannel {
    fn submit(&mut self, op: Op) -> u64 {
        let on = self.on.load(Ordering::Relaxed);
        // The zeros of prepared segments never need writing: the files are sparse.
        let (buffer, moved) = match op {
            Op::Write { buffer, .. } if on || buffer.len() >= 64 << 10 => {
                let moved = buffer.len();
                (Some(buffer), moved)
            }
            Op::Sync { .. } => (None, 0),
            other @ (Op::Write { .. } | Op::Read { .. }) => {
                let mut completion = self.inner.run(other);
                completion.token = 0;
                self.done.push_back(completion);
                return 0;
            }
        };
        self.done.push_back(Completion { token: 0, buffer, result: Ok(moved) });
        0
    }

    fn complete(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }
}

/// The bare loop: one thread copies records into a buffer and writes it, then syncs.
struct Bare {
    channel: Box<dyn Channel>,
    file: Arc<dyn File>,
    offset: u64,
    buffer: Option<AlignedBuf>,
}

impl Bare {
    fn open(path: &Path) -> Bare {
        let storage = SystemStorage::new(BackendChoice::Auto).unwrap();
        let directory = storage.directory(path, true).unwrap();
        let file = directory.open("bare", OpenMode::CreateDirect).unwrap();
        file.allocate(SEGMENT).unwrap();
        let mut channel = directory.channel().unwrap();
        let mut buffer = AlignedBuf::zeroed(BUFFER);
        for offset in (0..SEGMENT).step_by(BUFFER) {
            let file = Arc::clone(&file);
            let op = Op::Write { file, offset, buffer, durable: false };
            buffer = channel.run(op).buffer.unwrap();
        }
        file.sync().unwrap();
        Bare { channel, file, offset: 0, buffer: Some(buffer) }
    }

    fn submit(&mut self, count: usize) {
        let payload = std::hint::black_box([b'x'; SIZE]);
        let mut buffer = self.buffer.take().unwrap();
        let mut used = 0;
        for number in 0..count {
            buffer[used..used + 8].copy_from_slice(&(SIZE as u64).to_le_bytes());
            buffer[used + 8..used + 8 + SIZE].copy_from_slice(&payload);
            used += 8 + SIZE;
            if used + 8 + SIZE > BUFFER || number + 1 == count {
                std::hint::black_box(crc_fast::crc32_iscsi(&buffer[..used]));
                let (file, offset) = (Arc::clone(&self.file), self.offset);
                let op = Op::Write { file, offset, buffer, durable: false };
                let written = self.channel.run(op);
                assert_eq!(written.result.unwrap(), BUFFER);
                buffer = written.buffer.unwrap();
                self.offset = (self.offset + BUFFER as u64) % SEGMENT;
                used = 0;
            }
        }
        let synced = self.channel.run(Op::Sync { file: Arc::clone(&self.file) });
        synced.result.unwrap();
        self.buffer = Some(buffer);
    }
}

fn submit(wal: &Wal, threads: usize, count: usize) {
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let payload = std::hint::black_box([b'x'; SIZE]);
                for _ in 0..count / threads {
                    wal.submit(&payload).unwrap();
                }
            });
        }
    });
    wal.sync().unwrap();
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Four threads with a quarter of `in_flight` submissions each, `count` in all.
fn in_flight(wal: &Wal, in_flight: usize, count: usize) {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let payload = std::hint::black_box([b'x'; 100]);
                let waker = Waker::from(Arc::new(Unpark(thread::current())));
                let mut context = Context::from_waker(&waker);
                let mut pending = VecDeque::new();
                for _ in 0..count / 4 {
                    if pending.len() == in_flight / 4 {
                        complete(&mut pending, &mut context);
                    }
                    pending.push_back(wal.submit(&payload).unwrap());
                }
                while !pending.is_empty() {
                    complete(&mut pending, &mut context);
                }
            });
        }
    });
}

/// Waits for the oldest one, and takes along what is done.
fn complete(pending: &mut VecDeque<sawmill::Pending>, context: &mut Context<'_>) {
    let mut done = false;
    while let Some(oldest) = pending.front_mut() {
        match Pin::new(oldest).poll(context) {
            Poll::Ready(lsn) => {
                lsn.unwrap();
                pending.pop_front();
                done = true;
            }
            Poll::Pending if done => return,
            Poll::Pending => thread::park(),
        }
    }
}

fn rate(count: usize, body: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    body();
    count as f64 / begun.elapsed().as_secs_f64() / 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A word of its own, a pair of cache lines away from everything else.
#[repr(align(128))]
struct Apart(AtomicUsize);

/// What one contended word gives: each of the threads adds to it once for each record and copies
/// the record to the place it got, and nothing else. No log that hands out its places one by one
/// can be quicker than that.
fn word(threads: usize, count: usize) {
    let word = Apart(AtomicUsize::new(0));
    let memory: Vec<AtomicU64> = (0..BUFFER / 8).map(|_| AtomicU64::new(0)).collect();
    let words = (SIZE + 8) / 8;
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let payload = std::hint::black_box([7_u64; SIZE / 8 + 1]);
                for _ in 0..count / threads {
                    let place = word.0.fetch_add(words, Ordering::AcqRel);
                    let start = place % (memory.len() / words * words) / words * words;
                    for (to, from) in memory[start..start + words].iter().zip(payload) {
                        to.store(from, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Staging alone, and beside it, in the same rounds, the word that it cannot do without.
fn staging(place: &Path, options: WalOptions, rounds: usize, count: usize) {
    let on = Arc::new(AtomicBool::new(false));
    let inner = SystemStorage::new(BackendChoice::Pwrite).unwrap();
    let instantly = Arc::new(Instantly { inner, on: Arc::clone(&on) });
    let wal = Wal::open_with(instantly, Arc::new(SystemClock), place, options).unwrap();
    on.store(true, Ordering::Relaxed);
    for threads in [1, 4] {
        let mut all = [vec![], vec![], vec![]];
        for _ in 0..rounds {
            let bare = rate(count, || word(threads, count));
            let log = rate(count, || submit(&wal, threads, count));
            for (values, value) in all.iter_mut().zip([bare, log, log / bare]) {
                values.push(value);
            }
        }
        let [bare, log, ratio] = all.map(median);
        println!(
            "staging/{threads}_threads/{SIZE}_bytes: {log:.1} M/s ({ratio:.2} of one word and a \
             copy, {bare:.1} M/s)"
        );
    }
}

/// With the disk: the bare loop, one thread, four, and then submissions in flight.
fn with_disk(place: &Path, options: WalOptions, rounds: usize, count: usize) {
    let mut bare = Bare::open(&place.join("bare"));
    let wal = Wal::open(place.join("wal"), options).unwrap();
    println!("backend {}", wal.backend());
    // The first segments are on their way to the disk in the background.
    thread::sleep(Duration::from_secs(4));
    let mut all = [vec![], vec![], vec![], vec![], vec![]];
    for _ in 0..rounds {
        let raw = rate(count, || bare.submit(count));
        let one = rate(count, || submit(&wal, 1, count));
        let four = rate(count, || submit(&wal, 4, count));
        for (values, value) in all.iter_mut().zip([raw, one, four, one / raw, four / one]) {
            values.push(value);
        }
    }
    let [raw, one, four, ratio, more] = all.map(median);
    println!(
        "submit/{SIZE}_bytes: bare {raw:.2} M/s, 1 thread {one:.2} M/s ({ratio:.2}), \
         4 threads {four:.2} M/s ({more:.2} of 1 thread)"
    );
    let rates = (0..rounds).map(|_| rate(count, || in_flight(&wal, 10_000, count))).collect();
    println!("in_flight/10000/100_bytes: {:.2} M/s", median(rates));
    wal.close().unwrap();
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let asked = |name: &str| {
        let named = |word: &&String| !word.starts_with('-') && word.parse::<usize>().is_err();
        words.iter().find(named).is_none_or(|word| word == name)
    };
    let rounds = numbers.first().copied().unwrap_or(5);
    let count = numbers.get(1).copied().unwrap_or(400) * 1000;
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = WalOptions { segment_size: SEGMENT, ..WalOptions::default() };
    if asked("staging") {
        staging(&place.path().join("instant"), options.clone(), rounds, count);
    }
    if asked("submit") {
        with_disk(place.path(), options, rounds, count);
    }
}
