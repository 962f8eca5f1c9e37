//! `sawmill checkpoint`: what an engine's checkpoints hold and pin, writing nothing.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sawmill::clock::{Clock, SystemClock};
use sawmill::{CheckpointReport, Engine, EngineReport, ErrorKind};
use serde_json::{Value, json};

use crate::out::say;
use crate::{Failure, Outcome};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One line for each data file that counts, oldest first.
    List(Arguments),
    /// What one checkpoint holds: operators, sources, sinks, totals.
    Show(Show),
    /// Read every byte from the device and compare it with its digest.
    ///
    /// Exit code 0: sound; 1: damaged; 2: it could not be looked at.
    Verify(Arguments),
}

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The engine's directory. A job may run in it meanwhile.
    directory: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    common: Arguments,
    /// The checkpoint's number; the newest one if left out.
    number: Option<u64>,
}

pub(crate) fn run(command: &Command) -> Outcome {
    match command {
        Command::List(arguments) => list(arguments),
        Command::Show(show) => self::show(show),
        Command::Verify(arguments) => verify(arguments),
    }
}

/// Exit code 0, also of damaged ones: the damage is part of what there is to see.
fn list(arguments: &Arguments) -> Outcome {
    let report = Engine::inspect(&arguments.directory, false)?;
    if arguments.json {
        say!("{:#}", to_json(&report));
        return Ok(0);
    }
    say!(
        "{:>10} {:>10} {:<20} {:>10} {:>14} {:>10} {:>14}  state",
        "checkpoint",
        "builds on",
        "job",
        "batch",
        "bytes",
        "age s",
        "pins from LSN"
    );
    for checkpoint in &report.checkpoints {
        let age = age_s(checkpoint).map_or("-".to_owned(), |age| age.to_string());
        let state = checkpoint.damage.as_ref().map_or("whole".to_owned(), ToString::to_string);
        let parent = checkpoint.parent.map_or("-".to_owned(), |number| number.to_string());
        let floor = checkpoint.kept.then(|| checkpoint.floor.to_string());
        say!(
            "{:>10} {parent:>10} {:<20} {:>10} {:>14} {:>10} {:>14}  {state}",
            checkpoint.number,
            checkpoint.job,
            checkpoint.batch.get(),
            checkpoint.bytes,
            age,
            floor.unwrap_or("-".to_owned()),
        );
    }
    Ok(0)
}

fn show(show: &Show) -> Outcome {
    let report = Engine::inspect(&show.common.directory, true)?;
    let mut wanted = report.checkpoints.iter().rev();
    let found = wanted.find(|one| show.number.is_none_or(|number| one.number == number));
    let Some(found) = found else {
        let kept: Vec<_> = report.checkpoints.iter().map(|one| one.number.to_string()).collect();
        let kept = if kept.is_empty() { "none".to_owned() } else { kept.join(", ") };
        let which = show.number.map_or("any".to_owned(), |number| number.to_string());
        let message = format!("there is not {which} checkpoint; those that are kept: {kept}");
        return Err(Failure::from(message));
    };
    if show.common.json {
        say!("{:#}", checkpoint_json(found));
    } else {
        print(found);
    }
    Ok(0)
}

/// Exit code 0: sound; 1: damaged; 2 (by the error): it cannot be looked at.
fn verify(arguments: &Arguments) -> Outcome {
    let report = match Engine::inspect(&arguments.directory, true) {
        Ok(report) => report,
        // The manifest itself is lost: that is damage, and nothing more can be said.
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            if arguments.json {
                say!("{:#}", json!({ "sound": false, "error": error.to_string() }));
            } else {
                say!("damaged: {error}");
            }
            return Ok(1);
        }
        Err(error) => return Err(error.into()),
    };
    if arguments.json {
        say!("{:#}", to_json(&report));
        return Ok(u8::from(!report.is_sound()));
    }
    for checkpoint in &report.checkpoints {
        let CheckpointReport { number, bytes, batch, damage, .. } = checkpoint;
        match damage {
            None => say!("checkpoint {number} of batch {batch}: whole, {bytes} bytes"),
            Some(error) => say!("checkpoint {number} of batch {batch}: damaged: {error}"),
        }
    }
    if report.is_sound() {
        say!("sound");
        return Ok(0);
    }
    say!("damaged: nothing was changed; {}", advice(&report));
    Ok(1)
}

