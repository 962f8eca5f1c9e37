//! E13: any byte of any checkpoint file is flipped under a job of two chained stateful operators.
//! State is the same, and what was computed again is what was lost and what that needs.
//!
//! `SAWMILL_SIM=long` flips every byte, else every 131st.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sawmill::checkpoint::{CheckpointMeta, CheckpointStore};
use sawmill::clock::ManualClock;
use sawmill::sim::{CrashManner, CrashOutcome, FaultKind, SimDisk};
use sawmill::storage::Storage;
use sawmill::testing::{Harness, Hooks, Step, Stepped};
use sawmill::{
    Background, BatchId, Bytes, Engine, EngineOptions, Job, Received, Restored, Result, RunContext,
    RunOptions, StateHandle, TaskKind, Trigger, WalOptions, name,
};

use crate::long;

const PARTITIONS: u32 = 4;

/// Which partitions of which stateful operator were computed.
type Computed = Arc<Mutex<BTreeSet<(String, u32)>>>;

#[derive(Debug)]
struct Watch(Computed);

impl Hooks for Watch {
    fn at(&mut self, _step: Step, _batch: BatchId) -> Result<()> {
        Ok(())
    }

    fn computed(&mut self, _batch: BatchId, run: &RunContext) {
        let stateful = ["counts", "totals"];
        let held = run
            .tasks()
            .into_iter()
            .filter(|task| task.kind == TaskKind::Hold && stateful.contains(&task.name.as_str()));
        self.0.lock().unwrap().extend(held.map(|task| (task.name, task.partition)));
    }
}

struct Handles {
    counts: StateHandle<Bytes, u64>,
    totals: StateHandle<u64, (u64, u64)>,
}

/// What both operators hold; totals depend on the order in which counts were given to them.
type Held = (BTreeMap<Vec<u8>, u64>, BTreeMap<u64, (u64, u64)>);

impl Handles {
    fn held(&self) -> Held {
        let (mut counts, mut totals) = (BTreeMap::new(), BTreeMap::new());
        let count = |word: &[u8], count: &u64| counts.extend([(word.to_vec(), *count)]);
        self.counts.for_each(count).unwrap();
        self.totals.for_each(|size, total| totals.extend([(size, *total)])).unwrap();
        (counts, totals)
    }
}

/// Words are counted; how often each count was reached is counted by the words' length.
fn job(engine: &Engine) -> Result<(Job, Handles)> {
    let events = engine.ingest(name!("events"))?;
    Job::build(name!("chain"), |job| {
        let lines = job.source(name!("in"), Received::from(&events));
        let words = lines.flat_map_rows::<Bytes>(|line, out| {
            line.split(|byte| *byte == b' ').for_each(|word| out.push(word));
        });
        let counted = words.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
        let counts =
            counted.map_with_state::<u64, (u64, u64)>(name!("counts"), |word, new, count| {
                let sum = count.unwrap_or(0) + new.sum::<u64>();
                *count = Some(sum);
                Some((word.len() as u64 % 7, sum))
            });
        let sized = counts.out.map_to_pair(|(size, sum)| (size, sum));
        let totals = sized.map_with_state::<(u64, u64), ()>(name!("totals"), |_, sums, total| {
            let (mut seen, mut digest) = total.unwrap_or((0, 0));
            for sum in sums {
                seen += 1;
                digest = digest.wrapping_mul(31).wrapping_add(sum);
            }
            *total = Some((seen, digest));
            None
        });
        Handles { counts: counts.state, totals: totals.state }
    })
}

fn engine(disk: &SimDisk, clock: &Arc<ManualClock>) -> Result<Engine> {
    let log = WalOptions {
        segment_size: 64 << 10,
        lock_wait: Duration::ZERO,
        background: Background::Inline,
        ..WalOptions::default()
    };
    let options = EngineOptions { log, threads: 1, ..EngineOptions::default() };
    Engine::open_with(Arc::new(disk.clone()), Arc::clone(clock) as Arc<_>, "/data", options)
}

