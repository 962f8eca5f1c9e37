//! One behaviour, several storages: the same random operations, from a seed, on each of them; the
//! answers must be the same one by one, down to the kind of each error.
//!
//! The first storage is the reference. A storage that differs is reported with the operation's
//! number, what was asked, and both answers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sawmill::sim::SimDisk;
use sawmill::storage::{
    AlignedBuf, BLOCK, BackendChoice, Channel, Directory, File, IoFailure, Lock, LockKind, Op,
    OpenMode, Storage, SystemStorage,
};

const OPERATIONS: u64 = 10_000;
const SEED: u64 = 0x5A3B_1E55;
const NAMES: [&str; 6] = ["a", "b", "c", "dd", "e.tmp", "LOCK"];
const BLOCKS_MAX: u64 = 40;
const HANDLES_MAX: usize = 8;

/// SplitMix64: the next number depends on the seed alone.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }
}

/// What an operation answered, in a form that can be compared and shown.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Number(u64),
    Bool(bool),
    Names(Vec<String>),
    /// Count and digest of the bytes that arrived.
    Bytes(usize, u64),
    Several(Vec<Answer>),
    Failed(io::ErrorKind),
}

fn answer<T>(result: Result<T, IoFailure>, done: impl FnOnce(T) -> Answer) -> Answer {
    match result {
        Ok(value) => done(value),
        Err(failure) => Answer::Failed(failure.kind()),
    }
}

fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

struct Handle {
    file: Arc<dyn File>,
    mode: OpenMode,
}

impl Handle {
    fn is_writable(&self) -> bool {
        !matches!(self.mode, OpenMode::Read | OpenMode::ReadDirect)
    }

    fn is_direct(&self) -> bool {
        use OpenMode::{CreateDirect, ReadDirect, WriteDirect};
        matches!(self.mode, ReadDirect | CreateDirect | WriteDirect)
    }
}

/// One storage under test.
struct Party {
    directory: Arc<dyn Directory>,
    channel: Box<dyn Channel>,
    handles: Vec<Handle>,
    lock: Option<Box<dyn Lock>>,
}

impl Party {
    fn new(storage: &dyn Storage, root: &Path) -> Party {
        let directory = storage.directory(&root.join("made").join("here"), true).unwrap();
        directory.subdirectory("inner").unwrap();
        directory.sync().unwrap();
        let channel = directory.channel().unwrap();
        Party { directory, channel, handles: Vec::new(), lock: None }
    }

    /// Draws an operation and carries it out. Every storage draws the same numbers, as long as
    /// every answer was the same.
    fn step(&mut self, random: &mut Random) -> (String, Answer) {
        let name = NAMES[random.index(NAMES.len() - 1)];
        match random.below(100) {
            0..=13 => self.open(name, random),
            14..=17 if !self.handles.is_empty() => {
                let index = random.index(self.handles.len());
                drop(self.handles.remove(index));
                (format!("close handle {index}"), Answer::Done)
            }
            18..=20 => {
                let answer = answer(self.directory.unlink(name), |()| Answer::Done);
                (format!("unlink {name}"), answer)
            }
            21..=23 => {
                let to = NAMES[random.index(NAMES.len() - 1)];
                let answer = answer(self.directory.rename(name, to), |()| Answer::Done);
                (format!("rename {name} to {to}"), answer)
            }
            24..=27 => {
                let result = self.directory.list();
                let sorted = result.as_ref().is_ok_and(|names| names.is_sorted());
                assert!(sorted, "names come sorted");
                ("list".to_owned(), answer(result, Answer::Names))
            }
            28 => ("sync names".to_owned(), answer(self.directory.sync(), |()| Answer::Done)),
            29..=30 => {
                let result = self.directory.open("inner", OpenMode::Read);
                ("open a directory".to_owned(), answer(result, |_| Answer::Done))
            }
            31..=33 => self.directory_lock(random),
            _ if !self.handles.is_empty() => self.step_of_handle(random),
            _ => self.open(name, random),
        }
    }

    fn open(&mut self, name: &str, random: &mut Random) -> (String, Answer) {
        use OpenMode::{Create, CreateDirect, Read, ReadDirect, Write, WriteDirect};
        let modes = [Read, ReadDirect, Create, Write, CreateDirect, WriteDirect];
        let mode = modes[random.index(modes.len())];
        let result = self.directory.open(name, mode);
        let answer = answer(result, |file| {
            if self.handles.len() == HANDLES_MAX {
                self.handles.remove(0);
            }
            self.handles.push(Handle { file, mode });
            Answer::Done
        });
        (format!("open {name} as {mode:?}"), answer)
    }

