//! A small job on the simulated disk, the world outside of it, and the model that never crashed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "shared by several test files")]
#![allow(dead_code, reason = "each test file uses its part")]

mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::{Device, SimDisk, SimOptions};
use sawmill::testing::{Harness, Hooks, Step, Stepped};
use sawmill::{
    Accumulator, Background, BatchId, Bytes, Engine, EngineOptions, Error, Event, EventListener,
    Ingest, Job, Received, Result, RunContext, RunOptions, SideInput, StateHandle, TextFiles,
    Trigger, WalOptions, name,
};

pub const TEXT: &[(&str, &str)] =
    &[("a.txt", "oak ash oak\nelm\n\nash elm fir oak\n"), ("b.txt", "fir fir\noak yew ash")];
/// Records appended by a whole life.
pub const RECORDS: u64 = 8;

/// What the words that say the value of the side input begin with.
pub const SIDE: &str = "side-";

pub use ledger::{Ledger, LedgerSink, Strike};

pub type Row = (String, u64);

/// What has been seen outside of the engine. A crash takes nothing of it.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// Records that an append was tried with.
    pub tried: u64,
    pub acknowledged: BTreeSet<u64>,
    /// What the callback was given: per batch its attempts and rows.
    pub batches: BTreeMap<BatchId, (Vec<u32>, Vec<Row>)>,
    pub complaints: Vec<String>,
    /// The last value that the side input was set to, for certain.
    pub side: u64,
    /// How often the job told of a failure.
    pub alarms: u64,
}

/// Two two-phase sinks beside the others, and what happens to them.
#[derive(Clone, Debug, Default)]
pub struct Ledgers {
    pub left: Arc<Mutex<Ledger>>,
    pub right: Arc<Mutex<Ledger>>,
    /// What is prepared is gone after a crash.
    pub expire: bool,
    /// At which call of the left one (or the right one), in this life, what happens.
    pub strike: Option<(bool, u64, Strike)>,
}

/// The disk, the time, and everybody else.
#[derive(Clone, Debug)]
pub struct World {
    pub disk: SimDisk,
    pub clock: Arc<ManualClock>,
    pub outside: Arc<Mutex<Outside>>,
    /// The callback fails the first time it ever sees a batch with an even number.
    pub flaky: bool,
    /// Checkpoints are written a batch later than they are taken, as on a thread of their own.
    pub late: bool,
    pub ledgers: Option<Ledgers>,
    /// The job's function gives other words than it used to.
    pub shout: bool,
    /// The job has no side input, so that batches are drafted where checkpoints are late; and one
    /// more sink, of the words as they come, which a draft has whole.
    pub sideless: bool,
    /// Partitions of every shuffle, and of the state.
    pub parallelism: u32,
}

impl World {
    pub fn new(seed: u64) -> World {
        World::on(Device::Flush, seed)
    }

    pub fn on(device: Device, seed: u64) -> World {
        World::with_options(SimOptions { device, ..SimOptions::default() }, seed)
    }

    pub fn with_options(options: SimOptions, seed: u64) -> World {
        let disk = SimDisk::with_options(seed, options);
        for (file, text) in TEXT {
            disk.write_file(Path::new("/in").join(file), text.as_bytes());
        }
        let clock = Arc::new(ManualClock::default());
        World {
            disk,
            clock,
            outside: Arc::default(),
            flaky: false,
            late: false,
            ledgers: None,
            shout: false,
            sideless: false,
            parallelism: self::options().parallelism,
        }
    }

    /// The same outside and time, with the disk that a crash left.
    pub fn with_disk(&self, disk: SimDisk) -> World {
        let outside = self.outside.lock().unwrap().clone();
        let clock = Arc::clone(&self.clock);
        let outside = Arc::new(Mutex::new(outside));
        let copy =
            |ledger: &Arc<Mutex<Ledger>>| Arc::new(Mutex::new(ledger.lock().unwrap().clone()));
        let ledgers = self.ledgers.as_ref().map(|ledgers| Ledgers {
            left: copy(&ledgers.left),
            right: copy(&ledgers.right),
            expire: ledgers.expire,
            strike: None,
        });
        World {
            disk,
            clock,
            outside,
            flaky: self.flaky,
            late: self.late,
            ledgers,
            shout: self.shout,
            sideless: self.sideless,
            parallelism: self.parallelism,
        }
    }

