//! The disk behind its mutex: what happens to an operation, and the steps that all share.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SimOptions;
use super::crash::CrashManner;
use super::fault::{EDQUOT, EIO, ENOENT, ENOSPC, Fault, FaultKind, Faults};
use super::flight::Flight;
use super::inode::{Inode, charge};
use super::latency::Timing;
use super::names::Names;
use super::pages::LONGEST;
use super::rng::Rng;
use super::struck::Struck;
use super::trace::Trace;
use crate::storage::{BLOCK, IoFailure};

/// Blocks of deleted files that may show up as stale bytes.
const GRAVEYARD_BLOCKS: usize = 64;

/// The whole disk.
#[derive(Debug)]
pub(super) struct State {
    pub(super) seed: u64,
    pub(super) options: SimOptions,
    pub(super) rng: Rng,
    pub(super) ops: u64,
    /// Counts completions: what completed before what was submitted.
    pub(super) stamp: u64,
    pub(super) crash: Option<(u64, CrashManner)>,
    pub(super) off: bool,
    pub(super) faults: Faults,
    /// Where operations failed, if somebody wants to know.
    pub(super) struck: Option<Struck>,
    pub(super) timing: Timing,
    /// Writes of which the crash before this disk left a part.
    pub(super) torn: u64,
    /// Writes in flight when the power went.
    pub(super) cut_in_flight: usize,
    /// The operation at which the power went.
    pub(super) cut: String,
    /// Durable writes and syncs that a flush makes different.
    pub(super) flush_matters: u64,
    pub(super) trace: Trace,
    pub(super) directories: BTreeMap<PathBuf, Names>,
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) in_flight: BTreeMap<u64, Flight>,
    pub(super) graveyard: Vec<Arc<[u8; BLOCK]>>,
    next: u64,
}

/// What an operation has to do.
pub(super) enum Verdict {
    /// Run.
    Run,
    /// Run in part (its effect is there, but not durable), then the power goes.
    TornThenOff,
    /// Run whole, then the power goes.
    RunThenOff,
    /// Fail in the ordered way.
    Fault(Fault),
}

impl State {
    pub(super) fn new(seed: u64, options: SimOptions) -> State {
        let trace = Trace::new(options.trace_lines);
        State {
            seed,
            options,
            rng: Rng::lane(seed, 0),
            ops: 0,
            stamp: 1,
            crash: None,
            off: false,
            faults: Faults::default(),
            struck: None,
            timing: Timing::manual(seed),
            torn: 0,
            cut_in_flight: 0,
            cut: String::new(),
            flush_matters: 0,
            trace,
            directories: BTreeMap::new(),
            inodes: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            graveyard: Vec::new(),
            next: 1,
        }
    }

    /// A number that nothing else on this disk has.
    pub(super) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Keeps new numbers above those of the disk that this one continues.
    pub(super) fn continue_numbers(&mut self, old: &State) {
        self.timing = Timing::new(self.seed, Arc::clone(&old.timing.clock));
        self.next = old.next;
        self.stamp = old.stamp;
    }

