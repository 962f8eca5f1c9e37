//! What callers do.

use sawmill::{AppendOptions, Durability, Error, ErrorKind, Lsn, Result as WalResult, StreamId};

use super::world::{Stop, World};

impl World {
    /// Does one thing.
    pub(super) fn act(&mut self) -> Result<(), Stop> {
        if !self.senders.is_empty() && self.rng.one_in(4) {
            return self.send();
        }
        match self.rng.below(32) {
            0..=6 => self.append(),
            7..=9 => self.append_batch(),
            10..=11 => self.append_buffered(),
            12..=18 => self.submit(),
            19..=21 => self.wait(),
            22..=23 => self.sync(),
            24..=25 => self.truncate(),
            26 => self.pin_or_not(),
            27 if self.rng.one_in(2) => self.get(),
            27 => self.read_on(),
            28 => self.read_all(false),
            29 => self.close(),
            30 => self.reopen(),
            _ if self.disk.is_off() => Ok(()),
            _ => self.kill(),
        }
    }

    fn length(&mut self) -> usize {
        let most = if self.rng.one_in(2) { self.plan.record } else { self.plan.record.min(300) };
        8 + self.rng.below(most - 7) as usize
    }

    /// Whether the call was refused with nothing appended; else its records are indeterminate.
    pub(super) fn failed(&mut self, what: &str, error: &Error) -> Result<bool, Stop> {
        self.tell(|_| format!("{what} failed: {error}"));
        self.counts.add(&format!("{what} failed: {:?}", error.kind()));
        match error.kind() {
            ErrorKind::DiskFull | ErrorKind::Io => Ok(true),
            ErrorKind::Poisoned => {
                self.poisoned = !self.disk.is_off();
                if self.poisoned {
                    self.model.poisoned();
                }
                Ok(false)
            }
            _ if self.disk.is_off() => Ok(false),
            kind => Err(Stop::Violation(format!("{what} failed: {kind:?} {error}"))),
        }
    }

    /// Takes note of an append's outcome: the LSN of its first record.
    pub(super) fn outcome(
        &mut self,
        what: &str,
        first: usize,
        outcome: WalResult<Lsn>,
    ) -> Result<Option<u64>, Stop> {
        match outcome {
            Ok(lsn) => {
                self.tell(|_| format!("{what}: number {first} is record {lsn}"));
                self.counts.add(what);
                self.model.numbered(first, lsn.get())?;
                Ok(Some(lsn.get()))
            }
            Err(error) => {
                if self.failed(what, &error)? {
                    self.model.refused(first);
                }
                Ok(None)
            }
        }
    }

    /// A group is acknowledged as a whole, whoever of it was told first.
    pub(super) fn acknowledge(&mut self, lsn: u64) {
        let durable = self.wal.as_ref().map_or(0, |wal| wal.durable_lsn().get());
        self.model.acknowledged(lsn.max(durable));
    }

    fn append(&mut self) -> Result<(), Stop> {
        let length = self.length();
        let (first, bytes) = self.model.make(&[length]);
        let outcome = self.take().append(&bytes[0]);
        if let Some(lsn) = self.outcome("append", first, outcome)? {
            self.acknowledge(lsn);
        }
        Ok(())
    }

    fn append_batch(&mut self) -> Result<(), Stop> {
        let most = (self.plan.segment_size / 2 - 1000) as usize;
        let mut lengths = Vec::new();
        for _ in 0..1 + self.rng.below(5) {
            let length = self.length();
            if lengths.iter().sum::<usize>() + length + 100 < most {
                lengths.push(length);
            }
        }
        if lengths.is_empty() {
            lengths.push(8);
        }
        let (first, bytes) = self.model.make(&lengths);
        let outcome = self.take().append_batch(&bytes);
        if let Some(lsn) = self.outcome("batch", first, outcome.map(|range| range.first()))? {
            self.acknowledge(lsn + bytes.len() as u64 - 1);
        }
        Ok(())
    }

    fn append_buffered(&mut self) -> Result<(), Stop> {
        let length = self.length();
        let (first, bytes) = self.model.make(&[length]);
        let options = AppendOptions { stream: StreamId::DEFAULT, durability: Durability::Buffered };
        let outcome = self.take().append_with(&bytes[0], options);
        self.outcome("buffered", first, outcome)?;
        Ok(())
    }

