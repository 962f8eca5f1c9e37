//! Faults under the real backends. System calls fail with every error number, once and from then
//! on, by `strace`; operations of io_uring fail in their completions, without and with their
//! effect, or are short, by a library between the program and the kernel. After each, everything
//! acknowledged is there, in order, once; nothing hangs; a poisoned log acknowledges nothing more;
//! the next process goes on.
//!
//! `just faults-real PLACES` strikes each call at so many places of a life; what the machine does
//! not allow is skipped, and said. Here a few strikes run, where the machine allows them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test stops at what fails")]
#![allow(clippy::disallowed_methods, reason = "the test is about real processes and their time")]
#![allow(clippy::wildcard_enum_match_arm, reason = "fields of a line")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

mod faults_real {
    pub(crate) mod calls;
    pub(crate) mod life;
    pub(crate) mod run;
}

use faults_real::calls::{self, ERRNOS, Site};
use faults_real::life;
use faults_real::run::{self, Fault};

/// Names the directory in which the child lives.
pub(crate) const PLACE: &str = "SAWMILL_TEST_FAULTS";
/// So often, sites that were not struck yet are tried at other times.
const ROUNDS: usize = 5;
const BACKENDS: [&str; 4] = ["uring", "uring-buffered", "pwrite", "pwrite-buffered"];

/// Not a test by itself: what the struck process does.
#[test]
fn child() {
    if let Ok(place) = std::env::var(PLACE) {
        life::live(Path::new(&place));
    }
}

/// What came of many lives.
#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    struck: u64,
    acknowledged: u64,
    poisoned: u64,
    /// Runs and strikes by call or operation.
    calls: BTreeMap<String, (u64, u64)>,
    /// Where system calls were struck, by backend.
    sites: BTreeMap<String, BTreeSet<Site>>,
    violations: Vec<String>,
}

/// One life with one fault, and the verdict over it.
fn try_one(backend: &str, fault: &Fault, bug: Option<&str>, tally: &Mutex<Tally>) {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let lived = run::run(place.path(), backend, fault, bug);
    let (verdict, lived) = match lived {
        Ok(lived) => (verdict(place.path(), fault, &lived), Some(lived)),
        Err(why) => (Err(why), None),
    };
    let mut tally = tally.lock().unwrap();
    tally.runs += 1;
    if tally.runs.is_multiple_of(200) {
        println!("{} runs, {} violations", tally.runs, tally.violations.len());
    }
    let struck = lived.as_ref().map_or(0, |lived| lived.struck);
    if let Some(lived) = &lived {
        tally.struck += u64::from(lived.struck > 0);
        tally.acknowledged += lived.said.acknowledged.len() as u64;
        tally.poisoned += u64::from(lived.said.was_told("Poisoned"));
        if let Fault::Call { .. } = fault {
            let struck = calls::made(&lived.trace).into_iter().filter(|made| made.struck);
            let sites = tally.sites.entry(backend.to_owned()).or_default();
            sites.extend(struck.map(|made| made.site));
        }
    }
    let (runs, strikes) = tally.calls.entry(fault.name()).or_default();
    *runs += 1;
    *strikes += u64::from(struck > 0);
    if let Err(why) = verdict {
        let told = lived.map_or(Vec::new(), |lived| lived.said.told);
        let violation = format!("{backend}, {fault:?}: {why}; told {told:?}");
        // At once: a campaign may be cut off.
        println!("{violation}");
        tally.violations.push(violation);
    }
}

fn verdict(place: &Path, fault: &Fault, lived: &run::Lived) -> Result<(), String> {
    if !lived.said.ended {
        return Err("the process ended before its life did".to_owned());
    }
    let kinds = ["Poisoned", "Io", "DiskFull", "Unreadable", "Closed"];
    let fits = |told: &&String| {
        // `EAGAIN` of a lock is how Linux says that somebody has it.
        kinds.iter().any(|kind| told.starts_with(kind))
            || fault.takes_locks_away() && told.starts_with("Locked")
    };
    if let Some(told) = lived.said.told.iter().find(|told| !fits(told)) {
        return Err(format!("an error of another kind: {told}"));
    }
    // No sync that failed is repeated and believed.
    if fault.is_sync() && lived.struck > 0 && !lived.said.was_told("Poisoned") {
        return Err("a sync failed, and the log went on".to_owned());
    }
    run::judge(place, &lived.said)
}

/// Tries all, two at a time.
fn campaign(faults: &[(&str, Fault)], bug: Option<&str>, tally: &Mutex<Tally>) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((backend, fault)) = faults.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    try_one(backend, fault, bug, tally);
                }
            });
        }
    });
}

/// The same, for itself.
fn tried(faults: &[(&str, Fault)], bug: Option<&str>) -> Tally {
    let tally = Mutex::new(Tally::default());
    campaign(faults, bug, &tally);
    tally.into_inner().unwrap()
}

fn report(name: &str, tally: &Tally) {
    for (call, (runs, struck)) in &tally.calls {
        println!("  {call}: {runs} runs, struck in {struck}");
    }
    println!(
        "{name}: {} runs, {} with a fault that struck, {} poisoned, {} records acknowledged",
        tally.runs, tally.struck, tally.poisoned, tally.acknowledged
    );
}

/// Whether `strace` may trace here, and tells stacks.
fn strace() -> bool {
    let none = ["-qq", "-k", "-o", "/dev/null", "-e", "trace=none", "true"];
    succeeds(Command::new("strace").args(none))
}

