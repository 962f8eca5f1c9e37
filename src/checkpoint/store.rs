//! A job's checkpoint directory: writes checkpoints, finds the newest whole one, removes old ones.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::find::{MANIFEST, evidence, find_manifest, lost_manifest};
use super::loaded::{self, Loaded, Look};
use super::manifest::{self, Digest, Entry, Manifest};
use super::writer::{Writer, write_data};
use super::{CheckpointMeta, Extent, file_name, file_number};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{to_u64, to_usize};
use crate::planted::{Bug, planted};
use crate::storage::{BLOCK, Channel, Directory, File, IoFailure, OpenMode, files};
use crate::sync::{Mutex, lock};

/// The next manifest, before its rename.
const NEXT: &str = "MANIFEST.tmp";

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The number that the checkpoint got.
    pub checkpoint: u64,
    /// Bytes in its data file.
    pub bytes: u64,
    /// Files and directories synced.
    pub syncs: u32,
}

/// The checkpoints of one job, in one directory. One store per directory: the caller holds a lock.
///
/// A failed [`write`](CheckpointStore::write) does not end the store: its predecessor stands, and
/// the next write uses a new number.
#[derive(Debug)]
pub struct CheckpointStore {
    directory: Arc<dyn Directory>,
    keep: usize,
    /// What the last durable manifest names, oldest first.
    kept: Vec<CheckpointMeta>,
    /// Their digests, in the same order.
    digests: Vec<Digest>,
    /// Sequence of the last durable manifest; 0: none.
    durable: u64,
    /// Sequence of the last manifest that was tried.
    tried: u64,
    next: u64,
    /// Data files that may go once another manifest is durable.
    leftovers: Vec<String>,
    /// Numbers of kept checkpoints that `newest` found not whole.
    lost: Mutex<BTreeSet<u64>>,
}

/// How far a failed write came.
enum Failed {
    /// No manifest names the new data file.
    Before(Error),
    /// The rename was asked for: a restart may find either manifest.
    Open(Error),
}

impl CheckpointStore {
    /// Opens a directory: reads the manifest, and removes what crashes left. Keeps the last `keep`
    /// checkpoints (at least 1; 2 lets one rot).
    ///
    /// # Errors
    /// `Corrupt` if the manifest is damaged, lost or older than its files; `Unsupported` if a
    /// newer version wrote it; `Unreadable` if the medium does not return it; `Invalid` if `keep`
    /// is 0. Nothing was changed then.
    pub fn open(directory: Arc<dyn Directory>, keep: usize) -> Result<CheckpointStore> {
        if keep == 0 {
            return Err(Error::new(ErrorKind::Invalid, "keep at least one checkpoint"));
        }
        let names = directory.list()?;
        let mut channel = directory.channel()?;
        if names.iter().any(|name| name == MANIFEST) {
            // A process that died between rename and sync left a name that a power cut may still
            // take back; what follows from this manifest must not outlive it.
            directory.sync()?;
        }
        let manifest = find_manifest(&*directory, &names, &mut *channel)?;
        let durable = manifest.as_ref().map_or(0, |found| found.sequence);
        let mut store = CheckpointStore {
            directory,
            keep,
            kept: Vec::new(),
            digests: Vec::new(),
            durable,
            tried: durable,
            next: 1,
            leftovers: Vec::new(),
            lost: Mutex::default(),
        };
        for entry in manifest.into_iter().flat_map(|found| found.entries) {
            store.next = store.next.max(entry.meta.checkpoint + 1);
            store.kept.push(entry.meta);
            store.digests.push(entry.digest);
        }
        store.adopt(&names, &mut *channel)?;
        store.sweep();
        Ok(store)
    }

