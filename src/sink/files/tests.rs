//! The file sink against a model, through power cuts, kills, faults and lost completions.

use std::path::Path;

use super::manifest::FileManifest;
use super::options::OutputFiles;
use super::parts::Rows;
use super::progress::Progress;
use super::{Json, Text, file_sink};
use crate::checksum::{crc32c, xxh3};
use crate::error::{ErrorKind, Result};
use crate::exec::{Dataset, Executor, Lent, Name};
use crate::ids::{BatchId, Epoch, LogId, to_usize};
use crate::sim::{CrashManner, CrashOutcome, FaultKind, SimDisk};
use crate::sink::{Sink, SinkContext, SinkIdentity};
use crate::storage::{BackendChoice, Storage, SystemStorage};
use crate::sync::Arc;

const ROLL: u64 = 64;
const BATCHES: u64 = 6;
const MANNERS: [CrashManner; 3] = [CrashManner::Before, CrashManner::Torn, CrashManner::After];

fn identity(sink: &str) -> SinkIdentity {
    SinkIdentity { log: LogId::from_bytes([7; 16]), job: "job".into(), sink: sink.into() }
}

fn sink() -> Arc<dyn Sink> {
    let rows = Dataset::from_vec(Vec::<u64>::new(), 1);
    let files = OutputFiles::new("/out").with_roll_bytes(ROLL);
    file_sink((Name::new("out"), rows), files, Json, Vec::new())
}

fn compacting() -> Arc<dyn Sink> {
    let rows = Dataset::from_vec(Vec::<u64>::new(), 1);
    let files = OutputFiles::new("/out").with_roll_bytes(ROLL).with_compaction(2);
    file_sink((Name::new("out"), rows), files, Json, Vec::new())
}

/// The lines of a batch, per partition: from its number alone. One batch has none.
fn lines(batch: u64) -> Vec<Vec<u8>> {
    let line = |partition: u64, line: u64| {
        let mut text = format!("{batch}.{partition}.{line}");
        text += &"-".repeat(to_usize(xxh3(text.as_bytes()) % 40));
        text + "\n"
    };
    let lines = |partition: u64| (0..(batch + partition) % 4).map(move |n| line(partition, n));
    let parts = (0..3).map(|partition| lines(partition).collect::<String>().into_bytes());
    if batch == 3 { vec![Vec::new(); 3] } else { parts.collect() }
}

/// What the files must be in the end: written by something simpler.
fn model() -> Vec<Vec<u8>> {
    let all = (1..=BATCHES).flat_map(lines).collect::<Vec<_>>().concat();
    let mut files = vec![Vec::new()];
    for line in all.split_inclusive(|byte| *byte == b'\n') {
        if files.last().unwrap().len() as u64 >= ROLL {
            files.push(Vec::new());
        }
        files.last_mut().unwrap().extend_from_slice(line);
    }
    files
}

fn found_names(disk: &SimDisk) -> Vec<std::path::PathBuf> {
    let is_part = |path: &std::path::PathBuf| path.to_string_lossy().contains("part-");
    disk.files().into_iter().filter(is_part).collect()
}

fn found(disk: &SimDisk) -> Vec<Vec<u8>> {
    found_names(disk).iter().map(|path| disk.read_file(path).unwrap()).collect()
}

fn publish(sink: &dyn Sink, batch: u64) -> Result<Vec<u8>> {
    publish_lines(sink, batch, lines(batch))
}

fn publish_lines(sink: &dyn Sink, batch: u64, parts: Vec<Vec<u8>>) -> Result<Vec<u8>> {
    let parts = parts.into_iter().map(Lent::from).collect();
    let rows = Rows { batch_time_ns: batch * 300_000_000, parts };
    sink.publish(BatchId::new(batch), 1, &rows)
}

