//! What the workload was promised, and whether a log that was found keeps it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::record::Identity;

/// What the workload says to the device's log, always before anything can follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// What follows may be cut.
    Mounted,
    /// A record was acknowledged, or shown by a reader.
    Held(u64, Identity),
    /// Truncation below this LSN is about to be asked for.
    Truncating(u64),
    /// Truncation returned with this first LSN.
    Truncated(u64),
    /// A step of the workload begins, to tell how far it came.
    Step(Step),
}

/// Parts of a log's life, as far as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Open,
    Append,
    Close,
    Recover,
}

impl Step {
    pub(crate) const ALL: [(Step, &str); 4] = [
        (Step::Open, "open"),
        (Step::Append, "append"),
        (Step::Close, "close"),
        (Step::Recover, "recover"),
    ];

    pub(crate) fn name(self) -> &'static str {
        Step::ALL.iter().find(|(step, _)| *step == self).map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::Mounted => formatter.write_str("mounted"),
            Mark::Held(lsn, identity) => write!(formatter, "held {lsn} {identity}"),
            Mark::Truncating(lsn) => write!(formatter, "truncating {lsn}"),
            Mark::Truncated(lsn) => write!(formatter, "truncated {lsn}"),
            Mark::Step(step) => write!(formatter, "step {}", step.name()),
        }
    }
}

impl FromStr for Mark {
    type Err = String;

    fn from_str(text: &str) -> Result<Mark, String> {
        let wrong = || format!("{text:?} is no mark");
        let words: Vec<&str> = text.split(' ').collect();
        let number = |word: &str| word.parse().map_err(|_| wrong());
        match words[..] {
            ["mounted"] => Ok(Mark::Mounted),
            ["held", lsn, identity] => Ok(Mark::Held(number(lsn)?, identity.parse()?)),
            ["truncating", lsn] => Ok(Mark::Truncating(number(lsn)?)),
            ["truncated", lsn] => Ok(Mark::Truncated(number(lsn)?)),
            ["step", name] => {
                let found = Step::ALL.iter().find(|(_, own)| *own == name);
                found.map(|(step, _)| Mark::Step(*step)).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }
}

/// Promises, as far as they were given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle {
    held: BTreeMap<u64, Identity>,
    /// Below it, records may be gone, as truncation was about to be asked for.
    asked: u64,
    /// As `asked`, but at the last change of the medium: what is asked for after that has not
    /// happened to it.
    floor: u64,
    /// Below it, no record may be shown.
    first: u64,
    step: Option<Step>,
}

/// A log that was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) first_lsn: u64,
    pub(crate) durable_lsn: u64,
    pub(crate) records: Vec<(u64, Identity)>,
}

impl Oracle {
    pub(crate) fn hear(&mut self, mark: Mark) {
        match mark {
            Mark::Mounted => {}
            Mark::Held(lsn, identity) => drop(self.held.insert(lsn, identity)),
            Mark::Truncating(lsn) => self.asked = self.asked.max(lsn),
            Mark::Truncated(lsn) => self.first = self.first.max(lsn),
            Mark::Step(step) => self.step = Some(step),
        }
    }

    /// The medium changes next: what was asked for may happen.
    pub(crate) fn medium_changes(&mut self) {
        self.floor = self.asked;
    }

    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// What is held, said again.
    pub(crate) fn promises(&self) -> impl Iterator<Item = Mark> {
        self.held.iter().map(|(lsn, identity)| Mark::Held(*lsn, *identity))
    }

    pub(crate) fn step(&self) -> Option<Step> {
        self.step
    }

