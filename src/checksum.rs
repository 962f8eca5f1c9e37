//! The two digests: CRC32C for bytes that a medium may damage, XXH3 for identity and placement.
//!
//! Both are fixed by the format: CRC32C (Castagnoli, RFC 3720) guards frames, headers, manifests
//! and blocks; 64-bit XXH3 (seed 0) digests what direct sources read and places keys.

/// CRC32C of `bytes`.
#[must_use]
#[inline]
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// Continues a CRC32C over more bytes.
#[must_use]
#[inline]
pub(crate) fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    ::crc32c::crc32c_append(crc, bytes)
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
