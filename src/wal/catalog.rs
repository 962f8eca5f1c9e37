//! What the log keeps about itself in internal records of its own: the names of streams, and what
//! is known of producers. Layout: `docs/format.md`, "Catalog".
//!
//! CATALOG-1: every frame names the record from which on the catalog is to be read (its *place*),
//! set before the first record that matters gets its LSN, and raised only when everything that
//! matters was repeated behind the new one, durable. CATALOG-2: truncation never passes the place.
//! CATALOG-3: entries replace what was said before of the same thing, so reading from an earlier
//! place gives the same. CATALOG-4: what is known of a thing and the record that says so change
//! under one lock, which nobody holds while he waits: who repeats the catalog from a place on finds
//! everything that was said before it.

use std::collections::BTreeMap;

use super::core::Core;
use super::options::Background;
use super::producers::{self, Known, Producers};
use super::record::RECORD_HEADER;
use super::staging::{Mark, Want};
use super::trying::Tried;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, ProducerId, StreamId, to_u64};
use crate::sync::{Arc, Mutex, MutexGuard, lock, try_lock};

/// The stream of the catalog's internal records.
pub(crate) const CATALOG: StreamId = StreamId::new(0xfffe);
/// The first number of a named stream; those below are for who numbers streams.
pub(crate) const FIRST_NAMED: u16 = 0x8000;
/// The most bytes in a stream's name.
pub(crate) const NAME_MAX: usize = 255;
/// How many segments behind the catalog's place an opening may have to read, before it is raised.
const SEGMENTS_TO_READ: usize = 8;

const STREAM: u8 = 1;
const PRODUCER: u8 = 2;
const FORGOTTEN: u8 = 3;

/// What the log knows about itself.
#[derive(Debug)]
pub(crate) struct Catalog {
    names: Mutex<Names>,
    pub(super) producers: Producers,
    /// A repetition on its way: its place, and the last record of it. Of who has the preparer.
    repeated: Mutex<Option<(Lsn, Lsn)>>,
}

/// The named streams.
#[derive(Debug, Default)]
pub(super) struct Names {
    streams: BTreeMap<Arc<str>, Named>,
    /// The highest number that a record was seen to have whose name may be lost.
    seen: Option<u16>,
}

/// A stream's number, and the record that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) id: StreamId,
    pub(super) said: Lsn,
}

/// Whether all records that were to be read are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    Yes,
    No,
}

/// A record of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Saying<'a> {
    /// A name has a number.
    Stream(StreamId, &'a str),
    /// What is stored of a producer.
    Producer(ProducerId, Known),
    /// A producer was forgotten.
    Forgotten(ProducerId),
}

impl<'a> Saying<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Saying::Stream(id, name) => {
                let mut bytes = vec![STREAM];
                bytes.extend(id.get().to_le_bytes());
                bytes.extend_from_slice(name.as_bytes());
                bytes
            }
            Saying::Producer(id, known) => {
                let mut bytes = vec![PRODUCER];
                producers::encode(*id, known, &mut bytes);
                bytes
            }
            Saying::Forgotten(id) => {
                let mut bytes = vec![FORGOTTEN];
                bytes.extend(id.get().to_le_bytes());
                bytes
            }
        }
    }

    /// What a record's payload says. `None` if it is not whole.
    ///
    /// # Errors
    /// `Unsupported` for a kind that this version does not know.
    pub(crate) fn decode(payload: &'a [u8]) -> Result<Option<Saying<'a>>> {
        let Some((kind, rest)) = payload.split_first() else { return Ok(None) };
        match *kind {
            STREAM => Ok(stream(rest)),
            PRODUCER => Ok(producers::decode(rest).map(|(id, known)| Saying::Producer(id, known))),
            FORGOTTEN => {
                let id = rest.try_into().ok().map(u64::from_le_bytes);
                Ok(id.map(|id| Saying::Forgotten(ProducerId::new(id))))
            }
            other => {
                let message = format!(
                    "the log's catalog has a record of kind {other}, written by a newer version of \
                     sawmill: read it with that one"
                );
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }
}

fn stream(bytes: &[u8]) -> Option<Saying<'_>> {
    let (id, name) = bytes.split_first_chunk::<2>()?;
    let name = std::str::from_utf8(name).ok()?;
    let id = u16::from_le_bytes(*id);
    let whole = is_name(name) && (FIRST_NAMED..CATALOG.get()).contains(&id);
    whole.then_some(Saying::Stream(StreamId::new(id), name))
}

/// Whether a stream may be called so.
pub(super) fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
}

