//! Rows into a table of SQLite (feature `sqlite`): rows, identity, batch and epoch in one
//! transaction (ENGINE.md E5).
//!
//! SQLITE-1: a batch's rows and the row of `sawmill_outputs` that says so are committed together.
//! SQLITE-2: a writer of a lower epoch than the stored one changes nothing any more.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::{Null, ToSqlOutput, Value};
use rusqlite::{Connection, OptionalExtension, ToSql, Transaction, TransactionBehavior, params};

use super::custom::{BatchSink, Opening, SinkError};
use super::for_each::BatchOutput;
use super::promise::Promise;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::Row;
use crate::ids::{BatchId, Epoch};
use crate::planted::{Bug, planted};
use crate::sync::{Mutex, lock};

/// How long another writer of the file is waited for, before the batch is tried again.
const BUSY: Duration = Duration::from_secs(5);

const TABLE: &str = "CREATE TABLE IF NOT EXISTS sawmill_outputs (
    output TEXT PRIMARY KEY, batch INTEGER NOT NULL, epoch INTEGER NOT NULL) WITHOUT ROWID";
const FIND: &str = "SELECT batch, epoch FROM sawmill_outputs WHERE output = ?1";
const STORE: &str = "INSERT INTO sawmill_outputs (output, batch, epoch) VALUES (?1, ?2, ?3)
    ON CONFLICT (output) DO UPDATE SET batch = excluded.batch, epoch = excluded.epoch";

/// A table, or whatever a statement changes, in a SQLite file.
///
/// Transactional: the rows of a batch, and the note in the table `sawmill_outputs` that they are
/// there, are one transaction, durable (`synchronous = FULL`) before the batch is completed. Who
/// reads the file never sees a part of a batch, nor a batch twice. Several sinks may share a file.
/// The file must keep what was committed: one that was restored from an older copy is refused.
///
/// ```
/// use sawmill::{Engine, EngineOptions, Job, Received, RunOptions, SqliteTable, Trigger, name};
/// # let place = tempfile::tempdir()?;
/// let engine = Engine::open(place.path().join("data"), EngineOptions::default())?;
/// let events = engine.ingest(name!("events"))?;
/// events.append_batch(&["oak", "ash", "oak"])?;
/// let table = SqliteTable::new(place.path().join("out.db"), "INSERT INTO words VALUES (?1, ?2)")
///     .with_setup("CREATE TABLE IF NOT EXISTS words (word BLOB, count INTEGER)");
/// let (job, ()) = Job::build(name!("counts"), |job| {
///     let words = job.source(name!("in"), Received::from(&events));
///     let counts = words.pair_with(|_| 1u32).reduce_by_key(|a, b| a + b);
///     counts.write_sqlite(name!("words"), table, |(word, count)| {
///         vec![word.clone().into(), (*count).into()]
///     });
/// })?;
/// let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
/// engine.start(job, RunOptions { trigger, ..RunOptions::default() })?.await_termination()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SqliteTable {
    path: PathBuf,
    setup: String,
    insert: String,
}

impl SqliteTable {
    /// Executes `insert` once for each row, with its values as `?1`, `?2`, ...; an upsert serves
    /// for rows that replace earlier ones.
    pub fn new(path: impl Into<PathBuf>, insert: impl Into<String>) -> SqliteTable {
        SqliteTable { path: path.into(), setup: String::new(), insert: insert.into() }
    }

    /// Sets the statements that each start executes first, such as `CREATE TABLE IF NOT EXISTS`.
    #[must_use]
    pub fn with_setup(mut self, statements: impl Into<String>) -> SqliteTable {
        self.setup = statements.into();
        self
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A value of a row for [`SqliteTable`].
#[derive(Clone, Debug, PartialEq)]
pub enum SqlValue {
    /// No value.
    Null,
    /// 64 bits, signed: SQLite has no others.
    Integer(i64),
    /// A float; not a number is stored as no value.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

macro_rules! from {
    ($($variant:ident: $($from:ty),+;)*) => {
        $($(impl From<$from> for SqlValue {
            fn from(value: $from) -> SqlValue {
                SqlValue::$variant(value.into())
            }
        })+)*
    };
}

from! {
    Integer: i64, i32, u32, i16, u16, u8, bool;
    Real: f64, f32;
    Text: String, &str;
    Blob: Vec<u8>, &[u8];
}

impl<T: Into<SqlValue>> From<Option<T>> for SqlValue {
    fn from(value: Option<T>) -> SqlValue {
        value.map_or(SqlValue::Null, Into::into)
    }
}

impl ToSql for SqlValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            SqlValue::Null => Null.to_sql(),
            SqlValue::Integer(value) => value.to_sql(),
            SqlValue::Real(value) => Ok(ToSqlOutput::Owned(Value::Real(*value))),
            SqlValue::Text(value) => value.to_sql(),
            SqlValue::Blob(value) => value.to_sql(),
        }
    }
}

/// The sink: `bind` gives the values of a row.
pub(crate) struct SqliteSink<F> {
    pub(crate) table: SqliteTable,
    pub(crate) bind: F,
    writer: Mutex<Option<Writer>>,
}

