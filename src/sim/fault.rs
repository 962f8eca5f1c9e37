//! Failures that a test orders.

pub(super) const ENOENT: i32 = 2;
pub(super) const EIO: i32 = 5;
pub(super) const EBADF: i32 = 9;
pub(super) const EEXIST: i32 = 17;
pub(super) const ENOTDIR: i32 = 20;
pub(super) const EISDIR: i32 = 21;
pub(super) const EINVAL: i32 = 22;
pub(super) const EFBIG: i32 = 27;
pub(super) const ENOSPC: i32 = 28;
pub(super) const EDQUOT: i32 = 122;

/// What becomes of an operation that is ordered to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Nothing happens, the error is reported. A sync then forgets what it should have made
    /// durable: a later sync succeeds and does not make it durable either, and the bytes are gone
    /// from the device, though a page cache may still show them.
    NotExecuted,
    /// It happens, and the error is reported all the same.
    ExecutedButReported,
    /// A write or read through a channel moves at most this many bytes and reports success. All
    /// other operations take it for [`FaultKind::NotExecuted`].
    Short(usize),
    /// A write, or a sync, reports success, and nothing reaches the medium, now or later; a page
    /// cache shows the write. All other operations take it for [`FaultKind::NotExecuted`].
    Dropped,
    /// A write lands, or a read reads, at this offset of the file instead, and reports success. All
    /// other operations take it for [`FaultKind::NotExecuted`].
    Misdirected(u64),
}

/// What fails, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) errno: i32,
    pub(super) kind: FaultKind,
}

#[derive(Debug)]
struct Ordered {
    from: u64,
    sticky: bool,
    fault: Fault,
}

/// The faults that wait for their operation.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Ordered>);

impl Faults {
    pub(super) fn order(&mut self, from: u64, sticky: bool, fault: Fault) {
        self.0.push(Ordered { from, sticky, fault });
    }

    /// The fault of operation `number`, if there is one.
    pub(super) fn strike(&self, number: u64) -> Option<Fault> {
        let strikes =
            |order: &&Ordered| order.from == number || (order.sticky && order.from <= number);
        self.0.iter().find(strikes).map(|order| order.fault)
    }
}
