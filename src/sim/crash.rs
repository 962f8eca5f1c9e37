//! Power cuts and kills: which disk is found afterwards.

use std::collections::BTreeMap;

use super::disk::SimDisk;
use super::inode::{Change, Inode, apply};
use super::names::Names;
use super::pages::{Page, Pages, SECTOR, WHOLE, place, sectors};
use super::rng::Rng;
use super::state::State;
use crate::storage::BLOCK;
use crate::sync::Arc;

/// How the operation fares at which the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashManner {
    /// Nothing of it happens.
    Before,
    /// Its effect is on its way, as if it had been interrupted: any part of it may survive, nothing
    /// is made durable.
    Torn,
    /// All of it happens, but nobody learns.
    After,
}

/// What survives of that which was not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashOutcome {
    /// Each sector, length and name survives or not by itself, as the seed decides.
    Seeded(u64),
    /// Nothing.
    LoseAll,
    /// Everything.
    KeepAll,
    /// Item `n` of [`SimDisk::pending_items`] survives if bit `n` is set; items from 64 on do not.
    Subset(u64),
    /// The same of [`SimDisk::pending_writes`]: what a write wrote to a file survives whole or not
    /// at all.
    Writes(u64),
}

/// Decides item by item.
struct Chooser {
    outcome: CrashOutcome,
    rng: Rng,
    items: u32,
    /// Names, lengths, and writes, each of which counts once.
    writes: u32,
    /// The write that was counted last: its file and when it completed.
    write: Option<(u64, u64)>,
    /// Writes of which a part survived.
    torn: u64,
    /// The write being decided, and whether some and not all of it survived so far.
    parts: (u64, bool, bool),
    /// The write whose sectors are being decided, and how: all, none, or each by itself.
    mood: (u64, Option<bool>),
}

impl Chooser {
    fn new(outcome: CrashOutcome) -> Chooser {
        let seed = if let CrashOutcome::Seeded(seed) = outcome { seed } else { 0 };
        Chooser {
            outcome,
            rng: Rng::lane(seed, 1),
            items: 0,
            writes: 0,
            write: None,
            torn: 0,
            parts: (0, false, false),
            mood: (0, None),
        }
    }

    /// Whether a name or a length survives.
    fn keep(&mut self) -> bool {
        self.writes += 1;
        self.write = None;
        self.decide()
    }

    fn decide(&mut self) -> bool {
        self.items += 1;
        let nth = |bits: u64, count: u32| bits.checked_shr(count - 1).unwrap_or(0) & 1 == 1;
        match self.outcome {
            CrashOutcome::Seeded(_) => self.rng.coin(),
            CrashOutcome::LoseAll => false,
            CrashOutcome::KeepAll => true,
            CrashOutcome::Subset(bits) => nth(bits, self.items),
            CrashOutcome::Writes(bits) => nth(bits, self.writes),
        }
    }

    /// The sectors that survive of the `mask` of a write to file `inode`. What is `idle` reads the
    /// same, lost or not: it is no item.
    fn keep_sectors(
        &mut self,
        (inode, write): (u64, u64),
        mask: u8,
        idle: u8,
        sector: usize,
    ) -> u8 {
        if let CrashOutcome::Seeded(_) = self.outcome
            && self.mood.0 != write
        {
            // Half of the writes are torn; a coin per sector alone would hardly ever leave a big
            // write whole or lose it.
            let mood = [Some(true), Some(false), None, None][self.rng.below(4)];
            self.mood = (write, mood);
        }
        let step = sector / SECTOR;
        let mut kept = 0;
        for unit in (0..8).step_by(step) {
            let bits = mask & sectors(unit * SECTOR, (unit + step) * SECTOR);
            if bits == 0 {
                continue;
            }
            let coin = if bits & !idle != 0 {
                if self.write.replace((inode, write)) != Some((inode, write)) {
                    self.writes += 1;
                }
                self.decide()
            } else {
                matches!(self.outcome, CrashOutcome::Seeded(_)) && self.rng.coin()
            };
            if self.mood.1.unwrap_or(coin) {
                kept |= bits;
            }
        }
        if self.parts.0 != write {
            self.parts = (write, false, false);
        }
        let was_torn = self.parts.1 && self.parts.2;
        self.parts.1 |= kept != 0;
        self.parts.2 |= kept != mask;
        self.torn += u64::from(!was_torn && self.parts.1 && self.parts.2);
        kept
    }

