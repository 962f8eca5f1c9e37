//! The operators of datasets as streams have them: the same, within a batch, whatever the threads.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sawmill::{
    Engine, EngineOptions, Job, RunOptions, StorageLevel, TextFiles, Trigger, WalOptions, name,
};

/// Every line of the text is a word.
fn job(input: &Path, out: &Path) -> Job {
    let built = Job::build(name!("operators"), |job| {
        let words = job.source(name!("files"), TextFiles::new([input]));
        let words = words.repartition(3);
        let counts = words.count_by_value();
        let lengths = words.distinct().pair_with(|word: &&[u8]| word.len() as u64);
        let initials = words.map_to_pair(|word| (word.to_vec(), word[0] as char));
        let initials = initials.group_by_key().map_values(|all| all.into_iter().collect());
        let long = lengths.filter(|(_, length)| *length > 3);
        let both = counts.join(&lengths).left_outer_join(&long);
        let both = both.map_to_pair(|(word, row)| (word.to_vec(), row));
        let all = both.full_outer_join(&initials);
        let rows = all.sort_by_key().map(|(word, (row, initials))| {
            let ((count, length), long) = row.unwrap();
            let initials: String = initials.unwrap();
            (String::from_utf8(word).unwrap(), count, length, long, initials)
        });
        rows.write_json_lines(name!("out"), out);
        drop(all.cogroup(&both).keys());
    });
    built.unwrap().0
}

fn run(home: &Path, input: &Path, threads: usize) -> String {
    let log = WalOptions { segment_size: 4 << 20, ..WalOptions::default() };
    let options = EngineOptions { log, threads, ..EngineOptions::default() };
    let engine = Engine::open(home.join("data"), options).unwrap();
    let out = home.join("out");
    let trigger = Trigger::AvailableNow { bytes: 1 << 30 };
    let options = RunOptions { trigger, ..RunOptions::default() };
    engine.start(job(input, &out), options).unwrap().await_termination().unwrap();
    engine.close().unwrap();
    let files = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
    files.sort();
    files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn a_batch_has_what_a_dataset_would_have() {
    let place = tempfile::tempdir().unwrap();
    let input = place.path().join("words.txt");
    let words: Vec<String> = (0..3000u32).map(|n| format!("w{}", n * n % 1409)).collect();
    std::fs::write(&input, words.join("\n") + "\n").unwrap();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    words.iter().for_each(|word| *counts.entry(word).or_default() += 1);
    let expected: String = counts
        .iter()
        .map(|(word, count)| {
            let (len, initials) = (word.len(), "w".repeat(usize::try_from(*count).unwrap()));
            let long = if len > 3 { len.to_string() } else { "null".to_owned() };
            format!("[\"{word}\",{count},{len},{long},\"{initials}\"]\n")
        })
        .collect();
    for threads in [1, 3] {
        assert_eq!(run(&place.path().join(format!("{threads}")), &input, threads), expected);
    }
}

/// Two sinks read the same stream: with `persist` its closures see each row once.
#[test]
fn a_persisted_stream_is_computed_once_for_all_sinks() {
    let place = tempfile::tempdir().unwrap();
    let input = place.path().join("words.txt");
    std::fs::write(&input, "oak\nash\nelm\n").unwrap();
    for (persisted, calls) in [(false, 6), (true, 3)] {
        let (called, rows) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (job, ()) = Job::build(name!("twice"), |job| {
            let counted = Arc::clone(&called);
            let words = job.source(name!("in"), TextFiles::new([&input])).map(move |word| {
                counted.fetch_add(1, Ordering::Relaxed);
                word.to_vec()
            });
            let words = if persisted { words.persist(StorageLevel::Memory) } else { words };
            for sink in [name!("one"), name!("two")] {
                let seen = Arc::clone(&rows);
                words.for_each_batch(sink, move |batch| {
                    seen.fetch_add(batch.rows().count() as u64, Ordering::Relaxed);
                    Ok(())
                });
            }
        })
        .unwrap();
        let log = WalOptions { segment_size: 4 << 20, ..WalOptions::default() };
        let options = EngineOptions { log, threads: 1, ..EngineOptions::default() };
        let engine = Engine::open(place.path().join(persisted.to_string()), options).unwrap();
        let trigger = Trigger::AvailableNow { bytes: 1 << 20 };
        let options = RunOptions { trigger, ..RunOptions::default() };
        engine.start(job, options).unwrap().await_termination().unwrap();
        assert_eq!(rows.load(Ordering::Relaxed), 6);
        assert_eq!(called.load(Ordering::Relaxed), calls);
    }
}

/// E11: what a function of state refuses is left out, and whatever it did to the state before.
#[test]
fn a_refused_update_leaves_the_state_as_it_was() {
    let place = tempfile::tempdir().unwrap();
    let input = place.path().join("pairs.txt");
    std::fs::write(&input, "a 1\nb 5\nb x\na 2\n").unwrap();
    let (job, sums) = Job::build(name!("sums"), |job| {
        job.skip_failures(1);
        let lines = job.source(name!("files"), TextFiles::new([&input]));
        let pairs = lines.map_to_pair(|line| {
            let (key, value) = std::str::from_utf8(line).unwrap().split_once(' ').unwrap();
            (key.to_owned(), value.to_owned())
        });
        let summed = pairs.try_map_with_state::<u64, (), _>(name!("sums"), |_, values, sum| {
            for value in values {
                *sum = Some(sum.unwrap_or(0) + 100);
                *sum = Some(sum.unwrap() - 100 + value.parse::<u64>()?);
            }
            Ok::<_, std::num::ParseIntError>(None)
        });
        summed.state
    })
    .unwrap();
    let engine = Engine::open(place.path().join("data"), EngineOptions::default()).unwrap();
    let trigger = Trigger::AvailableNow { bytes: 1 << 30 };
    let options = RunOptions { trigger, ..RunOptions::default() };
    let progress = engine.start(job, options).unwrap().await_termination().unwrap();
    assert_eq!(progress.skipped_records, 1);
    let sum = |key: &str| sums.get(key.to_owned());
    assert_eq!((sum("a"), sum("b"), sums.len()), (Some(3), Some(5), 2));
}
