//! The disk, the log, the model, and how a run goes through openings and crashes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sawmill::clock::ManualClock;
use sawmill::sim::{CrashManner, CrashOutcome, FaultKind, SimDisk};
use sawmill::{Background, Error, ErrorKind, Pending, Pin, Replay, Wal, WalOptions};

use super::Counts;
use super::model::{Model, Seen, Window};
use super::plan::{Plan, Rng, Trouble};
use super::sends::Sender;

pub(super) const PLACE: &str = "/log";
const ERRNOS: [i32; 5] = [5, 28, 122, 4, 11];

/// Why a step ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The log broke a promise.
    Violation(String),
    /// The log said what is damaged: there is nothing more to see.
    Verdict,
}

impl From<String> for Stop {
    fn from(violation: String) -> Stop {
        Stop::Violation(violation)
    }
}

pub(crate) struct World {
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) disk: SimDisk,
    pub(super) wal: Option<Wal>,
    pub(super) model: Model,
    /// What each producer has on its way.
    pub(super) pending: Vec<Option<Pending>>,
    pub(super) senders: Vec<Sender>,
    /// The most producers that had something on its way at once.
    pub(super) most_in_flight: usize,
    pub(super) pin: Option<Pin>,
    /// A reader that stays open while the log goes on.
    pub(super) reader: Option<Replay>,
    pub(super) counts: Counts,
    /// Whether the medium has been damaged.
    pub(super) damaged: bool,
    pub(super) poisoned: bool,
    /// Whether the medium holds a frame that was torn, or whole ones that nothing attests.
    pub(super) torn: bool,
    /// The call that may give records up, while it runs.
    pub(super) truncating: bool,
    /// No more trouble is ordered.
    calm: bool,
    /// Whether somebody wants to know what happened.
    telling: bool,
    story: Vec<String>,
}

impl World {
    pub(crate) fn new(plan: Plan, rng: Rng, telling: bool) -> World {
        let disk = SimDisk::with_options(plan.seed, plan.disk(telling));
        let mut counts = Counts::default();
        counts.add(&format!("device {:?}", plan.device));
        counts.add(&format!("trouble {:?}", plan.trouble));
        World {
            rng,
            disk,
            wal: None,
            model: Model::default(),
            pending: (0..plan.producers).map(|_| None).collect(),
            senders: (0..plan.senders).map(|_| Sender::default()).collect(),
            most_in_flight: 0,
            pin: None,
            reader: None,
            counts,
            damaged: plan.trouble == Trouble::Lies,
            poisoned: false,
            torn: false,
            truncating: false,
            calm: false,
            telling,
            story: Vec::new(),
            plan,
        }
    }

    pub(crate) fn into_counts(mut self) -> Counts {
        self.counts.add("runs");
        if self.most_in_flight >= 8 {
            self.counts.add("runs with 8 or more producers at once");
        }
        self.counts.add_many("false failures", self.model.landed_all_the_same());
        self.counts
    }

    /// What happened, for whoever has to understand it.
    pub(crate) fn story(&self) -> String {
        let first = self.story.len().saturating_sub(60);
        let mut story = format!("{:?}\n", self.plan);
        for line in &self.story[first..] {
            story.push_str(line);
            story.push('\n');
        }
        story + &self.disk.trace()
    }

    pub(super) fn tell(&mut self, line: impl FnOnce(&World) -> String) {
        if self.telling {
            let line = format!("op {}: {}", self.disk.ops(), line(self));
            self.story.push(line);
        }
    }

    /// # Errors
    /// The first promise that was broken.
    pub(crate) fn live(&mut self) -> Result<(), String> {
        match self.steps() {
            Ok(()) => {}
            Err(Stop::Verdict) => {
                self.forget();
                return Ok(());
            }
            Err(Stop::Violation(violation)) => return Err(violation),
        }
        match self.last_words() {
            Ok(()) | Err(Stop::Verdict) => Ok(()),
            Err(Stop::Violation(violation)) => Err(violation),
        }
    }

    fn steps(&mut self) -> Result<(), Stop> {
        self.open()?;
        for _ in 0..self.plan.steps {
            if self.rng.is_spent() {
                break;
            }
            if self.disk.is_off() {
                self.revive()?;
            }
            if self.poisoned {
                self.stay_poisoned()?;
            }
            self.trouble();
            if self.rng.one_in(self.plan.crash_every) {
                self.order_crash(40);
            }
            self.act()?;
        }
        Ok(())
    }

