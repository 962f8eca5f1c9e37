//! The command line's tools, as a user calls them: on whole, damaged and repaired logs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sawmill");
const BLOCK: usize = 4096;
/// What a build with planted bugs says first.
const PLANTED: &str = "sawmill: PLANTED BUGS ARE COMPILED IN: NOT FOR DATA YOU NEED\n";

fn sawmill(arguments: &[&str], directory: &Path) -> Output {
    Command::new(PROGRAM).args(arguments).arg(directory).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ok(arguments: &[&str], directory: &Path) -> String {
    let output = sawmill(arguments, directory);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn json(arguments: &[&str], directory: &Path) -> (i32, Value) {
    let output = sawmill(arguments, directory);
    let value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", text(&output.stderr)));
    (output.status.code().unwrap(), value)
}

/// A log of `count` lines `line N`, one frame each, closed cleanly.
fn log(directory: &Path, count: u32) {
    let mut command = Command::new(PROGRAM);
    command.args(["wal", "append", "--segment-size", "65536"]).arg(directory);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for number in 1..=count {
        writeln!(stdin, "line {number}").unwrap();
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

fn segment(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:020}.seg"))
}

/// Damages the frame that holds this line.
fn damage(directory: &Path, line: &str) {
    let wanted = format!("\0{line}\0");
    for number in 1.. {
        let path = segment(directory, number);
        let mut bytes = fs::read(&path).unwrap();
        let found = bytes.windows(wanted.len()).position(|bytes| bytes == wanted.as_bytes());
        if let Some(at) = found {
            bytes[at + 1] ^= 1;
            fs::write(&path, bytes).unwrap();
            return;
        }
    }
}

/// Every file below a directory with its bytes, but the lock.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.is_file() && !path.ends_with("LOCK"));
    let mut files: Vec<_> = files.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn a_sound_log_is_verified_and_inspected() {
    let place = tempfile::tempdir().unwrap();
    log(place.path(), 40);
    let before = contents(place.path());
    let said = ok(&["wal", "verify"], place.path());
    assert!(said.contains("records 1..40") && said.contains("sound, closed cleanly"), "{said}");
    let (code, report) = json(&["wal", "verify", "--json"], place.path());
    assert_eq!((code, &report["sound"], &report["last_lsn"]), (0, &true.into(), &40.into()));
    let (code, report) = json(&["wal", "inspect", "--json"], place.path());
    assert_eq!((code, &report["epochs"][0]["epoch"]), (0, &1.into()));
    let segments = report["segments"].as_array().unwrap();
    let records: u64 = segments.iter().map(|one| one["records"].as_u64().unwrap()).sum();
    assert_eq!((records, segments[0]["state"].as_str()), (40, Some("sealed")));
    assert!(report["waste"].as_f64().unwrap() > 100.0, "a lone line costs a block");
    let said = ok(&["wal", "inspect"], place.path());
    assert!(said.contains("closed cleanly: yes") && said.contains("waste:"), "{said}");
    assert!(before == contents(place.path()), "looking changed something");
}

#[test]
fn damage_is_named_and_repaired_by_its_exact_name() {
    let place = tempfile::tempdir().unwrap();
    log(place.path(), 40);
    damage(place.path(), "line 7");
    damage(place.path(), "line 20");
    let before = contents(place.path());
    let output = sawmill(&["wal", "verify"], place.path());
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        "lost: records 7..7",
        "intact before: through record 6",
        "intact behind: from record 8",
        "--accept-loss 7..7 --accept-loss 20..20",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (code, report) = json(&["wal", "verify", "--json"], place.path());
    assert_eq!((code, report["damages"].as_array().unwrap().len()), (1, 2));
    assert_eq!(report["damages"][1]["lost"]["first"], 20);
    for wrong in [&["7..7"][..], &["7..8", "20..20"], &["none"], &["1..40"]] {
        let mut arguments = vec!["wal", "repair"];
        wrong.iter().for_each(|range| arguments.extend(["--accept-loss", range]));
        let output = sawmill(&arguments, place.path());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        let said = text(&output.stderr);
        assert!(said.contains("7..7") && said.contains("20..20"), "{wrong:?}: {said}");
        assert!(before == contents(place.path()), "{wrong:?}: refused, and something changed");
    }
    let right = ["wal", "repair", "--accept-loss", "7..7", "--accept-loss", "20..20"];
    let said = ok(&right, place.path());
    assert!(said.contains("lost: record 7\nlost: record 20\n"), "{said}");
    let kept = said.lines().filter_map(|line| line.strip_prefix("kept: "));
    let kept: Vec<_> = kept.map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(kept.len(), 2);
    assert!(kept.iter().all(|bytes| bytes.len() == BLOCK && bytes.starts_with(b"FRAM")));
    let said = ok(&["wal", "verify"], place.path());
    assert!(said.contains("lost: records 7..7, given up by a repair"), "{said}");
    let output = sawmill(&["wal", "cat"], place.path());
    let (shown, told) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && shown.lines().count() == 38, "{told}");
    assert!(!shown.contains("7\tline 7\n") && shown.contains("8\tline 8\n"), "{shown}");
    assert!(told.contains("(records 7..=7)") && told.contains("(records 20..=20)"), "{told}");
    assert!(ok(&right, place.path()).contains("nothing is damaged"));
}

#[test]
fn verify_says_what_it_cannot_look_at() {
    let place = tempfile::tempdir().unwrap();
    let empty = place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for missing in [&empty, &place.path().join("nowhere")] {
        let output = sawmill(&["wal", "verify"], missing);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    }
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "looking makes nothing");
    let repair = sawmill(&["wal", "repair", "--accept-loss", "none"], &empty);
    assert_eq!(repair.status.code(), Some(2));
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "a refused repair makes nothing");
    let lost = place.path().join("lost");
    log(&lost, 3);
    fs::write(lost.join("LOG"), [0; 8192]).unwrap();
    let output = sawmill(&["wal", "verify"], &lost);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("LOG is lost"), "{}", text(&output.stdout));
}

