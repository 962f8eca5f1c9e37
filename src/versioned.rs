//! Small structures that outlive the process: one byte of version, then postcard.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};

/// The bytes of `value` in this version of its format.
pub(crate) fn encode<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    #[allow(clippy::expect_used, reason = "memory takes every byte, and our structs refuse none")]
    postcard::to_extend(value, vec![version]).expect("structs of ours can be encoded")
}

/// The value with these bytes; `what` names it in errors.
///
/// # Errors
/// `Unsupported` for another version, `Corrupt` for bytes that are no such value or more than one.
pub(crate) fn decode<T: DeserializeOwned>(what: &str, version: u8, bytes: &[u8]) -> Result<T> {
    match bytes.split_first() {
        Some((found, rest)) if *found == version => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            _ => Err(Error::new(ErrorKind::Corrupt, format!("the recorded {what} is damaged"))),
        },
        Some((found, _)) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("the recorded {what} has version {found}; this sawmill knows {version}"),
        )),
        None => Err(Error::new(ErrorKind::Corrupt, format!("the recorded {what} is empty"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_versions_and_damage_are_told_apart() {
        let bytes = encode(1, &(7u64, "oak".to_owned()));
        assert_eq!(decode::<(u64, String)>("plank", 1, &bytes).unwrap(), (7, "oak".to_owned()));
        let kind = |version, bytes: &[u8]| {
            decode::<(u64, String)>("plank", version, bytes).unwrap_err().kind()
        };
        assert_eq!(kind(2, &bytes), ErrorKind::Unsupported);
        assert_eq!(kind(1, &bytes[..3]), ErrorKind::Corrupt);
        assert_eq!(kind(1, &[&bytes[..], b"x"].concat()), ErrorKind::Corrupt);
        assert_eq!(kind(1, &[]), ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            drop(decode::<Vec<(String, u64)>>("plank", 1, &bytes));
        }
    }
}
