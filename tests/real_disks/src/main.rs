//! The log on real file systems of which every write is known, or which are full, or odd.
//!
//! A program of its own, because it needs root, FUSE and loop devices; neither the library nor its
//! tests depend on it. See `docs/testing.md`, "Real disks".
#![allow(clippy::disallowed_methods, reason = "it is about real time, files and threads")]

mod cuts;
mod device;
mod full;
mod medium;
mod memory;
mod oracle;
mod place;
mod random;
mod record;
mod recording;
mod report;
mod trace;
mod workload;

use std::path::Path;
use std::process::ExitCode;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome = Result<(), Failure>;

const USAGE: &str = "\
real-disks power-cuts [SEEDS [FILE-SYSTEM [PLANTED-BUG]]]
real-disks disk-full
real-disks small-memory [MEBIBYTES]";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["workload", log, marks, seed, process] => {
            workload_of(Path::new(log), Path::new(marks), seed, process)
        }
        ["power-cuts", ref chosen @ ..] => {
            alone(true, || report::power_cuts(&report::Chosen::of(chosen)?))
        }
        ["disk-full"] => alone(false, full::disk_full),
        ["fill", log] => full::fill(Path::new(log)),
        ["small-memory"] => memory::small_memory(4096),
        ["small-memory", mebibytes] => number(mebibytes).and_then(memory::small_memory),
        ["write-large", log, mebibytes] => {
            number(mebibytes).and_then(|size| memory::write_large(Path::new(log), size))
        }
        ["recover-large", log, durable] => {
            number(durable).and_then(|durable| memory::recover_large(Path::new(log), durable))
        }
        ["hoard"] => memory::hoard(),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("real-disks: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(word: &str) -> Result<u64, Failure> {
    Ok(word.parse()?)
}

fn workload_of(log: &Path, marks: &Path, seed: &str, process: &str) -> Outcome {
    workload::run(log, marks, seed.parse()?, process.parse()?)
}

/// Does it in a mount namespace of its own, or says why not.
fn alone(fuse: bool, what: impl FnOnce() -> Outcome) -> Outcome {
    if let Some(why) = place::refused(fuse) {
        println!("skipped: {why}");
        return Ok(());
    }
    place::in_own_namespace()?;
    what()
}
