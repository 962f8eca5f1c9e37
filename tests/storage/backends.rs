//! What the operating system's storage promises, on every backend this machine has.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use sawmill::ErrorKind;
use sawmill::storage::files::{
    fill_zeros, read_exact_at, read_to_vec, replace_file, sync_data, write_all_at,
};
use sawmill::storage::{
    AlignedBuf, BLOCK, Backend, BackendChoice, BackendKind, Channel, Completion, Directory,
    LockKind, Op, OpenMode, Storage, SystemStorage,
};

const NAMES: [&str; 5] = ["auto", "uring", "pwrite", "uring-buffered", "pwrite-buffered"];

/// Runs `body` in a fresh directory on every backend, on the disk and on tmpfs.
fn on_each(body: impl Fn(&dyn Directory, &Path)) {
    for name in NAMES {
        let storage = SystemStorage::from_name(name).unwrap();
        let mut places = vec![tempfile::tempdir().unwrap()];
        if Path::new("/dev/shm").is_dir() {
            places.push(tempfile::tempdir_in("/dev/shm").unwrap());
        }
        for place in places {
            let path = place.path().join("a").join("b");
            match storage.directory(&path, true) {
                Ok(directory) => body(&*directory, &path),
                // Containers may forbid io_uring: then asking for it is an error, not a fallback.
                Err(failure) => {
                    assert!(name.starts_with("uring"), "{name}: {failure}");
                    assert!(failure.to_string().starts_with("setup of io_uring"), "{failure}");
                }
            }
        }
    }
}

#[test]
fn what_is_written_is_read_back_by_every_mode() {
    on_each(|directory, path| {
        let file = directory.open("f", OpenMode::CreateDirect).unwrap();
        let mut channel = directory.channel().unwrap();
        file.allocate(8 * BLOCK as u64).unwrap();
        let bytes: Vec<u8> = (0..3 * BLOCK).map(|n| u8::try_from(n % 251).unwrap()).collect();
        write_all_at(&mut *channel, &file, BLOCK as u64, &bytes, true).unwrap();
        for mode in [OpenMode::Read, OpenMode::ReadDirect, OpenMode::Write, OpenMode::WriteDirect] {
            let again = directory.open("f", mode).unwrap();
            let read = read_exact_at(&mut *channel, &again, BLOCK as u64, bytes.len()).unwrap();
            assert!(*read == bytes[..], "{mode:?} in {}", path.display());
        }
        assert_eq!(file.map(4 * BLOCK as u64).unwrap()[BLOCK..], bytes[..]);
        assert_eq!(file.stamp().unwrap().length, 8 * BLOCK as u64);
        assert_eq!(file.stamp().unwrap().inode, path.join("f").metadata().unwrap().ino());
    });
}

#[test]
fn probing_leaves_nothing_behind() {
    on_each(|directory, path| {
        assert_eq!(directory.list().unwrap(), [""; 0]);
        assert_eq!(path.read_dir().unwrap().count(), 0);
        assert!(directory.free_bytes().unwrap() > 0);
    });
}

fn block(byte: u8) -> AlignedBuf {
    let mut buffer = AlignedBuf::zeroed(BLOCK);
    buffer.fill(byte);
    buffer
}

#[test]
fn a_forced_backend_is_the_one_that_is_used() {
    let place = tempfile::tempdir().unwrap();
    let backend = |name: &str| -> Backend {
        let storage = SystemStorage::from_name(name).unwrap();
        storage.directory(place.path(), true).unwrap().backend()
    };
    assert_eq!(backend("pwrite").kind, BackendKind::Pwrite);
    let buffered = Backend { kind: BackendKind::Pwrite, direct: false };
    assert_eq!(backend("pwrite-buffered"), buffered);
    let forced = SystemStorage::new(BackendChoice::Pwrite).unwrap().force_buffered();
    let directory = forced.directory(place.path(), true).unwrap();
    assert_eq!(directory.backend(), buffered);
    assert_eq!(directory.subdirectory("inner").unwrap().backend(), buffered);
}

