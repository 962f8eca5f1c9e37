//! The command line of sawmill.
//!
//! Exit codes: 0 done, 2 an error, which is a sentence on stderr.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line prints")]

mod bench;
mod wal_append;
mod wal_bench;
mod wal_cat;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a subcommand fails with: the log's error, or that of stdin or stdout.
type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

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
}

#[derive(Debug, Subcommand)]
enum Wal {
    /// Append each line of stdin as a record.
    Append(wal_append::Arguments),
    /// Print every record as `<lsn><TAB><payload>`.
    ///
    /// Opens the log as its writer: while another process writes it, this fails after 5 s.
    Cat(wal_cat::Arguments),
    /// Measure the log on your disk, beside the raw limit of the same minute.
    Bench(wal_bench::Arguments),
}

fn main() -> ExitCode {
    if cfg!(feature = "planted") {
        eprintln!("sawmill: PLANTED BUGS ARE COMPILED IN: NOT FOR DATA YOU NEED");
    }
    let Command { area: Area::Wal(command) } = Command::parse();
    let outcome = match command {
        Wal::Append(arguments) => wal_append::run(&arguments),
        Wal::Cat(arguments) => wal_cat::run(&arguments),
        Wal::Bench(arguments) => wal_bench::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sawmill: {error}");
            ExitCode::from(2)
        }
    }
}