    /// Looks at the data files that the manifest does not name.
    fn adopt(&mut self, names: &[String], channel: &mut dyn Channel) -> Result<()> {
        for name in names {
            let Some(number) = file_number(name) else {
                if name == NEXT {
                    self.leftovers.push(name.clone());
                }
                continue;
            };
            self.next = self.next.max(number.saturating_add(1));
            if self.kept.iter().any(|meta| meta.checkpoint == number) {
                continue;
            }
            let log = self.kept.last().map(|meta| meta.log_id);
            match evidence(&*self.directory, name, channel, log) {
                Ok(seen) if seen > self.durable => {
                    return Err(lost_manifest(&*self.directory, name, seen, self.durable));
                }
                Ok(_) => self.leftovers.push(name.clone()),
                // Not readable: nothing names it, so it is not needed; it is left where it is.
                Err(_) if self.durable > 0 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What the last durable manifest names, oldest first: none of what they need of the log may
    /// be truncated (ENGINE.md E3).
    #[must_use]
    pub fn kept(&self) -> &[CheckpointMeta] {
        &self.kept
    }

    /// The newest checkpoint that is whole; `None` if none was ever written. Falls back to older
    /// kept ones and says so in [`Loaded::fell_back`].
    ///
    /// # Errors
    /// `Corrupt` if checkpoints are named and none is whole, `Unreadable` if the medium refused
    /// one of them, `Unsupported` if a newer version wrote one. Nothing was changed, and the
    /// store writes nothing more: starting from empty is the user's decision.
    pub fn newest(&self) -> Result<Option<Loaded>> {
        let mut fell_back = Vec::new();
        let mut kind = ErrorKind::Corrupt;
        for entry in self.entries().rev() {
            match Loaded::open(&self.directory, &entry, Look::Whole) {
                Ok(mut loaded) => {
                    loaded.fell_back = fell_back;
                    return Ok(Some(loaded));
                }
                Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
                Err(error) => {
                    if error.kind() != ErrorKind::Corrupt {
                        kind = ErrorKind::Unreadable;
                    }
                    let number = entry.meta.checkpoint;
                    fell_back.push(format!("checkpoint {number} is not whole: {error}"));
                    lock(&self.lost).insert(number);
                }
            }
        }
        if fell_back.is_empty() {
            return Ok(None);
        }
        let message = format!(
            "none of the kept checkpoints is whole ({}); restore one of the files, or move this \
             directory away to start from empty",
            fell_back.join("; ")
        );
        Err(Error::new(kind, message).at_path(self.directory.path()))
    }

    fn entries(&self) -> impl DoubleEndedIterator<Item = Entry> {
        let pairs = self.kept.iter().zip(&self.digests);
        pairs.map(|(meta, digest)| Entry { meta: meta.clone(), digest: *digest })
    }

    /// Writes a checkpoint and makes it the newest. The store gives it its number.
    ///
    /// Durable and read back from the device when this returns `Ok`.
    ///
    /// # Errors
    /// The new checkpoint is discarded, its predecessor stands, and the next write may succeed:
    /// `DiskFull`, `Io`, `Unreadable`; `Corrupt` if what was read back is not what was written;
    /// `TooLarge`, `Invalid` before anything was written. If the error came at or after the rename
    /// of the manifest, a restart may find either checkpoint, whole.
    pub fn write(&mut self, meta: CheckpointMeta, extents: &[Extent]) -> Result<Written> {
        let lost = lock(&self.lost).clone();
        let good: Vec<Entry> =
            self.entries().filter(|entry| !lost.contains(&entry.meta.checkpoint)).collect();
        self.check(&meta, extents, &good)?;
        let meta = CheckpointMeta { checkpoint: self.next, ..meta };
        self.next += 1;
        let name = file_name(meta.checkpoint);
        let mut session = Session { directory: Arc::clone(&self.directory), syncs: 0 };
        let outcome = self.publish(&mut session, &name, meta, extents, good);
        match outcome {
            Ok(written) => {
                self.sweep();
                Ok(written)
            }
            Err(Failed::Before(error)) => {
                // Best effort: what cannot be removed now goes with the next sweep.
                for name in [name, NEXT.to_owned()] {
                    if !removed(&*self.directory, &name) {
                        self.leftovers.push(name);
                    }
                }
                Err(error)
            }
            Err(Failed::Open(error)) => {
                self.leftovers.push(name);
                Err(error)
            }
        }
    }

    /// Steps 1 to 7 of `docs/checkpoint-format.md`, in order.
    fn publish(
        &mut self,
        session: &mut Session,
        name: &str,
        meta: CheckpointMeta,
        extents: &[Extent],
        mut entries: Vec<Entry>,
    ) -> Result<Written, Failed> {
        let mut channel = self.directory.channel().map_err(|e| Failed::Before(e.into()))?;
        let data = session.write_data(&mut *channel, name, &meta, self.durable, extents);
        let (file, digest) = data.map_err(Failed::Before)?;
        let checkpoint = meta.checkpoint;
        entries.push(Entry { meta, digest });
        entries.drain(..entries.len().saturating_sub(self.keep));
        self.tried += 1;
        let log_id = entries[entries.len() - 1].meta.log_id;
        let manifest = Manifest { log_id, sequence: self.tried, entries };
        let bytes = manifest::encode(&manifest);
        session.write_manifest(&mut *channel, &bytes).map_err(Failed::Before)?;
        session.switch().map_err(|failure| Failed::Open(failure.into()))?;
        if planted(Bug::ManifestBeforeData) {
            session.sync(&mut *channel, &file).map_err(|e| Failed::Open(e.into()))?;
        }
        self.retire(&manifest);
        self.durable = manifest.sequence;
        self.kept.clear();
        self.digests.clear();
        for entry in manifest.entries {
            self.kept.push(entry.meta);
            self.digests.push(entry.digest);
        }
        Ok(Written { checkpoint, bytes: digest.length, syncs: session.syncs })
    }

    /// Marks for removal what the durable manifest no longer names.
    fn retire(&mut self, manifest: &Manifest) {
        let named: BTreeSet<u64> =
            manifest.entries.iter().map(|entry| entry.meta.checkpoint).collect();
        let gone = self.kept.iter().filter(|meta| !named.contains(&meta.checkpoint));
        self.leftovers.extend(gone.map(|meta| file_name(meta.checkpoint)));
    }

    /// Removes files that no manifest names. What cannot be removed is tried again next time;
    /// nothing depends on it.
    fn sweep(&mut self) {
        let named = |name: &str| {
            file_number(name).is_some_and(|n| self.kept.iter().any(|meta| meta.checkpoint == n))
        };
        assert!(!self.leftovers.iter().any(|name| named(name)), "CKPT-2: named files stay");
        let directory = Arc::clone(&self.directory);
        self.leftovers.retain(|name| !removed(&*directory, name));
    }

    /// Everything that can be refused before a byte is written.
    fn check(&self, meta: &CheckpointMeta, extents: &[Extent], good: &[Entry]) -> Result<()> {
        let refuse =
            |kind, message: String| Err(Error::new(kind, message).at_path(self.directory.path()));
        if good.is_empty() && !self.kept.is_empty() {
            let message = "none of the kept checkpoints is whole: nothing is written over them";
            return refuse(ErrorKind::Corrupt, message.to_owned());
        }
        if self.kept.iter().any(|kept| kept.log_id != meta.log_id) {
            let message = format!("the checkpoints here are not of log {}", meta.log_id);
            return refuse(ErrorKind::Invalid, message);
        }
        let mut names = BTreeSet::new();
        for extent in extents {
            if !names.insert((extent.operator.as_str(), extent.partition)) {
                let (operator, partition) = (&extent.operator, extent.partition);
                let message = format!("partition {partition} of {operator} occurs twice");
                return refuse(ErrorKind::Invalid, message);
            }
        }
        let limit = u32::MAX;
        let long = |length: usize| u32::try_from(length).is_err();
        if long(extents.len()) || extents.iter().any(|extent| long(extent.operator.len())) {
            let message = format!("extents and operator names are limited to {limit}");
            return refuse(ErrorKind::TooLarge, message);
        }
        let room = to_u64(BLOCK) + manifest::encoded_len(good) + manifest::meta_len(meta);
        if room > manifest::LIMIT {
            let message = format!("the manifest would exceed {} bytes", manifest::LIMIT);
            return refuse(ErrorKind::TooLarge, message);
        }
        Ok(())
    }
}

/// Whether the name is gone.
fn removed(directory: &dyn Directory, name: &str) -> bool {
    files::remove_if_there(directory, name).is_ok()
}

/// One write's operations, its syncs counted.
struct Session {
    directory: Arc<dyn Directory>,
    syncs: u32,
}

impl Session {
    fn sync(&mut self, channel: &mut dyn Channel, file: &Arc<dyn File>) -> Result<(), IoFailure> {
        self.syncs += 1;
        files::sync_data(channel, file)
    }

    fn sync_names(&mut self) -> Result<(), IoFailure> {
        self.syncs += 1;
        self.directory.sync()
    }

    /// Writes, syncs and verifies a data file under its new name.
    fn write_data(
        &mut self,
        channel: &mut dyn Channel,
        name: &str,
        meta: &CheckpointMeta,
        manifest: u64,
        extents: &[Extent],
    ) -> Result<(Arc<dyn File>, Digest)> {
        let file = self.directory.open(name, OpenMode::CreateDirect)?;
        let digest = write_data(channel, &file, meta, manifest, extents)?;
        if !planted(Bug::ManifestBeforeData) {
            self.sync(channel, &file)?;
        }
        self.sync_names()?;
        let written = self.directory.open(name, OpenMode::ReadDirect)?;
        loaded::verify(channel, &written, &digest)?;
        Ok((file, digest))
    }

    /// Writes and syncs the next manifest under its passing name.
    fn write_manifest(&mut self, channel: &mut dyn Channel, bytes: &[u8]) -> Result<()> {
        let file = match self.directory.open(NEXT, OpenMode::CreateDirect) {
            Err(failure) if failure.kind() == std::io::ErrorKind::AlreadyExists => {
                files::remove_if_there(&*self.directory, NEXT)?;
                self.directory.open(NEXT, OpenMode::CreateDirect)?
            }
            other => other?,
        };
        let mut writer = Writer::new(channel, &file);
        writer.put(bytes)?;
        let digest = writer.finish()?;
        assert_eq!(to_usize(digest.length), bytes.len(), "CKPT: all of the manifest was sent");
        self.sync(channel, &file)?;
        Ok(())
    }

    /// Puts the next manifest in the place of the last one.
    fn switch(&mut self) -> Result<(), IoFailure> {
        self.directory.rename(NEXT, MANIFEST)?;
        self.sync_names()
    }
}
