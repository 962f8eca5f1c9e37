//! Producers: which records of each are stored, so that none is stored twice (LOG.md L22). Layout
//! of what the catalog says of them: `docs/format.md`, "Catalog".
//!
//! PRODUCER-1: sequences count from 0 without gaps; `next` is the one that is stored next.
//! PRODUCER-2: a record gets its LSN while its producer is locked, and is noted before the lock is
//! given back: the order of LSNs is that of sequences. PRODUCER-3: an answer is given when the
//! original is as durable as was asked for, or with its error.

use std::collections::{BTreeMap, VecDeque};

use super::extension::{ProducerStamp, SEQUENCE_MAX};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, ProducerId, to_u64};
use crate::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard, lock};

/// Of how many of the last sequences the LSN is kept.
pub(crate) const WINDOW: usize = 1024;

/// What is known of one producer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) epoch: u32,
    /// The next sequence.
    pub(crate) next: u64,
    /// The LSNs of the last sequences, up to `next`, oldest first.
    pub(crate) lsns: VecDeque<Lsn>,
    /// The last record that says so: of the producer, or of the catalog.
    pub(crate) said: Lsn,
    /// The record with which `epoch` is durable; zero if it was when this was read.
    pub(crate) epoch_said: Lsn,
    /// Whether it was removed from the table: whoever still has it looks again.
    pub(crate) gone: bool,
}

/// What becomes of records that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They are the next ones.
    Store,
    /// They are stored. The LSN of the first one, where all follow each other and it is still
    /// known; and the record with which they all are durable.
    Stored { first: Option<Lsn>, last: Lsn },
}

