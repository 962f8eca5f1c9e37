//! P5 for checkpoints: whatever happens to the files, the answer is the right bytes, an older
//! whole checkpoint that is reported, or a typed error. Never other bytes, never a panic.

mod chains;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::*;
use sawmill::checkpoint::CheckpointStore;
use sawmill::sim::SimDisk;
use sawmill::storage::{
    Backend, Channel, Completion, Directory, File, IoFailure, Lock, Op, OpenMode, Storage,
    SystemStorage,
};
use sawmill::{Error, ErrorKind, LogId};

const PATTERNS: [u8; 3] = [0x01, 0x80, 0xff];

fn path(name: &str) -> PathBuf {
    Path::new(HOME).join(name)
}

fn data_path(number: u64) -> PathBuf {
    path(&format!("{number:020}.ckpt"))
}

/// The batch that is found, and the number of fallbacks.
fn found(disk: &SimDisk) -> Result<(u64, usize), Error> {
    let store = open(disk)?;
    let newest = store.newest()?;
    let fell_back = newest.as_ref().map_or(0, |loaded| loaded.fell_back.len());
    Ok((batch_of(newest.as_ref(), 3, false), fell_back))
}

#[test]
fn every_flipped_byte_of_the_data_is_noticed() {
    let (disk, store) = after(2, false);
    drop(store);
    let length = disk.read_file(data_path(2)).unwrap().len() as u64;
    assert_eq!(length, 4096, "small enough to flip every byte");
    for offset in 0..length {
        for mask in PATTERNS {
            disk.flip_byte(data_path(2), offset, mask).unwrap();
            assert_eq!(found(&disk).unwrap(), (1, 1), "offset {offset}, mask {mask:#x}");
            disk.flip_byte(data_path(2), offset, mask).unwrap();
        }
    }
    assert_eq!(found(&disk).unwrap(), (2, 0));
}

#[test]
fn every_flipped_byte_of_the_manifest_is_a_typed_error() {
    let (disk, store) = after(2, false);
    drop(store);
    let length = disk.read_file(path("MANIFEST")).unwrap().len() as u64;
    for offset in 0..length {
        for mask in PATTERNS {
            disk.flip_byte(path("MANIFEST"), offset, mask).unwrap();
            let error = found(&disk).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "offset {offset}: {error}");
            assert_eq!(error.path(), Some(path("MANIFEST").as_path()));
            disk.flip_byte(path("MANIFEST"), offset, mask).unwrap();
        }
    }
    assert_eq!(found(&disk).unwrap(), (2, 0));
}

#[test]
fn every_cut_of_either_file_is_noticed() {
    let (disk, store) = after(2, false);
    drop(store);
    for (file, is_manifest) in [(data_path(2), false), (path("MANIFEST"), true)] {
        let whole = disk.read_file(&file).unwrap();
        for length in 0..whole.len() {
            disk.write_file(&file, &whole[..length]);
            match found(&disk) {
                Ok(answer) => assert!(!is_manifest && answer == (1, 1), "{length}: {answer:?}"),
                Err(error) => assert!(is_manifest && error.kind() == ErrorKind::Corrupt),
            }
        }
        disk.write_file(&file, &[&whole[..], &[0; 4096]].concat());
        assert_eq!(found(&disk).map_err(|e| e.kind()) == Err(ErrorKind::Corrupt), is_manifest);
        disk.write_file(&file, &whole);
    }
    assert_eq!(found(&disk).unwrap(), (2, 0));
}

#[test]
fn a_file_in_the_place_of_another_is_noticed() {
    let (disk, store) = after(2, false);
    drop(store);
    disk.write_file(data_path(2), &disk.read_file(data_path(1)).unwrap());
    assert_eq!(found(&disk).unwrap(), (1, 1));
}