impl Catalog {
    /// One that says nothing yet, and takes so many producers.
    pub(crate) fn new(max_producers: u64) -> Catalog {
        let producers = Producers::new(max_producers);
        Catalog { names: Mutex::default(), producers, repeated: Mutex::default() }
    }
}

impl Names {
    /// The number of a name.
    pub(super) fn number(&self, name: &str) -> Option<(Arc<str>, Named)> {
        self.streams.get_key_value(name).map(|(name, named)| (Arc::clone(name), *named))
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Arc<str>, Named)> {
        self.streams.iter().map(|(name, named)| (name, *named))
    }

    /// Takes note that a record has this number.
    fn see(&mut self, id: StreamId) {
        let number = id.get();
        if (FIRST_NAMED..CATALOG.get()).contains(&number) {
            self.seen = self.seen.max(Some(number));
        }
    }

    /// A number that no name has; `None` if there are too many.
    pub(super) fn fresh(&self) -> Option<StreamId> {
        let highest = self.streams.values().map(|named| named.id.get()).max().max(self.seen);
        let next = highest.map_or(FIRST_NAMED, |id| id + 1);
        (next < CATALOG.get()).then_some(StreamId::new(next))
    }

    /// Takes note of a name. `false` if it, or the number, stands for something else.
    pub(super) fn add(&mut self, name: &str, id: StreamId, said: Lsn) -> bool {
        if let Some(known) = self.streams.get(name) {
            return known.id == id;
        }
        if self.streams.values().any(|known| known.id == id) {
            return false;
        }
        self.streams.insert(Arc::from(name), Named { id, said });
        true
    }
}

