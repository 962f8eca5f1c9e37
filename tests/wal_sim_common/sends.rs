//! What producers send, and send again (LOG.md L22).

use sawmill::{Entry, Error, ErrorKind, Lsn, Pending, ProducerId, ProducerStamp};

use super::model::Window;
use super::world::{Stop, World};

/// Longer records are what other callers append.
const LONGEST: u64 = 6000;

/// A caller who numbers its records and sends them until it knows that they are stored.
#[derive(Debug, Default)]
pub(super) struct Sender {
    /// The model's number of what has each sequence.
    sent: Vec<usize>,
    waiting: Option<Pending>,
}

impl Sender {
    pub(super) fn stop_waiting(&mut self) {
        self.waiting = None;
    }
}

impl World {
    /// One sender sends its next record, or one of the last again, and waits for it or not.
    pub(super) fn send(&mut self) -> Result<(), Stop> {
        let who = self.rng.below(self.senders.len() as u64) as usize;
        let next = self.senders[who].sent.len();
        let back = self.rng.below(4).min(next as u64) as usize;
        let waits = self.rng.one_in(2);
        if back > 0 {
            let number = self.senders[who].sent[next - back];
            return self.send_again(who, next - back, number, waits);
        }
        let length = 8 + self.rng.below(self.plan.record.min(LONGEST) - 7) as usize;
        let (first, _) = self.model.make(&[length]);
        self.senders[who].sent.push(first);
        let outcome = self.hand_over(who, next, first, waits);
        let refused = |error: &Error| matches!(error.kind(), ErrorKind::DiskFull | ErrorKind::Io);
        if outcome.as_ref().is_err_and(refused) {
            self.senders[who].sent.pop();
        }
        if let Some(lsn) = self.outcome("send", first, outcome)?
            && waits
        {
            self.acknowledge(lsn);
        }
        Ok(())
    }

    /// What is sent again is recognised, and answered when the original is durable.
    fn send_again(
        &mut self,
        who: usize,
        sequence: usize,
        number: usize,
        waits: bool,
    ) -> Result<(), Stop> {
        let durable = self.take().durable_lsn();
        match self.hand_over(who, sequence, number, waits) {
            Ok(lsn) => {
                self.tell(|_| format!("sequence {sequence} of {who} again: record {lsn}"));
                self.counts.add("send again");
                if lsn > durable {
                    self.counts.add("a duplicate re-sent in flight");
                }
                self.model.numbered_again(number, lsn.get(), self.window())?;
                if waits {
                    self.acknowledge(lsn.get());
                }
                Ok(())
            }
            Err(error) => self.failed("send again", &error).map(drop),
        }
    }

    fn hand_over(
        &mut self,
        who: usize,
        sequence: usize,
        number: usize,
        waits: bool,
    ) -> Result<Lsn, Error> {
        let bytes = self.model.bytes(number).to_vec();
        let (id, sequence) = (ProducerId::new(who as u64), sequence as u64);
        let entry = Entry::new(&bytes).producer(ProducerStamp { id, epoch: 0, sequence });
        if waits {
            return self.take().append_record(&entry);
        }
        let pending = self.take().submit_record(&entry)?;
        let lsn = pending.lsn();
        self.senders[who].waiting = Some(pending);
        Ok(lsn)
    }

    /// After an opening: the log knows of each sender what is there of it, no more and no less.
    pub(super) fn count_senders(&mut self) -> Result<(), Stop> {
        // Whoever opens may have been cut off before it could ask.
        if self.disk.is_off() || self.wal.is_none() {
            return Ok(());
        }
        let window = self.window();
        for who in 0..self.senders.len() {
            let sent = &mut self.senders[who].sent;
            let there = sent.iter().take_while(|number| !self.model.is_gone(**number)).count();
            let state = self.wal.as_ref().and_then(|wal| wal.producer(ProducerId::new(who as u64)));
            let next = state.map_or(0, |state| state.next_sequence) as usize;
            let whole = sent[there..].iter().all(|number| self.model.is_gone(*number));
            if window == Window::Closed && (next != there || !whole) {
                let violation = format!("of sender {who} {there} are there, the log counts {next}");
                return Err(Stop::Violation(violation));
            }
            if next > sent.len() {
                let violation = format!("sender {who} sent {}, the log counts {next}", sent.len());
                return Err(Stop::Violation(violation));
            }
            sent.truncate(next);
        }
        Ok(())
    }
}
