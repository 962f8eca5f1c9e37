//! Batches in which the process ends again and again (E4), and jobs that give every batch out once
//! at most: on a disk that crashes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sawmill::sim::{CrashManner, CrashOutcome, SimDisk};
use sawmill::testing::{Harness, Hooks, NoHooks, Step, Stepped};
use sawmill::{
    BatchId, BatchOutput, BatchSink, Event, Job, Opening, Progress, Received, Result, RunOptions,
    SinkError, Trigger, Wal, name,
};

use super::engine_common::{CrashAt, World, options};

const RECORDS: usize = 30;

/// A sink that knows which batches it has, and survives everything.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<BTreeMap<u64, Vec<Vec<u8>>>>>);

impl BatchSink<Vec<u8>> for Store {
    fn open(&self, _opening: &Opening<'_>) -> Result<(), SinkError> {
        Ok(())
    }

    fn publish(&self, batch: &BatchOutput<'_, Vec<u8>>) -> Result<(), SinkError> {
        self.0.lock().unwrap().insert(batch.id().get(), batch.rows().cloned().collect());
        Ok(())
    }

    fn has(&self, batch: BatchId) -> Result<Option<bool>, SinkError> {
        Ok(Some(self.0.lock().unwrap().contains_key(&batch.get())))
    }
}

/// Has the plan written while the batch is computed, as the log's committer does. A process that
/// dies before that leaves no plan, and nothing to be counted.
#[derive(Debug)]
struct Committed {
    log: Wal,
    hooks: Box<dyn Hooks>,
}

impl Hooks for Committed {
    fn at(&mut self, step: Step, batch: BatchId) -> Result<()> {
        if step == Step::Planned {
            self.log.sync()?;
        }
        self.hooks.at(step, batch)
    }
}

/// A process that has memory for so many records of a batch, and dies at more of them.
#[derive(Clone)]
struct Life {
    world: World,
    memory: usize,
    /// A record that no process survives.
    poison: bool,
    /// How many records a batch may leave out.
    skip: u32,
    /// A callback beside the store: it cannot say what it has.
    callback: bool,
    store: Store,
    told: Arc<Mutex<Vec<String>>>,
}

impl Life {
    fn new(memory: usize) -> Life {
        Life {
            world: World::new(1),
            memory,
            poison: false,
            skip: 0,
            callback: false,
            store: Store::default(),
            told: Arc::default(),
        }
    }

    fn after(&self, disk: SimDisk) -> Life {
        let store = Store(Arc::new(Mutex::new(self.store.0.lock().unwrap().clone())));
        Life { world: self.world.with_disk(disk), store, ..self.clone() }
    }

    fn live(&self, hooks: Box<dyn Hooks>) -> Result<Progress> {
        let engine = self.world.engine()?;
        let events = engine.ingest(name!("events"))?;
        if engine.log().replay()?.next().is_none_or(|first| first.is_err()) {
            let record = |n| if self.poison && n == 17 { "poison".into() } else { format!("r{n}") };
            events.append_batch(&(0..RECORDS).map(record).collect::<Vec<String>>())?;
        }
        let (disk, memory, told) = (self.world.disk.clone(), self.memory, Arc::clone(&self.told));
        let (job, ()) = Job::build(name!("hungry"), |job| {
            let words = job.source(name!("in"), Received::from(&events));
            let rows = words.map_partitions::<Vec<u8>>(move |rows, out| {
                let mut held = 0;
                rows.for_each(|row| {
                    held += 1;
                    if held > memory || row == b"poison" {
                        disk.power_off();
                    }
                    assert!(!disk.is_off(), "the process is dead");
                    out.push(row.to_vec());
                })
            });
            rows.write_to(name!("store"), self.store.clone());
            if self.callback {
                rows.for_each_batch(name!("callback"), |_| Ok(()));
            }
            job.skip_failures(self.skip);
        })?;
        let listener = move |event: &Event| told.lock().unwrap().push(event.to_string());
        let options = RunOptions {
            trigger: Trigger::Bytes(1000),
            on_event: Some(Arc::new(listener)),
            ..options()
        };
        let hooks = Box::new(Committed { log: engine.log().clone(), hooks });
        let mut harness = Harness::new(&engine, job, options, hooks)?;
        let started = harness.progress();
        while harness.step()? != Stepped::Idle {
            self.world.clock.advance(std::time::Duration::from_millis(6));
        }
        harness.finish()?;
        let crash_alarm = started.crash_alarm;
        let mut ended = harness.progress();
        ended.crash_alarm = crash_alarm;
        Ok(ended)
    }

