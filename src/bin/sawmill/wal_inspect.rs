//! `sawmill wal inspect`: what a log's files hold, writing nothing.

use std::path::PathBuf;

use clap::Args;
use sawmill::{LogReport, SegmentReport, SegmentState, Wal};
use serde_json::{Value, json};

use crate::Outcome;
use crate::out::say;
use crate::wal_verify;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The log's directory. A writer may have it open meanwhile.
    directory: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Exit code 0, also of a damaged log: the damage is part of what there is to see.
pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let report = Wal::verify(&arguments.directory)?;
    if arguments.json {
        say!("{:#}", to_json(&report));
    } else {
        print(&report);
    }
    Ok(0)
}

fn to_json(report: &LogReport) -> Value {
    let segments: Vec<_> = report.segments.iter().map(segment).collect();
    let epochs: Vec<_> = report
        .epochs
        .iter()
        .map(|epoch| {
            json!({
                "epoch": epoch.epoch.get(),
                "first_lsn": epoch.first_lsn.get(),
                "segment": epoch.position.segment.get(),
                "offset": epoch.position.offset,
            })
        })
        .collect();
    let mut object = wal_verify::to_json(report);
    object["slots"] = json!(report.slots);
    object["segment_size"] = json!(report.segment_size);
    object["segments"] = json!(segments);
    object["epochs"] = json!(epochs);
    object["waste"] = json!(waste(report.segments.iter()));
    object
}

fn segment(segment: &SegmentReport) -> Value {
    json!({
        "number": segment.number.get(),
        "path": segment.path,
        "state": state(segment.state),
        "bytes": segment.bytes,
        "first_lsn": segment.first_lsn.map(sawmill::Lsn::get),
        "frames": segment.frames,
        "marks": segment.marks,
        "records": segment.records,
        "payload": segment.payload,
        "used": segment.used,
    })
}

fn state(state: SegmentState) -> &'static str {
    match state {
        SegmentState::Retired => "retired",
        SegmentState::Sealed => "sealed",
        SegmentState::Active => "active",
        SegmentState::Spare => "spare",
        SegmentState::Unfinished => "unfinished",
        SegmentState::Damaged => "damaged",
        _ => "unknown",
    }
}

/// Bytes of frames for each byte of records; `None` without records.
fn waste<'a>(segments: impl Iterator<Item = &'a SegmentReport>) -> Option<f64> {
    let (mut used, mut payload) = (0, 0);
    for segment in segments {
        used += segment.used;
        payload += segment.payload;
    }
    #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
    (payload > 0).then(|| used as f64 / payload as f64)
}

fn print(report: &LogReport) {
    say!("log {}", report.log_id);
    say!("records {}..{}", report.first_lsn, report.last_lsn);
    say!("end {}", report.end);
    say!("closed cleanly: {}", if report.clean { "yes" } else { "no" });
    let slots = report.slots.map(|slot| slot.map_or("none".to_owned(), |slot| slot.to_string()));
    say!("LOG slots: sequence {} and {}", slots[0], slots[1]);
    say!(
        "{:>8} {:<10} {:>12} {:>12} {:>8} {:>6} {:>10} {:>12} {:>12}",
        "segment",
        "state",
        "bytes",
        "first LSN",
        "frames",
        "marks",
        "records",
        "payload",
        "used"
    );
    for segment in &report.segments {
        let first = segment.first_lsn.map_or("-".to_owned(), |lsn| lsn.to_string());
        say!(
            "{:>8} {:<10} {:>12} {:>12} {:>8} {:>6} {:>10} {:>12} {:>12}",
            segment.number.get(),
            state(segment.state),
            segment.bytes,
            first,
            segment.frames,
            segment.marks,
            segment.records,
            segment.payload,
            segment.used
        );
    }
    for epoch in &report.epochs {
        say!("epoch {} from record {} at {}", epoch.epoch, epoch.first_lsn, epoch.position);
    }
    if let Some(waste) = waste(report.segments.iter()) {
        say!("waste: {waste:.2} bytes of frames for each byte of records");
    }
    if report.dropped_frames > 0 {
        say!("{} frame headers behind the end count for nothing", report.dropped_frames);
    }
    for lost in &report.lost {
        say!("lost: records {}..{}, given up by a repair", lost.first(), lost.last());
    }
    report.damages.iter().for_each(wal_verify::print_damage);
}