/// A life of so many batches that ends by a kill, some of them behind its last checkpoint and the
/// last one in flight; and what it held then.
fn live(rounds: u64, late: bool) -> (SimDisk, Held) {
    let (disk, clock) = (SimDisk::new(3), Arc::new(ManualClock::default()));
    let engine = engine(&disk, &clock).unwrap();
    let (job, handles) = job(&engine).unwrap();
    let options = RunOptions {
        trigger: Trigger::Records(1),
        checkpoint_interval: Duration::from_millis(if late { 2 } else { 5 }),
        parallelism: PARTITIONS,
        ..RunOptions::default()
    };
    let hooks = Box::new(Watch(Computed::default()));
    let start = if late { Harness::with_late_checkpoints } else { Harness::new };
    let mut harness = start(&engine, job, options, hooks).unwrap();
    let events = engine.ingest(name!("events")).unwrap();
    for round in 0..rounds {
        let words = if round < 6 { 120 } else { 2 };
        let word = |n: u64| format!("w{}{}", "o".repeat((n * 5 % 9) as usize), n * (round % 3 + 1));
        let line: Vec<String> = (0..words).map(word).collect();
        events.append(line.join(" ").as_bytes()).unwrap();
        harness.step().unwrap();
        clock.advance(Duration::from_millis(2));
    }
    let held = handles.held();
    drop((harness, engine));
    (disk.kill(), held)
}

fn lived() -> (SimDisk, Held) {
    live(15, false)
}

type Started = (Held, Option<Restored>, BTreeSet<(String, u32)>);

/// What a start makes of a disk: the state in the end, what was restored, and what was computed
/// before the first step.
fn started(disk: &SimDisk) -> Result<Started> {
    let clock = Arc::new(ManualClock::default());
    let engine = engine(disk, &clock)?;
    let (job, handles) = job(&engine)?;
    let computed = Computed::default();
    let options = RunOptions { parallelism: PARTITIONS, ..RunOptions::default() };
    let hooks = Box::new(Watch(Arc::clone(&computed)));
    let mut harness = Harness::new(&engine, job, options, hooks)?;
    let restored = harness.progress().restored;
    let computed = computed.lock().unwrap().clone();
    // The last batch was in flight.
    while harness.step()? != Stepped::Idle {}
    harness.finish()?;
    Ok((handles.held(), restored, computed))
}

fn data_files(disk: &SimDisk) -> Vec<PathBuf> {
    let files = disk.files().into_iter();
    files.filter(|path| path.extension().is_some_and(|end| end == "ckpt")).collect()
}

/// Flips bytes, one at a time; returns how many starts restored key ranges of each operator alone,
/// and how many computed batches again for that: a fold has what it was made of beside it.
fn flip_all(rounds: u64, step: usize) -> Result<[u64; 3], String> {
    let (disk, expected) = live(rounds, false);
    // Without damage no batch behind the checkpoint is lost either.
    let (held, restored, undamaged) = started(&disk.kill()).map_err(|error| error.to_string())?;
    assert!(held == expected && restored.is_none());
    assert_eq!(undamaged.len(), 2 * PARTITIONS as usize, "a batch behind it is computed again");
    let mut alone = [0; 3];
    for path in data_files(&disk) {
        let length = disk.read_file(&path).unwrap().len();
        for at in (0..length).step_by(step) {
            let cut = disk.kill();
            cut.flip_byte(&path, at as u64, 0x20).unwrap();
            let story = format!("{} byte {at}", path.display());
            let (held, restored, _) = started(&cut).map_err(|error| format!("{story}: {error}"))?;
            if held != expected {
                return Err(format!("{story}: {held:?}\nexpected {expected:?}\n{restored:?}"));
            }
            if let Some(restored) = restored {
                look(&restored, &story)?;
                let only = |name: &str| restored.lost.iter().all(|(lost, _)| lost == name);
                alone[0] += u64::from(only("counts"));
                alone[1] += u64::from(only("totals"));
                alone[2] += u64::from(restored.batches > 0);
            }
            // What was lost is on the disk again: the next start loses nothing.
            let (again, restored, _) =
                started(&cut).map_err(|error| format!("{story}: {error}"))?;
            if again != expected || restored.is_some() {
                return Err(format!("{story}: at the second start {restored:?}"));
            }
        }
    }
    Ok(alone)
}

/// One byte costs one key range, and at least a task of every batch that is computed again.
fn look(restored: &Restored, story: &str) -> Result<(), String> {
    let counted = restored.tasks >= restored.batches;
    if restored.lost.len() == 1 && counted && restored.from < restored.checkpoint {
        return Ok(());
    }
    Err(format!("{story}: {restored:?}"))
}

#[test]
fn any_flipped_byte_costs_its_key_range_alone() {
    let mut alone = [0; 3];
    for rounds in [15, 18, 21] {
        let found = flip_all(rounds, if long() { 1 } else { 131 }).unwrap();
        alone.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
    }
    println!("restored: counts alone, totals alone, with batches computed again: {alone:?}");
    assert!(alone.iter().all(|times| *times > 3), "{alone:?}");
}

