//! Segment files: names, headers, preparation. Layout: `docs/format.md`, "Segment".
//!
//! SEGMENT-1: a valid header is written last, after everything behind it was durable: a segment
//! that has one was really written to its full length (LOG.md L1).
//! SEGMENT-2: whoever writes a segment does so through the description that holds the exclusive
//! lock of its byte 0 (LOG.md L11).
//! SEGMENT-3: whoever reads a sealed segment does so through a description that holds the shared
//! lock of its byte 1 (LOG.md L18).

use std::path::PathBuf;

use crate::checksum::{crc32c, is_zero};
use crate::error::Result;
use crate::ids::{LogId, SegmentNumber, to_u64};
use crate::planted::{Bug, planted};
use crate::storage::{AlignedBuf, BLOCK, Channel, File, IoFailure, Mapping, OpenMode};
use crate::sync::{Arc, atomic};
use crate::wal::filling::{Filling, Piece};
use crate::wal::home::Home;
use crate::wal::transfer;

/// Where the first frame of a segment stands.
pub(crate) const FIRST_FRAME: u64 = BLOCK as u64;
/// The smallest segment: for tests.
pub(crate) const SEGMENT_SIZE_MIN: u64 = 64 * 1024;
const MAGIC: [u8; 8] = *b"SAWMSEG1";
const VERSION: u32 = 1;
const SUFFIX: &str = ".seg";
const DIGITS: usize = 20;

/// The file name of segment `number`.
pub(crate) fn file_name(number: SegmentNumber) -> String {
    format!("{:0width$}{SUFFIX}", number.get(), width = DIGITS)
}

/// The number of the segment with this file name; `None` if it is not a segment's name.
pub(crate) fn parse_name(name: &str) -> Option<SegmentNumber> {
    let digits = name.strip_suffix(SUFFIX)?;
    if digits.len() != DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse::<u64>().ok()?;
    (number > 0 && number < u64::MAX / 2).then_some(SegmentNumber::new(number))
}

/// Whether a file of this length can be a segment.
pub(crate) fn is_valid_size(size: u64) -> bool {
    (SEGMENT_SIZE_MIN..=u64::MAX / 4).contains(&size) && size.is_multiple_of(to_u64(BLOCK))
}

/// What stands in a segment's first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log: LogId,
    pub(crate) number: SegmentNumber,
    pub(crate) size: u64,
}

/// Why a block is not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// Its checksum or its fields do not hold.
    Damaged,
    /// Whole, and of a format version that this release does not know.
    Version(u32),
}

impl SegmentHeader {
    /// Writes the header over the first block of `out`.
    ///
    /// # Panics
    /// If `out` is shorter than a block.
    pub(crate) fn encode(&self, out: &mut [u8]) {
        let out = &mut out[..BLOCK];
        out.fill(0);
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&block_size().to_le_bytes());
        out[16..32].copy_from_slice(self.log.as_bytes());
        out[32..40].copy_from_slice(&self.number.get().to_le_bytes());
        out[40..48].copy_from_slice(&self.size.to_le_bytes());
        seal_block(out);
    }

    /// Writes the header, durable.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn write(
        &self,
        file: &Arc<dyn File>,
        channel: &mut dyn Channel,
    ) -> Result<(), IoFailure> {
        let mut block = AlignedBuf::zeroed(BLOCK);
        block.set_len(BLOCK);
        self.encode(&mut block);
        transfer::write_all(channel, file, 0, block, true).map(drop)
    }

    /// The header in this block.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<SegmentHeader, HeaderFault> {
        let block = open_block(bytes, MAGIC, VERSION)?;
        let zeros = is_zero(&block[48..BLOCK - 4]);
        let size = word(block, 40);
        if !zeros || !is_valid_size(size) {
            return Err(HeaderFault::Damaged);
        }
        let mut log = [0; 16];
        log.copy_from_slice(&block[16..32]);
        let number = SegmentNumber::new(word(block, 32));
        Ok(SegmentHeader { log: LogId::from_bytes(log), number, size })
    }
}

