//! The sink that writes the transactions.

use std::any::Any;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::format::{
    Commit, Found, Note, ROW_HEADER, TransactionId, decode, name_of, put_note, put_row,
};
use super::rows::{BatchRows, Packed, Partition};
use crate::checksum::xxh3;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Dataset, Executor, Name, RunContext, Spares};
use crate::ids::{BatchId, Epoch, LogId, Lsn, ProducerId, StreamId};
use crate::planted::{Bug, planted};
use crate::sink::{Output, Promise, Sink, SinkContext, SinkIdentity, TextRow};
use crate::sync::{Arc, Mutex, lock};
use crate::versioned;
use crate::wal::{Entry, ProducerStamp, Wal};

const VERSION: u8 = 1;
/// A batch of more bytes than this is not tried as one atomic append.
const ATOMIC_BYTES: usize = 256 << 10;
/// Rows of a larger one go into the log together up to so many bytes: the smallest segment holds
/// them.
const GROUP_BYTES: usize = 16 << 10;

/// The sink of these rows.
pub(crate) fn log_sink<R: TextRow>(
    name: Name,
    rows: Dataset<R>,
    target: &Wal,
    stream: &str,
) -> Arc<dyn Sink> {
    let (target, stream) = (target.clone(), stream.to_owned());
    let (writer, spares) = (Mutex::default(), Spares::default());
    Arc::new(LogSink { name, rows, target, stream, writer, spares })
}

struct LogSink<R: TextRow> {
    name: Name,
    rows: Dataset<R>,
    target: Wal,
    stream: String,
    writer: Mutex<Option<Writer>>,
    /// Rows of batches that are written.
    spares: Spares<Partition>,
}

/// What a completion keeps of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    target: LogId,
    batch: BatchId,
    /// The record that committed the batch, or one behind which the next one is.
    commit: Lsn,
}

/// One run's view of the output.
struct Writer {
    output: String,
    stream: StreamId,
    epoch: Epoch,
    /// As which the log knows the output, and refuses all but its last writer (LOGOUT-4).
    producer: ProducerId,
    progress: Progress,
    /// The last record of the target that was looked at.
    seen: Lsn,
}

impl<R: TextRow> fmt::Debug for LogSink<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogSink({}, stream `{}` of {})", self.name, self.stream, self.target_path())
    }
}

impl<R: TextRow> LogSink<R> {
    fn target_path(&self) -> std::path::Display<'_> {
        self.target.path().display()
    }

    fn error(&self, kind: ErrorKind, message: String) -> Error {
        Error::new(kind, message).at_path(self.target.path())
    }

    /// What the target has of this output behind what is known (LOGOUT-2).
    fn look(&self, writer: &mut Writer) -> Result<()> {
        // What is on its way to the disk is not passed over.
        let through = self.target.sync()?;
        let mut replay = self.target.replay_from(writer.seen.next())?.stream(writer.stream);
        while let Some(record) = replay.next() {
            let record = record?;
            let Found::Note(Note::Committed(commit)) = decode(record.payload, record.lsn)? else {
                continue;
            };
            if commit.output == writer.output && !planted(Bug::CommitNotLookedFor) {
                writer.progress.batch = commit.batch;
                writer.progress.commit = record.lsn;
            }
        }
        writer.seen = through;
        Ok(())
    }

    /// Appends records as one, unless a later writer has begun: the log decides that and appends in
    /// one step (LOGOUT-4).
    fn append(&self, writer: &Writer, records: &Packed) -> Result<Lsn> {
        if planted(Bug::LowerEpochWrites) {
            let records: Vec<&[u8]> = records.iter().collect();
            return Ok(self.target.append_batch_to(writer.stream, &records)?.last());
        }
        let (id, epoch) = (writer.producer, producer_epoch(writer.epoch)?);
        let next = self.target.producer(id).map_or(0, |known| known.next_sequence);
        let entries: Vec<Entry<'_>> = (next..)
            .zip(records.iter())
            .map(|(sequence, record)| {
                let entry = Entry::new(record).stream(writer.stream);
                entry.producer(ProducerStamp { id, epoch, sequence })
            })
            .collect();
        Ok(self.target.append_records(&entries)?.last())
    }

    fn append_note(&self, writer: &Writer, note: &Note) -> Result<Lsn> {
        let mut records = Packed::default();
        records.push(|out| put_note(out, note));
        self.append(writer, &records)
    }

    /// Writes the batch in one atomic append, if it fits; returns the commit's LSN.
    fn write_at_once(&self, writer: &Writer, commit: &Commit, rows: &BatchRows) -> Result<Lsn> {
        let mut records = Packed::default();
        for row in rows.iter() {
            records.push(|out| put_row(out, commit.transaction, row));
        }
        records.push(|out| put_note(out, &Note::Committed(commit.clone())));
        self.append(writer, &records)
    }

    /// Writes the rows in groups, then the commit, which is durable with all before it.
    fn write_in_parts(&self, writer: &Writer, commit: Commit, rows: &BatchRows) -> Result<Lsn> {
        let (mut first, mut group) = (None, Packed::default());
        let mut submit = |group: &mut Packed| {
            let records: Vec<&[u8]> = group.iter().collect();
            let lsns = self.target.submit_all_to(writer.stream, &records)?;
            group.clear();
            first = first.or(Some(lsns.first()));
            Ok::<_, Error>(())
        };
        for row in rows.iter() {
            if !group.is_empty() && group.bytes() + ROW_HEADER + row.len() > GROUP_BYTES {
                submit(&mut group)?;
            }
            group.push(|out| put_row(out, commit.transaction, row));
        }
        if !group.is_empty() {
            submit(&mut group)?;
        }
        self.append_note(writer, &Note::Committed(Commit { first, ..commit }))
    }

    fn write(
        &self,
        writer: &Writer,
        (batch, attempt): (BatchId, u32),
        rows: &BatchRows,
    ) -> Result<Lsn> {
        let commit = Commit {
            output: writer.output.clone(),
            epoch: writer.epoch,
            batch,
            transaction: TransactionId::new(&writer.output, writer.epoch, batch, attempt),
            first: None,
            rows: crate::ids::to_u64(rows.count()),
            digest: rows.digest,
        };
        if rows.bytes() + rows.count() * ROW_HEADER <= ATOMIC_BYTES {
            match self.write_at_once(writer, &commit, rows) {
                Err(error) if error.kind() == ErrorKind::TooLarge => {}
                written => return written,
            }
        }
        self.write_in_parts(writer, commit, rows)
    }
}