/// What the next start would make of it.
fn advice(report: &EngineReport) -> String {
    let mut checkpoints = report.checkpoints.iter().rev();
    let whole = checkpoints.find(|one| one.kept && one.damage.is_none());
    match whole {
        Some(one) => format!(
            "a start falls back to checkpoint {}, and computes again what was planned since",
            one.number
        ),
        None => "no start is possible: restore one of the files".to_owned(),
    }
}

pub(crate) fn age_s(checkpoint: &CheckpointReport) -> Option<u64> {
    let written = u64::try_from(checkpoint.written_ns?).ok()?;
    Some(SystemClock.wall_ns().saturating_sub(written) / 1_000_000_000)
}

fn to_json(report: &EngineReport) -> Value {
    json!({
        "sound": report.is_sound(),
        "path": report.path,
        "manifest": report.manifest,
        "checkpoints": report.checkpoints.iter().map(checkpoint_json).collect::<Vec<_>>(),
    })
}

pub(crate) fn checkpoint_json(checkpoint: &CheckpointReport) -> Value {
    let operators: Vec<_> = checkpoint
        .operators
        .iter()
        .map(|operator| {
            json!({
                "name": operator.name,
                "schema": format!("{:016x}", operator.schema),
                "partitions": operator.partitions,
                "bytes": operator.bytes,
                "keys": operator.keys,
            })
        })
        .collect();
    let mut object = json!({
        "number": checkpoint.number,
        "parent": checkpoint.parent,
        "kept": checkpoint.kept,
        "log_id": checkpoint.log_id.to_string(),
        "job": checkpoint.job,
        "generation": checkpoint.generation.get(),
        "batch": checkpoint.batch.get(),
        "floor_lsn": checkpoint.floor.get(),
        "bytes": checkpoint.bytes,
        "written_ns": checkpoint.written_ns,
        "operators": operators,
        "damage": checkpoint.damage.as_ref().map(ToString::to_string),
    });
    if let Some(job) = &checkpoint.engine {
        object["parallelism"] = json!(job.parallelism);
        object["batch_time_ns"] = json!(job.batch_time_ns);
        object["completion_lsn"] = json!(job.completion.get());
        object["input_bytes"] = json!(job.input_bytes);
        object["sources"] = json!(job.sources);
        object["sinks"] = json!(job.sinks);
        object["accumulators"] = json!(job.accumulators);
        let streams = job.streams.iter();
        object["streams"] =
            streams.map(|(name, stream)| json!({ "name": name, "stream": stream.get() })).collect();
        let sides = job.sides.iter();
        object["side_inputs"] = sides
            .map(|(name, version, bytes)| {
                json!({ "name": name, "version": version.get(), "bytes": bytes })
            })
            .collect();
    }
    object
}

fn print(checkpoint: &CheckpointReport) {
    say!("checkpoint {} of log {}", checkpoint.number, checkpoint.log_id);
    say!(
        "job {}, generation {}, batch {}, {} bytes",
        checkpoint.job,
        checkpoint.generation,
        checkpoint.batch,
        checkpoint.bytes
    );
    if let Some(parent) = checkpoint.parent {
        say!("holds what has changed since checkpoint {parent}");
    }
    if checkpoint.kept {
        say!("pins the log from record {}", checkpoint.floor);
    } else {
        say!("there only for those that build on it");
    }
    if let Some(age) = age_s(checkpoint) {
        say!("written {age} s ago");
    }
    say!("{:<24} {:>16} {:>10} {:>12} {:>14}", "operator", "schema", "partitions", "keys", "bytes");
    for operator in &checkpoint.operators {
        let keys = operator.keys.map_or("-".to_owned(), |keys| keys.to_string());
        say!(
            "{:<24} {:016x} {:>10} {keys:>12} {:>14}",
            operator.name,
            operator.schema,
            operator.partitions,
            operator.bytes
        );
    }
    if let Some(job) = &checkpoint.engine {
        say!("parallelism {}, {} bytes of input so far", job.parallelism, job.input_bytes);
        say!("sources: {}", job.sources.join(", "));
        say!("sinks: {}", job.sinks.join(", "));
        for (name, stream) in &job.streams {
            say!("stream {}: {name}", stream.get());
        }
        for (name, version, bytes) in &job.sides {
            say!("side input {name}: version {version}, {bytes} bytes");
        }
        for (name, total) in &job.accumulators {
            say!("accumulator {name}: {total}");
        }
    }
    if let Some(error) = &checkpoint.damage {
        say!("damaged: {error}");
    }
}
