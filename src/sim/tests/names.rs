use std::path::{Path, PathBuf};

use crate::sim::{CrashOutcome, FaultKind, SimDisk};
use crate::storage::{LockKind, OpenMode, Storage};

fn files(disk: &SimDisk) -> Vec<String> {
    disk.files().iter().map(|path| path.to_str().unwrap().to_owned()).collect()
}

/// Every list of names that some crash of this disk leaves.
fn outcomes(disk: &SimDisk) -> Vec<Vec<String>> {
    disk.power_off();
    let items = disk.pending_items();
    assert!(items <= 10, "few enough to try all");
    let subsets = (0..1u64 << items).map(CrashOutcome::Subset);
    let mut found: Vec<_> = subsets.map(|outcome| files(&disk.power_cycle(outcome))).collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn created_name_needs_a_directory_sync() {
    let disk = SimDisk::new(1);
    let directory = disk.directory(Path::new("/d"), true).unwrap();
    directory.open("one", OpenMode::Create).unwrap().sync().unwrap();
    directory.sync().unwrap();
    let two = directory.open("two", OpenMode::Create).unwrap();
    two.sync().unwrap();
    assert_eq!(directory.list().unwrap(), ["one", "two"]);
    assert_eq!(files(&disk.power_cycle(CrashOutcome::LoseAll)), ["/d/one"]);
    assert_eq!(files(&disk.power_cycle(CrashOutcome::KeepAll)), ["/d/one", "/d/two"]);
}

#[test]
fn rename_survives_whole_or_not_at_all() {
    let disk = SimDisk::new(1);
    disk.write_file("/d/new", b"new");
    disk.write_file("/d/old", b"old");
    let directory = disk.directory(Path::new("/d"), false).unwrap();
    directory.rename("new", "old").unwrap();
    assert_eq!(disk.read_file("/d/old").unwrap(), b"new");
    assert_eq!(outcomes(&disk), [vec!["/d/new", "/d/old"], vec!["/d/old"]]);
    let lost = disk.power_cycle(CrashOutcome::LoseAll);
    assert_eq!(lost.read_file("/d/old").unwrap(), b"old");
    let kept = disk.power_cycle(CrashOutcome::KeepAll);
    assert_eq!(kept.read_file("/d/old").unwrap(), b"new");
}

#[test]
fn unlinked_name_may_return_until_the_directory_is_synced() {
    let disk = SimDisk::new(1);
    disk.write_file("/d/f", b"bytes");
    let directory = disk.directory(Path::new("/d"), false).unwrap();
    directory.unlink("f").unwrap();
    assert!(disk.read_file("/d/f").is_none());
    let returned = disk.kill().power_cycle(CrashOutcome::LoseAll);
    assert_eq!(returned.read_file("/d/f").unwrap(), b"bytes");
    let directory = returned.directory(Path::new("/d"), false).unwrap();
    directory.unlink("f").unwrap();
    directory.sync().unwrap();
    assert_eq!(outcomes(&returned), [Vec::<String>::new()]);
}

#[test]
fn directories_are_durable_at_once() {
    let disk = SimDisk::new(1);
    let outer = disk.directory(Path::new("/a/b"), true).unwrap();
    outer.subdirectory("c").unwrap();
    let found = disk.power_cycle(CrashOutcome::LoseAll);
    for path in ["/a", "/a/b", "/a/b/c"] {
        found.directory(Path::new(path), false).unwrap();
    }
    assert!(found.directory(Path::new("/a/x"), false).is_err());
    let inner = found.directory(Path::new("/a/b"), false).unwrap();
    assert_eq!(inner.list().unwrap(), Vec::<String>::new(), "directories are left out");
}

#[test]
fn failed_directory_sync_forgets_the_names() {
    let disk = SimDisk::new(1);
    let directory = disk.directory(Path::new("/d"), true).unwrap();
    directory.open("f", OpenMode::Create).unwrap();
    disk.fail_op(disk.ops() + 1, 5, FaultKind::NotExecuted);
    assert_eq!(directory.sync().unwrap_err().errno(), Some(5));
    directory.sync().unwrap();
    assert_eq!(disk.power_cycle(CrashOutcome::LoseAll).files(), Vec::<PathBuf>::new());
}

#[test]
fn locks_exclude_and_die_with_their_holder() {
    let disk = SimDisk::new(1);
    let directory = disk.directory(Path::new("/d"), true).unwrap();
    let lock = directory.lock("LOCK", "first").unwrap().unwrap();
    assert_eq!(directory.lock("LOCK", "second").unwrap().unwrap_err(), "first");
    assert!(lock.is_current().unwrap());
    directory.unlink("LOCK").unwrap();
    assert!(!lock.is_current().unwrap());
    drop(lock);
    let held = directory.lock("LOCK", "third").unwrap().unwrap();
    let next = disk.kill();
    let directory = next.directory(Path::new("/d"), false).unwrap();
    let lock = directory.lock("LOCK", "fourth").unwrap().unwrap();
    drop(held);
    assert!(lock.is_current().unwrap(), "the dead holder's handle touches nothing");
}

#[test]
fn byte_locks_belong_to_the_open_file() {
    let disk = SimDisk::new(1);
    disk.write_file("/d/f", b"");
    let directory = disk.directory(Path::new("/d"), false).unwrap();
    let one = directory.open("f", OpenMode::Write).unwrap();
    let two = directory.open("f", OpenMode::Write).unwrap();
    assert!(one.try_lock(0, LockKind::Shared).unwrap());
    assert!(two.try_lock(0, LockKind::Shared).unwrap());
    assert!(!one.try_lock(0, LockKind::Exclusive).unwrap());
    assert!(one.try_lock(1, LockKind::Exclusive).unwrap());
    assert!(!two.try_lock(1, LockKind::Shared).unwrap());
    drop(one);
    assert!(two.try_lock(0, LockKind::Exclusive).unwrap());
    assert!(two.try_lock(1, LockKind::Exclusive).unwrap());
}
