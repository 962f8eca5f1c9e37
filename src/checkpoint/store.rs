//! A job's checkpoint directory: writes checkpoints, finds the newest whole one, removes old ones.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::chain::{chain, needs_base, needs_fold, retain};
use super::data_file::Look;
use super::find::{MANIFEST, evidence, find_manifest, lost_manifest};
use super::fold::{Filled, Fold, Folding};
use super::loaded::{Loaded, Shelf};
use super::manifest::{self, Digest, Entry, Manifest};
use super::pace::Pace;
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
    /// The checkpoint that it is a delta on.
    pub parent: Option<u64>,
    /// Bytes in its data file.
    pub bytes: u64,
    /// Bytes in all files of the newest checkpoint, which it may not be.
    pub newest_bytes: u64,
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
    pace: Pace,
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
            pace: Pace::default(),
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
        self.find(Look::Whole)
    }

    fn find(&self, look: Look) -> Result<Option<Loaded>> {
        let mut fell_back = Vec::new();
        let mut kind = ErrorKind::Corrupt;
        let mut shelf = Shelf::new(&self.directory, look);
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

    /// As [`newest`](CheckpointStore::newest), but only the indexes of its files were looked at;
    /// every block is when it is read: [`Loaded::restore`] says which parts are lost, and
    /// [`CheckpointStore::distrust`] takes note of it.
    ///
    /// # Errors
    /// As [`newest`](CheckpointStore::newest).
    pub(crate) fn newest_unread(&self) -> Result<Option<Loaded>> {
        self.find(Look::Index)
    }

    /// A file is not what was written: nothing is built on it any more.
    pub(crate) fn distrust(&self, number: u64) {
        lock(&self.lost).insert(number);
    }

    /// Kept checkpoints of the same generation that are older than this one, newest first, as far
    /// as their indexes are whole.
    pub(crate) fn older<'s>(
        &'s self,
        than: &'s CheckpointMeta,
    ) -> impl Iterator<Item = Loaded> + 's {
        let mut shelf = Shelf::new(&self.directory, Look::Index);
        let older = |entry: &Entry| {
            let same =
                entry.meta.generation == than.generation || planted(Bug::RebuildAcrossGeneration);
            entry.kept && entry.meta.checkpoint < than.checkpoint && same
        };
        let places = (0..self.named.len()).rev().filter(move |at| older(&self.named[*at]));
        places.filter_map(move |place| shelf.load(&self.named, place).ok())
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

    /// Whether a delta on this checkpoint may be written: it is whole, as far as is known.
    #[must_use]
    pub fn takes_delta(&self, parent: u64) -> bool {
        self.good().iter().any(|entry| entry.meta.checkpoint == parent)
    }

    /// Whether one bad file could cost all that is kept: a base is due, written anew or
    /// [folded](CheckpointStore::fold).
    #[must_use]
    pub fn wants_base(&self) -> bool {
        needs_base(&self.good(), self.keep)
    }

    /// How many independent checkpoints are kept.
    pub(crate) fn keeps(&self) -> usize {
        self.keep
    }

    /// The same store, whose writes let others have their turn on the device.
    pub(crate) fn paced(self, pace: Pace) -> CheckpointStore {
        CheckpointStore { pace, ..self }
    }

    /// Bytes of the newest checkpoint, all of its files; 0 if there is none.
    #[must_use]
    pub fn newest_bytes(&self) -> u64 {
        let Some(newest) = self.named.len().checked_sub(1) else { return 0 };
        let files = chain(&self.named, newest).into_iter();
        files.map(|place| self.named[place].digest.length).sum()
    }

    /// Whether the newest checkpoint is to be [folded](CheckpointStore::fold).
    #[must_use]
    pub fn needs_fold(&self) -> bool {
        let good = self.good();
        let builds = good.last().is_some_and(|newest| newest.meta.parent != 0);
        needs_fold(&good) || (builds && needs_base(&good, self.keep))
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
        self.check(&meta, extents, &self.good())?;
        self.add(meta, &mut |channel, ends, meta, manifest| {
            write_data(channel, ends, meta, manifest, extents)
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
        let newest = self.good().last().map_or(0, |entry| entry.meta.checkpoint);
        let number = self.take_number();
        let folding = self.begin_fold(newest, number)?;
        self.end_fold(folding.fill())
    }

    /// The number of the next checkpoint, for a fold: it is older than whatever is written after
    /// this call.
    #[must_use]
    pub fn take_number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// Begins to fold a checkpoint under a number that was taken when that was the newest: opens
    /// its files. [`Folding::fill`] needs no store. Until [`CheckpointStore::end_fold`], further
    /// checkpoints may be written, deltas on the one that is folded with all that has changed
    /// since; so is the first one on the fold.
    ///
    /// # Errors
    /// As [`CheckpointStore::fold`].
    pub fn begin_fold(&mut self, checkpoint: u64, number: u64) -> Result<Folding> {
        let fold = Fold::of_entry(&self.directory, &self.good(), checkpoint);
        let fold = fold.map_err(|broken| {
            lock(&self.lost).insert(broken.number);
            broken.error
        })?;
        let beside = (&self.directory, self.durable, self.pace.clone());
        Ok(Folding::new(fold, number, beside))
    }

    /// Makes what was filled a checkpoint, in its place: older than those that were written since
    /// it was begun.
    ///
    /// # Errors
    /// As [`CheckpointStore::fold`].
    pub fn end_fold(&mut self, filled: Filled) -> Result<Written> {
        let Filled { meta, mut session, outcome, bad } = filled;
        lock(&self.lost).insert(bad);
        let name = file_name(meta.checkpoint);
        let published = outcome.map_err(Failed::Before).and_then(|digest| {
            let channel = self.directory.channel().map_err(|e| Failed::Before(e.into()));
            self.name(&mut session, &mut *channel?, (meta, digest))
        });
        self.conclude(&name, 0, published)
    }

    /// Gives a new data file its number and publishes it.
    fn add(&mut self, meta: CheckpointMeta, fill: &mut Fill<'_>) -> Result<Written> {
        let meta = CheckpointMeta { checkpoint: self.take_number(), ..meta };
        let name = file_name(meta.checkpoint);
        let builds = meta.parent != 0;
        let directory = Arc::clone(&self.directory);
        let mut session = Session { directory, syncs: 0, spare: builds && self.spare > 0 };
        let outcome = self.publish(&mut session, meta, fill);
        if builds && !session.spare {
            self.spare = 0; // it was not there, or has become this data file
        }
        let delta = outcome.as_ref().map_or(0, |written| if builds { written.bytes } else { 0 });
        self.conclude(&name, delta, outcome)
    }

    /// Cleans up behind a data file, however it ended: a delta of so many bytes, or something else.
    fn conclude(
        &mut self,
        name: &str,
        delta: u64,
        outcome: Result<Written, Failed>,
    ) -> Result<Written> {
        match outcome {
            Ok(written) => {
                self.sweep();
                self.spare = spare::keep(&*self.directory, self.spare, delta);
                Ok(written)
            }
            Err(Failed::Before(error)) => {
                // Best effort: what cannot be removed now goes with the next sweep.
                for name in [name, NEXT] {
                    if !removed(&*self.directory, name) {
                        self.leftovers.push(name.to_owned());
                    }
                }
                Err(error)
            }
            Err(Failed::Open(error)) => {
                self.leftovers.push(name.to_owned());
                Err(error)
            }
        }
    }

    /// Steps 1 to 6 of `docs/checkpoint-format.md`, in order.
    fn publish(
        &mut self,
        session: &mut Session,
        meta: CheckpointMeta,
        fill: &mut Fill<'_>,
    ) -> Result<Written, Failed> {
        let channel = self.directory.channel().map_err(|e| Failed::Before(e.into()))?;
        let mut channel = self.pace.channel(channel);
        let data = session.write_data(&mut *channel, &meta, self.durable, fill);
        let (file, digest) = data.map_err(Failed::Before)?;
        let written = self.name(session, &mut *channel, (meta, digest))?;
        if planted(Bug::ManifestBeforeData) {
            session.sync(&mut *channel, &file).map_err(|e| Failed::Open(e.into()))?;
        }
        Ok(written)
    }

    /// Steps 4 to 6: from here on the manifest names the data file.
    fn name(
        &mut self,
        session: &mut Session,
        channel: &mut dyn Channel,
        (meta, digest): (CheckpointMeta, Digest),
    ) -> Result<Written, Failed> {
        let (checkpoint, log_id) = (meta.checkpoint, meta.log_id);
        let parent = (meta.parent != 0).then_some(meta.parent);
        let mut entries = self.good();
        entries.push(Entry { meta: named(meta), digest, kept: true });
        // A fold takes its number when it is begun.
        entries.sort_by_key(|entry| entry.meta.checkpoint);
        let entries = retain(&entries, self.keep);
        self.tried += 1;
        let manifest = Manifest { log_id, sequence: self.tried, entries };
        let bytes = manifest::encode(&manifest);
        session.write_manifest(channel, &bytes).map_err(Failed::Before)?;
        session.switch().map_err(|failure| Failed::Open(failure.into()))?;
        self.retire(&manifest);
        self.durable = manifest.sequence;
        self.named = manifest.entries;
        if !self.is_named(checkpoint) {
            self.leftovers.push(file_name(checkpoint));
        }
        let (bytes, newest_bytes, syncs) = (digest.length, self.newest_bytes(), session.syncs);
        Ok(Written { checkpoint, parent, bytes, newest_bytes, syncs })
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
