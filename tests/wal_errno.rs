//! Every operation of the disk in the life of a log fails with every error number, once or from
//! then on, with and without its effect, or short: what the caller is told is of the class that the
//! documents promise for that place, nothing acknowledged is lost, nothing is written once the log
//! is poisoned, and the next process goes on.
//!
//! `SAWMILL_SIM=long` tries every combination; otherwise each operation has a share of them.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    reason = "tests stop at what fails"
)]

use std::collections::{BTreeMap, BTreeSet};

use sawmill::ErrorKind;
use sawmill::sim::{CrashOutcome, FaultKind, SimDisk};

mod wal_errno {
    pub(crate) mod lives;
    pub(crate) mod sites;
}

use wal_errno::lives::{LIVES, Life, Told, judge, operations};
use wal_errno::sites;

/// ENOSPC EIO EDQUOT EINTR EAGAIN EBUSY ENOMEM EFBIG EROFS ENODEV EINVAL ECANCELED.
const ERRNOS: [i32; 12] = [28, 5, 122, 4, 11, 16, 12, 27, 30, 19, 22, 125];
const KINDS: [FaultKind; 3] =
    [FaultKind::NotExecuted, FaultKind::ExecutedButReported, FaultKind::Short(512)];

/// Nothing moves any more, also when the last handle goes.
fn stays_poisoned(disk: &SimDisk, told: &mut Told) -> Result<(), String> {
    let error = told.error.as_ref().unwrap();
    if error.path().is_none() && std::error::Error::source(error).is_none() {
        return Err(format!("poisoned without a place or a cause: {error}"));
    }
    let before = disk.ops();
    let Some(wal) = told.kept.take() else { return Err("poisoned before it was open".into()) };
    let again = wal.append(b"never").map_err(|error| error.kind());
    drop(wal);
    match again {
        Err(ErrorKind::Poisoned | ErrorKind::Closed) if disk.ops() == before => Ok(()),
        Err(ErrorKind::Poisoned | ErrorKind::Closed) => {
            Err("something was written after the poison".into())
        }
        other => Err(format!("poisoned, and then {other:?}")),
    }
}

/// What happens to one operation, or to it and all later ones.
#[derive(Clone, Copy, Debug)]
struct Blow {
    number: u64,
    errno: i32,
    kind: FaultKind,
    sticky: bool,
    /// A later operation that fails in the same way.
    second: Option<u64>,
}

/// What came of a life with a blow.
#[derive(Default)]
struct Struck {
    /// The class of what the caller was told.
    class: String,
    /// The call sites of all that failed, if they were looked at.
    sites: Vec<String>,
    /// The operations behind the blow.
    behind: Vec<(u64, String)>,
}

/// A life with a blow, the next process, and the verdict over both.
fn strike(life: &Life, before: &Before, blow: Blow, look: bool) -> Result<Struck, String> {
    let (disk, mut told) = before.again();
    let Blow { number, errno, kind, sticky, second } = blow;
    if look {
        disk.note_struck();
    }
    if sticky {
        disk.fail_from(number, errno, kind);
    } else {
        disk.fail_op(number, errno, kind);
    }
    if let Some(second) = second {
        disk.fail_op(second, errno, kind);
    }
    told.error = (life.live)(&disk, &mut told).err();
    if told.error.as_ref().is_some_and(|error| error.kind() == ErrorKind::Poisoned) {
        stays_poisoned(&disk, &mut told)?;
    }
    told.kept = None;
    let class = told.error.as_ref().map_or("nothing".to_owned(), |e| format!("{:?}", e.kind()));
    let may = matches!(class.as_str(), "nothing" | "Poisoned" | "Io" | "DiskFull" | "Unreadable");
    if !may {
        return Err(format!("told {class}: {:?}", told.error));
    }
    let behind = match told.error {
        Some(_) if look => operations(&disk).filter(|(at, _)| *at > number).collect(),
        _ => Vec::new(),
    };
    let struck = Struck { class, sites: disk.struck(), behind };
    disk.fail_no_more();
    for outcome in [CrashOutcome::LoseAll, CrashOutcome::KeepAll, CrashOutcome::Seeded(number)] {
        judge(&disk.power_cycle(outcome), &told).map_err(|why| format!("{outcome:?}: {why}"))?;
    }
    Ok(struck)
}

/// What a life begins with, as often as it is lived.
struct Before {
    disk: SimDisk,
    told: Told,
}

impl Before {
    fn new(life: &Life) -> Before {
        let (disk, told) = (life.prepare)();
        Before { disk, told }
    }

    fn again(&self) -> (SimDisk, Told) {
        (self.disk.power_cycle(CrashOutcome::KeepAll), self.told.again())
    }
}

