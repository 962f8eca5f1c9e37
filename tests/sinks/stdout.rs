//! Rows on standard output, of a process of their own: what its reader sees.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use sawmill::{
    Delivery, Engine, EngineOptions, ErrorKind, Job, Received, Result, RunOptions, Trigger, name,
};

/// Where the worker works; set for the child process only.
const PLACE: &str = "SAWMILL_STDOUT_WORKER";
const BEGIN: &str = "<rows>";
const END: &str = "</rows>";
const ROWS: u64 = 40;

fn work(place: &Path) -> Result<u64> {
    let engine = Engine::open(place, EngineOptions { threads: 1, ..EngineOptions::default() })?;
    let events = engine.ingest(name!("events"))?;
    if engine.log().replay()?.next().is_none() {
        let rows: Vec<String> = (0..ROWS).map(|row| format!("row {row}")).collect();
        for some in rows.chunks(10) {
            events.append_batch(some)?;
        }
    }
    let (job, ()) = Job::build(name!("print"), |job| {
        job.source(name!("in"), Received::from(&events)).write_stdout(name!("printed"));
    })?;
    assert_eq!(job.guarantees().delivery(), Delivery::AtLeastOnce);
    assert!(job.guarantees().weakest().part.contains("printed"));
    let options = RunOptions {
        trigger: Trigger::AvailableNow { bytes: 1 },
        sink_attempts: 2,
        ..RunOptions::default()
    };
    engine.start(job, options)?.await_termination().map(|done| done.batches)
}

/// The child process: does nothing when the tests are run as usual. Begins when it is told to.
#[test]
fn worker() {
    let Some(place) = std::env::var_os(PLACE) else { return };
    println!("{BEGIN}");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    match work(Path::new(&place)) {
        Ok(batches) => {
            println!("{END}");
            eprintln!("completed {batches}");
        }
        Err(error) => eprintln!("ended: {:?}: {error}", error.kind()),
    }
}

/// A worker that waits for its reader's word.
fn start(place: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "stdout::worker", "--test-threads", "1", "--nocapture"]);
    command.env(PLACE, place).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// What a process prints, and how it says that it ended. Its reader `stays`, or goes away before
/// anything is printed.
fn printed(place: &Path, stays: bool) -> (Vec<String>, String) {
    let mut worker = start(place);
    let mut reader =
        BufReader::new(worker.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    assert!(reader.any(|line| line.ends_with(BEGIN)), "it printed no rows");
    let mut reader = stays.then_some(reader);
    worker.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let rows = reader.iter_mut().flatten().take_while(|line| line != END).collect();
    // To its end, so that it can tell.
    reader.into_iter().flatten().for_each(drop);
    let mut said = String::new();
    worker.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    worker.wait().unwrap();
    (rows, said)
}

fn rows() -> Vec<String> {
    (0..ROWS).map(|row| format!("row {row}")).collect()
}

#[test]
fn rows_are_printed_in_order_and_once_while_nothing_fails() {
    let place = tempfile::tempdir().unwrap();
    let (first, said) = printed(place.path(), true);
    assert_eq!(first, rows(), "{said}");
    assert!(said.contains("completed 4"), "{said}");
    let (again, said) = printed(place.path(), true);
    assert!(again.is_empty() && said.contains("completed 0"), "{again:?} {said}");
}

/// Its reader goes before the first batch: that is not lost, the next process prints it.
#[test]
fn a_reader_that_goes_away_ends_the_job_and_loses_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (_, said) = printed(place.path(), false);
    assert!(said.contains(&format!("ended: {:?}", ErrorKind::SinkFailed)), "{said}");
    let (rows, said) = printed(place.path(), true);
    assert_eq!(rows, self::rows(), "{said}");
}
