//! How many durable writes may be in flight, found by trying (LOG.md L9).
//!
//! Where a durable write implies a flush, a second one mostly waits for the flush of the first, and
//! the groups become smaller for nothing; where durable writes are independent, more of them at
//! once hide the time of each. Nobody says which it is, so both are tried and judged in *records*
//! per second: while many wait, windows of landed frames alternate between the depth in use and
//! twice or half of it, side by side in time, because a shared device changes from second to
//! second. The larger depth must be better by [`GAIN`]; what was not is tried ever more rarely.
//! The lowest rung is one write that waits for its crowd ([`GATHERED`]; see `gather.rs`).
//!
//! DEPTH-1: pure: it is fed with landed frames and their times, and asked; it knows no clock, no
//! timer, and nobody waits for it. DEPTH-2: where nobody is beside it, no frame is held back.

/// The depth below one: one write in flight, for all who were under way together lately.
pub(crate) const GATHERED: usize = 0;
/// The most durable writes in flight.
pub(crate) const DEPTH_MAX: usize = 16;
/// The most plain frames in flight that nobody waits for.
pub(crate) const PLAIN_MAX: usize = 8;

/// Frames in a window.
const WINDOW: u64 = 32;
/// Frames that are not counted after the depth has changed: they were submitted before.
const WARM: u64 = 16;
/// Windows of each depth in a trial.
const PAIRS: usize = 6;
/// How much better the larger depth must be, in thousandths: below that the noise decides.
const GAIN: u64 = 1030;
/// Windows between trials: at first, and at most.
const REST_MIN: u64 = 4;
const REST_MAX: u64 = 1024;
/// A pause between two frames after which the window begins anew: it says nothing of the device.
const PAUSE_NS: u64 = 100_000_000;
/// Parts of a record in which the usual company is counted.
const SHARES: u64 = 256;
/// As many as the most writes.
const MANY: u64 = DEPTH_MAX as u64 * SHARES;
/// How long somebody waits in a frame that may be held, in times that a write takes: one before it,
/// and its own, and who comes back does so in much less than the rest.
const PATIENCE: u64 = 4;
/// And at least and at most, in nanoseconds: below, timers are no better; above, no write is usual.
const PATIENCE_MIN_NS: u64 = 100_000;
const PATIENCE_MAX_NS: u64 = 50_000_000;
/// Frames of a window that are held in vain before it is asked again whether to hold any.
const IN_VAIN: u64 = 4;

/// Records, and the time that they took.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    records: u64,
    ns: u64,
}

impl Rate {
    /// Whether this one is at least `thousandths` of the other.
    fn is_at_least(self, thousandths: u64, other: Rate) -> bool {
        let mine = u128::from(self.records) * u128::from(other.ns.max(1)) * 1000;
        let others = u128::from(other.records) * u128::from(self.ns.max(1));
        mine >= others * u128::from(thousandths)
    }
}

/// What the middle ones of some windows make together. Those that a stall of the device made slow,
/// and those that had luck, do not count: one of them outweighs what is to be seen.
fn middle(windows: &[Rate]) -> Rate {
    let mut sorted = [Rate::default(); PAIRS];
    let sorted = &mut sorted[..windows.len()];
    sorted.copy_from_slice(windows);
    sorted.sort_by(|one, other| {
        let left = u128::from(one.records) * u128::from(other.ns);
        left.cmp(&(u128::from(other.records) * u128::from(one.ns)))
    });
    let outer = sorted.len().saturating_sub(1) / 2;
    sorted[outer..windows.len() - outer].iter().fold(Rate::default(), |sum, one| Rate {
        records: sum.records + one.records,
        ns: sum.ns + one.ns,
    })
}

/// What is being found out.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Nothing, for so many windows more.
    Resting(u64),
    /// Whether the larger or the smaller of two depths is better, and how many windows there were.
    Trying { smaller: usize, larger: usize, windows: usize },
}

/// The controller.
#[derive(Debug)]
pub(crate) struct Depth {
    fixed: bool,
    /// Whether frames may be held.
    may_gather: bool,
    /// Between trials.
    settled: usize,
    phase: Phase,
    /// Windows between trials.
    rest: u64,
    /// What is tried next: twice the depth, four times, a half, frames that are held.
    turn: usize,
    /// Whether somebody had to wait who could have been written at twice the depth.
    wanted: bool,
    /// The most records that were in flight or ready lately: it falls with each frame that lands.
    crowd: u64,
    /// The most records that were in flight or ready since the last frame landed.
    together: u64,
    /// How many that usually are, in [`SHARES`]: more come to count within a few frames, and who
    /// comes once in several frames only hardly does.
    company: u64,
    /// The company for which the depth was settled.
    settled_for: u64,
    /// The window: frames to leave out, frames counted, and what they make.
    warm: u64,
    frames: u64,
    window: Rate,
    /// The windows of a trial: with the smaller depth, and with the larger one.
    trial: [[Rate; PAIRS]; 2],
    last_ns: Option<u64>,
    /// How long a write takes, on average.
    write_ns: u64,
    /// Frames of this window that were held in vain.
    in_vain: u64,
}

