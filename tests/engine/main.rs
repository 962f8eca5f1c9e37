//! The engine through its API, and on the simulated disk where something fails. One program: each
//! costs seconds to build.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod api;
#[path = "../engine_common/mod.rs"]
mod engine_common;
mod handles;
mod lineage;
mod operators;
mod queue;
mod restart;
mod retention;
mod sides;
mod sinks;
mod submitted;
