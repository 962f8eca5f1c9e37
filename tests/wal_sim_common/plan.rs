//! What a seed decides before anything happens: which kind of disk, of log and of trouble.

use std::collections::VecDeque;

use sawmill::sim::{Device, SimOptions};

/// Decisions: a stream of numbers that its seed decides, or bytes that somebody else thought of.
#[derive(Clone, Debug)]
pub(crate) struct Rng {
    state: u64,
    /// What is left of the bytes; `None` where a seed decides.
    bytes: Option<VecDeque<u8>>,
}

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
        let mut rng = Rng { state, bytes: None };
        rng.next();
        rng
    }

    /// Decisions that `bytes` make, few bytes each; zeros when they are used up.
    pub(crate) fn of(bytes: &[u8]) -> Rng {
        Rng { state: 0, bytes: Some(bytes.iter().copied().collect()) }
    }

    /// Whether the bytes are used up.
    pub(crate) fn is_spent(&self) -> bool {
        self.bytes.as_ref().is_some_and(VecDeque::is_empty)
    }

    pub(crate) fn next(&mut self) -> u64 {
        if self.bytes.is_some() {
            return self.below(1 << 32);
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let Some(bytes) = &mut self.bytes else { return self.next() % bound };
        let (mut value, mut reach) = (0, 1);
        while reach < bound {
            value = value << 8 | u64::from(bytes.pop_front().unwrap_or(0));
            reach <<= 8;
        }
        value % bound
    }

    pub(crate) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Which trouble a run has, besides crashes and kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    None,
    /// Operations fail, with or without their effect, or are short.
    Errors,
    /// As `Errors`, reads included.
    ReadErrors,
    /// The disk is full from time to time.
    Full,
    /// One write is reported done and dropped.
    Dropped,
    /// One write lands elsewhere in its file.
    Misdirected,
    /// One byte rots.
    Rot,
    /// One sector cannot be read, or reads stale.
    Sector,
    /// Nothing that is reported durable is.
    Lies,
}

pub(crate) const TROUBLES: [Trouble; 9] = [
    Trouble::None,
    Trouble::Errors,
    Trouble::ReadErrors,
    Trouble::Full,
    Trouble::Dropped,
    Trouble::Misdirected,
    Trouble::Rot,
    Trouble::Sector,
    Trouble::Lies,
];

/// A run, as far as it is decided in advance.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) device: Device,
    pub(crate) sector: usize,
    pub(crate) stale: bool,
    pub(crate) trouble: Trouble,
    pub(crate) segment_size: u64,
    pub(crate) recycled: u64,
    pub(crate) retain_bytes: Option<u64>,
    /// Callers who each have a submission on its way.
    pub(crate) producers: usize,
    /// Most bytes of a record; most are much smaller.
    pub(crate) record: u64,
    pub(crate) steps: u64,
    /// One step in so many crashes.
    pub(crate) crash_every: u64,
    /// Callers who number what they send, and send it again.
    pub(crate) senders: usize,
    /// Writes in flight, if it is not the log that decides.
    pub(crate) depth: Option<usize>,
    /// Whether a failed sync of a directory forgets names. The file system stops then: no opening
    /// comes before the next power cycle.
    pub(crate) names_forget: bool,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Plan {
        Plan::draw(seed, &mut Rng::new(seed))
    }

    /// As it was before there were senders: seeds that found something then are lived so again.
    pub(crate) fn without_senders(seed: u64) -> Plan {
        Plan { senders: 0, depth: None, names_forget: false, ..Plan::new(seed) }
    }

    /// What `rng` decides. New decisions are made last, so that old seeds keep theirs.
    pub(crate) fn draw(seed: u64, rng: &mut Rng) -> Plan {
        let segment_size = rng.pick(&[64, 64, 64, 96, 128]) << 10;
        Plan {
            seed,
            device: rng.pick(&[Device::Flush, Device::Fua]),
            sector: rng.pick(&[512, 4096]),
            stale: !rng.one_in(4),
            // Half of the runs have an honest disk: most of what can go wrong needs no more.
            trouble: if rng.one_in(3) { Trouble::None } else { rng.pick(&TROUBLES) },
            segment_size,
            recycled: rng.pick(&[0, 1, 4]),
            retain_bytes: if rng.one_in(5) { Some(segment_size * 2) } else { None },
            producers: rng.pick(&[1, 2, 4, 8, 12, 16]),
            record: rng.pick(&[60, 600, 6000, 20_000, segment_size / 2 - 136]),
            steps: 20 + rng.below(40),
            crash_every: rng.pick(&[6, 10, 20]),
            senders: rng.pick(&[0, 1, 3]),
            depth: rng.pick(&[None, None, Some(1), Some(4)]),
            names_forget: rng.one_in(2),
        }
    }

    /// The disk; one that keeps a trace if somebody wants to know what happened.
    pub(crate) fn disk(&self, traced: bool) -> SimOptions {
        SimOptions {
            device: self.device,
            sector: self.sector,
            stale: self.stale,
            count_reads: self.trouble == Trouble::ReadErrors,
            names_forget: self.names_forget,
            lies: self.trouble == Trouble::Lies,
            trace_lines: if traced { 400 } else { 0 },
            ..SimOptions::default()
        }
    }
}
