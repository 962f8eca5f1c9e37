//! Records that cannot be mistaken for others: who appended them, which of his appends it was, and
//! which part of it.

use std::fmt;
use std::str::FromStr;

use crate::random::Random;

/// Bytes before the filling.
const HEAD: usize = 12;

/// Which record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    /// A thread of one process.
    pub(crate) writer: u32,
    /// Its appends are numbered from 0, and each waits for the one before.
    pub(crate) number: u32,
    /// An append of several records is one batch.
    pub(crate) part: u16,
    pub(crate) parts: u16,
}

impl Identity {
    /// A payload of `length` bytes, at least 12.
    pub(crate) fn payload(self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length.max(HEAD));
        bytes.extend(self.writer.to_le_bytes());
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.part.to_le_bytes());
        bytes.extend(self.parts.to_le_bytes());
        let seed = [u64::from(self.writer), u64::from(self.number), u64::from(self.part)];
        let mut random = Random::new(&seed);
        let length = length.max(HEAD);
        while bytes.len() < length {
            bytes.extend(random.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// The identity of a payload, if these are the bytes of any record.
    pub(crate) fn of(payload: &[u8]) -> Option<Identity> {
        let (writer, rest) = payload.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (part, rest) = rest.split_first_chunk()?;
        let (parts, _) = rest.split_first_chunk()?;
        let identity = Identity {
            writer: u32::from_le_bytes(*writer),
            number: u32::from_le_bytes(*number),
            part: u16::from_le_bytes(*part),
            parts: u16::from_le_bytes(*parts),
        };
        (identity.payload(payload.len()) == payload).then_some(identity)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { writer, number, part, parts } = self;
        write!(formatter, "{writer}/{number}/{part}/{parts}")
    }
}

impl FromStr for Identity {
    type Err = String;

    fn from_str(text: &str) -> Result<Identity, String> {
        let wrong = |_| format!("{text:?} names no record");
        let mut words = text.split('/');
        let mut word = || words.next().unwrap_or_default();
        Ok(Identity {
            writer: word().parse().map_err(wrong)?,
            number: word().parse().map_err(wrong)?,
            part: word().parse().map_err(wrong)?,
            parts: word().parse().map_err(wrong)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_says_which_it_is_and_one_byte_more_or_less_says_nothing() {
        let identity = Identity { writer: 300, number: 70_000, part: 1, parts: 3 };
        let payload = identity.payload(1000);
        assert_eq!(Identity::of(&payload), Some(identity));
        assert_eq!(identity.to_string().parse(), Ok(identity));
        for at in [0, 5, 9, 11, 12, 999] {
            let mut other = payload.clone();
            other[at] ^= 1;
            assert_ne!(Identity::of(&other), Some(identity), "byte {at}");
        }
    }
}