    pub fn engine(&self) -> Result<Engine> {
        let log = WalOptions {
            segment_size: 64 << 10,
            lock_wait: Duration::ZERO,
            background: Background::Inline,
            ..WalOptions::default()
        };
        let options = EngineOptions { log, threads: 1, ..EngineOptions::default() };
        let disk = Arc::new(self.disk.clone());
        Engine::open_with(disk, Arc::clone(&self.clock) as Arc<_>, "/data", options)
    }

    /// Counts what a job that goes on tells of failures.
    fn listener(&self) -> EventListener {
        let outside = Arc::clone(&self.outside);
        Arc::new(move |event| {
            outside.lock().unwrap().alarms += u64::from(matches!(event, Event::Failed { .. }));
        })
    }

    fn ledger_sinks(&self) -> Option<(LedgerSink, LedgerSink)> {
        let ledgers = self.ledgers.as_ref()?;
        let sink = |ledger: &Arc<Mutex<Ledger>>, right: bool| LedgerSink {
            ledger: Arc::clone(ledger),
            disk: self.disk.clone(),
            expires: ledgers.expire,
            strike: ledgers.strike.filter(|strike| strike.0 == right).map(|(_, n, s)| (n, s)),
        };
        Some((sink(&ledgers.left, false), sink(&ledgers.right, true)))
    }

    /// Words of the files and of the received records, counted together, and in each partition of
    /// a batch one word that says what the side input is.
    pub fn job(
        &self,
        events: &Ingest,
        side: &SideInput<u64>,
    ) -> Result<(Job, StateHandle<Bytes, u64>)> {
        let (outside, flaky) = (Arc::clone(&self.outside), self.flaky);
        let (ledgers, shout, sideless) = (self.ledger_sinks(), self.shout, self.sideless);
        Job::build(name!("words"), |job| {
            let paths = TEXT.iter().map(|(file, _)| Path::new("/in").join(file));
            let lines = job.source(name!("files"), TextFiles::new(paths));
            let received = job.source(name!("received"), Received::from(events));
            let seen = Accumulator::new(name!("lines"));
            let side = (!self.sideless).then(|| job.side_input(side));
            let words = lines.union(&received).map_partitions::<Bytes>(move |rows, out| {
                if let Some(side) = &side {
                    let side = side.of(rows.run())?.map_or(0, |side| *side);
                    out.push(format!("{SIDE}{side}").as_bytes());
                }
                rows.for_each(|line| {
                    seen.add(1);
                    line.split(|b| *b == b' ').filter(|w| !w.is_empty()).for_each(|w| out.push(w))
                })
            });
            if self.sideless {
                words.write_text(name!("echo"), "/echo");
            }
            let counted = words.pair_with(|_| 1u64).reduce_by_key(|a, b| a + b);
            let name = name!("counts");
            let counts = counted.map_with_state::<u64, Row>(name, move |word, new, count| {
                let sum = count.unwrap_or(0) + new.sum::<u64>();
                *count = Some(sum);
                let word = String::from_utf8_lossy(word);
                Some((if shout { word.to_uppercase() } else { word.into_owned() }, sum))
            });
            counts.out.write_json_lines(name!("out"), "/out");
            if let Some((left, right)) = ledgers {
                counts.out.write_in_two_phases(name!("left"), left);
                counts.out.write_in_two_phases(name!("right"), right);
            }
            counts.out.for_each_batch(name!("callback"), move |batch| {
                let rows: Vec<Row> = batch.rows().cloned().collect();
                let mut outside = outside.lock().unwrap();
                if !sideless {
                    outside.see_side(batch.id(), &rows);
                }
                let first = outside.see(batch.id(), batch.attempt(), rows) == 1;
                let fails = flaky && first && batch.id().get() % 2 == 0;
                if fails { Err("the other side is not there".into()) } else { Ok(()) }
            });
            counts.state
        })
    }
}

