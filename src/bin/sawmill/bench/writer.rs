//! What one thread appends, and what it remembers of it.

use super::Outcome;
use super::histogram::Histogram;

/// Mixes a number well enough that sums of mixed numbers tell what was summed.
#[inline]
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// How many records, and a sum over (LSN, payload) that does not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) records: u64,
    sum: u64,
}

impl Tally {
    #[inline]
    fn add(&mut self, lsn: u64, stamp: u64) {
        self.records += 1;
        self.sum = self.sum.wrapping_add(mix(lsn ^ stamp.rotate_left(17)));
    }

    pub(crate) fn merge(&mut self, other: Tally) {
        self.records += other.records;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// The payloads of one thread in one round: a stamp of their own, then bytes that are the same for
/// all payloads of this size.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Which of the threads this is, from 0.
    pub(crate) number: usize,
    payload: Vec<u8>,
    next: u64,
    pub(crate) tally: Tally,
    pub(crate) latency: Histogram,
}

fn filler(size: usize) -> Vec<u8> {
    (0..size).map(|at| mix((at / 8) as u64).to_le_bytes()[at % 8]).collect()
}

impl Writer {
    pub(crate) fn new(round: u64, number: usize, size: usize) -> Writer {
        // Stamps of different rounds and threads differ.
        let next = round << 44 | (number as u64) << 32;
        let (tally, latency) = (Tally::default(), Histogram::default());
        Writer { number, payload: filler(size), next, tally, latency }
    }

    pub(crate) fn size(&self) -> usize {
        self.payload.len()
    }

    /// The next payload.
    #[inline]
    pub(crate) fn payload(&mut self) -> &[u8] {
        self.next += 1;
        self.payload[..8].copy_from_slice(&mix(self.next).to_le_bytes());
        &self.payload
    }

    /// As [`payload`](Self::payload), into `out`, which held one before or is empty.
    pub(crate) fn payload_into(&mut self, out: &mut Vec<u8>) {
        let payload = self.payload();
        out.clear();
        out.extend_from_slice(payload);
    }

    /// Remembers that the last payload got this place.
    #[inline]
    pub(crate) fn placed(&mut self, lsn: u64) {
        self.placed_back(lsn, 0);
    }

    /// Remembers that the payload so many before the last got this place.
    #[inline]
    pub(crate) fn placed_back(&mut self, lsn: u64, back: u64) {
        self.tally.add(lsn, mix(self.next - back));
    }
}

/// Checks payloads that are read back.
#[derive(Debug)]
pub(crate) struct Reader {
    filler: Vec<u8>,
    pub(crate) tally: Tally,
}

impl Reader {
    pub(crate) fn new(size: usize) -> Reader {
        Reader { filler: filler(size), tally: Tally::default() }
    }

    /// Takes a record into the tally.
    ///
    /// # Errors
    /// If it is none that a [`Writer`] made.
    pub(crate) fn check(&mut self, lsn: u64, payload: &[u8]) -> Outcome {
        let stamp = payload.first_chunk::<8>().copied().map(u64::from_le_bytes);
        let rest = payload.get(8..);
        match stamp {
            Some(stamp) if rest == self.filler.get(8..) => self.tally.add(lsn, stamp),
            _ => return Err(format!("record {lsn} has bytes that nobody appended").into()),
        }
        Ok(())
    }

    /// Fails unless just what was appended was read (BENCH-1).
    pub(crate) fn expect(&self, who: &str, appended: Tally) -> Outcome {
        if self.tally == appended {
            return Ok(());
        }
        let (read, wrote) = (self.tally.records, appended.records);
        Err(format!("{who}: {wrote} records were acknowledged, {read} read, or others").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_must_be_what_was_appended() {
        let mut writer = Writer::new(3, 1, 100);
        let mut reader = Reader::new(100);
        for lsn in 1..=5 {
            let payload = writer.payload().to_vec();
            writer.placed(lsn);
            reader.check(lsn, &payload).unwrap();
        }
        reader.expect("test", writer.tally).unwrap();
        // The right records in wrong places.
        let (first, second) = (writer.payload().to_vec(), writer.payload().to_vec());
        writer.placed_back(6, 1);
        writer.placed(7);
        reader.check(7, &first).unwrap();
        reader.check(6, &second).unwrap();
        assert!(reader.expect("test", writer.tally).is_err());
        assert!(reader.check(8, &first[1..]).is_err());
    }
}
