//! Writes one file from its start, in large aligned pieces, and digests it on the way: some pieces
//! are on their way to the medium while the next is filled.

use std::sync::Arc;

use super::data::{self, Footer, HEADER, PAYLOAD};
use super::io::{self, CHUNK};
use super::manifest::Digest;
use super::{CheckpointMeta, Extent, ExtentInfo};
use crate::checksum::{Xxh3, crc32c, crc32c_append};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::to_u64;
use crate::storage::{AlignedBuf, BLOCK, Channel, File, Op};

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

/// A piece on its way: its token, offset and length.
type InFlight = (u64, u64, usize);

/// A file being written. Nothing is durable before the caller syncs.
pub(super) struct Writer<'a> {
    channel: &'a mut dyn Channel,
    file: &'a Arc<dyn File>,
    filling: AlignedBuf,
    filled: usize,
    /// Offset of the piece that is being filled.
    offset: u64,
    in_flight: Vec<InFlight>,
    spare: Vec<AlignedBuf>,
    digester: Digester,
}

impl<'a> Writer<'a> {
    pub(super) fn new(channel: &'a mut dyn Channel, file: &'a Arc<dyn File>) -> Writer<'a> {
        let filling = AlignedBuf::zeroed(CHUNK);
        let digester = Digester::default();
        let (in_flight, spare) = (Vec::new(), Vec::new());
        Writer { channel, file, filling, filled: 0, offset: 0, in_flight, spare, digester }
    }

    fn position(&self) -> u64 {
        self.offset + to_u64(self.filled)
    }

    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = CHUNK - self.filled;
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.filling[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == CHUNK {
                self.send()?;
            }
        }
        Ok(())
    }

    /// Hands the filled piece to the channel and goes on with another buffer.
    fn send(&mut self) -> Result<()> {
        self.settle(io::IN_FLIGHT - 1)?;
        let spare = self.spare.pop().unwrap_or_else(|| AlignedBuf::zeroed(CHUNK));
        let mut buffer = std::mem::replace(&mut self.filling, spare);
        buffer.set_len(self.filled);
        self.digester.update(&buffer);
        let (file, offset) = (Arc::clone(self.file), self.offset);
        let token = self.channel.submit(Op::Write { file, offset, buffer, durable: false });
        self.channel.start();
        self.in_flight.push((token, offset, self.filled));
        self.offset += to_u64(self.filled);
        self.filled = 0;
        Ok(())
    }

    /// Waits until at most so many pieces are on their way.
    fn settle(&mut self, at_most: usize) -> Result<()> {
        while self.in_flight.len() > at_most {
            let Some(completion) = self.channel.complete() else { break };
            let place = self.in_flight.iter().position(|piece| piece.0 == completion.token);
            let Some(place) = place else { continue };
            let (_, offset, length) = self.in_flight.swap_remove(place);
            let mut buffer = io::whole(completion, &**self.file, "write", offset, length)?;
            buffer.set_len(CHUNK);
            self.spare.push(buffer);
        }
        Ok(())
    }

    /// Writes what is left. The caller has padded to whole blocks.
    pub(super) fn finish(mut self) -> Result<Digest> {
        assert_eq!(self.filled % BLOCK, 0, "CKPT: files are whole blocks");
        if self.filled > 0 {
            self.send()?;
        }
        self.settle(0)?;
        Ok(self.digester.digest())
    }
}

impl Drop for Writer<'_> {
    /// An error leaves writes in flight behind: the channel goes on with others after them.
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
        file: &'a Arc<dyn File>,
        meta: &'a CheckpointMeta,
        (manifest, extents): (u64, usize),
    ) -> Result<DataWriter<'a>> {
        let mut writer = Writer::new(channel, file);
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
        let file = self.writer.file;
        file.allocate(length.ok_or_else(|| too_large(&**file))?)?;
        Ok(())
    }

    pub(super) fn put(&mut self, extent: &Extent) -> Result<()> {
        #[allow(clippy::expect_used, reason = "`begin` has checked the number of extents")]
        let ordinal = u32::try_from(self.index.len()).expect("CKPT-6: extents fit 32 bits");
        self.index.push(ExtentInfo {
            operator: extent.operator.clone(),
            schema: extent.schema,
            partition: extent.partition,
            length: to_u64(extent.bytes.len()),
            offset: self.writer.position(),
            crc: crc32c(&extent.bytes),
        });
        for (block, payload) in (0_u32..).zip(extent.bytes.chunks(PAYLOAD)) {
            let head = data::block_header(self.meta.checkpoint, ordinal, block, payload);
            self.writer.put(&head)?;
            self.writer.put(payload)?;
        }
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
    file: &Arc<dyn File>,
    meta: &CheckpointMeta,
    manifest: u64,
    extents: &[Extent],
) -> Result<Digest> {
    // As in `DataWriter::reserve`, for all of them at once.
    let length = data::file_len(meta, extents).ok_or_else(|| too_large(&**file))?;
    file.allocate(length)?;
    let mut writer = DataWriter::begin(channel, file, meta, (manifest, extents.len()))?;
    extents.iter().try_for_each(|extent| writer.put(extent))?;
    let digest = writer.finish()?;
    assert_eq!(digest.length, length, "CKPT: the file is as long as was reserved");
    Ok(digest)
}
