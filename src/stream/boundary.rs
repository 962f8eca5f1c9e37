//! What a job has behind it at a batch boundary: all that a checkpoint holds beside the state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::journal::{BatchCompletion, BatchPlan, JobShape, Named, named};
use super::side::SideVersion;
use super::streams::OpenedStream;
use crate::error::Result;
use crate::ids::{BatchId, Lsn, to_u64};
use crate::versioned;

const VERSION: u8 = 3;

/// Where a job stands behind its last completed batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Boundary {
    pub(crate) batch: BatchId,
    pub(crate) batch_time_ns: u64,
    /// The record that completed the batch.
    pub(crate) completion: Lsn,
    /// Input bytes of all batches so far.
    pub(crate) input_bytes: u64,
    /// Per source that had input yet: its next position.
    pub(crate) positions: Vec<Named>,
    /// Per source that had input yet: what was read last.
    pub(crate) reads: Vec<Read>,
    /// Per sink: its progress.
    pub(crate) sinks: Vec<Named>,
    /// Totals of accumulators over all batches, by name.
    pub(crate) accumulators: BTreeMap<String, i64>,
    /// Records that all batches so far have left out.
    pub(crate) skipped: u64,
    /// About how many bytes the next batch may have, because one with more was withdrawn; 0: as
    /// many as the trigger says (ENGINE.md E4).
    pub(crate) cautious_bytes: u64,
}

/// From here on nobody is cautious any more: no plan has as much.
const CAUTIOUS_MAX: u64 = 1 << 30;

/// The last planned input of a source, and its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Read {
    pub(crate) source: String,
    /// The batch that read it.
    pub(crate) batch: BatchId,
    pub(crate) input: Vec<u8>,
    pub(crate) digest: Vec<u8>,
}

fn set(list: &mut Vec<Named>, name: &str, bytes: Vec<u8>) {
    match list.iter_mut().find(|entry| entry.name == name) {
        Some(entry) => entry.bytes = bytes,
        None => list.push(Named::new(name, bytes)),
    }
}

impl Boundary {
    /// The next position of a source; `None` if it had no input yet.
    pub(crate) fn position(&self, source: &str) -> Option<&[u8]> {
        named(&self.positions, source)
    }

    /// Moves a source on to a position that means the same.
    pub(crate) fn settle(&mut self, source: &str, position: Vec<u8>) {
        set(&mut self.positions, source, position);
    }

    /// Notes what a sink needs to go on behind what it has.
    pub(crate) fn sink_at(&mut self, sink: &Named) {
        set(&mut self.sinks, &sink.name, sink.bytes.clone());
    }

    /// Moves over a completed batch.
    ///
    /// # Panics
    /// If it is not the next one.
    pub(crate) fn advance(&mut self, plan: &BatchPlan, done: &BatchCompletion, lsn: Lsn) {
        assert_eq!(plan.batch, self.batch.next(), "STREAM-2: batches complete in order");
        assert_eq!(plan.batch, done.batch, "STREAM-2: a completion is of its plan");
        assert!(self.completion < lsn, "STREAM-2: completions rise in the log");
        self.batch = plan.batch;
        self.batch_time_ns = plan.batch_time_ns;
        self.completion = lsn;
        for input in &plan.inputs {
            self.input_bytes = self.input_bytes.saturating_add(input.bytes);
            set(&mut self.positions, &input.source, input.next.clone());
            let digest = named(&done.results.digests, &input.source).unwrap_or_default().to_vec();
            self.reads.retain(|read| read.source != input.source);
            let (source, input) = (input.source.clone(), input.input.clone());
            self.reads.push(Read { source, batch: plan.batch, input, digest });
        }
        done.sinks.iter().for_each(|sink| self.sink_at(sink));
        // From the record, also when the batch was just computed again: once for each batch (E12).
        for (name, delta) in &done.results.accumulators {
            let total = self.accumulators.entry(name.clone()).or_insert(0);
            *total = total.saturating_add(*delta);
        }
        self.cautious_bytes = match self.cautious_bytes.saturating_mul(2) {
            0..=CAUTIOUS_MAX => self.cautious_bytes * 2,
            _ => 0,
        };
        self.skipped += to_u64(done.results.skipped.len());
    }
}

impl Boundary {
    /// Moves over a batch that was withdrawn: it had no input, and its number is used up. The next
    /// one has at most half as much.
    ///
    /// # Panics
    /// If it is not the next one.
    pub(crate) fn pass_withdrawn(&mut self, plan: &BatchPlan, lsn: Lsn) {
        assert_eq!(plan.batch, self.batch.next(), "STREAM-2: batches are withdrawn in order");
        assert!(self.completion < lsn, "STREAM-2: completions rise in the log");
        self.batch = plan.batch;
        self.batch_time_ns = plan.batch_time_ns;
        self.completion = lsn;
        let bytes: u64 = plan.inputs.iter().map(|input| input.bytes).sum();
        self.cautious_bytes = (bytes / 2).max(1);
    }
}

/// What the engine keeps in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EngineState {
    pub(crate) shape: JobShape,
    pub(crate) boundary: Boundary,
    pub(crate) streams: Vec<OpenedStream>,
    /// Versions of side inputs that batches behind this one may read.
    pub(crate) sides: Vec<SideVersion>,
}

impl EngineState {
    /// The bytes for a checkpoint.
    pub(crate) fn encode(&self) -> Vec<u8> {
        versioned::encode(VERSION, self)
    }

    /// What a checkpoint's bytes say.
    ///
    /// # Errors
    /// `Unsupported` for another version, `Corrupt` for anything else.
    pub(crate) fn decode(bytes: &[u8]) -> Result<EngineState> {
        versioned::decode("engine's part of a checkpoint", VERSION, bytes)
    }
}