/// A lost partition of the first operator is computed without the second one; one of the second
/// needs all of the first one.
#[test]
fn what_is_computed_again_is_what_was_lost_and_what_that_needs() {
    let (disk, expected) = lived();
    // Afterwards no batch is behind the checkpoint: what is computed is computed for what is lost.
    started(&disk).unwrap();
    let home = disk.directory(Path::new("/data/checkpoints"), false).unwrap();
    let newest = CheckpointStore::open(home, 2).unwrap().newest().unwrap().unwrap();
    let path = data_files(&disk).pop().unwrap();
    let length = disk.read_file(&path).unwrap().len() as u64;
    let mut seen = BTreeSet::new();
    for at in (64..length).step_by(5) {
        let cut = disk.kill();
        cut.flip_byte(&path, at, 1).unwrap();
        let (held, restored, computed) = started(&cut).unwrap();
        assert_eq!(held, expected, "byte {at}");
        let Some(restored) = restored else { continue };
        let (operator, partition) = restored.lost[0].clone();
        let of = |name: &str| -> BTreeSet<u32> {
            let own = computed.iter().filter(|(operator, _)| operator == name);
            own.map(|(_, partition)| *partition).collect()
        };
        let (counts, totals) = (of("counts"), of("totals"));
        match operator.as_str() {
            "counts" => assert!(counts == BTreeSet::from([partition]) && totals.is_empty()),
            _ => assert!(counts.len() == 4 && totals == BTreeSet::from([partition])),
        }
        assert_eq!(restored.checkpoint, newest.meta.checkpoint);
        seen.insert((operator, partition));
    }
    let of = |name: &str| seen.iter().filter(|(operator, _)| operator == name).count();
    assert!(of("counts") > 1 && of("totals") > 1, "{seen:?}");
}

/// The power goes at every operation of a start that restores a key range and writes a whole
/// checkpoint, and every operation fails once: the next start has the same state.
#[test]
fn a_crash_or_fault_anywhere_in_a_restore_loses_nothing() {
    let (disk, expected) = lived();
    let path = data_files(&disk).pop().unwrap();
    disk.flip_byte(&path, 64 + 24 + 20, 1).unwrap();
    assert!(started(&disk.kill()).unwrap().1.is_some(), "a key range is lost");
    let mut states = 0;
    for op in 1.. {
        let struck = disk.kill();
        struck.crash_at(op, CrashManner::Torn);
        if started(&struck).is_ok() && !struck.is_off() {
            break;
        }
        for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(op)] {
            let again = started(&struck.power_cycle(outcome));
            let (held, ..) = again.unwrap_or_else(|error| panic!("op {op}, {outcome:?}: {error}"));
            assert_eq!(held, expected, "op {op}, {outcome:?}");
            states += 1;
        }
        for errno in [5, 28] {
            let struck = disk.kill();
            struck.fail_op(op, errno, FaultKind::NotExecuted);
            // A checkpoint that fails is an alarm; what the log cannot do ends the start.
            let here = started(&struck);
            assert!(here.is_err() || here.unwrap().0 == expected, "op {op}, errno {errno}");
            let again = started(&struck.kill());
            let (held, ..) = again.unwrap_or_else(|error| panic!("op {op}, {errno}: {error}"));
            assert_eq!(held, expected, "op {op}, errno {errno}");
        }
    }
    println!("{states} states after crashes in a restore");
    assert!(states > 90, "{states}");
}

/// As `docs/checkpoint-format.md` has it, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| shift(crc)))
}

/// A block whose checksum is right, and which is not what was written: numbers of checkpoints that
/// came to nothing are given again, so a device that loses a write may show such a one.
#[test]
fn a_whole_block_of_another_time_costs_its_key_range_alone() {
    let (disk, expected) = lived();
    let mut alone = 0;
    for path in data_files(&disk) {
        let mut bytes = disk.read_file(&path).unwrap();
        let length = u32::from_le_bytes(bytes[68..72].try_into().unwrap()) as usize;
        let block = &mut bytes[64..64 + 24 + length];
        assert_eq!(block[..4], crc32c(&block[4..]).to_le_bytes(), "the first block");
        block[24..].iter_mut().for_each(|byte| *byte ^= 0xff);
        let crc = crc32c(&block[4..]);
        block[..4].copy_from_slice(&crc.to_le_bytes());
        let cut = disk.kill();
        cut.write_file(&path, &bytes);
        let (held, restored, _) = started(&cut).unwrap();
        assert_eq!(held, expected, "{}", path.display());
        alone += usize::from(restored.is_some());
    }
    assert!(alone > 0, "no key range was restored alone");
}

