//! Writes one file from its start, in large aligned pieces, and digests it on the way. Each piece
//! is read back from the device when it was written, and compared: some are on their way there, and
//! some on their way back, while the next is filled.

use std::collections::VecDeque;
use std::sync::Arc;

use super::data::{self, Footer, HEADER, PAYLOAD};
use super::data_file::damaged;
use super::io::{self, CHUNK, IN_FLIGHT};
use super::manifest::Digest;
use super::{CheckpointMeta, Damage, Extent, ExtentInfo};
use crate::checksum::{Xxh3, bring_in, crc32c, crc32c_append, xxh3};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::to_u64;
use crate::storage::{AlignedBuf, BLOCK, Channel, File, Op};

/// Bytes of the first piece. Most files are not longer: they need no more memory than that.
const FIRST: usize = 64 << 10;
const _: () = assert!(FIRST.is_multiple_of(BLOCK), "pieces tile device blocks");

/// Length and digests of bytes that pass by.
#[derive(Default)]
pub(super) struct Digester {
    length: u64,
    crc: u32,
    xxh3: Xxh3,
}

impl Digester {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.length += to_u64(bytes.len());
        self.crc = crc32c_append(self.crc, bytes);
        self.xxh3.update(bytes);
    }

    pub(super) fn digest(&self) -> Digest {
        Digest { length: self.length, crc: self.crc, xxh3: self.xxh3.digest() }
    }
}

/// A piece on its way.
struct Piece {
    token: u64,
    offset: u64,
    length: usize,
    xxh3: u64,
    /// Whether it was written, and comes back.
    comes_back: bool,
}

/// Where a file is written, and the same file as it is read past whatever cache there is.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    pub(super) file: &'a Arc<dyn File>,
    pub(super) back: &'a Arc<dyn File>,
}

/// A file being written. Nothing is durable before the caller syncs.
pub(super) struct Writer<'a> {
    channel: &'a mut dyn Channel,
    ends: Ends<'a>,
    filling: AlignedBuf,
    filled: usize,
    /// Offset of the piece that is being filled.
    offset: u64,
    in_flight: Vec<Piece>,
    spare: VecDeque<AlignedBuf>,
    digester: Digester,
}

impl<'a> Writer<'a> {
    pub(super) fn new(channel: &'a mut dyn Channel, ends: Ends<'a>) -> Writer<'a> {
        Writer {
            channel,
            ends,
            filling: AlignedBuf::zeroed(FIRST),
            filled: 0,
            offset: 0,
            in_flight: Vec::new(),
            spare: VecDeque::new(),
            digester: Digester::default(),
        }
    }

    fn position(&self) -> u64 {
        self.offset + to_u64(self.filled)
    }

    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.filling.len() - self.filled;
            let (now, later) = bytes.split_at(bytes.len().min(room));
            let copy = &mut self.filling[self.filled..self.filled + now.len()];
            copy.copy_from_slice(now);
            // While it is in the cache.
            self.digester.update(copy);
            self.filled += now.len();
            bytes = later;
            if self.filled == self.filling.len() {
                let next = self.buffer(CHUNK);
                self.send(next)?;
            }
        }
        Ok(())
    }

    /// A buffer for so many bytes; the one that was used longest ago.
    fn buffer(&mut self, length: usize) -> AlignedBuf {
        if self.spare.is_empty() && self.offset <= to_u64(CHUNK) {
            return AlignedBuf::zeroed(length); // most files are one piece
        }
        if self.spare.is_empty() {
            self.spare.extend(AlignedBuf::several(CHUNK, 2 * IN_FLIGHT));
        }
        let mut buffer = self.spare.pop_front().unwrap_or_else(|| AlignedBuf::zeroed(CHUNK));
        buffer.set_len(length);
        buffer
    }

    /// Hands the filled piece to the channel and goes on with another buffer.
    fn send(&mut self, next: AlignedBuf) -> Result<()> {
        self.settle(IN_FLIGHT - 1)?;
        let mut buffer = std::mem::replace(&mut self.filling, next);
        buffer.set_len(self.filled);
        let (offset, length, xxh3) = (self.offset, self.filled, xxh3(&buffer));
        let write = Op::Write { file: Arc::clone(self.ends.file), offset, buffer, durable: false };
        self.submit(write, Piece { token: 0, offset, length, xxh3, comes_back: false });
        self.offset += to_u64(self.filled);
        self.filled = 0;
        Ok(())
    }

    fn submit(&mut self, op: Op, piece: Piece) {
        let token = self.channel.submit(op);
        self.channel.start();
        self.in_flight.push(Piece { token, ..piece });
    }

    /// Waits until at most so many pieces are on their way there, and as many on their way back.
    fn settle(&mut self, at_most: usize) -> Result<()> {
        let writes = |pieces: &[Piece]| pieces.iter().filter(|piece| !piece.comes_back).count();
        while writes(&self.in_flight) > at_most || self.in_flight.len() > 2 * at_most {
            let Some(completion) = self.channel.complete() else { break };
            let place = self.in_flight.iter().position(|piece| piece.token == completion.token);
            let Some(place) = place else { continue };
            let piece = self.in_flight.swap_remove(place);
            let (offset, length) = (piece.offset, piece.length);
            let Ends { file, back } = self.ends;
            let buffer = if piece.comes_back {
                let buffer = io::whole(completion, &**back, "read", offset, length);
                let buffer = buffer.map_err(io::unreadable)?;
                if xxh3(&buffer) != piece.xxh3 {
                    return Err(damaged(&**back, Damage::Digest));
                }
                buffer
            } else {
                let written = io::whole(completion, &**file, "write", offset, length)?;
                let buffer = self.buffer(length);
                let read = Op::Read { file: Arc::clone(back), offset, buffer };
                self.submit(read, Piece { comes_back: true, ..piece });
                written
            };
            if buffer.capacity() == CHUNK {
                self.spare.push_back(buffer);
            }
        }
        Ok(())
    }

    /// Writes what is left. The caller has padded to whole blocks.
    pub(super) fn finish(mut self) -> Result<Digest> {
        assert_eq!(self.filled % BLOCK, 0, "CKPT: files are whole blocks");
        if self.filled > 0 {
            self.send(AlignedBuf::zeroed(BLOCK))?; // nothing comes behind it
        }
        self.settle(0)?;
        Ok(self.digester.digest())
    }
}

