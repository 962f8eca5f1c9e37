//! Two sinks on one SQLite file.

use std::path::Path;

use crate::engine_common::*;
use sawmill::testing::{Harness, NoHooks, Step, Stepped};
use sawmill::{ErrorKind, Job, Received, Result, RunOptions, SqliteTable, Trigger, name};

/// Words and their lengths, each into a table of its own in the same file.
fn live(world: &World, path: &Path, end: Option<(Step, u32)>) -> Result<()> {
    let engine = world.engine()?;
    let events = engine.ingest(name!("events"))?;
    if engine.log().replay()?.next().is_none() {
        events.append_batch(&["oak", "larch", "fir", "yew", "alder", "elm"])?;
    }
    let table = |name: &str| {
        let insert = format!("INSERT INTO {name} (value) VALUES (?1)");
        let setup = format!("CREATE TABLE IF NOT EXISTS {name} (n INTEGER PRIMARY KEY, value)");
        SqliteTable::new(path, insert).with_setup(setup)
    };
    let (job, ()) = Job::build(name!("words"), |job| {
        let words = job.source(name!("in"), Received::from(&events));
        words.write_sqlite(name!("words"), table("words"), |word| vec![word.clone().into()]);
        let lengths = words.map(|word| i64::try_from(word.len()).unwrap());
        lengths.write_sqlite(name!("lengths"), table("lengths"), |length| vec![(*length).into()]);
    })
    .unwrap();
    let hooks: Box<dyn sawmill::testing::Hooks> = match end {
        Some((step, number)) => Box::new(CrashAt(step, number)),
        None => Box::new(NoHooks),
    };
    let options = RunOptions { trigger: Trigger::Bytes(6), ..options() };
    let mut harness = Harness::new(&engine, job, options, hooks)?;
    while harness.step()? != Stepped::Idle {}
    harness.finish()
}

fn stored(path: &Path, table: &str) -> Vec<String> {
    let file = rusqlite::Connection::open(path).unwrap();
    let mut rows =
        file.prepare(&format!("SELECT CAST(value AS TEXT) FROM {table} ORDER BY n")).unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

fn is_right(path: &Path) -> bool {
    stored(path, "words") == ["oak", "larch", "fir", "yew", "alder", "elm"]
        && stored(path, "lengths") == ["3", "5", "3", "3", "5", "3"]
}

/// In memory, where there is such a place: it is the process that dies, not the power.
fn place() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap()
}

/// Killed between the two, and between all other steps: one file, two outputs, each row once.
fn killed_between() -> Result<u32, String> {
    let mut states = 0;
    for step in Step::ALL {
        for number in 0.. {
            let (place, world) = (place(), World::new(1));
            let path = place.path().join("out.db");
            if live(&world, &path, Some((step, number))).is_ok() {
                break;
            }
            let world = world.with_disk(world.disk.kill());
            live(&world, &path, None).map_err(|error| error.to_string())?;
            if !is_right(&path) {
                return Err(format!("{step:?} number {number}: {:?}", stored(&path, "lengths")));
            }
            states += 1;
        }
    }
    Ok(states)
}

#[test]
fn two_sinks_on_one_sqlite_file_survive_a_kill_between_them() {
    assert!(killed_between().unwrap() > 15);
}

#[cfg(feature = "planted")]
#[test]
fn planted_sink_without_name_is_caught() {
    use sawmill::planted::{Bug, with_planted};
    // The second sink's batches are taken for the first one's.
    with_planted(Bug::SinkWithoutName, killed_between).unwrap_err();
}

#[test]
fn an_older_copy_of_the_file_is_refused_and_a_bad_statement_named() {
    let (place, world) = (tempfile::tempdir().unwrap(), World::new(1));
    let path = place.path().join("out.db");
    live(&world, &path, None).unwrap();
    std::fs::remove_file(&path).unwrap();
    let error = live(&world.with_disk(world.disk.kill()), &path, None).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::JobMismatch, Some(path.as_path())));
    let engine = World::new(2).engine().unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    let (job, ()) = Job::build(name!("words"), |job| {
        let words = job.source(name!("in"), Received::from(&events));
        words.write_sqlite(name!("none"), SqliteTable::new(&path, "INSERT INTO none"), |_| vec![]);
    })
    .unwrap();
    events.append(b"oak").unwrap();
    let options = RunOptions { sink_attempts: 1, ..options() };
    let mut harness = Harness::new(&engine, job, options, Box::new(NoHooks)).unwrap();
    let error = harness.step().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SinkFailed);
    assert!(error.to_string().contains("SQLite refused a row"), "{error}");
}
