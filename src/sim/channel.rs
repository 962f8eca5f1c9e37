//! Channels: operations in flight, completed in an order that the seed decides.

use std::collections::BTreeMap;

use super::disk::SimDisk;
use super::fault::{EIO, FaultKind};
use super::file::SimFile;
use super::flight::{Flight, Kind};
use super::rng::Rng;
use super::state::{State, Verdict};
use crate::planted::{Bug, planted};
use crate::storage::{AlignedBuf, Channel, Completion, File, IoFailure, Op};
use crate::sync::Arc;

/// The channel keeps the files of its operations open; the disk keeps their buffers, so that what
/// is in flight when the power goes can still land.
#[derive(Debug)]
pub(super) struct SimChannel {
    disk: SimDisk,
    rng: Rng,
    files: BTreeMap<u64, Arc<dyn File>>,
}

impl SimChannel {
    pub(super) fn new(disk: SimDisk, number: u64) -> SimChannel {
        let rng = Rng::lane(disk.seed(), number);
        SimChannel { disk, rng, files: BTreeMap::new() }
    }

    /// The operation that completes next, and when: the one that is done first, or, where
    /// operations take no time, any.
    fn next(&mut self) -> Option<(u64, u64)> {
        let state = self.disk.state();
        if state.options.latency.is_none() {
            let nth = self.rng.below(self.files.len());
            return self.files.keys().nth(nth).map(|token| (*token, 0));
        }
        let done_at = |token| state.in_flight.get(token).map_or(0, |flight| flight.done_at);
        self.files.keys().map(|token| (*token, done_at(token))).min_by_key(|(_, at)| *at)
    }
}

fn take_apart(op: Op) -> (Arc<dyn File>, Kind, u64, Option<AlignedBuf>) {
    match op {
        Op::Write { file, offset, buffer, durable } => {
            (file, Kind::Write { durable }, offset, Some(buffer))
        }
        Op::Read { file, offset, buffer } => (file, Kind::Read, offset, Some(buffer)),
        Op::Sync { file } => (file, Kind::Sync, 0, None),
    }
}

impl State {
    fn done_at(&mut self, kind: Kind, bytes: usize) -> u64 {
        let Some(latency) = self.options.latency else { return 0 };
        self.timing.done_at(&latency, self.options.device, kind, bytes)
    }

    /// When a blocking sync is done that begins now.
    pub(super) fn sync_done_at(&mut self) -> u64 {
        let Some(latency) = self.options.latency else { return 0 };
        let now = self.timing.clock.monotonic_ns();
        self.timing.flushed_at(&latency, now)
    }

    /// What it is called; nothing where nobody asks.
    fn text(&self, flight: &Flight) -> String {
        if self.is_named() { flight.text() } else { String::new() }
    }

    /// Puts an operation on its way.
    fn start(&mut self, mut flight: Flight) {
        let counts = flight.kind != Kind::Read || self.options.count_reads;
        let text = self.text(&flight);
        let verdict = match (counts, self.off) {
            (_, true) => Err(EIO),
            (true, false) => self.step(format_args!("submit {text}")),
            (false, false) => Ok(Verdict::Run),
        };
        let (token, off) = (flight.token, !matches!(verdict, Ok(Verdict::Run | Verdict::Fault(_))));
        if let Ok(Verdict::Fault(fault)) = verdict {
            flight.fault = Some(fault);
        }
        self.in_flight.insert(token, flight);
        if off && !self.off {
            self.turn_off();
        }
    }

    /// Ends an operation: the buffer, and the bytes moved or the error number.
    fn finish(&mut self, token: u64) -> (Option<AlignedBuf>, Result<usize, i32>) {
        let Some(flight) = self.in_flight.get(&token) else { return (None, Err(EIO)) };
        let counts = flight.kind != Kind::Read || self.options.count_reads;
        let text = self.text(flight);
        let verdict = match (counts, self.off) {
            (_, true) => Err(EIO),
            (true, false) => self.step(format_args!("complete {text}")),
            (false, false) => Ok(Verdict::Run),
        };
        if matches!(verdict, Ok(Verdict::TornThenOff)) {
            self.turn_off();
        }
        let Some(mut flight) = self.in_flight.remove(&token) else { return (None, Err(EIO)) };
        let result = match verdict {
            Err(errno) => Err(errno),
            Ok(Verdict::TornThenOff) => Err(EIO),
            Ok(Verdict::Run) => self.conclude(&mut flight),
            Ok(Verdict::RunThenOff) => {
                self.conclude(&mut flight).ok();
                self.turn_off();
                Err(EIO)
            }
            Ok(Verdict::Fault(fault)) => {
                flight.fault = Some(fault);
                self.conclude(&mut flight)
            }
        };
        (flight.buffer, result)
    }

    fn conclude(&mut self, flight: &mut Flight) -> Result<usize, i32> {
        let Some(fault) = flight.fault else { return self.execute(flight) };
        match fault.kind {
            FaultKind::Short(_) | FaultKind::Misdirected(_) if flight.kind != Kind::Sync => {
                self.execute(flight)
            }
            FaultKind::Dropped if flight.kind != Kind::Read => self.execute(flight),
            FaultKind::NotExecuted
            | FaultKind::Short(_)
            | FaultKind::Dropped
            | FaultKind::Misdirected(_) => {
                self.refuse(flight);
                Err(fault.errno)
            }
            FaultKind::ExecutedButReported => {
                self.execute(flight).ok();
                Err(fault.errno)
            }
        }
    }
}

impl Channel for SimChannel {
    fn submit(&mut self, op: Op) -> u64 {
        let (file, kind, offset, buffer) = take_apart(op);
        let known = file.as_any().downcast_ref::<SimFile>();
        let access = known.and_then(|file| file.access(&self.disk));
        let path = known.map_or_else(|| Arc::from(file.path()), SimFile::shared_path);
        let mut state = self.disk.state();
        let token = state.fresh();
        let submitted = state.stamp;
        let fault = None;
        let bytes = buffer.as_ref().map_or(0, |buffer| buffer.len());
        let done_at = state.done_at(kind, bytes);
        state.start(Flight {
            token,
            kind,
            path,
            access,
            offset,
            buffer,
            submitted,
            done_at,
            fault,
        });
        drop(state);
        self.files.insert(token, file);
        token
    }

    fn complete(&mut self) -> Option<Completion> {
        if self.files.is_empty() {
            return None;
        }
        let (token, done_at) = self.next()?;
        let file = self.files.remove(&token)?;
        let mut state = self.disk.wait_until(done_at, self.disk.state());
        let (offset, name) = state
            .in_flight
            .get(&token)
            .map_or((0, "write"), |flight| (flight.offset, flight.name()));
        let (buffer, result) = state.finish(token);
        drop(state);
        let result =
            result.map_err(|errno| IoFailure::from_errno(name, file.path(), errno).at(offset));
        Some(Completion { token, buffer, result })
    }

    fn depth(&self) -> usize {
        64
    }
}

impl Drop for SimChannel {
    fn drop(&mut self) {
        if planted(Bug::BufferFreedInFlight) {
            let mut state = self.disk.state();
            for token in self.files.keys() {
                let flight = state.in_flight.get_mut(token);
                if let Some(buffer) = flight.and_then(|flight| flight.buffer.as_mut()) {
                    buffer.fill(0xdd);
                }
            }
        }
        while self.complete().is_some() {}
    }
}