#[test]
fn an_unknown_backend_is_refused_with_the_names_there_are() {
    let error = SystemStorage::from_name("mmap").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    for name in NAMES {
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_directory_opened_to_read_is_not_written_to() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("user.txt"), b"user data").unwrap();
    let stamp = || {
        let metadata = place.path().metadata().unwrap();
        (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec())
    };
    let before = stamp();
    for name in NAMES {
        let storage = SystemStorage::from_name(name).unwrap();
        let directory = storage.directory(place.path(), false).unwrap();
        let Ok(mut channel) = directory.channel() else {
            assert!(name.starts_with("uring"));
            continue;
        };
        for mode in [OpenMode::Read, OpenMode::ReadDirect] {
            let file = directory.open("user.txt", mode).unwrap();
            let read = read_exact_at(&mut *channel, &file, 0, 9).unwrap();
            assert_eq!(&*read, b"user data");
        }
        assert_eq!(read_to_vec(&*directory, "user.txt", 9).unwrap(), b"user data");
        assert!(!directory.backend().direct);
        assert_eq!(directory.list().unwrap(), ["user.txt"]);
    }
    assert_eq!(stamp(), before);
    let missing = SystemStorage::new(BackendChoice::Auto).unwrap();
    let failure = missing.directory(&place.path().join("no"), false).unwrap_err();
    assert_eq!(failure.kind(), io::ErrorKind::NotFound);
}

