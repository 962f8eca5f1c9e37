//! sawmill as a program has it that asks for none of its features. The other tests have those that
//! cost nothing, since what a package tests itself with cannot be left out again.
#![cfg(test)]

use std::fs;
use std::path::Path;

use sawmill::{
    Bytes, Engine, EngineOptions, ErrorKind, Job, RunOptions, StateHandle, TextFiles, Trigger, Wal,
    WalOptions, name,
};

fn options() -> WalOptions {
    WalOptions { segment_size: 64 << 10, ..WalOptions::default() }
}

/// It opens, and says at the first frame that is compressed what it takes to read it.
#[test]
fn a_compressed_log_opens_and_names_the_feature_that_reads_it() {
    let place = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/v1/lz4");
    for entry in fs::read_dir(golden).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), place.path().join(entry.file_name())).unwrap();
    }
    let wal = Wal::open(place.path(), options()).unwrap();
    let mut replay = wal.replay().unwrap();
    let mut ends = std::iter::from_fn(|| replay.next().map(|record| record.map(drop)));
    let error = ends.find_map(Result::err).unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("lz4"), "{error}");
}

fn words(text: &Path) -> sawmill::Result<(Job, StateHandle<Bytes, u64>)> {
    Job::build(name!("words"), |job| {
        let lines = job.source(name!("text"), TextFiles::new([text]));
        let words = lines.flat_map_rows::<Bytes>(|line, out| {
            line.split(|byte| *byte == b' ').for_each(|word| out.push(word));
        });
        let counted = words.pair_with(|_word| 1u64).reduce_by_key(|a, b| a + b);
        let totals = counted.map_with_state::<u64, ()>(name!("totals"), |_word, new, total| {
            *total = Some(total.unwrap_or(0) + new.sum::<u64>());
            None
        });
        totals.state
    })
}

#[test]
fn a_job_goes_on_where_it_was() {
    let place = tempfile::tempdir().unwrap();
    let text = place.path().join("text");
    fs::write(&text, "a log is a tree\nthat was a log\n").unwrap();
    for _ in 0..2 {
        let options = EngineOptions { log: options(), ..EngineOptions::default() };
        let engine = Engine::open(place.path().join("data"), options).unwrap();
        let (job, totals) = words(&text).unwrap();
        let trigger = Trigger::AvailableNow { bytes: 8 };
        let run = engine.start(job, RunOptions { trigger, ..RunOptions::default() }).unwrap();
        run.await_termination().unwrap();
        engine.close().unwrap();
        let mut found = Vec::new();
        totals.for_each(|word, total| found.push((word.to_vec(), *total))).unwrap();
        found.sort();
        let wanted = [("a", 3), ("is", 1), ("log", 2), ("that", 1), ("tree", 1), ("was", 1)];
        assert_eq!(found, wanted.map(|(word, total)| (word.as_bytes().to_vec(), total)));
    }
}
