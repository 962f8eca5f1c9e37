//! Batches in which the process ends again and again (ENGINE.md E4).
//!
//! WITHDRAW-1: a batch is withdrawn only if nobody has seen anything of it: nothing was prepared,
//! no sink was called a second time, and every sink says that it does not have it.
//! WITHDRAW-2: that a process ended within a batch is durable before the next one computes it: the
//! count survives whatever ends that one.

use super::batch::Batch;
use super::driver::JobDriver;
use super::events::Event;
use super::faults::count;
use super::journal::{BatchEnd, BatchPlan, Entry, JOURNAL, SkippedRecord};
use super::marks::Mark;
use crate::error::Result;
use crate::ids::Lsn;
use crate::planted::{Bug, planted};

/// How many ends of the process within one batch are accidents.
const ACCIDENTS: u32 = 1;

impl JobDriver {
    /// Takes over a batch that was planned and not completed, within which `before` processes had
    /// ended before the last one. The next step finishes it, unless it is withdrawn here.
    ///
    /// # Errors
    /// The log's; what a two-phase sink says that is to drop what it holds.
    pub(crate) fn take_up(&mut self, mut batch: Batch, before: u32) -> Result<()> {
        let deaths = before + 1;
        let untouched = batch.prepared.is_none() && batch.attempt <= 2 && self.is_unseen(&batch)?;
        if deaths > ACCIDENTS {
            let records = self.records_of(&batch.plan)?;
            let id = batch.plan.batch;
            match (untouched, records.len()) {
                (true, 2..) => return self.withdraw(&batch, deaths),
                (true, 1) if self.job.faults.at_most > 0 => {
                    self.alarm_crashes(format!(
                        "batch {id} ended the process {deaths} times, and its only record is left \
                         out"
                    ));
                    batch.skipped = Some(records);
                }
                (true, _) => self.alarm_crashes(format!(
                    "batch {id} ended the process {deaths} times, and cannot be cut smaller; with \
                     `skip_failures` its record could be left out"
                )),
                (false, _) => self.alarm_crashes(format!(
                    "batch {id} ended the process {deaths} times; it cannot be withdrawn, because \
                     a sink may have it"
                )),
            }
        }
        if !planted(Bug::DeathNotCounted) {
            let entry = Entry::BatchResumed(self.end_of(&batch.plan, deaths));
            self.env.wal.append_internal(JOURNAL, &[&entry.encode()])?;
        }
        self.adopt(batch);
        Ok(())
    }

    /// WITHDRAW-1: whether no sink has anything of the batch.
    fn is_unseen(&self, batch: &Batch) -> Result<bool> {
        if planted(Bug::WithdrawSeen) {
            return Ok(true);
        }
        for sink in &self.job.sinks {
            // What is held and not recorded as prepared was not published.
            let has =
                if sink.two_phase().is_some() { Some(false) } else { sink.has(batch.plan.batch)? };
            if has != Some(false) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The records of a plan as if they were left out: up to two of them.
    fn records_of(&self, plan: &BatchPlan) -> Result<Vec<SkippedRecord>> {
        let counted = count(&self.open_inputs(plan)?)?;
        let record = |(first, row): (crate::exec::InputRow, u64)| SkippedRecord {
            source: self.job.sources[crate::ids::to_usize(first.input.into())].name().to_owned(),
            partition: first.partition,
            row,
            operator: "the job".to_owned(),
            error: "the process ended at it, again and again".to_owned(),
        };
        let rows = counted.into_iter().flat_map(|(first, rows)| (0..rows).map(move |n| (first, n)));
        Ok(rows.take(2).map(record).collect())
    }

    fn end_of(&self, plan: &BatchPlan, deaths: u32) -> BatchEnd {
        BatchEnd { job: self.shape.job.clone(), batch: plan.batch, deaths }
    }

    fn withdraw(&mut self, batch: &Batch, deaths: u32) -> Result<()> {
        let id = batch.plan.batch;
        for phases in self.job.sinks.iter().filter_map(|sink| sink.two_phase()) {
            phases.abort(id)?;
        }
        let entry = Entry::BatchWithdrawn(self.end_of(&batch.plan, deaths));
        let lsn = self.env.wal.append_internal(JOURNAL, &[&entry.encode()])?.first();
        self.pass_withdrawn(&batch.plan, lsn);
        self.alarm_crashes(format!(
            "batch {id} ended the process {deaths} times: it was withdrawn, and its records are \
             planned anew, in smaller batches"
        ));
        self.tell(|| Event::BatchWithdrawn { batch: id, deaths })
    }

    /// Moves every mark over a batch that is none.
    pub(crate) fn pass_withdrawn(&mut self, plan: &BatchPlan, lsn: Lsn) {
        self.boundary.pass_withdrawn(plan, lsn);
        for mark in [Mark::Planned, Mark::PlanDurable, Mark::Prepared, Mark::Completed] {
            self.marks.reach(mark, plan.batch);
        }
    }

    fn alarm_crashes(&self, text: String) {
        self.board.update(|progress| progress.crash_alarm = Some(text));
    }
}
