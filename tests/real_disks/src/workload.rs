//! What is interrupted: a process that uses a real log, and says into the device's log what it was
//! promised.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use sawmill::{AppendOptions, Durability, Lsn, StreamId, Wal, WalOptions};

use crate::oracle::{Mark, Step};
use crate::random::Random;
use crate::record::Identity;
use crate::{Failure, Outcome};

/// Small, so that a few dozen records fill some of them.
const SEGMENT: u64 = 64 << 10;
const LONGEST: usize = 6000;
/// Writers of one process.
const WRITERS: u32 = 16;

/// The options of every log here.
pub(crate) fn options() -> WalOptions {
    WalOptions { segment_size: SEGMENT, recycled: 4, prepared_ahead: 2, ..WalOptions::default() }
}

/// Where marks go.
#[derive(Debug)]
pub(crate) struct Marks(File);

impl Marks {
    pub(crate) fn open(path: &Path) -> std::io::Result<Marks> {
        OpenOptions::new().write(true).open(path).map(Marks)
    }

    /// Returns when the mark stands in the device's log.
    pub(crate) fn say(&self, mark: Mark) -> std::io::Result<()> {
        (&self.0).write_all(mark.to_string().as_bytes())
    }
}

/// Every record of a log, with what it is.
pub(crate) fn read(wal: &Wal) -> Result<Vec<(u64, Identity)>, Failure> {
    let mut records = Vec::new();
    let mut replay = wal.replay()?;
    while let Some(record) = replay.next() {
        let record = record?;
        let lsn = record.lsn.get();
        let Some(identity) = Identity::of(record.payload) else {
            return Err(format!("LSN {lsn} was never appended: {:?}", record.payload).into());
        };
        records.push((lsn, identity));
    }
    Ok(records)
}

/// One process of the workload.
struct Process<'a> {
    log: &'a Path,
    marks: Marks,
    random: Random,
    options: WalOptions,
    /// The next writer's number, which nobody had before.
    writer: u32,
}

/// The first process makes the log, closes and opens it, and kills itself; the second recovers it,
/// goes on and closes, and does so again; the third recovers it after a power cut.
pub(crate) fn run(log: &Path, marks: &Path, seed: u64, which: u32) -> Outcome {
    let mut random = Random::new(&[seed, u64::from(which)]);
    let depths = [None, Some(1), Some(2), Some(4)];
    let options = WalOptions { write_depth: depths[random.below(4)], ..options() };
    let writer = 1 + which * 1000;
    let mut process = Process { log, marks: Marks::open(marks)?, random, options, writer };
    match which {
        0 => {
            process.life(Step::Open, 2)?;
            let wal = process.open(Step::Open)?;
            process.round(&wal, true)
        }
        1 => {
            process.life(Step::Recover, 2)?;
            process.life(Step::Open, 1)
        }
        _ => process.life(Step::Recover, 1),
    }
}

impl Process<'_> {
    /// Opens, goes some rounds, closes.
    fn life(&mut self, opening: Step, rounds: usize) -> Outcome {
        let wal = self.open(opening)?;
        for _ in 0..rounds {
            self.round(&wal, false)?;
            if self.random.one_in(2) {
                // Long enough for the idle log to attest what it acknowledged.
                thread::sleep(Duration::from_millis(70));
            }
        }
        self.marks.say(Mark::Step(Step::Close))?;
        Ok(wal.close()?)
    }

    fn open(&self, step: Step) -> Result<Wal, Failure> {
        self.marks.say(Mark::Step(step))?;
        let wal = Wal::open(self.log, self.options.clone())?;
        // What was shown stays.
        for (lsn, identity) in read(&wal)? {
            self.marks.say(Mark::Held(lsn, identity))?;
        }
        self.marks.say(Mark::Step(Step::Append))?;
        Ok(wal)
    }

    /// Some writers side by side, and truncation beside them. With `killed`, none of this ends.
    fn round(&mut self, wal: &Wal, killed: bool) -> Outcome {
        let writers = 1 + u32::try_from(self.random.below(3))?;
        assert!(writers < WRITERS, "each writer has a number of its own");
        let left = AtomicU64::new(8 + self.random.below(16) as u64);
        let randoms: Vec<Random> =
            (0..writers).map(|_| Random::new(&[self.random.below(usize::MAX) as u64])).collect();
        let (marks, first) = (&self.marks, self.writer);
        self.writer += writers;
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for (writer, random) in (first..).zip(randoms) {
                let mut writer = Writer { wal, marks, random, writer, number: 0 };
                let left = &left;
                threads.push(scope.spawn(move || -> Outcome {
                    while left.fetch_sub(1, Ordering::Relaxed) as i64 > 0 {
                        writer.append()?;
                    }
                    if killed {
                        kill_process(getpid(), Signal::KILL)?;
                    }
                    Ok(())
                }));
            }
            if self.random.below(3) > 0 {
                truncate(wal, marks, &mut self.random)?;
            }
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(outcome) => outcome,
                Err(_) => Err("a writer panicked".into()),
            })
        })
    }
}