/// The place of an operation: which part of the life, which call, which file.
fn place(parts: &[(u64, &'static str)], number: u64, text: &str) -> String {
    let part = parts.iter().rev().find(|(from, _)| *from < number).map_or("", |(_, name)| *name);
    let text = text.strip_prefix("submit ").or(text.strip_prefix("complete ")).unwrap_or(text);
    let verb = text.split(' ').next().unwrap_or("");
    let names = [(".seg", "segment"), ("LOCK", "LOCK"), ("LOG", "LOG"), ("MARKS", "MARKS")];
    let file = names.iter().find(|(name, _)| text.contains(name)).map_or("directory", |it| it.1);
    let durable = if text.contains("durable") { " durable" } else { "" };
    format!("{part}: {verb}{durable} {file}")
}

/// What came of the runs of one life, or of all.
#[derive(Default)]
struct Outcome {
    runs: u64,
    operations: u64,
    /// Classes of what was told, and how often, by place.
    table: BTreeMap<String, BTreeMap<String, u64>>,
    struck: BTreeSet<String>,
    violations: Vec<String>,
}

impl Outcome {
    fn try_all(&mut self, life: &Life, share: usize) {
        let before = Before::new(life);
        let (whole, mut told) = before.again();
        (life.live)(&whole, &mut told).unwrap();
        self.operations += whole.ops();
        let mut seconds = BTreeSet::new();
        for (number, text) in operations(&whole) {
            if share == 1 && number % 100 == 0 {
                println!("{}: {number} of {} operations", life.name, whole.ops());
            }
            let place = format!("{}, {}", life.name, place(&told.parts, number, &text));
            for (at, errno) in ERRNOS.into_iter().enumerate() {
                for (nth, kind) in KINDS.into_iter().enumerate() {
                    for sticky in [false, true] {
                        let blow = Blow { number, errno, kind, sticky, second: None };
                        let lot = number as usize + at * 7 + nth * 3 + usize::from(sticky);
                        // Where everything fails, what a failure leads to is struck as well.
                        let look = at == 0 && nth == 0;
                        if !look && !lot.is_multiple_of(share) {
                            continue;
                        }
                        let behind = self.try_one(life, &before, &place, blow, look);
                        let mut same: BTreeMap<String, u64> = BTreeMap::new();
                        for (second, text) in behind.into_iter().filter(|_| !sticky) {
                            // Each thing that is done about a failure fails once.
                            let nth =
                                *same.entry(text.clone()).and_modify(|n| *n += 1).or_default();
                            if seconds.insert((place.clone(), text, nth)) {
                                let blow = Blow { second: Some(second), ..blow };
                                self.try_one(life, &before, &place, blow, true);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Returns what was done behind the blow, if it is looked at.
    fn try_one(
        &mut self,
        life: &Life,
        before: &Before,
        place: &str,
        blow: Blow,
        look: bool,
    ) -> Vec<(u64, String)> {
        self.runs += 1;
        match strike(life, before, blow, look) {
            Ok(struck) => {
                check_class(place, &struck.class, blow, &mut self.violations);
                let classes = self.table.entry(place.to_owned()).or_default();
                *classes.entry(struck.class).or_default() += 1;
                self.struck.extend(struck.sites);
                struck.behind
            }
            Err(why) => {
                self.violations.push(format!("{place}, {blow:?}: {why}"));
                Vec::new()
            }
        }
    }

    fn add(&mut self, other: Outcome) {
        self.runs += other.runs;
        self.operations += other.operations;
        self.table.extend(other.table);
        self.struck.extend(other.struck);
        self.violations.extend(other.violations);
    }
}

#[test]
fn every_error_at_every_operation_is_of_its_class() {
    let long = std::env::var("SAWMILL_SIM").is_ok_and(|value| value == "long");
    let mut all = Outcome::default();
    std::thread::scope(|scope| {
        let lives = LIVES.iter().map(|life| {
            scope.spawn(move || {
                let mut one = Outcome::default();
                one.try_all(life, if long { 1 } else { 48 });
                one
            })
        });
        for life in lives.collect::<Vec<_>>() {
            all.add(life.join().unwrap());
        }
    });
    for (place, classes) in &all.table {
        println!("{place}: {classes:?}");
    }
    println!("{} runs over {} operations at {} places", all.runs, all.operations, all.table.len());
    assert!(all.table.len() >= 200, "{}", all.table.len());
    let missed = never_struck(&all.struck);
    let violations = &all.violations;
    assert!(violations.is_empty(), "{}:\n{}", violations.len(), violations.join("\n"));
    assert!(missed.is_empty(), "call sites:\n  {}", missed.join("\n  "));
}

/// What is wrong if each place in the sources that calls the storage is to have seen its call fail.
fn never_struck(struck: &BTreeSet<String>) -> Vec<String> {
    let sites = sites::in_sources();
    let unknown = struck.iter().filter(|site| !sites.contains_key(*site));
    let mut wrong: Vec<_> =
        unknown.map(|site| format!("{site} was struck, and its shape is not known")).collect();
    let mut exempt = 0;
    for (site, code) in &sites {
        match (struck.contains(site), sites::is_exempt(site, code)) {
            (true, false) => {}
            (false, true) => exempt += 1,
            (false, false) => wrong.push(format!("{site} was never struck: {code}")),
            (true, true) => wrong.push(format!("{site} is exempt, and was struck: {code}")),
        }
    }
    println!("{} call sites: {} struck, {exempt} exempt", sites.len(), struck.len());
    wrong
}

/// What a place may say.
fn check_class(place: &str, class: &str, blow: Blow, violations: &mut Vec<String>) {
    let poisons =
        ["append: write", "plain frames and sync: write durable", "plain frames and sync: sync"];
    let poisons = poisons.iter().any(|part| place.contains(part)) && place.contains("segment");
    if poisons && class != "Poisoned" {
        violations.push(format!("{place}: {class} after {blow:?}"));
    }
}
