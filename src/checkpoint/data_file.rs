//! A data file, verified once as a whole, then read extent by extent.

use std::fmt;
use std::sync::Arc;

use super::bytes::Fields;
use super::data::{self, Blocks, HEADER};
use super::io;
use super::manifest::{Digest, Entry};
use super::writer::Digester;
use super::{CheckpointMeta, Damage, file_name};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{to_u64, to_usize};
use crate::storage::{BLOCK, Channel, Directory, File, OpenMode};
use crate::sync::{Mutex, lock};

/// What the index says about an extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentInfo {
    /// The operator's name.
    pub operator: String,
    /// The schema id of its state.
    pub schema: u64,
    /// The partition.
    pub partition: u32,
    /// Bytes.
    pub length: u64,
    pub(super) offset: u64,
    pub(super) crc: u32,
}

/// How much of a data file is read before it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Its length, header, index and footer: enough to list what is there.
    Index,
    /// Every byte, compared with the digest in the manifest: enough to start from it.
    Whole,
}

/// A data file that was read, whole or its index alone, and is what was written.
pub struct DataFile {
    /// What it says about itself.
    pub meta: CheckpointMeta,
    /// Its extents, in the order in which they were written.
    pub extents: Vec<ExtentInfo>,
    directory: Arc<dyn Directory>,
    file: Arc<dyn File>,
    /// Channels that no reader uses at the moment.
    channels: Mutex<Vec<Box<dyn Channel>>>,
}

impl fmt::Debug for DataFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataFile")
            .field("meta", &self.meta)
            .field("extents", &self.extents.len())
            .finish_non_exhaustive()
    }
}

impl DataFile {
    /// Opens and verifies the file that the manifest names so.
    pub(super) fn open(
        directory: &Arc<dyn Directory>,
        entry: &Entry,
        look: Look,
    ) -> Result<DataFile> {
        let name = file_name(entry.meta.checkpoint);
        let data = DataFile::read(directory, &name, |channel, file| match look {
            Look::Index => check_length(file, &entry.digest),
            Look::Whole => verify(channel, file, &entry.digest),
        })?;
        if (CheckpointMeta { engine: Vec::new(), ..data.meta.clone() }) != entry.meta {
            return Err(damaged(&*data.file, Damage::Inconsistent));
        }
        Ok(data)
    }

    /// Opens a file of this name, has it checked, and reads what it says about itself.
    pub(super) fn read(
        directory: &Arc<dyn Directory>,
        name: &str,
        check: impl FnOnce(&mut dyn Channel, &Arc<dyn File>) -> Result<()>,
    ) -> Result<DataFile> {
        let file = match directory.open(name, OpenMode::ReadDirect) {
            Ok(file) => file,
            Err(failure) if failure.kind() == std::io::ErrorKind::NotFound => {
                let path = directory.path().join(name);
                return Err(Error::new(ErrorKind::Corrupt, "a checkpoint's data file is missing")
                    .at_path(path)
                    .caused_by(failure));
            }
            Err(failure) => return Err(io::unreadable(failure)),
        };
        let mut channel = directory.channel().map_err(io::unreadable)?;
        check(&mut *channel, &file)?;
        let (meta, extents) = read_index(&mut *channel, &file)?;
        let (directory, channels) = (Arc::clone(directory), Mutex::new(vec![channel]));
        Ok(DataFile { meta, extents, directory, file, channels })
    }

    /// When the data file was written last, in nanoseconds since the Unix epoch; `None` where the
    /// system does not say.
    pub(crate) fn written_ns(&self) -> Option<i64> {
        self.file.stamp().ok().map(|stamp| stamp.modified_ns)
    }

