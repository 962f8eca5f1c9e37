//! What is measured: who appends what.

use std::fmt;

/// How records are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Each thread appends a record and waits until it is durable.
    Append,
    /// Each thread appends so many records as one and waits until they are durable.
    Batch(usize),
    /// So many submissions are in flight in all; each is polled to completion.
    InFlight(usize),
    /// Threads submit and wait for nothing; one sync at the end.
    Bulk,
    /// Threads read a log back that was written in bulk, every record checked.
    Replay,
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) kind: Kind,
    pub(crate) threads: usize,
    /// Bytes of payload in each record.
    pub(crate) size: usize,
}

const fn of(kind: Kind, threads: usize, size: usize) -> Workload {
    Workload { kind, threads, size }
}

/// All of them, cheap ones first.
pub(crate) const ALL: &[Workload] = &[
    of(Kind::Append, 1, 100),
    of(Kind::Append, 1, 1024),
    of(Kind::Append, 1, 16 << 10),
    of(Kind::Append, 8, 100),
    of(Kind::Append, 8, 1024),
    of(Kind::Append, 8, 16 << 10),
    of(Kind::Append, 64, 100),
    of(Kind::Append, 64, 1024),
    of(Kind::Append, 64, 16 << 10),
    of(Kind::Append, 256, 100),
    of(Kind::Append, 256, 1024),
    of(Kind::Append, 256, 16 << 10),
    of(Kind::Batch(100), 8, 100),
    of(Kind::InFlight(10_000), 4, 100),
    of(Kind::Bulk, 1, 128),
    of(Kind::Bulk, 1, 1024),
    of(Kind::Bulk, 1, 64 << 10),
    of(Kind::Bulk, 4, 128),
    of(Kind::Bulk, 4, 1024),
    of(Kind::Bulk, 4, 64 << 10),
    of(Kind::Replay, 1, 128),
    of(Kind::Replay, 1, 1024),
    of(Kind::Replay, 4, 128),
    of(Kind::Replay, 4, 1024),
];

impl Workload {
    /// Whether one of `names` is the start of this one's; every one if there are none.
    pub(crate) fn is_named(&self, names: &[String]) -> bool {
        let own = self.to_string();
        names.is_empty() || names.iter().any(|name| own.starts_with(name.as_str()))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (threads, size) = (self.threads, Size(self.size));
        match self.kind {
            Kind::Append => write!(f, "append/{threads}x{size}"),
            Kind::Batch(records) => write!(f, "batch/{threads}x{records}x{size}"),
            Kind::InFlight(_) => write!(f, "inflight/{threads}x{size}"),
            Kind::Bulk => write!(f, "bulk/{threads}x{size}"),
            Kind::Replay => write!(f, "replay/{threads}x{size}"),
        }
    }
}

struct Size(usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            whole if whole >= 1024 && whole % 1024 == 0 => write!(f, "{}KiB", whole / 1024),
            bytes => write!(f, "{bytes}B"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_select() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(Workload::to_string).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(names.contains("append/64x1KiB") && names.contains("batch/8x100x100B"));
        let wanted = ["bulk/1x".to_owned()];
        assert_eq!(ALL.iter().filter(|workload| workload.is_named(&wanted)).count(), 3);
        assert!(ALL.iter().all(|workload| workload.is_named(&[])));
    }
}
