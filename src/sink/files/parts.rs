//! The part files of one sink: written at known lengths, cut back to known lengths.

use memchr::{memchr, memchr_iter, memchr2};

use super::compaction::compact;
use super::io::{FileIo, failed};
use super::manifest::ManifestFile;
use super::options::{OutputFiles, Roll};
use super::progress::{FileMark, Progress};
use crate::checksum::{crc32c, crc32c_append};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::Lent;
use crate::ids::{BatchId, to_u64};
use crate::planted::{Bug, planted};
use crate::sink::SinkIdentity;
use crate::storage::{File, OpenMode, Storage};
use crate::sync::Arc;

/// Says whose files these are.
const IDENTITY: &str = "_sink";
/// Batch time between two manifests while no file is finished.
const MANIFEST_EVERY_NS: u64 = 1_000_000_000;

/// How files are named, and what their lines look like.
#[derive(Clone, Debug)]
pub(super) struct FileNames {
    pub(super) extension: &'static str,
}

impl FileNames {
    pub(super) fn of(&self, mark: &FileMark) -> String {
        match mark.is_compacted() {
            false => format!("part-{:06}.{}", mark.number, self.extension),
            true => format!("part-{:06}-{:06}.{}", mark.number, mark.through, self.extension),
        }
    }

    /// The numbers in a name of ours.
    pub(super) fn numbers(&self, name: &str) -> Option<(u64, u64)> {
        let numbers =
            name.strip_prefix("part-")?.strip_suffix(self.extension)?.strip_suffix('.')?;
        let (number, through) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let (number, through) = (number.parse().ok()?, through.parse().ok()?);
        let mark = FileMark { number, through, ..empty(0, BatchId::default(), 0) };
        (self.of(&mark) == name).then_some((number, through))
    }
}

/// What the lines of a sink have in common.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    pub(super) names: FileNames,
    /// Whether a line may have line breaks between double quotes.
    pub(super) quoted: bool,
    /// What every file begins with.
    pub(super) header: Vec<u8>,
}

/// What a batch writes.
pub(super) struct Rows {
    pub(super) batch_time_ns: u64,
    /// The lines of each partition.
    pub(super) parts: Vec<Lent<Vec<u8>>>,
}

/// The part files of one sink.
#[derive(Debug)]
pub(super) struct PartFiles {
    pub(super) io: FileIo,
    pub(super) lines: Lines,
    roll: Roll,
    compact_files: usize,
    pub(super) identity: SinkIdentity,
    pub(super) progress: Progress,
    /// Files that count and are not in the progress any more, in order.
    pub(super) older: Vec<ManifestFile>,
    /// What `_manifest` says, as far as it is known: batch and time.
    pub(super) manifest: (BatchId, u64),
    /// Batch and time of the last batch; whether a file was finished in it.
    pub(super) published: (BatchId, u64, bool),
    /// The open file of the progress, if it has one.
    file: Option<Arc<dyn File>>,
    /// A publication failed: what lies behind the progress is not known.
    doubtful: bool,
}

impl PartFiles {
    /// Opens the directory, and undoes what is not in `progress`.
    pub(super) fn open(
        storage: &Arc<dyn Storage>,
        options: &OutputFiles,
        lines: Lines,
        identity: &SinkIdentity,
        progress: Progress,
    ) -> Result<PartFiles> {
        let directory = storage.directory(&options.directory, true).map_err(failed)?;
        let published = (progress.last, 0, true);
        let mut files = PartFiles {
            io: FileIo::new(directory)?,
            lines,
            roll: options.roll,
            compact_files: options.compact_files,
            identity: identity.clone(),
            progress,
            older: Vec::new(),
            manifest: (BatchId::default(), 0),
            published,
            file: None,
            doubtful: true,
        };
        files.claim()?;
        files.cut_back()?;
        files.recall()?;
        Ok(files)
    }