    /// Reads and checks one extent's bytes. Any number of threads may read at the same time.
    ///
    /// # Errors
    /// `Invalid` if there is no such extent; `Corrupt` or `Unreadable` if the medium lost the
    /// bytes since they were verified.
    pub fn read_extent(&self, ordinal: usize) -> Result<Vec<u8>> {
        let length = self.extents.get(ordinal).map_or(0, |info| info.length);
        let mut bytes = Vec::with_capacity(to_usize(length));
        self.extent_in_pieces(ordinal, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .map_err(|failed| match failed {
            Failed::Lost(error) | Failed::Refused(error) => error,
        })?;
        Ok(bytes)
    }

    /// Calls `each` with one extent's bytes, in pieces and in order, each checked. No piece comes
    /// behind one that it refused.
    pub(super) fn extent_in_pieces(
        &self,
        ordinal: usize,
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<(), Failed> {
        let known = self.extents.get(ordinal).zip(u32::try_from(ordinal).ok());
        let Some((info, number)) = known else {
            let message = format!("checkpoint {} has no extent {ordinal}", self.meta.checkpoint);
            let error = Error::new(ErrorKind::Invalid, message).at_path(self.file.path());
            return Err(Failed::Lost(error));
        };
        let idle = lock(&self.channels).pop();
        let mut channel = match idle {
            Some(channel) => channel,
            None => self.directory.channel().map_err(io::unreadable).map_err(Failed::Lost)?,
        };
        let to = info.offset + data::stored_len(info.length).unwrap_or(0);
        let mut blocks = Blocks::of(self.meta.checkpoint, number, info);
        let (mut damage, mut refused) = (None, None);
        io::read_range_in_pieces(&mut *channel, &self.file, info.offset, to, |piece| {
            let pass = |payload: &[u8]| {
                if refused.is_none() {
                    refused = each(payload).err();
                }
            };
            if damage.is_none() {
                damage = blocks.push(piece, pass).err();
            }
        })
        .map_err(Failed::Lost)?;
        lock(&self.channels).push(channel);
        // Whole blocks of another time make no sense either: that is damage all the same.
        match (damage.or_else(|| blocks.end().err()), refused) {
            (Some(damage), _) => Err(Failed::Lost(damaged(&*self.file, damage))),
            (None, Some(error)) => Err(Failed::Refused(error.at_path(self.file.path()))),
            (None, None) => Ok(()),
        }
    }
}

/// Why an extent was not read to its end.
pub(super) enum Failed {
    /// The medium lost bytes.
    Lost(Error),
    /// Whoever was called with the bytes refused them.
    Refused(Error),
}

/// Reads the whole file and compares it with what was written.
fn verify(channel: &mut dyn Channel, file: &Arc<dyn File>, expected: &Digest) -> Result<()> {
    check_length(file, expected)?;
    let mut digester = Digester::default();
    io::read_pieces(channel, file, 0, expected.length, |piece| digester.update(piece))?;
    if digester.digest() == *expected { Ok(()) } else { Err(damaged(&**file, Damage::Digest)) }
}

/// Whether a file without a digest has a length that a data file can have.
pub(super) fn check_shape(file: &Arc<dyn File>) -> Result<()> {
    let length = file.stamp().map_err(io::unreadable)?.length;
    let shaped = length > 0 && length % to_u64(BLOCK) == 0;
    if shaped { Ok(()) } else { Err(damaged(&**file, Damage::Length)) }
}

/// Whether the file is as long as what was written.
pub(super) fn check_length(file: &Arc<dyn File>, expected: &Digest) -> Result<()> {
    let length = file.stamp().map_err(io::unreadable)?.length;
    let whole = length == expected.length && length % to_u64(BLOCK) == 0 && length > 0;
    if whole { Ok(()) } else { Err(damaged(&**file, Damage::Digest)) }
}

/// Reads header, footer and trailer of a file whose length is a positive multiple of a block.
fn read_index(
    channel: &mut dyn Channel,
    file: &Arc<dyn File>,
) -> Result<(CheckpointMeta, Vec<ExtentInfo>)> {
    let length = file.stamp().map_err(io::unreadable)?.length;
    let header = read_header(channel, file)?;
    let tail = io::read_range(channel, file, length - to_u64(HEADER), length)?;
    let parsed = tail.first_chunk().ok_or(Damage::Length);
    let footer = parsed.and_then(|tail| data::decode_footer(tail, length));
    let footer = footer.map_err(|damage| damaged(&**file, damage))?;
    let rest = io::read_range(channel, file, footer.trailer, length - to_u64(HEADER))?;
    let (trailer, padding) = rest.split_at(crate::ids::to_usize(footer.trailer_len));
    let decoded = data::decode_trailer(trailer, &header, &footer).and_then(|decoded| {
        Fields::new(padding).zeros(to_u64(padding.len()))?;
        Ok(decoded)
    });
    decoded.map_err(|damage| damaged(&**file, damage))
}

/// Reads the header of a file that has at least one block.
pub(super) fn read_header(channel: &mut dyn Channel, file: &Arc<dyn File>) -> Result<data::Header> {
    let head = io::read_range(channel, file, 0, to_u64(HEADER))?;
    let parsed = head.first_chunk().ok_or(Damage::Length);
    parsed.and_then(data::decode_header).map_err(|damage| damaged(&**file, damage))
}

/// As [`damaged`], of one that is open.
pub(super) fn damaged_file(file: &DataFile, damage: Damage) -> Error {
    damaged(&*file.file, damage)
}

/// A checkpoint file that is not what was written.
pub(super) fn damaged(file: &dyn File, damage: Damage) -> Error {
    let (kind, message) = if let Damage::Version(version) = damage {
        let who = "a newer sawmill wrote it; open it with that one";
        (ErrorKind::Unsupported, format!("a checkpoint file has format version {version}: {who}"))
    } else {
        (ErrorKind::Corrupt, "a checkpoint file is damaged".to_owned())
    };
    Error::new(kind, message).at_path(file.path()).caused_by(damage)
}