    fn directory_lock(&mut self, random: &mut Random) -> (String, Answer) {
        if self.lock.is_some() && random.below(3) == 0 {
            self.lock = None;
            return ("release the lock".to_owned(), Answer::Done);
        }
        let holder = format!("holder {}", random.below(1000));
        let answer = answer(self.directory.lock("LOCK", &holder), |taken| match taken {
            Ok(lock) => {
                let current = lock.is_current().unwrap();
                self.lock = Some(lock);
                Answer::Bool(current)
            }
            Err(other) => Answer::Names(vec![other]),
        });
        (format!("lock as {holder}"), answer)
    }

    fn step_of_handle(&mut self, random: &mut Random) -> (String, Answer) {
        let index = random.index(self.handles.len());
        let (writable, direct) =
            (self.handles[index].is_writable(), self.handles[index].is_direct());
        let file = Arc::clone(&self.handles[index].file);
        let path = self.handles[index].mode;
        let (what, answer) = match random.below(100) {
            0..=34 if writable => self.write(file, direct, random),
            35..=44 if writable => self.write_several(&file, random),
            45..=49 if writable => {
                let length = random.below(BLOCKS_MAX * BLOCK as u64);
                let answer = answer(file.set_length(length), |()| Answer::Done);
                (format!("set length {length}"), answer)
            }
            50..=53 if writable => {
                let length = random.below(BLOCKS_MAX * BLOCK as u64);
                let answer = answer(file.allocate(length), |()| Answer::Done);
                (format!("allocate {length}"), answer)
            }
            54..=55 => {
                let result = self.channel.run(Op::Sync { file }).result;
                ("sync data".to_owned(), answer(result, |_| Answer::Done))
            }
            56 => ("sync file".to_owned(), answer(file.sync(), |()| Answer::Done)),
            57..=66 => {
                let result = file.stamp();
                ("stamp".to_owned(), answer(result, |stamp| Answer::Number(stamp.length)))
            }
            67..=70 => {
                let length = random.below(BLOCKS_MAX * BLOCK as u64);
                let answer = answer(file.map(length), |map| Answer::Bytes(map.len(), digest(&map)));
                (format!("map {length}"), answer)
            }
            71..=76 if writable => {
                let kind =
                    if random.below(2) == 0 { LockKind::Shared } else { LockKind::Exclusive };
                let byte = random.below(2);
                let answer = answer(file.try_lock(byte, kind), Answer::Bool);
                (format!("lock byte {byte} {kind:?}"), answer)
            }
            _ => self.read(file, direct, random),
        };
        (format!("{what} on handle {index} ({path:?})"), answer)
    }

    fn write(
        &mut self,
        file: Arc<dyn File>,
        direct: bool,
        random: &mut Random,
    ) -> (String, Answer) {
        let (offset, length) = place(direct, random);
        let durable = random.below(8) == 0;
        let buffer = noise(length, random);
        let completion = self.channel.run(Op::Write { file, offset, buffer, durable });
        let kept = completion.buffer.is_some_and(|buffer| buffer.len() == length);
        assert!(kept, "STORAGE-1: the completion hands the buffer back");
        let answer = answer(completion.result, |moved| Answer::Number(moved as u64));
        (format!("write {length} at {offset}, durable: {durable}"), answer)
    }

    fn read(&mut self, file: Arc<dyn File>, direct: bool, random: &mut Random) -> (String, Answer) {
        let (offset, length) = place(direct, random);
        let buffer = AlignedBuf::zeroed(length);
        let completion = self.channel.run(Op::Read { file, offset, buffer });
        let buffer = completion.buffer.unwrap();
        let answer =
            answer(completion.result, |moved| Answer::Bytes(moved, digest(&buffer[..moved])));
        (format!("read {length} at {offset}"), answer)
    }