    /// Whether space that a file gained shows stale bytes.
    fn stale(&mut self, allowed: bool) -> bool {
        let seeded = matches!(self.outcome, CrashOutcome::Seeded(_));
        allowed && seeded && self.rng.below(4) == 0
    }
}

impl SimDisk {
    /// The items that a crash can keep or lose by themselves: names, lengths, sectors that read
    /// otherwise then. What is in flight counts once the power is off.
    #[must_use]
    pub fn pending_items(&self) -> u32 {
        let mut chooser = Chooser::new(CrashOutcome::LoseAll);
        let state = self.state();
        drop(survivors(&state, &mut chooser));
        chooser.items
    }

    /// As [`SimDisk::pending_items`], with all that one write wrote to a file as one.
    #[must_use]
    pub fn pending_writes(&self) -> u32 {
        let mut chooser = Chooser::new(CrashOutcome::LoseAll);
        let state = self.state();
        drop(survivors(&state, &mut chooser));
        chooser.writes
    }

    /// Cuts the power, if it is not off yet, and gives the disk that is found when it returns:
    /// nothing on it is pending, no file is open, no lock is held, no crash and no failing
    /// operation is ordered. This disk stays off; asked again, it gives another outcome of the same
    /// crash.
    #[must_use]
    pub fn power_cycle(&self, outcome: CrashOutcome) -> SimDisk {
        let mut state = self.state();
        state.turn_off();
        let mut chooser = Chooser::new(outcome);
        let (directories, inodes) = survivors(&state, &mut chooser);
        let mut found = state.successor();
        found.trace.push(format!("power cycle {outcome:?} of {} items", chooser.items));
        found.torn = chooser.torn;
        found.directories = directories;
        found.inodes = inodes;
        SimDisk::from_state(found)
    }

    /// Kills the process: handles and locks die, the page cache survives, and what was not durable
    /// still is not. Of each write in flight nothing lands, or some first blocks, or all, as the
    /// seed decides. Gives the disk that the next process finds; this one is off.
    #[must_use]
    pub fn kill(&self) -> SimDisk {
        let mut state = self.state();
        if !state.off {
            state.land_some();
        }
        state.off = true;
        let mut found = state.successor();
        found.trace.push("kill".to_owned());
        found.directories = state.directories.clone();
        for (number, inode) in &state.inodes {
            let names = state.directories.get(&inode.home);
            if names.is_some_and(|names| names.refers_to(*number)) {
                found.inodes.insert(*number, inode.without_handles());
            }
        }
        SimDisk::from_state(found)
    }
}

impl State {
    /// An empty disk that carries on with the seed, the options and the numbers of this one.
    fn successor(&self) -> State {
        let seed = Rng::lane(self.seed, self.ops).next();
        let mut found = State::new(seed, self.options.clone());
        found.continue_numbers(self);
        found.graveyard.clone_from(&self.graveyard);
        found
    }

    fn land_some(&mut self) {
        for (_, mut flight) in std::mem::take(&mut self.in_flight) {
            if flight.may_land() && self.rng.coin() {
                let whole = flight.length();
                if self.rng.coin()
                    && let Some(buffer) = flight.buffer.as_mut()
                {
                    buffer.set_len(self.rng.below(whole / BLOCK + 1) * BLOCK);
                }
                self.land(&flight);
                if let Some(buffer) = flight.buffer.as_mut() {
                    buffer.set_len(whole);
                }
            }
            self.in_flight.insert(flight.token, flight);
        }
    }
}

