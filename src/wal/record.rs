//! Records within a frame's payload. Layout: `docs/format.md`, "Record".

use super::extension::{Extension, LENGTH};
use crate::ids::{StreamId, to_usize};

/// Bytes of a record's header.
pub(crate) const RECORD_HEADER: usize = 8;
const FLAG_EXTENSION: u8 = 1;
/// Which of the header's bytes says what kind of record it is.
const KIND: usize = 6;

/// Who a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// Its place was reserved and its bytes never came; readers skip it.
    Void,
    /// Appended by the user.
    User,
    /// Written by the engine: plans, completions.
    Internal,
}

/// A record as it stands in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawRecord<'a> {
    pub(crate) stream: StreamId,
    pub(crate) kind: RecordKind,
    /// The extension's fields, which decode; empty if there is none. They end where the payload
    /// begins.
    pub(crate) extension: &'a [u8],
    pub(crate) payload: &'a [u8],
}

/// As [`encode_header_of`], without an extension.
///
/// # Panics
/// If `out` is shorter than a record header.
#[cfg(test)]
pub(crate) fn encode_header(out: &mut [u8], length: u32, stream: StreamId, kind: RecordKind) {
    encode_header_of(out, length, stream, kind, false);
}

/// Writes a record's header for a body of `length` bytes, which begins with an extension if it is
/// `extended`.
///
/// # Panics
/// If `out` is shorter than a record header.
#[inline]
pub(crate) fn encode_header_of(
    out: &mut [u8],
    length: u32,
    stream: StreamId,
    kind: RecordKind,
    extended: bool,
) {
    let byte = match kind {
        RecordKind::Void => 0,
        RecordKind::User => 1,
        RecordKind::Internal => 2,
    };
    let mut header = u64::from(length);
    header |= u64::from(stream.get()) << 32;
    header |= byte << 48;
    header |= u64::from(extended) << 56;
    out[..RECORD_HEADER].copy_from_slice(&header.to_le_bytes());
}

/// Turns the `number`th record (from 0) of a payload that is still in memory into a void one, which
/// readers skip. `false` if there is none.
pub(crate) fn make_void(payload: &mut [u8], number: u64) -> bool {
    let mut rest = payload;
    for _ in 0..number {
        let Some(header) = rest.first_chunk::<RECORD_HEADER>() else { return false };
        let length = to_usize(u64::from_le_bytes(*header) & 0xffff_ffff);
        let Some((_, behind)) =
            std::mem::take(&mut rest).split_at_mut_checked(RECORD_HEADER + length)
        else {
            return false;
        };
        rest = behind;
    }
    match rest.get_mut(KIND) {
        Some(kind) => {
            *kind = 0;
            true
        }
        None => false,
    }
}

/// Takes the next record off `payload`. `None` if the bytes are not a whole record.
#[inline]
pub(crate) fn decode<'a>(payload: &mut &'a [u8]) -> Option<RawRecord<'a>> {
    let (header, rest) = payload.split_first_chunk::<RECORD_HEADER>()?;
    let header = u64::from_le_bytes(*header);
    let length = to_usize(header & 0xffff_ffff);
    let (body, rest) = rest.split_at_checked(length)?;
    let [.., s0, s1, kind, flags] = header.to_le_bytes();
    let kind = match kind {
        0 => RecordKind::Void,
        1 => RecordKind::User,
        2 => RecordKind::Internal,
        _ => return None,
    };
    let (extension, body) = match flags {
        0 => (&[][..], body),
        FLAG_EXTENSION => split_extension(body)?,
        _ => return None,
    };
    *payload = rest;
    let stream = StreamId::new(u16::from_le_bytes([s0, s1]));
    Some(RawRecord { stream, kind, extension, payload: body })
}

/// The extension's fields, which decode, and the payload behind them.
fn split_extension(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, body) = body.split_first_chunk::<LENGTH>()?;
    let (fields, payload) = body.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Extension::decode(fields)?;
    Some((fields, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_example_of_the_format() {
        let mut bytes = vec![0; RECORD_HEADER];
        encode_header(&mut bytes, 5, StreamId::DEFAULT, RecordKind::User);
        bytes.extend(b"hello");
        assert_eq!(bytes, [5, 0, 0, 0, 0, 0, 1, 0, 0x68, 0x65, 0x6c, 0x6c, 0x6f]);
        let mut rest = bytes.as_slice();
        let record = decode(&mut rest).unwrap();
        assert_eq!((record.kind, record.payload), (RecordKind::User, b"hello".as_slice()));
        assert!(rest.is_empty());
    }

    #[test]
    fn worked_example_with_an_extension() {
        let fields = "01 02 00 6b 31  02 08 00 ff ff ff ff ff ff ff ff \
                      03 14 00 05 00 00 00 00 00 00 00 02 00 00 00 09 00 00 00 00 00 00 00";
        let record = format!("2a 00 00 00 00 00 01 01 27 00 {fields} 78");
        let byte = |text| u8::from_str_radix(text, 16).unwrap();
        let mut bytes: Vec<u8> = record.split_whitespace().map(byte).collect();
        let found = decode(&mut bytes.as_slice()).unwrap();
        assert_eq!((found.extension.len(), found.payload), (39, b"x".as_slice()));
        let read = Extension::decode(found.extension).unwrap();
        assert_eq!((read.key, read.timestamp), (Some(b"k1".as_slice()), Some(-1)));
        assert_eq!(read.producer.map(|stamp| (stamp.epoch, stamp.sequence)), Some((2, 9)));
        let mut header = [0; RECORD_HEADER];
        encode_header_of(&mut header, 42, StreamId::DEFAULT, RecordKind::User, true);
        assert_eq!(header, bytes[..RECORD_HEADER]);
        bytes[10] = 7;
        assert_eq!(decode(&mut bytes.as_slice()), None, "a field that must be known");
        bytes[8] = 41;
        assert_eq!(decode(&mut bytes.as_slice()), None, "fields beyond the body");
    }

    #[test]
    fn refuses_lengths_beyond_the_payload_and_unknown_kinds() {
        let mut bytes = vec![0; RECORD_HEADER + 3];
        encode_header(&mut bytes, 4, StreamId::new(3), RecordKind::Internal);
        assert_eq!(decode(&mut bytes.as_slice()), None);
        encode_header(&mut bytes, 3, StreamId::new(3), RecordKind::Internal);
        assert_eq!(decode(&mut bytes.as_slice()).unwrap().stream, StreamId::new(3));
        bytes[6] = 9;
        assert_eq!(decode(&mut bytes.as_slice()), None);
        bytes[6] = 1;
        bytes[7] = 1;
        bytes[8] = 200;
        assert_eq!(decode(&mut bytes.as_slice()), None);
    }

    #[test]
    fn a_record_becomes_void_and_its_neighbours_stay() {
        let mut bytes = Vec::new();
        for length in [3, 0, 70_000, 5] {
            let at = bytes.len();
            bytes.resize(at + RECORD_HEADER + length, 7);
            let length = u32::try_from(length).unwrap();
            encode_header(&mut bytes[at..], length, StreamId::DEFAULT, RecordKind::User);
        }
        assert!(make_void(&mut bytes, 2) && !make_void(&mut bytes, 4));
        let mut rest = bytes.as_slice();
        let kinds: Vec<_> =
            std::iter::from_fn(|| decode(&mut rest)).map(|record| record.kind).collect();
        use RecordKind::{User, Void};
        assert_eq!(kinds, [User, User, Void, User]);
    }
}
