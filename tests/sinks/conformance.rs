//! Every built-in sink, sinks that keep what they promise, and sinks that do not, in the hands of
//! the conformance kit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::SimDisk;
use sawmill::testing::{Certificate, SinkUnderTest, certify};
use sawmill::{
    Background, BatchId, BatchOutput, BatchSink, CommittedRows, FileManifest, Opening, Outcome,
    OutputFiles, Promise, SinkError, Stream, TwoPhaseSink, Wal, WalOptions, name,
};

/// Certifies, says so, and holds the sink to what it says of itself.
fn certified<W: SinkUnderTest>(what: &str, new: impl Fn() -> W) -> Certificate {
    let certificate = certify(new);
    println!("{what}: {certificate}");
    certificate.require(certificate.declared).unwrap();
    assert!(certificate.schedules > 100);
    certificate
}

/// Locks whatever a death in between has left.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

type Read = fn(&[u8]) -> Vec<String>;

/// A directory of files on the engine's disk.
struct Files {
    write: fn(&Stream<String>),
    read: Read,
    /// Whether to believe `_manifest`, or what is there.
    by_manifest: bool,
}

fn parts(disk: &SimDisk) -> Vec<(PathBuf, u64)> {
    let is_part = |path: &PathBuf| path.to_string_lossy().contains("part-");
    disk.files().into_iter().filter(is_part).map(|path| (path, u64::MAX)).collect()
}

impl SinkUnderTest for Files {
    fn attach(&self, rows: &Stream<String>, _disk: &SimDisk) {
        (self.write)(rows);
    }

    fn visible(&self, disk: &SimDisk) -> Result<Vec<String>, SinkError> {
        let files = match disk.read_file("/out/_manifest") {
            _ if !self.by_manifest => parts(disk),
            None => Vec::new(),
            Some(bytes) => {
                let files = FileManifest::parse(&bytes)?.files.into_iter();
                files.map(|file| (Path::new("/out").join(file.file), file.bytes)).collect()
            }
        };
        let mut rows = Vec::new();
        for (path, length) in files {
            let bytes = disk.read_file(&path).ok_or("a file is gone")?;
            let length = usize::try_from(length).unwrap().min(bytes.len());
            rows.extend((self.read)(&bytes[..length]));
        }
        Ok(rows)
    }
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

fn out() -> OutputFiles {
    OutputFiles::new("/out").with_roll_rows(3).with_compaction(2)
}

#[test]
fn files_of_text_are_idempotent() {
    let new = || Files {
        write: |rows| rows.write_text(name!("out"), out()),
        read: lines,
        by_manifest: false,
    };
    assert_eq!(certified("text files", new).promise, Some(Promise::Idempotent));
}

#[test]
fn files_of_json_are_idempotent_and_their_manifest_shows_whole_batches() {
    let new = |by_manifest| Files {
        write: |rows| rows.write_json_lines(name!("out"), out()),
        read: |bytes| lines(bytes).iter().map(|line| line.trim_matches('"').to_owned()).collect(),
        by_manifest,
    };
    let certificate = certified("JSON lines", || new(false));
    assert_eq!(certificate.promise, Some(Promise::Idempotent));
    assert!(certificate.broken[0].1.contains("not whole batches"), "{certificate}");
    let certificate = certified("JSON lines, by manifest", || new(true));
    let [(_, why)] = &certificate.broken[..] else { panic!("{certificate}") };
    assert!(why.contains("taken over"), "nobody fences a directory: {certificate}");
}

#[test]
fn files_of_csv_are_idempotent() {
    let new = || Files {
        write: |rows| rows.write_csv(name!("out"), out(), &["row"]),
        read: |bytes| lines(bytes).into_iter().filter(|line| line != "row").collect(),
        by_manifest: false,
    };
    assert_eq!(certified("CSV", new).promise, Some(Promise::Idempotent));
}

/// Another log, which outlives the process that writes it.
struct OtherLog(Wal);

impl OtherLog {
    fn new() -> OtherLog {
        let options = WalOptions {
            segment_size: 64 << 10,
            background: Background::Inline,
            lock_wait: Duration::ZERO,
            ..WalOptions::default()
        };
        let (disk, clock) = (Arc::new(SimDisk::new(77)), Arc::new(ManualClock::default()));
        OtherLog(Wal::open_with(disk, clock, "/target", options).unwrap())
    }
}

impl SinkUnderTest for OtherLog {
    fn attach(&self, rows: &Stream<String>, _disk: &SimDisk) {
        rows.write_log(name!("out"), &self.0, "rows");
    }

