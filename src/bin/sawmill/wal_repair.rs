//! `sawmill wal repair`: gives up exactly the records that are named, and keeps their bytes aside.

use std::path::PathBuf;

use clap::Args;
use sawmill::{Lsn, LsnRange, Wal};
use serde_json::json;

use crate::Outcome;
use crate::out::say;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The log's directory. Nobody may have it open for writing.
    directory: PathBuf,
    /// The records to give up, as `wal verify` reports them, both ends included; once for each
    /// range, or `none` if no record is lost.
    #[arg(long, value_name = "FIRST..LAST", required = true, value_parser = parse)]
    accept_loss: Vec<Accepted>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What was given for `--accept-loss`.
#[derive(Clone, Copy, Debug)]
enum Accepted {
    None,
    Range(LsnRange),
}

fn parse(text: &str) -> Result<Accepted, String> {
    if text == "none" {
        return Ok(Accepted::None);
    }
    let ends = text.split_once("..").map(|(first, last)| (first.parse(), last.parse()));
    match ends {
        Some((Ok(first), Ok(last))) if 0 < first && first <= last && last < u64::MAX / 2 => {
            Ok(Accepted::Range(LsnRange::between(Lsn::new(first), Lsn::new(last))))
        }
        _ => Err("FIRST..LAST, two LSNs of which the first is not above the last".to_owned()),
    }
}

/// Repairs, and reports every lost LSN.
pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let accepted: Vec<LsnRange> = arguments
        .accept_loss
        .iter()
        .filter_map(|accepted| match accepted {
            Accepted::None => None,
            Accepted::Range(range) => Some(*range),
        })
        .collect();
    let repair = Wal::repair(&arguments.directory, &accepted)?;
    if arguments.json {
        let lost = repair.lost.iter();
        let lost: Vec<_> = lost
            .map(|lost| json!({ "first": lost.first().get(), "last": lost.last().get() }))
            .collect();
        let object = json!({
            "lost": lost,
            "quarantined": repair.quarantined,
            "unreadable_blocks": repair.unreadable_blocks,
            "tombstones": repair.tombstones,
            "rebuilt": repair.rebuilt,
        });
        say!("{object:#}");
        return Ok(0);
    }
    for path in &repair.quarantined {
        say!("kept: {}", path.display());
    }
    for lost in &repair.lost {
        for lsn in lost.first().get()..=lost.last().get() {
            say!("lost: record {lsn}");
        }
    }
    if repair.tombstones == 0 && repair.rebuilt == 0 {
        say!("nothing is damaged");
    } else {
        say!(
            "repaired: {} tombstones, {} segment files made anew",
            repair.tombstones,
            repair.rebuilt
        );
    }
    Ok(0)
}