/// One run's connection.
struct Writer {
    connection: Connection,
    output: String,
    epoch: Epoch,
}

impl<F> SqliteSink<F> {
    pub(crate) fn new(table: SqliteTable, bind: F) -> SqliteSink<F> {
        SqliteSink { table, bind, writer: Mutex::default() }
    }

    fn failed(&self, what: &str, cause: rusqlite::Error) -> Error {
        let message = format!("SQLite {what}");
        Error::new(ErrorKind::SinkFailed, message).at_path(&self.table.path).caused_by(cause)
    }
}

impl<F> fmt::Debug for SqliteSink<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqliteSink({})", self.table.path.display())
    }
}

impl<R, F> BatchSink<R> for SqliteSink<F>
where
    R: Row,
    F: Fn(&R::Owned) -> Vec<SqlValue> + Send + Sync + 'static,
{
    fn open(&self, opening: &Opening<'_>) -> Result<(), SinkError> {
        let mut writer = lock(&self.writer);
        *writer = None;
        let failed = |cause| self.failed("could not open the file", cause);
        let connection = Connection::open(&self.table.path).map_err(failed)?;
        connection.busy_timeout(BUSY).map_err(failed)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        let (output, epoch) = (opening.identity().to_string(), opening.epoch());
        let mut opened = Writer { connection, output, epoch };
        let setup = |tx: &Transaction<'_>| {
            tx.execute_batch(TABLE)?;
            tx.execute_batch(&self.table.setup)
        };
        opened.commit(self, |writer, tx| {
            setup(tx).map_err(|cause| self.failed("could not set the file up", cause))?;
            let stored = writer.stored(self, tx)?;
            if stored < opening.last() {
                let message = format!(
                    "the file has batch {stored} of this output, and batch {} was completed: it is \
                     an older copy, or another file",
                    opening.last()
                );
                return Err(Error::new(ErrorKind::JobMismatch, message).at_path(&self.table.path));
            }
            writer.store(self, tx, stored)
        })?;
        *writer = Some(opened);
        Ok(())
    }

    fn publish(&self, batch: &BatchOutput<'_, R>) -> Result<(), SinkError> {
        let mut writer = lock(&self.writer);
        let writer = writer.as_mut().ok_or("it is not open")?;
        writer.commit(self, |writer, tx| {
            if writer.stored(self, tx)? >= batch.id() {
                return Ok(());
            }
            let failed = |cause| self.failed("refused a row", cause);
            let mut insert = tx.prepare(&self.table.insert).map_err(failed)?;
            for row in batch.rows() {
                insert.execute(rusqlite::params_from_iter((self.bind)(row))).map_err(failed)?;
            }
            writer.store(self, tx, batch.id())
        })?;
        Ok(())
    }

    fn has(&self, batch: BatchId) -> Result<Option<bool>, SinkError> {
        let mut writer = lock(&self.writer);
        let writer = writer.as_mut().ok_or("it is not open")?;
        let mut has = false;
        writer.commit(self, |writer, tx| {
            has = writer.stored(self, tx)? >= batch;
            Ok(())
        })?;
        Ok(Some(has))
    }

    fn promise(&self) -> (Promise, &'static str) {
        (Promise::Transactional, "rows, batch and epoch are one transaction of SQLite")
    }
}

impl Writer {
    /// SQLITE-1: all that `act` does, or nothing.
    fn commit<F>(
        &mut self,
        sink: &SqliteSink<F>,
        act: impl FnOnce(&Parts<'_>, &Transaction<'_>) -> Result<()>,
    ) -> Result<()> {
        let Writer { connection, output, epoch } = self;
        let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let tx = begun.map_err(|cause| sink.failed("began no transaction", cause))?;
        act(&Parts { output, epoch: *epoch }, &tx)?;
        tx.commit().map_err(|cause| sink.failed("committed nothing", cause))
    }
}

/// Whose rows they are, and who writes them.
struct Parts<'w> {
    output: &'w str,
    epoch: Epoch,
}

impl Parts<'_> {
    /// The last batch that is stored.
    ///
    /// # Errors
    /// `Fenced` if a later writer has taken over (SQLITE-2).
    fn stored<F>(&self, sink: &SqliteSink<F>, tx: &Transaction<'_>) -> Result<BatchId> {
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        let found = tx.query_row(FIND, [self.output], read).optional();
        let found = found.map_err(|cause| sink.failed("could not read its notes", cause))?;
        let (batch, epoch) = found.unwrap_or_default();
        if Epoch::new(epoch.cast_unsigned()) > self.epoch && !planted(Bug::LowerEpochWrites) {
            let message = format!("a writer of epoch {epoch} has taken this output over");
            return Err(Error::new(ErrorKind::Fenced, message).at_path(&sink.table.path));
        }
        Ok(BatchId::new(batch.cast_unsigned()))
    }

    fn store<F>(&self, sink: &SqliteSink<F>, tx: &Transaction<'_>, batch: BatchId) -> Result<()> {
        let (batch, epoch) = (batch.get().cast_signed(), self.epoch.get().cast_signed());
        let stored = tx.execute(STORE, params![self.output, batch, epoch]);
        stored.map(drop).map_err(|cause| sink.failed("could not write its notes", cause))
    }
}
