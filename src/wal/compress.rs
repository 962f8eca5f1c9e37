//! Compression of single frames: LZ4 blocks, with the feature `lz4`.
//!
//! PACK-1: a frame is kept packed only if that saves a block of the medium. PACK-2: what is read is
//! unpacked into as many bytes as its header says, which was checked against the segment's size,
//! after its checksum held; anything else is refused.

use super::frame::{FRAME_HEADER, frame_length};
use crate::ids::to_u64;
use crate::storage::BLOCK;

/// Whether the log compresses what it writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// It does not.
    #[default]
    None,
    /// Each frame by itself with LZ4, where that saves at least one block of 4096 bytes. Needs the
    /// feature `lz4`, also to read the log.
    Lz4,
}

impl Compression {
    /// Whether this build can do it.
    pub(crate) const fn is_built(self) -> bool {
        matches!(self, Compression::None) || cfg!(feature = "lz4")
    }
}

/// Why a payload cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "lz4"), allow(dead_code, reason = "nothing is unpacked at all then"))]
pub(crate) enum Packed {
    /// It is not what LZ4 makes of so many bytes.
    Senseless,
    /// This build has no LZ4.
    Unknown,
}

/// Compresses frames, one after the other.
#[derive(Debug)]
pub(crate) struct Packer {
    compression: Compression,
    scratch: Vec<u8>,
}

impl Packer {
    pub(crate) fn new(compression: Compression) -> Packer {
        Packer { compression, scratch: Vec::new() }
    }

    /// Whether it may compress anything.
    pub(crate) fn is_on(&self) -> bool {
        self.compression != Compression::None
    }

    /// Compresses a frame's payload, which ends at `used`, in its place, if that saves a block;
    /// returns where it ends then.
    pub(crate) fn pack(&mut self, frame: &mut [u8], used: usize) -> Option<usize> {
        let plain = frame_length(to_u64(used - FRAME_HEADER));
        if !self.is_on() || plain <= to_u64(BLOCK) {
            return None;
        }
        let packed = pack(&frame[FRAME_HEADER..used], &mut self.scratch)?;
        let end = FRAME_HEADER + packed;
        if frame_length(to_u64(packed)) + to_u64(BLOCK) > plain {
            return None;
        }
        frame[FRAME_HEADER..end].copy_from_slice(&self.scratch[..packed]);
        Some(end)
    }
}

#[cfg(feature = "lz4")]
fn pack(plain: &[u8], scratch: &mut Vec<u8>) -> Option<usize> {
    let most = lz4_flex::block::get_maximum_output_size(plain.len());
    if scratch.len() < most {
        scratch.resize(most, 0);
    }
    lz4_flex::block::compress_into(plain, scratch).ok()
}

#[cfg(not(feature = "lz4"))]
fn pack(_plain: &[u8], _scratch: &mut Vec<u8>) -> Option<usize> {
    None
}

/// Unpacks a payload that becomes `plain` bytes.
///
/// # Errors
/// Why it cannot be unpacked; `out` then holds anything.
#[cfg(feature = "lz4")]
pub(crate) fn unpack(packed: &[u8], plain: u32, out: &mut Vec<u8>) -> Result<(), Packed> {
    let plain = crate::ids::to_usize(u64::from(plain));
    // Nothing becomes more than 255 times as long: what claims to is refused before it takes
    // memory.
    if plain > packed.len().saturating_mul(255) {
        return Err(Packed::Senseless);
    }
    out.resize(plain, 0);
    match lz4_flex::block::decompress_into(packed, out) {
        Ok(length) if length == plain => Ok(()),
        Ok(_) | Err(_) => Err(Packed::Senseless),
    }
}

/// As the one with the feature `lz4`: refuses.
///
/// # Errors
/// `Unknown`.
#[cfg(not(feature = "lz4"))]
pub(crate) fn unpack(_packed: &[u8], _plain: u32, _out: &mut Vec<u8>) -> Result<(), Packed> {
    Err(Packed::Unknown)
}

#[cfg(all(test, feature = "lz4"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        [&[0; FRAME_HEADER], payload].concat()
    }

    #[test]
    fn packs_only_what_saves_a_block() {
        let mut packer = Packer::new(Compression::Lz4);
        // One block anyway.
        assert_eq!(packer.pack(&mut frame(&[0; 3968]), 4096), None);
        let mut two = frame(&[0; 3969]);
        let end = packer.pack(&mut two, 4097).unwrap();
        let mut plain = Vec::new();
        unpack(&two[FRAME_HEADER..end], 3969, &mut plain).unwrap();
        assert_eq!(plain, [0; 3969]);
        for wrong in [3968, 3970, 0, u32::MAX] {
            assert_eq!(
                unpack(&two[FRAME_HEADER..end], wrong, &mut plain),
                Err(Packed::Senseless),
                "{wrong}"
            );
        }
        let noise: Vec<u8> = (0..20_000_u32)
            .flat_map(|n| crate::checksum::crc32c(&n.to_le_bytes()).to_le_bytes())
            .collect();
        let mut noisy = frame(&noise);
        let used = noisy.len();
        assert_eq!(packer.pack(&mut noisy, used), None);
        assert_eq!(noisy, frame(&noise), "and leaves it as it was");
        assert_eq!(Packer::new(Compression::None).pack(&mut frame(&[0; 9000]), 9128), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_or_refused(packed: Vec<u8>, plain in 0..100_000_u32) {
            let mut out = Vec::new();
            if unpack(&packed, plain, &mut out).is_ok() {
                prop_assert_eq!(out.len(), usize::try_from(plain).unwrap());
            }
        }

        #[test]
        fn what_is_packed_is_unpacked(word: Vec<u8>, count in 1..4000_usize) {
            let payload = word.repeat(count.min(200_000 / (word.len() + 1)));
            let mut bytes = frame(&payload);
            let used = bytes.len();
            if let Some(end) = Packer::new(Compression::Lz4).pack(&mut bytes, used) {
                let mut out = vec![1, 2, 3];
                let plain = u32::try_from(payload.len()).unwrap();
                unpack(&bytes[FRAME_HEADER..end], plain, &mut out).unwrap();
                prop_assert_eq!(out, payload);
            }
        }
    }
}
