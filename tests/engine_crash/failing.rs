//! E17: every operation of the disk in the life of a job fails once, with every error number: those
//! of opening, of recovery and of restoring from checkpoints, of batches, sinks and truncations, of
//! checkpoints, deltas and folds. A checkpoint that fails is an alarm, its predecessor stands and
//! the job goes on; what else fails ends the job at most, and the next process makes it right.
//!
//! `SAWMILL_SIM=long` tries every combination; otherwise each operation has a share of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sawmill::ErrorKind;
use sawmill::clock::{Clock, ManualClock};
use sawmill::sim::{CrashOutcome, Device, FaultKind, SimOptions};
use sawmill::testing::{NoHooks, Step};

use super::engine_common::{CrashAt, World, check, life};
use super::long;

/// ENOSPC EIO EDQUOT EINTR EAGAIN EBUSY ENOMEM EFBIG EROFS ENODEV EINVAL ECANCELED.
const ERRNOS: [i32; 12] = [28, 5, 122, 4, 11, 16, 12, 27, 30, 19, 22, 125];
/// Of them, those that say that there is no space.
const FULL: [i32; 2] = [28, 122];
const KINDS: [FaultKind; 3] =
    [FaultKind::NotExecuted, FaultKind::ExecutedButReported, FaultKind::Short(512)];

/// A world before the life that is struck.
struct Before {
    name: &'static str,
    world: World,
    now_ns: u64,
}

/// A job from its start; one whose checkpoints are written beside batches; one that was killed in
/// the middle and is restored.
fn lives() -> [Before; 3] {
    let options = || SimOptions {
        device: Device::Flush,
        count_reads: true,
        trace_lines: 1 << 16,
        ..SimOptions::default()
    };
    let begun = World::with_options(options(), 1);
    let late = World { late: true, ..World::with_options(options(), 1) };
    let killed = World::with_options(options(), 1);
    assert!(life(&killed, Box::new(CrashAt(Step::Published, 7))).is_err());
    let killed = killed.with_disk(killed.disk.kill());
    [("begun", begun), ("late", late), ("restored", killed)].map(|(name, world)| Before {
        name,
        now_ns: world.clock.monotonic_ns(),
        world,
    })
}

impl Before {
    /// The world, as often as it is lived in.
    fn again(&self) -> World {
        let clock = ManualClock::default();
        clock.advance(Duration::from_nanos(self.now_ns));
        let world = self.world.with_disk(self.world.disk.kill());
        World { clock: Arc::new(clock), ..world }
    }
}

/// Which call on which file.
fn place(text: &str) -> String {
    let text = text.strip_prefix("submit ").or(text.strip_prefix("complete ")).unwrap_or(text);
    let verb = text.split(' ').next().unwrap_or("");
    let files = [
        ("checkpoints/MANIFEST", "manifest"),
        ("checkpoints/SPARE", "spare"),
        (".ckpt", "checkpoint"),
        ("checkpoints", "checkpoints"),
        (".seg", "segment"),
        ("/log", "log"),
        ("/out", "sink"),
        ("/in", "source"),
        ("/data", "engine"),
    ];
    let file = files.iter().find(|(part, _)| text.contains(part)).map_or("other", |it| it.1);
    format!("{verb} {file}")
}

/// What came of one blow: what the job was told, and whether the alarm was raised.
fn strike(
    before: &Before,
    at: u64,
    errno: i32,
    kind: FaultKind,
    text: &str,
) -> Result<String, String> {
    let world = before.again();
    world.disk.fail_op(at, errno, kind);
    let ended = life(&world, Box::new(NoHooks));
    world.disk.fail_no_more();
    // The same operation as in the life that nobody struck.
    let trace = world.disk.trace();
    assert!(trace.contains(&format!("#{at} {text}")), "{at} {text}\n{trace}");
    let alarms = world.outside.lock().unwrap().alarms;
    let told = match &ended {
        Ok(finished) => {
            check(&world, finished)?;
            if alarms > 0 { "alarm".to_owned() } else { "nothing".to_owned() }
        }
        Err(error) => {
            let kinds = [
                ErrorKind::Io,
                ErrorKind::DiskFull,
                ErrorKind::Unreadable,
                ErrorKind::Poisoned,
                ErrorKind::SinkFailed,
            ];
            if !kinds.contains(&error.kind()) {
                return Err(format!("told {:?}: {error}", error.kind()));
            }
            format!("{:?}", error.kind())
        }
    };
    for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll] {
        let next = world.with_disk(world.disk.power_cycle(outcome));
        let finished = life(&next, Box::new(NoHooks));
        let finished = finished.map_err(|error| format!("{told}, {outcome:?}: {error}"))?;
        check(&next, &finished).map_err(|error| format!("{told}, {outcome:?}: {error}"))?;
    }
    Ok(told)
}

