//! The file sink against a model, through power cuts, kills, faults and lost completions.

use std::path::Path;

use super::progress::Progress;
use super::{JsonLines, Sink, SinkContext, SinkIdentity};
use crate::checksum::{crc32c, xxh3};
use crate::error::{ErrorKind, Result};
use crate::exec::{Dataset, Executor, Name};
use crate::ids::{BatchId, Epoch, LogId, to_usize};
use crate::sim::{CrashManner, CrashOutcome, FaultKind, SimDisk};
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
    JsonLines::new("/out").with_roll_bytes(ROLL).attach(Name::new("out"), rows)
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

fn found(disk: &SimDisk) -> Vec<Vec<u8>> {
    let is_part = |path: &&std::path::PathBuf| path.to_string_lossy().contains("part-");
    let files = disk.files();
    let parts = files.iter().filter(is_part).enumerate();
    parts
        .map(|(index, path)| {
            assert_eq!(path, Path::new(&format!("/out/part-{index:06}.jsonl")));
            disk.read_file(path).unwrap()
        })
        .collect()
}

fn publish(sink: &dyn Sink, batch: u64) -> Result<Vec<u8>> {
    sink.publish(BatchId::new(batch), 1, &lines(batch))
}

fn open(disk: &SimDisk, sink: &dyn Sink, progress: Option<&Vec<u8>>) -> Result<()> {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let cx = SinkContext { storage: &storage, epoch: Epoch::new(1) };
    sink.open(cx, &identity("out"), progress.map(Vec::as_slice))
}

/// Publishes what is missing; `completed` is what a log would have.
fn run(disk: &SimDisk, completed: &mut Vec<Vec<u8>>) -> Result<()> {
    let sink = sink();
    open(disk, &*sink, completed.last())?;
    for batch in completed.len() as u64 + 1..=BATCHES {
        completed.push(publish(&*sink, batch)?);
    }
    Ok(())
}

/// Cuts the power at every operation, in every manner; goes on from every completion that the log
/// may have then. `Err`: the output is not the model's.
fn every_power_cut() -> Result<u64, String> {
    let undisturbed = SimDisk::new(1);
    run(&undisturbed, &mut Vec::new()).unwrap();
    assert_eq!(found(&undisturbed), model());
    let outcomes = [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(5)];
    let mut cases = 0;
    for number in 1..=undisturbed.ops() {
        for (manner, outcome) in MANNERS.iter().flat_map(|m| outcomes.map(|o| (*m, o))) {
            for lost_completions in 0..2 {
                let disk = SimDisk::new(number);
                disk.crash_at(number, manner);
                let mut completed = Vec::new();
                run(&disk, &mut completed).unwrap_err();
                // The last batch was published, and its completion did not become durable.
                completed.truncate(completed.len().saturating_sub(lost_completions));
                let disk = disk.power_cycle(outcome);
                let what = format!("{number} {manner:?} {outcome:?} {lost_completions}");
                run(&disk, &mut completed).map_err(|error| format!("{what}: {error}"))?;
                if found(&disk) != model() {
                    return Err(what);
                }
                cases += 1;
            }
        }
    }
    Ok(cases)
}

#[test]
fn every_power_cut_leaves_what_can_be_completed_to_the_same_bytes() {
    let cases = every_power_cut().unwrap();
    assert!(cases > 500, "{cases} cases");
}

#[cfg(feature = "planted")]
#[test]
fn planted_no_sink_cut_is_caught() {
    use crate::planted::{Bug, with_planted};
    with_planted(Bug::NoSinkCut, every_power_cut).unwrap_err();
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
    let sink = sink();
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
        }
        run(&disk, &mut completed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(found(&disk), model(), "seed {seed}");
        let progress = Progress::decode(completed.last().unwrap()).unwrap();
        for (mark, bytes) in progress.files().zip(model()) {
            assert_eq!((mark.length, mark.crc32c), (bytes.len() as u64, crc32c(&bytes)));
            assert!(mark.first <= mark.last && mark.last <= progress.last);
        }
        assert_eq!(progress.files().count(), model().len());
    }
}

#[test]
fn a_batch_that_was_published_is_not_published_again() {
    let disk = SimDisk::new(1);
    let mut completed = Vec::new();
    run(&disk, &mut completed).unwrap();
    let (sink, last) = (sink(), completed.last());
    open(&disk, &*sink, last).unwrap();
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
        progress = sink.publish(BatchId::new(batch), 1, &vec![line.repeat(3)]).unwrap();
        sizes.push(progress.len());
    }
    assert!(sizes[99] < 2000 && sizes[99] < sizes[50] + 200, "{sizes:?}");
    assert_eq!(found(&disk).concat(), line.repeat(300));
    // Another start keeps all of them, the forgotten ones too, and cuts what is not completed.
    disk.write_file("/out/part-000300.jsonl", b"of no completed batch");
    open(&disk, &*sink, Some(&progress)).unwrap();
    assert_eq!(found(&disk).concat(), line.repeat(300));
    assert_eq!(sink.publish(BatchId::new(100), 2, &vec![line]).unwrap(), progress);
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

#[cfg(feature = "planted")]
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
        let options = JsonLines::from(&path).with_roll_bytes(10_000);
        let sink = options.attach(Name::new("out"), rows);
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
        .filter(|(name, _)| name != "_sink")
        .flat_map(|(_, bytes)| bytes.clone())
        .collect();
    assert_eq!(parts, expected.repeat(2).as_bytes());
    assert!(outputs[0].len() > 5);
    assert!(outputs.iter().all(|output| *output == outputs[0]));
}
