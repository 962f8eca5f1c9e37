//! Cuts bytes that come in chunks into lines.

use memchr::memchr;

/// The delimiter.
pub(super) const NEWLINE: u8 = b'\n';

/// Lines of a byte range, delimiters left out. A line within one chunk is passed on where it lies;
/// one that spans chunks is gathered first. Every byte is looked at once.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The start of a line whose end has not come yet.
    begun: Vec<u8>,
}

impl Lines {
    /// Takes the next chunk.
    pub(super) fn chunk(&mut self, mut bytes: &[u8], out: &mut dyn FnMut(&[u8])) {
        if !self.begun.is_empty() {
            let Some(at) = memchr(NEWLINE, bytes) else {
                self.begun.extend_from_slice(bytes);
                return;
            };
            self.begun.extend_from_slice(&bytes[..at]);
            out(&self.begun);
            self.begun.clear();
            bytes = &bytes[at + 1..];
        }
        while let Some(at) = memchr(NEWLINE, bytes) {
            out(&bytes[..at]);
            bytes = &bytes[at + 1..];
        }
        self.begun.extend_from_slice(bytes);
    }

    /// Ends the range, and with it the line that was begun, if any.
    pub(super) fn end(&mut self, out: &mut dyn FnMut(&[u8])) {
        if !self.begun.is_empty() {
            out(&self.begun);
            self.begun.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `str::lines` does, for bytes, and without touching `\r`.
    pub(crate) fn model(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == NEWLINE).map(Vec::from).collect();
        if lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        lines
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_chunks(
            bytes in prop::collection::vec(prop::sample::select(b"\n\r\0\xff".to_vec()), 0..200),
            cuts in prop::collection::vec(1usize..20, 1..20),
        ) {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            let (mut rest, mut cut) = (&bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (chunk, behind) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                lines.chunk(chunk, &mut |line| found.push(line.to_vec()));
                rest = behind;
            }
            lines.end(&mut |line| found.push(line.to_vec()));
            prop_assert_eq!(found, model(&bytes));
        }
    }
}