/// Whether it is about a checkpoint's file.
fn is_file(text: &str) -> bool {
    text.contains(".ckpt")
}

/// E17: a checkpoint that fails is an alarm and not the end; what it wrote and did not write is
/// never passed over.
fn is_right(started: bool, text: &str, (errno, kind): (i32, FaultKind), class: &str) -> bool {
    let steps = ["create", "submit write", "complete write", "sync", "submit sync"];
    let writes = steps.iter().any(|step| text.starts_with(step)) && is_file(text);
    match class {
        "alarm" => true,
        // E15: where there is no space, the log makes room, and it is tried again.
        "nothing" => !writes || kind != FaultKind::NotExecuted || FULL.contains(&errno),
        _ => !(started && (is_file(text) || text.contains("MANIFEST"))),
    }
}

/// What was told, by place, and how often; and what was wrong.
type Told = BTreeMap<String, BTreeMap<String, u64>>;

fn strike_all(before: &Before, share: usize) -> (Told, Vec<String>) {
    let whole = before.again();
    life(&whole, Box::new(NoHooks)).unwrap();
    assert_eq!(whole.outside.lock().unwrap().alarms, 0, "nobody was struck");
    let trace = whole.disk.trace();
    let operations = trace.lines().filter_map(|line| line.strip_prefix('#')?.split_once(' '));
    let operations: Vec<(u64, &str)> =
        operations.map(|(number, text)| (number.parse().unwrap(), text)).collect();
    // The store of checkpoints is open when its first file is made.
    let first = operations.iter().find(|(_, text)| text.starts_with("create") && is_file(text));
    let started = first.unwrap().0;
    let (mut told, mut wrong) = (Told::new(), Vec::new());
    for (number, text) in operations {
        for (nth, errno) in ERRNOS.into_iter().enumerate() {
            for (kind_nth, kind) in KINDS.into_iter().enumerate() {
                let lot = usize::try_from(number).unwrap() + nth * 7 + kind_nth * 3;
                if !lot.is_multiple_of(share) {
                    continue;
                }
                let place = format!("{}, {}", before.name, place(text));
                match strike(before, number, errno, kind, text).and_then(|class| {
                    let checked = is_right(number > started, text, (errno, kind), &class);
                    checked.then_some(class.clone()).ok_or(class)
                }) {
                    Ok(class) => *told.entry(place).or_default().entry(class).or_default() += 1,
                    Err(why) => {
                        wrong.push(format!("{place}, {number} {text}, {errno} {kind:?}: {why}"));
                    }
                }
            }
        }
    }
    (told, wrong)
}

#[test]
fn every_error_at_every_operation_of_a_job_is_made_good() {
    let share = if long() { 1 } else { 36 };
    let lives = lives();
    let (mut told, mut wrong) = (Told::new(), Vec::new());
    std::thread::scope(|scope| {
        let started = lives.iter().map(|before| scope.spawn(move || strike_all(before, share)));
        for life in started.collect::<Vec<_>>() {
            let (one, two) = life.join().unwrap();
            told.extend(one);
            wrong.extend(two);
        }
    });
    let runs: u64 = told.values().flat_map(BTreeMap::values).sum();
    for (place, classes) in &told {
        println!("{place}: {classes:?}");
    }
    println!("{runs} runs at {} places", told.len());
    let alarms: u64 = told.values().filter_map(|classes| classes.get("alarm")).sum();
    assert!(runs > 1000 && alarms > 200, "{runs} runs, {alarms} alarms");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

/// E17: seen where checkpoints fail: the next one lacks what the failed one had taken.
#[cfg(feature = "planted")]
#[test]
fn a_failed_cut_that_is_forgotten_is_caught() {
    use sawmill::planted::{Bug, with_planted};
    let [begun, ..] = lives();
    let (_, wrong) = with_planted(Bug::FailedCutForgotten, || strike_all(&begun, 36));
    println!("failed-cut-forgotten caught: {}", wrong.first().expect("nobody noticed"));
}