impl Core {
    /// The named streams, for who looks one up or adds one. Nobody waits while he holds them.
    pub(super) fn names(&self) -> MutexGuard<'_, Names> {
        lock(&self.catalog.names)
    }

    /// Reads the catalog, which begins at `place`. Before anything is appended. Where a repair gave
    /// up records behind the place, what was said before it counts too, as far as it is there, and
    /// no number of a record is given to a new name.
    ///
    /// # Errors
    /// `Corrupt` where records contradict each other, `Unsupported`, and those of a replay.
    pub(super) fn read_catalog(&self, place: Lsn) -> Result<()> {
        self.progress.raise_catalog(place);
        if place == Lsn::ZERO {
            return Ok(());
        }
        let from = place.max(self.first_lsn());
        if self.read_sayings(from)? == Whole::No {
            *self.names() = Names::default();
            self.catalog.producers.clear();
            self.read_sayings(self.first_lsn())?;
        }
        Ok(())
    }

    fn read_sayings(&self, from: Lsn) -> Result<Whole> {
        let mut whole = Whole::Yes;
        let mut replay = self.replay_through(from, self.progress.durable(), true);
        while let Some(record) = replay.next() {
            let record = match record {
                Err(error) if error.kind() == ErrorKind::Lost => {
                    whole = Whole::No;
                    continue;
                }
                record => record?,
            };
            if record.internal && record.stream == CATALOG {
                self.read_saying(record.payload, record.lsn)?;
            } else if !record.internal {
                self.names().see(record.stream);
                if let Some(stamp) = record.producer() {
                    self.catalog.producers.read_record(stamp, record.lsn);
                }
            }
        }
        Ok(whole)
    }

    fn read_saying(&self, payload: &[u8], lsn: Lsn) -> Result<()> {
        let here = |error: Error| error.at_path(self.directory.path()).for_lsns(lsn, lsn);
        let added = match Saying::decode(payload).map_err(here)? {
            Some(Saying::Stream(id, name)) => self.names().add(name, id, lsn),
            Some(Saying::Producer(id, known)) => {
                self.catalog.producers.read_known(id, known, lsn);
                true
            }
            Some(Saying::Forgotten(id)) => {
                self.catalog.producers.read_forgotten(id);
                true
            }
            None => false,
        };
        if added {
            return Ok(());
        }
        let message = "a record of the log's catalog makes no sense, or contradicts another: it \
                       was not written by a correct writer";
        Err(here(Error::new(ErrorKind::Corrupt, message)))
    }

    /// Before the catalog's first record gets its LSN: every frame says from now on that there is
    /// one.
    pub(super) fn begin_catalog(&self) {
        if self.progress.catalog() == Lsn::ZERO {
            self.progress.begin_catalog(self.appended().next());
        }
    }

    /// Adds a record to the catalog if there is room. For who holds the lock of what it says.
    ///
    /// # Errors
    /// As [`Core::try_place`].
    pub(super) fn try_say(&self, saying: &Saying<'_>) -> Result<Tried<'_>> {
        self.begin_catalog();
        let (want, bytes) = (Want::internal(CATALOG, Mark::Appended), saying.encode());
        let measured = self.measure_for(want, &[&bytes])?;
        self.try_place(want, &[&bytes], measured)
    }

    /// `lsn`, or the catalog's place if that is lower: what lies before may be given up.
    pub(super) fn clamp_to_catalog(&self, lsn: Lsn) -> Lsn {
        match self.progress.catalog() {
            Lsn::ZERO => lsn,
            place => lsn.min(place),
        }
    }

    /// Repeats the catalog if a truncation before `lsn` would pass it. Not for who has the
    /// preparer: it appends.
    ///
    /// # Errors
    /// As an append.
    pub(super) fn cover_catalog(&self, lsn: Lsn) -> Result<()> {
        let place = self.progress.catalog();
        let allowed = lock(&self.pins).clamp(lsn).min(self.progress.durable());
        let start = self.index.reaching(allowed).first().map(|first| first.first_lsn);
        if place == Lsn::ZERO || start.is_none_or(|start| start <= place) {
            return Ok(());
        }
        let from = self.appended().next();
        let mut last = Lsn::ZERO;
        let names: Vec<_> = {
            let names = self.names();
            names.all().map(|(name, named)| (Arc::clone(name), named.id)).collect()
        };
        for (name, id) in names {
            // A name never changes: nobody has to be kept from that.
            let stream = Saying::Stream(id, &name);
            last = self.say(|| self.try_say(&stream).map(Some))?.max(last);
        }
        for (id, known) in self.catalog.producers.all() {
            last = self.say(|| self.try_say_known(id, &lock(&known)))?.max(last);
        }
        // Also where nothing had to be said: no frame below the place names it before that is
        // durable, and what made it needless is.
        self.wait_durable(last.max(from.previous()))?;
        self.progress.raise_catalog(from);
        Ok(())
    }

    /// Says something as soon as there is room; returns its LSN. `try_it` takes the lock that it
    /// needs, and gives it back.
    fn say<'a>(&'a self, try_it: impl Fn() -> Result<Option<Tried<'a>>>) -> Result<Lsn> {
        loop {
            match try_it()? {
                Some(Tried::Placed(lsns)) => return Ok(lsns.last()),
                Some(Tried::NoRoom(refused)) => self.await_place(refused)?,
                None => return Ok(Lsn::ZERO),
            }
        }
    }

    /// Says what is known of a producer, if it has anything.
    fn try_say_known(&self, id: ProducerId, known: &Known) -> Result<Option<Tried<'_>>> {
        if known.gone || known.said == Lsn::ZERO {
            return Ok(None);
        }
        self.try_say(&Saying::Producer(id, known.clone())).map(Some)
    }

    /// For who has the preparer, when the log has come into a new segment: repeats the catalog
    /// without waiting for anything, where retention waits for that or an opening would have to
    /// read much; and raises its place if an earlier repetition has become durable.
    pub(super) fn cover_catalog_at_rotation(&self) {
        if self.progress.catalog() == Lsn::ZERO || self.background == Background::Inline {
            return;
        }
        let mut repeated = lock(&self.catalog.repeated);
        if let Some((from, last)) = *repeated
            && last <= self.progress.durable()
        {
            *repeated = None;
            self.progress.raise_catalog(from);
        }
        let behind = self.index.reaching(self.progress.catalog()).len();
        let due = !self.retention.is_off() || behind > SEGMENTS_TO_READ;
        if due && behind > 1 && repeated.is_none() {
            let from = self.appended().next();
            *repeated = self.try_repeat().map(|last| (from, last.max(from.previous())));
        }
    }

    /// Says again all that the catalog holds; returns the last record of it. `None` where there is
    /// no room, or somebody holds a lock who may be waiting for the caller: it is tried again in
    /// the next segment. Not begun where it would not fit the segment that has just been come into:
    /// what was placed of it would lead into the next one, and so on without an end.
    fn try_repeat(&self) -> Option<Lsn> {
        if self.bytes_to_repeat()? > self.limits.batch {
            return None;
        }
        let mut last = Lsn::ZERO;
        let names = try_lock(&self.catalog.names)?;
        for (name, named) in names.all() {
            last = placed(self.try_say(&Saying::Stream(named.id, name)).ok()?)?;
        }
        drop(names);
        for (id, known) in self.catalog.producers.all() {
            let known = try_lock(&known)?;
            let tried = self.try_say_known(id, &known).ok()?;
            if let Some(tried) = tried {
                last = placed(tried)?;
            }
        }
        Some(last)
    }
}

