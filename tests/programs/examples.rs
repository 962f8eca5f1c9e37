//! The examples do what they say.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::example;

const SENSORS: [&str; 4] = ["attic", "cellar", "garden", "kitchen"];

fn command(directory: &std::path::Path) -> Command {
    let mut command = Command::new(example("ingest"));
    command.arg(directory).stdin(Stdio::null());
    command
}

/// What it prints when it ends undisturbed: per sensor the readings so far, and their mean.
fn ingest(directory: &std::path::Path) -> Vec<(u64, String)> {
    let output = command(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), SENSORS.len(), "{said}");
    let figures = lines.iter().zip(SENSORS).map(|(line, sensor)| {
        let rest = line.strip_prefix(sensor).unwrap().strip_prefix(": ").unwrap();
        let (count, mean) = rest.split_once(" readings, mean ").unwrap();
        (count.parse().unwrap(), mean.to_owned())
    });
    figures.collect()
}

#[test]
fn ingest_counts_each_acknowledged_reading_once_through_a_kill() {
    let place = tempfile::tempdir().unwrap();
    assert_eq!(ingest(place.path()), vec![(500, "250.5".to_owned()); 4]);
    assert_eq!(ingest(place.path()), vec![(1000, "250.5".to_owned()); 4]);
    let mut child = command(place.path()).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    child.kill().unwrap();
    child.wait().unwrap();
    for (count, _) in ingest(place.path()) {
        assert!((1500..=2000).contains(&count), "{count}");
    }
}

#[test]
fn ingest_without_a_directory_says_so() {
    let output = Command::new(example("ingest")).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("which directory"));
}

#[test]
fn log_analytics_names_the_worst_and_counts_what_is_no_line() {
    let place = tempfile::tempdir().unwrap();
    let line = |address: &str, status: u16| {
        format!("{address} - - [21/Nov/2026:04:45:14 +0000] \"GET /a HTTP/1.1\" {status} 512\n")
    };
    let mut paths = Vec::new();
    for file in 0..3 {
        let mut text = String::from("not a line\n");
        for number in 0..30 {
            text += &line(&format!("203.0.113.{number}"), if number < 12 { 503 } else { 200 });
            text += &line("198.51.100.7", 500);
            text += &line("192.0.2.1", if number % 3 == 0 { 502 } else { 404 });
        }
        paths.push(place.path().join(format!("{file}.log")));
        std::fs::write(&paths[file], text).unwrap();
    }
    let output = Command::new(example("log_analytics")).args(&paths).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 10, "{said}");
    assert_eq!(lines[0], "      90 198.51.100.7 (Oak & Ash)");
    assert_eq!(lines[1], "      30 192.0.2.1 (unknown)");
    assert_eq!(lines[2], "       3 203.0.113.0 (Harbour Mills)");
    assert!(String::from_utf8_lossy(&output.stderr).contains("3 lines are no lines"));
}
