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
    /// Where in the partition's bytes `rest` ends.
    end: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader::at(0, bytes)
    }

    /// Of bytes that stand behind so many others.
    fn at(before: usize, bytes: &'a [u8]) -> Reader<'a> {
        Reader { end: before + bytes.len(), rest: bytes }
    }

    fn bad(&self, why: &str) -> Error {
        let at = self.end - self.rest.len();
        Error::new(ErrorKind::Corrupt, format!("state is not decodable at byte {at}: {why}"))
    }

    /// A number of things of a byte at least, which stand behind it in `bytes` bytes, its own
    /// included: a greater count is a lie, and not allocated for.
    fn count(&mut self, bytes: usize) -> Result<usize> {
        let (count, rest) =
            self.rest.split_first_chunk::<8>().ok_or_else(|| self.bad("there is no count"))?;
        let count = usize::try_from(u64::from_le_bytes(*count)).ok();
        let Some(count) = count.filter(|count| *count <= bytes.saturating_sub(8)) else {
            return Err(self.bad("it names more keys than there are bytes"));
        };
        self.rest = rest;
        Ok(count)
    }

    fn whole_count(&mut self) -> Result<usize> {
        self.count(self.rest.len())
    }

    fn bytes(&mut self, what: &str) -> Result<&'a [u8]> {
        take_bytes(&mut self.rest).ok_or_else(|| self.bad(&format!("a {what} does not fit")))
    }

    /// A key and a value; `None` if not all of both is there.
    fn row(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let mut rest = self.rest;
        let row = (take_bytes(&mut rest)?, take_bytes(&mut rest)?);
        self.rest = rest;
        Some(row)
    }

    fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad("something follows")) }
    }
}

/// Takes a length and so many bytes, if they are there.
fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut rest = *bytes;
    let length = usize::try_from(take_varint(&mut rest)?).ok()?;
    let (taken, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
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
    for _ in 0..reader.whole_count()? {
        let key = reader.bytes("key")?;
        each(key, reader.bytes("value")?)?;
    }
    reader.end()
}

/// Adds the rows that stand next, up to the first one of which not all is there, to a table that is
/// to have so many more.
fn take_rows<'a, S>(
    reader: &mut Reader<'a>,
    table: &mut StateTable<S>,
    left: &mut usize,
    value: impl Fn(&'a [u8]) -> Result<S>,
) -> Result<()> {
    let mut next = Vec::with_capacity(WARM.min(*left));
    loop {
        while next.len() < WARM.min(*left) {
            let Some((key, bytes)) = reader.row() else { break };
            next.push((super::hash_key(key), key, value(bytes)?));
        }
        if next.is_empty() {
            return Ok(());
        }
        *left -= next.len();
        table.warm_slots(next.iter().map(|(hash, ..)| *hash));
        for (hash, key, value) in next.drain(..) {
            if table.insert(hash, key, value).is_some() {
                return Err(reader.bad("a key occurs twice"));
            }
        }
    }
}

/// The table of a whole partition, its order included.
fn load<'a, S>(bytes: &'a [u8], value: impl Fn(&'a [u8]) -> Result<S>) -> Result<StateTable<S>> {
    let mut reader = Reader::new(bytes);
    let mut left = reader.whole_count()?;
    let mut table = StateTable::with_capacity(left, bytes.len() / 2);
    take_rows(&mut reader, &mut table, &mut left, value)?;
    if left > 0 {
        return Err(reader.bad("a row does not fit"));
    }
    reader.end()?;
    Ok(table)
}

/// A whole partition's bytes on their way into a table, in pieces of any size: who reads them from
/// a device needs memory for a piece, not for all of them.
pub(super) struct Loading<S> {
    table: StateTable<S>,
    /// How many bytes come in all, and how many of them were taken apart.
    length: usize,
    taken: usize,
    /// How many keys are still to come, once that is known.
    left: Option<usize>,
    /// The beginning of a row that goes on in the next piece.
    cut: Vec<u8>,
}

/// Of a row that is cut, so many bytes more are looked at, and then twice as many.
const MORE: usize = 128;