    /// When all trouble is over, everything works, and all that was promised is there.
    fn last_words(&mut self) -> Result<(), Stop> {
        self.calm = true;
        if self.disk.is_off() {
            self.revive()?;
        }
        self.disk.fail_no_more();
        self.disk.capacity(None);
        self.disk.crash_at(u64::MAX, CrashManner::Before);
        self.reopen()?;
        for _ in 0..2 {
            let (first, bytes) = self.model.make(&[20]);
            match self.take().append(&bytes[0]) {
                Ok(lsn) => {
                    self.model.numbered(first, lsn.get())?;
                    self.model.acknowledged(lsn.get());
                }
                // A write of this very moment may be the one that is dropped or lands elsewhere;
                // that is no error. Nothing may fail now.
                Err(error) => return Err(Stop::Violation(format!("at last: {error}"))),
            }
        }
        self.read_all(false)?;
        self.forget_readers();
        let closed = self.wal.take().map(Wal::close);
        if let Some(Err(error)) = closed {
            return Err(Stop::Violation(format!("the last close: {error}")));
        }
        self.model.attested();
        self.open()
    }

    /// The log. There is one whenever a step begins.
    pub(super) fn take(&self) -> &Wal {
        self.wal.as_ref().unwrap()
    }

    fn forget_readers(&mut self) {
        self.pending.iter_mut().for_each(|pending| *pending = None);
        self.senders.iter_mut().for_each(Sender::stop_waiting);
        self.pin = None;
        self.reader = None;
    }

    fn forget(&mut self) {
        self.forget_readers();
        self.wal = None;
        self.poisoned = false;
    }

    pub(super) fn order_crash(&mut self, within: u64) {
        let manner = self.rng.pick(&[CrashManner::Before, CrashManner::Torn, CrashManner::After]);
        let at = self.disk.ops() + 1 + self.rng.below(within);
        self.disk.crash_at(at, manner);
        self.tell(|_| format!("power will fail at {at} {manner:?}"));
    }

    /// Orders the trouble that the plan is about.
    fn trouble(&mut self) {
        let at = self.disk.ops() + 1 + self.rng.below(12);
        match self.plan.trouble {
            Trouble::Errors | Trouble::ReadErrors if self.rng.one_in(6) => {
                let kinds = [
                    FaultKind::NotExecuted,
                    FaultKind::NotExecuted,
                    FaultKind::ExecutedButReported,
                    FaultKind::Short(self.rng.below(5) as usize * 1024),
                ];
                let (kind, errno) = (self.rng.pick(&kinds), self.rng.pick(&ERRNOS));
                if self.rng.one_in(6) {
                    self.disk.fail_from(at, errno, kind);
                } else {
                    self.disk.fail_op(at, errno, kind);
                }
                self.tell(|_| format!("operation {at} will fail: {kind:?} {errno}"));
            }
            Trouble::Full if self.rng.one_in(4) => {
                let full = !self.rng.one_in(3);
                self.fill(full);
            }
            Trouble::Dropped | Trouble::Misdirected if !self.damaged && self.rng.one_in(8) => {
                let offset = self.rng.below(16) * 4096;
                let kind = match self.plan.trouble {
                    Trouble::Dropped => FaultKind::Dropped,
                    _ => FaultKind::Misdirected(offset),
                };
                self.disk.fail_op(at, 5, kind);
                self.damaged = true;
                self.tell(|_| format!("operation {at} will be wrong: {kind:?}"));
            }
            Trouble::Rot | Trouble::Sector if !self.damaged && self.rng.one_in(12) => {
                self.spoil();
            }
            _ => {}
        }
    }

    fn fill(&mut self, full: bool) {
        let used: usize = self
            .disk
            .files()
            .iter()
            .filter_map(|path| self.disk.read_file(path))
            .map(|b| b.len())
            .sum();
        let room = self.rng.below(3) * self.plan.segment_size / 2;
        let capacity = full.then_some(used as u64 + room);
        self.disk.capacity(capacity);
        self.tell(|_| format!("capacity {capacity:?}"));
    }