fn open(disk: &SimDisk, sink: &dyn Sink, progress: Option<&Vec<u8>>) -> Result<()> {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let cx = SinkContext { storage: &storage, epoch: Epoch::new(1) };
    sink.open(cx, &identity("out"), progress.map(Vec::as_slice))
}

/// Publishes what is missing, up to batch `through`; `completed` is what a log would have.
fn run_through(
    disk: &SimDisk,
    sink: &dyn Sink,
    completed: &mut Vec<Vec<u8>>,
    through: u64,
) -> Result<()> {
    open(disk, sink, completed.last())?;
    for batch in completed.len() as u64 + 1..=through {
        completed.push(publish(sink, batch)?);
    }
    Ok(())
}

fn run(disk: &SimDisk, completed: &mut Vec<Vec<u8>>) -> Result<()> {
    run_through(disk, &*sink(), completed, BATCHES)
}

/// `_manifest`, if there is one: every file it names has the bytes that it says, and they are of
/// completed batches, in order and without a gap.
fn check_manifest(disk: &SimDisk, completed: u64) -> Result<Option<FileManifest>, String> {
    let Some(bytes) = disk.read_file("/out/_manifest") else { return Ok(None) };
    let manifest = FileManifest::parse(&bytes).map_err(|error| error.to_string())?;
    let batch = manifest.batch.get();
    if batch > completed {
        return Err(format!("batch {batch} of {completed}"));
    }
    let (mut all, mut reached) = (Vec::new(), 0);
    for file in &manifest.files {
        let found = disk.read_file(Path::new("/out").join(&file.file));
        let found = found.ok_or_else(|| format!("{} is not there", file.file))?;
        let counted = found.get(..to_usize(file.bytes)).ok_or("a file is too short")?;
        let rows = counted.iter().filter(|byte| **byte == b'\n').count() as u64;
        if (crc32c(counted), rows) != (file.crc32c, file.rows) {
            return Err(format!("{} is not what its entry says", file.file));
        }
        // Batch 3 has no rows.
        let (first, last) = (file.first_batch.get(), file.last_batch.get());
        let follows = first == reached || first == reached + 1 || (reached == 2 && first == 4);
        if !follows || last < first {
            return Err(format!(
                "batches {first} to {last} behind {reached}: {:?}",
                manifest.files
            ));
        }
        reached = last;
        all.extend_from_slice(counted);
    }
    let expected = (1..=batch).flat_map(lines).collect::<Vec<_>>().concat();
    if all != expected {
        return Err(format!("manifest of batch {batch}: other rows than the model's"));
    }
    Ok(Some(manifest))
}

/// Cuts the power at every operation, in every manner; goes on from every completion that the log
/// may have then. `Err`: the output is not the model's.
fn every_power_cut(sink: fn() -> Arc<dyn Sink>) -> Result<u64, String> {
    let undisturbed = SimDisk::new(1);
    let live = |disk: &SimDisk, completed: &mut Vec<Vec<u8>>| {
        let sink = sink();
        run_through(disk, &*sink, completed, BATCHES)?;
        sink.settle()
    };
    live(&undisturbed, &mut Vec::new()).unwrap();
    assert_eq!(found(&undisturbed).concat(), model().concat());
    let outcomes = [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(5)];
    let mut cases = 0;
    for number in 1..=undisturbed.ops() {
        for (manner, outcome) in MANNERS.iter().flat_map(|m| outcomes.map(|o| (*m, o))) {
            let disk = SimDisk::new(number);
            disk.crash_at(number, manner);
            let mut completed = Vec::new();
            live(&disk, &mut completed).unwrap_err();
            let disk = disk.power_cycle(outcome);
            let what = format!("{number} {manner:?} {outcome:?}");
            check_manifest(&disk, completed.len() as u64).map_err(|e| format!("{what}: {e}"))?;
            live(&disk, &mut completed).map_err(|error| format!("{what}: {error}"))?;
            if found(&disk).concat() != model().concat() {
                return Err(what);
            }
            let manifest = check_manifest(&disk, BATCHES).map_err(|e| format!("{what}: {e}"))?;
            if manifest.is_none_or(|manifest| manifest.batch.get() != BATCHES) {
                return Err(format!("{what}: the manifest is behind"));
            }
            cases += 1;
        }
    }
    // Published, and the completion was lost, with nothing published after it.
    for (through, outcome) in (1..=BATCHES).flat_map(|n| outcomes.map(|o| (n, o))) {
        let (disk, mut completed) = (SimDisk::new(through), Vec::new());
        run_through(&disk, &*sink(), &mut completed, through).unwrap();
        disk.power_off();
        completed.pop();
        let disk = disk.power_cycle(outcome);
        live(&disk, &mut completed).map_err(|error| format!("after {through}: {error}"))?;
        if found(&disk).concat() != model().concat() {
            return Err(format!("after batch {through}, {outcome:?}"));
        }
        cases += 1;
    }
    Ok(cases)
}

