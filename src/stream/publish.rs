//! Step 5: every sink, in the job's order, retried until the outcome is known (ENGINE.md E1).
//!
//! PUBLISH-1: a sink is called again under the same batch id, with a higher attempt that is durable
//! before the call (ENGINE.md E20).
//! PUBLISH-2: a sink that has published is not called again because another one failed.

use std::time::Duration;

use super::batch::Batch;
use super::driver::JobDriver;
use super::events::Event;
use super::hooks::Step;
use super::journal::Named;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::Sink;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

/// The pause before a sink's second attempt; doubled for each later one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest time in which a pause does not notice that the job is to end.
const SLICE: Duration = Duration::from_millis(25);

impl JobDriver {
    /// Step 5.
    pub(crate) fn publish(&mut self, batch: &mut Batch) -> Result<()> {
        for (number, sink) in self.job.sinks.clone().iter().enumerate() {
            let begun = self.env.clock.monotonic_ns();
            let progress = self.insist(sink, batch, |driver, batch| match sink.two_phase() {
                Some(phases) => driver.publish_prepared(sink, phases, number, batch),
                None => {
                    let output = &*batch.computed().outputs[number];
                    sink.publish(batch.plan.batch, batch.attempt, output)
                }
            })?;
            batch.published.push(Named::new(sink.name(), progress));
            self.hooks.at(Step::SinkPublished, batch.plan.batch)?;
            self.tell(|| Event::SinkPublished {
                batch: batch.plan.batch,
                sink: sink.name().to_owned(),
                took: Duration::from_nanos(self.env.clock.monotonic_ns().saturating_sub(begun)),
            })?;
        }
        Ok(())
    }

    /// The same for a batch that counts as completed already: each sink is called once, and what
    /// one refuses is lost.
    pub(super) fn publish_once(&mut self, batch: &mut Batch) -> Result<()> {
        let (id, begun) = (batch.plan.batch, self.env.clock.monotonic_ns());
        let mut alarm = None;
        for (sink, output) in self.job.sinks.iter().zip(&batch.computed().outputs) {
            match sink.publish(id, batch.attempt, &**output) {
                Ok(progress) => {
                    let progress = Named::new(sink.name(), progress);
                    self.boundary.sink_at(&progress);
                    self.published_last.retain(|known| known.name != progress.name);
                    self.published_last.push(progress);
                    let took = self.env.clock.monotonic_ns().saturating_sub(begun);
                    let (sink, took) = (sink.name().to_owned(), Duration::from_nanos(took));
                    self.tell(|| Event::SinkPublished { batch: id, sink, took })?;
                }
                Err(error) if may_pass(&error) => {
                    self.tell(|| Event::Failed { batch: id, error: error.clone() })?;
                    alarm = Some(format!("batch {id} is lost to `{}`: {error}", sink.name()));
                }
                Err(error) => return Err(error),
            }
        }
        if alarm.is_some() {
            self.board.update(|progress| progress.sink_alarm = alarm);
        }
        Ok(())
    }

    /// Calls one sink, as often as it takes and the options allow.
    pub(super) fn insist<T>(
        &self,
        sink: &Arc<dyn Sink>,
        batch: &mut Batch,
        call: impl Fn(&JobDriver, &mut Batch) -> Result<T>,
    ) -> Result<T> {
        let (mut tried, mut pause) = (1, FIRST_PAUSE);
        loop {
            let error = match call(self, batch) {
                Ok(done) => {
                    if tried > 1 {
                        self.board.update(|progress| progress.sink_alarm = None);
                    }
                    return Ok(done);
                }
                Err(error) => error,
            };
            if !may_pass(&error) {
                return Err(error);
            }
            self.board.update(|progress| progress.sink_alarm = Some(error.to_string()));
            if tried >= self.options.sink_attempts {
                return Err(given_up(sink.name(), batch, tried, error));
            }
            self.notify()?;
            self.tell(|| Event::Failed { batch: batch.plan.batch, error: error.clone() })?;
            if !self.pause(pause) {
                return Err(given_up(sink.name(), batch, tried, error));
            }
            (tried, pause) = (tried + 1, (pause * 2).min(LONGEST_PAUSE));
            batch.attempt += 1;
            self.announce(batch)?;
        }
    }

    /// Waits; `false` as soon as the job is to end.
    fn pause(&self, mut rest: Duration) -> bool {
        while !self.ending.load(Ordering::Acquire) {
            if rest.is_zero() {
                return true;
            }
            let slice = rest.min(SLICE);
            self.env.clock.sleep(slice);
            rest -= slice;
        }
        false
    }
}

/// Whether another attempt may end otherwise: not if the output belongs to somebody else, or holds
/// what this code does not read.
fn may_pass(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::SinkFailed | ErrorKind::DiskFull | ErrorKind::Io)
}

/// The error that ends the job; the next start publishes the same batch again.
fn given_up(sink: &str, batch: &Batch, tried: u32, error: Error) -> Error {
    let message = format!(
        "the sink `{sink}` failed at batch {}, the last of {tried} attempts in this run; started \
         again, the job publishes the same batch again",
        batch.plan.batch
    );
    let given_up = Error::new(ErrorKind::SinkFailed, message);
    match error.path().map(std::path::Path::to_owned) {
        Some(path) => given_up.at_path(path).caused_by(error),
        None => given_up.caused_by(error),
    }
}
