//! Rounds: contenders take turns, each in the same state of the machine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use super::contender::{Contender, Written, work};
use super::histogram::Histogram;
use super::raw::locked;
use super::usage::{self, Usage};
use super::workload::{Kind, Workload};
use super::writer::{Tally, Writer};
use super::{Error, Outcome, now_ns};

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) rounds: u32,
    /// Of one contender in one round.
    pub(crate) time: Duration,
    /// Payload bytes of a round of bulk work, and of a log that is replayed.
    pub(crate) bulk_bytes: u64,
    /// Whether contenders are brought into their steady state before.
    pub(crate) warm: bool,
}

impl Protocol {
    /// At least 15 rounds, of a second where there is time for that.
    pub(crate) fn within(seconds: u32) -> Protocol {
        let rounds = if seconds < 3 { 7 } else { seconds.max(15) };
        let time = Duration::from_secs(u64::from(seconds)) / rounds;
        let bulk_bytes = if seconds >= 15 { 256 << 20 } else { 64 << 20 };
        Protocol { rounds, time, bulk_bytes, warm: true }
    }
}

/// One contender in one round.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) records: u64,
    pub(crate) elapsed_ns: u64,
    pub(crate) latency: Histogram,
    pub(crate) usage: Usage,
    pub(crate) written: Option<Written>,
}

impl Round {
    pub(crate) fn per_second(&self) -> f64 {
        self.records as f64 * 1e9 / self.elapsed_ns.max(1) as f64
    }
}

/// One contender in all rounds.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: &'static str,
    /// Another way of running the one before it.
    pub(crate) variant: bool,
    pub(crate) rounds: Vec<Round>,
}

/// All contenders of a workload.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub(crate) workload: Workload,
    pub(crate) series: Vec<Series>,
}

/// Lets those of `contenders` that can take turns. `progress` is called before each round with its
/// number.
pub(crate) fn compare(
    workload: Workload,
    contenders: &[&dyn Contender],
    protocol: Protocol,
    progress: &mut dyn FnMut(Workload, u32, &str),
) -> Outcome<Comparison> {
    let able: Vec<_> = contenders.iter().filter(|one| one.can(workload.kind)).collect();
    let mut series: Vec<_> = able
        .iter()
        .map(|one| Series { name: one.name(), variant: one.is_variant(), rounds: Vec::new() })
        .collect();
    for contender in able.iter().filter(|one| protocol.warm && one.wants_warm_up()) {
        progress(workload, 0, contender.name());
        run(**contender, workload, protocol.rounds, protocol)?;
        contender.warm_up()?;
    }
    for round in 0..protocol.rounds {
        for (contender, series) in able.iter().zip(&mut series) {
            progress(workload, round, contender.name());
            series.rounds.push(run(**contender, workload, round, protocol)?);
        }
    }
    Ok(Comparison { workload, series })
}

/// What the threads of a round leave behind.
#[derive(Default)]
struct Joined {
    tally: Tally,
    latency: Histogram,
    usage: Usage,
    threads: Vec<u64>,
    failed: Option<Error>,
}

fn run(
    contender: &dyn Contender,
    workload: Workload,
    round: u32,
    protocol: Protocol,
) -> Outcome<Round> {
    let Workload { kind, threads, size } = workload;
    let records = (protocol.bulk_bytes / (size * threads) as u64).max(1);
    let depth = if let Kind::InFlight(depth) = kind { depth / threads } else { 1 };
    let (stop, barrier) = (AtomicBool::new(false), Barrier::new(threads + 1));
    let joined = Mutex::new(Joined::default());
    let others = usage::of_all_threads();
    let mut begun = 0;
    thread::scope(|scope| {
        for number in 0..threads {
            let (joined, stop, barrier) = (&joined, &stop, &barrier);
            scope.spawn(move || {
                let mut writer = Writer::new(u64::from(round) + 1, number, size);
                barrier.wait();
                let outcome = work(contender, kind, &mut writer, records, depth, stop);
                let used = usage::of_this_thread();
                let mut joined = locked(joined);
                joined.tally.merge(writer.tally);
                joined.latency.merge(&writer.latency);
                if let Some((number, usage)) = used {
                    joined.threads.push(number);
                    joined.usage.add(usage);
                }
                // The first failure is told.
                let failed = joined.failed.take();
                joined.failed = failed.or(outcome.err());
            });
        }
        barrier.wait();
        begun = now_ns();
        if kind != Kind::Bulk {
            thread::sleep(protocol.time);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mut joined = joined.into_inner().unwrap_or_default();
    if let Some(failed) = joined.failed.take() {
        return Err(failed);
    }
    if kind == Kind::Bulk {
        contender.sync()?;
    }
    let elapsed_ns = now_ns() - begun;
    for (number, after) in usage::of_all_threads() {
        if !joined.threads.contains(&number) {
            let before = others.get(&number).copied().unwrap_or_default();
            joined.usage.cpu_ns += after.cpu_ns.saturating_sub(before.cpu_ns);
            joined.usage.switches += after.switches.saturating_sub(before.switches);
        }
    }
    let written = contender.settle(kind, size, joined.tally)?;
    let Joined { tally, latency, usage, .. } = joined;
    Ok(Round { records: tally.records, elapsed_ns, latency, usage, written })
}
