//! Records at which user code fails: found, left out, and recorded (ENGINE.md E11).
//!
//! FAULT-1: what a batch does without is decided before anybody sees it, is durable before the
//! first sink is called (`BatchPrepared`), and is obeyed from then on: whoever computes the batch
//! again leaves out exactly that, whether user code would fail there or not.
//! FAULT-2: a record is left out because the batch fails with it and what comes before it, and
//! does not fail without it.

use super::compute::{Computed, Failed, Inputs, Shown};
use super::driver::JobDriver;
use super::job::{JobBuilder, Stream};
use super::journal::SkippedRecord;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::{Dataset, Fault, InputRow, PartitionSource, RunContext};
use crate::ids::to_usize;
use crate::source::DeadLetter;
use crate::sync::Arc;

/// Under which a run has the batch's dead letters: no name of a source.
pub(super) const DEAD_LETTERS: &str = "dead letters";
/// The most records that one batch may do without: its completion names them all.
const SKIPPED_MAX: u32 = 10_000;
/// How much of an error's text is kept, bytes.
const TEXT_MAX: usize = 256;

/// What becomes of records at which user code fails.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FaultPolicy {
    /// How many of them a batch may do without.
    pub(crate) at_most: u32,
    /// Whether they are given out.
    pub(crate) letters: bool,
}

impl FaultPolicy {
    pub(crate) fn check(self) -> Result<(), String> {
        if self.at_most <= SKIPPED_MAX {
            return Ok(());
        }
        Err(format!("lets a batch do without {} records, more than {SKIPPED_MAX}", self.at_most))
    }
}

impl JobBuilder {
    /// Lets every batch go on without the records at which user code fails, up to `at_most` of
    /// them (0 to 10,000; a batch with more fails the job). Without this a job ends at the first
    /// one, with [`TaskFailed`](ErrorKind::TaskFailed).
    ///
    /// User code that fails, by `Err` or by a panic, is attempted again a few times. Then the
    /// record is found that was on its way, or else by halves the first record with which the
    /// batch cannot be computed. Which records were left out is durable before anything of the
    /// batch can be seen, and never decided again. [`Progress::skipped_records`] counts them.
    ///
    /// [`Progress::skipped_records`]: crate::Progress::skipped_records
    pub fn skip_failures(&mut self, at_most: u32) {
        self.faults.at_most = at_most;
    }

    /// As [`skip_failures`](JobBuilder::skip_failures), and gives out what each batch left out, to
    /// be written like everything else of the batch: as often as the sink promises.
    ///
    /// ```
    /// use sawmill::{Engine, EngineOptions, Job, Received, RunOptions, Trigger, name};
    /// # let place = tempfile::tempdir()?;
    /// let engine = Engine::open(place.path(), EngineOptions::default())?;
    /// let events = engine.ingest(name!("numbers"))?;
    /// events.append_batch(&["1", "two", "3"])?;
    /// let (job, (numbers, dead)) = Job::build(name!("parse"), |job| {
    ///     let words = job.source(name!("in"), Received::from(&events));
    ///     let numbers = words.try_map(|word| String::from_utf8_lossy(word).parse::<u64>());
    ///     (numbers.collect(name!("numbers")), job.dead_letters(100).collect(name!("dead")))
    /// })?;
    /// let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
    /// engine.start(job, RunOptions { trigger, ..RunOptions::default() })?.await_termination()?;
    /// assert_eq!(numbers.rows(), [1, 3]);
    /// assert_eq!(dead.rows()[0].payload, b"two");
    /// assert_eq!(dead.rows()[0].error, "invalid digit found in string");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn dead_letters(&mut self, at_most: u32) -> Stream<DeadLetter> {
        self.faults = FaultPolicy { at_most, letters: true };
        self.stream(Dataset::from_source(Arc::new(Letters)))
    }
}

/// The dead letters of the batch, as a source.
struct Letters;

impl PartitionSource<DeadLetter> for Letters {
    fn name(&self) -> &str {
        DEAD_LETTERS
    }

