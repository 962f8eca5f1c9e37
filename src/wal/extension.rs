//! What a record may carry beside its payload: key, timestamp, producer. Layout: `docs/format.md`,
//! "Extension".
//!
//! EXTENSION-1: what `encode` writes, `decode` returns. EXTENSION-2: `decode` takes any bytes and
//! returns or refuses; each field has its bound, stands once, and in the order of the tags.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::ProducerId;

/// The most bytes in a key.
pub(crate) const KEY_MAX: usize = 16 * 1024;
/// The highest sequence: no producer counts that far, and no sum overflows.
pub(crate) const SEQUENCE_MAX: u64 = u64::MAX / 2;
/// Bytes of the length before the fields.
pub(crate) const LENGTH: usize = 2;
/// Bytes of a field's tag and length.
const FIELD_HEADER: usize = 3;
const KEY: u8 = 1;
const TIMESTAMP: u8 = 2;
const PRODUCER: u8 = 3;
/// From here on, a reader that does not know a field passes it; below, it refuses the record.
const OPTIONAL: u8 = 128;

/// Who sent a record, and the how-manieth of that sender it is (LOG.md L22).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerStamp {
    /// The producer.
    pub id: ProducerId,
    /// Which life of the producer: a higher one shuts the lower ones out.
    pub epoch: u32,
    /// Which of the producer's records, counted from 0 without gaps over all its lives.
    pub sequence: u64,
}

/// The fields of a record's extension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extension<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) producer: Option<ProducerStamp>,
}

impl<'a> Extension<'a> {
    /// Whether there is no field.
    pub(crate) fn is_empty(&self) -> bool {
        self.key.is_none() && self.timestamp.is_none() && self.producer.is_none()
    }

    /// Refuses what cannot be encoded.
    ///
    /// # Errors
    /// `TooLarge` for a key over [`KEY_MAX`] bytes.
    pub(crate) fn check(&self) -> Result<()> {
        match self.key {
            Some(key) if key.len() > KEY_MAX => {
                let length = key.len();
                let message =
                    format!("a key of {length} bytes is over the limit of {KEY_MAX} bytes");
                Err(Error::new(ErrorKind::TooLarge, message))
            }
            _ => Ok(()),
        }
    }

    /// Bytes of the encoded extension, its length field included.
    pub(crate) fn length(&self) -> usize {
        let field = |bytes: usize| FIELD_HEADER + bytes;
        LENGTH
            + self.key.map_or(0, |key| field(key.len()))
            + self.timestamp.map_or(0, |_| field(8))
            + self.producer.map_or(0, |_| field(20))
    }

    /// Appends the encoded extension, its length first. It was [checked](Extension::check).
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(short(self.length() - LENGTH));
        if let Some(key) = self.key {
            put(out, KEY, key);
        }
        if let Some(timestamp) = self.timestamp {
            put(out, TIMESTAMP, &timestamp.to_le_bytes());
        }
        if let Some(ProducerStamp { id, epoch, sequence }) = self.producer {
            let mut bytes = [0; 20];
            bytes[..8].copy_from_slice(&id.get().to_le_bytes());
            bytes[8..12].copy_from_slice(&epoch.to_le_bytes());
            bytes[12..].copy_from_slice(&sequence.to_le_bytes());
            put(out, PRODUCER, &bytes);
        }
    }

    /// The fields in `bytes`, which are those behind the length; `None` if they are no extension
    /// that this version can read.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Extension<'a>> {
        let mut found = Extension::default();
        let (mut rest, mut last) = (bytes, 0);
        while let Some(([tag, low, high], behind)) = rest.split_first_chunk::<FIELD_HEADER>() {
            let length = usize::from(u16::from_le_bytes([*low, *high]));
            let (value, behind) = behind.split_at_checked(length)?;
            if *tag <= last {
                return None;
            }
            match *tag {
                KEY if length <= KEY_MAX => found.key = Some(value),
                TIMESTAMP => found.timestamp = Some(i64::from_le_bytes(value.try_into().ok()?)),
                PRODUCER => found.producer = Some(stamp(value.try_into().ok()?)?),
                OPTIONAL.. => {}
                _ => return None,
            }
            (rest, last) = (behind, *tag);
        }
        rest.is_empty().then_some(found)
    }
}

