//! The sinks that a stream can be given to.

use serde::Serialize;

use super::job::Stream;
use crate::exec::{Dataset, Name, Row};
use crate::sink::{
    self, BatchOutput, BatchSink, CollectedRows, Json, JsonRow, OutputFiles, SinkError, Stdout,
    Text, TextRow, TwoPhaseSink,
};
#[cfg(feature = "csv")]
use crate::sink::{Csv, CsvRow};
#[cfg(feature = "sqlite")]
use crate::sink::{SqlValue, SqliteSink, SqliteTable};
use crate::wal::Wal;

impl<R: JsonRow> Stream<R> {
    /// Writes every row as a line of JSON into files of a directory, exactly once as far as the
    /// output's manifest is followed (ENGINE.md E19). `name` is part of the output's identity.
    pub fn write_json_lines(&self, name: Name, output: impl Into<OutputFiles>) {
        let rows = (name, self.dataset().clone());
        self.add_sink(sink::file_sink(rows, output.into(), Json, Vec::new()));
    }
}

impl<R: TextRow> Stream<R> {
    /// Writes every row as a line of text into files of a directory, as
    /// [`write_json_lines`](Stream::write_json_lines) does. A row with a line break in it fails the
    /// job with [`TaskFailed`](crate::ErrorKind::TaskFailed): it would be two rows to a reader.
    pub fn write_text(&self, name: Name, output: impl Into<OutputFiles>) {
        let rows = (name, self.dataset().clone());
        self.add_sink(sink::file_sink(rows, output.into(), Text, Vec::new()));
    }

    /// Writes every batch as a transaction into a stream of another log, made if it is missing:
    /// exactly once for readers of [`CommittedRows`](crate::CommittedRows). The stream should hold
    /// nothing else but what sinks write; several may share it.
    pub fn write_log(&self, name: Name, target: &Wal, stream: &str) {
        self.add_sink(sink::log_sink(name, self.dataset().clone(), target, stream));
    }

    /// Prints every row as a line on standard output: at least once, and once unless the process
    /// dies, or printing fails, at that batch.
    pub fn write_stdout(&self, name: Name) {
        self.add_sink(sink::custom(name, self.texts(), Stdout));
    }

    /// The bytes of each row.
    fn texts(&self) -> Dataset<Vec<u8>> {
        self.dataset().try_map(|view| {
            let mut text = Vec::new();
            R::write_text(view, &mut text).map(|()| text)
        })
    }
}

#[cfg(feature = "csv")]
impl<R: CsvRow> Stream<R> {
    /// Writes every row as a line of CSV into files of a directory, as
    /// [`write_json_lines`](Stream::write_json_lines) does; each file begins with the names of
    /// `columns`, if there are any. Fields are quoted where RFC 4180 wants it; lines end with `\n`,
    /// and may have line breaks within quotes.
    pub fn write_csv(&self, name: Name, output: impl Into<OutputFiles>, columns: &[&str]) {
        let (rows, header) = ((name, self.dataset().clone()), Csv::header(columns));
        self.add_sink(sink::file_sink(rows, output.into(), Csv, header));
    }
}

#[cfg(feature = "sqlite")]
impl<R: Row> Stream<R> {
    /// Executes a statement of SQLite for each row, with the values that `bind` gives: exactly
    /// once, a transaction for each batch. See [`SqliteTable`].
    pub fn write_sqlite(
        &self,
        name: Name,
        table: SqliteTable,
        bind: impl Fn(&R::Owned) -> Vec<SqlValue> + Send + Sync + 'static,
    ) {
        self.write_to(name, SqliteSink::new(table, bind));
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
        self.add_sink(sink::for_each_batch(name, self.dataset().clone(), f));
    }

    /// Keeps every row in memory, for tests.
    pub fn collect(&self, name: Name) -> CollectedRows<R> {
        let rows = CollectedRows::default();
        self.write_to(name, rows.clone());
        rows
    }

    /// Gives every batch to a sink of your own, in order, at least once: see [`BatchSink`].
    pub fn write_to(&self, name: Name, sink: impl BatchSink<R>) {
        self.add_sink(sink::custom(name, self.dataset().clone(), sink));
    }

    /// Gives every batch to a sink of your own that can prepare: see [`TwoPhaseSink`].
    pub fn write_in_two_phases(&self, name: Name, sink: impl TwoPhaseSink<R>)
    where
        R::Owned: Serialize,
    {
        self.add_sink(sink::in_two_phases(name, self.dataset().clone(), sink));
    }
}