impl Outside {
    /// E20: one id, one set of rows; attempts rise. Returns how often the batch was seen.
    fn see(&mut self, id: BatchId, attempt: u32, rows: Vec<Row>) -> usize {
        let (attempts, seen) = self.batches.entry(id).or_insert_with(|| (vec![], rows.clone()));
        if *seen != rows {
            let text = format!("batch {id}: {seen:?} at first, {rows:?} at attempt {attempt}");
            self.complaints.push(text);
        }
        if attempts.last().is_some_and(|last| *last >= attempt) {
            let text = format!("batch {id}: attempts {attempts:?}, then {attempt}");
            self.complaints.push(text);
        }
        attempts.push(attempt);
        attempts.len()
    }

    /// E8: a version is read by some batch, never by one before a batch that read an older one.
    fn see_side(&mut self, id: BatchId, rows: &[Row]) {
        let side = |rows: &[Row]| rows.iter().filter_map(|row| side_of(&row.0)).max();
        let before = self.batches.range(..id).next_back().and_then(|(_, seen)| side(&seen.1));
        let (now, set) = (side(rows), self.side);
        if now.is_none() || now < before || now > Some(set + 1) {
            let text = format!("batch {id}: side input {now:?}, before {before:?}, set to {set}");
            self.complaints.push(text);
        }
    }
}

/// The value of the side input that a word says.
fn side_of(word: &str) -> Option<u64> {
    word.strip_prefix(SIDE)?.parse().ok()
}

/// Ends the driver at the n-th time a step is passed.
#[derive(Debug)]
pub struct CrashAt(pub Step, pub u32);

impl Hooks for CrashAt {
    fn at(&mut self, step: Step, _batch: BatchId) -> Result<()> {
        if step == self.0 {
            if self.1 == 0 {
                return Err(stop());
            }
            self.1 -= 1;
        }
        Ok(())
    }

    fn computing(&mut self, _batch: BatchId, _run: &RunContext) {}
}

/// Any error will do: nobody looks at it.
fn stop() -> Error {
    Job::build(name!("none"), |_| ()).unwrap_err()
}

pub fn options() -> RunOptions {
    RunOptions {
        trigger: Trigger::Bytes(24),
        checkpoint_interval: Duration::from_millis(6),
        parallelism: 2,
        ..RunOptions::default()
    }
}

/// What a finished life leaves.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished {
    pub counts: BTreeMap<String, u64>,
    pub output: String,
    /// What the sink of the words has, in order.
    pub echo: String,
    pub truncated: bool,
    /// What the accumulator of lines says.
    pub lines: i64,
}

/// Opens, recovers, and works until all of the input and [`RECORDS`] records are processed. An
/// `Err` is a crash: whatever happened, the world outside knows no more than before.
pub fn life(world: &World, hooks: Box<dyn Hooks>) -> Result<Finished> {
    let engine = world.engine()?;
    let events = engine.ingest(name!("events"))?;
    let side = engine.side_input(name!("side"));
    let (job, counts) = world.job(&events, &side)?;
    let (parallelism, on_event) = (world.parallelism, Some(world.listener()));
    let options = RunOptions { parallelism, on_event, ..options() };
    let start = if world.late { Harness::with_late_checkpoints } else { Harness::new };
    let mut harness = start(&engine, job, options, hooks)?;
    loop {
        let open = append(world, &events)?;
        if open {
            let next = world.outside.lock().unwrap().side + 1;
            side.set(&next)?;
            world.outside.lock().unwrap().side = next;
        }
        let stepped = harness.step()?;
        world.clock.advance(Duration::from_millis(6));
        if stepped == Stepped::Idle && !open {
            break;
        }
    }
    harness.finish()?;
    let lines = harness.progress().accumulators.get("lines").copied().unwrap_or(0);
    let mut all = BTreeMap::new();
    counts.for_each(|word, count| {
        all.insert(String::from_utf8_lossy(word).into_owned(), *count);
    })?;
    let truncated = engine.log().first_lsn().get() > 1;
    drop(harness);
    engine.close()?;
    let output = output(&world.disk);
    let echo = files_of(&world.disk, "/echo", "txt");
    Ok(Finished { counts: all, output, echo, truncated, lines })
}

