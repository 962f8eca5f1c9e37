//! Reading planned ranges of text files, and knowing them again.

use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::files::{Files, OpenFile, changed, not_opened_again, not_read};
use super::lines::Lines;
use super::text_plan::{Declared, Piece, PlannedText};
use super::{Amount, Input, Meter, RecordPlace};
use crate::checksum::Xxh3;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{to_u64, to_usize};
use crate::planted::{Bug, planted};
use crate::sync::Arc;
use crate::versioned;

const VERSION: u8 = 1;

/// What was read from one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PieceDigest {
    /// Bytes.
    length: u64,
    /// XXH3 of them.
    xxh3: u64,
}

/// The digests of all pieces of an input, in the order of partitions.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct InputDigest(Vec<PieceDigest>);

/// Refuses an open file that is not the declared one.
pub(super) fn check_stamp(file: &OpenFile<'_>, declared: &Declared) -> Result<()> {
    let path = declared.path();
    let stamp = file.stamp().map_err(|failure| not_read(path, failure))?;
    if declared.matches(&stamp) {
        return Ok(());
    }
    let how = match stamp.length.cmp(&declared.length) {
        std::cmp::Ordering::Greater => "grew",
        std::cmp::Ordering::Less => "shrank",
        std::cmp::Ordering::Equal => "was written to",
    };
    Err(changed(path, how))
}

/// The error of a range that is not what it was.
fn range_changed(path: &Path, piece: Piece, how: &str) -> Error {
    changed(path, &format!("{how} in bytes {}..{}", piece.start, piece.end))
}

/// Reads one range, passing on its lines.
fn read_piece(
    files: &Files,
    declared: &Declared,
    piece: Piece,
    meter: &Meter,
    out: &mut dyn FnMut(&[u8]),
) -> Result<PieceDigest> {
    let mut records = 0;
    let out = &mut |line: &[u8]| {
        records += 1;
        out(line);
    };
    let path = declared.path();
    let mut file = files.open(path).map_err(|failure| not_opened_again(path, failure))?;
    check_stamp(&file, declared)?;
    let (mut lines, mut xxh3) = (Lines::default(), Xxh3::new());
    let whole = file.scan(piece.start, piece.end, |bytes| {
        xxh3.update(bytes);
        lines.chunk(bytes, out);
    });
    if !whole.map_err(|failure| not_read(path, failure))? {
        return Err(range_changed(path, piece, "was truncated while it was read"));
    }
    lines.end(out);
    // Once more: what was changed while it was read may never be read like this again.
    check_stamp(&file, declared)?;
    let length = piece.end - piece.start;
    meter.add(Amount { bytes: length, records });
    Ok(PieceDigest { length, xxh3: xxh3.digest() })
}

/// An opened input of text files.
#[derive(Debug)]
pub(super) struct TextInput {
    files: Arc<Files>,
    planned: PlannedText,
    /// What the first reading found, by partition and piece.
    digests: Vec<Vec<OnceLock<PieceDigest>>>,
    read: Arc<Meter>,
}

impl TextInput {
    pub(super) fn new(files: Arc<Files>, planned: PlannedText, read: Arc<Meter>) -> TextInput {
        let unread = |pieces: &Vec<Piece>| pieces.iter().map(|_| OnceLock::new()).collect();
        let digests = planned.partitions.iter().map(unread).collect();
        TextInput { files, planned, digests, read }
    }

    fn piece(
        &self,
        piece: Piece,
        known: &OnceLock<PieceDigest>,
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<PieceDigest> {
        let declared = self.planned.file(piece)?;
        let found = read_piece(&self.files, declared, piece, &self.read, out)?;
        let first = *known.get_or_init(|| found);
        if first == found || planted(Bug::NoDigestCheck) {
            return Ok(found);
        }
        Err(range_changed(declared.path(), piece, "changed between two readings"))
    }
}

impl Input for TextInput {
    fn partitions(&self) -> u32 {
        u32::try_from(self.planned.partitions.len().max(1)).unwrap_or(u32::MAX)
    }

    fn rows(&self, partition: u32, out: &mut dyn FnMut(&[u8])) -> Result<()> {
        let index = to_usize(partition.into());
        let (Some(pieces), Some(known)) =
            (self.planned.partitions.get(index), self.digests.get(index))
        else {
            return Ok(());
        };
        for (piece, known) in pieces.iter().zip(known) {
            self.piece(*piece, known, out)?;
        }
        Ok(())
    }

    fn digest(&self) -> Result<Vec<u8>> {
        let mut digests = Vec::new();
        for (piece, known) in self.planned.pieces().zip(self.digests.iter().flatten()) {
            digests.push(match known.get() {
                Some(digest) => *digest,
                None => self.piece(*piece, known, &mut |_| ())?,
            });
        }
        Ok(versioned::encode(VERSION, &InputDigest(digests)))
    }

    fn describe(&self, partition: u32) -> String {
        let Some(pieces) = self.planned.partitions.get(to_usize(partition.into())) else {
            return "nothing".to_owned();
        };
        let text = |piece: &Piece| {
            let path = self.planned.file(*piece).map_or("?", |file| &file.path);
            format!("{path} bytes {}..{}", piece.start, piece.end)
        };
        match pieces.as_slice() {
            [] => "nothing".to_owned(),
            [one] => text(one),
            [first, .., last] => format!("{} to {}", text(first), text(last)),
        }
    }

    fn locate(&self, partition: u32, row: u64) -> Result<Option<(RecordPlace, Vec<u8>)>> {
        let index = to_usize(partition.into());
        let pieces = self.planned.partitions.get(index).zip(self.digests.get(index));
        let (mut found, mut passed) = (None, 0);
        for (piece, known) in
            pieces.into_iter().flat_map(|(pieces, known)| pieces.iter().zip(known))
        {
            let path = &self.planned.file(*piece)?.path;
            let mut start = piece.start;
            self.piece(*piece, known, &mut |line| {
                let end = start + to_u64(line.len());
                if passed == row {
                    let place = RecordPlace::Range { path: path.clone(), start, end };
                    found = Some((place, line.to_vec()));
                }
                (passed, start) = (passed + 1, end + 1);
            })?;
        }
        Ok(found)
    }
}

/// Compares two digests of an input.
pub(super) fn compare(planned: &PlannedText, recorded: &[u8], actual: &[u8]) -> Result<()> {
    let decode = |bytes| versioned::decode::<InputDigest>("digest of text files", VERSION, bytes);
    let (recorded, actual) = (decode(recorded)?, decode(actual)?);
    let pieces = planned.pieces().count();
    if recorded.0.len() != pieces || actual.0.len() != pieces {
        let text = format!("the recorded digest is not one of its input of {pieces} ranges");
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    let mut differing = planned.pieces().zip(recorded.0.iter().zip(&actual.0));
    match differing.find(|(_, (recorded, actual))| recorded != actual) {
        Some((piece, _)) if !planted(Bug::NoDigestCheck) => {
            Err(range_changed(planned.file(*piece)?.path(), *piece, "changed"))
        }
        _ => Ok(()),
    }
}

/// Reads a whole input again, only to compare.
pub(super) fn verify_again(
    files: &Files,
    planned: &PlannedText,
    recorded: &[u8],
    meter: &Meter,
) -> Result<()> {
    let read = |piece: &Piece| read_piece(files, planned.file(*piece)?, *piece, meter, &mut |_| ());
    let digests = planned.pieces().map(read).collect::<Result<Vec<PieceDigest>>>()?;
    compare(planned, recorded, &versioned::encode(VERSION, &InputDigest(digests)))
}