impl Drop for Writer<'_> {
    /// An error leaves operations in flight behind: the channel goes on with others after them.
    fn drop(&mut self) {
        for _ in self.in_flight.drain(..) {
            drop(self.channel.complete());
        }
    }
}

/// A data file being written, extent by extent. Nothing is durable before the caller syncs.
pub(super) struct DataWriter<'a> {
    writer: Writer<'a>,
    meta: &'a CheckpointMeta,
    index: Vec<ExtentInfo>,
}

impl<'a> DataWriter<'a> {
    /// Writes the header of a file with so many extents. `meta.checkpoint` is its number,
    /// `manifest` the last durable one.
    pub(super) fn begin(
        channel: &'a mut dyn Channel,
        ends: Ends<'a>,
        meta: &'a CheckpointMeta,
        (manifest, extents): (u64, usize),
    ) -> Result<DataWriter<'a>> {
        let mut writer = Writer::new(channel, ends);
        #[allow(clippy::expect_used, reason = "the store has checked the number of extents")]
        let extents = u32::try_from(extents).expect("CKPT-6: extents fit 32 bits");
        let (checkpoint, log_id) = (meta.checkpoint, meta.log_id);
        let header = data::Header { checkpoint, log_id, manifest, extents };
        writer.put(&data::encode_header(&header))?;
        Ok(DataWriter { writer, meta, index: Vec::new() })
    }

    /// Makes the file long enough for another extent: a full disk is found here, as an error of
    /// its own, not as a short write half-way.
    pub(super) fn reserve(&self, extent: &Extent) -> Result<()> {
        let extent = data::extent_len(&extent.operator, to_u64(extent.bytes.len()));
        let length = extent.and_then(|extent| self.writer.position().checked_add(extent));
        let length = length.and_then(|length| length.checked_next_multiple_of(to_u64(BLOCK)));
        let file = self.writer.ends.file;
        file.allocate(length.ok_or_else(|| too_large(&**file))?)?;
        Ok(())
    }

    pub(super) fn put(&mut self, extent: &Extent) -> Result<()> {
        #[allow(clippy::expect_used, reason = "`begin` has checked the number of extents")]
        let ordinal = u32::try_from(self.index.len()).expect("CKPT-6: extents fit 32 bits");
        let (offset, mut crc) = (self.writer.position(), 0);
        for (block, payload) in (0_u32..).zip(extent.bytes.chunks(PAYLOAD)) {
            // Whoever made the extent has left the cache to others; here all passes are one.
            bring_in(payload);
            crc = crc32c_append(crc, payload);
            let head = data::block_header(self.meta.checkpoint, ordinal, block, payload);
            self.writer.put(&head)?;
            self.writer.put(payload)?;
        }
        self.index.push(ExtentInfo {
            operator: extent.operator.clone(),
            schema: extent.schema,
            partition: extent.partition,
            length: to_u64(extent.bytes.len()),
            offset,
            crc,
        });
        Ok(())
    }

    /// Writes what follows the extents.
    pub(super) fn finish(mut self) -> Result<Digest> {
        let trailer = data::encode_trailer(self.meta, &self.index);
        let trailer_at = self.writer.position();
        self.writer.put(&trailer)?;
        let at = self.writer.position();
        let padded = (at + to_u64(HEADER)).next_multiple_of(to_u64(BLOCK));
        let zeros = padded - to_u64(HEADER) - at;
        self.writer.put(&[0; BLOCK][..crate::ids::to_usize(zeros)])?;
        self.writer.put(&data::encode_footer(&Footer {
            length: padded,
            trailer: trailer_at,
            trailer_len: to_u64(trailer.len()),
            checkpoint: self.meta.checkpoint,
            trailer_crc: crc32c(&trailer),
        }))?;
        self.writer.finish()
    }
}

fn too_large(file: &dyn File) -> Error {
    Error::new(ErrorKind::TooLarge, "the checkpoint is too large").at_path(file.path())
}

/// Writes a whole data file of extents that are all there.
pub(super) fn write_data(
    channel: &mut dyn Channel,
    ends: Ends<'_>,
    meta: &CheckpointMeta,
    manifest: u64,
    extents: &[Extent],
) -> Result<Digest> {
    let file = ends.file;
    // As in `DataWriter::reserve`, for all of them at once.
    let length = data::file_len(meta, extents).ok_or_else(|| too_large(&**file))?;
    file.allocate(length)?;
    let mut writer = DataWriter::begin(channel, ends, meta, (manifest, extents.len()))?;
    extents.iter().try_for_each(|extent| writer.put(extent))?;
    let digest = writer.finish()?;
    assert_eq!(digest.length, length, "CKPT: the file is as long as was reserved");
    Ok(digest)
}
