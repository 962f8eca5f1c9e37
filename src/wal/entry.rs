//! Records with more than a payload: what a caller hands over, and what a reader is shown.

use std::borrow::Cow;

use super::durability::Durability;
use super::extension::{Extension, ProducerStamp};
use super::pending::Pending;
use super::produce::stamp_of;
use super::range::LsnRange;
use super::replay::Record;
use super::staging::{Mark, Want};
use super::wal::Wal;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, StreamId};

/// A record to be appended, with what it may carry beside its payload.
///
/// Key and timestamp mean nothing to the log: they are kept with the record, under the frame's
/// checksum, and shown by every reader. They take 2 bytes, and 3 bytes with each field; together
/// with the payload they count as the record's size.
///
/// ```
/// use sawmill::{Entry, StreamId, Wal, WalOptions};
/// # let place = tempfile::tempdir()?;
/// # let options = WalOptions { segment_size: 64 << 10, ..WalOptions::default() };
/// let wal = Wal::open(place.path(), options)?;
/// let entry = Entry::new(b"shipped").key(b"order 7").timestamp(1_700_000_000_000_000_000);
/// let lsn = wal.append_record(&entry)?; // durable when it returns
/// let mut replay = wal.replay()?;
/// let record = replay.next().expect("a record")?;
/// assert_eq!((record.lsn, record.payload), (lsn, b"shipped".as_slice()));
/// assert_eq!(record.key(), Some(b"order 7".as_slice()));
/// assert_eq!(record.timestamp(), Some(1_700_000_000_000_000_000));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    payload: &'a [u8],
    stream: StreamId,
    durability: Durability,
    extension: Extension<'a>,
}

impl<'a> Entry<'a> {
    /// A record of the default stream with nothing but this payload.
    #[must_use]
    pub fn new(payload: &'a [u8]) -> Entry<'a> {
        let (stream, durability) = (StreamId::DEFAULT, Durability::Disk);
        Entry { payload, stream, durability, extension: Extension::default() }
    }

    /// With a key of at most 16 KiB. An empty key is not the same as none.
    #[must_use]
    pub fn key(mut self, key: &'a [u8]) -> Entry<'a> {
        self.extension.key = Some(key);
        self
    }

    /// With a time of the caller's, by convention nanoseconds since the Unix epoch. The log does
    /// not look at it: readers seek by the time at which a frame was sealed (LOG.md L24).
    #[must_use]
    pub fn timestamp(mut self, nanoseconds: i64) -> Entry<'a> {
        self.extension.timestamp = Some(nanoseconds);
        self
    }

    /// From a producer: stored once, however often it is sent (LOG.md L22). When it is sent again,
    /// the answer is that of the original: its LSN, when that is durable, or its error. Sequences
    /// of a producer count from 0 over all its lives, in every stream of the log together; the LSNs
    /// of the last 1,024 are kept, what is older is answered with
    /// [`Duplicate`](ErrorKind::Duplicate).
    ///
    /// A producer that got no answer, because it or the log crashed, sends again from the first
    /// record that was not answered. See [`Wal::begin_producer_epoch`] for an example.
    #[must_use]
    pub fn producer(mut self, stamp: ProducerStamp) -> Entry<'a> {
        self.extension.producer = Some(stamp);
        self
    }

    /// In this stream, given by its number or by the handle of a [named one](crate::WalStream).
    /// Default [`StreamId::DEFAULT`].
    #[must_use]
    pub fn stream(mut self, stream: impl Into<StreamId>) -> Entry<'a> {
        self.stream = stream.into();
        self
    }

    /// What the record survives when [`append_record`](Wal::append_record) returns. Default
    /// [`Durability::Disk`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Entry<'a> {
        self.durability = durability;
        self
    }

    pub(super) fn stamp(&self) -> Option<ProducerStamp> {
        self.extension.producer
    }

    /// What is copied into the frame, if it is not the payload alone.
    fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.extension.length() + self.payload.len());
        self.extension.encode(&mut body);
        body.extend_from_slice(self.payload);
        body
    }

    /// How it is appended, and what.
    pub(super) fn encoded(&self) -> (Want, Cow<'a, [u8]>) {
        let want = Want::user(self.stream, self.until());
        match self.extension.is_empty() {
            true => (want, Cow::Borrowed(self.payload)),
            false => (Want { extended: true, ..want }, Cow::Owned(self.body())),
        }
    }

    /// Bytes that count for the limits of a record.
    fn size(&self) -> usize {
        match self.extension.is_empty() {
            true => self.payload.len(),
            false => self.extension.length() + self.payload.len(),
        }
    }

    fn until(&self) -> Mark {
        match self.durability {
            Durability::Disk => Mark::Durable,
            Durability::Buffered => Mark::Written,
        }
    }
}

impl<'a> Record<'a> {
    fn fields(&self) -> Extension<'a> {
        Extension::decode(self.extension)
            .unwrap_or_else(|| unreachable!("EXTENSION-2: shown without having been decoded"))
    }

    /// The key that it was appended with.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.fields().key
    }

    /// The time that it was appended with.
    #[must_use]
    pub fn timestamp(&self) -> Option<i64> {
        self.fields().timestamp
    }

    /// Who sent it, if it was sent by a producer.
    #[must_use]
    pub fn producer(&self) -> Option<ProducerStamp> {
        self.fields().producer
    }
}

