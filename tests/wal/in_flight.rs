//! A process is killed with 8 MiB of writes in flight, and another one opens the log at once, with
//! nothing in between, appends, and does not wait for the first to be gone. What is still in flight
//! holds the locks of its files (LOG.md L11), so it lands before recovery reads or not at all:
//! nothing acknowledged is lost, and no LSN is given twice.
//!
//! `SAWMILL_KILLS` sets how many kills (6 by default).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use sawmill::{Wal, WalOptions};

const DIRECTORY: &str = "SAWMILL_TEST_IN_FLIGHT";
const RUN: &str = "SAWMILL_TEST_RUN";
/// With these, 8 MiB are handed over and not yet acknowledged at any moment, on average.
const THREADS: usize = 8;

fn options() -> WalOptions {
    WalOptions { segment_size: 8 << 20, memory: 16 << 20, ..WalOptions::default() }
}

/// A payload of up to 700 KiB that says in its first bytes who appended it.
fn payload(name: &str) -> Vec<u8> {
    let sum: usize = name.bytes().map(usize::from).sum();
    let mut bytes = format!("{name}|").into_bytes();
    bytes.resize(bytes.len() + sum % 8 * 100_000, b'.');
    bytes
}

fn name_of(payload: &[u8]) -> String {
    let end = payload.iter().position(|byte| *byte == b'|').unwrap();
    String::from_utf8(payload[..end].to_vec()).unwrap()
}

/// Not a test by itself: what the killed process does. Each thread submits two records and appends
/// one, and prints what is durable then.
#[test]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let run = std::env::var(RUN).unwrap();
    let wal = Wal::open(directory, options()).unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (wal, run) = (&wal, &run);
            scope.spawn(move || {
                for number in 0_u64.. {
                    let names = [0, 1, 2].map(|part| format!("{run}-{thread}-{number}-{part}"));
                    let first = wal.submit(&payload(&names[0])).unwrap().lsn();
                    let second = wal.submit(&payload(&names[1])).unwrap().lsn();
                    let third = wal.append(&payload(&names[2])).unwrap();
                    let mut text = String::new();
                    for (lsn, name) in [first, second, third].iter().zip(&names) {
                        text.push_str(&format!("ack\t{lsn}\t{name}\n"));
                    }
                    std::io::stdout().lock().write_all(text.as_bytes()).unwrap();
                }
            });
        }
    });
}

/// Runs the child, kills it after about `enough` acknowledgements, opens the log at once, and
/// returns the open log and all that was printed.
fn run_and_kill(directory: &Path, run: u64, enough: usize) -> (Wal, Vec<(u64, String)>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "in_flight::child", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(RUN, run.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
    let mut printed = Vec::new();
    let mut note = |line: Vec<u8>| {
        let line = String::from_utf8(line).unwrap();
        let mut fields = line.split('\t').skip_while(|field| !field.ends_with("ack")).skip(1);
        if let (Some(lsn), Some(name)) = (fields.next(), fields.next()) {
            printed.push((lsn.parse().unwrap(), name.to_owned()));
        }
    };
    for line in lines.by_ref().take(enough) {
        note(line.unwrap());
    }
    thread::sleep(Duration::from_millis(run * 7 % 20));
    child.kill().unwrap();
    let wal = Wal::open(directory, options()).unwrap();
    // What the pipe still holds was acknowledged before the kill.
    let mut rest: Vec<_> = lines.map(|line| line.unwrap()).collect();
    // Only a line that ends with its newline was printed whole.
    let last = rest.pop();
    rest.into_iter().for_each(&mut note);
    drop(last);
    child.wait().unwrap();
    (wal, printed)
}

#[test]
fn kills_with_writes_in_flight_lose_nothing_that_was_acknowledged() {
    let kills = std::env::var("SAWMILL_KILLS").map_or(6, |text| text.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("log");
    let mut total = 0;
    let mut acknowledged: BTreeMap<u64, String> = BTreeMap::new();
    for run in 0..kills {
        let (wal, printed) =
            run_and_kill(&directory, run, 2 + usize::try_from(run * 5 % 31).unwrap());
        let own = format!("{run}-parent");
        let lsn = wal.append(&payload(&own)).unwrap();
        for (lsn, name) in printed.into_iter().chain([(lsn.get(), own)]) {
            total += 1;
            let older = acknowledged.insert(lsn, name.clone());
            assert_eq!(older, None, "LSN {lsn} was given again, to {name}");
        }
        let mut found = BTreeMap::new();
        let mut replay = wal.replay().unwrap();
        while let Some(record) = replay.next() {
            let record = record.unwrap();
            let name = name_of(record.payload);
            assert!(record.payload == payload(&name), "record {} is torn", record.lsn);
            found.insert(record.lsn.get(), name);
        }
        for (lsn, name) in &acknowledged {
            assert_eq!(found.get(lsn), Some(name), "run {run}: LSN {lsn} was acknowledged");
        }
        let mut names: Vec<_> = found.values().collect();
        names.sort();
        assert!(names.windows(2).all(|two| two[0] != two[1]), "a record is there twice");
        drop(replay);
        // Old records are given up, so that the test stays small.
        let start = wal.truncate_before(lsn).unwrap().get();
        acknowledged.retain(|lsn, _| *lsn >= start);
        if run % 2 == 0 {
            wal.close().unwrap();
        }
    }
    println!("{kills} kills, {total} acknowledgements");
    assert!(total > kills, "no kill came after an acknowledgement");
}