impl Depth {
    /// One write in flight, until more are found better, or, where frames may be held, fewer; or
    /// `fixed` for good.
    pub(crate) fn new(fixed: Option<usize>, may_gather: bool) -> Depth {
        Depth {
            fixed: fixed.is_some(),
            may_gather,
            settled: fixed.unwrap_or(1).min(DEPTH_MAX),
            phase: Phase::Resting(REST_MIN),
            rest: REST_MIN,
            turn: 0,
            wanted: false,
            crowd: 0,
            together: 0,
            company: 0,
            settled_for: 0,
            warm: WARM,
            frames: 0,
            window: Rate::default(),
            trial: [[Rate::default(); PAIRS]; 2],
            last_ns: None,
            write_ns: 0,
            in_vain: 0,
        }
    }

    /// How many may be in flight now.
    pub(crate) fn get(&self) -> usize {
        self.rung().max(1)
    }

    /// How many records the next frame waits for, while nothing is in flight; 0: for none.
    pub(crate) fn gathers(&self) -> u64 {
        if self.rung() == GATHERED { (self.company + SHARES / 2) / SHARES } else { 0 }
    }

    /// How long a frame may be held that somebody begins to wait for now; `None`: not at all.
    pub(crate) fn patience_ns(&self) -> Option<u64> {
        let patience = (PATIENCE * self.write_ns).clamp(PATIENCE_MIN_NS, PATIENCE_MAX_NS);
        (self.rung() == GATHERED).then_some(patience)
    }

    /// A frame was held in vain: so many records came.
    pub(crate) fn stayed_away(&mut self, came: u64) {
        self.company = self.company.min(came * SHARES);
        self.in_vain += 1;
    }

    /// The depth now, or [`GATHERED`].
    fn rung(&self) -> usize {
        match self.phase {
            Phase::Resting(_) => self.settled,
            // Larger, smaller, smaller, larger, and again: a trend favours neither.
            Phase::Trying { smaller, larger, windows, .. } => {
                if matches!(windows % 4, 0 | 3) {
                    larger
                } else {
                    smaller
                }
            }
        }
    }

    /// How many it allows now, or did a moment ago in the same trial.
    pub(super) fn most(&self) -> usize {
        match self.phase {
            Phase::Resting(_) => self.settled(),
            Phase::Trying { larger, .. } => larger.max(1),
        }
    }

    /// How many it allows between trials.
    pub(crate) fn settled(&self) -> usize {
        self.settled.max(1)
    }

    /// Whether it holds frames between trials.
    pub(crate) fn is_gathering(&self) -> bool {
        self.settled == GATHERED
    }

    /// Whether a group of `staged` records is worth a write beside `in_flight` ones of `records`
    /// records: no group is smaller than an even share of them all. Smaller ones were tried in the
    /// tests' model: on dependent flushes they cost more than half of what depth two brings.
    pub(crate) fn may_add(&mut self, in_flight: usize, records: u64, staged: u64) -> bool {
        let depth = self.get();
        self.crowd = self.crowd.max(records + staged);
        self.together = self.together.max(records + staged);
        let crowd = self.crowd;
        let is_share = |depth: usize| {
            let share = staged * depth as u64;
            share >= records + staged && 2 * share >= crowd
        };
        if in_flight < depth && (in_flight == 0 || is_share(depth)) {
            return true;
        }
        self.wanted |= in_flight < 2 * depth && is_share(2 * depth);
        false
    }