    fn visible(&self, _disk: &SimDisk) -> Result<Vec<String>, SinkError> {
        let mut all = Vec::new();
        let Ok(mut rows) = CommittedRows::of(&self.0, "rows") else { return Ok(all) };
        while let Some(row) = rows.next() {
            all.push(String::from_utf8(row?.payload)?);
        }
        Ok(all)
    }
}

#[test]
fn another_log_is_transactional() {
    let certificate = certified("log", OtherLog::new);
    assert_eq!(certificate.promise, Some(Promise::Transactional), "{certificate}");
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use sawmill::SqliteTable;
    use tempfile::TempDir;

    use super::*;

    struct Table(TempDir);

    fn table() -> Table {
        // In memory, where there is such a place: it is the process that dies, not the power.
        let memory = Path::new("/dev/shm");
        let place =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Table(place.unwrap())
    }

    impl SinkUnderTest for Table {
        fn attach(&self, rows: &Stream<String>, _disk: &SimDisk) {
            let insert = "INSERT INTO rows (row) VALUES (?1)";
            let setup = "CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, row TEXT)";
            let table = SqliteTable::new(self.0.path().join("out.db"), insert).with_setup(setup);
            rows.write_sqlite(name!("out"), table, |row| vec![row.as_str().into()]);
        }

        fn visible(&self, _disk: &SimDisk) -> Result<Vec<String>, SinkError> {
            let path = self.0.path().join("out.db");
            if !path.exists() {
                return Ok(Vec::new());
            }
            let file = rusqlite::Connection::open(path)?;
            if !file.table_exists(None, "rows")? {
                return Ok(Vec::new());
            }
            let mut rows = file.prepare("SELECT row FROM rows ORDER BY n")?;
            let rows = rows.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        }
    }

    #[test]
    fn a_table_of_sqlite_is_transactional() {
        let certificate = certified("SQLite", table);
        assert_eq!(certificate.promise, Some(Promise::Transactional), "{certificate}");
    }

    #[cfg(feature = "planted")]
    #[test]
    fn planted_lower_epoch_writes_is_caught() {
        use sawmill::planted::{Bug, with_planted};
        let certificate = with_planted(Bug::LowerEpochWrites, || certify(table));
        let error = certificate.require(Promise::Transactional).unwrap_err();
        assert!(error.to_string().contains("taken over"), "{error}");
    }
}

/// Rows in memory, with a note of the last batch, and something wrong or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Rows and note at once.
    Whole,
    /// The note first, then row after row.
    NoteFirst,
    /// Row after row, then the note.
    NoteLast,
    /// Never looks at the note.
    NoNote,
    /// Takes a batch at its first attempt only.
    FirstAttempt,
}

type Stored = Arc<Mutex<(BatchId, Vec<String>)>>;

struct Memory(Habit, Stored);

impl BatchSink<String> for Memory {
    fn open(&self, _opening: &Opening<'_>) -> Result<(), SinkError> {
        Ok(())
    }

    fn publish(&self, batch: &BatchOutput<'_, String>) -> Result<(), SinkError> {
        let mut stored = lock(&self.1);
        let known = match self.0 {
            Habit::NoNote => false,
            Habit::FirstAttempt => batch.attempt() > 1,
            Habit::Whole | Habit::NoteFirst | Habit::NoteLast => batch.id() <= stored.0,
        };
        if known {
            return Ok(());
        }
        if self.0 == Habit::NoteFirst {
            stored.0 = batch.id();
        }
        if self.0 == Habit::Whole {
            let rows: Vec<String> = batch.rows().cloned().collect();
            stored.1.extend(rows);
        } else {
            batch.rows().for_each(|row| stored.1.push(row.clone()));
        }
        stored.0 = batch.id();
        Ok(())
    }

    fn promise(&self) -> (Promise, &'static str) {
        let promise =
            if self.0 == Habit::Whole { Promise::Idempotent } else { Promise::AtMostOnce };
        (promise, "for tests")
    }
}

struct InMemory(Habit, Stored);

impl SinkUnderTest for InMemory {
    fn attach(&self, rows: &Stream<String>, _disk: &SimDisk) {
        rows.write_to(name!("out"), Memory(self.0, Arc::clone(&self.1)));
    }

    fn visible(&self, _disk: &SimDisk) -> Result<Vec<String>, SinkError> {
        Ok(lock(&self.1).1.clone())
    }
}

fn memory(habit: Habit) -> Certificate {
    let certificate = certify(|| InMemory(habit, Stored::default()));
    println!("{habit:?}: {certificate}");
    certificate
}