    /// Lives until a process gets to the end; how many there were.
    fn live_on(&self, story: &str) -> Result<(Life, u32, Progress), String> {
        let mut life = self.clone();
        for lives in 1..=40 {
            match life.live(Box::new(NoHooks)) {
                Ok(progress) => return Ok((life, lives, progress)),
                Err(error) if !life.world.disk.is_off() => return Err(format!("{story}: {error}")),
                Err(_) => life = life.after(life.world.disk.power_cycle(CrashOutcome::KeepAll)),
            }
        }
        Err(format!("{story}: every process dies"))
    }

    fn rows(&self) -> Vec<Vec<u8>> {
        self.store.0.lock().unwrap().values().flatten().cloned().collect()
    }

    /// Each record once, in order.
    fn check(&self, story: &str) -> Result<(), String> {
        let all = (0..RECORDS).filter(|n| !self.poison || *n != 17);
        let all: Vec<Vec<u8>> = all.map(|n| format!("r{n}").into_bytes()).collect();
        if self.rows() == all {
            return Ok(());
        }
        let rows = self.rows().into_iter().map(|row| String::from_utf8(row).unwrap());
        Err(format!("{story}: {:?}", rows.collect::<Vec<_>>()))
    }
}

/// Lives that die of memory, struck once more at every step and operation of their first ones.
fn strike_hungry() -> Result<u64, String> {
    let hungry = || Life::new(4);
    let (life, lives, _) = hungry().live_on("undisturbed")?;
    life.check("undisturbed")?;
    assert!(lives > 4, "{lives}");
    let mut states = 0;
    for operation in (1..=200).step_by(3) {
        for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll] {
            // Two processes die by themselves first: the third one withdraws the batch.
            let mut life = hungry();
            for _ in 0..2 {
                assert!(life.live(Box::new(NoHooks)).is_err());
                life = life.after(life.world.disk.power_cycle(CrashOutcome::KeepAll));
            }
            life.world.disk.crash_at(operation, CrashManner::Torn);
            let story = format!("operation {operation}, {outcome:?}");
            if life.live(Box::new(NoHooks)).is_ok() {
                return Ok(states);
            }
            let after = life.after(life.world.disk.power_cycle(outcome));
            after.live_on(&story)?.0.check(&story)?;
            states += 1;
        }
    }
    Ok(states)
}

/// E4, rows R1c to R1e: after the second death the batch is withdrawn and cut smaller; batches grow
/// again behind it; nothing is lost or doubled wherever the power goes besides.
#[test]
fn a_batch_that_no_process_survives_is_withdrawn_and_cut_smaller() {
    let (life, lives, progress) = Life::new(4).live_on("hungry").unwrap();
    life.check("hungry").unwrap();
    let told = life.told.lock().unwrap().clone();
    assert!(told.iter().any(|text| text == "batch 1 withdrawn after 2 ends of the process"));
    println!("{lives} lives, {} batches; told {told:?}", progress.batch);
    let states = strike_hungry().unwrap();
    println!("{states} states around withdrawn batches");
    assert!(states > 20, "{states}");
}

/// E4: one record that no process survives is left out, if records may be; else the job says which
/// batch it is.
#[test]
fn a_record_that_no_process_survives_is_left_out_or_named() {
    let poisoned = Life { poison: true, skip: 1, ..Life::new(100) };
    let (life, _, progress) = poisoned.live_on("poison").unwrap();
    life.check("poison").unwrap();
    assert_eq!(progress.skipped_records, 1);
    let refused = Life { skip: 0, ..poisoned };
    let ended = refused.live_on("not left out").map(|(_, lives, _)| lives);
    assert!(ended.unwrap_err().contains("every process dies"));
}

/// E4, E20: what a sink may have is never given another number.
#[test]
fn a_batch_that_a_sink_may_have_is_not_withdrawn() {
    let seen = || Life { callback: true, ..Life::new(100) };
    let mut life = seen();
    for _ in 0..4 {
        // It dies when the store has the batch, at the first and at every later attempt.
        assert!(life.live(Box::new(CrashAt(Step::SinkPublished, 0))).is_err());
        life.world.disk.power_off();
        life = life.after(life.world.disk.power_cycle(CrashOutcome::KeepAll));
    }
    let progress = life.live(Box::new(NoHooks)).unwrap();
    life.check("seen").unwrap();
    assert!(progress.crash_alarm.unwrap().contains("cannot be withdrawn"));
    // The store alone knows that it has the batch, although only its first attempt was made.
    strike_seen().unwrap();
}

/// Dies once behind the store, then of memory; the batch is there once.
fn strike_seen() -> Result<(), String> {
    let life = Life::new(100);
    assert!(life.live(Box::new(CrashAt(Step::SinkPublished, 0))).is_err());
    life.world.disk.power_off();
    let mut life =
        Life { memory: 3, ..life.after(life.world.disk.power_cycle(CrashOutcome::KeepAll)) };
    for _ in 0..3 {
        assert!(life.live(Box::new(NoHooks)).is_err());
        life = life.after(life.world.disk.power_cycle(CrashOutcome::KeepAll));
    }
    let life = Life { memory: 100, ..life };
    life.live_on("seen")?.0.check("seen")
}

