//! The channel of plain system calls: an operation is carried out as it is submitted.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsFd;

use rustix::io::{Errno, ReadWriteFlags};

use super::failure::retry_on_intr;
use super::posix::{SystemFile, system_file};
use super::{Channel, Completion, IoFailure, Op};

/// `pwritev2`, `preadv2`, `fdatasync`.
#[derive(Debug, Default)]
pub(super) struct PwriteChannel {
    next_token: u64,
    done: VecDeque<Completion>,
}

impl Channel for PwriteChannel {
    fn submit(&mut self, op: Op) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        let completion = execute(token, op);
        self.done.push_back(completion);
        token
    }

    fn complete(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }
}

/// A write or read that a signal interrupted has not happened and is begun anew, with the same
/// bytes at the same place; a sync that failed, for whatever reason, is not (STORAGE-3).
pub(super) fn execute(token: u64, op: Op) -> Completion {
    match op {
        Op::Write { file, offset, buffer, durable } => {
            let flags = if durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
            let result = on_file("write", &*file, Some(offset), |system| {
                let bytes = [IoSlice::new(&buffer)];
                retry_on_intr(|| rustix::io::pwritev2(system.as_fd(), &bytes, offset, flags))
            });
            Completion { token, buffer: Some(buffer), result }
        }
        Op::Read { file, offset, mut buffer } => {
            let result = on_file("read", &*file, Some(offset), |system| {
                let flags = ReadWriteFlags::empty();
                retry_on_intr(|| {
                    let mut bytes = [IoSliceMut::new(&mut buffer)];
                    rustix::io::preadv2(system.as_fd(), &mut bytes, offset, flags)
                })
            });
            Completion { token, buffer: Some(buffer), result }
        }
        Op::Sync { file } => {
            let result = on_file("sync", &*file, None, |system| {
                rustix::fs::fdatasync(system.as_fd()).map(|()| 0)
            });
            Completion { token, buffer: None, result }
        }
    }
}

fn on_file(
    operation: &'static str,
    file: &dyn super::File,
    offset: Option<u64>,
    body: impl FnOnce(&SystemFile) -> Result<usize, Errno>,
) -> Result<usize, IoFailure> {
    let system = system_file(operation, file, offset)?;
    body(system).map_err(|errno| {
        let failure = IoFailure::from_errno(operation, file.path(), errno.raw_os_error());
        match offset {
            Some(offset) => failure.at(offset),
            None => failure,
        }
    })
}