#[test]
fn every_power_cut_leaves_what_can_be_completed_to_the_same_bytes() {
    let cases = every_power_cut(sink).unwrap();
    assert!(cases > 500, "{cases} cases");
}

#[test]
fn every_power_cut_around_compactions_leaves_the_same_rows_and_a_true_manifest() {
    let cases = every_power_cut(compacting).unwrap();
    assert!(cases > 500, "{cases} cases");
    let (disk, mut completed) = (SimDisk::new(1), Vec::new());
    let sink = compacting();
    run_through(&disk, &*sink, &mut completed, BATCHES).unwrap();
    sink.settle().unwrap();
    let compacted = disk.files().iter().filter(|path| path.to_string_lossy().len() > 26).count();
    assert!(compacted > 1, "{:?}", disk.files());
    assert!(found_names(&disk).len() < model().len());
}

#[test]
fn planted_compaction_forgets_range_is_caught() {
    use crate::planted::{Bug, with_planted};
    let story = with_planted(Bug::CompactionForgetsRange, || every_power_cut(compacting));
    assert!(story.unwrap_err().contains("batches"));
}

#[test]
fn planted_no_sink_cut_is_caught() {
    use crate::planted::{Bug, with_planted};
    with_planted(Bug::NoSinkCut, || every_power_cut(sink)).unwrap_err();
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = xxh3(&self.0.to_le_bytes());
        self.0 % limit
    }
}

/// One life of the process: a cut, a fault, or none; retries on the same handle or with a new one.
fn life(disk: &mut SimDisk, completed: &mut Vec<Vec<u8>>, random: &mut Random) {
    let at = disk.ops() + 1 + random.below(25);
    match random.below(5) {
        0 => disk.crash_at(at, MANNERS[to_usize(random.below(3))]),
        1 => disk.fail_op(at, 5, FaultKind::NotExecuted),
        2 => disk.fail_op(at, 28, FaultKind::ExecutedButReported),
        3 => disk.fail_op(at, 28, FaultKind::Short(to_usize(random.below(20)))),
        _ => {}
    }
    let sink = if random.below(2) == 0 { sink() } else { compacting() };
    let mut tries = 0;
    while open(disk, &*sink, completed.last()).is_err() && tries < 3 {
        tries += 1;
    }
    let steps = random.below(BATCHES);
    for _ in 0..steps {
        let next = completed.len() as u64 + 1;
        if disk.is_off() || next > BATCHES {
            break;
        }
        match publish(&*sink, next) {
            // Now and then the completion is lost, with the process.
            Ok(_) if random.below(6) == 0 => break,
            Ok(progress) => {
                assert_eq!(publish(&*sink, next).unwrap(), progress, "published twice");
                completed.push(progress);
                if random.below(3) == 0 {
                    drop(sink.settle());
                }
            }
            // Again, on the handle that failed, or one day on another one.
            Err(_) if random.below(2) == 0 => {}
            Err(_) => break,
        }
    }
    *disk = if disk.is_off() || random.below(2) == 0 {
        disk.power_cycle(CrashOutcome::Seeded(random.below(1 << 40)))
    } else {
        disk.kill()
    };
}

