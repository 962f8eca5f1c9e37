//! How far is replay from the speed of the bytes?
//!
//! One thread replays a log of 128-byte and of 1-KiB records, hot in the page cache, against `raw`:
//! map the segments, check the CRC of each frame's payload, walk the records. Both fold lengths and
//! first bytes into a sum, which must be the same. Rounds alternate; what is printed is the median
//! of the rounds' ratios. `cargo bench --bench wal_replay [-- ROUNDS]`.
#![allow(clippy::disallowed_methods, reason = "a bench measures wall time")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench stops at what fails")]

use std::path::Path;
use std::time::Instant;

use sawmill::storage::{BLOCK, BackendChoice, OpenMode, Storage, SystemStorage};
use sawmill::{Wal, WalOptions};

/// Bytes of payload in the log.
const BYTES: usize = 192 << 20;
const SEGMENT: u64 = 64 << 20;
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

fn raw(path: &Path) -> (u64, u64) {
    let storage = SystemStorage::new(BackendChoice::Auto).unwrap();
    let directory = storage.directory(path, false).unwrap();
    let (mut count, mut sum) = (0, 0);
    for name in directory.list().unwrap().iter().filter(|name| name.ends_with(".seg")) {
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

fn ours(wal: &Wal) -> (u64, u64) {
    let (mut count, mut sum) = (0, 0);
    let mut replay = wal.replay().unwrap();
    while let Some(record) = replay.next() {
        sum = fold(sum, record.unwrap().payload);
        count += 1;
    }
    (count, sum)
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
        assert_eq!(raw(place.path()), ours(&wal));
        let (mut fast, mut bare, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..rounds {
            let begun = Instant::now();
            let (count, _) = std::hint::black_box(raw(place.path()));
            let raw_now = count as f64 / begun.elapsed().as_secs_f64();
            let begun = Instant::now();
            let (count, _) = std::hint::black_box(ours(&wal));
            let ours_now = count as f64 / begun.elapsed().as_secs_f64();
            fast.push(ours_now);
            bare.push(raw_now);
            ratios.push(ours_now / raw_now);
        }
        println!("wal_submit/1_writer/{size}_bytes: {written:.0}/s into fresh segments");
        println!(
            "wal_replay/{size}_bytes: sawmill {:.0}/s, raw {:.0}/s, ratio {:.2}",
            median(fast),
            median(bare),
            median(ratios)
        );
        wal.close().unwrap();
    }
}
