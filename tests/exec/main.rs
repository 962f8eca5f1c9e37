//! Datasets: every operator against its model, lineage, determinism; and the table that state is
//! kept in. One program: each costs seconds to build.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod combining;
mod compat;
mod dataset_sources;
mod determinism;
mod every_operator;
mod exec_model;
mod exec_operators;
mod lineage;
mod one_digest;
mod persist;
mod reuse;
mod state_model;