    /// Checks whose directory this is, and makes a new one ours (PARTS-3).
    fn claim(&mut self) -> Result<()> {
        let names = self.io.names()?;
        let ours = format!("{}\n", self.identity);
        if names.iter().any(|name| name == IDENTITY) {
            let found = self.io.read_small(IDENTITY)?;
            if found != ours.as_bytes() {
                let text = format!(
                    "the directory belongs to another sink ({}), not to this one ({})",
                    String::from_utf8_lossy(&found).trim_end(),
                    self.identity
                );
                return Err(self.io.error(ErrorKind::JobMismatch, IDENTITY, &text));
            }
            if self.progress.files().next().is_some() {
                return Ok(());
            }
            // Seen is not durable: an earlier opening may have failed at its sync, and what that
            // forgot no later one makes good. So it is written again, until files count.
        } else if let Some(name) = names.iter().find(|name| self.is_part(name)) {
            let text = "the directory has an output file, and no note whose it is: \
                        give the sink a directory of its own";
            return Err(self.io.error(ErrorKind::JobMismatch, name, text));
        }
        self.io.replace(IDENTITY, ours.as_bytes())
    }

    fn is_part(&self, name: &str) -> bool {
        self.lines.names.numbers(name).is_some()
    }

    /// Undoes everything that is not in the progress.
    fn cut_back(&mut self) -> Result<()> {
        self.file = None;
        self.io.forget();
        if !planted(Bug::NoSinkCut) {
            self.remove(|files, numbers| {
                !files.progress.counts(numbers) && !files.progress.is_replaced(numbers)
            })?;
        }
        for mark in self.progress.finished.clone() {
            self.check_file(&mark, OpenMode::Read)?;
        }
        if let Some(mark) = self.progress.open.clone() {
            let file = self.check_file(&mark, OpenMode::Write)?;
            self.check_content(&file, &mark)?;
            self.cut_file(&file, &mark)?;
            self.file = Some(file);
        }
        self.doubtful = false;
        Ok(())
    }

    /// Removes files of ours by their numbers.
    pub(super) fn remove(&self, which: impl Fn(&PartFiles, (u64, u64)) -> bool) -> Result<()> {
        let numbers = |name: &String| self.lines.names.numbers(name);
        let mut removed = false;
        for name in self.io.names()? {
            if numbers(&name).is_some_and(|numbers| which(self, numbers)) {
                self.io.unlink(&name)?;
                removed = true;
            }
        }
        if removed { self.io.sync_names() } else { Ok(()) }
    }

    /// Opens a file of the progress; it must have the bytes that count.
    fn check_file(&self, mark: &FileMark, mode: OpenMode) -> Result<Arc<dyn File>> {
        let name = self.lines.names.of(mark);
        let file = self.io.directory.open(&name, mode).map_err(|failure| {
            let text = "an output file that a completed batch wrote cannot be opened";
            self.io.error(ErrorKind::SinkFailed, &name, text).caused_by(failure)
        })?;
        let length = file.stamp().map_err(failed)?.length;
        if length < mark.length {
            let text = format!(
                "an output file has {length} bytes, less than the {} that completed batches wrote",
                mark.length
            );
            return Err(self.io.error(ErrorKind::SinkFailed, &name, &text));
        }
        let is_open = mode == OpenMode::Write;
        if !is_open && length > mark.length {
            let text = format!(
                "a finished output file has {length} bytes, more than the {} it was finished with",
                mark.length
            );
            return Err(self.io.error(ErrorKind::SinkFailed, &name, &text));
        }
        Ok(file)
    }

    fn check_content(&mut self, file: &Arc<dyn File>, mark: &FileMark) -> Result<()> {
        let mut crc = crc32c(b"");
        self.io.read(file, mark.length, |bytes| crc = crc32c_append(crc, bytes))?;
        if crc == mark.crc32c {
            return Ok(());
        }
        Err(changed(&self.io, &self.lines.names.of(mark)))
    }

