//! `sawmill wal verify`: reads every frame of a log and says what is wrong, writing nothing.

use std::path::PathBuf;

use clap::Args;
use sawmill::{Damage, ErrorKind, LogReport, Wal};
use serde_json::{Value, json};

use crate::Outcome;
use crate::out::say;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The log's directory. A writer may have it open meanwhile.
    directory: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Exit code 0: sound; 1: damaged; 2 (by the error): it cannot be looked at.
pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let report = match Wal::verify(&arguments.directory) {
        Ok(report) => report,
        // `LOG` itself is lost: that is damage, and nothing more can be said.
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            if arguments.json {
                let object = json!({ "sound": false, "error": error.to_string() });
                say!("{object:#}");
            } else {
                say!("damaged: {error}");
            }
            return Ok(1);
        }
        Err(error) => return Err(error.into()),
    };
    if arguments.json {
        say!("{:#}", to_json(&report));
    } else {
        print(&report);
    }
    Ok(u8::from(!report.is_sound()))
}

/// The parts of the report that are about soundness.
pub(crate) fn to_json(report: &LogReport) -> Value {
    let lost: Vec<_> = report.lost.iter().map(range).collect();
    json!({
        "sound": report.is_sound(),
        "path": report.path,
        "log_id": report.log_id.to_string(),
        "first_lsn": report.first_lsn.get(),
        "last_lsn": report.last_lsn.get(),
        "attested_lsn": report.attested_lsn.get(),
        "end": { "segment": report.end.segment.get(), "offset": report.end.offset },
        "clean": report.clean,
        "frames": report.segments.iter().map(|segment| segment.frames).sum::<u64>(),
        "records": report.segments.iter().map(|segment| segment.records).sum::<u64>(),
        "dropped_frames": report.dropped_frames,
        "bytes_read": report.bytes_read,
        "lost": lost,
        "damages": report.damages.iter().map(damage).collect::<Vec<_>>(),
    })
}

fn range(range: &sawmill::LsnRange) -> Value {
    json!({ "first": range.first().get(), "last": range.last().get() })
}

fn damage(damage: &Damage) -> Value {
    json!({
        "what": damage.what,
        "path": damage.path,
        "segment": damage.position.map(|at| at.segment.get()),
        "offset": damage.position.map(|at| at.offset),
        "lost": damage.lost.as_ref().map(range),
        "intact_through": damage.intact_through.map(sawmill::Lsn::get),
        "intact_from": damage.intact_from.map(sawmill::Lsn::get),
        "repairable": damage.repairable,
    })
}

fn print(report: &LogReport) {
    let frames: u64 = report.segments.iter().map(|segment| segment.frames).sum();
    say!(
        "records {}..{} in {frames} frames, {} bytes read",
        report.first_lsn,
        report.last_lsn,
        report.bytes_read
    );
    for lost in &report.lost {
        say!("lost: records {}..{}, given up by a repair", lost.first(), lost.last());
    }
    for damage in &report.damages {
        print_damage(damage);
    }
    if report.is_sound() {
        say!("sound{}", if report.clean { ", closed cleanly" } else { "" });
        return;
    }
    say!("damaged: nothing was changed; restore the files named above from a copy, or");
    say!("  give up what is lost: {}", advice(report));
}

pub(crate) fn print_damage(damage: &Damage) {
    let place = damage.position.map(|at| format!(", offset {}", at.offset)).unwrap_or_default();
    say!("damage: {} [{}{place}]", damage.what, damage.path.display());
    if let Some(lost) = damage.lost {
        say!("  lost: records {}..{}", lost.first(), lost.last());
    }
    if let Some(lsn) = damage.intact_through {
        say!("  intact before: through record {lsn}");
    }
    if let Some(lsn) = damage.intact_from {
        say!("  intact behind: from record {lsn}");
    }
}

/// The command that repairs the log.
fn advice(report: &LogReport) -> String {
    if report.damages.iter().any(|damage| !damage.repairable) {
        return "not possible".to_owned();
    }
    let lost = report.damages.iter().filter_map(|damage| damage.lost);
    let mut accepted: String =
        lost.map(|lost| format!(" --accept-loss {}..{}", lost.first(), lost.last())).collect();
    if accepted.is_empty() {
        accepted = " --accept-loss none".to_owned();
    }
    format!("sawmill wal repair {}{accepted}", report.path.display())
}