fn stamp(bytes: &[u8; 20]) -> Option<ProducerStamp> {
    let [a, b, c, d, e, f, g, h, i, j, k, l, sequence @ ..] = *bytes;
    let stamp = ProducerStamp {
        id: ProducerId::new(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        epoch: u32::from_le_bytes([i, j, k, l]),
        sequence: u64::from_le_bytes(sequence),
    };
    // One near the end of its range would overflow what is computed from it.
    (stamp.sequence <= SEQUENCE_MAX).then_some(stamp)
}

fn put(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    out.extend(short(value.len()));
    out.extend_from_slice(value);
}

fn short(length: usize) -> [u8; 2] {
    assert!(length <= usize::from(u16::MAX), "EXTENSION-2: a field outgrows its length");
    #[allow(clippy::cast_possible_truncation, reason = "asserted right above")]
    let short = length as u16;
    short.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(extension: &Extension<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        extension.encode(&mut out);
        assert_eq!(out.len(), extension.length());
        assert_eq!(out[..LENGTH], short(out.len() - LENGTH));
        out.split_off(LENGTH)
    }

    #[test]
    fn worked_example_of_the_format() {
        let producer = ProducerStamp { id: ProducerId::new(5), epoch: 2, sequence: 9 };
        let all = Extension { key: Some(b"k1"), timestamp: Some(-1), producer: Some(producer) };
        let mut expected = vec![1, 2, 0, b'k', b'1', 2, 8, 0];
        expected.extend([0xff; 8]);
        expected.extend([3, 20, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encoded(&all), expected);
        assert_eq!(Extension::decode(&expected), Some(all));
    }

    #[test]
    fn a_sequence_that_no_writer_takes_is_refused() {
        let id = ProducerId::new(5);
        for (sequence, accepted) in [(SEQUENCE_MAX, true), (1 << 63, false), (u64::MAX, false)] {
            let producer = Some(ProducerStamp { id, epoch: 2, sequence });
            let bytes = encoded(&Extension { producer, ..Extension::default() });
            assert_eq!(Extension::decode(&bytes).is_some(), accepted, "{sequence}");
        }
    }

    #[test]
    fn refuses_what_no_writer_writes_and_passes_optional_fields() {
        let key = [1, 1, 0, 7];
        let cases: [(&[u8], bool); 10] = [
            (&[], true),
            (&key, true),
            (&[1, 1, 0, 7, 200, 2, 0, 1, 2], true),
            (&[128, 0, 0], true),
            (&[1, 1, 0, 7, 1, 1, 0, 7], false),
            (&[2, 7, 0, 1, 2, 3, 4, 5, 6, 7], false),
            (&[4, 0, 0], false),
            (&[0, 0, 0], false),
            (&[1, 2, 0, 7], false),
            (&[1, 1], false),
        ];
        for (bytes, accepted) in cases {
            assert_eq!(Extension::decode(bytes).is_some(), accepted, "{bytes:?}");
        }
        let long = vec![7; KEY_MAX + 1];
        let mut bytes = Vec::new();
        put(&mut bytes, KEY, &long);
        assert_eq!(Extension::decode(&bytes), None);
        let error = Extension { key: Some(&long), ..Extension::default() }.check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            key in any::<Option<Vec<u8>>>(),
            timestamp in any::<Option<i64>>(),
            producer in proptest::option::of((any::<u64>(), any::<u32>(), 0..=SEQUENCE_MAX)),
        ) {
            let stamp = |(id, epoch, sequence)| {
                ProducerStamp { id: ProducerId::new(id), epoch, sequence }
            };
            let producer = producer.map(stamp);
            let extension = Extension { key: key.as_deref(), timestamp, producer };
            let bytes = encoded(&extension);
            prop_assert_eq!(Extension::decode(&bytes), Some(extension));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>) {
            if let Some(found) = Extension::decode(&bytes) {
                prop_assert!(found.length() <= LENGTH + bytes.len());
            }
        }
    }
}