    fn cut_file(&mut self, file: &Arc<dyn File>, mark: &FileMark) -> Result<()> {
        let length = file.stamp().map_err(failed)?.length;
        if planted(Bug::NoSinkCut) {
            // As a sink would that opens its file to append.
            if let Some(open) = &mut self.progress.open {
                open.length = length;
            }
            return Ok(());
        }
        if length > mark.length {
            file.set_length(mark.length).map_err(failed)?;
        }
        // Also when nothing was cut: a sync that failed may have left the length not durable.
        file.sync().map_err(failed)
    }

    /// Publishes the lines of a batch, and returns the progress behind it.
    pub(super) fn publish(&mut self, batch: BatchId, rows: &Rows) -> Result<Vec<u8>> {
        if batch <= self.progress.last {
            return Ok(self.progress.encode());
        }
        if self.doubtful {
            self.cut_back()?;
        }
        // The batch before is completed, or this one would not be published (ENGINE.md E1).
        let (_, time, finished) = self.published;
        if finished || time >= self.manifest.1.saturating_add(MANIFEST_EVERY_NS) {
            self.settle()?;
        }
        self.doubtful = true;
        let mut next = self.progress.clone();
        next.last = batch;
        let mut created = self.append(&mut next, batch, rows)?;
        let last = next.finished.last().map(|mark| mark.through);
        let finished = last != self.progress.finished.last().map(|mark| mark.through);
        // Before a compaction: what that replaces must be remembered until it is gone.
        let forgotten = next.forget();
        let (names, header) = (&self.lines.names, &self.lines.header);
        while finished && compact(&mut self.io, names, header, &mut next, self.compact_files)? {
            created = true;
        }
        if created {
            self.io.sync_names()?;
        }
        let entry = |mark: &FileMark| ManifestFile::new(self.lines.names.of(mark), mark, false);
        self.older.extend(forgotten.iter().map(entry));
        self.progress = next;
        self.published = (batch, rows.batch_time_ns, finished);
        self.doubtful = false;
        Ok(self.progress.encode())
    }

    /// Writes and syncs; `true` if a file was created.
    fn append(&mut self, next: &mut Progress, batch: BatchId, rows: &Rows) -> Result<bool> {
        let (mut file, mut created, mut unsynced) = (self.file.take(), false, false);
        let age = |mark: &FileMark| rows.batch_time_ns.saturating_sub(mark.begun_ns);
        if next.open.as_ref().is_some_and(|mark| age(mark) >= self.roll.every_ns) {
            next.finish();
            file = None;
        }
        for part in &rows.parts {
            let mut rest = part.as_slice();
            while !rest.is_empty() {
                let number = next.next_number();
                let begun = || empty(number, batch, rows.batch_time_ns);
                let mark = next.open.get_or_insert_with(begun);
                let target = match &file {
                    Some(file) => Arc::clone(file),
                    None => {
                        created = true;
                        let made = self.io.open(&self.lines.names.of(mark), OpenMode::Create)?;
                        put(&mut self.io, &made, mark, &self.lines.header)?;
                        Arc::clone(file.insert(made))
                    }
                };
                // Longer already if the files were to be longer when it was begun.
                let room = (
                    self.roll.bytes.saturating_sub(mark.length),
                    self.roll.rows.saturating_sub(mark.rows),
                );
                let (length, count) = lines_to(rest, room, self.lines.quoted);
                let (now, later) = rest.split_at(length);
                put(&mut self.io, &target, mark, now)?;
                unsynced = true;
                mark.rows += count;
                mark.last = batch;
                if mark.length >= self.roll.bytes || mark.rows >= self.roll.rows {
                    self.io.sync(&target)?;
                    unsynced = false;
                    next.finish();
                    file = None;
                }
                rest = later;
            }
        }
        if let Some(file) = file.as_ref().filter(|_| unsynced) {
            self.io.sync(file)?;
        }
        self.file = file;
        Ok(created)
    }
}