/// The block size as the format writes it.
pub(crate) const fn block_size() -> u32 {
    const _: () = assert!(BLOCK == 4096);
    4096
}

/// Puts the CRC of a block's other bytes into its last four.
pub(crate) fn seal_block(block: &mut [u8]) {
    let crc = crc32c(&block[..BLOCK - 4]);
    block[BLOCK - 4..BLOCK].copy_from_slice(&crc.to_le_bytes());
}

/// The block, if its magic, its CRC, version and block size hold.
///
/// # Errors
/// What is wrong with it. A whole block of another version says so.
pub(crate) fn open_block(
    bytes: &[u8],
    magic: [u8; 8],
    version: u32,
) -> Result<&[u8; BLOCK], HeaderFault> {
    let block = bytes.first_chunk::<BLOCK>().ok_or(HeaderFault::Damaged)?;
    if block[..8] != magic || crc32c(&block[..BLOCK - 4]) != half(block, BLOCK - 4) {
        return Err(HeaderFault::Damaged);
    }
    if half(block, 8) != version {
        return Err(HeaderFault::Version(half(block, 8)));
    }
    if half(block, 12) != block_size() {
        return Err(HeaderFault::Damaged);
    }
    Ok(block)
}

/// The little-endian word at `at`.
pub(crate) fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// The little-endian half word at `at`.
pub(crate) fn half(bytes: &[u8], at: usize) -> u32 {
    let mut half = [0; 4];
    half.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(half)
}

/// A segment: spare, active or sealed.
///
/// A sealed one keeps no description open: who reads it opens one, and holds it no longer than it
/// reads (SEGMENT-3). So a log of any length needs few.
#[derive(Debug)]
pub(crate) struct Segment {
    number: SegmentNumber,
    size: u64,
    home: Arc<Home>,
    /// Shared by everything that stands for this file, so that it can be told who knows it.
    known: Arc<()>,
    /// Of an active or spare segment: what it is written through.
    file: Option<Arc<dyn File>>,
}

impl Segment {
    /// A segment that nobody here writes, whose header has been read and found to be right.
    pub(crate) fn sealed(home: &Arc<Home>, header: &SegmentHeader) -> Segment {
        let (home, known) = (Arc::clone(home), Arc::default());
        Segment { number: header.number, size: header.size, home, known, file: None }
    }

    /// Takes the open file. If it is written through this: it holds the exclusive lock of byte 0,
    /// and the header has been read and found to be right, or was written.
    pub(crate) fn opened(home: &Arc<Home>, header: &SegmentHeader, file: Arc<dyn File>) -> Segment {
        Segment { file: Some(file), ..Segment::sealed(home, header) }
    }

    /// The same segment for its readers, once its last frame was placed: the description that
    /// writes it goes with the last write.
    pub(crate) fn to_sealed(&self) -> Segment {
        let (home, known) = (Arc::clone(&self.home), Arc::clone(&self.known));
        Segment { number: self.number, size: self.size, home, known, file: None }
    }

    /// Whether nobody but the holder of this one knows the segment: no entry of a reader, no frame
    /// that is to be written.
    pub(crate) fn is_alone(self: &Arc<Segment>) -> bool {
        let alone = Arc::strong_count(self) == 1 && Arc::strong_count(&self.known) == 1;
        // What those who let go of it did comes before what is done next.
        atomic::fence(atomic::Ordering::Acquire);
        alone
    }

    /// Whether it has a file of its own open, as what is written has.
    pub(crate) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Its number.
    pub(crate) fn number(&self) -> SegmentNumber {
        self.number
    }

    /// Its length in bytes, header included.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Where it is.
    pub(crate) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// Its path, for messages.
    pub(crate) fn path(&self) -> PathBuf {
        self.home.directory().path().join(file_name(self.number))
    }