#[test]
fn unreadable_sectors_lead_to_the_predecessor() {
    let (disk, store) = after(2, false);
    drop(store);
    disk.fail_reads_at(data_path(2), 512).unwrap();
    assert_eq!(found(&disk).unwrap(), (1, 1));
    disk.fail_reads_at(data_path(1), 0).unwrap();
    assert_eq!(found(&disk).unwrap_err().kind(), ErrorKind::Unreadable);
    disk.fail_reads_at(path("MANIFEST"), 0).unwrap();
    assert_eq!(found(&disk).unwrap_err().kind(), ErrorKind::Unreadable);
}

#[test]
fn nothing_whole_is_an_error_and_nothing_is_written_over_it() {
    let (disk, store) = after(2, false);
    drop(store);
    for number in 1..=2 {
        disk.flip_byte(data_path(number), 100, 1).unwrap();
    }
    let before = disk.files();
    let mut store = open(&disk).unwrap();
    let error = store.newest().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("move this directory away"), "{error}");
    assert_eq!(write(&mut store, 3).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(disk.files(), before);
}

/// The predecessor that was fallen back to must not be dropped for the sake of the damaged one.
#[test]
fn after_a_fallback_the_next_write_keeps_the_whole_predecessor() {
    let (disk, store) = after(2, false);
    drop(store);
    disk.flip_byte(data_path(2), 100, 1).unwrap();
    let mut store = open(&disk).unwrap();
    let loaded = store.newest().unwrap().unwrap();
    assert!(loaded.fell_back[0].contains("checkpoint 2"), "{:?}", loaded.fell_back);
    assert_eq!(write(&mut store, 5).unwrap(), 3);
    let kept: Vec<u64> = store.kept().map(|meta| meta.batch.get()).collect();
    assert_eq!(kept, [1, 5]);
    assert_eq!(disk.files().len(), 4, "the damaged file is gone");
}

#[test]
fn a_lost_or_old_manifest_never_means_empty() {
    let (disk, mut store) = after(2, false);
    let old = disk.read_file(path("MANIFEST")).unwrap();
    for batch in 3..=5 {
        write(&mut store, batch).unwrap();
    }
    drop(store);
    disk.write_file(path("MANIFEST"), &old);
    let files = disk.files();
    assert_eq!(open(&disk).unwrap_err().kind(), ErrorKind::Corrupt);
    home(&disk).unlink("MANIFEST").unwrap();
    let error = open(&disk).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("the manifest was removed"), "{error}");
    assert_eq!(disk.files().len(), files.len() - 1, "nothing else was removed");
}

