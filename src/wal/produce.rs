//! Appending what producers send: once, however often it is sent (LOG.md L22).

use super::catalog::Saying;
use super::core::{Core, Panics};
use super::entry::Entry;
use super::extension::{ProducerStamp, SEQUENCE_MAX};
use super::producers::{Known, Verdict};
use super::range::LsnRange;
use super::staging::{Mark, Want};
use super::trying::{Refused, Tried};
use super::wal::Wal;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, ProducerId, to_u64};
use crate::planted::{Bug, planted};
use crate::sync::lock;

/// What the log knows of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerState {
    /// Who.
    pub id: ProducerId,
    /// Its epoch: what it sends with a lower one is refused.
    pub epoch: u32,
    /// The sequence that is stored next: one more than the last one, or 0.
    pub next_sequence: u64,
    /// The LSN of the last record that it sent, unless that is not known any more.
    pub last_lsn: Option<Lsn>,
}

/// Where records that were sent stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Produced {
    /// Their LSNs; `None` if they were stored so long ago that these are not known any more, or
    /// not one behind the other.
    pub(super) lsns: Option<LsnRange>,
    /// When this record is durable, they are, and what the answer says besides.
    pub(super) settled_by: Lsn,
    /// Whether they were stored before.
    pub(super) repeated: bool,
}

/// What a look at the producer gave.
enum Looked<'a> {
    Produced(Produced),
    NoRoom(Refused<'a>),
}

impl Core {
    /// Stores what a producer sends, if it is not stored already. Waits for room only.
    ///
    /// # Errors
    /// `Fenced`, `SequenceGap`, `Invalid`, `TooLarge`; as an append.
    pub(super) fn produce(
        &self,
        want: Want,
        stamp: ProducerStamp,
        bodies: &[&[u8]],
    ) -> Result<Produced> {
        self.check_fork()?;
        let bytes = self.measure(bodies)?;
        let here = |error: Error| error.at_path(self.directory.path());
        loop {
            let producers = &self.catalog.producers;
            let producer = producers.find_or_add(stamp.id).map_err(here)?;
            let mut known = lock(&producer);
            if known.gone {
                continue;
            }
            let looked = match known.judge(stamp, bodies.len()) {
                Ok(Verdict::Store) => self.store(&mut known, want, stamp, bodies, bytes),
                Ok(Verdict::Stored { first, last }) => {
                    self.recognise(&mut known, stamp, first.map(|first| (first, bodies)), last)
                }
                Err(error) => Err(here(error)),
            };
            if known.said == Lsn::ZERO {
                // Nothing is stored of it: it takes no place in the table.
                producers.remove(stamp.id, &mut known);
            }
            drop(known);
            match looked? {
                Looked::Produced(produced) => return Ok(produced),
                Looked::NoRoom(refused) => self.await_place(refused)?,
            }
        }
    }