    fn partitions(&self, _run: &RunContext) -> Result<u32> {
        Ok(1)
    }

    fn read(
        &self,
        run: &RunContext,
        _partition: u32,
        out: &mut dyn FnMut(DeadLetter),
    ) -> Result<()> {
        let letters = run.input::<Vec<DeadLetter>>(DEAD_LETTERS);
        letters.iter().flat_map(|letters| letters.iter()).for_each(|letter| out(letter.clone()));
        Ok(())
    }

    fn describe(&self, run: &RunContext, _partition: u32) -> String {
        let letters = run.input::<Vec<DeadLetter>>(DEAD_LETTERS);
        format!("{} records that were left out", letters.map_or(0, |letters| letters.len()))
    }
}

impl JobDriver {
    /// Decides what the batch does without, and computes it without that.
    pub(super) fn isolate(&mut self, inputs: &Inputs<'_>, first: Failed) -> Result<Computed> {
        let at_most = to_usize(self.job.faults.at_most.into());
        if first.error.kind() != ErrorKind::TaskFailed || at_most == 0 {
            return Err(first.error);
        }
        let mut shown = Shown { watched: true, ..Shown::default() };
        loop {
            let failed = match self.try_compute(inputs, &shown) {
                Ok(computed) => return Ok(computed),
                Err(failed) if failed.error.kind() != ErrorKind::TaskFailed => {
                    return Err(failed.error);
                }
                Err(failed) => failed,
            };
            let mut found: Vec<Fault> = failed.faults.clone();
            found.retain(|fault| fault.row.is_some());
            found.dedup_by_key(|fault| fault.row);
            if found.is_empty() {
                found.push(self.bisect(inputs, &mut shown, failed)?);
            }
            if shown.skipped.len() + found.len() > at_most {
                return Err(too_many(at_most, inputs, &found));
            }
            for fault in found {
                let (row, skipped) = self.skip(fault)?;
                let place = shown.skipped.partition_point(|(known, _)| *known < row);
                shown.skipped.insert(place, (row, skipped));
            }
        }
    }

    /// What to record of a fault.
    fn skip(&self, fault: Fault) -> Result<(InputRow, SkippedRecord)> {
        let row = fault.row.ok_or_else(|| Error::new(ErrorKind::TaskFailed, &*fault.error))?;
        let source = self.job.sources[to_usize(row.input.into())].name().to_owned();
        let Fault { operator, mut error, .. } = fault;
        let end = (0..=TEXT_MAX.min(error.len())).rev().find(|end| error.is_char_boundary(*end));
        error.truncate(end.unwrap_or(0));
        let InputRow { partition, row: number, .. } = row;
        Ok((row, SkippedRecord { source, partition, row: number, operator, error }))
    }

    /// Finds the first row with which the batch cannot be computed, in `log2(n) + 2` attempts. For
    /// failures that no row was on its way at: behind a shuffle, or at the end of a partition.
    fn bisect(&mut self, inputs: &Inputs<'_>, shown: &mut Shown, failed: Failed) -> Result<Fault> {
        let rows = count(inputs)?;
        let total: u64 = rows.iter().map(|(_, rows)| rows).sum();
        // Without the rows from `passes` on the batch can be computed, without those from `fails`
        // on it cannot.
        let (mut passes, mut fails, mut fault) = (None, total, failed.faults.into_iter().next());
        while fails > passes.map_or(0, |passes| passes + 1) {
            let middle = passes.map_or(fails / 2, |passes| passes + (fails - passes) / 2);
            shown.end = row_at(&rows, middle);
            let tried = self.try_compute(inputs, shown);
            shown.end = None;
            match tried {
                Ok(_) => passes = Some(middle),
                Err(failed) if failed.error.kind() == ErrorKind::TaskFailed => {
                    (fails, fault) = (middle, failed.faults.into_iter().next().or(fault));
                }
                Err(failed) => return Err(failed.error),
            }
        }
        let row = passes.and_then(|passes| row_at(&rows, passes));
        match (row, fault) {
            (Some(row), Some(fault)) if shown.skipped.iter().all(|(known, _)| *known != row) => {
                Ok(Fault { row: Some(row), ..fault })
            }
            // It fails without any row, or not each time: no record is to blame.
            _ => Err(failed.error),
        }
    }

