//! Kills a real process that counts words, over and over, and compares what it prints in the end
//! with a count that was never disturbed.
//!
//! The ignored test does it over 1 GiB with 20 kills: for release builds (`just kill-long`).

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::*;

#[test]
fn counts_like_the_model_and_a_finished_job_reads_nothing_again() {
    let (first, second) = (text(1, 300_000), b"the end of a file\nends a wo".as_slice());
    let job = job(&[&first, second, b"rd", b""]);
    let expected = expected(&[&first, second, b"rd"]);

    let output = job.run(&["--threads", "2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, expected);
    let bytes = first.len() + second.len() + 2;
    let done = format!("bytes_read={bytes} input_bytes={bytes} recovered_batch=none");
    assert!(last_line(&output).starts_with("done: batches="), "{}", last_line(&output));
    assert!(last_line(&output).ends_with(&done), "{}", last_line(&output));

    // One line for each batch, each with what was read.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let batches = figure(&last_line(&output), "batches").unwrap();
    for number in 1..=batches {
        assert!(said.lines().any(|line| batch(line) == number), "batch {number}: {said}");
    }
    for line in said.lines().filter(|line| !line.starts_with("done:")) {
        let (_, read) = line.rsplit_once(" bytes_read=").expect(line);
        assert!(read.parse::<u64>().is_ok(), "{line}");
    }

    let again = job.run(&[]);
    assert_eq!(again.stdout, expected);
    let done = format!(" bytes_read=0 input_bytes={bytes} recovered_batch={batches}");
    assert!(last_line(&again).ends_with(&done), "{}", last_line(&again));
}

/// What the shell makes of it: `for f in README.md docs/*.md; do cat "$f"; echo; done |
/// LC_ALL=C tr -s ' \t\n\v\f\r' '\n' | LC_ALL=C grep -av '^$' | LC_ALL=C sort | LC_ALL=C uniq -c |
/// LC_ALL=C sed -E 's/^ *([0-9]+) /\1\t/' | LC_ALL=C sort -t"$(printf '\t')" -k1,1nr -k2`
#[test]
fn counts_our_own_documents_like_the_shell() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("README.md")];
    for entry in fs::read_dir(root.join("docs")).unwrap() {
        paths.push(entry.unwrap().path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    assert!(paths.len() > 3);
    let texts: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
    let paths: Vec<&str> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(run(&paths).stdout, expected(&texts));
}

#[test]
fn a_file_named_twice_counts_twice_and_a_temporary_run_leaves_nothing() {
    let words = text(2, 10_000);
    let job = job(&[&words]);
    let temporary = tempfile::tempdir().unwrap();
    let run = |files: &[&str]| {
        let mut command = Command::new(example("word_count"));
        command.args(files).env("TMPDIR", temporary.path()).stdin(Stdio::null()).output().unwrap()
    };
    let output = run(&[&job.files[0], &job.files[0]]);
    assert_eq!(output.stdout, expected(&[&words, &words]));
    assert!(last_line(&output).starts_with("done: batches="));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("--data"), "says how to make a run resumable: {said}");
    assert_eq!(run(&[&job.files[0], &job.data]).status.code(), Some(2));
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "left behind");
}

#[test]
fn a_changed_or_grown_or_vanished_file_is_named_and_nothing_is_printed() {
    type Change = fn(&str);
    let changes: [Change; 3] = [
        |path| fs::write(path, text(4, 400_001)).unwrap(),
        |path| {
            let mut grown = fs::read(path).unwrap();
            grown.extend(b"more\n");
            fs::write(path, grown).unwrap();
        },
        |path| fs::remove_file(path).unwrap(),
    ];
    for change in changes {
        let job = job(&[&text(3, 400_000)]);
        job.kill_after_a_batch(&["--rate", "2000"]);
        change(&job.files[0]);
        let output = job.run(&[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&job.files[0]), "{said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_bad_argument_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    for arguments in [vec![], vec![path], vec!["/no/such/file"], vec!["--rate", "x", path]] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.is_empty() && !said.contains("panicked"), "{arguments:?}: {said}");
    }
}

/// Kills `kills` times, each after a life drawn from `lives` milliseconds, then lets the job
/// finish. Returns all bytes read, by all runs.
fn kill_and_finish(job: &Job, options: &[&str], kills: u32, lives: (u64, u64)) -> (u64, Output) {
    let mut random = Random(7);
    let (mut bytes, mut killed, mut told) = (0, 0, 0);
    for _ in 0..kills {
        let life = Duration::from_millis(lives.0 + random.below(lives.1 - lives.0));
        let (finished, said) = job.kill_after(options, life);
        let last = said.last().cloned().unwrap_or_default();
        println!("killed after {life:?} (finished: {finished}): {last}");
        assert!(!said.iter().any(|line| line.contains("panicked")), "{said:?}");
        bytes += bytes_read(said.iter().map(String::as_str));
        killed += u32::from(!finished);
        // A later run may never be behind an earlier one, but for the completion in flight.
        let reached = said.iter().map(|line| batch(line)).max().unwrap_or(0);
        assert!(reached == 0 || reached + 1 >= told, "batch {reached} after {told}");
        told = told.max(reached);
    }
    let output = job.run(&["--threads", "2"]);
    println!("{}", last_line(&output));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(killed > 0, "no run was killed in time: the test has shown nothing");
    let recovered = figure(&last_line(&output), "recovered_batch").unwrap_or(0);
    assert!(recovered + 1 >= told, "batch {told} was told of, and {recovered} recovered");
    (bytes + bytes_read(String::from_utf8_lossy(&output.stderr).lines()), output)
}

#[test]
fn killed_again_and_again_it_counts_each_word_once() {
    let words = text(5, 2_000_000);
    let job = job(&[&words[..900_000], &words[900_000..]]);
    let (_, output) = kill_and_finish(&job, &["--rate", "25000"], 6, (150, 900));
    assert_eq!(output.stdout, expected(&[&words[..900_000], &words[900_000..]]));
}

#[test]
#[ignore = "reads 1 GiB for a minute; `just kill-long` runs it"]
fn killed_twenty_times_over_a_gibibyte_it_reads_little_again() {
    let words = text(6, 1 << 30);
    let job = job(&[&words]);
    let lines = words.iter().filter(|byte| **byte == b'\n').count();
    let rate = (lines / 60).to_string();
    let (bytes, output) = kill_and_finish(&job, &["--rate", &rate], 20, (200, 5000));
    assert!(output.stdout == expected(&[&words]), "counts differ");
    let ratio = bytes as f64 / words.len() as f64;
    println!("bytes read by all runs: {bytes}, {ratio:.3} of the input");
    assert!(ratio < 1.3, "{ratio}");
}
