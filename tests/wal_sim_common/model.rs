//! What was handed to the log, what it said, and what may be there.

use std::collections::BTreeMap;

/// What became of a record that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was promised: it may be there or not.
    Open,
    /// Acknowledged at `Disk`, or shown to a reader: it is there, with its LSN.
    Held,
    /// The log said that it was not appended.
    Refused,
    /// An opening did not show it: it never comes back.
    Lost,
}

#[derive(Debug)]
struct Attempt {
    bytes: Vec<u8>,
    /// The last one of its batch.
    last: usize,
    lsn: Option<u64>,
    state: State,
    /// The caller was told that it failed, and did not know whether it is there.
    failed: bool,
}

/// Every record that was ever handed over, by its number, in order.
#[derive(Debug, Default)]
pub(crate) struct Model {
    attempts: Vec<Attempt>,
    /// Who holds an LSN that was acknowledged or shown.
    holders: BTreeMap<u64, usize>,
    /// The number behind the last one acknowledged, after each call that raised it.
    acks: Vec<usize>,
    /// No truncation was asked to go beyond it.
    floor: u64,
    /// Records that failed, and were there all the same when the log was opened again.
    landed: u64,
}

/// How much a damage of the medium may take without a word: what only the last group or groups
/// held, which nothing attests (LOG.md L15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    /// Nothing: the disk was honest.
    Closed,
    /// The last so many groups.
    Groups(usize),
    /// Anything: the device lied.
    All,
}

/// What a reader saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) records: Vec<(u64, Vec<u8>)>,
    pub(crate) first_lsn: u64,
    pub(crate) durable_lsn: u64,
    /// Right after opening: what is not there now never was.
    pub(crate) opened: bool,
}

fn number_of(bytes: &[u8]) -> Option<usize> {
    let number: [u8; 8] = bytes.get(..8)?.try_into().ok()?;
    usize::try_from(u64::from_le_bytes(number)).ok()
}

impl Model {
    /// Makes records of these lengths that nobody can mistake for others.
    pub(crate) fn make(&mut self, lengths: &[usize]) -> (usize, Vec<Vec<u8>>) {
        let first = self.attempts.len();
        let last = first + lengths.len() - 1;
        for (at, length) in lengths.iter().enumerate() {
            let number = (first + at) as u64;
            let mut bytes = number.to_le_bytes().to_vec();
            bytes.extend((8..*length).map(|byte| (number as usize * 31 + byte) as u8));
            self.attempts.push(Attempt {
                bytes,
                last,
                lsn: None,
                state: State::Open,
                failed: false,
            });
        }
        let made = self.attempts[first..].iter().map(|attempt| attempt.bytes.clone()).collect();
        (first, made)
    }

    pub(crate) fn refused(&mut self, first: usize) {
        self.attempts[first..].iter_mut().for_each(|attempt| attempt.state = State::Refused);
    }

    /// The log gave these LSNs away.
    pub(crate) fn numbered(&mut self, first: usize, lsn: u64) -> Result<(), String> {
        for (at, attempt) in self.attempts[first..].iter_mut().enumerate() {
            let lsn = lsn + at as u64;
            attempt.lsn = Some(lsn);
            if let Some(holder) = self.holders.get(&lsn) {
                return Err(format!("LSN {lsn} of record {holder} was given to {}", first + at));
            }
        }
        Ok(())
    }

    /// What was handed over as `number` before is said to stand at `lsn`. On a device that lies it
    /// may have gone with everything else, and nobody has looked yet if the power went again.
    pub(crate) fn numbered_again(
        &mut self,
        number: usize,
        lsn: u64,
        window: Window,
    ) -> Result<(), String> {
        match self.attempts[number].lsn {
            Some(own) if own != lsn && !matches!(window, Window::All) => {
                Err(format!("number {number} stands at {own}, and was answered with {lsn}"))
            }
            _ => {
                self.attempts[number].lsn = Some(lsn);
                Ok(())
            }
        }
    }

    pub(crate) fn bytes(&self, number: usize) -> &[u8] {
        &self.attempts[number].bytes
    }

    /// Whether it is known not to be in the log.
    pub(crate) fn is_gone(&self, number: usize) -> bool {
        matches!(self.attempts[number].state, State::Refused | State::Lost)
    }

    /// The log is poisoned: what was not acknowledged has failed.
    pub(crate) fn poisoned(&mut self) {
        let open = |attempt: &&mut Attempt| attempt.state == State::Open;
        self.attempts.iter_mut().filter(open).for_each(|attempt| attempt.failed = true);
    }

    /// How many failed, and were there all the same.
    pub(crate) fn landed_all_the_same(&self) -> u64 {
        self.landed
    }

    /// Everything up to `lsn` was acknowledged.
    pub(crate) fn acknowledged(&mut self, lsn: u64) {
        let mut end = self.acks.last().copied().unwrap_or(0);
        let before = end;
        for (number, attempt) in self.attempts.iter_mut().enumerate().skip(before) {
            let Some(own) = attempt.lsn.filter(|own| *own <= lsn) else { continue };
            if matches!(attempt.state, State::Open | State::Held) {
                attempt.state = State::Held;
                self.holders.insert(own, number);
                end = number + 1;
            }
        }
        if end > before {
            self.acks.push(end);
        }
    }

    /// Something was written that attests what stands before it.
    pub(crate) fn attested(&mut self) {
        self.acks.push(self.acks.last().copied().unwrap_or(0));
    }

