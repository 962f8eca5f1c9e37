//! Reading a log back that the page cache does not hold: sawmill against the bandwidth at which
//! its files can be read past the page cache, one after the other. And how the log was written:
//! in bulk, or by threads that waited for each record, whose frames are smaller.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sawmill::storage::{
    AlignedBuf, BLOCK, BackendChoice, Directory, Op, OpenMode, Storage as _, SystemStorage,
};
use sawmill::{Wal, WalOptions};

use super::Outcome;
use super::frames::{is_frame, length, number_of};
use super::protocol::{Comparison, Protocol, Series};
use super::replay::{self, THREADS, timed};
use super::workload::Workload;
use super::writer::Writer;

/// Bytes of one read, and reads in flight: what makes the device deliver most.
const PIECE: usize = 1 << 20;
const DEPTH: usize = 8;

/// Who wrote the log that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrittenBy {
    /// One thread that waited for nothing.
    Bulk,
    /// So many threads, each waiting for each of its records.
    Blocking(usize),
}

/// A file, and how many of its bytes are frames.
type Filled = (String, u64);

/// Writes `bytes` of payload, all durable; returns the open log.
pub(crate) fn write(
    path: &Path,
    options: WalOptions,
    size: usize,
    bytes: u64,
    by: WrittenBy,
) -> Outcome<Wal> {
    let wal = Wal::open(path, options)?;
    let records = (bytes / size as u64).max(1);
    match by {
        WrittenBy::Bulk => {
            let mut writer = Writer::new(0, 0, size);
            for _ in 0..records {
                wal.submit(writer.payload())?;
            }
            wal.sync()?;
        }
        WrittenBy::Blocking(threads) => {
            let left = AtomicU64::new(records);
            let work = |number| -> Outcome {
                let mut writer = Writer::new(0, number, size);
                let take = |left: u64| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    wal.append(writer.payload())?;
                }
                Ok(())
            };
            thread::scope(|scope| {
                let work = &work;
                let threads: Vec<_> =
                    (0..threads).map(|number| scope.spawn(move || work(number))).collect();
                threads.into_iter().try_for_each(|one| {
                    one.join().unwrap_or_else(|_| Err("a thread panicked".into()))
                })
            })?;
        }
    }
    Ok(wal)
}

fn open(path: &Path) -> Outcome<Arc<dyn Directory>> {
    Ok(SystemStorage::new(BackendChoice::Auto)?.directory(path, false)?)
}

/// The files that hold frames, and where these end.
fn filled(directory: &dyn Directory) -> Outcome<Vec<Filled>> {
    let mut found = Vec::new();
    for name in directory.list()? {
        let Some(number) = number_of(&name) else { continue };
        let file = directory.open(&name, OpenMode::Read)?;
        let map = file.map(file.stamp()?.length)?;
        let mut offset = BLOCK as u64;
        while (offset as usize) < map.len() && is_frame(&map[offset as usize..], number, offset) {
            offset += length(&map[offset as usize..]);
        }
        if offset > BLOCK as u64 {
            found.push((name, offset));
        }
    }
    Ok(found)
}

/// Has the page cache let go of the files.
fn cool(directory: &dyn Directory, files: &[Filled]) -> Outcome {
    for (name, _) in files {
        directory.open(name, OpenMode::Read)?.forget_cached()?;
    }
    Ok(())
}

/// Reads the frames' bytes from the device, and does nothing with them.
fn stream(directory: &dyn Directory, files: &[Filled]) -> Outcome<u64> {
    let mut channel = directory.channel()?;
    let (mut free, mut in_flight, mut moved) = (AlignedBuf::several(PIECE, DEPTH), 0, 0);
    let mut complete = |channel: &mut dyn sawmill::storage::Channel, free: &mut Vec<_>| {
        let Some(completion) = channel.complete() else { return Ok(false) };
        moved += completion.result? as u64;
        free.extend(completion.buffer);
        Outcome::Ok(true)
    };
    for (name, bytes) in files {
        let file = directory.open(name, OpenMode::ReadDirect)?;
        for offset in (0..*bytes).step_by(PIECE) {
            if in_flight == DEPTH && complete(&mut *channel, &mut free)? {
                in_flight -= 1;
            }
            let mut buffer = free.pop().ok_or("a buffer is missing")?;
            buffer.set_len((bytes - offset).min(PIECE as u64) as usize);
            channel.submit(Op::Read { file: Arc::clone(&file), offset, buffer });
            in_flight += 1;
        }
    }
    while complete(&mut *channel, &mut free)? {}
    Ok(moved)
}

/// Lets both read the log in turns, each time from the device.
pub(crate) fn compare(
    wal: &Wal,
    workload: Workload,
    protocol: Protocol,
    progress: &mut dyn FnMut(Workload, u32, &str),
) -> Outcome<Comparison> {
    let directory = open(wal.path())?;
    let files = filled(&*directory)?;
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    let seen = replay::raw(wal.path())?;
    let mut all: Vec<Series> = ["raw", "sawmill", "ahead x4"]
        .into_iter()
        .map(|name| Series { name, variant: name == "ahead x4", rounds: Vec::new() })
        .collect();
    for round in 0..protocol.rounds {
        for series in &mut all {
            progress(workload, round, series.name);
            cool(&*directory, &files)?;
            series.rounds.push(match series.name {
                "raw" => timed(|| stream(&*directory, &files), &bytes, seen.records)?,
                "sawmill" => timed(|| Ok(replay::read(wal.replay()?)?), &seen, seen.records)?,
                _ => {
                    let ahead = || Ok(replay::read(wal.replay()?.verify_ahead(THREADS))?);
                    timed(ahead, &seen, seen.records)?
                }
            });
        }
    }
    Ok(Comparison { workload, series: all })
}