#[test]
fn the_end_of_a_file_is_a_short_read_and_never_bytes() {
    on_each(|directory, _| {
        let file = directory.open("f", OpenMode::Create).unwrap();
        let mut channel = directory.channel().unwrap();
        write_all_at(&mut *channel, &file, 0, &[7; 5000], false).unwrap();
        sync_data(&mut *channel, &file).unwrap();
        for mode in [OpenMode::Read, OpenMode::ReadDirect] {
            let file = directory.open("f", mode).unwrap();
            let mut read = |offset| {
                let buffer = AlignedBuf::zeroed(2 * BLOCK);
                channel.run(Op::Read { file: Arc::clone(&file), offset, buffer }).result.unwrap()
            };
            assert_eq!((read(0), read(4096), read(8192)), (5000, 904, 0));
            let failure = read_exact_at(&mut *channel, &file, 0, 5001).unwrap_err();
            assert_eq!(failure.kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(read_exact_at(&mut *channel, &file, 0, 5000).unwrap().len(), 5000);
            assert!(read_exact_at(&mut *channel, &file, 9000, 0).unwrap().is_empty());
        }
        assert_eq!(file.map(5001).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(file.map(0).unwrap().is_empty());
        assert_eq!(*file.map(5000).unwrap(), [7; 5000]);
    });
}

#[test]
fn what_is_not_a_regular_file_is_refused_without_waiting() {
    on_each(|directory, path| {
        directory.subdirectory("inner").unwrap();
        let fifo = path.join("fifo");
        // Made by a system call: a child process would for a moment share the locks that tests
        // beside this one give up and take again.
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
        assert!(fifo.metadata().unwrap().file_type().is_fifo());
        for mode in [OpenMode::Read, OpenMode::ReadDirect, OpenMode::Write, OpenMode::WriteDirect] {
            let failure = directory.open("inner", mode).unwrap_err();
            assert_eq!(failure.kind(), io::ErrorKind::IsADirectory, "{failure}");
            let failure = directory.open("fifo", mode).unwrap_err();
            let kinds = [io::ErrorKind::Unsupported, io::ErrorKind::InvalidInput];
            assert!(kinds.contains(&failure.kind()), "{mode:?}: {failure}");
            let failure = directory.open("nothing", mode).unwrap_err();
            assert_eq!(failure.kind(), io::ErrorKind::NotFound);
            assert!(failure.to_string().contains("nothing"), "{failure}");
        }
        let failure = directory.open("fifo", OpenMode::Create).unwrap_err();
        assert_eq!(failure.kind(), io::ErrorKind::AlreadyExists);
        for name in ["", ".", "..", "inner/f", "../f", "nul\0"] {
            let failure = directory.open(name, OpenMode::Create).unwrap_err();
            assert_eq!(failure.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    });
    let storage = SystemStorage::new(BackendChoice::Auto).unwrap();
    let devices = storage.directory(Path::new("/dev"), false).unwrap();
    let failure = devices.open("null", OpenMode::Read).unwrap_err();
    assert_eq!(failure.kind(), io::ErrorKind::Unsupported, "{failure}");
}

#[test]
fn a_failed_operation_gives_its_buffer_back_and_says_where() {
    on_each(|directory, _| {
        directory.open("f", OpenMode::Create).unwrap();
        let file = directory.open("f", OpenMode::Read).unwrap();
        let mut channel = directory.channel().unwrap();
        let offset = 3 * BLOCK as u64;
        let write = |offset, durable| Op::Write {
            file: Arc::clone(&file),
            offset,
            buffer: block(1),
            durable,
        };
        let completion = channel.run(write(offset, true));
        let failure = completion.result.unwrap_err();
        assert_eq!(completion.buffer.unwrap()[..], block(1)[..]);
        assert!(failure.to_string().contains("offset 12288"), "{failure}");
        // As a signed number this offset is -1, which would mean the current position.
        let completion = channel.run(write(u64::MAX, false));
        assert_eq!(completion.result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(completion.buffer.is_some());
        assert_eq!(file.stamp().unwrap().length, 0);
    });
}

#[test]
fn a_dropped_channel_first_waits_for_what_it_has_in_flight() {
    on_each(|directory, path| {
        let file = directory.open("f", OpenMode::CreateDirect).unwrap();
        let mut channel = directory.channel().unwrap();
        // More than a ring holds, so that some have not even been given to the kernel.
        let blocks: u8 = 200;
        for number in 0..blocks {
            let offset = u64::from(number) * BLOCK as u64;
            let (file, buffer) = (Arc::clone(&file), block(number));
            channel.submit(Op::Write { file, offset, buffer, durable: number % 64 == 0 });
        }
        drop(channel);
        assert_eq!(Arc::strong_count(&file), 1);
        let bytes = std::fs::read(path.join("f")).unwrap();
        assert_eq!(bytes.len(), usize::from(blocks) * BLOCK);
        for (number, piece) in bytes.chunks(BLOCK).enumerate() {
            assert!(piece.iter().all(|byte| usize::from(*byte) == number));
        }
    });
}

#[test]
fn each_operation_in_flight_completes_once() {
    on_each(|directory, _| {
        let file = directory.open("f", OpenMode::CreateDirect).unwrap();
        let mut channel = directory.channel().unwrap();
        let mut tokens = Vec::new();
        for number in 0..150_u8 {
            let offset = u64::from(number) * BLOCK as u64;
            let (file, buffer) = (Arc::clone(&file), block(number));
            tokens.push(channel.submit(Op::Write { file, offset, buffer, durable: false }));
        }
        let mut completed = Vec::new();
        while let Some(completion) = channel.complete() {
            assert_eq!(completion.result.unwrap(), BLOCK);
            completed.push(completion.token);
        }
        completed.sort_unstable();
        assert_eq!(completed, tokens);
        assert!(channel.complete().is_none());
    });
}

#[test]
fn the_directory_lock_names_its_holder_also_within_a_process() {
    on_each(|directory, path| {
        let lock = directory.lock("LOCK", "a first holder with a long name").unwrap().unwrap();
        let other = directory.lock("LOCK", "second").unwrap().unwrap_err();
        assert_eq!(other, "a first holder with a long name");
        drop(lock);
        let lock = directory.lock("LOCK", "second").unwrap().unwrap();
        assert_eq!(directory.lock("LOCK", "third").unwrap().unwrap_err(), "second");
        assert!(lock.is_current().unwrap());
        // Somebody removes the file and another process locks the new one: neither may think
        // itself alone.
        std::fs::remove_file(path.join("LOCK")).unwrap();
        assert!(!lock.is_current().unwrap());
        let usurper = directory.lock("LOCK", "usurper").unwrap().unwrap();
        assert!(usurper.is_current().unwrap());
        assert!(!lock.is_current().unwrap());
    });
}

#[test]
fn byte_locks_belong_to_the_description() {
    on_each(|directory, _| {
        let first = directory.open("f", OpenMode::Create).unwrap();
        let second = directory.open("f", OpenMode::Write).unwrap();
        let reader = directory.open("f", OpenMode::Read).unwrap();
        assert!(first.try_lock(0, LockKind::Exclusive).unwrap());
        assert!(first.try_lock(0, LockKind::Exclusive).unwrap());
        assert!(!second.try_lock(0, LockKind::Exclusive).unwrap());
        assert!(!reader.try_lock(0, LockKind::Shared).unwrap());
        assert!(second.try_lock(1, LockKind::Exclusive).unwrap());
        // Another handle of the same description keeps the lock alive.
        let clone = Arc::clone(&first);
        drop(first);
        assert!(!second.try_lock(0, LockKind::Exclusive).unwrap());
        drop(clone);
        assert!(reader.try_lock(0, LockKind::Shared).unwrap());
        assert!(second.try_lock(0, LockKind::Shared).unwrap());
        assert!(!second.try_lock(0, LockKind::Exclusive).unwrap());
    });
}

#[test]
fn a_write_in_flight_keeps_the_lock_of_its_description() {
    on_each(|directory, _| {
        let file = directory.open("f", OpenMode::CreateDirect).unwrap();
        let other = directory.open("f", OpenMode::Write).unwrap();
        assert!(file.try_lock(0, LockKind::Exclusive).unwrap());
        let mut channel = directory.channel().unwrap();
        channel.submit(Op::Write { file, offset: 0, buffer: block(1), durable: true });
        if directory.backend().kind == BackendKind::Uring {
            assert!(!other.try_lock(0, LockKind::Exclusive).unwrap());
        }
        channel.complete().unwrap().result.unwrap();
        assert!(other.try_lock(0, LockKind::Exclusive).unwrap());
    });
}

#[test]
fn zeros_are_really_written() {
    on_each(|directory, path| {
        let file = directory.open("f", OpenMode::CreateDirect).unwrap();
        let mut channel = directory.channel().unwrap();
        let end = (5 << 20) + 3 * BLOCK as u64;
        write_all_at(&mut *channel, &file, 0, &[9; 2 * BLOCK], true).unwrap();
        fill_zeros(&mut *channel, &file, BLOCK as u64, end).unwrap();
        file.sync().unwrap();
        let bytes = std::fs::read(path.join("f")).unwrap();
        assert_eq!(bytes.len() as u64, end);
        assert!(bytes[..BLOCK].iter().all(|byte| *byte == 9));
        assert!(bytes[BLOCK..].iter().all(|byte| *byte == 0));
        assert!(path.join("f").metadata().unwrap().blocks() * 512 >= end);
    });
}

#[test]
fn a_replaced_file_has_the_new_bytes_and_nothing_beside_it() {
    on_each(|directory, _| {
        let long = vec![3; (2 << 20) + 17];
        for bytes in [&b"one"[..], &long, b"", b"three"] {
            replace_file(directory, "f", bytes).unwrap();
            assert!(read_to_vec(directory, "f", bytes.len() as u64).unwrap() == bytes);
            assert_eq!(directory.list().unwrap(), ["f"]);
        }
        // A leftover of a crash is in nobody's way.
        directory.open("f.tmp", OpenMode::Create).unwrap();
        replace_file(directory, "f", b"four").unwrap();
        assert_eq!(directory.list().unwrap(), ["f"]);
        let failure = read_to_vec(directory, "f", 3).unwrap_err();
        assert_eq!(failure.kind(), io::ErrorKind::FileTooLarge);
    });
}

#[test]
fn allocation_lengthens_and_never_shortens() {
    on_each(|directory, _| {
        let file = directory.open("f", OpenMode::Create).unwrap();
        let length = || file.stamp().unwrap().length;
        file.allocate(0).unwrap();
        assert_eq!(length(), 0);
        file.allocate(10_000).unwrap();
        assert_eq!(length(), 10_000);
        file.allocate(5_000).unwrap();
        assert_eq!(length(), 10_000);
        assert!(file.map(10_000).unwrap().iter().all(|byte| *byte == 0));
        file.set_length(3).unwrap();
        assert_eq!(length(), 3);
    });
}

#[test]
fn random_bytes_differ() {
    let storage = SystemStorage::new(BackendChoice::Pwrite).unwrap();
    assert_ne!(storage.random(), storage.random());
}

/// A channel that moves fewer bytes than it was asked for: reads from the `short_from`th operation
/// on stop in the middle of a block, and that one write leaves its last block out.
#[derive(Debug)]
struct Stingy {
    inner: Box<dyn Channel>,
    short_from: usize,
    submitted: usize,
}

impl Channel for Stingy {
    fn submit(&mut self, mut op: Op) -> u64 {
        let number = self.submitted;
        self.submitted += 1;
        match &mut op {
            Op::Read { buffer, .. } if number >= self.short_from => {
                let wanted = buffer.len();
                buffer.set_len(wanted.min(BLOCK + 100));
            }
            Op::Write { buffer, .. } if number == self.short_from => {
                let wanted = buffer.len();
                buffer.set_len(wanted - BLOCK);
            }
            Op::Read { .. } | Op::Write { .. } | Op::Sync { .. } => {}
        }
        self.inner.submit(op)
    }

    fn complete(&mut self) -> Option<Completion> {
        let mut completion = self.inner.complete()?;
        if let Some(buffer) = &mut completion.buffer {
            buffer.set_len(buffer.capacity());
        }
        Some(completion)
    }
}

#[test]
fn short_reads_are_continued_and_short_writes_never() {
    let place = tempfile::tempdir().unwrap();
    let storage = SystemStorage::new(BackendChoice::Pwrite).unwrap().force_buffered();
    let directory = storage.directory(place.path(), true).unwrap();
    let stingy = |short_from| {
        let inner = directory.channel().unwrap();
        Stingy { inner, short_from, submitted: 0 }
    };
    let bytes: Vec<u8> = (0..100 * BLOCK).map(|n| u8::try_from(n % 253).unwrap()).collect();
    let file = directory.open("f", OpenMode::Create).unwrap();
    write_all_at(&mut stingy(usize::MAX), &file, 0, &bytes, false).unwrap();
    let mut channel = stingy(0);
    let read = read_exact_at(&mut channel, &file, 0, 10 * BLOCK - 5).unwrap();
    assert!(*read == bytes[..10 * BLOCK - 5]);
    assert!(channel.submitted > 5, "{}", channel.submitted);
    let failure = read_exact_at(&mut channel, &file, 0, 100 * BLOCK + 1).unwrap_err();
    assert_eq!(failure.kind(), io::ErrorKind::UnexpectedEof);

    let long = vec![1; 20 << 20];
    let file = directory.open("g", OpenMode::Create).unwrap();
    let mut channel = stingy(2);
    let failure = write_all_at(&mut channel, &file, 0, &long, true).unwrap_err();
    assert_eq!(failure.kind(), io::ErrorKind::WriteZero, "{failure}");
    assert!(failure.to_string().contains("offset 2097152"), "{failure}");
    // Only what was in flight beside it was written, of twenty pieces, and nothing was synced.
    assert!(channel.submitted <= 7, "{}", channel.submitted);
    let mut channel = stingy(0);
    let failure = fill_zeros(&mut channel, &file, 0, BLOCK as u64).unwrap_err();
    assert_eq!((failure.kind(), channel.submitted), (io::ErrorKind::WriteZero, 1));
}