#[test]
fn what_a_sink_of_ones_own_keeps_is_found_out() {
    let whole = memory(Habit::Whole);
    whole.require(Promise::Idempotent).unwrap();
    assert_eq!(whole.promise, Some(Promise::Idempotent), "nobody fences it: {whole}");
    // Three that are wrong, each in its way, and one that says so.
    assert_eq!(memory(Habit::NoteLast).promise, Some(Promise::AtLeastOnce));
    assert_eq!(memory(Habit::NoNote).promise, Some(Promise::AtLeastOnce));
    assert_eq!(memory(Habit::NoteFirst).promise, Some(Promise::AtMostOnce));
    assert_eq!(memory(Habit::FirstAttempt).promise, Some(Promise::AtMostOnce));
    for wrong in [Habit::NoteLast, Habit::NoNote, Habit::NoteFirst] {
        let error = memory(wrong).require(Promise::Idempotent).unwrap_err();
        assert!(error.to_string().contains("not Idempotent"), "{error}");
    }
}

/// What a two-phase sink does wrong, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Right,
    /// Does not know what it has published.
    ForgetsPublished,
    /// Shows what it was to hold.
    ShowsPrepared,
    /// Keeps what it was to drop, and publishes it, too.
    KeepsAborted,
}

#[derive(Default)]
struct Held {
    next: u64,
    held: BTreeMap<u64, (BatchId, Vec<String>)>,
    published: Vec<u64>,
    rows: Vec<String>,
}

struct Phases(Phase, Arc<Mutex<Held>>);

impl TwoPhaseSink<String> for Phases {
    fn open(&self, _opening: &Opening<'_>) -> Result<(), SinkError> {
        Ok(())
    }

    fn prepare(&self, batch: &BatchOutput<'_, String>) -> Result<Vec<u8>, SinkError> {
        let rows: Vec<String> = batch.rows().cloned().collect();
        let mut held = lock(&self.1);
        held.next += 1;
        let token = held.next;
        if self.0 == Phase::ShowsPrepared {
            held.rows.extend(rows.clone());
        }
        held.held.insert(token, (batch.id(), rows));
        Ok(token.to_le_bytes().to_vec())
    }

    fn publish(&self, batch: BatchId, token: &[u8]) -> Result<Outcome, SinkError> {
        let token = u64::from_le_bytes(token.try_into()?);
        let mut held = lock(&self.1);
        if held.published.contains(&token) && self.0 != Phase::ForgetsPublished {
            return Ok(Outcome::Published);
        }
        let Some((_, rows)) = held.held.remove(&token) else { return Ok(Outcome::Expired) };
        held.published.push(token);
        if self.0 == Phase::KeepsAborted {
            // Whatever it holds of the batch.
            let others: Vec<u64> = held.held.keys().copied().collect();
            for other in others {
                if held.held[&other].0 == batch {
                    let (_, rows) = held.held.remove(&other).unwrap();
                    held.rows.extend(rows);
                }
            }
        }
        if self.0 != Phase::ShowsPrepared {
            held.rows.extend(rows);
        }
        Ok(Outcome::Published)
    }

    fn abort(&self, batch: BatchId) -> Result<(), SinkError> {
        if self.0 != Phase::KeepsAborted {
            lock(&self.1).held.retain(|_, (id, _)| *id != batch);
        }
        Ok(())
    }
}

struct InPhases(Phase, Arc<Mutex<Held>>);

impl SinkUnderTest for InPhases {
    fn attach(&self, rows: &Stream<String>, _disk: &SimDisk) {
        rows.write_in_two_phases(name!("out"), Phases(self.0, Arc::clone(&self.1)));
    }

    fn visible(&self, _disk: &SimDisk) -> Result<Vec<String>, SinkError> {
        Ok(lock(&self.1).rows.clone())
    }
}

#[test]
fn two_phases_are_certified_and_three_that_are_wrong_are_refused() {
    let new = |phase| move || InPhases(phase, Arc::default());
    let right = certified("two phases", new(Phase::Right));
    let [(_, why)] = &right.broken[..] else { panic!("{right}") };
    assert!(why.contains("taken over"), "whole batches always, and not fenced: {right}");
    for wrong in [Phase::ForgetsPublished, Phase::ShowsPrepared, Phase::KeepsAborted] {
        let certificate = certify(new(wrong));
        println!("{wrong:?}: {certificate}");
        certificate.require(certificate.declared).unwrap_err();
        assert_eq!(certificate.promise, Some(Promise::AtLeastOnce), "{certificate}");
    }
}
