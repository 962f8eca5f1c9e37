//! `sawmill savepoint`: a job's state under a name.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sawmill::{Engine, SavepointReport};
use serde_json::{Value, json};

use crate::Outcome;
use crate::checkpoint::{age_s, checkpoint_json};
use crate::out::say;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put the newest checkpoint under a name, in one file that needs no other.
    Create(Named),
    /// One line for each savepoint.
    List(Arguments),
    /// Read every byte from the device and check it.
    ///
    /// Exit code 0: sound; 1: damaged; 2: it could not be looked at.
    Verify(Arguments),
    /// Remove a savepoint.
    Remove(Named),
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
pub(crate) struct Named {
    #[command(flatten)]
    common: Arguments,
    /// The savepoint's name.
    name: String,
}

pub(crate) fn run(command: &Command) -> Outcome {
    match command {
        Command::Create(named) => {
            let made = Engine::savepoint(&named.common.directory, &named.name)?;
            print(std::slice::from_ref(&made), named.common.json);
            Ok(0)
        }
        Command::List(arguments) => {
            print(&Engine::savepoints(&arguments.directory, false)?, arguments.json);
            Ok(0)
        }
        Command::Verify(arguments) => {
            let found = Engine::savepoints(&arguments.directory, true)?;
            print(&found, arguments.json);
            Ok(u8::from(found.iter().any(|one| one.damage.is_some())))
        }
        Command::Remove(named) => {
            Engine::remove_savepoint(&named.common.directory, &named.name)?;
            if named.common.json {
                say!("{:#}", json!({ "removed": named.name }));
            } else {
                say!("removed {}", named.name);
            }
            Ok(0)
        }
    }
}

fn print(found: &[SavepointReport], json: bool) {
    if json {
        let all: Vec<Value> = found.iter().map(to_json).collect();
        let sound = found.iter().all(|one| one.damage.is_none());
        say!("{:#}", json!({ "sound": sound, "savepoints": all }));
        return;
    }
    say!(
        "{:<24} {:<20} {:>10} {:>14} {:>10}  state; the log is not kept for any",
        "savepoint",
        "job",
        "batch",
        "bytes",
        "age s"
    );
    for one in found {
        let state = one.damage.as_ref().map_or("whole".to_owned(), ToString::to_string);
        let Some(content) = &one.content else {
            say!("{:<24} {:<20} {:>10} {:>14} {:>10}  {state}", one.name, "-", "-", "-", "-");
            continue;
        };
        let age = age_s(content).map_or("-".to_owned(), |age| age.to_string());
        let (job, batch, bytes) = (&content.job, content.batch.get(), content.bytes);
        say!("{:<24} {job:<20} {batch:>10} {bytes:>14} {age:>10}  {state}", one.name);
    }
}

fn to_json(one: &SavepointReport) -> Value {
    json!({
        "name": one.name,
        "path": one.path,
        "content": one.content.as_ref().map(checkpoint_json),
        "damage": one.damage.as_ref().map(ToString::to_string),
    })
}