#[test]
fn whatever_happens_the_bytes_are_the_models() {
    for seed in 0..150 {
        let (mut disk, mut completed) = (SimDisk::new(seed), Vec::new());
        let mut random = Random(seed);
        for _ in 0..20 {
            life(&mut disk, &mut completed, &mut random);
            check_manifest(&disk, completed.len() as u64).unwrap_or_else(|e| panic!("{seed}: {e}"));
        }
        run(&disk, &mut completed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let progress = Progress::decode(completed.last().unwrap()).unwrap();
        let counted = progress.files().map(|mark| mark.rows).sum::<u64>();
        // What is replaced goes at the next settlement.
        let sink = compacting();
        open(&disk, &*sink, completed.last()).unwrap();
        sink.settle().unwrap();
        assert_eq!(found(&disk).concat(), model().concat(), "seed {seed}");
        let manifest = check_manifest(&disk, BATCHES).unwrap().unwrap();
        assert_eq!(manifest.files.iter().map(|file| file.rows).sum::<u64>(), counted);
    }
}

#[test]
fn a_batch_that_was_published_is_not_published_again() {
    let disk = SimDisk::new(1);
    let mut completed = Vec::new();
    run(&disk, &mut completed).unwrap();
    let (sink, last) = (sink(), completed.last());
    open(&disk, &*sink, last).unwrap();
    sink.settle().unwrap();
    let before = disk.digest();
    for batch in 1..=BATCHES {
        assert_eq!(Some(&publish(&*sink, batch).unwrap()), last);
    }
    assert_eq!(disk.digest(), before);
}

#[test]
fn files_that_lack_what_was_completed_are_refused_by_name() {
    type Damage = fn(&SimDisk, &str);
    let last = model().len() - 1;
    let damages: [(usize, Damage); 6] = [
        (0, |disk, _| {
            let storage: &dyn Storage = disk;
            storage
                .directory(Path::new("/out"), false)
                .unwrap()
                .unlink("part-000000.jsonl")
                .unwrap();
        }),
        (0, |disk, path| rewrite_with(disk, path, |bytes| bytes.truncate(bytes.len() - 1))),
        (0, |disk, path| rewrite_with(disk, path, |bytes| bytes.push(b'x'))),
        (last, |disk, path| rewrite_with(disk, path, |bytes| bytes.truncate(bytes.len() - 1))),
        (last, |disk, path| rewrite_with(disk, path, |bytes| bytes[0] ^= 1)),
        (last, |disk, path| disk.flip_byte(path, 0, 1).unwrap()),
    ];
    for (index, (file, damage)) in damages.into_iter().enumerate() {
        let disk = SimDisk::new(1);
        let mut completed = Vec::new();
        run(&disk, &mut completed).unwrap();
        let path = format!("/out/part-{file:06}.jsonl");
        damage(&disk, &path);
        let error = run(&disk, &mut completed).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SinkFailed, "damage {index}: {error}");
        assert_eq!(error.path(), Some(Path::new(&path)), "damage {index}");
    }
}

