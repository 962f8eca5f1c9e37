//! How far are appends from what the device and the scheduler allow?
//!
//! Durable appends by 1, 8, 64 and 256 threads, atomic batches, 10,000 submissions in flight, and
//! bulk work with one sync at the end, each beside its raw limit: a group commit of a mutex and a
//! condition variable over the same kind of file, or the bare loop over the same bytes. Rounds
//! alternate; everything appended is read back. `cargo bench --bench wal_append [-- NAME..]`, with
//! `SAWMILL_BENCH=full` for 15 rounds of a second.
#![allow(clippy::disallowed_methods, reason = "a bench measures wall time")]
#![allow(clippy::print_stdout, reason = "the table is what this prints")]

#[path = "common/asked.rs"]
mod asked;
#[path = "../src/bin/sawmill/bench/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the command line and the other benches")]
mod bench;

use std::path::Path;

use bench::contenders::Contenders;
use bench::protocol::Protocol;
use bench::sawmill_log::{SawmillLog, State};
use bench::workload::{ALL, Kind, Workload};
use bench::{Outcome, protocol, report};
use sawmill::WalOptions;

fn main() -> Outcome {
    let (protocol, names) = (asked::protocol(), asked::names());
    let wanted: Vec<Workload> = ALL
        .iter()
        .filter(|workload| workload.kind != Kind::Replay && workload.is_named(&names))
        .copied()
        .collect();
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let contenders = Contenders::open(place.path(), WalOptions::default(), &wanted)?;
    println!(
        "backend {}; {} rounds of {:?} each",
        contenders.backend(),
        protocol.rounds,
        protocol.time
    );
    println!("{}", report::head());
    for workload in wanted {
        let able = contenders.of(workload);
        let comparison = protocol::compare(workload, &able, protocol, &mut |_, _, _| ())?;
        print!("{}", report::lines(&comparison));
    }
    contenders.close()?;
    if "rotation".starts_with(names.first().map_or("rotation", String::as_str)) {
        rotation(place.path(), protocol)?;
    }
    Ok(())
}

/// Does coming into another segment show in the latencies? Segments of 1 MiB, many a second,
/// against the default's, about none; in steady state, and with new files only.
fn rotation(place: &Path, protocol: Protocol) -> Outcome {
    println!("rotation: the same appends in segments of 64 MiB and of 1 MiB");
    let open = |state, name, segment_size| {
        let options = WalOptions { segment_size, ..WalOptions::default() };
        SawmillLog::open(state, name, &place.join(name), options)
    };
    let large = open(State::Steady, "64MiB", 64 << 20)?;
    let small = open(State::Steady, "1MiB", 1 << 20)?;
    let fresh = open(State::Fresh, "1MiB fresh", 1 << 20)?;
    let workload = Workload { kind: Kind::Append, threads: 8, size: 1024 };
    // What the new files leave behind would show in the others' rounds: not in turns with them.
    for other in [&small, &fresh] {
        let comparison =
            protocol::compare(workload, &[&large, other], protocol, &mut |_, _, _| ())?;
        print!("{}", report::lines(&comparison));
        if let Some(spread) = comparison.figures(1).and_then(|figures| figures.p999_over_first) {
            let (low, median, high) = (spread.low, spread.median, spread.high);
            println!("p99.9 of small over large segments: {median:.2} ({low:.2}..{high:.2})");
        }
    }
    large.close()?;
    small.close()?;
    fresh.close()
}
