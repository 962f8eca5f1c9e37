//! Checkpoints: a crash, an error, rot at every place; old ones; the tools that show them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod crash;
mod damage;
mod golden;
mod tools;