    /// Damages a byte or a sector of some file.
    fn spoil(&mut self) {
        let files = self.disk.files();
        let files: Vec<_> = files.iter().filter(|path| !path.ends_with("LOCK")).collect();
        if files.is_empty() {
            return;
        }
        let path = files[self.rng.below(files.len() as u64) as usize];
        let length = self.disk.read_file(path).unwrap().len() as u64;
        if length == 0 {
            return;
        }
        // Most of a segment is empty: the first blocks are the interesting ones.
        let offset = if self.rng.one_in(2) { length.min(9000) } else { length };
        let offset = self.rng.below(offset);
        match (self.plan.trouble, self.rng.below(3)) {
            (Trouble::Rot, 0) => self.disk.flip_byte(path, offset, 1),
            (Trouble::Rot, _) => self.disk.rot_byte(path, offset, 0x80),
            (_, 0) => self.disk.fail_reads_at(path, offset),
            (_, 1) => self.disk.latent_error_at(path, offset),
            (_, _) => self.disk.stale_reads_at(path, offset),
        }
        .unwrap();
        self.damaged = true;
        self.tell(|world| format!("{:?} in {path:?} at {offset}", world.plan.trouble));
    }

    pub(super) fn window(&self) -> Window {
        match self.plan.trouble {
            _ if !self.damaged => Window::Closed,
            Trouble::Lies => Window::All,
            // It may land on everything that could attest what it should have written, and on
            // that as well. What is left has no hole all the same.
            Trouble::Misdirected => Window::Groups(usize::MAX - 1),
            Trouble::Dropped | Trouble::Rot | Trouble::Sector => Window::Groups(1),
            Trouble::None | Trouble::Errors | Trouble::ReadErrors | Trouble::Full => Window::Closed,
        }
    }

    /// The power is off: what the next process finds.
    fn revive(&mut self) -> Result<(), Stop> {
        self.note_crash();
        let outcome = match self.rng.below(6) {
            0 => CrashOutcome::LoseAll,
            1 => CrashOutcome::KeepAll,
            _ => CrashOutcome::Seeded(self.rng.next()),
        };
        let found = self.disk.power_cycle(outcome);
        self.tell(|world| format!("power cycle, {outcome:?}, at {}", world.disk.cut_at()));
        self.counts.add_many("writes torn", found.torn());
        self.note_medium(&found);
        self.replace(found)
    }

    pub(super) fn kill(&mut self) -> Result<(), Stop> {
        if self.stopped() {
            return self.revive();
        }
        let found = self.disk.kill();
        self.counts.add("kills");
        self.tell(|_| "killed".to_owned());
        self.replace(found)
    }

    fn replace(&mut self, found: SimDisk) -> Result<(), Stop> {
        self.forget();
        self.disk = found;
        // Without an end to the decisions there would be none to the crashes within openings.
        if !self.calm && !self.rng.is_spent() && self.rng.one_in(4) {
            self.order_crash(60);
        }
        self.open()
    }

    /// Opens the log again in the same process.
    pub(super) fn reopen(&mut self) -> Result<(), Stop> {
        self.tell(|_| "reopen".to_owned());
        self.forget();
        if self.disk.is_off() || self.stopped() { self.revive() } else { self.open() }
    }

    /// Whether the file system has stopped, as it does when a directory cannot be synced. No
    /// opening could know that an earlier one had this failure: `docs/durability.md`.
    fn stopped(&mut self) -> bool {
        let stopped = self.disk.forgot_names();
        if stopped {
            self.tell(|_| "the file system stops".to_owned());
            self.counts.add("file systems stopped");
            self.disk.power_off();
        }
        stopped
    }

    fn options(&self) -> WalOptions {
        WalOptions {
            segment_size: self.plan.segment_size,
            recycled: self.plan.recycled,
            retain_bytes: self.plan.retain_bytes,
            memory: 1 << 20,
            write_depth: self.plan.depth,
            lock_wait: Duration::ZERO,
            background: Background::Inline,
            ..WalOptions::default()
        }
    }

