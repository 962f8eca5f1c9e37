//! How does sawmill's log compare with other logs that one can link into a program?
//!
//! raft-engine and okaywal under the workloads of `sawmill wal bench`, in the same process and in
//! turns with the raw limit and with sawmill, on the same disk. Each is used as its documents say
//! for writes that are durable when they return. `just bench-peers [--json] [NAME..]`;
//! `SAWMILL_BENCH=full` for 15 rounds of a second, `SAWMILL_BENCH_DIR` for another disk.

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
    let (options, names): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|word| word.starts_with("--"));
    let json = options.iter().any(|option| option == "--json");
    let full = std::env::var_os("SAWMILL_BENCH").is_some_and(|value| value == "full");
    let protocol = Protocol::within(if full { 15 } else { 3 });
    let wanted: Vec<Workload> = ALL
        .iter()
        .filter(|workload| workload.kind != Kind::Replay && workload.is_named(&names))
        .copied()
        .collect();
    let parent = std::env::var_os("SAWMILL_BENCH_DIR")
        .unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/target").into());
    let place = tempfile::tempdir_in(parent)?;
    let contenders = Contenders::open(place.path(), WalOptions::default(), &wanted)?;
    let raft = raft::Raft::open(&place.path().join("raft-engine"))?;
    let okay = okay::Okay::open(&place.path().join("okaywal"))?;
    eprintln!(
        "backend {}; {} rounds of {:?} each",
        contenders.backend(),
        protocol.rounds,
        protocol.time
    );
    let mut all = Vec::new();
    if !json {
        println!("{}", report::head());
    }
    for workload in wanted {
        let mut able = contenders.of(workload);
        able.extend([&raft as &dyn Contender, &okay as &dyn Contender]);
        let comparison = protocol::compare(workload, &able, protocol, &mut |_, _, _| ())?;
        if json {
            all.push(report::to_json(&comparison));
        } else {
            print!("{}", report::lines(&comparison));
        }
    }
    if json {
        println!("{:#}", serde_json::Value::from(all));
    }
    contenders.close()
}
