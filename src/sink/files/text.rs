//! Rows as lines of text.

use std::fmt::Display;
use std::io::{self, Write};

use memchr::memchr;

use super::sink::LineFormat;
use crate::exec::{Bytes, Data, Row, Str};

/// A row that is text by itself: what `Display` says, or the bytes of `Str` and `Bytes`.
///
/// ```
/// use sawmill::{Str, TextRow};
/// let mut line = Vec::new();
/// Str::write_text("oak", &mut line)?;
/// u64::write_text(7, &mut line)?;
/// assert_eq!(line, b"oak7");
/// # Ok::<(), std::io::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "rows of type `{Self}` are no text",
    label = "no text form",
    note = "implement `std::fmt::Display` for it, or map the rows to `Str` or `Bytes`"
)]
pub trait TextRow: Row {
    /// Appends the row.
    ///
    /// # Errors
    /// If the row's `Display` refuses it.
    fn write_text(view: Self::View<'_>, out: &mut Vec<u8>) -> io::Result<()>;
}

impl<T: Data + Display> TextRow for T {
    fn write_text(view: T, out: &mut Vec<u8>) -> io::Result<()> {
        write!(out, "{view}")
    }
}

impl TextRow for Str {
    fn write_text(view: &str, out: &mut Vec<u8>) -> io::Result<()> {
        out.extend_from_slice(view.as_bytes());
        Ok(())
    }
}

impl TextRow for Bytes {
    fn write_text(view: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.extend_from_slice(view);
        Ok(())
    }
}

/// Each row a line, as it is.
#[derive(Debug)]
pub(crate) struct Text;

impl<R: TextRow> LineFormat<R> for Text {
    const EXTENSION: &'static str = "txt";
    type Scratch = ();

    fn write(_scratch: &mut (), view: R::View<'_>, out: &mut Vec<u8>) -> io::Result<()> {
        let from = out.len();
        R::write_text(view, out)?;
        if memchr(b'\n', &out[from..]).is_some() {
            let text = "it has a line break: two lines would be two rows";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(())
    }
}
