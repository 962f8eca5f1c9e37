//! The programs that come with sawmill: killed, with awkward files, and what the examples print.
#![allow(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests of another process, which say what they did to it"
)]

mod common;
mod crash;
mod examples;
mod inputs;
