//! A lone append is one durable write and nothing else: counted by `strace`, as the difference
//! between a process that appends a few records more and one that does not.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sawmill");
/// Appends that the second process does more.
const MORE: u64 = 50;

/// Calls by name of a process that appends `records` lines with one thread, or `None` if `strace`
/// is not there or may not trace.
fn calls(backend: &str, records: u64) -> Option<BTreeMap<String, u64>> {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let counts = place.path().join("counts");
    let mut child = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&counts)
        .args([PROGRAM, "wal", "append", "--segment-size", "4194304"])
        .arg(place.path().join("log"))
        .env("SAWMILL_BACKEND", backend)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take()?;
    await_preparation(&place.path().join("log"));
    for number in 0..records {
        // A failure shows in the exit code.
        writeln!(stdin, "record {number}").ok()?;
    }
    drop(stdin);
    child.wait().unwrap().success().then_some(())?;
    Some(parse(&counts))
}

/// Waits until the spare and the reserve are prepared, which is done beside the appends and would
/// be counted in one run and not in the other. Their header is written last but for a sync of the
/// directory. Where something goes wrong the counts will tell.
fn await_preparation(log: &Path) {
    let reserve = log.join(format!("{:020}.seg", 3));
    for _ in 0..500 {
        std::thread::sleep(Duration::from_millis(10));
        let mut magic = [0; 8];
        let read = std::fs::File::open(&reserve).and_then(|mut file| file.read_exact(&mut magic));
        if read.is_ok() && &magic == b"SAWMSEG1" {
            break;
        }
    }
    std::thread::sleep(Duration::from_millis(100));
}

/// How often the threads called what: all but the first, which opens and closes the log, and the
/// one that prepares segments beside the appends.
fn parse(path: &Path) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(path).unwrap();
    // A line is the thread's number, then the call; the end of one that another interrupted
    // begins with `<...`.
    let calls: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let (thread, call) = line.split_once(' ')?;
            let (name, arguments) = call.trim_start().split_once('(')?;
            let named = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            named.then_some((thread, name, arguments))
        })
        .collect();
    let first = calls.first().map(|(thread, _, _)| *thread);
    let preparing: BTreeSet<_> = calls
        .iter()
        .filter(|(_, name, arguments)| *name == "prctl" && arguments.contains("\"sawmill-prepare"))
        .map(|(thread, _, _)| *thread)
        .collect();
    assert!(!preparing.is_empty(), "the thread that prepares has a name: {}", path.display());
    let mut counts = BTreeMap::new();
    let others = |thread: &str| Some(thread) != first && !preparing.contains(thread);
    for (_, name, _) in calls.iter().filter(|(thread, _, _)| others(thread)) {
        *counts.entry((*name).to_owned()).or_default() += 1;
    }
    counts
}

fn check(backend: &str, write: &str) {
    let (Some(few), Some(many)) = (calls(backend, 10), calls(backend, 10 + MORE)) else {
        println!(
            "SKIPPED: strace is not installed, may not trace, or {backend} does not work here"
        );
        return;
    };
    let more = |name: &str| {
        let count = |calls: &BTreeMap<String, u64>| calls.get(name).copied().unwrap_or(0);
        count(&many).saturating_sub(count(&few))
    };
    println!("{MORE} appends more with {backend}: {} {write}", more(write));
    assert_eq!(more(write), MORE, "one durable write for each append: {many:?}");
    for sync in ["fsync", "fdatasync", "sync_file_range", "msync"] {
        assert_eq!(more(sync), 0, "{sync} on the commit path: {many:?}");
    }
}

#[test]
fn a_lone_append_is_one_pwritev2_and_no_sync() {
    check("pwrite", "pwritev2");
}

#[test]
fn a_lone_append_is_one_io_uring_enter_and_no_sync() {
    check("uring", "io_uring_enter");
}
