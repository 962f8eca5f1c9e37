//! The pieces of a data file: header, blocks, trailer, footer. Pure over bytes;
//! `docs/checkpoint-format.md` is the format.

use std::collections::BTreeSet;

use super::bytes::{Fields, put_sized};
use super::manifest::{meta_len, put_meta, take_meta};
use super::{CheckpointMeta, Damage, Extent, ExtentInfo};
use crate::checksum::{bring_in, crc32c, crc32c_append};
use crate::ids::{LogId, to_u64, to_usize};
use crate::storage::BLOCK;

const MAGIC: &[u8; 8] = b"SAWMCKPT";
const END: &[u8; 8] = b"SAWMCEND";
const VERSION: u32 = 1;
/// Bytes of the header, and of the footer.
pub(super) const HEADER: usize = 64;
/// Bytes of a full block.
pub(super) const FULL: usize = 65536;
/// Bytes of a block's header.
pub(super) const BLOCK_HEADER: usize = 24;
/// Bytes of an index entry without the operator's name.
const INDEX_ENTRY: usize = 36;
/// Payload of a full block.
pub(super) const PAYLOAD: usize = FULL - BLOCK_HEADER;

const _: () = assert!(FULL.is_multiple_of(BLOCK), "full blocks tile device blocks");

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) checkpoint: u64,
    pub(super) log_id: LogId,
    /// The last manifest that was durable when the file was begun; 0: none.
    pub(super) manifest: u64,
    pub(super) extents: u32,
}

/// What the footer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) length: u64,
    pub(super) trailer: u64,
    pub(super) trailer_len: u64,
    pub(super) checkpoint: u64,
    pub(super) trailer_crc: u32,
}

fn seal(mut bytes: Vec<u8>) -> [u8; HEADER] {
    let crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    let mut sealed = [0; HEADER];
    sealed.copy_from_slice(&bytes);
    sealed
}

/// Magic and checksum of a header or footer; the fields behind the magic.
fn unseal<'a>(bytes: &'a [u8; HEADER], magic: &[u8; 8]) -> Result<Fields<'a>, Damage> {
    let mut fields = Fields::new(&bytes[..HEADER - 4]);
    if fields.array::<8>()? != *magic {
        return Err(Damage::Magic);
    }
    if crc32c(&bytes[..HEADER - 4]).to_le_bytes() != bytes[HEADER - 4..] {
        return Err(Damage::Checksum);
    }
    Ok(fields)
}

pub(super) fn encode_header(header: &Header) -> [u8; HEADER] {
    let mut out = Vec::with_capacity(HEADER);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&65536_u32.to_le_bytes());
    out.extend_from_slice(&header.checkpoint.to_le_bytes());
    out.extend_from_slice(header.log_id.as_bytes());
    out.extend_from_slice(&header.manifest.to_le_bytes());
    out.extend_from_slice(&header.extents.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    seal(out)
}

pub(super) fn decode_header(bytes: &[u8; HEADER]) -> Result<Header, Damage> {
    let mut fields = unseal(bytes, MAGIC)?;
    let version = fields.u32()?;
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    if to_usize(u64::from(fields.u32()?)) != FULL {
        return Err(Damage::Inconsistent);
    }
    let checkpoint = fields.u64()?;
    let log_id = LogId::from_bytes(fields.array()?);
    let manifest = fields.u64()?;
    let extents = fields.u32()?;
    fields.zeros(8)?;
    Ok(Header { checkpoint, log_id, manifest, extents })
}

pub(super) fn encode_footer(footer: &Footer) -> [u8; HEADER] {
    let mut out = Vec::with_capacity(HEADER);
    out.extend_from_slice(END);
    out.extend_from_slice(&footer.length.to_le_bytes());
    out.extend_from_slice(&footer.trailer.to_le_bytes());
    out.extend_from_slice(&footer.trailer_len.to_le_bytes());
    out.extend_from_slice(&footer.checkpoint.to_le_bytes());
    out.extend_from_slice(&footer.trailer_crc.to_le_bytes());
    out.extend_from_slice(&[0; 16]);
    seal(out)
}

