//! A job's checkpoint directory: writes checkpoints, finds the newest whole one, removes old ones.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::chain::{chain, needs_base, needs_fold, retain};
use super::data_file::Look;
use super::find::{MANIFEST, evidence, find_manifest, lost_manifest};
use super::fold::Fold;
use super::loaded::{Loaded, Shelf};
use super::manifest::{self, Entry, Manifest};
use super::session::{Fill, NEXT, Session};
use super::writer::write_data;
use super::{CheckpointMeta, Extent, file_name, file_number, spare};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::to_u64;
use crate::planted::{Bug, planted};
use crate::storage::{BLOCK, Channel, Directory, files};
use crate::sync::{Mutex, lock};

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
    named: Vec<Entry>,
    /// Sequence of the last durable manifest; 0: none.
    durable: u64,
    /// Sequence of the last manifest that was tried.
    tried: u64,
    next: u64,
    /// Bytes of the spare file.
    spare: u64,
    /// Data files that may go once another manifest is durable.
    leftovers: Vec<String>,
    /// Numbers of named files that were found not whole; 0 is none.
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
    /// Opens a directory: reads the manifest, and removes what crashes left. Keeps the newest
    /// checkpoint and older ones, `keep` in all (at least 1; 2 lets one rot), of which no two share
    /// a file, and what these build on.
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
            spare: spare::length(&*directory, &names),
            directory,
            keep,
            named: manifest.map_or_else(Vec::new, |found| found.entries),
            durable,
            tried: durable,
            next: 1,
            leftovers: Vec::new(),
            lost: Mutex::default(),
        };
        store.next = store.named.last().map_or(1, |entry| entry.meta.checkpoint + 1);
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
            if self.is_named(number) {
                continue;
            }
            let log = self.named.last().map(|entry| entry.meta.log_id);
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

    /// The checkpoints that a restart may go on from, oldest first: none of what they need of the
    /// log may be truncated (ENGINE.md E3).
    pub fn kept(&self) -> impl Iterator<Item = &CheckpointMeta> {
        self.named.iter().filter(|entry| entry.kept).map(|entry| &entry.meta)
    }

    fn is_named(&self, number: u64) -> bool {
        self.named.iter().any(|entry| entry.meta.checkpoint == number)
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
        let mut shelf = Shelf::new(&self.directory, Look::Whole);
        let places = (0..self.named.len()).rev().filter(|place| self.named[*place].kept);
        for place in places {
            match shelf.load(&self.named, place) {
                Ok(mut loaded) => {
                    loaded.fell_back = fell_back;
                    return Ok(Some(loaded));
                }
                Err(broken) if broken.error.kind() == ErrorKind::Unsupported => {
                    return Err(broken.error);
                }
                Err(broken) => {
                    if broken.error.kind() != ErrorKind::Corrupt {
                        kind = ErrorKind::Unreadable;
                    }
                    let number = self.named[place].meta.checkpoint;
                    fell_back.push(format!("checkpoint {number} is not whole: {}", broken.error));
                    lock(&self.lost).insert(broken.number);
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

    /// What is named and not known to be damaged, nor builds on something that is.
    fn good(&self) -> Vec<Entry> {
        let lost = lock(&self.lost).clone();
        let number = |place: usize| self.named[place].meta.checkpoint;
        let whole = |place: &usize| {
            let chain = chain(&self.named, *place);
            chain.into_iter().all(|place| !lost.contains(&number(place)))
        };
        let places = (0..self.named.len()).filter(whole);
        places.map(|place| self.named[place].clone()).collect()
    }

    /// Whether a delta on this checkpoint may be written: it is the newest, and not all that is
    /// kept shares a file with it. Otherwise a base is due.
    #[must_use]
    pub fn takes_delta(&self, parent: u64) -> bool {
        let good = self.good();
        let newest = good.last().is_some_and(|entry| entry.meta.checkpoint == parent);
        newest && !needs_base(&good, self.keep)
    }

    /// Whether the newest checkpoint is to be [folded](CheckpointStore::fold).
    #[must_use]
    pub fn needs_fold(&self) -> bool {
        needs_fold(&self.good())
    }

    /// Writes a checkpoint and makes it the newest. The store gives it its number. With
    /// `meta.parent` it is a delta: an extent holds what has changed since that checkpoint, in the
    /// format of `docs/checkpoint-format.md`, and partitions without a change may be left out.
    ///
    /// Durable and read back from the device when this returns `Ok`.
    ///
    /// # Errors
    /// The new checkpoint is discarded, its predecessor stands, and the next write may succeed:
    /// `DiskFull`, `Io`, `Unreadable`; `Corrupt` if what was read back is not what was written;
    /// `TooLarge`, `Invalid` before anything was written. If the error came at or after the rename
    /// of the manifest, a restart may find either checkpoint, whole.
    pub fn write(&mut self, meta: CheckpointMeta, extents: &[Extent]) -> Result<Written> {
        let good = self.good();
        self.check(&meta, extents, &good)?;
        self.add(meta, good, &mut |channel, file, meta, manifest| {
            write_data(channel, file, meta, manifest, extents)
        })
    }

    /// Writes the newest checkpoint once more, as a base, from its files alone. It gets a number of
    /// its own, and the next delta is one on it. What it was folded from stays as the other
    /// checkpoint, while this is the newest.
    ///
    /// # Errors
    /// As [`CheckpointStore::write`]; `Invalid` if there is no checkpoint. `Corrupt` or
    /// `Unreadable` also if a file of the chain is not what was written: then the next checkpoint
    /// has to be a base.
    pub fn fold(&mut self) -> Result<Written> {
        let good = self.good();
        let fold = Fold::of_newest(&self.directory, &good);
        let fold = fold.map_err(|broken| {
            lock(&self.lost).insert(broken.number);
            broken.error
        })?;
        let mut bad = 0;
        let written = self.add(fold.meta(), good, &mut |channel, file, meta, manifest| {
            let filled = fold.write(channel, file, meta, manifest);
            filled.map_err(|broken| {
                bad = broken.number;
                broken.error
            })
        });
        lock(&self.lost).insert(bad);
        written
    }

    /// Gives a new data file its number and publishes it.
    fn add(
        &mut self,
        meta: CheckpointMeta,
        good: Vec<Entry>,
        fill: &mut Fill<'_>,
    ) -> Result<Written> {
        let meta = CheckpointMeta { checkpoint: self.next, ..meta };
        self.next += 1;
        let name = file_name(meta.checkpoint);
        let builds = meta.parent != 0;
        let directory = Arc::clone(&self.directory);
        let mut session = Session { directory, syncs: 0, spare: builds && self.spare > 0 };
        let outcome = self.publish(&mut session, meta, good, fill);
        if builds && !session.spare {
            self.spare = 0; // it was not there, or has become this data file
        }
        match outcome {
            Ok(written) => {
                self.sweep();
                let delta = if builds { written.bytes } else { 0 };
                self.spare = spare::keep(&*self.directory, self.spare, delta);
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
        meta: CheckpointMeta,
        mut entries: Vec<Entry>,
        fill: &mut Fill<'_>,
    ) -> Result<Written, Failed> {
        let mut channel = self.directory.channel().map_err(|e| Failed::Before(e.into()))?;
        let data = session.write_data(&mut *channel, &meta, self.durable, fill);
        let (file, digest) = data.map_err(Failed::Before)?;
        let (checkpoint, log_id) = (meta.checkpoint, meta.log_id);
        entries.push(Entry { meta: named(meta), digest, kept: true });
        let entries = retain(&entries, self.keep);
        self.tried += 1;
        let manifest = Manifest { log_id, sequence: self.tried, entries };
        let bytes = manifest::encode(&manifest);
        session.write_manifest(&mut *channel, &bytes).map_err(Failed::Before)?;
        session.switch().map_err(|failure| Failed::Open(failure.into()))?;
        if planted(Bug::ManifestBeforeData) {
            session.sync(&mut *channel, &file).map_err(|e| Failed::Open(e.into()))?;
        }
        self.retire(&manifest);
        self.durable = manifest.sequence;
        self.named = manifest.entries;
        Ok(Written { checkpoint, bytes: digest.length, syncs: session.syncs })
    }

    /// Marks for removal what the durable manifest no longer names.
    fn retire(&mut self, manifest: &Manifest) {
        let number = |entry: &Entry| entry.meta.checkpoint;
        let named: BTreeSet<u64> = manifest.entries.iter().map(number).collect();
        let gone = self.named.iter().map(number).filter(|number| !named.contains(number));
        self.leftovers.extend(gone.map(file_name));
    }

    /// Removes files that no manifest names. What cannot be removed is tried again next time;
    /// nothing depends on it.
    fn sweep(&mut self) {
        let named = |name: &str| file_number(name).is_some_and(|number| self.is_named(number));
        assert!(!self.leftovers.iter().any(|name| named(name)), "CKPT-2: named files stay");
        let directory = Arc::clone(&self.directory);
        self.leftovers.retain(|name| !removed(&*directory, name));
    }

    /// Everything that can be refused before a byte is written.
    fn check(&self, meta: &CheckpointMeta, extents: &[Extent], good: &[Entry]) -> Result<()> {
        let refuse =
            |kind, message: String| Err(Error::new(kind, message).at_path(self.directory.path()));
        if good.is_empty() && !self.named.is_empty() {
            let message = "none of the kept checkpoints is whole: nothing is written over them";
            return refuse(ErrorKind::Corrupt, message.to_owned());
        }
        if self.named.iter().any(|entry| entry.meta.log_id != meta.log_id) {
            let message = format!("the checkpoints here are not of log {}", meta.log_id);
            return refuse(ErrorKind::Invalid, message);
        }
        let parent = good.iter().find(|entry| entry.meta.checkpoint == meta.parent);
        if meta.parent != 0 && parent.is_none() {
            let message = format!("there is no whole checkpoint {} to build on", meta.parent);
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
        if long(extents.len())
            || long(meta.engine.len())
            || extents.iter().any(|extent| long(extent.operator.len()))
        {
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

/// What the manifest says about a checkpoint: the engine's bytes are in the data file.
fn named(meta: CheckpointMeta) -> CheckpointMeta {
    CheckpointMeta { engine: Vec::new(), ..meta }
}

/// Whether the name is gone.
fn removed(directory: &dyn Directory, name: &str) -> bool {
    files::remove_if_there(directory, name).is_ok()
}