    /// Takes note of a frame that landed, with its records and how long its write took. They may
    /// land in another order than they are told.
    pub(crate) fn landed(&mut self, records: u64, now_ns: u64, took_ns: u64) {
        self.crowd -= self.crowd.div_ceil(32);
        let together = std::mem::take(&mut self.together).max(records) * SHARES;
        match together.checked_sub(self.company) {
            Some(more) => self.company += more / 4,
            None => self.company -= (self.company - together) / 8,
        }
        self.write_ns = self.write_ns - self.write_ns / 8 + took_ns / 8;
        let gap = now_ns.saturating_sub(self.last_ns.unwrap_or(now_ns));
        if self.last_ns.is_none() || gap > PAUSE_NS {
            self.begin_window();
            self.last_ns = Some(now_ns);
            // Who was there before may be gone.
            self.company = self.company.min(records * SHARES);
            return;
        }
        self.last_ns = self.last_ns.max(Some(now_ns));
        if self.fixed {
            return;
        }
        if self.warm > 0 {
            self.warm -= 1;
            return;
        }
        self.frames += 1;
        self.window.records += records;
        self.window.ns += gap;
        // One that holds all is a round of all callers, and longer than two halves.
        if self.frames == if self.rung() == GATHERED { WINDOW / 2 } else { WINDOW } {
            let window = self.window;
            let rung = self.rung();
            self.end_window(window);
            self.begin_window();
            if self.rung() == rung {
                self.warm = 0;
            }
        }
    }

    fn begin_window(&mut self) {
        (self.warm, self.frames, self.window) = (WARM, 0, Rate::default());
        self.in_vain = 0;
    }

    fn end_window(&mut self, window: Rate) {
        match self.phase {
            Phase::Resting(_) if self.is_other_company() || self.in_vain >= IN_VAIN => {
                self.rest = REST_MIN;
                self.begin_trial();
            }
            Phase::Resting(left) if left > 1 => self.phase = Phase::Resting(left - 1),
            Phase::Resting(_) => self.begin_trial(),
            Phase::Trying { smaller, larger, mut windows } => {
                let side = usize::from(self.rung() == larger);
                self.trial[side][windows / 2] = window;
                windows += 1;
                let seen = windows / 2;
                let early = windows == 4 && self.is_hopeless(smaller, seen);
                if windows == 2 * PAIRS || early {
                    let [small, large] = self.trial.map(|side| middle(&side[..seen]));
                    // Whoever is held waits longer than need be, so that must pay.
                    let is_better = match smaller {
                        GATHERED => !small.is_at_least(GAIN, large),
                        _ => large.is_at_least(GAIN, small),
                    };
                    self.settle(if is_better { larger } else { smaller });
                } else {
                    self.phase = Phase::Trying { smaller, larger, windows };
                }
            }
        }
    }

    /// Whether the larger depth was a quarter worse at its best, or holding frames was: then it is
    /// not tried on.
    fn is_hopeless(&self, smaller: usize, seen: usize) -> bool {
        let worse = |these: &[Rate], those: &[Rate]| {
            these.iter().all(|it| those.iter().all(|other| !it.is_at_least(800, *other)))
        };
        let [small, large] = self.trial.each_ref().map(|side| &side[..seen]);
        worse(large, small) || smaller == GATHERED && worse(small, large)
    }

    /// Whether there are four times as many as when the depth was settled, or a quarter.
    fn is_other_company(&self) -> bool {
        let (now, then) = (self.company, self.settled_for);
        then > 0 && (now >= 4 * then.max(SHARES) || then >= 4 * now.max(SHARES))
    }

    fn begin_trial(&mut self) {
        self.settled_for = self.company;
        let (depth, wanted) = (self.settled, std::mem::take(&mut self.wanted));
        let held = depth == GATHERED;
        let may_rise = wanted && !held;
        let pair = (0..4).find_map(|later| {
            let turn = (self.turn + later) % 4;
            let pair = match turn {
                0 if may_rise && 2 * depth <= DEPTH_MAX => (depth, 2 * depth),
                // Where twice as many bring too little to be seen, four times may.
                1 if may_rise && 4 * depth <= DEPTH_MAX => (depth, 4 * depth),
                2 if depth > 1 => (depth / 2, depth),
                // From any depth, and to some: what lies between may be worse than both.
                3 if !held && self.may_gather && self.company > SHARES => (GATHERED, depth),
                0 if held => (GATHERED, 1),
                1 if held => (GATHERED, 2),
                2 if held && self.company >= MANY => (GATHERED, DEPTH_MAX),
                _ => return None,
            };
            self.turn = turn;
            Some(pair)
        });
        self.phase = match pair {
            None => Phase::Resting(REST_MIN),
            Some((smaller, larger)) => Phase::Trying { smaller, larger, windows: 0 },
        };
    }

    fn settle(&mut self, depth: usize) {
        if depth == self.settled {
            self.turn += 1;
            self.rest = (self.rest * 2).min(REST_MAX);
        } else {
            // The same once more, soon.
            self.rest = REST_MIN;
        }
        self.settled = depth;
        self.phase = Phase::Resting(self.rest);
    }
}

#[cfg(test)]
mod tests;
