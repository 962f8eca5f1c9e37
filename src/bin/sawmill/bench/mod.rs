//! Workloads of the log, the raw limit beside each, and how both are measured.
//!
//! One source for three programs: `sawmill wal bench`, the benches of this repository, and
//! `benches/peers`, which adds other logs. Contenders alternate in rounds within one process, and
//! the figure is the median of the ratios of the rounds: on shared disks absolute figures differ
//! by 2x from round to round, ratios of neighbours hardly.
//!
//! BENCH-1: everything a contender acknowledged is read back after its round, where it can be: the
//! sum over (LSN, payload) that the writers kept must be that of the records read.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures to be looked at, far below the limits of their types"
)]

#[allow(dead_code, reason = "for the benches of the repository alone")]
pub(crate) mod cold;
pub(crate) mod contender;
pub(crate) mod contenders;
pub(crate) mod figures;
mod frames;
mod histogram;
pub(crate) mod protocol;
pub(crate) mod raw;
mod raw_bulk;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod sawmill_log;
mod usage;
pub(crate) mod workload;
pub(crate) mod writer;

/// What anything here fails with: the log's error, the raw storage's, or a wrong result.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Outcome<T = ()> = Result<T, Error>;

/// Nanoseconds since some fixed start.
pub(crate) fn now_ns() -> u64 {
    use sawmill::clock::Clock as _;
    sawmill::clock::SystemClock.monotonic_ns()
}
