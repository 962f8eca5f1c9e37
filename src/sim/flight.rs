//! Operations between submit and completion.

use std::path::Path;

use super::Device;
use super::fault::{EBADF, EFBIG, EINVAL, EIO, ENOENT, Fault, FaultKind};
use super::state::State;
use crate::storage::{AlignedBuf, BLOCK};
use crate::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Write { durable: bool },
    Read,
    Sync,
}

/// How the file of an operation was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) inode: u64,
    pub(super) direct: bool,
    pub(super) writable: bool,
}

/// An operation in flight.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) token: u64,
    pub(super) kind: Kind,
    pub(super) path: Arc<Path>,
    /// `None`: not a file of this disk.
    pub(super) access: Option<Access>,
    pub(super) offset: u64,
    pub(super) buffer: Option<AlignedBuf>,
    /// The disk's count of completions at the submit.
    pub(super) submitted: u64,
    /// When it is done, on the disk's clock; 0 where operations take no time.
    pub(super) done_at: u64,
    pub(super) fault: Option<Fault>,
}

impl Flight {
    pub(super) fn length(&self) -> usize {
        self.buffer.as_ref().map_or(0, |buffer| buffer.len())
    }

    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Write { .. } => "write",
            Kind::Read => "read",
            Kind::Sync => "sync",
        }
    }

    /// The same, with what it does, for the trace.
    pub(super) fn text(&self) -> String {
        let file =
            self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
        let durable = if self.kind == (Kind::Write { durable: true }) { " durable" } else { "" };
        let (name, offset, length, token) = (self.name(), self.offset, self.length(), self.token);
        match self.kind {
            Kind::Sync => format!("{name} {file} (token {token})"),
            Kind::Write { .. } | Kind::Read => {
                format!("{name} {file} {offset}+{length}{durable} (token {token})")
            }
        }
    }

    /// What the kernel refuses before anything moves.
    fn check(&self) -> Result<Access, i32> {
        let access = self.access.ok_or(EBADF)?;
        if self.kind != Kind::Sync && State::too_long(self.offset, self.length()) {
            return Err(if matches!(self.kind, Kind::Read) { EINVAL } else { EFBIG });
        }
        if matches!(self.kind, Kind::Write { .. }) && !access.writable {
            return Err(EBADF);
        }
        let block = BLOCK as u64;
        let aligned = self.offset.is_multiple_of(block) && self.length().is_multiple_of(BLOCK);
        if access.direct && !aligned { Err(EINVAL) } else { Ok(access) }
    }

    fn kind_of_fault(&self) -> Option<FaultKind> {
        self.fault.map(|fault| fault.kind)
    }

    /// Where it strikes.
    fn target(&self) -> u64 {
        match self.kind_of_fault() {
            Some(FaultKind::Misdirected(offset)) => offset,
            _ => self.offset,
        }
    }

    /// Whether bytes of it may be on the medium without its completion.
    pub(super) fn may_land(&self) -> bool {
        let kind = self.kind_of_fault();
        let executed = !matches!(kind, Some(FaultKind::NotExecuted | FaultKind::Dropped));
        matches!(self.kind, Kind::Write { .. }) && executed && self.check().is_ok()
    }
}

impl State {
    /// Writes a flight's bytes as far as space allows. They are pending from now on.
    pub(super) fn land(&mut self, flight: &Flight) -> Option<(usize, u64)> {
        let access = flight.access?;
        let bytes: &[u8] = flight.buffer.as_ref()?;
        let short = match flight.kind_of_fault() {
            Some(FaultKind::Short(count)) => count.min(bytes.len()),
            _ => bytes.len(),
        };
        let offset = flight.target();
        let wanted = offset + short as u64;
        let reach = self.reach(self.inodes.get(&access.inode)?, wanted);
        let fits = usize::try_from(reach.saturating_sub(offset)).unwrap_or(0).min(short);
        let stamp = self.tick();
        let now = self.now_ns();
        let inode = self.inodes.get_mut(&access.inode)?;
        if fits > 0 {
            inode.write(offset, &bytes[..fits], stamp, !access.direct);
            inode.modified_ns = now;
        }
        Some((fits, stamp))
    }

    /// Does what a flight asks for, as a whole: bytes moved, or the error number.
    pub(super) fn execute(&mut self, flight: &mut Flight) -> Result<usize, i32> {
        let access = flight.check()?;
        match flight.kind {
            Kind::Write { durable } => {
                let wanted = flight.length();
                let (count, stamp) = self.land(flight).ok_or(ENOENT)?;
                let fault = flight.kind_of_fault();
                if count == 0 && wanted > 0 && !matches!(fault, Some(FaultKind::Short(_))) {
                    return Err(self.full());
                }
                if fault == Some(FaultKind::Dropped) {
                    self.inode(access.inode)?.drop_write(stamp);
                } else if durable && !self.options.lies {
                    let end = flight.target() + count as u64;
                    self.inode(access.inode)?.harden_write(stamp, end);
                    self.note_flush(flight.submitted);
                    if self.options.device == Device::Flush {
                        self.flush_device(flight.submitted);
                    }
                }
                Ok(count)
            }
            Kind::Read => {
                let short = match flight.kind_of_fault() {
                    Some(FaultKind::Short(count)) => count,
                    _ => usize::MAX,
                };
                let offset = flight.target();
                let inode = self.inodes.get(&access.inode).ok_or(ENOENT)?;
                let buffer = flight.buffer.as_mut().ok_or(EBADF)?;
                let count = buffer.len().min(short);
                inode.read(offset, &mut buffer[..count], access.direct).ok_or(EIO)
            }
            Kind::Sync => {
                if flight.kind_of_fault() != Some(FaultKind::Dropped) {
                    self.harden_file(access.inode, flight.submitted);
                }
                Ok(0)
            }
        }
    }

    /// Counts a flush of the device that has something to do.
    fn note_flush(&mut self, stamp: u64) {
        let matters = self.inodes.values().any(|inode| inode.has_flushable(stamp));
        self.flush_matters += u64::from(matters);
    }

    /// Makes durable what of a file completed up to `stamp`, and what else such a sync reaches.
    pub(super) fn harden_file(&mut self, inode: u64, stamp: u64) {
        if self.options.lies {
            return;
        }
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.harden(stamp);
        }
        self.note_flush(stamp);
        if self.options.device == Device::Flush {
            self.flush_device(stamp);
        }
    }

    /// What a failed operation leaves behind: a sync forgets what it should have made durable.
    pub(super) fn refuse(&mut self, flight: &Flight) {
        let Some(access) = flight.access else { return };
        if flight.kind == Kind::Sync
            && let Some(inode) = self.inodes.get_mut(&access.inode)
        {
            inode.spoil(flight.submitted);
        }
    }
}