    /// What is wrong with a log, if anything.
    pub(crate) fn judge(&self, found: &Found) -> Result<(), String> {
        let records: BTreeMap<u64, Identity> = found.records.iter().copied().collect();
        for (lsn, identity) in self.held.range(self.floor..) {
            match records.get(lsn) {
                Some(there) if there == identity => {}
                Some(there) => return Err(format!("LSN {lsn} is {there}, was {identity}")),
                None => {
                    let Found { first_lsn, durable_lsn, .. } = found;
                    let range = format!("{first_lsn} to {durable_lsn}");
                    return Err(format!("LSN {lsn} ({identity}) is lost: there are {range}"));
                }
            }
        }
        in_order(found)?;
        match found.records.first() {
            Some((lsn, _)) if *lsn < self.first => {
                Err(format!("LSN {lsn} is back: the log was truncated to {}", self.first))
            }
            _ => batches_are_whole(&found.records),
        }
    }
}

/// Each LSN once, without a gap; the appends of each writer once, in order, without a gap.
fn in_order(found: &Found) -> Result<(), String> {
    let mut last = BTreeMap::new();
    let mut next_lsn = None;
    for (lsn, identity) in &found.records {
        if *lsn < found.first_lsn || *lsn > found.durable_lsn {
            return Err(format!("LSN {lsn} is shown, which is not in the log"));
        }
        if next_lsn.is_some_and(|next| next != *lsn) {
            return Err(format!("LSN {lsn} stands where {next_lsn:?} belongs"));
        }
        next_lsn = Some(lsn + 1);
        let Identity { writer, number, part, parts } = *identity;
        let expected = last.get(&writer).map(|last: &Identity| {
            let more = last.part + 1 < last.parts;
            if more { (last.number, last.part + 1) } else { (last.number + 1, 0) }
        });
        if part >= parts || expected.is_some_and(|expected| expected != (number, part)) {
            return Err(format!("{identity} stands where {expected:?} of this writer belongs"));
        }
        last.insert(writer, *identity);
    }
    Ok(())
}

/// A batch is there whole or not at all. Truncation takes whole segments, and a batch is in one.
fn batches_are_whole(records: &[(u64, Identity)]) -> Result<(), String> {
    let mut parts = BTreeMap::new();
    for (_, identity) in records {
        *parts.entry((identity.writer, identity.number, identity.parts)).or_insert(0) += 1;
    }
    match parts.iter().find(|((_, _, parts), there)| parts != *there) {
        Some(((writer, number, parts), there)) => {
            Err(format!("{there} of the {parts} records of append {writer}/{number} are there"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(number: u32) -> Identity {
        Identity { writer: 1, number, part: 0, parts: 1 }
    }

    fn found(records: &[(u64, Identity)]) -> Found {
        Found { first_lsn: 1, durable_lsn: 99, records: records.to_vec() }
    }

    #[test]
    fn sees_loss_invention_order_and_resurrection() {
        let mut oracle = Oracle::default();
        oracle.hear(Mark::Held(2, single(1)));
        let good = [(1, single(0)), (2, single(1))];
        assert_eq!(oracle.judge(&found(&good)), Ok(()));
        let wrong: [&[(u64, Identity)]; 5] = [
            &good[..1],
            &[(1, single(1)), (2, single(0))],
            &[(2, single(1)), (2, single(1))],
            &[(2, single(1)), (4, single(2))],
            &[(2, single(1)), (3, Identity { writer: 2, number: 0, part: 0, parts: 2 })],
        ];
        for records in wrong {
            assert!(oracle.judge(&found(records)).is_err(), "{records:?}");
        }
        oracle.hear(Mark::Truncating(3));
        assert!(oracle.judge(&found(&[])).is_err(), "nothing has happened yet");
        oracle.medium_changes();
        assert_eq!(oracle.judge(&found(&[])), Ok(()));
        assert_eq!(oracle.judge(&found(&good)), Ok(()));
        oracle.hear(Mark::Truncated(2));
        assert!(oracle.judge(&found(&good)).is_err(), "truncated records are back");
    }

    #[test]
    fn marks_are_read_as_they_are_written() {
        let marks = [
            Mark::Mounted,
            Mark::Held(7, single(3)),
            Mark::Truncating(9),
            Mark::Truncated(8),
            Mark::Step(Step::Recover),
        ];
        for mark in marks {
            assert_eq!(mark.to_string().parse(), Ok(mark));
        }
    }
}
