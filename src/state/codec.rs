//! A partition's bytes: its keys in first-seen order, each with its value in postcard
//! (`docs/checkpoint-format.md`). Nothing is allocated per key when encoding.

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::table::StateTable;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::to_u64;

/// Where postcard writes: behind what is already there.
struct Behind<'a>(&'a mut Vec<u8>);

impl Flavor for Behind<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Appends a length, seven bits a byte, lowest first.
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Takes a varint in its shortest form.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for place in 0..10_u32 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        value |= bits.checked_shl(7 * place).filter(|shifted| shifted >> (7 * place) == bits)?;
        if byte & 0x80 == 0 {
            let shortest = *byte != 0 || place == 0;
            return shortest.then_some(value);
        }
    }
    None
}

/// How many keys a table's bytes say that they hold.
pub(crate) fn encoded_keys(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|count| u64::from_le_bytes(*count))
}

fn not_encodable(cause: postcard::Error) -> Error {
    Error::new(ErrorKind::Invalid, "a state value cannot be encoded").caused_by(cause)
}

impl<S: Serialize> StateTable<S> {
    /// Appends the table's bytes.
    ///
    /// # Errors
    /// `Invalid` if a value's `Serialize` refuses.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&to_u64(self.len()).to_le_bytes());
        for (key, value) in self.iter() {
            put_varint(out, to_u64(key.len()));
            out.extend_from_slice(key);
            postcard::serialize_with_flavor(value, Behind(out)).map_err(not_encodable)?;
        }
        Ok(())
    }
}

impl<S: DeserializeOwned> StateTable<S> {
    /// The table with these bytes, its order included. Any bytes are safe to try.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not a table's with values of this type.
    pub fn decode(mut bytes: &[u8]) -> Result<StateTable<S>> {
        let whole = bytes.len();
        let bad = |left: &[u8], why: &str| {
            let message = format!("state is not decodable at byte {}: {why}", whole - left.len());
            Error::new(ErrorKind::Corrupt, message)
        };
        let Some((count, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(bad(bytes, "there is no count"));
        };
        bytes = rest;
        let count = u64::from_le_bytes(*count);
        // A key takes a byte at least: a greater count is a lie, and is not allocated for.
        let Some(count) = usize::try_from(count).ok().filter(|count| *count <= bytes.len()) else {
            return Err(bad(bytes, "it names more keys than there are bytes"));
        };
        let mut table = StateTable::with_capacity(count, bytes.len() / 2);
        for _ in 0..count {
            let length = take_varint(&mut bytes).and_then(|length| usize::try_from(length).ok());
            let split = length.and_then(|length| bytes.split_at_checked(length));
            let Some((key, rest)) = split else {
                return Err(bad(bytes, "a key's length does not fit"));
            };
            let Ok((value, rest)) = postcard::take_from_bytes::<S>(rest) else {
                return Err(bad(rest, "a value is not of its type"));
            };
            bytes = rest;
            if table.insert(super::hash_key(key), key, value).is_some() {
                return Err(bad(bytes, "a key occurs twice"));
            }
        }
        if bytes.is_empty() { Ok(table) } else { Err(bad(bytes, "something follows")) }
    }
}