/// The epoch of a job's log, as the target's producers have it.
fn producer_epoch(epoch: Epoch) -> Result<u32> {
    u32::try_from(epoch.get()).map_err(|_| {
        let message = format!("epoch {epoch} of the job's log is beyond what another log takes");
        Error::new(ErrorKind::TooLarge, message)
    })
}

impl<R: TextRow> Sink for LogSink<R> {
    fn name(&self) -> &str {
        self.name.get()
    }

    fn open(
        &self,
        cx: SinkContext<'_>,
        identity: &SinkIdentity,
        progress: Option<&[u8]>,
    ) -> Result<()> {
        let mut opened = lock(&self.writer);
        *opened = None;
        let target = self.target.log_id();
        if target == identity.log {
            let text = "a job cannot write into the log that it runs on: open another one";
            return Err(self.error(ErrorKind::Invalid, text.to_owned()));
        }
        let none = Progress { target, batch: BatchId::default(), commit: Lsn::ZERO };
        let decode = |bytes| versioned::decode("progress of a log sink", VERSION, bytes);
        let progress: Progress = progress.map_or(Ok(none), decode)?;
        if progress.target != target || progress.commit > self.target.durable_lsn() {
            let text = format!(
                "batch {} of the sink `{}` was committed, and this log does not have it: it is \
                 another one, or an older copy",
                progress.batch, self.name
            );
            return Err(self.error(ErrorKind::JobMismatch, text));
        }
        let (stream, output) = (self.target.stream(&self.stream)?.id(), name_of(identity));
        let seen = progress.commit;
        let producer = ProducerId::new(xxh3(output.as_bytes()));
        let mut writer = Writer { output, stream, epoch: cx.epoch, producer, progress, seen };
        // From here on nobody of a lower epoch appends anything more: what is there is all.
        if !planted(Bug::LowerEpochWrites) {
            self.target.begin_producer_epoch(producer, producer_epoch(cx.epoch)?)?;
        }
        self.look(&mut writer)?;
        let (output, epoch) = (writer.output.clone(), cx.epoch);
        writer.seen = self.append_note(&writer, &Note::Opened { output, epoch })?;
        *opened = Some(writer);
        Ok(())
    }

    fn compute(&self, executor: &Executor, run: &RunContext) -> Result<Output> {
        let partitions = executor.for_each_partition(run, &self.rows, |rows| {
            let mut part = self.spares.take().unwrap_or_default();
            let mut refused = None;
            rows.for_each(|view| {
                if let Err(error) = part.push(|out| R::write_text(view, out)) {
                    refused = Some(error);
                }
            })?;
            match refused {
                Some(error) => {
                    let text = format!("a row for the sink `{}` has no text form", self.name);
                    Err(Error::new(ErrorKind::TaskFailed, text).caused_by(error))
                }
                None => Ok(self.spares.lend(part, run)),
            }
        })?;
        Ok(Box::new(BatchRows::new(partitions)))
    }

    fn digest(&self, output: &(dyn Any + Send + Sync)) -> Option<u64> {
        Some(BatchRows::of(output).digest)
    }

    /// Opening has looked for its commit.
    fn has(&self, batch: BatchId) -> Result<Option<bool>> {
        Ok(lock(&self.writer).as_ref().map(|writer| batch <= writer.progress.batch))
    }

    fn promise(&self) -> (Promise, &'static str) {
        (
            Promise::Transactional,
            "a batch counts for readers of `CommittedRows` when it is committed",
        )
    }

    fn publish(
        &self,
        batch: BatchId,
        attempt: u32,
        output: &(dyn Any + Send + Sync),
    ) -> Result<Vec<u8>> {
        let mut writer = lock(&self.writer);
        let Some(writer) = writer.as_mut() else {
            let text = format!("the sink `{}` is not open", self.name);
            return Err(self.error(ErrorKind::SinkFailed, text));
        };
        // Somebody has written: the attempt before, which failed behind its commit, or anybody
        // else.
        if self.target.appended_lsn() > writer.seen {
            self.look(writer)?;
        }
        if batch > writer.progress.batch {
            let commit = self.write(writer, (batch, attempt), BatchRows::of(output))?;
            writer.progress = Progress { batch, commit, ..writer.progress };
            writer.seen = commit;
        }
        Ok(versioned::encode(VERSION, &writer.progress))
    }
}
