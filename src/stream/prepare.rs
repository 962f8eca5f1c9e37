//! Step 4: two-phase sinks prepare, and the log gets their tokens (ENGINE.md E1, E2).
//!
//! PREPARE-1: a sink prepares under an id under which it holds nothing: whoever may have prepared
//! before was aborted.
//! PREPARE-2: a batch whose tokens the log has is published, never aborted: not even when it was
//! computed with another output, which ends the job.

use super::batch::Batch;
use super::driver::JobDriver;
use super::hooks::Step;
use super::journal::{BatchAttempt, BatchPreparation, Entry, JOURNAL, Named, named};
use super::marks::Mark;
use crate::error::{Error, ErrorKind, Result};
use crate::planted::{Bug, planted};
use crate::sink::{Sink, TwoPhase};
use crate::sync::Arc;

impl JobDriver {
    /// Step 4. A repeated attempt is made known to the log before the sinks see it.
    pub(super) fn prepare(&mut self, batch: &mut Batch) -> Result<()> {
        if batch.attempt > 1 {
            self.announce(batch)?;
        }
        if planted(Bug::AbortPrepared) {
            batch.prepared = None;
        }
        match &batch.prepared {
            Some(held) => self.verify(batch, &held.results)?,
            None => self.prepare_sinks(batch)?,
        }
        self.marks.reach(Mark::Prepared, batch.plan.batch);
        Ok(())
    }

    /// Makes it durable that the sinks are about to be called again (ENGINE.md E20).
    pub(super) fn announce(&self, batch: &Batch) -> Result<()> {
        let entry = Entry::BatchAttempted(BatchAttempt {
            job: self.shape.job.clone(),
            batch: batch.plan.batch,
            attempt: batch.attempt,
        });
        self.env.wal.append_internal(JOURNAL, &[&entry.encode()]).map(drop)
    }

    /// Has every two-phase sink prepare, in the job's order. Without one, and if the batch leaves
    /// nothing out, there is nothing to record: the completion has it all.
    fn prepare_sinks(&mut self, batch: &mut Batch) -> Result<()> {
        let mut tokens = Vec::new();
        for (number, sink) in self.job.sinks.clone().iter().enumerate() {
            let Some(phases) = sink.two_phase() else { continue };
            let token = self.insist(sink, batch, |_, batch| hold(phases, number, batch))?;
            tokens.push(Named::new(sink.name(), token));
            self.hooks.at(Step::SinkPrepared, batch.plan.batch)?;
        }
        // What the batch does without is decided once, and that is now (FAULT-1).
        let decided = !batch.computed().results.skipped.is_empty();
        if tokens.is_empty() && !decided {
            return Ok(());
        }
        self.record_prepared(batch, tokens)
    }

    /// Makes the tokens durable.
    fn record_prepared(&self, batch: &mut Batch, tokens: Vec<Named>) -> Result<()> {
        let entry = Entry::BatchPrepared(BatchPreparation {
            job: self.shape.job.clone(),
            batch: batch.plan.batch,
            attempt: batch.attempt,
            tokens,
            results: batch.computed().results.clone(),
        });
        self.env.wal.append_internal(JOURNAL, &[&entry.encode()])?;
        let Entry::BatchPrepared(held) = entry else { unreachable!("made above") };
        batch.prepared = Some(held);
        Ok(())
    }

    /// Publishes what a sink holds. What has expired is prepared anew: it was computed again by
    /// this process, and has the digest of the first time.
    pub(super) fn publish_prepared(
        &self,
        sink: &Arc<dyn Sink>,
        phases: &dyn TwoPhase,
        number: usize,
        batch: &mut Batch,
    ) -> Result<Vec<u8>> {
        let id = batch.plan.batch;
        let tokens = batch.prepared.as_ref().map(|held| held.tokens.clone()).unwrap_or_default();
        let known = named(&tokens, sink.name());
        let published = known.map(|token| phases.publish_prepared(id, token)).transpose()?;
        if let Some(progress) = published.flatten() {
            return Ok(progress);
        }
        let token = hold_again(phases, number, batch)?;
        let mut tokens = tokens;
        tokens.retain(|held| held.name != sink.name());
        tokens.push(Named::new(sink.name(), token.clone()));
        self.record_prepared(batch, tokens)?;
        phases.publish_prepared(id, &token)?.ok_or_else(|| {
            let message = format!("the sink `{}` lets batch {id} expire at once", sink.name());
            Error::new(ErrorKind::SinkFailed, message)
        })
    }

    /// For [`reexecute`](JobDriver::reexecute), which writes nothing into the log: the sinks are
    /// empty, and nobody will ever recover what they hold.
    #[cfg(feature = "testing")]
    pub(super) fn prepare_to_repeat(&self, batch: &mut Batch) -> Result<()> {
        let mut tokens = Vec::new();
        for (number, sink) in self.job.sinks.iter().enumerate() {
            let Some(phases) = sink.two_phase() else { continue };
            tokens.push(Named::new(sink.name(), hold(phases, number, batch)?));
        }
        batch.prepared = Some(BatchPreparation {
            job: self.shape.job.clone(),
            batch: batch.plan.batch,
            attempt: batch.attempt,
            tokens,
            results: batch.computed().results.clone(),
        });
        Ok(())
    }
}

/// PREPARE-1. Only a first attempt cannot have left anything.
fn hold(phases: &dyn TwoPhase, number: usize, batch: &Batch) -> Result<Vec<u8>> {
    match batch.attempt {
        1 => phases.prepare(batch.plan.batch, 1, &*batch.computed().outputs[number]),
        _ => hold_again(phases, number, batch),
    }
}

fn hold_again(phases: &dyn TwoPhase, number: usize, batch: &Batch) -> Result<Vec<u8>> {
    phases.abort(batch.plan.batch)?;
    phases.prepare(batch.plan.batch, batch.attempt, &*batch.computed().outputs[number])
}
