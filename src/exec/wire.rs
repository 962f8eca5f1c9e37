//! The bytes of a row, wherever rows may leave memory.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::row::{Bytes, Data, Kv, Row, Str};
use crate::error::{Error, ErrorKind};
use crate::ids::to_usize;

/// Bytes that are not the encoding of a row of this type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the bytes are not a row of this type")
    }
}

impl std::error::Error for Malformed {}

/// The codec of a row. Asked for by every operator whose rows may leave memory (shuffles,
/// `persist`, state), and by no other.
///
/// Owned types get it from `serde` (as postcard); the markers have their own. Encodings are
/// self-delimiting: `get` reads what `put` wrote and leaves the rest.
///
/// ```
/// use sawmill::{Bytes, Kv, Wire};
/// let mut bytes = Vec::new();
/// <Kv<Bytes, u64>>::put((b"word", 300), &mut bytes);
/// assert_eq!(<Kv<Bytes, u64>>::get(&mut &bytes[..]), Ok((&b"word"[..], 300)));
/// assert!(<Kv<Bytes, u64>>::get(&mut &bytes[1..]).is_err());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no codec, and its rows may leave memory here",
    label = "no codec",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it"
)]
pub trait Wire: Row {
    /// Appends the encoding of one row.
    fn put(view: Self::View<'_>, out: &mut Vec<u8>);

    /// Takes one row off the front of `bytes`.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not such an encoding; never panics.
    fn get<'a>(bytes: &mut &'a [u8]) -> Result<Self::View<'a>, Malformed>;
}

/// An owned value with a codec: what the values of keyed operators must be.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no codec, and its rows may leave memory here",
    label = "the value of a wide or stateful operator needs a codec",
    note = "it must be `Clone + Send + Sync + 'static` with `serde::Serialize` and \
            `serde::Deserialize`: derive both"
)]
pub trait Value: Data + Serialize + DeserializeOwned {}

impl<T: Data + Serialize + DeserializeOwned> Value for T {}

struct Append<'v>(&'v mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Append<'_> {
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

impl<T: Data + Serialize + DeserializeOwned> Wire for T {
    fn put(view: T, out: &mut Vec<u8>) {
        let written = postcard::serialize_with_flavor(&view, Append(out));
        // Memory takes every byte; what remains is a `Serialize` that refuses its own value, which
        // is user code failing: the task that called is told.
        written.unwrap_or_else(|error| panic!("a row refused to be serialised: {error}"));
    }

    fn get(bytes: &mut &[u8]) -> Result<T, Malformed> {
        let (value, rest) = postcard::take_from_bytes(bytes).map_err(|_| Malformed)?;
        *bytes = rest;
        Ok(value)
    }
}

/// Pushes the rows of held bytes, which `put` wrote one after the other.
///
/// # Errors
/// `TaskFailed` if the codec breaks its law.
pub(crate) fn read_encoded<R: Wire>(
    mut bytes: &[u8],
    out: &mut dyn FnMut(R::View<'_>),
) -> crate::error::Result<()> {
    let failed = |text: &str| Error::new(ErrorKind::TaskFailed, text);
    while !bytes.is_empty() {
        let before = bytes.len();
        let view = R::get(&mut bytes).map_err(|error| {
            failed("the codec of a held row does not read what it wrote").caused_by(error)
        })?;
        out(view);
        if bytes.len() == before {
            return Err(failed("the codec of a held row writes no bytes"));
        }
    }
    Ok(())
}

/// Appends a length as 8 bytes, little-endian.
pub(crate) fn put_len(len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(len as u64).to_le_bytes());
}

/// Takes a length and that many bytes off the front.
pub(crate) fn take_prefixed<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let (len, rest) = bytes.split_first_chunk::<8>().ok_or(Malformed)?;
    let len = to_usize(u64::from_le_bytes(*len));
    let (taken, rest) = rest.split_at_checked(len).ok_or(Malformed)?;
    *bytes = rest;
    Ok(taken)
}

impl Wire for Bytes {
    fn put(view: &[u8], out: &mut Vec<u8>) {
        put_len(view.len(), out);
        out.extend_from_slice(view);
    }

    fn get<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
        take_prefixed(bytes)
    }
}

impl Wire for Str {
    fn put(view: &str, out: &mut Vec<u8>) {
        Bytes::put(view.as_bytes(), out);
    }

    fn get<'a>(bytes: &mut &'a [u8]) -> Result<&'a str, Malformed> {
        std::str::from_utf8(take_prefixed(bytes)?).map_err(|_| Malformed)
    }
}

impl<K: Wire, V: Wire> Wire for Kv<K, V> {
    fn put((key, value): Self::View<'_>, out: &mut Vec<u8>) {
        K::put(key, out);
        V::put(value, out);
    }

    fn get<'a>(bytes: &mut &'a [u8]) -> Result<Self::View<'a>, Malformed> {
        let key = K::get(bytes)?;
        Ok((key, V::get(bytes)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_back_and_leave_the_rest(
            text in ".*", number: u64, pair: (i32, String), rest: Vec<u8>,
        ) {
            let mut bytes = Vec::new();
            <Kv<Str, u64>>::put((&text, number), &mut bytes);
            <(i32, String)>::put(pair.clone(), &mut bytes);
            bytes.extend_from_slice(&rest);
            let mut left = &bytes[..];
            prop_assert_eq!(<Kv<Str, u64>>::get(&mut left), Ok((&text[..], number)));
            prop_assert_eq!(<(i32, String)>::get(&mut left), Ok(pair));
            prop_assert_eq!(left, &rest[..]);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            // Whatever comes out, nothing panics and nothing is read behind the end.
            let mut left = &bytes[..];
            while <Kv<Str, (u64, String)>>::get(&mut left).is_ok() {}
            prop_assert!(left.len() <= bytes.len());
        }
    }
}