    pub(super) fn tick(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// The modification time of now: one microsecond per completion.
    pub(super) fn now_ns(&self) -> i64 {
        i64::try_from(self.stamp.saturating_mul(1000)).unwrap_or(i64::MAX)
    }

    /// Whether the next operation is named anywhere.
    pub(super) fn is_named(&self) -> bool {
        self.options.trace_lines > 0 || self.crash.is_some_and(|(at, _)| self.ops + 1 >= at)
    }

    /// Counts an operation and decides about it. `Err`: nothing happens, report this error number.
    pub(super) fn step(&mut self, text: fmt::Arguments<'_>) -> Result<Verdict, i32> {
        if self.off {
            return Err(EIO);
        }
        self.ops += 1;
        let number = self.ops;
        if self.options.trace_lines > 0 {
            self.trace.push(format!("#{number} {text}"));
        }
        if let Some((at, manner)) = self.crash
            && number >= at
        {
            self.cut = text.to_string();
            self.trace.remark(match manner {
                CrashManner::Before => " -> power lost before",
                CrashManner::Torn => " -> power lost within",
                CrashManner::After => " -> power lost after",
            });
            return match manner {
                CrashManner::Before => {
                    self.turn_off();
                    Err(EIO)
                }
                CrashManner::Torn => Ok(Verdict::TornThenOff),
                CrashManner::After => Ok(Verdict::RunThenOff),
            };
        }
        let Some(fault) = self.faults.strike(number) else { return Ok(Verdict::Run) };
        self.trace.remark(&format!(" -> {:?} errno {}", fault.kind, fault.errno));
        if let Some(struck) = &mut self.struck {
            struck.note();
        }
        Ok(Verdict::Fault(fault))
    }

    /// Power goes. What was in flight may or may not have reached the medium.
    pub(super) fn turn_off(&mut self) {
        if std::mem::replace(&mut self.off, true) {
            return;
        }
        let flights = std::mem::take(&mut self.in_flight);
        for flight in flights.values().filter(|flight| flight.may_land()) {
            self.cut_in_flight += 1;
            self.land(flight);
        }
        self.in_flight = flights;
    }

    /// An operation whose whole effect is pending: a name, a length.
    pub(super) fn perform<T>(
        &mut self,
        operation: &'static str,
        path: &Path,
        text: fmt::Arguments<'_>,
        effect: impl FnOnce(&mut State) -> Result<T, i32>,
    ) -> Result<T, IoFailure> {
        let failure = |errno| IoFailure::from_errno(operation, path, errno);
        match self.step(text).map_err(failure)? {
            Verdict::Run => effect(self).map_err(failure),
            Verdict::TornThenOff | Verdict::RunThenOff => {
                drop(effect(self));
                self.turn_off();
                Err(failure(EIO))
            }
            Verdict::Fault(fault) => {
                if fault.kind == FaultKind::ExecutedButReported {
                    drop(effect(self));
                }
                Err(failure(fault.errno))
            }
        }
    }

    /// An operation that makes durable. `spoil` is what happens if it fails.
    pub(super) fn perform_sync(
        &mut self,
        path: &Path,
        text: fmt::Arguments<'_>,
        harden: impl FnOnce(&mut State),
        spoil: impl FnOnce(&mut State),
    ) -> Result<(), IoFailure> {
        let failure = |errno| IoFailure::from_errno("sync", path, errno);
        match self.step(text).map_err(failure)? {
            Verdict::Run => harden(self),
            Verdict::TornThenOff => {
                self.turn_off();
                return Err(failure(EIO));
            }
            Verdict::RunThenOff => {
                harden(self);
                self.turn_off();
                return Err(failure(EIO));
            }
            Verdict::Fault(fault) => {
                match fault.kind {
                    FaultKind::Dropped => return Ok(()),
                    FaultKind::ExecutedButReported => harden(self),
                    FaultKind::NotExecuted | FaultKind::Short(_) | FaultKind::Misdirected(_) => {
                        spoil(self);
                    }
                }
                return Err(failure(fault.errno));
            }
        }
        Ok(())
    }

    /// An operation that changes nothing: counted only if the options ask for it.
    pub(super) fn look<T>(
        &mut self,
        operation: &'static str,
        path: &Path,
        effect: impl FnOnce(&mut State) -> Result<T, i32>,
    ) -> Result<T, IoFailure> {
        if self.options.count_reads {
            return self.perform(operation, path, format_args!("{operation} {path:?}"), effect);
        }
        let failure = |errno| IoFailure::from_errno(operation, path, errno);
        if self.off { Err(failure(EIO)) } else { effect(self).map_err(failure) }
    }

    pub(super) fn names(&mut self, path: &Path) -> Result<&mut Names, i32> {
        self.directories.get_mut(path).ok_or(ENOENT)
    }

    pub(super) fn inode(&mut self, number: u64) -> Result<&mut Inode, i32> {
        self.inodes.get_mut(&number).ok_or(ENOENT)
    }

    /// The inode that a path names.
    pub(super) fn lookup(&self, path: &Path) -> Option<u64> {
        let name = path.file_name()?.to_str()?;
        self.directories.get(path.parent()?)?.visible.get(name).copied()
    }

    /// Makes a directory and its parents, durably.
    pub(super) fn make_directory(&mut self, path: &Path) {
        for ancestor in path.ancestors() {
            self.directories.entry(ancestor.to_owned()).or_default();
        }
    }

    /// Bytes that can still be allocated.
    pub(super) fn free(&self) -> u64 {
        let used: u64 = self.inodes.values().map(|inode| inode.charged).sum();
        self.options.capacity.unwrap_or(1 << 40).saturating_sub(used)
    }

    /// The error number of a disk without space.
    pub(super) fn full(&self) -> i32 {
        if self.options.quota { EDQUOT } else { ENOSPC }
    }

    /// How far a file may reach that wants to reach `end`: as far, or to where space runs out.
    pub(super) fn reach(&self, inode: &Inode, end: u64) -> u64 {
        if self.options.capacity.is_none() || charge(end) <= inode.charged {
            return end;
        }
        end.min(inode.charged.saturating_add(self.free()) / BLOCK as u64 * BLOCK as u64)
    }

    pub(super) fn allocate(&mut self, number: u64, length: u64) -> Result<(), i32> {
        let inode = self.inodes.get(&number).ok_or(ENOENT)?;
        if self.reach(inode, length) < length {
            return Err(self.full());
        }
        let stamp = self.tick();
        let now = self.now_ns();
        let inode = self.inode(number)?;
        if length > inode.length {
            inode.set_length(length, stamp);
            inode.modified_ns = now;
        }
        inode.charged = inode.charged.max(charge(length));
        Ok(())
    }

    /// Forgets files of a directory that nobody can reach any more, and gives their space back.
    pub(super) fn collect(&mut self, home: &Path) {
        let Some(names) = self.directories.get(home) else { return };
        let dead: Vec<u64> = self
            .inodes
            .iter()
            .filter(|(number, inode)| {
                inode.home == home && inode.handles == 0 && !names.refers_to(**number)
            })
            .map(|(number, _)| *number)
            .collect();
        for number in dead {
            self.forget(number);
        }
    }

    /// Forgets a file, and gives its space back.
    pub(super) fn forget(&mut self, number: u64) {
        let Some(inode) = self.inodes.remove(&number) else { return };
        self.graveyard.extend(inode.durable.blocks().map(|(_, page)| Arc::clone(page)));
        let excess = self.graveyard.len().saturating_sub(GRAVEYARD_BLOCKS);
        self.graveyard.drain(..excess);
    }

    /// Whether bytes up to `end` can be in a file at all.
    pub(super) fn too_long(offset: u64, length: usize) -> bool {
        offset.checked_add(length as u64).is_none_or(|end| end > LONGEST)
    }

    /// A flush of the device's own cache.
    pub(super) fn flush_device(&mut self, stamp: u64) {
        for inode in self.inodes.values_mut() {
            inode.flush(stamp);
        }
    }
}
