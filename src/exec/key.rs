//! Keys as canonical bytes: what tables, shuffles and checkpoints compare and place by.

use super::row::{Bytes, Row, Str};
use super::wire::{Malformed, Wire, put_len, take_prefixed};
use crate::checksum::xxh3;

/// A row that can be a key.
///
/// **Law:** two keys are equal exactly when their canonical bytes are equal. Only these bytes are
/// hashed (64-bit XXH3, seed 0) and compared, on this and every other machine, now and after a
/// restart.
///
/// ```
/// use sawmill::{Key, Str};
/// let mut scratch = Vec::new();
/// assert_eq!(Str::bytes(&"oak", &mut scratch), b"oak");
/// assert_eq!(u32::view(u32::bytes(&7, &mut scratch)), Ok(7));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key",
    label = "not a key",
    note = "keys are `Str`, `Bytes`, `String`, `Vec<u8>`, integers, `bool`, `char` and pairs of \
            owned keys; implement `sawmill::Key` for your own type"
)]
pub trait Key: Wire {
    /// The canonical bytes: of the view itself where it has them, else written into `scratch`
    /// (which is cleared first).
    fn bytes<'s>(view: &'s Self::View<'_>, scratch: &'s mut Vec<u8>) -> &'s [u8];

    /// The key with these canonical bytes.
    ///
    /// # Errors
    /// [`Malformed`] if no key has them.
    fn view(bytes: &[u8]) -> Result<Self::View<'_>, Malformed>;
}

/// The stable hash of a key's canonical bytes.
#[inline]
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    xxh3(bytes)
}

/// Which of `partitions` a hash belongs to: the high bits choose, so that the low bits are still
/// even within a partition and can choose the slot.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "below `partitions`, a u32")]
pub(crate) fn partition_of(hash: u64, partitions: u32) -> u32 {
    (((hash >> 32) * u64::from(partitions)) >> 32) as u32
}

impl Key for Bytes {
    #[inline]
    fn bytes<'s>(view: &'s &[u8], _: &'s mut Vec<u8>) -> &'s [u8] {
        view
    }

    #[inline]
    fn view(bytes: &[u8]) -> Result<&[u8], Malformed> {
        Ok(bytes)
    }
}

impl Key for Str {
    #[inline]
    fn bytes<'s>(view: &'s &str, _: &'s mut Vec<u8>) -> &'s [u8] {
        view.as_bytes()
    }

    fn view(bytes: &[u8]) -> Result<&str, Malformed> {
        std::str::from_utf8(bytes).map_err(|_| Malformed)
    }
}

impl Key for String {
    fn bytes<'s>(view: &'s String, _: &'s mut Vec<u8>) -> &'s [u8] {
        view.as_bytes()
    }

    fn view(bytes: &[u8]) -> Result<String, Malformed> {
        Str::view(bytes).map(str::to_owned)
    }
}

impl Key for Vec<u8> {
    fn bytes<'s>(view: &'s Vec<u8>, _: &'s mut Vec<u8>) -> &'s [u8] {
        view
    }

    fn view(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
        Ok(bytes.to_vec())
    }
}

macro_rules! fixed_width {
    ($($type:ty),*) => {$(
        impl Key for $type {
            #[inline]
            fn bytes<'s>(view: &'s $type, scratch: &'s mut Vec<u8>) -> &'s [u8] {
                scratch.clear();
                scratch.extend_from_slice(&view.to_le_bytes());
                // Of a length that the compiler knows: hashing it then has no branches.
                &scratch[..size_of::<$type>()]
            }

            #[inline]
            fn view(bytes: &[u8]) -> Result<$type, Malformed> {
                Ok(<$type>::from_le_bytes(bytes.try_into().map_err(|_| Malformed)?))
            }
        }
    )*};
}

fixed_width!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128);

impl Key for bool {
    fn bytes<'s>(view: &'s bool, scratch: &'s mut Vec<u8>) -> &'s [u8] {
        u8::bytes(&u8::from(*view), scratch);
        scratch
    }

    fn view(bytes: &[u8]) -> Result<bool, Malformed> {
        match bytes {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Malformed),
        }
    }
}

impl Key for char {
    fn bytes<'s>(view: &'s char, scratch: &'s mut Vec<u8>) -> &'s [u8] {
        u32::bytes(&u32::from(*view), scratch);
        scratch
    }

    fn view(bytes: &[u8]) -> Result<char, Malformed> {
        char::from_u32(u32::view(bytes)?).ok_or(Malformed)
    }
}

/// The length of the first part, the first part, the second part: equal only if both are.
impl<A, B> Key for (A, B)
where
    A: Key + Clone + for<'a> Row<View<'a> = A>,
    B: Key + Clone + for<'a> Row<View<'a> = B>,
    (A, B): Wire + for<'a> Row<View<'a> = (A, B)>,
{
    fn bytes<'s>(view: &'s (A, B), scratch: &'s mut Vec<u8>) -> &'s [u8] {
        let mut part = Vec::new();
        let first = A::bytes(&view.0, &mut part);
        scratch.clear();
        put_len(first.len(), scratch);
        scratch.extend_from_slice(first);
        scratch.extend_from_slice(B::bytes(&view.1, &mut part));
        scratch
    }

    fn view(mut bytes: &[u8]) -> Result<(A, B), Malformed> {
        let first = A::view(take_prefixed(&mut bytes)?)?;
        Ok((first, B::view(bytes)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn law<K>(left: &K, right: &K) -> Result<(), TestCaseError>
    where
        K: Key + Clone + PartialEq + std::fmt::Debug + for<'a> Row<View<'a> = K>,
    {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let (one, two) = (K::bytes(left, &mut one), K::bytes(right, &mut two));
        prop_assert_eq!(left == right, one == two);
        prop_assert_eq!(&K::view(one), &Ok(left.clone()));
        Ok(())
    }

    proptest! {
        #[test]
        fn equal_keys_have_equal_bytes_and_no_others_do(
            text in ("[ab]{0,3}", "[ab]{0,3}"),
            pairs in (("[ab]{0,3}", "[ab]{0,3}"), ("[ab]{0,3}", "[ab]{0,3}")),
            nested in (((0u8..3, "[ab]{0,2}"), 0i64..3), ((0u8..3, "[ab]{0,2}"), 0i64..3)),
            signed: (i32, i32), wide: (u128, u128), chars: (char, char), flags: (bool, bool),
        ) {
            law(&text.0, &text.1)?;
            law(&pairs.0, &pairs.1)?;
            law(&nested.0, &nested.1)?;
            law(&signed.0, &signed.1)?;
            law(&wide.0, &wide.1)?;
            law(&chars.0, &chars.1)?;
            law(&flags.0, &flags.1)?;
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let mut scratch = Vec::new();
            if let Ok(pair) = <(String, u64)>::view(&bytes) {
                prop_assert_eq!(<(String, u64)>::bytes(&pair, &mut scratch), &bytes[..]);
            }
            if let Ok(pair) = <(bool, char)>::view(&bytes) {
                prop_assert_eq!(<(bool, char)>::bytes(&pair, &mut scratch), &bytes[..]);
            }
        }

        #[test]
        fn every_hash_has_a_partition(hash: u64, partitions in 1u32..) {
            prop_assert!(partition_of(hash, partitions) < partitions);
        }
    }

    #[test]
    fn placement_is_fixed_for_ever() {
        // State and checkpoints are laid out by these numbers: they must never change.
        assert_eq!(hash(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(partition_of(u64::MAX, 16), 15);
        assert_eq!(partition_of(1 << 60, 16), 1);
    }
}
