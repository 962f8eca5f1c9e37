//! What the command line says about an engine's checkpoints: whole, damaged, beside a running job.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sawmill::{
    Bytes, Engine, EngineOptions, ErrorKind, Job, Received, RunOptions, StateHandle, Trigger, name,
};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sawmill");

/// Appends the words, counts what is there, and ends; each run leaves a checkpoint.
fn count(place: &Path, words: &[&str]) -> StateHandle<Bytes, u64> {
    let engine = Engine::open(place, EngineOptions::default()).unwrap();
    let (job, counts) = job(&engine);
    let events = engine.ingest(name!("events")).unwrap();
    for word in words {
        events.append(word.as_bytes()).unwrap();
    }
    let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
    let run = engine.start(job, RunOptions { trigger, ..RunOptions::default() }).unwrap();
    run.await_termination().unwrap();
    engine.close().unwrap();
    counts
}

fn job(engine: &Engine) -> (Job, StateHandle<Bytes, u64>) {
    let events = engine.ingest(name!("events")).unwrap();
    Job::build(name!("trees"), |job| {
        let words = job.source(name!("in"), Received::from(&events)).pair_with(|_| 1u64);
        let counts = words.map_with_state::<u64, ()>(name!("counts"), |_word, new, total| {
            *total = Some(total.unwrap_or(0) + new.sum::<u64>());
            None
        });
        counts.state
    })
    .unwrap()
}

fn sawmill(arguments: &[&str], place: &Path) -> (i32, String) {
    let output =
        Command::new(PROGRAM).arg("checkpoint").args(arguments).arg(place).output().unwrap();
    let text = if output.status.code() == Some(2) { &output.stderr } else { &output.stdout };
    (output.status.code().unwrap(), String::from_utf8(text.clone()).unwrap())
}