impl Known {
    /// What becomes of `count` records, of which the first has this stamp.
    ///
    /// # Errors
    /// `Fenced`, `SequenceGap`; `Invalid` where some are stored and some are not.
    pub(crate) fn judge(&self, stamp: ProducerStamp, count: usize) -> Result<Verdict> {
        let ProducerStamp { id, epoch, sequence } = stamp;
        if epoch < self.epoch {
            let message = format!(
                "producer {id} is in its epoch {} by now: what it sends as epoch {epoch} is not \
                 stored",
                self.epoch
            );
            return Err(Error::new(ErrorKind::Fenced, message));
        }
        if sequence > self.next {
            let message = format!(
                "producer {id} sent its sequence {sequence}, but {} is the next one: send what is \
                 missing first",
                self.next
            );
            return Err(Error::new(ErrorKind::SequenceGap, message));
        }
        if sequence == self.next {
            return Ok(Verdict::Store);
        }
        let end = sequence.saturating_add(to_u64(count));
        if end > self.next {
            let message = format!(
                "producer {id} sent a batch that begins with the stored sequence {sequence} and \
                 ends beyond {}: send it as it was sent first",
                self.next
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let oldest = self.next - to_u64(self.lsns.len());
        let nth = |sequence: u64| {
            let index = usize::try_from(sequence.checked_sub(oldest)?).ok()?;
            self.lsns.get(index).copied()
        };
        let (first, last) = (nth(sequence), nth(end - 1));
        let dense = |first: &Lsn| last == Some(first.advance(to_u64(count) - 1));
        // Before the oldest one that is known, whatever it was: durable with that one.
        let last = last.or(self.lsns.front().copied()).unwrap_or(self.said);
        Ok(Verdict::Stored { first: first.filter(dense), last })
    }

    /// Takes note of `count` records from `first` on that were stored as the next ones.
    pub(crate) fn store(&mut self, epoch: u32, first: Lsn, count: usize) {
        debug_assert!(first > self.said, "PRODUCER-2: LSNs rise with sequences");
        for nth in 0..to_u64(count) {
            if self.lsns.len() == WINDOW {
                self.lsns.pop_front();
            }
            self.lsns.push_back(first.advance(nth));
        }
        self.said = first.advance(to_u64(count) - 1);
        if epoch > self.epoch {
            (self.epoch, self.epoch_said) = (epoch, self.said);
        }
        self.next += to_u64(count);
    }

    /// Takes note of a record that was read.
    fn read(&mut self, stamp: ProducerStamp, lsn: Lsn) {
        if stamp.sequence < self.next {
            return;
        }
        if stamp.sequence > self.next {
            // The catalog is read from behind its first records, or some were given up.
            self.lsns.clear();
            self.next = stamp.sequence;
        }
        self.store(stamp.epoch.max(self.epoch), lsn, 1);
    }
}

/// All producers of a log.
#[derive(Debug)]
pub(crate) struct Producers {
    /// How many there may be.
    limit: u64,
    table: RwLock<BTreeMap<ProducerId, Arc<Mutex<Known>>>>,
}

impl Producers {
    pub(crate) fn new(limit: u64) -> Producers {
        Producers { limit, table: RwLock::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<ProducerId, Arc<Mutex<Known>>>> {
        self.table.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<ProducerId, Arc<Mutex<Known>>>> {
        self.table.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A producer that is known.
    pub(crate) fn find(&self, id: ProducerId) -> Option<Arc<Mutex<Known>>> {
        self.read().get(&id).map(Arc::clone)
    }

    /// A producer, which is known from now on.
    ///
    /// # Errors
    /// `TooLarge` if it is a new one, and as many are known as there may be.
    pub(crate) fn find_or_add(&self, id: ProducerId) -> Result<Arc<Mutex<Known>>> {
        if let Some(known) = self.find(id) {
            return Ok(known);
        }
        let mut table = self.write();
        if let Some(known) = table.get(&id) {
            return Ok(Arc::clone(known));
        }
        if to_u64(table.len()) >= self.limit {
            let message = format!(
                "producer {id} is new, and the log knows {} already, as many as its option \
                 max_producers allows: forget one that sends nothing any more",
                self.limit
            );
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let known = Arc::new(Mutex::new(Known::default()));
        table.insert(id, Arc::clone(&known));
        Ok(known)
    }

    /// Forgets a producer whose lock the caller holds.
    pub(crate) fn remove(&self, id: ProducerId, known: &mut Known) {
        known.gone = true;
        self.write().remove(&id);
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(ProducerId, Arc<Mutex<Known>>)> {
        self.read().iter().map(|(id, known)| (*id, Arc::clone(known))).collect()
    }

    /// Forgets what was read, to read it again.
    pub(crate) fn clear(&self) {
        self.write().clear();
    }

    /// Takes note of a producer's record that was read from the log.
    pub(crate) fn read_record(&self, stamp: ProducerStamp, lsn: Lsn) {
        let mut table = self.write();
        lock(table.entry(stamp.id).or_default()).read(stamp, lsn);
    }

    /// Takes note of what the catalog says of a producer.
    pub(crate) fn read_known(&self, id: ProducerId, known: Known, said: Lsn) {
        self.write().insert(id, Arc::new(Mutex::new(Known { said, ..known })));
    }

    /// The catalog says that a producer was forgotten.
    pub(crate) fn read_forgotten(&self, id: ProducerId) {
        self.write().remove(&id);
    }
}

/// Appends what the catalog says of a producer, behind the kind.
pub(crate) fn encode(id: ProducerId, known: &Known, out: &mut Vec<u8>) {
    out.extend(id.get().to_le_bytes());
    out.extend(known.epoch.to_le_bytes());
    out.extend(known.next.to_le_bytes());
    #[allow(clippy::cast_possible_truncation, reason = "PRODUCER-1: at most 1024")]
    let count = known.lsns.len() as u16;
    out.extend(count.to_le_bytes());
    let mut above: Option<Lsn> = None;
    for lsn in known.lsns.iter().rev() {
        put_number(out, above.map_or(lsn.get(), |above| above.get() - lsn.get()));
        above = Some(*lsn);
    }
}

/// What the catalog says of a producer. `None` if the bytes are not whole.
pub(crate) fn decode(bytes: &[u8]) -> Option<(ProducerId, Known)> {
    let (id, rest) = bytes.split_first_chunk::<8>()?;
    let (epoch, rest) = rest.split_first_chunk::<4>()?;
    let (next, rest) = rest.split_first_chunk::<8>()?;
    let (count, mut rest) = rest.split_first_chunk::<2>()?;
    let (next, count) = (u64::from_le_bytes(*next), u16::from_le_bytes(*count));
    // Behind the highest sequence at most.
    if usize::from(count) > WINDOW || u64::from(count) > next || next > SEQUENCE_MAX + 1 {
        return None;
    }
    let mut lsns = VecDeque::with_capacity(usize::from(count));
    for _ in 0..count {
        let number = take_number(&mut rest)?;
        let lsn = match lsns.front() {
            None => number,
            Some(above) if number > 0 => Lsn::get(*above).checked_sub(number)?,
            Some(_) => return None,
        };
        if lsn == 0 || lsn >= u64::MAX / 2 {
            return None;
        }
        lsns.push_front(Lsn::new(lsn));
    }
    let epoch = u32::from_le_bytes(*epoch);
    let known = Known { epoch, next, lsns, said: Lsn::ZERO, epoch_said: Lsn::ZERO, gone: false };
    rest.is_empty().then_some((ProducerId::new(u64::from_le_bytes(*id)), known))
}

/// Seven bits a byte, the lowest first; the last byte's highest bit is clear.
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp(epoch: u32, sequence: u64) -> ProducerStamp {
        ProducerStamp { id: ProducerId::new(7), epoch, sequence }
    }

    fn known(count: u64, step: u64) -> Known {
        let mut known = Known::default();
        for nth in 0..count {
            known.store(1, Lsn::new(10 + nth * step), 1);
        }
        known
    }

    #[test]
    fn stores_the_next_and_recognises_what_is_stored() {
        let known = known(2000, 3);
        assert_eq!(known.judge(stamp(1, 2000), 5).unwrap(), Verdict::Store);
        let stored = |first, last| Verdict::Stored { first, last };
        let lsn = |sequence: u64| Lsn::new(10 + sequence * 3);
        assert_eq!(known.judge(stamp(1, 1999), 1).unwrap(), stored(Some(lsn(1999)), lsn(1999)));
        assert_eq!(known.judge(stamp(2, 976), 1).unwrap(), stored(Some(lsn(976)), lsn(976)));
        assert_eq!(known.judge(stamp(1, 975), 1).unwrap(), stored(None, lsn(976)));
        assert_eq!(known.judge(stamp(1, 0), 2000).unwrap(), stored(None, lsn(1999)));
        assert_eq!(known.judge(stamp(1, 1990), 2).unwrap(), stored(None, lsn(1991)), "not dense");
        let kind = |stamp, count| known.judge(stamp, count).unwrap_err().kind();
        assert_eq!(kind(stamp(1, 2001), 1), ErrorKind::SequenceGap);
        assert_eq!(kind(stamp(1, u64::MAX), 1), ErrorKind::SequenceGap);
        assert_eq!(kind(stamp(0, 3), 1), ErrorKind::Fenced);
        assert_eq!(kind(stamp(1, 1999), 2), ErrorKind::Invalid);
    }

    #[test]
    fn a_batch_is_dense() {
        let mut known = Known::default();
        known.store(0, Lsn::new(5), 3);
        known.store(0, Lsn::new(9), 2);
        let first = |sequence, count| match known.judge(stamp(0, sequence), count).unwrap() {
            Verdict::Stored { first, .. } => first,
            Verdict::Store => panic!("stored before"),
        };
        assert_eq!((first(0, 3), first(3, 2)), (Some(Lsn::new(5)), Some(Lsn::new(9))));
        assert_eq!((first(0, 5), first(1, 2)), (None, Some(Lsn::new(6))));
    }

    #[test]
    fn worked_example_of_the_format() {
        let mut some = Known { epoch: 2, next: 7, ..Known::default() };
        some.store(2, Lsn::new(100), 1);
        some.store(2, Lsn::new(300), 2);
        let mut bytes = Vec::new();
        encode(ProducerId::new(5), &some, &mut bytes);
        let expected = [
            5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0xad, 0x02, 1, 0xc8,
            0x01,
        ];
        assert_eq!(bytes, expected);
        let (id, found) = decode(&bytes).unwrap();
        assert_eq!(
            (id, Known { said: some.said, epoch_said: some.epoch_said, ..found }),
            (ProducerId::new(5), some)
        );
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn refuses_what_no_writer_writes() {
        let of = |next: u64, count: u16, rest: &[u8]| {
            let mut bytes = vec![0; 12];
            bytes.extend(next.to_le_bytes());
            bytes.extend(count.to_le_bytes());
            bytes.extend(rest);
            decode(&bytes).is_some()
        };
        assert!(of(5, 0, &[]) && of(5, 1, &[9]) && of(5, 2, &[9, 8]));
        assert!(!of(1, 2, &[9, 8]), "more than there are");
        assert!(!of(5, 2, &[9, 9]) && !of(5, 2, &[9, 10]), "below the first record");
        assert!(!of(5, 2, &[9, 0]) && !of(5, 1, &[0]), "twice, and none");
        assert!(!of(5, 1, &[0x80; 10]) && !of(5, 1, &[9, 9]), "endless, and too long");
        assert!(!of(5, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]), "over 64");
        assert!(!of(9000, 1025, &[1; 1025]));
        assert!(of(1 << 63, 0, &[]) && !of((1 << 63) + 1, 0, &[]) && !of(u64::MAX, 0, &[]));
        let mut high = Vec::new();
        put_number(&mut high, u64::MAX);
        assert!(!of(5, 1, &high), "an LSN that no log reaches");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            id: u64,
            epoch: u32,
            count in 0..3000_u64,
            step in 1..999_u64,
        ) {
            let known = Known { epoch, ..known(count, step) };
            let mut bytes = Vec::new();
            encode(ProducerId::new(id), &known, &mut bytes);
            let (found, read) = decode(&bytes).unwrap();
            let read = Known { said: known.said, epoch_said: known.epoch_said, ..read };
            prop_assert_eq!((found.get(), read), (id, known));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>) {
            if let Some((id, known)) = decode(&bytes) {
                let mut again = Vec::new();
                encode(id, &known, &mut again);
                prop_assert!(again.len() <= bytes.len());
            }
        }
    }
}
