//! The embedded use: threads append durable records, a running aggregate is computed and queried.
//!
//! `cargo run --release --example ingest [DIR]`. Killed and started again with the same DIR it goes
//! on: no acknowledged record is lost, each is counted once.

use std::io::{self, Write};

use sawmill::{Engine, EngineOptions, Job, Received, RunOptions, name};

/// `oslo 7` as a city, one event, and its degrees.
fn parse(line: &[u8]) -> (String, (u64, i64)) {
    let text = String::from_utf8_lossy(line);
    let (city, degrees) = text.split_once(' ').unwrap_or((&text, "0"));
    (city.to_owned(), (1, degrees.parse().unwrap_or(0)))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given = std::env::args_os().nth(1).map(std::path::PathBuf::from);
    let fresh = std::env::temp_dir().join(format!("sawmill-ingest-{}", std::process::id()));
    let engine = Engine::open(given.as_ref().unwrap_or(&fresh), EngineOptions::default())?;
    let events = engine.ingest(name!("events"))?;
    let (job, totals) = Job::build(name!("weather"), |job| {
        let lines = job.source(name!("in"), Received::from(&events));
        let add = |a: (u64, i64), b: (u64, i64)| (a.0 + b.0, a.1 + b.1);
        let totals = lines.map_to_pair(parse).reduce_by_key(add).map_with_state::<_, ()>(
            name!("totals"),
            move |_city, new, total| {
                *total = Some(new.fold(total.unwrap_or((0, 0)), add));
                None
            },
        );
        totals.state
    })?;
    let run = engine.start(job, RunOptions::default())?;
    std::thread::scope(|threads| {
        let append = |city| {
            (0..1000)
                .try_for_each(|n| events.append(format!("{city} {}", n % 30).as_bytes()).map(drop))
        };
        for city in ["oslo", "rome", "lima", "pune"] {
            threads.spawn(move || append(city));
        }
    });
    let oslo = totals.get("oslo".to_owned()).map_or(0, |(events, _)| events);
    writeln!(io::stdout(), "all is durable; {oslo} events from oslo are counted so far")?;

    run.stop()?; // finishes the batch in work, takes a checkpoint
    engine.close()?;
    if given.is_none() {
        std::fs::remove_dir_all(&fresh)?;
    }
    Ok(())
}
