//! Where nothing passes by the page cache, a sync that failed leaves pages that look clean and
//! never reached the medium. Recovery reads them, so it writes them again before it shows them
//! (LOG.md L14).

use std::path::Path;

use super::{PLACE, contents, disk, options};
use crate::clock::ManualClock;
use crate::error::Result;
use crate::sim::{CrashManner, CrashOutcome, Device, FaultKind, SimDisk};
use crate::storage::{
    AlignedBuf, Backend, Channel, Directory, File, IoFailure, Lock, Op, OpenMode, Storage,
};
use crate::sync::Arc;
use crate::wal::{Background, Wal};

const EIO: i32 = 5;

/// A disk without `O_DIRECT`.
#[derive(Debug)]
struct Buffered(SimDisk);

#[derive(Debug)]
struct BufferedDirectory(Arc<dyn Directory>);

impl Storage for Buffered {
    fn directory(&self, path: &Path, create: bool) -> Result<Arc<dyn Directory>, IoFailure> {
        Ok(Arc::new(BufferedDirectory(self.0.directory(path, create)?)))
    }

    fn random(&self) -> [u8; 16] {
        self.0.random()
    }
}

impl Directory for BufferedDirectory {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn backend(&self) -> Backend {
        Backend { direct: false, ..self.0.backend() }
    }

    fn subdirectory(&self, name: &str) -> Result<Arc<dyn Directory>, IoFailure> {
        self.0.subdirectory(name)
    }

    fn list(&self) -> Result<Vec<String>, IoFailure> {
        self.0.list()
    }

    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn File>, IoFailure> {
        let mode = match mode {
            OpenMode::Read | OpenMode::ReadDirect => OpenMode::Read,
            OpenMode::Create | OpenMode::CreateDirect => OpenMode::Create,
            OpenMode::Write | OpenMode::WriteDirect => OpenMode::Write,
        };
        self.0.open(name, mode)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.0.rename(from, to)
    }

    fn unlink(&self, name: &str) -> Result<(), IoFailure> {
        self.0.unlink(name)
    }

    fn sync(&self) -> Result<(), IoFailure> {
        self.0.sync()
    }

    fn lock(&self, name: &str, holder: &str) -> Result<Result<Box<dyn Lock>, String>, IoFailure> {
        self.0.lock(name, holder)
    }

    fn channel(&self) -> Result<Box<dyn Channel>, IoFailure> {
        self.0.channel()
    }

    fn free_bytes(&self) -> Result<u64, IoFailure> {
        self.0.free_bytes()
    }
}

fn open(disk: &SimDisk) -> Result<Wal> {
    let clock = Arc::new(ManualClock::default());
    Wal::open_with(Arc::new(Buffered(disk.clone())), clock, PLACE, options(Background::Inline))
}

fn count(disk: &SimDisk) -> Result<usize> {
    Ok(contents(&open(disk)?)?.len())
}

/// One acknowledged record, and one whose sync failed: only the page cache has it.
fn after_a_failed_sync() -> SimDisk {
    let disk = disk(80, Device::Fua);
    let wal = open(&disk).unwrap();
    wal.append(b"good").unwrap();
    wal.submit(&[2; 20_000]).unwrap();
    wal.submit(&[3; 20_000]).unwrap();
    // Write of the first frame: submit and completion. Then the sync.
    disk.fail_op(disk.ops() + 3, EIO, FaultKind::NotExecuted);
    wal.sync().unwrap_err();
    disk.kill()
}

#[test]
fn what_only_the_page_cache_has_is_written_again_before_it_is_shown() {
    let disk = after_a_failed_sync();
    assert_eq!(count(&disk).unwrap(), 2);
    assert_eq!(count(&disk.power_cycle(CrashOutcome::LoseAll)).unwrap(), 2);
}

#[test]
fn planted_recover_from_cache_loses_what_was_shown() {
    use crate::planted::{Bug, with_planted};
    let disk = after_a_failed_sync();
    assert_eq!(with_planted(Bug::RecoverFromCache, || count(&disk)).unwrap(), 2);
    let found = count(&disk.power_cycle(CrashOutcome::LoseAll));
    assert!(found.is_err() || found.is_ok_and(|count| count < 2));
}

#[test]
fn a_crash_while_it_is_written_again_harms_nothing() {
    let whole = after_a_failed_sync();
    let before = whole.ops();
    drop(open(&whole).unwrap());
    assert!(whole.ops() > before + 8);
    for op in before + 1..=whole.ops() {
        for (manner, seed) in [(CrashManner::Before, 1), (CrashManner::Torn, 2)] {
            let disk = after_a_failed_sync();
            disk.crash_at(op, manner);
            drop(open(&disk));
            for outcome in
                [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(seed)]
            {
                let found = count(&disk.power_cycle(outcome));
                assert!((1..=2).contains(&found.unwrap()), "{op} {manner:?} {outcome:?}");
            }
        }
    }
}

/// The next slot of `LOG` goes where the medium has its newest one. A crash that tears it leaves
/// the one before, which is as good: it only lags.
#[test]
fn a_slot_that_only_the_page_cache_has_is_not_needed() {
    let acknowledged = || {
        let disk = SimDisk::new(81);
        let wal = open(&disk).unwrap();
        wal.append(b"good").unwrap();
        (disk, wal)
    };
    let (twin, closing) = acknowledged();
    closing.close().unwrap();
    let next = twin.read_file(Path::new(PLACE).join("LOG")).unwrap();
    // The same slot, as a durable write through the cache leaves it when its sync fails.
    let prepared = || {
        let (disk, wal) = acknowledged();
        let directory = disk.directory(Path::new(PLACE), false).unwrap();
        let file = directory.open("LOG", OpenMode::Write).unwrap();
        let mut buffer = AlignedBuf::zeroed(next.len());
        buffer.copy_from_slice(&next);
        let op = Op::Write { file: Arc::clone(&file), offset: 0, buffer, durable: false };
        directory.channel().unwrap().run(op).result.unwrap();
        disk.fail_op(disk.ops() + 1, EIO, FaultKind::NotExecuted);
        file.sync().unwrap_err();
        let found = disk.kill();
        drop(wal);
        found
    };
    let whole = prepared();
    let before = whole.ops();
    drop(open(&whole).unwrap());
    for op in before + 1..=whole.ops() {
        for seed in 0..8 {
            let disk = prepared();
            disk.crash_at(op, CrashManner::Torn);
            drop(open(&disk));
            let found = disk.power_cycle(CrashOutcome::Seeded(seed));
            assert_eq!(count(&found).unwrap(), 1, "{op} {seed}");
        }
    }
}
