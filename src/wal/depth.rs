//! How many durable writes may be in flight, found by trying (LOG.md L9).
//!
//! Where a durable write implies a flush, a second one mostly waits for the flush of the first, and
//! the groups become smaller for nothing; where durable writes are independent, more of them at
//! once hide the time of each. Nobody says which it is, so both are tried and judged in *records*
//! per second: while many wait, windows of landed frames alternate between the depth in use and
//! twice or half of it, side by side in time, because a shared device changes from second to
//! second. The larger depth must be better by [`GAIN`]; what was not is tried ever more rarely.
//!
//! DEPTH-1: pure: it is fed with landed frames and their times, and asked; it knows no clock, no
//! timer, and nobody waits for it. DEPTH-2: a frame that would be lone is never held back.

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
    /// Between trials.
    settled: usize,
    phase: Phase,
    /// Windows between trials.
    rest: u64,
    /// How many times the depth is tried next: twice, four times, a half.
    turn: usize,
    /// Whether somebody had to wait who could have been written at twice the depth.
    wanted: bool,
    /// The most records that were in flight or ready lately: it falls with each frame that lands.
    crowd: u64,
    /// The window: frames to leave out, frames counted, and what they make.
    warm: u64,
    frames: u64,
    window: Rate,
    /// The windows of a trial: with the smaller depth, and with the larger one.
    trial: [[Rate; PAIRS]; 2],
    last_ns: Option<u64>,
}

impl Depth {
    /// One write in flight, until more are found better; or `fixed` for good.
    pub(crate) fn new(fixed: Option<usize>) -> Depth {
        Depth {
            fixed: fixed.is_some(),
            settled: fixed.unwrap_or(1).clamp(1, DEPTH_MAX),
            phase: Phase::Resting(REST_MIN),
            rest: REST_MIN,
            turn: 0,
            wanted: false,
            crowd: 0,
            warm: WARM,
            frames: 0,
            window: Rate::default(),
            trial: [[Rate::default(); PAIRS]; 2],
            last_ns: None,
        }
    }