/// What broke: `sawmill doctor . | head -1` panicked, for `println!` does when nobody reads on, and
/// the exit code was 101. Now whatever is printed ends quietly, with the code that it would have.
#[test]
fn who_stops_reading_what_is_printed_gets_no_panic() {
    let place = tempfile::tempdir().unwrap();
    log(place.path(), 3);
    let gone = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg(place.path()).stdout(writer).stdin(Stdio::null());
        let output = command.stderr(Stdio::piped()).output().unwrap();
        (output.status.code(), text(&output.stderr).replace(PLANTED, ""))
    };
    let quiet = |code| (Some(code), String::new());
    for arguments in [
        &["doctor"] as &[&str],
        &["doctor", "--json"],
        &["wal", "cat"],
        &["wal", "verify"],
        &["wal", "inspect"],
        &["wal", "inspect", "--json"],
    ] {
        assert_eq!(gone(arguments), quiet(0), "{arguments:?}");
    }
    // An unread acknowledgement is an error: the lines behind it are not in the log.
    let mut command = Command::new(PROGRAM);
    command.args(["wal", "append", "--print-acks"]).arg(place.path());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdin(Stdio::piped()).stdout(writer).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(command);
    writeln!(child.stdin.take().unwrap(), "line 4").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("record 4 cannot be acknowledged"), "{said}");
    damage(place.path(), "line 2");
    assert_eq!(gone(&["wal", "verify"]), quiet(1));
}

#[test]
fn doctor_says_what_works_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let said = ok(&["doctor"], place.path());
    assert!(said.contains("works here and is taken") && said.contains("none yet"), "{said}");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "something stays");
    log(place.path(), 5);
    let before = contents(place.path());
    let (code, report) = json(&["wal", "doctor", "--json"], place.path());
    let findings = report["findings"].as_array().unwrap();
    let has = |topic: &str, part: &str| {
        findings.iter().any(|one| {
            one["topic"] == topic && one["text"].as_str().is_some_and(|text| text.contains(part))
        })
    };
    assert_eq!(code, 0);
    assert!(has("log", "records 1..5") && has("log", "closed cleanly"), "{report}");
    assert!(has("lock", "nobody writes here") && has("space", "bytes free"), "{report}");
    assert!(before == contents(place.path()), "doctor changed something");
    let wal = sawmill::Wal::open(place.path(), sawmill::WalOptions::default()).unwrap();
    let said = ok(&["doctor"], place.path());
    let holder = format!("held by process {}", std::process::id());
    assert!(said.contains(&holder) && said.contains("how far the log is durable"), "{said}");
    drop(wal);
    let output = sawmill(&["doctor"], &place.path().join("nowhere"));
    assert_eq!(output.status.code(), Some(2));
    if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
        let said = ok(&["doctor"], memory.path());
        assert!(said.contains("warning  file system  tmpfs"), "{said}");
    }
}
