//! What the log keeps about itself in internal records of its own: the names of streams. Layout:
//! `docs/format.md`, "Catalog".
//!
//! CATALOG-1: every frame names the record from which on the catalog is to be read (its *place*),
//! set before the first record that matters gets its LSN, and raised only when everything that
//! matters was repeated behind the new one, durable. CATALOG-2: truncation never passes the place.
//! CATALOG-3: entries replace what was said before of the same thing, so reading from an earlier
//! place gives the same.

use std::collections::BTreeMap;

use super::core::Core;
use super::staging::{Mark, Want};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, StreamId};
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

/// What the log knows about itself.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    names: Mutex<Names>,
}

/// The named streams. Whoever holds this may raise the catalog's place.
#[derive(Debug, Default)]
pub(super) struct Names {
    streams: BTreeMap<Arc<str>, StreamId>,
    /// The highest number that a record was seen to have whose name may be lost.
    seen: Option<u16>,
    /// A repetition on its way: its place, and the last record of it.
    repeated: Option<(Lsn, Lsn)>,
}

/// Whether all records that were to be read are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    Yes,
    No,
}

/// A record of the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saying<'a> {
    /// A name has a number.
    Stream(StreamId, &'a str),
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
            other => {
                let message = format!(
                    "the log's catalog has a record of kind {other}, written by \
                                       a newer version of sawmill: read it with that one"
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

impl Names {
    /// The number of a name.
    pub(super) fn number(&self, name: &str) -> Option<(Arc<str>, StreamId)> {
        self.streams.get_key_value(name).map(|(name, id)| (Arc::clone(name), *id))
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Arc<str>, StreamId)> {
        self.streams.iter().map(|(name, id)| (name, *id))
    }

    /// A number that no name has; `None` if there are too many.
    pub(super) fn fresh(&self) -> Option<StreamId> {
        let highest = self.streams.values().map(|id| id.get()).max().max(self.seen);
        let next = highest.map_or(FIRST_NAMED, |id| id + 1);
        (next < CATALOG.get()).then_some(StreamId::new(next))
    }

    /// Takes note of a name. `false` if it, or the number, stands for something else.
    pub(super) fn add(&mut self, name: &str, id: StreamId) -> bool {
        if let Some(known) = self.streams.get(name) {
            return *known == id;
        }
        if self.streams.values().any(|known| *known == id) {
            return false;
        }
        self.streams.insert(Arc::from(name), id);
        true
    }
}

impl Core {
    /// The named streams, for who reads or adds some.
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
        self.progress.set_catalog(place);
        if place == Lsn::ZERO {
            return Ok(());
        }
        let mut names = self.names();
        let from = place.max(self.first_lsn());
        if self.read_names(&mut names, from)? == Whole::No {
            self.read_names(&mut names, self.first_lsn())?;
        }
        Ok(())
    }

    fn read_names(&self, names: &mut Names, from: Lsn) -> Result<Whole> {
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
            if !record.internal || record.stream != CATALOG {
                let number = record.stream.get();
                if (FIRST_NAMED..CATALOG.get()).contains(&number) {
                    names.seen = names.seen.max(Some(number));
                }
                continue;
            }
            let said = Saying::decode(record.payload).map_err(|error| {
                error.at_path(self.directory.path()).for_lsns(record.lsn, record.lsn)
            })?;
            let added = match said {
                Some(Saying::Stream(id, name)) => names.add(name, id),
                None => false,
            };
            if !added {
                let message = "a record of the log's catalog makes no sense, or contradicts \
                               another: it was not written by a correct writer";
                let error = Error::new(ErrorKind::Corrupt, message);
                let error = error.at_path(self.directory.path());
                return Err(error.for_lsns(record.lsn, record.lsn));
            }
        }
        Ok(whole)
    }

    /// Before the catalog's first record gets its LSN: every frame says from now on that there is
    /// one. For who holds the names.
    pub(super) fn begin_catalog(&self) {
        if self.progress.catalog() == Lsn::ZERO {
            self.progress.set_catalog(self.appended().next());
        }
    }

    /// Adds a record to the catalog, durable on return. For who holds the names.
    pub(super) fn say(&self, saying: Saying<'_>) -> Result<Lsn> {
        self.begin_catalog();
        let lsns = self.append(Want::internal(CATALOG, Mark::Durable), &[&saying.encode()])?;
        Ok(lsns.first())
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
        let mut names = self.names();
        let from = self.appended().next();
        let last = self.repeat(&names, |want, bytes| self.append(want, &[bytes]))?;
        if let Some(last) = last {
            self.wait_durable(last)?;
        }
        names.repeated = None;
        self.progress.set_catalog(from);
        Ok(())
    }

    /// For who has the preparer, when the log has come into a new segment: repeats the catalog
    /// without waiting for anything, where retention waits for that or an opening would have to
    /// read much; and raises its place if an earlier repetition has become durable.
    pub(super) fn cover_catalog_at_rotation(&self) {
        let place = self.progress.catalog();
        if place == Lsn::ZERO || self.background == super::options::Background::Inline {
            return;
        }
        // Who holds the names may be waiting for a segment, which this thread prepares.
        let Some(mut names) = try_lock(&self.catalog.names) else { return };
        if let Some((from, last)) = names.repeated
            && last <= self.progress.durable()
        {
            names.repeated = None;
            self.progress.set_catalog(from);
        }
        let behind = self.index.reaching(self.progress.catalog()).len();
        let due = !self.retention.is_off() || behind > SEGMENTS_TO_READ;
        if !due || behind < 2 || names.repeated.is_some() {
            return;
        }
        let from = self.appended().next();
        // Without room it is tried again in the next segment.
        let Ok(last) = self.repeat(&names, |want, bytes| self.try_append(want, bytes)) else {
            return;
        };
        names.repeated = Some((from, last.unwrap_or(Lsn::ZERO)));
    }

    /// Says again all that the catalog holds; returns the last record of it.
    fn repeat(
        &self,
        names: &Names,
        append: impl Fn(Want, &[u8]) -> Result<super::range::LsnRange>,
    ) -> Result<Option<Lsn>> {
        let want = Want::internal(CATALOG, Mark::Appended);
        let mut last = None;
        for (name, id) in names.all() {
            last = Some(append(want, &Saying::Stream(id, name).encode())?.last());
        }
        Ok(last)
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
        assert!(names.add("a", first) && names.add("a", first));
        assert!(!names.add("b", first) && !names.add("a", names.fresh().unwrap()));
        assert!(names.add("b", StreamId::new(0xfffd)));
        assert_eq!(names.fresh(), None, "the last one is taken");
    }
}