impl<S: DeserializeOwned> Loading<S> {
    pub(super) fn new(length: usize) -> Loading<S> {
        let (table, taken, left, cut) = (StateTable::new(), 0, None, Vec::new());
        Loading { table, length, taken, left, cut }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not a table's with values of this type.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> Result<()> {
        while !self.cut.is_empty() && !piece.is_empty() {
            let (before, more) = (self.cut.len(), piece.len().min(self.cut.len().max(MORE)));
            self.cut.extend_from_slice(&piece[..more]);
            let cut = std::mem::take(&mut self.cut);
            // What ends in there ends behind what was there before.
            let taken = self.take(&cut)?;
            piece = &piece[taken.checked_sub(before).unwrap_or(more)..];
            self.cut = cut;
            if taken > 0 {
                self.cut.clear();
            }
        }
        let taken = self.take(piece)?;
        self.cut.extend_from_slice(&piece[taken..]);
        Ok(())
    }

    /// Takes what is whole of these bytes. Returns how many that were.
    fn take(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut reader = Reader::at(self.taken, bytes);
        let mut left = match self.left {
            Some(left) => left,
            None if bytes.len() < size_of::<u64>() => return Ok(0),
            None => {
                let count = reader.count(self.length)?;
                self.table = StateTable::with_capacity(count, self.length / 2);
                count
            }
        };
        take_rows(&mut reader, &mut self.table, &mut left, value_of)?;
        if left == 0 {
            reader.end()?;
        }
        self.left = Some(left);
        let taken = bytes.len() - reader.rest.len();
        self.taken += taken;
        Ok(taken)
    }

    /// The table, when all has come.
    ///
    /// # Errors
    /// `Corrupt` if that is not all of a table.
    pub(super) fn end(self) -> Result<StateTable<S>> {
        let reader = Reader::at(self.taken, &self.cut);
        match self.left {
            Some(0) => Ok(self.table),
            Some(_) => Err(reader.bad("a row does not fit")),
            None => Err(reader.bad("there is no count")),
        }
    }
}

/// Makes the changes that a delta's bytes say.
fn apply<'a, S>(
    table: &mut StateTable<S>,
    bytes: &'a [u8],
    value: impl Fn(&'a [u8]) -> Result<S>,
) -> Result<()> {
    let mut reader = Reader::new(bytes);
    let removed = reader.whole_count()?;
    let changed = reader.whole_count()?;
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

#[cfg(test)]
mod tests {
    use proptest::collection;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    /// The bytes in pieces of these lengths, again and again.
    fn in_pieces(bytes: &[u8], lengths: &[usize]) -> Result<StateTable<Vec<u8>>> {
        let mut loading = Loading::new(bytes.len());
        let (mut rest, mut lengths) = (bytes, lengths.iter().cycle());
        while !rest.is_empty() {
            let length = lengths.next().map_or(rest.len(), |length| rest.len().min(*length));
            let (piece, behind) = rest.split_at(length);
            loading.push(piece)?;
            rest = behind;
        }
        loading.end()
    }

    fn encoded(table: &StateTable<Vec<u8>>) -> Vec<u8> {
        let mut bytes = Vec::new();
        table.encode(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_partition_comes_in_pieces_of_any_size() {
        let mut table = StateTable::new();
        for number in 0..300_usize {
            let key = vec![7; number % 40].into_iter().chain(number.to_le_bytes());
            let key: Vec<u8> = key.collect();
            let value = vec![number.to_le_bytes()[0]; (number * 37) % 400];
            table.insert(crate::state::hash_key(&key), &key, value);
        }
        let bytes = encoded(&table);
        for length in (1..600).chain([bytes.len() - 1, bytes.len()]) {
            assert_eq!(encoded(&in_pieces(&bytes, &[length]).unwrap()), bytes, "{length}");
        }
        for length in [0, 5, 8, 9, bytes.len() - 1] {
            let error = in_pieces(&bytes[..length], &[100]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{length} bytes");
        }
        let behind = [&bytes[..], b"x"].concat();
        for length in [1, 100, behind.len()] {
            assert!(in_pieces(&behind, &[length]).unwrap_err().to_string().contains("follows"));
        }
    }

    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        collection::vec(any::<u8>(), 0..most)
    }

    proptest! {
        #[test]
        fn pieces_mean_what_the_whole_means(
            rows in collection::vec((bytes(9), bytes(200)), 0..60),
            lengths in collection::vec(1..200_usize, 1..9),
            edits in collection::vec((any::<Index>(), any::<u8>()), 0..3),
        ) {
            let mut table = StateTable::new();
            for (key, value) in rows {
                table.insert(crate::state::hash_key(&key), &key, value);
            }
            let mut bytes = encoded(&table);
            for (place, byte) in edits {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            let whole = StateTable::<Vec<u8>>::decode(&bytes);
            let pieces = in_pieces(&bytes, &lengths);
            prop_assert_eq!(whole.as_ref().ok().map(encoded), pieces.as_ref().ok().map(encoded));
        }
    }
}
