//! The embedded use: threads append durable readings, a job keeps the running mean of each sensor.
//!
//! `cargo run --release --example ingest -- DIR`, again and again: a reading that was acknowledged
//! counts once, whenever the program was killed.
#![allow(clippy::print_stdout, reason = "a program prints")]

use sawmill::{Engine, EngineOptions, Job, Received, RunOptions, name};

const SENSORS: [&str; 4] = ["attic", "cellar", "garden", "kitchen"];
const READINGS: u64 = 500;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os().nth(1).ok_or("ingest DIR: which directory?")?;
    let engine = Engine::open(directory, EngineOptions::default())?;
    let readings = engine.ingest(name!("readings"))?;

    let (job, sums) = Job::build(name!("means"), |job| {
        let records = job.source(name!("readings"), Received::from(&readings));
        let values = records.map_to_pair(|record| {
            let text = String::from_utf8_lossy(record);
            let (sensor, value) = text.split_once(' ').unwrap_or((&text, ""));
            (sensor.to_owned(), value.parse::<u64>().unwrap_or(0))
        });
        let sums =
            values.map_with_state::<(u64, u64), ()>(name!("sums"), |_sensor, values, sum| {
                let (count, total) = sum.unwrap_or_default();
                *sum =
                    Some(values.fold((count, total), |(count, total), v| (count + 1, total + v)));
                None
            });
        sums.state
    })?;
    let run = engine.start(job, RunOptions::default())?;
    let count = || SENSORS.iter().filter_map(|s| sums.get((*s).into())).map(|sum| sum.0).sum();
    let before: u64 = count();

    std::thread::scope(|scope| {
        let append = |sensor| {
            // Each is on stable storage when `append` returns; the threads share its syncs.
            (1..=READINGS)
                .try_for_each(|n| readings.append(format!("{sensor} {n}").as_bytes()).map(drop))
        };
        let threads = SENSORS.map(|sensor| scope.spawn(move || append(sensor)));
        threads.into_iter().try_for_each(|thread| thread.join().expect("appending panics never"))
    })?;

    // The job is at most some milliseconds behind.
    while count() < before + READINGS * SENSORS.len() as u64 && !run.is_ended() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    for sensor in SENSORS {
        let (count, total) = sums.get(sensor.into()).unwrap_or_default();
        println!("{sensor}: {count} readings, mean {:.1}", total as f64 / count as f64);
    }
    run.stop()?;
    engine.close()?;
    Ok(())
}
