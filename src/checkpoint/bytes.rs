//! Little-endian fields out of and into byte slices, never past the end.

use super::Damage;

/// Takes fields from the front of a slice.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes }
    }

    /// The next `count` bytes. The count is checked against what is there before anything else.
    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], Damage> {
        let count = usize::try_from(count).map_err(|_| Damage::Length)?;
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Damage::Length)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Damage::Length)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Damage> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Damage> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A length of 32 bits, then that many bytes.
    pub(super) fn sized(&mut self) -> Result<&'a [u8], Damage> {
        let count = self.u32()?;
        self.take(u64::from(count))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Damage> {
        std::str::from_utf8(self.sized()?).map_err(|_| Damage::Text)
    }

    /// Bytes that the format fixes to zero.
    pub(super) fn zeros(&mut self, count: u64) -> Result<(), Damage> {
        if self.take(count)?.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(Damage::NotZero) }
    }

    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    /// Nothing may follow.
    pub(super) fn end(&self) -> Result<(), Damage> {
        if self.rest.is_empty() { Ok(()) } else { Err(Damage::Length) }
    }
}

/// Appends a length of 32 bits and the bytes. The caller has checked the length (`checked_len`).
pub(super) fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    #[allow(clippy::expect_used, reason = "CKPT-6: every length was checked before writing")]
    let length = u32::try_from(bytes.len()).expect("CKPT-6: length fits 32 bits");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}
