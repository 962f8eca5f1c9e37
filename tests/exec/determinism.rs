//! One input, any number of threads, also executed again: the same bytes in the file sink.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

use std::path::Path;

use sawmill::testing::reexecute;
use sawmill::{
    Bytes, Engine, EngineOptions, Job, RunOptions, StateHandle, TextFiles, Trigger, WalOptions,
    name,
};

/// Text whose words repeat within and across batches.
fn write_input(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut random = 12345_u64;
    let mut next = || {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        random >> 33
    };
    (0..3)
        .map(|file| {
            let mut text = String::new();
            for _ in 0..2000 {
                for _ in 0..next() % 9 {
                    text += &format!("w{} ", next() % 700);
                }
                text.push('\n');
            }
            let path = directory.join(format!("{file}.txt"));
            std::fs::write(&path, text).unwrap();
            path
        })
        .collect()
}

fn job(input: &[std::path::PathBuf], out: &Path) -> (Job, StateHandle<Bytes, (u64, f64)>) {
    Job::build(name!("determinism"), |job| {
        let lines = job.source(name!("files"), TextFiles::new(input));
        let words = lines.flat_map_rows::<Bytes>(|line, out| {
            line.split(|byte| *byte == b' ').filter(|w| !w.is_empty()).for_each(|w| out.push(w))
        });
        // Floats: their sum depends on the order in which it is taken.
        let weighed = words.pair_with(|word| 1.0 / (word.len() as f64 + 0.1));
        let summed = weighed.reduce_by_key(|a, b| a + b);
        let state = summed.map_with_state::<(u64, f64), (String, u64, f64)>(
            name!("sums"),
            |word, new, state| {
                let (batches, sum) = state.unwrap_or((0, 0.0));
                let now = (batches + 1, sum + new.sum::<f64>());
                *state = Some(now);
                Some((String::from_utf8_lossy(word).into_owned(), now.0, now.1))
            },
        );
        state.out.write_json_lines(name!("out"), out);
        state.state
    })
    .unwrap()
}

fn engine(directory: &Path, threads: usize) -> Engine {
    let log = WalOptions { segment_size: 4 << 20, ..WalOptions::default() };
    Engine::open(directory, EngineOptions { log, threads, ..EngineOptions::default() }).unwrap()
}

/// Names and bytes of the sink's data files.
fn bytes(out: &Path) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
    let data = files.filter(|path| path.extension().is_some_and(|end| end == "jsonl"));
    let mut found: Vec<_> = data
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(&path).unwrap())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn threads_and_reexecution_change_no_byte() {
    let place = tempfile::tempdir().unwrap();
    let input = write_input(place.path());
    let options = || RunOptions { trigger: Trigger::Bytes(10_000), ..RunOptions::default() };
    let mut outputs = Vec::new();
    for threads in [1, 2, 4] {
        let home = place.path().join(format!("threads-{threads}"));
        let engine = engine(&home.join("data"), threads);
        let (job, state) = job(&input, &home.join("out"));
        let progress = engine.start(job, options()).unwrap().await_termination().unwrap();
        assert!(progress.batches > 10, "{progress:?}");
        assert_eq!(state.len(), 700);
        engine.close().unwrap();
        outputs.push(bytes(&home.join("out")));
    }
    assert!(!outputs[0].is_empty() && outputs[0].iter().all(|(_, bytes)| !bytes.is_empty()));
    assert!(outputs[1] == outputs[0], "2 threads gave other bytes");
    assert!(outputs[2] == outputs[0], "4 threads gave other bytes");
    for threads in [1, 2, 4] {
        let out = place.path().join(format!("again-{threads}"));
        let engine = engine(&place.path().join("threads-2/data"), 3);
        let (job, _) = job(&input, &out);
        let batches = reexecute(&engine, job, threads).unwrap();
        assert!(batches > 10);
        engine.close().unwrap();
        assert!(bytes(&out) == outputs[0], "executed again with {threads} threads: other bytes");
    }
}

/// The cut into batches changes what a batch emits, but not the state in the end.
#[test]
fn the_state_does_not_depend_on_the_cut() {
    let place = tempfile::tempdir().unwrap();
    let input = write_input(place.path());
    let mut states = Vec::new();
    for trigger in [Trigger::Bytes(3_000), Trigger::AvailableNow { bytes: 1 << 30 }] {
        let home = place.path().join(format!("{}", states.len()));
        let engine = engine(&home.join("data"), 2);
        let ((job, state), options) =
            (job(&input, &home.join("out")), RunOptions { trigger, ..RunOptions::default() });
        engine.start(job, options).unwrap().await_termination().unwrap();
        let mut words = Vec::new();
        state.for_each(|word, (_, sum)| words.push((word.to_vec(), (sum * 1e6).round()))).unwrap();
        words.sort_by(|a, b| a.0.cmp(&b.0));
        states.push(words);
    }
    assert!(states[0] == states[1]);
}