/// A file that was just begun.
pub(super) fn empty(number: u64, batch: BatchId, begun_ns: u64) -> FileMark {
    let (length, crc32c, rows) = (0, crc32c(b""), 0);
    FileMark { number, through: number, length, crc32c, rows, begun_ns, first: batch, last: batch }
}

pub(super) fn changed(io: &FileIo, name: &str) -> Error {
    let text = "an output file was changed: it is not what completed batches wrote";
    io.error(ErrorKind::SinkFailed, name, text)
}

/// Takes bytes behind the mark, and moves it. They are written at the next sync, if not before.
fn put(io: &mut FileIo, file: &Arc<dyn File>, mark: &mut FileMark, bytes: &[u8]) -> Result<()> {
    io.append(file, mark.length, bytes)?;
    mark.length += to_u64(bytes.len());
    mark.crc32c = crc32c_append(mark.crc32c, bytes);
    Ok(())
}

/// How many bytes and rows go into a file with so much room for bytes and rows: all that fit, or up
/// to the end of the line that reaches the limit.
pub(super) fn lines_to(bytes: &[u8], (room, rows): (u64, u64), quoted: bool) -> (usize, u64) {
    if !quoted && rows == u64::MAX {
        let length = match usize::try_from(room) {
            Ok(room) if room < bytes.len() => {
                let from = room.saturating_sub(1);
                memchr(b'\n', &bytes[from..]).map_or(bytes.len(), |at| from + at + 1)
            }
            _ => bytes.len(),
        };
        return (length, to_u64(memchr_iter(b'\n', &bytes[..length]).count()));
    }
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() {
        at += line_length(&bytes[at..], quoted);
        count += 1;
        if to_u64(at) >= room || count >= rows {
            break;
        }
    }
    (at, count)
}

/// Up to and with the line break that ends the first line.
fn line_length(bytes: &[u8], quoted: bool) -> usize {
    if !quoted {
        return memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
    }
    let (mut at, mut within) = (0, false);
    while let Some(found) = memchr2(b'\n', b'"', &bytes[at..]) {
        let byte = bytes[at + found];
        at += found + 1;
        match byte {
            b'"' => within = !within,
            _ if !within => return at,
            _ => {}
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_quotes_say() {
        let text = b"a,\"b\nc\"\"\n\",d\nx\n\"\n\"\n";
        assert_eq!(line_length(text, true), 13);
        assert_eq!(lines_to(text, (u64::MAX, u64::MAX), true), (text.len(), 3));
        assert_eq!(lines_to(text, (1, u64::MAX), true), (13, 1));
        assert_eq!(lines_to(text, (14, u64::MAX), true), (15, 2));
        assert_eq!(lines_to(text, (u64::MAX, 2), true), (15, 2));
        assert_eq!(lines_to(b"a\nb\nc\n", (u64::MAX, 2), false), (4, 2));
        assert_eq!(lines_to(b"a\nb\nc\n", (3, u64::MAX), false), (4, 2));
        assert_eq!(lines_to(b"a\nb\nc\n", (0, u64::MAX), false), (2, 1));
        assert_eq!(lines_to(b"", (0, 0), true), (0, 0));
    }

    #[test]
    fn names_say_which_numbers() {
        let names = FileNames { extension: "csv" };
        let mark = |number, through| FileMark { number, through, ..empty(0, BatchId::new(1), 0) };
        for (number, through) in [(0, 0), (7, 7), (3, 9), (1_000_000, 1_000_001)] {
            let name = names.of(&mark(number, through));
            assert_eq!(names.numbers(&name), Some((number, through)), "{name}");
        }
        for name in ["part-1.csv", "part-000001.jsonl", "part-000001-000001.csv", "part-.csv"] {
            assert_eq!(names.numbers(name), None, "{name}");
        }
    }
}
