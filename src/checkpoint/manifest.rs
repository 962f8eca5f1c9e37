//! The manifest: which files count, for what, and the digests by which they are known. Pure over
//! bytes;
//! `docs/checkpoint-format.md` is the format.

use super::bytes::{Fields, put_sized};
use super::{CheckpointMeta, Damage};
use crate::checksum::crc32c;
use crate::ids::{BatchId, Generation, LogId, Lsn, to_u64, to_usize};
use crate::storage::BLOCK;

const MAGIC: &[u8; 8] = b"SAWMMANI";
const VERSION: u32 = 1;
const HEADER: usize = 64;
/// Bytes of an entry without its meta.
const ENTRY: usize = 24;
/// Bytes of a meta without its job name.
const META: usize = 60;
/// The largest manifest, in bytes.
pub(super) const LIMIT: u64 = 64 << 20;

/// Length and digests of a whole data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) length: u64,
    pub(super) crc: u32,
    pub(super) xxh3: u64,
}

/// A data file that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Without the engine's bytes, which the data file has.
    pub(super) meta: CheckpointMeta,
    pub(super) digest: Digest,
    /// Whether a restart may go on from it: the log is kept for it. If not, it is there for those
    /// that build on it.
    pub(super) kept: bool,
}

/// The decoded manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) log_id: LogId,
    pub(super) sequence: u64,
    /// Oldest first, never empty; what one builds on is among those before it.
    pub(super) entries: Vec<Entry>,
}

pub(super) fn put_meta(out: &mut Vec<u8>, meta: &CheckpointMeta) {
    out.extend_from_slice(&meta.checkpoint.to_le_bytes());
    out.extend_from_slice(&meta.parent.to_le_bytes());
    out.extend_from_slice(meta.log_id.as_bytes());
    out.extend_from_slice(&meta.generation.get().to_le_bytes());
    out.extend_from_slice(&meta.batch.get().to_le_bytes());
    out.extend_from_slice(&meta.floor.get().to_le_bytes());
    put_sized(out, meta.job.as_bytes());
}

pub(super) fn take_meta(fields: &mut Fields<'_>) -> Result<CheckpointMeta, Damage> {
    Ok(CheckpointMeta {
        checkpoint: fields.u64()?,
        parent: fields.u64()?,
        log_id: LogId::from_bytes(fields.array()?),
        generation: Generation::new(fields.u64()?),
        batch: BatchId::new(fields.u64()?),
        floor: Lsn::new(fields.u64()?),
        job: fields.text()?.to_owned(),
        engine: Vec::new(),
    })
}

/// Bytes that `meta` takes, without the engine's.
pub(super) fn meta_len(meta: &CheckpointMeta) -> u64 {
    to_u64(META) + to_u64(meta.job.len())
}

/// The manifest's file, padded.
pub(super) fn encode(manifest: &Manifest) -> Vec<u8> {
    assert!(!manifest.entries.is_empty(), "CKPT-4: a manifest names at least one checkpoint");
    let mut body = Vec::new();
    for entry in &manifest.entries {
        body.extend_from_slice(&entry.digest.length.to_le_bytes());
        body.extend_from_slice(&entry.digest.xxh3.to_le_bytes());
        body.extend_from_slice(&entry.digest.crc.to_le_bytes());
        body.extend_from_slice(&u32::from(entry.kept).to_le_bytes());
        put_meta(&mut body, &entry.meta);
    }
    #[allow(clippy::expect_used, reason = "the number of kept checkpoints is an option in memory")]
    let count = u32::try_from(manifest.entries.len()).expect("CKPT-6: entries fit 32 bits");
    let mut out = Vec::with_capacity((HEADER + body.len()).next_multiple_of(BLOCK));
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(manifest.log_id.as_bytes());
    out.extend_from_slice(&manifest.sequence.to_le_bytes());
    out.extend_from_slice(&to_u64(body.len()).to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&crc32c(&body).to_le_bytes());
    let crc = crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&body);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    out
}

/// Bytes that `encode` of these entries gives.
pub(super) fn encoded_len(entries: &[Entry]) -> u64 {
    let bodies: u64 = entries.iter().map(|entry| to_u64(ENTRY) + meta_len(&entry.meta)).sum();
    (to_u64(HEADER) + bodies).next_multiple_of(to_u64(BLOCK))
}

/// Decodes a whole file. Every byte of it is checked.
pub(super) fn decode(bytes: &[u8]) -> Result<Manifest, Damage> {
    let mut fields = Fields::new(bytes);
    let header: [u8; HEADER] = fields.array()?;
    let mut head = Fields::new(&header);
    if head.array::<8>()? != *MAGIC {
        return Err(Damage::Magic);
    }
    if crc32c(&header[..HEADER - 4]).to_le_bytes() != header[HEADER - 4..] {
        return Err(Damage::Checksum);
    }
    let version = head.u32()?;
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    let count = head.u32()?;
    let log_id = LogId::from_bytes(head.array()?);
    let sequence = head.u64()?;
    let body_len = head.u64()?;
    head.zeros(8)?;
    let body = fields.take(body_len)?;
    if crc32c(body) != head.u32()? {
        return Err(Damage::Checksum);
    }
    let used = HEADER + to_usize(body_len);
    if bytes.len() != used.next_multiple_of(BLOCK) {
        return Err(Damage::Length);
    }
    fields.zeros(to_u64(fields.len()))?;
    let entries = decode_entries(body, count, log_id)?;
    Ok(Manifest { log_id, sequence, entries })
}

fn decode_entries(body: &[u8], count: u32, log_id: LogId) -> Result<Vec<Entry>, Damage> {
    let mut fields = Fields::new(body);
    let mut entries: Vec<Entry> = Vec::new();
    for _ in 0..count {
        let length = fields.u64()?;
        let xxh3 = fields.u64()?;
        let crc = fields.u32()?;
        let kept = fields.u32()?;
        let meta = take_meta(&mut fields)?;
        let rises = entries.last().is_none_or(|last| last.meta.checkpoint < meta.checkpoint);
        let found = |number| entries.iter().any(|entry| entry.meta.checkpoint == number);
        let builds = meta.parent == 0 || found(meta.parent);
        if !rises || !builds || kept > 1 || meta.checkpoint == 0 || meta.log_id != log_id {
            return Err(Damage::Inconsistent);
        }
        entries.push(Entry { meta, digest: Digest { length, crc, xxh3 }, kept: kept == 1 });
    }
    fields.end()?;
    // The newest one is always to be started from.
    if entries.last().is_some_and(|last| last.kept) {
        Ok(entries)
    } else {
        Err(Damage::Inconsistent)
    }
}