impl Core {
    /// How many bytes a repetition takes. `None` where somebody holds a lock.
    fn bytes_to_repeat(&self) -> Option<u64> {
        let of = |saying: &Saying<'_>| to_u64(saying.encode().len() + RECORD_HEADER);
        let names = try_lock(&self.catalog.names)?;
        let mut bytes: u64 = names.all().map(|(name, n)| of(&Saying::Stream(n.id, name))).sum();
        drop(names);
        for (id, known) in self.catalog.producers.all() {
            bytes += of(&Saying::Producer(id, try_lock(&known)?.clone()));
        }
        Some(bytes)
    }
}

/// The last record, if it was placed.
fn placed(tried: Tried<'_>) -> Option<Lsn> {
    match tried {
        Tried::Placed(lsns) => Some(lsns.last()),
        Tried::NoRoom(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_example_of_the_format() {
        let saying = Saying::Stream(StreamId::new(0x8001), "orders");
        assert_eq!(saying.encode(), b"\x01\x01\x80orders");
        assert_eq!(Saying::decode(&saying.encode()).unwrap(), Some(saying));
    }

    #[test]
    fn refuses_what_no_writer_writes() {
        for bytes in [&b""[..], b"\x01", b"\x01\x01", b"\x01\x01\x80", b"\x01\x01\x00a"] {
            assert_eq!(Saying::decode(bytes).unwrap(), None, "{bytes:?}");
        }
        assert_eq!(Saying::decode(b"\x01\xfe\xffa").unwrap(), None, "the catalog's own number");
        assert_eq!(Saying::decode(b"\x01\x01\x80\xff").unwrap(), None, "no UTF-8");
        assert_eq!(Saying::decode(b"\x07").unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_name_has_one_number_and_a_number_one_name() {
        let mut names = Names::default();
        let first = names.fresh().unwrap();
        assert!(names.add("a", first, Lsn::FIRST) && names.add("a", first, Lsn::FIRST));
        assert!(!names.add("b", first, Lsn::FIRST));
        assert!(!names.add("a", names.fresh().unwrap(), Lsn::FIRST));
        assert!(names.add("b", StreamId::new(0xfffd), Lsn::FIRST));
        assert_eq!(names.fresh(), None, "the last one is taken");
    }
}
