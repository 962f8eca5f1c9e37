//! Rows as lines of comma-separated values (feature `csv`).

use std::fmt;
use std::io;

use serde::Serialize;

use super::sink::LineFormat;
use crate::exec::{Bytes, Data, Kv, Row, Str};

/// A row that can be written as fields of a CSV file, as RFC 4180 has them.
///
/// Owned types are written as `serde` says: a struct or tuple is a field for each of its own, any
/// other value one field. `Str` and `Bytes` are one field, their bytes; `Kv<K, V>` is the fields of
/// the key, then those of the value.
#[diagnostic::on_unimplemented(
    message = "rows of type `{Self}` cannot be written as CSV",
    label = "no CSV form",
    note = "derive `serde::Serialize` for it: a struct or tuple of numbers and text"
)]
pub trait CsvRow: Row {
    /// Appends the row's fields.
    ///
    /// # Errors
    /// If a value cannot be fields (a map, say).
    fn write_fields(view: Self::View<'_>, fields: &mut CsvFields<'_>) -> io::Result<()>;
}

/// Where a row's fields go.
pub struct CsvFields<'o> {
    quoter: &'o mut Quoter,
    out: &'o mut Vec<u8>,
    first: bool,
}

impl fmt::Debug for CsvFields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CsvFields")
    }
}

impl CsvFields<'_> {
    /// Appends one field with these bytes.
    ///
    /// # Errors
    /// None of today.
    pub fn field(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(|writer| writer.write_record([bytes]))
    }

    /// Appends the fields of a value.
    ///
    /// # Errors
    /// If it cannot be fields.
    pub fn serialize(&mut self, value: &impl Serialize) -> io::Result<()> {
        self.put(|writer| writer.serialize(value))
    }

    fn put(
        &mut self,
        write: impl FnOnce(&mut csv::Writer<Vec<u8>>) -> csv::Result<()>,
    ) -> io::Result<()> {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.quoter.put(write, self.out)
    }
}

/// Quotes what must be quoted: whole lines of a writer of `csv`, taken out without their ends.
pub(crate) struct Quoter {
    writer: csv::Writer<Vec<u8>>,
    taken: usize,
}

/// Written lines that a quoter keeps before it begins anew.
const KEPT: usize = 64 << 10;

impl Default for Quoter {
    fn default() -> Quoter {
        let mut builder = csv::WriterBuilder::new();
        builder.has_headers(false).flexible(true).buffer_capacity(1 << 10);
        Quoter { writer: builder.from_writer(Vec::new()), taken: 0 }
    }
}

impl Quoter {
    fn put(
        &mut self,
        write: impl FnOnce(&mut csv::Writer<Vec<u8>>) -> csv::Result<()>,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        if self.taken > KEPT {
            *self = Quoter::default();
        }
        write(&mut self.writer).map_err(io::Error::from)?;
        self.writer.flush()?;
        let line = &self.writer.get_ref()[self.taken..];
        self.taken += line.len();
        out.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        Ok(())
    }
}

impl<T: Data + Serialize> CsvRow for T {
    fn write_fields(view: T, fields: &mut CsvFields<'_>) -> io::Result<()> {
        fields.serialize(&view)
    }
}

impl CsvRow for Str {
    fn write_fields(view: &str, fields: &mut CsvFields<'_>) -> io::Result<()> {
        fields.field(view.as_bytes())
    }
}

impl CsvRow for Bytes {
    fn write_fields(view: &[u8], fields: &mut CsvFields<'_>) -> io::Result<()> {
        fields.field(view)
    }
}

impl<K: CsvRow, V: CsvRow> CsvRow for Kv<K, V> {
    fn write_fields((key, value): Self::View<'_>, fields: &mut CsvFields<'_>) -> io::Result<()> {
        K::write_fields(key, fields)?;
        V::write_fields(value, fields)
    }
}

/// Each row a line of fields.
#[derive(Debug)]
pub(crate) struct Csv;

impl Csv {
    /// The line that every file begins with; none for no columns.
    pub(crate) fn header(columns: &[&str]) -> Vec<u8> {
        let (mut quoter, mut line) = (Quoter::default(), Vec::new());
        if !columns.is_empty() {
            let written = quoter.put(|writer| writer.write_record(columns), &mut line);
            debug_assert!(written.is_ok(), "memory takes every byte");
            line.push(b'\n');
        }
        line
    }
}

impl<R: CsvRow> LineFormat<R> for Csv {
    const EXTENSION: &'static str = "csv";
    const QUOTED: bool = true;
    type Scratch = Quoter;

    fn write(quoter: &mut Quoter, view: R::View<'_>, out: &mut Vec<u8>) -> io::Result<()> {
        R::write_fields(view, &mut CsvFields { quoter, out, first: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv<R: CsvRow>(view: R::View<'_>) -> String {
        let mut out = Vec::new();
        <Csv as LineFormat<R>>::write(&mut Quoter::default(), view, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn awkward_fields_are_read_back_as_they_were() {
        assert_eq!(csv::<Kv<Str, u64>>(("a,\"b\"\nc", 3)), "\"a,\"\"b\"\"\nc\",3");
        assert_eq!(csv::<Kv<Str, u64>>(("", 3)), "\"\",3");
        assert_eq!(csv::<(String, f64, Option<u8>)>(("x".into(), 1.5, None)), "x,1.5,");
        assert_eq!(csv::<u64>(7), "7");
        let refused = std::collections::BTreeMap::from([(1, 2)]);
        let mut fields = Vec::new();
        type Map = std::collections::BTreeMap<i32, i32>;
        let write = <Csv as LineFormat<Map>>::write;
        assert!(write(&mut Quoter::default(), refused, &mut fields).is_err());
        assert_eq!(Csv::header(&["word", "n,m"]), b"word,\"n,m\"\n");
        assert_eq!(Csv::header(&[]), b"");
        // One quoter for many rows, beyond what it keeps.
        let (mut quoter, mut out) = (Quoter::default(), Vec::new());
        for row in 0..20_000u64 {
            <Csv as LineFormat<u64>>::write(&mut quoter, row, &mut out).unwrap();
            out.push(b'\n');
        }
        let all: String = (0..20_000u64).map(|row| format!("{row}\n")).collect();
        assert!(out == all.as_bytes());
    }
}
