//! Rows as JSON.

use std::io;

use serde::Serialize;

use super::sink::LineFormat;
use crate::exec::{Bytes, Data, Kv, Row, Str};

/// A row that can be written as one JSON value.
///
/// Owned types are written as `serde` says. The markers: `Str` is a string; `Bytes` is a string
/// where the bytes are valid UTF-8, else `{"hex":"00ff"}`; `Kv<K, V>` is
/// `{"key":...,"value":...}`. What is not finite among floats is `null`.
///
/// ```
/// use sawmill::{Bytes, JsonRow, Kv};
/// let mut line = Vec::new();
/// <Kv<Bytes, u64>>::write_json((b"oak", 3), &mut line)?;
/// assert_eq!(line, br#"{"key":"oak","value":3}"#);
/// line.clear();
/// Bytes::write_json(b"\xff\x00", &mut line)?;
/// assert_eq!(line, br#"{"hex":"ff00"}"#);
/// # Ok::<(), std::io::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "rows of type `{Self}` cannot be written as JSON",
    label = "no JSON form",
    note = "derive `serde::Serialize` for it"
)]
pub trait JsonRow: Row {
    /// Appends the JSON value, without any newline.
    ///
    /// # Errors
    /// If the row's `Serialize` refuses it (a map with keys that are no strings, say).
    fn write_json(view: Self::View<'_>, out: &mut Vec<u8>) -> io::Result<()>;
}

impl<T: Data + Serialize> JsonRow for T {
    fn write_json(view: T, out: &mut Vec<u8>) -> io::Result<()> {
        serde_json::to_writer(out, &view).map_err(io::Error::from)
    }
}

impl JsonRow for Str {
    fn write_json(view: &str, out: &mut Vec<u8>) -> io::Result<()> {
        serde_json::to_writer(out, view).map_err(io::Error::from)
    }
}

impl JsonRow for Bytes {
    fn write_json(view: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        if let Ok(text) = std::str::from_utf8(view) {
            return Str::write_json(text, out);
        }
        out.extend_from_slice(b"{\"hex\":\"");
        for byte in view {
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
        out.extend_from_slice(b"\"}");
        Ok(())
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl<K: JsonRow, V: JsonRow> JsonRow for Kv<K, V> {
    fn write_json((key, value): Self::View<'_>, out: &mut Vec<u8>) -> io::Result<()> {
        out.extend_from_slice(b"{\"key\":");
        K::write_json(key, out)?;
        out.extend_from_slice(b",\"value\":");
        V::write_json(value, out)?;
        out.push(b'}');
        Ok(())
    }
}

/// Each row a JSON value.
#[derive(Debug)]
pub(crate) struct Json;

impl<R: JsonRow> LineFormat<R> for Json {
    const EXTENSION: &'static str = "jsonl";
    type Scratch = ();

    fn write(_scratch: &mut (), view: R::View<'_>, out: &mut Vec<u8>) -> io::Result<()> {
        R::write_json(view, out)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn json<R: JsonRow>(view: R::View<'_>) -> String {
        let mut out = Vec::new();
        R::write_json(view, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn awkward_rows_are_one_line_of_valid_json_each() {
        assert_eq!(json::<Str>("a\n\"\u{2028}\u{0}"), "\"a\\n\\\"\u{2028}\\u0000\"");
        assert_eq!(json::<Bytes>(b""), "\"\"");
        assert_eq!(
            json::<Kv<Bytes, Bytes>>((b"\n", b"\x80")),
            r#"{"key":"\n","value":{"hex":"80"}}"#
        );
        assert_eq!(
            json::<Kv<Str, Kv<Str, f64>>>(("a", ("b", f64::NAN))),
            r#"{"key":"a","value":{"key":"b","value":null}}"#
        );
        assert_eq!(json::<(String, Option<u8>)>(("x".into(), None)), "[\"x\",null]");
        assert_eq!(json::<u64>(u64::MAX), "18446744073709551615");
        let refused = BTreeMap::from([((1, 2), 3)]);
        assert!(<BTreeMap<(i32, i32), i32>>::write_json(refused, &mut Vec::new()).is_err());
    }
}
