//! Acknowledged means on disk: the built command line is killed at random moments, and what it had
//! printed by then must be there, once, under the LSN it printed.
//!
//! `SAWMILL_KILLS` sets how many kills (8 by default, 200 before a release), `SAWMILL_SEED` the
//! moments; the seed is printed first.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sawmill");
/// Kills that one directory has to survive, one after the other.
const KILLS_PER_LOG: u64 = 10;

/// Numbers that are random enough, from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = std::env::var("SAWMILL_SEED").map_or_else(|_| now(), |text| text.parse().unwrap());
    println!("SAWMILL_SEED={seed}");
    seed
}

fn kills() -> u64 {
    std::env::var("SAWMILL_KILLS").map_or(8, |text| text.parse().unwrap())
}

fn start(directory: &Path, bug: Option<&str>) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(["wal", "append", "--threads", "8", "--print-acks", "--segment-size", "131072"]);
    command.arg(directory).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some(bug) = bug {
        command.env("SAWMILL_PLANTED", bug);
    }
    command.spawn().unwrap()
}

/// Feeds unique lines for a while, kills, and returns what was printed whole: LSN and line.
fn run_and_kill(
    directory: &Path,
    run: u64,
    random: &mut Random,
    bug: Option<&str>,
) -> Vec<(u64, String)> {
    let mut child = start(directory, bug);
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let width = 1 + usize::try_from(random.below(300)).unwrap();
    let feeder = thread::spawn(move || {
        for number in 0u64.. {
            // Fails when the process is gone.
            if writeln!(stdin, "{run}-{number}-{:width$}|", "").is_err() {
                break;
            }
        }
    });
    // Odd runs die at a moment from their start, where recovery and preparation run; even ones
    // behind a number of acknowledgements, however slow the machine is.
    let mut enough = random.below(3000);
    if run % 2 == 1 {
        enough = u64::MAX;
        thread::sleep(Duration::from_micros(random.below(60_000)));
        child.kill().unwrap();
    }
    let mut printed = Vec::new();
    let mut line = String::new();
    while stdout.read_line(&mut line).unwrap() > 0 {
        if let Some(text) = line.strip_suffix('\n') {
            let (lsn, text) = text.split_once('\t').unwrap();
            printed.push((lsn.parse().unwrap(), text.to_owned()));
        }
        if printed.len() as u64 > enough {
            enough = u64::MAX;
            child.kill().unwrap();
        }
        line.clear();
    }
    child.wait().unwrap();
    feeder.join().unwrap();
    printed
}

fn cat(directory: &Path) -> BTreeMap<u64, String> {
    let output = Command::new(PROGRAM).args(["wal", "cat"]).arg(directory).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "wal cat failed: {errors}");
    let mut records = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (lsn, text) = line.split_once('\t').unwrap();
        let twice = records.insert(lsn.parse().unwrap(), text.to_owned());
        assert_eq!(twice, None, "LSN {lsn} is there twice");
    }
    records
}

/// What is wrong with `records`, if every one in `printed` must be among them.
fn judge(records: &BTreeMap<u64, String>, printed: &BTreeMap<u64, String>) -> Result<(), String> {
    for (lsn, line) in printed {
        match records.get(lsn) {
            Some(found) if found == line => {}
            Some(found) => return Err(format!("LSN {lsn} holds {found:?}, printed {line:?}")),
            None => return Err(format!("LSN {lsn} ({line:?}) was acknowledged and is gone")),
        }
    }
    let mut lines: Vec<_> = records.values().collect();
    lines.sort();
    match lines.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("{:?} is there twice", pair[0])),
        None => Ok(()),
    }
}

/// Kills `kills` times; returns how many records were acknowledged, or what was wrong.
fn campaign(kills: u64, bug: Option<&str>) -> Result<usize, String> {
    let mut random = Random(seed());
    let mut acknowledged = 0;
    for first in (0..kills).step_by(KILLS_PER_LOG as usize) {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("log");
        let mut printed = BTreeMap::new();
        for run in first..kills.min(first + KILLS_PER_LOG) {
            for (lsn, line) in run_and_kill(&directory, run, &mut random, bug) {
                if let Some(older) = printed.insert(lsn, line.clone()) {
                    return Err(format!("LSN {lsn} was printed for {older:?} and {line:?}"));
                }
            }
            // A kill before the directory was made leaves nothing to read.
            if directory.is_dir() {
                judge(&cat(&directory), &printed)?;
            }
        }
        acknowledged += printed.len();
    }
    Ok(acknowledged)
}

#[test]
fn every_printed_record_survives_the_kill_once() {
    let acknowledged = campaign(kills(), None).unwrap();
    println!("{acknowledged} records were acknowledged and are there");
    assert!(acknowledged > 0, "no kill came after an acknowledgement");
}

#[test]
#[cfg(feature = "planted")]
fn planted_acknowledge_at_submit_is_caught_by_kills() {
    let found = campaign(40, Some("acknowledge-at-submit"));
    println!("found: {found:?}");
    assert!(found.is_err(), "40 kills did not show that appends are acknowledged too early");
}