fn truncate(wal: &Wal, marks: &Marks, random: &mut Random) -> Outcome {
    thread::sleep(Duration::from_millis(random.below(10) as u64));
    let (first, durable) = (wal.first_lsn().get(), wal.durable_lsn().get());
    let some = usize::try_from(durable.saturating_sub(first) + 1)?;
    let lsn = first + random.below(some) as u64;
    marks.say(Mark::Truncating(lsn))?;
    let start = wal.truncate_before(Lsn::new(lsn))?;
    Ok(marks.say(Mark::Truncated(start.get()))?)
}

/// A thread that appends.
struct Writer<'a> {
    wal: &'a Wal,
    marks: &'a Marks,
    random: Random,
    writer: u32,
    number: u32,
}

impl Writer<'_> {
    fn identity(&mut self) -> Identity {
        let number = self.number;
        self.number += 1;
        Identity { writer: self.writer, number, part: 0, parts: 1 }
    }

    fn length(&mut self) -> usize {
        let most = if self.random.one_in(2) { LONGEST } else { 300 };
        12 + self.random.below(most)
    }

    /// Appends in one of the ways there are, waits until it is durable, and says so.
    fn append(&mut self) -> Outcome {
        let held = match self.random.below(6) {
            0..=2 => {
                let (identity, length) = (self.identity(), self.length());
                vec![(self.wal.append(&identity.payload(length))?, identity)]
            }
            3 => self.append_batch()?,
            4 => {
                let mut held = Vec::new();
                let options =
                    AppendOptions { stream: StreamId::DEFAULT, durability: Durability::Buffered };
                for _ in 0..1 + self.random.below(3) {
                    let (identity, length) = (self.identity(), self.length());
                    held.push((
                        self.wal.append_with(&identity.payload(length), options)?,
                        identity,
                    ));
                }
                self.wal.sync()?;
                held
            }
            _ => {
                let mut pending = Vec::new();
                for _ in 0..1 + self.random.below(4) {
                    let (identity, length) = (self.identity(), self.length());
                    pending.push((self.wal.submit(&identity.payload(length))?, identity));
                }
                let wait = |(pending, identity): (sawmill::Pending, Identity)| {
                    Ok::<_, Failure>((pending.wait()?, identity))
                };
                pending.into_iter().map(wait).collect::<Result<_, _>>()?
            }
        };
        for (lsn, identity) in held {
            self.marks.say(Mark::Held(lsn.get(), identity))?;
        }
        Ok(())
    }

    fn append_batch(&mut self) -> Result<Vec<(Lsn, Identity)>, Failure> {
        let (whole, parts) = (self.identity(), 2 + u16::try_from(self.random.below(3))?);
        let identities: Vec<Identity> =
            (0..parts).map(|part| Identity { part, parts, ..whole }).collect();
        let payloads: Vec<Vec<u8>> =
            identities.iter().map(|identity| identity.payload(self.length())).collect();
        let first = self.wal.append_batch(&payloads)?.first();
        Ok(identities
            .into_iter()
            .enumerate()
            .map(|(at, one)| (first.advance(at as u64), one))
            .collect())
    }
}
