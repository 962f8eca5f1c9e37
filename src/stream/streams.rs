//! Ingest streams: which name has which number in the log.

use serde::{Deserialize, Serialize};

use super::journal::{Entry, JOURNAL, StreamEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, StreamId};
use crate::sync::{Mutex, lock};
use crate::wal::{FIRST_NAMED, Wal};

/// A stream, and the record that opened it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenedStream {
    pub(crate) name: String,
    pub(crate) stream: StreamId,
    /// Every record of the stream is behind this one.
    pub(crate) opened: Lsn,
}

/// The streams of one log.
///
/// STREAM-3: a name keeps its number for ever: the record that gives it is durable before anything
/// is appended under it, and every checkpoint repeats it.
#[derive(Debug, Default)]
pub(crate) struct StreamTable(Mutex<Vec<OpenedStream>>);

impl StreamTable {
    /// The table with what a checkpoint or the log says.
    pub(crate) fn restored(streams: Vec<OpenedStream>) -> StreamTable {
        StreamTable(Mutex::new(streams))
    }

    /// The number of a name; a new name gets one, durable on return.
    pub(crate) fn open(&self, wal: &Wal, name: &str) -> Result<StreamId> {
        // Held over the append: a checkpoint either has the stream, or its floor is below the
        // record that opens it.
        let mut streams = lock(&self.0);
        if let Some(known) = streams.iter().find(|known| known.name == name) {
            return Ok(known.stream);
        }
        let next = streams.iter().map(|known| known.stream.get()).max().unwrap_or(0) + 1;
        if next == FIRST_NAMED {
            let message = "32767 ingest streams are the most that a log can have";
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let stream = StreamId::new(next);
        let entry = Entry::StreamOpened(StreamEntry { name: name.to_owned(), stream });
        let opened = wal.append_internal(JOURNAL, &[&entry.encode()])?.first();
        streams.push(OpenedStream { name: name.to_owned(), stream, opened });
        Ok(stream)
    }

    /// All streams, by number.
    pub(crate) fn snapshot(&self) -> Vec<OpenedStream> {
        lock(&self.0).clone()
    }
}

/// Adds what one more source says; the same twice is once.
///
/// # Errors
/// `Corrupt` if a name has two numbers, or a number two names.
pub(crate) fn add(streams: &mut Vec<OpenedStream>, new: OpenedStream) -> Result<()> {
    let same = |known: &&OpenedStream| known.name == new.name || known.stream == new.stream;
    match streams.iter().find(same) {
        None => {
            streams.push(new);
            Ok(())
        }
        Some(known) if known.name == new.name && known.stream == new.stream => Ok(()),
        Some(known) => {
            let message = format!(
                "ingest stream {} was opened as `{}` and as `{}`",
                known.stream.get(),
                known.name,
                new.name
            );
            Err(Error::new(ErrorKind::Corrupt, message).for_lsns(known.opened, new.opened))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str, number: u16, opened: u64) -> OpenedStream {
        let (stream, opened) = (StreamId::new(number), Lsn::new(opened));
        OpenedStream { name: name.to_owned(), stream, opened }
    }

    #[test]
    fn a_name_has_one_number_and_a_number_one_name() {
        let mut streams = Vec::new();
        add(&mut streams, stream("a", 1, 5)).unwrap();
        add(&mut streams, stream("a", 1, 5)).unwrap();
        add(&mut streams, stream("b", 2, 9)).unwrap();
        assert_eq!(streams.len(), 2);
        for wrong in [stream("a", 3, 11), stream("c", 2, 11)] {
            assert_eq!(add(&mut streams, wrong).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