    fn store(
        &self,
        known: &mut Known,
        want: Want,
        stamp: ProducerStamp,
        bodies: &[&[u8]],
        bytes: usize,
    ) -> Result<Looked<'_>> {
        self.begin_catalog();
        let want = Want { until: Mark::Appended, ..want };
        let tried = self.try_place(want, bodies, bytes)?;
        Ok(match tried {
            Tried::NoRoom(refused) => Looked::NoRoom(refused),
            Tried::Placed(lsns) => {
                known.store(stamp.epoch, lsns.first(), bodies.len());
                let (settled_by, lsns) = (lsns.last(), Some(lsns));
                Looked::Produced(Produced { lsns, settled_by, repeated: false })
            }
        })
    }

    fn recognise(
        &self,
        known: &mut Known,
        stamp: ProducerStamp,
        found: Option<(Lsn, &[&[u8]])>,
        last: Lsn,
    ) -> Result<Looked<'_>> {
        self.check()?;
        let lsns = found.map(|(first, bodies)| LsnRange::new(first, to_u64(bodies.len())));
        // Who is answered may count on the epoch under which it asked.
        let settled_by = last.max(known.epoch_said);
        let mut produced = Produced { lsns, settled_by, repeated: true };
        if stamp.epoch > known.epoch {
            // A new life, which begins by asking what became of the last records of the one before.
            let refused = self.raise_epoch(known, stamp.id, stamp.epoch)?;
            if let Some(refused) = refused {
                return Ok(Looked::NoRoom(refused));
            }
            produced.settled_by = known.said;
        }
        Ok(Looked::Produced(produced))
    }

    /// Shuts out every lower epoch of a producer, as soon as `known.said` is durable.
    fn raise_epoch(
        &self,
        known: &mut Known,
        id: ProducerId,
        epoch: u32,
    ) -> Result<Option<Refused<'_>>> {
        let raised = Known { epoch, ..known.clone() };
        let tried = self.try_say(&Saying::Producer(id, raised))?;
        Ok(match tried {
            Tried::NoRoom(refused) => Some(refused),
            Tried::Placed(lsns) => {
                known.epoch = epoch;
                (known.said, known.epoch_said) = (lsns.last(), lsns.last());
                None
            }
        })
    }

    /// Waits until what was sent has come as far as asked for (PRODUCER-3).
    pub(super) fn await_produced(&self, produced: &Produced, until: Mark) -> Result<()> {
        if produced.repeated && planted(Bug::DuplicateBeforeDurable) {
            return Ok(());
        }
        match until {
            Mark::Appended => Ok(()),
            Mark::Durable => self.wait_durable(produced.settled_by).map(drop),
            Mark::Written => {
                let _panics = Panics::poison(self);
                self.join_and_wait(lock(&self.open), until, produced.settled_by)
            }
        }
    }

    /// The LSNs, or what to say where they are not known any more.
    ///
    /// # Errors
    /// `Duplicate`.
    pub(super) fn lsns_of(&self, produced: &Produced, stamp: ProducerStamp) -> Result<LsnRange> {
        produced.lsns.ok_or_else(|| {
            let ProducerStamp { id, sequence, .. } = stamp;
            let message = format!(
                "sequence {sequence} of producer {id} is stored, and its LSN is not known any more"
            );
            Error::new(ErrorKind::Duplicate, message).at_path(self.directory.path())
        })
    }

    fn begin_epoch(&self, id: ProducerId, epoch: u32) -> Result<ProducerState> {
        self.check_fork()?;
        let here = |error: Error| error.at_path(self.directory.path());
        loop {
            let producers = &self.catalog.producers;
            let producer = producers.find_or_add(id).map_err(here)?;
            let mut known = lock(&producer);
            if known.gone {
                continue;
            }
            let said = if epoch < known.epoch {
                known
                    .judge(ProducerStamp { id, epoch, sequence: known.next }, 1)
                    .map(|_| None)
                    .map_err(here)
            } else if epoch > known.epoch || known.said == Lsn::ZERO {
                self.raise_epoch(&mut known, id, epoch)
            } else {
                Ok(None)
            };
            if known.said == Lsn::ZERO {
                producers.remove(id, &mut known);
            }
            let (state, settled_by) = (state_of(id, &known), known.said);
            drop(known);
            match said? {
                Some(refused) => self.await_place(refused)?,
                None => {
                    self.wait_durable(settled_by)?;
                    return Ok(state);
                }
            }
        }
    }

    fn forget_producer(&self, id: ProducerId) -> Result<bool> {
        self.check()?;
        loop {
            let Some(producer) = self.catalog.producers.find(id) else { return Ok(false) };
            let mut known = lock(&producer);
            if known.gone {
                continue;
            }
            match self.try_say(&Saying::Forgotten(id))? {
                Tried::Placed(lsns) => {
                    self.catalog.producers.remove(id, &mut known);
                    drop(known);
                    self.wait_durable(lsns.last())?;
                    return Ok(true);
                }
                Tried::NoRoom(refused) => {
                    drop(known);
                    self.await_place(refused)?;
                }
            }
        }
    }
}

fn state_of(id: ProducerId, known: &Known) -> ProducerState {
    let (epoch, next_sequence) = (known.epoch, known.next);
    ProducerState { id, epoch, next_sequence, last_lsn: known.lsns.back().copied() }
}