    pub(super) fn open(&mut self) -> Result<(), Stop> {
        let mut tries = 0;
        loop {
            let storage = Arc::new(self.disk.clone());
            let clock = Arc::new(ManualClock::default());
            let opened = Wal::open_with(storage, clock, Path::new(PLACE), self.options());
            match opened {
                Ok(wal) => {
                    self.wal = Some(wal);
                    self.counts.add("openings");
                    if std::mem::take(&mut self.torn) {
                        self.counts.add("verdicts: torn");
                    }
                    self.read_all(true)?;
                    return self.count_senders();
                }
                Err(_) if self.disk.is_off() => return self.revive(),
                Err(error) => self.refused(&error, tries)?,
            }
            if self.stopped() {
                return self.revive();
            }
            tries += 1;
        }
    }

    /// An opening has failed: may it?
    fn refused(&mut self, error: &Error, tries: u32) -> Result<(), Stop> {
        self.tell(|_| format!("opening failed: {error}"));
        self.counts.add(&format!("openings refused: {:?}", error.kind()));
        let verdict = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unreadable);
        if self.damaged && verdict {
            return Err(Stop::Verdict);
        }
        // What was never there may read as what another program wrote.
        let strange = error.kind() == ErrorKind::Unsupported;
        if strange && self.plan.trouble == Trouble::Lies {
            return Err(Stop::Verdict);
        }
        let may = match self.plan.trouble {
            // What is neither written nor synced fails where it cannot be dropped or misdirected.
            Trouble::Errors | Trouble::ReadErrors | Trouble::Dropped | Trouble::Misdirected => {
                matches!(error.kind(), ErrorKind::Io | ErrorKind::DiskFull | ErrorKind::Unreadable)
            }
            Trouble::Full => error.kind() == ErrorKind::DiskFull,
            _ => false,
        };
        self.disk.fail_no_more();
        self.disk.capacity(None);
        if may && tries == 0 {
            return Ok(());
        }
        Err(Stop::Violation(format!("an opening failed: {:?} {error}", error.kind())))
    }

    /// Reads everything and compares.
    pub(super) fn read_all(&mut self, opened: bool) -> Result<(), Stop> {
        let wal = self.take();
        let seen = replay(wal).map(|records| Seen {
            records,
            first_lsn: wal.first_lsn().get(),
            durable_lsn: wal.durable_lsn().get(),
            opened,
        });
        if self.plan.retain_bytes.is_some() {
            let durable = self.take().durable_lsn().get();
            self.model.truncated(durable);
        }
        match seen {
            Ok(seen) => Ok(self.model.check(&seen, self.window())?),
            Err(_) if self.disk.is_off() => self.revive(),
            Err(error) => self.unread(&error),
        }
    }

    /// Reading has failed: may it?
    pub(super) fn unread(&mut self, error: &Error) -> Result<(), Stop> {
        self.counts.add(&format!("reads refused: {:?}", error.kind()));
        let verdict = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unreadable);
        if self.damaged && verdict {
            return Err(Stop::Verdict);
        }
        let passes = self.plan.trouble == Trouble::ReadErrors
            && matches!(error.kind(), ErrorKind::Io | ErrorKind::DiskFull | ErrorKind::Unreadable);
        if passes || error.kind() == ErrorKind::Poisoned {
            // What was lost by then is found out by an opening that can read.
            self.disk.fail_no_more();
            self.poisoned |= error.kind() == ErrorKind::Poisoned;
            return if self.poisoned { Ok(()) } else { self.reopen() };
        }
        Err(Stop::Violation(format!("reading failed: {:?} {error}", error.kind())))
    }

    /// A poisoned log does nothing, and is given up.
    fn stay_poisoned(&mut self) -> Result<(), Stop> {
        self.counts.add("poisoned");
        let before = self.disk.ops();
        match self.take().append(b"never") {
            Err(error) if error.kind() == ErrorKind::Poisoned => {}
            other => return Err(Stop::Violation(format!("poisoned, and then {other:?}"))),
        }
        if self.take().sync().is_ok() {
            return Err(Stop::Violation("a poisoned log was synced".to_owned()));
        }
        self.forget();
        if self.disk.ops() != before {
            return Err(Stop::Violation("a poisoned log touched the disk".to_owned()));
        }
        self.reopen()
    }
}

fn replay(wal: &Wal) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let mut replay = wal.replay()?;
    let mut records = Vec::new();
    while let Some(record) = replay.next() {
        let record = record?;
        records.push((record.lsn.get(), record.payload.to_vec()));
    }
    Ok(records)
}
