//! The decoders over damaged bytes whose checksums are right: lengths and fields that lie.

use std::sync::Arc;

use super::fuzz::{mend_checkpoint, mend_manifest};
use super::writer::{Ends, write_data};
use super::{CheckpointMeta, CheckpointStore, Damage, Extent, data, manifest};
use crate::ids::{BatchId, Generation, LogId, Lsn};
use crate::storage::{BLOCK, OpenMode, Storage, SystemStorage, files};

fn meta() -> CheckpointMeta {
    CheckpointMeta {
        checkpoint: 1,
        parent: 0,
        job: "counts".to_owned(),
        log_id: LogId::from_bytes([7; 16]),
        generation: Generation::new(2),
        batch: BatchId::new(3),
        floor: Lsn::new(4),
        engine: vec![5; 30],
    }
}

fn extents() -> Vec<Extent> {
    let extent = |partition: u32, size: usize| Extent {
        operator: "words".to_owned(),
        schema: 6,
        partition,
        bytes: vec![8; size],
    };
    vec![extent(0, 70), extent(1, 0), extent(2, 9)]
}

/// Both files of one written checkpoint.
fn files() -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let storage = SystemStorage::from_name("pwrite").unwrap();
    let directory = storage.directory(folder.path(), true).unwrap();
    let mut store = CheckpointStore::open(Arc::clone(&directory), 2).unwrap();
    store.write(meta(), &extents()).unwrap();
    let read = |name| files::read_to_vec(&*directory, name, 1 << 20).unwrap();
    (read("00000000000000000001.ckpt"), read("MANIFEST"))
}

/// An index entry was taken for four bytes less than it has. A job whose checkpoint ended within so
/// many bytes of a block's end was ended by the writer's assertion, in about every thirtieth
/// checkpoint of eight partitions. What is reserved is what is written, at every distance from the
/// end of a block.
#[test]
fn as_much_is_reserved_as_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let storage = SystemStorage::from_name("pwrite").unwrap();
    let directory = storage.directory(folder.path(), true).unwrap();
    let mut channel = directory.channel().unwrap();
    let mut extents = extents();
    for size in (0..BLOCK).step_by(4 * extents.len() - 1) {
        extents[0].bytes.resize(size, 1);
        let name = format!("{size}.ckpt");
        let file = directory.open(&name, OpenMode::CreateDirect).unwrap();
        let ends = Ends { file: &file, back: &file };
        let digest = write_data(&mut *channel, ends, &meta(), 0, &extents).unwrap();
        assert_eq!(Some(digest.length), data::file_len(&meta(), &extents), "{size}");
        files::remove_if_there(&*directory, &name).unwrap();
    }
}

#[test]
fn what_was_written_decodes() {
    let (data, manifest) = files();
    assert_eq!(data::decode(&data), Ok((meta(), extents())));
    let decoded = manifest::decode(&manifest).unwrap();
    assert_eq!((decoded.sequence, decoded.entries.len()), (1, 1));
    // The engine's bytes are in the data file alone.
    assert_eq!(decoded.entries[0].meta, CheckpointMeta { engine: Vec::new(), ..meta() });
    assert_eq!(manifest::encode(&decoded), manifest);
}

#[test]
fn every_flipped_byte_is_refused_by_the_decoders_alone() {
    let (data, manifest) = files();
    for (bytes, is_data) in [(data, true), (manifest, false)] {
        for place in 0..bytes.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[place] ^= mask;
                let refused = if is_data {
                    data::decode(&bytes).is_err()
                } else {
                    manifest::decode(&bytes).is_err()
                };
                assert!(refused, "data: {is_data}, byte {place}, mask {mask:#x}");
            }
        }
    }
}

/// Checksums are no help here. A field that is nobody's business but the writer's may change what
/// is decoded; a length that lies must be refused.
#[test]
fn lying_fields_under_right_checksums_are_refused_or_account_for_every_byte() {
    let (data, manifest) = files();
    let mut refused = 0;
    for mask in [0x01, 0x40, 0x80, 0xff] {
        for place in 0..data.len() {
            let mut bytes = data.clone();
            bytes[place] ^= mask;
            mend_checkpoint(&mut bytes);
            match data::decode(&bytes) {
                Ok((meta, extents)) => {
                    assert_eq!(data::file_len(&meta, &extents), Some(bytes.len() as u64));
                }
                Err(_) => refused += 1,
            }
        }
        for place in 0..manifest.len() {
            let mut bytes = manifest.clone();
            bytes[place] ^= mask;
            mend_manifest(&mut bytes);
            match manifest::decode(&bytes) {
                Ok(decoded) => assert_eq!(manifest::encode(&decoded), bytes),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 20_000, "padding and structure are checked: {refused}");
}

#[test]
fn a_count_that_lies_is_not_allocated_for() {
    let (mut data, mut manifest) = files();
    data[48..52].copy_from_slice(&u32::MAX.to_le_bytes());
    mend_checkpoint(&mut data);
    assert_eq!(data::decode(&data), Err(Damage::Length));
    manifest[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    mend_manifest(&mut manifest);
    assert_eq!(manifest::decode(&manifest), Err(Damage::Length));
}

#[test]
fn newer_versions_are_told_from_damage() {
    let (mut data, mut manifest) = files();
    data[8] = 2;
    mend_checkpoint(&mut data);
    assert_eq!(data::decode(&data), Err(Damage::Version(2)));
    manifest[8] = 2;
    mend_manifest(&mut manifest);
    assert_eq!(manifest::decode(&manifest), Err(Damage::Version(2)));
}