    /// Leaves out what the log says.
    ///
    /// # Errors
    /// `Corrupt` if it names a source that the job has not.
    pub(super) fn without(
        &self,
        inputs: &Inputs<'_>,
        skipped: Vec<SkippedRecord>,
    ) -> Result<Shown> {
        let place = |skipped: SkippedRecord| {
            let mut sources = self.job.sources.iter();
            let input = sources.position(|source| source.name() == skipped.source);
            let Some(input) = input.and_then(|input| u32::try_from(input).ok()) else {
                return Err(no_such_record(inputs, &skipped));
            };
            let row = InputRow { input, partition: skipped.partition, row: skipped.row };
            Ok((row, skipped))
        };
        let skipped = skipped.into_iter().map(place).collect::<Result<_>>()?;
        Ok(Shown { skipped, ..Shown::default() })
    }

    /// What was left out, with its bytes.
    pub(super) fn letters(&self, inputs: &Inputs<'_>, shown: &Shown) -> Result<Vec<DeadLetter>> {
        let letter = |(row, skipped): &(InputRow, SkippedRecord)| {
            let input = inputs.opened[to_usize(row.input.into())].input();
            let located = input.locate(row.partition, row.row)?;
            let (place, payload) = located.ok_or_else(|| no_such_record(inputs, skipped))?;
            let SkippedRecord { source, operator, error, .. } = skipped.clone();
            Ok(DeadLetter { source, place, payload, operator, error })
        };
        shown.skipped.iter().map(letter).collect()
    }
}

/// How many rows each partition of each input has.
pub(super) fn count(inputs: &Inputs<'_>) -> Result<Vec<(InputRow, u64)>> {
    let mut counted = Vec::new();
    for (input, opened) in (0..).zip(&inputs.opened) {
        for partition in 0..opened.input().partitions() {
            let mut rows = 0;
            opened.input().rows(partition, &mut |_| rows += 1)?;
            counted.push((InputRow { input, partition, row: 0 }, rows));
        }
    }
    Ok(counted)
}

/// The row that so many rows are before.
fn row_at(counted: &[(InputRow, u64)], mut before: u64) -> Option<InputRow> {
    for (first, rows) in counted {
        if before < *rows {
            return Some(InputRow { row: before, ..*first });
        }
        before -= rows;
    }
    None
}

fn no_such_record(inputs: &Inputs<'_>, skipped: &SkippedRecord) -> Error {
    let message = format!(
        "batch {} does without record {} of partition {} of the source `{}`, which is not there",
        inputs.plan.batch, skipped.row, skipped.partition, skipped.source
    );
    Error::new(ErrorKind::Corrupt, message)
}

fn too_many(at_most: usize, inputs: &Inputs<'_>, found: &[Fault]) -> Error {
    let last = found.last().map_or(String::new(), |fault| {
        format!("; the last one: {} failed: {}", fault.operator, fault.error)
    });
    let message = format!(
        "batch {} would have to do without more than {at_most} records, as many as the job lets \
         a batch leave out{last}",
        inputs.plan.batch
    );
    Error::new(ErrorKind::TaskFailed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_over_inputs_and_partitions() {
        let first = |input, partition| InputRow { input, partition, row: 0 };
        let counted = [(first(0, 0), 2), (first(0, 1), 0), (first(1, 0), 1)];
        let rows: Vec<_> = (0..4).map(|before| row_at(&counted, before)).collect();
        let row = |input, row| Some(InputRow { input, partition: 0, row });
        assert_eq!(rows, [row(0, 0), row(0, 1), row(1, 0), None]);
    }
}