    /// The open file. Of an active or spare segment: the description through which it is written,
    /// which holds the exclusive lock of byte 0. It reads past the page cache.
    ///
    /// # Panics
    /// If it has none (SEGMENT-2).
    pub(crate) fn file(&self) -> &Arc<dyn File> {
        match &self.file {
            Some(file) => file,
            None => unreachable!("SEGMENT-2: a sealed segment is not written"),
        }
    }

    /// A description to read from the device: the one that writes it, or a new one.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn device(&self) -> Result<Arc<dyn File>, IoFailure> {
        let cached = planted(Bug::RecoverFromCache);
        let mode = if cached { OpenMode::Read } else { OpenMode::ReadDirect };
        match &self.file {
            Some(file) => Ok(Arc::clone(file)),
            None => self.home.open_to_read(self.number, mode),
        }
    }

    /// The same segment, opened to be read through the page cache.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn through_cache(&self) -> Result<Segment, IoFailure> {
        let file = self.home.open_to_read(self.number, OpenMode::Read)?;
        Ok(Segment { file: Some(file), ..self.to_sealed() })
    }

    /// The whole of a sealed segment as a read-only map.
    ///
    /// # Errors
    /// The operating system's; `UnexpectedEof` if the file is shorter than it was.
    pub(crate) fn map(&self) -> Result<SegmentMap, IoFailure> {
        let file = self.home.reader(self.number)?;
        Ok(SegmentMap { map: file.map(self.size)?, _file: file })
    }

    /// Makes a new segment at once: zeros really written to its full length, header, file and
    /// directory synced. When this returns, a frame may go in (LOG.md L1). After an error nothing
    /// of it is needed, and what is left is removed here or by the next opening.
    ///
    /// # Errors
    /// `DiskFull`, or what the operating system refused.
    pub(crate) fn prepare(
        home: &Arc<Home>,
        log: LogId,
        number: SegmentNumber,
        size: u64,
        channel: &mut dyn Channel,
    ) -> Result<Segment> {
        let mut filling = Filling::begin(home, SegmentHeader { log, number, size })?;
        while !filling.is_full() {
            if let Err(error) = filling.fill(Piece::Quickly, channel) {
                filling.give_up();
                return Err(error);
            }
        }
        filling.finish(channel)
    }
}

/// A sealed segment's bytes. Keeps the lock that says that somebody reads them (LOG.md L18).
#[derive(Debug)]
pub(crate) struct SegmentMap {
    map: Mapping,
    _file: Arc<dyn File>,
}

impl std::ops::Deref for SegmentMap {
    type Target = Mapping;

    #[inline]
    fn deref(&self) -> &Mapping {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> SegmentHeader {
        let number = SegmentNumber::new(7);
        SegmentHeader { log: LogId::from_bytes([0x11; 16]), number, size: SEGMENT_SIZE_MIN }
    }

    #[test]
    fn names_are_dense_padded_numbers() {
        assert_eq!(file_name(SegmentNumber::new(12)), "00000000000000000012.seg");
        assert_eq!(parse_name("00000000000000000012.seg"), Some(SegmentNumber::new(12)));
        let strangers = ["12.seg", "00000000000000000000.seg", "0000000000000000001x.seg", "LOG"];
        for name in strangers {
            assert_eq!(parse_name(name), None, "{name}");
        }
        assert_eq!(parse_name("99999999999999999999.seg"), None, "beyond 64 bits");
    }

    #[test]
    fn header_decodes_what_it_encodes_and_refuses_every_flipped_bit() {
        let mut block = vec![0xaa; BLOCK];
        example().encode(&mut block);
        assert_eq!(SegmentHeader::decode(&block), Ok(example()));
        for bit in 0..BLOCK * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&block), Err(HeaderFault::Damaged), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(SegmentHeader::decode(&block[1..]), Err(HeaderFault::Damaged));
    }

    #[test]
    fn header_of_a_newer_version_says_so() {
        let mut block = vec![0; BLOCK];
        example().encode(&mut block);
        block[8] = 2;
        seal_block(&mut block);
        assert_eq!(SegmentHeader::decode(&block), Err(HeaderFault::Version(2)));
    }
}
