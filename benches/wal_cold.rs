//! How far is replay from the speed of the disk, and does it matter who wrote the log?
//!
//! *cold*: a log written in bulk is read back when the page cache does not hold it (it is told to
//! let go before each reading), beside reading the same bytes past the page cache and doing nothing
//! with them. *by 64*, *by 1*: logs written by so many threads that waited for each record, cold
//! and hot. Every record is checked. `cargo bench --bench wal_cold [-- bulk|blocking]`, with
//! `SAWMILL_BENCH=full` for 15 rounds over larger logs.
#![allow(clippy::disallowed_methods, reason = "a bench measures wall time")]
#![allow(clippy::print_stdout, reason = "the table is what this prints")]

#[path = "common/asked.rs"]
mod asked;
#[path = "../src/bin/sawmill/bench/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the command line and the other benches")]
mod bench;

use bench::cold::{self, WrittenBy};
use bench::workload::{Kind, Workload};
use bench::{Outcome, replay, report};
use sawmill::WalOptions;

fn main() -> Outcome {
    let (protocol, names) = (asked::protocol(), asked::names());
    let named = |name: &str| names.is_empty() || names.iter().any(|one| name.starts_with(one));
    let logs = [
        ("bulk", 128, WrittenBy::Bulk),
        ("bulk", 1024, WrittenBy::Bulk),
        ("blocking", 1024, WrittenBy::Blocking(64)),
        ("blocking", 1024, WrittenBy::Blocking(1)),
    ];
    for (_, size, by) in logs.into_iter().filter(|(name, ..)| named(name)) {
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let segment_size = if asked::is_test() { 1 << 20 } else { 16 << 20 };
        let options = WalOptions { segment_size, ..WalOptions::default() };
        // A record of a lone thread takes a block.
        let bytes = match by {
            WrittenBy::Bulk => protocol.bulk_bytes.max(4 * segment_size),
            WrittenBy::Blocking(_) => protocol.bulk_bytes / 4,
        };
        let wal = cold::write(&place.path().join("log"), options, size, bytes, by)?;
        let workload = Workload { kind: Kind::Replay, threads: 1, size };
        println!("written {by:?}: cold\n{}", report::head());
        print!("{}", report::lines(&cold::compare(&wal, workload, protocol, &mut |_, _, _| ())?));
        if by != WrittenBy::Bulk {
            println!("written {by:?}: hot\n{}", report::head());
            let hot = replay::hot(&wal, workload, protocol, &mut |_, _, _| ())?;
            print!("{}", report::lines(&hot));
        }
        wal.close()?;
    }
    Ok(())
}
