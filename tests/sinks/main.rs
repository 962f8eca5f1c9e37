//! Sinks: the conformance kit on every one of them, kills, and two on one SQLite file.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests of real processes")]

mod conformance;
#[cfg(feature = "sqlite")]
#[path = "../engine_common/mod.rs"]
mod engine_common;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod sqlite_killed;
mod stdout;