#[cfg(feature = "planted")]
#[test]
fn withdraw_seen_and_death_not_counted_are_caught() {
    use sawmill::planted::{Bug, with_planted};
    let story = with_planted(Bug::WithdrawSeen, strike_seen).unwrap_err();
    println!("withdraw-seen caught: {story}");
    let story = with_planted(Bug::DeathNotCounted, strike_hungry).unwrap_err();
    println!("death-not-counted caught: {story}");
}

/// A world, and the rows that the callback was given in all lives.
#[derive(Clone)]
struct Once(World, Arc<Mutex<Vec<String>>>);

/// A job that calls its callback once at most, to the end of its input.
fn live_once(Once(world, seen): &Once, hooks: Box<dyn Hooks>) -> Result<u64> {
    let engine = world.engine()?;
    let events = engine.ingest(name!("events"))?;
    if engine.log().replay()?.next().is_none_or(|first| first.is_err()) {
        events.append_batch(&(0..9).map(|n| format!("r{n}")).collect::<Vec<String>>())?;
    }
    let (seen, disk) = (Arc::clone(seen), world.disk.clone());
    let (job, counts) = Job::build(name!("once"), |job| {
        let words = job.source(name!("in"), Received::from(&events));
        words.for_each_batch(name!("callback"), move |batch| {
            if disk.is_off() {
                return Err("the process is dead".into());
            }
            let rows = batch.rows().map(|row| String::from_utf8(row.clone()).unwrap());
            seen.lock().unwrap().extend(rows);
            let refuses = batch.id().get() == 2 && batch.attempt() == 1;
            if refuses { Err("refused, when it was done".into()) } else { Ok(()) }
        });
        let counted = words.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
        let counts = counted.map_with_state::<u64, ()>(name!("counts"), |_, new, count| {
            *count = Some(count.unwrap_or(0) + new.sum::<u64>());
            None
        });
        counts.state
    })?;
    let mut harness = Harness::new(&engine, job.at_most_once(), options(), hooks)?;
    while harness.step()? != Stepped::Idle {
        world.clock.advance(std::time::Duration::from_millis(6));
    }
    harness.finish()?;
    let mut sum = 0;
    counts.for_each(|_, count| sum += *count)?;
    Ok(sum)
}

/// Such a job, struck everywhere.
fn strike_at_most_once() -> Result<(u64, u64), String> {
    let new = || Once(World::new(1), Arc::default());
    let (mut states, mut lost) = (0, 0);
    let undisturbed = new();
    assert_eq!(live_once(&undisturbed, Box::new(NoHooks)).unwrap(), 9);
    let mut struck = Vec::new();
    for step in Step::ALL {
        for number in 0..20 {
            let once = new();
            if live_once(&once, Box::new(CrashAt(step, number))).is_ok() {
                break;
            }
            once.0.disk.power_off();
            struck.push((format!("{step:?} number {number}"), once));
        }
    }
    for operation in 1..=undisturbed.0.disk.ops() {
        let once = new();
        once.0.disk.crash_at(operation, CrashManner::Torn);
        drop(live_once(&once, Box::new(NoHooks)));
        struck.push((format!("operation {operation}"), once));
    }
    for (story, Once(world, seen)) in struck {
        for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll] {
            let seen = Arc::new(Mutex::new(seen.lock().unwrap().clone()));
            let after = Once(world.with_disk(world.disk.power_cycle(outcome)), seen);
            let sum = live_once(&after, Box::new(NoHooks));
            let sum = sum.map_err(|error| format!("{story}, {outcome:?}: {error}"))?;
            let mut rows = after.1.lock().unwrap().clone();
            rows.sort();
            let all = rows.len();
            rows.dedup();
            if rows.len() < all || sum != 9 {
                return Err(format!(
                    "{story}, {outcome:?}: {all} rows of {}, sum {sum}",
                    rows.len()
                ));
            }
            (states, lost) = (states + 1, lost + u64::from(all < 9));
        }
    }
    Ok((states, lost))
}

/// At most once: no row twice, wherever the power goes and whatever the sink says; state counts
/// every record once.
#[test]
fn a_job_at_most_once_gives_no_row_out_twice() {
    let (states, lost) = strike_at_most_once().unwrap();
    println!("{states} states, {lost} with a batch lost");
    assert!(states > 100 && lost > 0 && lost < states / 2, "{states}, {lost}");
}

#[cfg(feature = "planted")]
#[test]
fn publish_before_position_is_caught() {
    use sawmill::planted::{Bug, with_planted};
    let story = with_planted(Bug::PublishBeforePosition, strike_at_most_once).unwrap_err();
    println!("publish-before-position caught: {story}");
}