impl Wal {
    /// Appends a record, with what it carries, and returns when it survives what its
    /// [durability](Entry::durability) says.
    ///
    /// A crash leaves it whole, with all of its fields, or not at all. On a full disk and when the
    /// log is poisoned: as [`append`](Wal::append).
    ///
    /// # Errors
    /// As [`append`](Wal::append); `TooLarge` also for a key over 16 KiB. For what a
    /// [producer](Entry::producer) sends: `Duplicate` if it is stored and its LSN is not known any
    /// more, `SequenceGap`, `Fenced`, `Invalid` for a sequence from 2^63 on, and `TooLarge` for a
    /// new producer if there are as many as the options allow.
    pub fn append_record(&self, entry: &Entry<'_>) -> Result<Lsn> {
        self.check_entry(entry)?;
        let want = Want::user(entry.stream, entry.until());
        if entry.extension.is_empty() {
            return self.timed(|core| Ok(core.append(want, &[entry.payload])?.first()));
        }
        let (want, body) = (Want { extended: true, ..want }, entry.body());
        match self.stamp(std::slice::from_ref(entry))? {
            None => self.timed(|core| Ok(core.append(want, &[&body])?.first())),
            Some(stamp) => self.timed(|core| {
                let produced = core.produce(want, stamp, &[&body])?;
                core.await_produced(&produced, want.until)?;
                Ok(core.lsns_of(&produced, stamp)?.first())
            }),
        }
    }

    /// As [`append_record`](Wal::append_record), without waiting, as [`submit`](Wal::submit). The
    /// entry's durability does not matter: whoever waits for the result waits until it is durable.
    /// What a producer sends again gives the original's LSN; where that is not known any more, or
    /// the epoch is a new one, this call waits.
    ///
    /// # Errors
    /// As [`append_record`](Wal::append_record).
    pub fn submit_record(&self, entry: &Entry<'_>) -> Result<Pending> {
        self.check_entry(entry)?;
        let want = Want::user(entry.stream, Mark::Appended);
        let core = self.core();
        let lsns = if entry.extension.is_empty() {
            core.append(want, &[entry.payload])?
        } else {
            let (want, body) = (Want { extended: true, ..want }, entry.body());
            match self.stamp(std::slice::from_ref(entry))? {
                None => core.append(want, &[&body])?,
                Some(stamp) => {
                    let produced = core.produce(want, stamp, &[&body])?;
                    // Who waits for the original's LSN only would not wait for more.
                    if produced.lsns.is_none_or(|lsns| lsns.last() != produced.settled_by) {
                        core.await_produced(&produced, Mark::Durable)?;
                    }
                    core.lsns_of(&produced, stamp)?
                }
            }
        };
        Ok(Pending::new(self.share(), lsns.first()))
    }

    /// Appends records of one stream as one: after a crash all of them are there, or none. Returns
    /// when they survive what their durability says, which is the same for all.
    ///
    /// A producer's batch is recognised when it is sent again as it was sent first: see
    /// [`Entry::producer`].
    ///
    /// # Errors
    /// As [`append_batch`](Wal::append_batch) and [`append_record`](Wal::append_record). `Invalid`
    /// if the entries name different streams or durabilities, if only some come from a producer,
    /// or not one behind the other, or if some of them are stored and some are not. `Duplicate`
    /// also if all are stored, but not as one batch.
    pub fn append_records(&self, entries: &[Entry<'_>]) -> Result<LsnRange> {
        let Some(first) = entries.first() else {
            return self.append_batch(&[] as &[&[u8]]);
        };
        for entry in entries {
            self.check_entry(entry)?;
            if (entry.stream, entry.durability) != (first.stream, first.durability) {
                let message = "a batch has one stream and one durability";
                return Err(Error::new(ErrorKind::Invalid, message).at_path(self.path()));
            }
        }
        // Before anything is put together: entries may name the same bytes many times.
        self.core().check_batch(entries.iter().map(Entry::size))?;
        let want = Want::user(first.stream, first.until());
        if entries.iter().all(|entry| entry.extension.is_empty()) {
            let payloads: Vec<&[u8]> = entries.iter().map(|entry| entry.payload).collect();
            return self.timed(|core| core.append(want, &payloads));
        }
        let bodies: Vec<Vec<u8>> = entries.iter().map(Entry::body).collect();
        let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
        let want = Want { extended: true, ..want };
        match self.stamp(entries)? {
            None => self.timed(|core| core.append(want, &bodies)),
            Some(stamp) => self.timed(|core| {
                let produced = core.produce(want, stamp, &bodies)?;
                core.await_produced(&produced, want.until)?;
                core.lsns_of(&produced, stamp)
            }),
        }
    }

    fn stamp(&self, entries: &[Entry<'_>]) -> Result<Option<ProducerStamp>> {
        stamp_of(entries).map_err(|error| error.at_path(self.path()))
    }

    /// Refuses what is over a limit before anything is copied (LOG.md L4).
    pub(super) fn check_entry(&self, entry: &Entry<'_>) -> Result<()> {
        entry.extension.check().map_err(|error| error.at_path(self.path()))?;
        self.core().check_record(entry.size())
    }
}