/// The stamp of the first of the entries, if they come from a producer, one behind the other.
///
/// # Errors
/// `Invalid` if only some do, or they do not follow each other.
pub(super) fn stamp_of(entries: &[Entry<'_>]) -> Result<Option<ProducerStamp>> {
    let first = entries.first().and_then(Entry::stamp);
    for (nth, entry) in (0..).zip(entries) {
        let due = first
            .map(|first| ProducerStamp { sequence: first.sequence.saturating_add(nth), ..first });
        if entry.stamp() != due {
            let message = "what a producer sends in one batch has one id, one producer epoch, and \
                           sequences that follow each other";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if due.is_some_and(|stamp| stamp.sequence > SEQUENCE_MAX) {
            let message = format!("a sequence is {SEQUENCE_MAX} at most");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
    }
    Ok(first)
}

impl Wal {
    /// Begins a life of a producer: from now on what comes with a lower epoch is refused as
    /// [`Fenced`](ErrorKind::Fenced). Returns where it goes on: its state is durable, and so is
    /// every record before `next_sequence`. Not necessary for a producer that knows by itself; a
    /// record with a higher epoch does the same.
    ///
    /// A crash leaves the epoch as it was, or raised. On a full disk nothing changes.
    ///
    /// # Errors
    /// `Fenced` if a higher epoch has begun; `TooLarge` if it is a new producer and there are
    /// [`WalOptions::max_producers`](crate::WalOptions::max_producers); as
    /// [`append`](Wal::append).
    ///
    /// ```
    /// use sawmill::{Entry, ErrorKind, ProducerId, ProducerStamp, Wal, WalOptions};
    /// # let place = tempfile::tempdir()?;
    /// # let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
    /// let wal = Wal::open(place.path(), options)?;
    /// let id = ProducerId::new(42);
    /// let send = |epoch, sequence| {
    ///     wal.append_record(&Entry::new(b"").producer(ProducerStamp { id, epoch, sequence }))
    /// };
    /// let first = send(1, 0)?;
    /// assert_eq!(send(1, 0)?, first); // sent again, stored once
    /// assert_eq!(send(1, 2).unwrap_err().kind(), ErrorKind::SequenceGap);
    /// let state = wal.begin_producer_epoch(id, 2)?;
    /// assert_eq!((state.next_sequence, state.last_lsn), (1, Some(first)));
    /// assert_eq!(send(1, 1).unwrap_err().kind(), ErrorKind::Fenced);
    /// assert_eq!(send(2, 0)?, first); // recognised in every life
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn begin_producer_epoch(&self, id: ProducerId, epoch: u32) -> Result<ProducerState> {
        self.core().begin_epoch(id, epoch)
    }

    /// What the log knows of a producer; `None` if it knows none of this id. What was sent last may
    /// not be durable yet.
    #[must_use]
    pub fn producer(&self, id: ProducerId) -> Option<ProducerState> {
        self.core().check_fork().ok()?;
        let known = self.core().catalog.producers.find(id)?;
        let known = lock(&known);
        (known.said > Lsn::ZERO && !known.gone).then(|| state_of(id, &known))
    }

    /// All producers that the log knows, in the order of their ids.
    #[must_use]
    pub fn producers(&self) -> Vec<ProducerState> {
        if self.core().check_fork().is_err() {
            return Vec::new();
        }
        let all = self.core().catalog.producers.all();
        all.into_iter().filter_map(|(id, _)| self.producer(id)).collect()
    }

    /// Forgets a producer, durably when this returns; `false` if it was not known. What it sent
    /// stays in the log. If it ever sends again, it begins anew with sequence 0, and nothing that
    /// it sent before is recognised.
    ///
    /// A crash leaves it known or forgotten.
    ///
    /// # Errors
    /// As [`append`](Wal::append).
    ///
    /// ```
    /// use sawmill::{Entry, ProducerId, ProducerStamp, Wal, WalOptions};
    /// # let place = tempfile::tempdir()?;
    /// # let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
    /// let wal = Wal::open(place.path(), options)?;
    /// let stamp = ProducerStamp { id: ProducerId::new(1), epoch: 0, sequence: 0 };
    /// wal.append_record(&Entry::new(b"bye").producer(stamp))?;
    /// assert!(wal.forget_producer(stamp.id)? && wal.producers().is_empty());
    /// assert!(!wal.forget_producer(stamp.id)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forget_producer(&self, id: ProducerId) -> Result<bool> {
        self.core().forget_producer(id)
    }
}