/// Every completion in the log carries the progress.
#[test]
fn progress_does_not_grow_with_the_number_of_files() {
    let (disk, sink) = (SimDisk::new(1), sink());
    open(&disk, &*sink, None).unwrap();
    let line = [vec![b'x'; to_usize(ROLL)], b"\n".to_vec()].concat();
    let (mut progress, mut sizes) = (Vec::new(), Vec::new());
    for batch in 1..=100 {
        progress = publish_lines(&*sink, batch, vec![line.repeat(3)]).unwrap();
        sizes.push(progress.len());
    }
    assert!(sizes[99] < 2000 && sizes[99] < sizes[50] + 200, "{sizes:?}");
    assert_eq!(found(&disk).concat(), line.repeat(300));
    // Another start keeps all of them, the forgotten ones too, and cuts what is not completed.
    disk.write_file("/out/part-000300.jsonl", b"of no completed batch");
    open(&disk, &*sink, Some(&progress)).unwrap();
    assert_eq!(found(&disk).concat(), line.repeat(300));
    assert_eq!(publish_lines(&*sink, 100, vec![line.clone()]).unwrap(), progress);
    // The manifest knows all of them: from what it was, and from the files if it is lost.
    sink.settle().unwrap();
    let read = || FileManifest::parse(&disk.read_file("/out/_manifest").unwrap()).unwrap();
    let all = read();
    assert_eq!((all.files.len(), all.batch.get()), (300, 100));
    let storage: &dyn Storage = &disk;
    storage.directory(Path::new("/out"), false).unwrap().unlink("_manifest").unwrap();
    open(&disk, &*sink, Some(&progress)).unwrap();
    sink.settle().unwrap();
    for (was, is) in all.files.iter().zip(read().files) {
        assert_eq!((&was.file, was.bytes, was.rows), (&is.file, is.bytes, is.rows));
        assert_eq!(was.crc32c, is.crc32c);
        assert!(is.first_batch <= was.first_batch && was.last_batch <= is.last_batch, "{is:?}");
    }
}

fn rewrite_with(disk: &SimDisk, path: &str, change: fn(&mut Vec<u8>)) {
    let mut bytes = disk.read_file(path).unwrap();
    change(&mut bytes);
    disk.write_file(path, &bytes);
}

#[test]
fn a_directory_belongs_to_one_sink() {
    let disk = SimDisk::new(1);
    run(&disk, &mut Vec::new()).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let cx = SinkContext { storage: &storage, epoch: Epoch::new(1) };
    let other_log = SinkIdentity { log: LogId::from_bytes([8; 16]), ..identity("out") };
    for other in [identity("other"), other_log] {
        let error = sink().open(cx, &other, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::JobMismatch, "{error}");
        assert_eq!(found(&disk), model(), "nothing of the first sink's was touched");
    }
    // Files that say nothing about whose they are may be anybody's.
    let disk = SimDisk::new(1);
    disk.write_file("/out/part-000000.jsonl", b"precious\n");
    let error = run(&disk, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::JobMismatch);
    assert_eq!(error.path(), Some(Path::new("/out/part-000000.jsonl")));
    assert_eq!(found(&disk), [b"precious\n"]);
}

#[test]
fn planted_sink_without_name_is_caught() {
    use crate::planted::{Bug, with_planted};
    with_planted(Bug::SinkWithoutName, || {
        let disk = SimDisk::new(1);
        run(&disk, &mut Vec::new()).unwrap();
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        // What `a_directory_belongs_to_one_sink` would see: no error, and the output is gone.
        sink()
            .open(SinkContext { storage: &storage, epoch: Epoch::new(1) }, &identity("other"), None)
            .unwrap();
        assert_ne!(found(&disk), model());
    });
}

#[test]
fn computed_lines_do_not_depend_on_threads() {
    let place = tempfile::TempDir::new().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(SystemStorage::new(BackendChoice::Auto).unwrap());
    let numbers: Vec<u64> = (0..10_000).collect();
    let mut outputs = Vec::new();
    for threads in [1, 2, 4] {
        let path = place.path().join(format!("new/{threads}"));
        let executor = Executor::new(threads, 4).unwrap();
        let rows = Dataset::from_vec(numbers.clone(), 7);
        let options = OutputFiles::from(&path).with_roll_bytes(10_000);
        let sink = file_sink((Name::new("out"), rows), options, Json, Vec::new());
        sink.open(SinkContext { storage: &storage, epoch: Epoch::new(1) }, &identity("out"), None)
            .unwrap();
        for batch in 1..3 {
            let output = sink.compute(&executor, &executor.context()).unwrap();
            sink.publish(BatchId::new(batch), 1, &*output).unwrap();
        }
        let mut files: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        let read = |path| (Path::file_name(path).unwrap().to_owned(), std::fs::read(path).unwrap());
        outputs.push(files.iter().map(|path| read(path)).collect::<Vec<_>>());
    }
    let expected: String = numbers.iter().map(|number| format!("{number}\n")).collect();
    let parts: Vec<u8> = outputs[0]
        .iter()
        .filter(|(name, _)| !name.to_string_lossy().starts_with('_'))
        .flat_map(|(_, bytes)| bytes.clone())
        .collect();
    assert_eq!(parts, expected.repeat(2).as_bytes());
    assert!(outputs[0].len() > 5);
    assert!(outputs.iter().all(|output| *output == outputs[0]));
}

