//! Rows as lines on standard output.

use std::io::{self, Write};

use super::custom::{BatchSink, Opening, SinkError};
use super::for_each::BatchOutput;
use super::promise::Promise;

/// Prints each row and a line break.
pub(crate) struct Stdout;

impl BatchSink<Vec<u8>> for Stdout {
    fn open(&self, _opening: &Opening<'_>) -> Result<(), SinkError> {
        Ok(())
    }

    /// One write for the batch: what a reader of the pipe sees of it is, mostly, all or nothing.
    fn publish(&self, batch: &BatchOutput<'_, Vec<u8>>) -> Result<(), SinkError> {
        let lines: Vec<u8> =
            batch.rows().flat_map(|row| [row.as_slice(), b"\n"].concat()).collect();
        let mut out = io::stdout().lock();
        out.write_all(&lines)?;
        Ok(out.flush()?)
    }

    fn promise(&self) -> (Promise, &'static str) {
        (Promise::AtLeastOnce, "what was printed cannot be recognised")
    }
}