fn json(arguments: &[&str], place: &Path) -> (i32, Value) {
    let (code, text) = sawmill(arguments, place);
    (code, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

fn files(place: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(place.join("checkpoints")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

fn data_file(place: &Path, number: u64) -> PathBuf {
    place.join("checkpoints").join(format!("{number:020}.ckpt"))
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn checkpoints_are_listed_shown_and_verified_without_a_change() {
    let place = tempfile::tempdir().unwrap();
    count(place.path(), &["oak", "ash", "oak"]);
    count(place.path(), &["elm"]);
    let before = files(place.path());

    let (code, list) = json(&["list", "--json"], place.path());
    assert_eq!((code, &list["sound"]), (0, &Value::from(true)), "{list}");
    let listed = list["checkpoints"].as_array().unwrap();
    let numbers: Vec<_> = listed.iter().map(|one| one["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers.len(), 2, "two are kept: {list}");
    assert!(numbers[0] < numbers[1], "oldest first: {list}");
    assert!(listed.iter().all(|one| one["operators"][0]["keys"].is_null()), "{list}");

    let (code, newest) = json(&["show", "--json"], place.path());
    assert_eq!((code, newest["number"].as_u64().unwrap()), (0, numbers[1]));
    assert_eq!(newest["job"], "trees");
    assert_eq!(newest["operators"][0]["name"], "counts");
    assert_eq!(newest["operators"][0]["keys"], 3, "oak, ash, elm: {newest}");
    assert_eq!(newest["sources"][0], "in");
    assert_eq!(newest["streams"][0]["name"], "events");
    assert_eq!(newest["bytes"], before[&data_file(place.path(), numbers[1])].len());
    let (code, text) = sawmill(&["show"], place.path());
    assert!(code == 0 && text.contains("pins the log from record"), "{text}");

    let (code, text) = sawmill(&["verify"], place.path());
    assert!(code == 0 && text.ends_with("sound\n"), "{text}");
    assert_eq!(files(place.path()), before, "looking changed something");
}

#[test]
fn damage_is_told_with_what_a_start_will_make_of_it() {
    let place = tempfile::tempdir().unwrap();
    count(place.path(), &["oak"]);
    count(place.path(), &["oak", "elm"]);
    let (_, newest) = json(&["show", "--json"], place.path());
    let number = newest["number"].as_u64().unwrap();
    // A byte of state: the index does not show it, reading all does.
    flip(&data_file(place.path(), number), 64 + 24 + 9);
    let (code, list) = json(&["list", "--json"], place.path());
    assert_eq!((code, &list["sound"]), (0, &Value::from(true)));
    let (code, text) = sawmill(&["verify"], place.path());
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&format!("checkpoint {number} of batch")), "{text}");
    assert!(text.contains(&format!("falls back to checkpoint {}", number - 1)), "{text}");
    // It does, and counts the same.
    assert_eq!(count(place.path(), &["oak"]).get(b"oak"), Some(3));
}

#[test]
fn a_damaged_or_lost_manifest_is_damage() {
    let place = tempfile::tempdir().unwrap();
    count(place.path(), &["oak"]);
    count(place.path(), &["oak"]);
    let manifest = place.path().join("checkpoints/MANIFEST");
    flip(&manifest, 70);
    let (code, object) = json(&["verify", "--json"], place.path());
    assert_eq!((code, &object["sound"]), (1, &Value::from(false)));
    assert!(object["error"].as_str().unwrap().contains("MANIFEST"), "{object}");
    fs::remove_file(&manifest).unwrap();
    let (code, text) = sawmill(&["verify"], place.path());
    assert!(code == 1 && text.contains("the manifest was removed"), "{text}");
    let (code, text) = sawmill(&["list"], place.path());
    assert!(code == 2 && text.contains("the manifest was removed"), "{text}");
}

#[test]
fn what_is_not_there_is_said() {
    let place = tempfile::tempdir().unwrap();
    let (code, text) = sawmill(&["list"], &place.path().join("nowhere"));
    assert!(code == 2 && text.contains("nowhere"), "{text}");
    assert_eq!(
        Engine::inspect(place.path().join("nowhere"), true).unwrap_err().kind(),
        ErrorKind::Io
    );
    Engine::open(place.path(), EngineOptions::default()).unwrap().close().unwrap();
    let (code, text) = sawmill(&["show"], place.path());
    assert!(code == 2 && text.contains("those that are kept: none"), "{text}");
    assert_eq!(sawmill(&["verify"], place.path()), (0, "sound\n".to_owned()));
}

fn state(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(PROGRAM).arg("state").args(arguments).output().unwrap();
    let text = if output.status.success() { &output.stdout } else { &output.stderr };
    (output.status.code().unwrap(), String::from_utf8(text.clone()).unwrap())
}

#[test]
fn state_is_shown_key_by_key_from_bases_and_deltas() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().to_str().unwrap();
    let (code, text) = state(&["dump", path, "counts"]);
    assert!(code == 2, "there is no engine: {text}");
    let trees: Vec<String> = (0..30).map(|number| format!("tree-{number}")).collect();
    count(place.path(), &trees.iter().map(String::as_str).collect::<Vec<_>>());
    count(place.path(), &["oak"]);
    count(place.path(), &["oak", "\u{1}"]);
    let before = files(place.path());
    assert!(json(&["show", "--json"], place.path()).1["parent"].is_u64(), "it is a delta");

    assert_eq!(state(&["get", path, "counts", "oak", "--values", "u64"]), (0, "2\n".to_owned()));
    assert_eq!(state(&["get", path, "counts", "0x01", "--values", "u64"]), (0, "1\n".to_owned()));
    assert_eq!(state(&["get", path, "counts", "tree-7"]), (0, "0x01\n".to_owned()));
    assert_eq!(state(&["get", path, "counts", "elm"]).0, 1);
    let (code, text) = state(&["get", path, "counts", "oak", "--values", "text"]);
    assert!(code == 2 && text.contains("not a value of that type"), "{text}");
    let (code, text) = state(&["dump", path, "trees"]);
    assert!(code == 2 && text.contains("[\"counts\"]"), "{text}");

    let (code, text) = state(&["dump", path, "counts", "--values", "u64"]);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!((code, lines.len(), lines[0], lines[1]), (0, 32, "0x01\t1", "oak\t2"));
    let (_, text) = state(&["dump", path, "counts", "--json"]);
    let oak = text.lines().find(|line| line.contains("oak")).unwrap();
    let oak: Value = serde_json::from_str(oak).unwrap();
    assert!(oak["value"] == "0x02" && oak["partition"].is_u64(), "{oak}");
    assert_eq!(files(place.path()), before, "looking changed something");
}

/// A writer removes data files between the reading of the manifest and theirs: that is no damage.
#[test]
fn beside_a_running_job_nothing_is_taken_for_damage() {
    let place = tempfile::tempdir().unwrap();
    let engine = Engine::open(place.path(), EngineOptions::default()).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    let (job, _) = job(&engine);
    let options = RunOptions {
        trigger: Trigger::Bytes(1 << 20),
        checkpoint_interval: Duration::ZERO,
        ..RunOptions::default()
    };
    let run = engine.start(job, options).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 20 {
        events.append(b"oak").unwrap();
        let report = Engine::inspect(place.path(), true).unwrap();
        assert!(report.is_sound(), "{report:?}");
        if seen.last() != Some(&report.manifest) {
            seen.push(report.manifest);
        }
    }
    assert!(seen.is_sorted(), "{seen:?}");
    run.stop().unwrap();
    engine.close().unwrap();
}

/// A savepoint outlives its engine's directory, and a job goes on from it in another one: with the
/// state and the totals, with the new engine's own records from their beginning.
#[test]
fn a_job_goes_on_from_a_savepoint_in_another_directory() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    count(old.path(), &["oak", "ash", "oak"]);
    let savepoint = |arguments: &[&str]| {
        let output = Command::new(PROGRAM).arg("savepoint").args(arguments).output().unwrap();
        let text = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    let place = old.path().to_str().unwrap();
    let (code, text) = savepoint(&["create", place, "first", "--json"]);
    let made: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &made["savepoints"][0]["name"]), (0, &Value::from("first")), "{made}");
    assert_eq!(made["savepoints"][0]["content"]["kept"], false, "it pins nothing: {made}");
    let (code, text) = savepoint(&["create", place, "first"]);
    assert!(code == 2 && text.contains("already"), "{text}");

    // Beside a running job the savepoint has the last completed batch.
    let engine = Engine::open(old.path(), EngineOptions::default()).unwrap();
    let (again, _) = job(&engine);
    let interval = Duration::from_secs(3600);
    let options = RunOptions { checkpoint_interval: interval, ..RunOptions::default() };
    let run = engine.start(again, options).unwrap();
    engine.ingest(name!("events")).unwrap().append(b"elm").unwrap();
    while run.progress().batches == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = run.savepoint("second").unwrap();
    assert_eq!(second.content.unwrap().batch, run.progress().batch);
    run.stop().unwrap();
    engine.close().unwrap();
    let (code, text) = savepoint(&["verify", place]);
    assert_eq!((code, text.lines().count()), (0, 3), "{text}");
    let kept = old.path().join("kept.copy");
    fs::copy(&second.path, &kept).unwrap();
    assert_eq!(savepoint(&["remove", place, "second"]).0, 0);
    assert_eq!(Engine::savepoints(old.path(), true).unwrap().len(), 1);

    for (life, elms) in [(1, 2), (2, 3)] {
        let engine = Engine::open(new.path(), EngineOptions::default()).unwrap();
        // A stream that the first engine has not, so that numbers differ.
        engine.ingest(name!("other")).unwrap();
        engine.ingest(name!("events")).unwrap().append(b"elm").unwrap();
        let (job, counts) = job(&engine);
        let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
        let options = RunOptions { trigger, ..RunOptions::default() };
        // The second time the directory holds the job, and the file is not looked at.
        let file = if life == 1 { kept.clone() } else { old.path().join("nowhere") };
        engine.start_from(job, options, file).unwrap().await_termination().unwrap();
        assert_eq!((counts.get(b"oak"), counts.get(b"elm")), (Some(2), Some(elms)), "life {life}");
        engine.close().unwrap();
    }
    flip(&kept, 64 + 24 + 9);
    let third = tempfile::tempdir().unwrap();
    let engine = Engine::open(third.path(), EngineOptions::default()).unwrap();
    let started = engine.start_from(job(&engine).0, RunOptions::default(), &kept);
    assert_eq!(started.unwrap_err().kind(), ErrorKind::Corrupt);
    engine.close().unwrap();
    assert!(Engine::inspect(third.path(), true).unwrap().checkpoints.is_empty(), "nothing begun");
}