impl Inode {
    fn without_handles(&self) -> Inode {
        Inode {
            home: self.home.clone(),
            visible: self.visible.clone(),
            durable: self.durable.clone(),
            pending: self.pending.clone(),
            defects: self.defects.clone(),
            handles: 0,
            byte_locks: Vec::new(),
            locked_by: None,
            ..*self
        }
    }
}

type Image = (BTreeMap<std::path::PathBuf, Names>, BTreeMap<u64, Inode>);

/// What is found after a crash.
fn survivors(state: &State, chooser: &mut Chooser) -> Image {
    let mut directories = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    for (path, names) in &state.directories {
        let mut entries = names.durable.clone();
        for item in &names.pending {
            if chooser.keep() {
                item.change.apply(&mut entries);
            }
        }
        directories.insert(path.clone(), Names::settled(entries));
    }
    for (number, inode) in &state.inodes {
        let names = state.directories.get(&inode.home);
        if !names.is_some_and(|names| names.may_survive(*number)) {
            continue;
        }
        let found = surviving_file(state, (*number, inode), chooser);
        let kept = directories.get(&inode.home);
        if kept.is_some_and(|names| names.refers_to(*number)) {
            inodes.insert(*number, found);
        }
    }
    (directories, inodes)
}

fn surviving_file(state: &State, (number, inode): (u64, &Inode), chooser: &mut Chooser) -> Inode {
    let mut pages = inode.durable.clone();
    let mut length = inode.durable_length;
    let mut touched = Touched::default();
    for item in &inode.pending {
        match &item.change {
            // What read as lost must not come back.
            Change::Sectors { .. } if item.clean => {}
            Change::Sectors { block, mask, page } => {
                let idle = touched.idle(&inode.durable, *block, *mask, page);
                let write = (number, item.stamp);
                let mask = chooser.keep_sectors(write, *mask, idle, state.options.sector);
                if mask != 0 {
                    pages.take_sectors(*block, mask, page);
                }
            }
            Change::Length(new) => {
                touched.cut |= *new < inode.durable_length;
                if !chooser.keep() {
                    continue;
                }
                let old = length;
                apply(&item.change, &mut pages, &mut length);
                if *new > old && chooser.stale(state.options.stale) {
                    fill_stale(&mut pages, old, *new, state, chooser);
                }
            }
        }
    }
    pages.cut(length);
    let mut found = Inode::settled(inode.home.clone(), pages, length, inode.modified_ns);
    found.defects.clone_from(&inode.defects);
    found.cold = true;
    found
}

/// Where pending changes make a difference.
#[derive(Default)]
struct Touched {
    sectors: BTreeMap<usize, u8>,
    /// The file may have been cut on the way.
    cut: bool,
}

impl Touched {
    /// Which sectors of a write change nothing: what is durable there is the same, and no older
    /// change that is not durable may stand there.
    fn idle(&mut self, durable: &Pages, block: usize, mask: u8, page: &Page) -> u8 {
        let same = if self.cut { 0 } else { durable.same_sectors(block, mask, page) };
        let touched = self.sectors.entry(block).or_insert(0);
        let idle = same & !*touched;
        *touched |= mask & !idle;
        idle
    }
}

/// Fills whole sectors between two lengths with blocks of deleted files, or with noise.
fn fill_stale(pages: &mut Pages, old: u64, new: u64, state: &State, chooser: &mut Chooser) {
    let (first, start) = place(old.next_multiple_of(SECTOR as u64));
    let (last, _) = place(new);
    // A big file needs no more of it than this.
    for block in first..=last.min(first + 64) {
        let mask = if block == first { sectors(start, BLOCK) } else { WHOLE };
        let page = if state.graveyard.is_empty() || chooser.rng.below(4) == 0 {
            let mut noise = [0; BLOCK];
            noise.chunks_exact_mut(8).for_each(|word| {
                word.copy_from_slice(&chooser.rng.next().to_le_bytes());
            });
            Arc::new(noise)
        } else {
            Arc::clone(&state.graveyard[chooser.rng.below(state.graveyard.len())])
        };
        pages.take_sectors(block, mask, &Some(page));
    }
}
