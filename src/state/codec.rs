//! A partition's bytes, whole or what has changed in it (`docs/checkpoint-format.md`). Keys and
//! values have their lengths: what is not typed can be told apart, folded and shown. Nothing is
//! allocated per key when encoding.

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::table::StateTable;
use crate::error::{Error, ErrorKind, Result};
use crate::exec::WARM;
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

/// Appends a length and so many bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, to_u64(bytes.len()));
    out.extend_from_slice(bytes);
}

pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&to_u64(count).to_le_bytes());
}

/// Appends a value's length and postcard. The length is known behind it only: most fit the one
/// byte that is left for it.
pub(super) fn put_value<S: Serialize>(out: &mut Vec<u8>, value: &S) -> Result<()> {
    let start = out.len();
    out.push(0);
    postcard::serialize_with_flavor(value, Behind(out)).map_err(|cause| {
        Error::new(ErrorKind::Invalid, "a state value cannot be encoded").caused_by(cause)
    })?;
    let length = to_u64(out.len() - start - 1);
    if length < 0x80 {
        out[start] = length.to_le_bytes()[0];
        return Ok(());
    }
    let mut prefix = Vec::with_capacity(10);
    put_varint(&mut prefix, length);
    out.splice(start..=start, prefix);
    Ok(())
}

/// Takes a partition's bytes apart. Any bytes are safe to try.
struct Reader<'a> {
    whole: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { whole: bytes.len(), rest: bytes }
    }

    fn bad(&self, why: &str) -> Error {
        let at = self.whole - self.rest.len();
        Error::new(ErrorKind::Corrupt, format!("state is not decodable at byte {at}: {why}"))
    }

    /// A number of things of a byte at least: a greater count is a lie, and not allocated for.
    fn count(&mut self) -> Result<usize> {
        let (count, rest) =
            self.rest.split_first_chunk::<8>().ok_or_else(|| self.bad("there is no count"))?;
        let count = usize::try_from(u64::from_le_bytes(*count)).ok();
        let Some(count) = count.filter(|count| *count <= rest.len()) else {
            return Err(self.bad("it names more keys than there are bytes"));
        };
        self.rest = rest;
        Ok(count)
    }

    fn bytes(&mut self, what: &str) -> Result<&'a [u8]> {
        let mut rest = self.rest;
        let length = take_varint(&mut rest).and_then(|length| usize::try_from(length).ok());
        let split = length.and_then(|length| rest.split_at_checked(length));
        let (taken, rest) = split.ok_or_else(|| self.bad(&format!("a {what} does not fit")))?;
        self.rest = rest;
        Ok(taken)
    }

    fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad("something follows")) }
    }
}

fn value_of<S: DeserializeOwned>(bytes: &[u8]) -> Result<S> {
    match postcard::take_from_bytes::<S>(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => {
            Err(Error::new(ErrorKind::Corrupt, "a state value's bytes are not of its type"))
        }
    }
}

/// How many keys a whole partition's bytes say that they hold.
pub(crate) fn encoded_keys(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|count| u64::from_le_bytes(*count))
}

/// Calls `each` with every key and value of a whole partition, in order.
///
/// # Errors
/// What `each` returns; `Corrupt` if the bytes are not a partition's.
pub(crate) fn entries(
    bytes: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let mut reader = Reader::new(bytes);
    for _ in 0..reader.count()? {
        let key = reader.bytes("key")?;
        each(key, reader.bytes("value")?)?;
    }
    reader.end()
}

/// The table of a whole partition, its order included.
fn load<'a, S>(bytes: &'a [u8], value: impl Fn(&'a [u8]) -> Result<S>) -> Result<StateTable<S>> {
    let mut reader = Reader::new(bytes);
    let count = reader.count()?;
    let mut table = StateTable::with_capacity(count, bytes.len() / 2);
    let (mut left, mut next) = (count, Vec::with_capacity(WARM));
    while left > 0 {
        for _ in 0..left.min(WARM) {
            let key = reader.bytes("key")?;
            next.push((super::hash_key(key), key, value(reader.bytes("value")?)?));
        }
        left -= next.len();
        table.warm_slots(next.iter().map(|(hash, ..)| *hash));
        for (hash, key, value) in next.drain(..) {
            if table.insert(hash, key, value).is_some() {
                return Err(reader.bad("a key occurs twice"));
            }
        }
    }
    reader.end()?;
    Ok(table)
}

/// Makes the changes that a delta's bytes say.
fn apply<'a, S>(
    table: &mut StateTable<S>,
    bytes: &'a [u8],
    value: impl Fn(&'a [u8]) -> Result<S>,
) -> Result<()> {
    let mut reader = Reader::new(bytes);
    let removed = reader.count()?;
    let changed = reader.count()?;
    for _ in 0..removed {
        let key = reader.bytes("key")?;
        table.remove(super::hash_key(key), key);
    }
    for _ in 0..changed {
        let key = reader.bytes("key")?;
        let value = value(reader.bytes("value")?)?;
        table.insert(super::hash_key(key), key, value);
    }
    reader.end()
}

impl<S> StateTable<S> {
    fn put_all(
        &self,
        out: &mut Vec<u8>,
        put: impl Fn(&mut Vec<u8>, &S) -> Result<()>,
    ) -> Result<()> {
        put_count(out, self.len());
        for (key, value) in self.iter() {
            put_bytes(out, key);
            put(out, value)?;
        }
        Ok(())
    }
}

impl<S: Serialize> StateTable<S> {
    /// Appends the table's bytes.
    ///
    /// # Errors
    /// `Invalid` if a value's `Serialize` refuses.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.put_all(out, put_value)
    }
}

impl<S: DeserializeOwned> StateTable<S> {
    /// The table with these bytes, its order included. Any bytes are safe to try.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not a table's with values of this type.
    pub fn decode(bytes: &[u8]) -> Result<StateTable<S>> {
        load(bytes, value_of)
    }

    /// Makes the changes that a delta's bytes say. On an error some of them are made.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not a delta's with values of this type.
    pub(super) fn apply(&mut self, bytes: &[u8]) -> Result<()> {
        apply(self, bytes, value_of)
    }
}

/// The bytes of a partition, and of its deltas in order, as the bytes of the whole. Values are
/// not looked into.
///
/// # Errors
/// `Corrupt` if some are not a partition's.
pub(crate) fn fold(base: &[u8], deltas: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut table: StateTable<&[u8]> = load(base, Ok)?;
    for delta in deltas {
        apply(&mut table, delta, Ok)?;
    }
    let mut out = Vec::with_capacity(base.len());
    table.put_all(&mut out, |out, value| {
        put_bytes(out, value);
        Ok(())
    })?;
    Ok(out)
}
