//! `sawmill wal bench` measures in a directory of its own, says what it found, and leaves nothing.

use std::path::Path;
use std::process::{Command, Output};

fn bench(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sawmill"))
        .args(["wal", "bench"])
        .arg(directory)
        .args(["--seconds", "1", "--segment-size", "4194304", "--workload"])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn every_kind_of_work_is_measured_and_checked_beside_the_raw_limit() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let directory = place.path().join("disk");
    let names = ["append/8x100B", "batch/", "inflight/", "bulk/1x1KiB", "replay/4x1KiB"];
    let output = bench(&directory, &[&names[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let workloads = found["workloads"].as_array().unwrap();
    assert_eq!(workloads.len(), names.len());
    for (workload, name) in workloads.iter().zip(names) {
        assert!(workload["workload"].as_str().unwrap().starts_with(name));
        let [raw, sawmill, others @ ..] = &workload["contenders"].as_array().unwrap()[..] else {
            panic!("two contenders: {workload}");
        };
        assert_eq!((&raw["contender"], &sawmill["contender"]), (&"raw".into(), &"sawmill".into()));
        // Only bulk work is shown in new files as well.
        let fresh = others.iter().all(|other| other["contender"] == "fresh");
        assert!(fresh && others.len() == usize::from(name.starts_with("bulk")), "{workload}");
        assert!(sawmill["records_per_second"]["median"].as_f64().unwrap() > 0.0);
        assert!(sawmill["ratio_to_raw"]["quartile_1"].as_f64().unwrap() > 0.0);
    }
    // Eight blocking threads: at most eight records share a durable write, of one block.
    let sawmill = &workloads[0]["contenders"][1];
    let together = sawmill["records_per_flush"].as_f64().unwrap();
    assert!((1.0..=8.0).contains(&together), "{sawmill}");
    let bytes = sawmill["disk_bytes_per_payload_byte"].as_f64().unwrap();
    assert!((bytes * together - 40.96).abs() < 0.01, "{sawmill}");
    // In steady state next to nothing is prepared; in new files each byte is written twice.
    let [_, steady, fresh] = &workloads[3]["contenders"].as_array().unwrap()[..] else {
        panic!("three contenders: {}", workloads[3]);
    };
    let prepared = |one: &serde_json::Value| one["prepared_bytes_per_payload_byte"].as_f64();
    let (steady, fresh) = (prepared(steady).unwrap(), prepared(fresh).unwrap());
    assert!(steady < 0.5 && fresh > 0.5, "{steady} {fresh}");
    assert!(!directory.exists(), "what was made is removed");
}

#[test]
fn a_directory_with_something_in_it_is_left_alone() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::write(place.path().join("letter"), "dear").unwrap();
    let output = bench(place.path(), &["append/1x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not empty"));
    assert_eq!(std::fs::read(place.path().join("letter")).unwrap(), b"dear");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
    let output = bench(&place.path().join("none"), &["nonsense"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("append/64x1KiB"));
    assert!(!place.path().join("none").exists());
}
