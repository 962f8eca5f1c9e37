//! Reading a log back, hot: sawmill against the bare loop over the same mapped bytes (checksum of
//! each frame, walk over its records), alone, with threads that verify ahead, and with a consumer
//! for each segment.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sawmill::storage::{BLOCK, BackendChoice, Directory, OpenMode, Storage as _, SystemStorage};
use sawmill::{Replay, Wal, WalOptions};

use super::frames::{FRAME_HEADER, half, is_frame, length, number_of};
use super::histogram::Histogram;
use super::protocol::{Comparison, Protocol, Round, Series};
use super::usage;
use super::workload::Workload;
use super::writer::{Reader, Writer};
use super::{Outcome, now_ns};

const RECORD_HEADER: usize = 8;
/// Where several threads read.
pub(crate) const THREADS: usize = 4;

/// What both loops compute of each record: where it is, how long, its first bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) records: u64,
    sum: u64,
}

impl Seen {
    #[inline]
    fn add(&mut self, payload: &[u8]) {
        let first = payload.first_chunk().copied().map_or(0, u64::from_le_bytes);
        self.sum = self.sum.wrapping_mul(31).wrapping_add(payload.len() as u64 ^ first);
        self.records += 1;
    }
}

fn segments(directory: &dyn Directory) -> Outcome<Vec<(String, u64)>> {
    let names = directory.list()?.into_iter();
    Ok(names.filter_map(|name| number_of(&name).map(|number| (name, number))).collect())
}

fn open(path: &Path) -> Outcome<Arc<dyn Directory>> {
    Ok(SystemStorage::new(BackendChoice::Auto)?.directory(path, false)?)
}

/// The bare loop over all segments.
pub(crate) fn raw(path: &Path) -> Outcome<Seen> {
    let directory = open(path)?;
    let mut seen = Seen::default();
    for (name, number) in segments(&*directory)? {
        raw_segment(&*directory, &name, number, &mut seen)?;
    }
    Ok(seen)
}

/// The bare loop, each of the threads taking one segment after the other.
fn raw_side_by_side(path: &Path) -> Outcome<u64> {
    let directory = open(path)?;
    let (all, next) = (segments(&*directory)?, AtomicUsize::new(0));
    let work = || -> Outcome<u64> {
        let mut seen = Seen::default();
        while let Some((name, number)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            raw_segment(&*directory, name, *number, &mut seen)?;
        }
        std::hint::black_box(seen.sum);
        Ok(seen.records)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|one| one.join().map_err(|_| "a thread panicked")?);
        joined.sum()
    })
}

fn raw_segment(directory: &dyn Directory, name: &str, number: u64, seen: &mut Seen) -> Outcome {
    let file = directory.open(name, OpenMode::Read)?;
    let map = file.map(file.stamp()?.length)?;
    let mut offset = BLOCK;
    while offset < map.len() && is_frame(&map[offset..], number, offset as u64) {
        let header = &map[offset..offset + FRAME_HEADER];
        let start = offset + FRAME_HEADER;
        let payload = &map[start..start + half(header, 84)];
        if crc_fast::crc32_iscsi(payload) as usize != half(header, 88) {
            return Err("a frame with a wrong checksum".into());
        }
        // Kind 1: records.
        if header[96] == 1 {
            walk(payload, seen);
        }
        offset += length(header) as usize;
    }
    Ok(())
}

fn walk(payload: &[u8], seen: &mut Seen) {
    let mut at = 0;
    while at < payload.len() {
        let body = at + RECORD_HEADER;
        let end = body + half(payload, at);
        seen.add(&payload[body..end]);
        at = end;
    }
}

pub(crate) fn read(mut replay: Replay) -> sawmill::Result<Seen> {
    let mut seen = Seen::default();
    while let Some(record) = replay.next() {
        seen.add(record?.payload);
    }
    Ok(seen)
}

/// A round of reading, which must find `expected`.
pub(crate) fn timed<T: PartialEq>(
    round: impl FnOnce() -> Outcome<T>,
    expected: &T,
    records: u64,
) -> Outcome<Round> {
    let (before, begun) = (usage::of_all_threads(), now_ns());
    let found = std::hint::black_box(round()?);
    let elapsed_ns = now_ns() - begun;
    if found != *expected {
        return Err("two readings of one log differ".into());
    }
    // Threads that read and ended are not counted.
    let usage = usage::since(&before);
    Ok(Round { records, elapsed_ns, latency: Histogram::default(), usage, written: None })
}

/// Writes a log in bulk below `path`, and lets both read it in turns. It has four segments or
/// more, so that little of it is in the active one, which is not mapped.
pub(crate) fn compare(
    path: &Path,
    options: WalOptions,
    workload: Workload,
    protocol: Protocol,
    progress: &mut dyn FnMut(Workload, u32, &str),
) -> Outcome<Comparison> {
    let path = path.join(format!("replay{}x{}", workload.threads, workload.size));
    let segment = options.segment_size;
    let wal = Wal::open(&path, options)?;
    let mut writer = Writer::new(0, 0, workload.size);
    for _ in 0..(protocol.bulk_bytes.max(4 * segment) / workload.size as u64).max(1) {
        let lsn = wal.submit(writer.payload())?.lsn();
        writer.placed(lsn.get());
    }
    wal.sync()?;
    let mut reader = Reader::new(workload.size);
    let mut replay = wal.replay()?;
    while let Some(record) = replay.next() {
        let record = record?;
        reader.check(record.lsn.get(), record.payload)?;
    }
    drop(replay);
    reader.expect("sawmill", writer.tally)?;
    let comparison = hot(&wal, workload, protocol, progress)?;
    wal.close()?;
    Ok(comparison)
}

/// Lets both read an open log in turns, hot.
pub(crate) fn hot(
    wal: &Wal,
    workload: Workload,
    protocol: Protocol,
    progress: &mut dyn FnMut(Workload, u32, &str),
) -> Outcome<Comparison> {
    let path = wal.path();
    // From here on all read the page cache.
    let seen = raw(path)?;
    let records = seen.records;
    let mut all: Vec<Series> = Vec::new();
    let mut turn = |name, round: u32, outcome: Outcome<Round>| -> Outcome {
        if round == 0 {
            all.push(Series { name, variant: false, rounds: Vec::new() });
        }
        if let Some(series) = all.iter_mut().find(|series| series.name == name) {
            series.rounds.push(outcome?);
        }
        Ok(())
    };
    for round in 0..protocol.rounds {
        progress(workload, round, "raw and sawmill");
        if workload.threads == 1 {
            turn("raw", round, timed(|| raw(path), &seen, records))?;
            turn("sawmill", round, timed(|| Ok(read(wal.replay()?)?), &seen, records))?;
            let ahead = || Ok(read(wal.replay()?.verify_ahead(THREADS))?);
            turn("ahead x4", round, timed(ahead, &seen, records))?;
        } else {
            turn("raw", round, timed(|| raw_side_by_side(path), &records, records))?;
            let count = || {
                let each = wal
                    .par_replay(THREADS, |replay| Ok(std::hint::black_box(read(replay)?).records));
                Ok(each?.into_iter().sum())
            };
            turn("sawmill", round, timed(count, &records, records))?;
        }
    }
    Ok(Comparison { workload, series: all })
}
