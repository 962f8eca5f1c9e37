//! The log as its callers, its tools and its files show it. One program: each costs seconds to
//! build. What looks at its own process as a whole is in programs of its own.
#![allow(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests of real processes, files and time stop at what fails and say what they saw"
)]

mod api;
mod appends;
mod bench;
mod common;
mod compression;
mod depth;
mod golden;
mod in_flight;
mod kill;
mod large;
mod processes;
mod producers;
mod readers;
mod receipts;
mod recycling;
mod replay;
mod streams;
#[cfg(target_os = "linux")]
mod syscalls;
mod tools;
