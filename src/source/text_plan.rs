//! What is recorded of text files, and how the next input is cut from them.
//!
//! TEXT-1: every byte range that is planned ends behind a newline or at the file's declared end,
//! and begins where another one ended or at the file's start.
//! TEXT-2: where ranges end follows from the files' content, the position and the limit alone.

use std::path::Path;

use memchr::{memchr, memchr_iter};
use serde::{Deserialize, Serialize};

use super::Limit;
use super::files::{Files, WINDOW, changed, not_an_input, not_opened_again, not_read};
use super::lines::NEWLINE;
use super::text_read::check_stamp;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{to_u64, to_usize};
use crate::storage::FileStamp;
use crate::versioned;

/// Files that one source may be given. Each is in every plan's position, with its path.
pub(super) const MAX_FILES: usize = 65_536;

/// Bytes of all paths together: a position must fit a record of the log many times over.
const MAX_PATH_BYTES: usize = 4 << 20;

/// The first read of a search for a newline, bytes. Doubled up to [`WINDOW`]: most lines are short.
const FIRST_PROBE: usize = 4096;

/// Bytes of a partition, as a share of the limit and in absolute numbers.
const PARTITIONS_PER_LIMIT: u64 = 16;
const PARTITION_MIN: u64 = 4 << 10;
const PARTITION_MAX: u64 = 8 << 20;

const VERSION: u8 = 1;

/// A file as it was when the first input was planned: declared final at that length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Declared {
    /// As it was given.
    pub(super) path: String,
    /// Bytes.
    pub(super) length: u64,
    /// Last modification, nanoseconds since the Unix epoch.
    pub(super) modified_ns: i64,
}

impl Declared {
    pub(super) fn path(&self) -> &Path {
        Path::new(&self.path)
    }

    pub(super) fn matches(&self, stamp: &FileStamp) -> bool {
        (self.length, self.modified_ns) == (stamp.length, stamp.modified_ns)
    }
}

/// Where a source of text files stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// All files, in the order given.
    pub(super) files: Vec<Declared>,
    /// The file to be read next. Those before it are read to their ends; at `files.len()` all are.
    pub(super) current: u32,
    /// Bytes of it that were planned.
    pub(super) offset: u64,
}

impl Position {
    /// The position at the start of these files, which are declared final as they are now.
    pub(super) fn first(files: &Files, paths: &[String]) -> Result<Position> {
        let declare = |path: &String| {
            let stamp = files.stamp(Path::new(path));
            let stamp = stamp.map_err(|failure| not_an_input(Path::new(path), failure))?;
            let (length, modified_ns) = (stamp.length, stamp.modified_ns);
            Ok(Declared { path: path.clone(), length, modified_ns })
        };
        let files = paths.iter().map(declare).collect::<Result<_>>()?;
        let mut position = Position { files, current: 0, offset: 0 };
        position.skip_read();
        Ok(position)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Position> {
        let position: Position = versioned::decode("position of text files", VERSION, bytes)?;
        let within = match position.next() {
            Some((_, file)) => position.offset < file.length,
            None => {
                position.offset == 0 && position.files.len() == to_usize(position.current.into())
            }
        };
        if within {
            return Ok(position);
        }
        let text = "the recorded position of text files is in none of them";
        Err(Error::new(ErrorKind::Corrupt, text))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        versioned::encode(VERSION, self)
    }

    /// The file to be read next, by index.
    fn next(&self) -> Option<(u32, &Declared)> {
        self.files.get(to_usize(self.current.into())).map(|file| (self.current, file))
    }

    pub(super) fn exhausted(&self) -> bool {
        self.next().is_none()
    }

    /// Moves on over what was planned to its end, and over empty files.
    fn skip_read(&mut self) {
        while self.next().is_some_and(|(_, file)| file.length <= self.offset) {
            self.current += 1;
            self.offset = 0;
        }
    }

    /// Refuses a position that belongs to other files or to another order.
    pub(super) fn check_paths(&self, paths: &[String]) -> Result<()> {
        let was = self.files.iter().map(|file| Some(&file.path)).chain([None]);
        let is = paths.iter().map(Some).chain([None]);
        let Some((was, is)) = was.zip(is).find(|(was, is)| was != is) else { return Ok(()) };
        let (text, path) = match (was, is) {
            (Some(was), Some(is)) => (format!("is now {is}"), was),
            (Some(was), None) => ("is not given any more".to_owned(), was),
            (None, Some(is)) => ("was not given before".to_owned(), is),
            (None, None) => unreachable!("two ends are equal"),
        };
        let text = format!("the job was started with other input files: this one {text}");
        Err(Error::new(ErrorKind::JobMismatch, text).at_path(path))
    }
}

/// Text paths as they are recorded.
pub(super) fn check_given(paths: &[std::path::PathBuf]) -> Result<Vec<String>> {
    let text = |path: &std::path::PathBuf| {
        let text = "the path of an input file is not UTF-8, and could not be recorded";
        let text = || Error::new(ErrorKind::Invalid, text).at_path(path);
        path.to_str().map(str::to_owned).ok_or_else(text)
    };
    let paths = paths.iter().map(text).collect::<Result<Vec<String>>>()?;
    let bytes = paths.iter().map(String::len).sum::<usize>();
    if paths.len() > MAX_FILES || bytes > MAX_PATH_BYTES {
        let text = format!(
            "{} input files with {bytes} bytes of paths are more than one source takes \
             ({MAX_FILES} files, {MAX_PATH_BYTES} bytes): concatenate them, or use several sources",
            paths.len()
        );
        return Err(Error::new(ErrorKind::TooLarge, text));
    }
    Ok(paths)
}

/// A byte range of a file: a part of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    /// Index into [`PlannedText::files`].
    pub(super) file: u32,
    /// First byte.
    pub(super) start: u64,
    /// Behind the last byte.
    pub(super) end: u64,
}

