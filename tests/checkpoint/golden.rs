//! The worked example of `docs/checkpoint-format.md`, byte for byte: document and code agree. And
//! the checkpoints of version 1: directories that every later version has to open.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::model::{HISTORY, batch_after, lived, start};
use crate::common::{HOME, disk};

use sawmill::checkpoint::{CheckpointMeta, CheckpointStore, Extent};
use sawmill::sim::SimDisk;
use sawmill::state::{StateTable, hash_key};
use sawmill::storage::Storage;
use sawmill::{BatchId, Generation, LogId, Lsn};

const FORMAT: &str = include_str!("../../docs/checkpoint-format.md");

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
        parent: 0,
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
    let mut differs = String::new();
    for name in ["00000000000000000001.ckpt", "MANIFEST"] {
        let written = disk.read_file(Path::new("/c").join(name)).unwrap();
        if written != documented(name, written.len()) {
            differs += &format!("{name} is now:\n{}", dump(&written));
        }
    }
    assert!(differs.is_empty(), "{differs}");
}

/// Bases, deltas and a fold, the newest chain being one of a base and two deltas.
fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1/checkpoints")
}

/// The files that the history leaves.
fn written() -> Vec<(String, Vec<u8>)> {
    let (disk, _store) = lived(HISTORY.len(), false);
    let ours = |path: &PathBuf| path.starts_with(HOME) && !path.ends_with("SPARE");
    let files = disk.files().into_iter().filter(ours);
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    files.map(|path| (name(&path), disk.read_file(&path).unwrap())).collect()
}

#[test]
fn checkpoints_of_version_1_open_and_are_still_written_so() {
    let disk = disk(false);
    let mut names = Vec::new();
    for entry in fs::read_dir(fixture()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        disk.write_file(Path::new(HOME).join(&name), &fs::read(&path).unwrap());
        names.push(name);
    }
    assert_eq!(start(&disk).unwrap(), (batch_after(HISTORY.len()), 0));
    let written = written();
    names.sort();
    assert!(names.iter().eq(written.iter().map(|(name, _)| name)), "{names:?}");
    for (name, bytes) in written {
        assert!(fs::read(fixture().join(&name)).unwrap() == bytes, "{name} is written differently");
    }
}

/// For a new version of the format only: a file that is there is never changed.
#[test]
#[ignore = "writes files: see `just golden`"]
fn make_the_files() {
    let place = PathBuf::from(std::env::var("SAWMILL_GOLDEN").unwrap()).join("checkpoints");
    fs::create_dir_all(&place).unwrap();
    for (name, bytes) in written() {
        fs::write(place.join(name), bytes).unwrap();
    }
}