/// Decodes the footer and checks its lengths against those of the file.
pub(super) fn decode_footer(bytes: &[u8; HEADER], file: u64) -> Result<Footer, Damage> {
    let mut fields = unseal(bytes, END)?;
    let length = fields.u64()?;
    let trailer = fields.u64()?;
    let trailer_len = fields.u64()?;
    let checkpoint = fields.u64()?;
    let trailer_crc = fields.u32()?;
    fields.zeros(16)?;
    let end = trailer.checked_add(trailer_len).and_then(|end| end.checked_add(to_u64(HEADER)));
    let padded = end.and_then(|end| end.checked_next_multiple_of(to_u64(BLOCK)));
    if trailer < to_u64(HEADER) || length != file || padded != Some(file) {
        return Err(Damage::Length);
    }
    Ok(Footer { length, trailer, trailer_len, checkpoint, trailer_crc })
}

/// The header of a block, its checksum included.
pub(super) fn block_header(
    checkpoint: u64,
    extent: u32,
    block: u32,
    payload: &[u8],
) -> [u8; BLOCK_HEADER] {
    let mut header = [0; BLOCK_HEADER];
    #[allow(clippy::expect_used, reason = "the writer cuts payloads to PAYLOAD bytes")]
    let length = u32::try_from(payload.len()).expect("CKPT-6: a payload fits its block");
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..16].copy_from_slice(&checkpoint.to_le_bytes());
    header[16..20].copy_from_slice(&extent.to_le_bytes());
    header[20..24].copy_from_slice(&block.to_le_bytes());
    let crc = crc32c_append(crc32c(&header[4..]), payload);
    header[..4].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Bytes that an extent takes in the file, block headers included.
pub(super) fn stored_len(payload: u64) -> Option<u64> {
    payload.checked_add(payload.div_ceil(to_u64(PAYLOAD)).checked_mul(to_u64(BLOCK_HEADER))?)
}

/// Bytes of the file of a checkpoint; `None` if no file can be that long.
pub(super) fn file_len(meta: &CheckpointMeta, extents: &[Extent]) -> Option<u64> {
    let sized = to_u64(4 + meta.engine.len());
    let mut length = (to_u64(HEADER) * 2).checked_add(meta_len(meta))?.checked_add(sized)?;
    for extent in extents {
        length = length.checked_add(extent_len(&extent.operator, to_u64(extent.bytes.len()))?)?;
    }
    length.checked_next_multiple_of(to_u64(BLOCK))
}

/// Bytes that an extent takes in a file, its place in the index included.
pub(super) fn extent_len(operator: &str, payload: u64) -> Option<u64> {
    stored_len(payload)?.checked_add(to_u64(INDEX_ENTRY) + to_u64(operator.len()))
}

pub(super) fn encode_trailer(meta: &CheckpointMeta, index: &[ExtentInfo]) -> Vec<u8> {
    let mut out = Vec::new();
    put_meta(&mut out, meta);
    put_sized(&mut out, &meta.engine);
    for extent in index {
        put_sized(&mut out, extent.operator.as_bytes());
        out.extend_from_slice(&extent.schema.to_le_bytes());
        out.extend_from_slice(&extent.partition.to_le_bytes());
        out.extend_from_slice(&extent.crc.to_le_bytes());
        out.extend_from_slice(&extent.length.to_le_bytes());
        out.extend_from_slice(&extent.offset.to_le_bytes());
    }
    out
}

/// Decodes the trailer and checks that the extents fill the file from header to trailer.
pub(super) fn decode_trailer(
    bytes: &[u8],
    header: &Header,
    footer: &Footer,
) -> Result<(CheckpointMeta, Vec<ExtentInfo>), Damage> {
    if crc32c(bytes) != footer.trailer_crc {
        return Err(Damage::Checksum);
    }
    let mut fields = Fields::new(bytes);
    let mut meta = take_meta(&mut fields)?;
    meta.engine = fields.sized()?.to_vec();
    let mut index = Vec::new();
    let mut names = BTreeSet::new();
    let mut offset = to_u64(HEADER);
    for _ in 0..header.extents {
        let operator = fields.text()?;
        let schema = fields.u64()?;
        let partition = fields.u32()?;
        let crc = fields.u32()?;
        let length = fields.u64()?;
        if fields.u64()? != offset || !names.insert((operator, partition)) {
            return Err(Damage::Inconsistent);
        }
        index.push(ExtentInfo {
            operator: operator.to_owned(),
            schema,
            partition,
            length,
            offset,
            crc,
        });
        let next = stored_len(length).and_then(|stored| offset.checked_add(stored));
        offset = next.filter(|next| *next <= footer.trailer).ok_or(Damage::Length)?;
    }
    fields.end()?;
    let same = meta.checkpoint == header.checkpoint
        && meta.checkpoint == footer.checkpoint
        && meta.log_id == header.log_id;
    if same && offset == footer.trailer { Ok((meta, index)) } else { Err(Damage::Inconsistent) }
}

