//! A history of bases, deltas and folds, from a model of keyed state that knows no sawmill: the
//! bytes of each extent are made from `docs/checkpoint-format.md` alone.

use sawmill::Result;
use sawmill::checkpoint::{CheckpointMeta, CheckpointStore, Extent, Loaded, Written};
use sawmill::sim::SimDisk;

use super::{disk, meta, open};

pub(crate) const PARTITIONS: u32 = 4;

/// What is done to a store. Numbers are those of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Base(u64),
    Delta(u64),
    Fold,
}

/// Two independent bases, deltas on the second one, a fold, deltas on that.
pub(crate) const HISTORY: [Act; 8] = [
    Act::Base(1),
    Act::Base(2),
    Act::Delta(3),
    Act::Delta(4),
    Act::Delta(5),
    Act::Fold,
    Act::Delta(6),
    Act::Delta(7),
];

/// A key, its value, and the batch at which it came (anew).
type Row = (Vec<u8>, Vec<u8>, u64);

/// The rows of a partition at a batch, in first-seen order. Partition 1 never has any, partition 2
/// changes at even batches only.
fn rows(batch: u64, partition: u32) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for now in 1..=batch {
        if partition == 1 || (partition == 2 && now % 2 == 1) {
            continue;
        }
        for number in 0..if now <= 2 { 12 } else { 2 } {
            let key = format!("{partition} key {now} {number}").repeat(1 + number % 3);
            // Lengths on both sides of a byte.
            rows.push((key.into_bytes(), vec![7; if number == 0 { 130 } else { 9 }], now));
        }
        let len = rows.len();
        let place = |factor: u64| usize::try_from(now * factor).unwrap() % len;
        rows[place(7)].1 = format!("changed at {now}").into_bytes();
        let (key, value, _) = rows.remove(place(5));
        if now % 3 != 0 {
            rows.push((key, value, now)); // it went and came back: seen first then
        }
        rows.remove(place(3) % (len - 1));
    }
    rows
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut length = bytes.len();
    while length >= 128 {
        out.push(length.to_le_bytes()[0] | 128);
        length >>= 7;
    }
    out.push(length.to_le_bytes()[0]);
    out.extend_from_slice(bytes);
}

fn count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&(count as u64).to_le_bytes());
}

/// A partition's bytes in a base.
pub(crate) fn whole(batch: u64, partition: u32) -> Vec<u8> {
    let (rows, mut out) = (rows(batch, partition), Vec::new());
    count(&mut out, rows.len());
    for (key, value, _) in rows {
        put(&mut out, &key);
        put(&mut out, &value);
    }
    out
}

/// A partition's bytes in a delta; none if nothing has changed.
fn changes(from: u64, to: u64, partition: u32) -> Option<Vec<u8>> {
    let (old, new) = (rows(from, partition), rows(to, partition));
    let there = |row: &Row, rows: &[Row]| rows.iter().any(|(k, _, b)| *k == row.0 && *b == row.2);
    let removed: Vec<_> = old.iter().filter(|row| !there(row, &new)).collect();
    let changed: Vec<_> = new.iter().filter(|row| !old.contains(row)).collect();
    if removed.is_empty() && changed.is_empty() {
        return None;
    }
    let mut out = Vec::new();
    count(&mut out, removed.len());
    count(&mut out, changed.len());
    removed.iter().for_each(|row| put(&mut out, &row.0));
    for (key, value, _) in changed {
        put(&mut out, key);
        put(&mut out, value);
    }
    Some(out)
}

fn extent(partition: u32, bytes: Vec<u8>) -> Extent {
    Extent { operator: "count words".to_owned(), schema: 9, partition, bytes }
}

/// Number and batch of the newest checkpoint of a store.
pub(crate) fn newest(store: &CheckpointStore) -> (u64, u64) {
    store.kept().last().map_or((0, 0), |meta| (meta.checkpoint, meta.batch.get()))
}

impl Act {
    /// The batch of the newest checkpoint when this is done to one whose newest is of `before`.
    pub(crate) fn batch(self, before: u64) -> u64 {
        match self {
            Act::Base(batch) | Act::Delta(batch) => batch,
            Act::Fold => before,
        }
    }

    /// Does it.
    pub(crate) fn on(self, store: &mut CheckpointStore) -> Result<Written> {
        match self {
            Act::Base(batch) => {
                let extents: Vec<_> = (0..PARTITIONS).map(|p| extent(p, whole(batch, p))).collect();
                store.write(meta(batch), &extents)
            }
            Act::Delta(batch) => {
                let on = newest(store);
                delta_on(store, on, batch)
            }
            Act::Fold => store.fold(),
        }
    }
}

/// Writes a delta on the checkpoint of this number and batch.
pub(crate) fn delta_on(
    store: &mut CheckpointStore,
    (parent, from): (u64, u64),
    batch: u64,
) -> Result<Written> {
    let extent = |p| Some(extent(p, changes(from, batch, p)?));
    let extents: Vec<_> = (0..PARTITIONS).filter_map(extent).collect();
    store.write(CheckpointMeta { parent, ..meta(batch) }, &extents)
}

/// A disk and its store after so many acts of the history.
pub(crate) fn lived(acts: usize, count_reads: bool) -> (SimDisk, CheckpointStore) {
    let disk = disk(count_reads);
    let mut store = open(&disk).unwrap();
    for act in &HISTORY[..acts] {
        act.on(&mut store).unwrap();
    }
    (disk, store)
}

/// The batch of the newest checkpoint after so many acts.
pub(crate) fn batch_after(acts: usize) -> u64 {
    HISTORY[..acts].iter().fold(0, |before, act| act.batch(before))
}

/// The batch of a checkpoint, all of whose state was compared with the model. 0: none.
pub(crate) fn compared(loaded: Option<&Loaded>) -> u64 {
    let Some(loaded) = loaded else { return 0 };
    let batch = loaded.meta.batch.get();
    let own = (loaded.meta.checkpoint, loaded.meta.parent);
    let expected = CheckpointMeta { checkpoint: own.0, parent: own.1, ..meta(batch) };
    assert_eq!(loaded.meta, expected, "the meta is of one checkpoint");
    assert_eq!(loaded.parts.len(), PARTITIONS as usize);
    for (partition, part) in (0..).zip(&loaded.parts) {
        assert_eq!((part.partition, part.schema), (partition, 9));
        let bytes = loaded.read(part).unwrap();
        assert!(bytes == whole(batch, partition), "batch {batch}, partition {partition}");
    }
    batch
}

/// The batch that a start goes on from, and how many newer checkpoints were not whole.
pub(crate) fn start(disk: &SimDisk) -> Result<(u64, usize)> {
    let store = open(disk)?;
    let loaded = store.newest()?;
    let fell_back = loaded.as_ref().map_or(0, |loaded| loaded.fell_back.len());
    Ok((compared(loaded.as_ref()), fell_back))
}
