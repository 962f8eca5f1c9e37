//! okaywal: an entry for each append, a chunk for each record.
//!
//! Durable: `commit` returns when the entry is. There is no other way, so bulk work commits its
//! records in entries of 1 MiB. Segments of 64 MiB instead of 1 MiB, so that checkpoints are as
//! rare as rotations elsewhere; a checkpoint discards what it is given. What was written cannot be
//! read back while the log is open for writing, so only counts are compared.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use okaywal::{Configuration, LogVoid, WriteAheadLog};

use crate::bench::Outcome;
use crate::bench::contender::{Contender, Written};
use crate::bench::workload::Kind;
use crate::bench::writer::{Tally, Writer};

pub(crate) struct Okay(WriteAheadLog);

impl Okay {
    pub(crate) fn open(path: &Path) -> Outcome<Okay> {
        let configuration = Configuration::default_for(path)
            .preallocate_bytes(64 << 20)
            .checkpoint_after_bytes(60 << 20);
        Ok(Okay(configuration.open(LogVoid)?))
    }
}

impl Contender for Okay {
    fn name(&self) -> &'static str {
        "okaywal"
    }

    fn can(&self, kind: Kind) -> bool {
        matches!(kind, Kind::Append | Kind::Batch(_) | Kind::Bulk)
    }

    fn append(&self, _who: usize, payload: &[u8]) -> Outcome<u64> {
        let mut entry = self.0.begin_entry()?;
        entry.write_chunk(payload)?;
        Ok(entry.commit()?.0)
    }

    fn append_batch(&self, _who: usize, payloads: &[Vec<u8>]) -> Outcome<u64> {
        let mut entry = self.0.begin_entry()?;
        for payload in payloads {
            entry.write_chunk(payload)?;
        }
        Ok(entry.commit()?.0)
    }

    fn submit(&self, writer: &mut Writer, records: u64) -> Outcome {
        let each = ((1 << 20) / writer.size() as u64).max(1);
        let mut left = records;
        while left > 0 {
            let mut entry = self.0.begin_entry()?;
            for _ in 0..left.min(each) {
                entry.write_chunk(writer.payload())?;
                writer.placed(0);
            }
            entry.commit()?;
            left -= left.min(each);
        }
        Ok(())
    }

    fn sync(&self) -> Outcome {
        Ok(())
    }

    fn in_flight(&self, _writer: &mut Writer, _depth: usize, _stop: &AtomicBool) -> Outcome {
        Err("okaywal blocks in each commit".into())
    }

    fn settle(&self, _kind: Kind, _size: usize, _appended: Tally) -> Outcome<Option<Written>> {
        Ok(None)
    }
}