/// E13: nothing is computed again over a change of the job, and nothing begins from empty.
fn across_generations() -> Result<Held> {
    let (disk, _) = lived();
    let home = disk.directory(Path::new("/data/checkpoints"), false).unwrap();
    let mut store = CheckpointStore::open(home, 2).unwrap();
    let newest = store.newest().unwrap().unwrap();
    let extents = |loaded: &sawmill::checkpoint::Loaded| -> Vec<sawmill::checkpoint::Extent> {
        let extent = |part: &sawmill::checkpoint::Part| sawmill::checkpoint::Extent {
            operator: part.operator.clone(),
            schema: part.schema,
            partition: part.partition,
            bytes: loaded.read(part).unwrap(),
        };
        loaded.parts.iter().map(extent).collect()
    };
    let whole = sawmill::checkpoint::CheckpointMeta { parent: 0, ..newest.meta.clone() };
    let other = sawmill::checkpoint::CheckpointMeta {
        generation: sawmill::Generation::new(7),
        ..whole.clone()
    };
    store.write(other, &extents(&newest)).unwrap();
    store.write(whole, &extents(&newest)).unwrap();
    drop(store);
    let path = data_files(&disk).pop().unwrap();
    disk.flip_byte(path, 64 + 24 + 12, 1).unwrap();
    started(&disk).map(|(held, restored, _)| {
        assert!(restored.is_none(), "{restored:?}");
        held
    })
}

#[test]
fn nothing_is_restored_over_a_change_of_the_job() {
    // The whole older one is another generation's: all of it is taken, or nothing.
    across_generations().unwrap();
}

/// CUT-3: killed behind any batch of a life in which deltas are written beside folds. Returns how
/// often the newest checkpoint was written beside a fold, and how often it was a delta on a fold
/// beside which others had been written.
fn kill_beside_folds() -> Result<[u64; 2], String> {
    let mut seen = [0; 2];
    for rounds in 8..40 {
        let (disk, held) = live(rounds, true);
        let home = disk.directory(Path::new("/data/checkpoints"), false).unwrap();
        let kept: Vec<_> = CheckpointStore::open(home, 2).unwrap().kept().cloned().collect();
        if let Some(newest) = kept.last().filter(|newest| newest.parent != 0) {
            let beside = |fold: u64| {
                let on = |meta: &&CheckpointMeta| meta.parent < fold && fold < meta.checkpoint;
                kept.iter().filter(|meta| meta.parent != 0).any(|meta| on(&meta))
            };
            seen[0] += u64::from(newest.checkpoint > newest.parent + 1);
            seen[1] += u64::from(beside(newest.parent));
        }
        let (again, restored, _) = started(&disk).map_err(|error| error.to_string())?;
        if again != held || restored.is_some() {
            return Err(format!("{rounds}, {kept:?}: {again:?}\nexpected {held:?}"));
        }
    }
    Ok(seen)
}

#[test]
fn deltas_beside_a_fold_and_on_it_hold_all_that_has_changed() {
    let seen = kill_beside_folds().unwrap();
    println!("deltas beside a fold, deltas on a fold: {seen:?}");
    assert!(seen.iter().all(|times| *times > 2), "{seen:?}");
}

#[cfg(feature = "planted")]
mod caught {
    use super::*;
    use sawmill::planted::{Bug, with_planted};

    fn caught(bug: Bug, body: fn() -> bool) {
        let passed = with_planted(bug, || std::panic::catch_unwind(body));
        assert!(!matches!(passed, Ok(true)), "{} is not noticed", bug.name());
    }

    #[test]
    fn planted_lost_ranges_and_folds_are_caught() {
        for bug in [Bug::LostNotReplayed, Bug::ClosureForgotten, Bug::LostIsEmpty] {
            caught(bug, || [15, 18, 21].into_iter().all(|rounds| flip_all(rounds, 131).is_ok()));
        }
        caught(Bug::FoldForgetsDelta, || kill_beside_folds().is_ok());
        caught(Bug::RebuildAcrossGeneration, || across_generations().is_ok());
    }
}