fn succeeds(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

/// The library between program and kernel, built; `None` without a C compiler or io_uring.
fn library(place: &Path) -> Option<PathBuf> {
    let library = place.join("completions.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults_real/completions.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
    if !succeeds(&mut compiler) {
        return None;
    }
    let ring = sawmill::storage::SystemStorage::from_name("uring").unwrap();
    sawmill::storage::Storage::directory(&ring, place, true).ok()?;
    Some(library)
}

/// What can become of an operation, by errno where it fails.
fn completions(
    library: &Path,
    places: &[u64],
    errnos: &[(&str, i64)],
) -> Vec<(&'static str, Fault)> {
    let mut faults = Vec::new();
    for only in ["write", "sync", "read"] {
        for backend in ["uring", "uring-buffered"] {
            for (from, sticky) in places.iter().flat_map(|from| [(*from, false), (*from, true)]) {
                let fault = |how, result| {
                    let library = library.to_owned();
                    (backend, Fault::Completion { library, only, how, result, from, sticky })
                };
                for (_, errno) in errnos {
                    faults.extend([fault("refused", -errno), fault("executed", -errno)]);
                }
                if only != "sync" {
                    faults.push(fault("short", 512));
                }
            }
        }
    }
    faults
}

fn places() -> usize {
    std::env::var("SAWMILL_FAULT_PLACES").map_or(4, |text| text.parse().unwrap())
}

#[test]
#[ignore = "an hour: just faults-real"]
fn every_error_of_every_call_on_every_backend() {
    if !strace() {
        println!("system calls: skipped, strace is not there, may not trace, or tells no stacks");
        return;
    }
    let tally = Mutex::new(Tally::default());
    let mut sites: Vec<BTreeSet<Site>> = Vec::new();
    for round in 0..ROUNDS {
        let is_done = |(at, backend)| never_struck(&sites[at], backend, &tally).is_empty();
        if round > 0 && BACKENDS.into_iter().enumerate().all(is_done) {
            break;
        }
        let mut faults = Vec::new();
        for (at, backend) in BACKENDS.into_iter().enumerate() {
            if round > 0 && never_struck(&sites[at], backend, &tally).is_empty() {
                continue;
            }
            let made = undisturbed(backend);
            if round == 0 {
                sites.push(made.iter().map(|made| made.site.clone()).collect());
                println!("{backend}: {} sites of system calls", sites[at].len());
            }
            let wanted = never_struck(&sites[at], backend, &tally);
            let errors = calls::errors(&made, &wanted, places() + round);
            faults.extend(errors.into_iter().map(|fault| (backend, fault)));
        }
        println!("{} runs to come", faults.len());
        campaign(&faults, None, &tally);
    }
    report("system calls", &tally.lock().unwrap());
    let violations = tally.lock().unwrap().violations.clone();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    for (sites, backend) in sites.iter().zip(BACKENDS) {
        let missed = never_struck(sites, backend, &tally);
        println!("{backend}: {} sites, {} never struck", sites.len(), missed.len());
        assert!(missed.is_empty(), "{backend}: never struck: {missed:#?}");
    }
}

/// The calls of a life that nothing strikes.
fn undisturbed(backend: &str) -> Vec<calls::Made> {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let whole = run::run(place.path(), backend, &Fault::None, None).unwrap();
    assert_eq!(whole.said.told, Vec::<String>::new());
    run::judge(place.path(), &whole.said).unwrap();
    calls::made(&whole.trace)
}

/// Two lives do not pass every site at the same call of a name: which ones wait for another try.
fn never_struck(sites: &BTreeSet<Site>, backend: &str, tally: &Mutex<Tally>) -> BTreeSet<Site> {
    let tally = tally.lock().unwrap();
    let struck = tally.sites.get(backend);
    sites.iter().filter(|site| struck.is_none_or(|it| !it.contains(site))).cloned().collect()
}

#[test]
#[ignore = "minutes: just faults-real"]
fn every_error_in_completions() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let Some(library) = library(place.path()) else {
        println!("completions: skipped, no C compiler or no io_uring");
        return;
    };
    let places: Vec<u64> = (0..places() as u64 * 2).map(|nth| 1 + nth * nth).collect();
    let tally = tried(&completions(&library, &places, &ERRNOS), None);
    report("completions", &tally);
    assert!(tally.violations.is_empty(), "{}", tally.violations.join("\n"));
}

/// What the gate tries: writes, syncs and reads that are refused, that fail though they happened,
/// and that are short. `None` without the library. Syncs are struck at the first of `places`, for a
/// life has two, all else at the others: the twelfth write is a frame among others.
fn a_few(place: &Path, places: &[u64]) -> Option<Vec<(&'static str, Fault)>> {
    let Some(library) = library(place) else {
        println!("completions: skipped, no C compiler or no io_uring");
        return None;
    };
    let mut faults = completions(&library, places, &ERRNOS[..1]);
    faults.retain(|(_, fault)| match fault {
        Fault::Completion { only, from, sticky, .. } => {
            (*only == "sync") == (*from == places[0]) && !sticky
        }
        Fault::None | Fault::Call { .. } => false,
    });
    Some(faults)
}

#[test]
fn a_few_errors_in_completions() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let Some(faults) = a_few(place.path(), &[1, 12]) else { return };
    let tally = tried(&faults, None);
    report("completions", &tally);
    assert!(tally.violations.is_empty(), "{}", tally.violations.join("\n"));
    assert!(tally.struck == tally.runs && tally.poisoned > 0, "{tally:?}");
}

#[test]
#[cfg(feature = "planted")]
fn planted_bugs_are_seen_in_completions() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // What the twelfth write holds depends on who came first: another one shows it then.
    let Some(faults) = a_few(place.path(), &[1, 12, 15, 18, 21]) else { return };
    for bug in ["continue-after-error", "short-write-counts", "retry-sync"] {
        // One by one, until it is seen.
        let seen = faults.chunks(1).any(|one| !tried(one, Some(bug)).violations.is_empty());
        assert!(seen, "{bug} is not seen");
    }
}