    /// Each producer in turn, as far as it has nothing on its way.
    fn submit(&mut self) -> Result<(), Stop> {
        for producer in 0..self.plan.producers {
            if self.pending[producer].is_some() || self.rng.one_in(3) {
                continue;
            }
            let length = self.length();
            let (first, bytes) = self.model.make(&[length]);
            let outcome = self.take().submit(&bytes[0]);
            let (lsn, pending) = match outcome {
                Ok(pending) => (Ok(pending.lsn()), Some(pending)),
                Err(error) => (Err(error), None),
            };
            self.outcome("submit", first, lsn)?;
            self.pending[producer] = pending;
            if self.poisoned || self.disk.is_off() {
                break;
            }
        }
        let in_flight = self.pending.iter().flatten().count();
        self.most_in_flight = self.most_in_flight.max(in_flight);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), Stop> {
        let producer = self.rng.below(self.plan.producers as u64) as usize;
        let Some(pending) = self.pending[producer].take() else { return Ok(()) };
        match pending.wait() {
            Ok(lsn) => {
                self.tell(|_| format!("wait: {lsn}"));
                self.counts.add("wait");
                self.acknowledge(lsn.get());
            }
            Err(error) => drop(self.failed("wait", &error)?),
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Stop> {
        let appended = self.take().appended_lsn();
        match self.take().sync() {
            Ok(lsn) if lsn < appended => {
                Err(Stop::Violation(format!("synced up to {lsn} of {appended}")))
            }
            Ok(lsn) => {
                self.tell(|_| format!("sync: {lsn}"));
                self.counts.add("sync");
                self.acknowledge(lsn.get());
                Ok(())
            }
            Err(error) => self.failed("sync", &error).map(drop),
        }
    }

    fn truncate(&mut self) -> Result<(), Stop> {
        let durable = self.take().durable_lsn().get();
        let lsn = 1 + self.rng.below(durable + 1);
        let pinned = self.pin.as_ref().map_or(u64::MAX, |pin| pin.lsn().get());
        self.model.truncated(lsn.min(pinned));
        // What retention gives up by itself nobody asked for.
        let first = self.take().first_lsn().get();
        let bound = if self.plan.retain_bytes.is_some() { durable } else { first };
        self.truncating = true;
        let outcome = self.take().truncate_before(Lsn::new(lsn));
        self.truncating = self.disk.is_off();
        match outcome {
            Ok(first) if first.get() > bound.max(lsn.min(pinned)) => {
                Err(Stop::Violation(format!("truncated to {first}, asked for {lsn}")))
            }
            Ok(first) => {
                self.tell(|_| format!("truncate {lsn}: starts at {first}"));
                self.counts.add("truncate");
                Ok(())
            }
            Err(error) => self.failed("truncate", &error).map(drop),
        }
    }

    fn pin_or_not(&mut self) -> Result<(), Stop> {
        if self.pin.take().is_some() {
            return Ok(());
        }
        let first = self.take().first_lsn().get();
        let durable = self.take().durable_lsn().get();
        let lsn = first + self.rng.below(durable.saturating_sub(first) + 1);
        match self.take().pin("reader", Lsn::new(lsn)) {
            Ok(pin) => {
                self.tell(|_| format!("pin {lsn}"));
                self.counts.add("pin");
                self.pin = Some(pin);
                Ok(())
            }
            Err(error) => self.failed("pin", &error).map(drop),
        }
    }

    /// Asks for one record that has to be there.
    fn get(&mut self) -> Result<(), Stop> {
        let first = self.take().first_lsn().get();
        let held: Vec<u64> =
            self.model.held().map(|(lsn, _)| lsn).filter(|lsn| *lsn >= first).collect();
        if held.is_empty() {
            return Ok(());
        }
        let lsn = held[self.rng.below(held.len() as u64) as usize];
        match self.take().get(Lsn::new(lsn)) {
            Ok(found) => {
                let expected = self.model.held().find(|(own, _)| *own == lsn);
                let same = match (&found, expected) {
                    (Some(record), Some((_, bytes))) => record.payload == bytes,
                    _ => false,
                };
                self.counts.add("get");
                if same { Ok(()) } else { Err(Stop::Violation(format!("get {lsn}: {found:?}"))) }
            }
            Err(_) if self.disk.is_off() => Ok(()),
            Err(error) => self.unread(&error),
        }
    }

    /// Reads on with a reader that was opened some time ago, or opens one.
    fn read_on(&mut self) -> Result<(), Stop> {
        let Some(mut reader) = self.reader.take() else {
            return match self.take().replay() {
                Ok(reader) => {
                    self.reader = Some(reader);
                    Ok(())
                }
                Err(_) if self.disk.is_off() => Ok(()),
                Err(error) => self.unread(&error),
            };
        };
        let mut last = 0;
        for _ in 0..20 {
            let record = match reader.next() {
                None => return Ok(()),
                Some(Ok(record)) => (record.lsn.get(), record.payload.to_vec()),
                Some(Err(_)) if self.disk.is_off() => return Ok(()),
                Some(Err(error)) => {
                    // An open reader keeps the description of the segment that was written.
                    drop(reader);
                    return self.unread(&error);
                }
            };
            self.counts.add("read on");
            if record.0 <= last {
                return Err(Stop::Violation(format!("record {} behind {last}", record.0)));
            }
            last = record.0;
            self.model.shown(record.0, &record.1)?;
        }
        self.reader = Some(reader);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Stop> {
        let appended = self.take().appended_lsn().get();
        self.pending.iter_mut().for_each(|pending| *pending = None);
        self.pin = None;
        self.reader = None;
        let closed = self.take().clone().close();
        match closed {
            Ok(()) => {
                self.tell(|_| "closed".to_owned());
                self.counts.add("close");
                self.model.acknowledged(appended);
                self.model.attested();
            }
            Err(error) => {
                self.failed("close", &error)?;
            }
        }
        self.reopen()
    }
}
