//! The worked example of `docs/checkpoint-format.md`, byte for byte: document and code agree.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use sawmill::checkpoint::{CheckpointMeta, CheckpointStore, Extent};
use sawmill::sim::SimDisk;
use sawmill::state::{StateTable, hash_key};
use sawmill::storage::Storage;
use sawmill::{BatchId, Generation, LogId, Lsn};

const FORMAT: &str = include_str!("../docs/checkpoint-format.md");

/// The dump of a file in the document: lines of offset and sixteen bytes in hex, between zeros.
fn documented(name: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let section = FORMAT.split(&format!("`{name}` of the example:")).nth(1).unwrap();
    for line in section.split("```").nth(1).unwrap().lines().skip(1) {
        let mut words = line.split_whitespace();
        let offset = usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        for (place, word) in words.take(16).enumerate() {
            bytes[offset + place] = u8::from_str_radix(word, 16).unwrap();
        }
    }
    bytes
}

fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (place, line) in bytes.chunks(16).enumerate() {
        if line.iter().any(|byte| *byte != 0) {
            let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            text += &format!("{:04x}  {}\n", place * 16, hex.join(" "));
        }
    }
    text
}

#[test]
fn the_worked_example_is_what_is_written() {
    let mut table = StateTable::new();
    for word in ["to", "be"] {
        table.insert(hash_key(word.as_bytes()), word.as_bytes(), 2_u64);
    }
    let mut bytes = Vec::new();
    table.encode(&mut bytes).unwrap();
    let extent = Extent { operator: "words".to_owned(), schema: 0x1122, partition: 3, bytes };
    let meta = CheckpointMeta {
        checkpoint: 0,
        job: "counts".to_owned(),
        log_id: LogId::from_bytes(*b"0123456789abcdef"),
        generation: Generation::new(1),
        batch: BatchId::new(7),
        floor: Lsn::new(42),
        engine: b"e!".to_vec(),
    };
    let disk = SimDisk::new(1);
    let directory = disk.directory(Path::new("/c"), true).unwrap();
    let mut store = CheckpointStore::open(directory, 2).unwrap();
    store.write(meta, &[extent]).unwrap();
    for name in ["00000000000000000001.ckpt", "MANIFEST"] {
        let written = disk.read_file(Path::new("/c").join(name)).unwrap();
        assert!(written == documented(name, written.len()), "{name} is now:\n{}", dump(&written));
    }
}
