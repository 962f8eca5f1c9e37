//! What a seed decides before anything happens: which kind of disk, of log and of trouble.

use sawmill::sim::{Device, SimOptions};

/// A stream of numbers that its seed decides.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
        rng.next();
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Which trouble a run has, besides crashes and kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
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

pub const TROUBLES: [Trouble; 9] = [
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
pub struct Plan {
    pub seed: u64,
    pub device: Device,
    pub sector: usize,
    pub stale: bool,
    pub trouble: Trouble,
    pub segment_size: u64,
    pub recycled: u64,
    pub retain_bytes: Option<u64>,
    /// Callers who each have a submission on its way.
    pub producers: usize,
    /// Most bytes of a record; most are much smaller.
    pub record: u64,
    pub steps: u64,
    /// One step in so many crashes.
    pub crash_every: u64,
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        let mut rng = Rng::new(seed);
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
            record: rng.pick(&[60, 600, 6000, segment_size / 2 - 136]),
            steps: 20 + rng.below(40),
            crash_every: rng.pick(&[6, 10, 20]),
        }
    }

    pub fn disk(&self) -> SimOptions {
        SimOptions {
            device: self.device,
            sector: self.sector,
            stale: self.stale,
            count_reads: self.trouble == Trouble::ReadErrors,
            lies: self.trouble == Trouble::Lies,
            trace_lines: 1,
            ..SimOptions::default()
        }
    }
}
