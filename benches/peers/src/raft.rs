//! raft-engine: each thread is a raft group of its own and appends entries to it.
//!
//! Durable: `write(batch, true)`. Its `sync` does nothing while there is nothing in the batch it
//! makes for itself, so bulk work ends with one more entry, written with the flag. Compression is
//! off, as in the other contenders.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use crate::bench::Outcome;
use crate::bench::contender::{Contender, Written};
use crate::bench::workload::Kind;
use crate::bench::writer::{Reader, Tally, Writer};

/// Enough for all threads; the last group takes what ends bulk work.
const GROUPS: usize = 257;
const INDEX: usize = 8;

/// An entry is its index, then the payload.
#[derive(Clone)]
struct Indexed;

impl MessageExt for Indexed {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().copied().map_or(0, u64::from_le_bytes)
    }
}

pub(crate) struct Raft {
    engine: Engine,
    /// The next index of each group, and where the round began.
    groups: Vec<Mutex<(u64, u64)>>,
}

fn lsn(group: usize, index: u64) -> u64 {
    (group as u64) << 48 | index
}

impl Raft {
    pub(crate) fn open(path: &Path) -> Outcome<Raft> {
        let dir = path.to_str().ok_or("a path that is not UTF-8")?.to_owned();
        let batch_compression_threshold = ReadableSize(0);
        // Small enough that files are recycled between rounds, as they are in service.
        let purge_threshold = ReadableSize::mb(256);
        let config =
            Config { dir, batch_compression_threshold, purge_threshold, ..Config::default() };
        let groups = (0..GROUPS).map(|_| Mutex::new((1, 1))).collect();
        Ok(Raft { engine: Engine::open(config)?, groups })
    }

    /// Appends payloads to a group as one batch; returns the first index.
    fn write<'a>(
        &self,
        group: usize,
        payloads: impl Iterator<Item = &'a [u8]>,
        durable: bool,
    ) -> Outcome<u64> {
        let mut state = self.groups[group].lock().map_err(|_| "a thread panicked")?;
        let first = state.0;
        let entries: Vec<BytesValue> = payloads
            .zip(first..)
            .map(|(payload, index)| {
                let mut value = Vec::with_capacity(INDEX + payload.len());
                value.extend_from_slice(&index.to_le_bytes());
                value.extend_from_slice(payload);
                BytesValue { value, ..BytesValue::default() }
            })
            .collect();
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<Indexed>(group as u64 + 1, &entries)?;
        state.0 += entries.len() as u64;
        self.engine.write(&mut batch, durable)?;
        Ok(lsn(group, first))
    }
}

impl Contender for Raft {
    fn name(&self) -> &'static str {
        "raft-engine"
    }

    fn can(&self, kind: Kind) -> bool {
        matches!(kind, Kind::Append | Kind::Batch(_) | Kind::Bulk)
    }

    fn append(&self, who: usize, payload: &[u8]) -> Outcome<u64> {
        self.write(who, [payload].into_iter(), true)
    }

    fn append_batch(&self, who: usize, payloads: &[Vec<u8>]) -> Outcome<u64> {
        self.write(who, payloads.iter().map(Vec::as_slice), true)
    }

    fn submit(&self, writer: &mut Writer, records: u64) -> Outcome {
        for _ in 0..records {
            let group = writer.number;
            let lsn = self.write(group, [writer.payload()].into_iter(), false)?;
            writer.placed(lsn);
        }
        Ok(())
    }

    fn sync(&self) -> Outcome {
        self.write(GROUPS - 1, [&[0; 8][..]].into_iter(), true)?;
        Ok(())
    }

    fn in_flight(&self, _writer: &mut Writer, _depth: usize, _stop: &AtomicBool) -> Outcome {
        Err("raft-engine blocks in each write".into())
    }

    fn settle(&self, _kind: Kind, size: usize, appended: Tally) -> Outcome<Option<Written>> {
        let mut reader = Reader::new(size);
        for (group, state) in self.groups.iter().enumerate() {
            let mut state = state.lock().map_err(|_| "a thread panicked")?;
            let (next, from) = *state;
            for index in from..next {
                let entry = self.engine.get_entry::<Indexed>(group as u64 + 1, index)?;
                let entry = entry.ok_or("raft-engine lost an entry")?;
                if group < GROUPS - 1 {
                    reader.check(lsn(group, index), &entry.value[INDEX..])?;
                }
            }
            if from < next {
                self.engine.compact_to(group as u64 + 1, next);
            }
            state.1 = next;
        }
        self.engine.purge_expired_files()?;
        reader.expect("raft-engine", appended)?;
        Ok(None)
    }
}
