//! `sawmill wal bench`: the log's workloads on the user's own disk, beside the raw limit.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use sawmill::WalOptions;
use serde_json::json;

use crate::Failure;
use crate::bench::protocol::{Protocol, compare};
use crate::bench::workload::{ALL, Kind, Workload};
use crate::bench::{contenders::Contenders, replay, report};
use crate::out::{self, say};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An empty or missing directory on the disk to be measured. What is written there is removed
    /// at the end: up to 2 GiB at a time.
    directory: PathBuf,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Seconds that each contender gets in each workload; with 15 or more in rounds of a second.
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Only workloads whose names start so, as `append/64x` or `bulk`.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    workload: Vec<String>,
    /// Bytes in each segment file of the log: 65536 or more, a multiple of 4096.
    #[arg(long, value_name = "BYTES")]
    segment_size: Option<u64>,
}

/// Measures, prints, and removes what it wrote.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let wanted: Vec<Workload> =
        ALL.iter().filter(|workload| workload.is_named(&arguments.workload)).copied().collect();
    if wanted.is_empty() {
        let names: Vec<_> = ALL.iter().map(Workload::to_string).collect();
        return Err(format!("no such workload; there are: {}", names.join(" ")).into());
    }
    let directory = &arguments.directory;
    let made = take_empty(directory)?;
    let measured = measure(arguments, &wanted);
    // Only what is ours: the directory was empty.
    let mut removed = Ok(());
    for entry in fs::read_dir(directory)? {
        removed = removed.and(fs::remove_dir_all(entry?.path()));
    }
    if made {
        removed = removed.and(fs::remove_dir(directory));
    }
    measured?;
    Ok(removed?)
}

/// Makes sure the directory is there and empty. Returns whether it had to be made.
fn take_empty(directory: &Path) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    if !directory.exists() {
        fs::create_dir_all(directory)?;
        return Ok(true);
    }
    if fs::read_dir(directory)?.next().is_some() {
        let text = format!("{}: is not empty; name a directory of its own", directory.display());
        return Err(text.into());
    }
    Ok(false)
}

fn measure(arguments: &Arguments, wanted: &[Workload]) -> Result<(), Failure> {
    let protocol = Protocol::within(arguments.seconds);
    let mut options = WalOptions::default();
    if let Some(segment_size) = arguments.segment_size {
        options.segment_size = segment_size;
    }
    let mut line = Line { shown: io::stderr().is_terminal(), done: 0, of: wanted.len() };
    let contenders = Contenders::open(&arguments.directory, options.clone(), wanted)?;
    let backend = contenders.backend();
    if !arguments.json {
        say!("backend {backend}; {} rounds of {:?} each", protocol.rounds, protocol.time);
        say!("{}", report::head());
    }
    let mut all = Vec::new();
    for workload in wanted {
        let mut progress = |workload: Workload, round: u32, who: &str| {
            line.show(&format!("{workload} round {}/{} {who}", round + 1, protocol.rounds));
        };
        let comparison = match workload.kind {
            Kind::Replay => {
                let options = options.clone();
                replay::compare(&arguments.directory, options, *workload, protocol, &mut progress)?
            }
            Kind::Append | Kind::Batch(_) | Kind::InFlight(_) | Kind::Bulk => {
                compare(*workload, &contenders.of(*workload), protocol, &mut progress)?
            }
        };
        line.done += 1;
        line.clear();
        if arguments.json {
            all.push(report::to_json(&comparison));
        } else {
            out::print(format_args!("{}", report::lines(&comparison)));
            // Who has seen enough does not wait for the rest.
            out::check()?;
        }
    }
    contenders.close()?;
    if arguments.json {
        let seconds = protocol.time.as_secs_f64();
        let rounds = json!({ "rounds": protocol.rounds, "seconds_per_round": seconds });
        let object = json!({ "backend": backend, "protocol": rounds, "workloads": all });
        say!("{object:#}");
    }
    Ok(())
}

/// A line on stderr that shows how far it is, if somebody looks.
struct Line {
    shown: bool,
    done: usize,
    of: usize,
}

impl Line {
    fn show(&self, what: &str) {
        if self.shown {
            let filled = self.done * 20 / self.of.max(1);
            let bar = format!("{}{}", "#".repeat(filled), "-".repeat(20 - filled));
            write!(io::stderr(), "\r\x1b[K[{bar}] {}/{} {what}", self.done, self.of).ok();
        }
    }

    fn clear(&self) {
        if self.shown {
            write!(io::stderr(), "\r\x1b[K").ok();
        }
    }
}