/// Appends one record, unlike any other; `false` if there are enough.
fn append(world: &World, events: &Ingest) -> Result<bool> {
    let next = {
        let mut outside = world.outside.lock().unwrap();
        if outside.acknowledged.len() as u64 >= RECORDS {
            return Ok(false);
        }
        outside.tried += 1;
        outside.tried
    };
    events.append(format!("r{next} oak").as_bytes())?;
    world.outside.lock().unwrap().acknowledged.insert(next);
    Ok(true)
}

/// The first sink's files, one after the other.
pub fn output(disk: &SimDisk) -> String {
    files_of(disk, "/out", "jsonl")
}

fn files_of(disk: &SimDisk, place: &str, extension: &str) -> String {
    let files = disk.files().into_iter().filter(|path| path.starts_with(place));
    let data = files.filter(|path| path.extension().is_some_and(|end| end == extension));
    data.map(|path| String::from_utf8(disk.read_file(path).unwrap()).unwrap()).collect()
}

/// Compares what a finished life left with the model.
pub fn check(world: &World, finished: &Finished) -> Result<(), String> {
    let outside = world.outside.lock().unwrap().clone();
    if let Some(complaint) = outside.complaints.first() {
        return Err(complaint.clone());
    }
    let mut model: BTreeMap<String, u64> = BTreeMap::new();
    for (_, text) in TEXT {
        text.split_whitespace().for_each(|word| *model.entry(word.to_owned()).or_default() += 1);
    }
    for record in 1..=outside.tried {
        let word = format!("r{record}");
        let counted = finished.counts.get(&word).copied().unwrap_or(0);
        // One that was tried and not acknowledged may be there, once.
        let right = counted == 1 || (counted == 0 && !outside.acknowledged.contains(&record));
        if !right {
            return Err(format!("record {record} is counted {counted} times"));
        }
        if counted == 1 {
            model.insert(word, 1);
            *model.entry("oak".to_owned()).or_default() += 1;
        }
    }
    // E8: the state has what the callback was told, whichever versions there were later.
    for (word, count) in outside.batches.values().flat_map(|(_, rows)| rows) {
        if side_of(word).is_some() {
            model.insert(word.clone(), *count);
        }
    }
    // E12: every line once, however often its batch was computed.
    let text: usize = TEXT.iter().map(|(_, text)| text.lines().count()).sum();
    let received = finished.counts.keys().filter(|word| word.starts_with('r')).count();
    if finished.lines != i64::try_from(text + received).unwrap() {
        return Err(format!("{} lines are counted of {text} and {received}", finished.lines));
    }
    if finished.counts != model {
        return Err(format!("state {:?}, model {model:?}", finished.counts));
    }
    let mut echoed: BTreeMap<String, u64> = BTreeMap::new();
    for word in finished.echo.lines() {
        *echoed.entry(word.to_owned()).or_default() += 1;
    }
    if world.sideless && echoed != model {
        return Err(format!("the sink of words has {echoed:?}, model {model:?}"));
    }
    let rows = outside.batches.values().flat_map(|(_, rows)| rows);
    let expected: String = rows.map(|(word, count)| format!("[\"{word}\",{count}]\n")).collect();
    if finished.output != expected {
        return Err(format!("sink has\n{}callback was given\n{expected}", finished.output));
    }
    let mut ledgers = world.ledgers.iter().flat_map(|ledgers| [&ledgers.left, &ledgers.right]);
    ledgers.try_for_each(|ledger| check_ledger(&ledger.lock().unwrap(), &outside))
}

/// E2: every batch is published once, in order, as the callback was given it; nothing is in doubt.
fn check_ledger(ledger: &Ledger, outside: &Outside) -> Result<(), String> {
    if let Some(complaint) = ledger.complaints.first() {
        return Err(complaint.clone());
    }
    let published = ledger.published.iter().map(|(_, batch, rows)| (batch, rows));
    let given = outside.batches.iter().map(|(batch, (_, rows))| (batch, rows));
    if !published.clone().eq(given.clone()) {
        let (published, given): (Vec<_>, Vec<_>) = (published.collect(), given.collect());
        return Err(format!("ledger has {published:?}, callback was given {given:?}"));
    }
    if !ledger.held.is_empty() {
        return Err(format!("left in doubt: {:?}", ledger.held));
    }
    Ok(())
}
