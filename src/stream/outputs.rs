//! The sinks that a stream can be given to.

use serde::Serialize;

use super::job::Stream;
use crate::exec::{Name, Row};
use crate::sink::{self, BatchOutput, BatchSink, JsonLines, JsonRow, SinkError, TwoPhaseSink};

impl<R: JsonRow> Stream<R> {
    /// Writes every row as a line of JSON into files of a directory, exactly once as far as the
    /// output's manifest is followed (ENGINE.md E19). `name` is part of the output's identity.
    pub fn write_json_lines(&self, name: Name, output: impl Into<JsonLines>) {
        self.registry().add_sink(output.into().attach(name, self.dataset().clone()));
    }
}

impl<R: Row> Stream<R> {
    /// Calls `f` with every batch, in order: never before its plan is durable, at least once for
    /// the batch in flight at a crash, never again for a completed one (ENGINE.md E20). If it
    /// returns an `Err` or panics it is called again with the same batch, up to
    /// [`sink_attempts`](crate::RunOptions::sink_attempts) times; then the job ends with
    /// [`SinkFailed`](crate::ErrorKind::SinkFailed), and started again calls it with that batch.
    pub fn for_each_batch(
        &self,
        name: Name,
        f: impl for<'a> Fn(&BatchOutput<'a, R>) -> Result<(), SinkError> + Send + Sync + 'static,
    ) {
        self.registry().add_sink(sink::for_each_batch(name, self.dataset().clone(), f));
    }

    /// Gives every batch to a sink of your own, in order, at least once: see [`BatchSink`].
    pub fn write_to(&self, name: Name, sink: impl BatchSink<R>) {
        self.registry().add_sink(sink::custom(name, self.dataset().clone(), sink));
    }

    /// Gives every batch to a sink of your own that can prepare: see [`TwoPhaseSink`].
    pub fn write_in_two_phases(&self, name: Name, sink: impl TwoPhaseSink<R>)
    where
        R::Owned: Serialize,
    {
        self.registry().add_sink(sink::in_two_phases(name, self.dataset().clone(), sink));
    }
}
