//! The engine's own records in the log: what was decided, so that it is decided once.
//!
//! They are internal records of [`JOURNAL`]: one version byte, then a postcard-encoded [`Entry`].
//! New kinds of entry get new tags, behind the ones below; old ones keep theirs for ever. Decoding
//! takes any bytes and returns or refuses; it allocates no more than the bytes could hold.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::ids::{BatchId, Generation, Lsn, StreamId};
use crate::versioned;

/// The stream of the engine's own records.
pub(crate) const JOURNAL: StreamId = StreamId::new(u16::MAX);
const VERSION: u8 = 3;

/// One record of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// An ingest stream got its number.
    StreamOpened(StreamEntry),
    /// A generation of a job begins.
    JobStarted(JobShape),
    /// Step 1 of a batch (ENGINE.md E1).
    BatchPlanned(BatchPlan),
    /// The sinks of a planned batch are about to be called again (ENGINE.md E20).
    BatchAttempted(BatchAttempt),
    /// Step 6 of a batch.
    BatchCompleted(BatchCompletion),
    /// A side input got a new version: that of this record (ENGINE.md E8).
    SideInputSet(SideEntry),
    /// Step 4 of a batch, if a sink has two phases or a record was left out.
    BatchPrepared(BatchPreparation),
    /// A batch in which a process ended is about to be computed again (ENGINE.md E4).
    BatchResumed(BatchEnd),
    /// A planned batch that nobody has seen is none: its input is planned anew (ENGINE.md E4).
    BatchWithdrawn(BatchEnd),
}

/// An ingest stream's number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamEntry {
    pub(crate) name: String,
    pub(crate) stream: StreamId,
}

/// A value of a side input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SideEntry {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// What of a job must not change under its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobShape {
    pub(crate) job: String,
    pub(crate) generation: Generation,
    pub(crate) parallelism: u32,
    pub(crate) operators: Vec<OperatorShape>,
    /// Names and, for received sources, streams; in the job's order.
    pub(crate) sources: Vec<SourceShape>,
    /// Names, in the job's order.
    pub(crate) sinks: Vec<String>,
    /// Names of side inputs, in the job's order.
    pub(crate) sides: Vec<String>,
}

/// A stateful operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OperatorShape {
    pub(crate) name: String,
    pub(crate) schema: u64,
}

/// A source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceShape {
    pub(crate) name: String,
    /// The ingest stream that it reads; `None` for a direct source.
    pub(crate) stream: Option<StreamId>,
}

/// Everything about a batch that does not follow from its records (ENGINE.md E4).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchPlan {
    pub(crate) job: String,
    pub(crate) batch: BatchId,
    pub(crate) generation: Generation,
    pub(crate) parallelism: u32,
    pub(crate) batch_time_ns: u64,
    /// Ticks of the grid of time that it covers; 1 if there is no grid (ENGINE.md E9).
    pub(crate) ticks: u64,
    /// In the order of the job's sources; one with nothing new is left out.
    pub(crate) inputs: Vec<PlannedInput>,
    /// In the order of the job's side inputs; one that has no value yet is left out.
    pub(crate) sides: Vec<PlannedSide>,
}

/// Which version of a side input a batch reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedSide {
    pub(crate) name: String,
    /// The record that holds it, durable before the plan was made.
    pub(crate) version: Lsn,
}

/// What a batch reads of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedInput {
    pub(crate) source: String,
    /// The source's own description of what to read.
    pub(crate) input: Vec<u8>,
    /// Where the source stands afterwards.
    pub(crate) next: Vec<u8>,
    pub(crate) bytes: u64,
}

/// A repeated call of the sinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchAttempt {
    pub(crate) job: String,
    pub(crate) batch: BatchId,
    /// From 2: the first attempt needs no record.
    pub(crate) attempt: u32,
}

/// How often a process has ended within a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchEnd {
    pub(crate) job: String,
    pub(crate) batch: BatchId,
    pub(crate) deaths: u32,
}

/// What computing a batch came to: the same whenever it is computed again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchResults {
    /// Digest of what each planned source really read.
    pub(crate) digests: Vec<Named>,
    /// Digest of each sink's output, where the sink has one.
    pub(crate) outputs: Vec<(String, u64)>,
    /// What the batch adds to accumulators, by name (ENGINE.md E12).
    pub(crate) accumulators: Vec<(String, i64)>,
    /// What was left out, in order: obeyed whenever the batch is computed again (ENGINE.md E11).
    pub(crate) skipped: Vec<SkippedRecord>,
}

/// A record at which user code failed, and that the batch does without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SkippedRecord {
    pub(crate) source: String,
    /// The partition of the planned input.
    pub(crate) partition: u32,
    /// Its place in that, from 0.
    pub(crate) row: u64,
    /// The operator that failed, and how.
    pub(crate) operator: String,
    pub(crate) error: String,
}

/// A batch that every two-phase sink holds: from here on it is published, never aborted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchPreparation {
    pub(crate) job: String,
    pub(crate) batch: BatchId,
    pub(crate) attempt: u32,
    /// By which each two-phase sink publishes.
    pub(crate) tokens: Vec<Named>,
    pub(crate) results: BatchResults,
}