/// A planned input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlannedText {
    /// The files read, each with its index among all files.
    pub(super) files: Vec<(u32, Declared)>,
    /// What each partition is made of, in order.
    pub(super) partitions: Vec<Vec<Piece>>,
}

impl PlannedText {
    pub(super) fn decode(bytes: &[u8]) -> Result<PlannedText> {
        let planned: PlannedText = versioned::decode("input of text files", VERSION, bytes)?;
        let whole = planned.pieces().all(|piece| {
            let file = planned.files.get(to_usize(piece.file.into()));
            piece.start <= piece.end && file.is_some_and(|(_, file)| piece.end <= file.length)
        });
        if whole { Ok(planned) } else { Err(PlannedText::damaged()) }
    }

    pub(super) fn damaged() -> Error {
        Error::new(ErrorKind::Corrupt, "the recorded input of text files contradicts itself")
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        versioned::encode(VERSION, self)
    }

    /// All pieces, in the order of partitions.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.partitions.iter().flatten()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.pieces().map(|piece| piece.end - piece.start).sum()
    }

    pub(super) fn file(&self, piece: Piece) -> Result<&Declared> {
        let file = self.files.get(to_usize(piece.file.into()));
        file.map(|(_, file)| file).ok_or_else(PlannedText::damaged)
    }
}

/// How much goes into a partition, bytes. From the limit alone (TEXT-2).
pub(super) fn partition_bytes(limit: u64) -> u64 {
    (limit / PARTITIONS_PER_LIMIT).clamp(PARTITION_MIN, PARTITION_MAX)
}

/// Cuts the next input of about `limit`, in partitions of about `partition` bytes, and moves
/// `position` behind it. Both may be exceeded by a line.
pub(super) fn cut(
    files: &Files,
    position: &mut Position,
    limit: Limit,
    partition: u64,
) -> Result<PlannedText> {
    let mut planned = PlannedText::default();
    let (mut taken, mut open_partition, mut lines) = (0, partition, limit.records);
    while taken < limit.bytes
        && lines > 0
        && let Some((index, file)) = position.next()
    {
        if open_partition >= partition {
            planned.partitions.push(Vec::new());
            open_partition = 0;
        }
        let room = (limit.bytes - taken).min(partition - open_partition);
        let start = position.offset;
        let end = if file.length - start <= room {
            file.length
        } else {
            line_end(files, file, start + room - 1)?
        };
        let end = lines_end(files, file, (start, end), &mut lines)?;
        if planned.files.last().is_none_or(|(known, _)| *known != index) {
            planned.files.push((index, file.clone()));
        }
        #[allow(clippy::cast_possible_truncation, reason = "at most MAX_FILES")]
        let piece = Piece { file: (planned.files.len() - 1) as u32, start, end };
        if let Some(pieces) = planned.partitions.last_mut() {
            pieces.push(piece);
        }
        assert!(start < end && end <= file.length, "TEXT-1: range {start}..{end}");
        (taken, open_partition) = (taken + (end - start), open_partition + (end - start));
        position.offset = end;
        position.skip_read();
    }
    Ok(planned)
}

/// Where the range ends, or before that the last of so many lines; takes the lines off.
fn lines_end(
    files: &Files,
    declared: &Declared,
    (start, end): (u64, u64),
    lines: &mut u64,
) -> Result<u64> {
    if *lines == u64::MAX {
        return Ok(end);
    }
    let path = declared.path();
    let mut file = files.open(path).map_err(|failure| not_opened_again(path, failure))?;
    check_stamp(&file, declared)?;
    let mut at = start;
    while at < end {
        let bytes = file.read(at, WINDOW.min(to_usize(end - at)));
        let bytes = bytes.map_err(|failure| not_read(path, failure))?;
        if bytes.is_empty() {
            return Err(changed(path, "was truncated"));
        }
        for newline in memchr_iter(NEWLINE, bytes) {
            *lines -= 1;
            if *lines == 0 {
                return Ok(at + to_u64(newline) + 1);
            }
        }
        at += to_u64(bytes.len());
        // The end of the file ends its last line.
        if at == declared.length && bytes.last() != Some(&NEWLINE) {
            *lines -= 1;
        }
    }
    Ok(end)
}

/// Where the line that holds the byte at `at` ends: behind its newline, or at the end of the file.
fn line_end(files: &Files, declared: &Declared, mut at: u64) -> Result<u64> {
    let path = declared.path();
    let mut file = files.open(path).map_err(|failure| not_opened_again(path, failure))?;
    check_stamp(&file, declared)?;
    let mut probe = FIRST_PROBE;
    while at < declared.length {
        let wanted = probe.min(to_usize(declared.length - at));
        let bytes = file.read(at, wanted).map_err(|failure| not_read(path, failure))?;
        if bytes.is_empty() {
            return Err(changed(path, "was truncated"));
        }
        if let Some(found) = memchr(NEWLINE, bytes) {
            return Ok(at + to_u64(found) + 1);
        }
        at += to_u64(bytes.len());
        probe = (probe * 2).min(WINDOW);
    }
    Ok(declared.length)
}
