//! What the tests of checkpoints share: a known history of checkpoints on a simulated disk.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod model;

use std::path::Path;
use std::sync::Arc;

use sawmill::checkpoint::{CheckpointMeta, CheckpointStore, Extent, Loaded};
use sawmill::sim::{CrashOutcome, Device, SimDisk, SimOptions};
use sawmill::storage::{Directory, Storage};
use sawmill::{BatchId, Generation, LogId, Lsn, Result};

pub(crate) const HOME: &str = "/job/checkpoints";
pub(crate) const LOG: LogId = LogId::from_bytes(*b"0123456789abcdef");

pub(crate) fn disk(count_reads: bool) -> SimDisk {
    with_home(SimOptions { count_reads, ..SimOptions::default() })
}

fn with_home(options: SimOptions) -> SimDisk {
    let disk = SimDisk::with_options(11, options);
    home(&disk);
    disk
}

pub(crate) fn home(disk: &SimDisk) -> Arc<dyn Directory> {
    disk.directory(Path::new(HOME), true).unwrap()
}

pub(crate) fn open(disk: &SimDisk) -> Result<CheckpointStore> {
    CheckpointStore::open(disk.directory(Path::new(HOME), true)?, 2)
}

/// The meta of the checkpoint of this batch. Only the store gives numbers.
pub(crate) fn meta(batch: u64) -> CheckpointMeta {
    CheckpointMeta {
        checkpoint: 0,
        parent: 0,
        job: "counts".to_owned(),
        log_id: LOG,
        generation: Generation::new(1),
        batch: BatchId::new(batch),
        floor: Lsn::new(batch * 100 + 1),
        engine: format!("positions of batch {batch}").into_bytes(),
    }
}

/// What the checkpoint of this batch holds: sizes differ from batch to batch, the second extent
/// is empty, with `big` the first has several blocks and two pieces.
pub(crate) fn extents(batch: u64, partitions: u32, big: bool) -> Vec<Extent> {
    let extent = |partition: u32| {
        let base = if big && partition == 0 { 1_100_000 } else { 40 };
        let size = if partition == 1 { 0 } else { base + batch * 3 };
        let bytes = (0..size).map(|i| (i * 31 + batch * 7).to_le_bytes()[0]).collect();
        Extent { operator: "count words".to_owned(), schema: 9, partition, bytes }
    };
    (0..partitions).map(extent).collect()
}

pub(crate) fn write(store: &mut CheckpointStore, batch: u64) -> Result<u64> {
    store.write(meta(batch), &extents(batch, 3, false)).map(|written| written.checkpoint)
}

/// The batch of the newest checkpoint, all of whose content was compared. 0: none.
pub(crate) fn batch_of(loaded: Option<&Loaded>, partitions: u32, big: bool) -> u64 {
    let Some(loaded) = loaded else { return 0 };
    let batch = loaded.meta.batch.get();
    let expected = CheckpointMeta { checkpoint: loaded.meta.checkpoint, ..meta(batch) };
    assert_eq!(loaded.meta, expected, "the meta is of one checkpoint");
    let wanted = extents(batch, partitions, big);
    assert_eq!(loaded.parts.len(), wanted.len());
    for (part, extent) in loaded.parts.iter().zip(&wanted) {
        assert_eq!((part.partition, &part.operator), (extent.partition, &extent.operator));
        assert!(loaded.read(part).unwrap() == extent.bytes, "the bytes of {part:?}");
    }
    batch
}

/// Opens what a crash left and gives the batch of its newest checkpoint. A crash alone never
/// leads to a fallback.
pub(crate) fn recovered(disk: &SimDisk) -> Result<u64> {
    let store = open(disk)?;
    let newest = store.newest()?;
    let fell_back = newest.as_ref().map_or(0, |loaded| loaded.fell_back.len());
    assert_eq!(fell_back, 0, "a crash damages no named checkpoint\n{}", disk.trace());
    Ok(batch_of(newest.as_ref(), 3, false))
}

pub(crate) fn outcomes() -> Vec<CrashOutcome> {
    let seeded = (0..8).map(CrashOutcome::Seeded);
    [CrashOutcome::LoseAll, CrashOutcome::KeepAll].into_iter().chain(seeded).collect()
}

/// A disk on which `count` checkpoints were written, and its store.
pub(crate) fn after(count: u64, count_reads: bool) -> (SimDisk, CheckpointStore) {
    written(disk(count_reads), count)
}

/// The same, on another device.
pub(crate) fn after_on(device: Device, count: u64) -> (SimDisk, CheckpointStore) {
    written(with_home(SimOptions { device, ..SimOptions::default() }), count)
}

fn written(disk: SimDisk, count: u64) -> (SimDisk, CheckpointStore) {
    let mut store = open(&disk).unwrap();
    for batch in 1..=count {
        write(&mut store, batch).unwrap();
    }
    (disk, store)
}

/// How many operations the write of checkpoint `number` takes, and how many came before.
pub(crate) fn operations(number: u64, count_reads: bool) -> (u64, u64) {
    let (disk, mut store) = after(number - 1, count_reads);
    let before = disk.ops();
    write(&mut store, number).unwrap();
    (before, disk.ops())
}
