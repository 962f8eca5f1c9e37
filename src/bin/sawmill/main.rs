//! The command line of sawmill.
//!
//! Exit codes: 0 done, 1 what was looked at is damaged, 2 an error, which is a sentence on
//! stderr. What is printed is described in `docs/command-line.md`.

mod bench;
mod checkpoint;
mod doctor;
mod out;
mod savepoint;
mod state;
mod wal_append;
mod wal_bench;
mod wal_cat;
mod wal_inspect;
mod wal_repair;
mod wal_verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a subcommand fails with: the log's error, or that of stdin or stdout.
type Failure = Box<dyn std::error::Error + Send + Sync>;
/// A subcommand's exit code.
type Outcome = Result<u8, Failure>;

/// A durable log, and a streaming engine on top of it.
#[derive(Debug, Parser)]
#[command(name = "sawmill", version)]
struct Command {
    #[command(subcommand)]
    area: Area,
}

#[derive(Debug, Subcommand)]
enum Area {
    /// Work with a log directory.
    #[command(subcommand)]
    Wal(Wal),
    /// Look at the checkpoints of an engine's directory, writing nothing.
    #[command(subcommand)]
    Checkpoint(checkpoint::Command),
    /// Keep a job's state under a name: make, list, verify, remove savepoints.
    #[command(subcommand)]
    Savepoint(savepoint::Command),
    /// Print an operator's state as the newest checkpoint has it, writing nothing.
    #[command(subcommand)]
    State(state::Command),
    /// Find out what disk, file system and limits really give a log here, with advice.
    Doctor(doctor::Arguments),
}

#[derive(Debug, Subcommand)]
enum Wal {
    /// Append each line of stdin as a record.
    Append(wal_append::Arguments),
    /// Print records, each as `<lsn><TAB><payload>`.
    ///
    /// Writes nothing, and works beside the log's writer: what is printed is durable.
    Cat(wal_cat::Arguments),
    /// Read every frame and compare every checksum, writing nothing.
    ///
    /// Exit code 0: sound; 1: damaged; 2: it could not be looked at.
    Verify(wal_verify::Arguments),
    /// Show the files, the openings, and how the space is used, writing nothing.
    Inspect(wal_inspect::Arguments),
    /// Give up damaged records, exactly those that are named. Their bytes are kept aside.
    Repair(wal_repair::Arguments),
    /// Find out what disk, file system and limits really give a log here: as `sawmill doctor`.
    Doctor(doctor::Arguments),
    /// Measure the log on your disk, beside the raw limit of the same minute.
    Bench(wal_bench::Arguments),
}

fn main() -> ExitCode {
    if cfg!(feature = "planted") {
        out::complain("PLANTED BUGS ARE COMPILED IN: NOT FOR DATA YOU NEED");
    }
    let outcome = match Command::parse().area {
        Area::Wal(command) => run(command),
        Area::Checkpoint(command) => checkpoint::run(&command),
        Area::Savepoint(command) => savepoint::run(&command),
        Area::State(command) => state::run(&command),
        Area::Doctor(arguments) => doctor::run(&arguments),
    };
    let outcome = match out::check() {
        Err(error) if !out::is_gone(&error) => outcome.and(Err(error.into())),
        Err(_) | Ok(()) => outcome,
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        // `| head` has seen enough.
        Err(error) if out::is_gone(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            out::complain(error);
            ExitCode::from(2)
        }
    }
}

fn run(command: Wal) -> Outcome {
    match command {
        Wal::Append(arguments) => wal_append::run(&arguments).map(|()| 0),
        Wal::Cat(arguments) => wal_cat::run(&arguments).map(|()| 0),
        Wal::Verify(arguments) => wal_verify::run(&arguments),
        Wal::Inspect(arguments) => wal_inspect::run(&arguments),
        Wal::Repair(arguments) => wal_repair::run(&arguments),
        Wal::Bench(arguments) => wal_bench::run(&arguments).map(|()| 0),
        Wal::Doctor(arguments) => doctor::run(&arguments),
    }
}
