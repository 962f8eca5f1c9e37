//! What every storage does alike: each backend, and random operations on each.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests say what they expect")]

mod backends;
mod conformance;
