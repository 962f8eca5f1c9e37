//! Reading a log back, hot: sawmill against the bare loop over the same mapped bytes (checksum of
//! each frame, walk over its records).

use std::path::Path;

use sawmill::storage::{BLOCK, BackendChoice, OpenMode, Storage as _, SystemStorage};
use sawmill::{Wal, WalOptions};

use super::frames::{FRAME_HEADER, half, is_frame, length, number_of};
use super::histogram::Histogram;
use super::protocol::{Comparison, Protocol, Round, Series};
use super::usage::{self, Usage};
use super::workload::Workload;
use super::writer::{Reader, Writer};
use super::{Outcome, now_ns};

const RECORD_HEADER: usize = 8;

/// What both loops compute of each record: where it is, how long, its first bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    records: u64,
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

fn raw(path: &Path) -> Outcome<Seen> {
    let storage = SystemStorage::new(BackendChoice::Auto)?;
    let directory = storage.directory(path, false)?;
    let mut seen = Seen::default();
    for name in directory.list()? {
        let Some(number) = number_of(&name) else { continue };
        let file = directory.open(&name, OpenMode::Read)?;
        let map = file.map(file.stamp()?.length)?;
        let mut offset = BLOCK;
        while offset < map.len() && is_frame(&map[offset..], number, offset as u64) {
            let header = &map[offset..offset + FRAME_HEADER];
            let start = offset + FRAME_HEADER;
            let payload = &map[start..start + half(header, 84)];
            if crc32c::crc32c(payload) as usize != half(header, 88) {
                return Err("a frame with a wrong checksum".into());
            }
            // Kind 1: records.
            if header[96] == 1 {
                walk(payload, &mut seen);
            }
            offset += length(header) as usize;
        }
    }
    Ok(seen)
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

fn ours(wal: &Wal) -> Outcome<Seen> {
    let mut seen = Seen::default();
    let mut replay = wal.replay()?;
    while let Some(record) = replay.next() {
        seen.add(record?.payload);
    }
    Ok(seen)
}

fn timed(read: &dyn Fn() -> Outcome<Seen>, expected: Seen) -> Outcome<Round> {
    let (before, begun) = (usage::of_this_thread(), now_ns());
    let seen = std::hint::black_box(read()?);
    let elapsed_ns = now_ns() - begun;
    if seen != expected {
        return Err("two readings of one log differ".into());
    }
    let (before, after) =
        (before.unwrap_or_default().1, usage::of_this_thread().unwrap_or_default().1);
    let usage =
        Usage { cpu_ns: after.cpu_ns - before.cpu_ns, switches: after.switches - before.switches };
    let (records, latency) = (seen.records, Histogram::default());
    Ok(Round { records, elapsed_ns, latency, usage, written: None })
}

/// Writes a log in bulk below `path`, and lets both read it in turns.
pub(crate) fn compare(
    path: &Path,
    options: WalOptions,
    workload: Workload,
    protocol: Protocol,
    progress: &mut dyn FnMut(Workload, u32, &str),
) -> Outcome<Comparison> {
    let path = path.join(format!("replay{}", workload.size));
    let wal = Wal::open(&path, options)?;
    let mut writer = Writer::new(0, 0, workload.size);
    for _ in 0..(protocol.bulk_bytes / workload.size as u64).max(1) {
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
    // From here on both read the page cache.
    let expected = raw(&path)?;
    let mut both =
        [Series { name: "raw", rounds: vec![] }, Series { name: "sawmill", rounds: vec![] }];
    for round in 0..protocol.rounds {
        progress(workload, round, "raw");
        both[0].rounds.push(timed(&|| raw(&path), expected)?);
        progress(workload, round, "sawmill");
        both[1].rounds.push(timed(&|| ours(&wal), expected)?);
    }
    wal.close()?;
    Ok(Comparison { workload, series: both.into() })
}
