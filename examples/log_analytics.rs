//! What a service would ask its access logs: which of our customers get errors, and how many.
//!
//!     cargo run --release --example log_analytics -- access-1.log access-2.log
//!
//! Reads lines like
//!
//!     203.0.113.9 - - [21/Nov/2026:04:45:14 +0000] "GET /a HTTP/1.1" 503 512
//!
//! from files, keeps the failed requests (status 500 and above), counts them for each address,
//! joins the addresses with a small table of customers, and prints the ten worst. Lines that are
//! no such lines are counted, not hidden. The result is the same for any number of threads.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to a person")]

use std::collections::BTreeMap;
use std::process::ExitCode;

use sawmill::{Accumulator, Broadcast, Bytes, Dataset, Executor, Kv, Result, TextFiles, name};

/// Lines go to tasks in pieces of about this many bytes.
const PIECE: u64 = 4 << 20;

/// Address and status of a line, where they lie.
fn parse(line: &[u8]) -> Option<(&[u8], u16)> {
    let address = line.split(|byte| *byte == b' ').next()?;
    // Behind the quoted request come a space, the status, a space.
    let behind = line.rsplitn(2, |byte| *byte == b'"').next()?;
    let status = behind.trim_ascii_start().split(|byte| *byte == b' ').next()?;
    let status = std::str::from_utf8(status).ok()?.parse().ok()?;
    (!address.is_empty() && line.contains(&b'"')).then_some((address, status))
}

/// Failed requests for each address.
fn failures(lines: &Dataset<Bytes>, malformed: Accumulator) -> Dataset<Kv<Bytes, u64>> {
    lines
        .flat_map_rows::<Bytes>(move |line, out| match parse(line) {
            Some((address, 500..)) => out.push(address),
            Some(_) => {}
            None => malformed.add(1),
        })
        .pair_with(|_| 1u64)
        .reduce_by_key(|a, b| a + b)
}

/// Whose addresses are whose: in a real service, a table from elsewhere.
fn customers() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([("203.0.113.", "Harbour Mills"), ("198.51.100.", "Oak & Ash")])
}

fn report(paths: &[String]) -> Result<()> {
    let executor = Executor::new(0, 16)?;
    let lines = TextFiles::new(paths).dataset(PIECE)?;
    let malformed = Accumulator::new(name!("malformed"));
    let customers = Broadcast::new(customers());
    let worst = failures(&lines, malformed.clone())
        .map(move |(address, failed)| {
            let address = String::from_utf8_lossy(address).into_owned();
            let known = customers.iter().find(|(prefix, _)| address.starts_with(**prefix));
            let customer = known.map_or("unknown", |(_, customer)| *customer);
            (failed, address, customer)
        })
        // The most failures first, then by address.
        .map_to_pair(|(failed, address, customer)| ((u64::MAX - failed, address), customer))
        .map_values(str::to_owned)
        .sort_by_key();
    let run = executor.context();
    for ((rest, address), customer) in executor.take(&run, &worst, 10)? {
        println!("{:>8} {address} ({customer})", u64::MAX - rest);
    }
    match run.accumulated(&malformed) {
        0 => {}
        lines => eprintln!("{lines} lines are no lines of an access log"),
    }
    Ok(())
}

fn main() -> ExitCode {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    if paths.is_empty() {
        eprintln!("log_analytics: name the files to read");
        return ExitCode::FAILURE;
    }
    match report(&paths) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("log_analytics: {error}");
            ExitCode::FAILURE
        }
    }
}
