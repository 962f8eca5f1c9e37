//! Decoders over arbitrary bytes, for fuzzing: they return or refuse, and never panic. Each is
//! tried twice: as it is, and with its checksums mended, so that lying lengths get past them.

use super::data::{self, HEADER};
use super::{bytes::Fields, manifest};
use crate::checksum::crc32c;
use crate::ids::{to_u64, to_usize};
use crate::state;

fn put(bytes: &mut [u8], at: usize, crc: u32) {
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

fn u64_at(bytes: &[u8], at: usize) -> usize {
    Fields::new(&bytes[at..]).u64().map_or(usize::MAX, to_usize)
}

/// Makes the checksums of a manifest right, whatever it says.
pub(super) fn mend_manifest(bytes: &mut [u8]) {
    if bytes.len() < HEADER {
        return;
    }
    let body = HEADER.saturating_add(u64_at(bytes, 40)).min(bytes.len());
    let crc = crc32c(&bytes[HEADER..body]);
    put(bytes, 56, crc);
    let crc = crc32c(&bytes[..60]);
    put(bytes, 60, crc);
}

/// Makes the checksums of header, trailer and footer right, whatever they say.
pub(super) fn mend_checkpoint(bytes: &mut [u8]) {
    if bytes.len() < 2 * HEADER {
        return;
    }
    let crc = crc32c(&bytes[..60]);
    put(bytes, 60, crc);
    let footer = bytes.len() - HEADER;
    let from = u64_at(bytes, footer + 16).min(bytes.len());
    let to = from.saturating_add(u64_at(bytes, footer + 24)).min(bytes.len());
    let crc = crc32c(&bytes[from..to]);
    put(bytes, footer + 40, crc);
    let crc = crc32c(&bytes[footer..footer + 60]);
    put(bytes, footer + 60, crc);
}

fn try_manifest(bytes: &[u8]) {
    if let Ok(manifest) = manifest::decode(bytes) {
        assert_eq!(manifest::encode(&manifest), bytes, "one encoding per manifest");
        assert_eq!(manifest::encoded_len(&manifest.entries), to_u64(bytes.len()));
    }
}

fn try_checkpoint(bytes: &[u8]) {
    if let Ok((meta, extents)) = data::decode(bytes) {
        let length = data::file_len(&meta, &extents);
        assert_eq!(length, Some(to_u64(bytes.len())), "every byte is accounted for");
        for extent in extents {
            try_state(&extent.bytes);
        }
    }
}

/// An extent, taken for a partition's bytes and for those of what has changed in one.
fn try_state(bytes: &[u8]) {
    if let Ok(whole) = state::fold(bytes, &[]) {
        assert_eq!(whole, bytes, "one encoding per partition");
    }
    if let Ok(whole) = state::fold(&[0; 8], &[bytes.to_vec()]) {
        assert_eq!(state::fold(&whole, &[]).ok(), Some(whole), "what is folded is whole");
    }
}

/// Decodes a manifest; what decodes, encodes to the same bytes again.
pub fn decode_manifest(bytes: &[u8]) {
    try_manifest(bytes);
    let mut mended = bytes.to_vec();
    mend_manifest(&mut mended);
    try_manifest(&mended);
}

/// Decodes a data file with all of its extents, and folds these.
pub fn decode_checkpoint(bytes: &[u8]) {
    try_checkpoint(bytes);
    let mut mended = bytes.to_vec();
    mend_checkpoint(&mut mended);
    try_checkpoint(&mended);
}
