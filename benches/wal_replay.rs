//! How far is replay from the speed of the bytes?
//!
//! A log of 128-byte and of 1-KiB records that was written in bulk is replayed, hot in the page
//! cache, beside the bare loop: map the segments, check the CRC of each frame's payload, walk the
//! records. By one thread, by one for which four verify ahead, and by a consumer for each segment.
//! All fold places, lengths and first bytes into a sum, which must be the same. Rounds alternate.
//! `cargo bench --bench wal_replay [-- NAME..]`.
#![allow(clippy::disallowed_methods, reason = "a bench measures wall time")]
#![allow(clippy::print_stdout, reason = "the table is what this prints")]

#[path = "common/asked.rs"]
mod asked;
#[path = "../src/bin/sawmill/bench/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the command line and the other benches")]
mod bench;

use bench::workload::{ALL, Kind};
use bench::{Outcome, replay, report};
use sawmill::WalOptions;

fn main() -> Outcome {
    let (protocol, names) = (asked::protocol(), asked::names());
    println!("{}", report::head());
    for workload in ALL.iter().filter(|one| one.kind == Kind::Replay && one.is_named(&names)) {
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let segment_size = if asked::is_test() { 1 << 20 } else { 64 << 20 };
        let options = WalOptions { segment_size, ..WalOptions::default() };
        let comparison =
            replay::compare(place.path(), options, *workload, protocol, &mut |_, _, _| ())?;
        print!("{}", report::lines(&comparison));
    }
    Ok(())
}
