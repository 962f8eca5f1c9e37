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
    /// When the first of those that are staged came, and until when the frame may be held.
    patience: Option<u64>,
    /// How long a caller does something else before it appends again.
    think_ns: u64,
    /// End, records and begin of each write in flight, in order of submission.
    flights: VecDeque<(u64, u64, u64)>,
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
            patience: None,
            think_ns: 0,
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

    /// How long a caller does something else: half as long as usual, to one and a half times.
    fn thinks(&mut self) -> u64 {
        if self.think_ns == 0 {
            return 0;
        }
        self.noisy(10);
        self.think_ns / 2 + (self.noise >> 33) % self.think_ns
    }

    /// Whether the next frame is left open for others (GATHER-1).
    fn is_held(&self, depth: &Depth) -> bool {
        self.flights.is_empty()
            && self.staged < depth.gathers()
            && self.patience.is_some_and(|until| self.now < until)
    }

    fn submit(&mut self, depth: &mut Depth) {
        if self.is_held(depth) {
            return;
        }
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
            self.flights.push_back((end, std::mem::take(&mut self.staged), self.now));
            self.patience = None;
            self.submit(depth);
        }
    }

    /// The next event: a caller appends, or a write ends.
    fn step(&mut self, depth: &mut Depth) {
        let end = self.flights.iter().map(|flight| flight.0).min();
        let over = self.patience.filter(|_| self.is_held(depth));
        let first = [end, over].into_iter().flatten().min();
        match self.callers.peek() {
            Some(Reverse(at)) if first.is_none_or(|first| *at <= first) => {
                self.now = self.now.max(*at);
                self.callers.pop();
                if self.staged == 0 {
                    self.patience = depth.patience_ns().map(|ns| self.now + ns);
                }
                self.staged += 1;
            }
            _ if over.is_some() => {
                self.now = over.unwrap();
                depth.stayed_away(self.staged);
            }
            _ => {
                self.now = self.now.max(end.unwrap());
                // In order: one that overtook waits for those before it.
                while let Some((end, records, begun)) = self.flights.front().copied()
                    && end <= self.now
                {
                    self.flights.pop_front();
                    self.landed += records;
                    depth.landed(records, self.now, self.now - begun);
                    for number in 0..records {
                        let at = self.now + FIRST_NS + number * WAKE_NS + self.thinks();
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

/// What came of looking at a device.
struct Seen {
    settled: usize,
    is_gathering: bool,
    /// Records per second of what was found, in percent of the best fixed depth.
    percent: u64,
    /// All of it, for the message.
    text: String,
}

/// Looks at a device with so many callers, who do something else for so long in between; where
/// frames may be held, or not.
fn look_at(device: Device, callers: u64, think_ns: u64, settle_ns: u64, gather: bool) -> Seen {
    let run = |depth: &mut Depth, settle_ns, ns| {
        let mut model = Model { think_ns, ..Model::new(device, callers) };
        model.run(depth, settle_ns, ns)
    };
    let lowest = usize::from(!gather);
    let fixed = [lowest, 1, 2, 4, 8, 16]
        .map(|depth| run(&mut Depth::new(Some(depth), gather), 0, SECOND / 4));
    let mut depth = Depth::new(None, gather);
    let rate = run(&mut depth, settle_ns, SECOND);
    let percent = rate * 100 / fixed.iter().max().unwrap();
    let (settled, is_gathering) = (depth.settled(), depth.is_gathering());
    let rung = if is_gathering { GATHERED } else { settled };
    let text = format!("{device:?} {callers}, {think_ns}: fixed {fixed:?}, {rate} at {rung}");
    Seen { settled, is_gathering, percent, text }
}

fn look(device: Device, callers: u64, settle_ns: u64) -> Seen {
    look_at(device, callers, 0, settle_ns, true)
}

#[test]
fn dependent_flushes_settle_at_two_at_most_near_the_best_fixed_depth() {
    for (write_ns, flush_ns) in [(10_000, 80_000), (5_000, 400_000), (30_000, 60_000)] {
        for callers in [8, 64] {
            let device = Device::Dependent { write_ns, flush_ns };
            let Seen { settled, percent, text, .. } = look(device, callers, 2 * SECOND);
            assert!(settled <= 2 && percent >= 90, "{text}");
        }
    }
}

#[test]
fn merged_flushes_come_near_the_best_fixed_depth() {
    for (write_ns, flush_ns) in [(10_000, 80_000), (5_000, 400_000), (30_000, 60_000)] {
        for callers in [8, 64] {
            let device = Device::Merging { write_ns, flush_ns };
            let Seen { percent, text, .. } = look(device, callers, 2 * SECOND);
            assert!(percent >= 90, "{text}");
        }
    }
}

#[test]
fn independent_writes_settle_at_eight_at_least_near_the_best_fixed_depth() {
    for write_ns in [400_000, 2_000_000] {
        for callers in [64, 256] {
            let device = Device::Independent { write_ns };
            let Seen { settled, percent, text, .. } =
                look_at(device, callers, 0, 4 * SECOND, false);
            assert!(settled >= 8 && percent >= 90, "{text}");
            // All of them at once is as good.
            let Seen { percent, text, .. } = look(device, callers, 4 * SECOND);
            assert!(percent >= 90, "{text}");
        }
    }
}

#[test]
fn nothing_is_tried_where_nobody_is_refused() {
    let mut depth = Depth::new(None, true);
    Model::new(Device::Independent { write_ns: 50_000 }, 1).run(&mut depth, 0, SECOND);
    assert_eq!((depth.get(), depth.settled()), (1, 1));
    assert!(!depth.wanted, "a lone caller finds nothing in flight");
}

#[test]
fn a_device_that_changes_is_followed() {
    let mut depth = Depth::new(None, false);
    let mut model = Model::new(Device::Independent { write_ns: 400_000 }, 64);
    model.run(&mut depth, 0, 2 * SECOND);
    assert!(depth.settled() >= 8);
    model.device = Device::Dependent { write_ns: 10_000, flush_ns: 200_000 };
    model.run(&mut depth, 2 * SECOND, 20 * SECOND);
    assert!(depth.settled() <= 2, "{depth:?}");
}

#[test]
fn a_fixed_depth_stays_and_small_groups_are_held_back() {
    let mut depth = Depth::new(Some(4), false);
    for frame in 0..10_000 {
        depth.landed(1 + frame % 7, frame * 1000, 500);
    }
    assert_eq!(depth.get(), 4);
    assert!(depth.may_add(0, 0, 1), "DEPTH-2");
    assert!(depth.may_add(3, 24, 8) && depth.may_add(1, 24, 8));
    assert!(!depth.may_add(3, 24, 7), "less than an even share");
    assert!(!depth.may_add(4, 32, 100), "as many as may be");
}

#[test]
fn callers_who_come_back_at_once_are_gathered() {
    for callers in [2, 4, 8, 16] {
        let device = Device::Dependent { write_ns: 10_000, flush_ns: 55_000 };
        let seen = look(device, callers, 2 * SECOND);
        assert!(seen.is_gathering && seen.percent >= 95, "{}", seen.text);
    }
}

#[test]
fn callers_who_are_away_for_longer_than_a_write_are_not_waited_for_if_that_costs() {
    let device = Device::Dependent { write_ns: 10_000, flush_ns: 55_000 };
    for think_ns in [50_000, 200_000, 1_000_000, 5_000_000] {
        let seen = look_at(device, 8, think_ns, 4 * SECOND, true);
        assert!(seen.percent >= 90, "{}", seen.text);
    }
}

#[test]
fn who_stays_away_is_waited_for_once() {
    let mut depth = Depth::new(Some(GATHERED), true);
    assert!(depth.may_add(0, 0, 1) && !depth.may_add(1, 1, 7));
    for frame in 0..50 {
        depth.landed(8, frame * 100_000, 80_000);
    }
    assert_eq!((depth.gathers(), depth.get()), (8, 1));
    let patience = depth.patience_ns().unwrap();
    assert!((PATIENCE * 70_000..=PATIENCE * 80_000).contains(&patience), "{patience}");
    depth.stayed_away(5);
    assert_eq!(depth.gathers(), 5);
    // One that comes now and then, while the frame is in flight, is hardly waited for.
    for frame in 50..100 {
        if frame % 6 == 0 {
            assert!(!depth.may_add(1, 5, 1));
        }
        depth.landed(5, frame * 100_000, 80_000);
    }
    assert_eq!(depth.gathers(), 5);
    // Whoever was there before a pause may be gone.
    depth.landed(1, 10_000_000_000, 80_000);
    assert_eq!(depth.gathers(), 1, "DEPTH-2: no lone frame is held");
}

#[test]
fn a_company_that_changes_is_noticed_soon() {
    let device = Device::Dependent { write_ns: 10_000, flush_ns: 55_000 };
    let mut depth = Depth::new(None, true);
    let mut model = Model::new(device, 8);
    model.run(&mut depth, 0, 20 * SECOND);
    assert!(depth.is_gathering(), "{depth:?}");
    let more = (0..120).map(|number| Reverse(model.now + number * 100));
    model.callers.extend(more);
    model.run(&mut depth, 21 * SECOND, SECOND / 2);
    let best = Model::new(device, 128).run(&mut Depth::new(Some(2), true), 0, SECOND);
    let rate = model.run(&mut depth, 22 * SECOND, SECOND);
    assert!(rate * 100 >= best * 90, "{rate} of {best}: {depth:?}");
}

/// Callers whose records come at moments of their own: holding frames brings none sooner.
#[test]
fn frames_are_held_only_while_that_pays() {
    let mut depth = Depth::new(None, true);
    let mut model = Model::new(Device::Dependent { write_ns: 10_000, flush_ns: 55_000 }, 8);
    model.run(&mut depth, 0, 20 * SECOND);
    assert!(depth.is_gathering(), "{depth:?}");
    let mut held = 0;
    for frame in 0..200_000 {
        if depth.gathers() > 0 {
            held += 1;
            depth.stayed_away(2);
        }
        assert!(depth.may_add(0, 0, 2) && !depth.may_add(1, 2, 1));
        depth.landed(2, 30 * SECOND + frame * 200_000, 65_000);
    }
    assert!(!depth.is_gathering() && held < 2_000, "{held}, {depth:?}");
}
