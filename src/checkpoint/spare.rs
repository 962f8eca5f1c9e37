//! A file that is kept for the day when the disk is full: a delta still finds its place then
//! (ENGINE.md E15).
//!
//! CKPT-8: the spare never was a checkpoint, so nobody reads it, and becomes one under the name of
//! a new data file. Nothing depends on its being there.

use std::io;

use crate::storage::{Directory, IoFailure, OpenMode};

pub(super) const SPARE: &str = "SPARE";

/// Bytes that are kept at least.
const LEAST: u64 = 64 << 10;

/// Makes the spare, which has so many bytes, long enough for twice a delta as the last one. What
/// the file system does not give now is asked for again behind the next checkpoint.
pub(super) fn keep(directory: &dyn Directory, has: u64, delta: u64) -> u64 {
    let wanted = delta.saturating_mul(2).max(LEAST);
    if has >= wanted {
        return has;
    }
    let grown = || -> Result<(), IoFailure> {
        let file = match directory.open(SPARE, OpenMode::CreateDirect) {
            Err(failure) if failure.kind() == io::ErrorKind::AlreadyExists => {
                directory.open(SPARE, OpenMode::WriteDirect)?
            }
            other => other?,
        };
        file.allocate(wanted)
    };
    if grown().is_ok() { wanted } else { has }
}

/// Bytes of the spare that an earlier process left.
pub(super) fn length(directory: &dyn Directory, names: &[String]) -> u64 {
    if !names.iter().any(|name| name == SPARE) {
        return 0;
    }
    let file = directory.open(SPARE, OpenMode::WriteDirect);
    file.and_then(|file| file.stamp()).map_or(0, |stamp| stamp.length)
}