/// Takes an extent's payload out of its blocks, checking each, as its bytes come.
pub(super) struct Blocks<'a> {
    checkpoint: u64,
    ordinal: u32,
    info: &'a ExtentInfo,
    /// Stored bytes that are still to come.
    left: u64,
    /// The number of the next block, and what there is of it.
    block: u32,
    part: Vec<u8>,
    /// Of the payload so far.
    crc: u32,
}

impl<'a> Blocks<'a> {
    pub(super) fn of(checkpoint: u64, ordinal: u32, info: &'a ExtentInfo) -> Blocks<'a> {
        let left = stored_len(info.length).unwrap_or(u64::MAX);
        Blocks { checkpoint, ordinal, info, left, block: 0, part: Vec::new(), crc: 0 }
    }

    /// Takes the next bytes, and calls `each` with the payload of every block that is whole now.
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Damage> {
        while !bytes.is_empty() {
            let length = to_usize(self.left.min(to_u64(FULL)));
            let (next, rest) = bytes.split_at(bytes.len().min(length - self.part.len()));
            if next.is_empty() {
                return Err(Damage::Length);
            }
            bytes = rest;
            if next.len() == length {
                self.take(next, &mut each)?;
                continue;
            }
            self.part.extend_from_slice(next);
            if self.part.len() == length {
                let mut part = std::mem::take(&mut self.part);
                self.take(&part, &mut each)?;
                part.clear();
                self.part = part;
            }
        }
        Ok(())
    }

    fn take(&mut self, block: &[u8], each: &mut impl FnMut(&[u8])) -> Result<(), Damage> {
        let (head, payload) = block.split_first_chunk::<BLOCK_HEADER>().ok_or(Damage::Length)?;
        bring_in(payload);
        if *head != block_header(self.checkpoint, self.ordinal, self.block, payload) {
            return Err(Damage::Checksum);
        }
        self.crc = crc32c_append(self.crc, payload);
        self.left -= to_u64(block.len());
        self.block += 1;
        each(payload);
        Ok(())
    }

    /// That all of it has come.
    pub(super) fn end(self) -> Result<(), Damage> {
        match self.left {
            0 if self.crc == self.info.crc => Ok(()),
            0 => Err(Damage::Checksum),
            _ => Err(Damage::Length),
        }
    }
}

/// An extent's payload, taken out of its blocks.
fn unblock(
    checkpoint: u64,
    ordinal: u32,
    info: &ExtentInfo,
    bytes: &[u8],
) -> Result<Vec<u8>, Damage> {
    let mut blocks = Blocks::of(checkpoint, ordinal, info);
    let mut payload = Vec::with_capacity(bytes.len());
    blocks.push(bytes, |piece| payload.extend_from_slice(piece))?;
    blocks.end()?;
    Ok(payload)
}

/// Decodes a whole data file in memory.
pub(super) fn decode(bytes: &[u8]) -> Result<(CheckpointMeta, Vec<Extent>), Damage> {
    let head = bytes.first_chunk::<HEADER>().ok_or(Damage::Length)?;
    let tail = bytes.last_chunk::<HEADER>().ok_or(Damage::Length)?;
    let header = decode_header(head)?;
    let footer = decode_footer(tail, to_u64(bytes.len()))?;
    let trailer_end = to_usize(footer.trailer + footer.trailer_len);
    let trailer = &bytes[to_usize(footer.trailer)..trailer_end];
    let (meta, index) = decode_trailer(trailer, &header, &footer)?;
    let padding = &bytes[trailer_end..bytes.len() - HEADER];
    Fields::new(padding).zeros(to_u64(padding.len()))?;
    let mut extents = Vec::with_capacity(index.len());
    for (ordinal, info) in (0_u32..).zip(index) {
        let stored = stored_len(info.length).ok_or(Damage::Length)?;
        let from = to_usize(info.offset);
        let block_bytes = &bytes[from..from + to_usize(stored)];
        let payload = unblock(meta.checkpoint, ordinal, &info, block_bytes)?;
        let ExtentInfo { operator, schema, partition, .. } = info;
        extents.push(Extent { operator, schema, partition, bytes: payload });
    }
    Ok((meta, extents))
}
