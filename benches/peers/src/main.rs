//! How does sawmill's log compare with other logs that one can link into a program?
//!
//! raft-engine and okaywal under the workloads of `sawmill wal bench`, in the same process and in
//! turns with the raw limit and with sawmill, on the same disk. Each is used as its documents say
//! for writes that are durable when they return. `just bench-peers [NAME..]`; `SAWMILL_BENCH=full`
//! for 15 rounds of a second, `SAWMILL_BENCH_DIR` for another disk.

mod okay;
mod raft;

#[path = "../../../src/bin/sawmill/bench/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the command line and the benches")]
mod bench;

use bench::contender::Contender;
use bench::contenders::Contenders;
use bench::protocol::{self, Protocol};
use bench::workload::{ALL, Kind, Workload};
use bench::{Outcome, report};
use sawmill::WalOptions;

fn main() -> Outcome {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let full = std::env::var_os("SAWMILL_BENCH").is_some_and(|value| value == "full");
    let protocol = Protocol::within(if full { 15 } else { 3 });
    let wanted: Vec<Workload> = ALL
        .iter()
        .filter(|workload| workload.kind != Kind::Replay && workload.is_named(&names))
        .copied()
        .collect();
    let parent = std::env::var_os("SAWMILL_BENCH_DIR").unwrap_or_else(|| "target".into());
    let place = tempfile::tempdir_in(parent)?;
    let contenders = Contenders::open(place.path(), WalOptions::default(), &wanted)?;
    let raft = raft::Raft::open(&place.path().join("raft-engine"))?;
    let okay = okay::Okay::open(&place.path().join("okaywal"))?;
    println!(
        "backend {}; {} rounds of {:?} each",
        contenders.backend(),
        protocol.rounds,
        protocol.time
    );
    println!("{}", report::head());
    for workload in wanted {
        let mut able = contenders.of(workload);
        able.extend([&raft as &dyn Contender, &okay as &dyn Contender]);
        let comparison = protocol::compare(workload, &able, protocol, &mut |_, _, _| ())?;
        print!("{}", report::lines(&comparison));
    }
    contenders.close()
}
