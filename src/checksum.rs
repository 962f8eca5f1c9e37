//! The two digests: CRC32C for bytes that a medium may damage, XXH3 for identity and placement.
//!
//! Both are fixed by the format: CRC32C (Castagnoli, RFC 3720) guards frames, headers, manifests
//! and blocks; 64-bit XXH3 (seed 0) digests what direct sources read and places keys.

use crc_fast::{CrcAlgorithm, Digest};

/// CRC32C of `bytes`.
#[must_use]
#[inline]
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    match bytes.len() {
        0..=PIECE => crc_fast::crc32_iscsi(bytes),
        _ => crc32c_of_many(bytes),
    }
}

/// How much is brought into the cache at once: well within the second level, and well above what a
/// call costs.
const PIECE: usize = 32 * 1024;

/// As [`crc32c`]. So many bytes were probably written or read by somebody else, and are in no cache
/// of this core. Where the sum outruns the memory they are brought in piece by piece before they
/// are summed, for that asks for many lines at once, and the sum for a few.
fn crc32c_of_many(bytes: &[u8]) -> u32 {
    if outruns_memory() { piece_by_piece(bytes) } else { crc_fast::crc32_iscsi(bytes) }
}

fn piece_by_piece(bytes: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for piece in bytes.chunks(PIECE) {
        bring_in(piece);
        digest.update(piece);
    }
    finish(&digest)
}

/// Whether sums are made of products of 512 bits (20 GB/s and more). With those of 128 bits (7
/// GB/s) the core itself brings lines in as quickly as they are summed, and doing so before costs a
/// third of a replay.
fn outruns_memory() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("vpclmulqdq") && is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Brings bytes into this core's cache: it asks for many lines at once.
#[inline]
pub(crate) fn bring_in(bytes: &[u8]) {
    const LINE: usize = 64;
    std::hint::black_box(bytes.iter().step_by(LINE).fold(0, |sum, byte| sum ^ byte));
}

#[inline]
fn finish(digest: &Digest) -> u32 {
    #[allow(clippy::cast_possible_truncation, reason = "a sum of 32 bits in a wider word")]
    let sum = digest.finalize() as u32;
    sum
}

/// Continues a CRC32C over more bytes.
#[must_use]
#[inline]
pub(crate) fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    finish(&digest)
}

/// Whether all bytes are zero. Compares memory instead of asking byte by byte, which no compiler
/// turns into wide instructions: every replayed frame has its padding looked at.
#[must_use]
#[inline]
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// 64-bit XXH3 of `bytes`, seed 0: stable over versions and machines.
#[must_use]
#[inline]
pub(crate) fn xxh3(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// 64-bit XXH3, seed 0, of bytes that arrive in pieces.
pub(crate) use xxhash_rust::xxh3::Xxh3;

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, from the polynomial.
    fn slow(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0_u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
        })
    }

    #[test]
    fn whole_and_in_pieces_it_is_the_sum_of_the_polynomial() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of RFC 3720");
        let bytes: Vec<u8> =
            (0..70_001_u32).map(|at| at.wrapping_mul(0x9e37_79b9).to_le_bytes()[3]).collect();
        let lengths = (0..300).chain([1023, 1024, 4095, 4097, PIECE, PIECE + 1, 70_001]);
        for length in lengths {
            let bytes = &bytes[..length];
            let expected = slow(bytes);
            assert_eq!(crc32c(bytes), expected, "{length}");
            assert_eq!(piece_by_piece(bytes), expected, "{length}");
            for cut in [0, 1, length / 3, length] {
                let (one, two) = bytes.split_at(cut.min(length));
                assert_eq!(crc32c_append(crc32c(one), two), expected, "{length} at {cut}");
            }
        }
    }

    #[test]
    fn one_byte_anywhere_is_not_zero() {
        let mut bytes = vec![0; 9000];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for at in [0, 1, 4095, 4096, 8191, 8999] {
            bytes[at] = 0x80;
            assert!(!is_zero(&bytes), "{at}");
            bytes[at] = 0;
        }
    }
}
