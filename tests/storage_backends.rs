//! What the operating system's storage promises, on every backend this machine has.
#![allow(clippy::unwrap_used, reason = "tests say what they expect")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sawmill::storage::files::{read_exact_at, write_all_at};
use sawmill::storage::{BLOCK, Directory, OpenMode, Storage, SystemStorage};

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
                Err(failure) => assert!(name.starts_with("uring"), "{name}: {failure}"),
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
