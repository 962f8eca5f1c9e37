//! How far is replay from the speed of the bytes?
//!
//! One thread replays a log of 128-byte and of 1-KiB records, hot in the page cache, against `raw`:
//! map the segments, check the CRC of each frame's payload, walk the records. Both fold lengths and
//! first bytes into a sum, which must be the same. Rounds alternate; what is printed is the median
//! of the rounds' ratios. The same with threads that verify ahead, and with a consumer for each
//! segment against the bare loop on as many threads. `cargo bench --bench wal_replay [-- ROUNDS]`.
#![allow(clippy::disallowed_methods, reason = "a bench measures wall time")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench stops at what fails")]

use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use sawmill::storage::{BLOCK, BackendChoice, OpenMode, Storage, SystemStorage};
use sawmill::{Replay, Wal, WalOptions};

/// Bytes of payload in the log.
const BYTES: usize = 192 << 20;
const SEGMENT: u64 = 64 << 20;
/// Threads where there are several.
const THREADS: usize = 4;
const FRAME_HEADER: usize = 128;
const RECORD_HEADER: usize = 8;

/// What both loops compute of each record.
fn fold(sum: u64, payload: &[u8]) -> u64 {
    let first = payload.first().copied().unwrap_or(0);
    sum.wrapping_mul(31).wrapping_add(payload.len() as u64 ^ u64::from(first))
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// The bare loop over all segments.
fn raw(path: &Path) -> (u64, u64) {
    let names = segments(path);
    names.iter().fold((0, 0), |(count, sum), name| {
        let (more, sum) = raw_segment(path, name, sum);
        (count + more, sum)
    })
}

/// The bare loop, a thread taking one segment after the other.
fn raw_parallel(path: &Path) -> u64 {
    let (names, next, total) = (segments(path), AtomicUsize::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    total.fetch_add(raw_segment(path, name, 0).0, Ordering::Relaxed);
                }
            });
        }
    });
    total.into_inner()
}

fn segments(path: &Path) -> Vec<String> {
    let storage = SystemStorage::new(BackendChoice::Auto).unwrap();
    let names = storage.directory(path, false).unwrap().list().unwrap();
    names.into_iter().filter(|name| name.ends_with(".seg")).collect()
}

fn raw_segment(path: &Path, name: &str, mut sum: u64) -> (u64, u64) {
    let storage = SystemStorage::new(BackendChoice::Auto).unwrap();
    let directory = storage.directory(path, false).unwrap();
    let mut count = 0;
    {
        let file = directory.open(name, OpenMode::Read).unwrap();
        let map = file.map(file.stamp().unwrap().length).unwrap();
        let mut offset = BLOCK;
        while offset < map.len() && map[offset..offset + 4] == *b"FRAM" {
            let length = number(&map, offset + 84);
            let start = offset + FRAME_HEADER;
            let payload = &map[start..start + length];
            assert_eq!(crc32c::crc32c(payload) as usize, number(&map, offset + 88));
            // Kind 1: records.
            let mut at = if map[offset + 96] == 1 { 0 } else { length };
            while at < length {
                let body = at + RECORD_HEADER;
                let end = body + number(payload, at);
                sum = fold(sum, &payload[body..end]);
                count += 1;
                at = end;
            }
            offset = (start + length).next_multiple_of(BLOCK);
        }
    }
    (count, sum)
}

fn ours(wal: &Wal, threads: usize) -> (u64, u64) {
    walk(wal.replay().unwrap().verify_ahead(threads))
}

fn walk(mut replay: Replay) -> (u64, u64) {
    let (mut count, mut sum) = (0, 0);
    while let Some(record) = replay.next() {
        sum = fold(sum, record.unwrap().payload);
        count += 1;
    }
    (count, sum)
}

fn ours_parallel(wal: &Wal) -> u64 {
    let counts = wal.par_replay(THREADS, |replay| Ok(black_box(walk(replay)).0));
    counts.unwrap().iter().sum()
}

/// Rounds of ours and raw in turn; prints the medians.
fn compare(name: &str, rounds: usize, mut ours: impl FnMut() -> u64, mut raw: impl FnMut() -> u64) {
    let (mut fast, mut bare, mut ratios) = (vec![], vec![], vec![]);
    for _ in 0..rounds {
        let begun = Instant::now();
        let count = black_box(raw());
        let raw_now = count as f64 / begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        assert_eq!(black_box(ours()), count);
        let ours_now = count as f64 / begun.elapsed().as_secs_f64();
        fast.push(ours_now);
        bare.push(raw_now);
        ratios.push(ours_now / raw_now);
    }
    println!(
        "{name}: sawmill {:.0}/s, raw {:.0}/s, ratio {:.2}",
        median(fast),
        median(bare),
        median(ratios)
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let rounds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(7);
    for size in [128, 1024] {
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let options = WalOptions { segment_size: SEGMENT, ..WalOptions::default() };
        let wal = Wal::open(place.path(), options).unwrap();
        let mut payload = vec![b'x'; size];
        let begun = Instant::now();
        for record in 0..BYTES / size {
            payload[0] = record.to_le_bytes()[0];
            wal.submit(&payload).unwrap();
        }
        wal.sync().unwrap();
        let written = (BYTES / size) as f64 / begun.elapsed().as_secs_f64();
        // Both read the page cache from here on.
        let path = place.path();
        assert_eq!(raw(path), ours(&wal, 0));
        assert_eq!(raw(path), ours(&wal, THREADS));
        println!("wal_submit/1_writer/{size}_bytes: {written:.0}/s into fresh segments");
        let name = format!("wal_replay/{size}_bytes");
        compare(&name, rounds, || ours(&wal, 0).0, || raw(path).0);
        let name = format!("wal_replay/{size}_bytes, {THREADS} threads verify ahead, raw 1 thread");
        compare(&name, rounds, || ours(&wal, THREADS).0, || raw(path).0);
        let name = format!("wal_replay/{size}_bytes, {THREADS} consumers");
        compare(&name, rounds, || ours_parallel(&wal), || raw_parallel(path));
        wal.close().unwrap();
    }
}