#[test]
fn a_newer_version_is_refused_untouched() {
    let (disk, store) = after(1, false);
    drop(store);
    let mut bytes = disk.read_file(path("MANIFEST")).unwrap();
    bytes[8] = 2;
    let crc = crc_fast::crc32_iscsi(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&crc);
    disk.write_file(path("MANIFEST"), &bytes);
    assert_eq!(open(&disk).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn an_empty_directory_and_leftovers_are_no_checkpoint() {
    let disk = disk(false);
    assert!(open(&disk).unwrap().newest().unwrap().is_none());
    disk.write_file(data_path(7), b"torn");
    disk.write_file(path("MANIFEST.tmp"), b"torn");
    disk.write_file(path("notes.txt"), b"somebody's");
    let mut store = open(&disk).unwrap();
    assert!(store.newest().unwrap().is_none());
    assert_eq!(disk.files(), [path("notes.txt")]);
    assert_eq!(write(&mut store, 1).unwrap(), 8, "a number that was seen is not used again");
}

#[test]
fn what_cannot_be_written_is_refused_before_anything_is() {
    let (disk, mut store) = after(1, false);
    let operations = disk.ops();
    let foreign =
        sawmill::checkpoint::CheckpointMeta { log_id: LogId::from_bytes([9; 16]), ..meta(2) };
    assert_eq!(store.write(foreign, &[]).unwrap_err().kind(), ErrorKind::Invalid);
    let twice = [extents(1, 1, false), extents(2, 1, false)].concat();
    assert_eq!(store.write(meta(2), &twice).unwrap_err().kind(), ErrorKind::Invalid);
    let mut large = meta(2);
    large.job = "j".repeat(64 << 20);
    assert_eq!(store.write(large, &[]).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(disk.ops(), operations);
    assert_eq!(write(&mut store, 2).unwrap(), 2);
    let kept_none = CheckpointStore::open(home(&disk), 0).unwrap_err();
    assert_eq!(kept_none.kind(), ErrorKind::Invalid);
}

/// A directory whose medium flips a byte of a file just before it is read.
#[derive(Debug)]
struct Rotting {
    disk: SimDisk,
    inner: Arc<dyn Directory>,
    armed: Arc<AtomicBool>,
}

#[derive(Debug)]
struct RottingChannel(SimDisk, Box<dyn Channel>, Arc<AtomicBool>);

impl Channel for RottingChannel {
    fn submit(&mut self, op: Op) -> u64 {
        if let Op::Read { file, .. } = &op
            && self.2.swap(false, Ordering::SeqCst)
        {
            self.0.flip_byte(file.path(), 70, 1).unwrap();
        }
        self.1.submit(op)
    }
    fn complete(&mut self) -> Option<Completion> {
        self.1.complete()
    }
}

impl Directory for Rotting {
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
        self.inner.open(name, mode)
    }
    fn rename(&self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.inner.rename(from, to)
    }
    fn unlink(&self, name: &str) -> Result<(), IoFailure> {
        self.inner.unlink(name)
    }
    fn sync(&self) -> Result<(), IoFailure> {
        self.inner.sync()
    }
    fn lock(&self, name: &str, holder: &str) -> Result<Result<Box<dyn Lock>, String>, IoFailure> {
        self.inner.lock(name, holder)
    }
    fn channel(&self) -> Result<Box<dyn Channel>, IoFailure> {
        let channel = self.inner.channel()?;
        Ok(Box::new(RottingChannel(self.disk.clone(), channel, Arc::clone(&self.armed))))
    }
    fn free_bytes(&self) -> Result<u64, IoFailure> {
        self.inner.free_bytes()
    }
}

/// Every operation succeeds, and yet the medium has other bytes: only reading back notices.
#[test]
fn a_rotten_read_back_discards_the_new_checkpoint() {
    let (disk, store) = after(2, false);
    drop(store);
    let inner = home(&disk);
    let armed = Arc::new(AtomicBool::new(false));
    let rotting = Rotting { disk: disk.clone(), inner, armed: Arc::clone(&armed) };
    let mut store = CheckpointStore::open(Arc::new(rotting), 2).unwrap();
    armed.store(true, Ordering::SeqCst);
    let error = write(&mut store, 3).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Corrupt, Some(data_path(3).as_path())));
    assert_eq!(disk.files().len(), 4, "the new file is gone");
    assert_eq!(batch_of(store.newest().unwrap().as_ref(), 3, false), 2);
    assert_eq!(write(&mut store, 4).unwrap(), 4);
}

#[test]
fn extents_are_read_by_many_threads_on_the_real_disk() {
    let folder = tempfile::tempdir().unwrap();
    let name = std::env::var("SAWMILL_BACKEND").unwrap_or_else(|_| "auto".to_owned());
    let storage = SystemStorage::from_name(&name).unwrap();
    let home = || storage.directory(&folder.path().join("checkpoints"), true).unwrap();
    let mut store = CheckpointStore::open(home(), 1).unwrap();
    store.write(meta(1), &extents(1, 9, true)).unwrap();
    store.write(meta(2), &extents(2, 9, true)).unwrap();
    assert_eq!(store.kept().count(), 1);
    assert_eq!(home().list().unwrap().len(), 3, "manifest, data, spare");
    let store = CheckpointStore::open(home(), 1).unwrap();
    let loaded = store.newest().unwrap().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(batch_of(Some(&loaded), 9, true), 2));
        }
    });
    assert_eq!(loaded.files[0].read_extent(9).unwrap_err().kind(), ErrorKind::Invalid);
}