    /// Several writes to different blocks in flight at once, awaited in whatever order.
    fn write_several(&mut self, file: &Arc<dyn File>, random: &mut Random) -> (String, Answer) {
        let count = 1 + random.below(8);
        let start = random.below(BLOCKS_MAX - count);
        let mut tokens = Vec::new();
        for block in start..start + count {
            let offset = block * BLOCK as u64;
            let buffer = noise(BLOCK, random);
            let write = Op::Write { file: Arc::clone(file), offset, buffer, durable: false };
            tokens.push(self.channel.submit(write));
        }
        let mut answers: Vec<(u64, Answer)> = Vec::new();
        while let Some(completion) = self.channel.complete() {
            let answer = answer(completion.result, |moved| Answer::Number(moved as u64));
            answers.push((completion.token, answer));
        }
        answers.sort_by_key(|(token, _)| *token);
        tokens.sort_unstable();
        assert!(answers.iter().map(|(token, _)| *token).eq(tokens), "one completion per token");
        let answers = answers.into_iter().map(|(_, answer)| answer).collect();
        (format!("write {count} blocks at once from block {start}"), Answer::Several(answers))
    }

    /// Every file, whole.
    fn contents(&mut self) -> Vec<(String, usize, u64)> {
        let mut contents = Vec::new();
        for name in self.directory.list().unwrap() {
            if name == "LOCK" {
                continue;
            }
            let file = self.directory.open(&name, OpenMode::Read).unwrap();
            let length = usize::try_from(file.stamp().unwrap().length).unwrap();
            let buffer = AlignedBuf::zeroed(length + 1);
            let completion = self.channel.run(Op::Read { file, offset: 0, buffer });
            assert_eq!(completion.result.unwrap(), length);
            contents.push((name, length, digest(&completion.buffer.unwrap()[..length])));
        }
        contents
    }
}

fn place(direct: bool, random: &mut Random) -> (u64, usize) {
    let block = random.below(BLOCKS_MAX - 4) * BLOCK as u64;
    let blocks = 1 + random.index(3);
    let (ahead, less) = (random.below(BLOCK as u64), random.index(BLOCK));
    if direct { (block, blocks * BLOCK) } else { (block + ahead, blocks * BLOCK - less) }
}

fn noise(length: usize, random: &mut Random) -> AlignedBuf {
    let mut buffer = AlignedBuf::zeroed(length);
    let mut seed = Random(random.next());
    for piece in buffer.chunks_mut(8) {
        piece.copy_from_slice(&seed.next().to_le_bytes()[..piece.len()]);
    }
    buffer
}

/// Runs the operations on every storage in step.
fn compare(storages: &[(&str, &dyn Storage, PathBuf)], seed: u64) {
    println!("seed {seed}");
    let mut parties: Vec<(&str, Party, Random)> = storages
        .iter()
        .map(|(name, storage, root)| (*name, Party::new(*storage, root), Random(seed)))
        .collect();
    let mut failures = 0;
    for number in 0..OPERATIONS {
        let mut reference: Option<(String, Answer)> = None;
        for (name, party, random) in &mut parties {
            let got = party.step(random);
            match &reference {
                None => {
                    failures += u64::from(matches!(got.1, Answer::Failed(_)));
                    reference = Some(got);
                }
                Some(wanted) => {
                    assert_eq!(&got, wanted, "seed {seed}, operation {number}, {name}");
                }
            }
        }
    }
    assert!(failures > OPERATIONS / 50, "refusals are part of what is compared: {failures}");
    let reference = parties[0].1.contents();
    for (name, party, _) in &mut parties {
        assert_eq!(party.contents(), reference, "seed {seed}, contents at the end, {name}");
    }
}

/// Compares every storage there is; the system's below `place`.
fn compare_in(place: &Path, seed: u64) {
    let pwrite = SystemStorage::new(BackendChoice::Pwrite).unwrap();
    let uring = SystemStorage::new(BackendChoice::Uring).unwrap();
    let buffered = pwrite.force_buffered();
    let simulated = SimDisk::new(seed);
    let mut storages: Vec<(&str, &dyn Storage, PathBuf)> = vec![
        ("pwrite", &pwrite, place.join("pwrite")),
        ("pwrite-buffered", &buffered, place.join("pwrite-buffered")),
        ("simulated", &simulated, PathBuf::from("/simulated")),
    ];
    match uring.directory(&place.join("trial"), true) {
        Ok(_) => storages.push(("uring", &uring, place.join("uring"))),
        // A container that forbids io_uring has one storage less.
        Err(failure) => assert!(failure.to_string().starts_with("setup of io_uring"), "{failure}"),
    }
    compare(&storages, seed);
}

#[test]
fn every_storage_answers_alike_on_disk() {
    compare_in(tempfile::tempdir().unwrap().path(), SEED);
}

#[test]
fn every_storage_answers_alike_in_memory() {
    if Path::new("/dev/shm").is_dir() {
        compare_in(tempfile::tempdir_in("/dev/shm").unwrap().path(), SEED + 1);
    }
}