    /// How many may be in flight now.
    pub(crate) fn get(&self) -> usize {
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

    /// How many it allows between trials.
    pub(crate) fn settled(&self) -> usize {
        self.settled
    }

    /// Whether a group of `staged` records is worth a write beside `in_flight` ones of `records`
    /// records: no group is smaller than an even share of them all. Smaller ones were tried in the
    /// model below: on dependent flushes they cost more than half of what depth two brings.
    pub(crate) fn may_add(&mut self, in_flight: usize, records: u64, staged: u64) -> bool {
        let depth = self.get();
        self.crowd = self.crowd.max(records + staged);
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

    /// Takes note of a frame that landed, with its records. They may land in another order than
    /// they are told.
    pub(crate) fn landed(&mut self, records: u64, now_ns: u64) {
        self.crowd -= self.crowd.div_ceil(32);
        if self.fixed {
            return;
        }
        let gap = now_ns.saturating_sub(self.last_ns.unwrap_or(now_ns));
        if self.last_ns.is_none() || gap > PAUSE_NS {
            self.begin_window();
            self.last_ns = Some(now_ns);
            return;
        }
        self.last_ns = self.last_ns.max(Some(now_ns));
        if self.warm > 0 {
            self.warm -= 1;
            return;
        }
        self.frames += 1;
        self.window.records += records;
        self.window.ns += gap;
        if self.frames == WINDOW {
            let window = self.window;
            let depth = self.get();
            self.end_window(window);
            self.begin_window();
            if self.get() == depth {
                self.warm = 0;
            }
        }
    }

    fn begin_window(&mut self) {
        (self.warm, self.frames, self.window) = (WARM, 0, Rate::default());
    }

    fn end_window(&mut self, window: Rate) {
        match self.phase {
            Phase::Resting(left) if left > 1 => self.phase = Phase::Resting(left - 1),
            Phase::Resting(_) => self.begin_trial(),
            Phase::Trying { smaller, larger, mut windows } => {
                let side = usize::from(self.get() == larger);
                self.trial[side][windows / 2] = window;
                windows += 1;
                let seen = windows / 2;
                if windows == 2 * PAIRS || windows == 4 && self.is_hopeless(seen) {
                    let [small, large] = self.trial.map(|side| middle(&side[..seen]));
                    let is_better = large.is_at_least(GAIN, small);
                    self.settle(if is_better { larger } else { smaller });
                } else {
                    self.phase = Phase::Trying { smaller, larger, windows };
                }
            }
        }
    }

    /// Whether the larger depth was a quarter worse at its best: then it is not tried on.
    fn is_hopeless(&self, seen: usize) -> bool {
        let [small, large] = self.trial;
        large[..seen]
            .iter()
            .all(|large| small[..seen].iter().all(|it| !large.is_at_least(800, *it)))
    }

    fn begin_trial(&mut self) {
        let (depth, wanted) = (self.settled, std::mem::take(&mut self.wanted));
        let may_rise = wanted && depth < DEPTH_MAX;
        let pair = (0..3).find_map(|later| {
            let turn = (self.turn + later) % 3;
            let pair = match turn {
                0 if may_rise => (depth, 2 * depth),
                // Where twice as many bring too little to be seen, four times may.
                1 if may_rise && 4 * depth <= DEPTH_MAX => (depth, 4 * depth),
                2 if depth > 1 => (depth / 2, depth),
                _ => return None,
            };
            self.turn = turn;
            Some(pair)
        });
        self.phase = match pair {
            None => Phase::Resting(REST_MIN),
            Some((smaller, larger)) => {
                Phase::Trying { smaller, larger: larger.min(DEPTH_MAX), windows: 0 }
            }
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
mod tests {
    use super::*;
    use std::cmp::Reverse;
    use std::collections::{BinaryHeap, VecDeque};

    /// What a durable write costs.
    #[derive(Clone, Copy, Debug)]
    enum Device {
        /// It ends with a flush of its own, and the device makes one flush at a time.
        Dependent { write_ns: u64, flush_ns: u64 },
        /// The same, but one flush serves all writes that had arrived when it began.
        Merging { write_ns: u64, flush_ns: u64 },
        /// It ends by itself, whatever else is in flight.
        Independent { write_ns: u64 },
    }

    /// Blocking callers over a device: each appends again some time after it was woken.
    struct Model {
        device: Device,
        /// When each sleeping caller appends next, by time.
        callers: BinaryHeap<Reverse<u64>>,
        staged: u64,
        /// End and records of each write in flight, in order of submission.
        flights: VecDeque<(u64, u64)>,
        flush_begins: u64,
        flush_ends: u64,
        now: u64,
        noise: u64,
        landed: u64,
    }

    /// Sealing and submitting a frame.
    const SEAL_NS: u64 = 2_000;
    /// Waking a caller, one after the other, and its next append.
    const WAKE_NS: u64 = 600;
    const FIRST_NS: u64 = 5_000;

    impl Model {
        fn new(device: Device, callers: u64) -> Model {
            let callers = (0..callers).map(|number| Reverse(number * 100)).collect();
            Model {
                device,
                callers,
                staged: 0,
                flights: VecDeque::new(),
                flush_begins: 0,
                flush_ends: 0,
                now: 0,
                noise: 1,
                landed: 0,
            }
        }

        /// A tenth more or less.
        fn noisy(&mut self, ns: u64) -> u64 {
            self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ns * 9 / 10 + (self.noise >> 33) % (ns / 5)
        }

        fn submit(&mut self, depth: &mut Depth) {
            let (count, records) = (self.flights.len(), self.flights.iter().map(|f| f.1).sum());
            if self.staged > 0 && depth.may_add(count, records, self.staged) {
                self.now += SEAL_NS;
                let end = match self.device {
                    Device::Independent { write_ns } => self.now + self.noisy(write_ns),
                    Device::Dependent { write_ns, flush_ns } => {
                        let arrived = self.now + self.noisy(write_ns);
                        self.flush_ends = self.flush_ends.max(arrived) + self.noisy(flush_ns);
                        self.flush_ends
                    }
                    Device::Merging { write_ns, flush_ns } => {
                        let arrived = self.now + self.noisy(write_ns);
                        let flush_ns = self.noisy(flush_ns);
                        // Joins a flush that has not begun, or waits for the one after.
                        if arrived > self.flush_begins {
                            self.flush_begins = arrived.max(self.flush_ends);
                            self.flush_ends = self.flush_begins + flush_ns;
                        }
                        self.flush_ends
                    }
                };
                self.flights.push_back((end, std::mem::take(&mut self.staged)));
                self.submit(depth);
            }
        }

        /// The next event: a caller appends, or a write ends.
        fn step(&mut self, depth: &mut Depth) {
            let end = self.flights.iter().map(|flight| flight.0).min();
            match self.callers.peek() {
                Some(Reverse(at)) if end.is_none_or(|end| *at <= end) => {
                    self.now = self.now.max(*at);
                    self.callers.pop();
                    self.staged += 1;
                }
                _ => {
                    self.now = self.now.max(end.unwrap());
                    // In order: one that overtook waits for those before it.
                    while let Some((end, records)) = self.flights.front().copied()
                        && end <= self.now
                    {
                        self.flights.pop_front();
                        self.landed += records;
                        depth.landed(records, self.now);
                        for number in 0..records {
                            let at = self.now + FIRST_NS + number * WAKE_NS;
                            self.callers.push(Reverse(at));
                        }
                    }
                    if end.is_some_and(|end| end <= self.now) {
                        // One behind a hole keeps its place, and is looked at again with the hole.
                        let first = self.flights.front().map(|flight| flight.0);
                        if let Some(first) = first {
                            for flight in &mut self.flights {
                                flight.0 = flight.0.max(first);
                            }
                        }
                    }
                }
            }
            self.submit(depth);
        }

        /// Records per second over `ns`, after as much time to settle as `settle_ns`.
        fn run(&mut self, depth: &mut Depth, settle_ns: u64, ns: u64) -> u64 {
            let mut from = None;
            while self.now < settle_ns + ns {
                self.step(depth);
                if from.is_none() && self.now >= settle_ns {
                    from = Some((self.now, self.landed));
                }
            }
            let (begun, before) = from.unwrap();
            (self.landed - before) * 1_000_000_000 / (self.now - begun)
        }
    }

    const SECOND: u64 = 1_000_000_000;

    /// Looks at a device with so many callers; returns the depth found, and how its records per
    /// second compare with those of the best fixed depth, in percent, for the message.
    fn look(device: Device, callers: u64, settle_ns: u64) -> (usize, u64, String) {
        let fixed = [1, 2, 4, 8, 16].map(|depth| {
            let mut depth = Depth::new(Some(depth));
            Model::new(device, callers).run(&mut depth, 0, SECOND / 4)
        });
        let mut depth = Depth::new(None);
        let rate = Model::new(device, callers).run(&mut depth, settle_ns, SECOND);
        let percent = rate * 100 / fixed.iter().max().unwrap();
        let settled = depth.settled();
        let text = format!("{device:?} {callers}: fixed {fixed:?}, {rate} at {settled}");
        (settled, percent, text)
    }

    #[test]
    fn dependent_flushes_settle_at_two_at_most_near_the_best_fixed_depth() {
        for (write_ns, flush_ns) in [(10_000, 80_000), (5_000, 400_000), (30_000, 60_000)] {
            for callers in [8, 64] {
                let device = Device::Dependent { write_ns, flush_ns };
                let (settled, percent, text) = look(device, callers, 2 * SECOND);
                assert!(settled <= 2 && percent >= 90, "{text}");
            }
        }
    }

    #[test]
    fn merged_flushes_come_near_the_best_fixed_depth() {
        for (write_ns, flush_ns) in [(10_000, 80_000), (5_000, 400_000), (30_000, 60_000)] {
            for callers in [8, 64] {
                let device = Device::Merging { write_ns, flush_ns };
                let (_, percent, text) = look(device, callers, 2 * SECOND);
                assert!(percent >= 90, "{text}");
            }
        }
    }

    #[test]
    fn independent_writes_settle_at_eight_at_least_near_the_best_fixed_depth() {
        for write_ns in [400_000, 2_000_000] {
            for callers in [64, 256] {
                let (settled, percent, text) =
                    look(Device::Independent { write_ns }, callers, 4 * SECOND);
                assert!(settled >= 8 && percent >= 90, "{text}");
            }
        }
    }

    #[test]
    fn nothing_is_tried_where_nobody_is_refused() {
        let mut depth = Depth::new(None);
        Model::new(Device::Independent { write_ns: 50_000 }, 1).run(&mut depth, 0, SECOND);
        assert_eq!((depth.get(), depth.settled()), (1, 1));
        assert!(!depth.wanted, "a lone caller finds nothing in flight");
    }

    #[test]
    fn a_device_that_changes_is_followed() {
        let mut depth = Depth::new(None);
        let mut model = Model::new(Device::Independent { write_ns: 400_000 }, 64);
        model.run(&mut depth, 0, 2 * SECOND);
        assert!(depth.settled() >= 8);
        model.device = Device::Dependent { write_ns: 10_000, flush_ns: 200_000 };
        model.run(&mut depth, 2 * SECOND, 20 * SECOND);
        assert!(depth.settled() <= 2, "{depth:?}");
    }

    #[test]
    fn a_fixed_depth_stays_and_small_groups_are_held_back() {
        let mut depth = Depth::new(Some(4));
        for frame in 0..10_000 {
            depth.landed(1 + frame % 7, frame * 1000);
        }
        assert_eq!(depth.get(), 4);
        assert!(depth.may_add(0, 0, 1), "DEPTH-2");
        assert!(depth.may_add(3, 24, 8) && depth.may_add(1, 24, 8));
        assert!(!depth.may_add(3, 24, 7), "less than an even share");
        assert!(!depth.may_add(4, 32, 100), "as many as may be");
    }
}