/// Files of one sink over small rows: `(name, content)` of each part.
fn written(
    options: OutputFiles,
    header: &[u8],
    batches: &[(u64, &[&str])],
) -> Vec<(String, String)> {
    let disk = SimDisk::new(1);
    let rows = Dataset::from_vec(Vec::<String>::new(), 1);
    let sink = file_sink((Name::new("out"), rows), options, Text, header.to_vec());
    open(&disk, &*sink, None).unwrap();
    for (batch, (time, parts)) in (1..).zip(batches) {
        let parts = parts.iter().map(|part| Lent::from(part.as_bytes().to_vec())).collect();
        sink.publish(BatchId::new(batch), 1, &Rows { batch_time_ns: *time, parts }).unwrap();
    }
    sink.settle().unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let text = |path: &Path| String::from_utf8(disk.read_file(path).unwrap()).unwrap();
    found_names(&disk).iter().map(|path| (name(path), text(path))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn files_roll_by_rows_and_by_batch_time_and_each_has_the_header() {
    let by_rows = OutputFiles::new("/out").with_roll_rows(2);
    let found = written(by_rows, b"head\n", &[(0, &["a\nb\nc\n", "d\n"]), (1, &["e\n"])]);
    let expected = [
        ("part-000000.txt", "head\na\nb\n"),
        ("part-000001.txt", "head\nc\nd\n"),
        ("part-000002.txt", "head\ne\n"),
    ];
    assert_eq!(found, pairs(&expected));
    let second = std::time::Duration::from_secs(1);
    let by_time = || OutputFiles::new("/out").with_roll_every(second);
    let batches: [(u64, &[&str]); 4] = [
        (5, &["a\n"]),
        (999_999_999, &["b\n"]),
        (1_000_000_005, &["c\n"]),
        (9_000_000_000, &["d\n"]),
    ];
    let found = written(by_time(), b"head\n", &batches);
    let expected = [
        ("part-000000.txt", "head\na\nb\n"),
        ("part-000001.txt", "head\nc\n"),
        ("part-000002.txt", "head\nd\n"),
    ];
    assert_eq!(found, pairs(&expected));
    let found = written(by_time().with_compaction(2), b"head\n", &batches);
    let expected =
        [("part-000000-000001.txt", "head\na\nb\nc\n"), ("part-000002.txt", "head\nd\n")];
    assert_eq!(found, pairs(&expected));
}

#[test]
fn a_row_of_two_lines_is_no_line_of_text() {
    let executor = Executor::new(1, 1).unwrap();
    for (row, fine) in [("one", true), ("two\nlines", false)] {
        let rows = Dataset::from_vec(vec![row.to_owned()], 1);
        let sink = file_sink((Name::new("out"), rows), OutputFiles::new("/o"), Text, Vec::new());
        let computed = sink.compute(&executor, &executor.context());
        assert_eq!(computed.is_ok(), fine);
        if let Err(error) = computed {
            assert_eq!(error.kind(), ErrorKind::TaskFailed);
            assert!(error.to_string().contains("line break"), "{error}");
        }
    }
}