/// A batch whose sinks have published it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchCompletion {
    pub(crate) job: String,
    pub(crate) batch: BatchId,
    pub(crate) attempt: u32,
    /// What each sink needs to go on from here.
    pub(crate) sinks: Vec<Named>,
    pub(crate) results: BatchResults,
}

/// Bytes that belong to a source or sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

impl Named {
    pub(crate) fn new(name: &str, bytes: Vec<u8>) -> Named {
        Named { name: name.to_owned(), bytes }
    }
}

/// The bytes of this name.
pub(crate) fn named<'a>(list: &'a [Named], name: &str) -> Option<&'a [u8]> {
    list.iter().find(|entry| entry.name == name).map(|entry| entry.bytes.as_slice())
}

impl Entry {
    /// The record's payload.
    pub(crate) fn encode(&self) -> Vec<u8> {
        versioned::encode(VERSION, self)
    }

    /// The entry in a payload.
    ///
    /// # Errors
    /// `Unsupported` for a version that this code does not know, `Corrupt` for bytes that are no
    /// entry; with the LSN.
    pub(crate) fn decode(payload: &[u8], lsn: Lsn) -> Result<Entry> {
        versioned::decode("record of the engine", VERSION, payload)
            .map_err(|error| error.for_lsns(lsn, lsn))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    fn results() -> BatchResults {
        BatchResults {
            digests: vec![Named::new("in", vec![9; 8])],
            outputs: vec![("out".into(), u64::MAX)],
            accumulators: vec![("odd".into(), -3)],
            skipped: vec![SkippedRecord {
                source: "in".into(),
                partition: 3,
                row: 70,
                operator: "`map`".into(),
                error: "no".into(),
            }],
        }
    }

    fn entries() -> Vec<Entry> {
        let job = || "words".to_owned();
        let batch = BatchId::new(7);
        vec![
            Entry::StreamOpened(StreamEntry { name: "in".into(), stream: StreamId::new(1) }),
            Entry::JobStarted(JobShape {
                job: job(),
                generation: Generation::new(1),
                parallelism: 4,
                operators: vec![OperatorShape { name: "counts".into(), schema: u64::MAX }],
                sources: vec![SourceShape { name: "in".into(), stream: Some(StreamId::new(1)) }],
                sinks: vec!["out".into()],
                sides: vec!["prices".into()],
            }),
            Entry::BatchPlanned(BatchPlan {
                job: job(),
                batch,
                generation: Generation::new(1),
                parallelism: 4,
                batch_time_ns: 99,
                ticks: 3,
                inputs: vec![PlannedInput {
                    source: "in".into(),
                    input: vec![1, 2],
                    next: vec![3],
                    bytes: 500,
                }],
                sides: vec![PlannedSide { name: "prices".into(), version: Lsn::new(5) }],
            }),
            Entry::BatchAttempted(BatchAttempt { job: job(), batch, attempt: 2 }),
            Entry::BatchCompleted(BatchCompletion {
                job: job(),
                batch,
                attempt: 2,
                sinks: vec![Named::new("out", vec![])],
                results: results(),
            }),
            Entry::BatchPrepared(BatchPreparation {
                job: job(),
                batch,
                attempt: 1,
                tokens: vec![Named::new("out", vec![7; 3])],
                results: results(),
            }),
            Entry::SideInputSet(SideEntry { name: "prices".into(), bytes: vec![1, 2, 3] }),
            Entry::BatchResumed(BatchEnd { job: job(), batch, deaths: 1 }),
            Entry::BatchWithdrawn(BatchEnd { job: job(), batch, deaths: 2 }),
        ]
    }

    #[test]
    fn what_is_written_is_read_and_nothing_shorter_or_longer_is() {
        for entry in entries() {
            let mut bytes = entry.encode();
            assert_eq!(Entry::decode(&bytes, Lsn::FIRST).unwrap(), entry);
            for cut in 0..bytes.len() {
                assert!(
                    Entry::decode(&bytes[..cut], Lsn::FIRST).is_err(),
                    "{entry:?} cut at {cut}"
                );
            }
            bytes.push(0);
            let error = Entry::decode(&bytes, Lsn::new(12)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert_eq!(error.lsns(), Some((Lsn::new(12), Lsn::new(12))));
        }
    }

    #[test]
    fn a_newer_version_and_a_newer_kind_are_refused_not_skipped() {
        let mut bytes = entries()[0].encode();
        bytes[0] = VERSION + 1;
        let error = Entry::decode(&bytes, Lsn::FIRST).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        bytes[0] = VERSION;
        bytes[1] = 200;
        assert_eq!(Entry::decode(&bytes, Lsn::FIRST).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_or_mean_one_thing(
            pick in 0usize..9,
            flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6),
            tail in proptest::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut bytes = entries()[pick].encode();
            for (at, byte) in flips {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.extend(tail);
            if let Ok(entry) = Entry::decode(&bytes, Lsn::FIRST) {
                let again = Entry::decode(&entry.encode(), Lsn::FIRST).unwrap();
                prop_assert_eq!(again, entry);
            }
        }
    }
}
