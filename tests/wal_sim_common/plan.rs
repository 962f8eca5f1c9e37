//! What a seed decides before anything happens: which kind of disk, of log and of trouble.

use sawmill::sim::{Device, SimOptions};

/// A stream of numbers that its seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
        rng.next();
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
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
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Plan {
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
            record: rng.pick(&[60, 600, 6000, 20_000, segment_size / 2 - 136]),
            steps: 20 + rng.below(40),
            crash_every: rng.pick(&[6, 10, 20]),
        }
    }

    pub(crate) fn disk(&self) -> SimOptions {
        SimOptions {
            device: self.device,
            sector: self.sector,
            stale: self.stale,
            count_reads: self.trouble == Trouble::ReadErrors,
            // No opening can know that an earlier one could not sync the directory.
            names_forget: false,
            lies: self.trouble == Trouble::Lies,
            trace_lines: if std::env::var("SAWMILL_SIM_SEED").is_ok() { 400 } else { 1 },
            ..SimOptions::default()
        }
    }
}
