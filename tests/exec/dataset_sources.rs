//! Files and ranges of the log as datasets: the same rows for any cut and any number of threads,
//! and explained down to bytes and records.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;

use sawmill::{
    Dataset, Engine, EngineOptions, ErrorKind, Executor, Kv, Lost, LsnRange, TextFiles, name,
};

fn counts(lines: &Dataset<sawmill::Bytes>) -> Dataset<Kv<String, u64>> {
    lines
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .pair_with(|_| 1u64)
        .reduce_by_key(|a, b| a + b)
}

#[test]
fn lines_are_the_same_for_any_cut_and_threads() {
    let place = tempfile::tempdir().unwrap();
    let mut texts = [String::new(), String::new(), String::new()];
    for number in 0..900 {
        writeln!(texts[number % 3], "line {} {}", number % 17, "x".repeat(number % 40)).unwrap();
    }
    texts[2].push_str("without an end");
    let mut paths = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        paths.push(place.path().join(format!("{number}.txt")));
        std::fs::write(&paths[number], text).unwrap();
    }
    let expected: Vec<Vec<u8>> =
        texts.iter().flat_map(|text| text.lines()).map(|line| line.as_bytes().to_vec()).collect();
    for (partition_bytes, threads) in [(1, 1), (100, 3), (5_000, 8), (u64::MAX, 2)] {
        let executor = Executor::new(threads, 4).unwrap();
        let lines = TextFiles::new(paths.clone()).dataset(partition_bytes).unwrap();
        let run = executor.context();
        assert_eq!(executor.collect(&run, &lines).unwrap(), expected);
        let counts = counts(&lines);
        let all = executor.collect(&run, &counts).unwrap();
        run.drop_partition(counts.shuffle().unwrap(), Lost::Partition(0));
        run.drop_partition(counts.operator(), Lost::All);
        let text = counts.explain(&run, 1).unwrap();
        assert!(text.contains("0.txt bytes 0.."), "{text}");
        assert_eq!(executor.collect(&run, &counts).unwrap(), all);
    }
}

#[test]
fn a_file_that_changes_between_two_readings_is_noticed() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.txt");
    std::fs::write(&path, "oak\nash\n").unwrap();
    let executor = Executor::new(1, 1).unwrap();
    let lines = TextFiles::new([&path]).dataset(100).unwrap();
    assert_eq!(lines.count(&executor).unwrap(), 2);
    std::fs::write(&path, "oak\nash\nelm\n").unwrap();
    let error = lines.count(&executor).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged);
    assert!(error.to_string().contains("a.txt"), "{error}");
    let missing = TextFiles::new([place.path().join("b.txt")]).dataset(1).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Io);
}

#[test]
fn a_range_of_the_log_is_a_dataset_as_long_as_it_lives() {
    let place = tempfile::tempdir().unwrap();
    let engine = Engine::open(place.path(), EngineOptions::default()).unwrap();
    let (trees, birds) =
        (engine.ingest(name!("trees")).unwrap(), engine.ingest(name!("birds")).unwrap());
    let first = trees.append(b"oak").unwrap();
    birds.append(b"owl").unwrap();
    let last = trees.append(b"ash").unwrap();
    let range = LsnRange::between(first, last);
    for (partitions, threads) in [(1, 1), (2, 3), (9, 2)] {
        let executor = Executor::new(threads, 4).unwrap();
        let all = engine.log().dataset(range, partitions).unwrap();
        assert_eq!(all.collect(&executor).unwrap(), [b"oak", b"owl", b"ash"]);
        let some = trees.dataset(range, partitions).unwrap();
        assert_eq!(some.collect(&executor).unwrap(), [b"oak", b"ash"]);
        let text = some.explain(&executor.context(), partitions - 1).unwrap();
        assert!(text.contains(&format!("..={last} of the log")), "{text}");
    }
    let kept = trees.dataset(range, 1).unwrap();
    assert!(engine.log().pins().iter().any(|(_, lsn)| *lsn == first));
    drop(kept);
    assert!(engine.log().pins().is_empty());
    let beyond = LsnRange::between(first, last.next().next());
    assert_eq!(engine.log().dataset(beyond, 1).unwrap_err().kind(), ErrorKind::Invalid);
}