    pub(crate) fn truncated(&mut self, lsn: u64) {
        self.floor = self.floor.max(lsn);
    }

    /// The LSNs that somebody could ask for.
    pub(crate) fn held(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.holders.iter().map(|(lsn, number)| (*lsn, self.attempts[*number].bytes.as_slice()))
    }

    /// A reader that may be behind the log's start showed a record.
    pub(crate) fn shown(&self, lsn: u64, bytes: &[u8]) -> Result<(), String> {
        let attempt = number_of(bytes).and_then(|number| self.attempts.get(number));
        match attempt {
            Some(attempt) if attempt.bytes == bytes && attempt.lsn == Some(lsn) => Ok(()),
            _ => Err(format!("an open reader showed a record {lsn} that never was")),
        }
    }

    /// What is wrong with what a reader saw. Takes note of it.
    pub(crate) fn check(&mut self, seen: &Seen, window: Window) -> Result<(), String> {
        if seen.first_lsn > self.floor.max(1) {
            return Err(format!("starts at {}, truncated to {}", seen.first_lsn, self.floor));
        }
        let present = self.present(seen, window)?;
        self.whole_batches(&present)?;
        self.absent(seen, &present, window)?;
        for (number, lsn) in &present {
            let attempt = &mut self.attempts[*number];
            self.landed += u64::from(seen.opened && std::mem::take(&mut attempt.failed));
            attempt.state = State::Held;
            attempt.lsn = Some(*lsn);
            self.holders.insert(*lsn, *number);
        }
        if seen.opened {
            // The barrier attests what was found.
            self.acks.push(present.keys().next_back().map_or(0, |last| last + 1));
            self.attested();
        }
        Ok(())
    }

    /// The records seen, by number: each was handed over, in this order, and may be here.
    fn present(&self, seen: &Seen, window: Window) -> Result<BTreeMap<usize, u64>, String> {
        let mut present = BTreeMap::new();
        let (mut last_number, mut last_lsn) = (None, 0);
        for (lsn, bytes) in &seen.records {
            let number = number_of(bytes).filter(|number| *number < self.attempts.len());
            let Some(number) = number else {
                return Err(format!("record {lsn} was never appended"));
            };
            let attempt = &self.attempts[number];
            if attempt.bytes != *bytes {
                return Err(format!("record {lsn} has other bytes than number {number}"));
            }
            if *lsn <= last_lsn || last_number.is_some_and(|last| number <= last) {
                return Err(format!("record {lsn}, number {number}, is out of order"));
            }
            if *lsn > seen.durable_lsn || *lsn < seen.first_lsn {
                return Err(format!("record {lsn} is shown outside of what is durable"));
            }
            if attempt.lsn.is_some_and(|own| own != *lsn) {
                return Err(format!("number {number} had LSN {:?}, now {lsn}", attempt.lsn));
            }
            let holder = self.holders.get(lsn).is_some_and(|holder| *holder != number);
            if holder && window == Window::Closed {
                return Err(format!("record {lsn} was acknowledged or shown with other bytes"));
            }
            if matches!(attempt.state, State::Refused | State::Lost) {
                return Err(format!("number {number} at {lsn} is back: {:?}", attempt.state));
            }
            (last_number, last_lsn) = (Some(number), *lsn);
            present.insert(number, *lsn);
        }
        Ok(present)
    }

    fn whole_batches(&self, present: &BTreeMap<usize, u64>) -> Result<(), String> {
        let mut expected = None;
        for number in present.keys() {
            if expected.is_some_and(|expected| expected != *number) {
                return Err(format!("a batch is there without number {expected:?}"));
            }
            let last = self.attempts[*number].last;
            expected = (last > *number).then_some(number + 1);
        }
        match expected {
            Some(missing) => Err(format!("a batch is there without its end, number {missing}")),
            None => Ok(()),
        }
    }

    /// Judges and notes what is not there.
    fn absent(
        &mut self,
        seen: &Seen,
        present: &BTreeMap<usize, u64>,
        window: Window,
    ) -> Result<(), String> {
        let last = present.keys().next_back().copied();
        let safe = match window {
            Window::Closed => usize::MAX,
            Window::All => 0,
            Window::Groups(groups) => {
                let at = self.acks.len().checked_sub(groups + 1);
                at.and_then(|at| self.acks.get(at).copied()).unwrap_or(0)
            }
        };
        for number in 0..self.attempts.len() {
            let attempt = &mut self.attempts[number];
            let below = attempt.lsn.is_some_and(|lsn| lsn < seen.first_lsn);
            if below || present.contains_key(&number) {
                continue;
            }
            let lsn = attempt.lsn;
            match attempt.state {
                State::Refused | State::Lost => continue,
                State::Held if number < safe => {
                    let Seen { records, first_lsn, durable_lsn, opened } = seen;
                    let count = records.len();
                    return Err(format!(
                        "record {lsn:?}, number {number}, is lost: {count} are there, from \
                         {first_lsn} to {durable_lsn}, opened {opened}, acks {:?}",
                        self.acks
                    ));
                }
                State::Open | State::Held => {}
            }
            if last.is_some_and(|last| number < last) && window != Window::All {
                return Err(format!("number {number} at {lsn:?} is missing before {last:?}"));
            }
            if seen.opened {
                attempt.state = State::Lost;
                if let Some(lsn) = lsn
                    && self.holders.get(&lsn) == Some(&number)
                {
                    self.holders.remove(&lsn);
                }
                // The LSN may be given again.
                attempt.lsn = lsn;
            }
        }
        Ok(())
    }
}
